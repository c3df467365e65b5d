"""Where the commands print, and how they ask."""

from __future__ import annotations

import re
import sys

import typer
from rich.console import Console

from cluster.errors import InputError

# What a terminal obeys and does not show: titles, colours and cursor moves, other control characters.
CONTROL = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
PLAIN = {"highlight": False, "markup": False, "emoji": False}  # a folder may be called [red]
console = Console(**PLAIN, width=None if sys.stdout.isatty() else 160)  # a pipe has no width of its own
stderr = Console(**PLAIN, stderr=True, soft_wrap=True)


def ask(question: str, yes: bool) -> None:
    """Raises InputError if there is nobody to ask, typer.Abort for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is nobody to ask: say --yes.")
    typer.confirm(question, abort=True)


def clean(text: str) -> str:
    """Return a text of others without the characters that a terminal obeys."""
    return CONTROL.sub("", text)


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
