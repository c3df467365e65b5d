"""pathlib's functions on files, by a shorter way to the same call of the disk, and paths that are made once: in a walk
they take more time than all else that Python does."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from pathlib import Path, PurePath
from stat import S_ISDIR
from typing import Any

from simulation.disk import Disk
from simulation.saving import Known

READS = os.O_RDONLY | os.O_CLOEXEC
CHUNK = 1 << 14  # bytes; most files have fewer
ABSENT = (FileNotFoundError, NotADirectoryError)


def replacements(disk: Disk) -> list[tuple[Any, str, Any]]:
    """Object, name of the attribute, what stands there while worlds run."""
    new, resolve, open_file, stat_file, read, close = Path.__new__, Path.resolve, os.open, os.stat, os.read, os.close
    made: Known[str, Path] = Known()
    resolved: Known[tuple[str, str], Path] = Known()  # by the world's folder, too

    def make(kind: type[Path], *parts: Any, **options: Any) -> Path:
        if len(parts) != 1 or type(parts[0]) is not str or options:
            return new(kind, *parts, **options)
        if (found := made.get(parts[0])) is None:
            made[parts[0]] = found = new(kind, *parts)
        return found

    def fspath(path: Any) -> str:
        try:
            return path._str  # type: ignore[no-any-return]
        except AttributeError:
            return str(path)

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        name = fspath(path)
        disk.look_at(name)
        return stat_file(name, follow_symlinks=follow_symlinks)

    def mode(path: Path) -> int:
        """0: there is no such file."""
        try:
            name = path._str  # type: ignore[attr-defined]
        except AttributeError:
            name = str(path)
        disk.look_at(name)
        try:
            return stat_file(name).st_mode
        except ABSENT:
            return 0
        except OSError as error:
            if not pathlib._ignore_error(error):  # type: ignore[attr-defined]
                raise
            return 0

    def read_bytes(path: Path) -> bytes:
        try:
            name = path._str  # type: ignore[attr-defined]
        except AttributeError:
            name = str(path)
        disk.look_at(name)
        handle = open_file(name, READS)
        try:
            found = read(handle, CHUNK)
            while not len(found) % CHUNK and (more := read(handle, CHUNK)):
                found += more
            return found
        finally:
            close(handle)

    def read_text(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        return str(read_bytes(path), encoding or "utf-8", errors or "strict").replace("\r\n", "\n").replace("\r", "\n")

    def resolve_once(path: Path, strict: bool = False) -> Path:
        if strict:
            return resolve(path, strict=True)
        key = disk.folder, fspath(path)
        if (found := resolved.get(key)) is None:
            resolved[key] = found = resolve(path)
            return found
        with contextlib.suppress(OSError):  # as in pathlib's, which looks in vain
            disk.look_at(key[1])
        return found

    once = functools.lru_cache(1 << 14)
    return [
        (PurePath, "__truediv__", once(PurePath.__truediv__)), (PurePath, "joinpath", once(PurePath.joinpath)),
        (PurePath, "with_name", once(PurePath.with_name)), (PurePath, "__fspath__", fspath),
        (Path, "__new__", make), (Path, "stat", stat), (Path, "exists", lambda path: mode(path) > 0),
        (Path, "is_dir", lambda path: S_ISDIR(mode(path))), (Path, "read_bytes", read_bytes),
        (Path, "read_text", read_text), (Path, "resolve", resolve_once),
    ]  # fmt: skip
