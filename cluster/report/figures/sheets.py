"""A sheet: a drawing whose axes are placed in inches, and its text. printing.py makes files of it."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.text import Text

from cluster.report.results import Family, Measure, Result, Variant

INK = "#1b1b1b"  # of text, axes and the baseline: `inline_svg` makes it the page's
GREY = "#8c8c8c"  # seen on white and on black
NARROW, WIDE = 3.4, 7.0  # inches: a column, a page
POINTS = 72  # to an inch, in files of both forms
SIZE, HEADING = 8, 9.5  # points; nothing is smaller
LINE = 0.155  # inches, of a line of text
PAD = 3.5 / POINTS  # inches between a name and what it stands at
LABEL = 30  # characters of a variant's name in a line
NOTED = 14  # characters of a note in an inch
RULE = 0.12  # opacity of a line that leads the eye
FAMILY = "Figure Sans"  # DejaVu Sans with these characters: Latin, Greek, punctuation, the minus
CHARACTERS = (*range(0x20, 0x180), *range(0x370, 0x400), *range(0x2010, 0x2027), 0x2212)
RC: Any = {
    "font.family": [FAMILY, "DejaVu Sans"], "font.size": SIZE, "axes.titlesize": HEADING,
    "axes.titlelocation": "left", "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.axisbelow": True, "figure.facecolor": "none", "axes.facecolor": "none",
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "grid.color": INK, "grid.alpha": RULE, "grid.linewidth": 0.5, "text.parse_math": False, "svg.fonttype": "none",
    "pdf.fonttype": 42, "ps.fonttype": 42,  # by the second matplotlib decides whether a PDF has a font or several
}  # fmt: skip


@dataclass
class Sheet:
    """A drawing whose axes are placed in inches, from the top left."""

    name: str
    title: str
    width: float
    height: float
    caption: str = ""
    names_of: str = ""  # see printing.Figure
    names: Sequence[str] = ()
    titles: dict[str, str] = field(default_factory=dict)  # id of what is drawn -> what a pointer that rests on it shows
    drawing: Drawing = field(init=False)
    _patches: list[Rectangle] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.drawing = Drawing(figsize=(self.width, self.height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        where = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.drawing.add_axes(where)

    def text(self, left: float, top: float, text: str, **how: Any) -> None:
        self.drawing.text(left / self.width, 1 - top / self.height, text, **how)

    def name_rows(self, left: float, top: float, edges: Any, names: Sequence[str]) -> None:
        """Write the names of rows beside them. At ticks of axes they would take ten times as long."""
        for place, name in zip(middles(edges), names, strict=True):
            self.text(left - PAD, top + place, name, ha="right", va="center_baseline")

    def patch(self, left: float, top: float, width: float, height: float, **how: Any) -> None:
        """One of a key: axes of its own would take twenty times as long."""
        place = left / self.width, 1 - (top + height) / self.height
        self._patches.append(Rectangle(place, width / self.width, height / self.height, lw=0, **how))
        self.drawing.add_artist(self._patches[-1])

    def tell(self, drawn: Artist, title: str) -> None:
        """Let the page show the title where a pointer rests on what is drawn."""
        drawn.set_gid(f"named{len(self.titles)}")
        self.titles[f"named{len(self.titles)}"] = title

    def note(self, text: str) -> None:
        """Say something above all that is drawn: the sheet grows at its top, and what is on it stays as large."""
        lines = textwrap.fill(text, int(self.width * NOTED))
        grown = self.height + LINE * (lines.count("\n") + 1.5)
        share = self.height / grown
        for axes in self.drawing.axes:
            box = axes.get_position()
            axes.set_position((box.x0, box.y0 * share, box.width, box.height * share))
        for written in self.drawing.texts:
            written.set_y(written.get_position()[1] * share)
        for patch in self._patches:
            patch.set(y=patch.get_y() * share, height=patch.get_height() * share)
        self.height = grown
        self.drawing.set_size_inches(self.width, grown)
        self.text(0.02, 0.04, lines, va="top")

    def written(self) -> Iterator[str]:
        """All that stands in the picture, above it and below it, but for what stands at ticks and in cells."""
        yield from (self.title, self.caption)
        texts, legends = [*self.drawing.texts], [*self.drawing.legends]
        for axes in self.drawing.axes:
            yield axes.get_title("left")
            texts += [axes.xaxis.label, axes.yaxis.label, *axes.texts]
            legends += [legend] if (legend := axes.get_legend()) else []
        yield from (text.get_text() for text in chain(texts, *(legend.get_texts() for legend in legends)))


# -- text -------------------------------------------------------------------------------------------------------------


@functools.cache
def make_font() -> None:
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


class Texts(Artist):
    """Many short texts of one colour, each in the middle of its place: (x, y, text) in the axes' values. Each as an
    artist takes three times as long, to be laid out, drawn and forgotten."""

    HALF = 0.38  # of the size: half of how high letters stand above their line

    def __init__(self, texts: Sequence[tuple[float, float, str]], colour: str) -> None:
        super().__init__()
        self.texts, self.zorder = texts, Text.zorder
        self.one = Text(color=colour, ha="center", va="baseline")  # what a renderer asks a text for

    def draw(self, renderer: RendererBase) -> None:
        assert self.axes
        assert isinstance(self.axes.figure, Drawing)
        places = self.axes.transData.transform([(x, y) for x, y, _ in self.texts])
        how, gc, inch = self.one.get_fontproperties(), renderer.new_gc(), self.axes.figure.dpi
        top = renderer.get_canvas_width_height()[1] if renderer.flipy() else None
        gc.set_foreground(self.one.get_color())
        for (x, y), (*_, text) in zip(places.tolist(), self.texts, strict=True):
            self.one.set_position((x, y))
            left, line = x - text_width(text) * inch / 2, y - self.HALF * SIZE / POINTS * inch
            if text:
                renderer.draw_text(gc, left, line if top is None else top - line, text, how, 0, mtext=self.one)
        gc.restore()


def boxes(places: Iterable[tuple[float, float, float, float]], **how: Any) -> PathPatch:
    """Return rectangles (x from, to, y from, to) as one shape."""
    x0, x1, y0, y1 = np.array([*places], dtype=np.float64).T
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])  # (5, 2, N)
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY]
    return PathPatch(Outline(corners.transpose(2, 0, 1).reshape(-1, 2), codes * len(x0)), lw=0, **how)


def wrapped(label: str, width: int = LABEL) -> str:
    """In lines of at most `width` characters; but words of up to LABEL stay whole."""
    return textwrap.fill(textwrap.fill(label, LABEL), width, break_long_words=False) or label


def as_one(lines: Iterable[tuple[Sequence[float], Sequence[float]]]) -> tuple[Any, Any]:
    """Return x and y of many lines as those of one with gaps, which is drawn in a fraction of their time."""
    parts = [part for x, y in lines for part in ([*x, np.nan], [*y, np.nan])]
    return np.concatenate([[], *parts[::2]]), np.concatenate([[], *parts[1::2]])


def row_edges(labels: Sequence[str]) -> Any:
    """Where the rows of these labels begin and end, in inches from the first. -> (rows + 1,)"""
    return np.cumsum([0.0, *(LINE * (label.count("\n") + 1.2) for label in labels)])


def middles(edges: Any) -> Any:
    return (edges[1:] + edges[:-1]) / 2


@functools.cache
def text_width(text: str) -> float:
    """Inches of its longest line."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    font.set_size(SIZE, 72)
    widths = []
    for line in text.splitlines() or [""]:
        font.set_text(line, 0.0)
        widths.append(font.get_width_height()[0] / 64 / 72)
    return max(widths)


def signed(value: float, digits: int = 1) -> str:
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if float(f"{value:.{digits}f}") else f"{0:.{digits}f}"


def told_seeds(variants: Iterable[Variant], has: Callable[[Result], bool]) -> str:
    counts = sorted({count for variant in variants if (count := sum(map(has, variant.runs)))})
    if not counts:
        return "no seed"
    if counts == [1]:
        return "1 seed each"
    return f"{counts[0]} seeds each" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds each"


def unit_of(measure: Measure) -> str:
    return (
        f"{measure.title} (%)"
        if measure.percent
        else f"{measure.title} (nats)" * (measure.key == "loss") or measure.title
    )


def lacking(variants: Sequence[Variant]) -> str:
    return f" Without data: {', '.join(_named(variant) for variant in variants)}." if variants else ""


def _named(variant: Variant) -> str:
    return f"{Family(variant.family, ()).title} {variant.title}"
