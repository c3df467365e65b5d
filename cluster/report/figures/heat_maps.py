"""Draw the scores of every variant on every task as a heat map: differences to the baseline, on one scale for all.

A cell is pale where its difference is within noise: its 95 % interval has zero in it, over seeds as everywhere else in
the report, and with fewer than three of them over the items of the task."""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba

from cluster.report.comparison import interval, paired_values
from cluster.report.figures.learning_curves import runs_of
from cluster.report.figures.sheets import (
    INK,
    LABEL,
    NARROW,
    PAD,
    WIDE,
    Sheet,
    Texts,
    boxes,
    middles,
    row_edges,
    signed,
    text_width,
    wrapped,
)
from cluster.report.results import TASKS, Family, Result, Study, Variant
from tiny_transformers.settings.stage.kind import Measure, Tasks

TASK_COLUMNS = 20  # of a heat map; more tasks are its rows
PATCH, KEY_WIDTH = 0.215, 3.3  # inches: one of the key, and all of it with its words
SLANT = math.radians(55)  # of the columns' names in a heat map
BOUNDS = (1, 2, 5, 10)  # points at which the colour changes: of every heat map, so that two can be held together
SHADES = (0.42, 0.34, 0.25, 0.15, 0.04)  # of RdBu's red half, up to the first bound, the second, ...
DARK = 3  # shades from here on need white figures
PALE = 0.2  # the opacity of a cell within noise
HALF_SHARE = 0.98  # half of the 95 % interval of a share of n rows, times the root of n: of one half, the widest


def heat_maps(study: Study) -> Iterator[Sheet]:
    for scored in TASKS:
        for family in study.families:
            tasks = _tasks(scored, family)
            variants = [v for v in family.variants if any(_task(v, scored, task) is not None for task in tasks)]
            if len(variants) > 1 and variants[0].is_baseline:
                yield _heat_map(scored, family, variants, tasks)


def _tasks(scored: Tasks, family: Family) -> list[str]:
    """In the order in which they were scored; without their parts, which are `task/part`."""
    found = {task: None for run in runs_of(family) for stage, task, metric in run.scores
             if (stage, metric) == (scored.stage, scored.metric)}  # fmt: skip
    return [task for task in found if task not in scored.averages and "/" not in task]


def _task(variant: Variant, scored: Tasks, task: str) -> float | None:
    found = [run.scores.get((scored.stage, task, scored.metric)) for run in variant.runs]
    mean = variant.mean_of(each[0] for each in found if each and math.isfinite(each[0]))
    return None if mean is None else 100 * mean


@dataclass(frozen=True)
class Difference:
    """A variant and the baseline on one task, over the seeds that both have."""

    points: float
    beyond_noise: bool


NONE = Difference(math.nan, False)


def difference(variant: Variant, baseline: Variant, scored: Tasks, task: str) -> Difference:
    """NONE where they have no seed in common."""
    values = paired_values(variant, baseline, Measure(task, task, scored.stage, task, scored.metric))
    values = values[:, np.isfinite(values).all(axis=0)]
    found = interval(100 * (values[0] - values[1]))
    if not found:
        return NONE
    if found.low is not None and found.high is not None:
        return Difference(found.mean, found.low > 0 or found.high < 0)
    noise = [statistics.fmean(_noise(run, scored, task) for run in each.runs if scored_on(run, scored, task))
             for each in (variant, baseline)]  # fmt: skip
    return Difference(found.mean, abs(found.mean) > 100 * math.hypot(*noise))


def scored_on(run: Result, scored: Tasks, task: str) -> bool:
    return (scored.stage, task, scored.metric) in run.scores


def _noise(run: Result, scored: Tasks, task: str) -> float:
    """Return half of the 95 % interval of a run's score over the items of the task: as its evaluator found it, or else
    that of a share of so many rows."""
    low, high = (run.scores.get((scored.stage, task, f"{scored.metric}_{end}")) for end in ("low", "high"))
    if low and high:
        return (high[0] - low[0]) / 2
    return HALF_SHARE / math.sqrt(max(1, run.scores[scored.stage, task, scored.metric][1]))


def _heat_map(scored: Tasks, family: Family, variants: Sequence[Variant], tasks: Sequence[str]) -> Sheet:
    baseline = variants[0]
    found = [[NONE if v.is_baseline else difference(v, baseline, scored, task) for task in tasks] for v in variants]
    values = np.array([[each.points for each in row] for row in found])
    values[0] = [_task(baseline, scored, task) for task in tasks]
    beyond = np.array([[each.beyond_noise for each in row] for row in found])
    labels = [f"{v.title} (baseline, %)" if v.is_baseline else v.title for v in variants]
    names = [f"{task.replace('_', ' ')} ({_items(family, scored, task):,})" for task in tasks]
    own = np.zeros(values.shape, dtype=bool)
    own[0] = True
    if len(tasks) > TASK_COLUMNS:
        cells = CellGrid(values.T, beyond.T, own.T, names, [wrapped(label) for label in labels])
    else:
        cells = CellGrid(values, beyond, own, [wrapped(label) for label in labels], names)
        if not cells.fits(1):  # with more room for the columns
            cells = CellGrid(values, beyond, own, [wrapped(label, LABEL // 2) for label in labels], names)
    sheet = cells.sheet(f"{scored.stage}-{family.name}", f"{scored.title}, {family.title}")
    sheet.caption = (
        f"{family.title}: difference to the baseline in percentage points, over the seeds that both have; of the "
        "baseline its own score in %. Blue is better and red worse, on one scale in all heat maps. A pale cell is "
        "within noise: its 95 % interval, over seeds or with fewer than 3 over the task's items, has zero in it; of 20 "
        "cells without a difference one stands out by chance. In brackets: how many items a task has. An empty cell "
        "has no score."
    )
    return sheet


def _items(family: Family, scored: Tasks, task: str) -> int:
    """The rows that scores are of; of several counts the smallest."""
    return min(run.scores[scored.stage, task, scored.metric][1] for run in runs_of(family)
               if scored_on(run, scored, task))  # fmt: skip


@dataclass(frozen=True)
class CellGrid:
    """A heat map to be drawn. All are (rows, columns)."""

    values: Any  # the baseline's own, %, and the others' differences to it, points; not a number where there is none
    beyond: Any  # whether a difference is beyond noise
    own: Any  # whether a cell is the baseline's
    rows: Sequence[str]
    columns: Sequence[str]

    @property
    def left(self) -> float:
        return 0.12 + max(map(text_width, self.rows))

    @property
    def overhang(self) -> float:
        """Return how far the last column's name, which is slanted, stands out."""
        return max(0.1, text_width(self.columns[-1]) * math.cos(SLANT) - 0.1)

    @property
    def width(self) -> float:
        return min(0.5 * len(self.columns), WIDE - self.left - self.overhang)

    def text(self, where: tuple[int, int], digits: int) -> str:
        value = self.values[where]
        if not np.isfinite(value):
            return ""
        return f"{value:.{digits}f}" if self.own[where] else signed(value, digits if abs(value) < 9.95 else 0)

    def fits(self, digits: int) -> bool:
        widest = max(text_width(self.text(where, digits)) for where in np.ndindex(self.values.shape))
        return widest + 0.03 < self.width / len(self.columns)

    def sheet(self, name: str, title: str) -> Sheet:
        top, edges = 0.25 + max(map(text_width, self.columns)) * math.sin(SLANT), row_edges(self.rows)
        needed = self.left + self.width + self.overhang
        sheet = Sheet(name, title, WIDE if needed > NARROW else NARROW, top + edges[-1] + 0.42)
        axes = sheet.axes(self.left, top, self.width, edges[-1])
        axes.set_axis_off()  # a name at a tick takes ten times as long as by itself
        axes.set(xlim=(0, len(self.columns)), ylim=(edges[-1], 0), xticks=[], yticks=[])
        self.paint(axes, edges)
        self.write(axes, middles(edges))
        sheet.name_rows(self.left, top, edges, self.rows)
        for number, name in enumerate(self.columns):
            across = self.left + (number + 0.5) * self.width / len(self.columns)
            sheet.text(across, top - PAD, name, rotation=math.degrees(SLANT), ha="left", rotation_mode="anchor")
        _key(sheet, min(self.left, NARROW - KEY_WIDTH), top + edges[-1] + 0.12)
        return sheet

    def write(self, axes: Axes, places: Any) -> None:
        """The figures, with as many digits as there is room for."""
        digits = next((digits for digits in (1, 0) if self.fits(digits)), None)
        written: dict[str, list[tuple[float, float, str]]] = {}
        for y, x in np.ndindex(self.values.shape) if digits is not None else ():
            dark = self.beyond[y, x] and shade_of(self.values[y, x]) >= DARK
            colour = "#ffffff" if dark else "#111111" if self.beyond[y, x] else INK
            written.setdefault(colour, []).append((x + 0.5, places[y], self.text((y, x), digits or 0)))
        for colour, texts in written.items():
            axes.add_artist(Texts(texts, colour))

    def paint(self, axes: Axes, edges: Any) -> None:
        """The cells of a colour as one shape."""
        found: dict[tuple[float, ...], list[tuple[float, float, float, float]]] = {}
        for (y, x), value in np.ndenumerate(self.values):
            if not self.own[y, x] and np.isfinite(value):
                colour = to_rgba(colour_of(value), 1 if self.beyond[y, x] else PALE)
                found.setdefault(colour, []).append((x, x + 1, edges[y], edges[y + 1]))
        for shade, cells in found.items():
            axes.add_artist(boxes(cells, facecolor=shade))


def shade_of(points: float) -> int:
    return bisect.bisect_right(BOUNDS, abs(points))


def colour_of(points: float) -> str:
    """The same for the same difference, in whichever study."""
    share = SHADES[shade_of(points)]
    return _of_map(share if points < 0 else 1 - share)


@cache
def _of_map(share: float) -> str:
    return to_hex(matplotlib.colormaps["RdBu"](share))


def _key(sheet: Sheet, left: float, top: float) -> None:
    """A patch for each shade, and the palest ones that they become within noise."""
    ends = [-bound for bound in reversed(BOUNDS)] + [0, *BOUNDS]
    inside = [-2 * BOUNDS[-1], *[(a + b) / 2 for a, b in pairwise(ends)], 2 * BOUNDS[-1]]
    for number, points in enumerate(inside):
        sheet.patch(left + PATCH * number, top, PATCH, 0.1, color=colour_of(points))
    for number, end in enumerate(ends, 1):
        sheet.text(left + PATCH * number, top + 0.12, f"{end}".replace("-", "−"), ha="center", va="top")
    right = left + PATCH * len(inside)
    sheet.text(right - 0.1, top + 0.2, "points", va="center")
    for place, points in ((right + 0.12, -2), (right + 0.22, 2)):
        sheet.patch(place, top, 0.1, 0.1, color=to_rgba(colour_of(points), PALE))
    sheet.text(right + 0.37, top + 0.05, "within noise", va="center")
