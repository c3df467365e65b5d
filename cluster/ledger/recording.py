"""Record planned runs, studies and submissions: from or in their files, and in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.files import documents, whole_files
from cluster.files.documents import AnswerFile, Intent, RunFile
from cluster.files.folders import OutputRoot, SubmissionDir
from cluster.files.records import Run, StudyRecord
from cluster.files.statuses import GIVEN_UP
from cluster.ledger.database import Ledger


def record_runs(ledger: Ledger, root: OutputRoot, runs: Sequence[Run], created: str) -> None:
    """Write each run.json, then its row; a known run gains studies and stages."""
    known = ledger.known_runs()
    for order, run in enumerate(runs):
        path = root.run(run.id).run_json
        studies, stages = known.get(run.id, ((), ()))
        if run.id in known and set(run.studies) <= set(studies) and set(run.stages) <= set(stages):
            continue
        try:
            value = documents.read(path, RunFile) if run.id in known else None
        except whole_files.TornFile:  # it is written anew; the ledger has all of it
            value = None
        whole_files.write_json(
            path,
            {
                "run_id": run.id,
                "name": run.name,
                "created": value["created"] if value else created,
                "order": value["order"] if value else order,  # within those created at once
                "studies": list(dict.fromkeys((*studies, *run.studies))),
                "stages": list(dict.fromkeys((*stages, *run.stages))),
                "parameters": run.parameters,
                "config": run.config.model_dump(mode="json"),
            },
            indent=None,
        )
    with ledger.transaction():
        ledger.record_runs(runs, created)


def record_studies(ledger: Ledger, root: OutputRoot, studies: Sequence[StudyRecord]) -> None:
    """Write each study's file, then its row, where they do not say so already. A grid takes the place of the one with
    the same --set: what was submitted with others stays beside it, with a baseline of its own."""
    known = {row["name"]: row for row in ledger.studies()}
    for study in studies:
        row = known.get(study.name, {"grids": []})
        others = [grid for grid in row["grids"] if grid["overrides"] != list(study.overrides)]
        grids = sorted([*others, study.grid], key=lambda grid: grid["overrides"])
        value: dict[str, Any] = {"name": study.name, "description": study.description, "grids": grids}
        if value != {key: row.get(key) for key in value} or not root.study(study.name).exists():
            whole_files.write_json(root.study(study.name), value, indent=None)
            ledger.put_study(**value)


def record_intent(ledger: Ledger, directory: SubmissionDir, value: Intent) -> None:
    """A submission file, and what came of it, as rows."""
    try:
        answer = documents.read(directory.answer, AnswerFile) or {"state": "intended"}
    except whole_files.TornFile:
        answer = {"state": "intended"}
    row = {
        "token": directory.token,
        "created": value["created"],
        "scheduler": value["site"]["scheduler"],
        "site": value["site"]["name"],
        "state": answer["state"],
        "job_id": answer.get("job_id"),
        "data_root": value["data_root"],
        "asked_by": value.get("asked_by", "submit"),
        **_planned(value),
    }
    attempts = [
        {"run_id": item["run_id"], "stage": stage, "number": number, "task": index}
        for index, pack in enumerate(value["packs"])
        for item in pack
        for stage, number in item["stages"]
    ]
    if row["state"] in GIVEN_UP:
        attempts = [attempt | {"status": "void"} for attempt in attempts]
    ledger.record_submission(row, attempts)


def _planned(value: Intent) -> dict[str, Any]:
    """What was asked for and estimated, as columns; None where an older file does not say."""
    asked = {key: value["site"].get(key) for key in ("gpus", "cpus", "memory_per_cpu")}
    return asked | {key: value.get(key) for key in ("slots", "cpus", "minutes", "memory", "seconds")}


def job_name(token: str) -> str:
    return f"tt-{token}"
