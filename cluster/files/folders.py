"""The files below OUTPUT_ROOT: names, whole reads, write-then-rename. Standard library only.

A job writes only files of its own and never appends to a shared one: on a parallel file system locks and O_APPEND
hold within one node at most. A file is complete or absent; a claim exists or does not.

    OUTPUT_ROOT/
      ledger.db, ledger.lock            the login node's
      runs/<run_id>/
        run.json                        name, settings, stages, studies (login node)
        model/  checkpoints/  curve.jsonl
        stages/<stage>/<attempt>/
          claim.json  heartbeat.json  result.json  log.txt     (the job)
          verdict.json                  why there is no result (login node)
          decision.json                 whether a failure is tried again, and how (login node)
      submissions/<id>/
        submission.json                 the intent: an array of packs (login node, before sbatch)
        answer.json                     what sbatch said (login node)
        task-<index>.json               the array task that works through pack <index> (the job)
        taken/<run_id>.json             the pack whose task has the run, its own or another (the job; the login node,
                                        before it judges a run that nobody has begun)
      requests/<name>.json              what a `submit` has not submitted yet, and how; gone when it has (login node)
      stages/<stage>.json               a stage of a user's own, as the manifest defined it that was last submitted
      code/<digest>/                    our packages, as a submission found them: its jobs run from there (login node)
      choices/<id>/                     of a follow-up: plan.json, what may be chosen and what becomes of it, and
                                        choice.json, what was chosen, once and for all (login node)
      studies/<study>.json              its question; runs and baselines of its grids, as last submitted (login node)
      paused.json                       who gave `cancel --all`: `tick` begins nothing of theirs (login node)
      notify.json                       the command that is to be told of events, as last submitted (login node)
      budget.json                       the hours that all submissions may take, as last submitted (login node)
      notifications/<event>.<try>.json  what was told, and what came of it (login node)
      imported.json                     it was unpacked from an archive, and which submissions came with it (login node)
      cache/                            tokenised stories, builtin data"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cluster.files.documents import Imported, read
from cluster.files.fields import is_name

NUMBER = re.compile("0|[1-9][0-9]{0,8}")  # as a file's name has it
OTHER_CODE = "the code is not that of"  # how the message of an attempt begins that was refused for it


@dataclass(frozen=True)
class AttemptDir:
    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name)

    @property
    def claim(self) -> Path:
        return self.path / "claim.json"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def verdict(self) -> Path:
        return self.path / "verdict.json"

    @property
    def decision(self) -> Path:
        return self.path / "decision.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"


@dataclass(frozen=True)
class RunDir:
    path: Path

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def has_checkpoints(self) -> bool:
        try:
            names = os.listdir(self.path / "checkpoints")
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return False
        return any(name.startswith("step-") for name in names)

    def attempt(self, stage: str, number: int) -> AttemptDir:
        return AttemptDir(self.path.joinpath("stages", stage, str(number)))

    def numbers(self, stage: str) -> list[int]:
        """The numbers of a stage's attempts, the oldest first."""
        try:
            names = os.listdir(self.path / "stages" / stage)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(name) for name in names if NUMBER.fullmatch(name))

    def attempts(self, stage: str) -> list[AttemptDir]:
        """Oldest first."""
        return [self.attempt(stage, number) for number in self.numbers(stage)]

    def stages(self) -> set[str]:
        """The stages that have a folder."""
        try:
            return set(os.listdir(self.path / "stages"))
        except (FileNotFoundError, NotADirectoryError):
            return set()


@dataclass(frozen=True)
class SubmissionDir:
    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def submission(self) -> Path:
        return self.path / "submission.json"

    @property
    def answer(self) -> Path:
        return self.path / "answer.json"

    def task(self, index: int) -> Path:
        return self.path / f"task-{index}.json"

    def taken(self, run_id: str) -> Path:
        return self.path / "taken" / f"{run_id}.json"

    def taken_runs(self) -> set[str]:
        """The runs that a pack's task has, or that were judged."""
        try:
            names = os.listdir(self.path / "taken")
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {name.removesuffix(".json") for name in names if name.endswith(".json") and is_name(name)}

    def tasks(self) -> list[int]:
        """The packs that a job has taken."""
        try:
            names = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        indices = (name.removeprefix("task-").removesuffix(".json") for name in names if name.startswith("task-"))
        return sorted(int(index) for index in indices if NUMBER.fullmatch(index))


@dataclass(frozen=True)
class ChoiceDir:
    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def choice(self) -> Path:
        return self.path / "choice.json"


def _json_in(folder: Path) -> list[Path]:
    """Return a folder's JSON files, by their names."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return [folder / name for name in sorted(names) if name.endswith(".json")]


def _written(path: Path) -> float:
    """When, in seconds; 0: it is gone by now, or the disk does not say so, as whoever reads it will see."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True)
class OutputRoot:
    path: Path

    @property
    def smoke(self) -> OutputRoot:
        """Smoke runs are kept apart, and never count."""
        return OutputRoot(self.path / "smoke")

    @property
    def is_smoke(self) -> bool:
        return self.path.name == "smoke"

    @property
    def options(self) -> str:
        """Return what a command must be told to speak of it: " --smoke --output-root elsewhere", or nothing."""
        base = self.path.parent if self.is_smoke else self.path
        where = "" if base == Path("output") else f" --output-root {shlex.quote(str(base))}"
        return (" --smoke" if self.is_smoke else "") + where

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.db"

    @property
    def lock(self) -> Path:
        return self.path / "ledger.lock"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def paused(self) -> Path:
        return self.path / "paused.json"

    @property
    def imported(self) -> Path:
        return self.path / "imported.json"

    def came_along(self) -> set[str]:
        """Ids of the submissions that were made elsewhere, and came with an archive."""
        told = read(self.imported, Imported)
        return set(told["submission_ids"]) if told else set()

    @property
    def notify(self) -> Path:
        return self.path / "notify.json"

    @property
    def contents(self) -> Path:
        return self.path / "contents.json"

    @property
    def budget(self) -> Path:
        return self.path / "budget.json"

    def notification(self, name: str) -> Path:
        return self.path / "notifications" / f"{name}.json"

    def request(self, name: str) -> Path:
        return self.path / "requests" / f"{name}.json"

    def requests(self) -> list[Path]:
        """The oldest first."""
        return sorted(_json_in(self.path / "requests"), key=lambda path: (_written(path), path.name))

    def study(self, name: str) -> Path:
        return self.path / "studies" / f"{quote(name, safe=' ')}.json"

    def studies(self) -> list[Path]:
        return _json_in(self.path / "studies")

    def choice(self, choice_id: str) -> ChoiceDir:
        return ChoiceDir(self.path / "choices" / choice_id)

    def choices(self) -> list[ChoiceDir]:
        """All that were planned or made."""
        try:
            names = os.listdir(self.path / "choices")
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self.choice(name) for name in sorted(names) if is_name(name)]

    @property
    def probe(self) -> OutputRoot:
        """Probes are kept apart, as smoke runs are, and never count."""
        return OutputRoot(self.path / "probe")

    def code(self, name: str) -> Path:
        """A copy of our packages, from which jobs run."""
        return self.path / "code" / name

    def own_stage(self, name: str) -> Path:
        return self.path / "stages" / f"{name}.json"

    def own_stages(self) -> list[Path]:
        """The files of the stages of users' own."""
        try:
            names = os.listdir(self.path / "stages")
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self.path / "stages" / name for name in sorted(names) if name.endswith(".json") and is_name(name)]

    @property
    def is_probe(self) -> bool:
        return self.path.name == "probe"

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.path.joinpath("runs", run_id))

    def attempt(self, run_id: str, stage: str, number: int) -> AttemptDir:
        return AttemptDir(self.path.joinpath("runs", run_id, "stages", stage, str(number)))

    def runs(self) -> list[RunDir]:
        """Those that have a run.json. Raises OSError for a folder that cannot be read."""
        return [run for run in map(self.run, sorted(self.run_ids())) if run.run_json.exists()]

    def run_ids(self) -> set[str]:
        """The names of all folders of runs."""
        try:
            return set(os.listdir(self.path / "runs"))
        except FileNotFoundError:
            return set()

    def submission(self, submission_id: str) -> SubmissionDir:
        return SubmissionDir(self.path / "submissions" / submission_id)

    def submission_ids(self) -> set[str]:
        """Return the ids of all submissions."""
        try:
            return {name for name in os.listdir(self.path / "submissions") if is_name(name)}
        except FileNotFoundError:
            return set()

    def decisions(self) -> list[AttemptDir]:
        """The attempts whose failure was decided on."""
        return [AttemptDir(path.parent) for path in sorted(self.path.glob("runs/*/stages/*/*/decision.json"))]
