"""Draw scores against what they cost: parameters, time, speed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from cluster.report.figures.sheets import GREY, INK, LINE, WIDE, Sheet, lacking, text_width, unit_of, wrapped
from cluster.report.figures.styles import DASHES, MARKERS, OKABE_ITO, mean_of, measures_of
from cluster.report.results import Family, Measure, Study, Variant

NO_SPREAD = 0.01  # a cost that differs less within each family explains nothing


@dataclass(frozen=True)
class Cost:
    key: str
    title: str
    axis: str
    of: Callable[[Variant], float | None]
    lower_is_better: bool = True


@dataclass(frozen=True)
class Point:
    variant: Variant
    x: float
    y: float


def costs(study: Study) -> Iterator[Sheet]:
    measures = measures_of(study)
    for cost, (corpus, families) in itertools.product(_costs(study), _by_corpus(study)) if measures else []:
        points = [
            Point(variant, x, y)
            for family in families
            for variant in family.variants
            if (x := cost.of(variant)) and (y := mean_of(variant, measures[0])) is not None
        ]
        if any(_differ([point.x for point in points if point.variant.family == f.name]) for f in families):
            yield _cost_sheet(families, cost, measures[0], points, corpus)


def _by_corpus(study: Study) -> list[tuple[str, list[Family]]]:
    """Families whose scores are of the same data; the data's name where there are several."""
    found: dict[str, list[Family]] = {}
    for family in study.families:
        found.setdefault(family.baseline.config.data.corpus, []).append(family)
    return [("" if len(found) == 1 else f"-{corpus}", families) for corpus, families in found.items()]


def _differ(values: Sequence[float]) -> bool:
    return len(values) > 1 and max(values) > (1 + NO_SPREAD) * min(values)


def _costs(study: Study) -> Iterator[Cost]:
    yield Cost("parameters", "parameters", "parameters (millions)", lambda variant: variant.parameters / 1e6)
    yield Cost("time", "training time", "training time (hours)",
               lambda variant: (variant.training_seconds or 0) / 3600 or None)  # fmt: skip
    batch = _common_batch(study)
    if batch:
        yield Cost("speed", "inference speed", f"encoding, batches of {batch} (thousand tokens per second)",
                   lambda variant: (_speed(variant, batch) or 0) / 1e3 or None, lower_is_better=False)  # fmt: skip


def _common_batch(study: Study) -> int | None:
    """The size at which most variants were measured, the largest of several."""
    counts: dict[int, int] = {}
    for variant in study.variants:
        tasks = {task for run in variant.runs for stage, task, _ in run.scores if stage == "speed"}
        for size in {int(task[8:]) for task in tasks if re.fullmatch(r"encode_b\d+", task)}:
            counts[size] = counts.get(size, 0) + 1
    return max(counts, key=lambda size: (counts[size], size)) if counts else None


def _speed(variant: Variant, batch: int) -> float | None:
    found = [run.scores.get(("speed", f"encode_b{batch}", "tokens_per_second")) for run in variant.runs]
    return variant.mean_of(each[0] for each in found if each and math.isfinite(each[0]))


def _cost_sheet(
    families: Sequence[Family], cost: Cost, measure: Measure, points: Sequence[Point], corpus: str
) -> Sheet:
    sheet = Sheet(f"by-{cost.key}{corpus}", f"{measure.title} against {cost.title}", WIDE, 4.0)
    axes = sheet.axes(0.6, 0.3, WIDE - 0.7, 3.2)
    front = _front(points, cost.lower_is_better, measure.higher_is_better)
    axes.plot([p.x for p in front], [p.y for p in front], color=GREY, lw=0.9, ls=DASHES[1],
              drawstyle="steps-post" if cost.lower_is_better else "steps-pre", label="Pareto front")  # fmt: skip
    for number, family in enumerate(families):
        _points_of(sheet, axes, family, [p for p in points if p.variant.family == family.name], number)
    axes.set_xlabel(cost.axis)
    axes.set_ylabel(unit_of(measure))
    axes.margins(0.1, 0.08)
    axes.grid(True)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=4, borderaxespad=0)
    unnamed = _name_points(sheet, axes, points, front, cost)
    few = f" {unnamed} points too close to others are not named; the list has them all." if unnamed else ""
    sheet.names_of = f"All points, the best first: {unit_of(measure)} at {cost.axis}"
    ranked = sorted(points, key=lambda point: -point.y if measure.higher_is_better else point.y)
    sheet.names = [f"{_told(point)}{' (front)' if point in front else ''}" for point in ranked]
    sheet.caption = (
        f"{measure.title} against {cost.title}, means over seeds. The dashed line is the Pareto front: no model "
        f"is better in both. Baselines are in the colour of the text.{few}"
        + lacking([v for family in families for v in family.variants if v not in [p.variant for p in points]])
    )
    return sheet


def _told(point: Point) -> str:
    return f"{Family(point.variant.family, ()).title} {point.variant.title}: {point.y:.4g} at {point.x:.4g}"


def _points_of(sheet: Sheet, axes: Axes, family: Family, points: Sequence[Point], number: int) -> None:
    marker, colour = MARKERS[number % 7], OKABE_ITO[number % 6]
    for point in points:
        own = INK if point.variant.is_baseline else colour
        (drawn,) = axes.plot(point.x, point.y, marker, color=own, ms=6 if point.variant.is_baseline else 5, mew=0)
        sheet.tell(drawn, _told(point))
    if points:
        axes.plot([], [], marker, color=colour, ms=5, mew=0, label=family.title)


def _front(points: Sequence[Point], lower_x: bool, higher_y: bool) -> list[Point]:
    """Those that no other one is better than in one figure and as good in the other; by x."""

    def key(point: Point) -> tuple[float, float]:
        return point.x if lower_x else -point.x, -point.y if higher_y else point.y

    front: list[Point] = []
    for point in sorted(points, key=key):
        if not front or key(point)[1] < key(front[-1])[1]:
            front.append(point)
    return sorted(front, key=lambda point: point.x)


def _name_points(sheet: Sheet, axes: Axes, points: Sequence[Point], front: Sequence[Point], cost: Cost) -> int:
    """Name the front, the baselines, then the others as far as there is room. -> how many have no name"""
    axes.autoscale_view()  # now, for what follows places texts by where points are
    box = axes.get_window_extent()
    dpi = sheet.drawing.dpi
    places = {p.variant.key: _inches(axes, p) for p in points}  # inches
    taken: list[Box] = [(x - 0.04, y - 0.04, x + 0.04, y + 0.04) for x, y in places.values()]
    line = [places[point.variant.key] for point in front]
    taken += [part for start, end in pairwise(line) for part in _step(start, end, cost)]
    limits = (box.x0 / dpi, box.y0 / dpi, box.x1 / dpi, box.y1 / dpi)
    unnamed = 0
    ranked = sorted(points, key=lambda p: (p not in front, not p.variant.is_baseline, -p.y))
    for point in ranked:
        text = wrapped(point.variant.title)
        x, y = places[point.variant.key]
        needed = point in front or point.variant.is_baseline
        spot = _spot(x, y, text_width(text), LINE * (text.count("\n") + 1), taken, limits, far=needed)
        if spot is None:
            unnamed += 1
            continue
        taken.append(spot)
        edge = min(max(x, spot[0]), spot[2]), min(max(y, spot[1]), spot[3])
        if math.dist(edge, (x, y)) > 0.15:
            ends = axes.transData.inverted().transform(np.array([(x, y), edge]) * dpi)
            axes.plot(ends[:, 0], ends[:, 1], color=GREY, lw=0.4)
        sheet.drawing.text(spot[0] / sheet.width, (spot[1] + spot[3]) / 2 / sheet.height, text, va="center",
                           linespacing=1.1)  # fmt: skip
    return unnamed


Box = tuple[float, float, float, float]  # x0, y0, x1, y1


def _inches(axes: Axes, point: Point) -> tuple[float, float]:
    """From the lower left of the drawing."""
    x, y = axes.transData.transform((point.x, point.y)) / axes.figure.dpi
    return float(x), float(y)


def _step(start: tuple[float, float], end: tuple[float, float], cost: Cost) -> tuple[Box, Box]:
    """Return the boxes of the front's line between two of its points, the first left of the other: across and up."""
    across, along = (start[1], end[0]) if cost.lower_is_better else (end[1], start[0])
    low, high = sorted((start[1], end[1]))
    return (start[0], across - 0.01, end[0], across + 0.01), (along - 0.01, low, along + 0.01, high)


def _spot(x: float, y: float, width: float, height: float, taken: Sequence[Box], limits: Box, far: bool) -> Box | None:
    """Room for a text near a point, or else, if it may be, `far` from it."""
    for distance in (0.06, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0) if far else (0.06, 0.12):
        for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            x0 = x + right * distance + (right - 1) * width / 2
            y0 = y + up * (distance - 0.02) + (up - 1) * height / 2
            spot = (x0, y0, x0 + width, y0 + height)
            inside = limits[0] <= x0 and spot[2] <= limits[2] and limits[1] <= y0 and spot[3] <= limits[3]
            if inside and not any(_overlap(spot, other) for other in taken):
                return spot
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
