"""The only module that calls squeue, sacct, scancel, scontrol, sinfo and sacctmgr; every call has a time-out.

Knowledge of a job is three-valued: what a query showed (`Job`), that it showed nothing (absent from the answer), or
that there was no answer (None). A failed query is never taken for an empty one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

TIMEOUT = 30  # seconds
LIVE = {
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
}  # fmt: skip
CAUSES = {  # a state that a job ends in -> why a result is missing
    "COMPLETED": "lost",
    "FAILED": "error",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
}


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array, as SLURM showed it."""

    key: str  # 123, or 123_4 for a task
    name: str
    state: str
    reason: str = ""
    node: str = ""
    exit_code: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def cause(self) -> str:
        """Why a result is missing, if one is."""
        return CAUSES.get(self.state, "lost")


class Slurm:
    """A SLURM cluster as its command-line clients show it."""

    def queue(self) -> dict[str, Job] | None:
        """All of the user's jobs that the controller remembers, finished ones of the last minutes too, by key.
        None: no answer."""
        text = _ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%F|%K|%T|%r|%N|%j")
        return None if text is None else parse_queue(text)

    def history(self, job_ids: Iterable[str]) -> dict[str, Job] | None:
        """What accounting has of these jobs, by key; nothing where accounting is switched off. None: no answer."""
        return self._history("-j", ",".join(job_ids))

    def history_named(self, name: str) -> dict[str, Job] | None:
        """What accounting has of jobs with this name in the last two days, as `history`."""
        return self._history("--name", name, "-S", "now-2days")

    def _history(self, *which: str) -> dict[str, Job] | None:
        shown = _run("sacct", "-X", "-n", "-P", *which, "--format=JobID,JobName,State,ExitCode,NodeList")
        if shown is None:
            return None
        if "accounting storage is disabled" in shown.stderr.lower():
            return {}
        return parse_history(shown.stdout) if shown.returncode == 0 else None

    def cancel(self, job_ids: Iterable[str]) -> str | None:
        """Cancel; the error's text if SLURM did not take it."""
        shown = _run("scancel", *job_ids)
        if shown is None:
            return "scancel gave no answer"
        return shown.stderr.strip() if shown.returncode else None

    def configuration(self) -> dict[str, str] | None:
        text = _ask("scontrol", "show", "config")
        if text is None:
            return None
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {key.strip(): value.strip() for key, _, value in pairs}

    def partition(self, name: str) -> dict[str, str] | None:
        """scontrol's words for a partition; empty if there is none of that name. None: no answer."""
        shown = _run("scontrol", "-o", "show", "partition", name)
        if shown is None:
            return None
        if shown.returncode:
            return {} if "not found" in shown.stderr + shown.stdout else None
        return dict(pair.partition("=")[::2] for pair in shown.stdout.split())

    def nodes(self, partition: str) -> list[str] | None:
        """A line per kind of node: count, CPUs, memory in MB, generic resources."""
        text = _ask("sinfo", "-h", "-p", partition, "-o", "%D nodes, %c CPUs, %m MB, %G")
        return None if text is None else text.splitlines()

    def accounts(self) -> list[str] | None:
        text = _ask("sacctmgr", "-n", "-P", "show", "assoc", f"user={_user()}", "format=account")
        return None if text is None else sorted(set(text.split()))


def parse_queue(text: str) -> dict[str, Job]:
    jobs = {}
    for line in text.splitlines():
        _, array, task, state, reason, node, name = line.split("|", 6)
        key = f"{array}_{task}" if task.isdigit() else array
        jobs[key] = Job(key, name, state, "" if reason == "None" else reason, node)
    return jobs


def parse_history(text: str) -> dict[str, Job]:
    """sacct keeps pending tasks of an array together as 123_[4-10%2]; they are told apart here."""
    jobs = {}
    for line in text.splitlines():
        job_id, name, state, exit_code, node = line.split("|", 4)
        for key in _expand(job_id):
            jobs[key] = Job(key, name, state.split()[0], "", node, exit_code)  # "CANCELLED by 0"
    return jobs


def _expand(job_id: str) -> list[str]:
    match = re.fullmatch(r"(\d+)_\[([\d,\-]+)(?:%\d+)?\]", job_id)
    if not match:
        return [job_id]
    array, ranges = match.groups()
    tasks: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        tasks += range(int(first), int(last or first) + 1)
    return [f"{array}_{task}" for task in tasks]


def _user() -> str:
    import getpass

    return getpass.getuser()


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    """None: not installed, or no answer in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return None


def _ask(*command: str) -> str | None:
    shown = _run(*command)
    return shown.stdout if shown and shown.returncode == 0 else None
