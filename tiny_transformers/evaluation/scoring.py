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
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GPTNeoForCausalLM

from tiny_transformers.common.work import CheckFailed
from tiny_transformers.evaluation.masked import reads, states_at
from tiny_transformers.evaluation.prefixes import Forest
from tiny_transformers.layers import attention
from tiny_transformers.layers.layer import PerToken
from tiny_transformers.models.llama import TinyLlamaForCausalLM
from tiny_transformers.training.device import carried

Sequences = Sequence[Sequence[int]]
Words = Sequence[Sequence[int | None]]  # of each sequence the number of each token's word; None: of no word
Precision = Literal["float32", "bfloat16"]
OnBatch = Callable[[float], None]
Key = TypeVar("Key", bound=Hashable)

TOKENS_PER_BATCH = {"cpu": 1_024, "cuda": 65_536}  # padded tokens in one forward pass; more is slower on a CPU's caches
ROW = 128  # tokens in one row of a decoder's batch
HEAD_ROWS = 1_024  # positions whose logits exist at once: 41 MB in float32 at 10,000 tokens of vocabulary


@dataclass(frozen=True)
class Scores:
    """The scores of N sequences."""

    log_likelihoods: NDArray[np.float64]  # (N,)
    greedy: NDArray[np.bool_]  # (N,): every scored token is the likeliest; of equal ones that of the lowest id
    found: list[tuple[NDArray[np.int64], Tensor, Tensor]] = field(default_factory=list)  # not read yet

    @classmethod
    def empty(cls, n: int) -> Scores:
        return cls(np.zeros(n), np.ones(n, dtype=bool))

    def __getitem__(self, numbers: NDArray[np.int64]) -> Scores:
        return Scores(self.log_likelihoods[numbers], self.greedy[numbers])

    def add(self, numbers: NDArray[np.int64], log_probs: Tensor, greedy: Tensor) -> None:
        """Scored tokens, and of which sequence each is. They stay where they are, so that a GPU is not waited for."""
        self.found.append((numbers, log_probs, greedy))

    def checked(self) -> Scores:
        """With what was found, which is read all at once."""
        if self.found:
            parts = zip(*self.found, strict=True)
            numbers, log_probs, greedy = np.concatenate(next(parts)), torch.cat(next(parts)), torch.cat(next(parts))
            read = torch.stack([log_probs.double(), greedy.double()]).cpu().numpy()
            np.add.at(self.log_likelihoods, numbers, read[0])
            np.logical_and.at(self.greedy, numbers, read[1] > 0)
            self.found.clear()
        bad = int((~np.isfinite(self.log_likelihoods)).sum())
        if bad:
            raise CheckFailed(
                f"the model gives {bad} of {len(self.greedy)} sequences a likelihood that is not a number"
            )
        return self


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

    `model` is for causal language modelling; a GPT-Neo, stock or ours, and our Llama compute once what sequences
    begin with alike. Raises ValueError for a sequence that has nothing to score or more tokens than the model has
    positions, CheckFailed where an answer is not a finite number."""
    _check_lengths(sequences, 2, positions_of(model))
    starts = _starts(sequences, scored, 1)
    tokens_per_batch = tokens_per_batch or budget(model)
    if not isinstance(model, (GPTNeoForCausalLM, TinyLlamaForCausalLM)):
        return _score_whole(model, sequences, starts, precision, tokens_per_batch, on_batch)
    # GPT-Neo counts the window of its local attention by places in the row, so a row with branches must fit into it.
    window = getattr(model.config, "window_size", ROW)
    width = min(ROW, tokens_per_batch, window, model.config.max_position_embeddings)
    forest = Forest([tuple(sequence) for sequence in sequences], starts, width)
    scores = Scores.empty(len(sequences))
    with evaluating(model, precision):
        for rows, done in batches(forest.sizes, tokens_per_batch):
            batch = forest.batch(rows)
            ids, positions, attends = (carried(x, model.device) for x in (batch.ids, batch.positions, batch.attends))
            mask = torch.zeros(attends.shape, dtype=model.dtype, device=model.device)
            mask = mask.masked_fill_(~attends, torch.finfo(mask.dtype).min)[:, None]  # (B, 1, T, T)
            attention.sees_all(mask)  # each token itself
            output = model.base_model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
            parents, parent = np.unique(batch.parent, return_inverse=True)
            hidden = output.last_hidden_state.flatten(0, 1)[carried(parents, model.device)]  # (N, H)
            scores.add(batch.sequence, *_log_probs(model, hidden, parent, batch.target))
            on_batch(done)
    return scores.checked()


def _score_whole(
    model: Any,
    sequences: Sequences,
    starts: Sequence[int],
    precision: Precision,
    tokens_per_batch: int,
    on_batch: OnBatch,
) -> Scores:
    """Each sequence by itself, as any decoder of Hugging Face's takes it."""
    keys, where = _distinct(zip(map(tuple, sequences), starts, strict=True))
    scores = Scores.empty(len(keys))
    with evaluating(model, precision):
        for rows, done in batches([len(sequence) for sequence, _ in keys], tokens_per_batch):
            ids, real = padded([keys[row][0] for row in rows], model)  # (B, T)
            logits = model(**_given(ids, real, model), use_cache=False).logits[:, :-1]  # (B, T - 1, V)
            first = np.array([keys[row][1] for row in rows])[:, None]
            row, place = ((first <= np.arange(1, ids.shape[1])) & real[:, 1:]).nonzero()  # (S,)
            at = carried(row, model.device), carried(place, model.device)
            scores.add(rows[row], *_of_targets(logits[at], carried(ids[row, place + 1], model.device)))
            on_batch(done)
    return scores.checked()[where]


def _of_targets(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log p(target), and whether it is the likeliest: (S, V), (S,) -> twice (S,)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probs = logits.log_softmax(-1).gather(1, target[:, None]).squeeze(1)
    return log_probs, logits.argmax(1) == target


def positions_of(model: Any) -> int:
    """Tokens that a model can see at once; 2^31 where its configuration names no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None:
        return 2**31
    padding = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return limit if padding is None else limit - padding - 1  # RoBERTa counts from behind its padding


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

    `model` is for masked language modelling; a RoBERTa, stock or ours, computes its last block at the mask alone. The
    first and the last token of a sequence, `<s>` and `</s>`, are never masked and not scored. Raises as
    `score_decoder`."""
    _check_lengths(sequences, 3, positions_of(model))
    starts = _starts(sequences, scored, 2)
    of_words = [None] * len(sequences) if words is None else map(tuple, words)
    keys, where = _distinct(zip(map(tuple, sequences), starts, of_words, strict=True))
    masked = [
        (number, position, _end(position, words_of_it), len(sequence), sequence[position])
        for number, (sequence, start, words_of_it) in enumerate(keys)
        for position in range(start, len(sequence) - 1)
    ]
    source, position, end, length, target = np.array(masked, dtype=np.int64).reshape(-1, 5).T
    scores = Scores.empty(len(keys))
    waiting: list[tuple[NDArray[np.int64], Tensor]] = []  # for the head: it is a third faster with many rows
    alone = reads(model)
    with evaluating(model, precision):
        for rows, done in batches(length, tokens_per_batch or budget(model)):
            ids, real = padded([keys[number][0] for number in source[rows]], model)  # (B, T)
            column = np.arange(ids.shape[1])
            ids[(position[rows, None] <= column) & (column < end[rows, None])] = mask_id
            if not alone:
                at = torch.arange(len(rows), device=model.device), carried(position[rows], model.device)
                logits = model(**_given(ids, real, model)).logits[at]
                scores.add(source[rows], *_of_targets(logits, carried(target[rows], model.device)))
                on_batch(done)
                continue
            waiting.append((rows, states_at(model, ids, real, position[rows])))  # (B,), (B, H)
            if done == 1 or sum(len(rows) for rows, _ in waiting) >= HEAD_ROWS // 2:
                rows, hidden = (
                    np.concatenate([rows for rows, _ in waiting]),
                    torch.cat([hidden for _, hidden in waiting]),
                )
                scores.add(source[rows], *_log_probs(model, hidden, np.arange(len(rows)), target[rows]))
                waiting.clear()
            on_batch(done)
    return scores.checked()[where]


@contextmanager
def evaluating(model: Any, precision: Precision = "float32") -> Iterator[None]:
    """No dropout, no gradients; afterwards the model is in the mode it was in."""
    training = model.training
    model.eval()
    for module in model.modules():
        if isinstance(module, PerToken):
            module.real = None  # of the last training pass; `states_at` calls blocks, so the model does not clear it
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


def padded(sequences: Sequences, model: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Token ids padded on the right, and which of them are real, both (B, T)."""
    longest = max(len(sequence) for sequence in sequences)
    padding = model.config.pad_token_id or 0  # masked, so any id does
    ids = np.array([[*sequence, *[padding] * (longest - len(sequence))] for sequence in sequences], dtype=np.int64)
    return ids, np.arange(longest) < np.array([len(sequence) for sequence in sequences])[:, None]


def _given(ids: NDArray[np.int64], real: NDArray[np.bool_], model: Any) -> dict[str, Tensor]:
    """Return what any model of Hugging Face's is given, on its device."""
    mask = carried(real.astype(np.int64), model.device)
    return {"input_ids": carried(ids, model.device), "attention_mask": mask}


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


def _log_probs(
    model: Any, hidden: Tensor, place: NDArray[np.int64], target: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """log p(target) at places in hidden, and whether it is the likeliest: (N, H), (S,), (S,) -> twice (S,)."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    log_probs, greedy = hidden.new_empty(len(place), dtype=wide), hidden.new_empty(len(place), dtype=torch.bool)
    for first in range(0, len(hidden), HEAD_ROWS):
        logits = model.lm_head(hidden[first : first + HEAD_ROWS]).to(wide)  # (n, V)
        here = np.flatnonzero((place >= first) & (place < first + HEAD_ROWS))
        inside, row, goal = (carried(x, hidden.device) for x in (here, place[here] - first, target[here]))
        chosen, highest = logits[row, goal], logits.amax(1)
        likeliest = _likeliest(logits, row, goal, chosen == highest[row])
        log_sum = logits.sub_(highest[:, None]).exp_().sum(1).log() + highest  # in place: logits are the most memory
        log_probs[inside], greedy[inside] = chosen - log_sum[row], likeliest
    return log_probs, greedy


def _likeliest(logits: Tensor, row: Tensor, goal: Tensor, highest: Tensor) -> Tensor:
    """Which goals are the likeliest of their rows, of those that are among the highest: (S,)

    Of bfloat16's logits every 25th highest one is shared. On a CPU an argmax takes 15 times as long as a maximum; to
    choose where it is needed a GPU would be waited for."""
    if logits.device.type != "cpu":
        return logits.argmax(1)[row] == goal
    highest[highest.clone()] = logits[row[highest]].argmax(1) == goal[highest]
    return highest
