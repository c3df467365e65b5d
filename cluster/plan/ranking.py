"""Choose the best of a follow-up's candidates by their scores, and say how sure that is. Pure.

Candidates are ranked by the mean over their seeds. Of equal ones the one with fewer parameters comes first, then the
one whose name does, then the one whose id does: so the same scores always give the same choice. How far the last that
was chosen is ahead of the next is held against what chance alone does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.console import count
from cluster.files.choices import CandidateTold, ChoicePlan, RankedCandidate, RuleTold, ScoredRun
from tiny_transformers.settings.stages import STAGES

LEAST_SEEDS = 3  # that tell how much seeds differ, as in the report
Z = 1.96  # of a normal distribution, for 95 %
T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)  # Student's, from 1 on
EQUAL = 1e-12  # means that differ by less are equal, but for rounding

Scores = Mapping[str, tuple[float, int]]  # run id -> value, rows that it is of
# Of two runs' ids, and the difference of their scores: how large one may be by chance, row by row; None: not known.
Paired = Callable[[str, str, float], float | None]


@dataclass(frozen=True)
class Ranked:
    candidates: list[RankedCandidate]
    told: list[str]


def not_paired(one: str, other: str, difference: float) -> None:
    """Returns None: nothing is known row by row."""


def rank(
    plan: ChoicePlan,
    numbers: Sequence[int],
    scores: Scores,
    left_out: Mapping[int, str],
    paired: Paired = not_paired,
) -> Ranked:
    """Rank these of the plan's candidates, each of whose runs has a score, and choose the best of each group.
    `left_out`: others, and why."""
    rule, candidates = plan["rule"], plan["candidates"]
    groups = dict.fromkeys(candidates[number]["group"] for number in sorted([*numbers, *left_out]))
    found: list[RankedCandidate] = []
    told: list[str] = []
    for group in groups:
        these = [
            _scored(number, candidates[number], scores) for number in numbers if candidates[number]["group"] == group
        ]
        these.sort(key=_order(rule, candidates))
        for place, each in enumerate(these):
            each["place"], each["chosen"] = place + 1, place < rule["best"]
        out = [number for number in left_out if candidates[number]["group"] == group]
        found += these
        found += [{**_scored(number, candidates[number], {}), "left_out": left_out[number]} for number in out]
        told.append(_told(rule, candidates, group, these, len(out), paired))
    return Ranked(found, told)


def _scored(number: int, candidate: CandidateTold, scores: Scores) -> RankedCandidate:
    known: list[ScoredRun] = [
        {**run, "value": scores[run["run_id"]][0], "n": scores[run["run_id"]][1]}
        for run in candidate["runs"]
        if run["run_id"] in scores
    ]
    return {
        "number": number, "study": candidate["study"], "label": candidate["label"], "group": candidate["group"],
        "place": None, "mean": statistics.fmean(run["value"] for run in known) if known else None, "scores": known,
        "chosen": False,
    }  # fmt: skip


def _order(rule: RuleTold, candidates: Sequence[CandidateTold]) -> Callable[[RankedCandidate], tuple[object, ...]]:
    def order(each: RankedCandidate) -> tuple[object, ...]:
        candidate, mean = candidates[each["number"]], each["mean"]
        assert mean is not None
        score = round(-mean if rule["higher_is_better"] else mean, 12)  # so that rounding decides nothing
        return score, candidate["parameters"], candidate["label"], candidate["runs"][0]["run_id"]

    return order


# -- in words ---------------------------------------------------------------------------------------------------------


def show(rule: RuleTold, value: float) -> str:
    """A value as reports show it."""
    return f"{100 * value:.1f}" if rule["percent"] else f"{value:.3f}"


def _told(
    rule: RuleTold,
    candidates: Sequence[CandidateTold],
    group: str,
    ranked: Sequence[RankedCandidate],
    out: int,
    paired: Paired,
) -> str:
    chosen = [each for each in ranked if each["chosen"]]
    names = ", ".join(f"{each['label']} ({show(rule, each['mean'] or 0.0)})" for each in chosen) or "none"
    of = f"{rule['per']} {group}: " if rule["per"] else ""
    left = f" ({out} left out, since {'they' if out > 1 else 'it'} failed)" if out else ""
    text = f"{of}{len(chosen)} of {count(len(ranked) + out, 'cell')}{left}: {names}"
    if not chosen or len(chosen) == len(ranked):
        return f"{text}; there was no other."
    return f"{text}; {_how_sure(rule, candidates, chosen[-1], ranked[len(chosen)], paired)}."


def _how_sure(
    rule: RuleTold,
    candidates: Sequence[CandidateTold],
    last: RankedCandidate,
    following: RankedCandidate,
    paired: Paired,
) -> str:
    """Say how far the next one is behind the last that was chosen, and whether chance alone does as much."""
    assert last["mean"] is not None
    assert following["mean"] is not None
    name, difference = following["label"], abs(last["mean"] - following["mean"])
    if difference < EQUAL:
        fewer = candidates[last["number"]]["parameters"] < candidates[following["number"]]["parameters"]
        why = "has more parameters" if fewer else "comes later by its name"
        return f"{name} has the same score, and was not chosen since it {why}"
    unit = " points" if rule["percent"] else ""
    half, of_what = chance(rule, last["scores"], following["scores"], paired)
    behind = f"{name} is {show(rule, difference)}{unit} behind"
    if half is None:
        return f"{behind}; how much of that is chance cannot be told: {of_what}"
    verdict = "within what chance does" if difference <= half else "more than chance does"
    return f"{behind}, {verdict} ({show(rule, half)}{unit}, 95 %, {of_what})"


def chance(
    rule: RuleTold, ones: Sequence[ScoredRun], others: Sequence[ScoredRun], paired: Paired = not_paired
) -> tuple[float | None, str]:
    """How large a difference of two means may be by chance (95 %), and by what that is known; None: not known.

    By the seeds that both have where there are three or more, pair by pair. Else by the rows, as if others had been
    asked, which leaves out that seeds differ: row by row where both have kept theirs; otherwise, for a share of rows,
    as if the two had been asked different ones. Seeds that all differ by as much have no spread to go by."""
    theirs = {run["seed"]: run for run in others}
    pairs = [(run, theirs[run["seed"]]) for run in ones if run["seed"] in theirs]
    differences = [one["value"] - other["value"] for one, other in pairs]
    if len(pairs) >= LEAST_SEEDS:
        freedom, spread = len(pairs) - 1, statistics.stdev(differences)
        if spread < EQUAL:
            return None, f"{len(pairs)} seeds, which all differ by as much"
        t = T[freedom - 1] if freedom <= len(T) else Z * (1 + 1.2 / freedom)
        return t * spread / math.sqrt(len(pairs)), f"by {len(pairs)} seeds"
    seeds = count(min(len(ones), len(others)), "seed")
    too_few = f"{seeds} {'says' if seeds == '1 seed' else 'say'} too little"
    halves = [paired(one["run_id"], other["run_id"], one["value"] - other["value"]) for one, other in pairs]
    known = [half for half in halves if half is not None]
    if known and len(known) == len(ones) == len(others):
        return math.hypot(*known) / len(known), f"by the same rows alone: {too_few}"
    if not (rule["percent"] and rule["metric"] == "accuracy"):
        return None, f"{seeds}, and {rule['title']} is no share of rows"
    if _is_mean_of_tasks(rule):  # whose smallest task may say the least, and weighs as much as the largest
        return None, f"{seeds}, and {rule['title']} is a mean of tasks, whose rows do not weigh alike"
    variance = sum(
        sum(run["value"] * (1 - run["value"]) / max(1, run["n"]) for run in runs) / len(runs) ** 2
        for runs in (ones, others)
    )
    return Z * math.sqrt(variance), f"by their rows alone: {too_few}"


def _is_mean_of_tasks(rule: RuleTold) -> bool:
    tasks = STAGES[rule["stage"]].tasks if rule["stage"] in STAGES else None
    return tasks is not None and rule["task"] in tasks.averages and rule["task"] != "micro"
