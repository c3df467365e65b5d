"""Every run as a row: what it is, status, checks that did not hold, scores, costs, the settings in which runs differ.

The same columns are the page's table of runs, runs.csv, and runs.parquet where pyarrow is installed. The page gets them
by columns, each text once and figures as they are shown everywhere: thousands of runs are some hundred kilobytes."""

from __future__ import annotations

import importlib
import io
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from cluster.console import clean
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.files.statuses import worst
from cluster.plan.memo import PerSettings
from cluster.plan.naming import flat
from cluster.report import forms, frames
from cluster.report.results import Measure, Result, Study, measures_of, told
from cluster.report.study_tables import TRAINING, any_on_a_gpu

Settings = Mapping[str, str]  # path -> value
OF_TEACHER = ("teacher.model.", "teacher.train.")  # settings of a student that make its teacher: its own run has them
POINTS = 40  # of a learning curve


@dataclass(frozen=True)
class RunColumn:
    title: str
    kind: Literal["run", "setting", "score", "cost"]
    values: Sequence[Any]  # of each run; None where it has none
    measure: Measure | None = None  # shows them
    digits: int | None = None  # shows numbers that no measure shows; None: a text, or a number as it is


def settings_of(runs: Sequence[Run]) -> dict[str, Settings]:
    """By the run's id. Paths and values are there once each: thousands of runs have the same."""
    known = PerSettings(lambda config: {sys.intern(path): sys.intern(value)
                                        for path, value in flat(config.model_dump(mode="json")).items()})  # fmt: skip
    return {run.id: {**known.of(run.config), "seed": str(run.config.seed)} for run in runs}


def differing(settings: Mapping[str, Settings]) -> list[str]:
    """Return the paths of those that are not the same for all runs, but for what has a column of its own."""
    paths = dict.fromkeys(path for of_run in settings.values() for path in of_run)
    return [
        path
        for path in paths
        if path not in ("seed", "model.family") and len({of_run.get(path) for of_run in settings.values()}) > 1
    ]


def columns(
    results: Sequence[Result], runs: Sequence[Run], settings: Mapping[str, Settings], studies: Sequence[Study]
) -> list[RunColumn]:
    """Return the columns, of `results` in their order. `studies` tell what a run's variants are called."""
    about = {run.id: run for run in runs}
    kept = [about[result.run_id] for result in results]
    called = _variants(studies)
    configs = [run.config for run in kept]
    measures = [told(each, configs) for each in measures_of(place for result in results for place in result.scores)]
    of_runs = [settings[run.id] for run in kept]
    paths = [path for path in differing(settings) if not path.startswith(OF_TEACHER)]
    found = [
        RunColumn("run", "run", [run.name for run in kept]),
        RunColumn("run_id", "run", [run.id for run in kept]),
        RunColumn("variant", "run", [", ".join(called.get(run.id, ())) for run in kept]),
        RunColumn("studies", "run", [" ".join(run.studies) for run in kept]),
        RunColumn("family", "run", [run.config.family for run in kept]),
        RunColumn("seed", "run", [run.config.seed for run in kept]),
        RunColumn("status", "run", [worst(stage["status"] for stage in result.stages.values()) for result in results]),
        RunColumn("failed checks", "run", [_checks(result) for result in results]),
        *(RunColumn(each.title, "score", [result.value(each) for result in results], each) for each in measures),
        RunColumn("parameters", "cost", [run.parameters or None for run in kept], digits=0),
        RunColumn(TRAINING, "cost", [_hours(result) for result in results], digits=2),
        RunColumn(
            "GPU-hours" if any_on_a_gpu(results) else "hours",
            "cost",
            [result.gpu_hours for result in results],
            digits=2,
        ),
        *(RunColumn(path, "setting", [of_run.get(path) for of_run in of_runs]) for path in paths),
    ]
    return [each for each in found if each.kind == "run" or any(value is not None for value in each.values)]


def _variants(studies: Sequence[Study]) -> dict[str, dict[str, None]]:
    """Run's id -> what it is called in each study, each name once."""
    called: dict[str, dict[str, None]] = {}
    for study in studies:
        for variant in study.variants:
            for run in variant.runs:
                called.setdefault(run.run_id, {})[variant.title] = None
    return called


def _checks(result: Result) -> str:
    return ", ".join(dict.fromkeys(f"{check['stage']}: {check['name']}" for check in result.failed_checks))


def _hours(result: Result) -> float | None:
    return None if result.training_seconds is None else result.training_seconds / 3600


# -- as files ---------------------------------------------------------------------------------------------------------


def files(of: Sequence[RunColumn]) -> dict[str, str | bytes]:
    """Return them by their names."""
    found: dict[str, str | bytes] = {"runs.csv": forms.as_csv(rows(of))}
    return found | ({"runs.parquet": made} if (made := parquet(of)) else {})


def rows(of: Sequence[RunColumn]) -> list[dict[str, Any]]:
    titles = [column.title for column in of]
    return [dict(zip(titles, row, strict=True)) for row in zip(*(column.values for column in of), strict=True)]


def parquet(of: Sequence[RunColumn]) -> bytes | None:
    """Return the same as Parquet, numbers as numbers; None where pyarrow is not installed."""
    try:
        arrow, files = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        return None
    stream = io.BytesIO()
    files.write_table(arrow.table({column.title: arrow.array(_typed(column)) for column in of}), stream)
    return stream.getvalue()


def _typed(column: RunColumn) -> list[Any]:
    """Settings are texts; one that is a number wherever it is set becomes one."""
    if column.kind == "setting":
        with suppress(ValueError):
            return [None if value in (None, "null") else float(value) for value in column.values]
    return list(column.values)


# -- for the page -----------------------------------------------------------------------------------------------------


def as_json(of: Sequence[RunColumn], root: OutputRoot) -> str:
    """Return what the page's script reads, to stand in a <script> element: no text of it can end that."""
    ids = next(column.values for column in of if column.title == "run_id")
    data = {"columns": [_shown(column) for column in of], "curves": _curves(root, ids)}
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _shown(column: RunColumn) -> dict[str, Any]:
    measure, title = column.measure, column.title
    if measure:
        values = [None if value is None else float(measure.show(value)) for value in column.values]
        shown = {"digits": 1 if measure.percent else 3, "values": values}
        title += ", %" if measure.percent else ""
    elif column.digits is not None:
        values = [None if value is None else round(value, column.digits) for value in column.values]
        shown = {"digits": column.digits, "values": values}
    else:
        texts = [None if value in (None, "") else clean(str(value)) for value in column.values]
        levels = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        return {"title": title, "kind": column.kind, "levels": list(levels), "values": [levels[text] for text in texts]}
    return {"title": title, "kind": column.kind, **shown}


def _curves(root: OutputRoot, run_ids: Sequence[str]) -> dict[str, Any]:
    """Each run's loss at some steps, what many runs have in common once: [which steps, losses, whether in training]."""
    steps: dict[tuple[int, ...], int] = {}
    found: list[Any] = []
    for run_id in run_ids:
        points, trained = _curve(root, run_id)
        at = steps.setdefault(tuple(step for step, _ in points), len(steps))
        found.append([at, [float(f"{loss:.4g}") for _, loss in points], trained] if points else None)
    return {"steps": [*steps], "runs": found}


def _curve(root: OutputRoot, run_id: str) -> tuple[list[tuple[int, float]], bool]:
    """Return the validation loss by step, or where there is none that of training; and whether it is that."""
    records = frames.curve(root, run_id)
    validation = frames.losses(records, "eval_loss")
    return list(_thinned(list((validation or frames.losses(records, "loss")).items()))), not validation


def _thinned(points: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """Means of neighbours, so many that POINTS are left; each stands at the last of its steps."""
    size = math.ceil(len(points) / POINTS)
    for start in range(0, len(points), size or 1):
        part = points[start : start + size]
        yield part[-1][0], statistics.fmean(loss for _, loss in part)
