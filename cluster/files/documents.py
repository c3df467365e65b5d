"""The JSON files below OUTPUT_ROOT, each by its fields, and how one is checked when it is read. Standard library only.

What a file has beside these fields is kept: a later version may have written it. `read` refuses a file that is not one
of its kind as it refuses one that is not whole: it counts as absent, and is told by its name.
(Annotations are read when this module is loaded, so they are no strings.)"""

import typing
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

from cluster.files.causes import Cause
from cluster.files.fields import Count, Name, Number, Time, find_fault
from cluster.files.processes import Process
from cluster.files.statuses import Ended, Judged, State
from cluster.files.whole_files import TornFile, read_json
from tiny_transformers.common.provenance import CodeVersion

ABSENT = object()

T = TypeVar("T")
OLDER_WORDS = {"token": "submission_id", "tokens": "submission_ids"}  # what fields were called in earlier versions


class Life(Process):
    """A life of an array task: it has another after each requeue."""

    job: str
    restart: int
    ended_by: NotRequired[Cause]
    code: NotRequired[CodeVersion | None]
    environment: NotRequired[dict[str, Any] | None]


class TaskFile(Life):
    """task-<index>.json: the array task that works through a pack."""

    earlier: NotRequired[list[Life]]  # before it was requeued
    waits: NotRequired[bool]  # for a pack before it on this machine


class TakenFile(TypedDict):
    """taken/<run_id>.json: the pack whose task does a run, or answers for it."""

    pack: int


class Claim(Life):
    """claim.json: whose an attempt is, and what it is done with."""

    submission_id: Name  # the submission's
    time: Time


FRESH = 30.0  # seconds; a heartbeat comes every 10, so whoever wrote a younger one is alive, whatever SLURM knows


class Heartbeat(TypedDict):
    """heartbeat.json: how far an attempt is."""

    time: Time
    fraction: NotRequired[float]
    text: NotRequired[str]
    loss: NotRequired[Number | None]
    tokens_per_second: NotRequired[Number | None]
    seconds_left: NotRequired[Number | None]


class ScoreRow(TypedDict):
    task: str
    metric: str
    value: float
    n: int


class CheckRow(TypedDict):
    name: str
    passed: bool
    value: Any  # kept as text: a diverged loss is not a number
    blocking: bool


class OutcomeRecord(TypedDict):
    """The findings of a stage."""

    scores: NotRequired[list[ScoreRow]]
    checks: NotRequired[list[CheckRow]]
    metrics: NotRequired[dict[str, Any]]  # kept as text
    data: NotRequired[dict[str, str]]


class ResultFile(TypedDict):
    """result.json: how an attempt ended, in its own words."""

    status: Ended
    cause: NotRequired[Cause | None]
    message: NotRequired[str | None]
    ended: NotRequired[Time | None]
    outcome: NotRequired[OutcomeRecord | None]


class Verdict(TypedDict):
    """verdict.json: how an attempt ended that could not say so."""

    status: Judged
    cause: NotRequired[Cause | None]
    message: NotRequired[str | None]
    ended: NotRequired[Time | None]
    job: NotRequired[str | None]
    host: NotRequired[str | None]


class DecisionFile(TypedDict):
    """decision.json: whether a failure is tried again."""

    run_id: Name
    stage: Name
    number: Count
    time: float
    action: Literal["retry", "stop"]
    cause: str
    tries: int
    changes: str
    due: float


class PackedRun(TypedDict):
    """One run's share of a pack."""

    run_id: Name
    stages: list[tuple[Name, Count]]  # each with the number of its attempt
    micro_batch_tokens: NotRequired[int | None]
    alone: NotRequired[bool]
    memory: NotRequired[int]  # MB that it takes of `memory_limit`, as planned
    seconds: NotRequired[float]  # of the device that it surely takes for itself, all parts of the run together
    # Stage -> its newest attempt that was known to be completed, and is done again. Not there: nothing is said of that.
    done: NotRequired[dict[str, int]]


class NodeFile(TypedDict):
    """node.json: what a node has for a stage that is to have a GPU (tiny_transformers/training/device.py)."""

    node: str
    versions: str  # of torch's CUDA, and the newest that the driver knows
    gpu: str | None
    wrong: str | None  # why CUDA does not start, and what to do
    lacks: str | None


class SiteTold(TypedDict):
    """The fields of a site's profile that the ledger keeps."""

    name: str
    scheduler: Literal["slurm", "local"]
    gpus: NotRequired[int | None]
    memory_per_cpu: NotRequired[int | None]


class ManifestTold(TypedDict):
    """The manifest that was submitted, and how it was asked for."""

    name: str
    sha256: str
    text: str
    overrides: NotRequired[list[str] | None]
    studies: NotRequired[list[str] | None]


class SourceOfWork(TypedDict):
    """Where and how something was asked for."""

    created: str
    user: NotRequired[str]  # who asked, and whose jobs they are: SLURM may show them to nobody else
    site: dict[str, Any]
    data_root: str | None
    asked_by: NotRequired[str]
    code: NotRequired[CodeVersion | None]
    manifest: NotRequired[dict[str, Any] | None]
    allow_code_change: NotRequired[bool]
    code_copy: NotRequired[Name]  # the folder below code/ from which its jobs run; not there: what was installed


class Intent(SourceOfWork):
    """submission.json: an array of packs, written before sbatch runs."""

    submission_id: NotRequired[str]
    output_root: NotRequired[str]
    cache: NotRequired[str]
    packs: list[list[PackedRun]]
    libraries: NotRequired[dict[str, str | None]]  # versions at the submission; not there: a container's are others
    slots: NotRequired[int]
    cpus: NotRequired[int]
    minutes: NotRequired[int]
    memory: NotRequired[int | None]
    memory_limit: NotRequired[int]  # MB that a pack's runs at work take together; not there: `slots` says it all
    seconds: NotRequired[float]
    stage_seconds: NotRequired[dict[str, float]]  # of these, what each stage takes; not there: by an older version
    requeues: NotRequired[int]


class Need(TypedDict):
    """The product of another run: one of its stages, completed."""

    root: str  # where it is made: the name of an OUTPUT_ROOT below this one; empty: this one
    run_id: Name
    stage: Name
    or_else: NotRequired[str]  # what is done where it ends otherwise, in words; not there: that is waited for


class RequestFile(SourceOfWork):
    """requests/<name>.json: what a `submit` has asked for and limits hold back, or what waits for another run."""

    runs: list[str]
    needs: NotRequired[list[Need]]
    choice: NotRequired[Name]  # the id of a follow-up's choice, whose runs it asks for once that is made


class ReachedLimit(TypedDict):
    """A limit of submitted jobs that sbatch named, and that is not among those that were read."""

    account: str | None
    qos: str | None
    partition: str | None
    max_submit: int | None  # as it was read
    live: int  # jobs of the account that were there
    packs: int  # that were too many beside them
    times: int  # that it was met, one after another


class AnswerFile(TypedDict):
    """answer.json: what sbatch said, and what was found out since."""

    state: State
    job_id: NotRequired[str | None]
    message: NotRequired[str | None]
    for_now: NotRequired[bool]  # refused, but `tick` asks again
    limit: NotRequired[ReachedLimit]
    cancelled: NotRequired[bool]  # all of it
    cancelled_packs: NotRequired[list[int]]
    reached: NotRequired[bool]
    process: NotRequired[Process | None]


class RunNeed(TypedDict):
    """The product of another run of this OUTPUT_ROOT, without which a stage of this one cannot be done."""

    stage: Name  # of this run
    run_id: Name  # of the other one
    needed: Name  # the stage of that one which makes it


class RunFile(TypedDict):
    """run.json: a planned run."""

    run_id: Name
    name: str
    created: str
    order: int
    studies: list[str]
    stages: list[Name]
    parameters: NotRequired[int]
    config: dict[str, Any]
    needs: NotRequired[list[RunNeed]]  # not there: none


class Grid(TypedDict):
    overrides: list[str]
    stages: list[str]
    runs: list[str]
    baselines: list[str]
    manifests: NotRequired[list[str]]  # paths of those that asked for it, the last one last


class Paused(TypedDict):
    """paused.json: `cancel --all` was given."""

    time: str
    users: NotRequired[dict[str, str]]  # who gave it, and when


class NotifyFile(TypedDict):
    """notify.json: the command that is told of events, as last submitted."""

    command: str
    events: list[str]
    unreachable_after: float  # minutes
    retried: list[str]  # causes of failures that are tried again


class ContentsFile(TypedDict):
    """contents.json: which bytes the names of data stand for here, by SHA-256."""

    first: dict[str, str]  # name -> what it stood for when it was first submitted
    revisions: dict[str, dict[str, str]]  # revision of runs -> the names that stand for something else in them
    # Of a submission, and never in the file: name -> the content of which nothing was made, which gives way.
    replaced: NotRequired[dict[str, str]]


class BudgetFile(TypedDict):
    """budget.json: the hours that all submissions may take together, as last submitted."""

    gpu_hours: float
    manifest: str  # the name of the file that says so


class Imported(TypedDict):
    """imported.json: which submissions came with an archive."""

    submission_ids: list[str]


class StudyFile(TypedDict):
    """studies/<study>.json: its question, and the runs and baselines of its grids."""

    name: str
    description: str
    grids: list[Grid]


def is_cancelled(answer: AnswerFile | None, index: int) -> bool:
    """Whether `cancel` was given for a pack: its job, should it come after all, leaves."""
    return bool(answer and (answer.get("cancelled") or index in answer.get("cancelled_packs", [])))


def read(path: Path, kind: type[T]) -> T | None:
    """Return the file's value, a `kind`, or None if there is no such file.

    Raises TornFile if it is not whole, or not such a file."""
    value = read_json(path, absent=ABSENT)
    if value is ABSENT:
        return None
    if isinstance(value, dict) and typing.is_typeddict(kind):
        value = {_word(name, kind): each for name, each in value.items()}
    if wrong := find_fault(value, kind):
        raise TornFile(f"{path}: is no {path.name} ({wrong})")
    return typing.cast(T, value)


def _word(name: str, kind: Any) -> str:
    """What a field is called now, which an earlier version may have called otherwise."""
    newer = OLDER_WORDS.get(name, name)
    return newer if newer in kind.__annotations__ else name
