"""Record and find the runs that were planned, and the studies that ask for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache

from pydantic import ValidationError

from cluster.files.choices import ChoiceFile
from cluster.files.documents import Grid, StudyFile
from cluster.files.records import Run
from cluster.ledger.store import Store
from tiny_transformers.settings.architecture import FAMILIES
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES

# A run's own seed, behind which its settings have no section: that of a section is none.
_SEED = re.compile(r',"seed":(\d+)((?:,"\w+":[\w.]+)*\}\Z)')


class Runs(Store):
    """The questions about what was planned."""

    def record_runs(self, runs: Iterable[Run], created: str) -> None:
        """Add what is new; a known run keeps its row and gains stages and studies."""
        with self.transaction():
            self._record_runs(runs, created)

    def _record_runs(self, runs: Iterable[Run], created: str) -> None:
        runs = {run.id: run for run in runs}.values()
        wanted = json.dumps([run.id for run in runs])
        rows = self.db.execute("SELECT id, stages FROM run WHERE id IN (SELECT value FROM json_each(?))", [wanted])
        known = dict(rows.fetchall())
        for run in (run for run in runs if run.id in known):
            stages = json.dumps(list(dict.fromkeys((*json.loads(known[run.id]), *run.stages))))
            if stages != known[run.id]:
                self._execute("UPDATE run SET stages = ? WHERE id = ?", [stages, run.id])
        new = [{"id": run.id, "name": run.name, "parameters": run.parameters, "created": created,
                "config": run.config.model_dump_json(), "stages": json.dumps(run.stages)}
               for run in runs if run.id not in known]  # fmt: skip
        self._insert_all("run", new)
        members = [{"study": study, "run_id": run.id} for run in runs for study in run.studies]
        self._insert_all("study_run", members, "OR IGNORE")
        needs = [{"run_id": run.id, "stage": need["stage"], "needed_run": need["run_id"], "needed": need["needed"]}
                 for run in runs for need in run.needs]  # fmt: skip
        self._insert_all("need", needs, "OR IGNORE")
        self._touched |= {run.id for run in runs}

    def known_runs(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """run id -> its studies and stages, without its settings."""
        studies, parsed = self._studies(), cache(lambda stages: tuple(json.loads(stages)))
        return {
            run_id: (tuple(studies.get(run_id, ())), parsed(stages))
            for run_id, stages in self.db.execute("SELECT id, stages FROM run ORDER BY rowid")
        }

    def run_ids(self) -> list[str]:
        """The ids of all runs."""
        return [run_id for (run_id,) in self.db.execute("SELECT id FROM run ORDER BY rowid")]

    def runs(self, ids: Sequence[str] | None = None) -> list[Run]:
        """In the order in which they were recorded; without those that this version does not know (`unknown_runs`)."""
        studies = self._studies()
        chosen = None if ids is None else set(ids)
        configs, parsed = _Configs(), cache(lambda stages: tuple(json.loads(stages)))
        rows = self.db.execute("SELECT id, name, config, stages FROM run ORDER BY rowid")
        return [
            Run(run_id, name, config, parsed(stages), tuple(studies.get(run_id, ())))
            for run_id, name, text, stages in rows
            if (chosen is None or run_id in chosen) and isinstance(config := configs.read(text), RunConfig)
            if STAGES.keys() >= set(parsed(stages))
        ]

    def unknown_runs(self) -> dict[str, tuple[str, str]]:
        """Run id -> its name, and what this version does not know of its settings or stages: another version, or
        another branch, has made it, and `runs` leaves it out."""
        configs, found = _Configs(), dict[str, tuple[str, str]]()
        stranger = cache(lambda stages: next((stage for stage in json.loads(stages) if stage not in STAGES), None))
        for run_id, name, text, stages in self.db.execute("SELECT id, name, config, stages FROM run ORDER BY rowid"):
            if stage := stranger(stages):
                found[run_id] = name, f"stage {stage}"
            elif isinstance(config := configs.of_any_seed(text)[0], str):
                found[run_id] = name, config
        return found

    def _studies(self) -> dict[str, list[str]]:
        studies: dict[str, list[str]] = {}
        for study, run_id in self.db.execute("SELECT study, run_id FROM study_run ORDER BY rowid"):
            studies.setdefault(run_id, []).append(study)
        return studies

    def put_study(self, name: str, description: str, grids: Sequence[Grid]) -> None:
        baselines = [run_id for grid in grids for run_id in grid["baselines"]]
        row = {"name": name, "description": description, "baselines": json.dumps(baselines), "grids": json.dumps(grids)}
        self._insert("study", row, "OR REPLACE")

    def studies(self) -> list[StudyFile]:
        """Those whose question is known: name, description, grids (overrides, stages, runs, baselines of each)."""
        rows = self.db.query("SELECT * FROM study ORDER BY name")
        return [
            {"name": row["name"], "description": row["description"], "grids": json.loads(row["grids"])} for row in rows
        ]

    def put_choice(self, choice_id: str, record: ChoiceFile) -> None:
        row = {"id": choice_id, "study": record["study"], "made": record["made"], "record": json.dumps(record)}
        self._insert("choice", row, "OR REPLACE")

    def choices(self) -> dict[str, ChoiceFile]:
        """The id of each choice that was made -> what was chosen, the first first."""
        rows = self.db.query("SELECT id, record FROM choice ORDER BY made, id")
        return {row["id"]: json.loads(row["record"]) for row in rows}

    def study_sizes(self) -> dict[str, int]:
        """Study -> number of runs."""
        rows = self.db.query(
            "SELECT study, sum(runs) AS runs FROM kind WHERE study != '' GROUP BY study ORDER BY min(rowid)"
        )
        return {row["study"]: row["runs"] for row in rows}

    def studies_of(self, run_ids: Iterable[str]) -> dict[str, set[str]]:
        wanted, found = json.dumps(sorted(set(run_ids))), dict[str, set[str]]()
        for study in self.study_sizes():  # each by its index
            rows = self.db.query(
                # CROSS: else SQLite may look through all that are wanted for each run of the study.
                "SELECT run_id FROM json_each(?) CROSS JOIN study_run ON run_id = value WHERE study = ?",
                [wanted, study],
            )
            for row in rows:
                found.setdefault(row["run_id"], set()).add(study)
        return found

    def needed_runs(self) -> set[str]:
        """Ids of the runs whose product others need."""
        return {run_id for (run_id,) in self.db.execute("SELECT DISTINCT needed_run FROM need")}

    def runs_that_need(self) -> set[str]:
        """Ids of the runs that need the product of another one."""
        return {run_id for (run_id,) in self.db.execute("SELECT DISTINCT run_id FROM need")}

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


class _Configs:
    """Settings that differ in their seed only are checked once, and share their sections: what is computed of one of
    them (`plan/memo.py`) need not be computed of the others."""

    def __init__(self) -> None:
        self._known: dict[str, RunConfig | str] = {}

    def read(self, text: str) -> RunConfig | str:
        """Return the settings, or the first of them that this version does not know."""
        known, seed = self.of_any_seed(text)
        return known if isinstance(known, str) or known.seed == seed else known.model_copy(update={"seed": seed})

    def of_any_seed(self, text: str) -> tuple[RunConfig | str, int | None]:
        """Return settings that differ in the seed at most, and the seed; or the first that this version does not
        know."""
        match = _SEED.search(text)
        if match is None:
            config = read_settings(text)
            return config, config.seed if isinstance(config, RunConfig) else None
        unseeded = text[: match.start()] + match[2]
        if unseeded not in self._known:
            self._known[unseeded] = read_settings(text)
        return self._known[unseeded], int(match[1])


def read_settings(text: str) -> RunConfig | str:
    """Return the settings of a run, or the first of them that this version does not know."""
    try:
        return RunConfig.model_validate_json(text)
    except ValidationError as error:
        return first_unknown(error)
    except ArithmeticError as error:
        return str(error)


def first_unknown(error: ValidationError) -> str:
    """Return the place of the first setting that is not known, as a manifest has it, or what is wrong with all."""
    first = error.errors(include_url=False)[0]
    return ".".join(str(part) for part in first["loc"] if part not in FAMILIES) or first["msg"]
