"""Where the data is, and reading it: rows of JSON lines.

A file is read whole and checked, or refused with its name and line. No torch."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tiny_transformers.common.files import whole_folder
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.config import RunConfig, fetch_command, lacking_files
from tiny_transformers.settings.stages import required_files

LINE_END = re.compile(rb"\r\n?|\n")

T = TypeVar("T")


def resolve_root(config: RunConfig, data_root: Path | None, cache: Path, stages: Collection[str] | None = None) -> Path:
    """The folder with what these stages (None: all) read, in the layout of docs/data.md; builtin data is made in
    `cache` if it is not there yet.

    Raises TinyTransformersError naming the files that are missing."""
    if config.data.source == "builtin":
        from tiny_transformers.data import builtin

        root = cache / f"builtin-{builtin.VERSION}"
        if not root.is_dir():
            with whole_folder(root) as draft:
                builtin.write_builtin(draft)
        return root
    if data_root is None:
        raise TinyTransformersError("data.source is files, and no data root is given. Give --data-root DIR.")
    try:
        lacking = lacking_files(data_root, required_files(config, stages))  # before what only files there tell
        lacking = lacking or lacking_files(data_root, required_files(config, stages, data_root))
    except ValueError as error:
        raise TinyTransformersError(str(error)) from None
    if lacking:
        raise TinyTransformersError(
            f"{data_root}: lacks {', '.join(lacking)}. Put it there, or run `{fetch_command(lacking)}`."
        )
    return data_root


def read_rows(path: Path, fields: Sequence[str] = (), texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, each of which has these fields, those of `texts` with a text; blank lines
    are passed over.

    Raises TinyTransformersError naming the file and the line."""
    rows = [row for _, row in numbered_rows(path, fields, texts)]
    if not rows:
        raise TinyTransformersError(f"{path}: is empty. Bring it again with `tiny-transformers fetch`.")
    return rows


def sample(rows: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` rows, evenly spaced and in order, so that a sorted file is covered from end to end."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


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
