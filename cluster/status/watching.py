"""`status --watch`: the status, kept up to date in place, with keys; where there is no terminal a line per change, and
one a minute.

A thread of its own reads: the files every few seconds, SLURM once a minute at most, so that the screen answers while
SLURM does not. The terminal is given back as it was, however this ends."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from cluster.console import clean, stderr
from cluster.errors import TinyError
from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.files.statuses import StageStatus
from cluster.reconcile import session
from cluster.slurm.queries import Slurm
from cluster.status import reading, showing
from cluster.status.facts import Status
from cluster.status.showing import Line, LineEntry, Show

FILES = 3.0  # seconds between two looks at the files
SIGN = 60.0  # seconds after which a line comes though nothing has changed
ASKING = 60.0  # seconds between two questions to SLURM
PATIENCE = 1.0  # seconds that an answer may take at the end before it is said that it is waited for
SHOWS: tuple[Show, ...] = ("all", "running", "failed")
HELP = "q quit  f filter  s study  up/down choose  enter log  c cancel"
LOG_HELP = "q back  up/down scroll"
KEYS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1b[5~": "page up",
        b"\x1b[6~": "page down", b"\x1b[H": "home", b"\x1b[F": "end", b"\x1bOH": "home", b"\x1bOF": "end",
        b"\x1b[1~": "home", b"\x1b[4~": "end", b"\x1b[7~": "home", b"\x1b[8~": "end", b"k": "up",
        b"j": "down", b"\r": "enter", b"\n": "enter", b"l": "enter",
        b"\x1b": "q", b" ": "page down", b"g": "home", b"G": "end"}  # fmt: skip
SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|O[ -~]|[^[O])")  # what a terminal sends for a key that is no letter
ESCAPED = 0.05  # seconds in which the rest of a sequence comes, or else it was Escape itself

Cancel = Callable[[LineEntry], int]  # how many of its packs were; raises TinyError


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """The findings of one look."""

    status: Status
    counts: dict[StageStatus, int]
    open: bool  # whether something may still happen
    warning: str | None = None  # why it may be out of date
    tables: Sequence[Table] = ()  # of the runs, if they are asked for


class Reader:
    """Looks, as often as it may. `look` is of one thread at a time."""

    def __init__(self, output_root: OutputRoot, per_run: bool = False) -> None:
        self.root, self.per_run = output_root, per_run
        self.study: str | None = None  # only this one
        self.studies: list[str] = []
        self._asked = -ASKING

    def look(self, may_ask: bool = True) -> Snapshot:
        now = time.monotonic()
        ask = may_ask and now - self._asked >= ASKING
        if ask:
            self._asked = now
        with session.reading(self.root, Slurm() if ask else None) as (view, warning):
            self.studies = list(view.ledger.study_sizes())
            found = reading.read(view, self.root, self.study)
            tables = showing.run_tables(view, found) if self.per_run else ()
            return Snapshot(found, reading.counts(view.ledger), bool(view.ledger.open_submissions()), warning, tables)


class LookingThread(threading.Thread):
    """Looks again and again, and wakes whoever waits at `wake` when something is there."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader
        self.seen: Snapshot | None = None
        self.problem: BaseException | None = None
        self.wake, self._said = os.pipe()
        self._again, self._stopped = threading.Event(), threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.seen = self.reader.look()
            except BaseException as error:  # noqa: BLE001 - the other thread raises it
                self.problem = error
            os.write(self._said, b".")
            if self.problem:
                return
            self._again.wait(FILES)
            self._again.clear()

    def at_once(self) -> None:
        self._again.set()

    def stop(self) -> None:
        """It holds the ledger's lock while it looks, so it is waited for."""
        self._stopped.set()
        self._again.set()
        self.join(PATIENCE)
        if self.is_alive():
            stderr.print("Waiting for SLURM's answer to the last question ...")
            self.join()
        os.close(self.wake)
        os.close(self._said)


# -- watching ---------------------------------------------------------------------------------------------------------


def until_done(
    console: Console, output_root: OutputRoot, cancel: Cancel, *, failed_only: bool = False, per_run: bool = False
) -> bool:
    """Show the status until nothing is open; False if the person left before."""
    reader = Reader(output_root, per_run and not failed_only)
    show: Show = "failed" if failed_only else "all"
    done = True
    if console.is_terminal and not console.is_dumb_terminal and sys.stdin.isatty():
        seen = reader.look(may_ask=False)  # SLURM may take its time, and the screen need not wait for it
        if seen.open:
            seen, done = Screen(console, reader, cancel, show).run(seen)
    else:
        seen = _lines_until_done(console, reader)
    for table in seen.tables:
        console.print(table)
    console.print(showing.StatusLines(seen.status, output_root, show, everything=failed_only))
    return done


def _lines_until_done(console: Console, reader: Reader) -> Snapshot:
    """A line per change, of the figures or of whether they are up to date, and a line a minute, which says how far it
    is: whoever reads it sees that it goes on."""
    last, said = None, 0.0
    while True:
        seen = reader.look()
        line = ", ".join(f"{number} {name}" for name, number in seen.counts.items() if number)
        now = line, seen.status.slurm, bool(seen.warning)
        if last != now or time.monotonic() - said >= SIGN:
            told = filter(None, (line, *showing.how_far(seen.status), seen.warning, showing.as_of(seen.status)))
            console.print(Text(f"{session.now()} {'; '.join(told)}"), soft_wrap=True)
            said = time.monotonic()
        last = now
        if not seen.open:
            return seen
        time.sleep(FILES)


class Screen:
    """The whole terminal: the status above, what the keys do in its last line."""

    def __init__(self, console: Console, reader: Reader, cancel: Cancel, show: Show = "all") -> None:
        self.console, self.reader, self.cancel, self.show = console, reader, cancel, show
        self.chosen = 0  # of the entries
        self.top = 0  # first line that is shown
        self.log: tuple[str, str, int] | None = None  # the one that is open
        self.from_end = 0  # lines that the log is scrolled up
        self.question: LineEntry | None = None  # of a cancellation that is to be confirmed
        self.said = ""
        self.seen: Snapshot | None = None
        self._laid_out: tuple[Snapshot | None, int, list[Line]] = None, 0, []

    def run(self, seen: Snapshot) -> tuple[Snapshot, bool]:
        """Return what was seen last, and whether all had ended."""
        self.seen = seen
        looking = LookingThread(self.reader)
        try:
            with _keys() as resized, Live(console=self.console, screen=True, auto_refresh=False) as live:
                looking.start()
                done = self._loop(live, looking, resized)
        finally:
            if looking.is_alive():
                looking.stop()
        return self.seen, done

    def _loop(self, live: Live, looking: LookingThread, resized: int) -> bool:
        while True:
            live.update(self._picture(), refresh=True)
            ready, _, _ = select.select([sys.stdin, looking.wake, resized], [], [])
            if resized in ready:
                os.read(resized, 1024)
            if looking.wake in ready:
                os.read(looking.wake, 1024)
                if looking.problem:
                    raise looking.problem
                assert looking.seen
                self._take(looking.seen)
                if not looking.seen.open:
                    return True
            if sys.stdin in ready:
                for key in _pressed():
                    if not self._press(key, looking):
                        return False

    def _take(self, seen: Snapshot) -> None:
        """Take a new snapshot; what was chosen stays chosen, wherever it stands now."""
        before = self._entry()
        self.seen = seen
        entries = _entries(self._lines())
        if before in entries:
            self.chosen = entries.index(before)

    # keys

    def _press(self, key: str, looking: LookingThread) -> bool:
        """False: leave."""
        self.said = ""
        if self.question:
            self._answer(key, looking)
        elif self.log:
            self._press_in_log(key)
        elif key == "q":
            return False
        elif key == "f":
            self.show = SHOWS[(SHOWS.index(self.show) + 1) % len(SHOWS)]
            self.chosen = self.top = 0
        elif key == "s":
            self._next_study()
            looking.at_once()
        elif key in ("up", "down", "page up", "page down", "home", "end"):
            self._move(key)
        elif key == "enter" and (entry := self._entry()):
            self.log, self.from_end = entry.log, 0
            self.said = "" if entry.log else "there is no log of this yet"
        elif key == "c" and (entry := self._entry()):
            self.question = entry if entry.packs else None
            self.said = "" if entry.packs else "there is nothing to cancel here"
        return True

    def _answer(self, key: str, looking: LookingThread) -> None:
        entry, self.question = self.question, None
        if key not in ("y", "Y") or entry is None:
            self.said = "not cancelled"
            return
        try:
            self.said = _cancelled(entry, self.cancel(entry))
        except TinyError as error:
            self.said = str(error)
        looking.at_once()

    def _press_in_log(self, key: str) -> None:
        page = max(1, self.console.height - 3)
        moves = {"up": 1, "down": -1, "page up": page, "page down": -page, "home": 10**9, "end": -(10**9)}
        if key == "q":
            self.log = None
        self.from_end = max(0, self.from_end + moves.get(key, 0))

    def _next_study(self) -> None:
        assert self.seen
        studies = [None, *self.reader.studies]
        self.reader.study = studies[(studies.index(self.reader.study) + 1) % len(studies)]
        self.chosen = self.top = 0
        self.said = f"study {self.reader.study}" if self.reader.study else "all studies"

    def _move(self, key: str) -> None:
        number, page = len(_entries(self._lines())), max(1, self.console.height - 3)
        moves = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -number, "end": number}
        self.chosen = max(0, min(number - 1, self.chosen + moves[key]))
        if not number:
            self.top = max(0, self.top + moves[key])

    # what is drawn

    def _lines(self) -> list[Line]:
        assert self.seen
        width = self.console.width
        warning = Text(self.seen.warning or "", style="yellow").wrap(self.console, width) if self.seen.warning else ()
        shown = showing.lines(self.seen.status, self.reader.root, self.console, width, self.show)
        return [*map(Line, warning), *shown, *(self._table_lines(width) if self.show == "all" else ())]

    def _table_lines(self, width: int) -> list[Line]:
        """Laid out once for each look and width. Each can be chosen, so that all can be reached."""
        assert self.seen
        if self._laid_out[:2] != (self.seen, width):
            options = self.console.options.update(width=width)
            rows = [
                Text.assemble(*((part.text, part.style or "") for part in row))
                for table in self.seen.tables
                for row in self.console.render_lines(table, options, pad=False)
            ]
            lines = [Line(row, LineEntry(row.plain) if row.plain.strip() else None) for row in rows]
            self._laid_out = self.seen, width, lines
        return self._laid_out[2]

    def _entry(self) -> LineEntry | None:
        entries = _entries(self._lines())
        return entries[min(self.chosen, len(entries) - 1)] if entries else None

    def _picture(self) -> Segments:
        width, height = self.console.size
        room = max(1, height - 1)
        body = self._log_lines(width, room) if self.log else self._status_lines(room)
        segments: list[Segment] = []
        for text in [*body, *[Text()] * (room - len(body)), self._foot(width)]:
            row = self.console.render_lines(
                text, self.console.options.update(width=width, no_wrap=True), new_lines=False
            )
            segments += [*row[0], Segment.line()]
        return Segments(segments[:-1])

    def _status_lines(self, room: int) -> list[Text]:
        shown = self._lines()
        entries = _entries(shown)
        self.chosen = max(0, min(self.chosen, len(entries) - 1))
        chosen = entries[self.chosen] if entries else None
        places = [number for number, line in enumerate(shown) if chosen and line.entry == chosen]
        if places:  # kept on the screen
            first = 0 if self.chosen == 0 else places[0]
            self.top = min(self.top, first) if places[-1] < self.top + room else places[-1] - room + 1
        if self.chosen == len(entries) - 1 and self.chosen > 0:
            self.top = max(self.top, len(shown) - room)
        self.top = max(0, min(self.top, len(shown) - room))
        texts = []
        for line in shown[self.top : self.top + room]:
            text = line.text.copy()
            if chosen and line.entry == chosen:
                text.stylize("reverse")
            texts.append(text)
        return texts

    def _log_lines(self, width: int, room: int) -> list[Text]:
        """The end of the open log, as it grows."""
        assert self.log
        run_id, stage, number = self.log
        path = self.reader.root.run(run_id).attempt(stage, number).log
        told = whole_files.tail(path, 10_000) or ["its log is empty"]
        physical = [part for text in told for part in Text(_printable(text)).wrap(self.console, width, overflow="fold")]
        self.from_end = min(self.from_end, max(0, len(physical) - room + 1))
        end = len(physical) - self.from_end
        return [Text(str(path), style="bold"), *physical[max(0, end - room + 1) : end]]

    def _foot(self, width: int) -> Text:
        if self.question:
            text = _question(self.question, width, "..." if showing.is_plain(self.console) else "…")
        elif self.log:
            text = LOG_HELP
        else:
            text = self.said or HELP
            if self.show != "all":
                text = f"[{self.show}] {text}"
            if self.reader.study:
                text = f"[{self.reader.study}] {text}"
        return Text(text[:width].ljust(width), style="reverse")


def _entries(lines: Sequence[Line]) -> list[LineEntry]:
    """Return the entries that can be chosen, in order."""
    return list(dict.fromkeys(line.entry for line in lines if line.entry))


def _question(entry: LineEntry, width: int, cut: str) -> str:
    """A pack is one job, so all of it is cancelled. Of few columns the title is cut, and never what is asked."""
    one_run = len(entry.packs) == 1 and entry.log is not None
    text = f"Cancel {'the pack of ' if one_run else ''}{entry.title}"
    with_it = ", with its other run" if entry.others == 1 else ", with its other runs"
    asked = f"{with_it if one_run and entry.others else ''}? y/n"
    if len(text) + len(asked) > width:
        text = text[: max(0, width - len(asked) - len(cut))] + cut
    return text + asked


def _cancelled(entry: LineEntry, number: int) -> str:
    if not number:
        return "nothing of it was left to cancel" + (": what waited has begun or ended" if entry.waiting else "")
    if number < len(entry.packs):
        return f"cancelled {number:,} of {entry.title}; the others have begun or ended"
    return f"cancelled {entry.title}; it is shown as that when it has ended"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in clean(text).expandtabs(4))


# -- the terminal -----------------------------------------------------------------------------------------------------


def _pressed() -> Iterator[str]:
    """The names of the keys in what the terminal has sent."""
    sent = os.read(sys.stdin.fileno(), 1024)
    if not sent:  # the terminal has gone
        yield "q"
    while sent:
        sequence = SEQUENCE.match(sent)
        while sent[:1] == b"\x1b" and not sequence and select.select([sys.stdin], [], [], ESCAPED)[0]:
            more = os.read(sys.stdin.fileno(), 1024)
            if not more:
                break
            sent += more
            sequence = SEQUENCE.match(sent)
        size = sequence.end() if sequence else 1
        yield KEYS.get(sent[:size], "" if sequence else sent[:size].decode("latin-1"))  # an unknown key does nothing
        sent = sent[size:]


@contextlib.contextmanager
def _keys() -> Iterator[int]:
    """Keys come at once and unseen; what comes out is readable when the terminal has been resized. Whoever asks the
    process to end has the terminal given back first."""
    descriptor, saved = sys.stdin.fileno(), termios.tcgetattr(sys.stdin.fileno())
    resized, said = os.pipe()
    os.set_blocking(said, False)

    def on_resize(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        with contextlib.suppress(BlockingIOError):
            os.write(said, b".")

    def on_end(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SystemExit(128 + signum)

    handlers: dict[signal.Signals, Any] = {
        signal.SIGWINCH: on_resize, signal.SIGTERM: on_end, signal.SIGHUP: on_end,
        signal.SIGTSTP: signal.SIG_IGN,  # a shell under a full screen is of no use
    }  # fmt: skip
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        tty.setcbreak(descriptor)
        yield resized
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(resized)
        os.close(said)
