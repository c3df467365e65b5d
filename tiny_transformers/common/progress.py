"""Long work says how far it is; quick work says nothing.

It says so on standard error, since standard output may be a program's: on a terminal in one line that is written over
and gone at the end, elsewhere (a log, a pipe) in a line now and then. No torch."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
CLEAR = "\r\x1b[2K"  # to the beginning of the line, which is emptied


@dataclass(frozen=True)
class Pace:
    first: float  # seconds that work may take without a word
    then: float  # seconds from one word to the next


TERMINAL, ELSEWHERE = Pace(1.5, 0.2), Pace(15, 60)


@contextmanager
def shown(what: str, at: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Say `what` goes on for as long as the block does, and how far it is by `at`, which another thread asks."""
    over = threading.Event()
    speaker = threading.Thread(target=_speak, args=(what, at, over, time.monotonic()), daemon=True)
    speaker.start()
    try:
        yield
    finally:
        over.set()
        speaker.join()


def counted(items: Iterable[T], what: str) -> Iterator[T]:
    """The same items; says how many were taken, and of how many, if that is known."""
    taken = 0
    total = f" of {len(items):,}" if isinstance(items, Sized) else ""
    with shown(what, lambda: f"{taken:,}{total}"):
        for item in items:
            yield item
            taken += 1


def _speak(what: str, at: Callable[[], str], over: threading.Event, started: float) -> None:
    stream = sys.stderr
    on_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
    pace = TERMINAL if on_terminal else ELSEWHERE
    said, wait = False, pace.first
    while not over.wait(wait):
        said, wait = True, pace.then
        told = ", ".join(filter(None, (what, at(), f"{time.monotonic() - started:.0f} s")))
        line = "".join(each for each in told if each.isprintable())  # names of files are anybody's
        stream.write(f"{CLEAR}{line}" if on_terminal else f"{line}\n")
        stream.flush()
    if said and on_terminal:
        stream.write(CLEAR)
        stream.flush()
