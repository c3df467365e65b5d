"""The array task: works through one pack, `slots` runs at a time, each run in a process of its own.

A run begins as soon as a slot is free and its memory fits beside what is at work; so a long or large one does not hold
up those behind it. Once all of them have begun, the task pulls runs of its array that nobody has begun (`pulling`).
A run's crash, or its kill -9, leaves the others alone. What a dead child could not say, this
process says for it. Before the time limit SLURM sends USR2, and submitit, which holds that signal, asks for a
checkpoint: the children save and end, and the task requeues itself as often as its intent allows. Writes only files of
its own submission and of the attempts that its children claimed; never the ledger. No torch."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cluster.files import whole_files
from cluster.files.causes import Cause
from cluster.files.documents import Intent, ResultFile, TaskFile
from cluster.files.folders import OutputRoot, SubmissionDir
from jobs import attempts, memory, mps, turn
from jobs.attempts import STOPPED, ArrayTask, failure, read_intent, say, this_task, whole
from jobs.lives import take, unseen
from jobs.pulling import Runs

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

RESERVE = 20  # seconds of the signal's delay that are kept for what comes after the children
LEAST_PATIENCE = 10  # seconds
TURN_PAUSE = 1.0  # seconds between two looks at the packs before it
THREADS = ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")  # of a child: to compute, and to compile
LAST_WORDS = 10  # seconds that this process has for what killed children could not say


class PackJob:
    """The callable that submitit starts, on SLURM and on one machine alike: `__call__` does the work, `checkpoint` is
    its protocol for the signal before the time limit. Pickled before it is called, so it holds a path and no more."""

    def __init__(self, submission: str) -> None:
        self.submission = submission
        self.work: PackWork | None = None

    def __call__(self) -> None:
        """Work through this task's pack. Raises nothing for a failed run: its result file says it."""
        directory = SubmissionDir(Path(self.submission))
        intent, index, task = read_intent(directory), int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")), this_task()
        if not take(directory, index, task):
            return
        self.work = PackWork(directory, intent, index, task)
        signal.signal(signal.SIGTERM, self.work.stop)
        if signal.getsignal(signal.SIGUSR2) in (signal.SIG_DFL, None):  # nobody else listens
            signal.signal(signal.SIGUSR2, lambda signum, frame: self.work and self.work.save_and_end())  # noqa: ARG005
        if intent["site"].get("scheduler") == "local":
            self.work.wait_for_turn()
        self.work.run()

    def checkpoint(self) -> DelayedSubmission | None:
        """Called by submitit on USR2, in the main thread. Ends the children; returns what is to run after a requeue,
        or None, and then every attempt of this task has its result."""
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # it is known by now
        if self.work is None or not self.work.save_and_end(may_requeue=True):
            return None
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(PackJob(self.submission))


class PackWork:
    """One life of a task at its pack: a thread for each slot, which starts a child for each run.

    The main thread only waits, because it is the one that a signal interrupts: it holds nothing that a slot needs."""

    def __init__(self, directory: SubmissionDir, intent: Intent, index: int, task: ArrayTask) -> None:
        self.directory, self.intent, self.index, self.task = directory, intent, index, task
        self.root = OutputRoot(Path(intent["output_root"]))
        if self.root.own_stages():
            from cluster.files import own_stages  # pydantic, which a pack can mostly do without

            own_stages.load(self.root)
        self.runs = Runs(directory, intent, index)
        self.parts = self.runs.own(task.restart > 0)  # and what is pulled
        self.lives = unseen(whole(directory.task(index), TaskFile)) if task.restart else set()
        self.slots = min(intent["slots"], sum(not part.alone for part in self.runs.parts))
        seconds = 60 * intent.get("minutes", math.inf) - intent["site"].get("signal_delay", 0)
        self.ends = time.monotonic() + seconds  # when it is told to save and end
        self.alone = False  # the phase: what needs the device for itself comes after all else
        self.waiting: list[int] = []  # the parts of this phase without a child so far, by number
        self.running: dict[int, int | None] = {}  # part -> its child's pid; None: ended, and being spoken for
        self.left = set(range(len(self.parts)))  # the parts that may have stages without a result
        self.lock = threading.RLock()  # for the four above; reentrant, since a signal may interrupt another's handler
        self.ended = threading.Condition(self.lock)  # a run is at work no more, so that memory is free
        self.stopped_by: int | None = None
        self.out_of_patience = False  # the children that are left were killed
        self.made_with: dict[str, Any] = {}
        self.watch = memory.Watch()
        self.pulls = True  # runs of other packs

    def run(self) -> None:
        if not self.parts and not self.runs.any_left():
            say(f"pack {self.index} of {self.directory.id}: others have all of its runs; nothing is left to do")
            return
        alone = sum(part.alone for part in self.parts)
        about = f"{len(self.parts) - alone} runs, {self.slots} at a time, then {alone} alone, as {self.task}"
        say(f"pack {self.index} of {self.directory.id}: {about}")
        self._record_provenance()
        with mps.daemon(bool(self.intent["site"].get("mps")), self.slots) as variables:
            self._work_through(self.slots, variables)
        self.alone = True
        self._work_through(1, {})  # what is measured here is to have the device for itself
        if self.stopped_by != signal.SIGTERM:
            self._settle()

    def wait_for_turn(self) -> None:
        """Wait until the packs before it on this machine have ended, or until it is to stop."""
        waits = False
        while not self.stopped_by and (before := turn.pack_before(self.directory)):
            if not waits:
                say(f"pack {self.index} of {self.directory.id} waits for process {before['pid']}")
                waits = self._update_task_file({"waits": True})
            time.sleep(TURN_PAUSE)
        if waits:
            self._update_task_file({"waits": False})

    def stop(self, signum: int, frame: FrameType | None = None) -> None:  # noqa: ARG002
        """No new run, and the children hear it too. On SIGUSR2 they save and end; on SIGTERM, which is a job's end by
        scancel or `cancel`, they die, and the ledger learns why from those."""
        self.stopped_by = signum
        self._signal_all(signum)

    def save_and_end(self, *, may_requeue: bool = False) -> bool:
        """End within the time between the signal and the limit; whether the task is to be requeued. If not, what is
        left of it has timed out. A child that does not end is killed: its newest checkpoint is what remains."""
        if self.stopped_by != signal.SIGTERM:
            self.stop(signal.SIGUSR2)
        if not self._wait(patience(self.intent)):
            self.out_of_patience = True
            self._signal_all(signal.SIGKILL)
            self._wait(LAST_WORDS)
        if self.stopped_by == signal.SIGTERM:  # cancelled, perhaps in the meantime
            return False
        again = may_requeue and "SLURM_JOB_ID" in os.environ and self.task.restart < self.intent.get("requeues", 0)
        if again and self.left and self._update_task_file({"ended_by": "timeout"}):
            say(f"the time limit is near: {len(self.left)} of {len(self.parts)} runs go on after a requeue")
            return True
        self._settle()
        return False

    def _work_through(self, slots: int, shared: Mapping[str, str]) -> None:
        """The parts of this phase, so many at a time."""
        with self.lock:
            self.waiting = [number for number, part in enumerate(self.parts) if part.alone == self.alone]
        idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(slots):
            environment = slot_environment(slot, slots, self.intent["cpus"], shared)
            threading.Thread(target=self._work_slot, args=(slot, environment, idle), daemon=True).start()
        for _ in range(slots):
            idle.get()

    def _work_slot(self, slot: int, environment: Mapping[str, str], idle: queue.SimpleQueue[int]) -> None:
        # A child inherits what is blocked, and hears a USR2 that comes while it starts as soon as it can answer it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            while (started := self._start_next(environment)) is not None:
                number, child = started
                try:
                    if child:
                        self._see_through(number, child)
                finally:
                    with self.ended:
                        del self.running[number]
                        self.ended.notify_all()
        finally:
            idle.put(slot)

    def _start_next(self, environment: Mapping[str, str]) -> tuple[int, subprocess.Popen[bytes] | None] | None:
        """Start a child for the first waiting run that fits, once there is one, or else for one that is pulled. Returns
        the run's number and the child, which is None if it could not be started; or None if there is no run to start
        any more."""
        with self.ended:
            while not self.stopped_by:
                if (number := self._first_that_fits() if self.waiting else self._pull()) is None:
                    if not self.running:
                        return None
                    self.ended.wait()
                    continue
                self.waiting.remove(number)
                if not self._has(number):
                    self.left.discard(number)
                    continue
                self.running[number] = None
                try:
                    child = self._start(number, environment)
                except OSError as error:
                    self._could_not_start(number, error)
                    return number, None
                self.running[number] = child.pid
                return number, child
            return None

    def _first_that_fits(self) -> int | None:
        """The first waiting run whose memory, as planned, is free beside the runs at work; where nothing is at work any
        run fits. An intent that says nothing of memory leaves that to `slots`."""
        free = self._free()
        return next((number for number in self.waiting if self.parts[number].memory <= free), None)

    def _pull(self) -> int | None:
        """Take a run of another pack, if one fits beside the runs at work and would surely end in time."""
        if not self.pulls:
            return None
        seconds = (self.ends - time.monotonic()) / (len(self.running) + 1)
        try:
            pulled = self.runs.pull(self.alone, self._free(), seconds)
        except OSError as error:
            say(f"no run could be pulled: {error}")
            return None
        if not pulled:
            return None
        first = len(self.parts)
        self.parts += pulled
        say(f"run {pulled[0].run_id} is pulled from pack {pulled[0].pack}")
        if why := self._unwanted(pulled[0].pack):
            self._speak_for(first, *why)
            del self.parts[first:]
            return self._pull()
        self.left |= set(range(first, len(self.parts)))
        self.waiting.append(first)
        return first

    def _unwanted(self, pack: int) -> tuple[Cause, str] | None:
        """Say why a run of this pack is not begun: it may have been cancelled just before it was pulled."""
        try:
            cancelled = self.runs.is_cancelled(pack)
        except OSError as error:
            self.pulls = False  # else all that others have would soon be taken, and fail
            return "error", f"whether its pack was cancelled could not be read: {error}"
        return ("cancelled", "its pack was cancelled before it had begun") if cancelled else None

    def _has(self, number: int) -> bool:
        """Whether the run is this task's; another may have pulled it. Where that cannot be told nothing is said for it,
        either: whoever has it does it, and if nobody has, the login node says that it was left."""
        run_id = self.parts[number].run_id
        try:
            return self.runs.take(run_id)
        except OSError as error:
            say(f"run {run_id} is left, since whose it is could not be told: {error}")
            return False

    def _free(self) -> float:
        at_work = sum(self.parts[number].memory for number in self.running)
        return self.intent.get("memory_limit", math.inf) - at_work if self.running else math.inf

    def _see_through(self, number: int, child: subprocess.Popen[bytes]) -> None:
        """One run's stages in one child, to its end; every attempt that it claimed and did not leave to a requeue then
        has its result."""
        _, status, usage = os.wait4(child.pid, 0)  # unlike Popen.wait it tells how much memory was used
        code = child.returncode = os.waitstatus_to_exitcode(status)
        with self.lock:
            self.running[number] = None
            beside = [pid for pid in self.running.values() if pid]
        say(f"run {self.parts[number].run_id}: child {child.pid} ended with {code}")
        try:
            self._hear_end(number, child.pid, code, memory.reaped_peak(usage.ru_maxrss), beside)
        except Exception:  # noqa: BLE001 - the other runs go on
            say(traceback.format_exc())

    def _start(self, number: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        part = self.parts[number]
        place = map(str, (self.directory.path, self.index, part.pack, part.number))
        command = [sys.executable, "-m", "jobs.stage", *place]
        return subprocess.Popen(command, env=os.environ | dict(environment), stdin=subprocess.DEVNULL)

    def _hear_end(self, number: int, pid: int, code: int, peak: int, beside: list[int]) -> None:
        """Note what the child's exit code means for its run."""
        if code in (STOPPED, -signal.SIGUSR2) or (code == -signal.SIGKILL and self.out_of_patience):
            return  # it is left, and goes on after a requeue or is settled as timed out
        self.left.discard(number)
        # SIGTERM is a job's end, by scancel, a time limit or `cancel`: they know the cause, not this process.
        if code in (0, -signal.SIGTERM):
            return
        cause: Cause = "error"
        message = f"ended with exit code {code}, without a result"
        if code < 0:
            message = f"killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL and (figures := self.watch.explain(peak, map(memory.peak_of, beside))):
            cause, message = "out_of_memory", figures
        item = self.parts[number].item
        run = self.root.run(item["run_id"])
        for stage, _ in item["stages"]:
            for attempt, holder in attempts.claimed(run, stage, self.directory.id, self.task.restart):
                if holder["pid"] != pid:
                    continue
                result = whole(attempt.result, ResultFile)
                if result is None:
                    attempts.write_result(attempt, failure(cause, message))
                elif result.get("cause") == "no_gpu":  # else this node would soon have had, and failed, all runs
                    self.pulls = False

    def _could_not_start(self, number: int, error: OSError) -> None:
        say(f"run {self.parts[number].run_id}: no child could be started: {error}")
        self.left.discard(number)
        cause: Cause = "out_of_memory" if memory.ran_out(error) else "error"
        self._speak_for(number, cause, f"no process could be started: {error}")

    def _speak_for(self, number: int, cause: Cause, message: str) -> None:
        """Say how the first stage of a run ended that has no child to say so."""
        item = self.parts[number].item
        stage, planned = item["stages"][0]
        run, submission_id = self.root.run(item["run_id"]), self.directory.id
        try:
            attempt = attempts.claim(run, stage, planned, submission_id, self.task, self.made_with, self.lives)
            if attempt:
                attempts.write_result(attempt, failure(cause, message), tries=1)
        except OSError as error:
            say(f"run {item['run_id']}: {error}. It would say: {message}")

    def _record_provenance(self) -> None:
        """Collected once for all children, who find it in the task file. Without it the work goes on all the same."""
        from tiny_transformers.common.provenance import code_version, environment

        try:
            self.made_with = {"code": code_version(), "environment": environment()}
            told = self.intent.get("code")
            if told and told["digest"] == self.made_with["code"]["digest"]:
                self.made_with["code"] = told  # a copy is in no repository, whose commit the submission knew
        except OSError as error:
            say(f"what this is run with could not be read: {error}")
        self._update_task_file(self.made_with)

    def _update_task_file(self, values: Mapping[str, Any]) -> bool:
        """Whether it could be written."""
        path = self.directory.task(self.index)
        try:
            whole_files.write_json(path, {**(whole(path, TaskFile) or vars(self.task)), **values})
        except OSError as error:
            say(f"{path}: {error}")
            return False
        return True

    def _settle(self) -> None:
        """Say `timeout` for the runs that were stopped or had no turn."""
        for number in sorted(self.left):
            item = self.parts[number].item
            run = self.root.run(item["run_id"])
            try:
                if not self.runs.take(item["run_id"]):
                    continue
                attempts.time_ran_out(run, item, self.directory.id, self.task, self.made_with, self.lives)
            except OSError as error:
                say(f"run {item['run_id']}: {error}")

    def _wait(self, seconds: float) -> bool:
        """Until no child is left, for so long at most. It only looks: what it interrupted in the main thread may hold
        a lock of the threading module."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.running

    def _signal_all(self, signum: int) -> None:
        with self.lock:
            for pid in self.running.values():
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signum)


def patience(intent: Mapping[str, Any]) -> float:
    """Seconds that the children have from USR2 to their end."""
    return max(LEAST_PATIENCE, intent.get("site", {}).get("signal_delay", 0) - RESERVE)


def slot_environment(slot: int, slots: int, cpus: int, shared: Mapping[str, str]) -> dict[str, str]:
    """A share of the CPUs, one of the visible GPUs, and what all slots share: MPS's variables, if it runs."""
    threads = str(max(1, min(cpus, len(os.sched_getaffinity(0))) // slots))
    environment = {name: os.environ.get(name, threads) for name in THREADS}
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    if visible:
        # MPS's daemon was given the visible ones and numbers them anew, from 0.
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % len(visible)) if shared else visible[slot % len(visible)]
    return environment | dict(shared)
