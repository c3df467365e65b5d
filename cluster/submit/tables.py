"""Show what is planned as tables for a terminal: studies, runs, models, sizes; and planned against used. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.console import count, duration, hours
from cluster.files.records import Run
from cluster.ledger.rows import UsageRow
from cluster.manifest.loading import Cell
from cluster.plan import cost
from cluster.plan.choosing import PackItem
from cluster.plan.cost import TIME_MARGIN
from cluster.plan.memo import PerSettings
from cluster.plan.naming import model_name
from cluster.plan.outlook import predict
from cluster.plan.packing import Array, Sizing
from cluster.sites.profiles import Site
from tiny_transformers.settings.architecture import flops_per_token, parameters
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES

WIDE = 140  # columns
SPEEDS = {"tokens/s": ("tokens_per_second", ",.0f"), "MFU": ("mfu", ".0%"), "data wait": ("data_wait", ".0%"),
          "precision": ("precisions", "")}  # fmt: skip
ADVISED_BELOW, ADVISED_ABOVE = 0.7, 1.05  # of what was planned; between, nothing is advised


def distinct_models(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Each model once, in the manifest's order, teachers last: name, studies, parameters, FLOPs, settings."""
    cells, models = list(cells), dict[str, dict[str, Any]]()
    taught = ((cell, cell.config.teacher.name, cell.config.taught_by) for cell in cells if cell.config.teacher)
    for cell, named, config in [*((cell, cell.model, cell.config) for cell in cells), *taught]:
        assert config
        model = config.model
        entry = models.setdefault(model.model_dump_json(), {"name": model_name(named, config), "studies": []})
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


def studies_table(runs: Sequence[Run], items: Sequence[PackItem], site: Site, order: Sequence[str]) -> Table:
    """Studies in this order: runs, models, what is to do, how long it takes, and, where it takes GPU-hours, what the
    studies' own way would take for its pretraining, as far as its time was published. A run counts in each of its
    studies."""
    todo = {item.run_id: item for item in items}
    studies_seconds = PerSettings(cost.studies_seconds)
    own_way = {
        run.id: seconds
        for run in runs
        if site.gpus
        and run.id in todo
        and any(stage == "pretrain" for stage, _ in todo[run.id].stages)
        and (seconds := studies_seconds.of(run.config)) is not None
    }
    table = _table("")
    titles = ("study", "runs", "models", "runs to do", "stage runs", site.hours_unit)
    for title in (*titles, *(["studies' way"] if own_way else [])):
        table.add_column(title, justify="left" if title == "study" else "right")
    texts = PerSettings(lambda config: config.model.model_dump_json())
    for study in sorted({study for run in runs for study in run.studies}, key=list(order).index):
        _add_study(table, study, [run for run in runs if study in run.studies], todo, own_way, texts)
    table.add_section()
    _add_study(table, "in all, each once", runs, todo, own_way, texts)
    return table


def _add_study(
    table: Table,
    name: str,
    runs: Sequence[Run],
    todo: Mapping[str, PackItem],
    own_way: Mapping[str, float],
    texts: PerSettings[str],
) -> None:
    own = [todo[run.id] for run in runs if run.id in todo]
    models = {texts.of(run.config) for run in runs}
    figures = (len(runs), len(models), len(own), sum(len(item.stages) for item in own))
    seconds = sum(item.seconds for item in own)
    theirs = [own_way[run.id] / 3600 for run in runs if run.id in own_way]
    told = f"{sum(theirs):,.1f}" if theirs else ""
    table.add_row(name, *[f"{n:,}" for n in figures], hours(seconds / 3600), *([told] if own_way else []))


def stages_table(arrays: Sequence[Array], runs: Sequence[Run], unit: str, measured: cost.Measured) -> Table:
    """Return the table of what is to do, stage by stage: stage runs, how long they take, and by which speeds."""
    by_id = {run.id: run for run in runs}
    counts: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    bases: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}

    def figures(config: RunConfig, stages: tuple[str, ...], slots: int) -> list[tuple[str, float, str]]:
        kinds = [_kind(config, stage, slots, measured) for stage in stages]
        return [*zip(stages, measured.of_each(config, stages, slots), kinds, strict=True)]

    known = PerSettings(figures)
    for item, slots in _at_a_time(arrays):
        stages = tuple([stage for stage, _ in item.stages])
        for stage, takes, kind in known.of(by_id[item.run_id].config, stages, slots):
            counts[stage] += 1
            seconds[stage] += takes * item.adjustment.time
            bases[stage][kind] += 1
    table = _table("")
    for title in ("stage", "stage runs", unit, "by the speed"):
        table.add_column(title, justify="right" if title in ("stage runs", unit) else "left")
    for stage in (stage for stage in STAGES if counts[stage]):
        told = [basis if len(bases[stage]) == 1 else f"{basis}: {runs:,}" for basis, runs in bases[stage].items()]
        table.add_row(stage, f"{counts[stage]:,}", hours(seconds[stage] / 3600), "; ".join(told))
    return table


def _at_a_time(arrays: Iterable[Array]) -> Iterable[tuple[PackItem, int]]:
    """Each item, and how many runs of its pack go on at once."""
    return ((item, array.at_a_time(pack)) for array in arrays for pack in array.packs for item in pack.items)


def _kind(config: RunConfig, stage: str, slots: int, measured: cost.Measured) -> str:
    """A figure's basis without its numbers."""
    if stage == "pretrain" and cost.budgeted_seconds(config):
        return "a budget of hours"
    if not measured.work(config, stage):
        return "fixed"
    return _without_counts(measured.speed(config, stage, slots).basis)


@cache
def _without_counts(basis: str) -> str:
    return re.sub(r" \(\d+\)", "", basis)


def studies_way(arrays: Sequence[Array], runs: Sequence[Run], unit: str, measured: cost.Measured) -> str:
    """In words, what the studies' own way would take for the pretraining that is to do; empty if there is none."""
    by_id = {run.id: run.config for run in runs}
    own_way = PerSettings(cost.studies_seconds)
    ours = theirs = 0.0
    for item, slots in _at_a_time(arrays):
        seconds = own_way.of(by_id[item.run_id])
        if seconds is not None and any(stage == "pretrain" for stage, _ in item.stages):
            ours += measured.seconds(by_id[item.run_id], "pretrain", slots=slots) * item.adjustment.time
            theirs += seconds
    if not theirs:
        return ""
    return (
        f"Pretraining of models with a published time is {ours / 3600:,.1f} {unit} of these. The studies' own way "
        "(Trainer, float32, padded, one run "
        f"per GPU; the last column above) would take {theirs / 3600:,.1f} hours on one A100 for it, by its published "
        "times; for its evaluations none were published."
    )


def runs_table(runs: Sequence[Run], items: Sequence[PackItem], arrays: Sequence[Array]) -> Table:
    """Every run that is to be done, with its pack."""
    by_id = {run.id: run for run in runs}
    packs = {item.run_id: f"{number}.{index}" for number, array in enumerate(arrays, 1)
             for index, pack in enumerate(array.packs) for item in pack.items}  # fmt: skip
    table = Table(title=f"{count(len(items), 'run')} to do", title_justify="left")
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


# -- sizes ------------------------------------------------------------------------------------------------------------


def outlook_view(arrays: Sequence[Array], site: Site, unit: str, later: Sequence[Array] = ()) -> str:
    """Say in words what the packs come to; `later`: those of them that begin when the others have ended, at the
    latest."""
    found = predict(arrays, site)
    if later:
        first = [array for array in arrays if all(array is not each for each in later)]
        found = replace(found, end=sum(predict(part, site).end for part in (first, later) if part))
    if site.scheduler == "local":
        return f"{found.at_a_time:.1f} runs at a time on average; predicted to end in {duration(found.end)}."
    jobs = (
        f"{found.jobs} of them at once" if found.jobs else "all of them at once, since no limit of the account is known"
    )
    return (
        f"{count(found.packs, 'pack')}, {found.at_a_time:.1f} runs at a time on average; "
        f"{found.asked:,.1f} {unit} asked for {found.hours:,.1f} that are needed by the estimate; slots are idle for "
        f"{found.idle:.0%} of their time. Predicted to end in {duration(found.end)}, with {jobs} and half an hour in "
        "the queue for each."
    )


def sizes_view(arrays: Sequence[Array], runs: Sequence[Run], site: Site, measured: cost.Measured) -> Table:
    """How memory, slots, time and the runs of a pack came about: a few lines for each distinct size."""
    by_id = {run.id: run for run in runs}
    table = Table(title="How the sizes came about", title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    seen: list[tuple[object, object]] = []
    for number, array in enumerate(arrays, 1):
        if array.sizing is None or (array.resources, array.sizing) in seen:
            continue
        seen.append((array.resources, array.sizing))
        for index, (word, text) in enumerate(_size_lines(array, array.sizing, by_id, site, measured)):
            table.add_row(
                f"array {number} {word}" if index == 0 else f"{'':{len(f'array {number} ')}}{word}", Text(text)
            )
    return table


def _size_lines(
    array: Array, sizing: Sizing, runs: dict[str, Run], site: Site, measured: cost.Measured
) -> list[tuple[str, str]]:
    resources = array.resources
    longest, slots = max(_at_a_time([array]), key=lambda pair: pair[0].seconds)
    config = runs[longest.run_id].config
    stages = []
    for stage, _ in longest.stages:
        speed = measured.speed(config, stage, slots)
        seconds = measured.seconds(config, stage, slots=slots)
        rate = "" if STAGES[stage].own else f" at {speed.value:.1e} FLOP/s"
        known = f"{rate}, {speed.basis}" if cost.flops(config, stage) else ", fixed"
        stages.append(f"{stage} {hours(seconds / 3600)} h{known}")
    pack = max(array.packs, key=lambda pack: pack.asked)
    asked, margin = f" -> {resources.minutes / 60:.1f} h asked", f"x {pack.asked / pack.seconds:.2g}"
    estimated = pack.asked / pack.seconds > 1.01 * TIME_MARGIN
    why = "at least in part estimated" if estimated else "measured, or a budget of hours"
    if site.scheduler == "local":  # nobody is asked
        asked = ""
    elif resources.minutes < pack.asked / 60:
        asked += f" (the site's max_time; the estimate {margin} is {pack.asked / 3600:,.1f} h)"
    elif pack.asked / 60 <= site.min_time == resources.minutes:
        asked += " (the site's min_time)"
    else:
        asked += f" ({margin}: {why})"
    counts = [len(pack.items) for pack in array.packs]
    runs_of = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    return [
        ("memory", f"{sizing.memory:,} MB, {sizing.memory_basis}; the largest is {sizing.largest}"),
        ("slots", f"{resources.slots}: {_slots_bound(resources.slots, sizing)}"),
        ("runs", f"{runs_of} in a pack: {sizing.size_bound}"),
        ("time", f"{pack.seconds / 3600:.2f} h for the longest pack{asked}. Its longest run: {'; '.join(stages)}"),
    ]


def _slots_bound(slots: int, sizing: Sizing) -> str:
    return "no more runs than that in a pack" if slots < sizing.slots else sizing.slots_bound


def measured_table(runs: Sequence[Run], site: Site, measured: cost.Measured) -> Table:
    """Return the table of what is known of each of these runs' architectures on this site."""
    table = _table(f"site {site.name}: {len(runs)} architectures")
    table.add_column("model", overflow="fold")
    for title in ("peak MB", "closed form MB", "pretraining FLOP/s"):
        table.add_column(title, justify="right")
    table.add_column("basis", overflow="fold")
    for run in runs:
        peak, speed = measured.peak(run.config), measured.speed(run.config, "pretrain")
        shown = f"{peak.value:,.0f}" if peak else ""
        table.add_row(
            Text(run.name), shown, f"{cost.memory(run.config, bool(site.gpus)):,}", f"{speed.value:.2e}", speed.basis
        )
    return table


def together_table(runs: Sequence[Run], numbers: Sequence[int], site: Site, measured: cost.Measured) -> Table:
    """Return the table of what so many at a time reach together, for each of these runs' architectures."""
    table = _table(f"site {site.name}: pretrainings at a time")
    table.add_column("model", overflow="fold")
    for title in ("at a time", "tokens/s together", "FLOP/s together", "x one"):
        table.add_column(title, justify="right")
    table.add_column("basis", overflow="fold")
    for key, run in {cost.architecture_key(run.config): run for run in runs}.items():
        figures, gains = measured.together.get(key, {}), measured.gains.get(key, {})
        for number in sorted({*numbers, *figures}):
            cells = ["", "", "", "not known: they must train at the same time nearly throughout; give more --steps"]
            if figure := figures.get(number):
                speed = f"{figure.value / cost.training_flops(run.config):,.0f}"
                gain = f"{gains[number]:.2f}" if number in gains else ""
                cells = [speed, f"{figure.value:.2e}", gain, figure.basis]
            table.add_row(Text(run.name.rpartition("-s")[0]), str(number), *cells)
    return table


# -- planned against used ---------------------------------------------------------------------------------------------


def usage_table(rows: Sequence[UsageRow]) -> Table:
    """`Ledger.usage`: each figure as used / planned, of the packs that have ended; and how fast a pretraining was, on
    average: tokens per second, model FLOPs utilisation, the part of the time that data was waited for, precision."""
    table = _table("used / planned, of the packs that have ended")
    table.add_column("job", no_wrap=True)  # as `submit` and `status` call it
    table.add_column("studies", overflow="fold")
    for title in ("packs", "longest, min", "hours", "memory, MB", "at a time"):
        table.add_column(title, justify="right")
    speeds = [_speeds(row) for row in rows]
    shown = [title for title in SPEEDS if any(title in speed for speed in speeds)]
    for title in shown:
        table.add_column(title, justify="right")
    table.add_column("advice", overflow="fold")
    for row, speed in zip(rows, speeds, strict=True):
        studies = (row["studies"] or "").replace(",", " ")
        table.add_row(
            row["job_id"] or row["submission_id"],
            studies,
            *_usage(row),
            *[speed.get(title, "") for title in shown],
            advice(row),
        )
    return table


def _speeds(row: UsageRow) -> dict[str, str]:
    """Return what is known of their speeds; attempts of older versions tell their tokens per second only."""
    values: Mapping[str, Any] = row
    known: dict[str, str] = {}
    for title, (key, how) in SPEEDS.items():
        if values[key] is not None:
            known[title] = format(values[key], how) if how else values[key].replace(",", " ")
    return known


def _usage(row: UsageRow) -> list[str]:
    gpus, ended = row["gpus"] or 1, row["ended"]
    minutes: float | None = row["minutes"]
    if row["scheduler"] == "local":  # for which no time is asked
        minutes = row["seconds"] and row["seconds"] / 60 / row["packs"]
    planned = gpus * ended * minutes / 60 if minutes else None
    together = (row["busy"] or 0.0) / row["used"] if row["used"] else None
    return [
        f"{ended} / {row['packs']}",
        _pair(row["longest"] and row["longest"] / 60, minutes, ".0f"),
        _pair(row["used"] and gpus * row["used"] / 3600, planned, ",.2f"),
        _pair(row["peak"], row["memory"], ",.0f"),
        _pair(together, row["slots"], ".1f"),
    ]


def _pair(used: float | None, planned: float | None, how: str) -> str:
    shown = ["?" if value is None else format(value, how) for value in (used, planned)]
    return f"{shown[0]} / {shown[1]}" if used is not None else f"- / {shown[1]}"


def advice(row: UsageRow) -> str:
    """Return what a submission like this one should have asked for, as factors; a margin as in planning is kept."""
    if not row["longest"] or not row["minutes"]:
        return ""
    words = []
    time = TIME_MARGIN * row["longest"] / 60 / row["minutes"]
    # On one's own machine nobody waits for what was asked too much.
    if row["scheduler"] != "local" and not ADVISED_BELOW <= time <= ADVISED_ABOVE:
        words.append(f"time x {time:.1g}" if time < 1 else f"time x {time:.1f}")
    if row["peak"] and row["memory"]:
        memory = cost.MEMORY_MARGIN * row["peak"] / row["memory"]
        if not ADVISED_BELOW <= memory <= ADVISED_ABOVE:
            words.append(f"memory x {memory:.1f}")
    return ", ".join(words) or "as it was"


def _table(title: str) -> Table:
    return Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
