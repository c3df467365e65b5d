"""Result files + what SLURM says -> ledger. Idempotent.

Files are the truth: a stage has succeeded when its result.json says so, whatever SLURM says; what SLURM says only
explains a result that is missing. An attempt is judged when its job is seen to have ended, or is absent from an
answer; a query that failed changes nothing, and no clock is asked but the file system's own. A judgement without a
result is written beside the attempt as verdict.json, so that the ledger can be made again from files alone."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from cluster.files import documents, processes, whole_files
from cluster.files.documents import AnswerFile, Claim, Heartbeat, Life, ResultFile, TaskFile, Verdict
from cluster.files.folders import AttemptDir, OutputRoot, SubmissionDir
from cluster.files.processes import Process
from cluster.files.records import Run
from cluster.files.statuses import FRUITLESS, GIVEN_UP, LIVE, OPEN
from cluster.files.whole_files import TornFile
from cluster.ledger.database import Ledger
from cluster.ledger.recording import job_name, record_intent
from cluster.slurm.queries import Job
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES

T = TypeVar("T")

# sbatch tries for two minutes by itself, so a younger submission may still reach the controller.
PATIENCE = "TINY_TRANSFORMERS_SBATCH_PATIENCE"  # seconds; for sites whose sbatch gives up sooner or later
SBATCH_PATIENCE = 200.0
FRESH = 30.0  # seconds; a heartbeat comes every 10, so whoever wrote a younger one is alive, whatever SLURM knows
STALE_ACCOUNTING = 600.0  # seconds that sacct may call a job alive which squeue does not know

# partial: squeue answered, sacct did not
SlurmReply = Literal["answered", "partial", "unreachable", "none"]


class Queries(Protocol):
    """What reconciling asks of SLURM; `slurm.Slurm`, or a fake."""

    def queue(self) -> dict[str, Job] | None: ...
    def history(self, names: Iterable[str], days: int) -> dict[str, Job] | None: ...


@dataclass(frozen=True)
class EndedJob:
    """A pack's job is over; `cause` explains every result that it did not leave."""

    cause: str
    message: str
    node: str | None = None


@dataclass(frozen=True)
class LiveJob:
    job: str
    reason: str = ""  # SLURM's, while pending


Fate = EndedJob | LiveJob | None  # None: unknown, so nothing is changed


@dataclass(frozen=True)
class SlurmAnswers:
    """What SLURM showed of this user's jobs, by key; None: no answer, or not asked."""

    queue: Mapping[str, Job] | None
    history: Mapping[str, Job] | None


class OpenSubmission:
    """A submission of which something may still happen: its row, its attempts, and the tasks that have begun."""

    def __init__(self, ledger: Ledger, root: OutputRoot, row: dict[str, Any]) -> None:
        self.ledger, self.root, self.row = ledger, root, row
        self.directory = root.submission(row["token"])
        self.attempts = ledger.attempts_in(row["token"])
        self.tasks: dict[int, TaskFile] = {}
        self.torn: list[str] = []  # files that are not whole
        self.just_seen = False  # its job showed itself after SLURM was asked, so that answer says nothing of it

    @property
    def name(self) -> str:
        return job_name(self.row["token"])

    @property
    def slurm(self) -> bool:
        return bool(self.row["scheduler"] == "slurm")

    @property
    def open_attempts(self) -> list[dict[str, Any]]:
        return [attempt for attempt in self.attempts if attempt["status"] in LIVE]

    def put(self, attempt: dict[str, Any], **values: Any) -> None:
        """Change an attempt's row, here and in the ledger."""
        if any(attempt[name] != value for name, value in values.items()):
            attempt |= values
            self.ledger.put_attempt(attempt["run_id"], attempt["stage"], attempt["number"], **values)

    def update(self, **values: Any) -> None:
        self.row |= values
        self.ledger.update_submission(self.row["token"], **values)

    def key(self, task: int, jobs: Mapping[str, Job]) -> str:
        """SLURM's name for the job of a pack: the one that took it, or else the one of its place in the array."""
        if task in self.tasks:
            return str(self.tasks[task]["job"])
        key = f"{self.row['job_id']}_{task}"
        return self.row["job_id"] if key not in jobs and self.row["job_id"] in jobs else key  # no array of one


def patience() -> float:
    """Seconds after which an unanswered sbatch has surely given up."""
    return float(os.environ.get(PATIENCE, SBATCH_PATIENCE))


def reconcile(ledger: Ledger, root: OutputRoot, slurm: Queries) -> SlurmReply:
    """Bring the ledger up to date with the files and with SLURM; asks SLURM only if something of its is open, and
    then once for the queue and at most once for what has left it. The caller holds the lock."""
    with ledger.transaction():
        _take_in(ledger, root)
        opened = [OpenSubmission(ledger, root, row) for row in ledger.open_submissions()]
        for each in opened:
            _read_files(each)
            _close_if_done(each)
    asked = [each for each in opened if each.slurm and each.row["state"] in OPEN]
    queue = slurm.queue() if asked else None
    doubtful = [each for each in asked if queue is not None and _needs_history(each, queue)]
    history = slurm.history([each.name for each in doubtful], _days(doubtful)) if doubtful else {}
    seen = SlurmAnswers(queue, history)
    with ledger.transaction():
        for each in opened:
            if each.row["state"] == "intended":
                _settle_intent(each, seen)
            if each.row["state"] in OPEN:
                _judge(each, seen)
    if not asked:
        return "none"
    if queue is None:
        return "unreachable"
    return "partial" if history is None else "answered"


def rebuild(ledger: Ledger, root: OutputRoot) -> list[str]:
    """Fill an empty ledger from the files. Returns what could not be read."""
    torn: list[str] = []
    with ledger.transaction():
        runs = [value for value in (_whole(run.run_json, documents.RunFile, torn) for run in root.runs()) if value]
        for run in sorted(runs, key=lambda run: (run["created"], run["order"])):
            _record_run(ledger, run)
        _take_in(ledger, root, torn)
        for row in ledger.open_submissions():
            each = OpenSubmission(ledger, root, row)
            _read_files(each, begun_only=False)  # one that never began may have a verdict
            if each.row["state"] == "submitted":
                _judge(each, SlurmAnswers(None, None))
            torn += each.torn
        for directory in root.decisions():
            decision = _whole(directory.decision, documents.DecisionFile, torn)
            if decision:
                ledger.put_decision(dict(decision))
    return list(dict.fromkeys(torn))


def late_results(ledger: Ledger, root: OutputRoot) -> None:
    """A job that was judged and then wrote its results after all has done its work: whatever was guessed, they say so.
    Asked before anything is done again."""
    with ledger.transaction():
        for failed in ledger.newest_attempts("failed"):
            for attempt in ledger.attempts_in(failed["token"]):
                if attempt["run_id"] == failed["run_id"] and attempt["status"] in FRUITLESS:
                    _take_late(ledger, root, attempt)


def _take_late(ledger: Ledger, root: OutputRoot, attempt: dict[str, Any]) -> None:
    key = (attempt["run_id"], attempt["stage"], attempt["number"])
    directory = root.run(key[0]).attempt(*key[1:])
    result, claim = _whole(directory.result, ResultFile, []), _whole(directory.claim, Claim, [])
    if result and claim and result["status"] == "completed" and claim["token"] == attempt["token"]:
        values: dict[str, Any] = {"job": claim["job"], "host": claim["host"], "started": claim["time"]}
        values |= _said(result) | _provenance(ledger, claim)
        ledger.put_attempt(*key, **values)
        ledger.put_outcome(*key, result.get("outcome") or {})
        ledger.sum_hours(attempt["token"])


def _record_run(ledger: Ledger, value: documents.RunFile) -> None:
    config = RunConfig.model_validate(value["config"])
    run = Run(value["run_id"], value["name"], config, tuple(value["stages"]), tuple(value["studies"]))
    ledger.record_runs([run], value["created"])


def _take_in(ledger: Ledger, root: OutputRoot, torn: list[str] | None = None) -> None:
    """What is on disk and not in the ledger: whoever wrote it was killed before it came to that."""
    torn = [] if torn is None else torn
    known_studies = {row["name"]: row for row in ledger.studies()}
    for study in filter(None, (_whole(path, documents.StudyFile, torn) for path in root.studies())):
        if known_studies.get(study["name"]) != study:
            ledger.put_study(study["name"], study["description"], study["grids"])
    new = [root.submission(token) for token in sorted(root.tokens() - ledger.tokens())]
    intents = [(directory, _whole(directory.submission, documents.Intent, torn)) for directory in new]
    if not intents:
        return
    known = set(ledger.known_runs())
    for directory, value in sorted(intents, key=lambda pair: pair[1]["created"] if pair[1] else ""):
        if value:
            new_ids = {item["run_id"] for pack in value["packs"] for item in pack} - known
            described = [
                run for run_id in new_ids if (run := _whole(root.run(run_id).run_json, documents.RunFile, torn))
            ]
            for run in sorted(described, key=lambda run: (run["created"], run["order"])):
                _record_run(ledger, run)
                known.add(run["run_id"])
            packs = [[item for item in pack if item["run_id"] in known] for pack in value["packs"]]
            record_intent(ledger, directory, {**value, "packs": packs})


def _whole(path: Path, kind: type[T], torn: list[str]) -> T | None:
    try:
        return documents.read(path, kind)
    except TornFile as error:
        torn.append(str(error))
        return None


# -- files ------------------------------------------------------------------------------------------------------------


def _read_files(opened: OpenSubmission, begun_only: bool = True) -> None:
    """Results, claims and heartbeats of every open attempt whose pack has begun: a job takes its pack first."""
    opened.tasks = {index: task for index, task in _tasks(opened.directory) if task}
    waiting = list(opened.open_attempts)
    while waiting:
        attempt = waiting.pop(0)
        if attempt["task"] not in opened.tasks and begun_only:
            continue
        _read_attempt(opened, attempt)
        if _superseded(opened, attempt):
            successor = _successor(opened, attempt)
            if successor:
                waiting.append(successor)


def _tasks(directory: SubmissionDir) -> list[tuple[int, TaskFile | None]]:
    return [(index, _whole(directory.task(index), TaskFile, [])) for index in directory.tasks()]


def _read_attempt(opened: OpenSubmission, attempt: dict[str, Any]) -> None:
    directory = opened.root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"])
    torn = opened.torn
    before = len(torn)
    claim = _whole(directory.claim, Claim, torn)
    if claim is None and len(torn) == before:  # a verdict may be there without a claim
        verdict = _whole(directory.verdict, Verdict, torn)
        if verdict:
            known = {name: attempt[name] or verdict.get(name) for name in ("job", "host")}
            opened.put(attempt, **_said(verdict), **known)
        return
    if claim and claim["token"] != attempt["token"]:
        return
    spoilt: list[str] = []
    result = _whole(directory.result, ResultFile, spoilt)
    told: ResultFile | Verdict | None = result or _whole(directory.verdict, Verdict, torn)
    torn += [] if told else spoilt  # a verdict has said so already
    values: dict[str, Any] = dict.fromkeys(("job", "host", "started", "code"))
    if claim:
        values = {"job": claim["job"], "host": claim["host"], "started": claim["time"]}
        values |= _provenance(opened.ledger, claim)
    if told:
        values |= _said(told)
    else:
        beat = _whole(directory.heartbeat, Heartbeat, torn)
        values |= {"status": "running", "progress": json.dumps(beat) if beat else None}
    opened.put(attempt, **values)
    attempt["restart"], attempt["told"] = claim["restart"] if claim else 0, bool(result)
    if result:
        opened.ledger.put_outcome(attempt["run_id"], attempt["stage"], attempt["number"], result.get("outcome") or {})


def _said(told: ResultFile | Verdict) -> dict[str, Any]:
    return {key: told.get(key) for key in ("status", "cause", "message", "ended")} | {"progress": None}


def _provenance(ledger: Ledger, claim: Claim) -> dict[str, Any]:
    code, environment = claim.get("code"), claim.get("environment")
    known: dict[str, Any] = {"code": code["digest"] if code else None}
    if environment is None:
        return known
    version = {name: code.get(name) if code else None for name in ("commit", "diff")}
    text = json.dumps(environment | version, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    ledger.put_environment(key, text)
    return known | {"environment": key}


def _superseded(opened: OpenSubmission, attempt: dict[str, Any]) -> bool:
    """Whether the job was requeued after this attempt began: it goes on under the next number."""
    task = opened.tasks.get(attempt["task"])
    return "restart" in attempt and not attempt["told"] and bool(task and attempt["restart"] < task["restart"])


def _successor(opened: OpenSubmission, attempt: dict[str, Any]) -> dict[str, Any] | None:
    """The attempt after an interrupted one; None if it was there already."""
    key = (attempt["run_id"], attempt["stage"], attempt["number"] + 1)
    if any((other["run_id"], other["stage"], other["number"]) == key for other in opened.attempts):
        return None
    opened.ledger.put_attempt(*key, token=attempt["token"], task=attempt["task"], status="submitted")
    successor = opened.ledger.attempt(*key)
    assert successor
    opened.attempts.append(successor)
    return successor


# -- a lost answer ----------------------------------------------------------------------------------------------------


def _settle_intent(opened: OpenSubmission, seen: SlurmAnswers) -> None:
    """A submission whose answer was never heard: find its job by the token, or prove that there is none."""
    answer = _whole(opened.directory.answer, AnswerFile, []) or {"state": "intended"}
    if answer["state"] != "intended":  # heard, and then whoever heard it was killed
        _conclude(opened, answer)
        return
    if not opened.directory.submission.exists():  # whoever intended it was stopped before it came to sbatch
        _conclude(opened, {"state": "void", "job_id": None})
        return
    found = _found(opened, seen)
    if found:
        _answer(opened, {"state": "submitted", "job_id": found})
        return
    absent = not opened.slurm or (seen.queue is not None and seen.history is not None)
    if not absent or _may_still_arrive(opened, answer):
        return
    # A job that arrives after all takes its pack before it reads this file, so one of the two sees the other.
    _answer(opened, {"state": "void", "job_id": None})
    opened.tasks = {index: task for index, task in _tasks(opened.directory) if task}
    if opened.tasks:
        opened.just_seen = True
        _answer(opened, {"state": "submitted", "job_id": _found(opened, seen)})


def _found(opened: OpenSubmission, seen: SlurmAnswers) -> str | None:
    """The id of the array with this name: in the files that a begun pack leaves, in the queue, in accounting."""
    ids = {task["job"].partition("_")[0] for task in opened.tasks.values()}
    for jobs in (seen.queue, seen.history):
        if not ids:
            ids = {job.key.partition("_")[0] for job in (jobs or {}).values() if job.name == opened.name}
    return min(ids, default=None)


def _may_still_arrive(opened: OpenSubmission, answer: AnswerFile) -> bool:
    """sbatch may still be trying, unless it has said itself that it never reached the controller."""
    if answer.get("reached") is False:
        return False
    return whole_files.age(opened.directory.submission) <= patience()


def _answer(opened: OpenSubmission, answer: AnswerFile) -> None:
    before = _whole(opened.directory.answer, AnswerFile, [])
    if before and before.get("cancelled"):
        answer = {**answer, "cancelled": True}
    whole_files.write_json(opened.directory.answer, answer)
    _conclude(opened, answer)


def _conclude(opened: OpenSubmission, answer: AnswerFile) -> None:
    opened.update(state=answer["state"], job_id=answer.get("job_id"))
    for attempt in opened.attempts:
        if answer["state"] in GIVEN_UP and attempt["status"] in LIVE:
            opened.put(attempt, status="void", job=None, progress=None)  # it will never run, and does not count
        elif answer["state"] == "submitted" and attempt["status"] == "void":
            opened.put(attempt, status="submitted")


# -- judgement --------------------------------------------------------------------------------------------------------


def _needs_history(opened: OpenSubmission, queue: Mapping[str, Job]) -> bool:
    """Whether accounting has something to say that the queue has not: on jobs that have left it or have ended, and on
    attempts that a requeue has cut short."""
    if opened.row["state"] == "intended":
        return True  # tasks of an array that the queue shows may have left it
    for attempt in opened.open_attempts:
        job = queue.get(opened.key(attempt["task"], queue))
        if job is None or job.state == "FAILED":  # which may be a kill for memory
            return True
        if _superseded(opened, attempt):
            return True
    return False


def _days(opened: Iterable[OpenSubmission]) -> int:
    """How far back accounting is asked, for the oldest of these."""
    now = datetime.now().astimezone()
    ages = []
    for each in opened:
        created = datetime.fromisoformat(each.row["created"])
        ages.append((now - (created if created.tzinfo else created.astimezone())).days)
    return max(0, *ages, 0) + 2


def _judge(opened: OpenSubmission, seen: SlurmAnswers) -> None:
    fates = {task: _fate(opened, task, seen) for task in {attempt["task"] for attempt in opened.open_attempts}}
    # What a job wrote between our reading its files and its end must be read before it is judged.
    if any(isinstance(fate, EndedJob) for fate in fates.values()):
        _read_files(opened)
    statuses = _statuses(opened)
    first: set[str] = set()  # runs of which an open stage has been seen: it alone tells why they wait
    for attempt in opened.open_attempts:
        if _superseded(opened, attempt):
            _settle(opened, attempt, _interruption(opened, attempt, seen))
        else:
            fate = fates.get(attempt["task"])
            if isinstance(fate, LiveJob) and attempt["run_id"] in first:
                fate = LiveJob(fate.job)
            first.add(attempt["run_id"])
            _settle_by_pack(opened, attempt, fate, statuses)
    _close_if_done(opened)


def _close_if_done(opened: OpenSubmission) -> None:
    if opened.row["state"] == "submitted" and not opened.open_attempts:
        opened.update(state="done")


def _statuses(opened: OpenSubmission) -> dict[tuple[str, str], str]:
    """(run id, stage) -> status of the newest attempt of this submission."""
    ordered = sorted(opened.attempts, key=lambda attempt: attempt["number"])
    return {(attempt["run_id"], attempt["stage"]): attempt["status"] for attempt in ordered}


def _settle_by_pack(
    opened: OpenSubmission, attempt: dict[str, Any], fate: Fate, statuses: dict[tuple[str, str], str]
) -> None:
    needs = [statuses.get((attempt["run_id"], need)) for need in STAGES[attempt["stage"]].needs]
    out_of_turn = any(need in FRUITLESS for need in needs)
    died = (
        isinstance(fate, EndedJob)
        and fate.cause == "lost"
        and any(status == "failed" for (run_id, _), status in statuses.items() if run_id == attempt["run_id"])
    )  # the run's process, in an earlier stage
    if attempt["status"] == "submitted" and died and not out_of_turn:
        directory = opened.root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"])
        verdict: Verdict = {"status": "void", "message": "its run had ended before its turn"}
        whole_files.write_json(directory.verdict, verdict)
        opened.put(attempt, **_said(verdict), job=None)
        statuses[attempt["run_id"], attempt["stage"]] = "void"
    elif attempt["status"] == "submitted" and out_of_turn:
        opened.put(attempt, status="void", job=None, progress=None)  # its turn will not come in this pack
        statuses[attempt["run_id"], attempt["stage"]] = "void"
    elif isinstance(fate, LiveJob):
        progress = json.dumps({"reason": fate.reason}) if fate.reason else attempt["progress"]
        opened.put(attempt, job=attempt["job"] or fate.job, progress=progress)
    elif isinstance(fate, EndedJob):
        _settle(opened, attempt, fate)
        statuses[attempt["run_id"], attempt["stage"]] = attempt["status"]


def _settle(opened: OpenSubmission, attempt: dict[str, Any], fate: Fate) -> None:
    if not isinstance(fate, EndedJob):
        return
    directory = opened.root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"])
    spoilt: list[str] = []
    _whole(directory.result, ResultFile, spoilt)
    torn = "".join(f"; its result.json is there but {text.partition(': ')[2]}" for text in spoilt)
    verdict = {
        "status": "failed",
        "cause": fate.cause,
        "message": fate.message + torn,
        "ended": _last_life(directory, attempt),
        "job": attempt["job"],
        "host": attempt["host"] or fate.node,
    }
    whole_files.write_json(directory.verdict, verdict)
    opened.put(attempt, **verdict, progress=None)


def _last_life(directory: AttemptDir, attempt: dict[str, Any]) -> float:
    """When it was last known to be at work: long before now, where nobody has looked since. Now, if it never began."""
    if attempt["started"] is None:
        return time.time()
    beat = _whole(directory.heartbeat, Heartbeat, [])
    return float(max(attempt["started"], beat["time"] if beat else 0.0))


def _interruption(opened: OpenSubmission, attempt: dict[str, Any], seen: SlurmAnswers) -> Fate:
    """Why a job was requeued while it worked on this attempt."""
    task, restart = opened.tasks[attempt["task"]], attempt.get("restart", 0)
    lives: list[Life] = [*task.get("earlier", []), task]
    marked = next((life.get("ended_by") for life in lives if life["restart"] == restart), None)
    if marked:
        return EndedJob(marked, "out of time; requeued, and the next attempt goes on from its checkpoint")
    if seen.queue is None or seen.history is None:
        return None
    job = seen.history.get(task["job"])
    lives_seen = [*job.earlier, job] if job else []
    life = lives_seen[restart] if restart < len(lives_seen) else None
    cause = life.cause if life and life.cause in ("node_fail", "timeout") else "preempted"
    why = f" ({life.state} on {life.node})" if life else ""
    return EndedJob(cause, f"requeued by SLURM{why}; the next attempt goes on", life.node if life else None)


def _fate(opened: OpenSubmission, task: int, seen: SlurmAnswers) -> Fate:
    return _slurm_fate(opened, task, seen) if opened.slurm else _local_fate(opened, task)


def _slurm_fate(opened: OpenSubmission, task: int, seen: SlurmAnswers) -> Fate:
    if seen.queue is None or opened.just_seen or opened.row["state"] != "submitted":
        return None
    key = opened.key(task, seen.queue)
    job = seen.queue.get(key)
    if job and job.live:
        return LiveJob(key, job.reason if job.state == "PENDING" else "")
    if seen.history is None:  # only accounting tells FAILED from a kill for memory, or why it left
        return _ended(opened, task, key, job) if job and job.state != "FAILED" else None
    known = seen.history.get(opened.key(task, seen.history))
    if known and not known.live:
        return _ended(opened, task, key, known)
    if job:
        return _ended(opened, task, key, job)
    # squeue lists all that lives. But a controller that lost its state has forgotten jobs that still run, and
    # accounting may lag behind.
    sign = _last_sign(opened, task)
    if sign <= FRESH or (known and sign <= STALE_ACCOUNTING):
        return None
    return EndedJob("lost", f"SLURM no longer knows job {key}, and it left no result")


def _last_sign(opened: OpenSubmission, task: int) -> float:
    """Seconds since the pack's runs last wrote a heartbeat, by the file system's clock; very many if they never did."""
    beats = [
        opened.root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"]).heartbeat
        for attempt in opened.open_attempts
        if attempt["task"] == task and attempt["status"] == "running"
    ]
    return min((whole_files.age(beat) for beat in beats if beat.exists()), default=float("inf"))


def _ended(opened: OpenSubmission, task: int, key: str, job: Job) -> EndedJob:
    exit_code = f", exit code {job.exit_code}" if job.exit_code else ""
    life = opened.tasks.get(task)
    began = life is not None and len(job.earlier) <= life["restart"]
    marked = life and life.get("ended_by")
    if marked and began and job.cause != "cancelled":  # it was to be requeued, and was not
        return EndedJob(marked, f"out of time, and job {key} could not be requeued: it ended as {job.state}{exit_code}")
    answer = _whole(opened.directory.answer, AnswerFile, [])
    if job.cause == "lost" and answer and answer.get("cancelled"):
        return EndedJob("cancelled", f"job {key} was cancelled before it was known")
    peak = f", {job.memory:,.0f} of {job.asked:,.0f} MB" if job.cause == "out_of_memory" and job.memory else ""
    if not began and job.cause in ("error", "lost"):
        where = f"slurm_logs/{opened.row['token']}"
        message = f"job {key} ended as {job.state}{exit_code} before its pack began; see {where}"
        return EndedJob("launch_failed", message, job.node or None)
    on = job.node or "no node"
    message = f"job {key} ended as {job.state}{exit_code}{peak} on {on} without a result"
    return EndedJob(job.cause, message, job.node or None)


def _local_fate(opened: OpenSubmission, task: int) -> Fate:
    """The pack's own process; before it has announced itself, the controller that starts it."""
    answer = _whole(opened.directory.answer, AnswerFile, []) or {"state": "intended"}
    process: Process | None = opened.tasks.get(task) or answer.get("process")
    alive = processes.is_alive(process) if process else None
    if process is None or alive is None:
        return None
    if alive:
        return LiveJob(f"local-{process['pid']}")
    if answer.get("cancelled"):
        return EndedJob("cancelled", f"process {process['pid']} was cancelled")
    return EndedJob("lost", f"process {process['pid']} on {process['host']} ended without a result")
