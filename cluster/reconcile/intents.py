"""Find the job of a submission whose answer was never heard, by the submission's id, or prove that there is none.

Absence is proven by answers, once sbatch has surely given up; a job that arrives after all takes its pack before it
reads the answer, so one of the two sees the other."""

from __future__ import annotations

import os

from cluster.files import whole_files
from cluster.files.documents import AnswerFile
from cluster.files.statuses import GIVEN_UP, LIVE
from cluster.reconcile.judging import SlurmAnswers
from cluster.reconcile.opened import OpenSubmission, read_tasks, read_whole
from cluster.slurm import answers

# sbatch tries for two minutes by itself, so a younger submission may still reach the controller.
PATIENCE = "TINY_TRANSFORMERS_SBATCH_PATIENCE"  # seconds; for sites whose sbatch gives up sooner or later
SBATCH_PATIENCE = 200.0


def patience() -> float:
    """Seconds after which an unanswered sbatch has surely given up."""
    return float(os.environ.get(PATIENCE, SBATCH_PATIENCE))


def settle(opened: OpenSubmission, seen: SlurmAnswers) -> None:
    """A submission whose answer was never heard: find its job by the submission's id, or prove that there is none."""
    answer = read_whole(opened.directory.answer, AnswerFile, []) or {"state": "intended"}
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
    opened.tasks = {index: task for index, task in read_tasks(opened.directory) if task}
    if opened.tasks:
        opened.just_seen = True
        _answer(opened, {"state": "submitted", "job_id": _found(opened, seen)})


def _found(opened: OpenSubmission, seen: SlurmAnswers) -> str | None:
    """The id of the array with this name: in the files that a begun pack leaves, in the queue, in accounting."""
    ids = {task["job"].partition("_")[0] for task in opened.tasks.values()}
    for jobs in (seen.queue, seen.history):
        if not ids:
            ids = answers.arrays_of(jobs or {}, opened.row["submission_id"])
    return min(ids, default=None)


def renumber(opened: OpenSubmission, seen: SlurmAnswers) -> None:
    """Take the number under which SLURM shows a submission, where that is not the one that sbatch was understood to
    have given: a job is ours by its name."""
    if opened.row["state"] != "submitted" or not opened.slurm or opened.tasks or not seen.queue:
        return
    if not any(opened.job(index, seen.queue) for index in opened.open_packs):
        shown = answers.arrays_of(seen.queue, opened.row["submission_id"])
        if shown and opened.row["job_id"] not in shown:
            _answer(opened, {"state": "submitted", "job_id": min(shown)})


def _may_still_arrive(opened: OpenSubmission, answer: AnswerFile) -> bool:
    """sbatch may still be trying, unless it has said itself that it never reached the controller."""
    if answer.get("reached") is False:
        return False
    return whole_files.age(opened.directory.submission) <= patience()


def _answer(opened: OpenSubmission, answer: AnswerFile) -> None:
    before = read_whole(opened.directory.answer, AnswerFile, [])
    for noted in ("cancelled", "cancelled_packs"):
        if before and noted in before:
            answer = {**answer, noted: before[noted]}  # type: ignore[misc]
    whole_files.write_json(opened.directory.answer, answer)
    _conclude(opened, answer)


def _conclude(opened: OpenSubmission, answer: AnswerFile) -> None:
    opened.update(state=answer["state"], job_id=answer.get("job_id"))
    opened.look_into(list(opened.unread))
    for attempt in opened.attempts:
        if answer["state"] in GIVEN_UP and attempt["status"] in LIVE:
            opened.put(attempt, status="void", job=None, progress=None)  # it will never run, and does not count
        elif answer["state"] == "submitted" and attempt["status"] == "void":
            opened.put(attempt, status="submitted")
