"""Log-likelihoods of token sequences: a decoder's, and an encoder's pseudo-log-likelihood.

Natural logarithms, summed over the scored tokens of a sequence and not divided by their number. A result depends
neither on the order of the sequences nor, but for rounding, on how they are batched: padding is masked, nothing is
truncated, and a sequence that occurs twice is scored once, so equal sequences get equal results. Knows no task, no
tokenizer.

    score_decoder(model, sequences, *, scored=None, precision="float32", ...) -> Scores
    score_encoder(model, sequences, mask_id, *, scored=None, words=None, precision="float32", ...) -> Scores

`Scores` has `log_likelihoods` (N,) and `greedy` (N,); `decoder_log_likelihoods` and `pseudo_log_likelihoods` take the
same arguments and give the first of them alone. All that follows holds for both functions:

- `scored`: for each sequence the index of its first scored token, at least 1. What stands before is context only: with
  context + continuation and the context's length, log p(continuation | context). None: 1 for all.
- `precision`: "bfloat16" runs the model under torch.autocast; the softmax and the sums stay in float32 and float64.
- `tokens_per_batch`: padded tokens of one forward pass; None: what suits the model's device.
- `on_batch`: is told the share of the work that is done, after every forward pass."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiny_transformers.work import CheckFailed

Sequences = Sequence[Sequence[int]]
Words = Sequence[Sequence[int | None]]  # of each sequence the number of each token's word; None: of no word
Precision = Literal["float32", "bfloat16"]
OnBatch = Callable[[float], None]
Key = TypeVar("Key", bound=Hashable)

TOKENS_PER_BATCH = {"cpu": 1_024, "cuda": 65_536}  # padded tokens in one forward pass; more is slower on a CPU's caches
HEAD_ROWS = 1_024  # positions whose logits exist at once: 41 MB in float32 at 10,000 tokens of vocabulary


@dataclass(frozen=True)
class Scores:
    """Of N sequences."""

    log_likelihoods: NDArray[np.float64]  # (N,)
    greedy: NDArray[np.bool_]  # (N,): at no scored token another one is likelier


def decoder_log_likelihoods(model: Any, sequences: Sequences, **options: Any) -> NDArray[np.float64]:
    """The log-likelihoods of `score_decoder`. (N,)"""
    return score_decoder(model, sequences, **options).log_likelihoods


def pseudo_log_likelihoods(model: Any, sequences: Sequences, mask_id: int, **options: Any) -> NDArray[np.float64]:
    """The log-likelihoods of `score_encoder`. (N,)"""
    return score_encoder(model, sequences, mask_id, **options).log_likelihoods


def score_decoder(
    model: Any,
    sequences: Sequences,
    *,
    scored: Sequence[int] | None = None,
    precision: Precision = "float32",
    tokens_per_batch: int | None = None,
    on_batch: OnBatch = lambda _: None,
) -> Scores:
    """Sum over i >= scored of log p(x_i | x_0, ..., x_(i-1)) of each sequence.

    `model` is a causal language model of transformers. Raises ValueError for a sequence that has nothing to score
    or more tokens than the model has positions, CheckFailed where the model's answer is not a finite number."""
    _check_lengths(sequences, 2, model.config.max_position_embeddings)
    starts = _starts(sequences, scored, 1)
    keys, where = _distinct(zip(map(tuple, sequences), starts, strict=True))
    distinct, first = [key[0] for key in keys], torch.tensor([key[1] for key in keys])
    totals, greedy = np.zeros(len(distinct)), np.ones(len(distinct), dtype=bool)
    with evaluating(model, precision):
        for rows, done in batches([len(sequence) for sequence in distinct], tokens_per_batch or budget(model)):
            ids, mask = pad([distinct[row] for row in rows], model)  # (B, T)
            hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            at = torch.arange(1, ids.shape[1], device=ids.device) >= first[rows].to(ids.device)[:, None]
            at &= mask[:, 1:].bool()  # (B, T - 1)
            log_probs, best = _log_probs(model, hidden[:, :-1][at], ids[:, 1:][at])
            source = rows[at.nonzero()[:, 0].cpu().numpy()]
            np.add.at(totals, source, log_probs)
            np.logical_and.at(greedy, source, best)
            on_batch(done)
    return Scores(_finite(totals)[where], greedy[where])


def score_encoder(
    model: Any,
    sequences: Sequences,
    mask_id: int,
    *,
    scored: Sequence[int] | None = None,
    words: Words | None = None,
    precision: Precision = "float32",
    tokens_per_batch: int | None = None,
    on_batch: OnBatch = lambda _: None,
) -> Scores:
    """Sum over i >= scored of log p(x_i | the sequence with x_i masked), Salazar et al. 2020 (arXiv 1910.14659), eq. 1.

    With `words`, the tokens that follow x_i in its word are masked, too: PLL-word-l2r of Kauf and Ivanova 2023 (arXiv
    2305.10588), which does not let the rest of a word give its beginning away.

    `model` is a masked language model of transformers; the first and the last token of a sequence, `<s>` and `</s>`,
    are never masked and not scored. One row of a batch is one sequence with one token in question, and the
    language-model head, the dearest part at a large vocabulary, sees these tokens only. Raises as `score_decoder`."""
    _check_lengths(sequences, 3, model.config.max_position_embeddings - model.config.pad_token_id - 1)
    starts = _starts(sequences, scored, 2)
    own_words = [None] * len(sequences) if words is None else map(tuple, words)
    keys, where = _distinct(zip(map(tuple, sequences), starts, own_words, strict=True))
    lengths = np.array([len(sequence) for sequence, _, _ in keys], dtype=np.int64)
    masked = [
        (row, position, _end(position, of_words))
        for row, (sequence, start, of_words) in enumerate(keys)
        for position in range(start, len(sequence) - 1)
    ]
    source, position, end = np.array(masked, dtype=np.int64).reshape(-1, 3).T
    totals, greedy = np.zeros(len(keys)), np.ones(len(keys), dtype=bool)
    with evaluating(model, precision):
        for rows, done in batches(lengths[source], tokens_per_batch or budget(model)):
            ids, mask = pad([keys[row][0] for row in source[rows]], model)  # (B, T)
            at, until = (torch.from_numpy(x[rows]).to(ids.device)[:, None] for x in (position, end))
            targets = ids.gather(1, at).squeeze(1)
            column = torch.arange(ids.shape[1], device=ids.device)
            ids[(column >= at) & (column < until)] = mask_id
            hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, H)
            log_probs, best = _log_probs(model, hidden[torch.arange(len(rows)), at.squeeze(1)], targets)
            np.add.at(totals, source[rows], log_probs)
            np.logical_and.at(greedy, source[rows], best)
            on_batch(done)
    return Scores(_finite(totals)[where], greedy[where])


@contextmanager
def evaluating(model: Any, precision: Precision = "float32") -> Iterator[None]:
    """No dropout, no gradients; afterwards the model is in the mode it was in."""
    training = model.training
    model.eval()
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    try:
        with torch.inference_mode(), autocast:
            yield
    finally:
        model.train(training)


def budget(model: Any) -> int:
    """Padded tokens that one forward pass on the model's device takes well."""
    return TOKENS_PER_BATCH[model.device.type]


def batches(
    lengths: Sequence[int] | NDArray[np.int64], tokens_per_batch: int
) -> Iterator[tuple[NDArray[np.int64], float]]:
    """Rows of similar length, and the share of rows done with them.

    The longest come first, so that memory runs out at once or never."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, tokens_per_batch // int(lengths[order[start]]))]
        start += len(rows)
        yield rows, start / len(order)


def pad(sequences: Sequences, model: Any) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and which of them are real. Both (B, T), on the model's device."""
    longest = max(len(sequence) for sequence in sequences)
    padding = model.config.pad_token_id
    ids = torch.tensor([[*sequence, *[padding] * (longest - len(sequence))] for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = torch.arange(longest) < lengths[:, None]
    return ids.to(model.device), mask.long().to(model.device)


def _check_lengths(sequences: Sequences, shortest: int, longest: int) -> None:
    for number, sequence in enumerate(sequences):
        if not shortest <= len(sequence) <= longest:
            raise ValueError(
                f"sequence {number} has {len(sequence)} tokens; from {shortest} to {longest} can be scored"
            )


def _starts(sequences: Sequences, scored: Sequence[int] | None, after: int) -> Sequence[int]:
    """The index of the first scored token of each; so many tokens, that one among them, must be left from it on."""
    if scored is None:
        return [1] * len(sequences)
    for number, (sequence, start) in enumerate(zip(sequences, scored, strict=True)):
        if not 1 <= start <= len(sequence) - after:
            raise ValueError(
                f"sequence {number} is to be scored from token {start}; from 1 to {len(sequence) - after} is possible"
            )
    return scored


def _end(position: int, words: Sequence[int | None] | None) -> int:
    """Where the masked tokens end if the one at `position` is scored: behind it, or behind its word."""
    end = position + 1
    if words is not None and words[position] is not None:
        while end < len(words) and words[end] == words[position]:
            end += 1
    return end


def _distinct(keys: Iterable[Key]) -> tuple[list[Key], NDArray[np.int64]]:
    """The different keys, and for each given one its place among them."""
    places: dict[Key, int] = {}
    where = [places.setdefault(key, len(places)) for key in keys]
    return list(places), np.array(where, dtype=np.int64)


def _log_probs(model: Any, hidden: Tensor, targets: Tensor) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """log p(target) at each position, and whether no other token is likelier: (N, H) and (N,) -> twice (N,)."""
    log_probs, best = [], []
    for h, t in zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True):
        logits = model.lm_head(h)  # (N, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = logits.gather(1, t[:, None]).squeeze(1)
        log_probs.append(chosen - logits.logsumexp(1))
        best.append(chosen == logits.amax(1))
    return torch.cat(log_probs).cpu().numpy(), torch.cat(best).cpu().numpy()


def _finite(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    bad = int((~np.isfinite(totals)).sum())
    if bad:
        raise CheckFailed(f"the model gives {bad} of {len(totals)} sequences a likelihood that is not a number")
    return totals
