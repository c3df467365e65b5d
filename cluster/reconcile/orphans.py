"""Take in attempts whose submission's files are gone: what runs/ shows of them is kept.

What only those files said is not known any more: whose the jobs were, where they ran, what they were planned to take.
Such a submission is one of the site NOT_KNOWN, and done: nothing goes on by itself as it did."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from cluster.console import count, some
from cluster.files.documents import Claim, ResultFile, TaskFile, Verdict
from cluster.files.folders import AttemptDir, OutputRoot
from cluster.files.records import AttemptRow, AttemptValues
from cluster.ledger.database import Ledger
from cluster.ledger.rows import NOT_KNOWN, SubmissionRow
from cluster.reconcile.opened import claimed, how_it_ended, read_whole, said

UNNAMED = "unknown"  # the submission of attempts without a claim that can be read
NO_RESULT = "its submission's files are gone, so what became of its job is not known"


def take_in(ledger: Ledger, root: OutputRoot, torn: list[str]) -> None:
    """Record the attempts on disk that no submission speaks of, each with its result."""
    known = ledger.submission_ids()
    for run_id, stage, directory in _unknown(ledger, root):
        claim = read_whole(directory.claim, Claim, torn)
        key = (run_id, stage, directory.number)
        before = None if claim else _interrupted(ledger, root, *key)
        submission_id = claim["submission_id"] if claim else before["submission_id"] if before else UNNAMED
        if submission_id in known and not before:
            continue
        if not before:
            _record(ledger, submission_id, claim)
        result, verdict = how_it_ended(directory, torn)
        told: ResultFile | Verdict = result or verdict or {"status": "failed", "cause": "lost", "message": NO_RESULT}
        values: AttemptValues = claimed(ledger, claim) if claim else {}
        pack = before["pack_index"] if before else 0
        ledger.put_attempt(*key, **(values | said(told) | {"submission_id": submission_id, "pack_index": pack}))
        if result:
            ledger.put_outcome(*key, result.get("outcome") or {})


def say(ledger: Ledger) -> list[str]:
    """Say what is not known of the submissions whose files are gone; nothing if there are none."""
    lost = [row["submission_id"] for row in ledger.submissions() if row["site"] == NOT_KNOWN]
    if not lost:
        return []
    return [
        f"The files of {count(len(lost), 'submission')} are gone from submissions/ ({some(lost)}): what their jobs "
        "have found is kept; whose they were, where they ran, and the hours that they were planned to take and took, "
        "is not known."
    ]


def _unknown(ledger: Ledger, root: OutputRoot) -> Iterator[tuple[str, str, AttemptDir]]:
    """The attempts on disk that the ledger does not have, run by run."""
    known = ledger.attempt_keys()
    for run_id, (_, stages) in ledger.known_runs().items():
        for stage in stages:
            for directory in root.run(run_id).attempts(stage):
                if (run_id, stage, directory.number) not in known:
                    yield run_id, stage, directory


def _interrupted(ledger: Ledger, root: OutputRoot, run_id: str, stage: str, number: int) -> AttemptRow | None:
    """Return the attempt before this one, if its job was requeued and was to go on with this one."""
    before = ledger.attempt(run_id, stage, number - 1)
    if before is None:
        return None
    claim = read_whole(root.attempt(run_id, stage, number - 1).claim, Claim, [])
    task = read_whole(root.submission(before["submission_id"]).task(before["pack_index"]), TaskFile, [])
    return before if claim and task and claim["restart"] < task["restart"] else None


def _record(ledger: Ledger, submission_id: str, claim: Claim | None) -> None:
    row: SubmissionRow = {
        "submission_id": submission_id,
        "created": datetime.fromtimestamp(claim["time"] if claim else 0, UTC).isoformat(),
        "scheduler": "local" if claim and claim["job"].startswith("local-") else "slurm",
        "site": NOT_KNOWN, "state": "done", "job_id": None, "data_root": None, "asked_by": "submit", "user": None,
        "slots": None, "gpus": None, "cpus": None, "memory_per_cpu": None, "minutes": None, "memory": None,
        "seconds": None, "stage_seconds": None, "spent": 0.0,
    }  # fmt: skip
    ledger.record_submission(row, [])  # the first of its attempts says when
