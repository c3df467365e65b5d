"""BLiMP and BabyLM's supplement: how often a model finds the acceptable sentence of a minimal pair the likelier one.

Zero-shot; the whole sentence is scored, not normalised by its length (docs/evaluation.md). How a sequence of tokens
gets its likelihood is scoring.py's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tiny_transformers import config, data, device, models
from tiny_transformers.evaluation import scoring
from tiny_transformers.evaluation.rows import read_texts
from tiny_transformers.work import Interrupted, Outcome, Score, TinyTransformersError, Work

FIELDS = ("sentence_good", "sentence_bad")


@dataclass(frozen=True)
class Pairs:
    """The pairs of one task that can be scored, and how many cannot."""

    task: str
    sequences: list[list[int]]  # good, bad, good, bad, ...
    equal: int  # left out: the two sentences are the same
    too_long: int  # left out: a sentence exceeds the model's positions


@dataclass(frozen=True)
class Result:
    pairs: Pairs
    correct: int
    ties: int  # counted as wrong

    @property
    def n(self) -> int:
        return len(self.pairs.sequences) // 2

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


def run(work: Work) -> Outcome:
    """Score every task of the data with the model and the tokenizer of `work.model_dir`."""
    files = config.blimp_files(work.config.data, work.config.evaluation.blimp.data)
    tokenizer = AutoTokenizer.from_pretrained(work.model_dir)
    tasks = [read_pairs(work.root / file, task, tokenizer, work.config) for task, file in files.items()]
    fingerprints = {file: data.fingerprint(work.root / file) for file in files.values()}
    model: Any = models.load_lm(work.model_dir)
    model.to(device.pick_device())
    started = time.monotonic()
    results = judge(tasks, _score(work, model, tokenizer, [s for task in tasks for s in task.sequences]))
    seconds = time.monotonic() - started
    _print(results)
    return Outcome(
        scores=[Score(result.pairs.task, "accuracy", result.accuracy, result.n) for result in results]
        + averages(results),
        metrics=_metrics(results, seconds),
        data=fingerprints,
    )


def read_pairs(path: Path, task: str, tokenizer: Any, run_config: config.RunConfig) -> Pairs:
    """The task's pairs as token ids: `start_token` + sentence for a decoder, `<s>` + sentence + `</s>` for an encoder.

    Raises TinyTransformersError for a file that is empty, lacks a field or has no pair that can be scored."""
    rows = data.sample(read_texts(path, FIELDS), run_config.evaluation.limit)
    different = [row for row in rows if row[FIELDS[0]] != row[FIELDS[1]]]
    sequences = _tokenise([row[field] for row in different for field in FIELDS], tokenizer, run_config)
    longest = run_config.positions
    fitting = [pair for pair in zip(sequences[::2], sequences[1::2], strict=True) if max(map(len, pair)) <= longest]
    pairs = Pairs(
        task, [s for pair in fitting for s in pair], len(rows) - len(different), len(different) - len(fitting)
    )
    if not fitting:
        raise TinyTransformersError(
            f"{path}: none of its pairs can be scored ({pairs.equal} have two equal sentences, {pairs.too_long} exceed "
            f"the model's {longest} tokens); put the file right or raise model.max_position_embeddings"
        )
    return pairs


def judge(tasks: list[Pairs], log_likelihoods: NDArray[np.float64]) -> list[Result]:
    """A pair is right if its good sentence is strictly the likelier; a tie is wrong."""
    ends = np.cumsum([len(pairs.sequences) for pairs in tasks])
    results = []
    for pairs, values in zip(tasks, np.split(log_likelihoods, ends[:-1]), strict=True):
        good, bad = values[::2], values[1::2]
        results.append(Result(pairs, correct=int((good > bad).sum()), ties=int((good == bad).sum())))
    return results


def averages(results: list[Result]) -> list[Score]:
    """Macro averages weigh every task alike, `micro` every pair; `n` is the number of pairs."""
    supplement = [result for result in results if result.pairs.task in config.SUPPLEMENT_TASKS]
    blimp = [result for result in results if result.pairs.task not in config.SUPPLEMENT_TASKS]
    groups = {"average": results, "blimp": blimp, "supplement": supplement}
    n = sum(result.n for result in results)
    return [
        Score(name, "accuracy", float(np.mean([result.accuracy for result in group])), sum(r.n for r in group))
        for name, group in groups.items()
        if group
    ] + [Score("micro", "accuracy", sum(result.correct for result in results) / n, n)]


def _tokenise(sentences: list[str], tokenizer: Any, run_config: config.RunConfig) -> list[list[int]]:
    settings = run_config.evaluation.blimp
    texts = [(" " if settings.leading_space else "") + sentence for sentence in sentences]
    bare = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    if run_config.model.family == "roberta":
        return [[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id] for ids in bare]
    start = tokenizer.bos_token_id if settings.start_token == "bos" else tokenizer.eos_token_id
    return [[start, *ids] for ids in bare]


def _score(work: Work, model: Any, tokenizer: Any, sequences: list[list[int]]) -> NDArray[np.float64]:
    def on_batch(done: float) -> None:
        if work.should_stop():
            raise Interrupted
        work.progress(done, f"{done:.0%} of {len(sequences):,} sentences")

    if work.config.model.family == "roberta":
        return scoring.pseudo_log_likelihoods(model, sequences, tokenizer.mask_token_id, on_batch=on_batch)
    return scoring.decoder_log_likelihoods(model, sequences, on_batch=on_batch)


def _metrics(results: list[Result], seconds: float) -> dict[str, float | int | str]:
    pairs = sum(result.n for result in results)
    equal, too_long = (sum(getattr(result.pairs, name) for result in results) for name in ("equal", "too_long"))
    return {
        "pairs": pairs,
        "seconds": seconds,
        "pairs_per_second": pairs / seconds,
        "ties": sum(result.ties for result in results),
        "skipped": equal + too_long,
        "skipped_equal": equal,
        "skipped_too_long": too_long,
        "peak_memory_mb": device.peak_memory_mb(),
    }


def _print(results: list[Result]) -> None:
    print(f"{'task':28}{'accuracy':>9}{'pairs':>7}{'ties':>6}{'equal':>7}{'too long':>10}")
    for result in results:
        pairs = result.pairs
        counts = f"{result.n:7}{result.ties:6}{pairs.equal:7}{pairs.too_long:10}"
        print(f"{pairs.task:28}{result.accuracy:9.4f}{counts}")
    for score in averages(results):
        print(f"{score.task:28}{score.value:9.4f}{score.n:7}")
