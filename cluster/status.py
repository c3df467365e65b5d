"""The status of every stage run: read from the ledger as plain values, and shown as lines of a given width.

Reads only what is open or failed, and counts, so that finished runs cost nothing. A figure that is not known is left
out or said to be unknown; runs are told apart by their ids, which stand beside a name that several have."""

from __future__ import annotations

import heapq
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from cluster import rundir, session
from cluster.console import clean, count
from cluster.ledger import Ledger
from cluster.rundir import OutputRoot
from cluster.session import View
from cluster.slurm import in_words, never_starts
from tiny_transformers.config import STAGES

STATUSES = ("completed", "running", "submitted", "failed", "blocked", "eligible", "waiting")
COLOURS = {"completed": "green", "running": "cyan", "submitted": "blue", "failed": "red", "blocked": "yellow"}
SPEEDS = {"tokens_per_second": ("tokens/s", ",.0f"), "mfu": ("MFU", ".0%")}  # metric -> its column
WIDE = 110  # columns from which a run has one line
BAR, SHORT_BAR = 24, 6  # columns; the short one where there is no room
MESSAGE = 400  # characters of a failure's message that are shown before `--failed` is asked for
ALL = "all"  # what is written before the line of all studies
LOG_LINES = 3
FLAGGED = 8  # runs with a failed check that are named; of more the checks are counted
LISTED = 20  # running packs, or groups of failures, that are listed before the rest is counted
NAMED = 3  # runs of a group of failures that are named
SILENT = 300.0  # seconds without a heartbeat, which comes every 10
LITTLE = 0.02  # of a stage: from so little no time is reckoned


# -- what is known ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """A study, or all of them: how far its runs are, and each of its stages."""

    study: str
    runs: dict[str, int]  # completed, running, failed, submitted, eligible -> how many runs
    stages: dict[str, dict[str, int]]  # stage -> status -> how many stage runs

    @property
    def total(self) -> int:
        return sum(self.runs.values())


@dataclass(frozen=True)
class Working:
    """A stage run that is running."""

    run_id: str
    name: str  # with its id, where several runs have this name
    stage: str
    number: int  # of the attempt
    fraction: float
    text: str
    loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None  # of this stage
    silent: float  # seconds since its last heartbeat


@dataclass(frozen=True)
class Pack:
    """A pack that has begun."""

    token: str
    task: int
    job: str
    node: str
    slots: int
    runs: int
    waiting: int  # runs whose turn in it has not come
    working: tuple[Working, ...]


@dataclass(frozen=True)
class Waiting:
    """Packs that have not begun, and why; `reason` is SLURM's, or empty."""

    reason: str
    runs: int
    packs: tuple[tuple[str, int], ...]  # token, task
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """Stage runs that failed in the same way."""

    stage: str
    cause: str
    message: str  # of the first of them
    attempts: tuple[tuple[str, str, int, str], ...]  # run id, name, number, job
    decided: str  # what the retry rules say
    again: bool  # whether they try it again
    command: str  # that mends it


@dataclass(frozen=True)
class Hours:
    used: float
    planned: float | None  # None: not known of every submission
    unit: str


@dataclass(frozen=True)
class Status:
    studies: tuple[Progress, ...]
    total: Progress
    packs: tuple[Pack, ...]
    queue: tuple[Waiting, ...]
    failures: tuple[Failure, ...]
    hours: Hours | None
    seconds_left: float | None  # of what is submitted; None: nothing is, or unknown
    why: str  # what the estimate rests on, or why there is none; empty: nothing is submitted
    flags: tuple[str, ...]
    as_of: str
    slurm: str
    options: str  # that commands need to speak of this ledger
    now: float
    only_imported: bool = False  # whether `tick` must be told the site

    @property
    def eligible(self) -> int:
        return sum(counts.get("eligible", 0) for counts in self.total.stages.values())


def read(view: View, root: OutputRoot, study: str | None = None, now: float | None = None) -> Status:
    """`study`: only what is of this one, but for the hours and the estimate."""
    ledger, now, options = view.ledger, now or time.time(), root.options
    imported = session.only_imported(ledger, root)
    progress = _progress(ledger)
    total = progress.pop("")
    attempts = ledger.newest_attempts("running", "submitted", "failed")
    if study:
        members = ledger.studies_of(attempt["run_id"] for attempt in attempts)
        attempts = [attempt for attempt in attempts if study in members.get(attempt["run_id"], ())]
        progress = {study: progress[study]}
    names = labels(ledger, (attempt["run_id"] for attempt in attempts))
    submissions = {row["token"]: row for row in ledger.hours()}
    open_packs = {(row["token"], row["task"]): row for row in ledger.open_packs()}
    running = [attempt for attempt in attempts if attempt["status"] in ("running", "submitted")]
    failed = [attempt for attempt in attempts if attempt["status"] == "failed"]
    packs, queue = _packs(running, names, submissions, open_packs, now), _queue(running, open_packs)
    left, why = _estimate(submissions, open_packs, packs, queue, now)
    return Status(
        studies=tuple(progress.values()), total=total, packs=packs, queue=queue,
        failures=_failures(ledger, failed, names, options, imported), hours=_hours(submissions.values()),
        seconds_left=left, why=why, flags=tuple(_flags(ledger)), as_of=view.as_of, slurm=view.slurm,
        options=options, now=now, only_imported=imported,
    )  # fmt: skip


def labels(ledger: Ledger, run_ids: Iterable[str]) -> dict[str, str]:
    """Run id -> its name, with the id where several runs have that name."""
    names = ledger.names(run_ids)
    several = ledger.ambiguous(names.values())
    return {run_id: f"{name} ({run_id})" if name in several else name for run_id, name in names.items()}


def _progress(ledger: Ledger) -> dict[str, Progress]:
    """By study; "" is every run once."""
    found = {"": Progress("", {}, {})}
    for study, statuses, runs in ledger.kinds():
        progress = found.setdefault(study, Progress(study, {}, {}))
        of_run = _of_run(statuses.values())
        progress.runs[of_run] = progress.runs.get(of_run, 0) + runs
        for stage, status in statuses.items():
            counts = progress.stages.setdefault(stage, {})
            counts[status] = counts.get(status, 0) + runs
    return found


def _of_run(statuses: Iterable[str]) -> str:
    """One word for a run whose stages are so."""
    known = set(statuses)
    for status in ("running", "failed", "submitted"):
        if status in known:
            return status
    return "completed" if known == {"completed"} else "eligible"


def _packs(
    attempts: Sequence[dict[str, Any]],
    names: Mapping[str, str],
    submissions: Mapping[str, dict[str, Any]],
    open_packs: Mapping[tuple[str, int], dict[str, Any]],
    now: float,
) -> tuple[Pack, ...]:
    members: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for attempt in attempts:
        members.setdefault((attempt["token"], attempt["task"]), []).append(attempt)
    packs = []
    for key, own in members.items():
        if key not in open_packs or not open_packs[key]["started"]:
            continue
        working = tuple(_working(attempt, names, now) for attempt in own if attempt["status"] == "running")
        busy = {each.run_id for each in working}
        pack, slots = open_packs[key], submissions.get(key[0], {}).get("slots") or 1
        waiting = len({attempt["run_id"] for attempt in own} - busy)
        packs.append(
            Pack(*key, pack["job"] or "", pack["host"] or "", min(slots, pack["runs"]), pack["runs"], waiting, working)
        )
    return tuple(packs)


def _working(attempt: dict[str, Any], names: Mapping[str, str], now: float) -> Working:
    beat = json.loads(attempt["progress"]) if attempt["progress"] else {}
    fraction, said = beat.get("fraction", 0.0), beat.get("time", now)
    silent, left = max(0.0, now - said), beat.get("seconds_left")
    if left is None and attempt["started"] and fraction >= LITTLE:  # not a training, or of an older version
        left = (said - attempt["started"]) * (1 / fraction - 1)
    return Working(
        attempt["run_id"], names[attempt["run_id"]], attempt["stage"], attempt["number"], fraction,
        beat.get("text", ""), beat.get("loss"), beat.get("tokens_per_second"),
        None if left is None or silent > SILENT else max(0.0, left - silent), silent,
    )  # fmt: skip


def _queue(
    attempts: Sequence[dict[str, Any]], open_packs: Mapping[tuple[str, int], dict[str, Any]]
) -> tuple[Waiting, ...]:
    """By reason, most runs first."""
    reasons: dict[tuple[str, int], str] = {}
    jobs: dict[tuple[str, int], str] = {}
    for attempt in attempts:
        key = (attempt["token"], attempt["task"])
        if attempt["status"] == "submitted" and not (open_packs.get(key) or {"started": 1})["started"]:
            said = json.loads(attempt["progress"]).get("reason", "") if attempt["progress"] else ""
            reasons[key] = reasons.get(key) or said
            jobs[key] = jobs.get(key) or attempt["job"] or ""
    groups: dict[str, list[tuple[str, int]]] = {}
    for key, reason in reasons.items():
        groups.setdefault(reason, []).append(key)
    waiting = [
        Waiting(reason, sum(open_packs[key]["runs"] for key in keys), tuple(keys), tuple(jobs[key] for key in keys))
        for reason, keys in groups.items()
    ]
    return tuple(sorted(waiting, key=lambda each: -each.runs))


def _hours(submissions: Iterable[dict[str, Any]]) -> Hours | None:
    rows = list(submissions)
    if not rows:
        return None
    planned = [row["seconds"] and row["seconds"] / 3600 * max(row["gpus"] or 1, 1) for row in rows]
    known = None if None in planned else sum(planned)
    return Hours(sum(row["spent"] for row in rows), known, "GPU-hours" if any(row["gpus"] for row in rows) else "hours")


def _estimate(
    submissions: Mapping[str, dict[str, Any]],
    open_packs: Mapping[tuple[str, int], dict[str, Any]],
    packs: Sequence[Pack],
    queue: Sequence[Waiting],
    now: float,
) -> tuple[float | None, str]:
    """Seconds until all that is submitted has ended, and what that rests on: each pack takes what was planned, times
    what the ended ones took of theirs, or, once it has taken that, what the share of its stage runs that is done
    suggests; as many go on at a time as now."""
    still = {key: row for key, row in open_packs.items() if row["open"]}
    if not still:
        return None, ""
    stuck = next((each for each in queue if never_starts(each.reason)), None)
    if stuck:
        return None, f"{count(len(stuck.packs), 'pack')} will not start by itself"
    sizes = Counter(token for token, _ in open_packs)
    if any(not (submissions.get(token) or {}).get("seconds") for token, _ in still):
        return None, "how long it takes was not planned"
    planned = {key: submissions[key[0]]["seconds"] / sizes[key[0]] for key in open_packs if key[0] in submissions}
    ended = [key for key, row in open_packs.items() if row["completed"] == row["attempts"]]
    took = sum(open_packs[key]["ended"] - open_packs[key]["started"] for key in ended)
    pace = took / sum(planned[key] for key in ended) if ended else 1.0
    working = {(pack.token, pack.task): pack.working for pack in packs}
    lefts, longer = [], 0  # of these, packs that have taken more than their time
    for key, row in still.items():
        if row["started"]:
            over = now - row["started"] >= pace * planned[key]
            of_stages = max((each.seconds_left or 0.0 for each in working.get(key, ())), default=0.0)
            left = _beyond(row, working.get(key, ()), now) if over else pace * planned[key] - (now - row["started"])
            if left is None:
                return None, "a pack takes longer than planned, and nothing of it is done"
            lefts.append(max(left, of_stages))
            longer += over
    waiting = [pace * planned[key] for key, row in still.items() if not row["started"]]
    if not lefts:
        return None, "nothing has begun, and when it does is SLURM's to say"
    heapq.heapify(lefts)
    for seconds in sorted(waiting, reverse=True):
        heapq.heapreplace(lefts, lefts[0] + seconds)
    basis = f"packs take {pace:.1f} x what was planned, by {len(ended):,} that ended" if ended else "as planned"
    if longer:
        basis += f"; {count(longer, 'pack')} longer than that, reckoned from what of it is done"
    return max(lefts), basis + (f"; {len(lefts):,} at a time, as now" if waiting else "")


def _beyond(row: Mapping[str, Any], working: Sequence[Working], now: float) -> float | None:
    """Seconds that are left of a pack that has taken all of its time: none but its stages', if all that is open is at
    work and says when it ends; else by the share of its stage runs that is done. None: none of it is."""
    if len(working) == row["open"] and all(each.seconds_left is not None for each in working):
        return 0.0
    done = row["attempts"] - row["open"] + sum(each.fraction for each in working)
    return float((now - row["started"]) * (row["attempts"] / done - 1)) if done else None


# -- failures ---------------------------------------------------------------------------------------------------------


def _failures(
    ledger: Ledger, failed: Sequence[dict[str, Any]], names: Mapping[str, str], options: str, imported: bool
) -> tuple[Failure, ...]:
    """Largest group first."""
    if not failed:
        return ()
    decisions = ledger.decisions()
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for attempt in failed:
        decided = _decided(decisions.get((attempt["run_id"], attempt["stage"], attempt["number"])))
        key = (attempt["stage"], attempt["cause"] or "", _alike(attempt["message"] or ""), decided)
        groups.setdefault(key, []).append(attempt)
    found = []
    for (stage, cause, _, decided), group in groups.items():
        again = decided.startswith("to be tried again")
        ticks = again and not imported
        command = f"tiny-transformers tick{options}" if ticks else _rerun(stage, group, failed) + options
        command += " --site SITE" if imported else ""
        told = tuple((row["run_id"], names[row["run_id"]], row["number"], row["job"] or "") for row in group)
        found.append(Failure(stage, cause, clean(group[0]["message"] or ""), told, decided, again, command))
    return tuple(sorted(found, key=lambda each: -len(each.attempts)))


def _alike(message: str) -> str:
    """Messages of one cause differ in the numbers of jobs, nodes, runs and steps."""
    return re.sub(r"\b[0-9a-f]{8,}\b|\d[\d.,]*", "#", message)


def _rerun(stage: str, group: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]]) -> str:
    """The command that does these again, and as few others as can be."""
    if len(group) == len(failed):
        return "rerun --failed"
    command = f"rerun --failed --stage {stage}"
    if len(group) <= NAMED and any(row["stage"] == stage and row not in group for row in failed):
        return command + "".join(f" --run {row['run_id']}" for row in group)
    return command


def _decided(decision: dict[str, Any] | None) -> str:
    if decision is None:
        return ""
    if decision["action"] == "stop":
        return f"not tried again by itself: {decision['tries']} x {decision['cause']}"
    return f"to be tried again: {decision['changes']}"


def _flags(ledger: Ledger) -> list[str]:
    """Checks that did not hold but do not make a score wrong by themselves, and code that changed between runs."""
    rows = [row for row in ledger.failed_checks() if not row["blocking"]]
    flagged: dict[str, list[str]] = {}
    for row in rows:
        flagged.setdefault(row["run_id"], []).append(row["name"])
    if len(flagged) > FLAGGED:
        counted = Counter(row["name"] for row in rows).most_common()
        told = [f"{len(flagged):,} runs: {', '.join(f'{check} ({number:,})' for check, number in counted)}"]
    else:
        names = labels(ledger, flagged)
        told = [f"{names[run_id]}: {', '.join(checks)}" for run_id, checks in flagged.items()]
    told += identical_scores(ledger)
    versions = ledger.code_versions()
    if len(versions) > 1:
        of_each = ", ".join(f"{code} ({number:,})" for code, number in versions.items())
        told.append(f"completed stage runs are of {len(versions)} versions of the code: {of_each}")
    return told


def identical_scores(ledger: Ledger) -> list[str]:
    """Check `identical_scores`: runs that were trained differently and score the same to the last digit."""
    told = []
    for stage, run_ids in ledger.identical_scores():
        known = ledger.names(run_ids)
        names = [f"{known[run_id]} ({run_id})" for run_id in run_ids]
        more = f" and {len(names) - FLAGGED:,} more" if len(names) > FLAGGED else ""
        told.append(f"{stage}: identical_scores: {', '.join(names[:FLAGGED])}{more}")
    return told


# -- for programs -----------------------------------------------------------------------------------------------------


def status_json(view: View, root: OutputRoot) -> dict[str, Any]:
    overview, status = view.ledger.overview(), read(view, root)
    told = asdict(status)
    return {
        "as_of": view.as_of,
        "slurm": view.slurm,
        "counts": counts(view.ledger),
        "runs": [{key: run[key] for key in ("run_id", "name", "studies", "stages")} for run in overview],
        "estimate": {"seconds_left": status.seconds_left, "why": status.why},
        **{key: told[key] for key in ("studies", "packs", "queue", "failures", "hours", "flags")},
    }


def counts(ledger: Ledger) -> dict[str, int]:
    """Status -> stage runs, every run once."""
    found: Counter[str] = Counter()
    for of_stage in ledger.tally().get("", {}).values():
        found += of_stage
    return {status: found[status] for status in STATUSES}


# -- for a person -----------------------------------------------------------------------------------------------------

Show = Literal["all", "running", "failed"]


@dataclass(frozen=True)
class Entry:
    """What a line is of, so that a key can act on it: a stage run, or packs that wait."""

    title: str
    log: tuple[str, str, int] | None = None  # run id, stage, attempt
    packs: tuple[tuple[str, int], ...] = ()  # to cancel
    waiting: bool = False  # whether only those of the packs are meant that have not begun
    others: int = field(default=0, compare=False)  # runs that would be cancelled with it


@dataclass(frozen=True)
class Line:
    text: Text
    entry: Entry | None = None


@dataclass(frozen=True)
class Shown:
    """A status as rich prints it, as wide as the console."""

    status: Status
    root: OutputRoot
    show: Show = "all"
    everything: bool = False  # every failure and every line of a pack

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in lines(self.status, self.root, console, options.max_width, self.show, self.everything):
            yield line.text


def status_view(view: View, root: OutputRoot, *, per_run: bool, failed_only: bool) -> Any:
    """What a person sees."""
    from rich.console import Group

    status = read(view, root)
    if not status.total.total:
        return _no_runs(root)
    shown = Shown(status, root, "failed" if failed_only else "all", everything=failed_only)
    return Group(*run_tables(view, status), shown) if per_run and not failed_only else shown


def run_tables(view: View, status: Status) -> list[Table]:
    """A line per run, study by study."""
    overview, speeds = view.ledger.overview(), _speeds(view.ledger)
    return [
        _run_table(each.study, [run for run in overview if each.study in run["studies"]], speeds)
        for each in status.studies
    ]


def lines(
    status: Status, root: OutputRoot, console: Console, width: int, show: Show = "all", everything: bool = False
) -> list[Line]:
    """All that is shown, none of it wider than `width`; `everything`: only failures, and all of them."""
    plain = is_plain(console)
    found: list[Line] = []
    if not status.total.total:
        return [Line(text) for text in _within(_no_runs(root), console, width)]
    if not everything:
        found += _progress_lines(status, width, plain)
    if show != "failed":
        found += _pack_lines(status, width, plain) + _queue_lines(status)
    if show != "running":
        found += _failure_lines(status, root, everything)
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
    return found


def _progress_line(progress: Progress, title: int, bar: int, plain: bool) -> Text:
    line = Text().append(f"{progress.study:<{title}}  ", "bold")
    line.append_text(_bar(progress, bar, plain))
    line.append(f"  {progress.runs.get('completed', 0):,}/{count(progress.total, 'run')}")
    for status in ("running", "failed", "submitted", "eligible"):
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


def _stage_part(stage: str, counts: Mapping[str, int]) -> Text:
    done, total = counts.get("completed", 0), sum(counts.values())
    text = Text().append(f"{stage} ", "dim").append(f"{done:,}/{total:,}", "green" if done == total else "")
    told = [(f"{counts[status]:,} {status}", COLOURS[status]) for status in ("running", "failed") if counts.get(status)]
    for index, (words, colour) in enumerate(told):
        text.append(", " if index else " (").append(words, colour)
    return text.append(")") if told else text


def _bar(progress: Progress, width: int, plain: bool) -> Text:
    """Completed, failed and running runs are different marks, so that it reads without colour."""
    marks = (
        {"completed": "#", "failed": "x", "running": ">"}
        if plain
        else {"completed": "█", "failed": "×", "running": "▒"}
    )
    bar, before, cells = Text(), 0, 0
    for status, mark in marks.items():
        before += progress.runs.get(status, 0)
        until = before * width // max(progress.total, 1)
        if progress.runs.get(status) and status != "completed" and until == cells:
            until = min(width, cells + 1)  # one that failed is seen among thousands
        bar.append(mark * (until - cells), COLOURS[status])
        cells = max(cells, until)
    return bar.append(("." if plain else "·") * (width - cells), "dim")


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
        mine = ((pack.token, pack.task),)
        others = len({each.run_id for each in pack.working}) + pack.waiting - 1
        found.append(Line(head, Entry(f"job {pack.job}", packs=mine)))
        for each in pack.working:
            entry = Entry(f"{each.name} {each.stage}", (each.run_id, each.stage, each.number), mine, others=others)
            found += [Line(text, entry) for text in _working_lines(each, longest, width, plain)]
    if len(status.packs) > LISTED:
        found.append(Line(Text(f"and {len(status.packs) - LISTED:,} more packs; `status --runs` shows all runs")))
    return found


def _working_lines(each: Working, longest: int, width: int, plain: bool) -> list[Text]:
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


def _figures(each: Working) -> str:
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
        found.append(Line(line, Entry(f"{count(len(each.packs), 'waiting pack')}", packs=each.packs, waiting=True)))
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
    found = [Line(head, Entry(f"{name} {failure.stage}", (run_id, failure.stage, number)))]
    for each_id, each, attempt, job in failure.attempts if everything else failure.attempts[:NAMED]:
        line = Text(f"  {each}").append("" if each_id in each else f" ({each_id})", "dim")
        line.append(f" attempt {attempt}, {job or 'no job'}", "dim")
        found.append(Line(line, Entry(f"{each} {failure.stage}", (each_id, failure.stage, attempt))))
    more = len(failure.attempts) - NAMED
    if more > 0 and not everything:
        found.append(Line(Text(f"  and {more:,} more: `status --failed{options}`")))
    found += [Line(Text().append(f"    {text}", "dim")) for text in _log_end(failure, root)]
    if failure.cause in ("error", "check_failed") and not failure.again:
        see = f"tiny-transformers logs {run_id} {failure.stage}{options}"
        found.append(Line(Text("  see ").append(see, "bold").append("; once mended:")))
    return [*found, Line(Text("  -> ").append(failure.command, "bold"))]


def _log_end(failure: Failure, root: OutputRoot) -> list[str]:
    """The last lines of the first one's log, without what the message says."""
    run_id, _, number, _ = failure.attempts[0]
    tail = map(clean, rundir.tail(root.run(run_id).attempt(failure.stage, number).log, LOG_LINES))
    said = " ".join(failure.message.split())
    names = ("TinyTransformersError: ", "CheckFailed: ")
    return [text for text in tail if text.strip().removeprefix(names[0]).removeprefix(names[1]) not in said]


def _foot(status: Status) -> Iterator[Text]:
    if status.hours:
        planned = "" if status.hours.planned is None else f" of {status.hours.planned:,.2f} planned"
        yield Text(f"{status.hours.used:,.2f}{planned} {status.hours.unit} used")
    if status.seconds_left is not None:
        when = clock(status.now + status.seconds_left, status.now)
        yield Text(f"Done in about {duration(status.seconds_left)} ({when}): {status.why}")
    elif status.why:
        yield Text(f"When it is done is unknown: {status.why}")
    if status.eligible:
        tick = f"`tiny-transformers tick{status.options}` submits what is eligible; `submit` does, too."
        if status.only_imported:
            tick = "`submit` does them, with a site of yours and a manifest that came with the archive."
        yield Text(f"{count(status.eligible, 'stage run')} eligible. {tick}")
    yield Text(as_of(status), style="yellow" if status.slurm == "unreachable" else "dim")


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


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 2880 else f"{minutes / 1440:.1f} days"


def _run_table(study: str, runs: Sequence[dict[str, Any]], speeds: Mapping[str, Mapping[str, str]]) -> Table:
    """`speeds`: title -> run id -> how fast its pretraining was."""
    table = Table(title=study, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run")
    table.add_column("id", no_wrap=True)
    for stage in STAGES:
        table.add_column(stage)
    for title in speeds:
        table.add_column(title, justify="right")
    for run in runs:
        cells = [run["stages"].get(stage, {}).get("status", "") for stage in STAGES]
        styled = [Text(cell, style=COLOURS.get(cell, "")) for cell in cells]
        fast = [speed.get(run["run_id"], "") for speed in speeds.values()]
        table.add_row(Text(run["name"], overflow="fold"), run["run_id"], *styled, *fast)
    return table


def _speeds(ledger: Ledger) -> dict[str, dict[str, str]]:
    """Of the completed pretrainings; without what none of them has told."""
    speeds: dict[str, dict[str, str]] = {title: {} for title, _ in SPEEDS.values()}
    for row in ledger.metrics(*SPEEDS):
        if row["stage"] == "pretrain":
            title, how = SPEEDS[row["name"]]
            speeds[title][row["run_id"]] = format(float(row["value"]), how)
    return {title: found for title, found in speeds.items() if found}
