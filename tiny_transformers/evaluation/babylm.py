"""BabyLM's zero-shot tasks of 2025 and 2026: BLiMP, its supplement, EWoK, entity tracking, COMPS and WUG.

Asks the model for every text, judges the rows, keeps their scores; docs/evaluation.md defines the figures. What a row
means is candidates.py's, how a sequence of tokens gets its likelihood scoring.py's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from transformers import AutoTokenizer

from tiny_transformers.common import bootstrap, contents, pairs
from tiny_transformers.common.work import Outcome, Score, TinyTransformersError, Work
from tiny_transformers.evaluation.asking import log_likelihoods
from tiny_transformers.evaluation.candidates import Task, read_task
from tiny_transformers.models import auto
from tiny_transformers.settings.stage.babylm import WUG, Babylm, BabylmTask, babylm_files
from tiny_transformers.training import device

PAIR_SCORES = "scores/babylm.npz"  # in a run's folder: of every row that is right or wrong
NUMOPS = "file_and_numops"  # subsets whose files weigh alike, whatever numbers of operations each has


@dataclass(frozen=True)
class Judged:
    """A task, and the scores of its N rows' texts."""

    task: Task
    first: NDArray[np.float64]  # (N,) the right one's
    other: NDArray[np.float64]  # (N,) the likeliest other one's

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) The right one scores strictly higher: a tie is wrong."""
        return self.first > self.other


def run(work: Work) -> Outcome:
    """Score the tasks of `evaluation.babylm` with the model and the tokenizer of `work.model_dir`."""
    where = device.pick_device(work.has_gpu)
    tokenizer = AutoTokenizer.from_pretrained(work.model_dir)
    files = babylm_files(work.config, work.data_root)
    tasks = _read_tasks(work, files, tokenizer)
    data = {file: contents.fingerprint(work.data_root / file) for of_task in files.values() for file in of_task}
    model: Any = auto.load_lm(work.model_dir)
    model.to(where)
    started = time.monotonic()
    judged = judge(tasks, _ask(work, model, tokenizer, tasks))
    seconds = time.monotonic() - started
    kept = _kept(work, judged, data)
    if kept.files:
        pairs.write(work.run_dir / PAIR_SCORES, kept)
    scores = figures(judged)
    for score in scores:
        if "/" not in score.task:
            print(f"{score.task + ' ' + score.metric:44}{score.value:9.4f}{score.n:8}")
    return Outcome(scores=scores, metrics=_metrics(judged, seconds), data=data)


def _read_tasks(work: Work, files: Mapping[BabylmTask, list[str]], tokenizer: Any) -> list[Task]:
    """Raises TinyTransformersError that names a bad file of every task that has one."""
    tasks, wrong = [], []
    for name, of_task in files.items():
        try:
            tasks.append(read_task(name, [work.data_root / file for file in of_task], tokenizer, work.config))
        except TinyTransformersError as error:
            wrong.append(str(error))
    if wrong:
        raise TinyTransformersError("\n".join(wrong))
    return tasks


def _ask(work: Work, model: Any, tokenizer: Any, tasks: Sequence[Task]) -> NDArray[np.float64]:
    candidates = [each for task in tasks for item in task.items for each in item.candidates]
    by_word = work.config.evaluation.of(Babylm).pll == "word_l2r"
    return log_likelihoods(
        work,
        model,
        tokenizer,
        [candidate.ids for candidate in candidates],
        scored=[candidate.scored for candidate in candidates],
        words=[candidate.words for candidate in candidates] if by_word else None,
        what="texts",
    )


def judge(tasks: Sequence[Task], values: NDArray[np.float64]) -> list[Judged]:
    """From the log-likelihoods of all candidates of all rows of all tasks, in order."""
    judged, place = [], 0
    for task in tasks:
        first, other = [], []
        for item in task.items:
            of_item = values[place : place + len(item.candidates)]
            place += len(item.candidates)
            first.append(of_item[0])
            other.append(of_item[1:].max())
        judged.append(Judged(task, np.array(first), np.array(other)))
    return judged


def figures(judged: Sequence[Judged]) -> list[Score]:
    """Each task's figure with its interval, then their average; and behind them those of all subsets."""
    scores, parts, means, draws = [], [], [], []
    for each in judged:
        name, n = each.task.name, len(each.task.items)
        if name in WUG:
            scores.append(Score(name, "spearman", correlation(each), n))
            continue
        mean, drawn = _mean_of_subsets(each)
        scores += _with_interval(name, mean, drawn, n)
        parts += subsets(each)
        means.append(mean)
        draws.append(drawn)
    if means:
        n = sum(len(each.task.items) for each in judged if each.task.name not in WUG)
        scores += _with_interval("average", float(np.mean(means)), np.mean(draws, 0), n)
    return scores + parts


def correlation(judged: Judged) -> float:
    """Spearman's, of the model's share for the first sentence with that of people; 0 if the model's is always the same.

    p1 / (p1 + p2) grows with log p1 - log p2, which has the same ranks, and is not rounded to 1."""
    difference = judged.first - judged.other
    if np.ptp(difference) == 0:
        return 0.0
    return float(spearmanr(difference, [item.ratio for item in judged.task.items]).statistic)


def subsets(judged: Judged) -> list[Score]:
    """The accuracy of each part of a task: `ewok_filtered/Domain/social-relations`."""
    right: dict[tuple[str, str], list[bool]] = {}
    for item, is_right in zip(judged.task.items, judged.right.tolist(), strict=True):
        for subset in item.subsets.items():
            right.setdefault(subset, []).append(is_right)
    return [
        Score(f"{judged.task.name}/{kind}/{which}", "accuracy", sum(part) / len(part), len(part))
        for (kind, which), part in sorted(right.items())
    ]


def _mean_of_subsets(judged: Judged) -> tuple[float, NDArray[np.float64]]:
    """The mean of the accuracies of a task's first kind of subsets, and as many of resampled rows."""
    items = judged.task.items
    kind = next(iter(items[0].subsets))
    names = [item.subsets[kind] for item in items]
    which, place = np.unique(names, return_inverse=True)
    n = np.bincount(place)
    right = np.bincount(place, weights=judged.right).astype(np.int64)
    files = {item.subsets[kind]: item.file if kind == NUMOPS else kind for item in items}
    of_file = [files[str(name)] for name in which]
    weights = np.array([1 / of_file.count(file) for file in of_file]) / len(set(of_file))
    drawn = bootstrap.resample(np.stack([right, n - right], 1))[..., 0]  # (DRAWS, subsets)
    return float((right / n) @ weights), (drawn / n) @ weights


def _with_interval(name: str, value: float, draws: NDArray[np.float64], n: int) -> list[Score]:
    low, high = bootstrap.interval(draws)
    return [
        Score(name, metric, each, n)
        for metric, each in (("accuracy", value), ("accuracy_low", low), ("accuracy_high", high))
    ]


def _kept(work: Work, judged: Sequence[Judged], data: dict[str, str]) -> pairs.KeptPairs:
    """By file, so that runs with other tasks or rows are not compared."""
    files: dict[str, str] = {}
    counts: list[int] = []
    chosen = [each for each in judged if each.task.name not in WUG]
    for each in chosen:
        for item in each.task.items:
            name = f"{each.task.name}/{item.file}"
            if name not in files:
                files[name] = next(digest for file, digest in data.items() if file.endswith(f"/{name}.jsonl"))
                counts.append(0)
            counts[-1] += 1
    settings = work.config.evaluation.of(Babylm).model_dump(exclude={"data", "tasks"})
    return pairs.KeptPairs(
        files=files,
        counts=np.array(counts, dtype=np.int64),
        rows=np.array([item.row for each in chosen for item in each.task.items], dtype=np.int32),
        good=np.concatenate([np.zeros(0), *(each.first for each in chosen)]),
        bad=np.concatenate([np.zeros(0), *(each.other for each in chosen)]),
        settings={
            "family": work.config.model.family, "precision": work.config.evaluation.precision, **settings,
        },
    )  # fmt: skip


def _metrics(judged: Sequence[Judged], seconds: float) -> dict[str, float | int | str]:
    counts = {
        each.task.name: {
            "ties": int((each.first == each.other).sum()),
            "skipped_equal": each.task.equal,
            "skipped_too_long": each.task.too_long,
        }
        for each in judged
    }
    rows = sum(len(each.task.items) for each in judged)
    return {
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "peak_memory_mb": device.peak_memory_mb(),
        **{f"{task}.{name}": value for task, count in counts.items() for name, value in count.items() if value},
    }
