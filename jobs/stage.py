"""What every stage does: claim, log, heartbeat, work, result. Runs one run's stages, in order, in one process.

`python -m jobs.stage SUBMISSION PACK ITEM`. The result file is written last: it alone says that a stage succeeded.
A stage that fails leaves its traceback in its log and its cause in its result; stages that do not need it go on."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster import rundir
from cluster.rundir import AttemptDir, OutputRoot, RunDir, SubmissionDir
from jobs.pack import Task, read_intent, this_task
from tiny_transformers.config import NEEDS, RunConfig
from tiny_transformers.work import CheckFailed, Interrupted, Outcome, TinyTransformersError, Work

RUNNERS = {  # stage -> the module whose `run` does it
    "pretrain": "tiny_transformers.pretrain",
    "add_tokenizer": "tiny_transformers.tokenizer",
    "blimp": "tiny_transformers.evaluation.blimp",
    "superglue": "tiny_transformers.evaluation.superglue",
}
HEARTBEAT = 10.0  # seconds
STOP = threading.Event()  # SIGUSR2, which comes before the time limit, sets it; stages look when it suits them


def main(submission: str, index: str, number: str) -> int:
    signal.signal(signal.SIGUSR2, lambda signum, frame: STOP.set())  # noqa: ARG005
    _die_with_parent()
    directory = SubmissionDir(Path(submission))
    intent = read_intent(directory)
    item = intent["packs"][int(index)][int(number)]
    run = OutputRoot(Path(intent["output_root"])).run(item["run_id"])
    task = this_task()
    failed: set[str] = set()
    for stage, planned in item["stages"]:
        if failed & set(NEEDS[stage]):
            failed.add(stage)
            continue
        attempt = claim(run, stage, planned, directory.token, task)
        if attempt is None:
            if not _completed(run, stage):
                failed.add(stage)
        elif STOP.is_set():
            failed.add(stage)
            _write_result(attempt, "failed", "timeout", "the pack's time limit came before this stage's turn", None)
        elif not attempt_stage(run, stage, attempt, intent):
            failed.add(stage)
    return 1 if failed else 0


def claim(run: RunDir, stage: str, number: int, token: str, task: Task) -> AttemptDir | None:
    """The attempt that is this process's to do: the planned one, or, if an earlier life of the same job began it and
    was requeued, the next. None: another job has it, or it is completed."""
    interrupted: AttemptDir | None = None
    while True:
        attempt = run.attempt(stage, number)
        mine = {"token": token, **vars(task), "job": _parent_job(task), "time": time.time()}
        if rundir.create_json(attempt.claim, mine):
            if interrupted:  # only now, so that there is always one attempt that is not over
                _write_result(interrupted, "failed", "preempted", "requeued by SLURM; the next attempt goes on", None)
            return attempt
        try:
            holder, result = rundir.read_json(attempt.claim), rundir.read_json(attempt.result)
        except rundir.TornFile:
            return None
        if not holder or holder["token"] != token or holder["restart"] >= task.restart:
            print(f"{stage} attempt {number} of {run.path.name} is another job's", flush=True)
            return None
        if result and result.get("cause") != "preempted":  # completed, or failed for good: not this job's to repeat
            return None
        interrupted = None if result else attempt
        number += 1


def _parent_job(task: Task) -> str:
    """On a bare machine the job is the pack's process, whose child this one is."""
    return f"local-{os.getppid()}" if task.job.startswith("local-") else task.job


def attempt_stage(run: RunDir, stage: str, attempt: AttemptDir, intent: dict[str, Any]) -> bool:
    """Do a claimed stage. Returns whether it completed."""
    with _log_to(attempt.log):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {stage} of {run.path.name}, attempt {attempt.number}")
        heartbeat = Heartbeat(attempt)
        try:
            outcome = _run(run, stage, intent, heartbeat)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the result file says it
            if not isinstance(error, TinyTransformersError | CheckFailed):
                traceback.print_exc()
            message = " ".join(f"{type(error).__name__}: {error}".split())
            if isinstance(error, TinyTransformersError | CheckFailed):
                message = str(error)
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return _write_result(attempt, "failed", cause(error), message, None)
        finally:
            heartbeat.stop()
        failed = [check.name for check in outcome.checks if check.blocking and not check.passed]
        if failed:
            return _write_result(attempt, "failed", "check_failed", f"failed checks: {', '.join(failed)}", outcome)
        print(f"{stage} completed")
        return _write_result(attempt, "completed", None, None, outcome)


def cause(error: BaseException) -> str:
    """One of the ledger's causes."""
    if isinstance(error, CheckFailed):
        return "check_failed"
    if isinstance(error, Interrupted):
        return "timeout"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    return "error"


def _run(run: RunDir, stage: str, intent: dict[str, Any], heartbeat: Heartbeat) -> Outcome:
    from tiny_transformers.data import resolve_root  # imports what only a stage needs

    described = rundir.read_json(run.run_json)
    if described is None:
        raise TinyTransformersError(f"{run.run_json}: is missing; `submit` writes it. Submit the manifest again.")
    config = RunConfig.model_validate(described["config"])
    cache = Path(intent["cache"])
    data_root = Path(intent["data_root"]) if intent["data_root"] else None
    work = Work(
        config=config,
        root=resolve_root(config, data_root, cache, [stage]),
        cache=cache,
        run_dir=run.path,
        progress=heartbeat.progress,
        should_stop=STOP.is_set,
    )
    return importlib.import_module(RUNNERS[stage]).run(work)


def _die_with_parent() -> None:
    """A child must not go on when its pack was killed with -9: the run would be done twice at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _write_result(
    attempt: AttemptDir, status: str, cause: str | None, message: str | None, outcome: Outcome | None
) -> bool:
    value = {
        "status": status,
        "cause": cause,
        "message": message and message[:2_000],
        "ended": time.time(),
        "outcome": asdict(outcome) if outcome else None,
    }
    rundir.write_json(attempt.result, value)
    return status == "completed"


def _completed(run: RunDir, stage: str) -> bool:
    for attempt in reversed(run.attempts(stage)):
        result = rundir.read_json(attempt.result)
        if result:
            return bool(result["status"] == "completed")
    return False


class Heartbeat:
    """Says every few seconds that the stage is alive and how far it is. A stale one makes nothing fail by itself."""

    def __init__(self, attempt: AttemptDir) -> None:
        self._attempt = attempt
        self._state: dict[str, Any] = {"fraction": 0.0, "text": "starting"}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def progress(self, fraction: float, text: str) -> None:
        self._state = {"fraction": round(fraction, 4), "text": text}

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while True:
            try:
                rundir.write_json(self._attempt.heartbeat, {"time": time.time(), **self._state})
            except OSError as error:  # a full disk; the stage itself will find out
                print(f"heartbeat: {error}", flush=True)
            if self._stopped.wait(HEARTBEAT):
                return


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Everything this process prints, C libraries included, goes to the attempt's own log."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, descriptor in enumerate(saved, 1):
            os.dup2(descriptor, target)
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
