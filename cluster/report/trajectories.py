"""What the stage trajectory found: scores against what a model had read, and how much it reads until it is as good as
its family's baseline is at its end.

A run reaches that score, the mean of the baseline's seeds, at the first anchor that is as good; between that and the
anchor before, the score is taken to change evenly with the logarithm of the tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.report.comparison import interval
from cluster.report.findings import Interval
from cluster.report.results import Family, Measure, Result, Study, Variant
from cluster.report.study_tables import MISSING, Column, Row, StudyTable, TableCell, variant_target
from tiny_transformers.settings.stage.trajectory import END, PLACE, SERIES

STAGE = "trajectory"


@dataclass(frozen=True)
class Point:
    """A run at one anchor, or at its end."""

    anchor: str
    place: Mapping[str, float]  # step, tokens, stories, minutes; of a stream, no stories
    scores: Mapping[str, float]  # loss, bpc, blimp -> value

    @property
    def tokens(self) -> float:
        return self.place["tokens"]


@dataclass(frozen=True)
class Reached:
    """The tokens after which a run is as good as it was to be."""

    tokens: float
    at_first: bool  # at its first anchor already: it may have needed less


@dataclass(frozen=True)
class Needed:
    """How much a variant reads until it is as good as the baseline is at its end."""

    target: float
    seeds: int
    reached: tuple[Reached, ...]  # of the seeds that are
    baseline: float  # tokens that the baseline has read at its end, on average

    @property
    def tokens(self) -> Interval | None:
        """The geometric mean over seeds with its interval; None: not all of them are."""
        if not self.reached or len(self.reached) < self.seeds:
            return None
        found = interval(math.log(each.tokens) for each in self.reached)
        assert found
        return Interval(
            math.exp(found.mean),
            None if found.low is None else math.exp(found.low),
            None if found.high is None else math.exp(found.high),
            found.n,
        )


def points(run: Result) -> list[Point]:
    """A run's anchors and its end, by what was read."""
    scores: dict[str, dict[str, float]] = {}
    for (stage, task, metric), (score, _) in run.scores.items():
        if stage == STAGE:
            scores.setdefault(task, {})[metric] = score
    found = []
    for anchor, of_anchor in scores.items():
        place = {name: value for name in PLACE if (value := run.number(STAGE, f"{anchor}.{name}")) is not None}
        if "tokens" in place:
            found.append(Point(anchor, place, of_anchor))
    return sorted(found, key=lambda point: (point.tokens, point.anchor == END))


def measures(family: Family) -> list[Measure]:
    """Those of which its runs have scores on the way."""
    return [each for each in SERIES if any(variant.values(each) for variant in family.variants)]


def reach(way: Sequence[Point], measure: Measure, target: float) -> Reached | None:
    """Where a run is first as good as this; None: nowhere."""
    known = [(point.tokens, point.scores[measure.metric]) for point in way if measure.metric in point.scores]
    for number, (tokens, value) in enumerate(known):
        if value >= target if measure.higher_is_better else value <= target:
            if number == 0:
                return Reached(tokens, at_first=True)
            before, worse = known[number - 1]
            part = (target - worse) / (value - worse)
            return Reached(before * (tokens / before) ** part, at_first=False)
    return None


def needed(variant: Variant, baseline: Variant, measure: Measure) -> Needed | None:
    """None if one of the two has no scores on the way, of the same data."""
    ends = [run for run in baseline.runs if run.value(measure) is not None]
    runs = [run for run in variant.runs if points(run) and ends and run.same_data(ends[0], STAGE)]
    target = baseline.mean(measure)
    if not runs or target is None:
        return None
    found = [reach(points(run), measure, target) for run in runs]
    read = [points(run)[-1].tokens for run in ends]
    return Needed(target, len(runs), tuple(each for each in found if each), sum(read) / len(read))


def rows(runs: Sequence[Result]) -> list[dict[str, Any]]:
    """A row per run and anchor, for CSV."""
    metrics = [each.metric for each in SERIES]
    return [
        {"run": run.name, "run_id": run.run_id, "seed": run.seed, "anchor": point.anchor}
        | {name: point.place.get(name) for name in PLACE}
        | {metric: point.scores.get(metric) for metric in metrics}
        for run in runs
        for point in points(run)
    ]


# -- the table --------------------------------------------------------------------------------------------------------


def table(study: Study, family: Family) -> StudyTable | None:
    """What each variant reads until it is as good as the baseline at its end; None if nothing was scored on the way."""
    found = measures(family)
    if not found:
        return None
    unit = "characters" if family.baseline.config.data.is_stream else "tokens"
    columns = [Column("variant"), Column("seeds", hint="scored on the way")]
    for measure in found:
        title = f"{measure.title}, %" if measure.percent else measure.title
        columns += [
            Column("at the end", title),
            Column(f"{unit} needed", title, "read until it is as good as the baseline at its end"),
            Column("of the baseline's", title, f"the share of the {unit} that the baseline has read"),
        ]
    made = []
    for variant in family.variants:
        target, seeds = variant_target(study, variant), sum(bool(points(run)) for run in variant.runs)
        cells = [TableCell(variant.title, link=target, small="baseline" if variant.is_baseline else ""),
                 TableCell(f"{seeds}", seeds, target)]  # fmt: skip
        for measure in found:
            cells += [_end_cell(variant, measure, target), *_needed_cells(variant, family.baseline, measure, target)]
        made.append(Row(cells, is_baseline=variant.is_baseline))
    return StudyTable(f"{family.title}: {unit} until as good as the baseline at its end", columns, made)


def _end_cell(variant: Variant, measure: Measure, target: str) -> TableCell:
    found = interval(variant.values(measure).values())
    if found is None:
        return MISSING
    return TableCell(measure.show(found.mean), found.mean, target, _span(found, measure.show))


def _needed_cells(variant: Variant, baseline: Variant, measure: Measure, target: str) -> Iterator[TableCell]:
    found = needed(variant, baseline, measure)
    if found is None:
        yield from (MISSING, MISSING)
    elif variant.is_baseline:
        yield TableCell(rounded(found.baseline), found.baseline, target, "at its end")
        yield TableCell("1.00", 1.0, target)
    elif tokens := found.tokens:
        at_most = "≤ " if any(each.at_first for each in found.reached) else ""
        yield TableCell(at_most + rounded(tokens.mean), tokens.mean, target, _span(tokens, rounded))
        share = tokens.mean / found.baseline
        yield TableCell(f"{at_most}{share:.2f}", share, target)
    else:
        some = f"{len(found.reached)} of {found.seeds} seeds reach it" if found.reached else ""
        yield TableCell("not reached", link=target, small=some, kind="missing")
        yield MISSING


def _span(found: Interval, show: Any) -> str:
    return "" if found.low is None or found.high is None else f"[{show(found.low)}, {show(found.high)}]"


def rounded(count: float) -> str:
    """With three digits that say something."""
    digits = max(0, math.floor(math.log10(count)) - 2) if count >= 1 else 0
    return f"{round(count, -digits):,.0f}"
