"""Draw the functions that learnable activations and KAN layers have learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.report.figures.sheets import HEADING, INK, LINE, NARROW, WIDE, Sheet, as_one
from cluster.report.figures.styles import DASHES, OKABE_ITO
from cluster.report.results import Family, Study, Variant
from tiny_transformers.settings.activations import ACTIVATIONS
from tiny_transformers.settings.config import FUNCTIONS

PANELS = 6  # side by side


Place = tuple[int, str]  # layer, module


@dataclass(frozen=True)
class Learned:
    """The function at one place of one run, from functions.json."""

    variant: Variant
    seed: int
    place: Place
    x: Sequence[float]
    curves: Mapping[str, Sequence[float]]
    initial: Sequence[float] | None  # None: the edges of a KAN


QUANTILES = ("5 %", "median", "95 %")


def learned_functions(study: Study, output_root: OutputRoot) -> Iterator[Sheet]:
    every = [learned for variant in study.variants for learned in _learned(variant, output_root)]
    every = [learned for learned in every if learned.x == every[0].x]
    for name, title, edges in (("functions", "Activations as learned", False), ("edges", "KAN edges as learned", True)):
        found = [learned for learned in every if (learned.initial is None) == edges]
        if not found:
            continue
        if len(_columns(study.families, found)) <= PANELS:
            yield _functions_sheet(name, title, study.families, found, edges)
        else:
            for family in study.families:
                of_family = [each for each in found if each.variant.family == family.name]
                if of_family:
                    words = f"{name}-{family.name}", f"{title}, {family.title}"
                    yield _functions_sheet(*words, [family], of_family, edges)


def _learned(variant: Variant, root: OutputRoot) -> Iterator[Learned]:
    """Yield the learned functions of the runs whose file is whole."""
    for run in variant.runs:
        try:
            told = whole_files.read_json(root.run(run.run_id).path / FUNCTIONS)
            found = [_read_layer(variant, run.seed, told["x"], layer) for layer in told["layers"]] if told else []
        except (whole_files.TornFile, OSError, KeyError, TypeError, ValueError, ArithmeticError):
            continue
        yield from found


def _read_layer(variant: Variant, seed: int, x: Any, layer: Any) -> Learned:
    """Raises KeyError, TypeError or ValueError where it is not as tiny_transformers/training/functions.py writes it."""
    curves = {str(curve["name"]): _numbers(curve["y"], len(x)) for curve in layer["curves"]}
    if missing := set(QUANTILES) - curves.keys():
        raise ValueError(f"no curve {missing}")
    initial = None if layer["initial"] is None else _numbers(layer["initial"], len(x))
    return Learned(variant, seed, (int(layer["layer"]), str(layer["module"])), _numbers(x, len(x)), curves, initial)


def _numbers(values: Any, count: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != count or count < 2 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"not {count} numbers")
    return numbers


def _columns(families: Sequence[Family], found: Sequence[Learned]) -> list[tuple[Family, Place]]:
    return [
        (family, place)
        for family in families
        for place in dict.fromkeys(each.place for each in found if each.variant.family == family.name)
    ]


def _functions_sheet(name: str, title: str, families: Sequence[Family], found: Sequence[Learned], edges: bool) -> Sheet:
    columns = _columns(families, found)
    total = len(columns)
    if total > PANELS:  # the first, the last and others between
        columns = [columns[round(i * (total - 1) / (PANELS - 1))] for i in range(PANELS)]
    labels = list(dict.fromkeys(each.variant.title for each in found))
    left, gap, head = 0.45, 0.12, 0.05 + LINE * max(_head(columns, *each).count("\n") + 1 for each in columns)
    sheet_width = NARROW if len(columns) <= 2 else WIDE
    width = (sheet_width - left - 0.1 - gap * (len(columns) - 1)) / len(columns)
    height, between = min(1.15, width), 0.36
    sheet = Sheet(name, title, sheet_width, head + len(labels) * (height + between) + 0.28)
    by_panel: dict[tuple[str, str, Place], list[Learned]] = {}
    for each in found:
        by_panel.setdefault((each.variant.title, each.variant.family, each.place), []).append(each)
    for row, label in enumerate(labels):
        top = head + row * (height + between) + 0.2
        sheet.text(left, top - 0.06, label, size=HEADING)
        panels = [by_panel.get((label, family.name, place), []) for family, place in columns]
        limits = _limits([each for panel in panels for each in panel])
        for column, ((family, place), panel) in enumerate(zip(columns, panels, strict=True)):
            axes = sheet.axes(left + column * (width + gap), top, width, height)
            if not row:
                words = _head(columns, family, place)
                sheet.text(left + column * (width + gap), 0.03, words, va="top", linespacing=1.15)
            _function_panel(axes, panel, limits, edges)
            axes.tick_params(labelleft=not column, labelbottom=row == len(labels) - 1)
    sheet.text(left + (sheet_width - left) / 2, sheet.height - 0.05, "input", ha="center")
    sheet.text(0.02, (head + sheet.height) / 2, "output", rotation=90, va="center")
    sheet.caption = _function_caption(edges, found, total)
    return sheet


def _head(columns: Sequence[tuple[Family, Place]], family: Family, place: Place) -> str:
    layer, module = place
    several = any(other is family and there[0] == layer and there[1] != module for other, there in columns)
    return "\n".join([family.title, f"layer {layer + 1}", *([module] if several else [])])


def _limits(panels: Sequence[Learned]) -> tuple[float, float]:
    """Return the limits of a row: what bands, medians and starts need. A single edge may leave them."""
    values = [y for each in panels for key in QUANTILES for y in each.curves[key]]
    values += [y for each in panels for y in each.initial or ()]
    strong = [abs(y) for each in panels for key, ys in each.curves.items() if key not in QUANTILES for y in ys]
    low, high = min(values), max(values)
    if strong:
        reach = float(np.quantile(strong, 0.98))
        low, high = min(low, -reach), max(high, reach)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def _function_panel(axes: Axes, panel: Sequence[Learned], limits: tuple[float, float], edges: bool) -> None:
    axes.set_ylim(*limits)
    axes.grid(True)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True, prune="both"))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
    if panel:
        low, high = (np.mean([each.curves[name] for each in panel], axis=0) for name in (QUANTILES[0], QUANTILES[-1]))
        axes.fill_between(panel[0].x, low, high, color=OKABE_ITO[0], alpha=0.2, lw=0)
        single = [(panel[0].x, y) for name, y in panel[0].curves.items() if name not in QUANTILES]
        axes.plot(*as_one(single), color=OKABE_ITO[1], lw=0.6)
        medians = as_one((each.x, each.curves["median"]) for each in panel)
        axes.plot(*medians, color=OKABE_ITO[0], lw=1.2 if edges else 0.7)
    if panel and panel[0].initial is not None:
        axes.plot(panel[0].x, panel[0].initial, color=INK, lw=0.9, ls=DASHES[1])
    if panel:
        axes.set_xlim(panel[0].x[0], panel[0].x[-1])


def _function_caption(edges: bool, found: Sequence[Learned], total: int) -> str:
    seeds = len({each.seed for each in found})
    count = "1 seed" if seeds == 1 else f"{seeds} seeds"
    some = f" {PANELS} of {total} places are shown." if total > PANELS else ""
    if edges:
        return (
            f"Functions on the edges of KAN layers, {count}. Thick lines: the median over all edges of a layer, a line "
            "a seed; bands: 5 % to 95 % of the edges, means over seeds; thin lines: the edges of one seed with the "
            f"largest splines.{some}"
        )
    names = {getattr(each.variant.config.model, "activation", None) for each in found}
    gated = any(ACTIVATIONS[name].gated for name in names if name)
    of_gate = " Of a gated one it is that of the gate, for a value of 1." if gated else ""
    return (
        f"Solid lines: the median over the units of a layer, a line a seed ({count}); bands: 5 % to 95 % of the "
        f"units, means over seeds; dashed: the function at the start.{of_gate}{some}"
    )
