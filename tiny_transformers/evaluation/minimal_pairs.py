"""The minimal pairs of one file as token ids, and how many of its pairs cannot be scored.

A file is good as a whole or refused with its line; a pair that has no answer, because its sentences are equal, or that
the model cannot see, because one is too long, is left out and counted. Nothing is truncated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data import sources
from tiny_transformers.data.sources import read_rows
from tiny_transformers.evaluation.asking import special
from tiny_transformers.evaluation.rows import refuse
from tiny_transformers.settings import config
from tiny_transformers.settings.stage.blimp import BLIMP_TASKS, SUPPLEMENT_TASKS, Blimp

FIELDS = ("sentence_good", "sentence_bad")
GROUPS = {"filler_gap_dependency": "filler_gap", "s-selection": "argument_structure"}  # `linguistics_term` -> group


@dataclass(frozen=True)
class Sentence:
    ids: list[int]  # its tokens after, or between, the special ones
    words: list[int | None]  # of each token the word that it is a part of, for PLL-word-l2r; None: a special token
    divisor: int  # of its log-likelihood


@dataclass(frozen=True)
class Pair:
    row: int  # in its file, from 0; blank lines are not counted
    paradigm: str | None  # BLiMP's UID; the supplement has none
    good: Sentence
    bad: Sentence


@dataclass(frozen=True)
class PairTask:
    """The pairs of one file that can be scored, and how many cannot."""

    name: str
    phenomenon: str  # one of the filtered files, whatever the data: the full BLiMP's paradigms are parts of these
    pairs: list[Pair]
    equal: int  # left out: the two sentences are the same
    too_long: int  # left out: a sentence exceeds the model's positions


def read_task(path: Path, name: str, tokenizer: Any, run_config: config.RunConfig) -> PairTask:
    """The task's pairs: `start_token` + sentence for a decoder, `<s>` + sentence + `</s>` for an encoder.

    Raises TinyTransformersError for a file that is empty, lacks a field or has no pair that can be scored."""
    full = run_config.evaluation.of(Blimp).data == "full"
    labels = () if name in SUPPLEMENT_TASKS else ("UID", "linguistics_term") if full else ("UID",)
    rows = read_rows(path, texts=(*FIELDS, *labels))
    _refuse_empty_sentences(path, rows)
    phenomenon = _phenomenon(path, rows) if full else name
    sampled = sources.sample(list(enumerate(rows)), run_config.evaluation.limit)
    different = [(number, row) for number, row in sampled if row[FIELDS[0]] != row[FIELDS[1]]]
    sentences = _tokenise([row[field] for _, row in different for field in FIELDS], tokenizer, run_config)
    pairs = [
        Pair(number, row["UID"] if labels else None, good, bad)
        for (number, row), good, bad in zip(different, sentences[::2], sentences[1::2], strict=True)
        if max(len(good.ids), len(bad.ids)) <= run_config.positions
    ]
    task = PairTask(name, phenomenon, pairs, equal=len(sampled) - len(different), too_long=len(different) - len(pairs))
    if not pairs:
        raise TinyTransformersError(
            f"{path}: none of its pairs can be scored ({task.equal} have two equal sentences, {task.too_long} exceed "
            f"the model's {run_config.positions} tokens); put the file right or raise model.max_position_embeddings"
        )
    return task


def _refuse_empty_sentences(path: Path, rows: list[dict[str, Any]]) -> None:
    for index, row in enumerate(rows):
        for field in FIELDS:
            if not row[field].strip():
                refuse(path, index, f"{field} is empty. Put the row right, or remove it.")


def _phenomenon(path: Path, rows: list[dict[str, Any]]) -> str:
    """The one phenomenon of a paradigm's rows."""
    phenomena = [GROUPS.get(row["linguistics_term"], row["linguistics_term"]) for row in rows]
    for index, phenomenon in enumerate(phenomena):
        if phenomenon not in BLIMP_TASKS:
            known = ", ".join((*BLIMP_TASKS, *GROUPS))
            refuse(path, index, f"linguistics_term is {phenomenon!r}, none of BLiMP's: {known}.")
        if phenomenon != phenomena[0]:
            refuse(path, index, f"is of {phenomenon}, the rows before it of {phenomena[0]}. A file is one paradigm.")
    return phenomena[0]


def _tokenise(sentences: list[str], tokenizer: Any, run_config: config.RunConfig) -> list[Sentence]:
    settings = run_config.evaluation.of(Blimp)
    if not sentences:
        return []
    encoded = tokenizer([" " * settings.leading_space + sentence for sentence in sentences], add_special_tokens=False)
    before, after = special(tokenizer, run_config.model.family, settings.start_token)
    return [
        Sentence(
            ids=[*before, *ids, *after],
            words=[*[None] * len(before), *encoded.word_ids(index), *[None] * len(after)],
            divisor={"none": 1, "tokens": len(ids), "characters": len(sentence)}[settings.normalisation],
        )
        for index, (sentence, ids) in enumerate(zip(sentences, encoded["input_ids"], strict=True))
    ]
