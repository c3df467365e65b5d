"""Turn a row of a (Super)GLUE file into one or two input texts and a label, as in BabyLM 2023.

No model here. The fields of each task are those of its template (docs/evaluation.md)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data import sources
from tiny_transformers.data.sources import read_rows
from tiny_transformers.evaluation.rows import refuse
from tiny_transformers.settings import config
from tiny_transformers.settings.stage.superglue import Superglue, Task, limit, superglue_files, train_limit

SCORED_AS = {"validation": "{task}", "validation_matched": "{task}", "validation_mismatched": "{task}-mm"}
HELD_OUT, MOST_HELD_OUT = 0.1, 1_000  # of the training rows, for `select_on: train_split`


@dataclass(frozen=True)
class Template:
    """A task's input, `first` and for pairs `second`, with the names of the row's fields in braces."""

    first: str
    second: str | None = None
    num_labels: int = 2

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(name for _, name, _, _ in Formatter().parse(self.first + (self.second or "")) if name)


TEMPLATES = {
    "cola": Template("{sentence}"),
    "sst2": Template("{sentence}"),
    "mrpc": Template("{sentence1}", "{sentence2}"),
    "qqp": Template("{question1}", "{question2}"),
    "mnli": Template("{premise}", "{hypothesis}", num_labels=3),
    "qnli": Template("{question}", "{sentence}"),
    "rte": Template("{sentence1}", "{sentence2}"),
    "boolq": Template("{question}", "{passage}"),
    "multirc": Template("Question: {question} Answer: {answer}", "{paragraph}"),
    "wsc": Template('Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}"),
}


@dataclass(frozen=True)
class Examples:
    first: list[str]
    second: list[str] | None
    labels: NDArray[np.int64]  # (N,)

    def take(self, rows: NDArray[np.int64]) -> Examples:
        second = None if self.second is None else [self.second[row] for row in rows]
        return Examples([self.first[row] for row in rows], second, self.labels[rows])


@dataclass(frozen=True)
class Encoded:
    """Examples as token ids, special tokens included."""

    input_ids: list[list[int]]
    labels: NDArray[np.int64]  # (N,)
    truncated: int  # examples that were longer

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(ids) for ids in self.input_ids], dtype=np.int64)


@dataclass(frozen=True)
class TaskData:
    """The rows that a task is trained on, those that select its weights, and those that are scored."""

    name: str
    train: Encoded
    selection: Encoded  # one of `validation`, or rows that `train` lacks
    validation: dict[str, Encoded]  # name of the score -> rows

    @property
    def num_labels(self) -> int:
        return TEMPLATES[self.name].num_labels


def read_task(data_root: Path, task: Task, tokenizer: Any, settings: config.Evaluation, seed: int) -> TaskData:
    """The rows of all files of a task; `seed` chooses those that are held out.

    Raises TinyTransformersError, with file and line, for a row as in `read_examples`, for training rows that all have
    one label, and where a label is too rare to be held out."""
    files = {split: data_root / file for split, file in superglue_files(task, settings.of(Superglue)).items()}
    path = files.pop("train")
    train = read_examples(path, task, train_limit(settings, task))
    if not np.ptp(train.labels):
        what = f"the {len(train.labels)} rows used of it all have the label {train.labels[0]}: nothing can be learnt"
        raise TinyTransformersError(
            f"{path}: {what}. Bring the file again, or raise the limit of evaluation.superglue."
        )
    held_out = None
    if settings.of(Superglue).select_on == "train_split":
        train, held_out = hold_out(path, train, seed)

    def encoded(examples: Examples) -> Encoded:
        return encode(examples, tokenizer, settings.of(Superglue).max_length)

    validation = {
        SCORED_AS[split].format(task=task): encoded(read_examples(file, task, limit(settings)))
        for split, file in files.items()
    }
    selection = encoded(held_out) if held_out else next(iter(validation.values()))
    return TaskData(task, encoded(train), selection, validation)


def hold_out(path: Path, examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """The rows to train on, and a tenth of them, 1,000 at most, that are not; every label with its share in both.

    Raises TinyTransformersError where a label would be missing in one of them; `path` is where they come from."""
    labels, counts = np.unique(examples.labels, return_counts=True)
    size = min(MOST_HELD_OUT, max(len(labels), round(HELD_OUT * len(examples.labels))))
    rows = np.arange(len(examples.labels))
    if counts.min() > 1:  # scikit-learn refuses less
        kept, held = train_test_split(rows, test_size=size, stratify=examples.labels, random_state=seed)
        if len(np.unique(examples.labels[held])) == len(np.unique(examples.labels[kept])) == len(labels):
            return examples.take(np.sort(kept)), examples.take(np.sort(held))
    rarest = counts.argmin()
    raise TinyTransformersError(
        f"{path}: {counts[rarest]} of {len(rows)} rows have the label {labels[rarest]}, too few for it to be among the "
        f"{size} held out by select_on: train_split. Write select_on: validation, or use more rows."
    )


def read_examples(path: Path, task: str, limit: int | None) -> Examples:
    """All rows of the file, or `limit` of them in which the labels keep their shares.

    Raises TinyTransformersError, with file and line, for a missing field, a text that is none or a label outside the
    task's range, and for an empty file."""
    template = TEMPLATES[task]
    rows = read_rows(path, ["label"], texts=template.fields)
    _check_labels(path, rows, template.num_labels)
    if limit is not None:
        # Evenly spaced among rows sorted by label: a file may alternate labels, or hold one label's rows first.
        rows = sources.sample(sorted(rows, key=lambda row: row["label"]), limit)
    return Examples(
        [template.first.format(**row) for row in rows],
        None if template.second is None else [template.second.format(**row) for row in rows],
        np.array([row["label"] for row in rows], dtype=np.int64),
    )


def encode(examples: Examples, tokenizer: Any, max_length: int) -> Encoded:
    """`<s> A </s>` or `<s> A </s></s> B </s>`, cut at `max_length` tokens, from the longer text first."""
    batch = tokenizer(examples.first, examples.second, truncation=True, max_length=max_length)
    truncated = sum(bool(encoding.overflowing) for encoding in batch.encodings)
    return Encoded(batch["input_ids"], examples.labels, truncated)


def majority_share(labels: NDArray[np.int64]) -> float:
    """The share of the most frequent label: the accuracy of answering it always."""
    return max(Counter(labels.tolist()).values()) / len(labels)


def _check_labels(path: Path, rows: list[dict[str, Any]], num_labels: int) -> None:
    for index, row in enumerate(rows):
        label = row["label"]
        if type(label) is not int or not 0 <= label < num_labels:
            what = f"label is {label!r}; this task has the labels 0 to {num_labels - 1}"
            refuse(path, index, f"{what}. Remove the row, or give the labels as these numbers.")
