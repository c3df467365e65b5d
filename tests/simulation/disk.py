"""The disk below the world's folder, which is one in memory: every call of it is a point, and may fail.

Files have the times of the world's clock, not of the host whose process writes them, as on a file server."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import itertools
import os
import sqlite3
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from os import fspath
from types import SimpleNamespace
from typing import Any

from simulation.kernel import Kernel, Process

# Each call, and whether it writes.
CALLS = {
    "open": False, "replace": True, "rename": True, "link": True, "symlink": True, "unlink": True, "remove": True,
    "mkdir": True, "rmdir": True, "listdir": False, "scandir": False, "stat": False, "chmod": True,
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR
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

    def __init__(self) -> None:
        self.kernel: Kernel | None = None  # of the world there is
        self.folder = "/nowhere"
        self.written: Callable[[str], None]  # told of each file that has got its name
        self.read_only: Callable[[Process], bool]
        self.failed: Callable[[Process, str], None]
        self._real = {name: getattr(os, name) for name in CALLS}
        self._open, self._fsync, self._access = builtins.open, os.fsync, os.access
        self.connections, self._drafts = Connections(self.check), itertools.count()

    def replacements(self) -> list[tuple[Any, str, Any]]:
        """Object, name of the attribute, what stands there while the world runs."""
        found: list[tuple[Any, str, Any]] = [(os, name, self._wrapped(name, writes)) for name, writes in CALLS.items()]
        found.append((os, "access", self._accessible))
        found += [(builtins, "open", self._opened), (io, "open", self._opened), (os, "fsync", self._synced)]
        return found

    def look_at(self, path: str) -> None:
        """A call that reads: a point, if a simulated process makes it, and of a file of the world's."""
        kernel = self.kernel
        if kernel is not None and kernel.current is not None and (path[:1] != "/" or path.startswith(self.folder)):
            process = kernel.point()
            if process.faults:
                self.fail(process, False)

    def point(self, writes: bool) -> None:
        """A call of a simulated process."""
        assert self.kernel
        process = self.kernel.point()
        if process.faults:
            self.fail(process, writes)
        if writes and self.read_only(process):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def fail(self, process: Process, writes: bool) -> None:
        for fault in process.faults:
            if fault.comes(writes):
                self.failed(process, fault.error)
                number = NAMES[fault.error]
                raise OSError(number, os.strerror(number))

    def _wrapped(self, name: str, writes: bool) -> Callable[..., Any]:
        real = self._real[name]
        opens, dated = name == "open", name in ("replace", "rename", "link")

        def call(path: Any = ".", *rest: Any, **options: Any) -> Any:
            kernel = self.kernel
            if kernel is None or kernel.current is None:
                return real(path, *rest, **options)
            if type(path) is not str:
                path = path if type(path) is int else fspath(path)
            if type(path) is not str or (path[:1] == "/" and not path.startswith(self.folder)):
                return real(path, *rest, **options)
            self.point(writes or (opens and bool(rest and rest[0] & WRITES)))
            made = real(path, *rest, **options)
            if dated:
                self.written(os.fspath(rest[0]))
                os.utime(rest[0], (kernel.now, kernel.now))
            return made

        return call

    def _opened(self, path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        kernel = self.kernel
        if kernel is None or kernel.current is None:
            return self._open(path, mode, *rest, **options)
        if type(path) is int or (path := fspath(path))[:1] == "/" and not path.startswith(self.folder):
            return self._open(path, mode, *rest, **options)
        self.point("w" in mode or "x" in mode or "a" in mode)
        return self._open(path, mode, *rest, **options)

    def _accessible(self, path: Any, mode: int, **options: Any) -> bool:
        kernel = self.kernel
        if kernel and kernel.current and mode & os.W_OK and self.read_only(kernel.current.process):
            return False
        return self._access(path, mode, **options)

    def _synced(self, handle: int) -> None:
        """The disk in memory is never behind; what would not have gone to the disk fails here."""
        kernel = self.kernel
        if kernel is None or kernel.current is None:
            self._fsync(handle)
        else:
            self.point(True)

    # -- what modules of the product are given in the place of Python's

    def tempfile(self) -> Any:
        def mkstemp(**options: Any) -> tuple[int, str]:
            kernel = self.kernel
            if kernel is None or kernel.current is None:
                return tempfile.mkstemp(**options)
            path = os.path.join(options["dir"], f"{options['prefix']}{next(self._drafts)}")
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.utime(handle, (kernel.now, kernel.now))
            return handle, path

        return SimpleNamespace(mkstemp=mkstemp, TemporaryFile=tempfile.TemporaryFile)

    def sqlite3(self) -> Any:
        def connect(path: Any, **options: Any) -> sqlite3.Connection:
            kernel = self.kernel
            if kernel is None or kernel.current is None:
                return sqlite3.connect(path, **options)
            try:
                self.point(False)
            except OSError as error:
                raise _in_sqlites_words(error) from None
            return self.connections.take(path, bool(options.get("uri")))

        known = {name: getattr(sqlite3, name) for name in dir(sqlite3) if not name.startswith("_")}
        return SimpleNamespace(**(known | {"connect": connect}))

    def check(self, sql: str) -> None:
        """A transaction of a simulated process begins at a point and ends at one, where the disk may be full. Raises
        sqlite3.OperationalError."""
        kernel = self.kernel
        if kernel is None or kernel.current is None:
            return
        if sql in ("BEGIN", "COMMIT"):
            try:
                self.point(sql == "COMMIT")
            except OSError as error:
                raise _in_sqlites_words(error) from None
        elif self.read_only(kernel.current.process):
            raise _in_sqlites_words(OSError(errno.EROFS, ""))


WATCHED = {"BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "CREATE", "REPLAC"}  # how statements begin


class Connections:
    """Open ledgers. One that is closed waits for the next who opens the same file; and once a world has ended, for the
    next one's ledger: what takes long is to parse a schema, and to compile statements, anew. So a new ledger has its
    tables, and its file begins as a copy of `empty`; but in some worlds (`from_nothing`) it is as SQLite makes it."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self.check = check
        self.empty = b""
        self.from_nothing = False
        self._waiting: dict[tuple[int, int], list[Connection]] = {}  # by their files
        self._spare: list[Connection] = []
        self._made = itertools.count(2)

    def take(self, path: Any, uri: bool = False) -> Connection:
        name = os.path.abspath(os.fspath(path).removeprefix("file://").removesuffix("?mode=ro"))
        file = _number(name)
        if file and self._waiting.get(file):
            return self._waiting[file].pop()
        if file is None and uri:
            raise _in_sqlites_words(FileNotFoundError(errno.ENOENT, ""))
        if file is None and not self.from_nothing:
            with contextlib.suppress(FileNotFoundError):  # its folder is gone, as SQLite will say
                if self._spare:
                    REAL_RENAME(self._spare[-1].path, name)
                    self._spare[-1].path = name
                    self._fill(name)
                    return self._spare.pop()
                self._fill(name)
        made = sqlite3.connect(name, timeout=0.05, check_same_thread=False, factory=Connection, cached_statements=1000)
        made.told = set()
        made.execute("PRAGMA synchronous = OFF")
        made.execute("PRAGMA journal_mode = MEMORY")
        made.path, made.of, made.file = name, self, _number(name)
        return made

    def _fill(self, name: str) -> None:
        """With the number of a change that no connection has seen: it forgets what it knew of the content."""
        number = struct.pack(">I", next(self._made) << 12)
        with REAL_OPEN(name, "wb") as file:
            file.write(self.empty[:24] + number + self.empty[28:92] + number + self.empty[96:])

    def give_back(self, connection: Connection) -> None:
        self._waiting.setdefault(connection.file, []).append(connection)

    def end_world(self, folder: str) -> None:
        """Its ledgers are kept for the next world, beside it."""
        for waiting in self._waiting.values():
            first = waiting[0] if waiting else None
            names = (
                [first.path, f"{folder}/output/ledger.db"] if first and first.whole and not self.from_nothing else []
            )
            name = next((name for name in names if _number(name) == first.file), None) if first else None
            if first and name and len(self._spare) < SPARE:
                waiting.pop(0)
                first.path = f"{folder}-{next(self._made)}.db"
                REAL_RENAME(name, first.path)
                self._spare.append(first)
            for connection in waiting:
                connection.end()
        self._waiting.clear()

    def end_all(self) -> None:
        for connection in self._spare:
            connection.end()
        self._spare.clear()


SPARE = 4  # ledgers that are kept for the next world


class Connection(sqlite3.Connection):
    path = ""
    told: set[str]
    has_tables = False
    file: tuple[int, int] = (0, 0)
    of: Connections | None = None

    def execute(self, sql: str, *values: Any) -> Any:
        word = sql[:6]
        if word in WATCHED and self.of:
            self.of.check(sql)
        elif word == "PRAGMA":  # said once: a flag that is set has all statements compiled anew
            if sql in self.told:
                return self.cursor()
            self.told.add(sql)
        return super().execute(sql, *values)

    def close(self) -> None:
        if self.in_transaction:
            super().execute("ROLLBACK")
        assert self.of
        self.of.give_back(self)

    @property
    def whole(self) -> bool:
        """Whether it has all tables."""
        return bool(super().execute("SELECT 1 FROM sqlite_master WHERE name = 'scores_wide'").fetchall())

    def end(self) -> None:
        super().close()


def _number(path: str) -> tuple[int, int] | None:
    """What tells a file from another that has its name later."""
    try:
        found = REAL_STAT(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


REAL_STAT, REAL_RENAME, REAL_OPEN = os.stat, os.rename, open


def _in_sqlites_words(error: OSError) -> sqlite3.OperationalError:
    words, code = {
        errno.ENOSPC: ("database or disk is full", sqlite3.SQLITE_FULL),
        errno.EROFS: ("attempt to write a readonly database", sqlite3.SQLITE_READONLY),
        errno.ENOENT: ("unable to open database file", sqlite3.SQLITE_CANTOPEN),
    }.get(error.errno or 0, ("disk I/O error", sqlite3.SQLITE_IOERR))
    told = sqlite3.OperationalError(words)
    told.sqlite_errorcode = code
    return told
