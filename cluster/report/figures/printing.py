"""A sheet -> its figure: one picture as SVG and as PDF.

Both are drawn at once: laying out ticks and texts takes longer than to write down what comes of it."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_pdf import Op, PdfFile, RendererPdf
from matplotlib.backends.backend_svg import RendererSVG

from cluster.report.figures.sheets import POINTS, Sheet
from cluster.report.results import Study

BROWSER_FONTS = "'DejaVu Sans', Arial, Helvetica, sans-serif"  # as drawn, then narrower ones
ODD = re.compile(  # in a tag: what stands before an id; digits beyond hundredths of a point; what all texts have
    r"""(\bid="|xlink:href="\#|url\(\#) | (\.\d\d)\d+
    | [ ]font-family:[ ][^;"]*; | [ ]transform="rotate\(-0[ ][^"]*\)\"""",
    re.VERBOSE,
)
FONT = re.compile(rb"/(F\d+) ")  # that a text of a PDF is set in
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
    names_of: str = ""  # what the names are of; they are folded away on the page
    names: Sequence[str] = ()


def print_sheet(sheet: Sheet, study: Study) -> Figure:
    name, drawing = f"{study.stem}-{sheet.name}", sheet.drawing
    text, pdf = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        drawing.dpi = POINTS
        width, height = drawing.get_size_inches()
        svg = RendererSVG(width * POINTS, height * POINTS, text, image_dpi=POINTS, metadata=ABOUT_SVG)
        file = PdfFile(pdf, metadata=ABOUT_PDF | {"Title": sheet.title})
        try:
            file.newPage(width, height)
            both = _Both(svg, _Pdf(file, POINTS, height, width))
            drawing.draw(both)
            both.finalize()
            file.finalize()
        finally:
            file.close()
    tidied = _tidied(text.getvalue(), name, sheet)
    return Figure(name, sheet.title, sheet.caption, tidied, pdf.getvalue(), sheet.names_of, sheet.names)


class _Both(RendererBase):
    """Tells two renderers of one size what is drawn. Texts are as wide as SVG's renderer finds them, to which they are
    a 64th of a point off, at most, in the other. No figure has a picture of points, which would be blurred in print."""

    def __init__(self, svg: RendererSVG, pdf: RendererPdf) -> None:
        super().__init__()
        self.svg, self.pdf = svg, pdf

    def new_gc(self) -> Any:
        return self.pdf.new_gc()  # which is all that SVG's is

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self.svg.width, self.svg.height

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> Any:
        return self.svg.get_text_width_height_descent(s, prop, ismath)

    def flipy(self) -> bool:
        return False  # as in PDF: y grows upwards

    def open_group(self, s: str, gid: str | None = None) -> None:
        self.svg.open_group(s, gid)

    def close_group(self, s: str) -> None:
        self.svg.close_group(s)

    def draw_path(self, *args: Any, **how: Any) -> None:
        self.svg.draw_path(*args, **how)
        self.pdf.draw_path(*args, **how)

    def draw_markers(self, *args: Any, **how: Any) -> None:
        self.svg.draw_markers(*args, **how)
        self.pdf.draw_markers(*args, **how)

    def draw_path_collection(self, *args: Any, **how: Any) -> None:
        self.svg.draw_path_collection(*args, **how)
        self.pdf.draw_path_collection(*args, **how)

    def draw_text(self, gc: Any, x: float, y: float, *args: Any, **how: Any) -> None:
        self.svg.draw_text(gc, x, self.svg.height - y, *args, **how)
        self.pdf.draw_text(gc, x, y, *args, **how)

    def finalize(self) -> None:
        self.svg.finalize()
        self.pdf.finalize()


class _Pdf(RendererPdf):
    """Writes of a text what was written of it before, in this figure or in another: to lay its letters out takes
    longest. A font holds only letters that were laid out for its file, so that of each file is asked whether it has
    them all. A text that needs a second font, which has another name in each file, is laid out anew."""

    known: ClassVar[dict[tuple[str, int], bytes]] = {}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.letters: set[str] = set()  # of the first font

    def draw_text(self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, *args: Any, **how: Any) -> None:
        key, turn = (s, hash(prop)), math.radians(angle)
        self.check_gc(gc, gc._rgb)
        if key in self.known and self.letters.issuperset(s):
            operators = self.known[key]
        else:
            operators = self._operators(gc, s, prop, *args, **how)
            if not operators:  # this release writes texts in another way
                super().draw_text(gc, x, y, s, prop, angle, *args, **how)
                return
            if set(FONT.findall(operators)) == {b"F1"}:
                self.known[key] = operators
                self.letters.update(s)
        self.file.output(Op.gsave)
        self.file.output(math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn), x, y, Op.concat_matrix)
        self.file.write(operators)

    def _operators(self, gc: Any, s: str, prop: Any, *args: Any, **how: Any) -> bytes:
        """Return what follows on the place of a text, as matplotlib writes it."""
        page, kept = self.file.currentstream, io.BytesIO()
        self.file.currentstream = kept
        try:
            super().draw_text(gc, 0, 0, s, prop, 0, *args, **how)
        finally:
            self.file.currentstream = page
        return kept.getvalue().partition(b" cm\n")[2]


def _tidied(svg: str, name: str, sheet: Sheet) -> str:
    """matplotlib's SVG with ids of its own, titles, no ground, and what all of it has in common said once."""
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.S)  # it would style a whole page
    svg = re.sub(r"<[^>]+>", lambda tag: _tidied_tag(tag[0], name), svg)  # and no text
    svg = re.sub(r"[ \t]+$|^[ \t]+(?=<)", "", svg, flags=re.M)
    svg = re.sub(r' d="([^"]*)"', lambda path: f' d="{" ".join(path[1].split())}"', svg)
    for gid, title in sheet.titles.items():
        svg = svg.replace(f'<g id="{name}-{gid}">', f"<g><title>{html.escape(title, quote=False)}</title>")
    needed = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in needed else "", svg)
    svg = re.sub(r"<g>\s*(<text[^>]*>[^<]*</text>)\s*</g>", r"\1", svg)
    head = f'<svg style="font-family: {BROWSER_FONTS}" stroke-linejoin="round" stroke-linecap="butt"'
    svg = svg.replace("<svg", head, 1)
    end = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:end]}\n <title>{html.escape(sheet.title, quote=False)}</title>{svg[end:]}"


def _tidied_tag(tag: str, name: str) -> str:
    return ODD.sub(lambda odd: f"{odd[1]}{name}-" if odd[1] else odd[2] or "", tag)
