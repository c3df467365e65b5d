"""Draw what layers do, from the first to the last: how far heads look and how evenly, and when the answer stands."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes

from cluster.files.folders import OutputRoot
from cluster.report import insides
from cluster.report.figures.sheets import LINE, WIDE, Sheet, text_width, told_seeds, wrapped
from cluster.report.figures.styles import Look, looks_of
from cluster.report.results import Family, Study
from tiny_transformers.common.insides import Insides

PANELS: tuple[tuple[str, Any, float | None], ...] = (  # title, figure, and the most that it can be
    ("distance that heads look (tokens)", insides.of_heads("distance"), None),
    ("entropy of heads (of the most)", insides.of_heads("relative_entropy"), 1.0),
    ("answer is that of the end (share)", insides.agreement, 1.0),
    ("similarity to the last state (CKA)", insides.likeness, 1.0),
)
HEIGHT = 1.6  # inches, of a panel


def depths(study: Study, output_root: OutputRoot) -> Iterator[Sheet]:
    looks = looks_of(study)
    for family in study.families:
        found = {
            variant.key: {run.run_id: each for run in variant.runs if (each := insides.read(output_root, run.run_id))}
            for variant in family.variants
        }
        if any(found.values()):
            yield _sheet(family, found, looks)


def _sheet(family: Family, found: Mapping[str, Mapping[str, Insides]], looks: Mapping[str, Look]) -> Sheet:
    named = [wrapped(v.title) for v in family.variants if found[v.key] and not looks[v.key].is_grey]
    columns = max(1, int(WIDE / (max(map(text_width, named)) + 0.6)))
    rows = -(-len(named) // columns) * max(name.count("\n") + 1 for name in named)
    top, width = 0.28, (WIDE - 0.75) / 2
    sheet = Sheet(f"depths-{family.name}", f"Layer by layer, {family.title}", WIDE,
                  2 * (HEIGHT + 0.5) + 0.35 + 1.4 * LINE * rows)  # fmt: skip
    for number, (title, figure, most) in enumerate(PANELS):
        row, column = divmod(number, 2)
        axes = sheet.axes(0.4 + column * (width + 0.35), top + row * (HEIGHT + 0.5), width, HEIGHT)
        axes.set_title(title)
        _panel(axes, family, found, looks, figure)
        axes.set_ylim(0, 1.05 * (most or max(axes.get_ylim()[1], 1.0)))
    sheet.text(0.5 * WIDE, top + 2 * HEIGHT + 0.5 + 0.32, "layer", ha="center", va="top")
    handles, labels = sheet.drawing.axes[0].get_legend_handles_labels()
    sheet.drawing.legend(handles, labels, loc="lower center", ncols=columns, frameon=False, bbox_to_anchor=(0.5, 0.0))
    seen = {run_id for run_ids in found.values() for run_id in run_ids}
    seeds = told_seeds(family.variants, lambda run: run.run_id in seen)
    sheet.caption = (
        f"{family.title}: means over the heads of a layer and over seeds ({seeds}). Layer 0 is the embedding. Of "
        "layers that share weights each place is one. The answer is the likeliest token, read off each state by the "
        "logit lens; linear CKA."
    )
    return sheet


def _panel(
    axes: Axes, family: Family, found: Mapping[str, Mapping[str, Insides]], looks: Mapping[str, Look], figure: Any
) -> None:
    for variant in sorted(family.variants, key=lambda v: (not looks[v.key].is_grey, v.is_baseline)):
        values: dict[int, list[float]] = {}
        for each in found[variant.key].values():
            for layer, value in figure(each).items():
                values.setdefault(layer, []).append(value)
        if values:
            look, layers = looks[variant.key], sorted(values)
            label = "_" if look.is_grey else wrapped(variant.title)  # matplotlib leaves it out of a legend
            axes.plot(layers, [statistics.fmean(values[layer]) for layer in layers], color=look.colour,
                      ls=look.dash, marker=look.marker, ms=3.5, mew=0, lw=look.width, label=label)  # fmt: skip
    axes.grid(True)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.margins(y=0.1)
