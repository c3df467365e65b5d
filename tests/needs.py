"""What every model of experiments.yaml needs of an A100, made up once and fixed in needs.csv, and packs played with it.

The table is not the planner's: seconds of each stage with nothing beside it, beyond its start, and MB at the peak.
Three curves say how much several pretrainings at a time gain together over one alone; other stages share the device
without a gain, and starts pass side by side. `play` is the job's rule (jobs/pack.py), written a second time."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.files.records import Run
from cluster.plan import cost
from cluster.plan.choosing import PackItem
from cluster.plan.cost import Estimate, Measured
from cluster.plan.packing import Array, Pack
from cluster.sites.profiles import Site

CURVES = {
    "none": {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0},
    "1.5 x": {1: 1.0, 2: 1.2, 4: 1.4, 8: 1.5},
    "3 x": {1: 1.0, 2: 1.8, 4: 2.6, 8: 3.0},
}
START = 20.0  # seconds of a stage, whatever else is at work
Curve = Mapping[int, float]


@dataclass(frozen=True)
class Needs:
    """Of one model: MB, and seconds of each stage alone."""

    memory: int
    seconds: Mapping[str, float]


def table() -> dict[str, Needs]:
    """By a run's name without its seed."""
    with (Path(__file__).parent / "needs.csv").open() as file:
        return {
            row["run"]: Needs(
                int(row["memory"]), {"add_tokenizer": 0.0} | {s: float(v) for s, v in list(row.items())[2:] if v}
            )
            for row in csv.DictReader(file)
        }


TABLE = table()


def of(run: Run) -> Needs:
    return TABLE[run.name.rpartition("-s")[0]]


def measured(runs: Iterable[Run], site: Site, curve: Curve) -> Measured:
    """What a ledger would say of a site where all of these had run, alone and several at a time."""
    speeds, peaks, gains = {}, {}, {}
    for run in runs:
        key = cost.architecture_key(run.config)
        peaks[key], gains[key] = Estimate(of(run).memory, "measured (1)"), curve
        for stage in run.stages:
            budgeted = cost.budgeted_seconds(run.config) if stage == "pretrain" else 0.0
            seconds = of(run).seconds[stage] - budgeted
            if (work := cost.flops(run.config, stage)) and seconds > 0:
                speeds.setdefault((key, stage), Estimate(work / seconds, "measured (1)"))
    return Measured(site.flops, by_architecture=speeds, peaks=peaks, gains=gains, device=site.peak_flops)


def gain(curve: Curve, number: int) -> float:
    low, high = max(n for n in curve if n <= number), min((n for n in curve if n >= number), default=max(curve))
    return curve[low] if low == high else curve[low] + (curve[high] - curve[low]) * (number - low) / (high - low)


def seconds_beside(run: Run, item: PackItem, curve: Curve, number: int) -> float:
    """How long what may share the device lasts, with so many runs at work all the time."""
    stages = [stage for stage, _ in item.stages if stage != "speed"]
    trained = of(run).seconds["pretrain"] if "pretrain" in stages else 0.0
    others = sum(of(run).seconds[stage] for stage in stages) - trained
    return START * len(stages) + number * (trained / gain(curve, number) + others)


def seconds_apart(run: Run, item: PackItem) -> float:
    return sum(START + of(run).seconds[stage] for stage, _ in item.stages if stage == "speed")


def needed(runs: Iterable[Run], curve: Curve) -> float:
    """GPU-seconds that the work takes without a gap: each run's for itself, with as many at a time as gain most; alone
    for what has a budget of hours."""
    best = min(number for number in curve if curve[number] == max(curve.values()))
    total = 0.0
    for run in runs:
        item = PackItem(run.id, tuple((stage, 1) for stage in run.stages), 0.0)
        number = 1 if cost.budgeted_seconds(run.config) else best
        total += seconds_beside(run, item, curve, number) / number + seconds_apart(run, item)
    return total


@dataclass
class Played:
    """How a pack went, or one life of it."""

    seconds: float = 0.0
    busy: float = 0.0  # seconds of all runs
    open: float = 0.0  # seconds of its slots
    memory: int = 0  # MB at its peak, by the table
    left: dict[PackItem, float] = field(default_factory=dict)  # what its time was too short for -> how much of it


def as_in_table(_: Run) -> float:
    return 1.0


def play(
    array: Array,
    pack: Pack,
    runs: Mapping[str, Run],
    curve: Curve,
    off: Callable[[Run], float] = as_in_table,
    most: float = math.inf,
    left: Mapping[PackItem, float] | None = None,
) -> Played:
    """Play a pack as its job works through it, for so many seconds at most: all of it, or what an earlier life has
    left. `off` says how many times as long as in the table a run takes."""
    slots, limit = array.resources.slots, array.resources.memory_limit or math.inf
    waiting = dict(dict.fromkeys(pack.items, 1.0) if left is None else left)
    going: dict[PackItem, float] = {}
    done = Played()
    while waiting or going:
        while waiting and len(going) < slots:
            free = limit - sum(item.memory for item in going)
            if (item := next((i for i in waiting if not going or i.memory <= free), None)) is None:
                break
            going[item] = waiting.pop(item)
        done.memory = max(done.memory, sum(of(runs[item.run_id]).memory for item in going))
        lasts = {i: off(runs[i.run_id]) * seconds_beside(runs[i.run_id], i, curve, len(going)) for i in going}
        step = min(most - done.seconds, *(part * lasts[item] for item, part in going.items()))
        done.seconds, done.busy, done.open = (
            done.seconds + step,
            done.busy + step * len(going),
            done.open + step * slots,
        )
        going = {i: rest for i, part in going.items() if lasts[i] and (rest := part - step / lasts[i]) > 1e-9}
        if done.seconds >= most:
            done.left = going | waiting
            return done
    apart = sum(off(runs[item.run_id]) * seconds_apart(runs[item.run_id], item) for item in pack.items)
    return replace(done, seconds=done.seconds + apart, busy=done.busy + apart, open=done.open + apart)
