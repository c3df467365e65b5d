"""The stage of a user's own that is a command: any program, whose result file has the scores.

It runs by bash in the folder of the manifest. It fails by its exit code, with the last words of its standard error.
Asked to stop, it gets SIGTERM: what it has saved in {run} by then is its own to go on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tiny_transformers.common.provenance import PACKAGE
from tiny_transformers.common.work import Interrupted, Outcome, Score, TinyTransformersError, Work
from tiny_transformers.programs import watcher
from tiny_transformers.settings.program import Program
from tiny_transformers.settings.stage.own import OwnStage, told

LOOK = 0.2  # seconds between two looks at the program
LAST_WORDS = 1_500  # characters of its standard error that a failure tells
SCORE = {"task": str, "metric": str, "value": (int, float), "n": int}


def run(work: Work) -> Outcome:
    """Raises TinyTransformersError if it fails, or its result file is none; Interrupted if it was stopped."""
    assert work.own
    out = work.run_dir / f"{work.stage}.result.json"
    out.unlink(missing_ok=True)  # an earlier attempt's is not this one's
    line, folder = work.own.filled(_values(work, out)), Path(work.own.folder)
    read = _read_by(line, folder)
    print(f"{folder}$ {line}", flush=True)
    started = time.monotonic()
    code, words, stopped = _follow(work, line, folder)
    if code != 0:
        if stopped:
            raise Interrupted(f"{work.stage} was asked to stop, and ended with exit code {code}")
        raise TinyTransformersError(f"exit code {code}: {words or 'it said nothing on its standard error'}")
    if "out" not in work.own.placeholders:
        return Outcome(metrics={"seconds": round(time.monotonic() - started, 3)}, data=read)
    outcome = _outcome(out)
    outcome.metrics.setdefault("seconds", round(time.monotonic() - started, 3))
    outcome.data.update(read)
    return outcome


def _values(work: Work, out: Path) -> dict[str, str]:
    """Placeholder -> what fills it."""
    own: OwnStage | None = work.own
    model = work.config.model
    parameters: Mapping[str, Any] = model.parameters if isinstance(model, Program) else {"model": work.model_dir}
    fixed = {"out": out, "run": work.run_dir, "data": work.data_root, "seed": work.config.seed}
    return {name: told(value) for name, value in {**parameters, **(own.settings if own else {}), **fixed}.items()}


def _follow(work: Work, line: str, folder: Path) -> tuple[int, str, bool]:
    """Run the line to its end. Returns its exit code, its last words, and whether it was asked to stop."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", watcher.__file__, str(os.getpid()), line],
        cwd=folder, env=_environment(), stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr
    words = bytearray()
    reader = threading.Thread(target=_listen, args=(child.stderr, words), daemon=True)
    reader.start()
    stopped, started = False, time.monotonic()
    while child.poll() is None:
        if work.should_stop() and not stopped:
            stopped = True
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)
        work.progress(0.0, f"at work for {(time.monotonic() - started) / 60:.0f} min")
        time.sleep(LOOK)
    reader.join(timeout=5)
    return child.returncode, bytes(words).decode(errors="replace").strip()[-LAST_WORDS:], stopped


def _environment() -> dict[str, str]:
    """The job's, but for what keeps files of the user's away from its own Python. `python` is the job's interpreter."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONNOUSERSITE")}
    ours = str(PACKAGE.parent)
    paths = [path for path in kept.pop("PYTHONPATH", "").split(os.pathsep) if path and path != ours]
    if paths:
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])}


def _listen(source: IO[bytes], words: bytearray) -> None:
    """Hand the program's standard error on to the log, and keep its end."""
    while chunk := os.read(source.fileno(), 1 << 16):
        with contextlib.suppress(OSError):  # a full disk is no reason to stop
            os.write(2, chunk)
        words += chunk
        del words[: -4 * LAST_WORDS]


def _read_by(line: str, folder: Path) -> dict[str, str]:
    """The files of the manifest's folder that the line names -> SHA-256, as data that the stage has read: scripts are
    not copied, so a result says which one it is of."""
    found: dict[str, str] = {}
    with contextlib.suppress(ValueError):  # a quotation that bash alone understands
        for word in shlex.split(line, comments=True):
            if not os.path.isabs(word) and (folder / word).is_file():
                with open(folder / word, "rb") as file:
                    found[word] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _outcome(path: Path) -> Outcome:
    """Read a result file: {"scores": [{"task", "metric", "value", "n"}], "metrics": {}}. Raises
    TinyTransformersError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TinyTransformersError(
            f"{path}: was not written, and the command ended with exit code 0. Write the scores to {{out}}."
        ) from None
    except ValueError as error:
        raise TinyTransformersError(f"{path}: is not JSON: {error}.") from None
    if not isinstance(value, dict) or set(value) - {"scores", "metrics"}:
        raise TinyTransformersError(f'{path}: must be {{"scores": [...], "metrics": {{...}}}}.')
    scores, metrics = value.get("scores", []), value.get("metrics", {})
    if not isinstance(scores, list) or not isinstance(metrics, dict):
        raise TinyTransformersError(f"{path}: scores must be a list, and metrics an object.")
    for name, metric in metrics.items():
        if not isinstance(metric, int | float | str):
            raise TinyTransformersError(f"{path}: metrics.{name}: {metric!r} must be a number or text.")
    found = [_score(each, f"{path}: scores[{number}]") for number, each in enumerate(scores)]
    places = [(score.task, score.metric) for score in found]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise TinyTransformersError(f"{path}: has two scores of {' '.join(twice)}.")
    return Outcome(scores=found, metrics=dict(metrics))


def _score(value: Any, where: str) -> Score:
    """A score; one that does not say of how many rows it is, is of one."""
    if not isinstance(value, dict) or set(value) - SCORE.keys():
        raise TinyTransformersError(f"{where}: must have {', '.join(SCORE)}, and nothing else.")
    value = {"n": 1, **value}
    for name, kind in SCORE.items():
        if not isinstance(value.get(name), kind) or isinstance(value[name], bool):  # type: ignore[arg-type]
            raise TinyTransformersError(f"{where}.{name}: {value.get(name)!r} is not what it must be.")
    if not math.isfinite(value["value"]):
        raise TinyTransformersError(f"{where}.value: {value['value']} is no finite number.")
    return Score(value["task"], value["metric"], float(value["value"]), value["n"])
