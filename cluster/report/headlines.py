"""What a study found, in one line for each family, with a small picture: what a reader meets first.

A line says what the comparisons of the study say, and no more; all of them, measure by measure, stand further down. The
picture has one measure: that on which most variants differ from the baseline, or the first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.console import count
from cluster.report.findings import MOST_SEEDS, Comparison
from cluster.report.results import Family, Measure, Study, main_of
from cluster.report.wording import alone, amount_of, lost, name, pending, seeds_of, told_seeds

NAMED = 2  # variants that a line names on each side
ROWS = 8  # variants in a picture: the best and the worst
# Characters of a variant's name in a picture: that have room beside its mark; above it; and above it, set narrowly.
BESIDE, ABOVE, LABEL = 19, 52, 72


@dataclass(frozen=True)
class Effect:
    """A variant in a picture; its places are shares of the width, further to the right is better."""

    label: str
    told: str  # the difference to the baseline
    at: float
    low: float | None
    high: float | None
    kind: str  # better, worse, unsure

    @property
    def is_narrow(self) -> bool:
        """Whether its name fits into the picture only if it is set narrowly."""
        return len(self.label) > ABOVE


@dataclass(frozen=True)
class Picture:
    title: str  # the family, and what is shown in which unit
    baseline: float  # its place
    effects: Sequence[Effect]
    left_out: int = 0  # variants between the best and the worst

    @property
    def which(self) -> str:
        """How many variants are in it, where these are not all: the best and the worst."""
        return f", {len(self.effects)} of {len(self.effects) + self.left_out}" if self.left_out else ""

    @property
    def is_wide(self) -> bool:
        """Whether its names need lines of their own."""
        return any(len(each.label) > BESIDE for each in self.effects)


@dataclass(frozen=True)
class Headline:
    family: str
    line: str


def headlines(study: Study, comparisons: Iterable[Comparison]) -> list[Headline]:
    """Return the headline of each family; families of which the same is to be said have one together."""
    found = list(comparisons)
    families: dict[str, list[str]] = {}
    for family in study.families:
        line = _of_family(family, [each for each in found if each.family is family])
        families.setdefault(line, []).append(family.title)
    return [Headline(" and ".join(titles), line) for line, titles in families.items()]


def pictures(study: Study, comparisons: Iterable[Comparison]) -> list[Picture]:
    """Return the picture of each family in which something is compared."""
    of = {family.name: [each for each in comparisons if each.family is family] for family in study.families}
    return [_picture(family, of[family.name]) for family in study.families if of[family.name]]


def _of_family(family: Family, found: Sequence[Comparison]) -> str:
    runs = [run for variant in family.variants for run in variant.runs]
    scored = main_of(family.measures)
    if not scored:
        return f"no scores yet of {count(len(runs), 'run')}."
    if not found:
        line = alone(family, scored) if len(family.variants) == 1 else "nothing can be compared yet."
    else:
        line = _tested(family, found) if any(each.p is not None for each in found) else _untested(found)
    told = [line]
    if failed := lost(family, NAMED):
        told.append(f"{failed}.")
    if waiting := pending(family):
        told.append(f"{waiting:,} of {len(runs):,} runs are not finished.")
    return " ".join(told)


def _tested(family: Family, found: Sequence[Comparison]) -> str:
    baseline = name(family.baseline)
    first = _shown_measure(found)
    better = _strongest((each for each in found if each.significant and each.advantage > 0), first)
    worse = _strongest((each for each in found if each.significant and each.advantage < 0), first)
    if not better and not worse:
        return f"no difference to {baseline} can be told ({seeds_of(found)}){_enough(found, first)}."
    upper = f"none can be told to beat {baseline}"
    if len(better) == 1:
        upper = f"{name(better[0].variant)} beats {baseline}: {_amount(better[0])}"
    elif better:
        upper = f"{_side(better)} beat {baseline}"
    parts = [upper]
    if len(worse) == 1:
        parts.append(f"{name(worse[0].variant)} is worse: {_amount(worse[0])}")
    elif worse:
        parts.append(f"{_side(worse)} are worse")
    return f"{'; '.join([*parts, *_others(found)])}."


def _others(found: Sequence[Comparison]) -> list[str]:
    """Say how many variants differ on no measure: no test has told them apart, or they have too few seeds for one."""
    told = {each.variant.key for each in found if each.significant}
    left = {each.variant.key for each in found} - told
    unsure = len(left & {each.variant.key for each in found if each.p is not None})
    few = len(left) - unsure
    parts = [f"{count(unsure, 'other')} cannot be told from the baseline"] if unsure else []
    if few:
        parts.append(f"{count(few, 'other')} {'has' if few == 1 else 'have'} too few seeds")
    return [", ".join(parts)] if parts else []


def _untested(found: Sequence[Comparison]) -> str:
    """Too few seeds for a test: how large the differences are is in the picture."""
    n, least = max(each.n for each in found), min(each.least for each in found)
    return f"{told_seeds(n)} of each, so no difference can be told from chance: that takes {least} or more."


def _enough(found: Iterable[Comparison], first: Measure) -> str:
    """How many seeds would tell the largest difference on the measure that is shown, were it real."""
    largest = max((each for each in found if each.measure.key == first.key), key=lambda each: abs(each.advantage))
    if not amount_of(largest).startswith(("+", "-")):
        return ""
    seeds = f"{max(largest.likely, largest.n + 1)} seeds or more" if largest.likely else f"more than {MOST_SEEDS} seeds"
    return f"; the largest seen, {_amount(largest)} by {name(largest.variant)}, would take {seeds} to tell"


def _strongest(found: Iterable[Comparison], first: Measure) -> list[Comparison]:
    """Of each variant the comparison on the measure that is shown, or on the first that there is; the largest effect
    first."""
    chosen: dict[str, Comparison] = {}
    for each in sorted(found, key=lambda each: each.measure.key != first.key):
        chosen.setdefault(each.variant.key, each)
    size = lambda each: (each.measure.key == first.key, abs(each.advantage))  # noqa: E731
    return sorted(chosen.values(), key=size, reverse=True)


def _side(found: Sequence[Comparison]) -> str:
    """`“a” (+1.2 points of BLiMP) and “b” (+0.8)`, with the measure once where all have the same."""
    named = found[:NAMED]
    alike = len({each.measure.key for each in named}) == 1
    told = [amount_of(each, unit=False) if alike and each is not named[0] else _amount(each) for each in named]
    names = [f"{name(each.variant)} ({amount})" for each, amount in zip(named, told, strict=True)]
    more = len(found) - len(named)
    return f"{', '.join(names)} and {more} more" if more else " and ".join(names)


def _amount(found: Comparison) -> str:
    return f"{amount_of(found)} {_of(found.measure)}"


def _of(measure: Measure) -> str:
    return f"of {_title(measure)}"


def _title(measure: Measure) -> str:
    """A measure without what is to be kept in mind of it, which stands further down."""
    return "validation loss" if measure.key == "loss" else re.sub(r" \(.*\)$", "", measure.title)


def _shown_measure(found: Sequence[Comparison]) -> Measure:
    """The measure on which most variants differ; of as many the first."""
    differing = {each.measure.key: 0 for each in found}
    for each in found:
        differing[each.measure.key] += each.significant
    most = max(differing, key=lambda key: differing[key])
    return next(each.measure for each in found if each.measure.key == most)


def _picture(family: Family, found: Sequence[Comparison]) -> Picture:
    measure = _shown_measure(found)
    ranked = sorted((each for each in found if each.measure.key == measure.key), key=lambda each: -each.advantage)
    left_out = max(0, len(ranked) - ROWS)
    if left_out:
        ranked = [*ranked[: ROWS // 2], *ranked[-ROWS // 2 :]]
    ends = [end for each in ranked for end in (0.0, *_span(each))]
    low, high = min(ends), max(ends)
    width = (high - low) or 1.0
    place = lambda value: (value - low) / width  # noqa: E731
    effects = []
    for each in ranked:
        ends_of = _span(each)
        has_interval = each.low is not None
        effects.append(
            Effect(
                label=_cut(each.variant.title),
                told=amount_of(each, unit=False) + ("*" if each.significant else ""),
                at=place(each.advantage),
                low=place(min(ends_of)) if has_interval else None,
                high=place(max(ends_of)) if has_interval else None,
                kind=("better" if each.advantage > 0 else "worse") if each.significant else "unsure",
            )
        )
    unit = ", points" if measure.percent else ", nats" if measure.key == "loss" else ""
    return Picture(f"{family.title}: {_title(measure)}{unit}", place(0.0), effects, left_out)


def _span(found: Comparison) -> tuple[float, float]:
    """The interval of the advantage; where there is none the advantage itself."""
    if found.low is None or found.high is None:
        return found.advantage, found.advantage
    return (found.low, found.high) if found.measure.higher_is_better else (-found.high, -found.low)


def _cut(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"
