"""Do what every stage does: claim, log, heartbeat, work, result. Runs one run's stages, in order, in one process.

`python -m jobs.stage SUBMISSION TASK PACK NUMBER`: TASK is the pack of the task whose child this is, PACK the one that
the run was planned for. The result file is written last: it alone says that a stage succeeded.
A stage that fails leaves its traceback in its log and its cause in its result; stages that do not need it go on. One
that is asked to stop leaves no result, and the process ends with `attempts.STOPPED`."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster.files import documents, folders, kept_code, own_stages, whole_files
from cluster.files.documents import Claim, ContentsFile, Intent, PackedRun, ResultFile, RunFile, TaskFile
from cluster.files.folders import AttemptDir, OutputRoot, RunDir, SubmissionDir
from jobs import memory
from jobs.attempts import (
    STOPPED,
    at_work,
    claim,
    completed,
    done_before,
    has_result,
    has_turn,
    newest_completed,
    read_intent,
    say,
    this_task,
    whole,
    write_result,
)
from jobs.lives import unseen
from jobs.stopping import Stop
from tiny_transformers.common import refusals
from tiny_transformers.common.provenance import decisive_versions, source_digest
from tiny_transformers.common.work import Check, CheckFailed, Interrupted, NoGPU, Outcome, TinyTransformersError, Work
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.known import definition
from tiny_transformers.settings.stages import STAGES, needed_by

HEARTBEAT = 10.0  # seconds
GARBAGE = gc.get_threshold()
STOP = Stop()  # SIGUSR2, which comes before the time limit, sets it; stages look when it suits them


def main(submission: str, index: str, planned_for: str, number: str) -> int:
    signal.signal(signal.SIGUSR2, lambda signum, frame: STOP.set())  # noqa: ARG005
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # the pack blocks it until it can be answered
    _die_with_parent()
    directory = SubmissionDir(Path(submission))
    intent = read_intent(directory)
    item = intent["packs"][int(planned_for)][int(number)]
    root = OutputRoot(Path(intent["output_root"]))
    own_stages.load(root)
    run = root.run(item["run_id"])
    pack = whole(directory.task(int(index)), TaskFile)
    if pack and pack["pid"] != os.getppid():  # the pack died before it could take this process with it
        return 1
    made_with = _made_with(pack)
    task = this_task()
    if pack and task.job.startswith("local-"):  # on a bare machine the job is the pack, whose child this one is
        task = replace(task, job=pack["job"])
    lives = unseen(pack)
    all_completed = True
    for stage, planned in item["stages"]:
        if not has_turn(run, stage):
            all_completed = False
            continue
        other = at_work(run, stage, planned, directory.id, task, lives, STOP.wait)
        if STOP.is_set():
            return STOPPED
        other = other or done_before(run, stage, planned, item)
        if other:  # the last to know of it: SLURM, or the ledger, had given that attempt up
            say(f"{stage} of {run.path.name} is left to attempt {other.number}, which is at work or has completed")
            all_completed &= completed(run, stage)
            continue
        attempt = claim(run, stage, planned, directory.id, task, made_with, lives, STOP.wait)
        if attempt is None:
            if STOP.is_set():
                return STOPPED
            all_completed &= completed(run, stage)
        elif not attempt_stage(run, stage, attempt, intent, item):
            if not has_result(attempt) and STOP.is_set():
                return STOPPED
            all_completed = False
    return 0 if all_completed else 1


def attempt_stage(run: RunDir, stage: str, attempt: AttemptDir, intent: Intent, item: PackedRun) -> bool:
    """Do a claimed stage. Returns whether it completed. One that was asked to stop leaves no result: whether it goes
    on after a requeue or has timed out is the pack's to say."""
    with _log_to(attempt.log):
        say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {stage} of {run.path.name}, attempt {attempt.number}")
        refusal = damaged_code(attempt, intent)
        if not refusal and not intent.get("allow_code_change"):
            refusal = changed_code(run, attempt, [name for name, _ in item["stages"]])
        if refusal:
            say(refusal)
            return _write_result(attempt, "failed", "error", refusal, None)
        heartbeat = Heartbeat(attempt)
        try:
            outcome = _run(run, stage, intent, item, heartbeat)
            outcome.checks += other_libraries(intent)
            told = asdict(outcome)
            json.dumps(told)  # a number that is none of Python's own is an error of the stage
        except Interrupted as error:
            say(f"stopped: {error}")
            return False
        except BaseException as error:  # noqa: BLE001 - whatever it is, the result file says it
            return _write_result(attempt, "failed", cause(error), _explain(error), None)
        finally:
            heartbeat.stop()
        failed = [check.name for check in outcome.checks if check.blocking and not check.passed]
        if failed:
            return _write_result(attempt, "failed", "check_failed", f"failed checks: {', '.join(failed)}", told)
        say(f"{stage} completed")
        done = _write_result(attempt, "completed", None, None, told)
        if done:
            remove_spent(run, stage)
        return done


def remove_spent(run: RunDir, stage: str) -> None:
    """Remove what a stage's settings say that nobody needs once its result is written. A kill in between leaves it, and
    so does a disk that fails, which is said: the stage is completed all the same."""
    try:
        described = documents.read(run.run_json, RunFile)
        for name in STAGES[stage].spends(RunConfig.model_validate(described["config"])) if described else ():
            shutil.rmtree(run.path / name)
            say(f"{name} removed")
    except OSError as error:
        say(f"not removed, though nobody needs it any more: {error}")


def other_libraries(intent: Intent) -> list[Check]:
    """A check that did not hold if libraries that results depend on have other versions than at the submission."""
    told, here = intent.get("libraries", {}), decisive_versions()
    changed = [f"{name} {version} -> {here[name]}" for name, version in told.items()
               if version and name in here and here[name] != version]  # fmt: skip
    return [Check("libraries_of_submission", False, ", ".join(changed), blocking=False)] if changed else []


def _explain(error: BaseException) -> str:
    """The result's message; the log gets the traceback, or the message alone if it is the user's mistake."""
    with contextlib.suppress(OSError):
        if isinstance(error, TinyTransformersError | CheckFailed):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
    if isinstance(error, TinyTransformersError | CheckFailed):
        return str(error)
    return " ".join(refusals.explain(error).split())


def damaged_code(attempt: AttemptDir, intent: Intent) -> str | None:
    """Return what to say if this process runs from its submission's copy of the code, and that was changed."""
    told, copy = intent.get("code"), OutputRoot(Path(intent["output_root"])).code(intent.get("code_copy", ""))
    if not told or copy.resolve() != kept_code.HOME or _digest(whole(attempt.claim, Claim)) in (None, told["digest"]):
        return None
    return kept_code.damage(copy)


def changed_code(run: RunDir, attempt: AttemptDir, again: Collection[str]) -> str | None:
    """Return what to say if this attempt would go on from work of other code: from a completed stage that it needs and
    that is not done `again` here, or was by this submission; or from the checkpoints of an attempt that did not fail
    by a mistake, which other code may mend. Claims of older versions name no code. The login node has the same rule,
    on the ledger (cluster/submit/dispatch.py)."""
    mine = whole(attempt.claim, Claim)
    code, stage = _digest(mine), attempt.path.parent.name
    for name in (stage, *needed_by([stage])):
        earlier = _newest(run, name, before=attempt if name == stage else None)
        if earlier is None:
            continue
        claim, result = whole(earlier.claim, Claim), whole(earlier.result, ResultFile)
        if name != stage:
            kept = name not in again or (claim and claim["submission_id"]) == (mine and mine["submission_id"])
        else:
            kept = run.has_checkpoints and (result and result.get("cause")) not in ("error", "check_failed")
        if code and kept and _digest(claim) not in (None, code):
            return (
                f"{folders.OTHER_CODE} {name} attempt {earlier.number} "
                f"({_digest(claim)} -> {code}): restore it, or submit with --allow-code-change"
            )
    return None


def _newest(run: RunDir, name: str, before: AttemptDir | None) -> AttemptDir | None:
    """A stage's newest attempt before this one that did some work; of another stage the newest that completed."""
    for earlier in reversed(run.attempts(name)):
        result = whole(earlier.result, ResultFile)
        if before is None:
            if result and result["status"] == "completed":
                return earlier
            continue
        refused = ((result and result.get("message")) or "").startswith(folders.OTHER_CODE)
        if earlier.number < before.number and earlier.claim.exists() and not refused:
            return earlier
    return None


def _digest(claim: Claim | None) -> str | None:
    code = claim.get("code") if claim else None
    return code["digest"] if code else None


def _made_with(pack: TaskFile | None) -> dict[str, Any]:
    """Return the version that the pack found, unless the source has changed since: this process has just loaded it."""
    found: dict[str, Any] = {key: value for key, value in (pack or {}).items() if key in ("code", "environment")}
    if "code" in found and (digest := source_digest()) != found["code"]["digest"]:
        found["code"] = {"digest": digest, "commit": None, "diff": None}
    return found


def cause(error: BaseException) -> str:
    """One of the ledger's causes."""
    if isinstance(error, CheckFailed):
        return "check_failed"
    if isinstance(error, Interrupted):
        return "timeout"
    if isinstance(error, NoGPU):
        return "no_gpu"
    return "out_of_memory" if memory.ran_out(error) else "error"


def _run(run: RunDir, stage: str, intent: Intent, item: PackedRun, heartbeat: Heartbeat) -> Outcome:
    from tiny_transformers.data.sources import resolve_root  # imports what only a stage needs

    described = documents.read(run.run_json, RunFile)
    if described is None:
        raise TinyTransformersError(f"{run.run_json}: is missing; `submit` writes it. Submit the manifest again.")
    config = RunConfig.model_validate(described["config"])
    if tokens := item.get("micro_batch_tokens"):  # how, not what: the run stays the same one
        say(f"micro_batch_tokens: {tokens} for this attempt, not {config.train.micro_batch_tokens}")
        config = config.model_copy(update={"train": config.train.model_copy(update={"micro_batch_tokens": tokens})})
    cache = Path(intent["cache"])
    data_root = Path(intent["data_root"]) if intent["data_root"] else None
    if config.reads_data:
        data_root = resolve_root(config, data_root, cache, [stage])
    own = definition(config, stage)
    teacher = needed_model(OutputRoot(Path(intent["output_root"])), described, stage)
    work = Work(
        config=config,
        data_root=data_root or cache,
        cache=cache,
        run_dir=run.path,
        progress=heartbeat.progress,
        figures=heartbeat.figures,
        should_stop=STOP.is_set,
        stage=stage,
        own=own,
        teacher_dir=teacher,
        has_gpu=bool(intent["site"].get("gpus")),
    )
    if known := documents.read(OutputRoot(Path(intent["output_root"])).contents, ContentsFile):
        from tiny_transformers.common import contents

        if wrong := contents.unexpected(config, [stage], work.data_root, cache, known):
            raise TinyTransformersError(wrong)
    module, _, function = ((own and own.run) or STAGES[stage].runner).partition(":")
    if own and own.run and own.folder not in sys.path:
        sys.path.append(own.folder)  # behind all else: a file of the user's hides no module
    run_stage = getattr(importlib.import_module(module), function or "run")
    if not gc.get_threshold()[0]:
        gc.freeze()  # what is loaded by now stays
        gc.set_threshold(*GARBAGE)
    outcome: Outcome = run_stage(work)
    return outcome


def needed_model(root: OutputRoot, described: RunFile, stage: str) -> Path | None:
    """Return the folder of another run's model that this stage needs; None if it needs none.

    Raises TinyTransformersError if that run has not made it: this one should not have been submitted."""
    for need in (each for each in described.get("needs", []) if each["stage"] == stage):
        other = root.run(need["run_id"])
        if not newest_completed(other, need["needed"]):
            raise TinyTransformersError(f"needs {need['needed']} of run {need['run_id']}, which has not completed")
        return other.model
    return None


def _die_with_parent() -> None:
    """A child must not go on when its pack was killed with -9: the run would be done twice at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _write_result(
    attempt: AttemptDir, status: str, cause: str | None, message: str | None, outcome: dict[str, Any] | None
) -> bool:
    """Whether the stage completed and says so."""
    value = {
        "status": status,
        "cause": cause,
        "message": message and message[:2_000],
        "ended": time.time(),
        "outcome": outcome,
    }
    return write_result(attempt, value) and status == "completed"


class Heartbeat:
    """Says every few seconds that the stage is alive and how far it is. A stale one makes nothing fail by itself."""

    def __init__(self, attempt: AttemptDir) -> None:
        self._attempt = attempt
        self._state: dict[str, Any] = {"fraction": 0.0, "text": "starting"}
        self._figures: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def progress(self, fraction: float, text: str) -> None:
        self._state = {"fraction": round(fraction, 4), "text": text}

    def figures(self, figures: Mapping[str, float]) -> None:
        self._figures = dict(figures)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while True:
            try:
                whole_files.write_json(self._attempt.heartbeat, {"time": time.time(), **self._state, **self._figures})
            except OSError as error:  # a full disk; the stage itself will find out
                say(f"heartbeat: {error}")
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
        with contextlib.suppress(OSError):  # a full disk
            sys.stdout.flush()
            sys.stderr.flush()
        for target, descriptor in enumerate(saved, 1):
            os.dup2(descriptor, target)
            os.close(descriptor)


if __name__ == "__main__":
    gc.set_threshold(0)  # till a stage is loaded: to look for garbage takes a seventh of that time, and finds none
    sys.exit(main(*sys.argv[1:]))
