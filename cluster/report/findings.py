"""A variant is compared with its baseline: the difference, its interval, its p-values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.report.results import Family, Measure, Variant
from tiny_transformers.common.pairs import KeptPairs

ALPHA = 0.05
MOST_SEEDS = 100  # that are still named where more are needed
Pairs = Callable[[str], KeptPairs | None]  # a run's id -> what its stage blimp kept
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float | None  # of the mean, 95 %, over seeds; None where there are fewer than LEAST_SEEDS
    high: float | None
    n: int


@dataclass(frozen=True)
class PairsFinding:
    """The trained models of a variant and of its baseline on the same pairs of BLiMP. Of these models it tells, not of
    their designs: another seed is another model."""

    n: int  # pairs
    seeds: int
    difference: float  # share of the pairs that are right, variant - baseline, mean over seeds; pairs weigh alike
    low: float  # 95 %, pairs resampled
    high: float
    p: float
    p_corrected: float


@dataclass(frozen=True)
class Comparison:
    """A variant and its family's baseline on one measure, by the seeds that both have."""

    measure: Measure
    family: Family
    variant: Variant
    n: int  # seeds
    difference: float  # variant - baseline, mean over the seeds
    low: float | None  # 95 %, of this comparison alone: not corrected for the others
    high: float | None
    p: float | None  # two-sided; None: too few seeds to tell
    p_corrected: float | None  # Holm, over the study's comparisons on this measure
    test: str  # which test, or why there is none
    effect_size: float | None  # Hedges' g: the difference in standard deviations between seeds
    items: PairsFinding | None
    sentence: str
    least: int = 0  # seeds that a p-value needs
    likely: int | None = (
        None  # seeds by which a difference as large would likely be told; None: not known, or very many
    )

    @property
    def advantage(self) -> float:
        """The difference, positive where the variant is the better one."""
        return self.difference if self.measure.higher_is_better else -self.difference

    @property
    def significant(self) -> bool:
        return self.p_corrected is not None and self.p_corrected <= ALPHA
