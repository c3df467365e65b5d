"""Tasks of lm-eval's as a stage: lm-eval reads the rows, asks and counts; our engine answers (lm_eval_model.py).

Nothing is fetched: data is read below DATA_ROOT. A score is lm-eval's own, to the digit. What both answers of a choice
were likely is kept beside it, so that two models can be compared row by row, where a tie is wrong."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from tiny_transformers.common import contents, pairs
from tiny_transformers.common.work import CheckFailed, Interrupted, Outcome, Score, TinyTransformersError, Work
from tiny_transformers.data.sources import read_rows, sample
from tiny_transformers.evaluation.lm_eval_model import TinyTransformersLM
from tiny_transformers.settings.stage import lm_eval as stage
from tiny_transformers.settings.stage.lm_eval import LmEval
from tiny_transformers.settings.stage.task_files import Leaf, data_files, located
from tiny_transformers.training import device

PAIR_SCORES = "scores/lm_eval.npz"  # in a run's folder: of every row with answers to choose from


def run(work: Work) -> Outcome:
    """Score the tasks of `evaluation.lm_eval` with the model and the tokenizer of `work.model_dir`."""
    where = str(device.pick_device(work.has_gpu))
    known = stage.catalogue(work.config, work.data_root)
    asked = stage.leaves(work.config, known)
    settings = work.config.evaluation.of(LmEval)
    digests = {file: contents.fingerprint(work.data_root / file) for file in stage.found(work.config, work.data_root)}
    model = TinyTransformersLM(
        str(work.model_dir), settings.start_token, work.config.evaluation.precision, settings.pll, where
    )
    model.on_batch = lambda done: _report(work, done)
    with tempfile.TemporaryDirectory() as cache, _reading_below(work.data_root, Path(cache)):
        tasks = _load(known.folders, asked, work.data_root)
        limit = work.config.evaluation.limit
        chosen = {name: sample(range(len(task.eval_docs)), limit) for name, task in tasks["tasks"].items()}
        started = time.monotonic()
        # Without `samples` lm-eval takes all rows; it looks for each of them in the list.
        found: Any = evaluate(model, tasks, samples=chosen if limit else None, bootstrap_iters=0)
    seconds = time.monotonic() - started
    scores = _scores(found, asked)
    for score in scores:
        print(f"{score.task + ' ' + score.metric:60}{score.value:14.4f}{score.n:7}")
    kept = _kept(work, found["samples"], asked, digests)
    if kept.files:
        pairs.write(work.run_dir / PAIR_SCORES, kept)
    rows = sum(len(each) for each in chosen.values())
    return Outcome(
        scores=scores,
        metrics={
            "lm_eval": version("lm-eval"),
            "tasks": len(chosen),
            "rows": rows,
            "ties": int((kept.good == kept.bad).sum()),
            "seconds": seconds,
            "rows_per_second": rows / seconds,
            "peak_memory_mb": device.peak_memory_mb(),
        },
        data=digests,
    )


def _report(work: Work, done: float) -> None:
    if work.should_stop():
        raise Interrupted
    work.progress(done, f"{done:.0%} of what lm-eval asks")


@contextmanager
def _reading_below(root: Path, cache: Path) -> Iterator[None]:
    """Meanwhile data sets are read below DATA_ROOT, and kept in a cache that no other job has. lm-eval has no other
    place to say so for the tasks of a group."""
    stock = datasets.load_dataset

    def load(path: str, name: str | None = None, **given: Any) -> Any:
        place, arguments = located({"dataset_path": path, "dataset_kwargs": given}, root)
        return stock(place, name, **{**arguments, "cache_dir": str(cache)})

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = stock


def _load(folders: Sequence[Path], asked: Mapping[str, list[Leaf]], root: Path) -> Any:
    """lm-eval's objects of the tasks and groups. Raises TinyTransformersError for data that cannot be read."""
    for leaf in (leaf for of_name in asked.values() for leaf in of_name):
        for file in data_files(leaf, root):
            if file.suffix == ".jsonl":
                read_rows(file)  # an error of ours names the line
    # Of two tasks of one name lm-eval takes that of the later folder.
    manager = TaskManager(
        include_path=[str(folder) for folder in reversed(folders)],
        include_defaults=False,
        metadata={"data_root": str(root)},
    )
    try:
        return manager.load([*asked])
    except (ValueError, KeyError, TypeError, OSError, ImportError, datasets.exceptions.DatasetsError) as error:
        raise TinyTransformersError(f"evaluation.lm_eval.tasks: lm-eval cannot load them: {error}") from error


def _scores(found: Mapping[str, Any], asked: Mapping[str, list[Leaf]]) -> list[Score]:
    """Each name that was asked for, and behind it the parts of groups: `blimp_nl`, `blimp_nl/binding`. The tasks of a
    tag, or of a group without a figure of its own, count as if they were asked for.

    Raises CheckFailed for a figure that is none."""
    members, results = found.get("group_subtasks", {}), {**found["results"], **found.get("groups", {})}
    counts = {name: count["effective"] for name, count in found["n-samples"].items()}
    scores = []

    def told(name: str, as_name: str) -> None:
        n = _rows(name, members, counts)
        for key, value in results.get(name, {}).items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            if not math.isfinite(value):
                raise CheckFailed(f"{as_name}: {metric} is {value}")
            scores.append(
                Score(as_name, metric if filter_name == "none" else f"{metric}@{filter_name}", float(value), n)
            )

    for name, of_name in asked.items():
        before = len(scores)
        told(name, name)
        if len(scores) == before:
            for leaf in of_name:
                told(leaf.name, leaf.name)
            continue
        parts = [*_groups(name, members), *(leaf.name for leaf in of_name if leaf.name != name)]
        for part in dict.fromkeys(parts):
            told(part, f"{name}/{part.removeprefix(f'{name}::')}")
    return scores


def _groups(name: str, members: Mapping[str, Sequence[str]]) -> list[str]:
    """The groups within a group."""
    inner = [member for member in members.get(name, ()) if member in members]
    return [group for member in inner for group in (member, *_groups(member, members))]


def _rows(name: str, members: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> int:
    return counts[name] if name in counts else sum(_rows(member, members, counts) for member in members.get(name, ()))


def _kept(
    work: Work, samples: Mapping[str, Sequence[Mapping[str, Any]]], asked: Mapping[str, list[Leaf]],
    digests: Mapping[str, str],
) -> pairs.KeptPairs:  # fmt: skip
    """The likelihoods of the right answer and of the likeliest wrong one, of tasks with answers to choose from."""
    files, counts = {}, []
    rows: list[int] = []
    good: list[float] = []
    bad: list[float] = []
    for leaf in (leaf for of_name in asked.values() for leaf in of_name):
        choices = [found for row in samples[leaf.name] if (found := _choice(leaf, row))]
        if not choices:
            continue
        files[leaf.name] = _digest(work, leaf, digests)
        counts.append(len(choices))
        for row, right, wrong in choices:
            rows.append(row)
            good.append(right)
            bad.append(wrong)
    settings = work.config.evaluation.of(LmEval).model_dump(exclude={"tasks", "include_path"})
    return pairs.KeptPairs(
        files=files,
        counts=np.array(counts, dtype=np.int64),
        rows=np.array(rows, dtype=np.int32),
        good=np.array(good, dtype=np.float64),
        bad=np.array(bad, dtype=np.float64),
        settings={
            "family": work.config.model.family,
            "precision": work.config.evaluation.precision,
            **settings,
        },
    )


def _choice(leaf: Leaf, row: Mapping[str, Any]) -> tuple[int, float, float] | None:
    """The number of a row, and both likelihoods; None where it has no one right answer among several."""
    right = row["target"]
    answers = [answer[0] for answer in row["filtered_resps"] if isinstance(answer, tuple | list)]
    if leaf.settings["output_type"] != "multiple_choice" or type(right) is not int or not 0 <= right < len(answers) > 1:
        return None
    wrong = max(answer for number, answer in enumerate(answers) if number != right)
    return int(row["doc_id"]), float(answers[right]), float(wrong)


def _digest(work: Work, leaf: Leaf, digests: Mapping[str, str]) -> str:
    """The fingerprint of all that a task's rows are made of: its data, and its own files where they are below
    DATA_ROOT."""
    places = [path for path in (*leaf.files, *data_files(leaf, work.data_root)) if work.data_root in path.parents]
    told = [digests[path.relative_to(work.data_root).as_posix()] for path in places]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
