"""The facts that `status` knows at one moment: how far studies are, packs, the queue, failures, hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cluster.files.statuses import StageStatus

TELLING: Final = ("running", "failed", "submitted")  # a run is called after the first that a stage of it has
SUPERSEDED = "no longer in the manifest"  # what is said of failures that nobody asks for any more


@dataclass(frozen=True)
class Progress:
    """A study, or all of them: how far its runs are, and each of its stages."""

    study: str
    runs: dict[StageStatus, int]  # one of TELLING, completed, or eligible -> how many runs
    stages: dict[str, dict[StageStatus, int]]  # stage -> status -> how many stage runs

    @property
    def total(self) -> int:
        return sum(self.runs.values())


@dataclass(frozen=True)
class RunningStage:
    """A stage run that is running."""

    run_id: str
    name: str  # with its id, where several runs have this name
    stage: str
    number: int  # of the attempt
    fraction: float
    text: str
    loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None  # of this stage
    silent: float  # seconds since its last heartbeat


@dataclass(frozen=True)
class RunningPack:
    """A pack that has begun."""

    submission_id: str
    pack_index: int
    job: str
    node: str
    slots: int
    runs: int
    waiting: int  # runs whose turn in it has not come
    working: tuple[RunningStage, ...]


@dataclass(frozen=True)
class WaitingPacks:
    """Packs that have not begun, and why; `reason` is SLURM's, or empty."""

    reason: str
    runs: int
    packs: tuple[tuple[str, int], ...]  # submission's id, index in it
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """Stage runs that failed in the same way."""

    stage: str
    cause: str
    message: str  # of the first of them
    attempts: tuple[tuple[str, str, int, str], ...]  # run id, name, number, job
    decided: str  # what the retry rules say
    again: bool  # whether they try it again
    command: str  # that mends it


@dataclass(frozen=True)
class HoursUsed:
    used: float
    planned: float | None  # None: not known of every submission
    unit: str


@dataclass(frozen=True)
class Status:
    studies: tuple[Progress, ...]
    total: Progress
    packs: tuple[RunningPack, ...]
    queue: tuple[WaitingPacks, ...]
    failures: tuple[Failure, ...]
    hours: HoursUsed | None
    seconds_left: float | None  # of what is submitted; None: nothing is, or unknown
    why: str  # what the estimate rests on, or why there is none; empty: nothing is submitted
    flags: tuple[str, ...]
    as_of: str
    slurm: str
    options: str  # that commands need to speak of this ledger
    now: float
    waits: tuple[str, ...] = ()  # what waits for the product of another run
    only_imported: bool = False  # whether `tick` must be told the site
    paused: bool = False  # whether this user's `tick` begins nothing
    refused: int = 0  # stage runs that nothing but sbatch's refusal keeps

    @property
    def eligible(self) -> int:
        """As many as a `tick` or a `submit` submits."""
        return sum(counts.get("eligible", 0) for counts in self.total.stages.values()) - self.refused
