"""The values that figures draw, and what each variant looks like in all figures of its study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.report.comparison import interval
from cluster.report.figures.sheets import GREY, INK
from cluster.report.findings import Interval
from cluster.report.results import Family, Measure, Study, Variant, main_of

COLOURED = 9  # variants of a family that have a line of their own colour; of more the baseline and these:
BEST = WORST = 3
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # without its yellow, lost on white
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = "o^sDvPX"
ROWS = 40  # of variants that fit a page


# -- values -----------------------------------------------------------------------------------------------------------


def values_of(variant: Variant, measure: Measure) -> list[float]:
    """Over its seeds, as shown: shares as percentages."""
    scale = 100 if measure.percent else 1
    return [scale * value for value in variant.values(measure).values() if math.isfinite(value)]


def mean_of(variant: Variant, measure: Measure) -> float | None:
    values = values_of(variant, measure)
    return math.fsum(values) / len(values) if values else None


def interval_of(variant: Variant, measure: Measure) -> Interval | None:
    return interval(values_of(variant, measure))


def measures_of(study: Study) -> list[Measure]:
    """The main ones that any variant has."""
    known = main_of(study.known_measures)
    return [each for each in known if any(values_of(variant, each) for variant in study.variants)]


def pages(study: Study) -> list[tuple[Family, ...]]:
    """The families of each page of rows, one a variant."""
    if len(study.variants) <= ROWS:
        return [study.families]
    return [(family,) for family in study.families]


def suffix(families: Sequence[Family], study: Study) -> str:
    """Return how the name and the title of one page of several end."""
    return "" if len(families) == len(study.families) else f"-{families[0].name}"


def of_families(families: Sequence[Family], study: Study) -> str:
    return "" if len(families) == len(study.families) else f", {families[0].title}"


# -- what a line looks like -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    colour: str
    dash: Any = "-"
    marker: str = ""
    width: float = 1.1

    @property
    def is_grey(self) -> bool:
        return self.colour == GREY


BASELINE = Look(INK, marker="o", width=1.8)
OTHER = Look(GREY, width=0.7)
LOOKS = [Look(OKABE_ITO[i % 6], DASHES[i // 6 * 2 + i % 2], MARKERS[(i + 1) % 7]) for i in range(COLOURED - 1)]


def looks_of(study: Study) -> dict[str, Look]:
    """Return the looks of variants, by their keys. A label that several families have looks alike in all of them."""
    by_label: dict[str, Look] = {}
    looks = {}
    for family in study.families:
        chosen = _coloured(family, study)
        taken = {by_label[variant.label] for variant in chosen if variant.label in by_label}
        free = iter([look for look in LOOKS if look not in taken])
        for variant in family.variants:
            if variant.is_baseline:
                looks[variant.key] = BASELINE
            elif variant in chosen:
                looks[variant.key] = by_label.setdefault(variant.label, by_label.get(variant.label) or next(free))
            else:
                looks[variant.key] = OTHER
    return looks


def first_title(study: Study) -> str:
    measures = measures_of(study)
    return measures[0].title if measures else "their order"


def told_colours(study: Study, looks: Mapping[str, Look]) -> list[str]:
    """The sentence of a caption that says which variants are grey; none if none is."""
    if not any(look.is_grey for look in looks.values()):
        return []
    which = f"the best {BEST} and the worst {WORST}"
    return [f"In colour are, beside the baseline, {which} of each family by {first_title(study)}; the others are grey."]


def _coloured(family: Family, study: Study) -> list[Variant]:
    """All but the baseline, or the best and the worst of many."""
    others = [variant for variant in family.variants if not variant.is_baseline]
    if len(family.variants) <= COLOURED:
        return others
    ranked, first = _best(others, study), measures_of(study)[:1]
    known = [variant for variant in ranked if any(values_of(variant, measure) for measure in first)]
    return [*ranked[:BEST], *(variant for variant in known[-WORST:] if variant not in ranked[:BEST])]


def _best(variants: Sequence[Variant], study: Study) -> list[Variant]:
    """Return the variants in the order of the study's first measure, those without a value last."""
    measures = measures_of(study)

    def place(variant: Variant) -> float:
        mean = mean_of(variant, measures[0]) if measures else None
        return math.inf if mean is None else -mean if measures[0].higher_is_better else mean

    return sorted(variants, key=place)
