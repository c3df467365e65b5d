"""Judge why attempts have no result, by what SLURM or the process table says of their jobs.

An attempt is judged when its job is seen to have ended, or is absent from an answer; a query that failed changes
nothing, and no clock is asked but the file system's own. A judgement is written beside the attempt as verdict.json, so
that the ledger can be made again from files alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cluster.files import processes, whole_files
from cluster.files.causes import Cause
from cluster.files.documents import FRESH, AnswerFile, Life, ResultFile, Verdict
from cluster.files.folders import AttemptDir
from cluster.files.processes import Process
from cluster.files.records import AttemptRow, key_of
from cluster.files.statuses import FRUITLESS
from cluster.ledger.rows import OpenPack
from cluster.reconcile import late
from cluster.reconcile.late import last_sign_of
from cluster.reconcile.opened import (
    OpenSubmission,
    is_superseded,
    read_attempt,
    read_files,
    read_whole,
    said,
)
from cluster.slurm import answers
from cluster.slurm.answers import Job
from cluster.slurm.reasons import EARLIER_PACK, NOT_IN_QUEUE
from tiny_transformers.settings.stages import STAGES

OF_DAMAGED_CODE = ("error", "lost", "launch_failed")  # causes of what ends at once where its code cannot be loaded
STALE_ACCOUNTING = 600.0  # seconds that sacct may call a job alive which squeue does not know


@dataclass(frozen=True)
class EndedJob:
    """A pack's job is over; `cause` explains every result that it did not leave."""

    cause: Cause
    message: str
    node: str | None = None


@dataclass(frozen=True)
class LiveJob:
    job: str
    waits_for: str | None = None  # SLURM's reason or its state, or EARLIER_PACK; None: it does not wait


Fate = EndedJob | LiveJob | None  # None: unknown, so nothing is changed


@dataclass(frozen=True)
class SlurmAnswers:
    """The jobs of this user that SLURM showed, by key; None: no answer, or not asked."""

    queue: Mapping[str, Job] | None
    history: Mapping[str, Job] | None


def needs_history(opened: OpenSubmission, queue: Mapping[str, Job]) -> bool:
    """Whether accounting has something to say that the queue has not: on jobs that have left it or have ended, and on
    attempts that a requeue has cut short."""
    if opened.row["state"] == "intended":
        return True  # tasks of an array that the queue shows may have left it
    for index in opened.open_packs:
        job = opened.job(index, queue)
        if job is None or job.state == "FAILED":  # which may be a kill for memory
            return True
    return any(is_superseded(opened, attempt) for attempt in opened.open_attempts)


def judge(opened: OpenSubmission, seen: SlurmAnswers) -> None:
    fates = {index: _fate(opened, index, attempts, seen) for index, attempts in opened.open_packs.items()}
    ended = [index for index, fate in fates.items() if isinstance(fate, EndedJob)]
    opened.look_into(ended)
    packs = {key_of(attempt): attempt["pack_index"] for attempt in opened.open_attempts}
    if ended:  # what a job wrote between our reading its files and its end must be read before it is judged
        opened.close_runs(ended)
        read_files(opened)
    opened.look_into([index for index in opened.unread if not _is_known(opened.unread[index], fates[index])])
    statuses = _statuses(opened)
    first: set[str] = set()  # runs of which an open stage has been seen: it alone tells why they wait
    turns = {stage: turn for turn, stage in enumerate(STAGES)}  # one that follows an interrupted one is the last row
    for attempt in sorted(opened.open_attempts, key=lambda attempt: turns.get(attempt["stage"], len(turns))):
        if is_superseded(opened, attempt):
            _settle(opened, attempt, _interruption(opened, attempt, seen))
        else:
            was_pulled = packs.get(key_of(attempt)) not in (None, attempt["pack_index"])  # since its files were read
            fate = None if was_pulled else fates.get(attempt["pack_index"])
            if isinstance(fate, LiveJob) and attempt["run_id"] in first:
                fate = LiveJob(fate.job)
            first.add(attempt["run_id"])
            _settle_by_pack(opened, attempt, fate, statuses[attempt["run_id"]])
    late.settle_handed_over(opened)
    opened.close_if_done()


def _is_known(pack: OpenPack, fate: Fate) -> bool:
    """Whether a pack of which nothing was read stands in the ledger as its fate has it."""
    if not pack.untouched or isinstance(fate, EndedJob):
        return False
    return fate is None or (pack.has_job and pack.progress == _waiting(pack.progress, False, fate.waits_for))


def _statuses(opened: OpenSubmission) -> dict[str, dict[str, str]]:
    """Run id -> stage -> status of the newest attempt of this submission."""
    statuses: dict[str, dict[str, str]] = {}
    for attempt in sorted(opened.attempts, key=lambda attempt: attempt["number"]):
        statuses.setdefault(attempt["run_id"], {})[attempt["stage"]] = attempt["status"]
    return statuses


def _settle_by_pack(opened: OpenSubmission, attempt: AttemptRow, fate: Fate, statuses: dict[str, str]) -> None:
    """`statuses`: of the run's stages."""
    out_of_turn = any(statuses.get(need) in FRUITLESS for need in STAGES[attempt["stage"]].needs)
    # The run's process, in an earlier stage.
    died = isinstance(fate, EndedJob) and fate.cause in ("lost", "vanished") and "failed" in statuses.values()
    if attempt["status"] == "submitted" and died and not out_of_turn:
        directory = opened.root.attempt(*key_of(attempt))
        verdict: Verdict = {"status": "void", "message": "its run had ended before its turn"}
        whole_files.write_json(directory.verdict, verdict, indent=None)
        opened.put(attempt, **(said(verdict) | {"job": None}))
        statuses[attempt["stage"]] = "void"
    elif attempt["status"] == "submitted" and out_of_turn:
        opened.put(attempt, status="void", job=None, progress=None)  # its turn will not come in this pack
        statuses[attempt["stage"]] = "void"
    elif isinstance(fate, LiveJob):
        told = _waiting(attempt["progress"], _has_begun(opened, attempt), fate.waits_for)
        opened.put(attempt, job=attempt["job"] or fate.job, progress=told)
    elif isinstance(fate, EndedJob) and fate.cause != "cancelled" and _is_behind_anothers(opened, attempt, statuses):
        verdict = {"status": "void", "message": "its job left an earlier stage to another one"}
        whole_files.write_json(opened.root.attempt(*key_of(attempt)).verdict, verdict, indent=None)
        opened.put(attempt, **(said(verdict) | {"job": None}))
        statuses[attempt["stage"]] = "void"
    elif isinstance(fate, EndedJob):
        _settle(opened, attempt, fate)
        left = attempt["status"] == "void"  # to one that completed: what follows had its turn, and was cancelled
        statuses[attempt["stage"]] = "completed" if left and fate.cause == "cancelled" else attempt["status"]


def _is_behind_anothers(opened: OpenSubmission, attempt: AttemptRow, statuses: Mapping[str, str]) -> bool:
    """Whether it has no turn, since the job of another submission is at a stage that it needs, or was, and did not
    complete it: `statuses`, of what this one has of the run, lacks that stage."""
    if attempt["status"] != "submitted":
        return False
    needed = [need for need in STAGES[attempt["stage"]].needs if need not in statuses]
    histories = [opened.ledger.history(attempt["run_id"], need) for need in needed]
    return any(history and history[-1]["status"] != "completed" for history in histories)


def _has_begun(opened: OpenSubmission, attempt: AttemptRow) -> bool:
    """Whether it, or its pack, has begun."""
    return attempt["status"] == "running" or attempt["pack_index"] in opened.tasks


@lru_cache
def _waiting(progress: str | None, has_begun: bool, waits_for: str | None) -> str | None:
    """Return an attempt's progress with the reason for which its job waits. One of a pack that had begun keeps what its
    last heartbeat said, and loses the reason when its job runs again."""
    told = json.loads(progress) if progress else {}
    if has_begun:
        told.pop("waits_for", None)
        told |= {} if waits_for is None else {"waits_for": waits_for}
    elif waits_for not in (None, "PENDING"):
        told = {"reason": waits_for}
    return json.dumps(told) if told else None


def _settle(opened: OpenSubmission, attempt: AttemptRow, fate: Fate) -> None:
    if not isinstance(fate, EndedJob):
        return
    if way := late.give_way(opened.ledger, opened.root, attempt):
        opened.put(attempt, **way)
        return
    directory = opened.root.attempt(*key_of(attempt))
    spoilt: list[str] = []
    if read_whole(directory.result, ResultFile, spoilt):  # of a life that goes on unseen, since its files were read
        read_attempt(opened, attempt)
        return
    torn = "".join(f"; its result.json is there but {text.partition(': ')[2]}" for text in spoilt)
    verdict: Verdict = {
        "status": "failed",
        "cause": fate.cause,
        "message": fate.message + torn,
        "ended": _last_life(directory, attempt),
        "job": attempt["job"],
        "host": attempt["host"] or fate.node,
    }
    whole_files.write_json(directory.verdict, verdict, indent=None)
    opened.put(attempt, **verdict, progress=None)


def _last_life(directory: AttemptDir, attempt: AttemptRow) -> float:
    """When it was last known to be at work: long before now, where nobody has looked since. Now, if it never began."""
    return time.time() if attempt["started"] is None else last_sign_of(directory, attempt["started"])


def _interruption(opened: OpenSubmission, attempt: AttemptRow, seen: SlurmAnswers) -> Fate:
    """Why a job was requeued while it worked on this attempt."""
    task, restart = opened.tasks[attempt["pack_index"]], opened.begun_by[key_of(attempt)]
    lives: list[Life] = [*task.get("earlier", []), task]
    marked = next((life.get("ended_by") for life in lives if life["restart"] == restart), None)
    if marked:
        return EndedJob(marked, "out of time; requeued, and the next attempt goes on from its checkpoint")
    if seen.queue is None or seen.history is None:
        return None
    job = answers.find(seen.history, task["job"], opened.row["submission_id"])
    lives_seen = [*job.earlier, job] if job else []
    life = lives_seen[restart] if restart < len(lives_seen) else None
    cause = life.cause if life and life.cause in ("node_fail", "timeout") else "preempted"
    why = f" ({life.state} on {life.node})" if life else ""
    return EndedJob(cause, f"requeued by SLURM{why}; the next attempt goes on", life.node if life else None)


def _fate(opened: OpenSubmission, pack_index: int, attempts: Sequence[AttemptRow], seen: SlurmAnswers) -> Fate:
    """`attempts`: of the pack, those that are open."""
    fate = _slurm_fate(opened, pack_index, attempts, seen) if opened.slurm else _local_fate(opened, pack_index)
    if isinstance(fate, EndedJob) and fate.cause in OF_DAMAGED_CODE and (damage := opened.damaged_code):
        return replace(fate, message=f"{fate.message}. {damage}")
    return fate


def _slurm_fate(opened: OpenSubmission, pack_index: int, attempts: Sequence[AttemptRow], seen: SlurmAnswers) -> Fate:
    if seen.queue is None or opened.just_seen or opened.row["state"] != "submitted":
        return None
    key = opened.key(pack_index, seen.queue)
    job = opened.job(pack_index, seen.queue)
    if job and job.live:
        return LiveJob(key, job.waits_for)
    if seen.history is None:  # only accounting tells FAILED from a kill for memory, or why it left
        return _ended(opened, pack_index, key, job) if job and job.state != "FAILED" else None
    known = opened.job(pack_index, seen.history)
    if known and not known.live:
        return _ended(opened, pack_index, key, known)
    if job:
        return _ended(opened, pack_index, key, job)
    cancelled = opened.is_cancelled(pack_index)
    if known and pack_index not in opened.tasks and not cancelled:
        return LiveJob(key, NOT_IN_QUEUE)  # it never began, so it is over only if accounting says so
    # squeue lists all that lives. But a controller that lost its state has forgotten jobs that still run, and
    # accounting may lag behind.
    sign = _last_sign(opened, attempts)
    if sign <= FRESH or (known and pack_index in opened.tasks and sign <= STALE_ACCOUNTING):
        return None
    if cancelled:
        return EndedJob("cancelled", f"job {key} was cancelled, and SLURM no longer shows it")
    if pack_index not in opened.tasks:  # as what is cancelled by hand while accounting is away
        why = "why is not known, and somebody may have cancelled it"
        return EndedJob("vanished", f"SLURM no longer knows job {key}, which never began: {why}")
    return EndedJob("lost", f"SLURM no longer knows job {key}, and it left no result")


def _last_sign(opened: OpenSubmission, attempts: Sequence[AttemptRow]) -> float:
    """Seconds since one of these last wrote a heartbeat, by the file system's clock; very many if they never did."""
    beats = [opened.root.attempt(*key_of(attempt)).heartbeat for attempt in attempts if attempt["status"] == "running"]
    return min((whole_files.age(beat) for beat in beats if beat.exists()), default=float("inf"))


def _ended(opened: OpenSubmission, pack_index: int, key: str, job: Job) -> EndedJob:
    exit_code = f", exit code {job.exit_code}" if job.exit_code else ""
    life = opened.tasks.get(pack_index)
    began = life is not None and len(job.earlier) <= life["restart"]
    marked = life and life.get("ended_by")
    if marked and began and job.cause != "cancelled":  # it was to be requeued, and was not
        return EndedJob(marked, f"out of time, and job {key} could not be requeued: it ended as {job.state}{exit_code}")
    if job.cause == "lost" and opened.is_cancelled(pack_index):
        return EndedJob("cancelled", f"job {key} was cancelled before it was known")
    peak = f", {job.memory:,.0f} of {job.asked:,.0f} MB" if job.cause == "out_of_memory" and job.memory else ""
    if not began and job.cause in ("error", "lost"):
        where = f"slurm_logs/{opened.row['submission_id']}"
        message = f"job {key} ended as {job.state}{exit_code} before its pack began; see {where}"
        return EndedJob("launch_failed", message, job.node or None)
    on = job.node or "no node"
    message = f"job {key} ended as {job.state}{exit_code}{peak} on {on} without a result"
    return EndedJob(job.cause, message, job.node or None)


def _local_fate(opened: OpenSubmission, pack_index: int) -> Fate:
    """The pack's own process; before it has announced itself, the controller that starts it."""
    answer = read_whole(opened.directory.answer, AnswerFile, []) or {"state": "intended"}
    task = opened.tasks.get(pack_index)
    process: Process | None = task or answer.get("process")
    alive = processes.is_alive(process) if process else None
    if process is None or alive is None:
        return None
    if alive:
        job = answer.get("job_id") or f"local-{process['pid']}"
        return LiveJob(job, EARLIER_PACK if task and task.get("waits") else None)
    if answer.get("cancelled"):
        return EndedJob("cancelled", f"process {process['pid']} was cancelled")
    return EndedJob("lost", f"process {process['pid']} on {process['host']} ended without a result")
