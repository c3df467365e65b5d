"""Teachers in a walk: what becomes of a run that others learn from, and what must hold of those."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from simulation.world import TAUGHT, World

if TYPE_CHECKING:
    from simulation.batch import Task
    from simulation.kernel import Process

FAILURES = ("fail", "memory", "exit")  # what the teacher is told to do


class Teaching:
    """A part of a walker."""

    world: World

    # -- steps

    def _teacher(self, how: str, study: str, pick: int) -> None:
        """Students are asked for, and something becomes of their teacher."""
        world, teacher = self.world, self.world.teacher
        world.told = {(teacher, "pretrain"): how} if how in FAILURES else {}
        if study not in world.submitted:
            self._command(["submit", study], pick, 1)
        if how in FAILURES:
            self._pass(90)
            self._command(["status"], pick, 1)
            world.told = {}
        elif how == "cancelled" and self._under_way(teacher):
            world.note("a teacher is cancelled")
            self.start(["cancel", "--run", teacher, "--yes"], pick)
            self._command(["status"], pick, 1)
        elif how == "again" and self._is_trained():
            world.note("a teacher is trained again")
            self.train_again(teacher)
            self.start(["rerun", "--stage", "pretrain", "--run", teacher, "--yes"], pick)
            if left := sorted(set(TAUGHT) - world.submitted):  # students who come meanwhile
                self._command(["submit", *left], pick, 1)
            self._command(["tick"], pick, 1)
        elif how == "removed" and self._idle and self._is_trained():
            world.note("a teacher is removed")
            self._remove_teacher(whole=pick % 2 == 0)
            self._command(["tick"], pick, 1)

    def _remove_teacher(self, whole: bool) -> None:
        """Its folder, or its model alone."""
        folder = self.world.output / "runs" / self.world.teacher
        if whole:
            self.lose(folder)
        else:
            shutil.rmtree(folder / "model", ignore_errors=True)

    def train_again(self, run: str) -> None:
        """A person asks for a training once more."""
        self.world.redone.add((run, "pretrain"))
        self.world.notes_redone.add(run)

    # -- what must hold

    def _under_way(self, run: str) -> bool:
        return any(item["run_id"] == run for task in self.slurm.live() for item in self._items(task))

    def _is_trained(self, before: float = float("inf")) -> bool:
        """Whether the teacher had completed by that time."""
        for path in self.world.output.glob(f"runs/{self.world.teacher}/stages/pretrain/*/result.json"):
            if json.loads(path.read_text())["status"] == "completed" and path.stat().st_mtime <= before:
                return True
        return False

    def check_teacher_of(self, task: Task, intent: Path) -> None:
        """A student is submitted once its teacher is trained, and not while that is trained again."""
        students = self.world.students
        for item in self._items(task):
            begins = item["run_id"] in students and any(stage == "pretrain" for stage, _ in item["stages"])
            if begins and not self._is_trained(intent.stat().st_mtime):
                self.world.complain(f"a student is submitted before its teacher is trained:: {item} {task.key}")
            if begins and self._is_trained_again(intent):
                self.world.complain(f"a student is submitted while its teacher is trained again:: {item} {task.key}")

    def _is_trained_again(self, intent: Path) -> bool:
        """Whether a job that was submitted before has the teacher's training to do, as far as that shows by now."""
        for other in self.slurm.live():
            before = self._folder(other) / "submission.json"
            lost = other.foreign or other.elsewhere or other.forgotten or not before.exists()
            if not lost and before.stat().st_mtime < intent.stat().st_mtime:
                numbers = [dict(item["stages"]).get("pretrain") for item in self._items(other)
                           if item["run_id"] == self.world.teacher]  # fmt: skip
                if any(number and not self._has_ended(number) for number in numbers) and other.restart == 0:
                    return True
        return False

    def _has_ended(self, attempt: int) -> bool:
        """Whether this training of the teacher has a result: its job may go on with what comes after it."""
        stage = self.world.output / "runs" / self.world.teacher / "stages" / "pretrain"
        return (stage / str(attempt) / "result.json").exists()

    def check_gone(self, process: Process, said: str) -> None:
        """A model is called gone where somebody has removed it."""
        removed = self.world.counts["removed: a run"] or self.world.counts["a teacher is removed"]
        if "the model that they learn from is gone" in said and not removed:
            self.world.complain(f"a model is called gone that nobody removed:: {process.name}: {said}")

    def check_blocked(self, said: str) -> None:
        """What waits for a teacher that failed is said to, with what frees it."""
        teacher = self.world.teacher
        failed = self.rows("newest_attempt", f"run_id = '{teacher}' AND status = 'failed'")
        began = {row["run_id"] for row in self.rows("attempt", "status != 'void'")}
        waiting = {row["run_id"] for row in self.rows("need")} - began
        if failed and waiting:
            self.world.note("a teacher has failed")
            words = f"{len(waiting)} run{'' if len(waiting) == 1 else 's'} blocked, since pretrain of tutor"
            told = " ".join(said.split())  # lines are cut where the screen ends
            if words not in told or f"rerun --failed --run {teacher}" not in told:
                self.world.complain(f"status does not say for whom students wait:: {failed} {waiting} {said}")
