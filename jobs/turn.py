"""Say whose turn it is on this machine: packs of one OUTPUT_ROOT that run without SLURM come one after another, as they
were submitted, so that two do not share its cores or GPUs by accident.

A pack watches the processes of those before it, which it knows by the files of their submissions. There is no lock that
a killed one could leave behind. Probes wait, and are waited for, like the packs of the OUTPUT_ROOT that they are in;
smoke runs, which are small, wait for each other only. No torch."""

from __future__ import annotations

from cluster.files import processes
from cluster.files.documents import AnswerFile, TaskFile
from cluster.files.folders import OutputRoot, SubmissionDir
from cluster.files.processes import Process
from jobs.attempts import whole


def pack_before(directory: SubmissionDir) -> Process | None:
    """Return the process of a pack of this machine that was submitted before this one and is alive; None: there is
    none, so it is this one's turn."""
    place = _place(directory)
    for other in _submissions_beside(directory):
        process = _process(other)
        if process and processes.is_alive(process) and _place(other) < place:
            return process
    return None


def _submissions_beside(directory: SubmissionDir) -> list[SubmissionDir]:
    root = directory.path.parent.parent
    base = OutputRoot(root.parent if root.name == "probe" else root)
    return [each.submission(name) for each in (base, base.probe) for name in each.submission_ids()]


def _place(directory: SubmissionDir) -> tuple[int, str]:
    """When its intent was written, which nobody changes."""
    return directory.submission.stat().st_mtime_ns, directory.id


def _process(directory: SubmissionDir) -> Process | None:
    """Return what works through a pack of this machine: its own process or, before it has announced itself, the
    controller that starts it. None for SLURM's."""
    task = whole(directory.task(0), TaskFile)
    if task:
        return task if task["job"].startswith("local-") else None
    answer = whole(directory.answer, AnswerFile)
    return answer.get("process") if answer else None
