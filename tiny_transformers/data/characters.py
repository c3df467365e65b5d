"""A stream of characters: one text as ids, mapped from disk, cut into training, validation and test.

Encoded once for all runs and kept as a folder that is whole or absent; memory is a block's, however long the file.
A unit is a byte or a character (a code point), its id the place among the sorted distinct units of the whole file:
no split has a unit without an id. No torch."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiny_transformers.common.contents import known_fingerprint, state
from tiny_transformers.common.files import whole_folder
from tiny_transformers.common.work import TinyTransformersError

CACHE_FORMAT = 2  # raised when the same stream would be stored otherwise
READ = 1 << 22  # bytes of the file at once
CODE_POINTS = 0x110000
HELD_OUT = 20  # validation is the 20th part, and so is test: 5 of 100 million

Units = Literal["bytes", "characters"]
Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Stream:
    path: Path
    ids: Ids  # (units of the whole file,), mapped from disk
    vocabulary: list[int]  # id -> byte or code point
    fingerprint: str  # SHA-256 of the file

    @property
    def train(self) -> Ids:
        return self.ids[: -2 * self._held_out]

    @property
    def validation(self) -> Ids:
        return self.ids[-2 * self._held_out : -self._held_out]

    @property
    def test(self) -> Ids:
        return self.ids[-self._held_out :]

    def preceded(self, split: Literal["validation", "test"]) -> Ids:
        """The split after the last unit of the one before it."""
        held_out = self._held_out
        return self.ids[-2 * held_out - 1 : -held_out] if split == "validation" else self.ids[-held_out - 1 :]

    @property
    def _held_out(self) -> int:
        return len(self.ids) // HELD_OUT


def read_stream(path: Path, units: Units, cache: Path) -> Stream:
    """The file as ids: 90 % training, 5 % validation and 5 % test, which follow each other with nothing left out. Made
    once and kept in cache/characters; who makes the same at the same time makes the same.

    Raises TinyTransformersError for a file that is missing, empty, too short to be cut or, with units `characters`, not
    UTF-8; and for a cache that is not what was written."""
    if not path.is_file():
        raise TinyTransformersError(f"{path}: is missing. Put it there, or run `tiny-transformers fetch`.")
    source = known_fingerprint(path, cache)
    key = hashlib.sha256(f"{CACHE_FORMAT} {source} {units}".encode()).hexdigest()[:16]
    folder = cache / "characters" / key
    if not folder.is_dir():
        _encode(path, units, folder)
    vocabulary = np.load(folder / "vocabulary.npy")
    ids = np.memmap(folder / "ids.bin", dtype=_smallest(vocabulary), mode="r")
    if len(ids) != int(np.load(folder / "count.npy")):  # it would be split elsewhere
        raise TinyTransformersError(f"{folder}: is damaged. Remove it; it is made again from {path}.")
    return Stream(path, ids, vocabulary.tolist(), source)


def fits(stream: Stream, vocab_size: int) -> None:
    """Raises TinyTransformersError if the model has no room for every unit; room to spare is fine."""
    if len(stream.vocabulary) > vocab_size:
        raise TinyTransformersError(
            f"{stream.path}: has {len(stream.vocabulary)} different units, the model has room for {vocab_size}. "
            f"Set model.vocab_size to {len(stream.vocabulary)}."
        )


def rows(train: Ids, batch_size: int) -> Ids:
    """(batch_size, length): parts that follow each other, each to be read from its beginning to its end. What remains
    at the end, fewer units than there are rows, is left out of training.

    Raises TinyTransformersError if a row has no unit that another one precedes."""
    length = len(train) // batch_size
    if length < 2:
        raise TinyTransformersError(
            f"train.batch_size {batch_size}: a row must have 2 characters, and the training split has {len(train)} "
            "in all. Set fewer rows."
        )
    return train[: batch_size * length].reshape(batch_size, length)


def block(rows: Ids, number: int, block_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Block `number`, from 0, of an endless run through the rows: inputs and targets, each (rows, block_size), and
    whether a pass through the rows begins here, before which the model has read nothing. The last block of a pass may
    be shorter.

    The target of a unit is the one after it, so that a pass has every unit but the first of each row as a target."""
    targets = rows.shape[1] - 1
    blocks = -(-targets // block_size)  # of a pass
    begin = number % blocks * block_size
    part = rows[:, begin : min(begin + block_size, targets) + 1].astype(np.int64)
    return part[:, :-1], part[:, 1:], begin == 0


def _encode(path: Path, units: Units, folder: Path) -> None:
    before = state(path)
    found, count = np.zeros(CODE_POINTS, bool), 0
    for part in _read(path, units):
        found[part] = True
        count += len(part)
    if count < HELD_OUT:
        what = f"has {count} {units}; a stream needs {HELD_OUT} to be cut into three" if count else "is empty"
        raise TinyTransformersError(f"{path}: {what}. Bring it again with `tiny-transformers fetch`.")
    vocabulary = np.flatnonzero(found)
    id_of = np.zeros(CODE_POINTS, _smallest(vocabulary))
    id_of[vocabulary] = np.arange(len(vocabulary))
    with whole_folder(folder) as draft:
        with open(draft / "ids.bin", "wb") as file:
            for part in _read(path, units):
                id_of[part].tofile(file)
        np.save(draft / "vocabulary.npy", vocabulary)
        np.save(draft / "count.npy", count)
        if state(path) != before:
            raise TinyTransformersError(f"{path}: changed while it was read. Start again.")


def _smallest(vocabulary: NDArray[np.int64]) -> np.dtype[Any]:
    """The smallest type that has room for every id."""
    return np.min_scalar_type(len(vocabulary) - 1)


def _read(path: Path, units: Units) -> Iterator[NDArray[Any]]:
    """The file's units, a block at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        while True:
            part = file.read(READ)
            if units == "bytes":
                yield np.frombuffer(part, np.uint8)
            else:
                try:
                    text = decoder.decode(part, final=not part)
                except UnicodeDecodeError as error:
                    raise TinyTransformersError(
                        f"{path}: is not UTF-8 ({error.reason}). Bring it again, or set data.units to bytes."
                    ) from None
                yield np.frombuffer(text.encode("utf-32-le"), np.uint32)
            if not part:
                return
