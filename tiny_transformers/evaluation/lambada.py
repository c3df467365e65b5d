"""LAMBADA (Paperno et al. 2016, arXiv 1606.06031): the last word of a passage, which follows from the whole of it.

Accuracy and perplexity of the last word, as lm-eval's lambada_openai, and perplexity of the whole passage, a token
(docs/evaluation.md). A passage is one sequence and both are read off it; how it gets its likelihood is scoring.py's."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tiny_transformers.common import bootstrap, contents
from tiny_transformers.common.work import CheckFailed, Interrupted, Outcome, Score, Work
from tiny_transformers.data import sources
from tiny_transformers.data.sources import read_rows
from tiny_transformers.evaluation import scoring
from tiny_transformers.evaluation.rows import refuse
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.stage.lambada import FILE, Lambada
from tiny_transformers.training import device


@dataclass(frozen=True)
class Passages:
    sequences: list[list[int]]  # with their special tokens
    targets: list[int]  # where the last word begins in each
    truncated: int  # had more tokens than the model has positions

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True)
class PassageScores:
    """The scores of the last words of N passages, and of the whole of as many or fewer."""

    correct: NDArray[np.bool_]  # (N,) every token of the last word is the likeliest
    last_word: NDArray[np.float64]  # (N,) its log-likelihood
    whole: NDArray[np.float64]  # (M,) the log-likelihood of the passage
    tokens: int  # of these M passages, scored


def run(work: Work) -> Outcome:
    """Score the passages with the model and the tokenizer of `work.model_dir`."""
    where, path = device.pick_device(work.has_gpu), work.data_root / FILE
    tokenizer = AutoTokenizer.from_pretrained(work.model_dir)
    passages = read_passages(path, tokenizer, work.config)
    model: Any = auto.load_lm(work.model_dir)
    model.to(where)
    started = time.monotonic()
    result = _score(work, model, tokenizer, passages)
    seconds = time.monotonic() - started
    scores = summarise(result)
    for score in scores:
        print(f"{score.task + ' ' + score.metric:24}{score.value:14.4f}{score.n:7}")
    return Outcome(
        scores=scores,
        metrics={
            "passages": len(passages),
            "tokens": result.tokens,
            "truncated": passages.truncated,
            "seconds": seconds,
            "passages_per_second": len(passages) / seconds,
            "peak_memory_mb": device.peak_memory_mb(),
        },
        data={FILE: contents.fingerprint(path)},
    )


def read_passages(path: Path, tokenizer: Any, run_config: config.RunConfig) -> Passages:
    """`start_token` + passage for a decoder, `<s>` + passage + `</s>` for an encoder; too long passages lose tokens of
    their beginning. What the tokens of the passage have beyond those of its context is the last word, as lm-eval.

    Raises TinyTransformersError, with file and line, for a passage that is no context and a last word."""
    texts = [row["text"] for row in read_rows(path, texts=["text"])]
    parts = [text.rpartition(" ") for text in texts]
    for index, (context, _, last_word) in enumerate(parts):
        if not context.strip() or not last_word.strip():
            refuse(path, index, f"{texts[index][-40:]!r} does not end in a space and a last word. Remove the row.")
    kept = sources.sample(range(len(texts)), run_config.evaluation.limit)
    whole = _encode(tokenizer, [texts[index] for index in kept])
    contexts = _encode(tokenizer, [parts[index][0].rstrip() for index in kept])
    before, after = _special(tokenizer, run_config)
    room = run_config.positions - len(before) - len(after)
    sequences, targets = [], []
    for index, ids, context in zip(kept, whole, contexts, strict=True):
        length = len(ids) - len(context)  # of the last word
        if length > room - (not before):  # something must stand before it
            what = f"the last word has {length} tokens; the model sees {run_config.positions} at once."
            refuse(path, index, f"{what} Remove the row, or raise model.max_position_embeddings.")
        sequences.append([*before, *ids[-room:], *after])
        targets.append(len(sequences[-1]) - len(after) - length)
    return Passages(sequences, targets, truncated=sum(len(ids) > room for ids in whole))


def summarise(result: PassageScores) -> list[Score]:
    """The scores of docs/evaluation.md. Raises CheckFailed for a perplexity beyond all numbers."""
    n, right = len(result.correct), int(result.correct.sum())
    low, high = bootstrap.interval(bootstrap.resample(np.array([[right, n - right]]))[:, 0, 0] / n)
    return [
        Score("last_word", "accuracy", right / n, n),
        Score("last_word", "accuracy_low", low, n),
        Score("last_word", "accuracy_high", high, n),
        Score("last_word", "perplexity", _perplexity(result.last_word, n), n),
        Score("passage", "perplexity", _perplexity(result.whole, result.tokens), len(result.whole)),
    ]


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def _special(tokenizer: Any, run_config: config.RunConfig) -> tuple[list[int], list[int]]:
    """Return the special tokens that stand before and after a passage."""
    if run_config.model.family == "roberta":
        return [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    start = {"bos": [tokenizer.bos_token_id], "eos": [tokenizer.eos_token_id], "none": []}
    return start[run_config.evaluation.of(Lambada).start_token], []


def _score(work: Work, model: Any, tokenizer: Any, passages: Passages) -> PassageScores:
    def on_batch(done: float) -> None:
        if work.should_stop():
            raise Interrupted
        work.progress(done, f"{done:.0%} of {len(passages):,} passages")

    encoder = work.config.model.family == "roberta"
    # A decoder's last word is a part of its passage, which costs nothing more; an encoder's passage is a forward pass
    # for each of its tokens.
    chosen = sources.sample(passages.sequences, work.config.evaluation.of(Lambada).passages if encoder else None)
    sequences = [*passages.sequences, *chosen]
    scored = [*passages.targets, *[1] * len(chosen)]
    options: dict[str, Any] = {"precision": work.config.evaluation.precision, "on_batch": on_batch}
    if encoder:
        words = [_one_word(ids, target) for ids, target in zip(passages.sequences, passages.targets, strict=True)]
        options["words"] = [*words, *([None] * len(ids) for ids in chosen)]
        scores = scoring.score_encoder(model, sequences, tokenizer.mask_token_id, scored=scored, **options)
    else:
        scores = scoring.score_decoder(model, sequences, scored=scored, **options)
    n = len(passages)
    tokens = sum(len(ids) - (2 if encoder else 1) for ids in chosen)
    return PassageScores(scores.greedy[:n], scores.log_likelihoods[:n], scores.log_likelihoods[n:], tokens)


def _one_word(ids: list[int], target: int) -> list[int | None]:
    """The last word as one word of PLL-word-l2r, however many the tokenizer would make of it; `</s>` is none of it."""
    return [*[None] * target, *[0] * (len(ids) - target - 1), None]


def _perplexity(log_likelihoods: NDArray[np.float64], n: int) -> float:
    try:
        return math.exp(-float(log_likelihoods.sum()) / n)
    except OverflowError:
        raise CheckFailed("the perplexity is too large for a number: the model's training diverged") from None
