"""The questions about what attempts have found: scores, checks, metrics, data and code. What a report asks is answered
by the newest attempt of a stage run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from cluster.files import documents
from cluster.files.documents import OutcomeRecord
from cluster.files.records import SitedAttempt
from cluster.ledger.rows import CheckRow, DataFileRow, MetricRow, ScoreRow
from cluster.ledger.schema import digest_of_scores
from cluster.ledger.store import Store

T = TypeVar("T")
_OUTCOMES: dict[type, str] = {
    ScoreRow: "score", CheckRow: "check_result", MetricRow: "metric", DataFileRow: "data_file"
}  # fmt: skip
# What completed stage runs have read of a DATA_ROOT: builtin data has the same names, and is nobody's.
READ = (
    "data_file JOIN attempt USING (run_id, stage, number) LEFT JOIN run ON run.id = run_id "
    "WHERE status = 'completed' AND json_extract(config, '$.data.source') IS NOT 'builtin'"
)


class Results(Store):
    """The questions about what was found."""

    def put_outcome(self, run_id: str, stage: str, number: int, outcome: OutcomeRecord) -> None:
        """The scores, checks, metrics and data of a result file."""
        key = {"run_id": run_id, "stage": stage, "number": number}
        tables: dict[str, list[dict[str, Any]]] = {
            "score": [_known(score, documents.ScoreRow) for score in outcome.get("scores", [])],
            "check_result": [
                _known(check, documents.CheckRow) | {"value": str(check["value"])}
                for check in outcome.get("checks", [])
            ],
            "metric": [{"name": name, "value": str(value)} for name, value in outcome.get("metrics", {}).items()],
            "data_file": [{"file": file, "sha256": digest} for file, digest in outcome.get("data", {}).items()],
        }
        for table, rows in tables.items():
            self._insert_all(table, [key | row for row in rows], "OR REPLACE")
        digest = digest_of_scores(stage, tables["score"])
        self._execute(
            "UPDATE attempt SET scores = ? WHERE (run_id, stage, number) = (?, ?, ?)", [digest, run_id, stage, number]
        )
        if digest:
            self._execute(
                "INSERT OR IGNORE INTO identical SELECT scores FROM attempt WHERE scores = ? AND run_id != ?",
                [digest, run_id],
            )

    def scores(self) -> Iterator[ScoreRow]:
        """Yield the scores of the newest attempt of every completed stage run: run_id, stage, number, task, metric,
        value, n. Thousands of runs have hundreds of thousands."""
        yield from self.db.query(_completed("score"))

    def metrics(self, *names: str) -> Iterator[MetricRow]:
        """Yield the metrics of the newest attempt of every completed stage run: run_id, stage, number, name, value;
        all, or these."""
        chosen = f"AND name IN ({', '.join('?' * len(names))}) " if names else ""
        yield from self.db.query(_completed("metric", chosen), names)

    def bare(self, kind: type[ScoreRow | MetricRow]) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Return the columns of `scores` or `metrics`, the run's id first, and their rows as bare values: of hundreds
        of thousands in two thirds of the time."""
        found = self.db.execute(_completed(_OUTCOMES[kind]))
        return [column for column, *_ in found.description], iter(found)

    def outcomes_of(self, kind: type[T], run_ids: Iterable[str]) -> list[T]:
        """Return what the newest attempt of every stage run of these runs has told, whatever became of it: scores,
        checks, metrics or data files."""
        table = _OUTCOMES[kind]
        return list(
            self.db.query(
                f"SELECT * FROM {table} WHERE run_id IN (SELECT value FROM json_each(?)) AND number = "
                f"(SELECT max(number) FROM attempt WHERE (run_id, stage) = ({table}.run_id, {table}.stage) "
                f"AND status != 'void') ORDER BY {table}.rowid",
                [json.dumps(sorted(set(run_ids)))],
            )
        )

    def attempts_of(self, run_ids: Iterable[str]) -> list[SitedAttempt]:
        """Every attempt of these runs, a stage's oldest first, each with its submission's site; void ones are left
        out."""
        return list(
            self.db.query(
                "SELECT attempt.*, site FROM attempt LEFT JOIN submission USING (submission_id) "
                "WHERE run_id IN (SELECT value FROM json_each(?)) AND status != 'void' ORDER BY number",
                [json.dumps(sorted(set(run_ids)))],
            )
        )

    def failed_checks(self) -> list[CheckRow]:
        """Return the failed checks of the newest attempt of every stage run, in the order of the runs: that is the same
        in a ledger that was rebuilt."""
        return list(
            self.db.query(
                "SELECT check_result.* FROM check_result JOIN run ON run.id = run_id WHERE NOT passed AND number = "
                "(SELECT max(number) FROM attempt WHERE (run_id, stage) = (check_result.run_id, check_result.stage) "
                "AND status != 'void') ORDER BY run.rowid, stage, +check_result.rowid"
            )
        )

    def identical_scores(self) -> list[tuple[str, list[str]]]:
        """Groups of runs whose scores at a stage are the same to the last digit, with the stage: one model trained
        twice under two names, or scores that do not depend on the model. Runs that differ only in their evaluation,
        or in which weights they keep on the way, are one training and may have them."""
        rows = self.db.query(
            "SELECT scores, stage, run_id, config FROM identical CROSS JOIN attempt USING (scores) "
            "JOIN run ON id = run_id WHERE status = 'completed' ORDER BY attempt.rowid"
        )
        groups: dict[tuple[str, str], dict[str, str]] = {}  # (digest, stage) -> run id -> how it was trained
        for row in rows:
            config = json.loads(row["config"])
            train = {key: value for key, value in (config.get("train") or {}).items() if key != "anchors"}
            trained = json.dumps({**config, "train": train, "evaluation": None}, sort_keys=True)
            groups.setdefault((row["scores"], row["stage"]), {})[row["run_id"]] = trained
        return [(stage, list(runs)) for (_, stage), runs in groups.items() if len(set(runs.values())) > 1]

    def code_versions(self) -> dict[str, int]:
        """Digest of the science's source -> stage runs whose newest attempt was completed with it; empty if all are of
        one."""
        # From one version to the next along the index: counting is for the few ledgers that have several.
        versions = self.db.query(
            "WITH RECURSIVE version(code) AS (SELECT min(code) FROM attempt UNION ALL "
            "SELECT (SELECT min(code) FROM attempt WHERE attempt.code > version.code) FROM version "
            "WHERE version.code IS NOT NULL) SELECT code FROM version WHERE code IS NOT NULL"
        )
        if len(list(versions)) < 2:
            return {}
        rows = self.db.query(
            "SELECT code, count(*) AS runs FROM newest_attempt WHERE code IS NOT NULL AND status = 'completed' "
            "GROUP BY code"
        )
        counted = {row["code"]: row["runs"] for row in rows}
        return counted if len(counted) > 1 else {}

    def first_read(self, files: Iterable[str]) -> dict[str, str]:
        """Data file -> the SHA-256 that the first completed stage run which read it has told of."""
        rows = self.db.query(
            f"SELECT file, sha256, min(data_file.rowid) FROM {READ} "
            "AND file IN (SELECT value FROM json_each(?)) GROUP BY file",
            [json.dumps(list(files))],
        )
        return {row["file"]: row["sha256"] for row in rows}

    def runs_that_read(self, file: str) -> int:
        """How many runs have a completed stage that read this data file."""
        rows = self.db.query(f"SELECT count(DISTINCT run_id) AS runs FROM {READ} AND file = ?", [file])
        return int(next(iter(rows))["runs"])


def _completed(table: str, chosen: str = "") -> str:
    return (
        f"SELECT {table}.* FROM {table} JOIN newest_attempt USING (run_id, stage, number) "
        f"WHERE newest_attempt.status = 'completed' {chosen}ORDER BY {table}.rowid"
    )


def _known(row: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The fields that have a column: a file of a later version may have others."""
    return {name: row[name] for name in kind.__required_keys__ if name in row}
