"""Percentile bootstrap over the items of tasks, minimal pairs or passages (Efron and Tibshirani 1993, chapter 13).

Each draw resamples the items of every task with replacement, each task on its own. An item has one of few outcomes, so
the counts of a resample are a multinomial draw and no item need be touched. One seed: the same counts give the same
interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
SEED = 0
LEVEL = 0.95


def resample(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of the items with each outcome, (tasks, outcomes) -> (DRAWS, tasks, outcomes)."""
    n = counts.sum(1)
    return np.random.default_rng(SEED).multinomial(n, counts / n[:, None], size=(DRAWS, len(n)))


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of a statistic's draws. (DRAWS,)"""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
