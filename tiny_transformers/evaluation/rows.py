"""Errors of an evaluation file that name the line of a row."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from tiny_transformers.common.work import TinyTransformersError


def refuse(path: Path, index: int, what: str) -> NoReturn:
    """Raise TinyTransformersError for the row `index` of `sources.read_rows`, which passes over blank lines."""
    with open(path, encoding="utf-8") as file:
        lines = [number for number, line in enumerate(file, 1) if line.strip()]
    raise TinyTransformersError(f"{path}: line {lines[index]}: {what}")
