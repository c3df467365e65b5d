"""The array task: works through one pack, `slots` runs at a time, each run in a process of its own.

A run's crash, or its kill -9, leaves the others alone. What a dead child could not say, this process says for it.
Writes only files of its own submission and of the attempts that its children claimed; never the ledger. No torch."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from cluster import rundir
from cluster.rundir import AttemptDir, OutputRoot, SubmissionDir


@dataclass(frozen=True)
class Task:
    """This process, as its files name it."""

    job: str  # 123_4, 123, or local-4711
    restart: int  # how often SLURM has requeued it
    host: str
    pid: int
    start: str | None


def work(submission: str, index: int) -> None:
    """Run pack `index` of the submission folder. Raises nothing for a failed run: its result file says it."""
    directory = SubmissionDir(Path(submission))
    intent = read_intent(directory)
    if (rundir.read_json(directory.answer) or {}).get("cancelled"):
        print(f"{directory.token} was cancelled before it began", flush=True)
        return
    task = this_task()
    if not _take(directory, index, task):
        print(f"pack {index} of {directory.token} is another task's; nothing to do", flush=True)
        return
    items = intent["packs"][index]
    slots = min(intent["slots"], len(items))
    print(f"pack {index} of {directory.token}: {len(items)} runs, {slots} at a time, as {task}", flush=True)
    children = Children()
    signal.signal(signal.SIGTERM, children.stop)
    signal.signal(signal.SIGUSR2, children.stop)
    devices: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for slot in range(slots):
        devices.put(_slot_environment(slot, slots, intent["cpus"]))

    def run_item(number: int) -> None:
        environment = devices.get()
        try:
            children.run(directory, index, number, items[number], environment, OutputRoot(Path(intent["output_root"])))
        finally:
            devices.put(environment)

    with ThreadPoolExecutor(slots) as pool:
        for done in [pool.submit(run_item, number) for number in range(len(items))]:
            done.result()


def read_intent(directory: SubmissionDir) -> dict[str, Any]:
    intent: dict[str, Any] | None = rundir.read_json(directory.submission)
    if intent is None:
        raise FileNotFoundError(f"{directory.submission}: is missing, so there is nothing to do")
    return intent


def this_task() -> Task:
    environment = os.environ
    if "SLURM_JOB_ID" in environment:
        array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{index}" if array else environment["SLURM_JOB_ID"]
        restart = int(environment.get("SLURM_RESTART_COUNT", "0"))
    else:
        job, restart = f"local-{os.getpid()}", 0
    pid = os.getpid()
    # On the test cluster several nodes share a hostname; SLURM's own name for the node tells them apart.
    host = environment.get("SLURMD_NODENAME") or socket.gethostname()
    return Task(job, restart, host, pid, rundir.process_start(pid))


def _take(directory: SubmissionDir, index: int, task: Task) -> bool:
    """Claim the pack; a requeued job takes over from its earlier self."""
    path = directory.task(index)
    if rundir.create_json(path, vars(task)):
        return True
    try:
        holder = rundir.read_json(path) or {}
    except rundir.TornFile:
        holder = {}
    if holder and (holder["job"] != task.job or holder["restart"] >= task.restart):
        return False
    rundir.write_json(path, vars(task))
    return True


def _slot_environment(slot: int, slots: int, cpus: int) -> dict[str, str]:
    """A share of the CPUs, and one of the visible GPUs."""
    threads = max(1, min(cpus, len(os.sched_getaffinity(0))) // slots)
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    if visible:
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
    return environment


class Children:
    """The processes of the runs in progress."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped_by: int | None = None

    def run(
        self,
        directory: SubmissionDir,
        index: int,
        number: int,
        item: dict[str, Any],
        environment: dict[str, str],
        root: OutputRoot,
    ) -> None:
        """One run's stages in one child; returns when it has ended and every claimed attempt has its result."""
        if self.stopped_by:
            if self.stopped_by == signal.SIGUSR2:
                _out_of_time(root, item, directory.token)
            return
        command = [sys.executable, "-m", "jobs.stage", str(directory.path), str(index), str(number)]
        child = subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL)
        self.running.add(child)
        code = child.wait()
        self.running.discard(child)
        print(f"run {item['run_id']}: child {child.pid} ended with {code}", flush=True)
        # SIGTERM is a job's end, by scancel, a time limit or `cancel`: they know the cause, not this process.
        if code and code != -signal.SIGTERM:
            for stage, _ in item["stages"]:
                for attempt in root.run(item["run_id"]).attempts(stage):
                    _speak_for(attempt, directory.token, child.pid, code)

    def stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """No new run, and the children hear it too. On SIGUSR2, before the time limit, they save and end; on SIGTERM
        they die, and the ledger learns why from SLURM or from `cancel`."""
        self.stopped_by = signum
        for child in list(self.running):
            child.send_signal(signum)


def _out_of_time(root: OutputRoot, item: dict[str, Any], token: str) -> None:
    """The pack's time ran out before this run's turn: say so at its first stage."""
    stage, number = item["stages"][0]
    attempt = root.run(item["run_id"]).attempt(stage, number)
    if rundir.create_json(attempt.claim, {"token": token, **vars(this_task()), "time": time.time()}):
        message = "the pack's time limit came before this run's turn"
        rundir.write_json(attempt.result, _failure("timeout", message))


def _failure(cause: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "cause": cause, "message": message, "ended": time.time(), "outcome": None}


def _speak_for(attempt: AttemptDir, token: str, pid: int, code: int) -> None:
    """Write the result of an attempt whose process died without one."""
    try:
        claim = rundir.read_json(attempt.claim) or {}
        if claim.get("token") != token or claim.get("pid") != pid or rundir.read_json(attempt.result):
            return
    except rundir.TornFile:
        pass  # a torn result is none
    if code < 0:
        message = f"killed by {signal.Signals(-code).name}"
    else:
        message = f"ended with exit code {code}, without a result"
    try:
        rundir.write_json(attempt.result, _failure("timeout" if -code == signal.SIGUSR2 else "error", message))
    except OSError as error:
        print(f"{attempt.result}: {message}, and that could not be written: {error}", flush=True)
