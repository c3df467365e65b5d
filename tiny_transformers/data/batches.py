"""From stories to what one optimizer step feeds the model.

What is random here, the order of the stories and the masks, is a function of (seed, purpose, number) and never of what
was drawn before: a resumed run needs no random state and is the run it would have been. Sorting by length and cutting
into micro-batches come last, so they change neither the labels nor their gradient."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.packed import Texts
from tiny_transformers.models.auto import BOS, EOS, PAD

NO_LABEL = -100  # as in Hugging Face
MASKED, KEPT = 0.8, 0.1  # of the tokens to predict, the rest is random (Devlin et al. 2019, arXiv:1810.04805, 3.1)

Ids = NDArray[np.integer]


@dataclass(frozen=True)
class Vocabulary:
    """The part of a tokenizer that masking needs."""

    mask: int  # the id of <mask>
    special: NDArray[np.bool_]  # (ids,) True for <pad>, <s>, </s>, <unk>, <mask>
    words: Ids  # the other ids


@dataclass(frozen=True)
class Example:
    """A story as the model sees it."""

    inputs: Ids  # (T,)
    targets: Ids  # (T,) what is to be predicted at each position, or NO_LABEL


@dataclass(frozen=True)
class Batch:
    """Examples of similar length, padded on the right to the longest."""

    input_ids: torch.Tensor  # (B, T)
    attention_mask: torch.Tensor | None  # (B, T); None where a model needs none
    positions: torch.Tensor  # (N,) of the labels among the B * T positions
    labels: torch.Tensor  # (N,)
    texts: Texts | None = None  # where they are, of one row that has them one behind the other, without padding
    real: torch.Tensor | None = None  # (tokens,) of the tokens among the B * T positions; None: there is no padding
    rows: slice | None = None  # of a stream: which of its rows these are; None: a batch of texts
    begins: bool = False  # of a stream: nothing is before it

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """In memory that a GPU reads while the program goes on."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        mask, real = (None if tensor is None else change(tensor) for tensor in (self.attention_mask, self.real))
        texts = self.texts and Texts(change(self.texts.starts), change(self.texts.places), self.texts.longest)
        return replace(
            self,
            texts=texts,
            input_ids=change(self.input_ids),
            attention_mask=mask,
            positions=change(self.positions),
            labels=change(self.labels),
            real=real,
        )


def rng(seed: int, purpose: str, number: int = 0) -> np.random.Generator:
    """The generator of everything random that (seed, purpose, number) names."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), number])


def read_vocabulary(tokenizer_file: Path, vocab_size: int) -> Vocabulary:
    """Raises TinyTransformersError if the tokenizer does not fit a model of `vocab_size`, or has other special ids."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if size > vocab_size:
        raise TinyTransformersError(
            f"{tokenizer_file}: has ids up to {size - 1}, the model only {vocab_size}. Set model.vocab_size to {size}."
        )
    for token, wanted in (("<pad>", PAD), ("<s>", BOS), ("</s>", EOS)):
        if tokenizer.token_to_id(token) != wanted:
            found = tokenizer.token_to_id(token)
            raise TinyTransformersError(f"{tokenizer_file}: {token} is {found}; the models need it to be {wanted}.")
    mask = tokenizer.token_to_id("<mask>")
    if mask is None:
        raise TinyTransformersError(f"{tokenizer_file}: has no <mask>. Add it: encoders are trained with it.")
    special = np.zeros(size, dtype=bool)
    special[[id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special]] = True
    return Vocabulary(mask=mask, special=special, words=np.flatnonzero(~special))


def drawn(num_stories: int, count: int, seed: int, step: int) -> list[int]:
    """The `count` stories of a step: the next ones of an endless sequence, a permutation of all stories per epoch."""
    positions = range(step * count, (step + 1) * count)
    return [int(_permutation(num_stories, seed, p // num_stories)[p % num_stories]) for p in positions]


@lru_cache(maxsize=2)
def _permutation(num_stories: int, seed: int, epoch: int) -> Ids:
    return rng(seed, "order", epoch).permutation(num_stories)


def causal(stories: Sequence[Ids]) -> list[Example]:
    """For a decoder: every token but the first is to be predicted, from those before it."""
    return [Example(story[:-1], story[1:]) for story in stories if len(story) > 1]


def masked(
    stories: Sequence[Ids], vocabulary: Vocabulary, probability: float, generator: np.random.Generator
) -> list[Example]:
    """For an encoder: each token that is not special is to be predicted with `probability`, at least one of them all.

    80 % of these become <mask>, 10 % a random word, 10 % stay. Stories without such a token are left out."""
    tokens = np.concatenate(stories).astype(np.int64)  # (all tokens,)
    eligible = ~vocabulary.special[tokens]
    if not eligible.any():
        raise TinyTransformersError(f"{len(stories)} stories in a row hold nothing but special tokens: check the data.")
    chosen = eligible & (generator.random(len(tokens)) < probability)
    if not chosen.any():
        chosen[generator.choice(np.flatnonzero(eligible))] = True
    kind = generator.random(len(tokens))
    replaced = chosen & (kind >= MASKED + KEPT)
    inputs = np.where(chosen & (kind < MASKED), vocabulary.mask, tokens)
    inputs[replaced] = generator.choice(vocabulary.words, size=replaced.sum())
    targets = np.where(chosen, tokens, NO_LABEL)
    ends = np.cumsum([len(story) for story in stories])[:-1]
    pairs = zip(np.split(inputs, ends), np.split(targets, ends), strict=True)
    return [Example(i, t) for i, t in pairs if (t != NO_LABEL).any()]


def shown(made: Sequence[Batch], mask: int) -> tuple[int, int, int]:
    """Count what stands where something is to be predicted: <mask>, the very token, or another one."""
    pairs = [(batch.input_ids.flatten()[batch.positions], batch.labels) for batch in made]
    masked = sum(int((inputs == mask).sum()) for inputs, _ in pairs)
    kept = sum(int((inputs == labels).sum()) for inputs, labels in pairs)
    return masked, kept, sum(len(labels) for _, labels in pairs) - masked - kept


def num_labels(examples: Sequence[Example]) -> int:
    return sum(int((example.targets != NO_LABEL).sum()) for example in examples)


def micro_batches(
    examples: Sequence[Example], max_tokens: int, *, causal: bool, multiple: int = 1, longest: int = 2**31
) -> Iterator[Batch]:
    """Cut into batches of at most `max_tokens` padded tokens, or of one example; the longest first, to fail early.

    Each is padded to its longest example, rounded up to a `multiple` so that there are few shapes, but not beyond
    `longest`."""
    for some, length in _cut(examples, max_tokens, multiple, longest):
        yield _batch(some, length, causal=causal)


def _cut(
    examples: Sequence[Example], max_tokens: int, multiple: int, longest: int
) -> Iterator[tuple[list[Example], int]]:
    ordered = sorted(examples, key=lambda example: -len(example.inputs))
    start = 0
    while start < len(ordered):
        length = len(ordered[start].inputs)
        length = max(length, min(longest, -(-length // multiple) * multiple))
        size = max(1, max_tokens // length)
        yield ordered[start : start + size], length
        start += size


def packed_batches(
    examples: Sequence[Example], max_tokens: int, *, as_padded: bool, multiple: int = 1, longest: int = 2**31
) -> Iterator[Batch]:
    """For a decoder: cut into rows of at most `max_tokens` tokens, or of one example, that have the examples one behind
    the other; `as_padded`: into those that `micro_batches` makes batches of, which a sparse module's loss goes by."""
    if as_padded:
        for some, _ in _cut(examples, max_tokens, multiple, longest):
            yield _row(some)
        return
    row: list[Example] = []
    tokens = 0
    for example in sorted(examples, key=lambda example: -len(example.inputs)):
        tokens += len(example.inputs)
        if row and tokens > max_tokens:
            yield _row(row)
            row, tokens = [], len(example.inputs)
        row.append(example)
    yield _row(row)


def _row(examples: Sequence[Example]) -> Batch:
    lengths = np.array([len(example.inputs) for example in examples])
    ends = lengths.cumsum()
    places = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    targets = np.concatenate([example.targets for example in examples]).astype(np.int64)
    positions = np.flatnonzero(targets != NO_LABEL)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([example.inputs for example in examples]).astype(np.int64)[None]),
        attention_mask=None,
        positions=torch.from_numpy(positions),
        labels=torch.from_numpy(targets[positions]),
        texts=Texts(
            starts=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
            places=torch.from_numpy(places),
            longest=int(lengths.max()),
        ),
    )


def _batch(examples: Sequence[Example], length: int, *, causal: bool) -> Batch:
    shape = len(examples), length
    lengths = np.array([len(example.inputs) for example in examples])
    real = np.arange(length) < lengths[:, None]  # (B, T)
    input_ids, targets = np.full(shape, PAD, dtype=np.int64), np.full(shape, NO_LABEL, dtype=np.int64)
    input_ids[real] = np.concatenate([example.inputs for example in examples])
    targets[real] = np.concatenate([example.targets for example in examples])
    positions = np.flatnonzero(targets != NO_LABEL)
    padded = not real.all()
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        # A decoder's token never sees the padding, which is to its right.
        attention_mask=torch.from_numpy(real.astype(np.int64)) if padded and not causal else None,
        positions=torch.from_numpy(positions),
        labels=torch.from_numpy(targets.reshape(-1)[positions]),
        real=torch.from_numpy(np.flatnonzero(real)) if padded else None,
    )
