"""The disk below the world's folder, which is one in memory: every call of it is a point, and may fail.

Files have the times of the world's clock, not of the host whose process writes them, as on a file server."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Sequence
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
        def connect(path: Any, **options: Any) -> Any:
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
READING = {"SELECT", "WITH c", "PRAGMA"}


class Connections:
    """Open ledgers, each with one connection, which all have that open it: alone with its file it need not look at it
    again. Whoever reads while another is within a transaction reads what is on disk, as SQLite's locks let it.

    A ledger that a world leaves is emptied for the next: what takes long is to parse a schema, and to compile
    statements, anew. So a new ledger has its tables; but in some worlds (`from_nothing`) it is as SQLite makes it."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self.check = check
        self.statements: list[str] = []  # that make an empty ledger
        self.from_nothing = False
        self.beside = ""  # how names of files begin that outlive a world
        self._ledgers: dict[tuple[int, int], Ledger] = {}  # by their files
        self._spare: list[Ledger] = []
        self._made = itertools.count()

    def take(self, path: Any, uri: bool = False) -> Connection:
        """Raises sqlite3.OperationalError."""
        name = os.path.abspath(os.fspath(path).removeprefix("file://").removesuffix("?mode=ro"))
        file = _number(name)
        ledger = self._ledgers.get(file) if file else None
        if ledger is None:
            if file is None and uri:
                raise _in_sqlites_words(FileNotFoundError(errno.ENOENT, ""))
            ledger = self._new(name) if file is None else Ledger(name)
            self._ledgers[ledger.file] = ledger
        return Connection(ledger, self.check)

    def _new(self, name: str) -> Ledger:
        folder = os.path.dirname(name)
        if self.from_nothing or not os.path.isdir(folder):  # as SQLite will say
            return Ledger(name)
        if not self._spare:
            self._spare.append(made := Ledger(f"{self.beside}-{next(self._made)}.db"))
            made.main.executescript(";".join(self.statements))
            made.has_tables = True
        ledger = self._spare.pop()
        REAL_LINK(ledger.path, name)
        return ledger

    def end_world(self) -> None:
        """Its ledgers are kept for the next world, beside it, also those that it has removed."""
        for ledger in self._ledgers.values():
            if os.path.dirname(ledger.path) != os.path.dirname(self.beside):
                ledger.end()
            else:
                ledger.empty([text for text in self.statements if text.startswith("INSERT")])
                self._spare.append(ledger)
        self._ledgers.clear()

    def end_all(self) -> None:
        for ledger in self._spare:
            ledger.end()
        self._spare.clear()


class Ledger:
    """A file, and the one connection to it."""

    def __init__(self, path: str) -> None:
        self.main = sqlite3.connect(path, check_same_thread=False, cached_statements=1000)
        for told in ("locking_mode = EXCLUSIVE", "synchronous = OFF", "journal_mode = MEMORY", "cache_spill = OFF"):
            self.main.execute(f"PRAGMA {told}")
        self._read = REAL_OPEN(path, "rb")  # also once it is removed
        self.path = path
        self.file = _number(path) or (0, 0)
        self.has_tables = False
        self.holder: Connection | None = None  # who is within a transaction

    def empty(self, first: Sequence[str]) -> None:
        """As if it were new, with these rows."""
        if self.main.in_transaction:
            self.main.execute("ROLLBACK")
        self.holder = None
        self.main.execute("BEGIN")
        for (name,) in self.main.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            self.main.execute(f"DELETE FROM {name}")
        for text in first:
            self.main.execute(text)
        self.main.execute("COMMIT")

    def on_disk(self) -> sqlite3.Connection:
        """What others see of it while its holder is within a transaction."""
        seen = sqlite3.connect(":memory:")
        self._read.seek(0)
        if content := self._read.read():
            seen.deserialize(content)
        return seen

    def end(self) -> None:
        self.main.close()
        self._read.close()


class Connection:
    """What a process has that has opened a ledger."""

    def __init__(self, ledger: Ledger, check: Callable[[str], None]) -> None:
        self.ledger, self._check = ledger, check

    @property
    def in_transaction(self) -> bool:
        return self.ledger.holder is self

    def execute(self, sql: str, *values: Any) -> Any:
        word, ledger = sql[:6], self.ledger
        if word == "PRAGMA":  # of how it is kept in memory
            return ledger.main.cursor()
        if word in WATCHED:
            self._check(sql)
        if ledger.holder not in (None, self):
            if word in WATCHED:
                raise _in_sqlites_words(OSError(errno.EBUSY, ""))
            return ledger.on_disk().execute(sql, *values)
        found = ledger.main.execute(sql, *values)
        if word not in READING:
            ledger.holder = self if ledger.main.in_transaction else None
        return found

    def executemany(self, sql: str, rows: Iterable[Any]) -> Any:
        assert self.in_transaction
        return self.ledger.main.executemany(sql, rows)

    def close(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")


def _number(path: str) -> tuple[int, int] | None:
    """What tells a file from another that has its name later."""
    try:
        found = REAL_STAT(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def remove(folder: str) -> None:
    """As shutil.rmtree, which takes three times as long, and is a twentieth of a walk."""
    with REAL_SCANDIR(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                remove(entry.path)
            else:
                REAL_UNLINK(entry.path)
    REAL_RMDIR(folder)


REAL_STAT, REAL_LINK, REAL_OPEN = os.stat, os.link, open
REAL_SCANDIR, REAL_UNLINK, REAL_RMDIR = os.scandir, os.unlink, os.rmdir


def _in_sqlites_words(error: OSError) -> sqlite3.OperationalError:
    words, code = {
        errno.ENOSPC: ("database or disk is full", sqlite3.SQLITE_FULL),
        errno.EROFS: ("attempt to write a readonly database", sqlite3.SQLITE_READONLY),
        errno.ENOENT: ("unable to open database file", sqlite3.SQLITE_CANTOPEN),
        errno.EBUSY: ("database is locked", sqlite3.SQLITE_BUSY),
    }.get(error.errno or 0, ("disk I/O error", sqlite3.SQLITE_IOERR))
    told = sqlite3.OperationalError(words)
    told.sqlite_errorcode = code
    return told
