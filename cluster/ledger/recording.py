"""Record planned runs, studies and submissions: from or in their files, and in the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from cluster.files import documents, whole_files
from cluster.files.documents import AnswerFile, Intent, RunFile, StudyFile
from cluster.files.folders import OutputRoot, SubmissionDir
from cluster.files.records import AttemptRow, Run, StudyRecord
from cluster.files.statuses import GIVEN_UP, AttemptStatus
from cluster.ledger.database import Ledger
from cluster.ledger.rows import SubmissionRow
from cluster.plan.memo import PerSettings


def record_runs(ledger: Ledger, output_root: OutputRoot, runs: Sequence[Run], created: str) -> None:
    """Write each run.json, then its row; a known run gains studies and stages. One whose file is gone gets it anew."""
    known, dumped = ledger.known_runs(), PerSettings(lambda config: config.model_dump(mode="json"))
    changed: list[Run] = []
    for order, run in enumerate(runs):
        path = output_root.run(run.id).run_json
        studies, stages = known.get(run.id, ((), ()))
        complete = run.id in known and set(run.studies) <= set(studies) and set(run.stages) <= set(stages)
        if complete and path.exists():
            continue
        changed.append(run)
        try:
            value = documents.read(path, RunFile) if run.id in known else None
        except whole_files.TornFile:  # it is written anew; the ledger has all of it
            value = None
        whole = replace(run, stages=tuple(dict.fromkeys((*stages, *run.stages))))
        needs = {"needs": whole.needs} if whole.needs else {}
        whole_files.write_json(
            path,
            {
                "run_id": run.id,
                "name": value["name"] if value else ledger.names([run.id]).get(run.id, run.name),  # it keeps its first
                "created": value["created"] if value else created,
                "order": value["order"] if value else order,  # within those created at once
                "studies": list(dict.fromkeys((*studies, *run.studies))),
                "stages": list(whole.stages),
                "parameters": run.parameters,
                "config": {**dumped.of(run.config), "seed": run.config.seed},
                **needs,
            },
            indent=None,
        )
    with ledger.transaction():
        ledger.record_runs(changed, created)


def record_studies(ledger: Ledger, output_root: OutputRoot, studies: Sequence[StudyRecord]) -> None:
    """Write each study's file, then its row, where they do not say so already. A grid takes the place of the one with
    the same --set: what was submitted with others stays beside it, with a baseline of its own."""
    known = {row["name"]: row for row in ledger.studies()}
    for study in studies:
        row = known.get(study.name)
        others = {tuple(grid["overrides"]): grid for grid in (row["grids"] if row else ())}
        before = others.pop(study.overrides, None)
        grids = sorted([*others.values(), study.grid(before)], key=lambda grid: grid["overrides"])
        value: StudyFile = {"name": study.name, "description": study.description, "grids": grids}
        if value != row or not output_root.study(study.name).exists():
            whole_files.write_json(output_root.study(study.name), value, indent=None)
            ledger.put_study(**value)


def record_intent(ledger: Ledger, directory: SubmissionDir, value: Intent) -> None:
    """A submission file, and what came of it, as rows."""
    try:
        answer = documents.read(directory.answer, AnswerFile) or {"state": "intended"}
    except whole_files.TornFile:
        answer = {"state": "intended"}
    site = value["site"]
    row: SubmissionRow = {
        "submission_id": directory.id,
        "created": value["created"],
        "scheduler": site["scheduler"],
        "site": site["name"],
        "state": answer["state"],
        "job_id": answer.get("job_id"),
        "data_root": value["data_root"],
        "asked_by": value.get("asked_by", "submit"),
        "user": value.get("user"),
        "slots": value.get("slots"),
        "gpus": site.get("gpus"),
        "cpus": value.get("cpus"),
        "memory_per_cpu": site.get("memory_per_cpu"),
        "minutes": value.get("minutes"),
        "memory": value.get("memory"),
        "seconds": value.get("seconds"),
        "stage_seconds": json.dumps(value["stage_seconds"]) if "stage_seconds" in value else None,
    }
    status: AttemptStatus = "void" if row["state"] in GIVEN_UP else "submitted"
    attempts: list[AttemptRow] = [
        {"run_id": item["run_id"], "stage": stage, "number": number, "pack_index": index, "status": status}
        for index, pack in enumerate(value["packs"])
        for item in pack
        for stage, number in item["stages"]
    ]
    ledger.record_submission(row, attempts)
