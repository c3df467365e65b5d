"""Take a pack, as one life of an array task, and say which of its earlier lives may go on unseen. No torch.

A requeued job takes over from its earlier life, which its task file keeps. That one has ended, as a rule; but a node
that SLURM has lost may go on with it, and nothing is done twice for that."""

from __future__ import annotations

from typing import Any

from cluster.files import documents, whole_files
from cluster.files.documents import AnswerFile, TaskFile
from cluster.files.folders import SubmissionDir
from cluster.files.statuses import GIVEN_UP
from jobs.attempts import ArrayTask, say, whole


def take(directory: SubmissionDir, index: int, task: ArrayTask) -> bool:
    """Claim the pack, then ask whether it is still wanted: the login node writes its answer first and looks for this
    file after. A requeued job takes over from its earlier life, which the file keeps."""
    path = directory.task(index)
    if not whole_files.create_json(path, vars(task)):
        holder = whole(path, TaskFile)
        if (holder is None and not task.restart) or (
            holder and (holder["job"] != task.job or holder["restart"] >= task.restart)
        ):
            say(f"pack {index} of {directory.id} is another task's; nothing to do")
            return False
        whole_files.write_json(path, {**vars(task), "earlier": _lives(holder)})
    answer = whole(directory.answer, AnswerFile)
    said = "cancelled" if documents.is_cancelled(answer, index) else answer["state"] if answer else ""
    if said in ("cancelled", *GIVEN_UP):
        say(f"{directory.id} is {said}; nothing to do")
        return False
    return True


def _lives(holder: TaskFile | None) -> list[Any]:
    """The lives that a task file tells of, oldest first."""
    if not holder:
        return []
    return [*holder.get("earlier", []), {key: value for key, value in holder.items() if key != "earlier"}]


def unseen(task: TaskFile | None) -> set[int]:
    """Return the earlier lives of a task that did not end by themselves: one of them may still be at work."""
    lives = task.get("earlier", []) if task else []
    return {life["restart"] for life in lives if not life.get("ended_by")}
