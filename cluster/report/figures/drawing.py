"""A study -> its figures, each as SVG and PDF, to be printed at 3.4 or 7 inches of width.

A figure whose data is not there is left out. What is drawn is a function of the results and the runs' files: the same
ledger gives the same bytes. The baseline is drawn in ink, others in Okabe and Ito's colours, and no figure needs
them: lines and markers differ as well. Only `report` imports this room, and with it matplotlib; never pyplot."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import matplotlib

from cluster.files.folders import OutputRoot
from cluster.report.figures.costs import costs
from cluster.report.figures.depths import depths
from cluster.report.figures.forest import forest
from cluster.report.figures.heat_maps import heat_maps
from cluster.report.figures.learned_functions import learned_functions
from cluster.report.figures.learning_curves import learning_curves
from cluster.report.figures.printing import Figure, print_sheet
from cluster.report.figures.sheets import INK, RC, Sheet, make_font
from cluster.report.figures.timeline import timeline
from cluster.report.figures.trajectories import trajectories_of
from cluster.report.figures.weight_sharing import sharing
from cluster.report.results import Study

Kind = Callable[[Study, OutputRoot], Iterable[Sheet]]
KINDS: Sequence[Kind] = (
    lambda study, _: forest(study), learning_curves, lambda study, _: trajectories_of(study),
    lambda study, _: costs(study), lambda study, _: heat_maps(study), lambda study, _: sharing(study),
    learned_functions, depths, lambda study, _: timeline(study),
)  # fmt: skip


def tasks(studies: Sequence[Study], output_root: OutputRoot) -> list[Callable[[], list[Figure]]]:
    """Return what `draw` does in parts, a kind of each study after the other: half of a report's time is theirs, which
    other processes may take."""
    make_font()  # which those then have
    return [partial(draw, study, output_root, [kind]) for study in studies for kind in KINDS]


def draw(study: Study, output_root: OutputRoot, kinds: Sequence[Kind] = KINDS) -> list[Figure]:
    """Every figure that there is data for."""
    gc.disable()  # to look for cycles of objects again and again takes a quarter of the time
    try:
        return _printed(study, output_root, kinds)
    finally:
        gc.collect(0)  # what was made since; all others have been looked through, and are many
        gc.enable()


def _printed(study: Study, output_root: OutputRoot, kinds: Sequence[Kind]) -> list[Figure]:
    """The sheets are nobody's any more when it returns."""
    sheets = sheets_of(study, output_root, kinds)
    with matplotlib.rc_context(RC):
        return [print_sheet(sheet, study) for sheet in sheets]


def sheets_of(study: Study, output_root: OutputRoot, kinds: Sequence[Kind] = KINDS) -> list[Sheet]:
    """The same before they are printed."""
    make_font()
    with matplotlib.rc_context(RC):
        sheets = [sheet for kind in kinds for sheet in kind(study, output_root)]
        notes = study.caveats()
        for sheet in sheets:
            note(sheet, notes)
    return sheets


def note(sheet: Sheet, notes: Mapping[str, str]) -> None:
    """Write into the picture and below it what has to stand behind a title that it has."""
    written = [*sheet.written()] if notes else []
    told = [note for title, note in notes.items() if any(title in each for each in written)]
    if told:
        sheet.note(", ".join(told))
        sheet.caption += "".join(f" {each}." for each in told)


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
