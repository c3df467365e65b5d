"""Result files + what SLURM says -> ledger. Idempotent.

Files are the truth: a stage has succeeded when its result.json says so, whatever SLURM says; what SLURM says only
explains a result that is missing. An attempt is judged when its job is seen to have ended, or is absent from an
answer; a query that failed changes nothing. A judgement without a result is written beside the attempt as
verdict.json, so that the ledger can be made again from files alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cluster import rundir
from cluster.ledger import Ledger
from cluster.plan import Run
from cluster.rundir import AttemptDir, OutputRoot, SubmissionDir, TornFile
from cluster.slurm import Job
from tiny_transformers.config import NEEDS, RunConfig

# sbatch tries for two minutes by itself, so a younger submission may still reach the controller.
SBATCH_PATIENCE = 180  # seconds

Answer = Literal["answered", "unreachable", "none"]


class Queries(Protocol):
    """What reconciling asks of SLURM; `slurm.Slurm`, or a fake."""

    def queue(self) -> dict[str, Job] | None: ...
    def history(self, job_ids: Iterable[str]) -> dict[str, Job] | None: ...
    def history_named(self, name: str) -> dict[str, Job] | None: ...


@dataclass(frozen=True)
class Ended:
    """A pack's job is over; `cause` explains every result that it did not leave."""

    cause: str
    message: str


@dataclass(frozen=True)
class Alive:
    job: str
    progress: str = ""  # SLURM's reason while pending


Fate = Ended | Alive | None  # None: unknown, so nothing is changed


def job_name(token: str) -> str:
    return f"tt-{token}"


def reconcile(ledger: Ledger, root: OutputRoot, slurm: Queries) -> Answer:
    """Bring the ledger up to date with the files and with SLURM; asks SLURM only if something of its is open, and
    then once for the queue and at most once for what has left it. The caller holds the lock."""
    with ledger.transaction():
        for submission in ledger.open_submissions():
            _read_files(ledger, root, submission["token"])
    open_slurm = [row for row in ledger.open_submissions() if row["scheduler"] == "slurm"]
    queue = slurm.queue() if open_slurm else {}
    for row in ledger.open_submissions():
        if row["state"] == "intended":
            _adopt(ledger, root, row, queue, slurm)
    history = _history(ledger, queue, slurm)
    with ledger.transaction():
        for submission in ledger.open_submissions():
            _judge(ledger, root, submission, queue, history)
    if not open_slurm:
        return "none"
    return "unreachable" if queue is None or history is None else "answered"


def rebuild(ledger: Ledger, root: OutputRoot) -> list[str]:
    """Fill an empty ledger from the files. Returns what could not be read."""
    torn: list[str] = []
    with ledger.transaction():
        runs = [value for value in (_whole(run.run_json, torn) for run in root.runs()) if value]
        for value in sorted(runs, key=lambda value: (value["created"], value["order"])):
            config = RunConfig.model_validate(value["config"])
            run = Run(value["run_id"], value["name"], config, tuple(value["stages"]), tuple(value["studies"]))
            ledger.record_runs([run], value["created"])
        found = [(directory, _whole(directory.submission, torn)) for directory in root.submissions()]
        known = {value["run_id"] for value in runs}
        for directory, value in sorted(found, key=lambda pair: pair[1]["created"] if pair[1] else ""):
            if value:
                packs = [[item for item in pack if item["run_id"] in known] for pack in value["packs"]]
                record_intent(ledger, directory, value | {"packs": packs})
        for directory, _ in found:
            _read_files(ledger, root, directory.token)
        for submission in ledger.open_submissions():
            _judge(ledger, root, submission, None, None)
    return torn


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


def _whole(path: Any, torn: list[str]) -> Any | None:
    try:
        return rundir.read_json(path)
    except TornFile as error:
        torn.append(str(error))
        return None


# -- files ------------------------------------------------------------------------------------------------------------


def _read_files(ledger: Ledger, root: OutputRoot, token: str) -> None:
    """Results, claims and heartbeats of everything of this submission that is still open."""
    for attempt in ledger.open_attempts(token):
        run = root.run(attempt["run_id"])
        # A job that SLURM requeued goes on under the next number, so later ones than were planned may be there.
        for directory in run.attempts(attempt["stage"]):
            if directory.number >= attempt["number"]:
                _read_attempt(ledger, directory, attempt)


def _read_attempt(ledger: Ledger, directory: AttemptDir, planned: dict[str, Any]) -> None:
    torn: list[str] = []
    claim = _whole(directory.claim, torn) or {}
    if claim.get("token", planned["token"]) != planned["token"]:
        return
    result, verdict = _whole(directory.result, torn), _whole(directory.verdict, torn)
    values: dict[str, Any] = {
        "token": planned["token"],
        "task": planned["task"],
        "job": claim.get("job"),
        "host": claim.get("host"),
        "started": claim.get("time"),
    }
    if result:
        values |= {key: result.get(key) for key in ("status", "cause", "message", "ended")}
    elif verdict:
        values |= {key: verdict.get(key) for key in ("status", "cause", "message", "ended")}
        values["job"] = values["job"] or verdict.get("job")
    elif claim or torn:
        beat = _whole(directory.heartbeat, torn) or {}
        values |= {"status": "running", "progress": json.dumps(beat) if beat else None}
    else:
        return
    key = (planned["run_id"], planned["stage"], directory.number)
    ledger.put_attempt(*key, **values)
    if result:
        ledger.put_outcome(*key, result.get("outcome") or {})


# -- SLURM ------------------------------------------------------------------------------------------------------------


def _adopt(ledger: Ledger, root: OutputRoot, row: dict[str, Any], queue: dict[str, Job] | None, slurm: Queries) -> None:
    """A submission whose answer was never heard: find its job by the token, or prove that there is none."""
    directory = root.submission(row["token"])
    found = {task["job"].partition("_")[0] for task in _tasks(directory)}
    absent = row["scheduler"] == "local"
    if row["scheduler"] == "slurm" and not found:
        if queue is None:
            return
        name = job_name(row["token"])
        seen = [job for job in queue.values() if job.name == name]
        if not seen:
            history = slurm.history_named(name)
            absent = history is not None
            seen = list((history or {}).values())
        found = {job.key.partition("_")[0] for job in seen}
    if found:
        answer = {"state": "submitted", "job_id": min(found)}
    elif absent and time.time() - directory.submission.stat().st_mtime > SBATCH_PATIENCE:
        answer = {"state": "void", "job_id": None}
    else:
        return
    rundir.write_json(directory.answer, answer)
    with ledger.transaction():
        ledger.update_submission(row["token"], **answer)
        if answer["state"] == "void":
            release(ledger, row["token"])


def release(ledger: Ledger, token: str) -> None:
    """Nothing of this submission will ever run: its attempts do not count."""
    for attempt in ledger.open_attempts(token):
        ledger.put_attempt(attempt["run_id"], attempt["stage"], attempt["number"], status="void")


def _tasks(directory: SubmissionDir) -> list[dict[str, Any]]:
    tasks = (_whole(path, []) for path in directory.path.glob("task-*.json"))
    return [task for task in tasks if task]


def _history(ledger: Ledger, queue: dict[str, Job] | None, slurm: Queries) -> dict[str, Job] | None:
    """Accounting's word on the open jobs that have left the queue; asked once, and only if there are any."""
    if queue is None:
        return None
    gone = {
        row["job_id"]
        for row in ledger.open_submissions()
        if row["scheduler"] == "slurm" and row["state"] == "submitted"
        for attempt in ledger.open_attempts(row["token"])
        if _key(row, attempt["task"], queue) not in queue
    }
    return slurm.history(sorted(gone)) if gone else {}


def _key(submission: dict[str, Any], task: int, jobs: dict[str, Job]) -> str:
    """submitit makes a plain job of an array of one."""
    key = f"{submission['job_id']}_{task}"
    return submission["job_id"] if key not in jobs and submission["job_id"] in jobs else key


# -- judgement --------------------------------------------------------------------------------------------------------


def _judge(
    ledger: Ledger,
    root: OutputRoot,
    submission: dict[str, Any],
    queue: dict[str, Job] | None,
    history: dict[str, Job] | None,
) -> None:
    token = submission["token"]
    directory = root.submission(token)
    fates: dict[int, Fate] = {}
    for attempt in ledger.open_attempts(token):
        task = attempt["task"]
        if task not in fates:
            if submission["scheduler"] == "slurm":
                fates[task] = _slurm_fate(submission, task, queue, history)
            else:
                fates[task] = _local_fate(directory, task)
    # What a job wrote between our reading its files and its end must be read before it is judged.
    if any(isinstance(fate, Ended) for fate in fates.values()):
        _read_files(ledger, root, token)
    for attempt in ledger.open_attempts(token):
        _settle(ledger, root, attempt, fates.get(attempt["task"]))
    if submission["state"] != "intended" and not ledger.open_attempts(token):
        ledger.update_submission(token, state="done")


def _settle(ledger: Ledger, root: OutputRoot, attempt: dict[str, Any], fate: Fate) -> None:
    key = (attempt["run_id"], attempt["stage"], attempt["number"])
    if _need_failed(ledger, attempt) and attempt["status"] == "submitted":
        ledger.put_attempt(*key, status="void")  # its turn will not come in this pack
    elif isinstance(fate, Alive):
        progress = json.dumps({"reason": fate.progress}) if fate.progress else attempt["progress"]
        ledger.put_attempt(*key, job=attempt["job"] or fate.job, progress=progress)
    elif isinstance(fate, Ended):
        directory = root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"])
        torn = "; its result.json is there but not whole" if directory.result.exists() else ""
        verdict = {
            "status": "failed",
            "cause": fate.cause,
            "message": fate.message + torn,
            "ended": time.time(),
            "job": attempt["job"],
        }
        rundir.write_json(directory.verdict, verdict)
        ledger.put_attempt(*key, **verdict)


def _need_failed(ledger: Ledger, attempt: dict[str, Any]) -> bool:
    rows = {row["stage"]: row for row in ledger.attempts_of(attempt["run_id"], attempt["token"])}
    return any(rows[need]["status"] in ("failed", "void") for need in NEEDS[attempt["stage"]] if need in rows)


def _slurm_fate(
    submission: dict[str, Any], task: int, queue: dict[str, Job] | None, history: dict[str, Job] | None
) -> Fate:
    if queue is None or submission["state"] != "submitted":
        return None
    key = _key(submission, task, queue)
    job = queue.get(key)
    if job is None:
        if history is None:
            return None
        key = _key(submission, task, history)
        job = history.get(key)
    if job is None:
        return Ended("lost", f"SLURM no longer knows job {key}, and it left no result")
    if job.live:
        return Alive(key, job.reason if job.state == "PENDING" else "")
    exit_code = f", exit code {job.exit_code}" if job.exit_code else ""
    return Ended(job.cause, f"job {key} ended as {job.state}{exit_code} on {job.node or 'no node'} without a result")


def _local_fate(directory: SubmissionDir, task: int) -> Fate:
    """The pack's own process; before it has announced itself, the controller that starts it."""
    process = _whole(directory.task(task), []) or (_whole(directory.answer, []) or {}).get("process")
    alive = rundir.is_alive(process) if process else None
    if process is None or alive is None:
        return None
    if alive:
        return Alive(f"local-{process['pid']}")
    cancelled = (_whole(directory.answer, []) or {}).get("cancelled")
    if cancelled:
        return Ended("cancelled", f"process {process['pid']} was cancelled")
    return Ended("lost", f"process {process['pid']} on {process['host']} ended without a result")
