"""Draw every variant against the baseline: differences with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes

from cluster.report.figures.sheets import (
    GREY,
    HEADING,
    INK,
    RULE,
    WIDE,
    Sheet,
    as_one,
    middles,
    row_edges,
    text_width,
    told_seeds,
    unit_of,
    wrapped,
)
from cluster.report.figures.styles import OKABE_ITO, interval_of, measures_of, of_families, pages, suffix, values_of
from cluster.report.results import Family, Measure, Study


def forest(study: Study) -> Iterator[Sheet]:
    measures = measures_of(study)
    for families in pages(study):
        if measures and len(study.variants) > 1:
            yield _forest(study, families, measures)


def _forest(study: Study, families: Sequence[Family], measures: Sequence[Measure]) -> Sheet:
    labels = {v.key: wrapped(v.title) for family in families for v in family.variants}
    left, gap = 0.1 + max(map(text_width, labels.values())), 0.15
    width = (WIDE - left - 0.12 - gap * (len(measures) - 1)) / len(measures)
    rows = [row_edges([labels[v.key] for v in family.variants]) for family in families]
    name, title = (
        f"scores{suffix(families, study)}",
        f"Scores over seeds, against the baseline{of_families(families, study)}",
    )
    sheet = Sheet(name, title, WIDE, sum(edges[-1] for edges in rows) + 0.5 * len(families) + 0.3)
    top = 0.0
    for family, edges in zip(families, rows, strict=True):
        sheet.text(0.02, top + 0.16, family.title, size=HEADING)
        sheet.name_rows(left, top + 0.22, edges, [labels[v.key] for v in family.variants])
        for column, measure in enumerate(measures):
            axes = sheet.axes(left + column * (width + gap), top + 0.22, width, edges[-1])
            _forest_of(axes, family, measure, edges)
            if family is families[-1]:
                axes.set_xlabel(unit_of(measure))
        top += edges[-1] + 0.5
    variants = [v for family in families for v in family.variants]
    has = lambda run: any(run.value(measure) is not None for measure in measures)  # noqa: E731
    sheet.caption = (
        f"Large markers are means over seeds ({told_seeds(variants, has)}), small dots the seeds, bars 95 % intervals "
        "of the mean where there are at least 3 seeds. The diamond, the line and the band are the baseline."
    )
    return sheet


def _forest_of(axes: Axes, family: Family, measure: Measure, edges: Any) -> None:
    base = interval_of(family.baseline, measure)
    if base:
        axes.axvline(base.mean, color=INK, lw=0.7)
        if base.low is not None and base.high is not None:
            axes.axvspan(base.low, base.high, color=INK, alpha=0.1, lw=0)
    rows = [(place, variant, found) for place, variant in zip(middles(edges), family.variants, strict=True)
            if (found := interval_of(variant, measure))]  # fmt: skip
    seeds = [(values_of(variant, measure), place) for place, variant, found in rows if found.n > 1]
    axes.plot(*as_one((values, [place] * len(values)) for values, place in seeds), "o", color=GREY, ms=1.8, mew=0)
    for is_baseline, marker, colour in ((True, "D", INK), (False, "o", OKABE_ITO[0])):
        told = [(place, found) for place, variant, found in rows if variant.is_baseline is is_baseline]
        bars = [([found.low, found.high], [place, place]) for place, found in told
                if found.low is not None and found.high is not None]  # fmt: skip
        axes.plot(*as_one(bars), color=colour, lw=1.3, solid_capstyle="butt")
        axes.plot([found.mean for _, found in told], [place for place, _ in told], marker, color=colour, ms=4.5, mew=0)
    rules = as_one(([0, 1], [place, place]) for place in middles(edges))
    axes.plot(*rules, transform=axes.get_yaxis_transform(), color=INK, alpha=RULE, lw=0.5, zorder=0.5)
    axes.set(ylim=(edges[-1], 0), yticks=[])
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(3, steps=[1, 2, 5, 10]))
    if not any(values_of(variant, measure) for variant in family.variants):
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", color=GREY)
