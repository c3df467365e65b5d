"""Where the data is, and reading it: rows of the evaluation files, stories as token ids.

A file is read whole and checked, or refused with its name and line. Tokenised stories are cached once for all runs, in
a folder named by the content of all that they depend on; two jobs may make it at the same time. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tiny_transformers.config import STAGES, RunConfig, fetch_command, lacking_files, required_files
from tiny_transformers.files import whole_folder
from tiny_transformers.work import TinyTransformersError

CACHE_FORMAT = 1  # raised when the same stories would be stored otherwise
BATCH = 1_000  # stories encoded at once
LARGEST_VOCABULARY = 2**16  # ids are stored as uint16

T = TypeVar("T")


def resolve_root(config: RunConfig, data_root: Path | None, cache: Path, stages: Sequence[str] = STAGES) -> Path:
    """The folder with what these stages read, in the layout of docs/data.md; builtin data is made in `cache` if it is
    not there yet.

    Raises TinyTransformersError naming the files that are missing."""
    if config.data.source == "builtin":
        from tiny_transformers import builtin

        root = cache / f"builtin-{builtin.VERSION}"
        if not root.is_dir():
            with whole_folder(root) as draft:
                builtin.write_builtin(draft)
        return root
    if data_root is None:
        raise TinyTransformersError("data.source is files, and no data root is given. Give --data-root DIR.")
    lacking = lacking_files(data_root, required_files(config, tuple(stages)))
    if lacking:
        raise TinyTransformersError(
            f"{data_root}: lacks {', '.join(lacking)}. Put it there, or run `{fetch_command(lacking)}`."
        )
    return data_root


def read_rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, each of which has these fields; blank lines are passed over.

    Raises TinyTransformersError naming the file and the line."""
    rows = [row for _, row in _numbered_rows(path, fields)]
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


@dataclass(frozen=True)
class Stories:
    """Tokenised stories, mapped from disk: story i is ids[offsets[i]:offsets[i + 1]]."""

    ids: NDArray[np.uint16]  # (tokens of all stories,)
    offsets: NDArray[np.int64]  # (stories + 1,)
    fingerprint: str  # SHA-256 of the story file

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.uint16]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(stories,) tokens of each, <s> and </s> included."""
        return np.diff(self.offsets)


def tokenize_stories(path: Path, tokenizer_file: Path, max_length: int, cache: Path) -> Stories:
    """The stories of a file of JSON lines (key `text`) as `<s> ... </s>`, each cut to `max_length` tokens, both ends
    kept. Made once and kept in cache/tokens; a story without text is left out and counted in info.json.

    Raises TinyTransformersError for a file that cannot be read, or a vocabulary of more than 65,536 tokens."""
    source, tokenizer_hash = fingerprint(path), fingerprint(tokenizer_file)
    key = hashlib.sha256(f"{CACHE_FORMAT} {source} {tokenizer_hash} {max_length}".encode()).hexdigest()[:16]
    folder = cache / "tokens" / key
    if not folder.is_dir():
        with whole_folder(folder) as draft:
            _encode_file(path, tokenizer_file, max_length, draft)
    offsets = np.load(folder / "offsets.npy")
    ids = np.memmap(folder / "ids.bin", dtype=np.uint16, mode="r", shape=(int(offsets[-1]),))
    return Stories(ids, offsets, source)


def _encode_file(path: Path, tokenizer_file: Path, max_length: int, folder: Path) -> None:
    """Write ids.bin, offsets.npy and info.json; a batch of stories at a time is in memory."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    if tokenizer.get_vocab_size() > LARGEST_VOCABULARY:
        raise TinyTransformersError(
            f"{tokenizer_file}: has more than {LARGEST_VOCABULARY:,} tokens, the most there is."
        )
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()
    lengths, empty = [0], 0
    with open(folder / "ids.bin", "wb") as file:
        stories = (str(row["text"]).strip() for _, row in _numbered_rows(path, ["text"]))
        while batch := list(islice(stories, BATCH)):
            texts = [text for text in batch if text]
            empty += len(batch) - len(texts)
            for encoding in tokenizer.encode_batch_fast(texts):
                np.asarray(encoding.ids, dtype=np.uint16).tofile(file)
                lengths.append(len(encoding.ids))
    if len(lengths) == 1:
        raise TinyTransformersError(f"{path}: holds no story. Bring it again with `tiny-transformers fetch`.")
    np.save(folder / "offsets.npy", np.cumsum(np.asarray(lengths, dtype=np.int64)))
    info = {"file": path.name, "stories": len(lengths) - 1, "empty": empty, "tokens": sum(lengths)}
    (folder / "info.json").write_text(json.dumps(info, indent=1))


def _numbered_rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _row(line, fields, f"{path}: line {number}")
    except FileNotFoundError:
        raise TinyTransformersError(f"{path}: is missing. Put it there, or run `tiny-transformers fetch`.") from None
    except UnicodeDecodeError as error:
        raise TinyTransformersError(f"{path}: is not UTF-8: {error}. Bring it again.") from None


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
