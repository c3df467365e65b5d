"""What the system refused, in a sentence: the file or folder that it is about, whose that is, and what to do.

An error that is not understood is told in the system's own words. Standard library only."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of this disk is used up"}
BARRED = (errno.EACCES, errno.EPERM)


def explain(error: BaseException) -> str:
    """Return this error as a sentence if it is understood; else in the system's words."""
    return understood(error) or f"{type(error).__name__}: {error}"


def understood(error: BaseException) -> str:
    """Return the sentence; nothing if there is none for this error."""
    if not isinstance(error, OSError):
        return ""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | Path) else None
    if error.errno in FULL:
        where = f"{path}: cannot be written" if path else "Something cannot be written"
        return f"{where}: {FULL[error.errno]}. Make room, and do it again: what was done is kept."
    if path and error.errno == errno.EROFS:
        return f"{path}: cannot be written: its disk is mounted to be read only."
    return _barred(path) if path and error.errno in BARRED else ""


def _barred(path: Path) -> str:
    """Return what bars this user from `path`; nothing if file modes do not tell, as on a disk that is shared by others'
    rules."""
    folders = [folder for folder in reversed(path.absolute().parents) if os.path.isdir(folder)]
    shut = [folder for folder in folders if not os.access(folder, os.X_OK)]
    if shut:
        return f"{path}: cannot be reached: the folder {shut[0]} may not be entered: {_whose(shut[0], 'rX')}"
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        return f"{path}: cannot be read: {_whose(path, 'rX')}"
    if os.path.exists(path) and not os.access(path, os.R_OK):
        return f"{path}: cannot be read: {_whose(path, 'r')}"
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return f"{path}: cannot be written: {_whose(path, 'w')}"
    if not os.path.isdir(path) and not os.access(folders[-1], os.W_OK):
        return f"{path}: cannot be written: the folder {folders[-1]} may not be: {_whose(folders[-1], 'w')}"
    return ""


def _whose(place: Path, mode: str) -> str:
    status = place.stat()
    shown = stat.filemode(status.st_mode)
    if status.st_uid == os.getuid():
        return f"it is yours, {shown}. `chmod u+{mode} {place}` lets you."
    owner = _name(status.st_uid)
    return f"it is {owner}'s, {shown}. Ask {owner}, or take one of your own."


def _name(uid: int) -> str:
    import pwd  # here, because not every system has it

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
