"""The ledger's scores as tables: of every run, with what did not hold.

Every figure comes from an evaluator's result file through the ledger, with its count; a run without a score has an
empty cell, never a guess."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.ledger import Ledger
from cluster.render import render
from cluster.status import identical_scores


@dataclass(frozen=True)
class Column:
    """One column of the score table."""

    title: str
    stage: str
    task: str
    metric: str
    percent: bool = True


COLUMNS = (
    Column("val. loss", "pretrain", "validation", "loss", percent=False),
    Column("BLiMP+suppl.", "blimp", "average", "accuracy"),
    Column("BLiMP", "blimp", "blimp", "accuracy"),
    Column("suppl.", "blimp", "supplement", "accuracy"),
    Column("(Super)GLUE", "superglue", "average", "main"),
    Column("LAMBADA", "lambada", "last_word", "accuracy"),
    Column("LAMBADA token ppl.", "lambada", "passage", "perplexity", percent=False),
)


def score_table(ledger: Ledger) -> Table:
    table = _table("scores (accuracies and averages in %, losses in nats)")
    table.add_column("run")
    table.add_column("parameters", justify="right")
    rows = summary(ledger)
    columns = _with_values(rows)
    for column in columns:
        table.add_column(column.title, justify="right")
    for row in rows:
        cells = [_cell(row[column.title], column) for column in columns]
        table.add_row(Text(row["run"], overflow="fold"), f"{row['parameters']:,}", *cells)
    return table


def summary(ledger: Ledger) -> list[dict[str, Any]]:
    """A row per run that has a score: run, run_id, studies, parameters, and the value of every column or None."""
    values = {(row["run_id"], row["stage"], row["task"], row["metric"]): row["value"] for row in ledger.scores()}
    scored = {run_id for run_id, *_ in values}
    return [
        {"run": run["name"], "run_id": run["run_id"], "studies": " ".join(run["studies"]),
         "parameters": run["parameters"]}
        | {column.title: values.get((run["run_id"], column.stage, column.task, column.metric)) for column in COLUMNS}
        for run in ledger.overview()
        if run["run_id"] in scored
    ]  # fmt: skip


def write(ledger: Ledger, folder: Path) -> list[Path]:
    """report.md, summary.csv (a row per run), scores.csv (a row per figure, with its count) and metrics.csv (whatever
    else the stages measured: counts, spreads over seeds, hardware)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = summary(ledger)
    names = {run["run_id"]: run for run in ledger.overview()}
    long = _named(names, ledger.scores())
    files = {
        "report.md": _markdown(rows, names.values(), _failed_checks(ledger)),
        "summary.csv": _csv(rows),
        "scores.csv": _csv(long),
        "metrics.csv": _csv(_named(names, ledger.metrics())),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _cell(value: float | None, column: Column) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if column.percent else f"{value:.3f}"


def _with_values(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns of a table; one for which no run has a value is left out."""
    return [column for column in COLUMNS if any(row[column.title] is not None for row in rows)]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _named(runs: Mapping[str, dict[str, Any]], rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the name and the studies of their run."""
    return [
        {"run": runs[row["run_id"]]["name"], "studies": " ".join(runs[row["run_id"]]["studies"])} | row for row in rows
    ]


def _failed_checks(ledger: Ledger) -> list[str]:
    """A line per failed check, and per group of runs with identical scores."""
    rows = ledger.failed_checks()
    names = ledger.names(row["run_id"] for row in rows)
    told = [
        f"{names[row['run_id']]} ({row['run_id']}): {row['stage']}: {row['name']}: {row['value']}"
        + (", so the stage failed" if row["blocking"] else "")
        for row in rows
    ]
    return told + identical_scores(ledger)


def _markdown(rows: Sequence[dict[str, Any]], runs: Iterable[dict[str, Any]], failed_checks: Sequence[str]) -> str:
    columns = _with_values(rows)
    studies: dict[str, list[dict[str, Any]]] = {}
    scored = {row["run_id"]: row for row in rows}
    for run in runs:
        for study in run["studies"]:
            studies.setdefault(study, []).append(run)
    sections = [
        {
            "study": study,
            "rows": [[scored[run["run_id"]]["run"], run["run_id"], f"{run['parameters']:,}",
                      *(_cell(scored[run["run_id"]][column.title], column) for column in columns)]
                     for run in members if run["run_id"] in scored],
            "missing": [run["name"] for run in members if run["run_id"] not in scored],
        }
        for study, members in studies.items()
    ]  # fmt: skip
    titles = [column.title for column in columns]
    return render("report.md.j2", columns=titles, sections=sections, failed_checks=failed_checks)
