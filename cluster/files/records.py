"""The records that the plan, the ledger and the commands exchange: runs, studies, how far a stage run is, its
attempts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

from cluster.files.causes import Cause
from cluster.files.documents import Grid, RunNeed
from cluster.files.identity import identity
from cluster.files.statuses import AttemptStatus, StageStatus
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES


@dataclass(frozen=True)
class Run:
    id: str
    name: str
    config: RunConfig
    stages: tuple[str, ...]
    studies: tuple[str, ...]

    @property
    def parameters(self) -> int:
        return self.config.parameters

    @cached_property
    def needs(self) -> list[RunNeed]:
        """The products of other runs that its stages need."""
        return [
            {"stage": stage, "run_id": identity(other.config), "needed": other.stage}
            for stage in self.stages
            for other in STAGES[stage].of_others(self.config)
        ]


@dataclass(frozen=True)
class StudyRecord:
    """A study's question, and one grid of it: with these --set."""

    name: str
    description: str
    baselines: tuple[str, ...]  # ids of the runs that the others are held against
    runs: tuple[str, ...] = ()  # ids of all
    stages: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    manifest: str = ""  # the path of the file that asks for it; empty: none does, it follows from others

    def grid(self, before: Grid | None = None) -> Grid:
        """As a file keeps it; `before`: the one whose place it takes."""
        grid: Grid = {"overrides": list(self.overrides), "stages": list(self.stages), "runs": list(self.runs),
                      "baselines": list(self.baselines)}  # fmt: skip
        earlier = before.get("manifests", []) if before else []
        manifests = [*(each for each in earlier if each != self.manifest), *filter(None, [self.manifest])]
        return {**grid, "manifests": manifests} if manifests else grid


@dataclass(frozen=True)
class StageState:
    """The ledger's knowledge of one stage run."""

    status: StageStatus
    attempts: int  # the highest number so far


class AttemptKey(TypedDict):
    """The key of an attempt."""

    run_id: str
    stage: str
    number: int


def key_of(attempt: AttemptKey) -> tuple[str, str, int]:
    return attempt["run_id"], attempt["stage"], attempt["number"]


class AttemptValues(TypedDict, total=False):
    """The columns of an attempt in the ledger; one writing may have a part of them."""

    submission_id: str
    pack_index: int  # of its pack in the array
    status: AttemptStatus
    cause: Cause | None
    message: str | None
    job: str | None
    host: str | None
    started: float | None
    ended: float | None
    progress: str | None  # JSON
    code: str | None
    environment: str | None
    scores: str | None


class AttemptRow(AttemptKey, AttemptValues):
    """A row of the ledger, with all of them."""


class AskedAttempt(AttemptRow):
    """An attempt with what its submission says: who asked for it, and its time limit."""

    asked_by: str
    minutes: int | None


class SitedAttempt(AttemptRow):
    """An attempt with the site of its submission."""

    site: str | None
