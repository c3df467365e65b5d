"""Draw scores on the way of training: against what was read, and against the minutes that it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes

from cluster.report import trajectories
from cluster.report.figures.sheets import HEADING, INK, LINE, WIDE, Sheet, lacking, text_width, told_seeds, unit_of
from cluster.report.figures.styles import Look, looks_of, told_colours
from cluster.report.results import Family, Measure, Study, Variant
from cluster.report.study_tables import on_a_gpu
from cluster.report.trajectories import Point

LEFT, GAP, HEIGHT = 0.62, 0.14, 1.65  # inches: of axes
SAMPLE = 0.26  # inches of a line beside a name
NAMES = {"loss": "Validation loss", "bpc": "Bits per character", "blimp": "BLiMP"}


@dataclass(frozen=True)
class Band:
    """One variant's scores over its seeds, anchor by anchor."""

    x: list[float]  # means
    mean: list[float]
    low: list[float]
    high: list[float]


def trajectories_of(study: Study) -> Iterator[Sheet]:
    families = [family for family in study.families if trajectories.measures(family)]
    if not families:
        return
    looks = looks_of(study)
    names = {family.name: _lines(family, looks) for family in families}
    heights = [
        0.35 + LINE * 1.1 * len(names[family.name]) + (HEIGHT + 0.5) * len(trajectories.measures(family))
        for family in families
    ]
    sheet = Sheet("trajectory", "Scores on the way of training", WIDE, sum(heights) + 0.05)
    top = 0.0
    for family, height in zip(families, heights, strict=True):
        _draw(sheet, top, family, names[family.name], looks)
        top += height
    scores = dict.fromkeys(NAMES[each.metric] for family in families for each in trajectories.measures(family))
    seeds = told_seeds(study.variants, lambda run: bool(trajectories.points(run)))
    sheet.caption = " ".join([
        f"{' and '.join(scores)} at each anchor and at the end, against what was read and the minutes that it took.",
        f"Lines are means over seeds ({seeds}), bands their range.",
        "The baseline is the thick line, and dotted its score at the end: where another crosses it, it has become as",
        "good.",
        *told_colours(study, looks),
    ]) + lacking([v for v in study.variants if not any(map(trajectories.points, v.runs))])  # fmt: skip
    yield sheet


def band(variant: Variant, quantity: str, measure: Measure) -> Band:
    """Of the seeds that were scored at an anchor, the means and the range."""
    at: dict[str, list[Point]] = {}
    for run in variant.runs:
        for point in trajectories.points(run):
            if measure.metric in point.scores and quantity in point.place:
                at.setdefault(point.anchor, []).append(point)
    scale = 100 if measure.percent else 1
    columns = []
    for found in at.values():
        values = [scale * point.scores[measure.metric] for point in found]
        mean = sum(point.place[quantity] for point in found) / len(found)
        columns.append((mean, sum(values) / len(values), min(values), max(values)))
    columns.sort()
    return Band(*([column[part] for column in columns] for part in range(4)))


def _draw(
    sheet: Sheet, top: float, family: Family, names: Sequence[Sequence[Variant]], looks: Mapping[str, Look]
) -> None:
    sheet.text(LEFT, top + 0.2, family.title, fontsize=HEADING, va="center")
    for number, line in enumerate(names):
        _name(sheet, top + 0.35 + LINE * 1.1 * (number + 0.5), line, looks)
    top += 0.42 + LINE * 1.1 * len(names)
    quantities = _quantities(family)
    width = (WIDE - LEFT - 0.12 - GAP * (len(quantities) - 1)) / len(quantities)
    for row, measure in enumerate(trajectories.measures(family)):
        drawn = [sheet.axes(LEFT + column * (width + GAP), top + row * (HEIGHT + 0.5), width, HEIGHT)
                 for column in range(len(quantities))]  # fmt: skip
        for axes, (quantity, title) in zip(drawn, quantities.items(), strict=True):
            _panel(axes, family, quantity, measure, looks)
            axes.set_xlabel(title)
        limits = [axes.get_ylim() for axes in drawn]
        for axes in drawn:
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        drawn[0].set_ylabel(f"{measure.title} (nats)" if measure.metric == "loss" else unit_of(measure))
        for axes in drawn[1:]:
            axes.set_yticklabels([])


def _quantities(family: Family) -> dict[str, str]:
    """What is known of what was read and spent -> the title of its axis."""
    unit = "characters" if family.baseline.config.data.is_stream else "tokens"
    minutes = "GPU-minutes of training" if on_a_gpu(family) else "minutes of training"
    titles = {"tokens": f"{unit} read", "stories": "stories read", "minutes": minutes}
    runs = (run for variant in family.variants for run in variant.runs)
    known = {name for run in runs for point in trajectories.points(run) for name in point.place}
    return {name: title for name, title in titles.items() if name in known}


def _panel(axes: Axes, family: Family, quantity: str, measure: Measure, looks: Mapping[str, Look]) -> None:
    everywhere: list[float] = []
    for variant in sorted(family.variants, key=lambda v: (not looks[v.key].is_grey, v.is_baseline)):
        look, found = looks[variant.key], band(variant, quantity, measure)
        if not found.x:
            continue
        everywhere += found.x
        axes.plot(found.x, found.mean, color=look.colour, ls=look.dash, lw=look.width, marker=look.marker, ms=3, mew=0)
        if not look.is_grey:
            axes.fill_between(found.x, found.low, found.high, color=look.colour, alpha=0.12, lw=0)
    target = family.baseline.mean(measure)
    if target is not None:
        axes.axhline((100 if measure.percent else 1) * target, color=INK, lw=0.7, ls=(0, (1, 2)), zorder=1)
    axes.set_xscale("log")
    few = max(everywhere) < 30 * min(everywhere)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3) if few else (1,)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_short))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(True)


def _short(value: float, _: Any) -> str:
    """1e6 -> 1M; what stands at a tick of a logarithmic axis."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _lines(family: Family, looks: Mapping[str, Look]) -> list[list[Variant]]:
    """The variants that have a colour, in lines of names as wide as the sheet."""
    lines: list[list[Variant]] = [[]]
    used = LEFT
    for variant in family.variants:
        if looks[variant.key].is_grey:
            continue
        width = SAMPLE + text_width(variant.title) + 0.25
        if lines[-1] and used + width > WIDE:
            lines, used = [*lines, []], LEFT
        lines[-1].append(variant)
        used += width
    return lines


def _name(sheet: Sheet, top: float, line: Sequence[Variant], looks: Mapping[str, Look]) -> None:
    left = LEFT
    for variant in line:
        look = looks[variant.key]
        axes = sheet.axes(left, top - LINE / 2, SAMPLE, LINE)
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(-1, 1)
        axes.plot([0.05, 0.95], [0, 0], color=look.colour, ls=look.dash, lw=look.width, marker=look.marker, ms=3, mew=0,
                  markevery=[1])  # fmt: skip
        sheet.text(left + SAMPLE + 0.05, top, variant.title, va="center")
        left += SAMPLE + text_width(variant.title) + 0.25
