"""Draw the scores of every variant on every task as a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm, to_hex

from cluster.report.figures.learning_curves import runs_of
from cluster.report.figures.sheets import (
    INK,
    LABEL,
    NARROW,
    WIDE,
    Sheet,
    middles,
    row_edges,
    signed,
    text_width,
    wrapped,
)
from cluster.report.results import TASKS, Family, Study, Variant
from tiny_transformers.settings.stage.kind import Tasks

TASK_COLUMNS = 20  # of a heat map; more tasks are its rows
SLANT = math.radians(55)  # of the columns' names in a heat map


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


def _heat_map(scored: Tasks, family: Family, variants: Sequence[Variant], tasks: Sequence[str]) -> Sheet:
    values = np.array([[_task(v, scored, task) for task in tasks] for v in variants], dtype=float)
    differences = values - values[0]
    labels = [f"{v.title} (baseline, %)" if v.is_baseline else v.title for v in variants]
    names = [task.replace("_", " ") for task in tasks]
    own = np.zeros(values.shape, dtype=bool)
    own[0] = True
    if len(tasks) > TASK_COLUMNS:
        cells = CellGrid(values.T, differences.T, own.T, names, [wrapped(label) for label in labels])
    else:
        cells = CellGrid(values, differences, own, [wrapped(label) for label in labels], names)
        if not cells.fits(1):  # with more room for the columns
            cells = CellGrid(values, differences, own, [wrapped(label, LABEL // 2) for label in labels], names)
    sheet = cells.sheet(f"{scored.stage}-{family.name}", f"{scored.title}, {family.title}")
    sheet.caption = (
        f"{family.title}: difference to the baseline in percentage points, blue better and red worse, means over "
        "seeds; of the baseline its own score in %. An empty cell has no score."
    )
    return sheet


@dataclass(frozen=True)
class CellGrid:
    """A heat map to be drawn. All are (rows, columns)."""

    values: Any  # %
    differences: Any  # to the baseline, in points; not a number where there is none
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

    @property
    def most(self) -> float:
        """The largest difference, or 1."""
        return max(1.0, float(np.nanmax(np.abs(self.differences), initial=0.0)))

    def text(self, where: tuple[int, int], digits: int) -> str:
        value = self.values[where] if self.own[where] else self.differences[where]
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
        shown = np.ma.masked_where(self.own | ~np.isfinite(self.differences), self.differences)
        across = np.arange(len(self.columns) + 1.0)
        axes.pcolormesh(across, edges, shown, cmap="RdBu", norm=TwoSlopeNorm(0, -self.most, self.most))
        self.write(axes, middles(edges))
        axes.set_ylim(edges[-1], 0)
        axes.set_yticks(middles(edges), self.rows)
        axes.xaxis.tick_top()
        axes.set_xticks(middles(across), self.columns, rotation=math.degrees(SLANT), ha="left", rotation_mode="anchor")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        _key(sheet, self.left, top + edges[-1] + 0.12, self.most)
        return sheet

    def write(self, axes: Axes, places: Any) -> None:
        """The figures, with as many digits as there is room for."""
        digits = next((digits for digits in (1, 0) if self.fits(digits)), None)
        for y, x in np.ndindex(self.values.shape) if digits is not None else ():
            dark = not self.own[y, x] and abs(self.differences[y, x]) > 0.62 * self.most
            colour = INK if self.own[y, x] else "#ffffff" if dark else "#111111"
            axes.text(
                x + 0.5, places[y], self.text((y, x), digits or 0), color=colour, ha="center", va="center_baseline"
            )


def _key(sheet: Sheet, left: float, top: float, most: float) -> None:
    """Nine patches, since a smooth bar would be a picture or hundreds of paths."""
    colours = matplotlib.colormaps["RdBu"]
    axes = sheet.axes(left, top, 1.62, 0.1)
    for number in range(9):
        axes.axvspan(number, number + 1, color=to_hex(colours(number / 8)), lw=0)
    axes.set_xlim(0, 9)
    axes.set_yticks([])
    axes.set_xticks([0.5, 4.5, 8.5], [signed(-most), "0", f"{signed(most)} points"])
    axes.tick_params(length=0, pad=1.5)
    axes.spines[:].set_visible(False)
