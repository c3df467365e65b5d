"""The rows of BabyLM's zero-shot tasks as texts to choose from, the right one first, and how many cannot be scored.

What a row of each task means is said once, in READERS. A file is good as a whole or refused with its line; a row that
has no answer, because another text is the right one, or that the model cannot see, because one is too long, is left out
and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data.sources import read_rows, sample
from tiny_transformers.evaluation.asking import special
from tiny_transformers.evaluation.rows import refuse
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.babylm import WUG, Babylm, BabylmTask

Row = Mapping[str, Any]
Texts = list[tuple[str, str]]  # of each candidate what it follows, "" if nothing, and what is scored


@dataclass(frozen=True)
class Reader:
    """What a row of a task means."""

    fields: tuple[str, ...]  # that have to be texts
    texts: Callable[[Row], Texts]
    subsets: Callable[[Row, str], dict[str, str]]  # of a row in a file of this name: kind -> which; the first decides
    others: tuple[str, ...] = ()  # fields that have to be there


def _pair(row: Row) -> Texts:
    return [("", row["sentence_good"]), ("", row["sentence_bad"])]


def _blimp_subsets(row: Row, _: str) -> dict[str, str]:
    field = "syntax_semantics" if row["field"] == "syntax/semantics" else row["field"]
    return {"UID": row["UID"], "field": field, "linguistics_term": row["linguistics_term"]}


def _wug(row: Row) -> Texts:
    return [("", sentence) for sentence in row["sentences"].split("\t")]


BY_FILE: Callable[[Row, str], dict[str, str]] = lambda _, file: {"file": file}  # noqa: E731
EWOK = ("Domain", "ContextType", "ContextDiff", "TargetDiff")
WUG_READER = Reader(("sentences",), _wug, BY_FILE, others=("ratio",))
READERS: dict[BabylmTask, Reader] = {
    "blimp_filtered": Reader(
        ("sentence_good", "sentence_bad", "UID", "field", "linguistics_term"), _pair, _blimp_subsets
    ),
    "supplement_filtered": Reader(("sentence_good", "sentence_bad"), _pair, BY_FILE),
    "ewok_filtered": Reader(
        ("Context1", "Target1", "Target2", *EWOK),
        lambda row: [(row["Context1"], row["Target1"]), (row["Context1"], row["Target2"])],
        lambda row, _: {kind: row[kind] for kind in EWOK},
    ),
    "entity_tracking": Reader(
        ("input_prefix",),
        lambda row: [(row["input_prefix"], option) for option in row["options"]],
        lambda row, file: {"file_and_numops": f"{file}_{row['numops']}_ops"},
        others=("options", "numops"),
    ),
    "comps": Reader(
        ("prefix_acceptable", "prefix_unacceptable", "property_phrase"),
        lambda row: [(row[prefix], row["property_phrase"]) for prefix in ("prefix_acceptable", "prefix_unacceptable")],
        BY_FILE,
    ),
    "wug_adj_nominalization": WUG_READER,
    "wug_past_tense": WUG_READER,
}


@dataclass(frozen=True)
class Candidate:
    """One text of a row, as tokens."""

    ids: list[int]  # with the special ones
    words: list[int | None]  # of each token the word that it is a part of; None: a special token
    scored: int  # the first token that is


@dataclass(frozen=True)
class Item:
    """One row: its candidates, the right one first."""

    row: int  # in its file, from 0; blank lines are not counted
    file: str  # its name without .jsonl
    subsets: dict[str, str]
    candidates: list[Candidate]
    ratio: float = 0.0  # WUG: the share of people who take the first


@dataclass
class Task:
    """A task's rows that can be scored, and how many cannot."""

    name: BabylmTask
    items: list[Item] = field(default_factory=list)
    equal: int = 0  # left out: another text is the same as the right one
    too_long: int = 0  # left out: a text exceeds the model's positions


def read_task(name: BabylmTask, paths: list[Path], tokenizer: Any, run_config: RunConfig) -> Task:
    """The rows of all files of a task, of each no more than `evaluation.limit`.

    Raises TinyTransformersError, with file and line, for a row that lacks something, and for a task that has nothing
    which can be scored."""
    task = Task(name)
    for path in paths:
        _read_file(task, path, tokenizer, run_config)
    if not task.items:
        raise TinyTransformersError(
            f"{paths[0].parent}: none of its rows can be scored ({task.equal} have equal texts, {task.too_long} exceed "
            f"the model's {run_config.positions} tokens). Put the files right, or leave {name} out of "
            "evaluation.babylm.tasks."
        )
    if name in WUG and len({item.ratio for item in task.items}) == 1:
        raise TinyTransformersError(
            f"{paths[0].parent}: ratio is the same in all rows used, so nothing can go along with it. Put the files "
            "right, or raise evaluation.limit."
        )
    return task


def _read_file(task: Task, path: Path, tokenizer: Any, run_config: RunConfig) -> None:
    reader = READERS[task.name]
    rows = read_rows(path, reader.others, texts=reader.fields)
    for index, row in enumerate(rows):
        _check(task.name, path, index, row)
    chosen = sample(list(enumerate(rows)), run_config.evaluation.limit)
    texts = [reader.texts(row) for _, row in chosen]
    encoded = iter(_encode([text for of_row in texts for text in of_row], tokenizer, run_config))
    for (index, row), of_row in zip(chosen, texts, strict=True):
        candidates = [next(encoded) for _ in of_row]
        if of_row[0] in of_row[1:]:
            task.equal += 1
        elif max(len(candidate.ids) for candidate in candidates) > run_config.positions:
            task.too_long += 1
        else:
            ratio = float(row["ratio"]) if task.name in WUG else 0.0
            task.items.append(Item(index, path.stem, reader.subsets(row, path.stem), candidates, ratio))


def _check(task: BabylmTask, path: Path, index: int, row: Row) -> None:
    """Refuse a row that has the fields of its task, but not what they should hold."""
    if task == "entity_tracking":
        options = row["options"]
        if not isinstance(options, list) or len(options) < 2 or not all(isinstance(each, str) for each in options):
            refuse(path, index, f"options is {options!r}, not a list of two texts or more. Put the row right.")
    if task in WUG:
        sentences, ratio = row["sentences"].split("\t"), row["ratio"]
        if len(sentences) != 2:
            refuse(path, index, f"sentences holds {len(sentences)}, not two parted by a tab. Put the row right.")
        if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not 0 <= ratio <= 1:
            refuse(path, index, f"ratio is {ratio!r}, not a share from 0 to 1. Put the row right.")
    for before, scored in READERS[task].texts(row):
        if not scored.strip():
            refuse(path, index, "a text that is to be scored is empty. Put the row right, or remove it.")
        if task not in ("blimp_filtered", "supplement_filtered", *WUG) and not before.strip():
            refuse(path, index, "what stands before the scored text is empty. Put the row right, or remove it.")


def _encode(texts: Texts, tokenizer: Any, run_config: RunConfig) -> list[Candidate]:
    """Scored are the tokens that reach beyond what stands before, the space between the two among them."""
    settings = run_config.evaluation.of(Babylm)
    before, after = special(tokenizer, run_config.model.family, settings.start_token)
    whole = [" " * settings.leading_space + _joined(context, scored) for context, scored in texts]
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    candidates = []
    for index, (context, _) in enumerate(texts):
        begin = len(context.rstrip()) + settings.leading_space if context else 0
        first = next(place for place, (_, end) in enumerate(encoded["offset_mapping"][index]) if end > begin)
        candidates.append(
            Candidate(
                ids=[*before, *encoded["input_ids"][index], *after],
                words=[*[None] * len(before), *encoded.word_ids(index), *[None] * len(after)],
                scored=len(before) + first,
            )
        )
    return candidates


def _joined(context: str, scored: str) -> str:
    """Both, with a space between them if the file has none there."""
    parted = not context or context[-1].isspace() or scored[0].isspace()
    return context + scored if parted else f"{context} {scored}"
