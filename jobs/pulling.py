"""Say which runs of an array a task does: those of its pack, and those that it pulls from the packs of others.

A task has a run when it has created the run's file below taken/ exclusively, and before that it does nothing for it; so
each run of a submission is one task's, whose pack is judged for it. A task that dies keeps its runs. The login node
creates the file of a run that nobody has begun before it judges it, so that nobody pulls it after. What is pulled is
the longest run that fits into the memory and the time that the puller has left, and none of a cancelled pack's. No
torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.files import documents, whole_files
from cluster.files.documents import AnswerFile, Intent, PackedRun, TakenFile
from cluster.files.folders import SubmissionDir
from jobs.attempts import whole


@dataclass(frozen=True)
class Part:
    """A part of a pack that one child does: what shares the device of a run's stages, or what is alone on it."""

    pack: int
    number: int  # in its pack
    item: PackedRun

    @property
    def run_id(self) -> str:
        return self.item["run_id"]

    @property
    def alone(self) -> bool:
        return self.item.get("alone", False)

    @property
    def memory(self) -> int:
        return self.item.get("memory", 0)

    @property
    def seconds(self) -> float:
        return self.item.get("seconds", math.inf)


class Runs:
    """The runs of an array, as the task of one of its packs may have them."""

    def __init__(self, directory: SubmissionDir, intent: Intent, index: int) -> None:
        self.directory, self.index = directory, index
        self.parts = [
            Part(pack, number, item) for pack, items in enumerate(intent["packs"]) for number, item in enumerate(items)
        ]
        self._held: set[str] = set()
        # Of the other packs the first part of each run, the longest first.
        first = {part.run_id: part for part in reversed(self.parts) if part.pack != index}
        self._others = sorted(first.values(), key=lambda part: -part.seconds)

    def own(self, earlier_lives: bool) -> list[Part]:
        """Return the parts of this pack that no other has, and what the task has pulled in its earlier lives."""
        mine = {part.run_id for part in self.parts if part.pack == self.index}
        taken = self.directory.taken_runs()
        asked = taken if earlier_lives else taken & mine
        self._held = {run_id for run_id in asked if self._holder(run_id) == self.index}
        wanted = self._held | (mine - taken)
        return [part for part in self.parts if part.run_id in wanted]

    def take(self, run_id: str) -> bool:
        """Whether the run is this pack's to do, from now on or since before."""
        if run_id not in self._held:
            created = whole_files.create_json(self.directory.taken(run_id), {"pack": self.index})
            if not created and self._holder(run_id) != self.index:
                return False
            self._held.add(run_id)
        return True

    def pull(self, alone: bool, memory: float, seconds: float) -> list[Part]:
        """Take the longest run of other packs that nobody has begun and that fits, and return its parts; none if there
        is none. `seconds`: of the device, for itself."""
        for part in self._left():
            if part.alone == alone and part.memory <= memory and part.seconds <= seconds and self.take(part.run_id):
                return [each for each in self.parts if each.pack == part.pack and each.run_id == part.run_id]
        return []

    def any_left(self) -> bool:
        """Whether other packs have runs that nobody has begun."""
        return next(self._left(), None) is not None

    def _left(self) -> Iterator[Part]:
        if not self._others:
            return
        taken = self.directory.taken_runs()
        self._others = [part for part in self._others if part.run_id not in taken]
        answer = whole(self.directory.answer, AnswerFile)
        yield from (part for part in self._others if not documents.is_cancelled(answer, part.pack))

    def is_cancelled(self, pack: int) -> bool:
        return documents.is_cancelled(whole(self.directory.answer, AnswerFile), pack)

    def _holder(self, run_id: str) -> int | None:
        taken = whole(self.directory.taken(run_id), TakenFile)
        return taken["pack"] if taken else None
