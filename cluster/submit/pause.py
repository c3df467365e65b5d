"""Tell who gave `cancel --all` and has asked for nothing since: `tick` begins nothing of theirs, and of others it does.
And take back what a user has asked for and limits hold back.

Whoever writes here holds the ledger's lock."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from cluster.files import documents, whole_files
from cluster.files.documents import Paused, RequestFile
from cluster.files.folders import OutputRoot
from cluster.reconcile.opened import read_whole

SOMEBODY = ""  # the name in a file of an earlier version, which does not say who it was: nothing of anybody's goes on


def paused(output_root: OutputRoot) -> dict[str, str]:
    """Return since when, by user. Raises TornFile."""
    told = documents.read(output_root.paused, Paused)
    return dict(told.get("users", {SOMEBODY: told["time"]})) if told else {}


def is_paused(output_root: OutputRoot, user: str) -> bool:
    """Whether a user's `tick` begins nothing. Raises TornFile."""
    return not {user, SOMEBODY}.isdisjoint(paused(output_root))


def begin(output_root: OutputRoot, user: str, time: str) -> None:
    """Note that a user wants nothing more to be begun, and drop what the user, or nobody known, has asked for."""
    for path in output_root.requests():
        asked = read_whole(path, RequestFile, [])
        if asked is None or asked.get("user", user) == user:
            path.unlink(missing_ok=True)
    try:
        users = paused(output_root)
    except whole_files.TornFile:
        users = {}
    whole_files.write_json(output_root.paused, {"time": time, "users": {**users, user: time}})


def waiting(output_root: OutputRoot, user: str, run_ids: Collection[str]) -> set[str]:
    """Return those of these runs that a user, or nobody known, has asked for and that were not all submitted yet."""
    return {run_id for _, asked in _requests_of(output_root, user) for run_id in asked["runs"]}.intersection(run_ids)


def take_back(output_root: OutputRoot, user: str, run_ids: Collection[str]) -> None:
    """Drop these runs from what that user has asked for."""
    for path, asked in _requests_of(output_root, user):
        left = [run_id for run_id in asked["runs"] if run_id not in run_ids]
        if not left and "choice" not in asked:
            path.unlink(missing_ok=True)
        elif left != asked["runs"]:
            whole_files.write_json(path, {**asked, "runs": left})


def _requests_of(output_root: OutputRoot, user: str) -> Iterator[tuple[Path, RequestFile]]:
    for path in output_root.requests():
        asked = read_whole(path, RequestFile, [])
        if asked and asked.get("user", user) == user:
            yield path, asked


def end(output_root: OutputRoot, user: str) -> None:
    """Note that a user has asked for something again; whoever cannot be known has, too."""
    try:
        users = paused(output_root)
    except whole_files.TornFile:
        users = {}
    left = {name: time for name, time in users.items() if name not in (SOMEBODY, user)}
    if not left:
        output_root.paused.unlink(missing_ok=True)
    elif left != users:
        whole_files.write_json(output_root.paused, {"time": max(left.values()), "users": left})
