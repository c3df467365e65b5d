"""SLURM as a program of one seed: a controller, accounting behind it, nodes, and what its clients print.

What they print has the forms that real clients have (tests/cluster/slurm/forms.yaml). They obey the variables of the
environment in which they are called, as real ones do."""

from __future__ import annotations

import functools
import random
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from simulation.kernel import Kernel, Process

KILL_WAIT = 5.0  # seconds from SIGTERM to SIGKILL
REQUEUE_WAIT = 5.0  # seconds that a requeued job waits at least
MIN_JOB_AGE = 120.0  # seconds that the controller remembers an ended job
FINAL = {"COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "CANCELLED", "OUT_OF_MEMORY"}
EPOCH_OF_IDS = 100
POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
    "and/or time limits)"
)
NODES = ("n1", "n2", "n3")


@dataclass
class Life:
    """A job's life from its start, or its wait, to a requeue or its end, as accounting has it."""

    state: str = "PENDING"
    start: float | None = None
    node: str = ""
    exit_code: str = "0:0"
    peak: float = 0.0  # MB


@dataclass
class Task:
    """One task of an array, or a job that is none."""

    array: int
    index: int | None
    name: str
    comment: str
    user: str
    account: str
    partition: str
    minutes: int
    delay: int  # seconds before the limit at which USR2 comes
    script: str
    environment: dict[str, str]
    requeue: bool
    throttle: int
    foreign: bool = False
    length: float = 0.0  # of a foreign one, seconds
    state: str = "PENDING"
    reason: str = "None"
    node: str = ""
    restart: int = 0
    begin: float = 0.0
    start: float | None = None
    ended: float | None = None
    lives: list[Life] = field(default_factory=lambda: [Life()])
    processes: list[Process] = field(default_factory=list)
    forgotten: bool = False  # the controller has lost it
    cancelled_by_hand: bool = False
    cancelled_while_pending: bool = False
    purged: bool = False
    failed_to_begin: str = ""
    elsewhere: bool = False  # on another cluster
    options: dict[str, str] = field(default_factory=dict)  # of its script and of sbatch's environment

    @property
    def key(self) -> str:
        return str(self.array) if self.index is None else f"{self.array}_{self.index}"

    @property
    def live(self) -> bool:
        return self.state not in FINAL

    @property
    def submission(self) -> str:
        return self.name.removeprefix("tt-") if not self.foreign else ""


@dataclass
class Reply:
    out: str = ""
    error: str = ""
    code: int = 0
    never: bool = False  # no answer: the client hangs


@dataclass
class Call:
    """A client of SLURM's, started by a process."""

    process: Process
    words: list[str]
    environment: dict[str, str]


class Refused(Exception):
    """sbatch's words for a refusal."""


class Batch:
    """The controller, slurmdbd, the nodes."""

    def __init__(self, kernel: Kernel, draw: random.Random, launch: Callable[[Task, Process], None]) -> None:
        self.kernel, self.draw, self.launch = kernel, draw, launch
        self.controller = self.accounting = True
        self.sleeps = True  # the scheduler, while there is no job
        self.tasks: list[Task] = []
        self._open: list[Task] = []  # those that may live
        self.next_id = EPOCH_OF_IDS
        self.rows: list[tuple[float, Task, list[Life]]] = []  # accounting's: when it may be seen, what it says
        self.lag = 0.0
        self.changed = 0.0  # when a limit, or the size of arrays, was
        self.limit: int | None = None  # jobs that an account may have at a time, as sbatch holds it
        self.limit_shown = True  # whether sacctmgr tells of it
        self.array_size = 1001
        self.partition_up = True
        self.nodes = NODES
        self.closed: set[str] = set()  # nodes that are down
        self.form: dict[str, Any] = {}  # how clients print: faults of a while
        self.ran: list[Task] = []
        self.read: Callable[[str], str]
        self.complain: Callable[[str], None]

    # -- what may happen to jobs

    def remembered(self) -> list[Task]:
        now = self.kernel.now
        return [
            task for task in self.tasks
            if not task.forgotten and not task.elsewhere and (task.ended is None or now - task.ended < MIN_JOB_AGE)
        ]  # fmt: skip

    def live(self, ours: bool = True) -> list[Task]:
        self._open = [task for task in self._open if task.state not in FINAL and not task.forgotten]
        return [task for task in self._open if not task.foreign] if ours else self._open

    def working(self) -> list[Task]:
        return [task for task in self.tasks if any(process.alive for process in task.processes)]

    def cycle(self) -> None:
        """The scheduler's turn, every second in which there is a job."""
        live = self.live(ours=False)
        self.sleeps = not live
        if self.sleeps:
            return
        self.kernel.at(self.kernel.now + 1.0, self.cycle)
        if not self.controller:
            return
        for task in live:
            if task.foreign and task.state == "RUNNING" and self.kernel.now - (task.start or 0) >= task.length:
                self.end(task, "COMPLETED")
        for task in live:
            if task.state != "PENDING" or task.begin > self.kernel.now or not self.partition_up:
                continue
            if task.reason in ("JobHeldUser", "job requeued in held state", "ReservationDeleted"):
                continue
            if sum(t.array == task.array and t.state == "RUNNING" for t in live) >= task.throttle:
                continue
            used = {t.node for t in live if t.state == "RUNNING"}
            free = [node for node in self.nodes if node not in used and node not in self.closed]
            if free:
                self._start(task, free[0])

    def _wake(self) -> None:
        """There is a job again: the scheduler looks in a second."""
        if self.sleeps:
            self.sleeps = False
            self.kernel.at(self.kernel.now + 1.0, self.cycle)

    def _start(self, task: Task, node: str) -> None:
        task.state, task.node, task.reason, task.start = "RUNNING", node, "None", self.kernel.now
        life = task.lives[-1]
        life.state, life.start, life.node = "RUNNING", task.start, node
        self._account(task)
        if task.foreign:
            return
        environment = {
            **task.environment, "SLURM_JOB_ID": str(task.array + (task.index or 0) * 100_000), "SLURMD_NODENAME": node,
            "SLURM_RESTART_COUNT": str(task.restart), "SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "200",
        }  # fmt: skip
        if task.index is not None:
            environment |= {"SLURM_ARRAY_JOB_ID": str(task.array), "SLURM_ARRAY_TASK_ID": str(task.index)}
        process = Process(self.kernel, f"job {task.key}.{task.restart}", node, task.user, environment,
                          draw=random.Random(self.draw.random()))  # fmt: skip
        task.processes = [process]
        restart = task.restart
        process.on_end = lambda code: self._batch_ended(task, restart, code)
        self.launch(task, process)
        limit = task.start + 60 * task.minutes
        self.kernel.at(max(limit - task.delay, task.start + 1), lambda: self._near_limit(task, restart))
        self.kernel.at(limit, lambda: self._time_out(task, restart))

    def _near_limit(self, task: Task, restart: int) -> None:
        if task.state == "RUNNING" and task.restart == restart:
            self.signal(task, signal.SIGUSR2)

    def _time_out(self, task: Task, restart: int) -> None:
        if task.state == "SUSPENDED" and task.restart == restart:  # that time does not count
            self.kernel.at(self.kernel.now + 60, lambda: self._time_out(task, restart))
        if task.state == "RUNNING" and task.restart == restart:
            self.kill(task)
            self.end(task, "TIMEOUT", "0:15")

    def signal(self, task: Task, signum: int) -> None:
        for process in list(task.processes):
            if process.alive:
                process.send(signum)

    def kill(self, task: Task) -> None:
        for process in list(task.processes):
            process.on_end = None
            process.end(-signal.SIGKILL)

    def _batch_ended(self, task: Task, restart: int, code: int) -> None:
        """The script has ended, and with it the step: what is left of it is killed."""
        self.kill(task)
        if task.restart == restart and task.state in ("RUNNING", "SUSPENDED"):
            if code == 0:
                self.end(task, "COMPLETED")
            else:
                self.end(task, "FAILED", f"0:{-code}" if code < 0 else f"{code % 256}:0")

    def end(self, task: Task, state: str, exit_code: str = "0:0") -> None:
        if not task.live:
            return
        task.state, task.ended, task.reason = state, self.kernel.now, "None"
        life = task.lives[-1]
        life.state, life.exit_code = state, exit_code
        if task.start is None or life.start is None:
            task.node = ""
        self._account(task)

    def cancel(self, task: Task) -> None:
        if not task.live:
            return
        task.cancelled_by_hand = True
        if task.state in ("RUNNING", "SUSPENDED"):
            self.continue_(task)
            self.end(task, "CANCELLED", "0:15")
            self._terminate(task)
        else:
            task.cancelled_while_pending = True
            self.end(task, "CANCELLED")

    def _terminate(self, task: Task) -> None:
        """SIGTERM, and after a while SIGKILL."""
        processes = list(task.processes)
        for process in processes:
            if process.alive:
                process.send(signal.SIGTERM)

        def kill() -> None:
            for process in processes:
                process.on_end = None
                process.end(-signal.SIGKILL)

        self.kernel.at(self.kernel.now + KILL_WAIT, kill)

    def requeue(self, task: Task, why: str, held: bool = False, goes_on: float = 0.0) -> None:
        """End this life and begin another: what works is terminated, or goes on unseen for some seconds."""
        if task.state not in ("RUNNING", "SUSPENDED") or not task.requeue:
            if task.state in ("RUNNING", "SUSPENDED") and why == "NODE_FAIL":
                self.kill(task)
                self.end(task, "NODE_FAIL")
            return
        self.continue_(task)
        task.lives[-1].state = why
        task.lives.append(Life())
        task.restart += 1
        task.state, task.node, task.start = "PENDING", "", None
        task.reason = "job requeued in held state" if held else "BeginTime"
        task.begin = self.kernel.now + REQUEUE_WAIT + KILL_WAIT
        processes = list(task.processes)
        for process in processes:
            process.on_end = None
        if goes_on:

            def kill() -> None:
                for process in processes:
                    process.end(-signal.SIGKILL)

            self.kernel.at(self.kernel.now + goes_on, kill)
        elif why == "NODE_FAIL":
            for process in processes:
                process.end(-signal.SIGKILL)
        else:
            self._terminate(task)
        self._account(task)

    def revive(self, task: Task) -> None:
        """As `scontrol requeue` of a job that has ended."""
        task.lives.append(Life())
        task.restart += 1
        task.state, task.node, task.start, task.ended = "PENDING", "", None, None
        task.reason, task.begin = "BeginTime", self.kernel.now + REQUEUE_WAIT
        for process in task.processes:
            process.on_end = None
        if not any(task is each for each in self._open):
            self._open.append(task)
        self._account(task)
        self._wake()

    def hold(self, task: Task) -> None:
        """As `scontrol uhold`: one that is held after a requeue stays so."""
        if task.state == "PENDING" and task.reason != "job requeued in held state":
            task.reason = "JobHeldUser"

    def suspend(self, task: Task) -> None:
        if task.state == "RUNNING":
            task.state = "SUSPENDED"
            for process in task.processes:
                process.stopped = True

    def continue_(self, task: Task) -> None:
        if task.state == "SUSPENDED":
            task.state = "RUNNING"
            for process in task.processes:
                process.stopped = False

    def forget(self) -> None:
        """The controller has lost its state. What runs goes on for a while, until its node finds it to be unknown."""
        self.next_id = EPOCH_OF_IDS
        for task in self.tasks:
            if task.live and not task.forgotten:
                self._purge(task)
                task.forgotten = True
                if task.state in ("RUNNING", "SUSPENDED"):
                    self.continue_(task)
                    task.state, processes = "CANCELLED", list(task.processes)
                    for process in processes:
                        process.on_end = None

                    def kill(processes: list[Process] = processes) -> None:
                        for process in processes:
                            process.end(-signal.SIGKILL)

                    self.kernel.at(self.kernel.now + self.draw.choice((1.0, 20.0, 90.0)), kill)
                else:
                    task.state = "CANCELLED"
                task.ended = self.kernel.now
            task.forgotten = True

    def _purge(self, task: Task) -> None:
        self.rows = [row for row in self.rows if row[1] is not task or row[0] <= self.kernel.now]

    # -- accounting

    def _account(self, task: Task) -> None:
        lives = [Life(**vars(life)) for life in task.lives]
        seen = self.kernel.now + self.lag * self.draw.random() if self.accounting else float("inf")
        self.rows.append((seen, task, lives))

    def accounting_up(self) -> None:
        """What waited in the controller goes to slurmdbd, but of tasks that never began and are forgotten by now."""
        self.accounting = True
        kept = []
        known = {id(task) for task in self.remembered()}
        for seen, task, lives in self.rows:
            if seen == float("inf"):
                if id(task) not in known and task.lives[0].start is None and lives[-1].state != "PENDING":
                    task.purged = True
                    continue
                seen = self.kernel.now
            kept.append((seen, task, lives))
        self.rows = kept

    def accounted(self) -> dict[int, tuple[Task, list[Life]]]:
        shown: dict[int, tuple[Task, list[Life]]] = {}
        for seen, task, lives in self.rows:
            if seen <= self.kernel.now and not task.elsewhere:
                shown[id(task)] = (task, lives)
        return shown

    # -- the clients

    def call(self, call: Call) -> Reply:
        name = call.words[0]
        if name not in ("sacct", "sacctmgr") and not self.controller:
            if name == "sbatch":
                return Reply(error="sbatch: error: Batch job submission failed: Unable to contact slurm controller "
                                   "(connect failure)\n", code=1)  # fmt: skip
            return Reply(error=f"{name}: error: Unable to contact slurm controller (connect failure)\n", code=1)
        if name in ("sacct", "sacctmgr") and not self.accounting:
            return Reply(error=f"{name}: error: Problem talking to the database: Connection refused\n", code=1)
        client: Callable[[Call], Reply] = getattr(self, f"_{name}")
        return client(call)

    def _squeue(self, call: Call) -> Reply:
        if call.environment.get("SLURM_CLUSTERS") or call.environment.get("SQUEUE_CLUSTERS"):
            return Reply(
                "CLUSTER: other\nJOBID|ARRAY_JOB_ID|ARRAY_TASK_ID|STATE|REASON|NODELIST|ACCOUNT|COMMENT|NAME\n"
            )
        lines = []
        for task in self.remembered():
            if task.user != call.process.user:
                continue
            if call.environment.get("SQUEUE_PARTITION", task.partition) != task.partition:
                continue
            if call.environment.get("SQUEUE_ACCOUNT", task.account) != task.account:
                continue
            if call.environment.get("SQUEUE_STATES", task.state) != task.state and "-t" not in call.words:
                continue
            state = task.state
            if task.live and self.form.get("state"):
                state = self.form["state"]
            if task.reason == "job requeued in held state":
                state = "REQUEUE_HOLD"
            elif task.state == "PENDING" and task.reason == "BeginTime" and task.restart and self.draw.random() < 0.5:
                state = "REQUEUED"
            index = "N/A" if task.index is None else str(task.index)
            number = task.array if task.index is None else task.array + task.index
            shown = task.key if task.index is not None else str(number)
            lines.append(
                f"{shown}|{task.array}|{index}|{state}|{task.reason}|{task.node}|{task.account}|"
                f"{task.comment or '(null)'}|{task.name}\n"
            )
        heading = "JOBID|ARRAY_JOB_ID|ARRAY_TASK_ID|STATE|REASON|NODELIST|ACCOUNT|COMMENT|NAME\n"
        if "-h" in call.words:
            heading = ""
        return Reply(heading + "".join(self._printed(lines)))

    def _sacct(self, call: Call) -> Reply:
        names = set(call.words[call.words.index("--name") + 1].split(","))
        user = call.words[call.words.index("-u") + 1]
        rows: list[str] = []
        waiting: dict[int, list[Task]] = {}
        for task, lives in self.accounted().values():
            if task.name not in names or task.user != user:
                continue
            if task.index is not None and len(lives) == 1 and lives[0].state == "PENDING":
                waiting.setdefault(task.array, []).append(task)
                continue
            for life in lives if "-D" in call.words else lives[-1:]:
                rows += self._rows_of(task, task.key, life, call.environment)
        for array, tasks in waiting.items():
            text = _listed(sorted(task.index or 0 for task in tasks))
            longest = self.form.get("list", 64 if call.environment.get("SLURM_BITSTR_LEN") != "0" else 0)
            text = f"{text[:longest]}..." if longest and len(text) > longest else text
            rows += self._rows_of(tasks[0], f"{array}_[{text}%{tasks[0].throttle}]", Life(), call.environment)
        heading = "JobID|JobName|State|ExitCode|NodeList|Start|MaxRSS|ReqMem|AllocCPUS\n"
        return Reply(heading + "".join(self._printed(rows)))

    def _rows_of(self, task: Task, key: str, life: Life, environment: dict[str, str]) -> Iterator[str]:
        state = "CANCELLED by 1000" if life.state == "CANCELLED" else life.state
        start = "Unknown" if life.start is None else _time(life.start)
        if life.start is not None and environment.get("SLURM_TIME_FORMAT", "standard") == "relative":
            start = f"{'Today' if int(life.start) % 2 else 'Ystday'} {_time(life.start)[11:]}"
        node = life.node or "None assigned"
        yield f"{key}|{task.name}|{state}|{life.exit_code}|{node}|{start}||800M|4\n"
        if life.start is not None:
            step = state if state != "CANCELLED by 1000" else "CANCELLED"
            yield f"{key}.batch|batch|{step}|{life.exit_code}|{node}|{start}|{int(life.peak) * 1024}K||4\n"

    def _printed(self, lines: list[str]) -> list[str]:
        if self.form.get("order"):
            self.draw.shuffle(lines)
        if self.form.get("banner"):
            lines = ["*** maintenance on Sunday ***\n", *lines, "\n"]
        return lines

    def _scontrol(self, call: Call) -> Reply:
        words = call.words[1:]
        if words[:2] == ["show", "config"]:
            return Reply(f"Configuration data\nClusterName             = here\nMaxArraySize            = "
                         f"{self.array_size}\nMinJobAge               = 120 sec\n")  # fmt: skip
        if words[:3] == ["-o", "show", "partition"]:
            if words[3] != "compute":
                return Reply(error="Partition not found\n", code=1)
            return Reply("PartitionName=compute MaxTime=1-00:00:00 MaxMemPerCPU=8000 QoS=N/A State=UP\n")
        if words[:3] == ["-o", "show", "assoc_mgr"]:
            if self.form.get("no groups"):
                return Reply("Current Association Manager state\n")
            limit = self.limit if self.limit_shown and self.form.get("of the account") else None
            of_group = f"{'N' if limit is None else limit}({self._present(call.process.user)})"
            return Reply(f"Current Association Manager state\nClusterName=here Account=research UserName= Partition= "
                         f"GrpJobs=N(0) GrpSubmitJobs={of_group} GrpWall=N(0.00)\n")  # fmt: skip
        if words[0] == "requeue":
            found = [task for task in self.live() if task.key == words[1]]
            if not found:
                return Reply(error="Invalid job id specified\n", code=1)
            self.requeue(found[0], "REQUEUED")
            return Reply()
        raise AssertionError(f"scontrol {words}")

    def _sacctmgr(self, call: Call) -> Reply:
        what = call.words[call.words.index("show") + 1]
        fields = call.words[-1].removeprefix("format=").split(",")
        limit = str(self.limit) if self.limit is not None and self.limit_shown else ""
        table: list[dict[str, str]] = []
        if what == "assoc":
            row = {"cluster": "here", "account": "research", "parentname": "root", "maxsubmitjobs": limit}
            other = {"cluster": "other", "account": "research", "parentname": "root", "maxsubmitjobs": "1"}
            rows = [row, other]
            if any(word.startswith("user=") for word in call.words):
                table = [each | {"user": call.process.user, "parentname": ""} for each in rows]
                if self.form.get("of the account"):
                    table = [each | {"maxsubmitjobs": ""} for each in table]
            elif any(word == "account=research" for word in call.words):
                table = [each | {"maxsubmitjobs": "", "grpsubmitjobs": each["maxsubmitjobs"]} for each in rows]
        headings = {"cluster": "Cluster", "maxsubmitjobsperuser": "MaxSubmitPU", "defaultaccount": "Def Acct"}
        shown = ["|".join(headings.get(field, field) for field in fields)]
        shown += ["|".join(row.get(field, "") for field in fields) for row in table]
        return Reply("".join(f"{line}\n" for line in shown))

    def _scancel(self, call: Call) -> Reply:
        for key in [word for word in call.words if not word.startswith("-")]:
            for task in self.live(ours=False):
                if task.user == call.process.user and not task.elsewhere and key in (task.key, str(task.array)):
                    self.cancel(task)
                    if task.foreign:
                        self.complain(f"a foreign job was cancelled: {task.key} {task.name!r}")
        return Reply()

    def _sbatch(self, call: Call) -> Reply:
        if call.environment.get("SLURM_CLUSTERS") or call.environment.get("SBATCH_CLUSTERS"):
            return Reply("999;other\n")
        try:
            return Reply(f"{self.accept(call)}\n")
        except Refused as refusal:
            return Reply(error=f"{refusal}\n", code=1)

    def accept(self, call: Call) -> int:
        """Take a script. Raises Refused."""
        process, path, environment = call.process, call.words[-1], call.environment
        script = self.read(path)
        options = dict(_options(script))
        options |= {name: environment[variable] for variable, name in OVERRIDING.items() if variable in environment}
        if "SBATCH_NO_REQUEUE" in environment:
            options["no-requeue"] = ""
        indices: list[int | None] = [None]
        throttle = 1000
        if "array" in options:
            span, _, most = options["array"].partition("%")
            indices = list(range(int(span.partition("-")[2] or span) + 1))
            throttle = int(most or 1000)
            if len(indices) > self.array_size:
                if self._knew(process):
                    self.complain("an array is larger than scontrol has said")
                raise Refused("sbatch: error: Batch job submission failed: Invalid job array specification")
        if self.limit is not None and self._present(process.user) + len(indices) > self.limit:
            if self.limit_shown and self._knew(process):
                self.complain("more is submitted than the limit that sacctmgr has told")
            raise Refused(f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}")
        number = self.next_id
        self.next_id += len(indices) + self.draw.randrange(3)
        self._wake()
        for index in indices:
            task = Task(
                number, index, options["job-name"], options["comment"], process.user, options.get("account", ""),
                options["partition"], int(options["time"]), int(options.get("signal", "USR2@0").partition("@")[2]),
                path, dict(environment), "no-requeue" not in options, throttle, begin=self.kernel.now + 1.0,
                options=options,
            )  # fmt: skip
            self.tasks.append(task)
            self._open.append(task)
            self.ran.append(task)
            self._account(task)
        return number

    def _present(self, user: str) -> int:
        """Jobs of a user that wait or run here: each cluster has its own limits."""
        return len([task for task in self.live(ours=False) if task.user == user and not task.elsewhere])

    def _knew(self, process: Process) -> bool:
        """Whether a command has been told of the limits as they are."""
        notes = process.notes
        return notes.get("began", 0) >= self.changed and not notes["silent"] and not notes.get("beside", True)

    def foreign(self, user: str, name: str, tasks: int, length: float) -> None:
        """A job that has nothing to do with us."""
        number = self.next_id
        self.next_id += tasks
        self._wake()
        for index in range(tasks):
            task = Task(
                number, index if tasks > 1 else None, name, "", user, "research", "compute", 600, 0, "", {}, False,
                1000, foreign=True, length=length,
            )  # fmt: skip
            self.tasks.append(task)
            self._open.append(task)


OVERRIDING = {"SBATCH_PARTITION": "partition", "SBATCH_TIMELIMIT": "time", "SBATCH_JOB_NAME": "job-name",
              "SBATCH_ACCOUNT": "account"}  # fmt: skip


def _options(script: str) -> Iterator[tuple[str, str]]:
    for line in script.split("\n"):
        if line.startswith("#SBATCH") and (option := _option(line)):
            yield option


@functools.lru_cache(1000)
def _option(line: str) -> tuple[str, str] | None:
    match = re.match(r"#SBATCH --([\w-]+)(?:=(.*))?$", line)
    return (match[1], (shlex.split(match[2]) or [""])[0] if match[2] else "") if match else None


def _listed(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _time(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
