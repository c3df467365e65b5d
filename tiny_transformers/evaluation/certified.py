"""Which sentence of each pair scores higher, as float32 has it, where most are scored in bfloat16.

A pair's margin is what the good sentence's score is above the bad one's, and its error what bfloat16 moves that by. All
pairs are scored in bfloat16. Some, drawn by a seed from every group of pairs alike, are scored again in float32, and
the bound is FACTOR times their largest error. Then every pair with a margin within the bound is scored again, and as
many drawn from those outside of it: if a margin is found to have moved by more than the bound, the bound is FACTOR
times that, and so on. What was scored again has float32's scores. The rest has bfloat16's, and margins that no error
found would turn round (docs/evaluation.md, Certified verdicts, has what that is worth).

Knows no model and no task: the caller scores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tiny_transformers.evaluation.scoring import Precision
from tiny_transformers.training.device import has_bfloat16

Numbers = NDArray[np.int64]  # of pairs
Score = Callable[[Numbers, Precision], NDArray[np.float64]]  # (n,) -> (n, 2): of the good sentence, and of the bad one

SAMPLE = 1_000  # pairs drawn before there is a bound, and as many to look whether it holds
FACTOR = 2.0  # from the largest error seen to the bound
ENOUGH = 10 * SAMPLE  # pairs; of fewer too many would be scored twice
TRIED = 16  # pairs that are scored in both precisions to see which is faster
WORTH = 0.8  # of float32's seconds: what bfloat16 may take


@dataclass(frozen=True)
class Verdicts:
    """The scores of N pairs."""

    scores: NDArray[np.float64]  # (N, 2)
    rounded: NDArray[np.bool_]  # (N,) which of them are bfloat16's
    bound: float | None = None  # margins beyond it are bfloat16's; None: all pairs are of the precision asked for
    error: float = 0.0  # the largest found


def certify(score: Score, groups: NDArray[np.int64], seed: int, sample: int = SAMPLE) -> Verdicts:
    """`groups` (N,): of each pair the number of its group; some have longer sentences, and larger errors."""
    random = np.random.default_rng(seed)
    scores, rounded, error = score(np.arange(len(groups)), "bfloat16"), np.ones(len(groups), dtype=bool), 0.0

    def again(numbers: Numbers) -> float:
        """The largest error of all that were scored again so far."""
        if not len(numbers):
            return error
        exact = score(numbers, "float32")
        moved = np.abs(_margins(exact) - _margins(scores[numbers]))
        scores[numbers], rounded[numbers] = exact, False
        return max(error, float(moved.max()))

    error = again(_drawn(np.flatnonzero(rounded), groups, sample, random))
    while True:
        bound = FACTOR * error
        error = again(np.flatnonzero(rounded & (np.abs(_margins(scores)) <= bound)))
        error = again(_drawn(np.flatnonzero(rounded), groups, sample, random))
        if error <= bound:
            return Verdicts(scores, rounded, bound, error)


def pays(score: Score, pairs: int, device: torch.device) -> bool:
    """Whether to begin in bfloat16: a CPU that has it, pairs enough, and a trial of both that it wins."""
    if device.type != "cpu" or pairs < ENOUGH or not has_bfloat16(device):
        return False
    some = np.linspace(0, pairs - 1, TRIED, dtype=np.int64)
    seconds: dict[Precision, float] = {"float32": math.inf, "bfloat16": math.inf}
    for turn in range(4):
        for precision in seconds:
            started = time.perf_counter()
            score(some, precision)
            if turn:  # the first is for what is made once
                seconds[precision] = min(seconds[precision], time.perf_counter() - started)
    return seconds["bfloat16"] < WORTH * seconds["float32"]


def _margins(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores[:, 0] - scores[:, 1]


def _drawn(numbers: Numbers, groups: NDArray[np.int64], sample: int, random: np.random.Generator) -> Numbers:
    """About `sample` of the numbers: of every group as many, or all that it has."""
    share = math.ceil(sample / (groups.max() + 1))
    mixed = random.permutation(numbers)
    mixed = mixed[np.argsort(groups[mixed], kind="stable")]
    _, first, counts = np.unique(groups[mixed], return_index=True, return_counts=True)
    return np.sort(mixed[np.arange(len(mixed)) - np.repeat(first, counts) < share])
