"""Claims and results of attempts, as a pack and its children write them. No torch.

An attempt is claimed by creating its claim file exclusively, and is over when it has a result. One that a requeue
interrupts gets none from its job: the job's next life claims the next number, and the login node says why."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.files import documents, processes, whole_files
from cluster.files.causes import Cause
from cluster.files.documents import FRESH, Claim, Intent, PackedRun, ResultFile
from cluster.files.folders import AttemptDir, RunDir, SubmissionDir

T = TypeVar("T")
Wait = Callable[[float], bool]  # for some seconds; whether this process is to stop
STOPPED = 75  # a child's exit code, EX_TEMPFAIL: asked to stop, it left work without a result
TRIES = 3  # to write a result: a full disk may have room again in a moment
PAUSE = 1.0  # seconds between them
YIELD = 5.0  # seconds that a job has, at most, from its claim until it has seen that it must make way


@dataclass(frozen=True)
class ArrayTask:
    """One life of an array task, as its files name it."""

    job: str  # 123_4, 123, or local-4711
    restart: int  # how often SLURM has requeued it
    host: str
    pid: int
    start: str | None


def read_intent(directory: SubmissionDir) -> Intent:
    intent = documents.read(directory.submission, Intent)
    if intent is None:
        raise FileNotFoundError(f"{directory.submission}: is missing, so there is nothing to do")
    return intent


def this_task() -> ArrayTask:
    environment = os.environ
    if "SLURM_JOB_ID" in environment:
        array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{index}" if array else environment["SLURM_JOB_ID"]
        restart = int(environment.get("SLURM_RESTART_COUNT", "0"))
    else:
        # As the submission was told: submitit's controller has that number, and this process another.
        job, restart = f"local-{environment.get('SUBMITIT_LOCAL_JOB_ID', os.getpid())}", 0
    pid = os.getpid()
    # On the test cluster several nodes share a hostname; SLURM's own name for the node tells them apart.
    host = environment.get("SLURMD_NODENAME") or socket.gethostname()
    return ArrayTask(job, restart, host, pid, processes.process_start(pid))


def claim(
    run: RunDir,
    stage: str,
    number: int,
    submission_id: str,
    task: ArrayTask,
    made_with: Mapping[str, Any] | None = None,
    lives: Collection[int] = (),
    wait: Wait | None = None,
) -> AttemptDir | None:
    """The attempt that is this process's to do: the planned one, or the next, if an earlier life of the same job began
    it and was interrupted. None: another job has it, one of these earlier `lives` is at work at it unseen, or it has
    its result. `made_with`: code and environment."""
    if _given_away(run, stage, number, submission_id):
        say(f"{stage} of {run.path.name} was given to another job since")
        return None
    planned = number
    while True:
        attempt = run.attempt(stage, number)
        if whole_files.create_json(
            attempt.claim, {"submission_id": submission_id, **vars(task), "time": time.time(), **(made_with or {})}
        ):
            # One that began after it had been looked for.
            unseen = at_work(run, stage, 0, submission_id, task, lives) if lives else None
            if not unseen and _stands(run, stage, planned, submission_id, task):
                return attempt
            attempt.claim.unlink()
            if unseen and not at_work(run, stage, 0, submission_id, task, lives, wait):
                number = planned
                continue
            say(f"{stage} of {run.path.name} was begun by another job at this moment")
            return None
        if has_result(attempt):  # completed, or failed for good: not this job's to repeat
            return None
        holder = whole(attempt.claim, Claim)
        # A torn claim: the node died while it was written. Claims are exclusive, so the next number is safe.
        earlier = (
            holder["submission_id"] == submission_id and holder["restart"] < task.restart
            if holder
            else task.restart > 0
        )
        if not earlier:
            say(f"{stage} attempt {number} of {run.path.name} is another job's")
            return None
        number += 1


def _given_away(run: RunDir, stage: str, number: int, submission_id: str) -> bool:
    """Whether another submission has begun a later attempt of this stage."""
    later = [attempt for attempt in run.attempts(stage) if attempt.number > number]
    return any((holder := whole(each.claim, Claim)) and holder["submission_id"] != submission_id for each in later)


def _stands(run: RunDir, stage: str, number: int, submission_id: str, task: ArrayTask) -> bool:
    """Whether a claim that was made just now may stay. Each of two jobs claims first and then looks, so that one of
    them sees the other: a later attempt makes way for an earlier one, an earlier one for a later one that did not."""
    if at_work(run, stage, number, submission_id, task):
        return False
    deadline = time.monotonic() + YIELD
    while _given_away(run, stage, number, submission_id):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def at_work(
    run: RunDir,
    stage: str,
    number: int,
    submission_id: str,
    task: ArrayTask,
    lives: Collection[int] = (),
    wait: Wait | None = None,
) -> AttemptDir | None:
    """Return an attempt of this stage before `number` that still shows signs of life, whatever SLURM or the ledger
    believe of it: another submission's, or one of these earlier lives of this task. One that has fallen silent just now
    is waited for, if `wait` can, until that says to stop."""
    for attempt in run.attempts(stage):
        if not attempt.claim.exists() or has_result(attempt):
            continue
        holder = whole(attempt.claim, Claim)
        own = holder is not None and holder["submission_id"] == submission_id
        may_live = holder["restart"] in lives if own and holder else attempt.number < number
        if may_live and _is_alive(attempt, holder, task, wait):
            return attempt
    return None


def _is_alive(attempt: AttemptDir, holder: Claim | None, task: ArrayTask, wait: Wait | None) -> bool:
    if holder and holder["job"].startswith("local-") and holder["host"] == task.host:
        alive = processes.is_alive(holder)
        if alive is not None:  # else it is hidden from this user, and its files alone tell
            return alive
    signs: list[tuple[float, Path]] = []
    for path in (attempt.claim, attempt.heartbeat):
        with contextlib.suppress(FileNotFoundError):
            signs.append((path.stat().st_mtime, path))
    if not signs:  # its claim was withdrawn at this moment
        return False
    last, newest = max(signs)
    try:
        left = FRESH - whole_files.age(newest)
    except FileNotFoundError:
        return False
    deadline = time.monotonic() + left
    while (left := deadline - time.monotonic()) > 0:
        if wait is None or wait(min(1.0, left)):
            return True
        if has_result(attempt):
            return False
        if attempt.heartbeat.exists() and attempt.heartbeat.stat().st_mtime > last:
            return True
    return False


def done_before(run: RunDir, stage: str, number: int, item: PackedRun) -> AttemptDir | None:
    """Return the attempt that was begun last before `number`, if it has completed and whoever submitted this did not
    know: nobody asked for that work again."""
    known = item.get("done")
    begun = [each for each in run.attempts(stage) if each.number < number and each.claim.exists()]
    if known is None or not begun or begun[-1].number <= known.get(stage, 0):
        return None
    return begun[-1] if is_completed(begun[-1]) else None


def has_result(attempt: AttemptDir) -> bool:
    return whole(attempt.result, ResultFile) is not None


def completed(run: RunDir, stage: str) -> bool:
    return any(is_completed(attempt) for attempt in run.attempts(stage))


def is_completed(attempt: AttemptDir) -> bool:
    result = whole(attempt.result, ResultFile)
    return result is not None and result["status"] == "completed"


def has_turn(run: RunDir, stage: str) -> bool:
    """Whether all that a stage needs is completed: here, by an earlier job, or in another part of the pack. What was
    done again and failed is not, though it had completed before."""
    from tiny_transformers.settings.stages import STAGES  # pydantic, which a pack can mostly do without

    return all(newest_completed(run, need) for need in STAGES[stage].needs)


def newest_completed(run: RunDir, stage: str) -> bool:
    """Whether the newest of the attempts that began has completed."""
    newest = next((attempt for attempt in reversed(run.attempts(stage)) if attempt.claim.exists()), None)
    return newest is not None and is_completed(newest)


def claimed(run: RunDir, stage: str, submission_id: str, restart: int) -> Iterator[tuple[AttemptDir, Claim]]:
    """The attempts of this life of a task, with their claims."""
    for attempt in run.attempts(stage):
        holder = whole(attempt.claim, Claim)
        if holder and (holder["submission_id"], holder["restart"]) == (submission_id, restart):
            yield attempt, holder


def time_ran_out(
    run: RunDir,
    item: PackedRun,
    submission_id: str,
    task: ArrayTask,
    made_with: Mapping[str, Any],
    lives: Collection[int] = (),
) -> None:
    """Say `timeout` for what this task leaves of a run: at each stage that it began and did not end, and at each whose
    turn would have come. A stage whose needs failed has no turn, and one that another is at work at says it itself:
    that may be one of these earlier `lives`, unseen."""
    for stage, planned in item["stages"]:
        if not has_turn(run, stage) or done_before(run, stage, planned, item):
            continue
        if at_work(run, stage, planned, submission_id, task, lives):
            continue
        open_ones = [pair[0] for pair in claimed(run, stage, submission_id, task.restart) if not has_result(pair[0])]
        message = "stopped before the time limit; it goes on from what it had saved"
        if not open_ones and (attempt := claim(run, stage, planned, submission_id, task, made_with, lives)):
            open_ones, message = [attempt], "the pack's time limit came before its turn"
        for attempt in open_ones:
            write_result(attempt, failure("timeout", message), tries=1)


def failure(cause: Cause, message: str) -> ResultFile:
    return {"status": "failed", "cause": cause, "message": message[:2_000], "ended": time.time(), "outcome": None}


def write_result(attempt: AttemptDir, value: Mapping[str, Any], tries: int = TRIES) -> bool:
    """Whether it could be written. If not, it is said: nobody else's work is to end for it."""
    for left in reversed(range(tries)):
        try:
            whole_files.write_json(attempt.result, value)
            return True
        except OSError as error:
            said = str(value.get("message") or value["status"])
            say(f"{attempt.result}: could not be written: {error}. It would say: {said}")
            if left:
                time.sleep(PAUSE)
    return False


def say(text: str) -> None:
    """Print; a log on a full disk is no reason to stop."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def whole(path: Path, kind: type[T]) -> T | None:
    """Return the file's value; None if it is not there, not whole, or no such file."""
    try:
        return documents.read(path, kind)
    except whole_files.TornFile:
        return None
