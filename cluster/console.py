"""Where the commands print, and how they ask."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cluster.errors import InputError

# What a terminal obeys and does not show: titles, colours and cursor moves, other control characters, those that turn
# the direction of a line, too; and halves of characters (names of files that are no UTF-8), which nobody can print.
CONTROL = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b.|"
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
BEGINS = re.compile(CONTROL.pattern.rpartition("|")[2])  # each of them begins with one of these, found much sooner
PLAIN = {"highlight": False, "markup": False, "emoji": False}  # a folder may be called [red]


class CleanConsole(Console):
    """A console that shows no control characters but its own: names, messages and paths may come from anybody's
    files."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            own = segment.control or segment.text.isprintable()
            yield segment if own else Segment(clean(segment.text), segment.style)


console = CleanConsole(**PLAIN, width=None if sys.stdout.isatty() else 160)  # a pipe has no width of its own
stderr = CleanConsole(**PLAIN, stderr=True, soft_wrap=True)


def ask(question: str, yes: bool) -> None:
    """Raises InputError if there is nobody to ask, typer.Abort for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is nobody to ask: say --yes.")
    typer.confirm(clean(question), abort=True)


def clean(text: str) -> str:
    """Return a text of others without the characters that a terminal obeys."""
    return CONTROL.sub("", text) if BEGINS.search(text) else text


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most:,} more" if len(ordered) > most else ""
    return f"{', '.join(ordered[:most])}{more}"


def count(number: int, what: str, does: str = "", do: str = "") -> str:
    """Return so many things, with what one or several of them do."""
    things, verb = (what, does) if number == 1 else (f"{what}s", do)
    return f"{number:,} {things} {verb}".rstrip()


def hours(value: float) -> str:
    """Return hours with one digit, or with as many as a few minutes need; what takes time is never 0."""
    return f"{value:,.1f}" if value >= 1 or not value else f"{max(value, 0.01):.2f}"


def duration(seconds: float) -> str:
    """A time as a person says it; where times are compared, in a table or a figure, they are hours."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 2880 else f"{minutes / 1440:.1f} days"
