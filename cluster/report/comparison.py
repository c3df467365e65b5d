"""Say what the measures of a study's runs allow to say: intervals over seeds, tests against the baseline, sentences.

A test is chosen by the design, how many seeds and how many comparisons there are, never by the scores. Where the seeds
cannot give a p-value, it is None and the comparison says how many are needed. docs/statistics.md has the reasons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from cluster.report.findings import ALPHA, MOST_SEEDS, Comparison, Floats, Interval, Pairs, PairsFinding
from cluster.report.results import BY_KEY, Measure, Result, Study, Variant, main_of, told
from cluster.report.wording import sentence_of, told_seeds
from tiny_transformers.common import bootstrap
from tiny_transformers.common.pairs import KeptPairs, mcnemar, same_pairs
from tiny_transformers.settings.stage.blimp import SUPPLEMENT_TASKS

LEAST_SEEDS = 3  # for an interval
PERMUTATIONS = 20_000  # at most: more are sampled, with one fixed seed
POWER = 0.8  # of all studies tell a real difference
TIE = 1e-10  # of the largest value: sums that differ by less are equal, but for rounding


def interval(values: Iterable[float]) -> Interval | None:
    """Student's t: with so few seeds the bootstrap's intervals are too narrow. None for no value."""
    known = [*values]
    if not known:
        return None
    n, mean = len(known), float(np.mean(known))
    if n < LEAST_SEEDS:
        return Interval(mean, None, None, n)
    half = float(special.stdtrit(n - 1, (1 + bootstrap.LEVEL) / 2) * np.std(known, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def compare(study: Study, pairs: Pairs) -> list[Comparison]:
    """Every variant with its baseline, on every main measure for which they have seeds in common."""
    right = _RightPairs(pairs)
    comparisons = []
    for measure in main_of(study.known_measures):
        found = [
            (family, variant, paired_values(variant, family.baseline, measure))
            for family in study.families
            for variant in family.variants[1:]
        ]
        found = [each for each in found if each[2].size]
        items: list[PairsFinding | None] = [None] * len(found)
        if measure.key == "blimp":
            items = _corrected_items([right.compare(variant, family.baseline) for family, variant, _ in found], study)
        p_values = _p_values([values for *_, values in found], planned(study))
        corrected = holm(p_values, planned(study))
        for (family, variant, values), item, p, p_corrected in zip(found, items, p_values, corrected, strict=True):
            difference = interval(values[0] - values[1])
            assert difference
            unsaid = Comparison(
                measure=told(measure, (variant.config, family.baseline.config)),
                family=family,
                variant=variant,
                n=difference.n,
                difference=difference.mean,
                low=difference.low,
                high=difference.high,
                p=p,
                p_corrected=p_corrected,
                test=describe_test(difference.n, planned(study)),
                effect_size=hedges_g(*values),
                items=item,
                sentence="",
                least=seeds_needed(planned(study)),
                likely=seeds_to_tell(values[0], values[1], planned(study)),
            )
            comparisons.append(replace(unsaid, sentence=sentence_of(unsaid)))
    return comparisons


def untested(study: Study, keys: Collection[str]) -> dict[tuple[str, str], Interval]:
    """(A variant's key, a measure's key) -> its difference to the baseline on such of these measures as are not main:
    a study's question is not answered by them, so there is no test."""
    measures = [each for each in study.known_measures if each.key in keys and not each.is_main]
    return {
        (variant.key, measure.key): found
        for measure in measures
        for family in study.families
        for variant in family.variants[1:]
        if (values := paired_values(variant, family.baseline, measure)).size
        and (found := interval(values[0] - values[1]))
    }


def planned(study: Study) -> int:
    """Comparisons on a measure if all runs are finished: what is corrected for, so that no p-value grows on the way."""
    return sum(len(family.variants) - 1 for family in study.families)


def paired_values(variant: Variant, baseline: Variant, measure: Measure) -> Floats:
    """Values of both, (2, seeds), of the seeds that are compared."""
    pairs = [(value, other) for *_, value, other in _paired(variant, baseline, measure)]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2).T


def _paired(variant: Variant, baseline: Variant, measure: Measure) -> list[tuple[Result, Result, float, float]]:
    """Runs and values of both, of the seeds for which both have a score, from the same data."""
    theirs = {run.seed: run for run in baseline.runs}
    return [
        (run, theirs[run.seed], value, other)
        for run in variant.runs
        if run.seed in theirs
        and run.same_data(theirs[run.seed], measure.stage)
        and (value := run.value(measure)) is not None
        and (other := theirs[run.seed].value(measure)) is not None
    ]


# -- over seeds -------------------------------------------------------------------------------------------------------


def permutation(values: Floats, *, paired: bool) -> Floats:
    """Two-sided p-values of differences of means: (comparisons, 2, seeds) -> (comparisons,).

    A p-value is the share of the permutations whose difference is at least as large as the one that was found. Paired:
    each seed's difference changes its sign (Fisher 1935, section 21). Unpaired: the values of both are dealt out anew.

    Scores are counts over a number of rows, so many permutations have exactly the same difference, which rounding would
    part: differences closer than TIE are equal. (scipy's permutation_test takes those within a share of the difference
    for equal, which for small ones is less than the rounding of the values.) Raises ValueError for a value that is not
    a finite number."""
    if not np.isfinite(values).all():
        raise ValueError("a permutation test was given a score that is not a finite number: remove it beforehand")
    flat = values.reshape(len(values), -1)
    differences = np.abs(flat @ _signs(values.shape[2], paired).T)  # (comparisons, permutations), the found one first
    tie = TIE * np.abs(flat).max(axis=1, keepdims=True)
    return np.asarray((differences >= differences[:, :1] - tie).mean(axis=1))


@cache
def _signs(n: int, paired: bool) -> Floats:
    """Return the permutations of two times n values as signs, (permutations, 2 n): 1 for a value that counts for the
    variant, -1 for the baseline's. The first one leaves them as they are. All there are, or PERMUTATIONS sampled."""
    as_they_are = np.repeat([1.0, -1.0], n)
    rng = np.random.default_rng(bootstrap.SEED)
    if paired:
        if 2**n <= PERMUTATIONS:
            kept = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        else:
            kept = np.vstack([np.ones(n), rng.choice([1.0, -1.0], (PERMUTATIONS - 1, n))])
        return np.hstack([kept, -kept])
    if math.comb(2 * n, n) > PERMUTATIONS:
        dealt = rng.permuted(np.tile(as_they_are, (PERMUTATIONS - 1, 1)), axis=1)
        return np.vstack([as_they_are, dealt])
    chosen = np.array([*itertools.combinations(range(2 * n), n)])
    dealt = np.full((len(chosen), 2 * n), -1.0)
    np.put_along_axis(dealt, chosen, 1.0, axis=1)
    return dealt


def paired_test(n: int, comparisons: int) -> bool | None:
    """Which permutation test can reach ALPHA after correction with n seeds: the paired one, else the unpaired one
    (False), else none (None)."""
    if 2 / 2**n * comparisons <= ALPHA:
        return True
    return False if 2 / math.comb(2 * n, n) * comparisons <= ALPHA else None


def seeds_needed(comparisons: int) -> int:
    return next(n for n in itertools.count(2) if paired_test(n, comparisons) is not None)


def seeds_to_tell(ours: Floats, theirs: Floats, comparisons: int) -> int | None:
    """With how many seeds of both a difference as large as this one, if it is real, is told in four studies of five: by
    the spread between these seeds, with Student's t for two groups and the smallest of Holm's levels. None: there is no
    difference or no spread to go by, or they would be more than MOST_SEEDS."""
    effect = abs(ours.mean() - theirs.mean())
    if len(ours) < 2 or effect <= TIE:
        return None
    spread = math.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / 2)
    numbers = np.arange(seeds_needed(comparisons), MOST_SEEDS + 1)
    enough = numbers[effect * np.sqrt(numbers / 2) >= spread * _least_t(comparisons)]
    return int(enough[0]) if enough.size else None


@cache
def _least_t(comparisons: int) -> Floats:
    """Of each number of seeds: how many standard errors a difference must be to be told as often as POWER says."""
    freedom = 2 * np.arange(seeds_needed(comparisons), MOST_SEEDS + 1) - 2
    return np.asarray(special.stdtrit(freedom, 1 - ALPHA / comparisons / 2) + special.stdtrit(freedom, POWER))


def describe_test(n: int, comparisons: int) -> str:
    many = f"{comparisons} comparison{'s' if comparisons > 1 else ''}"
    paired = paired_test(n, comparisons)
    if paired is None:
        needed = f"at least {seeds_needed(comparisons)} are needed for a p-value with {many}"
        return f"{told_seeds(n)}: {needed}"
    how = "paired permutation test" if paired else "permutation test of two groups"
    return f"{how} over {told_seeds(n)}, Holm's correction for {many}"


def _p_values(values: Sequence[Floats], comparisons: int) -> list[float | None]:
    """Comparisons with as many seeds are tested together, which is faster and the same."""
    found: list[float | None] = [None] * len(values)
    for n in {each.shape[1] for each in values}:
        paired = paired_test(n, comparisons)
        if paired is not None:
            places = [place for place, each in enumerate(values) if each.shape[1] == n]
            p_values = permutation(np.stack([values[place] for place in places]), paired=paired)
            for place, p in zip(places, p_values, strict=True):
                found[place] = float(p)
    return found


def holm(p_values: Sequence[float | None], comparisons: int) -> list[float | None]:
    """Holm 1979: corrected for so many comparisons; those without a p-value stand last."""
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    ordered = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    for rank, (p, place) in enumerate(ordered):
        highest = max(highest, min(1.0, (comparisons - rank) * p))
        corrected[place] = highest
    return corrected


def hedges_g(ours: Floats, theirs: Floats) -> float | None:
    """Hedges 1981: the difference of the means in pooled standard deviations, corrected for small samples."""
    freedom = len(ours) + len(theirs) - 2
    pooled = math.sqrt((np.var(ours) * len(ours) + np.var(theirs) * len(theirs)) / freedom) if freedom else 0.0
    if pooled <= 1e-9 * max(np.abs(ours).max(), np.abs(theirs).max()):  # rounding: equal values have no spread
        return None
    gamma = math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)
    return float((ours.mean() - theirs.mean()) / pooled * math.exp(gamma) / math.sqrt(freedom / 2))


# -- over pairs of BLiMP ----------------------------------------------------------------------------------------------


class _RightPairs:
    """Which pairs of BLiMP the runs have right; each run's file is read once."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.known: dict[str, tuple[KeptPairs, NDArray[np.bool_]] | None] = {}

    def of(self, run_id: str) -> tuple[KeptPairs, NDArray[np.bool_]] | None:
        if run_id not in self.known:
            kept = self.pairs(run_id)
            self.known[run_id] = (kept, kept.right) if kept else None
        return self.known[run_id]

    def compare(self, variant: Variant, baseline: Variant) -> PairsFinding | None:
        """Compare two variants over the seeds that are compared on BLiMP and kept their pairs. None if there is none,
        or the pairs are not the same. Pairs without a score are of an attempt that failed, or of one before."""
        measure = BY_KEY["blimp"]
        found = [(self.of(run.run_id), self.of(other.run_id)) for run, other, *_ in _paired(variant, baseline, measure)]
        both = [(ours, theirs) for ours, theirs in found if ours and theirs]
        if not both:
            return None
        first = both[0][0][0]
        if not all(same_pairs(first, kept) for models in both for kept, _ in models):
            return None
        differences = sum(ours.astype(np.int8) - theirs for (_, ours), (_, theirs) in both)
        of_blimp = np.repeat([task not in SUPPLEMENT_TASKS for task in first.files], first.counts)
        return over_items(np.asarray(differences)[of_blimp], len(both)) if of_blimp.any() else None


def over_items(differences: NDArray[np.int8], seeds: int) -> PairsFinding:
    """`differences`: of each pair, in how many seeds the variant alone has it right less those where the baseline has.

    If the models are alike, the sign of each is as good as the other. One seed: McNemar's exact test; more: the same
    with a normal distribution, corrected by half a step between the sums that can be."""
    counts = np.bincount(differences + seeds, minlength=2 * seeds + 1)
    values = np.arange(-seeds, seeds + 1)
    total, spread = int(counts @ values), math.sqrt(counts @ values**2)
    if seeds == 1:
        p = mcnemar(int(counts[2]), int(counts[0]))
    else:
        half_step = int(np.gcd.reduce(values[counts > 0]))
        p = float(2 * special.ndtr(-max(abs(total) - half_step, 0) / spread)) if spread else 1.0
    n = len(differences)
    low, high = bootstrap.interval(bootstrap.resample(counts[None])[:, 0] @ values / (n * seeds))
    return PairsFinding(n, seeds, total / (n * seeds), low, high, min(p, 1.0), math.nan)


def _corrected_items(found: Sequence[PairsFinding | None], study: Study) -> list[PairsFinding | None]:
    corrected = holm([items.p if items else None for items in found], planned(study))
    return [
        replace(items, p_corrected=p) if items and p is not None else None
        for items, p in zip(found, corrected, strict=True)
    ]
