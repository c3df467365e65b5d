"""Where the data is, and reading it: rows of JSON lines, and which bytes they are (SHA-256).

A file is read whole and checked, or refused with its name and line. No torch."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tiny_transformers.common.files import whole_file, whole_folder
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.config import RunConfig, fetch_command, lacking_files
from tiny_transformers.settings.stages import required_files

SETTLED = 2  # seconds since a file was written, after which another write would show in its times

T = TypeVar("T")


def resolve_root(config: RunConfig, data_root: Path | None, cache: Path, stages: Iterable[str] | None = None) -> Path:
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
    lacking = lacking_files(data_root, required_files(config, stages))
    if lacking:
        raise TinyTransformersError(
            f"{data_root}: lacks {', '.join(lacking)}. Put it there, or run `{fetch_command(lacking)}`."
        )
    return data_root


def read_rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, each of which has these fields; blank lines are passed over.

    Raises TinyTransformersError naming the file and the line."""
    rows = [row for _, row in numbered_rows(path, fields)]
    if not rows:
        raise TinyTransformersError(f"{path}: is empty. Bring it again with `tiny-transformers fetch`.")
    return rows


def sample(rows: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` rows, evenly spaced and in order, so that a sorted file is covered from end to end."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def fingerprint(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def known_fingerprint(path: Path, cache: Path) -> str:
    """`fingerprint`, computed once for each state of the file and kept in cache/fingerprints."""
    place, before = os.path.abspath(path), list(state(path))
    record = cache / "fingerprints" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["path"] == place and known["state"] == before:
            return str(known["sha256"])
    # As git does: what was just written may be written again within one tick of its file system's clock, unseen.
    settled = time.time() - max(before[2:]) / 1e9 > SETTLED
    digest = fingerprint(path)
    if settled and list(state(path)) == before:
        with whole_file(record) as draft:
            draft.write_text(json.dumps({"path": place, "state": before, "sha256": digest}), encoding="utf-8")
    return digest


def state(path: Path) -> tuple[int, ...]:
    """Return what changes whenever the file's bytes do: size, inode, and both times (ns), for mtime can be set back."""
    stat = path.stat()
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def numbered_rows(
    path: Path, fields: Sequence[str], begin: int = 0, end: int | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of each line that is not blank; of the lines within bytes [begin, end) alone, counted from
    the first of them and read at once, if an end is given.

    Raises TinyTransformersError naming the file and the line."""
    try:
        with _lines(path, begin, end) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _row(line, fields, f"{path}: line {number}")
    except FileNotFoundError:
        raise TinyTransformersError(f"{path}: is missing. Put it there, or run `tiny-transformers fetch`.") from None
    except UnicodeDecodeError as error:
        raise TinyTransformersError(f"{path}: is not UTF-8: {error}. Bring it again.") from None


def _lines(path: Path, begin: int, end: int | None) -> TextIO:
    if end is None:
        return open(path, encoding="utf-8")
    with open(path, "rb") as file:
        file.seek(begin)
        return io.TextIOWrapper(io.BytesIO(file.read(end - begin)), encoding="utf-8")


def _row(line: str, fields: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TinyTransformersError(f"{where}: not JSON: {error}. Put the file right, or bring it again.") from None
    if not isinstance(row, dict):
        raise TinyTransformersError(f"{where}: {line.strip()[:40]!r} is no JSON object.")
    for field in fields:
        if field not in row:
            known = ", ".join(sorted(row)) or "none"
            raise TinyTransformersError(f"{where}: lacks the field {field!r}; it has {known}.")
    return row
