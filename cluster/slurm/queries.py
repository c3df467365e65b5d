"""Ask SLURM by squeue, sacct, scancel, scontrol, sinfo and sacctmgr, each with a time-out.

Knowledge of a job is three-valued: what a query showed (`Job`), that it showed nothing (absent from the answer), or
that there was no answer (None). A failed query is never taken for an empty one, nor is an answer that cannot be read:
a heading is asked for, so that an answer without jobs can be told from silence."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from cluster.slurm import answers, environment
from cluster.slurm.answers import Job

TIMEOUT = 30  # seconds


@dataclass(frozen=True)
class Limits:
    """The limits of an account, in tasks of arrays; None: no limit."""

    max_submit: int | None = None  # waiting and running together
    max_jobs: int | None = None  # running at once
    max_time: int | None = None  # minutes
    max_array_size: int | None = None  # tasks of one array
    room: int | None = None  # for more now, beside everybody's; None: no limit in a group, or SLURM does not tell

    def __or__(self, other: Limits) -> Limits:
        """The narrower of both."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Limits(*(_least(pair) for pair in pairs))


@dataclass(frozen=True)
class NodeKind:
    """Nodes that are alike."""

    number: int
    cpus: int
    memory: int  # MB
    resources: str  # generic ones, in SLURM's words

    @property
    def gpus(self) -> dict[str, int]:
        """Type -> number on one node; the type is empty where the site gives none."""
        found = re.findall(r"\bgpu(?::([^:,()]+))??:(\d+)(?=[(,]|$)", self.resources)
        return {kind: int(number) for kind, number in found}

    def __str__(self) -> str:
        return (
            f"{self.number} node{'s' if self.number > 1 else ''}, {self.cpus} CPUs, {self.memory} MB, {self.resources}"
        )


class Slurm:
    """A SLURM cluster as its command-line clients show it."""

    def __init__(self) -> None:
        self.seen: dict[str, Job] | None = None  # the last answer of `queue`
        self._configuration: dict[str, str] | None = None

    def queue(self) -> dict[str, Job] | None:
        """All of the user's jobs that the controller remembers, finished ones of the last minutes too, by key.
        None: no answer."""
        # --all: also those in partitions that a site hides.
        text = _ask("squeue", "--me", "--all", "-r", "-t", "all", "-o", answers.QUEUE)
        self.seen = None if text is None else answers.parse_queue(text)
        return self.seen

    def history(self, names: Iterable[str], days: int) -> dict[str, Job] | None:
        """Return what accounting has of this user's jobs with these names in the last so many days, by key; nothing
        where accounting is switched off. None: no answer."""
        which = ("--name", ",".join(names), "-S", f"now-{days}days", "-u", environment.user())
        shown = _run("sacct", "-P", "-D", *which, f"--format={answers.HISTORY}")
        if shown is None:
            return None
        if "accounting storage is disabled" in shown.stderr.lower():
            return {}
        return answers.parse_history(shown.stdout) if shown.returncode == 0 else None

    def cancel(self, wanted: Iterable[tuple[str, str]]) -> str | None:
        """Cancel jobs, each of them named by its id and its submission's; returns what went wrong. One that has ended
        is nothing wrong. It looks first, unless it has: another's job that has the number by now is left alone."""
        jobs = self.queue() if self.seen is None else self.seen
        if jobs is None:
            return "squeue gave no answer"
        ids, problem = _still_ours(jobs, wanted), None
        for start in range(0, len(ids), 200):
            shown = _run("scancel", "--quiet", *ids[start : start + 200])
            if shown is None:
                return "scancel gave no answer"
            if shown.returncode and "Invalid job id" not in shown.stderr:
                problem = problem or shown.stderr.strip() or f"exit code {shown.returncode}"
        return problem

    def configuration(self) -> dict[str, str] | None:
        """scontrol's words for the cluster, asked for once. None: no answer."""
        if self._configuration is None:
            pairs = answers.pairs(_ask("scontrol", "show", "config") or "")
            self._configuration = pairs if "ClusterName" in pairs else None
        return self._configuration

    def partition(self, name: str) -> dict[str, str] | None:
        """scontrol's words for a partition; empty if there is none of that name. None: no answer."""
        shown = _run("scontrol", "-o", "show", "partition", name)
        if shown is None:
            return None
        if shown.returncode:
            return {} if "not found" in shown.stderr + shown.stdout else None
        words = next((line.split() for line in shown.stdout.split("\n") if line.startswith("PartitionName=")), [])
        return dict(pair.partition("=")[::2] for pair in words) or None

    def default_partition(self) -> str | None:
        """The partition of a job that names none. None: no answer, or there is no such partition."""
        marked = [name for name in (_ask("sinfo", "-h", "-o", "%P") or "").split() if name.endswith("*")]
        return marked[0].removesuffix("*") if marked else None

    def nodes(self, partition: str) -> list[NodeKind] | None:
        """The kinds of nodes of a partition. None: no answer."""
        text = _ask("sinfo", "-h", "-e", "-p", partition, "-o", "%D|%c|%m|%G")
        return None if text is None else _kinds_of_nodes(text)

    def most_of_a_job(self, qualities: Sequence[str]) -> dict[str, int] | None:
        """Return what one job of all these QOS may have at most, such as {"cpu": 2, "gres/gpu": 1}. None: no answer."""
        if not qualities:
            return {}
        text = _ask("sacctmgr", "-n", "-P", "show", "qos", ",".join(qualities), "format=maxtresperjob")
        if text is None:
            return None
        most: dict[str, int] = {}
        for name, number in re.findall(r"([\w/:.-]+)=(\d+[KMGT]?)", text):
            value = int(answers.megabytes(number) if name == "mem" else number.rstrip("KMGT"))
            most[name] = min(value, most.get(name, value))
        return most

    def limits(
        self, account: str | None, qos: str | None, partitions: Mapping[str, Mapping[str, str]] | None = None
    ) -> Limits | None:
        """Return the narrowest limits of the user's association, of the accounts above it and of the QOS: the job's,
        and those of the partitions that it may go to, each in scontrol's words. None: no answer, or no accounting."""
        cluster = (self.configuration() or {}).get("ClusterName", "")
        rows = _associations(cluster, f"user={environment.user()}", *([f"account={account}"] if account else []))
        if rows is None:
            return None
        if not account and len({row.account for row in rows}) > 1:  # SLURM takes the default one, asked for only then
            default = _table("Def Acct", "defaultaccount", "user", environment.user())
            rows = [row for row in rows if [row.account] in (default or ())]
            if not rows:
                return None
        rows = _of_partitions(rows, partitions or {})
        above = _above(cluster, {row.account for row in rows})
        names = {qos} if qos else {row.default_qos for row in rows}
        names |= {each for words in (partitions or {}).values() for each in qualities(words, None)}
        named = sorted(filter(None, names))
        of_qos = _limits_of_qualities(named)
        if above is None or of_qos is None:
            return None
        found = reduce(or_, [*(row.limits for row in (*rows, *above)), *of_qos], Limits())
        return found | Limits(room=_room([row.account for row in above], named) if found.max_submit else None)

    def accounts(self) -> list[str] | None:
        user, cluster = environment.user(), (self.configuration() or {}).get("ClusterName")
        rows = _table("Account", "account,user", "assoc", f"user={user}", *([f"cluster={cluster}"] if cluster else []))
        mine = sorted({row[0] for row in rows or () if row[1].lower() == user.lower()})
        return mine or (None if rows is None or rows else [])


def _still_ours(jobs: Mapping[str, Job], wanted: Iterable[tuple[str, str]]) -> list[str]:
    """Return the ids among these that are in the queue and a submission's own; an array that is, as one."""
    of_arrays: dict[str, list[Job]] = {}
    for job in jobs.values():
        if job.live:
            of_arrays.setdefault(job.array, []).append(job)
    ids: list[str] = []
    for key, submission_id in wanted:
        array, _, task = key.partition("_")
        alive = [
            job for job in of_arrays.get(array, ()) if not task or job.key in (key, array, f"{array}_{answers.REST}")
        ]
        own = [job.key for job in alive if job.is_of(submission_id)]
        ids += [key] if own and len(own) == len(alive) else [one for one in own if answers.REST not in one]
    return ids


@dataclass(frozen=True)
class _Association:
    """A row of sacctmgr's associations: a user's in an account, perhaps for one partition, or the account's own."""

    cluster: str
    account: str
    user: str
    partition: str
    parent: str
    default_qos: str
    max_submit: str
    grp_submit: str
    max_jobs: str
    grp_jobs: str
    max_wall: str

    @property
    def limits(self) -> Limits:
        return _limits((self.max_submit, self.grp_submit), (self.max_jobs, self.grp_jobs), self.max_wall)


def _associations(cluster: str, *where: str) -> list[_Association] | None:
    """Return this cluster's; those of all where its name is not known: one database may serve several."""
    fields = "cluster,account,user,partition,parentname,defaultqos,maxsubmitjobs,grpsubmitjobs,maxjobs,grpjobs,maxwall"
    rows = _table("Cluster", fields, "assoc", *where)
    if rows is None:
        return None
    found = [_Association(*row) for row in rows]
    return [each for each in found if not cluster or each.cluster.lower() == cluster.lower()]


def _of_partitions(rows: Sequence[_Association], partitions: Collection[str]) -> list[_Association]:
    """Return those by which jobs of these partitions go: a partition's own, or the one that is of none."""
    general = [row for row in rows if not row.partition]
    found = [[row for row in rows if row.partition == name] or general for name in partitions]
    return [row for of_one in found for row in of_one] if partitions else general or list(rows)


def _above(cluster: str, accounts: Collection[str]) -> list[_Association] | None:
    """Return the rows of the accounts themselves and of all above them. A user's row has their maxima, and not what
    their jobs may be in a group."""
    found: list[_Association] = []
    asked: set[str] = set()
    while left := sorted(set(accounts) - asked):
        rows = _associations(cluster, f"account={','.join(left)}")
        if rows is None:
            return None
        asked |= set(left)
        found += [row for row in rows if not row.user and row.account in left]
        accounts = {row.parent for row in found if row.parent}
    return found


def _limits_of_qualities(names: Sequence[str]) -> list[Limits] | None:
    if not names:
        return []
    fields = (
        "maxsubmitjobsperuser,maxsubmitjobsperaccount,grpsubmitjobs,maxjobsperuser,maxjobsperaccount,grpjobs,maxwall"
    )
    rows = _table("MaxSubmitPU", fields, "qos", ",".join(names))
    return None if rows is None else [_limits(row[:3], row[3:6], row[6]) for row in rows]


def _room(accounts: Sequence[str], qos: Sequence[str]) -> int | None:
    """Return how many more jobs these accounts and QOS take now. Only the controller counts the jobs of other users,
    and it does not tell them everywhere."""
    which = [f"accounts={','.join(accounts)}", "flags=assoc,qos" if qos else "flags=assoc"]
    text = _ask("scontrol", "-o", "show", "assoc_mgr", *which, *([f"qos={','.join(qos)}"] if qos else []))
    return None if text is None else answers.room_in_groups(text, accounts, qos)


def names_of(partition: str | None) -> list[str]:
    """Return the partitions that a profile names: a job goes to whichever takes it first."""
    return [name for name in (partition or "").split(",") if name]


def _table(heading: str, fields: str, *what: str) -> list[list[str]] | None:
    """Return the rows of sacctmgr's table, whose heading begins so. None: no answer."""
    text = _ask("sacctmgr", "-P", "show", *what, f"format={fields}")
    return None if text is None else answers.rows(text, heading, fields.count(",") + 1)


def qualities(partition: Mapping[str, str], qos: str | None) -> list[str]:
    """The QOS that limit a job: that of its partition, in scontrol's words, and its own."""
    return [name for name in (partition.get("QoS"), qos) if name and name not in ("N/A", "(null)")]


def _limits(submit: Sequence[str], jobs: Sequence[str], wall: str) -> Limits:
    return Limits(_least(map(answers.number_in, submit)), _least(map(answers.number_in, jobs)), answers.minutes(wall))


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    """None: not installed, or no answer in time."""
    try:
        shown = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT, check=False, env=environment.for_queries(),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, OSError):
        return None
    said, complaint = answers.in_utf8(shown.stdout), answers.in_utf8(shown.stderr)
    return subprocess.CompletedProcess(command, shown.returncode, said, complaint)


def _ask(*command: str) -> str | None:
    shown = _run(*command)
    return shown.stdout if shown and shown.returncode == 0 else None


def _kinds_of_nodes(text: str) -> list[NodeKind] | None:
    """Return what sinfo says of nodes; None: not a line is in its form."""
    lines = re.findall(r"^([0-9]{1,9})\|([0-9]{1,9})\+?\|([0-9]{1,12})\+?\|(.*)$", text, re.MULTILINE)
    kinds = [NodeKind(int(number), int(cpus), int(memory), resources) for number, cpus, memory, resources in lines]
    return kinds or None
