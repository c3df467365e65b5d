"""Draw the learning curves of a study: validation loss against steps, a band over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cluster.files.folders import OutputRoot
from cluster.report import frames
from cluster.report.figures.sheets import GREY, LINE, WIDE, Sheet, lacking, text_width, told_seeds, wrapped
from cluster.report.figures.styles import BASELINE, Look, looks_of, told_colours
from cluster.report.results import Family, Result, Study, Variant

FEW = 4  # variants whose bands can be told apart where they lie over each other
HOVERED = 7  # points wide, around a grey line
SMOOTHED = 15  # points of a training curve


Curve = dict[int, float]  # step -> loss


@dataclass(frozen=True)
class Band:
    """The band of one variant's curves, over its seeds."""

    steps: Any
    mean: Any
    low: Any
    high: Any


def learning_curves(study: Study, output_root: OutputRoot) -> Iterator[Sheet]:
    read = {run.run_id: _curves(output_root, run.run_id) if _is_pretrained(run) else ({}, {}) for run in study.runs}
    families = [family for family in study.families if any(any(read[run.run_id]) for run in runs_of(family))]
    if not families:
        return
    looks = looks_of(study)
    labels = [wrapped(variant.title) for variant in study.variants if not looks[variant.key].is_grey]
    left, right = 0.6, 0.45 + max(map(text_width, labels))
    heights = [max(2.5, 0.4 + sum(LINE * (wrapped(v.title).count("\n") + 1) for v in family.variants
                                  if not looks[v.key].is_grey)) for family in families]  # fmt: skip
    sheet = Sheet("curves", "Learning curves", WIDE, sum(heights) + 0.6 * len(families) + 0.05)
    top, names = 0.0, list[str]()
    for family, height in zip(families, heights, strict=True):
        axes = sheet.axes(left, top + 0.22, WIDE - left - right, height)
        grey = _learning_curves_of(axes, family, read, looks)
        for line, variant, end in grey:
            sheet.tell(line, f"{variant.title}, {end:.3f}")
        names += [f"{family.title} {variant.title}: {end:.3f}" for _, variant, end in sorted(grey, key=lambda g: g[2])]
        top += height + 0.6
    validated = any(validation for _, validation in read.values())
    left_out = sum(not _is_pretrained(run) for run in study.runs)
    seeds = told_seeds(study.variants, lambda run: any(read[run.run_id]))
    told = told_colours(study, looks)
    sheet.caption = " ".join([
        f"{'Validation loss' if validated else 'Training loss, smoothed,'} against optimizer steps.",
        f"Lines are means over seeds ({seeds}), bands their range{'.' if validated and told else ';'}",
        *(["there was no evaluation yet."] if not validated else
          [] if told else ["thin lines the training loss, smoothed."]),
        "The steep fall at the start is cut off. The baseline is the thick line.",
        *([f"Left out are {left_out} runs whose pretraining is not completed."] if left_out else []),
        *told,
    ]) + lacking([v for v in study.variants if not any(any(read[run.run_id]) for run in v.runs)])  # fmt: skip
    sheet.names_of, sheet.names = "Grey lines, with the loss at their end", names
    yield sheet


def _is_pretrained(run: Result) -> bool:
    """Else its curve ends early, or where it broke, and would bend the mean of its seeds."""
    return run.status("pretrain") == "completed"


def runs_of(family: Family) -> list[Result]:
    return [run for variant in family.variants for run in variant.runs]


def _curves(output_root: OutputRoot, run_id: str) -> tuple[Curve, Curve]:
    """Training and validation; what of the file is whole, and nothing if there is none."""
    records = frames.curve(output_root, run_id)
    return frames.losses(records, "loss"), frames.losses(records, "eval_loss")


def _band(curves: Sequence[Curve]) -> Band | None:
    """Over the seeds that have come so far, between the steps that each of them has."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return None
    steps = np.array(sorted(set().union(*curves)))
    rows = np.array([np.interp(steps, [*curve], [*curve.values()], np.nan, np.nan) for curve in curves])
    return Band(steps, np.nanmean(rows, axis=0), np.nanmin(rows, axis=0), np.nanmax(rows, axis=0))


def _smoothed(values: Any) -> Any:
    count = min(SMOOTHED, len(values))
    return np.convolve(values, np.ones(count) / count, mode="valid")


Named = tuple[Line2D, Variant, float]  # what a pointer can rest on, whose line it is, where that ends


def _learning_curves_of(axes: Axes, family: Family, read: Mapping[str, tuple[Curve, Curve]],
                        looks: Mapping[str, Look]) -> list[Named]:  # fmt: skip
    """Return the grey lines, which have no name beside them. Where there are some, the training loss is left out."""
    is_crowded = any(look.is_grey for look in looks.values())
    grey: list[Named] = []
    ends: list[tuple[float, float, str, Look]] = []
    seen: list[Any] = []
    for variant in sorted(family.variants, key=lambda v: (not looks[v.key].is_grey, v.is_baseline)):
        look = looks[variant.key]
        training, validation = (_band([read[run.run_id][i] for run in variant.runs]) for i in (0, 1))
        if training and not is_crowded:
            axes.plot(_smoothed(training.steps), _smoothed(training.mean), color=look.colour, lw=0.4, alpha=0.6)
        band = validation or (training and Band(*map(_smoothed, (training.steps, training.mean, training.low,
                                                                 training.high))))  # fmt: skip
        if not band:
            continue
        axes.plot(band.steps, band.mean, color=look.colour, ls=look.dash, lw=look.width,
                  marker=look.marker if validation else "", ms=3, mew=0)  # fmt: skip
        if not look.is_grey and (band.high > band.low).any():
            faint = 0.15 if look is BASELINE or len(family.variants) <= FEW else 0.06
            axes.fill_between(band.steps, band.low, band.high, color=look.colour, alpha=faint, lw=0)
        seen += [band.low[len(band.low) // 10 :], band.high[len(band.high) // 10 :]]
        if look.is_grey:  # a wider one that is not seen: the line itself is too thin to be met
            (over,) = axes.plot(band.steps, band.mean, color=GREY, lw=HOVERED, alpha=0)
            grey.append((over, variant, float(band.mean[-1])))
        else:
            ends.append((band.steps[-1], band.mean[-1], wrapped(variant.title), look))
    _frame(axes, np.concatenate(seen))
    axes.set_title(family.title)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(f"loss (nats per {'character' if family.baseline.config.data.is_stream else 'token'})")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.grid(True)
    _name_ends(axes, ends)
    return grey


def _frame(axes: Axes, values: Any) -> None:
    low, high = np.min(values), np.max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Look]]) -> None:
    """Names to the right of the lines' ends, in their order, none over another."""
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_size_inches()[1]  # type: ignore[union-attr]
    ends = sorted(ends, key=lambda end: end[1])
    heights = [LINE * (text.count("\n") + 1) / height for _, _, text, _ in ends]
    places = _spread([(y - low) / (high - low) for _, y, _, _ in ends], heights)
    across = axes.get_xaxis_transform()
    right = axes.get_xlim()[1]
    length = right / (axes.get_position().width * WIDE)  # steps of an inch
    for (x, y, text, look), place in zip(ends, places, strict=True):
        here = (y - low) / (high - low)
        axes.plot([x, right, right + 0.12 * length], [here, here if x == right else here, place], transform=across,
                  color=GREY, lw=0.4, clip_on=False)  # fmt: skip
        sample = [right + 0.12 * length, right + 0.32 * length]
        axes.plot(sample, [place, place], transform=across, color=look.colour, ls=look.dash, lw=look.width,
                  marker=look.marker, ms=3, mew=0, markevery=[1], clip_on=False)  # fmt: skip
        axes.text(right + 0.37 * length, place, text, transform=across, va="center", linespacing=1.1)
    axes.set_xlim(0, right)


def _spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Near where they are wanted, in this order, each as high as it is and none over another; within 0 to 1 if there
    is room."""
    places: list[float] = []
    for index, (place, height) in enumerate(zip(wanted, heights, strict=True)):
        below = places[-1] + (heights[index - 1] + height) / 2 if places else height / 2
        places.append(max(place, below))
    above = 1.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], above - heights[index] / 2)
        above = places[index] - heights[index] / 2
    return places
