"""Record and find submissions and their attempts, what has become of them, and what was decided on failures."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, Unpack, get_args

from cluster.files.documents import DecisionFile
from cluster.files.records import AskedAttempt, AttemptRow, AttemptValues, key_of
from cluster.files.statuses import LIVE, OPEN, AttemptStatus, Ended
from cluster.ledger.rows import Answered, FailureRow, OpenPack, SubmissionRow
from cluster.ledger.store import Store, listed

NUMBERS = "numbers_given"
_BLANK_ATTEMPT = dict.fromkeys(AttemptValues.__annotations__)


class Attempts(Store):
    """The questions about what was submitted."""

    def record_submission(self, row: SubmissionRow, attempts: Iterable[AttemptRow]) -> None:
        with self.transaction():
            self._insert("submission", row, "OR IGNORE")
            blank = _BLANK_ATTEMPT | {"submission_id": row["submission_id"], "status": "submitted"}
            attempts = list(attempts)
            self._insert_all("attempt", [blank | attempt for attempt in attempts], "OR IGNORE")
            self._touched |= {attempt["run_id"] for attempt in attempts}

    def update_submission(self, submission_id: str, **values: Unpack[Answered]) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        self._execute(f"UPDATE submission SET {names} WHERE submission_id = ?", [*values.values(), submission_id])
        if values.get("state") == "done":
            self.sum_hours(submission_id)

    def sum_hours(self, submission_id: str) -> None:
        """Sum anew the hours of a submission that is done, since attempts of it have changed: once, at the end of the
        transaction."""
        with self.transaction():
            self._changed.add(submission_id)

    def submissions(self) -> list[SubmissionRow]:
        return list(self.db.query("SELECT * FROM submission ORDER BY created"))

    def open_submissions(self) -> list[SubmissionRow]:
        """Those of which something may still happen."""
        return list(self.db.query(f"SELECT * FROM submission WHERE state IN {listed(OPEN)} ORDER BY created"))

    def submission_ids(self) -> set[str]:
        return {row["submission_id"] for row in self.db.query("SELECT submission_id FROM submission")}

    def last_submissions(self, run_ids: Iterable[str]) -> dict[str, str]:
        """Run id -> the submission that it was last in, whatever came of that."""
        wanted = json.dumps(sorted(set(run_ids)))
        rows = self.db.query(
            "SELECT run_id, submission_id, max(created) FROM attempt JOIN submission USING (submission_id) "
            "WHERE run_id IN (SELECT value FROM json_each(?)) GROUP BY run_id",
            [wanted],
        )
        return {row["run_id"]: row["submission_id"] for row in rows}

    def attempt(self, run_id: str, stage: str, number: int) -> AttemptRow | None:
        rows = self.db.query(
            "SELECT * FROM attempt WHERE run_id = ? AND stage = ? AND number = ?", [run_id, stage, number]
        )
        return next(iter(rows), None)

    def attempt_keys(self) -> set[tuple[str, str, int]]:
        """The keys of all attempts."""
        return {key_of(row) for row in self.db.query("SELECT run_id, stage, number FROM attempt")}

    def numbers_given(self) -> dict[tuple[str, str], int]:
        """(run id, stage) -> the highest number that was given to an attempt that has no row here."""
        return {(run_id, stage): number for run_id, stage, number in json.loads(self.recall(NUMBERS) or "[]")}

    def keep_numbers(self, keys: Iterable[tuple[str, str, int]]) -> None:
        """Remember that attempts had these numbers, though they get no rows: no other one is to have them."""
        given = self.numbers_given()
        for run_id, stage, number in keys:
            given[run_id, stage] = max(number, given.get((run_id, stage), 0))
        self.remember(NUMBERS, json.dumps([[*key, number] for key, number in sorted(given.items())]))

    def put_attempt(self, run_id: str, stage: str, number: int, **values: Unpack[AttemptValues]) -> None:
        key = {"run_id": run_id, "stage": stage, "number": number}
        known = self.attempt(run_id, stage, number)
        if known and known | values == known:
            return
        with self.transaction():
            if known is None:
                self._insert("attempt", _BLANK_ATTEMPT | key | values)
                self._touched.add(run_id)
            else:
                self.change_attempt(run_id, stage, number, **values)

    def change_attempt(self, run_id: str, stage: str, number: int, **values: Unpack[AttemptValues]) -> None:
        """Change an attempt that is there."""
        names = ", ".join(f"{name} = ?" for name in values)
        where = "run_id = ? AND stage = ? AND number = ?"
        with self.transaction():
            self.db.conn.execute(f"UPDATE attempt SET {names} WHERE {where}", [*values.values(), run_id, stage, number])
            if not values.keys().isdisjoint(("status", "progress")):
                self._touched.add(run_id)

    def attempts_in(self, submission_id: str, packs: Collection[int] | None = None) -> list[AttemptRow]:
        """Return the attempts of a submission, or of some of its packs, in the order of their pack, run and stage."""
        chosen = "" if packs is None else "AND pack_index IN (SELECT value FROM json_each(?))"
        return list(
            self.db.query(
                f"SELECT * FROM attempt WHERE submission_id = ? {chosen} ORDER BY pack_index, rowid",
                [submission_id, *([] if packs is None else [json.dumps(list(packs))])],
            )
        )

    def open_packs_in(self, submission_id: str) -> dict[int, OpenPack]:
        """Return the packs of a submission of which something is open, by their place in the array."""
        rows = self.db.execute(
            "SELECT pack_index, sum(status = 'submitted') = count(*), count(job) = count(*), "
            "CASE WHEN count(progress) = count(DISTINCT run_id) AND min(progress) = max(progress) "
            "THEN min(progress) END FROM attempt WHERE submission_id = ? "
            f"GROUP BY pack_index HAVING sum(status IN {listed(LIVE)})",
            [submission_id],
        )
        return {index: OpenPack(*alike) for index, *alike in rows}

    def packs_of(self, submission_id: str, run_ids: Iterable[str]) -> set[int]:
        """Return the packs of a submission that these of its runs stand in."""
        rows = self.db.execute(
            "SELECT DISTINCT pack_index FROM attempt WHERE run_id IN (SELECT value FROM json_each(?)) "
            "AND submission_id = ?",
            [json.dumps(sorted(run_ids)), submission_id],
        )
        return {index for (index,) in rows}

    def every_attempt(self, run_id: str, stage: str) -> list[AttemptRow]:
        """Return all attempts of a stage run, the first one first."""
        return list(
            self.db.query("SELECT * FROM attempt WHERE run_id = ? AND stage = ? ORDER BY number", [run_id, stage])
        )

    def attempts_of_run_in(self, submission_id: str, run_id: str) -> list[AttemptRow]:
        """Return those of one of a submission's runs."""
        # By the run, of which there are few: the + keeps SQLite from going through the whole submission.
        return list(
            self.db.query(
                "SELECT * FROM attempt WHERE run_id = ? AND +submission_id = ? ORDER BY pack_index, rowid",
                [run_id, submission_id],
            )
        )

    def open_attempts(self, submission_id: str) -> list[AttemptRow]:
        """Those of a submission that are submitted or running."""
        return [attempt for attempt in self.attempts_in(submission_id) if attempt["status"] in LIVE]

    def history(self, run_id: str, stage: str) -> list[AskedAttempt]:
        """The attempts of a stage run, oldest first, each with who asked for it; void ones are left out."""
        return self.histories([run_id]).get((run_id, stage), [])

    def histories(self, run_ids: Iterable[str]) -> dict[tuple[str, str], list[AskedAttempt]]:
        """(run id, stage) -> its history, of each stage of these runs that has one."""
        found: dict[tuple[str, str], list[AskedAttempt]] = {}
        rows = self.db.query(
            "SELECT attempt.*, asked_by, minutes FROM attempt CROSS JOIN submission USING (submission_id) "
            "WHERE run_id IN (SELECT value FROM json_each(?)) AND status != 'void' ORDER BY number",
            [json.dumps(sorted(set(run_ids)))],
        )
        for row in rows:
            found.setdefault((row["run_id"], row["stage"]), []).append(row)
        return found

    def runs_of_other_code(self, digest: str) -> set[str]:
        """Return the runs that have an attempt of another version of the code than this one."""
        rows = self.db.execute(  # by the index of codes, which leads past those of this version
            "SELECT DISTINCT run_id FROM attempt WHERE (code < ? OR code > ?) AND status != 'void'", [digest, digest]
        )
        return {run_id for (run_id,) in rows}

    def statuses_of(self, run_ids: Iterable[str]) -> dict[tuple[str, str, int], AttemptStatus]:
        """(run id, stage, number) -> the status of each attempt of these runs."""
        rows = self.db.execute(
            "SELECT run_id, stage, number, status FROM attempt WHERE run_id IN (SELECT value FROM json_each(?))",
            [json.dumps(sorted(set(run_ids)))],
        )
        return {(run_id, stage, number): status for run_id, stage, number, status in rows}

    def latest_ends(self, count: int) -> list[AttemptRow]:
        """The attempts that ended last, newest first, of what was submitted since a person last asked for a rerun, and
        has not completed since: moments are of several clocks."""
        return list(
            self.db.query(
                "SELECT attempt.* FROM attempt JOIN submission USING (submission_id) "
                f"WHERE status IN {listed(get_args(Ended))} AND ended IS NOT NULL AND submission.created >= "
                "(SELECT coalesce(max(created), '') FROM submission WHERE asked_by = 'rerun' AND state != 'refused') "
                "AND NOT EXISTS (SELECT 1 FROM attempt AS later WHERE later.run_id = attempt.run_id "
                "AND later.stage = attempt.stage AND later.number > attempt.number AND later.status = 'completed') "
                "ORDER BY ended DESC LIMIT ?",
                [count],
            )
        )

    def put_environment(self, key: str, value: str) -> None:
        self._execute("INSERT OR IGNORE INTO environment (key, value) VALUES (?, ?)", [key, value])

    def environments(self) -> dict[str, Any]:
        """Key, as attempts name it -> libraries, drivers, hardware."""
        rows = self.db.query("SELECT key, value FROM environment ORDER BY key")
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def put_decision(self, row: DecisionFile) -> None:
        self._insert("decision", row, "OR REPLACE")

    def decisions(self) -> dict[tuple[str, str, int], DecisionFile]:
        """(run id, stage, number of the failed attempt) -> what was decided on it."""
        return {key_of(row): row for row in self.db.query("SELECT * FROM decision")}

    def cancelled(self, run_ids: Iterable[str]) -> int:
        """How many stage runs of these runs were cancelled, and not tried again since."""
        wanted = json.dumps(sorted(set(run_ids)))
        rows = self.db.query(
            "SELECT count(*) AS n FROM failures WHERE cause = 'cancelled' "
            "AND run_id IN (SELECT value FROM json_each(?))",
            [wanted],
        )
        return next(iter(rows))["n"]

    def failures_by_study(self) -> list[FailureRow]:
        """Return of every study the stage runs whose newest attempt failed, the first to fail first: study, name,
        stage, cause, message, decided."""
        return list(
            self.db.query(
                "SELECT study, name, stage, cause, message, decided FROM failures JOIN study_run USING (run_id) "
                "ORDER BY ended"
            )
        )
