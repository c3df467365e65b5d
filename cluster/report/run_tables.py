"""One run as its page shows it: its settings, attempts, scores, checks, and what else its stages measured."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from cluster.console import duration
from cluster.files.records import Run, SitedAttempt
from cluster.files.statuses import worst
from cluster.ledger.rows import ScoreRow
from cluster.plan.memo import PerSettings
from cluster.plan.naming import flat
from cluster.report.details import RunDetails, StageDetails
from cluster.report.every_run import Settings
from cluster.report.results import caveat
from cluster.report.study_tables import Column, Row, StudyTable, TableCell, anchor, short
from tiny_transformers.settings.config import RunConfig

DEFAULT_SEED = RunConfig.model_fields["seed"].default
SIZES = ("num_layers", "num_hidden_layers", "hidden_size", "intermediate_size", "num_heads", "num_attention_heads")


class SettingsOfRuns:
    """The settings of runs as their pages tell them; what runs that differ in their seed have in common, once."""

    def __init__(self, every: Mapping[str, Settings]) -> None:
        self.every = every  # by the run's id
        self._unusual = PerSettings(_unusual)  # which has the seed in its place, or at the end if it is the default

    def unusual(self, run: Run) -> Settings:
        """Return those that are not the defaults, and the sizes that a model is known by."""
        found = self._unusual.of(run.config, run.config.seed == DEFAULT_SEED)
        return {**found, "seed": str(run.config.seed)}


def _unusual(config: RunConfig, _: bool) -> Settings:
    model = config.model.model_dump(mode="json")
    sizes = {"model": {name: model[name] for name in SIZES if name in model}, "seed": config.seed}
    others = config.model_dump(mode="json", exclude_defaults=True)
    return flat({"model": {"family": config.model.family}}) | flat(others) | flat(sizes)


def shown_run(details: RunDetails, shown: Collection[str], settings: SettingsOfRuns) -> dict[str, Any]:
    """Return the part of a run that the template shows; `shown`: the studies that the page has."""
    run, parts = details.run, _parts(details)
    every = settings.every[run.id]
    return {
        "run": run,
        "status": worst([stage.status for stage in details.stages]),
        "studies": [(study, anchor("study", study) if study in shown else "") for study in run.studies],
        "unusual": [f"{name}: {value}" for name, value in settings.unusual(run).items()],
        "settings": (len(every), "\n".join([f"{name}: {value}" for name, value in every.items()])),
        "attempts": _attempts_table(details),
        "scores": _scores_table(details),
        "parts": (len(parts), "\n".join(parts)),
        "checks": _run_checks_table(details),
        "metrics": [(stage.name, _metrics(stage)) for stage in details.stages if stage.metrics],
        "data": [(stage.name, stage.data) for stage in details.stages if stage.data],
        "logs": [(stage.name, stage.attempts[-1]["number"], stage.log) for stage in details.stages if stage.log],
    }


def _attempts_table(details: RunDetails) -> StudyTable:
    titles = ("attempt", "status", "job", "host", "site", "started (UTC)", "took", "code", "environment")
    columns = [Column("stage"), *(Column(title, is_text=True) for title in titles)]
    rows = []
    for stage in details.stages:
        if not stage.attempts:
            rows.append(Row([TableCell(stage.name), TableCell(""), TableCell(stage.status), *[TableCell("")] * 7]))
        rows += [Row([TableCell(stage.name), *_attempt_cells(attempt)]) for attempt in stage.attempts]
    return StudyTable("Stages and their attempts", columns, rows)


def _attempt_cells(attempt: SitedAttempt) -> Iterator[TableCell]:
    failed = attempt["status"] == "failed"
    why = ": ".join(filter(None, (attempt["cause"], attempt["message"]))) if failed else ""
    yield TableCell(f"{attempt['number']}")
    yield TableCell(attempt["status"], small=why, kind="flagged" if failed else "")
    for text in (attempt["job"], attempt["host"], attempt["site"]):
        yield TableCell(text or "")
    began, ended = attempt["started"], attempt["ended"]
    yield TableCell(f"{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M}" if began else "")
    yield TableCell(duration(ended - began) if began and ended else "")
    yield TableCell(attempt["code"] or "")
    key = attempt["environment"]
    yield TableCell(key, link=f"../index.html#{anchor('environment', key)}") if key else TableCell("")


def _scores_table(details: RunDetails) -> StudyTable | None:
    rows = []
    for stage in details.stages:
        said = caveat(stage.name, [details.run.config]).strip(" ()")
        tasks: dict[str, dict[str, ScoreRow]] = {}
        for score in _whole(stage):
            tasks.setdefault(score["task"], {})[score["metric"]] = score
        for task, metrics in tasks.items():
            n = max(score["n"] for score in metrics.values())
            values = {metric: score["value"] for metric, score in metrics.items()}
            rows.append(
                Row(
                    [
                        TableCell(stage.name, small=said),
                        TableCell(task),
                        TableCell(_scores(values)),
                        TableCell(f"{n:,}", n),
                    ]
                )
            )
    columns = [Column("stage"), Column("task", is_text=True), Column("scores", is_text=True),
               Column("of", hint="rows, pairs or tokens")]  # fmt: skip
    return StudyTable("Scores, as the ledger has them", columns, rows) if rows else None


def _whole(stage: StageDetails) -> Iterator[ScoreRow]:
    """Scores of tasks; those of a task's parts are `task/part`: BLiMP's 67 paradigms."""
    return (score for score in stage.scores if "/" not in score["task"])


def _parts(details: RunDetails) -> list[str]:
    return [
        f"{stage.name} {score['task']} {score['metric']} {short(score['value'])} of {score['n']:,}"
        for stage in details.stages
        for score in stage.scores
        if "/" in score["task"]
    ]


def _scores(values: Mapping[str, float]) -> str:
    """A task's metrics, each with its interval and with what one answer for all rows gets."""
    told = []
    for metric, value in values.items():
        if metric.startswith("majority_") or metric.endswith(("_low", "_high")):
            continue
        text = f"{metric} {short(value)}"
        if f"{metric}_low" in values and f"{metric}_high" in values:
            text += f" [{short(values[f'{metric}_low'])}, {short(values[f'{metric}_high'])}]"
        if f"majority_{metric}" in values:
            text += f" (one answer for all: {short(values[f'majority_{metric}'])})"
        told.append(text)
    return ", ".join(told)


def _run_checks_table(details: RunDetails) -> StudyTable | None:
    rows = [
        Row([
            TableCell(stage.name), TableCell(check["name"]), TableCell(short(check["value"])),
            TableCell("held") if check["passed"]
            else TableCell("did not hold" + (": the stage failed" if check["blocking"] else ""), kind="flagged"),
        ])
        for stage in details.stages for check in stage.checks
    ]  # fmt: skip
    columns = [Column("stage"), *(Column(title, is_text=True) for title in ("check", "value", "result"))]
    return StudyTable("Checks", columns, rows) if rows else None


def _metrics(stage: StageDetails) -> str:
    """Return the metrics of the whole stage. A task's own (`rte.steps`) are in metrics.csv."""
    return ", ".join(f"{name} {short(value)}" for name, value in stage.metrics.items() if "." not in name)
