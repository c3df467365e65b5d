"""Tell how far the stage runs are, one by one and counted. A run's statuses are kept with it, so that very many are
quick to read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, cast

from cluster.files.records import AttemptRow, StageState
from cluster.files.statuses import TRIED, AttemptStatus, StageStatus
from cluster.ledger.rows import NeedRow, RunRow
from cluster.ledger.runs import Runs
from cluster.ledger.store import listed, stage_runs

# As the view newest_attempt, with a place for a condition that is applied before attempts are compared.
_NEWEST = (
    "SELECT * FROM (SELECT attempt.*, row_number() OVER (PARTITION BY run_id, stage ORDER BY number DESC) AS place "
    "FROM (SELECT * FROM attempt"
)
_NEWEST_END = ") AS attempt WHERE status != 'void') WHERE place = 1"


class States(Runs):
    """A ledger, as it knows how far runs are."""

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

    def runs_with(self, status: StageStatus) -> list[str]:
        """Ids of the runs that have a stage run of this status."""
        rows = self.db.query("SELECT id FROM run WHERE statuses LIKE ? ORDER BY rowid", [f"%{status}%"])
        return [row["id"] for row in rows]

    def overview(self, ids: Iterable[str] | None = None) -> list[RunRow]:
        """Per run: run_id, name, parameters, studies, and per stage its status, cause, attempts, job; of all runs, or
        of these. No settings are parsed, so that it is quick."""
        studies, ids = self._studies(), None if ids is None else set(ids)
        which, values = "", []
        if ids is not None:
            which, values = "WHERE {} IN (SELECT value FROM json_each(?))", [json.dumps(sorted(ids))]
        newest: dict[str, dict[str, AttemptRow]] = {}
        for row in self.db.query(f"{_NEWEST} {which.format('run_id')} {_NEWEST_END}", values):
            newest.setdefault(row["run_id"], {})[row["stage"]] = row
        others = self._of_others(ids)
        rows = self.db.query(
            f"SELECT id, name, parameters, stages FROM run {which.format('id')} ORDER BY rowid", values
        )
        return [
            {"run_id": row["id"], "name": row["name"], "parameters": row["parameters"],
             "studies": studies.get(row["id"], []),
             "stages": stage_runs(json.loads(row["stages"]), newest.get(row["id"], {}),
                                  others.get(row["id"], {}))}
            for row in rows
        ]  # fmt: skip

    def unmet_needs(self) -> list[NeedRow]:
        """The stage runs for whose product other runs wait, that never began: how many do, and how far it is."""
        rows = self.db.query(
            "SELECT needed_run AS run_id, needed AS stage, count(*) AS runs, name FROM need LEFT JOIN run "
            "ON run.id = needed_run WHERE NOT EXISTS (SELECT 1 FROM attempt WHERE (attempt.run_id, attempt.stage) = "
            "(need.run_id, need.stage) AND status != 'void') GROUP BY needed_run, needed ORDER BY min(need.rowid)"
        )
        found: list[NeedRow] = []
        for row in rows:
            statuses = self.db.execute("SELECT stages, statuses FROM run WHERE id = ?", [row["run_id"]]).fetchone()
            status = _statuses(*statuses).get(row["stage"], "waiting") if statuses else "waiting"
            newest = self.newest_of(row["run_id"]).get(row["stage"])
            cause, message = (newest["cause"], newest["message"]) if newest and status == "failed" else (None, None)
            if status != "completed":
                told = {"status": status, "cause": cause, "message": message}
                found.append(cast(NeedRow, {**row, **told}))
        return found

    def newest_attempts(self, *statuses: AttemptStatus) -> list[AttemptRow]:
        """The newest attempt of every stage run whose newest attempt has one of these statuses."""
        # The index of statuses leads to the few that matter among very many that are completed.
        return list(
            self.db.query(
                f"SELECT * FROM attempt INDEXED BY idx_attempt_status WHERE status IN {listed(statuses)} "
                "AND NOT EXISTS (SELECT 1 FROM attempt AS newer "
                "WHERE (newer.run_id, newer.stage) = (attempt.run_id, attempt.stage) "
                "AND newer.number > attempt.number AND newer.status != 'void') ORDER BY rowid"
            )
        )

    def newest_of(self, run_id: str) -> dict[str, AttemptRow]:
        """Stage -> its newest attempt."""
        rows = self.db.query("SELECT * FROM attempt WHERE run_id = ? AND status != 'void' ORDER BY number", [run_id])
        return {row["stage"]: row for row in rows}


def _statuses(stages: str, statuses: str) -> dict[str, StageStatus]:
    """Stage -> its status, as the columns of a run keep them."""
    return dict(zip(json.loads(stages), cast(list[StageStatus], statuses.split(",")), strict=True))
