"""One world: hosts, users, SLURM, a disk and a clock, in which the code of the commands and of the jobs runs unchanged.

It stands behind the seams that the real ones stand behind: the functions that call SLURM's clients, Python's functions
on files, its clock, its processes, threads and signals as the modules of `jobs` name them, and the call by which a
stage's work is done. `SEAMS` lists them all."""

from __future__ import annotations

import contextlib
import datetime as dates
import functools
import gc
import json
import os
import random
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from simulation import kernel as kernels
from simulation import paths, saving
from simulation.batch import POLICY, Batch, Call, Reply, Task
from simulation.disk import Disk, DiskFault, remove
from simulation.kernel import Condition, Event, Kernel, Output, Process, Queue, RLock
from sqlite_utils import Database
from submitit.core.utils import DelayedSubmission, UncompletedJobError

import cluster.status.showing
from cluster import yaml_text
from cluster.cli import entry, looking, reporting
from cluster.console import CleanConsole
from cluster.files import documents, kept_code, processes, whole_files
from cluster.files.records import Run
from cluster.ledger import lock, runs, schema, store
from cluster.manifest import follow_ups, grids, loading
from cluster.plan import cost, expansion, following
from cluster.reconcile import measure, reconciling, session
from cluster.slurm import environment, queries, sbatch
from cluster.submit import choices, launch, requests
from jobs import memory, pack, stage
from tiny_transformers.common import progress, provenance
from tiny_transformers.common.work import Interrupted, Outcome, Score, Work
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES

START = 1_800_000_000.0  # the world's clock when it begins
USERS = ("alice", "bob")
HOSTS = ("login1", "login2")
STUDIES = {  # study -> its stages
    "s0": ("pretrain", "add_tokenizer", "blimp"),
    "s1": ("pretrain", "add_tokenizer"),
    "s2": ("pretrain", "speed"),
    "s3": ("pretrain",),
}
SEEDS = {"s0": [1], "s1": [2], "s2": [3], "s3": [4, 5]}
FOLLOW_UPS = {"f0": ("s3",), "f1": ("f0", "s1")}  # study -> its sources
TAUGHT = ("t0", "t1")  # studies whose runs learn from one teacher
LOSS = "pretrain.validation.loss"
GPT = {"family": "gpt_neo", "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48}
MANIFEST = {
    "defaults": {"data": {"source": "builtin"}},
    "models": {"gpt": GPT, "tutor": GPT | {"intermediate_size": 64}},
    "studies": {
        **{name: {"model": "gpt", "grid": {"model.activation": ["gelu", "relu"]}, "seeds": SEEDS[name],
                  "stages": list(stages)} for name, stages in STUDIES.items()},
        "f0": {"from": {"study": "s3", "by": LOSS, "failed": "leave_out"}, "train.max_steps": 20,
               "stages": ["pretrain"]},
        "f1": {"from": {"study": ["f0", "s1"], "by": LOSS}, "train.max_steps": 30, "seeds": [7],
               "stages": ["pretrain"]},
        "t0": {"model": "gpt", "grid": {"model.activation": ["gelu", "relu"]}, "train.teacher.model": "tutor",
               "seeds": [8], "stages": ["pretrain"]},
        "t1": {"model": "gpt", "train.teacher": {"model": "tutor", "seed": 8, "alpha": 0.1}, "seeds": [9],
               "stages": ["pretrain", "add_tokenizer"]},
    },
}  # fmt: skip
EDITS = [(best, seed) for seed in (6, 10, 11) for best in (1, 2)]  # what a user may make of f0, at first the first
SITE = {
    "name": "simulated", "scheduler": "slurm", "partition": "compute", "account": "research", "cpus": 4,
    "memory_per_cpu": 200, "slots": 1, "runs_per_pack": 2, "flops": 1e15, "min_time": 2, "max_time": 3,
    "signal_delay": 30, "max_array_size": 101, "requeues": 2,
}  # fmt: skip
CODE = {"digest": "0123456789abcdef", "commit": None, "diff": None}
MACHINE = {"python": "3", "cpu": "simulated"}
SCORES = (0.4, 0.5, 0.5, 0.6)  # so that some are equal


@functools.cache
def manifest(edit: int = 0) -> str:
    best, seed = EDITS[edit]
    studies: dict[str, Any] = MANIFEST["studies"]  # type: ignore[assignment]
    edited = studies["f0"] | {"from": studies["f0"]["from"] | {"best": best}, "seeds": [seed]}
    return yaml.safe_dump(MANIFEST | {"studies": studies | {"f0": edited}})


@functools.cache
def profile() -> str:
    return yaml.safe_dump(SITE)


@functools.cache
def planned(text: str) -> dict[str, list[Run]]:
    """Study -> the runs that it has whatever is chosen, with those that it needs, as `submit` plans them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiments.yaml"
        path.write_text(text)
        document = loading.load(path)
        return {name: expansion.expand(grids.cells(document, studies=[name])) if name not in FOLLOW_UPS else []
                for name in document.studies}  # fmt: skip


def files_in(folder: str | Path, name: str) -> list[Path]:
    """The files of this name in the folders of a folder, as `glob` finds them, which takes ten times as long."""
    try:
        inner = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    return [path for each in inner if (path := Path(f"{folder}/{each}/{name}")).exists()]


def of_each(folder: str, name: str = "") -> list[tuple[str, str]]:
    """What a folder has, and the path of this name in each."""
    try:
        return [(each, f"{folder}/{each}/{name}".rstrip("/")) for each in sorted(os.listdir(folder))]
    except FileNotFoundError:
        return []


def with_sources(names: Iterable[str]) -> set[str]:
    """These studies, and those that they begin from."""
    found: set[str] = set()
    for name in names:
        found |= {name} | with_sources(FOLLOW_UPS.get(name, ()))
    return found


class World:
    """All of it, in a folder of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.kernel = Kernel(START, random.Random(seed + 1))
        self.slurm = Batch(self.kernel, random.Random(seed + 2), self._launch)
        self.slurm.read = lambda path: seams().disk._open(path, encoding="utf-8").read()
        self.slurm.complain = self.complain
        self.tokens, self.scores = random.Random(seed + 3), random.Random(seed + 4)
        self.offsets: dict[str, float] = {}  # of hosts' clocks
        self.environment: dict[str, str] = {}  # of users, besides the usual
        self.manners: dict[str, list[Any]] = {}  # client -> what its next calls do
        self.told: dict[tuple[str, str], Any] = {}  # (run id or *, stage) -> what the stage does
        self.code = CODE
        self.counts: Counter[str] = Counter()  # faults that took effect
        self.violations: list[str] = []
        self.executed: Counter[tuple[str, str]] = Counter()  # stage runs that a job did to the end of their work
        self.at_work: dict[tuple[str, str], list[Process]] = {}
        self.redone: set[tuple[str, str]] = set()  # that a person asked for again
        self.disturbed: set[tuple[str, str]] = set()  # whose job was interrupted in some way
        self.explained: set[str] = set()  # submissions whose jobs may fail to begin
        self.job_faults: list[DiskFault] = []  # for the next processes of jobs
        self.job_kills: list[int] = []  # at which of its points each of the next packs is killed
        self.commands: list[Process] = []
        self.log: list[str] = []
        self.completed_after_fault = False
        self.submitted: set[str] = set()  # studies that were asked for, with those that they begin from
        self.edited = 0  # how the manifest is: which of EDITS
        self.removed: set[str] = set()  # what a user has removed
        self.notes_redone: set[str] = set()  # runs of which a person asked for something again
        self.read_only = False
        self.pulled = 0  # runs
        self.calibrates = False  # whether users begin with a calibration
        self.named: list[str] = []  # files that were written since the walk looked last
        folder.mkdir(parents=True)
        (folder / "experiments.yaml").write_text(manifest())
        (folder / "site.yaml").write_text(profile())
        (folder / "home").mkdir()
        self.planned = planned(manifest())
        self.teacher = self.planned["t0"][0].id
        self.students = {run.id for name in TAUGHT for run in self.planned[name] if run.needs}
        self.chosen: Callable[[Process], None] = lambda _: None  # told of each time that choices were looked at

    def let_go(self) -> None:
        """It has ended: its processes and jobs no longer hold each other, for which Python would have to look."""
        for each in (*self.kernel.processes.values(), *self.slurm.tasks, self.slurm, self.kernel):
            vars(each).clear()

    # -- what the walk reports

    def complain(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)

    def note(self, fault: str) -> None:
        self.counts[fault] += 1

    def failed(self, process: Process, error: str) -> None:
        """The disk has failed a process."""
        process.notes["faulted"] = True
        if process.notes.get("chooses"):
            self.note("a choice's disk fails")
        self.note(f"disk of a {'command' if 'words' in process.notes else 'job'}: {error}")

    @contextlib.contextmanager
    def locked(self, path: Path, **options: Any) -> Iterator[None]:
        """The product's lock, watched: nobody holds it together with another."""
        process = self.kernel.current.process  # type: ignore[union-attr]
        with lock.locked(path, **options):
            for other in self.commands:
                if other.alive and other.notes.get("holds") and other is not process:
                    self.complain(f"two commands hold the ledger:: {other.name} and {process.name}")
            process.notes["holds"] = True
            try:
                yield
            finally:
                process.notes["holds"] = False

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """A look at the disk that is no call of the process whose turn it is."""
        disk = seams().disk
        kernel, disk.kernel = disk.kernel, None
        try:
            yield
        finally:
            disk.kernel = kernel

    def choose(self, go_on: Callable[..., Any], *given: Any) -> Any:
        """The product's look at what choices can be made, in which a command may be killed, or its disk fail."""
        process = self.kernel.current.process  # type: ignore[union-attr]
        kill, fault = process.notes.pop("killed in a choice", 0), process.notes.pop("disk in a choice", None)
        before = process.kill_at, process.faults
        process.notes["chooses"] = True
        if kill:
            process.kill_at = process.points + kill
        if fault:
            process.faults = [fault]
        try:
            return go_on(*given)
        finally:
            process.notes["chooses"] = False
            if kill and not process.alive:
                self.note("a choice is cut short")
            if kill or fault:
                process.kill_at, process.faults = before
            with self.unseen():
                self.chosen(process)

    # -- processes

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def command(self, words: list[str], user: str = "alice", host: str = "login1", seed: int = 0, kill_at: int = 0,
                pace: float = 60.0, faults: list[DiskFault] | None = None,
                extra: dict[str, str] | None = None) -> Process:  # fmt: skip
        """Start a command of the user's, as `python -m cluster.cli` does."""
        variables = {"PATH": "/usr/bin", "HOME": str(self.folder / "home"), "USER": user} | self.environment
        process = Process(self.kernel, " ".join(words), host, user, variables | (extra or {}), draw=random.Random(seed))
        process.kill_at, process.pace, process.faults = kill_at, pace, faults or []
        process.turn = process._next_turn()
        process.notes |= {"words": words, "began": self.kernel.now, "silent": False, "faulted": False}

        def run() -> None:
            try:
                entry.main(words)
            except SystemExit as ended:
                process.notes["code"] = ended.code or 0
                raise
            process.notes["code"] = 0

        self.commands.append(process)
        return process.start(run)

    def finish(self, process: Process, seconds: float = 400.0) -> None:
        self.kernel.advance(self.kernel.now + seconds, lambda: not process.alive or process.stopped)

    def _launch(self, task: Task, process: Process) -> None:
        """What the job's script does on its node: the lines that it has, then submitit's runner."""
        folder = Path(task.script).parent
        process.faults, self.job_faults = self.job_faults, []
        process.pace = 40.0
        if self.job_kills:
            process.kill_at = self.job_kills.pop(0)
            self.note("kill: pack, on its way")

        def fails(why: str) -> None:
            task.failed_to_begin = why
            raise SystemExit(1)

        def script() -> None:
            variables = task.environment
            if "SLURM_MEM_PER_NODE" in variables:
                fails("srun: fatal: SLURM_MEM_PER_CPU and SLURM_MEM_PER_NODE are mutually exclusive")
            if not os.path.exists(folder / launch.PICKLE):
                time.sleep(60)
                fails("submitit waited for its pickle")
            link = folder / f"{task.key}_submitted.pkl"
            if not os.path.exists(link):
                os.symlink(launch.PICKLE, link)
            delayed = DelayedSubmission.load(link)

            def near_the_limit(*_: object) -> None:
                again = delayed._checkpoint_function()
                if again is None:
                    raise UncompletedJobError
                again.set_timeout(delayed._timeout_min, delayed._timeout_countdown - 1)
                os.unlink(link)
                again.dump(link)
                if seams().run_client(["scontrol", "requeue", task.key], env=dict(os.environ)).returncode:
                    raise UncompletedJobError
                raise SystemExit(255)

            process.handlers |= {signal.SIGUSR2: near_the_limit, signal.SIGTERM: lambda *_: None}
            delayed.function()

        def run() -> None:
            try:
                script()
            except UncompletedJobError:
                raise SystemExit(1) from None
            except OSError as error:  # a disk that fails; Python would print its traceback
                process.notes["disk"] = str(error)
                raise SystemExit(1) from None

        process.start(run)

    def child(self, words: list[str], env: dict[str, str]) -> Any:
        """A pack's child: `python -m jobs.stage`."""
        kernel = self.kernel
        parent = kernel.current.process  # type: ignore[union-attr]
        process = Process(kernel, " ".join(words[2:]), parent.host, parent.user, env, parent,
                          draw=random.Random(parent.draw.random()))  # fmt: skip
        process.pace, process.stop = 40.0, Event(kernel)
        process.faults, self.job_faults = self.job_faults, []
        process.blocked = {signal.SIGUSR2}
        submission, taker, planned_for, number = words[3:]
        if taker != planned_for:
            self.pulled += 1
        for task in self.slurm.tasks:
            if parent in task.processes:
                task.processes.append(process)

        def run() -> None:
            try:
                code = stage.main(submission, taker, planned_for, number)
            except OSError as error:  # a disk that fails; Python would print its traceback
                process.notes["disk"] = str(error)
                raise SystemExit(1) from None
            raise SystemExit(code)

        process.start(run)
        return SimpleNamespace(pid=process.pid, returncode=None)

    def wait4(self, pid: int) -> tuple[int, int, Any]:
        process = self.kernel.processes[pid]
        self.kernel.point()
        if process.alive:
            self.kernel.pause(0.0, lambda: not process.alive)
        code = process.returncode
        return pid, -code if code < 0 else code << 8, SimpleNamespace(ru_maxrss=process.peak)

    # -- the work of a stage

    def _told(self, key: tuple[str, str]) -> Any:
        return self.told.get(key) or self.told.get(("*", key[1]))

    def work(self, name: str, work: Work) -> Outcome:
        """Stand in for the science: it takes a while, saves when it is asked to, and does what it was told."""
        process = self.kernel.current.process  # type: ignore[union-attr]
        key = (work.run_dir.name, name)
        told = self._told(key)
        beside = [other for other in self.at_work.get(key, []) if other.alive]
        if beside:
            self.complain(f"{key}: two jobs at work at the same time: {process.name} beside {beside[0].name}")
        with self.unseen():
            for result in files_in(f"{work.run_dir}/stages/{name}", "result.json"):
                if '"completed"' in result.read_text() and key not in self.redone:
                    self.complain(f"{key}: begun again, though it was completed")
        self.at_work.setdefault(key, []).append(process)
        if told == "fail":
            self.note("a stage fails")
            raise RuntimeError(f"{name} was told to fail")
        if told == "memory":
            self.note("a stage is out of memory")
            raise MemoryError
        if told == "exit":
            self.note("a child is killed")
            process.send(signal.SIGKILL)
        if name == "pretrain" and work.config.teacher and not work.config.probe:
            self._check_teacher(key, work.teacher_dir)
        saved = work.run_dir / "checkpoints" / "step-1"
        left = self.draw.uniform(4, 14) * (4 if told == "slow" else 1)
        if name == "pretrain" and os.path.isdir(saved):
            left /= 2
        elif name == "pretrain":
            saved.mkdir(parents=True, exist_ok=True)
        while left > 0 or self._told(key) == "hang":
            if told == "hang" and work.should_stop():
                break  # as the stand-ins of tests/fake_science
            if work.should_stop() and told != "deaf":
                raise Interrupted(f"{name} was asked to stop")
            work.progress(0.5, "at work")
            time.sleep(min(left, 5.0))
            left -= 5.0
        if told == "deaf":
            time.sleep(200)
        if name == "pretrain":
            (work.run_dir / "model").mkdir(exist_ok=True)
        self.executed[key] += 1
        if self.counts:
            self.completed_after_fault = True
        self.redone.discard(key)
        metrics = {"tokens_per_second": 1e8, "peak_memory_mb": 300.0, "device": "cpu"} if name == "pretrain" else {}
        score = ("validation", "loss") if name == "pretrain" else ("average", "accuracy")
        return Outcome(scores=[Score(*score, self.scores.choice(SCORES), 100)], metrics=metrics)

    def _check_teacher(self, key: tuple[str, str], folder: Path | None) -> None:
        """A student begins once what it learns from is there."""
        with self.unseen():
            results = folder.parent.glob("stages/pretrain/*/result.json") if folder and folder.is_dir() else ()
            if not any('"completed"' in path.read_text() for path in results):
                self.complain(f"a student begins before its teacher is trained:: {key} {folder}")

    # -- SLURM's clients, with what may go wrong on the way

    def client(self, words: list[str], env: dict[str, str]) -> Reply:
        kernel = self.kernel
        process = kernel.point()
        assert process
        kernel.now += 0.02
        name, call = words[0], Call(process, words, env)
        manner = self.manners[name].pop(0) if self.manners.get(name) else None
        if name not in ("sacct", "sacctmgr") and not self.slurm.controller:
            process.notes["silent"] = True
        if name in ("sacct", "sacctmgr") and not self.slurm.accounting:
            process.notes["silent"] = True
        if manner is None:
            reply = self.slurm.call(call)
            if name == "sbatch" and reply.code:
                _note_refusal(process, reply.error)
            if name == "sbatch" and reply.code == 0:
                kernel.point()  # accepted, and the command may be killed before it hears
            return reply
        self.note(f"{name}: {manner}")
        if manner not in ("banner", "another cluster", "busy", "no room", "refused"):
            process.notes["silent"] = True
        reply = MANNERS[manner](self, call)
        if name == "sbatch" and reply.code and manner not in UNHEARD:
            _note_refusal(process, reply.error)
        return reply


def _note_refusal(process: Process, text: str) -> None:
    """Beside those before: a command may submit for several manifests."""
    process.notes["refused"] = process.notes.get("refused", "") + text


def _lost(world: World, call: Call) -> Reply:
    world.slurm.call(call)
    return Reply(error=TIMED_OUT, code=1)


def _silent(_: World, call: Call) -> Reply:
    return Reply(error=TIMED_OUT if call.words[0] == "sbatch" else f"{call.words[0]}: error: timed out\n", code=1)


def _hangs(world: World, call: Call) -> Reply:
    world.kernel.pause(world.kernel.now + (180 if call.words[0] == "sbatch" else 30))
    return Reply(never=True)


def _late(world: World, call: Call) -> Reply:
    """sbatch gives up, and the controller takes the job a while later."""
    copied = Process(world.kernel, "sbatch", call.process.host, call.process.user, {})
    copied.alive = False

    def arrive() -> None:
        if world.slurm.controller and Path(call.words[-1]).exists():  # its script; the folder of logs may be removed
            world.slurm.call(Call(copied, call.words, call.environment))

    world.kernel.at(world.kernel.now + world.draw.choice((5.0, 60.0, 110.0)), arrive)
    world.kernel.pause(world.kernel.now + 20)
    return Reply(error=TIMED_OUT, code=1)


def _slow(world: World, call: Call) -> Reply:
    """The answer is that of the end of a long wait, in which jobs go on."""
    world.kernel.pause(world.kernel.now + world.draw.choice((10.0, 25.0)))
    return world.slurm.call(call)


def _unreached(*_: object) -> Reply:
    return Reply(error="sbatch: error: Batch job submission failed: Unable to contact slurm controller "
                       "(connect failure)\n", code=1)  # fmt: skip


def _bannered(world: World, call: Call) -> Reply:
    reply = world.slurm.call(call)
    return Reply(f"Welcome to the cluster 2027\n{reply.out}\n", reply.error, reply.code)


def _numbered(world: World, call: Call) -> Reply:
    """A line of its own beside the answer is a number, too, as a wrapper of a site may print it."""
    reply = world.slurm.call(call)
    return Reply(f"{reply.out}2027\n" if reply.code == 0 else reply.out, reply.error, reply.code)


def _cut(world: World, call: Call) -> Reply:
    """A part of the answer, as from a client that was killed: with its exit code, or, of a pipe, without."""
    reply = world.slurm.call(call)
    if call.words[0] == "sbatch":
        return Reply(reply.out, "Killed\n", 137)
    return Reply(reply.out[: max(1, int(len(reply.out) * world.draw.uniform(0.1, 0.95)))], reply.error, 1)


def _empty(*_: object) -> Reply:
    return Reply()


def _elsewhere(world: World, call: Call) -> Reply:
    """The site's sbatch sends the job to another cluster, where it runs, and is not seen from here."""
    reply = world.slurm.call(call)
    if reply.code:
        return reply
    for task in world.slurm.tasks:
        if task.array == int(reply.out) and not task.foreign and task.live:
            task.elsewhere = True
    _note_refusal(call.process, "to cluster other")
    return Reply(f"{reply.out.strip()};other\n")


def _refused(text: str) -> Callable[[World, Call], Reply]:
    return lambda *_: Reply(error=text, code=1)


TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
UNHEARD = ("reply lost", "no answer", "hangs", "arrives late", "never arrives", "cut")  # nobody hears what SLURM said
MANNERS: dict[str, Callable[[World, Call], Reply]] = {
    "reply lost": _lost, "no answer": _silent, "hangs": _hangs, "arrives late": _late, "never arrives": _unreached,
    "slow": _slow, "banner": _bannered, "number": _numbered, "cut": _cut, "empty": _empty,
    "another cluster": _elsewhere,
    "busy": _refused("sbatch: error: Batch job submission failed: Resource temporarily unavailable\n"),
    "no room": _refused(f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}\n"),
    "refused": _refused(f"sbatch: error: AssocGrpBillingMinutes\n{POLICY}\n"),
}  # fmt: skip


# -- the seams ---------------------------------------------------------------------------------------------------------


class Seams:
    """What stands in the place of the real things while worlds run; the worlds take turns."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.changes: list[tuple[Any, str, Any]] = []  # `replacements`, made once
        self.disk = Disk()
        self.real_time, self.real_monotonic, self.real_sleep = time.time, time.monotonic, time.sleep
        with contextlib.closing(sqlite3.connect(":memory:")) as template:
            schema.migrate.apply(Database(template))
            self._statements = list(template.iterdump())[1:-1]  # between BEGIN and COMMIT
        self.disk.connections.statements = self._statements
        self._signal = types.SimpleNamespace(
            **{name: getattr(signal, name) for name in dir(signal) if name.startswith("SIG")}, Signals=signal.Signals,
            signal=self._set_handler, getsignal=self._handler, pthread_sigmask=self._mask,
        )  # fmt: skip

    # processes

    @property
    def process(self) -> Process | None:
        return self.world.kernel.current.process if self.world and self.world.kernel.current else None

    def _set_handler(self, signum: int, handler: Any) -> Any:
        assert self.process
        before = self._handler(signum)
        self.process.handlers[signum] = handler
        return before

    def _handler(self, signum: int) -> Any:
        assert self.process
        return self.process.handlers.get(signum, signal.SIG_DFL)

    def _mask(self, how: int, numbers: set[int]) -> set[int]:
        assert self.process
        before = set(self.process.blocked)
        if how == signal.SIG_BLOCK:
            self.process.blocked |= numbers
        elif how == signal.SIG_UNBLOCK:
            self.process.unblock(numbers)
            if not self.process.alive:
                raise kernels.Killed
        return before

    def _kill(self, pid: int, signum: int) -> None:
        assert self.world
        self.world.kernel.point()
        process = self.world.kernel.processes.get(pid)
        if process is None:
            raise ProcessLookupError(3, "No such process")
        process.send(signum)

    def _start_of(self, pid: int) -> str | None:
        assert self.world
        process = self.world.kernel.processes.get(pid)
        here = self.process
        return str(pid) if process and process.alive and (here is None or process.host == here.host) else None

    def _parent(self) -> int:
        assert self.process
        parent = self.process.parent
        return parent.pid if parent and parent.alive else 1

    def _die_with_parent(self) -> None:
        assert self.process
        self.process.dies_with_parent = True  # as prctl: from now on

    # SLURM

    def run_client(self, command: Any, **options: Any) -> Any:
        assert self.world
        words = list(command)
        reply = self.world.client(words, dict(options["env"]))
        if reply.never:
            raise subprocess.TimeoutExpired(words, 30)
        return subprocess.CompletedProcess(words, reply.code, reply.out.encode(), reply.error.encode())

    # clock

    def _time(self) -> float:
        process = self.process
        if process is None:
            return self.real_time()
        assert self.world
        self.world.kernel.now += kernels.TICK
        return self.world.kernel.now + self.world.offsets.get(process.host, 0.0)

    def _monotonic(self) -> float:
        if self.process is None:
            return self.real_monotonic()
        assert self.world
        return self.world.kernel.now

    def _sleep(self, seconds: float) -> None:
        if self.process is None:
            self.real_sleep(seconds)
            return
        assert self.world
        self.world.kernel.point()
        self.world.kernel.pause(self.world.kernel.now + seconds)

    def _datetime(self) -> type[dates.datetime]:
        stamp = self._time

        class WorldsDatetime(dates.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> dates.datetime:  # type: ignore[override]
                return dates.datetime.fromtimestamp(stamp(), tz)

        return WorldsDatetime

    # the ledger: as if each had been made by all migrations

    def _migrate(self, db: Any) -> None:
        ledger = db.conn.ledger
        ledger.has_tables = ledger.has_tables or not self._pending(db)
        if not ledger.has_tables:
            for statement in self._statements:
                db.conn.execute(statement)

    def _pending(self, db: Any) -> list[Any]:
        return [] if db.conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() else [1]

    # what a job finds out about its machine

    @contextlib.contextmanager
    def _log_to(self, path: Path) -> Iterator[None]:
        with open(path, "w", encoding="utf-8"):
            pass
        yield

    def _module(self, name: str) -> Any:
        of_stage = next(kind.name for kind in STAGES.values() if kind.runner == name)
        assert self.world
        return SimpleNamespace(run=functools.partial(self.world.work, of_stage))

    def _thread(self, target: Callable[..., Any], args: tuple[Any, ...] = (), daemon: bool = False) -> Any:
        assert daemon, "a thread for which its process would wait"
        assert self.world
        assert self.process
        kernel, process = self.world.kernel, self.process
        made: list[Any] = []

        def start() -> None:
            made.append(kernel.add(process, lambda: target(*args)))

        def join() -> None:
            kernel.pause(0.0, lambda: made[0].ended)

        return SimpleNamespace(start=start, join=join)

    def _enter(self, process: Process) -> None:
        os.environ._data = process.environ  # type: ignore[attr-defined]
        if process.stop is not None:
            stage.STOP = process.stop

    def replacements(self) -> list[tuple[Any, str, Any]]:
        """Each seam: the object, the attribute, and what stands there."""
        here = lambda: self.world  # noqa: E731
        threads = SimpleNamespace(
            Thread=self._thread, Event=lambda: Event(here().kernel), RLock=lambda: RLock(here().kernel),
            Lock=lambda: RLock(here().kernel), Condition=lambda lock: Condition(here().kernel, lock),
        )  # fmt: skip
        clients = SimpleNamespace(
            run=self.run_client, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired,
            CompletedProcess=subprocess.CompletedProcess,
        )  # fmt: skip
        hub = SimpleNamespace(migrate=SimpleNamespace(apply=self._migrate, pending=self._pending))
        users = SimpleNamespace(getpwuid=lambda _: SimpleNamespace(pw_name=self.process.user if self.process else ""))
        real = {"getpid": os.getpid, "getppid": os.getppid, "kill": os.kill, "which": shutil.which,
                "hostname": socket.gethostname, "token": secrets.token_hex, "wait4": os.wait4}  # fmt: skip

        def ours(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *words, **options: (real[name] if self.process is None else function)(*words, **options)

        watch = functools.partial(memory.Watch, memory.Cgroup([]))
        known_settings = functools.lru_cache(runs.read_settings)
        return [
            *self.disk.replacements(),
            (os, "getpid", ours("getpid", lambda: self.process.pid)),
            (os, "getppid", ours("getppid", self._parent)),
            (os, "kill", ours("kill", self._kill)),
            (os, "wait4", ours("wait4", lambda pid, _: here().wait4(pid))),
            (shutil, "which", ours("which", lambda name: f"/usr/bin/{name}")),
            (socket, "gethostname", ours("hostname", lambda: self.process.host)),
            (secrets, "token_hex", ours("token", lambda size=8: f"{here().tokens.getrandbits(8 * size):0{2 * size}x}")),
            (time, "time", self._time), (time, "monotonic", self._monotonic), (time, "sleep", self._sleep),
            (session, "datetime", self._datetime()), (reconciling, "datetime", self._datetime()),
            (cluster.status.showing, "datetime", self._datetime()),
            (whole_files, "tempfile", self.disk.tempfile()), (store, "sqlite3", self.disk.sqlite3()),
            (store, "migrate", hub.migrate),
            (choices, "go_on", lambda *given, go_on=choices.go_on: here().choose(go_on, *given)),
            (session, "locked", lambda path, **options: here().locked(path, **options)),
            (reporting, "locked", lambda path, **options: here().locked(path, **options)),
            (queries, "subprocess", clients), (sbatch, "subprocess", clients),
            (environment, "pwd", users), (processes, "process_start", self._start_of),
            (processes, "_is_hidden", lambda _: False),
            (provenance, "_version", lambda _: "1"), (requests, "code_version", lambda: here().code),
            (stage, "source_digest", lambda: here().code["digest"]),
            (pack, "subprocess", SimpleNamespace(Popen=lambda words, env, **_: here().child(words, env),
                                                 DEVNULL=subprocess.DEVNULL)),
            (pack, "threading", threads), (stage, "threading", threads), (pack, "signal", self._signal),
            (stage, "signal", self._signal), (pack, "queue", SimpleNamespace(SimpleQueue=lambda: Queue(here().kernel))),
            (pack, "memory", SimpleNamespace(Watch=watch, reaped_peak=memory.reaped_peak, ran_out=memory.ran_out,
                                             peak_of=lambda pid: here().kernel.processes[pid].peak << 10)),
            (stage, "importlib", SimpleNamespace(import_module=self._module)), (stage, "_log_to", self._log_to),
            (stage, "_die_with_parent", self._die_with_parent),
            (stage, "STOP", stage.STOP),
            (entry, "app", saving.commands(self.disk)),
            (yaml_text.yaml, "load", functools.lru_cache(yaml_text.yaml.load)),
            (loading, "_outline", saving.outlined_once(loading._outline)),
            (grids, "cells", saving.expanded_once(grids.cells)),
            (follow_ups, "follow_ups", saving.expanded_once(follow_ups.follow_ups)),
            (following, "plans", saving.once_for_these(following.plans, dict)),
            (expansion, "expand", saving.once_for_these(expansion.expand, list)),
            (expansion, "studies", saving.once_for_these(expansion.studies, list)),
            (cost, "architecture_key", saving.keyed_once(cost.architecture_key)),
            (cost, "shape_key", saving.keyed_once(cost.shape_key)),
            (RunConfig, "model_validate", saving.validated_once(RunConfig.model_validate)),
            (runs, "read_settings", known_settings), (measure, "read_settings", known_settings),
            (progress, "shown", lambda *_: contextlib.nullcontext()),  # which starts a thread
            (launch, "render", saving.render_once(launch.render)),
            (kept_code, "read", saving.small_package(kept_code.read)),
            (CleanConsole, "print", saving.printed_plainly(CleanConsole.print)),
            (looking, "json", SimpleNamespace(dumps=saving.dumped)),
            (whole_files, "json", SimpleNamespace(loads=json.loads, dumps=saving.dumped)),
            (documents, "read", saving.read_once(documents.read)), (Database, "query", saving.query),
            *paths.replacements(self.disk),
            (typing, "get_origin", functools.cache(typing.get_origin)),
            (typing, "get_args", functools.cache(typing.get_args)),
            (typing, "is_typeddict", functools.cache(typing.is_typeddict)),
        ]  # fmt: skip


_SEAMS: list[Seams] = []


def seams() -> Seams:
    if not _SEAMS:
        _SEAMS.append(Seams())
    return _SEAMS[0]


@contextlib.contextmanager
def installed() -> Iterator[Path]:
    """Let worlds stand behind the seams; yields a folder for them, in memory where there is one."""
    kernels.on_entering(seams()._enter)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tt-world-", dir=base)).resolve()
    sources = "tiny_transformers.data.sources"
    stub = types.ModuleType(sources)
    stub.resolve_root = lambda _, data_root, cache, __: data_root or cache  # type: ignore[attr-defined]
    before = sys.modules.get(sources)
    sys.modules[sources] = stub
    seams().changes = seams().changes or seams().replacements()
    changes = seams().changes + [
        (provenance, "code_version", lambda: seams().world.code),
        (provenance, "environment", lambda: MACHINE),
    ]  # type: ignore[union-attr]
    kept = [(where, name, getattr(where, name)) for where, name, _ in changes]
    where_from, data = os.getcwd(), os.environ._data  # type: ignore[attr-defined]
    collecting = gc.isenabled()
    for where, name, value in changes:
        setattr(where, name, value)
    try:
        yield folder
    finally:
        for where, name, value in reversed(kept):
            setattr(where, name, value)
        os.environ._data = data  # type: ignore[attr-defined]
        os.chdir(where_from)
        sys.modules.pop(sources)
        if before:
            sys.modules[sources] = before
        if collecting:
            gc.enable()
        seams().disk.connections.end_all()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def world(folder: Path, seed: int) -> Iterator[World]:
    """A new world, below the folder of `installed`."""
    data = os.environ._data  # type: ignore[attr-defined]
    made = World(folder / "world", seed)  # always of this name: what is remembered of paths goes on
    seams().world = made
    disk = seams().disk
    disk.kernel, disk.folder, disk.written = made.kernel, str(made.folder), made.named.append
    disk.read_only = lambda process: made.read_only and "words" in process.notes
    disk.failed = made.failed
    disk.connections.from_nothing, disk.connections.beside = seed % 10 == 0, str(made.folder)
    os.chdir(made.folder)
    outputs = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Output(made.kernel, output) for output in outputs)  # type: ignore[assignment]
    try:
        yield made
    finally:
        made.kernel.end_all()
        disk.connections.end_world()
        disk.kernel = None
        sys.stdout, sys.stderr = outputs
        seams().world = None
        os.environ._data = data  # type: ignore[attr-defined]
        os.chdir(folder)
        remove(str(made.folder))
        made.let_go()
