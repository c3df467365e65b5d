"""Choose what is to be done of a run, by how far its stages are. Pure: reads no files, calls no SLURM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from cluster.files.records import Run, StageState
from cluster.files.statuses import LIVE, UNTRIED, StageStatus
from cluster.plan import cost
from cluster.plan.expansion import in_order
from cluster.plan.retry import Adjustment
from tiny_transformers.settings.stages import STAGES


class PackItem(NamedTuple):
    """One run's share of a pack: stages in order, each with the number of its new attempt."""

    run_id: str
    stages: tuple[tuple[str, int], ...]
    seconds: float  # estimated; in a pack, those of the device that it takes for itself beside the others there
    adjustment: Adjustment = Adjustment()
    micro_batch_tokens: int | None = None  # null: as in the run's settings
    margin: float = cost.TIME_MARGIN  # asked for / estimated
    memory: int = 0  # MB of the device that it is planned with, in a pack
    shares: tuple[float, ...] = ()  # of these seconds, that each stage has


def missing(run: Run, states: Mapping[str, StageState], again: Iterable[str] = ()) -> list[str]:
    """Stages of this run that were never tried, or are to be tried again, and can go ahead: what they need is
    completed or goes with them. What is tried again waits until nothing of the run is under way."""
    if again and any(status(states, stage) in LIVE for stage in run.stages):
        again = ()
    again = redo(run, again) if again else ()
    chosen: list[str] = []
    for stage in run.stages:
        if stage in states and states[stage].status not in UNTRIED and stage not in again:
            continue
        if ready(stage, chosen, states):
            chosen.append(stage)
    return chosen


def ready(stage: str, chosen: Sequence[str], states: Mapping[str, StageState]) -> bool:
    """Whether all that a stage needs is completed or goes with it."""
    needs = STAGES[stage].needs
    return not [need for need in needs if need not in chosen and status(states, need) != "completed"]


def status(states: Mapping[str, StageState], stage: str) -> StageStatus:
    return states[stage].status if stage in states else "waiting"


def redo(run: Run, stages: Iterable[str]) -> list[str]:
    """These stages of the run and whatever follows from them, in order."""
    chosen = set(stages)
    for stage in run.stages:
        if chosen & set(STAGES[stage].needs):
            chosen.add(stage)
    return list(in_order(chosen & set(run.stages)))


def item(
    run: Run,
    stages: Sequence[str],
    states: Mapping[str, StageState],
    measured: cost.Measured,
    adjustment: Adjustment = Adjustment(),  # noqa: B008 - immutable
) -> PackItem:
    tries = [states[stage].attempts + 1 if stage in states else 1 for stage in stages]
    times = measured.times.of(run.config, *stages)
    whole = times.whole
    shares = tuple([seconds / whole for seconds in times.of_stages])
    numbered = _numbered(tuple(stages), tuple(tries))
    return PackItem(run.id, numbered, whole * adjustment.time, adjustment, margin=times.margin, shares=shares)


@cache
def _numbered(stages: tuple[str, ...], tries: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    """Stages with the numbers of their attempts: one object for all runs that have the same."""
    return tuple(zip(stages, tries, strict=True))
