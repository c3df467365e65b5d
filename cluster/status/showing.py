"""Show a status to a person: lines for a terminal of any width, and tables of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from cluster.console import clean, count, duration
from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.files.statuses import StageStatus
from cluster.ledger.database import Ledger
from cluster.ledger.rows import RunRow
from cluster.reconcile.session import LedgerView
from cluster.slurm.reasons import in_words, never_starts
from cluster.status.facts import SUPERSEDED, TELLING, Failure, Progress, RunningStage, Status
from cluster.status.reading import NAMED, SILENT, read
from tiny_transformers.settings.stages import STAGES

COLOURS = {"completed": "green", "running": "cyan", "submitted": "blue", "failed": "red", "blocked": "yellow"}
MARKS: dict[StageStatus, str] = {"completed": "█", "failed": "×", "running": "▒"}  # of runs in a bar
PLAIN_MARKS: dict[StageStatus, str] = {"completed": "#", "failed": "x", "running": ">"}  # in ASCII
REST, PLAIN_REST = "·", "."  # what is to come
SPEEDS = {"tokens_per_second": ("tokens/s", ",.0f"), "mfu": ("MFU", ".0%")}  # metric -> its column
WIDE = 110  # columns from which a run has one line
BAR, SHORT_BAR = 24, 6  # columns; the short one where there is no room
MESSAGE = 400  # characters of a failure's message that are shown before `--failed` is asked for
ALL = "all"  # what is written before the line of all studies
LOG_LINES = 3
LITTLE_HOURS = 0.5  # fewer are told in minutes
LISTED = 20  # running packs, or groups of failures, that are listed before the rest is counted


Show = Literal["all", "running", "failed"]


@dataclass(frozen=True)
class LineEntry:
    """The thing that a line is about, so that a key can act on it: a stage run, or packs that wait."""

    title: str
    log: tuple[str, str, int] | None = None  # run id, stage, attempt
    packs: tuple[tuple[str, int], ...] = ()  # to cancel
    waiting: bool = False  # whether only those of the packs are meant that have not begun
    others: int = field(default=0, compare=False)  # runs that would be cancelled with it


@dataclass(frozen=True)
class Line:
    text: Text
    entry: LineEntry | None = None


@dataclass(frozen=True)
class StatusLines:
    """A status as rich prints it, as wide as the console."""

    status: Status
    root: OutputRoot
    show: Show = "all"
    everything: bool = False  # every failure and every line of a pack

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in lines(self.status, self.root, console, options.max_width, self.show, self.everything):
            yield line.text


def status_view(view: LedgerView, output_root: OutputRoot, *, per_run: bool, failed_only: bool) -> Any:
    """Return the page that a person sees."""
    from rich.console import Group

    status = read(view, output_root)
    if not status.total.total:
        return _no_runs(output_root)
    shown = StatusLines(status, output_root, "failed" if failed_only else "all", everything=failed_only)
    return Group(*run_tables(view, status), shown) if per_run and not failed_only else shown


def run_tables(view: LedgerView, status: Status) -> list[Table]:
    """A line per run, study by study."""
    overview, speeds = view.ledger.overview(), _speeds(view.ledger)
    return [
        _run_table(each.study, [run for run in overview if each.study in run["studies"]], speeds)
        for each in status.studies
    ]


def lines(
    status: Status, output_root: OutputRoot, console: Console, width: int, show: Show = "all", everything: bool = False
) -> list[Line]:
    """All that is shown, none of it wider than `width`; `everything`: only failures, and all of them."""
    plain = is_plain(console)
    found: list[Line] = []
    if not status.total.total:
        return [Line(text) for text in _within(_no_runs(output_root), console, width)]
    if not everything:
        found += _progress_lines(status, width, plain)
    if show != "failed":
        found += _pack_lines(status, width, plain) + _queue_lines(status)
    if show != "running":
        found += _failure_lines(status, output_root, everything)
        if not status.failures and show == "failed":
            found.append(Line(Text("No stage run has failed.")))
    if status.flags:
        found += [Line(Text()), *(Line(Text(f"flagged: {told}", style="yellow")) for told in status.flags)]
    found += [Line(Text()), *(Line(text) for text in _foot(status))]
    return [Line(text, line.entry) for line in found for text in _within(line.text, console, width)]


def is_plain(console: Console) -> bool:
    """Whether it shows ASCII only."""
    return not console.encoding.lower().startswith("utf")


def _no_runs(root: OutputRoot) -> Text:
    return Text(f"No runs yet in {root.path}. Start with: submit experiments.yaml --dry-run")


def _within(text: Text, console: Console, width: int) -> list[Text]:
    """Wrapped, with what is wrapped indented."""
    if text.cell_len <= width and "\n" not in text.plain:
        return [text]
    indent = len(text.plain) - len(text.plain.lstrip())
    first, *rest = text[indent:].wrap(console, max(10, width - indent - 2), overflow="fold")
    return [Text(" " * indent) + first, *(Text(" " * (indent + 2)) + part for part in rest)]


def _progress_lines(status: Status, width: int, plain: bool) -> list[Line]:
    shown = [*status.studies]
    if len(shown) > 1:  # a run may be in several
        shown.append(replace(status.total, study=ALL))
    title = min(max(len(each.study) for each in shown), 24)
    longest = max(_progress_line(each, title, BAR, plain).cell_len for each in shown)
    bar = max(SHORT_BAR, BAR - max(0, longest - width))
    found = []
    for each in shown:
        found.append(Line(_progress_line(each, title, bar, plain)))
        if each.study != ALL and each.runs.get("completed") != each.total:
            parts = [_stage_part(stage, each.stages[stage]) for stage in STAGES if stage in each.stages]
            found += [Line(Text(" " * (title + 2)) + text) for text in _wrapped(parts, width - title - 2)]
    if status.total.runs.get("completed") != status.total.total:
        found.append(Line(Text(" " * (title + 2)).append(_key(status.total, plain), "dim")))
    return found


def _key(progress: Progress, plain: bool) -> str:
    """What the marks of a bar mean, of those that are in it."""
    marks, rest = (PLAIN_MARKS, PLAIN_REST) if plain else (MARKS, REST)
    return "  ".join([*(f"{mark} {status}" for status, mark in marks.items() if progress.runs.get(status)),
                      f"{rest} to come"])  # fmt: skip


def _progress_line(progress: Progress, title: int, bar: int, plain: bool) -> Text:
    line = Text().append(f"{progress.study:<{title}}  ", "bold")
    line.append_text(_bar(progress, bar, plain))
    line.append(f"  {progress.runs.get('completed', 0):,}/{count(progress.total, 'run')}")
    for status in (*TELLING, "eligible"):
        if progress.runs.get(status):
            line.append(f"  {progress.runs[status]:,} {status}", COLOURS.get(status, ""))
    return line


def _wrapped(parts: Sequence[Text], width: int) -> Iterator[Text]:
    line = Text()
    for part in parts:
        if line and len(line) + 3 + len(part) > width:
            yield line
            line = Text()
        line = line + Text("   ") + part if line else part
    if line:
        yield line


def _stage_part(stage: str, counts: Mapping[StageStatus, int]) -> Text:
    done, total = counts.get("completed", 0), sum(counts.values())
    text = Text().append(f"{stage} ", "dim").append(f"{done:,}/{total:,}", "green" if done == total else "")
    told = [(f"{counts[status]:,} {status}", COLOURS[status]) for status in ("running", "failed") if counts.get(status)]
    for index, (words, colour) in enumerate(told):
        text.append(", " if index else " (").append(words, colour)
    return text.append(")") if told else text


def _bar(progress: Progress, width: int, plain: bool) -> Text:
    """Completed, failed and running runs are different marks, so that it reads without colour."""
    bar, before, cells = Text(), 0, 0
    for status, mark in (PLAIN_MARKS if plain else MARKS).items():
        before += progress.runs.get(status, 0)
        until = before * width // max(progress.total, 1)
        if progress.runs.get(status) and status != "completed" and until == cells:
            until = min(width, cells + 1)  # one that failed is seen among thousands
        bar.append(mark * (until - cells), COLOURS[status])
        cells = max(cells, until)
    return bar.append((PLAIN_REST if plain else REST) * (width - cells), "dim")


def _title(text: str, style: str = "bold") -> Line:
    return Line(Text().append(text, style))


def _pack_lines(status: Status, width: int, plain: bool) -> list[Line]:
    if not status.packs:
        return []
    nodes = len({pack.node for pack in status.packs})
    found = [Line(Text()), _title(f"Running: {count(len(status.packs), 'pack')} on {count(nodes, 'node')}")]
    longest = max((len(each.name) for pack in status.packs for each in pack.working), default=0)
    for pack in status.packs[:LISTED]:
        head = Text().append(pack.node or "this machine", "cyan").append(f"  job {pack.job}  ")
        head.append(f"{len(pack.working)} of {count(pack.slots, 'slot')} busy")
        if pack.waiting:
            head.append(f", {count(pack.waiting, 'run')} to come")
        mine = ((pack.submission_id, pack.pack_index),)
        others = len({each.run_id for each in pack.working}) + pack.waiting - 1
        found.append(Line(head, LineEntry(f"job {pack.job}", packs=mine)))
        for each in pack.working:
            entry = LineEntry(f"{each.name} {each.stage}", (each.run_id, each.stage, each.number), mine, others=others)
            found += [Line(text, entry) for text in _working_lines(each, longest, width, plain)]
    if len(status.packs) > LISTED:
        found.append(Line(Text(f"and {len(status.packs) - LISTED:,} more packs; `status --runs` shows all runs")))
    return found


def _working_lines(each: RunningStage, longest: int, width: int, plain: bool) -> list[Text]:
    """A run's name, and how it goes: in one line where there is room."""
    done = Text(f"{each.stage:<9} {each.fraction:>4.0%}  ")
    if each.silent > SILENT:
        done.append(f"no sign for {duration(each.silent)}, ", "yellow")
    done.append(_figures(each))
    name = f"  {each.name}"
    if width >= WIDE and 2 + longest + 2 + len(done) <= width:
        return [Text(f"{name:<{longest + 4}}") + done]
    cut = "..." if plain else "…"
    room = width - 4
    text = done if len(done) <= room else done[: room - len(cut)] + Text(cut)
    return [Text(name, overflow="fold"), Text("    ") + text]


def _figures(each: RunningStage) -> str:
    """The words last: of few columns they are cut."""
    told = []
    if each.seconds_left is not None:
        told.append(f"{duration(each.seconds_left)} left")
    if each.loss is not None:
        told.append(f"loss {each.loss:.3f}")
    if each.tokens_per_second:
        told.append(f"{each.tokens_per_second:,.0f} tokens/s")
    return ", ".join(filter(None, [*told, each.text]))


def _queue_lines(status: Status) -> list[Line]:
    if not status.queue:
        return []
    runs, packs = sum(each.runs for each in status.queue), sum(len(each.packs) for each in status.queue)
    found = [Line(Text()), _title(f"Waiting: {count(packs, 'pack')} with {count(runs, 'run')}")]
    for each in status.queue:
        line = Text().append(f"{count(len(each.packs), 'pack')}, {count(each.runs, 'run')}", "blue")
        line.append(f" ({_jobs(each.jobs)})" if any(each.jobs) else "", "dim").append(": ")
        line.append(in_words(each.reason) or "not begun yet", "yellow" if never_starts(each.reason) else "")
        line.append(f" ({each.reason})" if each.reason else "", "dim")
        found.append(Line(line, LineEntry(f"{count(len(each.packs), 'waiting pack')}", packs=each.packs, waiting=True)))
    return found


def _jobs(jobs: Sequence[str]) -> str:
    arrays: dict[str, list[str]] = {}
    for job in jobs:
        array, _, task = job.partition("_")
        arrays.setdefault(array, []).append(task)
    told = [array + (f"_[{ranges(map(int, tasks))}]" if all(tasks) else "") for array, tasks in arrays.items() if array]
    return f"job{'s' if len(jobs) > 1 else ''} {', '.join(told[:3])}{', ...' if len(told) > 3 else ''}"


def ranges(numbers: Iterable[int]) -> str:
    """1-3,5"""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _failure_lines(status: Status, root: OutputRoot, everything: bool) -> list[Line]:
    if not status.failures:
        return []
    causes: Counter[str] = Counter()
    for failure in status.failures:
        causes[failure.cause] += len(failure.attempts)
    summary = ", ".join(f"{number:,} {cause}" for cause, number in causes.items())
    found = [Line(Text()), _title(f"Failed: {summary}", "bold red")]
    for failure in status.failures if everything else status.failures[:LISTED]:
        found += _failure(failure, root, status.options, everything)
    if not everything and len(status.failures) > LISTED:
        found.append(Line(Text(f"and {len(status.failures) - LISTED:,} more causes: `status --failed`")))
    return found


def _failure(failure: Failure, root: OutputRoot, options: str, everything: bool) -> list[Line]:
    run_id, name, number, _ = failure.attempts[0]
    message = failure.message
    if len(message) > MESSAGE and not everything:
        message = message[:MESSAGE] + " ..."
    head = (
        Text()
        .append(f"{count(len(failure.attempts), 'run')}: {failure.stage} {failure.cause}: ", "red")
        .append(message)
    )
    head.append(f" [{failure.decided}]" if failure.decided else "", "dim")
    found = [Line(head, LineEntry(f"{name} {failure.stage}", (run_id, failure.stage, number)))]
    for each_id, each, attempt, job in failure.attempts if everything else failure.attempts[:NAMED]:
        line = Text(f"  {each}").append("" if each_id in each else f" ({each_id})", "dim")
        line.append(f" attempt {attempt}, {job or 'no job'}", "dim")
        found.append(Line(line, LineEntry(f"{each} {failure.stage}", (each_id, failure.stage, attempt))))
    more = len(failure.attempts) - NAMED
    if more > 0 and not everything:
        found.append(Line(Text(f"  and {more:,} more: `status --failed{options}`")))
    found += [Line(Text().append(f"    {text}", "dim")) for text in _log_end(failure, root)]
    if failure.decided == SUPERSEDED:
        found.append(Line(Text("  nothing asks for them any more; these remove them, with all that they have done:")))
    elif failure.cause in ("error", "check_failed") and not failure.again:
        see = f"tiny-transformers logs {run_id} {failure.stage}{options}"
        found.append(Line(Text("  see ").append(see, "bold").append("; once mended:")))
    return [*found, Line(Text("  -> ").append(failure.command, "bold"))]


def _log_end(failure: Failure, root: OutputRoot) -> list[str]:
    """The last lines of the first one's log, without what the message says."""
    run_id, _, number, _ = failure.attempts[0]
    tail = map(clean, whole_files.tail(root.run(run_id).attempt(failure.stage, number).log, LOG_LINES))
    said = " ".join(failure.message.split())
    names = ("TinyTransformersError: ", "CheckFailed: ")
    return [text for text in tail if text.strip().removeprefix(names[0]).removeprefix(names[1]) not in said]


def _foot(status: Status) -> Iterator[Text]:
    if status.hours:
        used, planned, unit = status.hours.used, status.hours.planned, status.hours.unit
        if unit == "hours" and max(used, planned or 0.0) < LITTLE_HOURS:
            used, planned, unit = 60 * used, planned and 60 * planned, "minutes"
        of_planned = "" if planned is None else f" of {planned:,.2f} planned"
        yield Text(f"{used:,.2f}{of_planned} {unit} used")
    if status.seconds_left is not None:
        when = clock(status.now + status.seconds_left, status.now)
        yield Text(f"Done in about {duration(status.seconds_left)} ({when}): {status.why}")
    elif status.why:
        yield Text(f"When it is done is unknown: {status.why}")
    yield from (Text(told) for told in status.waits)
    if status.eligible:
        tick = f"`tiny-transformers tick{status.options}` submits what is eligible; `submit` does, too."
        if status.only_imported:
            tick = "`submit` does them, with a site of yours and a manifest that came with the archive."
        elif status.paused:
            tick = "`cancel --all` was given: `submit` and `rerun` go on with them, `tick` does not."
        yield Text(f"{count(status.eligible, 'stage run')} eligible. {tick}")
    yield Text(as_of(status), style="yellow" if status.slurm == "unreachable" else "dim")


def how_far(status: Status) -> Iterator[str]:
    """Say in a few words how far all is that was planned, when it is done, and why packs wait."""
    total = sum(sum(counts.values()) for counts in status.total.stages.values())
    completed = sum(counts.get("completed", 0) for counts in status.total.stages.values())
    done = completed + sum(stage.fraction for pack in status.packs for stage in pack.working)
    if total:
        yield f"{done / total:.1%} done"
    if status.seconds_left is not None:
        yield f"about {duration(status.seconds_left)} left"
    for waiting in status.queue:
        if waiting.reason:
            yield f"{count(len(waiting.packs), 'pack')}: {in_words(waiting.reason)}"


def as_of(status: Status) -> str:
    known = "T" in status.as_of
    when = clock(datetime.fromisoformat(status.as_of).timestamp(), status.now) if known else status.as_of
    if status.slurm == "unreachable":
        return f"SLURM did not answer; as of {when}"
    if status.slurm == "partial":
        return f"sacct did not answer, so why some jobs ended is not known yet; as of {when}"
    return f"as of {when}"


def clock(seconds: float, now: float) -> str:
    """14:02, with the day if it is not today's."""
    when, today = (datetime.fromtimestamp(each).astimezone() for each in (seconds, now))
    return f"{when:%H:%M}" if when.date() == today.date() else f"{when:%a %Y-%m-%d %H:%M}"


def _run_table(study: str, runs: Sequence[RunRow], speeds: Mapping[str, Mapping[str, str]]) -> Table:
    """`speeds`: title -> run id -> how fast its pretraining was."""
    table = Table(title=study, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run")
    table.add_column("id", no_wrap=True)
    stages = [stage for stage in STAGES if any(stage in run["stages"] for run in runs)]
    for stage in stages:
        table.add_column(stage)
    for title in speeds:
        table.add_column(title, justify="right")
    for run in runs:
        cells = [run["stages"][stage]["status"] if stage in run["stages"] else "" for stage in stages]
        styled = [Text(cell, style=COLOURS.get(cell, "")) for cell in cells]
        fast = [speed.get(run["run_id"], "") for speed in speeds.values()]
        table.add_row(Text(run["name"], overflow="fold"), run["run_id"], *styled, *fast)
    return table


def _speeds(ledger: Ledger) -> dict[str, dict[str, str]]:
    """Return the speeds of the completed pretrainings, without what none of them has told."""
    speeds: dict[str, dict[str, str]] = {title: {} for title, _ in SPEEDS.values()}
    for row in ledger.metrics(*SPEEDS):
        if row["stage"] == "pretrain":
            title, how = SPEEDS[row["name"]]
            with suppress(ValueError):  # it is text
                speeds[title][row["run_id"]] = format(float(row["value"]), how)
    return {title: found for title, found in speeds.items() if found}
