"""The ledger: every run, stage run, attempt, submission and score, in SQLite. The only module with SQL.

A view of the files: delete it and `rebuild` makes it again. One writer, who holds `ledger.lock`; a rollback journal,
since SQLite's WAL does not work over a network."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import rundir
from cluster.errors import LedgerBusy
from cluster.plan import Run, StageState
from tiny_transformers.config import NEEDS, RunConfig


@contextmanager
def _without(*modules: str) -> Iterator[None]:
    """sqlite-utils imports pandas and numpy where they are installed: 0.3 s that no command here needs."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _without("pandas", "numpy"):
    from sqlite_utils import Database, Migrations

migrate = Migrations("tiny-transformers")


@migrate()
def m001_first(db: Database) -> None:
    db.table("run").create(
        {"id": str, "name": str, "parameters": int, "config": str, "stages": str, "created": str}, pk="id"
    )
    db.table("study_run").create(
        {"study": str, "run_id": str}, pk=("study", "run_id"), foreign_keys=[("run_id", "run")]
    )
    db.table("submission").create(
        # state: intended (sbatch may know it or not), submitted, done, refused (sbatch said no), void (proven absent)
        {"token": str, "created": str, "scheduler": str, "site": str, "state": str, "job_id": str, "data_root": str},
        pk="token",
    )
    db.table("attempt").create(
        # status: submitted, running, completed, failed, void (its pack ended before it was this stage's turn)
        {"run_id": str, "stage": str, "number": int, "token": str, "task": int, "status": str, "cause": str,
         "message": str, "job": str, "host": str, "started": float, "ended": float, "progress": str},
        pk=("run_id", "stage", "number"), foreign_keys=[("run_id", "run")],
    )  # fmt: skip
    db.table("attempt").create_index(["token"])
    db.table("attempt").create_index(["status"])
    db.table("score").create(
        {"run_id": str, "stage": str, "number": int, "task": str, "metric": str, "value": float, "n": int},
        pk=("run_id", "stage", "number", "task", "metric"),
    )
    db.table("check_result").create(
        {"run_id": str, "stage": str, "number": int, "name": str, "passed": int, "blocking": int, "value": str},
        pk=("run_id", "stage", "number", "name"),
    )
    db.table("metric").create(
        {"run_id": str, "stage": str, "number": int, "name": str, "value": str},
        pk=("run_id", "stage", "number", "name"),
    )
    db.table("data_file").create(
        {"run_id": str, "stage": str, "number": int, "file": str, "sha256": str},
        pk=("run_id", "stage", "number", "file"),
    )
    db.table("meta").create({"key": str, "value": str}, pk="key")
    # The newest attempt that says anything; a stage run without one has none here.
    db.create_view(
        "newest_attempt",
        "SELECT * FROM (SELECT attempt.*, row_number() OVER (PARTITION BY run_id, stage ORDER BY number DESC) AS place "
        "FROM attempt WHERE status != 'void') WHERE place = 1",
    )


class Ledger:
    """An open ledger. Rows are dictionaries."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        if read_only:
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=30)
        self.db = Database(connection)
        if not read_only:
            migrate.apply(self.db)

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        with self.db.atomic():
            yield

    # runs

    def record_runs(self, runs: Iterable[Run], created: str) -> None:
        """Add what is new; a known run keeps its row and gains stages and studies."""
        for run in runs:
            known = next(iter(self.db.query("SELECT stages FROM run WHERE id = ?", [run.id])), None)
            stages = run.stages
            if known:
                stages = tuple(dict.fromkeys((*json.loads(known["stages"]), *stages)))
                self.db.table("run").update(run.id, {"stages": json.dumps(stages)})
            else:
                self.db.table("run").insert(
                    {"id": run.id, "name": run.name, "parameters": run.parameters, "created": created,
                     "config": run.config.model_dump_json(), "stages": json.dumps(stages)}
                )  # fmt: skip
            for study in run.studies:
                self.db.table("study_run").insert({"study": study, "run_id": run.id}, ignore=True)

    def runs(self, ids: Sequence[str] | None = None) -> list[Run]:
        """In the order in which they were recorded."""
        studies: dict[str, list[str]] = {}
        for row in self.db.query("SELECT study, run_id FROM study_run ORDER BY rowid"):
            studies.setdefault(row["run_id"], []).append(row["study"])
        return [
            Run(row["id"], row["name"], RunConfig.model_validate_json(row["config"]),
                tuple(json.loads(row["stages"])), tuple(studies.get(row["id"], ())))
            for row in self.db.query("SELECT * FROM run ORDER BY rowid")
            if ids is None or row["id"] in ids
        ]  # fmt: skip

    def overview(self) -> list[dict[str, Any]]:
        """Per run: run_id, name, parameters, studies, and per stage its status, cause, attempts, job. No settings are
        parsed, so that a status of many runs is quick."""
        studies: dict[str, list[str]] = {}
        for row in self.db.query("SELECT study, run_id FROM study_run ORDER BY rowid"):
            studies.setdefault(row["run_id"], []).append(row["study"])
        newest: dict[str, dict[str, dict[str, Any]]] = {}
        for row in self.db.query("SELECT * FROM newest_attempt"):
            newest.setdefault(row["run_id"], {})[row["stage"]] = row
        return [
            {"run_id": row["id"], "name": row["name"], "parameters": row["parameters"],
             "studies": studies.get(row["id"], []),
             "stages": _stage_runs(json.loads(row["stages"]), newest.get(row["id"], {}))}
            for row in self.db.query("SELECT id, name, parameters, stages FROM run ORDER BY rowid")
        ]  # fmt: skip

    def states(self) -> dict[str, dict[str, StageState]]:
        """run id -> stage -> what the planner must know; attempt numbers count void ones too."""
        highest = {
            (row["run_id"], row["stage"]): row["number"]
            for row in self.db.query("SELECT run_id, stage, max(number) AS number FROM attempt GROUP BY run_id, stage")
        }
        return {
            run["run_id"]: {
                stage: StageState(view["status"], highest.get((run["run_id"], stage), 0))
                for stage, view in run["stages"].items()
            }
            for run in self.overview()
        }

    # submissions and attempts

    def record_submission(self, row: dict[str, Any], attempts: Iterable[dict[str, Any]]) -> None:
        self.db.table("submission").insert(row, ignore=True)
        self.db.table("attempt").insert_all(
            (_BLANK_ATTEMPT | {"token": row["token"], "status": "submitted"} | attempt for attempt in attempts),
            ignore=True,
        )

    def update_submission(self, token: str, **values: Any) -> None:
        self.db.table("submission").update(token, values)

    def open_submissions(self) -> list[dict[str, Any]]:
        """Those of which something may still happen."""
        return list(self.db.query("SELECT * FROM submission WHERE state IN ('intended', 'submitted') ORDER BY created"))

    def submissions(self) -> list[dict[str, Any]]:
        return list(self.db.query("SELECT * FROM submission ORDER BY created"))

    def packs(self, token: str) -> int:
        """How many packs a submission has."""
        (row,) = self.db.query("SELECT count(DISTINCT task) AS packs FROM attempt WHERE token = ?", [token])
        return int(row["packs"])

    def open_attempts(self, token: str) -> list[dict[str, Any]]:
        """In the order of their pack, run and stage."""
        return list(
            self.db.query("SELECT * FROM attempt WHERE token = ? AND status IN ('submitted', 'running') "
                          "ORDER BY task, rowid", [token])
        )  # fmt: skip

    def attempts_of(self, run_id: str, token: str) -> list[dict[str, Any]]:
        """Of one run in one submission, oldest first."""
        return list(
            self.db.query("SELECT * FROM attempt WHERE run_id = ? AND token = ? ORDER BY number", [run_id, token])
        )

    def attempt(self, run_id: str, stage: str, number: int) -> dict[str, Any] | None:
        rows = self.db.query(
            "SELECT * FROM attempt WHERE run_id = ? AND stage = ? AND number = ?", [run_id, stage, number]
        )
        return next(iter(rows), None)

    def newest_attempts(self) -> list[dict[str, Any]]:
        return list(self.db.query("SELECT * FROM newest_attempt ORDER BY rowid"))

    def put_attempt(self, run_id: str, stage: str, number: int, **values: Any) -> None:
        key = {"run_id": run_id, "stage": stage, "number": number}
        known = self.attempt(run_id, stage, number)
        self.db.table("attempt").upsert((known or _BLANK_ATTEMPT | key) | values, pk=("run_id", "stage", "number"))

    def put_outcome(self, run_id: str, stage: str, number: int, outcome: dict[str, Any]) -> None:
        """The scores, checks, metrics and data of a result file."""
        key = {"run_id": run_id, "stage": stage, "number": number}
        tables = {
            "score": outcome.get("scores", []),
            "check_result": [check | {"value": str(check["value"])} for check in outcome.get("checks", [])],
            "metric": [{"name": name, "value": str(value)} for name, value in outcome.get("metrics", {}).items()],
            "data_file": [{"file": file, "sha256": digest} for file, digest in outcome.get("data", {}).items()],
        }
        for table, rows in tables.items():
            self.db.table(table).insert_all((key | row for row in rows), replace=True)

    # what others read

    def remember(self, key: str, value: str) -> None:
        self.db.table("meta").upsert({"key": key, "value": value}, pk="key")

    def recall(self, key: str) -> str | None:
        row = next(iter(self.db.query("SELECT value FROM meta WHERE key = ?", [key])), None)
        return row["value"] if row else None

    def scores(self) -> list[dict[str, Any]]:
        """Of the newest attempt of every completed stage run: run_id, stage, number, task, metric, value, n."""
        return list(
            self.db.query(
                "SELECT score.* FROM score JOIN newest_attempt USING (run_id, stage, number) "
                "WHERE newest_attempt.status = 'completed' ORDER BY score.rowid"
            )
        )

    def failed_checks(self) -> list[dict[str, Any]]:
        return list(
            self.db.query(
                "SELECT check_result.* FROM check_result JOIN newest_attempt USING (run_id, stage, number) "
                "WHERE NOT passed ORDER BY check_result.rowid"
            )
        )

    def measured_seconds(self, site: str) -> list[tuple[str, str, float]]:
        """(run id, stage, seconds) of every completed attempt on this site."""
        rows = self.db.query(
            "SELECT run_id, stage, ended - started AS seconds FROM attempt JOIN submission USING (token) "
            "WHERE attempt.status = 'completed' AND submission.site = ?",
            [site],
        )
        return [(row["run_id"], row["stage"], row["seconds"]) for row in rows]


_BLANK_ATTEMPT: dict[str, Any] = dict.fromkeys(
    ("token", "task", "status", "cause", "message", "job", "host", "started", "ended", "progress")
)


def _stage_runs(stages: Sequence[str], newest: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The status of each stage run, first match wins: completed, running, submitted, failed, blocked, eligible,
    waiting."""
    views: dict[str, dict[str, Any]] = {}
    for stage in stages:
        attempt = newest.get(stage)
        needs = [views[need]["status"] for need in NEEDS[stage] if need in views]
        if attempt:
            status = attempt["status"]
        elif any(need in ("failed", "blocked") for need in needs):
            status = "blocked"
        else:
            status = "eligible" if all(need == "completed" for need in needs) else "waiting"
        views[stage] = {
            "status": status,
            "cause": attempt["cause"] if attempt else None,
            "attempts": attempt["number"] if attempt else 0,
            "job": attempt["job"] if attempt else None,
        }
    return views


# -- the lock ---------------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, *, wait: float = 60.0) -> Iterator[None]:
    """Hold the lock file `path`. A lock whose process has died on this host is taken over; on another host that
    cannot be known, so it is waited for.

    Raises LedgerBusy after `wait` seconds, naming the holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "start": rundir.process_start(os.getpid())}
    deadline = time.monotonic() + wait
    while not rundir.create_json(path, mine):
        _break_if_dead(path)
        if time.monotonic() > deadline:
            raise LedgerBusy(_busy(path))
        time.sleep(0.05)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        return rundir.read_json(path)
    except rundir.TornFile:  # being written this moment, or its writer died in that moment
        return None


def _break_if_dead(path: Path) -> None:
    holder = _holder(path)
    if holder is None or rundir.is_alive(holder) is not False:
        return
    # Two commands may see the same dead holder: the one whose rename succeeds removes it, and only if it is still
    # that holder's; otherwise it is put back.
    grave = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    if _holder(grave) == holder:
        grave.unlink()
    else:
        os.rename(grave, path)


def _busy(path: Path) -> str:
    holder = _holder(path) or {"host": "unknown", "pid": "unknown"}
    return (
        f"{path}: another command holds the ledger: process {holder['pid']} on {holder['host']}. Wait for it; if that "
        "machine has died, remove the file."
    )
