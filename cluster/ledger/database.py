"""The ledger: every run, stage run, attempt, submission and score, in SQLite. The only module with SQL.

A view of the files: delete it and `rebuild` makes it again. One writer, who holds `ledger.lock`; a rollback journal,
since SQLite's WAL does not work over a network."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, get_args

from cluster.errors import OldLedger
from cluster.files.documents import CheckRow, OutcomeRecord, ScoreRow
from cluster.files.records import Run, StageState
from cluster.files.statuses import GIVEN_UP, LIVE, OPEN, STUCK, TAKEN, TRIED, AttemptStatus, Ended, StageStatus
from cluster.ledger.schema import SPENT, digest_of_scores, migrate, without_modules
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES

with without_modules("pandas", "numpy"):
    from sqlite_utils import Database


class Ledger:
    """An open ledger. Rows are dictionaries. To read only, it raises OldLedger for one that it would have to change."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        if read_only:
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
            if migrate.pending(Database(connection)):
                connection.close()
                raise OldLedger(
                    f"{path}: was made by an older version. The next command that holds it brings it up to date."
                )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=30)
        self.db = Database(connection)
        self._inside = False  # a transaction
        self._touched: set[str] = set()  # runs whose statuses it has to write anew
        if not read_only:
            migrate.apply(self.db)
            with self.transaction():
                self._touched |= {row["id"] for row in self.db.query("SELECT id FROM run WHERE statuses IS NULL")}

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
                for run_id in self._touched:
                    self._write_statuses(run_id)
        finally:
            self._inside = False
            self._touched.clear()

    # runs

    def record_runs(self, runs: Iterable[Run], created: str) -> None:
        """Add what is new; a known run keeps its row and gains stages and studies."""
        with self.transaction():
            self._record_runs(runs, created)

    def _record_runs(self, runs: Iterable[Run], created: str) -> None:
        for run in runs:
            known = next(iter(self.db.query("SELECT stages FROM run WHERE id = ?", [run.id])), None)
            stages = run.stages
            if known:
                stages = tuple(dict.fromkeys((*json.loads(known["stages"]), *stages)))
                self._execute("UPDATE run SET stages = ? WHERE id = ?", [json.dumps(stages), run.id])
            else:
                self._insert("run", {"id": run.id, "name": run.name, "parameters": run.parameters, "created": created,
                                     "config": run.config.model_dump_json(), "stages": json.dumps(stages)})  # fmt: skip
            for study in run.studies:
                self._execute("INSERT OR IGNORE INTO study_run (study, run_id) VALUES (?, ?)", [study, run.id])
            self._touched.add(run.id)

    def known_runs(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """run id -> its studies and stages, without its settings."""
        studies = self._studies()
        parsed: dict[str, tuple[str, ...]] = {}
        known = {}
        for run_id, stages in self.db.execute("SELECT id, stages FROM run ORDER BY rowid"):
            if stages not in parsed:
                parsed[stages] = tuple(json.loads(stages))
            known[run_id] = tuple(studies.get(run_id, ())), parsed[stages]
        return known

    def runs(self, ids: Sequence[str] | None = None) -> list[Run]:
        """In the order in which they were recorded."""
        studies = self._studies()
        chosen = None if ids is None else set(ids)
        return [
            Run(row["id"], row["name"], RunConfig.model_validate_json(row["config"]),
                tuple(json.loads(row["stages"])), tuple(studies.get(row["id"], ())))
            for row in self.db.query("SELECT * FROM run ORDER BY rowid")
            if chosen is None or row["id"] in chosen
        ]  # fmt: skip

    def _studies(self) -> dict[str, list[str]]:
        studies: dict[str, list[str]] = {}
        for study, run_id in self.db.execute("SELECT study, run_id FROM study_run ORDER BY rowid"):
            studies.setdefault(run_id, []).append(study)
        return studies

    def tally(self) -> dict[str, dict[str, Counter[StageStatus]]]:
        """Study -> stage -> how many stage runs have which status; "" is every run once. Quick at any number of runs:
        the statuses are kept with the run."""
        counted: dict[str, dict[str, Counter[StageStatus]]] = {}
        for study, statuses, runs in self.kinds():
            stages = counted.setdefault(study, {})
            for stage, status in statuses.items():
                stages.setdefault(stage, Counter())[status] += runs
        return counted

    def kinds(self) -> Iterator[tuple[str, dict[str, StageStatus], int]]:
        """Study, stage -> status, and how many of its runs are so; study "" is every run once. In the order in which
        the studies were submitted."""
        order: dict[str, list[Any]] = {}
        for row in self.db.query("SELECT * FROM kind ORDER BY rowid"):
            order.setdefault(row["study"], []).append(row)
        for study, rows in order.items():
            for row in rows:
                if row["runs"]:
                    yield study, _statuses(row["stages"], row["statuses"]), row["runs"]

    def put_study(self, name: str, description: str, grids: Sequence[Mapping[str, Any]]) -> None:
        baselines = [run_id for grid in grids for run_id in grid["baselines"]]
        row = {"name": name, "description": description, "baselines": json.dumps(baselines), "grids": json.dumps(grids)}
        self._insert("study", row, "OR REPLACE")

    def studies(self) -> list[dict[str, Any]]:
        """Those whose question is known: name, description, grids (overrides, stages, runs, baselines of each)."""
        rows = self.db.query("SELECT * FROM study ORDER BY name")
        return [
            {"name": row["name"], "description": row["description"], "grids": json.loads(row["grids"])} for row in rows
        ]

    def gpu_hours(self) -> list[dict[str, Any]]:
        """Of every stage run that was ever tried: run_id, stage, attempts, seconds, gpu_hours."""
        return list(self.db.query("SELECT * FROM gpu_hours"))

    def study_sizes(self) -> dict[str, int]:
        """Study -> number of runs."""
        rows = self.db.query(
            "SELECT study, sum(runs) AS runs FROM kind WHERE study != '' GROUP BY study ORDER BY min(rowid)"
        )
        return {row["study"]: row["runs"] for row in rows}

    def names(self, run_ids: Iterable[str]) -> dict[str, str]:
        wanted = json.dumps(sorted(set(run_ids)))
        rows = self.db.query("SELECT id, name FROM run WHERE id IN (SELECT value FROM json_each(?))", [wanted])
        return {row["id"]: row["name"] for row in rows}

    def ambiguous(self, names: Iterable[str]) -> set[str]:
        """Those that several runs have: they differ in what is not in a name."""
        wanted = json.dumps(sorted(set(names)))
        rows = self.db.query(
            "SELECT value AS name FROM json_each(?) WHERE (SELECT count(*) FROM (SELECT 1 FROM run WHERE name = value "
            "LIMIT 2)) > 1",
            [wanted],
        )
        return {row["name"] for row in rows}

    def beginning_with(self, word: str, most: int = 200) -> list[tuple[str, str]]:
        """(id, name) of runs whose id or name begins so."""
        end = word + "\U0010ffff"
        return [
            (row["id"], row["name"])
            for key in ("name", "id")
            for row in self.db.query(
                f"SELECT id, name FROM run WHERE {key} >= ? AND {key} < ? ORDER BY {key} LIMIT ?", [word, end, most]
            )
        ]

    def studies_of(self, run_ids: Iterable[str]) -> dict[str, set[str]]:
        wanted, found = json.dumps(sorted(set(run_ids))), dict[str, set[str]]()
        for study in self.study_sizes():  # each by its index
            rows = self.db.query(
                "SELECT run_id FROM json_each(?) JOIN study_run ON run_id = value WHERE study = ?", [wanted, study]
            )
            for row in rows:
                found.setdefault(row["run_id"], set()).add(study)
        return found

    def overview(self, ids: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Per run: run_id, name, parameters, studies, and per stage its status, cause, attempts, job; of all runs, or
        of these. No settings are parsed, so that it is quick."""
        studies = self._studies()
        which, values = "", []
        if ids is not None:
            which, values = "WHERE {} IN (SELECT value FROM json_each(?))", [json.dumps(sorted(set(ids)))]
        newest: dict[str, dict[str, dict[str, Any]]] = {}
        for row in self.db.query(f"{_NEWEST} {which.format('run_id')} {_NEWEST_END}", values):
            newest.setdefault(row["run_id"], {})[row["stage"]] = row
        rows = self.db.query(
            f"SELECT id, name, parameters, stages FROM run {which.format('id')} ORDER BY rowid", values
        )
        return [
            {"run_id": row["id"], "name": row["name"], "parameters": row["parameters"],
             "studies": studies.get(row["id"], []),
             "stages": _stage_runs(json.loads(row["stages"]), newest.get(row["id"], {}))}
            for row in rows
        ]  # fmt: skip

    def states(self) -> dict[str, dict[str, StageState]]:
        """run id -> stage -> what the planner must know; attempt numbers count void ones too."""
        highest = {
            (row["run_id"], row["stage"]): row["number"]
            for row in self.db.query(
                "SELECT run_id, stage, max(number) AS number FROM attempt WHERE number > 1 OR status = 'void' "
                "GROUP BY run_id, stage"
            )
        }
        several = {run_id for run_id, _ in highest}
        alike: dict[tuple[str, str], dict[str, StageState]] = {}  # of runs whose stages were tried once, if at all
        states = {}
        for run_id, stages, statuses in self.db.execute("SELECT id, stages, statuses FROM run ORDER BY rowid"):
            once = alike.get((stages, statuses))
            if once is None:
                told = _statuses(stages, statuses).items()
                once = {stage: StageState(status, int(status in TRIED)) for stage, status in told}
                alike[stages, statuses] = once
            states[run_id] = once
            if run_id in several:
                states[run_id] = {
                    stage: StageState(state.status, highest.get((run_id, stage), state.attempts))
                    for stage, state in once.items()
                }
        return states

    def _write_statuses(self, run_id: str) -> None:
        row = next(iter(self.db.query("SELECT stages, statuses FROM run WHERE id = ?", [run_id])), None)
        if row is None:
            return
        attempts = self.db.query(
            "SELECT stage, number, status, cause, job FROM attempt WHERE run_id = ? AND status != 'void' "
            "ORDER BY number",
            [run_id],
        )
        views = _stage_runs(json.loads(row["stages"]), {attempt["stage"]: attempt for attempt in attempts})
        statuses = ",".join(view["status"] for view in views.values())
        if statuses != row["statuses"]:
            self._execute("UPDATE run SET statuses = ? WHERE id = ?", [statuses, run_id])

    # submissions and attempts

    def record_submission(self, row: dict[str, Any], attempts: Iterable[dict[str, Any]]) -> None:
        with self.transaction():
            self._insert("submission", row, "OR IGNORE")
            for attempt in attempts:
                values = _BLANK_ATTEMPT | {"token": row["token"], "status": "submitted"} | attempt
                self._insert("attempt", values, "OR IGNORE")
                self._touched.add(attempt["run_id"])

    def update_submission(self, token: str, **values: Any) -> None:
        self.db.table("submission").update(token, values)
        if values.get("state") == "done":
            self.sum_hours(token)

    def sum_hours(self, token: str) -> None:
        """Of a submission that is done: anew, since an attempt of it has changed."""
        self._execute(f"UPDATE submission SET spent = ({SPENT}) WHERE token = ? AND state = 'done'", [token])

    def open_submissions(self) -> list[dict[str, Any]]:
        """Those of which something may still happen."""
        return list(self.db.query(f"SELECT * FROM submission WHERE state IN {_sql(OPEN)} ORDER BY created"))

    def hours(self) -> list[dict[str, Any]]:
        """Per submission that was submitted: token, state, scheduler, gpus, slots, seconds (planned, of all its packs;
        may be None) and spent (GPU-hours so far; hours where it has no GPU)."""
        rows = self.db.query(
            "SELECT token, state, scheduler, gpus, slots, seconds, "
            f"CASE WHEN state = 'done' AND spent IS NOT NULL THEN spent ELSE ({SPENT}) END AS spent "
            f"FROM submission WHERE state IN {_sql(TAKEN)} ORDER BY created"
        )
        return list(rows)

    def open_packs(self) -> list[dict[str, Any]]:
        """Of the submissions of which something may still happen: token, task, runs, and how many of its attempts are
        open, running, completed; started, ended (the last that did); job, host."""
        rows = self.db.query(
            f"SELECT token, task, count(DISTINCT run_id) AS runs, sum(status IN {_sql(LIVE)}) AS open, "
            "sum(status = 'running') AS running, sum(status = 'completed') AS completed, count(*) AS attempts, "
            "min(started) AS started, max(ended) AS ended, max(job) AS job, max(host) AS host FROM attempt "
            "WHERE status != 'void' AND token IN "
            f"(SELECT token FROM submission WHERE state IN {_sql(OPEN)}) GROUP BY token, task"
        )
        return list(rows)

    def submissions(self) -> list[dict[str, Any]]:
        return list(self.db.query("SELECT * FROM submission ORDER BY created"))

    def tokens(self) -> set[str]:
        return {row["token"] for row in self.db.query("SELECT token FROM submission")}

    def attempts_in(self, token: str) -> list[dict[str, Any]]:
        """Of a submission, in the order of their pack, run and stage."""
        return list(self.db.query("SELECT * FROM attempt WHERE token = ? ORDER BY task, rowid", [token]))

    def open_attempts(self, token: str) -> list[dict[str, Any]]:
        """Those of a submission that are submitted or running."""
        return [attempt for attempt in self.attempts_in(token) if attempt["status"] in LIVE]

    def history(self, run_id: str, stage: str) -> list[dict[str, Any]]:
        """The attempts of a stage run, oldest first, each with who asked for it; void ones are left out."""
        return list(
            self.db.query(
                "SELECT attempt.*, asked_by, minutes FROM attempt JOIN submission USING (token) "
                "WHERE run_id = ? AND stage = ? AND status != 'void' ORDER BY number",
                [run_id, stage],
            )
        )

    def attempt(self, run_id: str, stage: str, number: int) -> dict[str, Any] | None:
        rows = self.db.query(
            "SELECT * FROM attempt WHERE run_id = ? AND stage = ? AND number = ?", [run_id, stage, number]
        )
        return next(iter(rows), None)

    def newest_attempts(self, *statuses: AttemptStatus) -> list[dict[str, Any]]:
        """The newest attempt of every stage run whose newest attempt has one of these statuses."""
        # The statuses kept with the runs lead to the few that matter among very many that are completed.
        wanted = " OR ".join(f"statuses LIKE '%{status}%'" for status in statuses)
        few = f"SELECT statuses FROM kind WHERE study = '' AND runs AND ({wanted})"
        which = f"WHERE run_id IN (SELECT id FROM run WHERE statuses IN ({few}))"
        rows = self.db.query(f"{_NEWEST} {which} {_NEWEST_END} ORDER BY place_in_table")
        return [row for row in rows if row["status"] in statuses]

    def put_attempt(self, run_id: str, stage: str, number: int, **values: Any) -> None:
        key = {"run_id": run_id, "stage": stage, "number": number}
        known = self.attempt(run_id, stage, number)
        if known and all(known[name] == value for name, value in values.items()):
            return
        with self.transaction():
            if known is None:
                self._insert("attempt", _BLANK_ATTEMPT | key | values)
            else:
                names = ", ".join(f"{name} = ?" for name in values)
                where = "run_id = ? AND stage = ? AND number = ?"
                self._execute(f"UPDATE attempt SET {names} WHERE {where}", [*values.values(), *key.values()])
            self._touched.add(run_id)

    def put_environment(self, key: str, value: str) -> None:
        self._execute("INSERT OR IGNORE INTO environment (key, value) VALUES (?, ?)", [key, value])

    def failures_by_study(self) -> list[dict[str, Any]]:
        """Of every study the stage runs whose newest attempt failed, the first to fail first: study, name, stage,
        cause, message, decided."""
        return list(
            self.db.query(
                "SELECT study, name, stage, cause, message, decided FROM failures JOIN study_run USING (run_id) "
                "ORDER BY ended"
            )
        )

    def environments(self) -> dict[str, Any]:
        """Key, as attempts name it -> libraries, drivers, hardware."""
        rows = self.db.query("SELECT key, value FROM environment ORDER BY key")
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def put_decision(self, row: dict[str, Any]) -> None:
        self._insert("decision", row, "OR REPLACE")

    def decisions(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        """(run id, stage, number of the failed attempt) -> what was decided on it."""
        return {(row["run_id"], row["stage"], row["number"]): row for row in self.db.query("SELECT * FROM decision")}

    def latest_ends(self, count: int) -> list[dict[str, Any]]:
        """The attempts that ended last, newest first, of what was submitted since a person last asked for a rerun."""
        return list(
            self.db.query(
                "SELECT attempt.* FROM attempt JOIN submission USING (token) "
                f"WHERE status IN {_sql(get_args(Ended))} AND ended IS NOT NULL AND submission.created >= "
                "(SELECT coalesce(max(created), '') FROM submission WHERE asked_by = 'rerun' AND state != 'refused') "
                "ORDER BY ended DESC LIMIT ?",
                [count],
            )
        )

    def newest_of(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Stage -> its newest attempt."""
        rows = self.db.query("SELECT * FROM attempt WHERE run_id = ? AND status != 'void' ORDER BY number", [run_id])
        return {row["stage"]: row for row in rows}

    def last_tokens(self, run_ids: Iterable[str]) -> dict[str, str]:
        """Run id -> the submission that it was last in, whatever came of that."""
        wanted = json.dumps(sorted(set(run_ids)))
        rows = self.db.query(
            "SELECT run_id, token, max(created) FROM attempt JOIN submission USING (token) "
            "WHERE run_id IN (SELECT value FROM json_each(?)) GROUP BY run_id",
            [wanted],
        )
        return {row["run_id"]: row["token"] for row in rows}

    def runs_with(self, status: StageStatus) -> list[str]:
        """Ids of the runs that have a stage run of this status."""
        rows = self.db.query("SELECT id FROM run WHERE statuses LIKE ? ORDER BY rowid", [f"%{status}%"])
        return [row["id"] for row in rows]

    def _execute(self, statement: str, values: Sequence[Any] | dict[str, Any]) -> None:
        with self.transaction():
            self.db.execute(statement, values)

    def _insert(self, table: str, row: dict[str, Any], conflict: str = "") -> None:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        self._execute(f"INSERT {conflict} INTO {table} ({names}) VALUES ({marks})", list(row.values()))

    def put_outcome(self, run_id: str, stage: str, number: int, outcome: OutcomeRecord) -> None:
        """The scores, checks, metrics and data of a result file."""
        key = {"run_id": run_id, "stage": stage, "number": number}
        tables: dict[str, list[dict[str, Any]]] = {
            "score": [_known(score, ScoreRow) for score in outcome.get("scores", [])],
            "check_result": [
                _known(check, CheckRow) | {"value": str(check["value"])} for check in outcome.get("checks", [])
            ],
            "metric": [{"name": name, "value": str(value)} for name, value in outcome.get("metrics", {}).items()],
            "data_file": [{"file": file, "sha256": digest} for file, digest in outcome.get("data", {}).items()],
        }
        for table, rows in tables.items():
            self.db.table(table).insert_all((key | row for row in rows), replace=True)
        digest = digest_of_scores(stage, tables["score"])
        self._execute(
            "UPDATE attempt SET scores = ? WHERE (run_id, stage, number) = (?, ?, ?)", [digest, run_id, stage, number]
        )
        if digest:
            self._execute(
                "INSERT OR IGNORE INTO identical SELECT scores FROM attempt WHERE scores = ? AND run_id != ?",
                [digest, run_id],
            )

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

    def metrics(self, *names: str) -> list[dict[str, Any]]:
        """Of the newest attempt of every completed stage run: run_id, stage, number, name, value; all, or these."""
        chosen = f"AND name IN ({', '.join('?' * len(names))}) " if names else ""
        return list(
            self.db.query(
                "SELECT metric.* FROM metric JOIN newest_attempt USING (run_id, stage, number) "
                f"WHERE newest_attempt.status = 'completed' {chosen}ORDER BY metric.rowid",
                names,
            )
        )

    def attempts_of(self, run_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Every attempt of these runs, a stage's oldest first, each with its submission's site; void ones are left
        out."""
        return list(
            self.db.query(
                "SELECT attempt.*, site FROM attempt LEFT JOIN submission USING (token) "
                "WHERE run_id IN (SELECT value FROM json_each(?)) AND status != 'void' ORDER BY number",
                [json.dumps(sorted(set(run_ids)))],
            )
        )

    def outcomes_of(
        self, table: Literal["score", "check_result", "metric", "data_file"], run_ids: Iterable[str]
    ) -> list[dict[str, Any]]:
        """What the newest attempt of every stage run of these runs has told, whatever became of it."""
        return list(
            self.db.query(
                f"SELECT {table}.* FROM {table} JOIN newest_attempt USING (run_id, stage, number) "
                f"WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY {table}.rowid",
                [json.dumps(sorted(set(run_ids)))],
            )
        )

    def failed_checks(self) -> list[dict[str, Any]]:
        """Of the newest attempt of every stage run."""
        return list(
            self.db.query(
                "SELECT * FROM check_result WHERE NOT passed AND number = (SELECT max(number) FROM attempt WHERE "
                "(run_id, stage) = (check_result.run_id, check_result.stage) AND status != 'void') ORDER BY +rowid"
            )
        )

    def identical_scores(self) -> list[tuple[str, list[str]]]:
        """Groups of runs whose scores at a stage are the same to the last digit, with the stage: one model trained
        twice under two names, or scores that do not depend on the model. Runs that differ in their evaluation only
        may have them."""
        rows = self.db.query(
            "SELECT scores, stage, run_id, config FROM identical CROSS JOIN attempt USING (scores) "
            "JOIN run ON id = run_id WHERE status = 'completed' ORDER BY attempt.rowid"
        )
        groups: dict[tuple[str, str], dict[str, str]] = {}  # (digest, stage) -> run id -> how it was trained
        for row in rows:
            trained = json.dumps({**json.loads(row["config"]), "evaluation": None}, sort_keys=True)
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

    def changed_data(self) -> dict[str, int]:
        """Data files of which completed stage runs read different versions -> how many versions."""
        rows = self.db.query(
            "SELECT file, count(DISTINCT sha256) AS versions FROM data_file JOIN newest_attempt "
            "USING (run_id, stage, number) WHERE status = 'completed' GROUP BY file HAVING versions > 1"
        )
        return {row["file"]: row["versions"] for row in rows}

    def measurements(self, site: str, stage: str, newest: int) -> list[dict[str, Any]]:
        """The newest completed attempts of a stage on a site: run_id, stage, config (JSON), token and task of its pack,
        started, ended, seconds, tokens_per_second, trained (seconds of training), peak_memory_mb, micro_batch_tokens,
        device; slots of its submission and runs of its pack."""
        metrics = {"tokens_per_second": "REAL", "seconds": "REAL", "peak_memory_mb": "REAL",
                   "micro_batch_tokens": "INTEGER", "device": "TEXT"}  # fmt: skip
        names = {"seconds": "trained"}
        columns = ", ".join(
            f"(SELECT CAST(value AS {kind}) FROM metric WHERE (run_id, stage, number, name) = "
            f"(chosen.run_id, chosen.stage, chosen.number, '{name}')) AS {names.get(name, name)}"
            for name, kind in metrics.items()
        )
        rows = self.db.query(
            "WITH chosen AS (SELECT attempt.*, submission.slots FROM attempt JOIN submission USING (token) "
            "  WHERE attempt.status = 'completed' AND stage = :stage AND site = :site "
            "  ORDER BY attempt.rowid DESC LIMIT :newest), "
            "sizes AS (SELECT token, task, count(DISTINCT run_id) AS runs FROM attempt "
            "  WHERE token IN (SELECT token FROM chosen) GROUP BY token, task) "
            "SELECT chosen.run_id, chosen.stage, config, token, task, started, ended, ended - started AS seconds, "
            f"  slots, runs, {columns} "
            "FROM chosen JOIN run ON run.id = chosen.run_id JOIN sizes USING (token, task)",
            {"site": site, "stage": stage, "newest": newest},
        )
        return list(rows)

    def usage(self) -> list[dict[str, Any]]:
        """Per submission that was submitted, oldest first: what was planned for it, and of its packs that have ended
        how many, the longest and all of them together in seconds, their runs' seconds and highest peak in MB; of its
        pretrainings the mean tokens per second, model FLOPs utilisation and wait for data, and the precisions."""
        return list(
            self.db.query(
                "WITH packs AS (SELECT token, task, max(ended) - min(started) AS seconds, "
                "  sum(ended - started) AS busy FROM attempt WHERE status != 'void' "
                # what was judged has its last sign of life as its end, which need not be its pack's
                "  AND (status != 'failed' OR cause IN ('error', 'check_failed', 'out_of_memory')) "
                "  GROUP BY token, task "
                f"  HAVING sum(status IN {_sql(LIVE)}) = 0 AND max(ended) > min(started)), "
                "peaks AS (SELECT token, max(CAST(value AS REAL)) AS peak FROM metric "
                "  JOIN attempt USING (run_id, stage, number) WHERE name = 'peak_memory_mb' GROUP BY token), "
                "trained AS (SELECT token, avg(CASE name WHEN 'tokens_per_second' THEN CAST(value AS REAL) END) "
                "  AS tokens_per_second, avg(CASE name WHEN 'mfu' THEN CAST(value AS REAL) END) AS mfu, "
                "  avg(CASE name WHEN 'data_wait' THEN CAST(value AS REAL) END) AS data_wait, "
                "  group_concat(DISTINCT CASE name WHEN 'precision' THEN value END) AS precisions "
                "  FROM metric JOIN attempt USING (run_id, stage, number) WHERE stage = 'pretrain' GROUP BY token), "
                "names AS (SELECT token, group_concat(DISTINCT study) AS studies FROM attempt "
                "  JOIN study_run USING (run_id) GROUP BY token), "
                "planned AS (SELECT token, count(DISTINCT task) AS packs FROM attempt GROUP BY token) "
                "SELECT submission.*, planned.packs, studies, peak, tokens_per_second, mfu, data_wait, precisions, "
                "  count(packs.task) AS ended, "
                "  max(packs.seconds) AS longest, sum(packs.seconds) AS used, sum(busy) AS busy "
                "FROM submission JOIN planned USING (token) LEFT JOIN packs USING (token) "
                "LEFT JOIN peaks USING (token) LEFT JOIN trained USING (token) LEFT JOIN names USING (token) "
                f"WHERE state NOT IN {_sql(GIVEN_UP)} GROUP BY token ORDER BY created"
            )
        )


_BLANK_ATTEMPT: dict[str, Any] = dict.fromkeys(
    ("token", "task", "status", "cause", "message", "job", "host", "started", "ended", "progress", "code",
     "environment")
)  # fmt: skip
# As the view newest_attempt, with a place for a condition that is applied before attempts are compared.
_NEWEST = (
    "SELECT * FROM (SELECT attempt.*, attempt.rowid AS place_in_table, "
    "row_number() OVER (PARTITION BY run_id, stage ORDER BY number DESC) AS place "
    "FROM (SELECT rowid, * FROM attempt"
)
_NEWEST_END = ") AS attempt WHERE status != 'void') WHERE place = 1"


def _stage_runs(stages: Sequence[str], newest: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The status of each stage run, first match wins: completed, running, submitted, failed, blocked, eligible,
    waiting."""
    views: dict[str, dict[str, Any]] = {}
    for stage in stages:
        attempt = newest.get(stage)
        needs = [views[need]["status"] for need in STAGES[stage].needs if need in views]
        if attempt:
            status = attempt["status"]
        elif any(need in STUCK for need in needs):
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


def _statuses(stages: str, statuses: str) -> dict[str, StageStatus]:
    """Stage -> its status, as the columns of a run keep them."""
    return dict(zip(json.loads(stages), cast(list[StageStatus], statuses.split(",")), strict=True))


def _sql(words: Iterable[str]) -> str:
    return f"({', '.join(map(repr, words))})"


def _known(row: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The fields that have a column: a file of a later version may have others."""
    return {name: row[name] for name in kind.__required_keys__ if name in row}
