"""What is planned, as tables for a terminal: studies, runs, models. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.manifest import Cell
from cluster.plan import Array, Item, Run, model_name
from tiny_transformers.architecture import flops_per_token, parameters

WIDE = 140  # columns


def distinct_models(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Each model once, in the manifest's order: name, studies, parameters, FLOPs of a token, settings."""
    models: dict[str, dict[str, Any]] = {}
    for cell in cells:
        model = cell.config.model
        entry = models.setdefault(model.model_dump_json(), {"name": model_name(cell.model, model), "studies": []})
        if cell.study not in entry["studies"]:
            entry["studies"].append(cell.study)
        counts = parameters(model)
        entry["parameters"] = counts.total
        for part in ("embedding", "attention", "feed_forward", "head"):
            entry[part] = getattr(counts, part)
        entry["flops_per_token"] = flops_per_token(model)
        entry["training_flops_per_token"] = 3 * flops_per_token(model, training=True)  # with the backward pass
        entry["settings"] = model.model_dump(mode="json")
    return list(models.values())


def models_table(cells: Iterable[Cell], width: int) -> Table:
    """For a terminal of `width` columns; where they are few, without the parts and the studies."""
    models = distinct_models(cells)
    wide = width >= WIDE
    table = _table(f"{len(models)} distinct models; FLOPs are millions per token, forward and of a training step")
    table.add_column("model", no_wrap=wide, overflow="fold")
    parts = ("embedding", "attention", "feed_forward", "head") if wide else ()
    for title in ("parameters", *(part.replace("_", "-") for part in parts), "forward", "training"):
        table.add_column(title, justify="right", no_wrap=True)
    if wide:
        table.add_column("studies", overflow="fold")
    for model in models:
        counts = [f"{model[key]:,}" for key in ("parameters", *parts)]
        flops = [f"{model[key] / 1e6:.1f}" for key in ("flops_per_token", "training_flops_per_token")]
        table.add_row(Text(model["name"]), *counts, *flops, *([" ".join(model["studies"])] if wide else []))
    return table


def studies_table(runs: Sequence[Run], items: Sequence[Item], unit: str, order: Sequence[str]) -> Table:
    """Studies in this order: runs, models, what is to do, how long it takes. A run counts in each of its studies."""
    todo = {item.run_id: item for item in items}
    table = _table("")
    for title in ("study", "runs", "models", "runs to do", "stage runs", unit):
        table.add_column(title, justify="left" if title == "study" else "right")
    for study in sorted({study for run in runs for study in run.studies}, key=list(order).index):
        _add_study(table, study, [run for run in runs if study in run.studies], todo)
    table.add_section()
    _add_study(table, "in all, each once", runs, todo)
    return table


def _add_study(table: Table, name: str, runs: Sequence[Run], todo: dict[str, Item]) -> None:
    own = [todo[run.id] for run in runs if run.id in todo]
    models = {run.config.model.model_dump_json() for run in runs}
    figures = (len(runs), len(models), len(own), sum(len(item.stages) for item in own))
    table.add_row(name, *[f"{n:,}" for n in figures], f"{sum(item.seconds for item in own) / 3600:,.1f}")


def runs_table(runs: Sequence[Run], items: Sequence[Item], arrays: Sequence[Array]) -> Table:
    """Every run that is to be done, with its pack."""
    by_id = {run.id: run for run in runs}
    packs = {item.run_id: f"{number}.{index}" for number, array in enumerate(arrays, 1)
             for index, pack in enumerate(array.packs) for item in pack.items}  # fmt: skip
    table = Table(title=f"{len(items)} runs to do", title_justify="left")
    for title in ("run", "id", "studies", "pack", "stages", "hours"):
        table.add_column(title, overflow="fold")
    for item in items:
        run = by_id[item.run_id]
        stages = "all" if len(item.stages) == len(run.stages) else " ".join(stage for stage, _ in item.stages)
        table.add_row(
            Text(run.name, overflow="fold"),
            run.id,
            " ".join(run.studies),
            packs[run.id],
            stages,
            f"{item.seconds / 3600:.2f}",
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
