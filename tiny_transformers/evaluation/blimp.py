"""BLiMP and BabyLM's supplement: how often a model finds the acceptable sentence of a minimal pair the likelier one.

Zero-shot. Asks the model for every sentence, judges the pairs, keeps their scores; docs/evaluation.md defines the
figures. Reading the files is minimal_pairs.py's, how a sequence of tokens gets its likelihood scoring.py's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tiny_transformers.common import bootstrap, contents, pairs
from tiny_transformers.common.work import Outcome, Score, TinyTransformersError, Work
from tiny_transformers.data import vocabularies
from tiny_transformers.data.tokenizer import load_tokenizer
from tiny_transformers.evaluation import certified
from tiny_transformers.evaluation.asking import log_likelihoods
from tiny_transformers.evaluation.certified import Verdicts
from tiny_transformers.evaluation.minimal_pairs import PairTask, Sentence, read_task
from tiny_transformers.evaluation.scoring import Precision
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.stage.blimp import PAIR_SCORES, SUPPLEMENT_TASKS, Blimp, blimp_files
from tiny_transformers.training import device


@dataclass(frozen=True)
class TaskScores:
    """A task, and the scores of its N pairs' sentences."""

    task: PairTask
    good: NDArray[np.float64]  # (N,)
    bad: NDArray[np.float64]  # (N,)

    @property
    def n(self) -> int:
        return len(self.task.pairs)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) The good sentence scores strictly higher: a tie is wrong."""
        return self.good > self.bad

    @property
    def ties(self) -> int:
        return int((self.good == self.bad).sum())


@dataclass(frozen=True)
class Accuracy:
    """An accuracy over several tasks, with its 95 % bootstrap interval."""

    name: str
    accuracy: float
    low: float
    high: float
    n: int  # pairs


@dataclass(frozen=True)
class Question:
    """Pairs that several models are asked."""

    tasks: list[PairTask]
    tokenizer: Any
    fingerprints: dict[str, str]  # file below the data root -> SHA-256

    @classmethod
    def read(cls, work: Work, limit: int | None) -> Question:
        """So many pairs of each file, by the tokenizer of training: the model's folder need not have it yet."""
        run_config = work.config
        files = blimp_files(run_config.data, run_config.evaluation.of(Blimp).data)
        path = vocabularies.find(run_config.data, work.data_root, work.cache, work.should_stop)
        tokenizer = load_tokenizer(path, run_config)
        evaluation = run_config.evaluation.model_copy(update={"limit": limit})
        limited = replace(work, config=run_config.model_copy(update={"evaluation": evaluation}))
        fingerprints = {file: contents.fingerprint(work.data_root / file) for file in files.values()}
        return cls(read_tasks(limited, files, tokenizer), tokenizer, fingerprints)

    def accuracy(self, work: Work, model: Any) -> Accuracy:
        """The mean over BLiMP's phenomena."""
        results = judge(self.tasks, ask(work, model, self.tokenizer, self.tasks, may_certify=False))
        (found,) = (figure for figure in figures(results) if figure.name == "blimp")
        return found


def run(work: Work) -> Outcome:
    """Score every task of the data with the model and the tokenizer of `work.model_dir`."""
    where = device.pick_device(work.has_gpu)
    files = blimp_files(work.config.data, work.config.evaluation.of(Blimp).data)
    tokenizer = AutoTokenizer.from_pretrained(work.model_dir)
    tasks = read_tasks(work, files, tokenizer)
    fingerprints = {name: contents.fingerprint(work.data_root / file) for name, file in files.items()}
    model: Any = auto.load_lm(work.model_dir)
    model.to(where)
    started = time.monotonic()
    verdicts = ask(work, model, tokenizer, tasks)
    seconds = time.monotonic() - started
    results = judge(tasks, verdicts)
    pairs.write(work.run_dir / PAIR_SCORES, _kept(results, verdicts, fingerprints, work.config))
    shown = figures(results)
    _print(results, shown)
    return Outcome(
        scores=[score for figure in shown for score in _scores(figure)] + paradigms(results),
        metrics=_metrics(results, seconds) | _precision(verdicts),
        data={file: fingerprints[name] for name, file in files.items()},
    )


def read_tasks(work: Work, files: dict[str, str], tokenizer: Any) -> list[PairTask]:
    """Raises TinyTransformersError that names every bad file."""
    tasks, wrong = [], []
    for name, file in files.items():
        try:
            tasks.append(read_task(work.data_root / file, name, tokenizer, work.config))
        except TinyTransformersError as error:
            wrong.append(str(error))
    if wrong:
        raise TinyTransformersError("\n".join(wrong))
    return tasks


def judge(tasks: Sequence[PairTask], verdicts: Verdicts) -> list[TaskScores]:
    """From the scores of all tasks' pairs."""
    ends = np.cumsum([len(task.pairs) for task in tasks])
    parts = np.split(verdicts.scores, ends[:-1])
    return [TaskScores(task, good=part[:, 0], bad=part[:, 1]) for task, part in zip(tasks, parts, strict=True)]


def figures(results: Sequence[TaskScores]) -> list[Accuracy]:
    """Every phenomenon and supplement task, then the averages: macro averages weigh tasks alike, `micro` pairs."""
    n = np.array([result.n for result in results])
    right = np.array([result.right.sum() for result in results])
    draws = bootstrap.resample(np.stack([right, n - right], 1))[..., 0]  # (DRAWS, tasks)

    def figure(name: str, chosen: Sequence[bool], *, pooled: bool) -> Accuracy:
        def accuracy(correct: NDArray[np.int64]) -> Any:  # (..., tasks) -> (...)
            part = correct[..., chosen]
            return part.sum(-1) / n[chosen].sum() if pooled else (part / n[chosen]).mean(-1)

        return Accuracy(name, float(accuracy(right)), *bootstrap.interval(accuracy(draws)), n=int(n[chosen].sum()))

    phenomena = [result.task.phenomenon for result in results]
    supplement = [phenomenon in SUPPLEMENT_TASKS for phenomenon in phenomena]
    averages = {"average": [True] * len(results), "blimp": [not part for part in supplement], "supplement": supplement}
    return [
        *(figure(name, [name == other for other in phenomena], pooled=True) for name in dict.fromkeys(phenomena)),
        *(figure(name, chosen, pooled=False) for name, chosen in averages.items() if any(chosen)),
        figure("micro", [True] * len(results), pooled=True),
    ]


def paradigms(results: Sequence[TaskScores]) -> list[Score]:
    """BLiMP's 67, or the 62 that the filtered files have: `binding/principle_A_c_command`."""
    right: dict[str, list[bool]] = {}
    for result in results:
        for pair, is_right in zip(result.task.pairs, result.right.tolist(), strict=True):
            if pair.paradigm is not None:
                right.setdefault(f"{result.task.phenomenon}/{pair.paradigm}", []).append(is_right)
    return [Score(name, "accuracy", sum(part) / len(part), len(part)) for name, part in right.items()]


def ask(work: Work, model: Any, tokenizer: Any, tasks: Sequence[PairTask], *, may_certify: bool = True) -> Verdicts:
    """The scores of all tasks' pairs: log-likelihoods, normalised as set. Raises Interrupted.

    `may_certify`: those of pairs whose verdict is plain may be bfloat16's, which weights of 8 bits do not know."""
    sentences = np.array([(pair.good, pair.bad) for task in tasks for pair in task.pairs], dtype=object)  # (pairs, 2)
    by_word = work.config.evaluation.of(Blimp).pll == "word_l2r"

    def score(numbers: NDArray[np.int64], precision: Precision, share: tuple[float, float]) -> NDArray[np.float64]:
        chosen: list[Sentence] = sentences[numbers].flatten().tolist()
        values = log_likelihoods(
            work, model, tokenizer, [sentence.ids for sentence in chosen],
            words=[sentence.words for sentence in chosen] if by_word else None, precision=precision, share=share,
        )  # fmt: skip
        return (values / np.array([sentence.divisor for sentence in chosen])).reshape(-1, 2)

    asked, n = work.config.evaluation.precision, len(sentences)
    if may_certify and asked == "float32" and certified.pays(partial(score, share=(0.0, 0.0)), n, model.device):
        groups = np.repeat(np.arange(len(tasks)), [len(task.pairs) for task in tasks])
        first = {"bfloat16": (0.0, 0.9), "float32": (0.9, 1.0)}
        return certified.certify(lambda some, how: score(some, how, first[how]), groups, work.config.seed)
    return Verdicts(score(np.arange(n), asked, (0.0, 1.0)), np.full(n, asked == "bfloat16"))


def _kept(
    results: Sequence[TaskScores], verdicts: Verdicts, fingerprints: dict[str, str], run_config: config.RunConfig
) -> pairs.KeptPairs:
    evaluation = run_config.evaluation
    return pairs.KeptPairs(
        files=fingerprints,
        counts=np.array([result.n for result in results], dtype=np.int64),
        rows=np.array([pair.row for result in results for pair in result.task.pairs], dtype=np.int32),
        good=np.concatenate([result.good for result in results]),
        bad=np.concatenate([result.bad for result in results]),
        settings={
            "family": run_config.model.family,
            "precision": evaluation.precision,
            **evaluation.of(Blimp).model_dump(),
        },
        rounded=verdicts.rounded,
    )


def _scores(figure: Accuracy) -> list[Score]:
    values = {"accuracy": figure.accuracy, "accuracy_low": figure.low, "accuracy_high": figure.high}
    return [Score(figure.name, metric, value, figure.n) for metric, value in values.items()]


def _metrics(results: Sequence[TaskScores], seconds: float) -> dict[str, float | int | str]:
    counts = {result.task.name: _counts(result) for result in results}
    total = {name: sum(count[name] for count in counts.values()) for name in _counts(results[0])}
    n = sum(result.n for result in results)
    return {
        "pairs": n,
        "seconds": seconds,
        "pairs_per_second": n / seconds,
        **total,
        "skipped": total["skipped_equal"] + total["skipped_too_long"],
        "peak_memory_mb": device.peak_memory_mb(),
        **{f"{task}.{name}": value for task, count in counts.items() for name, value in count.items() if value},
    }


def _precision(verdicts: Verdicts) -> dict[str, float | int | str]:
    """How the pairs were scored: where in both precisions, in how many pairs float32's verdict was asked for."""
    rounded = int(verdicts.rounded.sum())
    if verdicts.bound is None:
        return {"precision": "bfloat16" if rounded else "float32"}
    again = {"scored_again": len(verdicts.rounded) - rounded, "bound": verdicts.bound, "largest_error": verdicts.error}
    return {"precision": "bfloat16, then float32"} | again


def _counts(result: TaskScores) -> dict[str, int]:
    return {"ties": result.ties, "skipped_equal": result.task.equal, "skipped_too_long": result.task.too_long}


def _print(results: Sequence[TaskScores], shown: Sequence[Accuracy]) -> None:
    """Print the accuracy of each phenomenon; only the full BLiMP has several tasks of one."""
    width = max(len(figure.name) for figure in shown)
    print(f"{'task':{width}} accuracy   95 % interval   pairs  ties  equal  too long")
    for figure in shown:
        counts = [list(_counts(r).values()) for r in results if r.task.phenomenon == figure.name]
        cells = [f"{sum(column):{size}}" for column, size in zip(zip(*counts, strict=True), (6, 7, 10), strict=False)]
        interval = f"{figure.low:.4f}..{figure.high:.4f}"
        print(f"{figure.name:{width}}{figure.accuracy:9.4f}  {interval}{figure.n:8}{''.join(cells)}")
