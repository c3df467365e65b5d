"""A study -> its figures, each as SVG and PDF, to be printed at 3.4 or 7 inches of width.

A figure whose data is not there is left out. What is drawn is a function of the results and the runs' files: the same
ledger gives the same bytes. The baseline is drawn in ink, others in Okabe and Ito's colours, and no figure needs
them: lines and markers differ as well. Only `report` imports this module, and with it matplotlib; never pyplot."""

from __future__ import annotations

import atexit
import functools
import html
import io
import itertools
import json
import math
import re
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib import font_manager, ticker
from matplotlib.axes import Axes
from matplotlib.backends import backend_pdf, backend_svg
from matplotlib.colors import TwoSlopeNorm, to_hex
from matplotlib.figure import Figure as Drawing

from cluster import rundir
from cluster.results import BY_KEY, MAIN, Family, Measure, Result, Study, Variant
from cluster.rundir import OutputRoot
from cluster.statistics import Interval, interval
from tiny_transformers.architecture import GATED, Architecture, Sharing
from tiny_transformers.config import CURVE, FUNCTIONS

INK = "#1b1b1b"  # of text, axes and the baseline: `inline_svg` makes it the page's
GREY = "#8c8c8c"  # seen on white and on black
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # without its yellow, lost on white
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = "o^sDvPX"
NARROW, WIDE = 3.4, 7.0  # inches: a column, a page
SIZE, HEADING = 8, 9.5  # points; nothing is smaller
LINE = 0.155  # inches, of a line of text
LABEL = 30  # characters of a variant's name in a line
COLOURED = 12  # variants of a family that have a line of their own colour; of more the baseline and
BEST = 5  # so many
ROWS = 40  # of variants that fit a page
TASK_COLUMNS = 20  # of a heat map; more tasks are its rows
SLANT = math.radians(55)  # of the columns' names in a heat map
FEW = 4  # variants whose bands can be told apart where they lie over each other
PANELS = 6  # side by side
SMOOTHED = 15  # points of a training curve
NO_SPREAD = 0.01  # a cost that differs less within each family explains nothing
BROWSER_FONTS = "'DejaVu Sans', Arial, Helvetica, sans-serif"  # as drawn, then narrower ones
FAMILY = "Figure Sans"  # DejaVu Sans with these characters: Latin, Greek, punctuation, the minus
CHARACTERS = (*range(0x20, 0x180), *range(0x370, 0x400), *range(0x2010, 0x2027), 0x2212)
RC: Any = {
    "font.family": [FAMILY, "DejaVu Sans"], "font.size": SIZE, "axes.titlesize": HEADING,
    "axes.titlelocation": "left", "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.axisbelow": True, "figure.facecolor": "none", "axes.facecolor": "none",
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "grid.color": INK, "grid.alpha": 0.12, "grid.linewidth": 0.5, "text.parse_math": False, "svg.fonttype": "none",
    "pdf.fonttype": 42,
}  # fmt: skip
UNITS = {"loss": "nats"}  # of measures that are no percentages
ABOUT_SVG: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
ABOUT_PDF: dict[str, Any] = {"CreationDate": None, "Creator": None, "Producer": None}


@dataclass(frozen=True)
class Figure:
    """One figure of a study."""

    name: str  # its file's stem, unique in a report
    title: str
    caption: str
    svg: str  # a file's text, with text as text
    pdf: bytes


@dataclass
class Sheet:
    """A drawing whose axes are placed in inches, from the top left."""

    name: str
    title: str
    width: float
    height: float
    caption: str = ""
    drawing: Drawing = field(init=False)

    def __post_init__(self) -> None:
        self.drawing = Drawing(figsize=(self.width, self.height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        where = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.drawing.add_axes(where)

    def text(self, left: float, top: float, text: str, **how: Any) -> None:
        self.drawing.text(left / self.width, 1 - top / self.height, text, **how)


def draw(study: Study, root: OutputRoot) -> list[Figure]:
    """Every figure that there is data for."""
    _make_font()
    with matplotlib.rc_context(RC):
        sheets = [
            *forest(study), *learning_curves(study, root), *costs(study), *heat_maps(study), *sharing(study),
            *learned_functions(study, root),
        ]  # fmt: skip
        return [_printed(sheet, study) for sheet in sheets]


def inline_svg(svg: str) -> str:
    """For a page, light or dark: in its colour, on its ground, as wide as there is room, and told to who cannot see.
    Figures of one report have no id in common."""
    start = svg.index("<svg")
    title = re.search(r"<title>(.*?)</title>", svg)
    label = title[1].replace('"', "&quot;") if title else ""
    head, body = svg[start:].split(">", 1)
    head = re.sub(r' (width|height|xmlns:\w+)="[^"]*"', "", head)
    body = re.sub(r"\s*<title>.*?</title>", "", body, count=1)  # a browser would show it over the whole figure
    return f'{head} role="img" aria-label="{label}">{body}'.replace("xlink:href", "href").replace(INK, "currentColor")


# -- files ------------------------------------------------------------------------------------------------------------


def _printed(sheet: Sheet, study: Study) -> Figure:
    name = f"{study.stem}-{sheet.name}"
    with matplotlib.rc_context({"svg.hashsalt": name}):
        svg, pdf = io.StringIO(), io.BytesIO()
        backend_svg.FigureCanvasSVG(sheet.drawing).print_svg(svg, metadata=ABOUT_SVG)
        backend_pdf.FigureCanvasPdf(sheet.drawing).print_pdf(pdf, metadata=ABOUT_PDF | {"Title": sheet.title})
    return Figure(name, sheet.title, sheet.caption, _tidied(svg.getvalue(), name, sheet.title), pdf.getvalue())


def _tidied(svg: str, name: str, title: str) -> str:
    """matplotlib's SVG with ids of its own, a title, no ground, and what all of it has in common said once."""
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.S)  # it would style a whole page
    svg = re.sub(r"<[^>]+>", lambda tag: _tidied_tag(tag[0], name), svg)  # and no text
    svg = re.sub(r"[ \t]+$", "", svg, flags=re.M)
    head = f'<svg style="font-family: {BROWSER_FONTS}" stroke-linejoin="round" stroke-linecap="butt"'
    svg = svg.replace("<svg", head, 1)
    end = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:end]}\n <title>{html.escape(title, quote=False)}</title>{svg[end:]}"


def _tidied_tag(tag: str, name: str) -> str:
    tag = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\1{name}-", tag)
    tag = re.sub(r" font-family: [^;\"]*;", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag)
    return re.sub(r"(\.\d\d)\d+", r"\1", tag)  # of a point


# -- text -------------------------------------------------------------------------------------------------------------


@functools.cache
def _make_font() -> None:
    """A PDF holds the letters that it shows. Picking them from the whole of DejaVu Sans, with its rules for Arabic,
    took nearly half of the time; from this part of it, hardly any."""
    font = TTFont(font_manager.findfont("DejaVu Sans"), recalcTimestamp=False)
    options = subset.Options(layout_features=[], hinting=True, name_IDs=["*"])
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "FFTM"]
    part = subset.Subsetter(options)
    part.populate(unicodes=CHARACTERS)
    part.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 16):  # the family
            record.string = FAMILY
    folder = tempfile.mkdtemp(prefix="tiny-transformers-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "figure-sans.ttf"
    font.save(file)
    font_manager.fontManager.addfont(file)


def _wrapped(label: str, width: int = LABEL) -> str:
    """In lines of at most `width` characters; but words of up to LABEL stay whole."""
    return textwrap.fill(textwrap.fill(label, LABEL), width, break_long_words=False) or label


def _rows(labels: Sequence[str]) -> Any:
    """Where the rows of these labels begin and end, in inches from the first. -> (rows + 1,)"""
    return np.cumsum([0.0, *(LINE * (label.count("\n") + 1.2) for label in labels)])


def _middles(edges: Any) -> Any:
    return (edges[1:] + edges[:-1]) / 2


@functools.cache
def _width(text: str) -> float:
    """Inches of its longest line."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    font.set_size(SIZE, 72)
    widths = []
    for line in text.splitlines() or [""]:
        font.set_text(line, 0.0)
        widths.append(font.get_width_height()[0] / 64 / 72)
    return max(widths)


def _signed(value: float, digits: int = 1) -> str:
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else f"{0:.{digits}f}"


def _seeds(variants: Iterable[Variant], has: Callable[[Result], bool]) -> str:
    counts = sorted({count for variant in variants if (count := sum(map(has, variant.runs)))})
    if not counts:
        return "no seed"
    if counts == [1]:
        return "1 seed each"
    return f"{counts[0]} seeds each" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds each"


def _unit(measure: Measure) -> str:
    return (
        f"{measure.title} (%)"
        if measure.percent
        else f"{measure.title} (nats)" * (measure.key == "loss") or measure.title
    )


def _lacking(variants: Sequence[Variant]) -> str:
    return f" Without data: {', '.join(_named(variant) for variant in variants)}." if variants else ""


def _named(variant: Variant) -> str:
    return f"{Family(variant.family, ()).title} {variant.label}"


# -- values -----------------------------------------------------------------------------------------------------------


def _values(variant: Variant, measure: Measure) -> list[float]:
    """Over its seeds, as shown: shares as percentages."""
    scale = 100 if measure.percent else 1
    return [scale * value for value in variant.values(measure).values() if math.isfinite(value)]


def _mean(variant: Variant, measure: Measure) -> float | None:
    values = _values(variant, measure)
    return math.fsum(values) / len(values) if values else None


def _interval(variant: Variant, measure: Measure) -> Interval | None:
    return interval(_values(variant, measure))


def _measures(study: Study) -> list[Measure]:
    """The main ones that any variant has."""
    return [BY_KEY[key] for key in MAIN if any(_values(variant, BY_KEY[key]) for variant in study.variants)]


def _pages(study: Study) -> list[tuple[Family, ...]]:
    """The families of each page of rows, one a variant."""
    if len(study.variants) <= ROWS:
        return [study.families]
    return [(family,) for family in study.families]


def _suffix(families: Sequence[Family], study: Study) -> str:
    """Of the name and the title of one page of several."""
    return "" if len(families) == len(study.families) else f"-{families[0].name}"


def _of(families: Sequence[Family], study: Study) -> str:
    return "" if len(families) == len(study.families) else f", {families[0].title}"


# -- what a line looks like -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    colour: str
    dash: Any = "-"
    marker: str = ""
    width: float = 1.1

    @property
    def is_grey(self) -> bool:
        return self.colour == GREY


BASELINE = Look(INK, marker="o", width=1.8)
OTHER = Look(GREY, width=0.7)
LOOKS = [Look(OKABE_ITO[i % 6], DASHES[i // 6 * 2 + i % 2], MARKERS[(i + 1) % 7]) for i in range(COLOURED - 1)]


def _looks(study: Study) -> dict[str, Look]:
    """By variants' keys. A label that several families have looks alike in all of them."""
    by_label: dict[str, Look] = {}
    looks = {}
    for family in study.families:
        chosen = _coloured(family, study)
        taken = {by_label[variant.label] for variant in chosen if variant.label in by_label}
        free = iter([look for look in LOOKS if look not in taken])
        for variant in family.variants:
            if variant.is_baseline:
                looks[variant.key] = BASELINE
            elif variant in chosen:
                looks[variant.key] = by_label.setdefault(variant.label, by_label.get(variant.label) or next(free))
            else:
                looks[variant.key] = OTHER
    return looks


def _first_title(study: Study) -> str:
    measures = _measures(study)
    return measures[0].title if measures else "their order"


def _coloured(family: Family, study: Study) -> list[Variant]:
    """All but the baseline, or the best of many."""
    others = [variant for variant in family.variants if not variant.is_baseline]
    if len(family.variants) <= COLOURED:
        return others
    return _best(others, study)[:BEST]


def _best(variants: Sequence[Variant], study: Study) -> list[Variant]:
    """By the study's first measure; those without a value last."""
    measures = _measures(study)

    def place(variant: Variant) -> float:
        mean = _mean(variant, measures[0]) if measures else None
        return math.inf if mean is None else -mean if measures[0].higher_is_better else mean

    return sorted(variants, key=place)


# -- learning curves --------------------------------------------------------------------------------------------------

Curve = dict[int, float]  # step -> loss


@dataclass(frozen=True)
class Band:
    """Of one variant, over its seeds."""

    steps: Any
    mean: Any
    low: Any
    high: Any


def learning_curves(study: Study, root: OutputRoot) -> Iterator[Sheet]:
    read = {
        run.run_id: _curves(root.run(run.run_id).path / CURVE) if _is_pretrained(run) else ({}, {})
        for run in study.runs
    }
    families = [family for family in study.families if any(any(read[run.run_id]) for run in _runs(family))]
    if not families:
        return
    looks = _looks(study)
    labels = [_wrapped(variant.label) for variant in study.variants if not looks[variant.key].is_grey]
    left, right = 0.6, 0.45 + max(map(_width, labels))
    heights = [max(2.5, 0.4 + sum(LINE * (_wrapped(v.label).count("\n") + 1) for v in family.variants
                                  if not looks[v.key].is_grey)) for family in families]  # fmt: skip
    sheet = Sheet("curves", "Learning curves", WIDE, sum(heights) + 0.6 * len(families) + 0.05)
    top = 0.0
    for family, height in zip(families, heights, strict=True):
        axes = sheet.axes(left, top + 0.22, WIDE - left - right, height)
        _learning_curves_of(axes, family, read, looks)
        top += height + 0.6
    validated = any(validation for _, validation in read.values())
    left_out = sum(not _is_pretrained(run) for run in study.runs)
    sheet.caption = " ".join([
        f"{'Validation loss' if validated else 'Training loss, smoothed,'} against optimizer steps.",
        f"Lines are means over seeds ({_seeds(study.variants, lambda run: any(read[run.run_id]))}), bands their range;",
        "thin lines the training loss, smoothed." if validated else "there was no evaluation yet.",
        "The steep fall at the start is cut off. The baseline is the thick line.",
        *([f"Left out are {left_out} runs whose pretraining is not completed."] if left_out else []),
        *([f"In colour are the best {BEST} of each family by {_first_title(study)}; the others are grey."]
          if any(look.is_grey for look in looks.values()) else []),
    ]) + _lacking([v for v in study.variants if not any(any(read[run.run_id]) for run in v.runs)])  # fmt: skip
    yield sheet


def _is_pretrained(run: Result) -> bool:
    """Else its curve ends early, or where it broke, and would bend the mean of its seeds."""
    return run.stages.get("pretrain", {}).get("status") == "completed"


def _runs(family: Family) -> list[Result]:
    return [run for variant in family.variants for run in variant.runs]


def _curves(path: Path) -> tuple[Curve, Curve]:
    """Training and validation; what of the file is whole, and nothing if there is none."""
    curves: dict[str, Curve] = {"loss": {}, "eval_loss": {}}
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            record = json.loads(line)
            for key in record.keys() & curves.keys():
                if math.isfinite(record[key]):
                    curves[key][int(record["step"])] = float(record[key])
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # torn: its run is being written, or was cut off
    return tuple(dict(sorted(curve.items())) for curve in curves.values())  # type: ignore[return-value]


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


def _learning_curves_of(axes: Axes, family: Family, read: Mapping[str, tuple[Curve, Curve]],
                        looks: Mapping[str, Look]) -> None:  # fmt: skip
    ends: list[tuple[float, float, str, Look]] = []
    seen: list[Any] = []
    for variant in sorted(family.variants, key=lambda v: (not looks[v.key].is_grey, v.is_baseline)):
        look = looks[variant.key]
        training, validation = (_band([read[run.run_id][i] for run in variant.runs]) for i in (0, 1))
        if training and not look.is_grey:
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
        if not look.is_grey:
            ends.append((band.steps[-1], band.mean[-1], _wrapped(variant.label), look))
    _frame(axes, np.concatenate(seen))
    axes.set_title(family.title)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(f"loss (nats per {'character' if family.baseline.config.data.is_stream else 'token'})")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.grid(True)
    _name_ends(axes, ends)


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


# -- every variant against the baseline -------------------------------------------------------------------------------


def forest(study: Study) -> Iterator[Sheet]:
    measures = _measures(study)
    for families in _pages(study):
        if measures and len(study.variants) > 1:
            yield _forest(study, families, measures)


def _forest(study: Study, families: Sequence[Family], measures: Sequence[Measure]) -> Sheet:
    labels = {v.key: _wrapped(v.label) for family in families for v in family.variants}
    left, gap = 0.1 + max(map(_width, labels.values())), 0.15
    width = (WIDE - left - 0.12 - gap * (len(measures) - 1)) / len(measures)
    rows = [_rows([labels[v.key] for v in family.variants]) for family in families]
    name, title = f"scores{_suffix(families, study)}", f"Scores over seeds, against the baseline{_of(families, study)}"
    sheet = Sheet(name, title, WIDE, sum(edges[-1] for edges in rows) + 0.5 * len(families) + 0.3)
    top = 0.0
    for family, edges in zip(families, rows, strict=True):
        sheet.text(0.02, top + 0.16, family.title, size=HEADING)
        for column, measure in enumerate(measures):
            axes = sheet.axes(left + column * (width + gap), top + 0.22, width, edges[-1])
            _forest_of(axes, family, measure, edges)
            axes.set_yticks(_middles(edges), [labels[v.key] for v in family.variants] if not column else [])
            if family is families[-1]:
                axes.set_xlabel(_unit(measure))
        top += edges[-1] + 0.5
    variants = [v for family in families for v in family.variants]
    has = lambda run: any(run.value(measure) is not None for measure in measures)  # noqa: E731
    sheet.caption = (
        f"Large markers are means over seeds ({_seeds(variants, has)}), small dots the seeds, bars 95 % intervals of "
        "the mean where there are at least 3 seeds. The diamond, the line and the band are the baseline."
    )
    return sheet


def _forest_of(axes: Axes, family: Family, measure: Measure, edges: Any) -> None:
    base = _interval(family.baseline, measure)
    if base:
        axes.axvline(base.mean, color=INK, lw=0.7)
        if base.low is not None and base.high is not None:
            axes.axvspan(base.low, base.high, color=INK, alpha=0.1, lw=0)
    for place, variant in zip(_middles(edges), family.variants, strict=True):
        values, found = _values(variant, measure), _interval(variant, measure)
        if not found:
            continue
        colour = INK if variant.is_baseline else OKABE_ITO[0]
        if found.n > 1:
            axes.plot(values, [place] * len(values), "o", color=GREY, ms=1.8, mew=0)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color=colour, lw=1.3, solid_capstyle="butt")
        axes.plot(found.mean, place, "D" if variant.is_baseline else "o", color=colour, ms=4.5, mew=0)
    axes.set_ylim(edges[-1], 0)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="y")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(3, steps=[1, 2, 5, 10]))
    if not any(_values(variant, measure) for variant in family.variants):
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", color=GREY)


# -- score against what it costs --------------------------------------------------------------------------------------


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
    measures = _measures(study)
    for cost, (corpus, families) in itertools.product(_costs(study), _by_corpus(study)) if measures else []:
        points = [
            Point(variant, x, y)
            for family in families
            for variant in family.variants
            if (x := cost.of(variant)) and (y := _mean(variant, measures[0])) is not None
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
    known = [seconds for variant in study.variants if (seconds := variant.training_seconds)]
    unit, seconds_of = ("hours", 3600) if known and max(known) >= 7200 else ("minutes", 60)
    yield Cost("time", "training time", f"training time ({unit})",
               lambda variant: (variant.training_seconds or 0) / seconds_of or None)  # fmt: skip
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
        _points_of(axes, family, [p for p in points if p.variant.family == family.name], number)
    axes.set_xlabel(cost.axis)
    axes.set_ylabel(_unit(measure))
    axes.margins(0.1, 0.08)
    axes.grid(True)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=4, borderaxespad=0)
    unnamed = _name_points(sheet, axes, points, front, cost)
    few = f" {unnamed} points too close to others are not named; none of them is on the front." if unnamed else ""
    sheet.caption = (
        f"{measure.title} against {cost.title}, means over seeds. The dashed line is the Pareto front: no model "
        f"is better in both. Baselines are in the colour of the text.{few}"
        + _lacking([v for family in families for v in family.variants if v not in [p.variant for p in points]])
    )
    return sheet


def _points_of(axes: Axes, family: Family, points: Sequence[Point], number: int) -> None:
    marker, colour = MARKERS[number % 7], OKABE_ITO[number % 6]
    for point in points:
        own = INK if point.variant.is_baseline else colour
        axes.plot(point.x, point.y, marker, color=own, ms=6 if point.variant.is_baseline else 5, mew=0)
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
        text = _wrapped(point.variant.label)
        x, y = places[point.variant.key]
        needed = point in front or point.variant.is_baseline
        spot = _spot(x, y, _width(text), LINE * (text.count("\n") + 1), taken, limits, far=needed)
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
    """What the front's line covers between two of its points, the first one left of the other."""
    across, along = (start[1], end[0]) if cost.lower_is_better else (end[1], start[0])
    low, high = sorted((start[1], end[1]))
    return (start[0], across - 0.01, end[0], across + 0.01), (along - 0.01, low, along + 0.01, high)


def _spot(x: float, y: float, width: float, height: float, taken: Sequence[Box], limits: Box, far: bool) -> Box | None:
    """Room for a text near a point, or else, if it may be, `far` from it."""
    for distance in (0.06, 0.2, 0.35, 0.5, 0.7) if far else (0.06, 0.12):
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


# -- heat maps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Tasks of one stage."""

    key: str
    title: str
    stage: str
    metric: str
    leave_out: tuple[str, ...]  # means over tasks


TABLES = (
    Table("blimp", "BLiMP by phenomenon", "blimp", "accuracy", ("blimp", "supplement", "average", "micro")),
    Table("superglue", "(Super)GLUE by task", "superglue", "main", ("average",)),
)


def heat_maps(study: Study) -> Iterator[Sheet]:
    for table in TABLES:
        for family in study.families:
            tasks = _tasks(table, family)
            variants = [v for v in family.variants if any(_task(v, table, task) is not None for task in tasks)]
            if len(variants) > 1 and variants[0].is_baseline:
                yield _heat_map(table, family, variants, tasks)


def _tasks(table: Table, family: Family) -> list[str]:
    """In the order in which they were scored; without their parts, which are `task/part`."""
    found = {task: None for run in _runs(family) for stage, task, metric in run.scores
             if (stage, metric) == (table.stage, table.metric)}  # fmt: skip
    return [task for task in found if task not in table.leave_out and "/" not in task]


def _task(variant: Variant, table: Table, task: str) -> float | None:
    found = [run.scores.get((table.stage, task, table.metric)) for run in variant.runs]
    mean = variant.mean_of(each[0] for each in found if each and math.isfinite(each[0]))
    return None if mean is None else 100 * mean


def _heat_map(table: Table, family: Family, variants: Sequence[Variant], tasks: Sequence[str]) -> Sheet:
    values = np.array([[_task(v, table, task) for task in tasks] for v in variants], dtype=float)
    differences = values - values[0]
    labels = [f"{v.label} (baseline, %)" if v.is_baseline else v.label for v in variants]
    names = [task.replace("_", " ") for task in tasks]
    own = np.zeros(values.shape, dtype=bool)
    own[0] = True
    if len(tasks) > TASK_COLUMNS:
        cells = Cells(values.T, differences.T, own.T, names, [_wrapped(label) for label in labels])
    else:
        cells = Cells(values, differences, own, [_wrapped(label) for label in labels], names)
        if not cells.fits(1):  # with more room for the columns
            cells = Cells(values, differences, own, [_wrapped(label, LABEL // 2) for label in labels], names)
    sheet = cells.sheet(f"{table.key}-{family.name}", f"{table.title}, {family.title}")
    sheet.caption = (
        f"{family.title}: difference to the baseline in percentage points, blue better and red worse, means over "
        "seeds; of the baseline its own score in %. An empty cell has no score."
    )
    return sheet


@dataclass(frozen=True)
class Cells:
    """A heat map to be drawn. All are (rows, columns)."""

    values: Any  # %
    differences: Any  # to the baseline, in points; not a number where there is none
    own: Any  # whether a cell is the baseline's
    rows: Sequence[str]
    columns: Sequence[str]

    @property
    def left(self) -> float:
        return 0.12 + max(map(_width, self.rows))

    @property
    def overhang(self) -> float:
        """Of the last column's name, which is slanted."""
        return max(0.1, _width(self.columns[-1]) * math.cos(SLANT) - 0.1)

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
        return f"{value:.{digits}f}" if self.own[where] else _signed(value, digits if abs(value) < 9.95 else 0)

    def fits(self, digits: int) -> bool:
        widest = max(_width(self.text(where, digits)) for where in np.ndindex(self.values.shape))
        return widest + 0.03 < self.width / len(self.columns)

    def sheet(self, name: str, title: str) -> Sheet:
        top, edges = 0.25 + max(map(_width, self.columns)) * math.sin(SLANT), _rows(self.rows)
        needed = self.left + self.width + self.overhang
        sheet = Sheet(name, title, WIDE if needed > NARROW else NARROW, top + edges[-1] + 0.42)
        axes = sheet.axes(self.left, top, self.width, edges[-1])
        shown = np.ma.masked_where(self.own | ~np.isfinite(self.differences), self.differences)
        across = np.arange(len(self.columns) + 1.0)
        axes.pcolormesh(across, edges, shown, cmap="RdBu", norm=TwoSlopeNorm(0, -self.most, self.most))
        self.write(axes, _middles(edges))
        axes.set_ylim(edges[-1], 0)
        axes.set_yticks(_middles(edges), self.rows)
        axes.xaxis.tick_top()
        axes.set_xticks(_middles(across), self.columns, rotation=math.degrees(SLANT), ha="left", rotation_mode="anchor")
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
    axes.set_xticks([0.5, 4.5, 8.5], [_signed(-most), "0", f"{_signed(most)} points"])
    axes.tick_params(length=0, pad=1.5)
    axes.spines[:].set_visible(False)


# -- weight sharing ---------------------------------------------------------------------------------------------------

STRATEGIES = ("seq", "cycle", "cycle_rev")
OF_LAYOUT = (  # what a layout decides
    "sharing", "num_layers", "num_hidden_layers", "hidden_size", "intermediate_size", "qk_size", "v_size",
)  # fmt: skip


def sharing(study: Study) -> Iterator[Sheet]:
    """Only where layers are shared: by layout and strategy."""
    families = [f for f in study.families if any(map(_shared, f.variants))]
    measures = _measures(study)
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
                axes.set_ylabel(_unit(measure))
            if row < len(measures) - 1:
                axes.tick_params(labelbottom=False)
    handles, names = sheet.drawing.axes[0].get_legend_handles_labels()
    sheet.drawing.legend(handles, names, loc="lower center", ncols=5, frameon=False, bbox_to_anchor=(0.5, 0.0))
    sheet.caption = (
        "Groups are layouts: layers that are applied, layers with weights of their own, hidden size. Large markers are "
        "means over seeds, small dots the seeds; the line is the plain model, which shares nothing and is otherwise as "
        "the baseline, the band its 95 % interval where it has at least 3 seeds. Models that differ from the baseline "
        "in more than layout and strategy are left out."
    )
    yield sheet


def _shared(variant: Variant) -> Sharing | None:
    """How its layers share their weights; a Brainformer's order says that for itself."""
    model = variant.config.model
    return model.sharing if isinstance(model, Architecture) else None


def _layout(variant: Variant) -> tuple[int, int, int]:
    """Layers, of them unique, hidden size."""
    model, shared = variant.config.model, _shared(variant)
    return model.layers, shared.unique_layers if shared else model.layers, model.hidden_size


def _layouts(family: Family) -> list[tuple[int, int, int]]:
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


def _sharing_of(axes: Axes, family: Family, measure: Measure, slim: bool) -> None:
    layouts, variants = _layouts(family), _comparable(family)
    for variant in variants:
        shared, found = _shared(variant), _interval(variant, measure)
        if not shared and found:
            axes.axhline(found.mean, color=INK, lw=1.2, label="nothing shared")
            if found.low is not None and found.high is not None:
                axes.axhspan(found.low, found.high, color=INK, alpha=0.1, lw=0)
    for number, strategy in enumerate(STRATEGIES):
        look: dict[str, Any] = {"marker": MARKERS[number], "color": OKABE_ITO[number], "ls": "", "mew": 0, "ms": 5}
        axes.plot([], [], label=strategy.replace("_", ", last pass ").replace("rev", "reversed"), **look)
        for variant in variants:
            shared = _shared(variant)
            if shared and shared.strategy == strategy:
                place = layouts.index(_layout(variant)) + 0.22 * (number - 1)
                values = _values(variant, measure)
                if len(values) > 1:
                    axes.plot([place + 0.08] * len(values), values, ".", color=GREY, ms=2.5, mew=0)
                if values:
                    axes.plot(place, np.mean(values), **look)
    words = "{}L\n{} unique\n{}" if slim else "{} layers\n{} unique\n{} wide"
    axes.set_xticks(range(len(layouts)), [words.format(*layout) for layout in layouts])
    axes.set_xlim(-0.5, len(layouts) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(True, axis="y")
    axes.margins(y=0.12)


# -- learned functions ------------------------------------------------------------------------------------------------

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


def learned_functions(study: Study, root: OutputRoot) -> Iterator[Sheet]:
    every = [learned for variant in study.variants for learned in _learned(variant, root)]
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
    """Of the runs whose file is whole."""
    for run in variant.runs:
        try:
            told = rundir.read_json(root.run(run.run_id).path / FUNCTIONS)
            found = [_read_layer(variant, run.seed, told["x"], layer) for layer in told["layers"]] if told else []
        except (rundir.TornFile, OSError, KeyError, TypeError, ValueError):
            continue
        yield from found


def _read_layer(variant: Variant, seed: int, x: Any, layer: Any) -> Learned:
    """Raises KeyError, TypeError or ValueError where it is not as tiny_transformers/functions.py writes it."""
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
    labels = list(dict.fromkeys(each.variant.label for each in found))
    left, gap, head = 0.45, 0.12, 0.05 + LINE * max(_head(columns, *each).count("\n") + 1 for each in columns)
    sheet_width = NARROW if len(columns) <= 2 else WIDE
    width = (sheet_width - left - 0.1 - gap * (len(columns) - 1)) / len(columns)
    height, between = min(1.15, width), 0.36
    sheet = Sheet(name, title, sheet_width, head + len(labels) * (height + between) + 0.28)
    by_panel: dict[tuple[str, str, Place], list[Learned]] = {}
    for each in found:
        by_panel.setdefault((each.variant.label, each.variant.family, each.place), []).append(each)
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
    """Of a row: what bands, medians and starts need; an edge may leave it."""
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
        for name, y in panel[0].curves.items():
            if name not in QUANTILES:
                axes.plot(panel[0].x, y, color=OKABE_ITO[1], lw=0.6)
    for each in panel:
        axes.plot(each.x, each.curves["median"], color=OKABE_ITO[0], lw=1.2 if edges else 0.7)
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
    gated = any(getattr(each.variant.config.model, "activation", None) in GATED for each in found)
    of_gate = " Of a gated one it is that of the gate, for a value of 1." if gated else ""
    return (
        f"Solid lines: the median over the units of a layer, a line a seed ({count}); bands: 5 % to 95 % of the "
        f"units, means over seeds; dashed: the function at the start.{of_gate}{some}"
    )
