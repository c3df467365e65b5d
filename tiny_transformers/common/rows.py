"""The lines and rows of a data file in UTF-8, each with its number, so that what is wrong is named by its line. No
torch."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tiny_transformers.common.work import TinyTransformersError

LINE_END = re.compile(rb"\r\n?|\n")


def numbered_rows(
    path: Path,
    fields: Sequence[str] = (),
    texts: Sequence[str] = (),
    begin: int = 0,
    end: int | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of each line that is not blank; of the lines within bytes [begin, end) alone, counted from
    the first of them and read at once, if an end is given.

    Raises TinyTransformersError naming the file and the line."""
    for number, line in numbered_lines(path, begin, end):
        if line.strip():
            where = f"{path}: line {number}"
            row = _row(line, (*fields, *texts), where)
            for field in texts:
                _check_text(row[field], field, where)
            yield number, row


def numbered_lines(path: Path, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a file of UTF-8, as `numbered_rows`. A byte order mark is passed over.

    Raises TinyTransformersError naming the file and the line."""
    try:
        with _opened(path, begin, end) as lines:
            yield from enumerate(io.TextIOWrapper(lines, "utf-8" if begin else "utf-8-sig"), 1)
    except FileNotFoundError:
        raise TinyTransformersError(f"{path}: is missing. Put it there, or run `tiny-transformers fetch`.") from None
    except UnicodeDecodeError:
        raise TinyTransformersError(f"{path}: {_undecodable(path, begin, end)}") from None


def _opened(path: Path, begin: int, end: int | None) -> BinaryIO:
    if end is None:
        return open(path, "rb")
    with open(path, "rb") as file:
        file.seek(begin)
        return io.BytesIO(file.read(end - begin))


def _undecodable(path: Path, begin: int, end: int | None) -> str:
    """Say which line is not UTF-8, and why."""
    before = 0
    with _opened(path, begin, end) as lines:
        for line in lines:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                number = before + len(LINE_END.findall(line[: error.start])) + 1
                return f"line {number}: is not UTF-8 ({error.reason}). Write the file as UTF-8, or bring it again."
            before += len(LINE_END.findall(line))
    return "changed while it was read. Start again."


def _row(line: str, fields: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TinyTransformersError(f"{where}: not JSON: {error}. Put the file right, or bring it again.") from None
    if not isinstance(row, dict):
        raise TinyTransformersError(f"{where}: {line.strip()[:40]!r} is no JSON object.")
    for field in fields:
        if field not in row:
            known = ", ".join(sorted(row)) or "none"
            raise TinyTransformersError(f"{where}: lacks the field {field!r}; it has {known}.")
    return row


def _check_text(value: Any, field: str, where: str) -> None:
    if not isinstance(value, str):
        raise TinyTransformersError(f"{where}: {field} is {value!r}, not a text. Put the row right, or remove it.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start].encode("ascii", "backslashreplace").decode()
        raise TinyTransformersError(
            f"{where}: {field} holds {half}, half of a character. Put the row right, or remove it."
        ) from None
