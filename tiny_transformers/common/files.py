"""Files and folders that are whole or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiny_transformers.common import refusals


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A disk that is full names `path`: Python does not name a file that was opened."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in refusals.FULL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def whole_folder(path: Path, *, replace: bool = False, drafts: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, or in `drafts` of the same file system, that becomes `path` if the block
    succeeds.

    Two writers at once are safe: without `replace` the first one's folder stays and the second's, which holds the
    same, is dropped; with `replace` the last one wins. A crash leaves `path` as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=drafts or path.parent, prefix=f".{path.name}."))
    try:
        with naming(path):
            yield draft
        draft.chmod(0o755)
        for file in draft.rglob("*"):
            if file.is_file():
                _sync(file)
        _sync(draft)
        if replace and path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.rename(path, old)  # onto an empty folder
            os.rename(draft, path)
            shutil.rmtree(old)
        else:
            _rename_unless_taken(draft, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def whole_file(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path` that becomes `path`, in place of an older one, if the block succeeds.

    Of two writers at once the last one wins. A crash leaves `path` as it was. Not `synced` is for what can be made
    again: a machine that loses its power may leave it torn, and nobody waits for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(fd)
    draft = Path(name)
    try:
        with naming(path):
            yield draft
        draft.chmod(0o644)
        if synced:
            _sync(draft)
        os.replace(draft, path)
        if synced:
            _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _rename_unless_taken(draft: Path, path: Path) -> None:
    try:
        os.rename(draft, path)
    except OSError:
        if not path.is_dir():
            raise


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
