"""The status of every stage run, for a person at a terminal and for programs.

Reads of the ledger only what is open or failed, and counts, so that finished runs cost nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster import rundir
from cluster.ledger import Ledger
from cluster.rundir import OutputRoot
from cluster.session import View
from cluster.slurm import NEVER_STARTS
from tiny_transformers.config import STAGES

STATUSES = ("completed", "running", "submitted", "failed", "blocked", "eligible", "waiting")
COLOURS = {"completed": "green", "running": "cyan", "submitted": "blue", "failed": "red", "blocked": "yellow"}
LOG_LINES = 3
FLAGGED = 8  # runs with a failed check that are named; of more the checks are counted
SPEEDS = {"tokens_per_second": ("tokens/s", ",.0f"), "mfu": ("MFU", ".0%")}  # metric -> its column
LISTED = 20  # running or failed stage runs that are listed before the rest is counted


def status_json(overview: Sequence[dict[str, Any]], as_of: str, slurm: str) -> dict[str, Any]:
    counts = Counter(view["status"] for run in overview for view in run["stages"].values())
    return {
        "as_of": as_of,
        "slurm": slurm,
        "counts": {status: counts[status] for status in STATUSES},
        "runs": [{key: run[key] for key in ("run_id", "name", "studies", "stages")} for run in overview],
    }


def counts(ledger: Ledger) -> dict[str, int]:
    """Status -> stage runs, every run once."""
    found: Counter[str] = Counter()
    for count in ledger.tally().get("", {}).values():
        found += count
    return {status: found[status] for status in STATUSES}


def status_view(view: View, root: OutputRoot, *, per_run: bool, failed_only: bool) -> RenderableType:
    """What a person sees. Reads of the ledger only what is open or failed, and counts, unless it shows every run."""
    ledger = view.ledger
    tally, sizes = ledger.tally(), ledger.study_sizes()
    if not sizes:
        return Text(f"No runs yet in {root.path}. Start with: submit experiments.yaml --dry-run")
    parts: list[RenderableType] = []
    if per_run and not failed_only:
        overview = ledger.overview()
        speeds = _speeds(ledger)
        parts += [_run_table(study, [run for run in overview if study in run["studies"]], speeds) for study in sizes]
    elif not failed_only:
        parts += [_study_table(study, size, tally[study]) for study, size in sizes.items()]
    if not failed_only:
        parts += _running(ledger)
    parts += _failures(ledger, root, everything=failed_only)
    if failed_only and not parts:
        parts.append(Text("No stage run has failed."))
    parts += _flags(ledger)
    if sum(tally[""][stage]["eligible"] for stage in tally[""]):
        parts.append(Text("`tick` submits what is eligible; `submit` does, too."))
    parts.append(Text(_as_of(view), style="dim"))
    return Group(*parts)


def _as_of(view: View) -> str:
    if view.slurm == "unreachable":
        return f"SLURM did not answer; as of {view.as_of}"
    if view.slurm == "partial":
        return f"sacct did not answer, so why some jobs ended is not known yet; as of {view.as_of}"
    return f"as of {view.as_of}"


def _study_table(study: str, size: int, counts: dict[str, Counter[str]]) -> Table:
    table = _table(f"{study}: {size:,} run{'s' if size != 1 else ''}")
    table.add_column("stage")
    shown = [status for status in STATUSES if any(count[status] for count in counts.values())]
    for status in shown:
        table.add_column(status, justify="right", style=COLOURS.get(status, ""))
    for stage in STAGES:
        if stage in counts:
            table.add_row(stage, *(f"{counts[stage][status]:,}" if counts[stage][status] else "·" for status in shown))
    return table


def _run_table(study: str, runs: Sequence[dict[str, Any]], speeds: Mapping[str, Mapping[str, str]]) -> Table:
    """`speeds`: title -> run id -> how fast its pretraining was."""
    table = _table(study)
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


def _running(ledger: Ledger) -> list[RenderableType]:
    attempts = ledger.newest_attempts("running", "submitted")
    running = [attempt for attempt in attempts if attempt["status"] == "running"]
    names = ledger.names(attempt["run_id"] for attempt in running)
    reasons: Counter[str] = Counter()  # of runs: the first open stage of each says why it waits
    lines = []
    for attempt in attempts:
        progress = json.loads(attempt["progress"]) if attempt["progress"] else {}
        if progress.get("reason"):
            reasons[progress["reason"]] += 1
        elif attempt["status"] == "running":
            line = Text(f"{names[attempt['run_id']]} {attempt['stage']}", style="cyan")
            where = f" on {attempt['host']}, job {attempt['job']}: " if attempt["host"] else ": "
            line.append(f"{where}{progress.get('fraction', 0):.0%} {progress.get('text', '')}", style="default")
            lines.append(line)
    parts: list[RenderableType] = [Text("Running", style="bold"), *_at_most(lines, "`status --runs` shows all")]
    return (parts if lines else []) + [_waiting(reason, count) for reason, count in reasons.items()]


def _waiting(reason: str, count: int) -> Text:
    """SLURM's reason, and what to do if it never ends by itself."""
    line = Text(f"{count:,} run{'s wait' if count > 1 else ' waits'} in SLURM's queue: {reason}")
    if reason in NEVER_STARTS:
        line.append(f": {NEVER_STARTS[reason]}", style="yellow")
    return line


def _failures(ledger: Ledger, root: OutputRoot, everything: bool) -> list[RenderableType]:
    failed = ledger.newest_attempts("failed")
    if not failed:
        return []
    names, decisions = ledger.names(attempt["run_id"] for attempt in failed), ledger.decisions()
    shown = failed if everything else failed[:LISTED]
    parts: list[RenderableType] = []
    for attempt in shown:
        key = (attempt["run_id"], attempt["stage"], attempt["number"])
        line = Text(f"{names[attempt['run_id']]} {attempt['stage']}", style="red")
        line.append(f" ({attempt['run_id']}, attempt {attempt['number']}, {attempt['job'] or 'no job'})", style="dim")
        line.append(f" {attempt['cause']}: ", style="bold red").append(attempt["message"] or "", style="default")
        line.append(_decided(decisions.get(key)), style="dim")
        parts.append(line)
        log = root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"]).log
        said = " ".join((attempt["message"] or "").split())
        parts += [
            Text(f"    {text}", style="dim")
            for text in rundir.tail(log, LOG_LINES)
            if text.strip().removeprefix("TinyTransformersError: ").removeprefix("CheckFailed: ") not in said
        ]
    causes = Counter(attempt["cause"] for attempt in failed)
    summary = ", ".join(f"{count} {cause}" for cause, count in causes.items())
    more = [Text(f"and {len(failed) - len(shown):,} more: `status --failed`")] if len(shown) < len(failed) else []
    advice = (
        "`logs RUN STAGE` shows a whole log; `tick` tries again what the retry rules say, `rerun --failed` all of "
        "these, and what follows."
    )
    return [Text(f"Failed: {summary}", style="bold red"), *parts, *more, Text(advice)]


def _decided(decision: dict[str, Any] | None) -> str:
    if decision is None:
        return ""
    if decision["action"] == "stop":
        return f" [not tried again by itself: {decision['tries']} x {decision['cause']}]"
    return f" [to be tried again: {decision['changes']}]"


def _at_most(lines: Sequence[Text], advice: str) -> list[Text]:
    more = len(lines) - LISTED
    return [*lines[:LISTED], Text(f"and {more:,} more; {advice}")] if more > 0 else list(lines)


def _flags(ledger: Ledger) -> list[RenderableType]:
    """Checks that did not hold but do not make a score wrong by themselves, and code that changed between runs."""
    rows = [row for row in ledger.failed_checks() if not row["blocking"]]
    names = ledger.names(row["run_id"] for row in rows)
    flagged: dict[str, list[str]] = {}
    for row in rows:
        flagged.setdefault(names[row["run_id"]], []).append(row["name"])
    if len(flagged) > FLAGGED:
        counted = Counter(row["name"] for row in rows).most_common()
        flagged = {f"{len(flagged):,} runs": [f"{check} ({number:,})" for check, number in counted]}
    lines = [Text(f"flagged: {name}: {', '.join(checks)}", style="yellow") for name, checks in flagged.items()]
    lines += [Text(f"flagged: {told}", style="yellow") for told in identical_scores(ledger)]
    versions = ledger.code_versions()
    if len(versions) > 1:
        told = ", ".join(f"{code} ({count:,})" for code, count in versions.items())
        lines.append(
            Text(f"flagged: completed stage runs are of {len(versions)} versions of the code: {told}", style="yellow")
        )
    return list(lines)


def identical_scores(ledger: Ledger) -> list[str]:
    """Check `identical_scores`: runs that were trained differently and score the same to the last digit."""
    told = []
    for stage, run_ids in ledger.identical_scores():
        known = ledger.names(run_ids)
        names = [f"{known[run_id]} ({run_id})" for run_id in run_ids]
        more = f" and {len(names) - FLAGGED:,} more" if len(names) > FLAGGED else ""
        told.append(f"{stage}: identical_scores: {', '.join(names[:FLAGGED])}{more}")
    return told


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
