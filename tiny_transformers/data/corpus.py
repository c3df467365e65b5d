"""The batches that a training reads at every step, and those of validation. They follow from nothing but the data, the
settings and the step's number, so that a training that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from tiny_transformers.common.contents import corpus_fingerprint, fingerprint
from tiny_transformers.common.work import TinyTransformersError, Work
from tiny_transformers.data import batches, characters, documents, vocabularies
from tiny_transformers.data.batches import Batch, Example, Ids
from tiny_transformers.data.feed import Step
from tiny_transformers.data.stories import tokenize_stories
from tiny_transformers.settings import config
from tiny_transformers.settings.config import RunConfig

LENGTHS = 16  # texts are padded to multiples of this: fewer shapes, for each of which kernels are made and kept
SAMPLE = 8  # stories on which a model is compared with what was saved of it
EVALUATED = 2_048  # characters of a stream that are evaluated at once; the result does not depend on it


class Corpus(Protocol):
    fingerprints: dict[str, str]  # file below the data root -> SHA-256
    packed: bool  # whether a step's texts lie one behind the other in a row; of validation they are padded
    validation_labels: int
    validation_tokens: int

    def figures(self) -> dict[str, int]:
        """What it is made of, and what of its files is not read."""

    def cut(self) -> tuple[bool, str] | None:
        """Whether so much of it is left out that it has to be told of, and what, in words; None: nobody knows."""

    def step(self, number: int) -> Step:
        """Return the batches that the optimizer step after so many steps learns from."""

    def validation(self) -> Iterator[Batch]: ...

    def sample(self) -> Batch:
        """A little of the validation data."""

    @property
    def keys_per_token(self) -> float:
        """How many keys a token's attention has on average, as far as the data decides."""


def read(work: Work, micro_batch_tokens: int) -> Corpus:
    """Raises TinyTransformersError for data that does not fit the model."""
    return (StreamCorpus if work.config.data.is_stream else StoryCorpus)(work, micro_batch_tokens)


class StoryCorpus:
    """Stories in an order of their own in every epoch, each a text by itself."""

    packed = False

    def __init__(self, work: Work, micro_batch_tokens: int) -> None:
        self.data_root, self.config, self.settings = work.data_root, work.config, work.config.train
        self.micro_batch_tokens = micro_batch_tokens
        tokenizer_file = vocabularies.find(self.config.data, self.data_root, work.cache, work.should_stop)
        self.vocabulary = batches.read_vocabulary(tokenizer_file, self.config.model.vocab_size)
        files = self.config.data.files
        self.train_file, self.validation_file = files.files
        self.stories, validation = (
            tokenize_stories(
                documents.json_lines(self.data_root / file, files, work.cache),
                tokenizer_file,
                self.config.data.max_length,
                work.cache,
                should_stop=work.should_stop,
            )
            for file in files.files
        )
        self.splits = {"train": self.stories, "validation": validation}
        for split, read in self.splits.items():
            print(f"{self.config.data.corpus}, {split}: {read.told()}", flush=True)
        self.fingerprints = {
            file: corpus_fingerprint(self.data_root / file, files, work.cache) for file in files.files
        } | {config.tokenizer_name(self.config.data): fingerprint(tokenizer_file)}
        count = min(len(validation), self.settings.eval_stories or len(validation))
        held_out = [validation[i] for i in range(count)]
        # Of no seed: all runs are asked for the same tokens.
        self.held_out = self.examples(held_out, batches.rng(0, "validation"), self.validation_file)
        self.validation_labels = batches.num_labels(self.held_out)
        self.validation_tokens = sum(len(example.inputs) for example in self.held_out)

    def figures(self) -> dict[str, int]:
        return {f"{split}_{name}": n for split, read in self.splits.items() for name, n in read.figures().items()}

    def cut(self) -> tuple[bool, str] | None:
        if any(read.cut is None for read in self.splits.values()):
            return None
        much = {split: read for split, read in self.splits.items() if read.is_much_cut}
        name = "builtin stories" if self.config.data.source == "builtin" else self.config.data.corpus
        told = (f"{name}, {split}: {read.told()}" for split, read in (much or self.splits).items())
        return bool(much), ". ".join(told)

    def step(self, number: int) -> Step:
        seed = self.config.seed
        drawn = batches.drawn(len(self.stories), self.settings.stories_per_step, seed, number)
        stories = [self.stories[i] for i in drawn]
        examples = self.examples(stories, batches.rng(seed, "mask", number), self.train_file)
        tokens = np.concatenate(stories)
        return Step(
            list(self.rows(examples) if self.packed else self.micro_batches(examples)),
            labels=batches.num_labels(examples),
            tokens=len(tokens),
            eligible=int((~self.vocabulary.special[tokens]).sum()),
        )

    def validation(self) -> Iterator[Batch]:
        return self.micro_batches(self.held_out)

    def sample(self) -> Batch:
        return next(batches.micro_batches(self.held_out[:SAMPLE], 2**31, causal=self.config.model.causal))

    @property
    def keys_per_token(self) -> float:
        lengths = self.stories.lengths.astype(np.float64)
        return float((lengths**2).sum() / lengths.sum())

    def examples(self, stories: Sequence[Ids], generator: np.random.Generator, file: str) -> list[Example]:
        if self.config.model.causal:
            examples = batches.causal(stories)
        else:
            examples = batches.masked(stories, self.vocabulary, self.settings.mlm_probability, generator)
        if not examples:
            raise TinyTransformersError(
                f"{self.data_root / file}: {len(stories)} stories without a token to predict. Check the file."
            )
        return examples

    def rows(self, examples: Sequence[Example]) -> Iterator[Batch]:
        return batches.packed_batches(
            examples,
            self.micro_batch_tokens,
            as_padded=not self.config.model.micro_batch_is_free,
            multiple=LENGTHS,
            longest=self.config.positions,
        )

    def micro_batches(self, examples: Sequence[Example]) -> Iterator[Batch]:
        return batches.micro_batches(
            examples,
            self.micro_batch_tokens,
            causal=self.config.model.causal,
            multiple=LENGTHS,
            longest=self.config.positions,
        )


class StreamCorpus:
    """Characters as rows that are read side by side, a block at a time; what a block leaves in memory the next one
    finds."""

    packed = False

    def __init__(self, work: Work, micro_batch_tokens: int) -> None:
        settings = work.config.train
        (file,) = config.stream_files(work.config)
        self.stream = characters.read_stream(work.data_root / file, work.config.data.units, work.cache)
        characters.fits(self.stream, work.config.model.vocab_size)
        self.fingerprints = {file: self.stream.fingerprint}
        self.rows = characters.rows(self.stream.train, settings.batch_size)
        self.block_size = settings.block_size
        self.pieces = pieces(work.config, micro_batch_tokens)
        held_out = self.stream.preceded("validation")  # so that its first character is predicted, too
        self.held_out = held_out[: settings.eval_characters + 1] if settings.eval_characters else held_out
        self.validation_labels = self.validation_tokens = len(self.held_out) - 1

    def figures(self) -> dict[str, int]:
        return {}

    def cut(self) -> tuple[bool, str] | None:
        return None

    def step(self, number: int) -> Step:
        inputs, targets, begins = characters.block(self.rows, number, self.block_size)  # (B, T)
        rows = np.array_split(np.arange(len(inputs)), self.pieces)
        made = [_block(inputs[of], targets[of], slice(of[0], of[-1] + 1), begins) for of in rows]
        return Step(made, labels=targets.size, tokens=targets.size, eligible=targets.size)

    def validation(self) -> Iterator[Batch]:
        for start in range(0, self.validation_labels, EVALUATED):
            part = self.held_out[None, start : start + EVALUATED + 1]
            yield _block(part[:, :-1], part[:, 1:], slice(0, 1), begins=start == 0)

    def sample(self) -> Batch:
        return next(self.validation())

    @property
    def keys_per_token(self) -> float:
        return float(len(self.stream.train))


def pieces(settings: RunConfig, micro_batch_tokens: int) -> int:
    """Micro-batches of a step: as many as are asked for, or as memory has room for; at most one a row."""
    train = settings.train
    needed = -(-train.batch_size // max(1, micro_batch_tokens // train.block_size))
    return min(train.batch_size, max(train.batch_split, needed))


def _block(inputs: Ids, targets: Ids, rows: slice, begins: bool) -> Batch:
    labels = torch.from_numpy(targets.astype(np.int64).reshape(-1))
    return Batch(
        input_ids=torch.from_numpy(inputs.astype(np.int64)),
        attention_mask=None,
        positions=torch.arange(len(labels)),
        labels=labels,
        rows=rows,
        begins=begins,
    )
