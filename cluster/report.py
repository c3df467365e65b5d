"""The ledger, shown: the status of every stage run, and the scores of every run as tables.

Every figure comes from an evaluator's result file through the ledger, with its count; a run without a score has an
empty cell, never a guess."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster import rundir
from cluster.ledger import Ledger
from cluster.render import render
from cluster.rundir import OutputRoot
from tiny_transformers.config import STAGES

STATUSES = ("completed", "running", "submitted", "failed", "blocked", "eligible", "waiting")
COLOURS = {"completed": "green", "running": "cyan", "submitted": "blue", "failed": "red", "blocked": "yellow"}
LOG_LINES = 3


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
)


# -- status -----------------------------------------------------------------------------------------------------------


def status_json(overview: Sequence[dict[str, Any]], as_of: str, slurm: str) -> dict[str, Any]:
    counts = Counter(view["status"] for run in overview for view in run["stages"].values())
    return {
        "as_of": as_of,
        "slurm": slurm,
        "counts": {status: counts[status] for status in STATUSES},
        "runs": [{key: run[key] for key in ("run_id", "name", "studies", "stages")} for run in overview],
    }


def status_view(
    ledger: Ledger, root: OutputRoot, as_of: str, slurm: str, *, per_run: bool, failed_only: bool
) -> RenderableType:
    overview = ledger.overview()
    if not overview:
        return Text(f"No runs yet in {root.path}. Start with: submit experiments.yaml --dry-run")
    parts: list[RenderableType] = []
    if not failed_only:
        for study in dict.fromkeys(study for run in overview for study in run["studies"]):
            runs = [run for run in overview if study in run["studies"]]
            parts.append(_run_table(study, runs) if per_run else _study_table(study, runs))
        parts += _running(ledger, overview)
    parts += _failures(ledger, root, overview)
    parts += _flags(ledger, overview)
    if failed_only and not parts:
        parts.append(Text("No stage run has failed."))
    parts.append(Text(_as_of(as_of, slurm), style="dim"))
    return Group(*parts)


def _as_of(as_of: str, slurm: str) -> str:
    if slurm == "unreachable":
        return f"SLURM did not answer; as of {as_of}"
    return f"as of {as_of}"


def _study_table(study: str, runs: Sequence[dict[str, Any]]) -> Table:
    table = _table(f"{study}: {len(runs)} run{'s' if len(runs) != 1 else ''}")
    table.add_column("stage")
    counts = {stage: Counter(run["stages"][stage]["status"] for run in runs if stage in run["stages"])
              for stage in STAGES}  # fmt: skip
    shown = [status for status in STATUSES if any(count[status] for count in counts.values())]
    for status in shown:
        table.add_column(status, justify="right", style=COLOURS.get(status, ""))
    for stage, count in counts.items():
        if count:
            table.add_row(stage, *(str(count[status] or "·") for status in shown))
    return table


def _run_table(study: str, runs: Sequence[dict[str, Any]]) -> Table:
    table = _table(study)
    table.add_column("run")
    table.add_column("id", no_wrap=True)
    for stage in STAGES:
        table.add_column(stage)
    for run in runs:
        cells = [run["stages"].get(stage, {}).get("status", "") for stage in STAGES]
        styled = [Text(cell, style=COLOURS.get(cell, "")) for cell in cells]
        table.add_row(Text(run["name"], overflow="fold"), run["run_id"], *styled)
    return table


def _running(ledger: Ledger, overview: Sequence[dict[str, Any]]) -> list[RenderableType]:
    names = {run["run_id"]: run["name"] for run in overview}
    lines, reasons = [], Counter[str]()
    for attempt in ledger.newest_attempts():
        progress = json.loads(attempt["progress"]) if attempt["progress"] else {}
        if attempt["status"] == "running":
            line = Text(f"{names[attempt['run_id']]} {attempt['stage']}", style="cyan")
            where = f" on {attempt['host']}, job {attempt['job']}: " if attempt["host"] else ": "
            line.append(f"{where}{progress.get('fraction', 0):.0%} {progress.get('text', '')}", style="default")
            lines.append(line)
        elif attempt["status"] == "submitted" and progress.get("reason"):
            reasons[progress["reason"]] += 1
    parts: list[RenderableType] = [Text("Running", style="bold"), *lines] if lines else []
    parts += [Text(f"{count} stage runs wait in SLURM's queue: {reason}") for reason, count in reasons.items()]
    return parts


def _failures(ledger: Ledger, root: OutputRoot, overview: Sequence[dict[str, Any]]) -> list[RenderableType]:
    names = {run["run_id"]: run["name"] for run in overview}
    failed = [attempt for attempt in ledger.newest_attempts() if attempt["status"] == "failed"]
    parts: list[RenderableType] = []
    for attempt in failed:
        line = Text(f"{names[attempt['run_id']]} {attempt['stage']}", style="red")
        line.append(f" ({attempt['run_id']}, attempt {attempt['number']}, {attempt['job'] or 'no job'})", style="dim")
        line.append(f" {attempt['cause']}: ", style="bold red").append(attempt["message"] or "", style="default")
        parts.append(line)
        log = root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"]).log
        parts += [Text(f"    {text}", style="dim") for text in rundir.tail(log, LOG_LINES)]
    if parts:
        causes = Counter(attempt["cause"] for attempt in failed)
        summary = ", ".join(f"{count} {cause}" for cause, count in causes.items())
        parts.insert(0, Text(f"Failed: {summary}", style="bold red"))
        parts.append(Text("`logs RUN STAGE` shows a whole log; `rerun --failed` does these again, and what follows."))
    return parts


def _flags(ledger: Ledger, overview: Sequence[dict[str, Any]]) -> list[RenderableType]:
    """Checks that did not hold but do not make a score wrong by themselves."""
    names = {run["run_id"]: run["name"] for run in overview}
    flagged: dict[str, list[str]] = {}
    for row in ledger.failed_checks():
        if not row["blocking"]:
            flagged.setdefault(names[row["run_id"]], []).append(row["name"])
    return [Text(f"flagged: {name}: {', '.join(checks)}", style="yellow") for name, checks in flagged.items()]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


# -- scores -----------------------------------------------------------------------------------------------------------


def score_table(ledger: Ledger) -> Table:
    table = _table("scores (accuracies and averages in %, losses in nats)")
    table.add_column("run")
    table.add_column("parameters", justify="right")
    for column in COLUMNS:
        table.add_column(column.title, justify="right")
    for row in summary(ledger):
        cells = [_cell(row[column.title], column) for column in COLUMNS]
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
    """report.md, summary.csv (a row per run) and scores.csv (a row per figure, with its count)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = summary(ledger)
    names = {run["run_id"]: run for run in ledger.overview()}
    long = [
        {"run": names[row["run_id"]]["name"], "studies": " ".join(names[row["run_id"]]["studies"])} | row
        for row in ledger.scores()
    ]
    files = {
        "report.md": _markdown(rows, names.values()),
        "summary.csv": _csv(rows),
        "scores.csv": _csv(long),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def _cell(value: float | None, column: Column) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if column.percent else f"{value:.3f}"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _markdown(rows: Sequence[dict[str, Any]], runs: Iterable[dict[str, Any]]) -> str:
    studies: dict[str, list[dict[str, Any]]] = {}
    scored = {row["run_id"]: row for row in rows}
    for run in runs:
        for study in run["studies"]:
            studies.setdefault(study, []).append(run)
    sections = [
        {
            "study": study,
            "rows": [[scored[run["run_id"]]["run"], run["run_id"], f"{run['parameters']:,}",
                      *(_cell(scored[run["run_id"]][column.title], column) for column in COLUMNS)]
                     for run in members if run["run_id"] in scored],
            "missing": [run["name"] for run in members if run["run_id"] not in scored],
        }
        for study, members in studies.items()
    ]  # fmt: skip
    return render("report.md.j2", columns=[column.title for column in COLUMNS], sections=sections)
