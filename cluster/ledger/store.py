"""The ledger's file is opened here, for transactions that write anew the status of every stage run that they touch.

One writer, who holds `ledger.lock`; a rollback journal, since SQLite's WAL does not work over a network."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from cluster.errors import OldLedger
from cluster.files import own_stages, whole_files
from cluster.files.folders import OutputRoot
from cluster.files.records import AttemptRow
from cluster.files.statuses import STUCK, StageStatus
from cluster.ledger.rows import StageRow
from cluster.ledger.schema import SPENT, migrate, without_modules
from tiny_transformers.settings.stages import STAGES

with without_modules("pandas", "numpy"):
    from sqlite_utils import Database

NONE: Mapping[str, Sequence[StageStatus]] = {}
CACHE = 64 * 1024  # KiB of a ledger's pages that are kept in memory, at most


def may_not_write(error: Exception) -> bool:
    """Whether it says that this user, or anybody from here, may only read."""
    if isinstance(error, sqlite3.OperationalError):
        return _primary(error) == sqlite3.SQLITE_READONLY
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def is_spoilt(error: sqlite3.DatabaseError) -> bool:
    """Whether it says that the ledger's content is not a ledger's: not that it could not be read or written."""
    return _primary(error) not in (
        sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
    )  # fmt: skip


def _primary(error: sqlite3.Error) -> int:
    """SQLite's code, without what its higher bits add. One that Python itself raised has none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def in_the_systems_words(path: Path) -> Iterator[None]:
    """Raise OSError where SQLite says no more than that it could not read the ledger `path`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if _primary(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            whole_files.read(path)
        raise


def _database(connection: sqlite3.Connection) -> Database:
    """Without plugins: all installed packages' metadata would be read for them, and none is to change a ledger."""
    return Database(connection, execute_plugins=False)


class Store:
    """An open ledger, with the stages of users' own known that its runs have. To read only, it raises OldLedger for one
    that it would have to change."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        own_stages.load(OutputRoot(path.parent))
        if read_only:
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
            if migrate.pending(_database(connection)):
                connection.close()
                raise OldLedger(
                    f"{path}: was made by an older version. The next command that holds it brings it up to date."
                )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=30)
        # A run's rows lie anywhere in an index: of 10,000 runs too many pages for SQLite's usual 2 MB.
        connection.execute(f"PRAGMA cache_size = -{CACHE}")
        self.db = _database(connection)
        self._inside = False  # a transaction
        self._touched: set[str] = set()  # runs whose statuses it has to write anew
        self._changed: set[str] = set()  # submissions whose hours it has to sum anew
        if not read_only:
            with self.transaction():  # all or none; and a disk is waited for once
                migrate.apply(self.db)
                self._touched |= {row["id"] for row in self.db.query("SELECT id FROM run WHERE statuses IS NULL")}
        self._check_stages(path)

    def _check_stages(self, path: Path) -> None:
        """Raises TornFile where it has attempts of a stage that nothing defines any more."""
        for row in self.db.query("SELECT DISTINCT stage FROM attempt"):
            if (stage := row["stage"]) not in STAGES:
                self.close()
                raise whole_files.TornFile(
                    f"{path.parent / 'stages' / stage}.json: is gone, and {path} has attempts of this stage. `submit` "
                    "the manifest that defines it, which writes the file again; `ledger rebuild` leaves its runs out."
                )

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        if self._inside:
            yield
            return
        self._inside = True
        try:
            with self.db.atomic():
                yield
                self._write_statuses(self._touched)
                self._write_hours(self._changed)
        finally:
            self._inside = False
            self._touched.clear()
            self._changed.clear()

    def _execute(self, statement: str, values: Sequence[Any] | dict[str, Any]) -> None:
        with self.transaction():
            self.db.execute(statement, values)

    def _insert(self, table: str, row: Mapping[str, Any], conflict: str = "") -> None:
        self._insert_all(table, [row], conflict)

    def _insert_all(self, table: str, rows: Sequence[Mapping[str, Any]], conflict: str = "") -> None:
        """Insert rows that have the columns of the first."""
        if not rows:
            return
        names = list(rows[0])
        statement = f"INSERT {conflict} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        with self.transaction():
            self.db.conn.executemany(statement, ([row[name] for name in names] for row in rows))

    def _write_statuses(self, run_ids: Collection[str]) -> None:
        """Write those that have changed, and then those of the runs that need these. Runs that are alike are looked at
        once."""
        if not run_ids:
            return
        wanted = json.dumps(sorted(run_ids))
        which = "IN (SELECT value FROM json_each(?))"
        newest: dict[str, dict[str, str]] = {}
        rows = self.db.execute(
            f"SELECT run_id, stage, status, progress FROM attempt WHERE run_id {which} AND status != 'void' "
            "ORDER BY number",
            [wanted],
        )
        for run_id, stage, status, progress in rows:
            newest.setdefault(run_id, {})[stage] = standing(status, progress)
        others = self._of_others(run_ids)
        known: dict[Any, str] = {}
        changed = []
        for run_id, stages, before in self.db.execute(
            f"SELECT id, stages, statuses FROM run WHERE id {which}", [wanted]
        ):
            of_run, needed = newest.get(run_id, {}), others.get(run_id, {})
            alike = stages, frozenset(of_run.items()), json.dumps(needed)
            if alike not in known:
                known[alike] = ",".join(stage_statuses(json.loads(stages), of_run, needed).values())
            if known[alike] != before:
                changed.append((known[alike], run_id))
        self.db.conn.executemany("UPDATE run SET statuses = ? WHERE id = ?", changed)
        told = json.dumps([run_id for _, run_id in changed])
        self._write_statuses(
            [row[0] for row in self.db.execute(f"SELECT DISTINCT run_id FROM need WHERE needed_run {which}", [told])]
        )

    def _write_hours(self, submission_ids: Iterable[str]) -> None:
        """Sum those of each of these submissions that is done."""
        statement = f"UPDATE submission SET spent = ({SPENT}) WHERE submission_id = ? AND state = 'done'"
        self.db.conn.executemany(statement, [(each,) for each in sorted(submission_ids)])

    def _of_others(self, run_ids: Collection[str] | None) -> dict[str, dict[str, list[StageStatus]]]:
        """Run id -> stage -> the statuses of the stage runs of other runs that it needs; of all runs, or of these. One
        that is not known, as its files are gone, is waited for."""
        which, values = "", []
        if run_ids is not None:
            which, values = "WHERE run_id IN (SELECT value FROM json_each(?))", [json.dumps(sorted(run_ids))]
        found: dict[str, dict[str, list[StageStatus]]] = {}
        rows = self.db.execute(
            "SELECT run_id, stage, needed, stages, statuses FROM need LEFT JOIN run ON run.id = needed_run "
            f"{which} ORDER BY need.rowid",
            values,
        )
        for run_id, stage, needed, stages, statuses in rows:
            of_other = dict(zip(json.loads(stages or "[]"), (statuses or "").split(","), strict=False))
            found.setdefault(run_id, {}).setdefault(stage, []).append(of_other.get(needed) or "waiting")
        return found

    def remember(self, key: str, value: str) -> None:
        self._insert("meta", {"key": key, "value": value}, "OR REPLACE")

    def recall(self, key: str) -> str | None:
        row = next(iter(self.db.query("SELECT value FROM meta WHERE key = ?", [key])), None)
        return row["value"] if row else None


def stage_runs(
    stages: Sequence[str], newest: Mapping[str, AttemptRow], others: Mapping[str, Sequence[StageStatus]] = NONE
) -> dict[str, StageRow]:
    """Each stage run with its status, and what its newest attempt that is not void says."""
    views: dict[str, StageRow] = {}
    standings = {stage: standing(row["status"], row["progress"]) for stage, row in newest.items()}
    for stage, status in stage_statuses(stages, standings, others).items():
        attempt = newest.get(stage)
        views[stage] = {
            "status": status,
            "cause": attempt["cause"] if attempt else None,
            "attempts": attempt["number"] if attempt else 0,
            "job": attempt["job"] if attempt else None,
        }
    return views


def stage_statuses(
    stages: Sequence[str], newest: Mapping[str, str], others: Mapping[str, Sequence[StageStatus]] = NONE
) -> dict[str, StageStatus]:
    """The status of each stage run, first match wins: completed, running, submitted, failed, blocked, eligible,
    waiting. `newest`: stage -> `standing` of its newest attempt that is not void; `others`: stage -> how far the stage
    runs of other runs are that it needs."""
    statuses: dict[str, StageStatus] = {}
    for stage in stages:
        known = STAGES[stage].needs if stage in STAGES else ()  # of another version
        needs = [*(statuses[need] for need in known if need in statuses), *others.get(stage, ())]
        if stage in newest:
            statuses[stage] = cast(StageStatus, newest[stage])
        elif any(need in STUCK for need in needs):
            statuses[stage] = "blocked"
        else:
            statuses[stage] = "eligible" if all(need == "completed" for need in needs) else "waiting"
    return statuses


def standing(status: str, progress: str | None) -> str:
    """The status of an attempt, but submitted if it has begun and its job waits again by SLURM's last answer."""
    waits_again = status == "running" and "waits_for" in json.loads(progress or "{}")
    return "submitted" if waits_again else status


def listed(words: Iterable[str]) -> str:
    """Write words as a list of SQL's."""
    return f"({', '.join(map(repr, words))})"
