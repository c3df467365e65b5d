"""Where the data is, and reading it: rows of JSON lines.

A file is read whole and checked, or refused with its name and line. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tiny_transformers.common.data_root import explain
from tiny_transformers.common.files import whole_folder
from tiny_transformers.common.rows import numbered_rows
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.config import RunConfig, lacking_files
from tiny_transformers.settings.stages import required_files

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
        raise TinyTransformersError(explain(data_root, lacking))
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
