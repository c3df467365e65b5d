"""Tell how long the stage runs that are left take, by those of the same submissions that have completed. Pure.

A stage takes of a pack's time what was planned for it, times what the completed ones of it took of theirs; a stage of
which none has completed, times what all of them took. While none has completed, it takes what was planned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.console import count
from cluster.ledger.rows import HoursRow, PackRow, StageWorkRow
from cluster.status.facts import RunningStage
from tiny_transformers.settings.stages import STAGES

Key = tuple[str, str]  # a submission's id, a stage


@dataclass(frozen=True)
class Pace:
    expected: Mapping[Key, float]  # seconds of its pack that a stage run takes
    whole: Mapping[str, float]  # a submission's id -> seconds of one of its packs
    completed: int  # stage runs that it is known by
    factor: float  # what these took / what was planned for them
    unknown: tuple[str, ...]  # stages of which none has completed

    def left(self, submission_id: str, open_stages: Mapping[str, int], working: Iterable[RunningStage]) -> float:
        """Return the seconds that are left of a pack that has begun; `open_stages`: stage -> its open stage runs."""
        seconds = sum(number * self.expected[submission_id, stage] for stage, number in open_stages.items())
        seconds -= sum(each.fraction * self.expected.get((submission_id, each.stage), 0.0) for each in working)
        return max(0.0, seconds)

    @property
    def basis(self) -> str:
        if not self.completed:
            return "as planned"
        told = f"by what {count(self.completed, 'completed stage run')} took"
        if not self.unknown:
            return told
        return f"{told}, and of {', '.join(self.unknown)} {self.factor:.2g} x what was planned"


def pace_of(submissions: Mapping[str, HoursRow], open_packs: Iterable[PackRow], work: Sequence[StageWorkRow]) -> Pace:
    """Of submissions of which it is known what was planned for them."""
    packs: dict[str, list[PackRow]] = {}
    for pack in open_packs:
        packs.setdefault(pack["submission_id"], []).append(pack)
    work = [row for row in work if row["submission_id"] in packs and row["submission_id"] in submissions]
    planned = {(row["submission_id"], row["stage"]): _planned(row, submissions, packs) for row in work}
    ended = [row for row in work if row["completed"] and row["seconds"] is not None and planned[_key(row)]]
    took: dict[str, float] = {}
    meant: dict[str, float] = {}
    for row in ended:
        took[row["stage"]] = took.get(row["stage"], 0.0) + (row["seconds"] or 0.0)
        meant[row["stage"]] = meant.get(row["stage"], 0.0) + planned[_key(row)] * row["completed"]
    factor = sum(took.values()) / sum(meant.values()) if ended else 1.0
    expected = {key: seconds * (took[key[1]] / meant[key[1]] if key[1] in took else factor)
                for key, seconds in planned.items()}  # fmt: skip
    whole = dict.fromkeys(packs, 0.0)
    for row in work:
        whole[row["submission_id"]] += row["attempts"] * expected[_key(row)] / len(packs[row["submission_id"]])
    unknown = tuple(stage for stage in STAGES if stage not in took and any(row["stage"] == stage for row in work))
    return Pace(expected, whole, sum(row["completed"] for row in ended), factor, unknown)


def _key(row: StageWorkRow) -> Key:
    return row["submission_id"], row["stage"]


def _planned(row: StageWorkRow, submissions: Mapping[str, HoursRow], packs: Mapping[str, Sequence[PackRow]]) -> float:
    """Seconds of a pack that were planned for a stage run; an older version told those of all stages together only."""
    submission = submissions[row["submission_id"]]
    by_stage = json.loads(submission["stage_seconds"] or "{}")
    if row["stage"] in by_stage:
        return float(by_stage[row["stage"]]) / row["attempts"]
    every = sum(pack["attempts"] for pack in packs[row["submission_id"]])
    return (submission["seconds"] or 0.0) / max(1, every)
