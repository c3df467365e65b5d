"""A row of the ledger has the columns that its type here names: one type for each table and each question.

Rows are dictionaries, as SQLite gives them. Those of attempts are in `files.records`, since a plan, which comes before
the ledger, judges by them; a decision is its file (`files.documents`). A test holds the types to what SQLite gives."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from cluster.files import documents
from cluster.files.causes import Cause
from cluster.files.records import AttemptKey
from cluster.files.statuses import AttemptStatus, StageStatus, State

NOT_KNOWN = "not known"  # the site of a submission whose files are gone


class Answered(TypedDict, total=False):
    """The columns that tell what became of a submission."""

    state: State
    job_id: str | None
    spent: float | None  # GPU-hours, once it is done; hours where it has no GPU


class SubmissionRow(Answered):
    """An array of packs, as it was handed to the scheduler."""

    submission_id: str
    created: str
    scheduler: str
    site: str
    data_root: str | None
    asked_by: str
    user: str | None  # whose jobs they are; None: an older version did not say
    slots: int | None  # what was planned; None: an older version did not say
    gpus: int | None
    cpus: int | None
    memory_per_cpu: int | None  # MB
    minutes: int | None
    memory: int | None  # MB, of the largest run
    seconds: float | None  # of all packs
    stage_seconds: str | None  # JSON: stage -> seconds of all packs; None: an older version did not say


class UsageRow(SubmissionRow):
    """A submission with what it was planned to take, and what its packs that have ended took."""

    packs: int
    studies: str | None  # separated by commas
    peak: float | None  # MB
    tokens_per_second: float | None
    mfu: float | None
    data_wait: float | None
    precisions: str | None
    ended: int  # packs
    longest: float | None  # seconds of a pack
    used: float | None  # seconds of all of them
    busy: float | None  # seconds of their runs


class HoursRow(TypedDict):
    """A submission that was submitted, with what it was planned to take and has taken so far."""

    submission_id: str
    state: State
    scheduler: str
    gpus: int | None
    slots: int | None
    seconds: float | None  # planned, of all its packs
    stage_seconds: str | None  # JSON: the same, by stage
    spent: float  # GPU-hours; hours where it has no GPU


class OpenPack(NamedTuple):
    """A pack of which something is open, as far as its attempts are alike: most of very many packs only wait."""

    untouched: bool  # all its attempts are submitted: none has begun or ended
    has_job: bool  # all of them name its job
    progress: str | None  # that the first stage of each of its runs has, and no other one


class PackRow(TypedDict):
    """A pack of a submission of which something may still happen."""

    submission_id: str
    pack_index: int
    runs: int
    live: int  # runs of which something is open
    open: int  # attempts
    running: int
    completed: int
    attempts: int
    started: float | None  # the first; None if none has, or if the pack waits again
    ended: float | None  # the last that did
    job: str | None
    host: str | None
    reason: str | None  # SLURM's, for which it waits


class StageWorkRow(TypedDict):
    """A stage in a submission of which something may still happen."""

    submission_id: str
    stage: str
    attempts: int
    completed: int
    seconds: float | None  # of the completed ones, of each its share of its pack's


class OpenStageRow(TypedDict):
    """A stage in a pack that has begun."""

    submission_id: str
    pack_index: int
    stage: str
    open: int  # attempts


class ScoreRow(AttemptKey, documents.ScoreRow):
    """A figure of an attempt."""


class CheckRow(AttemptKey):
    """A check of an attempt, which held or did not."""

    name: str
    passed: int  # 1 or 0
    blocking: int
    value: str


class MetricRow(AttemptKey):
    """A quantity that an attempt measured beside its scores."""

    name: str
    value: str


class DataFileRow(AttemptKey):
    """A file that an attempt read."""

    file: str
    sha256: str


class HoursOfStage(TypedDict):
    """A stage run with what it took, over all of its attempts that have ended."""

    run_id: str
    stage: str
    attempts: int
    seconds: float
    gpu_hours: float


class TryRow(TypedDict):
    """An attempt: when it was submitted, began and ended, and its share of what its pack took."""

    run_id: str
    stage: str
    number: int
    status: AttemptStatus
    cause: Cause | None
    submission_id: str
    pack_index: int
    job: str | None
    created: str | None  # its submission, ISO 8601
    started: float | None
    ended: float | None  # of one that runs, its last heartbeat
    on_gpu: int  # 0 or 1
    hours: float | None  # of GPUs, or else of CPUs


class StageRow(TypedDict):
    """A stage run, by its newest attempt if it has one."""

    status: StageStatus
    cause: Cause | None
    attempts: int
    job: str | None


class RunRow(TypedDict):
    """A run without its settings, and how far each of its stages is."""

    run_id: str
    name: str
    parameters: int
    studies: list[str]
    stages: dict[str, StageRow]


class NeedRow(TypedDict):
    """A stage run that is not completed, and for whose product so many runs wait."""

    run_id: str
    stage: str
    runs: int
    name: str | None  # None: the run is not known any more
    status: StageStatus
    cause: Cause | None
    message: str | None


class FailureRow(TypedDict):
    """A stage run whose newest attempt failed, once for each study of its run."""

    study: str
    name: str
    stage: str
    cause: Cause | None
    message: str | None
    decided: str | None


class MeasurementRow(TypedDict):
    """A completed attempt with what is known of its speed and memory."""

    run_id: str
    stage: str
    config: str  # JSON
    submission_id: str
    pack_index: int
    started: float | None
    ended: float | None
    seconds: float | None
    slots: int | None  # of its submission
    runs: int  # of its pack
    tokens_per_second: float | None
    trained: float | None  # seconds of training
    peak_memory_mb: float | None
    micro_batch_tokens: int | None
    device: str | None
