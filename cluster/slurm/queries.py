"""The only module that calls squeue, sacct, scancel, scontrol, sinfo and sacctmgr; every call has a time-out.

Knowledge of a job is three-valued: what a query showed (`Job`), that it showed nothing (absent from the answer), or
that there was no answer (None). A failed query is never taken for an empty one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.files.causes import Cause

TIMEOUT = 30  # seconds
LIVE = {
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
}  # fmt: skip
CAUSES: dict[str, Cause] = {  # a state that a job ends in -> why a result is missing
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


NEVER_STARTS = {  # squeue's reason -> what it means to a person; without one the job waits for ever
    "DependencyNeverSatisfied": "what it depends on has failed: `cancel` it",
    "JobHeldUser": "held by you: `scontrol release` or `cancel` it",
    "JobHeldAdmin": "held by an administrator: ask, or `cancel` it",
    "launch failed requeued held": "its node could not start it: `scontrol release` or `cancel` it",
    "BadConstraints": "no node fits what it asks for: `cancel` it and mend the site's profile",
    "PartitionTimeLimit": "it asks for more time than the partition gives: `cancel` it and mend max_time",
    "AccountNotAllowed": "the partition does not take the account: `cancel` it and mend the site's profile",
    "QOSNotAllowed": "the partition does not take the QOS: `cancel` it and mend the site's profile",
}
WAITS = {  # of one that ends by itself
    "Priority": "others with a higher priority come first",
    "Resources": "next in line, until a node is free",
    "JobArrayTaskLimit": "the array's own limit of tasks at once",
    "BeginTime": "it was put off, and may begin later",
    "Dependency": "another job must end first",
    "Cleaning": "its earlier life is being cleared away",
    "Prolog": "its node is being made ready",
    "Licenses": "a licence is in use",
    "Reservation": "its reservation has not begun",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved, for a maintenance perhaps",
    "Nodes required for job are DOWN": "the nodes that it needs are down, drained or reserved",
    "Reserved for maintenance": "the nodes are reserved for a maintenance",
    "PartitionDown": "the partition is closed to new jobs for the time being",
    "PartitionInactive": "the partition is switched off for the time being",
    "PartitionNodeLimit": "the partition has too few nodes up",
    "NodeDown": "a node that it needs is down",
    "JobLaunchFailure": "it could not be launched, and is tried again",
    "RaisedSignal": "it is being signalled",
    "SystemFailure": "SLURM, its file system or the network failed",
    "QOSUsageThreshold": "the QOS has used too much",
    "QOSResourceLimit": "the QOS has reached a limit",
    "AssociationJobLimit": "your account runs as many jobs as it may",
    "AssociationResourceLimit": "your account has as much as it may",
    "AssociationTimeLimit": "your account has used up its time",
}
OWNERS = {"QOS": "the QOS", "Assoc": "your account", "MaxJobsPer": "your account"}  # how a limit's reason begins
LIMITED = {  # a part of a limit's reason -> what it limits; the first that fits
    "Minutes": "has no compute time left for it",
    "Wall": "has no compute time left for it",
    "GRES": "has as many GPUs as it may",
    "Cpu": "has as many CPUs as it may",
    "CPU": "has as many CPUs as it may",
    "Mem": "has as much memory as it may",
    "Node": "has as many nodes as it may",
    "Billing": "has as much as it may",
    "Job": "runs as many jobs as it may",
}
FULL = 0.95  # of the memory asked for: a job killed by SIGKILL that had so much was killed for it


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array, as SLURM showed it."""

    key: str  # 123, or 123_4 for a task
    name: str
    state: str
    reason: str = ""
    node: str = ""
    exit_code: str = ""  # code:signal
    memory: float = 0.0  # MB, the largest step's peak; 0: not known
    asked: float = 0.0  # MB of memory that the job had; 0: not known
    account: str = ""
    earlier: tuple[Job, ...] = ()  # what it was before each requeue, the oldest first

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def cause(self) -> Cause:
        """Why a result is missing, if one is."""
        killed = self.exit_code.endswith(":9") and self.state in ("FAILED", "CANCELLED")
        if killed and self.asked and self.memory >= FULL * self.asked:
            return "out_of_memory"  # a cgroup kills with SIGKILL, and not every site's SLURM says why
        return CAUSES.get(self.state, "lost")


@dataclass(frozen=True)
class Limits:
    """The limits of an account, in tasks of arrays; None: no limit."""

    max_submit: int | None = None  # waiting and running together
    max_jobs: int | None = None  # running at once
    max_time: int | None = None  # minutes


class Slurm:
    """A SLURM cluster as its command-line clients show it."""

    def __init__(self) -> None:
        self.seen: dict[str, Job] | None = None  # the last answer of `queue`

    def queue(self) -> dict[str, Job] | None:
        """All of the user's jobs that the controller remembers, finished ones of the last minutes too, by key.
        None: no answer."""
        text = _ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%F|%K|%T|%r|%N|%a|%j")
        self.seen = None if text is None else parse_queue(text)
        return self.seen

    def history(self, names: Iterable[str], days: int) -> dict[str, Job] | None:
        """Return what accounting has of this user's jobs with these names in the last so many days, by key; nothing
        where accounting is switched off. None: no answer."""
        fields = "JobID,JobName,State,ExitCode,NodeList,Start,MaxRSS,ReqMem,AllocCPUS"
        which = ("--name", ",".join(names), "-S", f"now-{days}days", "-u", _user())
        shown = _run("sacct", "-n", "-P", "-D", *which, f"--format={fields}")
        if shown is None:
            return None
        if "accounting storage is disabled" in shown.stderr.lower():
            return {}
        return parse_history(shown.stdout) if shown.returncode == 0 else None

    def cancel(self, job_ids: Iterable[str]) -> str | None:
        """Cancel; the error's text if SLURM did not take it. Jobs that have ended are none."""
        ids = list(job_ids)
        for start in range(0, len(ids), 200):
            shown = _run("scancel", "--quiet", *ids[start : start + 200])
            if shown is None:
                return "scancel gave no answer"
            if shown.returncode and "Invalid job id" not in shown.stderr:
                return shown.stderr.strip()
        return None

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

    def limits(self, account: str | None, qos: str | None) -> Limits | None:
        """The narrowest of the association's, its account's and the QOS's. None: no answer, or no accounting."""
        where = [f"user={_user()}"] + ([f"account={account}"] if account else [])
        fields = "account,user,defaultqos,maxsubmitjobs,grpsubmitjobs,maxjobs,grpjobs,maxwall"
        shown = _ask("sacctmgr", "-n", "-P", "show", "assoc", *where, f"format={fields}")
        if shown is None:
            return None
        rows = [line.split("|") for line in shown.splitlines()]
        if not account and len(rows) > 1:  # SLURM takes the default account, which is asked for only then
            default = _ask("sacctmgr", "-n", "-P", "show", "user", _user(), "format=defaultaccount")
            if default is None:
                return None
            rows = [row for row in rows if row[0] == default.strip()]
        found = [_limits(row[3:5], row[5:7], row[7]) for row in rows]
        quality = qos or next((row[2] for row in rows if row[2]), None)
        if quality:
            fields = "maxsubmitjobsperuser,maxsubmitjobsperaccount,maxjobsperuser,maxjobsperaccount,maxwall"
            text = _ask("sacctmgr", "-n", "-P", "show", "qos", quality, f"format={fields}")
            if text is None:
                return None
            found += [_limits(row[:2], row[2:4], row[4]) for row in (line.split("|") for line in text.splitlines())]
        return Limits(
            _least(each.max_submit for each in found),
            _least(each.max_jobs for each in found),
            _least(each.max_time for each in found),
        )

    def accounts(self) -> list[str] | None:
        text = _ask("sacctmgr", "-n", "-P", "show", "assoc", f"user={_user()}", "format=account")
        return None if text is None else sorted(set(text.split()))


def never_starts(reason: str) -> str | None:
    """Return what to do about a job that waits for this reason; None if it may begin by itself."""
    if reason.startswith(tuple(OWNERS)) and "PerJob" in reason:
        return "it asks for more than one job may have: `cancel` it and mend the site's profile"
    return NEVER_STARTS.get(reason)


def in_words(reason: str) -> str:
    """Return what squeue's reason means to a person; itself if that is not known."""
    stuck = never_starts(reason)
    if stuck:
        return stuck
    known = next((text for key, text in WAITS.items() if reason.startswith(key)), None)
    if known:
        return known
    owner = next((who for prefix, who in OWNERS.items() if reason.startswith(prefix)), None)
    limited = next((text for part, text in LIMITED.items() if part in reason), None)
    return f"{owner} {limited}" if owner and limited else reason


def parse_queue(text: str) -> dict[str, Job]:
    jobs = {}
    for line in text.splitlines():
        _, array, task, state, reason, node, account, name = line.split("|", 7)
        key = f"{array}_{task}" if task.isdigit() else array
        jobs[key] = Job(key, name, state, "" if reason == "None" else reason, node, account=account)
    return jobs


def parse_history(text: str) -> dict[str, Job]:
    """sacct's lines: each life of a job, then its steps, which know its memory. Pending tasks of an array come
    together as 123_[4-10%2]; they are told apart here."""
    lives: dict[str, list[tuple[str, Job]]] = {}
    for line in text.splitlines():
        job_id, name, state, exit_code, node, start, peak, asked, cpus = line.split("|")
        job_id, _, step = job_id.partition(".")
        if step:
            start_of_life, job = lives[job_id][-1]
            lives[job_id][-1] = start_of_life, replace(job, memory=max(job.memory, megabytes(peak)))
            continue
        memory = megabytes(asked) * (int(cpus or 0) if asked.endswith("c") else 1)
        for key in _expand(job_id):
            job = Job(key, name, state.split()[0], "", node, exit_code, asked=memory)  # "CANCELLED by 0"
            lives.setdefault(key, []).append((start, job))
    return {key: _last_life(found) for key, found in lives.items()}


def _last_life(lives: Sequence[tuple[str, Job]]) -> Job:
    # A life that has not begun has no start, "Unknown" or "None", which sorts behind every date.
    jobs = [job for _, job in sorted(lives, key=lambda life: life[0] if life[0][:1].isdigit() else "~")]
    return replace(jobs[-1], earlier=tuple(jobs[:-1]))


def megabytes(text: str) -> float:
    """SLURM's 1234K, 200Mc, 1.5G, 4Gn in MB; 0 for nothing."""
    match = re.match(r"([\d.]+)([KMGT]?)", text)
    factors = {"": 1e-6, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
    return float(match[1]) * factors[match[2]] if match else 0.0


def minutes(limit: str) -> int | None:
    """SLURM's days-hours:minutes:seconds in minutes; None for UNLIMITED or nothing."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", limit)
    if not match:
        return None
    days, hours, rest, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + rest


def _limits(submit: Sequence[str], jobs: Sequence[str], wall: str) -> Limits:
    return Limits(_least(map(_number, submit)), _least(map(_number, jobs)), minutes(wall))


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


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
