"""Files that are read whole and written by renaming: one is complete or it is not there. Standard library only.

A job writes only files of its own and never appends to a shared one: on a parallel file system locks and O_APPEND
hold within one node at most."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class TornFile(Exception):
    """A file that is there, but is not whole JSON, or not the kind of file that stands in its place."""


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Replace `path` whole: temporary file in the same folder, fsync, close, rename. If the disk is full, the old
    file stays as it was and OSError is raised. Without `indent` many long files are written in half of the time."""
    draft = _draft(path, value, indent)
    try:
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read(path: Path) -> bytes:
    """Return what a file holds. Raises OSError, which names it: Python does not name a file that was opened."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_json(path: Path, absent: Any = None) -> Any | None:
    """Return the value of a file, or `absent` if there is none. Raises TornFile, and OSError if it cannot be read."""
    try:
        text = read(path)
    except (FileNotFoundError, NotADirectoryError):
        return absent
    except IsADirectoryError:
        raise TornFile(f"{path}: is a folder, not a file") from None
    try:
        value = json.loads(text)
        if b"\\ud" in text or b"\\uD" in text:  # halves of characters, which neither a file nor the ledger can hold
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
        return value
    except (ValueError, RecursionError) as error:
        raise TornFile(f"{path}: not whole: {error}") from None


def create_json(path: Path, value: Any) -> bool:
    """Create `path` whole, or return False because it exists: whoever dies or fails on the way leaves no `path`."""
    draft = _draft(path, value)
    try:
        os.link(draft, path)
    except FileExistsError:  # or it was made, and NFS has asked once more since the answer was lost: open(2)
        return os.stat(draft).st_nlink > 1
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        return _create_without_link(path, draft)  # a file system without hard links
    finally:
        with contextlib.suppress(OSError):  # a draft that stays does no harm, and what was created is there
            draft.unlink(missing_ok=True)
    return True


def _create_without_link(path: Path, draft: Path) -> bool:
    try:
        handle = os.open(path, NEW, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write(draft.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    return True


def age(path: Path) -> float:
    """Seconds since `path` was last written, by the file system's own clock: hosts' clocks may differ by hours."""
    handle, probe = tempfile.mkstemp(dir=path.parent, prefix=".now.")
    try:
        return os.fstat(handle).st_mtime - path.stat().st_mtime
    finally:
        os.close(handle)
        Path(probe).unlink(missing_ok=True)


def _draft(path: Path, value: Any, indent: int | None = 1) -> Path:
    """A file beside `path`, closed and on disk; its folder is made if it is not there."""
    content = json.dumps(value, indent=indent).encode()
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        handle = os.open(draft, NEW, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, NEW, 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
            os.fchmod(handle, 0o644)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, read from its last 64 KiB; none if there is no such file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 65_536))
            return log_lines(file.read())[-lines:]
    except FileNotFoundError:
        return []


def log_lines(content: bytes) -> list[str]:
    """Return the lines of a log. Of one that was written over, as a progress bar is, it is the last state, which a
    terminal would show."""
    lines = content.decode("utf-8", "replace").removesuffix("\n").split("\n") if content else []
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines]
