"""The rows that lm-eval's task files ask for, read from DATA_ROOT with our own reader and its errors.

lm-eval calls these with all that `--metadata` and `--model_args` say; the file is the task's. Nothing is cached."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datasets import Dataset

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data.sources import read_rows

PAIR = ("sentence_good", "sentence_bad")


def load_pairs(file: str, data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """The minimal pairs of a file, without those of two equal sentences, which no model can tell apart."""
    rows = [row for row in _read(file, PAIR, data_root) if row[PAIR[0]] != row[PAIR[1]]]
    if not rows:
        raise TinyTransformersError(f"{file}: every pair has two equal sentences. Bring it again.")
    return {"test": Dataset.from_list(rows)}


def load_passages(file: str, data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """The texts of a file."""
    return {"test": Dataset.from_list(_read(file, ("text",), data_root))}


def _read(file: str, fields: tuple[str, ...], data_root: str | None) -> list[dict[str, str]]:
    root = data_root or os.environ.get("TINY_TRANSFORMERS_DATA")
    if not root:
        raise TinyTransformersError(
            "where is the data? Say it with --metadata data_root=DIR or TINY_TRANSFORMERS_DATA (docs/data.md)."
        )
    return [{field: row[field] for field in fields} for row in read_rows(Path(root) / file, texts=fields)]
