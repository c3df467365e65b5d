"""The files of a follow-up's choice, choices/<id>/: what may be chosen and what becomes of it, and what was chosen.

plan.json is written by `submit`. choice.json is created once, by the `tick` that finds the sources
complete, and never changed: it is the record of why the follow-up has the runs that it has. Standard library only.
(Annotations are read when this module is loaded, so they are no strings.)"""

from typing import Any, Literal, NotRequired, TypedDict

from cluster.files.fields import Name


class SeededRun(TypedDict):
    """One of the runs of a cell."""

    run_id: Name
    name: str
    seed: int


class PlannedCell(TypedDict):
    """A cell of a follow-up, if the candidate is chosen that it comes from."""

    family: str
    config: dict[str, Any]  # of its first seed
    runs: list[SeededRun]


class CandidateTold(TypedDict):
    """A cell of a source."""

    study: str  # the source
    label: str
    group: str
    parameters: int
    before: int | None  # its number among the candidates of the source's own choice; null: it is there anyway
    runs: list[SeededRun]
    into: list[PlannedCell]


class SourceTold(TypedDict):
    study: str
    choice: str  # the id of its own choice; empty: it is no follow-up


class RuleTold(TypedDict):
    """How is chosen."""

    sources: list[SourceTold]
    best: int  # so many of each group
    per: str | None
    failed: Literal["wait", "leave_out"]
    stage: Name
    task: str
    metric: str
    title: str  # of the measure
    percent: bool
    higher_is_better: bool


class FixedCells(TypedDict):
    """The cells that a follow-up has whatever is chosen."""

    runs: list[str]
    baselines: list[str]
    families: list[str]  # that have a baseline


class ChoicePlan(TypedDict):
    """plan.json."""

    study: str
    description: str
    overrides: list[str]
    stages: list[Name]
    rule: RuleTold
    candidates: list[CandidateTold]
    fixed: FixedCells


class ScoredRun(SeededRun):
    value: float
    n: int  # rows that it is of


class RankedCandidate(TypedDict):
    """A candidate as it stood when the choice was made."""

    number: int  # among the plan's
    study: str
    label: str
    group: str
    place: int | None  # in its group, from 1; null: left out
    mean: float | None
    scores: list[ScoredRun]
    chosen: bool
    left_out: NotRequired[str]  # why


class ChoiceFile(TypedDict):
    """choice.json."""

    study: str
    overrides: list[str]
    made: str
    user: str
    rule: RuleTold
    ranked: list[RankedCandidate]  # group by group, the best first
    told: list[str]  # of each group, in words: what was chosen, and how sure that is
    runs: list[str]  # ids of the follow-up's runs that come of it
