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
from typing import Any, Literal, Protocol

from cluster import rundir
from cluster.ledger import Ledger
from cluster.plan import Run
from cluster.rundir import AttemptDir, OutputRoot, SubmissionDir, TornFile
from cluster.slurm import Job
from tiny_transformers.config import NEEDS, RunConfig

# sbatch tries for two minutes by itself, so a younger submission may still reach the controller.
PATIENCE = "TINY_TRANSFORMERS_SBATCH_PATIENCE"  # seconds; for sites whose sbatch gives up sooner or later
SBATCH_PATIENCE = 200.0
FRESH = 30.0  # seconds; a heartbeat comes every 10, so whoever wrote a younger one is alive, whatever SLURM knows
STALE_ACCOUNTING = 600.0  # seconds that sacct may call a job alive which squeue does not know

# partial: squeue answered, sacct did not
Answer = Literal["answered", "partial", "unreachable", "none"]


class Queries(Protocol):
    """What reconciling asks of SLURM; `slurm.Slurm`, or a fake."""

    def queue(self) -> dict[str, Job] | None: ...
    def history(self, names: Iterable[str], days: int) -> dict[str, Job] | None: ...


@dataclass(frozen=True)
class Ended:
    """A pack's job is over; `cause` explains every result that it did not leave."""

    cause: str
    message: str
    node: str | None = None


@dataclass(frozen=True)
class Alive:
    job: str
    reason: str = ""  # SLURM's, while pending


Fate = Ended | Alive | None  # None: unknown, so nothing is changed


@dataclass(frozen=True)
class Seen:
    """What SLURM showed of this user's jobs, by key; None: no answer, or not asked."""

    queue: Mapping[str, Job] | None
    history: Mapping[str, Job] | None


class Open:
    """A submission of which something may still happen: its row, its attempts, and the tasks that have begun."""

    def __init__(self, ledger: Ledger, root: OutputRoot, row: dict[str, Any]) -> None:
        self.ledger, self.root, self.row = ledger, root, row
        self.directory = root.submission(row["token"])
        self.attempts = ledger.attempts_in(row["token"])
        self.tasks: dict[int, dict[str, Any]] = {}
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
        return [attempt for attempt in self.attempts if attempt["status"] in ("submitted", "running")]

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


def job_name(token: str) -> str:
    return f"tt-{token}"


def patience() -> float:
    """Seconds after which an unanswered sbatch has surely given up."""
    return float(os.environ.get(PATIENCE, SBATCH_PATIENCE))


def reconcile(ledger: Ledger, root: OutputRoot, slurm: Queries) -> Answer:
    """Bring the ledger up to date with the files and with SLURM; asks SLURM only if something of its is open, and
    then once for the queue and at most once for what has left it. The caller holds the lock."""
    with ledger.transaction():
        _take_in(ledger, root)
        opened = [Open(ledger, root, row) for row in ledger.open_submissions()]
        for each in opened:
            _read_files(each)
            _close_if_done(each)
    asked = [each for each in opened if each.slurm and each.row["state"] in ("intended", "submitted")]
    queue = slurm.queue() if asked else None
    doubtful = [each for each in asked if queue is not None and _needs_history(each, queue)]
    history = slurm.history([each.name for each in doubtful], _days(doubtful)) if doubtful else {}
    seen = Seen(queue, history)
    with ledger.transaction():
        for each in opened:
            if each.row["state"] == "intended":
                _settle_intent(each, seen)
            if each.row["state"] in ("intended", "submitted"):
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
        runs = [value for value in (_whole(run.run_json, torn) for run in root.runs()) if value]
        for run in sorted(runs, key=lambda run: (run["created"], run["order"])):
            _record_run(ledger, run)
        _take_in(ledger, root, torn)
        for row in ledger.open_submissions():
            each = Open(ledger, root, row)
            _read_files(each, begun_only=False)  # one that never began may have a verdict
            if each.row["state"] == "submitted":
                _judge(each, Seen(None, None))
            torn += each.torn
        for directory in root.decisions():
            decision = _whole(directory.decision, torn)
            if decision:
                ledger.put_decision(decision)
    return list(dict.fromkeys(torn))


def late_results(ledger: Ledger, root: OutputRoot) -> None:
    """A job that was judged and then wrote its results after all has done its work: whatever was guessed, they say so.
    Asked before anything is done again."""
    with ledger.transaction():
        for failed in ledger.newest_attempts("failed"):
            for attempt in ledger.attempts_in(failed["token"]):
                if attempt["run_id"] == failed["run_id"] and attempt["status"] in ("failed", "void"):
                    _take_late(ledger, root, attempt)


def _take_late(ledger: Ledger, root: OutputRoot, attempt: dict[str, Any]) -> None:
    key = (attempt["run_id"], attempt["stage"], attempt["number"])
    directory = root.run(key[0]).attempt(*key[1:])
    result, claim = _whole(directory.result, []), _whole(directory.claim, []) or {}
    if result and result["status"] == "completed" and claim.get("token") == attempt["token"]:
        values: dict[str, Any] = {"job": claim.get("job"), "host": claim.get("host"), "started": claim.get("time")}
        values |= _said(result) | _provenance(ledger, claim)
        ledger.put_attempt(*key, **values)
        ledger.put_outcome(*key, result.get("outcome") or {})
        ledger.sum_hours(attempt["token"])


def _record_run(ledger: Ledger, value: dict[str, Any]) -> None:
    config = RunConfig.model_validate(value["config"])
    run = Run(value["run_id"], value["name"], config, tuple(value["stages"]), tuple(value["studies"]))
    ledger.record_runs([run], value["created"])


def _take_in(ledger: Ledger, root: OutputRoot, torn: list[str] | None = None) -> None:
    """What is on disk and not in the ledger: whoever wrote it was killed before it came to that."""
    torn = [] if torn is None else torn
    known_studies = {row["name"]: row for row in ledger.studies()}
    for study in filter(None, (_whole(path, torn) for path in root.studies())):
        if known_studies.get(study["name"]) != study:
            ledger.put_study(**study)
    new = [root.submission(token) for token in sorted(root.tokens() - ledger.tokens())]
    intents = [(directory, _whole(directory.submission, torn)) for directory in new]
    if not intents:
        return
    known = set(ledger.known_runs())
    for directory, value in sorted(intents, key=lambda pair: pair[1]["created"] if pair[1] else ""):
        if value:
            new_ids = {item["run_id"] for pack in value["packs"] for item in pack} - known
            described = [run for run_id in new_ids if (run := _whole(root.run(run_id).run_json, torn))]
            for run in sorted(described, key=lambda run: (run["created"], run["order"])):
                _record_run(ledger, run)
                known.add(run["run_id"])
            packs = [[item for item in pack if item["run_id"] in known] for pack in value["packs"]]
            record_intent(ledger, directory, value | {"packs": packs})


def record_intent(ledger: Ledger, directory: SubmissionDir, value: dict[str, Any]) -> None:
    """A submission file, and what came of it, as rows."""
    answer = _whole(directory.answer, []) or {}
    row = {
        "token": directory.token,
        "created": value["created"],
        "scheduler": value["site"]["scheduler"],
        "site": value["site"]["name"],
        "state": answer.get("state", "intended"),
        "job_id": answer.get("job_id"),
        "data_root": value["data_root"],
        "asked_by": value.get("asked_by", "submit"),
        **_planned(value),
    }
    attempts = [
        {"run_id": item["run_id"], "stage": stage, "number": number, "task": index}
        for index, pack in enumerate(value["packs"])
        for item in pack
        for stage, number in item["stages"]
    ]
    if row["state"] in ("refused", "void"):
        attempts = [attempt | {"status": "void"} for attempt in attempts]
    ledger.record_submission(row, attempts)


def _planned(value: dict[str, Any]) -> dict[str, Any]:
    """What was asked for and estimated, as columns; None where an older file does not say."""
    asked = {key: value["site"].get(key) for key in ("gpus", "cpus", "memory_per_cpu")}
    return asked | {key: value.get(key) for key in ("slots", "cpus", "minutes", "memory", "seconds")}


def _whole(path: Any, torn: list[str]) -> Any | None:
    try:
        return rundir.read_json(path)
    except TornFile as error:
        torn.append(str(error))
        return None


# -- files ------------------------------------------------------------------------------------------------------------


def _read_files(opened: Open, begun_only: bool = True) -> None:
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


def _tasks(directory: SubmissionDir) -> list[tuple[int, dict[str, Any] | None]]:
    return [(index, _whole(directory.task(index), [])) for index in directory.tasks()]


def _read_attempt(opened: Open, attempt: dict[str, Any]) -> None:
    directory = opened.root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"])
    torn = opened.torn
    before = len(torn)
    claim = _whole(directory.claim, torn)
    if claim is None and len(torn) == before:  # a verdict may be there without a claim
        verdict = _whole(directory.verdict, torn)
        if verdict:
            known = {name: attempt[name] or verdict.get(name) for name in ("job", "host")}
            opened.put(attempt, **_said(verdict), **known)
        return
    claim = claim or {}
    if claim.get("token", attempt["token"]) != attempt["token"]:
        return
    spoilt: list[str] = []
    result = _whole(directory.result, spoilt)
    told = result or _whole(directory.verdict, torn)
    torn += [] if told else spoilt  # a verdict has said so already
    values: dict[str, Any] = {"job": claim.get("job"), "host": claim.get("host"), "started": claim.get("time")}
    values |= _provenance(opened.ledger, claim)
    if told:
        values |= _said(told)
    else:
        beat = _whole(directory.heartbeat, torn) or {}
        values |= {"status": "running", "progress": json.dumps(beat) if beat else None}
    opened.put(attempt, **values)
    attempt["restart"], attempt["told"] = claim.get("restart", 0), bool(result)
    if result:
        opened.ledger.put_outcome(attempt["run_id"], attempt["stage"], attempt["number"], result.get("outcome") or {})


def _said(told: dict[str, Any]) -> dict[str, Any]:
    return {key: told.get(key) for key in ("status", "cause", "message", "ended")} | {"progress": None}


def _provenance(ledger: Ledger, claim: dict[str, Any]) -> dict[str, Any]:
    code, environment = claim.get("code") or {}, claim.get("environment")
    if environment is None:
        return {"code": code.get("digest")}
    text = json.dumps(environment | {"commit": code.get("commit"), "diff": code.get("diff")}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    ledger.put_environment(key, text)
    return {"code": code.get("digest"), "environment": key}


def _superseded(opened: Open, attempt: dict[str, Any]) -> bool:
    """Whether the job was requeued after this attempt began: it goes on under the next number."""
    task = opened.tasks.get(attempt["task"], {})
    return "restart" in attempt and not attempt["told"] and bool(attempt["restart"] < task.get("restart", 0))


def _successor(opened: Open, attempt: dict[str, Any]) -> dict[str, Any] | None:
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


def _settle_intent(opened: Open, seen: Seen) -> None:
    """A submission whose answer was never heard: find its job by the token, or prove that there is none."""
    answer = _whole(opened.directory.answer, []) or {}
    if answer.get("state", "intended") != "intended":  # heard, and then whoever heard it was killed
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


def _found(opened: Open, seen: Seen) -> str | None:
    """The id of the array with this name: in the files that a begun pack leaves, in the queue, in accounting."""
    ids = {task["job"].partition("_")[0] for task in opened.tasks.values()}
    for jobs in (seen.queue, seen.history):
        if not ids:
            ids = {job.key.partition("_")[0] for job in (jobs or {}).values() if job.name == opened.name}
    return min(ids, default=None)


def _may_still_arrive(opened: Open, answer: dict[str, Any]) -> bool:
    """sbatch may still be trying, unless it has said itself that it never reached the controller."""
    if answer.get("reached") is False:
        return False
    return rundir.age(opened.directory.submission) <= patience()


def _answer(opened: Open, answer: dict[str, Any]) -> None:
    if (_whole(opened.directory.answer, []) or {}).get("cancelled"):
        answer = answer | {"cancelled": True}
    rundir.write_json(opened.directory.answer, answer)
    _conclude(opened, answer)


def _conclude(opened: Open, answer: dict[str, Any]) -> None:
    opened.update(state=answer["state"], job_id=answer["job_id"])
    for attempt in opened.attempts:
        if answer["state"] in ("refused", "void") and attempt["status"] in ("submitted", "running"):
            opened.put(attempt, status="void", job=None, progress=None)  # it will never run, and does not count
        elif answer["state"] == "submitted" and attempt["status"] == "void":
            opened.put(attempt, status="submitted")


# -- judgement --------------------------------------------------------------------------------------------------------


def _needs_history(opened: Open, queue: Mapping[str, Job]) -> bool:
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


def _days(opened: Iterable[Open]) -> int:
    """How far back accounting is asked, for the oldest of these."""
    now = datetime.now().astimezone()
    ages = []
    for each in opened:
        created = datetime.fromisoformat(each.row["created"])
        ages.append((now - (created if created.tzinfo else created.astimezone())).days)
    return max(0, *ages, 0) + 2


def _judge(opened: Open, seen: Seen) -> None:
    fates = {task: _fate(opened, task, seen) for task in {attempt["task"] for attempt in opened.open_attempts}}
    # What a job wrote between our reading its files and its end must be read before it is judged.
    if any(isinstance(fate, Ended) for fate in fates.values()):
        _read_files(opened)
    statuses = _statuses(opened)
    first: set[str] = set()  # runs of which an open stage has been seen: it alone tells why they wait
    for attempt in opened.open_attempts:
        if _superseded(opened, attempt):
            _settle(opened, attempt, _interruption(opened, attempt, seen))
        else:
            fate = fates.get(attempt["task"])
            if isinstance(fate, Alive) and attempt["run_id"] in first:
                fate = Alive(fate.job)
            first.add(attempt["run_id"])
            _settle_by_pack(opened, attempt, fate, statuses)
    _close_if_done(opened)


def _close_if_done(opened: Open) -> None:
    if opened.row["state"] == "submitted" and not opened.open_attempts:
        opened.update(state="done")


def _statuses(opened: Open) -> dict[tuple[str, str], str]:
    """(run id, stage) -> status of the newest attempt of this submission."""
    ordered = sorted(opened.attempts, key=lambda attempt: attempt["number"])
    return {(attempt["run_id"], attempt["stage"]): attempt["status"] for attempt in ordered}


def _settle_by_pack(opened: Open, attempt: dict[str, Any], fate: Fate, statuses: dict[tuple[str, str], str]) -> None:
    needs = [statuses.get((attempt["run_id"], need)) for need in NEEDS[attempt["stage"]]]
    out_of_turn = any(need in ("failed", "void") for need in needs)
    died = (
        isinstance(fate, Ended)
        and fate.cause == "lost"
        and any(status == "failed" for (run_id, _), status in statuses.items() if run_id == attempt["run_id"])
    )  # the run's process, in an earlier stage
    if attempt["status"] == "submitted" and died and not out_of_turn:
        directory = opened.root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"])
        verdict = {"status": "void", "message": "its run had ended before its turn"}
        rundir.write_json(directory.verdict, verdict)
        opened.put(attempt, **_said(verdict), job=None)
        statuses[attempt["run_id"], attempt["stage"]] = "void"
    elif attempt["status"] == "submitted" and out_of_turn:
        opened.put(attempt, status="void", job=None, progress=None)  # its turn will not come in this pack
        statuses[attempt["run_id"], attempt["stage"]] = "void"
    elif isinstance(fate, Alive):
        progress = json.dumps({"reason": fate.reason}) if fate.reason else attempt["progress"]
        opened.put(attempt, job=attempt["job"] or fate.job, progress=progress)
    elif isinstance(fate, Ended):
        _settle(opened, attempt, fate)
        statuses[attempt["run_id"], attempt["stage"]] = attempt["status"]


def _settle(opened: Open, attempt: dict[str, Any], fate: Fate) -> None:
    if not isinstance(fate, Ended):
        return
    directory = opened.root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"])
    torn = "; its result.json is there but not whole" if directory.result.exists() else ""
    verdict = {
        "status": "failed",
        "cause": fate.cause,
        "message": fate.message + torn,
        "ended": _last_life(directory, attempt),
        "job": attempt["job"],
        "host": attempt["host"] or fate.node,
    }
    rundir.write_json(directory.verdict, verdict)
    opened.put(attempt, **verdict, progress=None)


def _last_life(directory: AttemptDir, attempt: dict[str, Any]) -> float:
    """When it was last known to be at work: long before now, where nobody has looked since. Now, if it never began."""
    if attempt["started"] is None:
        return time.time()
    beat = _whole(directory.heartbeat, []) or {}
    return float(max(attempt["started"], beat.get("time", 0.0)))


def _interruption(opened: Open, attempt: dict[str, Any], seen: Seen) -> Fate:
    """Why a job was requeued while it worked on this attempt."""
    task, restart = opened.tasks[attempt["task"]], attempt.get("restart", 0)
    lives = [*task.get("earlier", []), task]
    marked = next((life.get("ended_by") for life in lives if life.get("restart") == restart), None)
    if marked:
        return Ended(marked, "out of time; requeued, and the next attempt goes on from its checkpoint")
    if seen.queue is None or seen.history is None:
        return None
    job = seen.history.get(task["job"])
    lives_seen = [*job.earlier, job] if job else []
    life = lives_seen[restart] if restart < len(lives_seen) else None
    cause = life.cause if life and life.cause in ("node_fail", "timeout") else "preempted"
    why = f" ({life.state} on {life.node})" if life else ""
    return Ended(cause, f"requeued by SLURM{why}; the next attempt goes on", life.node if life else None)


def _fate(opened: Open, task: int, seen: Seen) -> Fate:
    return _slurm_fate(opened, task, seen) if opened.slurm else _local_fate(opened, task)


def _slurm_fate(opened: Open, task: int, seen: Seen) -> Fate:
    if seen.queue is None or opened.just_seen or opened.row["state"] != "submitted":
        return None
    key = opened.key(task, seen.queue)
    job = seen.queue.get(key)
    if job and job.live:
        return Alive(key, job.reason if job.state == "PENDING" else "")
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
    return Ended("lost", f"SLURM no longer knows job {key}, and it left no result")


def _last_sign(opened: Open, task: int) -> float:
    """Seconds since the pack's runs last wrote a heartbeat, by the file system's clock; very many if they never did."""
    beats = [
        opened.root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"]).heartbeat
        for attempt in opened.open_attempts
        if attempt["task"] == task and attempt["status"] == "running"
    ]
    return min((rundir.age(beat) for beat in beats if beat.exists()), default=float("inf"))


def _ended(opened: Open, task: int, key: str, job: Job) -> Ended:
    exit_code = f", exit code {job.exit_code}" if job.exit_code else ""
    began = task in opened.tasks and len(job.earlier) <= opened.tasks[task].get("restart", 0)
    marked = opened.tasks.get(task, {}).get("ended_by")
    if marked and began and job.cause != "cancelled":  # it was to be requeued, and was not
        return Ended(marked, f"out of time, and job {key} could not be requeued: it ended as {job.state}{exit_code}")
    if job.cause == "lost" and (_whole(opened.directory.answer, []) or {}).get("cancelled"):
        return Ended("cancelled", f"job {key} was cancelled before it was known")
    peak = f", {job.memory:,.0f} of {job.asked:,.0f} MB" if job.cause == "out_of_memory" and job.memory else ""
    if not began and job.cause in ("error", "lost"):
        where = f"slurm_logs/{opened.row['token']}"
        message = f"job {key} ended as {job.state}{exit_code} before its pack began; see {where}"
        return Ended("launch_failed", message, job.node or None)
    on = job.node or "no node"
    message = f"job {key} ended as {job.state}{exit_code}{peak} on {on} without a result"
    return Ended(job.cause, message, job.node or None)


def _local_fate(opened: Open, task: int) -> Fate:
    """The pack's own process; before it has announced itself, the controller that starts it."""
    answer = _whole(opened.directory.answer, []) or {}
    process = opened.tasks.get(task) or answer.get("process")
    alive = rundir.is_alive(process) if process else None
    if process is None or alive is None:
        return None
    if alive:
        return Alive(f"local-{process['pid']}")
    if answer.get("cancelled"):
        return Ended("cancelled", f"process {process['pid']} was cancelled")
    return Ended("lost", f"process {process['pid']} on {process['host']} ended without a result")
