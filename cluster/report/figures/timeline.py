"""Draw how a study went: when each pack waited, worked and failed, and the hours that were used and lost over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from cluster.console import count
from cluster.console import hours as told_hours
from cluster.ledger.rows import TryRow
from cluster.report.figures.sheets import GREY, INK, WIDE, Sheet, text_width
from cluster.report.figures.styles import OKABE_ITO
from cluster.report.history import Failed, History, PackHistory, Span, history, hours_at
from cluster.report.results import Study

ROW, LEAST_ROW, TALLEST = 0.16, 0.1, 5.0  # inches: of a pack; of one with letters; of all packs
MOST = 600  # packs: of more the newest, since a row must be as high as a printed point can be seen
LETTER = 0.11  # inches, of one and what parts it from the next
CUT = 0.02  # of the axis, where nothing happened
HOURS_HEIGHT = 1.3  # inches
SHORT = 600  # seconds of a stretch whose times are told with their seconds
MOMENTS = 120  # at which hours are summed
WORKED, LOST, STOPPED = OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[5]
NOT_ITS_FAULT = ("cancelled", "preempted", "node_fail")
LETTERS = {
    "error": "E", "timeout": "T", "out_of_memory": "M", "node_fail": "N", "preempted": "P", "cancelled": "C",
    "check_failed": "K", "lost": "L", "vanished": "V", "launch_failed": "F", "no_gpu": "G",
}  # fmt: skip


def timeline(study: Study) -> Iterator[Sheet]:
    tries = [each for run in study.runs for each in run.tries]
    found = history(tries)
    if not found.busy:
        return
    shown = History(found.packs[-MOST:], found.untimed, found.zone)
    axis = TimeAxis(shown)
    row = min(ROW, TALLEST / len(shown.packs))
    named = row >= LEAST_ROW
    left = max(0.55, 0.2 + max((text_width(pack.job) for pack in shown.packs), default=0) if named else 0)
    height = row * len(shown.packs)
    sheet = Sheet("queue", "When packs waited, worked and failed", WIDE, height + HOURS_HEIGHT + 1.35)
    causes = sorted({failed.cause for pack in shown.packs for failed in pack.failed}, key=[*LETTERS].index)
    _key(sheet, left, causes, named)
    axes = sheet.axes(left, 0.4, WIDE - left - 0.2, height)
    _packs(axes, shown, axis, named)
    below = sheet.axes(left, 0.4 + height + 0.45, WIDE - left - 0.2, HOURS_HEIGHT)
    caption = _hours(below, tries, axis)
    for each in (axes, below):
        axis.set(each)
    sheet.caption = " ".join([
        "Each row is a pack, the oldest at the top: grey while it waited, from when it was submitted, and blue while",
        "it worked on runs of this study;",
        "the lower half shows attempts that failed, with a letter for the cause." if named else
        "in other colours attempts that failed.",
        caption,
        *([f"Of {len(found.packs):,} packs the newest {MOST:,} are shown."] if len(found.packs) > MOST else []),
        *(["Where nothing waited or worked for long, at the dotted lines, time is cut out."] if axis.is_cut else []),
        *([f"Left out: {count(found.untimed, 'attempt')} whose times are not known."] if found.untimed else []),
    ])  # fmt: skip
    yield sheet


class TimeAxis:
    """Seconds since 1970 -> places from 0 to 1, without the stretches in which nothing happened."""

    def __init__(self, of: History) -> None:
        self.busy, self.zone = of.busy, of.zone
        length = sum(end - start for start, end in self.busy) or 1.0
        cut = CUT * length
        self.times = np.array([moment for span in self.busy for moment in span])
        steps = [step for start, end in self.busy for step in (end - start, cut)][:-1]
        self.places = np.concatenate([[0.0], np.cumsum(steps)]) / (sum(steps) or 1.0)

    @property
    def is_cut(self) -> bool:
        return len(self.busy) > 1

    def place(self, time: Any) -> Any:
        return np.interp(time, self.times, self.places)

    def set(self, axes: Axes) -> None:
        axes.set_xlim(-0.005, 1.005)
        for after, before in zip(self.places[1:-1:2], self.places[2:-1:2], strict=True):
            axes.axvline((after + before) / 2, color=GREY, lw=0.7, ls=(0, (1, 2)))
        width = axes.get_position().width * WIDE
        places, labels = [], []
        last = -1.0
        for time, label in self._ticks():
            place, room = float(self.place(time)), text_width(label) / width
            if place - room / 2 > last:
                places.append(place)
                labels.append(label)
                last = place + room / 2 + 0.02
        axes.set_xticks(places, labels)
        axes.tick_params(axis="x", length=2.5)

    def _ticks(self) -> Iterator[tuple[float, str]]:
        """Of each stretch its start and, where it is long enough, times in between."""
        for start, end in self.busy:
            clock = "%-d %b\n%H:%M:%S" if end - start < SHORT else "%-d %b\n%H:%M"
            yield start, f"{self._local(start):{clock}}"
            first, last = self._local(start), self._local(end)
            locator = dates.AutoDateLocator(minticks=3, maxticks=7, tz=self.zone)
            for number in locator.tick_values(first, last) if end > start else ():
                moment = dates.num2date(number, self.zone)
                if start < moment.timestamp() <= end:
                    of_day = moment.hour or moment.minute or last - first < timedelta(days=2)
                    yield moment.timestamp(), f"{moment:{clock}}" if of_day else f"{moment:%-d %b}"

    def _local(self, time: float) -> datetime:
        return datetime.fromtimestamp(time, self.zone)


def _packs(axes: Axes, shown: History, axis: TimeAxis, named: bool) -> None:
    rows = list(enumerate(shown.packs))
    _bars(axes, [(span, row + 0.3, row + 0.7) for row, pack in rows for span in pack.waited], axis, GREY, 0.45)
    _bars(axes, [(span, row + 0.08, row + 0.92) for row, pack in rows for span in pack.worked], axis, WORKED)
    lost = [(failed, row) for row, pack in rows for failed in pack.failed]
    top = 0.5 if named else 0.08  # half of a printed point would not be seen
    for colour, fault in ((LOST, True), (STOPPED, False)):
        spans = [(failed.span, row + top, row + 0.92) for failed, row in lost if fault is _at_fault(failed)]
        _bars(axes, spans, axis, colour)
    for row, pack in rows if named else ():
        _letters(axes, row, pack, axis)
    axes.set_ylim(len(rows), 0)
    axes.set_yticks([row + 0.5 for row, _ in rows] if named else [], [pack.job for _, pack in rows] if named else [])
    axes.set_ylabel("" if named else count(len(rows), "pack"))
    axes.tick_params(axis="y", length=0)


def _letters(axes: Axes, row: int, pack: PackHistory, axis: TimeAxis) -> None:
    """Write the cause of each failure after it; after the letter before, if that stands in its place."""
    wide, free, before = LETTER / (axes.get_position().width * WIDE), 0.0, ""
    for end, cause in sorted({(failed.span[1], failed.cause) for failed in pack.failed}):
        place = float(axis.place(end)) + 0.006
        if place < free and cause == before:  # which says it already
            continue
        goes_on = any(start <= end + 1 < stop for start, stop in pack.worked)
        axes.text(max(place, free), row + 0.52, LETTERS[cause], va="center_baseline",
                  color="#ffffff" if goes_on else INK)  # fmt: skip
        free, before = max(place, free) + wide, cause


def _at_fault(failed: Failed) -> bool:
    return failed.cause not in NOT_ITS_FAULT


def _bars(axes: Axes, bars: Sequence[tuple[Span, float, float]], axis: TimeAxis, colour: str, alpha: float = 1) -> None:
    """All in one path: hundreds of packs are a few kilobytes. Each can be seen, however short it was."""
    if not bars:
        return
    shapes = []
    for (start, end), top, bottom in bars:
        left, right = float(axis.place(start)), float(axis.place(end))
        right = max(right, left + 0.002)
        shapes.append(Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True))
    axes.add_patch(PathPatch(Path.make_compound_path(*shapes), facecolor=colour, lw=0, alpha=alpha))


def _hours(axes: Axes, tries: Sequence[TryRow], axis: TimeAxis) -> str:
    """Draw what was taken by attempts that completed, that run and that failed, one on the other; say it, too."""
    on_gpu = any(each["on_gpu"] for each in tries)
    unit = "GPU-hours" if on_gpu else "CPU-hours"
    counted = [each for each in tries if bool(each["on_gpu"]) == on_gpu]
    times = np.unique(np.concatenate([np.linspace(start, end, max(2, MOMENTS // len(axis.busy)))
                                      for start, end in axis.busy]))  # fmt: skip
    base, told = np.zeros(len(times)), []
    for status, word, colour in (("completed", "for results", WORKED), ("running", "by what still runs", GREY),
                                 ("failed", "lost to failures", LOST)):  # fmt: skip
        hours = hours_at(times, [each for each in counted if each["status"] == status])
        if hours[-1] > 0:
            axes.fill_between(axis.place(times), base, base + hours, color=colour, lw=0)
            told.append(f"{told_hours(hours[-1])} {word}")
            base = base + hours
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.grid(True, axis="y")
    others = len(tries) - len(counted)
    aside = f" {count(others, 'attempt')} without a GPU {'is' if others == 1 else 'are'} not in it." if others else ""
    return f"Below, {unit} up to each time: {', '.join(told) or 'none yet'}.{aside}"


def _key(sheet: Sheet, left: float, causes: Sequence[str], named: bool) -> None:
    """A patch and a word for each colour, and the causes that there are, in lines as wide as the sheet."""
    ours = [cause for cause in causes if cause not in NOT_ITS_FAULT]
    others = [cause for cause in causes if cause in NOT_ITS_FAULT]
    entries = [(GREY, 0.45, "waited"), (WORKED, 1, "worked"),
               *([(LOST, 1, _told(ours, named))] if ours else []),
               *([(STOPPED, 1, _told(others, named))] if others else [])]  # fmt: skip
    for colour, alpha, words in entries:
        sheet.patch(left, 0.14, 0.16, 0.1, color=colour, alpha=alpha)
        sheet.text(left + 0.21, 0.19, words, va="center", color=INK)
        left += 0.21 + text_width(words) + 0.2


def _told(causes: Sequence[str], named: bool) -> str:
    words = (f"{LETTERS[cause]} {cause.replace('_', ' ')}" if named else cause.replace("_", " ") for cause in causes)
    return ", ".join(words)
