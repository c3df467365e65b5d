"""Hear what jobs do after they were judged: they complete late, go on unseen, or under numbers that others were planned
for. What was guessed gives way to what their files say."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from cluster.files import whole_files
from cluster.files.documents import Claim, Heartbeat, Intent, ResultFile, Verdict
from cluster.files.folders import AttemptDir, OutputRoot
from cluster.files.records import AttemptRow, AttemptValues, key_of
from cluster.files.statuses import FRUITLESS
from cluster.ledger.database import Ledger
from cluster.reconcile.opened import OpenSubmission, adopt, claimed, read_whole, said
from tiny_transformers.settings.stages import STAGES


def take_late(ledger: Ledger, root: OutputRoot, attempt: AttemptRow) -> None:
    """Take the result that a job wrote after it had been judged: whatever was guessed, it says so."""
    key = key_of(attempt)
    directory = root.attempt(*key)
    result = read_whole(directory.result, ResultFile, [])
    if not result or result["status"] != "completed":
        return
    claim = read_whole(directory.claim, Claim, [])
    if claim and claim["submission_id"] == attempt["submission_id"]:
        ledger.put_attempt(*key, **(claimed(ledger, claim) | said(result)))
        ledger.put_outcome(*key, result.get("outcome") or {})
        keep_turnless(ledger, root, attempt)


def follow_on(ledger: Ledger, root: OutputRoot, attempt: AttemptRow) -> bool:
    """Hear what the job of an attempt that is over went on with under the next numbers, after it was judged: it was
    requeued, of which nobody knew. Whether there was something that the ledger had not, or had as another's."""
    run_id, stage, number = key_of(attempt)
    found = False
    while claim := read_whole(root.attempt(run_id, stage, number := number + 1).claim, Claim, []):
        key = run_id, stage, number
        known = ledger.attempt(*key)
        if claim["submission_id"] != attempt["submission_id"]:
            break
        if known and known["submission_id"] == attempt["submission_id"]:
            continue
        found = True
        if adopt(ledger, root, key, claim, attempt)["status"] == "running":
            ledger.update_submission(attempt["submission_id"], state="submitted", spent=None)  # to be looked at again
        keep_turnless(ledger, root, attempt)
        if known and known["status"] == "failed":  # the job that it was planned for has what follows
            keep_turnless(ledger, root, known)
    return found


def keep_turnless(ledger: Ledger, root: OutputRoot, judged: AttemptRow) -> None:
    """Write down that later stages of a pack had no turn, now that its files no longer show that one before them
    failed: a ledger that is made again would take them for submitted. Whoever cancelled the job has cancelled them,
    and what it went on with unseen and did not complete."""
    over: set[str] = set()  # stages that what needs them does not get
    turns = list(STAGES)
    of_run = ledger.attempts_of_run_in(judged["submission_id"], judged["run_id"])
    for later in sorted(of_run, key=lambda each: turns.index(each["stage"])):
        directory = root.attempt(*key_of(later))
        claim, result = read_whole(directory.claim, Claim, []), read_whole(directory.result, ResultFile, [])
        others = claim is not None and claim["submission_id"] != judged["submission_id"]
        if later["status"] != "void" or others or directory.verdict.exists():
            continue
        if claim and result:  # of which nobody has heard yet
            ledger.put_attempt(*key_of(later), **(claimed(ledger, claim) | said(result)))
            ledger.put_outcome(*key_of(later), result.get("outcome") or {})
            over |= {later["stage"]} if result["status"] != "completed" else set()
            continue
        if claim is None and (way := give_way(ledger, root, later)):
            ledger.put_attempt(*key_of(later), **way)
            continue
        blocked = judged["cause"] != "cancelled" or not over.isdisjoint(STAGES[later["stage"]].needs)
        begun: AttemptValues = claimed(ledger, claim) if claim else {}
        verdict = _turnless(directory, judged, begun.get("started"), blocked=blocked)
        over.add(later["stage"])
        whole_files.write_json(directory.verdict, verdict, indent=None)
        where: AttemptValues = {"job": verdict.get("job"), "host": verdict.get("host")}
        ledger.put_attempt(*key_of(later), **(where | begun | said(verdict)))
    ledger.sum_hours(judged["submission_id"])


def _turnless(directory: AttemptDir, judged: AttemptRow, started: float | None, *, blocked: bool) -> Verdict:
    """The verdict on a later stage of a pack that was judged: its turn had not come, or its job went on with it unseen.
    `blocked`: so it does not count; else it is cancelled, as its job was."""
    when = "before its turn" if started is None else "and went on with it unseen"
    if blocked:
        return {"status": "void", "message": f"its job was judged {when}"}
    ended = judged["ended"] if started is None else last_sign_of(directory, started)
    return {
        "status": "failed", "cause": "cancelled", "message": f"its job was cancelled {when}", "ended": ended,
        "job": judged["job"], "host": judged["host"],
    }  # fmt: skip


def settle_handed_over(opened: OpenSubmission) -> None:
    """What had no turn behind an attempt of another submission has none behind the next one, which is its own now."""
    while opened.handed_over:
        keep_turnless(opened.ledger, opened.root, opened.handed_over.pop())


def give_way(ledger: Ledger, root: OutputRoot, attempt: AttemptRow) -> AttemptValues | None:
    """Take the result of the attempt before this one, if this one never began and that one has completed, and whoever
    asked for this one did not know: its job found that one at work, or done, and left. Returns what this one's row
    says then."""
    run_id, stage, number = key_of(attempt)
    if number == 1 or attempt["started"] is not None:
        return None
    earlier = [each.number for each in root.run(run_id).attempts(stage) if each.number < number and each.claim.exists()]
    before = ledger.attempt(run_id, stage, earlier[-1]) if earlier else None
    given_up = before is not None and before["status"] in FRUITLESS
    if before and given_up:
        for of_pack in ledger.attempts_of_run_in(before["submission_id"], run_id):
            if of_pack["status"] in FRUITLESS:
                take_late(ledger, root, of_pack)
        before = ledger.attempt(run_id, stage, before["number"])
    if not before or before["status"] != "completed":
        return None
    if not given_up and before["number"] <= _known_done(root, attempt):
        return None
    verdict: Verdict = {"status": "void", "message": f"attempt {before['number']} completed, so it was not begun"}
    whole_files.write_json(root.attempt(*key_of(attempt)).verdict, verdict)
    return said(verdict) | {"job": None, "host": None}


def _known_done(root: OutputRoot, attempt: AttemptRow) -> float:
    """The newest attempt of its stage that was known to have completed when this one was asked for, which does it again
    on purpose; 0: none, or nobody knows who asked. Infinite, where the submission does not say."""
    path = root.submission(attempt["submission_id"]).submission
    try:
        told = path.stat()
    except FileNotFoundError:
        return 0
    return _known_done_of(path, (told.st_ino, told.st_mtime_ns, told.st_size)).get(key_of(attempt)[:2], 0)


@lru_cache(maxsize=8)
def _known_done_of(path: Path, _: tuple[int, int, int]) -> dict[tuple[str, str], float]:
    """Read it of all stage runs of a submission, as its file is: of 10,000 each asks."""
    intent = read_whole(path, Intent, [])
    return {
        (item["run_id"], stage): 0 if planned == 1 else item["done"].get(stage, 0) if "done" in item else math.inf
        for pack in (intent["packs"] if intent else []) for item in pack for stage, planned in item["stages"]
    }  # fmt: skip


def last_sign_of(directory: AttemptDir, started: float) -> float:
    """When an attempt that began then was last known to be at work."""
    beat = read_whole(directory.heartbeat, Heartbeat, [])
    return float(max(started, beat["time"] if beat else 0.0))
