"""The documents of a corpus as it was published: text or JSON lines in a folder, a zip file or a single file, or a data
set of the hub. Which of them are for training, names of files and folders say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from tiny_transformers.common import contents
from tiny_transformers.common.texts import read
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.corpora import END_OF_TEXT, Corpus, Documents

SPLIT = re.compile(r"(?<![a-z])(train|validation|valid|dev|test)(?![a-z])", re.IGNORECASE)
VALIDATION = ("validation", "valid", "dev")
JSON_LINES = (".jsonl", ".json")
NO_TEXT = (".md", ".parquet", ".arrow", ".zip", ".gz")  # a README, or what only a library reads
HELD_OUT = 100  # one document of so many is for validation, where the source has none
# Of BabyLM's zip files, by the year's names: the folder that is for training.
BABYLM = {"babylm_10m": ("babylm_10M", "train_10M"), "babylm_100m": ("babylm_100M", "train_100M")}

Texts = Callable[[], Iterator[str]]  # from the beginning at each call


def has_text(source: Path) -> bool:
    """Whether a local source is text as it is, which a data set's library would cut at every line."""
    return source.exists() and not _json_lines(source) and any(map(_is_text, contents.files_at(source)))


def local(source: Path, rule: Documents | None, train_folders: tuple[str, ...] = ()) -> dict[str, Texts]:
    """Split -> its documents. `rule`: where one ends, in text; None: at <|endoftext|>. `train_folders`: the names of
    those that are for training, if there are several.

    Raises TinyTransformersError for a source without documents, and for text without a rule."""
    json_lines = _json_lines(source)
    found = json_lines or [file for file in contents.files_at(source) if _is_text(file)]
    if not json_lines and rule is None and not all(map(_ends_stories, found)):
        raise TinyTransformersError(
            f"{next(file for file in found if not _ends_stories(file))}: is text. Say what parts its documents: "
            "--documents line, blank_line, endoftext or file."
        )
    how = Corpus(train="t", validation="v", format="jsonl" if json_lines else "text", documents=rule or "endoftext")
    splits: dict[str, list[Path]] = {}
    for file in found:
        splits.setdefault(_split_of(file.relative_to(source.parent), train_folders), []).append(file)
    if not splits.get("train"):
        raise TinyTransformersError(f"{source}: has no documents to train on: .txt or .jsonl, by name of a split")

    def texts(of: list[Path]) -> Iterator[str]:
        for file in of:
            yield from read(file, how)

    return with_validation({split: lambda of=of: texts(of) for split, of in splits.items()})  # type: ignore[misc]


def with_validation(splits: dict[str, Texts]) -> dict[str, Texts]:
    """The splits train and validation; of a source without the latter, one document in HELD_OUT is held out."""
    if validation := next((splits[name] for name in VALIDATION if name in splits), None):
        return {"train": splits["train"], "validation": validation}
    every, held_out = splits["train"], HELD_OUT - 1
    return {
        "train": lambda: (text for number, text in enumerate(every()) if number % HELD_OUT != held_out),
        "validation": lambda: islice(every(), held_out, None, HELD_OUT),
    }


def _json_lines(source: Path) -> list[Path]:
    return [file for file in contents.files_at(source) if file.suffix in JSON_LINES]


def _is_text(file: Path) -> bool:
    return file.suffix not in (*JSON_LINES, *NO_TEXT)


def _ends_stories(file: Path) -> bool:
    with open(file, encoding="utf-8", errors="replace") as opened:
        return END_OF_TEXT in opened.read(1 << 20)


def _split_of(path: Path, train_folders: tuple[str, ...]) -> str:
    """By the nearest name that has a split's: the file's, or a folder's that it lies in; else train."""
    for name in reversed(path.parts):
        if word := SPLIT.search(name):
            split = word.group().lower()
            is_other = split == "train" and train_folders and not set(train_folders) & set(path.parts)
            return "other" if is_other else split
    return "train"
