"""Predict what a plan comes to: whether runs end in time, the hours of its packs, and when all is done. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.console import some
from cluster.files.choices import ChoicePlan
from cluster.files.records import Run
from cluster.plan import cost, lanes, packing
from cluster.plan.choosing import PackItem
from cluster.plan.packing import Array
from cluster.sites.profiles import Site
from tiny_transformers.settings.config import RunConfig


def too_long(items: Iterable[PackItem], site: Site) -> str | None:
    """Return what to say of runs that may not end within the site's time limit; None if there are none."""
    needs = [need for item in items if (need := item.margin * item.seconds / 60) > site.max_time]
    if not needs:
        return None
    count, longest = len(needs), max(needs)
    start = (
        f"{count} run{'s' if count > 1 else ''} may need up to {longest / 60:,.1f} h, more than the site's "
        f"{site.max_time / 60:.3g} h"
    )
    if site.scheduler == "local" or not site.sbatch.get("requeue", True):
        return f"{start}: they stop then, and `rerun --failed` goes on from their checkpoints."
    times = math.ceil(longest / site.max_time) - 1
    if times > site.requeues:
        return (
            f"{start}: they would have to be requeued up to {times} times, and the site's `requeues` is "
            f"{site.requeues}. `tick` and `rerun --failed` go on from their checkpoints then."
        )
    return f"{start}: they will be requeued up to {times} time{'s' if times > 1 else ''}, and go on from checkpoints."


def alone(runs: Iterable[Run]) -> str | None:
    """Return what to say of studies whose models are of several families, one variant of each: the report compares
    within a family. None if there are none."""
    first: dict[str, dict[str, RunConfig]] = {}  # study -> family -> its first run
    several: set[str] = set()  # studies with variants
    for run in runs:
        for study in set(run.studies) - several:
            known = first.setdefault(study, {}).setdefault(run.config.family, run.config)
            if known is not run.config and known.model_copy(update={"seed": run.config.seed}) != run.config:
                several.add(study)
    found = [study for study, families in first.items() if study not in several and len(families) > 1]
    if not found:
        return None
    of = "has" if len(found) == 1 else "have"
    return f"{some(found)} {of} one variant of each family, and only those of one family are compared: nothing will be."


def gpu_hours(arrays: Iterable[Array]) -> float:
    """Estimated hours of whole packs: GPU-hours where a pack has a GPU."""
    return sum(pack.seconds for array in arrays for pack in array.packs) / 3600


def most_hours(plan: ChoicePlan, measured: cost.Measured) -> float:
    """Hours that the runs of a choice take at most, one at a time: of those candidates that take longest."""
    times = dict[str, list[float]]()
    for candidate in plan["candidates"]:
        seconds = [
            measured.times.of(RunConfig.model_validate(cell["config"]), *plan["stages"]).whole * len(cell["runs"])
            for cell in candidate["into"]
        ]
        times.setdefault(candidate["group"], []).append(sum(seconds))
    return sum(sum(sorted(each)[-plan["rule"]["best"] :]) for each in times.values()) / 3600


@dataclass(frozen=True)
class Outlook:
    """What is predicted of all packs together."""

    packs: int
    at_a_time: float  # runs, on average over the time of all packs
    hours: float  # of whole packs, as estimated
    asked: float  # hours
    idle: float  # share of the slots' time in which they have no run
    end: float  # seconds until the last pack has ended
    jobs: int | None  # at once


def predict(arrays: Sequence[Array], site: Site) -> Outlook:
    """Predict what these arrays come to on a site, where each pack waits half an hour in the queue."""
    packs = [pack for array in arrays for pack in array.packs]
    seconds, busy = sum(pack.seconds for pack in packs), sum(pack.busy for pack in packs)
    asked = sum(array.resources.minutes * len(array.packs) for array in arrays) / 60
    jobs, wait = (1, 0.0) if site.scheduler == "local" else (packing.jobs_at_once(site), packing.QUEUE)
    end = lanes.end_of([pack.seconds for pack in packs], jobs, wait)
    idle = 1 - busy / max(1e-9, sum(pack.open for pack in packs))
    return Outlook(len(packs), busy / max(1e-9, seconds), seconds / 3600, asked, idle, end, jobs)
