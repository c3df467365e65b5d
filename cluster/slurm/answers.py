"""Turn what SLURM's clients print into what is known of jobs. Pure.

An answer is foreign bytes. What has our form is taken; notices, banners and jobs whose name has a line end are passed
over; and if what is left cannot be trusted (no line in our form, not even the heading, or a last line that is cut off)
there was no answer, which is None. A state that is not known here is alive until something proves otherwise."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.files.causes import Cause
from cluster.slurm.reasons import never_starts

QUEUE = "%i|%F|%K|%T|%r|%N|%a|%k|%j"  # squeue's format; comment and name last, since both may have a | of their own
HISTORY = "JobID,JobName,State,ExitCode,NodeList,Start,MaxRSS,ReqMem,AllocCPUS"  # sacct's
LIVE = {
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "EXPEDITING", "REQUEUED", "REQUEUE_HOLD",
    "REQUEUE_FED", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
}  # fmt: skip
HELD = {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}  # of those, until somebody releases them
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "SUSPENDED", "STOPPED", *HELD}  # of those, that do no work
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
UNKNOWN = "?"  # as squeue says itself of a state that it does not know
FULL = 0.95  # of the memory asked for: a job killed by SIGKILL that had so much was killed for it
REST = "*"  # the tasks of an array whose list SLURM has cut, in the place of a task
MOST_TASKS = 100_000  # of an array that are told apart; SLURM itself ends at 4 million
_NUMBER = "[0-9]{1,18}"
_JOB = re.compile(rf"({_NUMBER})(\+{_NUMBER})?(?:_({_NUMBER}|\[[^\]|]*\]?))?(?:\.(.+))?", re.ASCII)
_STATE = re.compile(r"(?:[A-Z_]+\+?|\?)(?: .*)?")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # but line ends
_TOKEN_FIRST = re.compile(r"([0-9a-f]{12})\|(.*)")


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
    comment: str | None = None  # None: not shown; empty of accounting, which is asked by name
    earlier: tuple[Job, ...] = ()  # what it was before each requeue, the oldest first
    same_key: tuple[Job, ...] = ()  # jobs of other names that have this key, too: numbers come again

    @property
    def array(self) -> str:
        return self.key.partition("_")[0]

    @property
    def live(self) -> bool:
        return self.state not in CAUSES

    @property
    def waits_for(self) -> str | None:
        """SLURM's reason, or the state where that says more; None if it does not wait, or nothing is known of that."""
        if self.state not in WAITING:
            return None
        told = "" if self.state in HELD and not never_starts(self.reason) else self.reason
        return told or self.state

    @property
    def cause(self) -> Cause:
        """Why a result is missing, if one is."""
        killed = self.exit_code.endswith(":9") and self.state in ("FAILED", "CANCELLED")
        if killed and self.asked and self.memory >= FULL * self.asked:
            return "out_of_memory"  # a cgroup kills with SIGKILL, and not every site's SLURM says why
        return CAUSES.get(self.state, "lost")

    def is_of(self, submission_id: str) -> bool | None:
        """Whether it is this submission's, by its name or its comment: numbers come again, and names are changed.
        None: its comment was not shown."""
        if self.name == job_name(submission_id) or self.comment == submission_id:
            return True
        return None if self.comment is None else False


def job_name(submission_id: str) -> str:
    return f"tt-{submission_id}"


def find(jobs: Mapping[str, Job], key: str, submission_id: str) -> Job | None:
    """Return a submission's job by its key, or the one that stands for all tasks that a cut list does not name; None if
    there is none, or if those that have this number are others'. If it was not shown whose one is, it may be ours, and
    nothing is known of its state."""
    unknown: Job | None = None
    for found in (jobs.get(key), jobs.get(f"{key.partition('_')[0]}_{REST}")):
        for job in (found, *found.same_key) if found else ():
            if ours := job.is_of(submission_id):
                return job
            if ours is None and not unknown:
                unknown = replace(job, state=UNKNOWN, reason="")
    return unknown


def arrays_of(jobs: Mapping[str, Job], submission_id: str) -> set[str]:
    """Return the numbers under which a submission's jobs are there."""
    return {job.array for found in jobs.values() for job in (found, *found.same_key) if job.is_of(submission_id)}


def in_utf8(said: bytes) -> str:
    """Return what a client printed; a byte that is no UTF-8 stands as \ufffd."""
    return said.decode("utf-8", "replace").replace("\r\n", "\n")


def parse_queue(text: str) -> dict[str, Job] | None:
    """Return squeue's jobs by key. None: this is no answer."""
    lines = _lines(text)
    if lines is None:
        return None
    jobs: dict[str, Job] = {}
    answered = False
    for line in lines:
        answered |= line.startswith("JOBID|")
        fields = line.split("|", 7)
        match = _JOB.fullmatch(fields[0])
        if len(fields) < 8 or not match or match[4] or number_in(fields[1]) is None or not _STATE.fullmatch(fields[3]):
            continue
        answered = True
        _, array, task, state, reason, node, account, labels = fields
        comment, name = _labels(labels)
        for key in [fields[0]] if match[2] else _keys(array, task if task != "N/A" else match[3] or ""):
            job = Job(key, name, _state(state), "" if reason == "None" else reason, node, account=account,
                      comment=comment)  # fmt: skip
            if key in jobs and jobs[key] != job:  # of several clusters, perhaps: whose it is cannot be known
                job = Job(key, "", UNKNOWN)
            jobs[key] = job
    return jobs if answered else None


def parse_history(text: str) -> dict[str, Job] | None:
    """Return sacct's jobs by key: each life of a job, and what its steps know of its memory. None: no answer."""
    lines = _lines(text)
    if lines is None:
        return None
    lives: dict[str, list[tuple[str, Job]]] = {}
    answered = False
    for line in lines:
        answered |= line.startswith("JobID|")
        job_id, _, rest = line.partition("|")
        name, *fields = rest.rsplit("|", 7)
        match = _JOB.fullmatch(job_id)
        if len(fields) != 7 or not match or not _STATE.fullmatch(fields[0]):
            continue
        answered = True
        state, exit_code, node, start, peak, asked, cpus = fields
        number, component, task, step = match.groups()
        keys = [job_id.partition(".")[0]] if component else _keys(number, task or "")
        if step:
            for start_of_life, job in [lives[key].pop() for key in keys if key in lives]:
                lives[job.key].append((start_of_life, replace(job, memory=max(job.memory, megabytes(peak)))))
            continue
        memory = megabytes(asked) * ((number_in(cpus) or 0) if asked.endswith("c") else 1)
        for key in keys:
            job = Job(key, name, _state(state), "", node, exit_code, asked=memory, comment="")
            lives.setdefault(key, []).append((start, job))
    return {key: _last_life(found) for key, found in lives.items()} if answered else None


def rows(text: str, heading: str, width: int) -> list[list[str]] | None:
    """Return the lines that have so many fields, but for the heading, of which this is the first. None: no answer."""
    found = [fields for line in _lines(text) or () if len(fields := line.split("|")) == width]
    return [fields for fields in found if fields[0] != heading] if found else None


def pairs(text: str) -> dict[str, str]:
    """Return scontrol's `Key = value` lines."""
    split = (line.partition("=") for line in _lines(text) or () if "=" in line)
    return {key.strip(): value.strip() for key, _, value in split}


def room_in_groups(text: str, accounts: Collection[str], qos: Collection[str]) -> int | None:
    """Return how many more jobs the narrowest limit takes that the jobs of several users count against, by scontrol's
    words for these accounts and QOS: GrpSubmitJobs=limit(jobs). None: there is no such limit, or it is not told."""
    limits: list[str] = []
    for line in _lines(text) or ():
        owner = re.match(r"ClusterName=\S* Account=(\S*) UserName= |QOS=(\S*?)(?:\(\d+\))? ", line)
        if owner and (owner[1] in accounts or owner[2] in qos):
            of_accounts = [part for part in re.findall(r" (\S+)=\{([^}]*)", line) if part[0] in accounts]
            limits += [line.partition(" Limits=")[0], *(part for _, part in of_accounts)]
    counted = re.findall(rf"\b(?:GrpSubmitJobs|MaxSubmitJobsPA)=({_NUMBER})\(({_NUMBER})\)", "\n".join(limits))
    return min((max(0, int(most) - int(jobs)) for most, jobs in counted), default=None)


def megabytes(text: str) -> float:
    """Return SLURM's 1234K, 200Mc, 1.5G, 4Gn in MB; 0 for nothing."""
    match = re.match(r"([0-9]{1,18}(?:\.[0-9]+)?)([KMGTP]?)", text)
    factors = {"": 1e-6, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}
    return float(match[1]) * factors[match[2]] if match else 0.0


def minutes(limit: str) -> int | None:
    """Return SLURM's days-hours:minutes:seconds in minutes; None for UNLIMITED or nothing."""
    match = re.fullmatch(rf"(?:({_NUMBER})-)?({_NUMBER}):({_NUMBER}):({_NUMBER})", limit)
    if not match:
        return None
    days, hours, rest, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + rest


def number_in(text: str) -> int | None:
    """Return a whole number; None for anything else."""
    return int(text) if re.fullmatch(_NUMBER, text) else None


def _lines(text: str) -> list[str] | None:
    """Return the lines as SLURM has ended them, without control characters; None if the last one may be one of
    SLURM's that is cut off: whatever came after it is not known."""
    *whole, rest = _CONTROL.sub("?", text).split("\n")
    return None if re.match(r"[0-9]", rest) else whole


def _labels(text: str) -> tuple[str | None, str]:
    """Tell comment|name apart. Neither of ours has a |, but what a user has put in the place of the other may."""
    if match := _TOKEN_FIRST.fullmatch(text):
        return match[1], match[2]
    comment, separator, name = text.rpartition("|")
    return (comment if separator else None), name


def _state(text: str) -> str:
    """Return a state's word: sacct says who cancelled, and cuts what its column has no room for."""
    word = text.partition(" ")[0]
    if not word.endswith("+"):
        return word
    known = [state for state in (*CAUSES, *LIVE) if state.startswith(word[:-1])]
    return known[0] if len(known) == 1 else word


def _keys(array: str, tasks: str) -> Iterator[str]:
    """Yield a key for each task of an array: 4, or a list such as [0-3,7%4] or 0-38:2%4; of a list that is cut, with
    dots or without its bracket, those that are whole, and REST for all others."""
    if not tasks:
        yield array
        return
    if (task := number_in(tasks)) is not None:  # as nearly all are
        yield f"{array}_{task}"
        return
    items, _, _ = tasks.strip("[]").partition("%")
    whole, dots, _ = items.partition("...")
    named = whole.split(",")
    cut = bool(dots) or (tasks.startswith("[") and not tasks.endswith("]"))
    if cut:
        named.pop()  # its number may be the first half of one
    left = MOST_TASKS
    for item in named:
        match = re.fullmatch(rf"({_NUMBER})(?:-({_NUMBER})(?::({_NUMBER}))?)?", item)
        if not match:
            cut |= bool(item)
            continue
        found = range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1) or 1)[: left + 1]
        cut |= len(found) > left
        yield from (f"{array}_{number}" for number in found[:left])
        left -= min(len(found), left)
    if cut:
        yield f"{array}_{REST}"


def _last_life(lives: Sequence[tuple[str, Job]]) -> Job:
    """Return a job as it is now, with its earlier lives, and with other jobs of its number, whose lives are not its."""
    # A life that has not begun has no start, "Unknown" or "None", which sorts behind every date.
    by_name: dict[str, list[Job]] = {}
    for _, job in sorted(lives, key=lambda life: life[0] if life[0][:1].isdigit() else "~"):
        by_name.setdefault(job.name, []).append(job)
    job, *others = [replace(jobs[-1], earlier=tuple(jobs[:-1])) for jobs in by_name.values()]
    return replace(job, same_key=tuple(others)) if others else job
