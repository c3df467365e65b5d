"""A shell command of the user's, run when a study has finished, first failed, or SLURM is away for long.

Each event is told once: whoever tells it first creates the file of its try exclusively, and writes there what came of
it. A command that failed is run again a minute later at the earliest, three times in all. Only a teller that is killed
between the two leaves open whether it was told: then it is told again. Nothing here stops or fails the command that
noticed the event."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from cluster.console import clean, count, stderr
from cluster.files import whole_files
from cluster.files.causes import Cause
from cluster.files.documents import NotifyFile
from cluster.files.folders import OutputRoot
from cluster.files.statuses import STATUSES, STUCK, UNFINISHED
from cluster.ledger.database import Ledger
from cluster.ledger.rows import FailureRow
from cluster.sites.profiles import Site

TIMEOUT = 30.0  # seconds
AGAIN = 60.0  # seconds before what failed is told again
TRIES = 3


@dataclass(frozen=True)
class Event:
    kind: str  # study_finished, first_failure, slurm_unreachable
    key: str  # the same of the same event
    message: str
    study: str = ""
    counts: dict[str, int] = field(default_factory=dict)  # status -> stage runs of the study

    @property
    def file(self) -> str:
        return f"{self.kind}.{quote(self.key, safe=' ')}"


def configure(ledger: Ledger, output_root: OutputRoot, site: Site) -> None:
    """Keep what the last `submit` says of it. What is past when it is first said is not told."""
    if site.notify is None:
        output_root.notify.unlink(missing_ok=True)
        return
    retried: list[str] = [cause for cause in get_args(Cause) if site.rule(cause).times]
    settings: NotifyFile = {
        "command": site.notify.command, "events": list(site.notify.events),
        "unreachable_after": site.notify.unreachable_after, "retried": retried,
    }  # fmt: skip
    if not output_root.notify.exists():
        for event in _of_studies(ledger, settings):
            whole_files.create_json(
                _file(output_root, event, 1), {**asdict(event), "outcome": "sent", "why": "it was past"}
            )
    whole_files.write_json(output_root.notify, settings)


def tell(output_root: OutputRoot) -> None:
    """Tell what is new. What goes wrong is a warning."""
    try:
        settings: NotifyFile | None = whole_files.read_json(output_root.notify)
        if settings is None:
            return
        with closing(Ledger(output_root.ledger, read_only=True)) as ledger:
            events = [*_of_studies(ledger, settings), *_of_slurm(output_root, ledger.recall("slurm"), settings)]
        for event in events:
            if event.kind in settings["events"]:
                _tell_once(output_root, settings["command"], event)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the command
        stderr.print(f"notify: {type(error).__name__}: {error}", style="yellow", soft_wrap=True)


# -- events -----------------------------------------------------------------------------------------------------------


def _of_studies(ledger: Ledger, settings: NotifyFile) -> Iterator[Event]:
    failures: dict[str, list[FailureRow]] = {}
    for failure in ledger.failures_by_study():
        failures.setdefault(failure["study"], []).append(failure)
    for study, stages in ledger.tally().items():
        if not study:
            continue
        counts: dict[str, int] = {}
        for of_stage in stages.values():
            for status, number in of_stage.items():
                counts[status] = counts.get(status, 0) + number
        failed = failures.get(study, [])
        final = [each for each in failed if _is_final(each, settings["retried"])]
        if final:
            one = final[0]
            text = f"{study}: {one['stage']} of {one['name']} failed: {one['cause']}: {one['message']}"
            yield Event("first_failure", study, text, study, counts)
        if len(final) == len(failed) and not any(counts.get(status) for status in UNFINISHED):
            completed, total = counts.get("completed", 0), sum(counts.values())
            text = f"{study} has finished: {completed:,} of {count(total, 'stage run')} completed"
            lacking = [f"{counts[status]:,} {status}" for status in STUCK if counts.get(status)]
            yield Event("study_finished", f"{study}.{completed}-of-{total}", ", ".join([text, *lacking]), study, counts)


def _is_final(failure: FailureRow, retried: Collection[str]) -> bool:
    """Whether a failure is not tried again by itself."""
    return bool(failure["decided"] == "stop" or (failure["decided"] is None and failure["cause"] not in retried))


def _of_slurm(root: OutputRoot, answer: str | None, settings: NotifyFile) -> Iterator[Event]:
    path = root.notification("unreachable")
    if answer != "unreachable":
        path.unlink(missing_ok=True)
        return
    whole_files.create_json(path, {"since": int(time.time())})
    since = (whole_files.read_json(path) or {}).get("since", time.time())
    minutes = (time.time() - since) / 60
    if minutes >= settings["unreachable_after"]:
        yield Event("slurm_unreachable", str(since), f"SLURM has not answered for {minutes:.0f} minutes")


# -- telling ----------------------------------------------------------------------------------------------------------


def _file(root: OutputRoot, event: Event, number: int) -> Path:
    return root.notification(f"{event.file}.{number}")


def _tell_once(root: OutputRoot, command: str, event: Event) -> None:
    for number in range(1, TRIES + 1):
        path = _file(root, event, number)
        if not path.exists():
            break
        tried = whole_files.read_json(path) or {}
        if tried.get("outcome") == "sent" or whole_files.age(path) < AGAIN:  # or somebody is at it
            return
    else:
        return
    mine = {**asdict(event), "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    if not whole_files.create_json(path, mine):
        return
    problem = _run(command, root, event)
    whole_files.write_json(path, {**mine, "outcome": problem or "sent"})
    if problem:
        after = f"tried again in {AGAIN:.0f} s or later" if number < TRIES else "not tried again"
        stderr.print(f"notify: {event.message}: {problem}; {after}.", style="yellow", soft_wrap=True)


def _run(command: str, root: OutputRoot, event: Event) -> str | None:
    """Return what went wrong. The command has no terminal, and what it starts is stopped with it."""
    message = clean(event.message)
    told = {"TT_EVENT": event.kind, "TT_STUDY": clean(event.study), "TT_MESSAGE": message[:2_000],
            "TT_OUTPUT_ROOT": str(root.path.resolve()),
            **{f"TT_{status.upper()}": str(event.counts.get(status, 0)) for status in STATUSES},
            "TT_COUNTS": json.dumps(event.counts)}  # fmt: skip
    with tempfile.TemporaryFile() as text, tempfile.TemporaryFile() as said:
        text.write(f"{message}\n".encode("utf-8", "replace"))
        text.seek(0)
        try:
            process = subprocess.Popen(command, shell=True, stdin=text, stdout=said, stderr=subprocess.STDOUT,
                                       env=os.environ | told, start_new_session=True)  # fmt: skip
        except (OSError, ValueError) as error:
            return f"the command could not be started: {error}"
        try:
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            return f"the command had not ended after {TIMEOUT:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        words = " ".join(said.read(2_000).decode("utf-8", "replace").split())
    return f"the command ended with {code}{f': {words}' if words else ''}" if code else None
