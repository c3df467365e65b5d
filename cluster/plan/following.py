"""A follow-up -> the plan of its choice; with the choice -> its runs. Pure.

The plan has everything that may come of the choice, as settings that were checked, so that whoever makes it needs no
manifest. Its id is a hash of what may be chosen, by which rule, and of what becomes of it: the same question is asked
once, and a manifest that asks another one has another choice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from cluster.files.choices import CandidateTold, ChoiceFile, ChoicePlan, FixedCells, PlannedCell, RuleTold, SeededRun
from cluster.files.records import Run, StudyRecord
from cluster.manifest.follow_ups import FollowUp
from cluster.manifest.loading import Cell, Manifest
from cluster.manifest.sources import Rule
from cluster.plan import expansion
from tiny_transformers.settings.config import RunConfig


def plans(
    manifest: Manifest, follow_ups: Iterable[FollowUp], cells: Iterable[Cell], overrides: Sequence[str] = ()
) -> dict[str, ChoicePlan]:
    """Return the id of each follow-up's choice and its plan; a source comes before what begins from it. `cells`: those
    that are known beforehand."""
    records = {record.name: record for record in expansion.studies(manifest, cells, overrides)}
    fixed: dict[str, list[str]] = {}
    for cell in cells:
        if cell.baseline:
            fixed.setdefault(cell.study, []).append(cell.config.family)
    made: dict[str, ChoicePlan] = {}
    ids: dict[str, str] = {}
    for each in follow_ups:
        record = records.get(each.study)
        plan: ChoicePlan = {
            "study": each.study,
            "description": str(manifest.studies[each.study].get("description", "")),
            "overrides": sorted(overrides),
            "stages": list(each.cells[0].stages),
            "rule": _rule(each.rule, ids),
            "candidates": _candidates(each),
            "fixed": {
                "runs": list(record.runs) if record else [],
                "baselines": list(record.baselines) if record else [],
                "families": list(dict.fromkeys(fixed.get(each.study, []))),
            },
        }
        ids[each.study] = id_of(plan)
        made[ids[each.study]] = plan
    return made


def id_of(plan: ChoicePlan) -> str:
    """12 hexadecimal digits. Runs count by their ids, so that neither a name nor a setting that a later version knows
    besides makes it another choice; nor do a description, stages, or what the follow-up has anyway."""
    rule = plan["rule"]
    asked = [
        plan["study"],
        plan["overrides"],
        [rule["sources"], rule["best"], rule["per"], rule["failed"], rule["stage"], rule["task"], rule["metric"]],
        [
            [each["group"], each["before"], *([run["run_id"] for run in cell] for cell in _runs_of(each))]
            for each in plan["candidates"]
        ],
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def _runs_of(candidate: CandidateTold) -> list[list[SeededRun]]:
    return [candidate["runs"], *(made["runs"] for made in candidate["into"])]


def _rule(rule: Rule, ids: Mapping[str, str]) -> RuleTold:
    by = rule.by
    return {
        "sources": [{"study": name, "choice": ids.get(name, "")} for name in rule.sources],
        "best": rule.best, "per": rule.per, "failed": rule.failed, "stage": by.stage, "task": by.task,
        "metric": by.metric, "title": by.title, "percent": by.percent, "higher_is_better": by.higher_is_better,
    }  # fmt: skip


def _candidates(follow_up: FollowUp) -> list[CandidateTold]:
    cells = follow_up.all_cells
    runs = {id(cell): run for cell, run in zip(cells, expansion.seeded_runs(cells), strict=True)}

    def of(these: Iterable[Cell]) -> list[SeededRun]:
        return [runs[id(cell)] for cell in these]

    def planned(made: Sequence[Cell]) -> PlannedCell:
        config = made[0].config
        return {"family": config.family, "config": config.model_dump(mode="json"), "runs": of(made)}

    return [
        {
            "study": each.study,
            "label": of(each.cells)[0]["name"].rpartition("-s")[0],
            "group": each.group,
            "parameters": each.cells[0].config.parameters,
            "before": each.before,
            "runs": of(each.cells),
            "into": [planned(made) for made in each.into],
        }
        for each in follow_up.candidates
    ]


# -- with the choice --------------------------------------------------------------------------------------------------


def chosen_cells(plan: ChoicePlan, choice: ChoiceFile) -> list[PlannedCell]:
    """What comes of the chosen candidates, the best first."""
    return [made for each in choice["ranked"] if each["chosen"] for made in plan["candidates"][each["number"]]["into"]]


def runs(plan: ChoicePlan, cells: Iterable[PlannedCell]) -> list[Run]:
    """These cells' runs. Raises pydantic's ValidationError for settings that this version does not know."""
    found: dict[str, Run] = {}
    stages = expansion.in_order(plan["stages"])
    for cell in cells:
        config = RunConfig.model_validate(cell["config"])
        for run in cell["runs"]:
            seeded = config.model_copy(update={"seed": run["seed"]})
            found.setdefault(run["run_id"], Run(run["run_id"], run["name"], seeded, stages, (plan["study"],)))
    return list(found.values())


def all_cells(plan: ChoicePlan) -> list[PlannedCell]:
    """All that may come of the choice."""
    return [made for candidate in plan["candidates"] for made in candidate["into"]]


def seeds_again(plan: ChoicePlan) -> list[int]:
    """The seeds of the follow-up that choose its cells, too."""
    choosing = {run["seed"] for candidate in plan["candidates"] for run in candidate["runs"]}
    return sorted(choosing & {run["seed"] for cell in all_cells(plan) for run in cell["runs"]})


def study_record(plan: ChoicePlan, choice: ChoiceFile | None) -> StudyRecord:
    """The follow-up as a study: what it has anyway, and what was chosen. In a family without a baseline it is the best
    that was chosen."""
    fixed: FixedCells = plan["fixed"]
    found, baselines, families = list(fixed["runs"]), list(fixed["baselines"]), set(fixed["families"])
    for cell in chosen_cells(plan, choice) if choice else ():
        ids = [run["run_id"] for run in cell["runs"]]
        found += ids
        if cell["family"] not in families:
            families.add(cell["family"])
            baselines += ids
    return StudyRecord(
        plan["study"], plan["description"], tuple(dict.fromkeys(baselines)), tuple(dict.fromkeys(found)),
        expansion.in_order(plan["stages"]), tuple(plan["overrides"]),
    )  # fmt: skip
