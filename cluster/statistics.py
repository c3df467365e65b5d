"""What the figures of a study's runs allow to say: intervals over seeds, tests against the baseline, sentences.

A test is chosen by the design, how many seeds and how many comparisons there are, never by the scores. Where the seeds
cannot give a p-value, it is None and the comparison says how many are needed. docs/statistics.md has the reasons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cluster.results import BY_KEY, MAIN, Family, Measure, Study, Variant
from tiny_transformers.architecture import Architecture
from tiny_transformers.config import SUPPLEMENT_TASKS
from tiny_transformers.evaluation import bootstrap
from tiny_transformers.evaluation.pairs import Kept, mcnemar, same_pairs

ALPHA = 0.05
LEAST_SEEDS = 3  # for an interval
NOTHING = 1e-9  # a difference of means below it is rounding
PERMUTATIONS = 20_000  # at most: more are sampled, with one fixed seed
BATCH = 1_000  # of them at once, so that memory stays small
NAMES = {
    "gelu": "GELU",
    "relu": "ReLU",
    "silu": "SiLU",
    "swish": "Swish",
    "swish_thesis": "the thesis' Swish",
    "prelu": "PReLU",
    "learnable_gelu": "learnable GELU",
    "geglu": "GEGLU",
    "learnable_geglu": "learnable GEGLU",
    "none": "no activation",
}
Pairs = Callable[[str], Kept | None]  # a run's id -> what its stage blimp kept
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float | None  # of the mean, 95 %, over seeds; None where there are fewer than LEAST_SEEDS
    high: float | None
    n: int


@dataclass(frozen=True)
class Items:
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
    items: Items | None
    sentence: str

    @property
    def advantage(self) -> float:
        """The difference, positive where the variant is the better one."""
        return self.difference if self.measure.higher_is_better else -self.difference

    @property
    def significant(self) -> bool:
        return self.p_corrected is not None and self.p_corrected <= ALPHA


def interval(values: Iterable[float]) -> Interval | None:
    """Student's t: with so few seeds the bootstrap's intervals are too narrow. None for no value."""
    known = [*values]
    if not known:
        return None
    n, mean = len(known), float(np.mean(known))
    if n < LEAST_SEEDS:
        return Interval(mean, None, None, n)
    half = float(stats.t.ppf((1 + bootstrap.LEVEL) / 2, n - 1) * stats.sem(known))
    return Interval(mean, mean - half, mean + half, n)


def compare(study: Study, pairs: Pairs) -> list[Comparison]:
    """Every variant with its baseline, on every measure of MAIN for which they have seeds in common."""
    right = _Right(pairs)
    comparisons = []
    for measure in (BY_KEY[key] for key in MAIN):
        found = [
            (family, variant, _paired(variant, family.baseline, measure))
            for family in study.families
            for variant in family.variants[1:]
        ]
        found = [each for each in found if each[2].size]
        items: list[Items | None] = [None] * len(found)
        if measure.key == "blimp":
            items = _corrected_items([right.compare(variant, family.baseline) for family, variant, _ in found], study)
        p_values = _p_values([values for *_, values in found], planned(study))
        corrected = holm(p_values, planned(study))
        for (family, variant, values), item, p, p_corrected in zip(found, items, p_values, corrected, strict=True):
            difference = interval(values[0] - values[1])
            assert difference
            unsaid = Comparison(
                measure=measure,
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
            )
            comparisons.append(replace(unsaid, sentence=_sentence(unsaid)))
    return comparisons


def planned(study: Study) -> int:
    """Comparisons on a measure if all runs are finished: what is corrected for, so that no p-value grows on the way."""
    return sum(len(family.variants) - 1 for family in study.families)


def _paired(variant: Variant, baseline: Variant, measure: Measure) -> Floats:
    """Values of both, (2, seeds), of the seeds that both have."""
    ours, theirs = variant.values(measure), baseline.values(measure)
    seeds = [seed for seed in ours if seed in theirs]
    return np.array([[ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]])


# -- over seeds -------------------------------------------------------------------------------------------------------


def permutation(values: Floats, *, paired: bool) -> Floats:
    """Two-sided p-values of differences of means: (comparisons, 2, seeds) -> (comparisons,).

    Exact up to PERMUTATIONS. Paired: each seed's difference changes its sign (Fisher 1935, section 21). Unpaired: the
    values of both are dealt out anew."""

    def mean(differences: Floats, axis: int) -> Floats:
        return differences.mean(axis)

    def difference(ours: Floats, theirs: Floats, axis: int) -> Floats:
        return ours.mean(axis) - theirs.mean(axis)

    ours, theirs = values[:, 0], values[:, 1]
    data, statistic, kind = (
        ((ours - theirs,), mean, "samples") if paired else ((ours, theirs), difference, "independent")
    )
    found = stats.permutation_test(
        data,
        statistic,
        permutation_type=kind,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=BATCH,
        axis=-1,
        rng=np.random.default_rng(bootstrap.SEED),
    )
    return np.asarray(found.pvalue)


def paired_test(n: int, comparisons: int) -> bool | None:
    """Which permutation test can reach ALPHA after correction with n seeds: the paired one, else the unpaired one
    (False), else none (None)."""
    if 2 / 2**n * comparisons <= ALPHA:
        return True
    return False if 2 / math.comb(2 * n, n) * comparisons <= ALPHA else None


def seeds_needed(comparisons: int) -> int:
    return next(n for n in itertools.count(2) if paired_test(n, comparisons) is not None)


def describe_test(n: int, comparisons: int) -> str:
    many = f"{comparisons} comparison{'s' if comparisons > 1 else ''}"
    paired = paired_test(n, comparisons)
    if paired is None:
        needed = f"at least {seeds_needed(comparisons)} are needed for a p-value with {many}"
        return f"{_seeds(n)}: {needed}"
    how = "paired permutation test" if paired else "permutation test of two groups"
    return f"{how} over {_seeds(n)}, Holm's correction for {many}"


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


class _Right:
    """Which pairs of BLiMP the runs have right; each run's file is read once."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.known: dict[str, tuple[Kept, NDArray[np.bool_]] | None] = {}

    def of(self, run_id: str) -> tuple[Kept, NDArray[np.bool_]] | None:
        if run_id not in self.known:
            kept = self.pairs(run_id)
            self.known[run_id] = (kept, kept.right) if kept else None
        return self.known[run_id]

    def compare(self, variant: Variant, baseline: Variant) -> Items | None:
        """Of the seeds for which both have a score and kept their pairs; None if there is none, or the pairs are not
        the same. Pairs without a score are of an attempt that failed, or of one before."""
        one, other = (
            {run.seed: self.of(run.run_id) for run in each.runs if run.value(BY_KEY["blimp"]) is not None}
            for each in (variant, baseline)
        )
        both = [(ours, theirs) for seed, ours in one.items() if ours and (theirs := other.get(seed))]
        if not both:
            return None
        first = both[0][0][0]
        if not all(same_pairs(first, kept) for models in both for kept, _ in models):
            return None
        differences = sum(ours.astype(np.int8) - theirs for (_, ours), (_, theirs) in both)
        of_blimp = np.repeat([task not in SUPPLEMENT_TASKS for task in first.files], first.counts)
        return over_items(np.asarray(differences)[of_blimp], len(both)) if of_blimp.any() else None


def over_items(differences: NDArray[np.int8], seeds: int) -> Items:
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
        p = float(2 * stats.norm.sf(max(abs(total) - half_step, 0) / spread)) if spread else 1.0
    n = len(differences)
    low, high = bootstrap.interval(bootstrap.resample(counts[None])[:, 0] @ values / (n * seeds))
    return Items(n, seeds, total / (n * seeds), low, high, min(p, 1.0), math.nan)


def _corrected_items(found: Sequence[Items | None], study: Study) -> list[Items | None]:
    corrected = holm([items.p if items else None for items in found], planned(study))
    return [
        replace(items, p_corrected=p) if items and p is not None else None
        for items, p in zip(found, corrected, strict=True)
    ]


# -- sentences --------------------------------------------------------------------------------------------------------


def _sentence(found: Comparison) -> str:
    """A comparison in plain words. What cannot be told is never called equal."""
    ours, theirs = name(found.variant, found.family), name(found.family.baseline, found.family)
    where, by = _where(found.measure), f"{_amount(found)}{_range(found)}"
    side = f"is {by} {'better' if found.advantage > 0 else 'worse'}"
    if found.p_corrected is None:
        how = f"has the same mean as {theirs}" if _is_zero(found) else f"{side} than {theirs}"
        told = f"{_at_start(found)} {how} {where}, but {found.test}"
        told += f"; {_of_models(found.items)}" if found.items else ""
    elif found.significant:
        verb = "beats" if found.advantage > 0 else "is worse than"
        told = f"{_at_start(found)} {verb} {theirs} {where} by {by}"
        told += f", {_p(found.p_corrected)} after correction, {_seeds(found.n)}"
    else:
        how = f"they have the same mean{_range(found)}" if _is_zero(found) else f"{ours} {side}"
        told = f"No difference between {ours} and {theirs} can be told {where}: {how}"
        told += f", {_p(found.p_corrected)} after correction, {_seeds(found.n)}"
    return f"{told}{_parameters(found)}"


def name(variant: Variant, family: Family) -> str:
    """Of a variant, as a sentence says it."""
    sparse = any(_feed_forward_kind(each) in ("moe", "controller", "pkm") for each in family.variants)
    called = NAMES.get(variant.label, variant.label)
    return f"dense {called}" if sparse and _feed_forward_kind(variant) == "dense" else called


def _feed_forward_kind(variant: Variant) -> str | None:
    """None: its label names its modules."""
    model = variant.config.model
    return model.ffn.kind if isinstance(model, Architecture) else None


def _where(measure: Measure) -> str:
    return "in validation loss" if measure.key == "loss" else f"on {measure.title}"


def _unit(measure: Measure) -> str:
    return " points" if measure.percent else " nats" if measure.key == "loss" else ""


def _at_start(found: Comparison) -> str:
    """The variant as a sentence begins with it. A label stays as it is written."""
    called = name(found.variant, found.family)
    return called if called == found.variant.label else f"{called[0].upper()}{called[1:]}"


def _is_zero(found: Comparison) -> bool:
    return abs(found.difference) < NOTHING


def _digits(found: Comparison) -> int:
    """As many as the measure has, or more until the difference is not shown as zero."""
    value, digits = found.difference * (100 if found.measure.percent else 1), 1 if found.measure.percent else 3
    while not _is_zero(found) and not round(value, digits):
        digits += 1
    return digits


def _shown(found: Comparison, value: float) -> str:
    digits = _digits(found)
    return _rounded(100 * value if found.measure.percent else value, digits)


def _rounded(value: float, digits: int) -> str:
    """Without a negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _amount(found: Comparison) -> str:
    return f"{_shown(found, abs(found.difference))}{_unit(found.measure)}"


def _range(found: Comparison) -> str:
    """The interval of the amount: turned so that the difference is positive."""
    if found.low is None or found.high is None:
        return ""
    ends = (found.low, found.high) if found.difference >= 0 else (-found.high, -found.low)
    low, high = (_shown(found, end) for end in ends)
    return f" [{low}, {high}]"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _seeds(n: int) -> str:
    return f"{n} seed{'s' if n > 1 else ''}"


def _seeds_of(found: Sequence[Comparison]) -> str:
    low, high = min(each.n for each in found), max(each.n for each in found)
    return _seeds(high) if low == high else f"{low} to {high} seeds"


def _of_models(items: Items) -> str:
    """What the pairs say, and of what they say it."""
    sign = 1 if items.difference >= 0 else -1
    low, high = sorted((100 * sign * items.low, 100 * sign * items.high))
    told = f"on the same {items.n:,} pairs it has {100 * abs(items.difference):.1f} points "
    told += f"{'more' if sign > 0 else 'fewer'} right [{_rounded(low, 1)}, {_rounded(high, 1)}]"
    told += f", {_p(items.p_corrected)} after correction"
    return f"{told}; {_only_models(items)}"


def _only_models(items: Items) -> str:
    if items.seeds == 1:
        return "one seed: this compares two trained models, not the designs"
    return f"this compares {2 * items.seeds} trained models, not the designs"


def _parameters(found: Comparison) -> str:
    """How the sizes differ, from one percent on."""
    ratio = found.variant.parameters / found.family.baseline.parameters - 1
    if abs(ratio) < 0.01:
        return ""
    return f"; it has {100 * abs(ratio):.0f} % {'more' if ratio > 0 else 'fewer'} parameters"


# -- answers ----------------------------------------------------------------------------------------------------------


def answer(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """What the figures say to the study's question, family by family and measure by measure, or what is missing."""
    if not study.families:
        return [f"Nothing can be said: the ledger has no run of {study.name}."]
    return [sentence for family in study.families for sentence in _of_family(family, comparisons)]


def _of_family(family: Family, comparisons: Sequence[Comparison]) -> list[str]:
    runs = [run for variant in family.variants for run in variant.runs]
    scored = [BY_KEY[key] for key in MAIN if BY_KEY[key] in family.measures()]
    if not scored:
        return [f"{family.title}: nothing can be said yet, none of its {len(runs)} runs has a score."]
    if len(family.variants) == 1:
        lines = [_alone(family, scored)]
    else:
        mine = [each for each in comparisons if each.family is family]
        lines = [_of_measure(family, measure, [each for each in mine if each.measure == measure]) for measure in scored]
    if unfinished := sum(bool(run.missing) for run in runs):
        lines.append(f"{unfinished} of {len(runs)} runs are not finished, so this may change.")
    return [f"{family.title}: {line}" for line in lines]


def _alone(family: Family, scored: Sequence[Measure]) -> str:
    only = family.variants[0]
    scores = ", ".join(f"{measure.title} {measure.show(only.mean(measure))}" for measure in scored)
    return f"the study has {name(only, family)} only, so there is nothing to compare; its means are {scores}."


def _of_measure(family: Family, measure: Measure, found: Sequence[Comparison]) -> str:
    """`found`: the family's comparisons on this measure."""
    baseline, where = name(family.baseline, family), _where(measure)
    if not found:
        lacking = "no variant has a score on one of its seeds" if family.baseline.values(measure) else "it has no score"
        return f"nothing can be compared with the baseline {baseline} {where} yet: {lacking}."
    ranked = sorted(found, key=lambda each: each.advantage, reverse=True)
    unsure = [each for each in ranked if each.p is not None and not each.significant]
    too_few = [each for each in ranked if each.p is None]
    told = [each.sentence for each in ranked if each.significant]
    if len(unsure) > 1:
        told.append(f"No difference to {baseline} can be told {where} for {_listed(unsure)}, {_seeds_of(unsure)}")
    else:
        told += [each.sentence for each in unsure]
    for test in dict.fromkeys(each.test for each in too_few):  # it says how many seeds they have
        alike = [each for each in too_few if each.test == test]
        told.append(f"No difference to {baseline} can be told {where} ({test}): {_listed(alike)}")
    told += _differing_models(too_few)
    return ". ".join(told) + "."


def _differing_models(found: Sequence[Comparison]) -> list[str]:
    """Of which variants the trained models differ from the baseline's on the pairs of BLiMP."""
    differing = [(each, each.items) for each in found if each.items and each.items.p_corrected <= ALPHA]
    if not differing:
        return []
    names = ", ".join(name(each.variant, each.family) for each, _ in differing)
    return [f"Pair by pair the models of {names} do differ from the baseline's, but {_only_models(differing[0][1])}"]


def _listed(found: Sequence[Comparison]) -> str:
    """Variants with their differences to the baseline, as measured."""
    differences = [f"{name(each.variant, each.family)} {_signed(each.measure, each.difference)}" for each in found]
    return f"{', '.join(differences)}{_unit(found[0].measure)}"


def _signed(measure: Measure, value: float) -> str:
    shown = measure.show(abs(value))
    return shown if not float(shown) else f"{'+' if value > 0 else '-'}{shown}"
