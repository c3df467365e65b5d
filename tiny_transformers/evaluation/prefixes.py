"""Sequences that begin alike, laid out so that a decoder computes what they share once.

The sorted sequences fill rows, a whole number of them each. A row is a tree: every token stands behind its parent, the
token before it in its sequences, and attends to itself and its ancestors; its position is its depth. The last token of
a sequence is no input. A sequence longer than a row is wide has a row of its own, which is then what it always was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens, and the S tokens that are to be scored with them."""

    ids: Integers  # (B, T)
    positions: Integers  # (B, T)
    attends: NDArray[np.bool_]  # (B, T, T): which tokens, last axis, a token sees; itself always, padding nothing else
    sequence: Integers  # (S,): whose token it is
    parent: Integers  # (S,): where the token before it stands, in the flattened rows
    target: Integers  # (S,): the token


class Forest:
    """A forest is made from sequences and the index of the first scored token of each. Its rows have at
    most `width` tokens where possible."""

    def __init__(self, sequences: Sequence[tuple[int, ...]], starts: Sequence[int], width: int) -> None:
        order = sorted(range(len(sequences)), key=lambda number: sequences[number])
        self.sequences = [sequences[number] for number in order]
        self.order, self.starts = np.array(order, dtype=np.int64), np.array(starts, dtype=np.int64)
        self.lengths = np.array([len(sequence) for sequence in self.sequences], dtype=np.int64)
        self.shared = np.zeros_like(self.lengths)  # tokens that a sequence has of the one before it in its row
        first: list[int] = []  # of each row its first sequence
        sizes: list[int] = []  # and its tokens
        before: Sequence[int] = ()
        for place, sequence in enumerate(self.sequences):
            shared = min(_common(before, sequence), len(before) - 1, len(sequence) - 1)
            new, before = len(sequence) - 1 - shared, sequence
            if not sizes or (new and sizes[-1] + new > width):
                first.append(place)
                sizes.append(len(sequence) - 1)
            else:
                self.shared[place] = shared
                sizes[-1] += new
        self.bounds = np.array([*first, len(order)], dtype=np.int64)
        self.sizes = np.array(sizes, dtype=np.int64)

    def batch(self, rows: Integers) -> Batch:
        places = np.concatenate([np.arange(*self.bounds[row : row + 2]) for row in rows])  # K sequences
        row = np.repeat(np.arange(len(rows)), np.diff(self.bounds)[rows])  # (K,)
        length, depth = self.lengths[places, None], np.arange(self.lengths[places].max())  # (K, 1), (L,)
        token = np.zeros((len(places), len(depth)), dtype=np.int64)
        token[depth < length] = np.concatenate([self.sequences[place] for place in places])
        new = (self.shared[places, None] <= depth) & (depth < length - 1)  # (K, L): not of a sequence before
        # A token that is not new stands where the nearest sequence before has its own: numbers only grow.
        number = np.maximum.accumulate(np.where(new, new.cumsum().reshape(new.shape) - 1, -1))
        column = number - (self.sizes[rows].cumsum() - self.sizes[rows])[row, None]  # (K, L), in the row

        k, d = new.nonzero()
        width = self.sizes[rows].max()
        ids, positions = np.zeros((2, len(rows), width), dtype=np.int64)
        ids[row[k], column[k, d]], positions[row[k], column[k, d]] = token[k, d], d
        attends = np.broadcast_to(np.eye(width, dtype=bool), (len(rows), width, width)).copy()
        node, above = (depth <= d[:, None]).nonzero()
        attends[row[k[node]], column[k[node], d[node]], column[k[node], above]] = True

        k, d = ((self.starts[self.order[places], None] <= depth) & (depth < length)).nonzero()
        return Batch(ids, positions, attends, self.order[places[k]], row[k] * width + column[k, d - 1], token[k, d])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    for length, (x, y) in enumerate(zip(one, other, strict=False)):
        if x != y:
            return length
    return min(len(one), len(other))
