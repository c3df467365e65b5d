"""What a model of characters must beat: counts of which character follows which two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bits_per_character(train: NDArray, scored: NDArray, size: int) -> float:
    """Of all of `scored` but its first two ids, which are context, by the counts of `train`. `size`: of the vocabulary.

    Interpolated Witten-Bell: a context seen n times, before d different characters, trusts the shorter one with weight
    d / (n + d); the shortest is add-one."""
    table = probabilities(train.astype(np.int64), size)
    first, second, third = scored[:-2], scored[1:-1], scored[2:]
    return float(-np.log2(table[first, second, third]).mean())


def probabilities(train: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """(size, size, size): of the third character after the first two."""
    alone = (np.bincount(train, minlength=size) + 1) / (len(train) + size)
    after_one = _interpolated(train[:-1] * size + train[1:], (size, size), alone)
    pairs = train[:-2] * size + train[1:-1]
    return _interpolated(pairs * size + train[2:], (size, size, size), after_one)


def _interpolated(events: NDArray[np.int64], shape: tuple[int, ...], shorter: NDArray) -> NDArray[np.float64]:
    counts = np.bincount(events, minlength=np.prod(shape)).reshape(shape)
    seen, different = counts.sum(-1, keepdims=True), (counts > 0).sum(-1, keepdims=True)
    return np.where(seen > 0, (counts + different * shorter) / np.maximum(seen + different, 1), shorter)
