"""Log-likelihoods of token sequences: a decoder's, and an encoder's pseudo-log-likelihood.

Natural logarithms, summed over the tokens of a sequence and not divided by their number. A result depends neither on
the order of the sequences nor, but for rounding, on how they are batched: padding is masked, nothing is truncated,
and a sequence that occurs twice is scored once, so equal sequences get equal results. Knows no task, no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.work import CheckFailed

Sequences = Sequence[Sequence[int]]
OnBatch = Callable[[float], None]  # is told the share of the work that is done, 0..1

TOKENS_PER_BATCH = {"cpu": 1_024, "cuda": 65_536}  # padded tokens in one forward pass; more is slower on a CPU's caches
HEAD_ROWS = 1_024  # positions whose logits exist at once: 41 MB in float32 at 10,000 tokens of vocabulary


def decoder_log_likelihoods(
    model: Any, sequences: Sequences, *, tokens_per_batch: int | None = None, on_batch: OnBatch = lambda _: None
) -> NDArray[np.float64]:
    """log p(x_2, ..., x_n | x_1) of each sequence: the first token is context and is not scored. (N,)

    `model` is a causal language model of transformers. Raises ValueError for a sequence that has nothing to score
    or more tokens than the model has positions, CheckFailed where the model's answer is not a finite number."""
    _check_lengths(sequences, 2, model.config.max_position_embeddings)
    distinct, where = _distinct(sequences)
    totals = np.zeros(len(distinct))
    with evaluating(model):
        for rows, done in batches([len(sequence) for sequence in distinct], tokens_per_batch or budget(model)):
            ids, mask = pad([distinct[row] for row in rows], model)  # (B, T)
            output = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            hidden = output.last_hidden_state  # (B, T, H)
            real = mask[:, 1:].bool()
            log_probs = hidden.new_zeros(real.shape)  # (B, T - 1)
            log_probs[real] = _log_probs(model, hidden[:, :-1][real], ids[:, 1:][real])
            totals[rows] = log_probs.double().sum(1).cpu().numpy()
            on_batch(done)
    return _finite(totals)[where]


def pseudo_log_likelihoods(
    model: Any,
    sequences: Sequences,
    mask_id: int,
    *,
    tokens_per_batch: int | None = None,
    on_batch: OnBatch = lambda _: None,
) -> NDArray[np.float64]:
    """Sum over i of log p(x_i | the sequence with x_i masked), Salazar et al. 2020 (arXiv 1910.14659), eq. 1. (N,)

    `model` is a masked language model of transformers; the first and the last token of a sequence, `<s>` and `</s>`,
    are never masked and not scored. One row of a batch is one sequence with one mask, and the language-model head,
    the dearest part at a large vocabulary, sees masked positions only. Raises as `decoder_log_likelihoods`."""
    _check_lengths(sequences, 3, model.config.max_position_embeddings - model.config.pad_token_id - 1)
    distinct, where = _distinct(sequences)
    lengths = np.array([len(sequence) for sequence in distinct], dtype=np.int64)
    masked = [(row, position) for row, length in enumerate(lengths) for position in range(1, length - 1)]
    source, position = np.array(masked, dtype=np.int64).reshape(-1, 2).T
    totals = np.zeros(len(distinct))
    with evaluating(model):
        for rows, done in batches(lengths[source], tokens_per_batch or budget(model)):
            ids, mask = pad([distinct[row] for row in source[rows]], model)  # (B, T)
            at = torch.arange(len(rows), device=ids.device), torch.from_numpy(position[rows]).to(ids.device)
            targets = ids[at]
            ids[at] = mask_id
            hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[at]  # (B, H)
            np.add.at(totals, source[rows], _log_probs(model, hidden, targets).double().cpu().numpy())
            on_batch(done)
    return _finite(totals)[where]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No dropout, no gradients; afterwards the model is in the mode it was in."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
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


def _distinct(sequences: Sequences) -> tuple[list[tuple[int, ...]], NDArray[np.int64]]:
    """The different sequences, and for each given one its place among them."""
    places: dict[tuple[int, ...], int] = {}
    where = [places.setdefault(tuple(sequence), len(places)) for sequence in sequences]
    return list(places), np.array(where, dtype=np.int64)


def _log_probs(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """log p(target) at each position: (N, H) and (N,) -> (N,)."""
    chunks = zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
    return torch.cat([-F.cross_entropy(model.lm_head(h), t, reduction="none") for h, t in chunks])


def _finite(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    bad = int((~np.isfinite(totals)).sum())
    if bad:
        raise CheckFailed(f"the model gives {bad} of {len(totals)} sequences a likelihood that is not a number")
    return totals
