"""One drawing -> both files of a figure, held against matplotlib's own of each."""

import io
import re
import zlib

import matplotlib
import numpy as np
import pytest
from matplotlib.backends import backend_pdf, backend_svg

from cluster.report.figures import printing, sheets
from cluster.report.results import Study

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


@pytest.fixture
def sheet():
    """One with all that figures draw: lines, markers, gaps, bands, texts of several lines, slanted ones, cells."""
    sheets.make_font()
    with matplotlib.rc_context(sheets.RC):
        drawn = sheets.Sheet("all", "Everything", sheets.WIDE, 3.0)
        axes = drawn.axes(0.5, 0.3, 3.0, 2.2)
        axes.plot(*sheets.as_one([([0, 1], [0, 1]), ([0, 1], [1, 0])]), "o-", ms=3, label="two\nlines")
        axes.fill_between([0, 1], [0, 0.2], [0.5, 1], alpha=0.2, lw=0)
        axes.set_xticks([0, 1], ["from here", "to there"], rotation=55, ha="left", rotation_mode="anchor")
        axes.set_title("Ä − ±")
        axes.grid(True)
        axes.legend()
        cells = drawn.axes(4.0, 0.3, 2.5, 2.2)
        cells.pcolormesh(np.arange(3), np.arange(3), np.full((2, 2, 4), 0.5))
        cells.text(0.5, 0.5, "57.8", ha="center", va="center_baseline")
        cells.text(0.5, 0.2, "57.8", ha="center", rotation=30)
        drawn.tell(cells.axvspan(0, 1, alpha=0.3), "a patch")
        yield drawn


def test_the_svg_is_matplotlibs_own(sheet):
    figure = printing.print_sheet(sheet, Study("a study", "", ()))
    own = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": figure.name}):
        backend_svg.FigureCanvasSVG(sheet.drawing).print_svg(own, metadata=printing.ABOUT_SVG)
    assert figure.svg == printing._tidied(own.getvalue(), figure.name, sheet)
    assert "<title>a patch</title>" in figure.svg


def test_the_pdf_is_matplotlibs_own_but_for_a_64th_of_a_point(sheet):
    figure = printing.print_sheet(sheet, Study("a study", "", ()))
    own = io.BytesIO()
    backend_pdf.FigureCanvasPdf(sheet.drawing).print_pdf(own, metadata=printing.ABOUT_PDF)
    ours, theirs = drawn(figure.pdf), drawn(own.getvalue())
    assert NUMBER.sub(b"", ours) == NUMBER.sub(b"", theirs)
    numbers = [np.array([float(each) for each in NUMBER.findall(page)]) for page in (ours, theirs)]
    assert np.abs(numbers[0] - numbers[1]).max() <= 1 / 64


def test_a_text_is_the_same_whatever_figures_were_printed_before(monkeypatch):
    def printed(*texts):
        with matplotlib.rc_context(sheets.RC):
            of = sheets.Sheet("texts", "Texts", sheets.NARROW, 1.0)
            for number, text in enumerate(texts):
                of.text(0.1, 0.2 * (number + 1), text)
            return printing.print_sheet(of, Study("a study", "", ())).pdf

    sheets.make_font()
    texts = "ж", "ab ж", "ba", "ab", "−1.3"  # what the figures' own font has not is set in another
    figures = texts, texts[::-1], ("ab",), ("b", "a", "ab")
    found = []
    for order in (figures, figures[::-1], *((each,) for each in figures)):
        monkeypatch.setattr(printing._Pdf, "known", {})
        found += [(each, printed(*each)) for each in order]
    assert len(set(found)) == len(figures)


def drawn(pdf):
    """What the page of a PDF draws, as PDF's operators."""
    streams = re.findall(rb"stream\n(.*?)\nendstream", pdf, re.S)
    (page,) = [text for each in streams if b"\nBT\n" in (text := zlib.decompress(each))]
    return page


def test_many_lines_as_one_have_gaps_between_them():
    x, y = sheets.as_one([([1, 2], [3, 4]), ([5], [6])])
    assert [str(each) for each in x] == ["1.0", "2.0", "nan", "5.0", "nan"]
    assert [str(each) for each in y] == ["3.0", "4.0", "nan", "6.0", "nan"]
    assert [len(each) for each in sheets.as_one([])] == [0, 0]


def test_a_note_leaves_a_patch_as_large_and_as_far_from_the_end_of_the_sheet():
    with matplotlib.rc_context(sheets.RC):
        noted = sheets.Sheet("noted", "Noted", sheets.NARROW, 2.0)
        noted.patch(0.5, 1.0, 0.2, 0.1, color="red")
        noted.note("selected on these rows")
    (patch,) = noted.drawing.artists
    assert noted.height > 2
    assert (patch.get_y() * noted.height, patch.get_height() * noted.height) == pytest.approx((0.9, 0.1))


def test_where_a_release_writes_texts_in_another_way_they_are_as_it_writes_them(monkeypatch):
    def printed():
        with matplotlib.rc_context(sheets.RC):
            of = sheets.Sheet("texts", "Texts", sheets.NARROW, 1.0)
            of.text(0.1, 0.2, "ab", rotation=30)
            return printing.print_sheet(of, Study("a study", "", ())).pdf

    sheets.make_font()
    monkeypatch.setattr(printing._Pdf, "known", {})
    monkeypatch.setattr(printing._Pdf, "_operators", lambda *_, **__: b"")
    found = printed()
    monkeypatch.setattr(printing, "_Pdf", backend_pdf.RendererPdf)
    assert found == printed()
