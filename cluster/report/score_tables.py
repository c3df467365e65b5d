"""The scores of runs, as they are in the ledger: a table for a terminal, and rows for CSV files.

Every figure comes from an evaluator's result file through the ledger, with its count; a run without a score has an
empty cell, never a guess. What is said of studies is report.py's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.ledger.database import Ledger
from cluster.ledger.rows import MetricRow, ScoreRow
from cluster.report import forms
from cluster.report.every_run import Settings, differing
from cluster.report.results import Measure, Result, every_result, measures_of, told

NARROW = 120  # columns of a terminal, below which it gets the main figures only


def score_table(ledger: Ledger, width: int) -> Table:
    """For a terminal of so many columns."""
    table = Table(
        title="scores (accuracies and averages in %, losses in nats)", title_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    results = [each for each in every_result(ledger) if each.scores]
    rows, told_as = summary(ledger, results), _measures(ledger, results)
    names = [row["run"] for row in rows]
    measures = [
        measure
        for measure in told_as
        if any(row[measure.title] is not None for row in rows) and (width >= NARROW or measure.is_main)
    ]
    table.add_column("run", overflow="fold")
    sizes = not rows or any(row["parameters"] for row in rows)  # programs have none
    for title in (*(["parameters"] if sizes else []), *(measure.title for measure in measures)):
        table.add_column(title, justify="right")
    for row in rows:
        # A name is not unique: runs may differ in settings that it does not tell.
        name = row["run"] if names.count(row["run"]) == 1 else f"{row['run']} ({row['run_id']})"
        cells = [measure.show(row[measure.title]) for measure in measures]
        table.add_row(Text(name), *([f"{row['parameters']:,}"] if sizes else []), *cells)
    return table


def summary(ledger: Ledger, results: Iterable[Result]) -> list[Mapping[str, Any]]:
    """A row per run that has a score: run, run_id, studies, parameters, and the value of every measure or None."""
    scored = [each for each in results if each.scores]
    measures = _measures(ledger, scored)
    parameters = {run["run_id"]: run["parameters"] for run in ledger.overview()}
    return [
        {"run": each.name, "run_id": each.run_id, "studies": " ".join(each.studies),
         "parameters": parameters[each.run_id]}
        | {measure.title: each.value(measure) for measure in measures}
        for each in scored
    ]  # fmt: skip


def summary_with_settings(
    ledger: Ledger, results: Iterable[Result], settings: Mapping[str, Settings]
) -> list[Mapping[str, Any]]:
    """The rows of `summary`, with the run's seed and family, and, by their paths, the settings in which these runs
    differ, out of those of all runs. A setting that a run does not have is None."""
    rows = summary(ledger, results)
    configs = {run.id: run.config for run in ledger.runs(sorted(row["run_id"] for row in rows))}
    paths = differing({run_id: settings[run_id] for run_id in configs})
    return [
        {"run": row["run"], "run_id": row["run_id"], "studies": row["studies"],
         "seed": configs[row["run_id"]].seed, "family": configs[row["run_id"]].family, **row}
        | {path: settings[row["run_id"]].get(path) for path in paths}
        for row in rows
        if row["run_id"] in configs
    ]  # fmt: skip


def _measures(ledger: Ledger, scored: Sequence[Result]) -> list[Measure]:
    """With the caveats of all of these runs."""
    configs = [run.config for run in ledger.runs(sorted(each.run_id for each in scored))]
    return [told(measure, configs) for measure in measures_of(place for each in scored for place in each.scores)]


def with_names(ledger: Ledger, kind: type[ScoreRow | MetricRow]) -> str:
    """Return all scores, or all metrics, as CSV, each with the name and the studies of its run."""
    about = {run["run_id"]: (run["name"], " ".join(run["studies"])) for run in ledger.overview()}
    columns, rows = ledger.bare(kind)
    return forms.lines(["run", "studies", *columns], ((*about[row[0]], *row) for row in rows))


def failed_checks(ledger: Ledger) -> list[str]:
    """A line per check that did not hold."""
    rows = ledger.failed_checks()
    names = ledger.names(row["run_id"] for row in rows)
    return [
        f"{names[row['run_id']]} ({row['run_id']}): {row['stage']}: {row['name']}: {row['value']}"
        + (", so the stage failed" if row["blocking"] else "")
        for row in rows
    ]
