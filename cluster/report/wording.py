"""Findings -> sentences in plain words. What cannot be told is never called equal.

A variant may be called anything, `no activation` for one. So that no name is read as a word of the sentence, each
stands in quotation marks, put there by `name` alone."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.report.findings import ALPHA, Comparison, PairsFinding
from cluster.report.results import Family, Measure, Study, Variant, main_of

NOTHING = 1e-9  # a difference of means below it is rounding
# Where the two differences of BLiMP have different signs.
OPPOSITE = "the opposite, since here every pair weighs alike and there every task"
WITHOUT_MARKS = str.maketrans("“”", "''")


# -- sentences --------------------------------------------------------------------------------------------------------


def sentence_of(found: Comparison) -> str:
    """A comparison in plain words. What cannot be told is never called equal."""
    ours, theirs = name(found.variant), name(found.family.baseline)
    where, by = _where(found.measure), f"{_amount(found)}{_range(found)}"
    side = f"is {by} {'better' if found.advantage > 0 else 'worse'}"
    if found.p_corrected is None:
        how = f"has the same mean as {theirs}" if _is_zero(found) else f"{side} than {theirs}"
        told = f"{ours} {how} {where}, but {found.test}"
        told += f"; {_of_models(found, found.items)}" if found.items else ""
    elif found.significant:
        verb = "beats" if found.advantage > 0 else "is worse than"
        told = f"{ours} {verb} {theirs} {where} by {by}"
        told += f", {_p(found.p_corrected)} after correction, {told_seeds(found.n)}"
    else:
        how = f"they have the same mean{_range(found)}" if _is_zero(found) else f"{ours} {side}"
        told = f"No difference between {ours} and {theirs} can be told {where}: {how}"
        told += f", {_p(found.p_corrected)} after correction, {told_seeds(found.n)}"
    return f"{told}{_parameters(found)}"


def name(variant: Variant) -> str:
    """Return the name of a variant as every sentence says it: in quotation marks, of which it has none itself."""
    return f"“{variant.title.translate(WITHOUT_MARKS)}”"


def _where(measure: Measure) -> str:
    return "in validation loss" if measure.key == "loss" else f"on {measure.title}"


def _unit(measure: Measure) -> str:
    return " points" if measure.percent else " nats" if measure.key == "loss" else ""


def _is_zero(found: Comparison) -> bool:
    return abs(found.difference) < NOTHING


def _digits(measure: Measure, difference: float) -> int:
    """As many as the measure has, or more until the difference is not shown as zero."""
    value, digits = difference * (100 if measure.percent else 1), 1 if measure.percent else 3
    while abs(difference) >= NOTHING and not round(value, digits):
        digits += 1
    return digits


def _shown(found: Comparison, value: float) -> str:
    digits = _digits(found.measure, found.difference)
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


def told_seeds(n: int) -> str:
    return f"{n} seed{'s' if n > 1 else ''}"


def seeds_of(found: Sequence[Comparison]) -> str:
    """Return how many seeds these comparisons have."""
    low, high = min(each.n for each in found), max(each.n for each in found)
    return told_seeds(high) if low == high else f"{low} to {high} seeds"


def _of_models(found: Comparison, items: PairsFinding) -> str:
    """Return what the pairs say, of which models, and whether it is the opposite of what the mean of tasks says."""
    sign = 1 if items.difference >= 0 else -1
    low, high = sorted((100 * sign * items.low, 100 * sign * items.high))
    digits = _digits(found.measure, items.difference)
    told = f"on the same {items.n:,} pairs it has {100 * abs(items.difference):.{digits}f} points "
    told += f"{'more' if sign > 0 else 'fewer'} right [{_rounded(low, digits)}, {_rounded(high, digits)}]"
    told += f", {_p(items.p_corrected)} after correction"
    told += f", {OPPOSITE}" if _is_opposite(found, items) else ""
    return f"{told}; {_only_models(items)}"


def _is_opposite(found: Comparison, items: PairsFinding) -> bool:
    return found.difference * items.difference < 0 and not _is_zero(found)


def _only_models(items: PairsFinding) -> str:
    if items.seeds == 1:
        return "one seed: this compares two trained models, not the designs"
    return f"this compares {2 * items.seeds} trained models, not the designs"


def _parameters(found: Comparison) -> str:
    """How the sizes differ, from one percent on."""
    if not found.family.has_models:
        return ""
    ratio = found.variant.parameters / found.family.baseline.parameters - 1
    if abs(ratio) < 0.01:
        return ""
    return f"; it has {100 * abs(ratio):.0f} % {'more' if ratio > 0 else 'fewer'} parameters"


# -- answers ----------------------------------------------------------------------------------------------------------


def answer(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Answer the study's question from its measures, family by family and measure by measure, or what is missing."""
    if not study.families:
        return [f"Nothing can be said: the ledger has no run of {study.name}."]
    return [sentence for family in study.families for sentence in _of_family(family, comparisons)]


def _of_family(family: Family, comparisons: Sequence[Comparison]) -> list[str]:
    runs = [run for variant in family.variants for run in variant.runs]
    scored = main_of(family.measures)
    if not scored:
        return [f"{family.title}: nothing can be said yet, none of its {len(runs)} runs has a score."]
    if len(family.variants) == 1:
        lines = [alone(family, scored)]
    else:
        mine = [each for each in comparisons if each.family is family]
        lines = [
            _of_measure(family, measure, [each for each in mine if each.measure.key == measure.key])
            for measure in scored
        ]
    if failed := lost(family):
        lines.append(f"{failed}.")
    if unfinished := pending(family):
        lines.append(f"{unfinished} of {len(runs)} runs are not finished, so this may change.")
    return [f"{family.title}: {line}" for line in lines]


def pending(family: Family) -> int:
    """Count the runs whose missing scores may still come by themselves."""
    return sum(bool(run.missing) and not run.failed for variant in family.variants for run in variant.runs)


def lost(family: Family, most: int | None = None) -> str:
    """Say of each variant, or of so many, how many seeds have failed: means are of the others, which may be the luckier
    ones. Empty if none has."""
    counted = [(each, sum(run.failed for run in each.runs)) for each in family.variants]
    told = [f"{failed} of {told_seeds(len(each.runs))} of {name(each)}" for each, failed in counted if failed]
    if not told:
        return ""
    more = len(told[most:]) if most else 0
    named = f"{', '.join(told[:most])}{f' and seeds of {more} more' if more else ''}"
    return f"{named} failed, and what they lack is not in this"


def alone(family: Family, scored: Sequence[Measure]) -> str:
    """Say the means of a family that has one variant."""
    only = family.variants[0]
    scores = ", ".join(f"{measure.title} {measure.show(only.mean(measure))}" for measure in scored)
    return f"the study has {name(only)} only, so there is nothing to compare; its means are {scores}."


def _of_measure(family: Family, measure: Measure, found: Sequence[Comparison]) -> str:
    """`found`: the family's comparisons on this measure."""
    baseline, where = name(family.baseline), _where(measure)
    if not found:
        lacking = (
            "no variant has a score on one of its seeds and its data"
            if family.baseline.values(measure)
            else "it has no score"
        )
        return f"nothing can be compared with the baseline {baseline} {where} yet: {lacking}."
    ranked = sorted(found, key=lambda each: each.advantage, reverse=True)
    unsure = [each for each in ranked if each.p is not None and not each.significant]
    too_few = [each for each in ranked if each.p is None]
    told = [each.sentence for each in ranked if each.significant]
    if len(unsure) > 1:
        told.append(f"No difference to {baseline} can be told {where} for {_listed(unsure)}, {seeds_of(unsure)}")
    else:
        told += [each.sentence for each in unsure]
    for test in dict.fromkeys(each.test for each in too_few):  # it says how many seeds they have
        alike = [each for each in too_few if each.test == test]
        told.append(f"No difference to {baseline} can be told {where} ({test}): {_listed(alike)}")
    told += _differing_models(too_few)
    return ". ".join(told) + "."


def _differing_models(found: Sequence[Comparison]) -> list[str]:
    """Say which variants' trained models differ from the baseline's on the pairs of BLiMP, and in which direction."""
    differing = [(each, each.items) for each in found if each.items and each.items.p_corrected <= ALPHA]
    if not differing:
        return []
    told = []
    for each, items in differing:
        opposite = f", {OPPOSITE}" if _is_opposite(each, items) else ""
        told.append(f"{name(each.variant)} ({signed(each.measure, items.difference)} points{opposite})")
    models = ", ".join(told)
    return [f"Pair by pair the models of {models} do differ from the baseline's, but {_only_models(differing[0][1])}"]


def _listed(found: Sequence[Comparison]) -> str:
    """Variants with their differences to the baseline, as measured."""
    differences = [f"{name(each.variant)} {signed(each.measure, each.difference)}" for each in found]
    return f"{', '.join(differences)}{_unit(found[0].measure)}"


def amount_of(found: Comparison, *, unit: bool = True) -> str:
    """Return a difference to the baseline with its sign, and in its unit."""
    sign = "" if _is_zero(found) else "+" if found.difference > 0 else "-"
    return f"{sign}{_shown(found, abs(found.difference))}{_unit(found.measure) if unit else ''}"


def signed(measure: Measure, value: float) -> str:
    """Return a difference with its sign, in the digits of its measure, or in more if it were shown as zero."""
    shown = _rounded(abs(value) * (100 if measure.percent else 1), _digits(measure, value))
    return shown if not float(shown) else f"{'+' if value > 0 else '-'}{shown}"
