"""Rows of an evaluation file whose texts are texts, and errors that name the line of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data import sources


def read_texts(path: Path, texts: Sequence[str], others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; the fields `texts` are strings. Raises TinyTransformersError with the line."""
    rows = sources.read_rows(path, (*texts, *others))
    for index, row in enumerate(rows):
        for field in texts:
            if not isinstance(row[field], str):
                refuse(path, index, f"{field} is {row[field]!r}, not a text. Put the row right, or remove it.")
    return rows


def refuse(path: Path, index: int, what: str) -> NoReturn:
    """Raise TinyTransformersError for the row `index` of `data.read_rows`, which passes over blank lines."""
    with open(path, encoding="utf-8") as file:
        lines = [number for number, line in enumerate(file, 1) if line.strip()]
    raise TinyTransformersError(f"{path}: line {lines[index]}: {what}")
