"""Draw what sharing weights across layers costs, strategy by strategy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cluster.report.figures.sheets import GREY, INK, WIDE, Sheet, as_one, unit_of
from cluster.report.figures.styles import MARKERS, OKABE_ITO, interval_of, measures_of, values_of
from cluster.report.results import Family, Measure, Study, Variant
from tiny_transformers.settings.architecture import Architecture
from tiny_transformers.settings.sharing import Sharing

STRATEGIES = ("seq", "cycle", "cycle_rev")
PARTS = {"attention": "attention", "feed_forward": "feed-fwd."}  # that alone are shared
OF_LAYOUT = (  # what a layout decides
    "sharing", "num_layers", "num_hidden_layers", "hidden_size", "intermediate_size", "qk_size", "v_size",
)  # fmt: skip


def sharing(study: Study) -> Iterator[Sheet]:
    """Only where layers are shared: by layout and strategy."""
    families = [f for f in study.families if any(map(_shared, f.variants))]
    measures = measures_of(study)
    if not families or not measures:
        return
    layouts = max(len(_layouts(family)) for family in families)
    left, width = 0.6, (WIDE - 0.7 - 0.55 * (len(families) - 1)) / len(families)
    sheet = Sheet("sharing", "Weight sharing by depth, width and strategy", WIDE, 1.75 * len(measures) + 0.9)
    for column, family in enumerate(families):
        for row, measure in enumerate(measures):
            axes = sheet.axes(left + column * (width + 0.55), 0.22 + 1.75 * row, width, 1.55)
            _sharing_of(axes, family, measure, slim=width / layouts < 0.9)
            if not row:
                axes.set_title(family.title)
            if not column:
                axes.set_ylabel(unit_of(measure))
            if row < len(measures) - 1:
                axes.tick_params(labelbottom=False)
    handles, names = sheet.drawing.axes[0].get_legend_handles_labels()
    sheet.drawing.legend(handles, names, loc="lower center", ncols=5, frameon=False, bbox_to_anchor=(0.5, 0.0))
    sheet.caption = (
        "Groups are layouts: layers that are applied, layers with weights of their own (of so many that share), hidden "
        "size, and the kind of module that is shared, if not all is. Large markers are "
        "means over seeds, small dots the seeds; the line is the plain model, which shares nothing and is otherwise as "
        "the baseline, the band its 95 % interval where it has at least 3 seeds. Models that differ from the baseline "
        "in more than layout and strategy are left out."
    )
    yield sheet


def _shared(variant: Variant) -> Sharing | None:
    """How its layers share their weights; a Brainformer's order says that for itself."""
    model = variant.config.model
    return model.sharing if isinstance(model, Architecture) else None


def _layout(variant: Variant) -> tuple[int, int, int, str, int]:
    """Layers, of them unique, hidden size; what is shared, and among how many."""
    model, shared = variant.config.model, _shared(variant)
    if not shared:
        return model.layers, model.layers, model.hidden_size, "all", model.layers
    return model.layers, shared.unique_layers, model.hidden_size, shared.modules, shared.first or model.layers


def _layouts(family: Family) -> list[tuple[int, int, int, str, int]]:
    return sorted({_layout(variant) for variant in _comparable(family) if _shared(variant)})


def _comparable(family: Family) -> list[Variant]:
    """Those like the baseline but for layout and strategy, and of the ones that share nothing the first."""
    alike = [variant for variant in family.variants if _but_for_sharing(variant) == _but_for_sharing(family.baseline)]
    plain = [variant for variant in alike if not _shared(variant)]
    return [*plain[:1], *(variant for variant in alike if _shared(variant))]


def _but_for_sharing(variant: Variant) -> Any:
    config = variant.config.model_dump(exclude={"seed"})
    config["model"] = {key: value for key, value in config["model"].items() if key not in OF_LAYOUT}
    return config


def _told(layers: int, unique: int, width: int, modules: str, first: int, *, slim: bool) -> str:
    lines = [f"{layers}L", f"{unique} unique", f"{width}"] if slim else [
        f"{layers} layers", f"{unique} unique", f"{width} wide"]  # fmt: skip
    if first < layers:
        lines[1] += f" of {first}"
    return "\n".join([*lines, *([PARTS[modules]] if modules in PARTS else [])])


def _sharing_of(axes: Axes, family: Family, measure: Measure, slim: bool) -> None:
    layouts, variants = _layouts(family), _comparable(family)
    for variant in variants:
        shared, found = _shared(variant), interval_of(variant, measure)
        if not shared and found:
            axes.axhline(found.mean, color=INK, lw=1.2, label="nothing shared")
            if found.low is not None and found.high is not None:
                axes.axhspan(found.low, found.high, color=INK, alpha=0.1, lw=0)
    for number, strategy in enumerate(STRATEGIES):
        told = [
            (layouts.index(_layout(variant)) + 0.22 * (number - 1), values)
            for variant in variants
            if (shared := _shared(variant)) and shared.strategy == strategy and (values := values_of(variant, measure))
        ]
        seeds = [([place + 0.08] * len(values), values) for place, values in told if len(values) > 1]
        axes.plot(*as_one(seeds), ".", color=GREY, ms=2.5, mew=0)
        axes.plot([place for place, _ in told], [np.mean(values) for _, values in told], MARKERS[number],
                  color=OKABE_ITO[number], mew=0, ms=5,
                  label=strategy.replace("_", ", last pass ").replace("rev", "reversed"))  # fmt: skip
    axes.set_xticks(range(len(layouts)), [_told(*layout, slim=slim) for layout in layouts])
    axes.set_xlim(-0.5, len(layouts) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(True, axis="y")
    axes.margins(y=0.12)
