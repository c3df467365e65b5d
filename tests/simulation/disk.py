"""The disk below the world's folder, which is one in memory: every call of it is a point, and may fail.

Files have the times of the world's clock, not of the host whose process writes them, as on a file server."""

from __future__ import annotations

import builtins
import errno
import io
import os
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from simulation.kernel import Kernel, Process

# Each call, and whether it writes.
CALLS = {
    "open": False, "replace": True, "rename": True, "link": True, "symlink": True, "unlink": True, "remove": True,
    "mkdir": True, "rmdir": True, "listdir": False, "scandir": False, "stat": False, "chmod": True,
}  # fmt: skip
NAMES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "ESTALE": errno.ESTALE}


@dataclass
class DiskFault:
    """The next calls of a process fail, from one of them on."""

    error: str
    after: int  # calls that work before
    calls: int  # that fail

    def comes(self, writes: bool) -> bool:
        if self.error == "ENOSPC" and not writes:
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.calls -= 1
        return self.calls >= 0


class Disk:
    """Python's functions on files, for as long as it is `installed`."""

    def __init__(self, kernel_of: Callable[[], Kernel | None]) -> None:
        self.kernel_of = kernel_of
        self.folder = "/nowhere"
        self.written: Callable[[str], None]  # told of each file that has got its name
        self.read_only: Callable[[Process], bool]
        self.failed: Callable[[Process, str], None]
        self._real = {name: getattr(os, name) for name in CALLS}
        self._open, self._fsync, self._access = builtins.open, os.fsync, os.access

    def replacements(self) -> list[tuple[Any, str, Any]]:
        """Object, name of the attribute, what stands there while the world runs."""
        found: list[tuple[Any, str, Any]] = [(os, name, self._wrapped(name, writes)) for name, writes in CALLS.items()]
        found.append((os, "access", self._accessible))
        found += [(builtins, "open", self._opened), (io, "open", self._opened), (os, "fsync", self._synced)]
        return found

    def _ours(self, path: Any) -> bool:
        if isinstance(path, int):
            return False
        text = path if type(path) is str else os.fspath(path)
        if isinstance(text, bytes):
            return False
        return not text.startswith("/") or text.startswith(self.folder)

    def point(self, writes: bool) -> Process | None:
        kernel = self.kernel_of()
        process = kernel.point() if kernel else None
        if process and process.faults:
            self.fail(process, writes)
        if process and writes and self.read_only(process):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return process

    def fail(self, process: Process, writes: bool) -> None:
        for fault in process.faults:
            if fault.comes(writes):
                self.failed(process, fault.error)
                number = NAMES[fault.error]
                raise OSError(number, os.strerror(number))

    def _wrapped(self, name: str, writes: bool) -> Callable[..., Any]:
        real = self._real[name]
        dated = name in ("replace", "rename", "link")

        def call(path: Any = ".", *rest: Any, **options: Any) -> Any:
            kernel = self.kernel_of()
            if kernel is None or kernel.current is None or not self._ours(path):
                return real(path, *rest, **options)
            self.point(writes or (name == "open" and bool(rest and rest[0] & (os.O_WRONLY | os.O_RDWR))))
            made = real(path, *rest, **options)
            if dated:
                self.written(os.fspath(rest[0]))
                os.utime(rest[0], (kernel.now, kernel.now))
            return made

        return call

    def _opened(self, path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        kernel = self.kernel_of()
        if kernel is None or kernel.current is None or not self._ours(path):
            return self._open(path, mode, *rest, **options)
        self.point("w" in mode or "x" in mode or "a" in mode)
        return self._open(path, mode, *rest, **options)

    def _accessible(self, path: Any, mode: int, **options: Any) -> bool:
        kernel = self.kernel_of()
        if kernel and kernel.current and mode & os.W_OK and self.read_only(kernel.current.process):
            return False
        return self._access(path, mode, **options)

    def _synced(self, handle: int) -> None:
        """The disk in memory is never behind; what would not have gone to the disk fails here."""
        kernel = self.kernel_of()
        if kernel is None or kernel.current is None:
            self._fsync(handle)
        else:
            self.point(True)

    # -- what modules of the product are given in the place of Python's

    def tempfile(self) -> Any:
        def mkstemp(**options: Any) -> tuple[int, str]:
            handle, path = tempfile.mkstemp(**options)
            kernel = self.kernel_of()
            if kernel and kernel.current:
                os.utime(handle, (kernel.now, kernel.now))
            return handle, path

        return SimpleNamespace(mkstemp=mkstemp, TemporaryFile=tempfile.TemporaryFile)

    def sqlite3(self) -> Any:
        disk = self

        class Connection(sqlite3.Connection):
            """A transaction begins at a point and ends at one, where the disk may be full."""

            def execute(self, sql: str, *values: Any) -> Any:
                if sql in ("BEGIN", "COMMIT"):
                    try:
                        disk.point(sql == "COMMIT")
                    except OSError as error:
                        raise _in_sqlites_words(error) from None
                elif sql[:6].upper() in ("INSERT", "UPDATE", "DELETE", "CREATE", "REPLAC"):
                    kernel = disk.kernel_of()
                    if kernel and kernel.current and disk.read_only(kernel.current.process):
                        raise _in_sqlites_words(OSError(errno.EROFS, ""))
                return super().execute(sql, *values)

        def connect(path: Any, **options: Any) -> sqlite3.Connection:
            kernel = disk.kernel_of()
            if kernel is None or kernel.current is None:
                return sqlite3.connect(path, **options)
            try:
                disk.point(False)
            except OSError as error:
                raise _in_sqlites_words(error) from None
            connection = sqlite3.connect(path, **(options | {"timeout": 0.05}), factory=Connection)
            connection.execute("PRAGMA synchronous = OFF")
            return connection

        known = {name: getattr(sqlite3, name) for name in dir(sqlite3) if not name.startswith("_")}
        return SimpleNamespace(**(known | {"connect": connect}))


def _in_sqlites_words(error: OSError) -> sqlite3.OperationalError:
    words, code = {
        errno.ENOSPC: ("database or disk is full", sqlite3.SQLITE_FULL),
        errno.EROFS: ("attempt to write a readonly database", sqlite3.SQLITE_READONLY),
    }.get(error.errno or 0, ("disk I/O error", sqlite3.SQLITE_IOERR))
    told = sqlite3.OperationalError(words)
    told.sqlite_errorcode = code
    return told
