"""When a study ends, and what its GPUs are held for: ways to plan it, on accounts that run 1, 4 or 8 jobs at once.

    python tests/benchmarks/schedule.py [--draws 5]

Every run needs what tests/needs.csv says, several at a time gain 1.5 x at eight, and the planner knows that. It never
sees how long a run truly takes, which is off by a log-normal factor, nor how long a job waits in the queue, which is
exponential with a mean of half an hour. A pack that is over its time limit is requeued, waits again and goes on from
where it was. Each figure is the mean of some draws, which are the same for all plans."""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import statistics
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import needs  # noqa: E402

from cluster.files.records import Run  # noqa: E402
from cluster.manifest import grids, loading  # noqa: E402
from cluster.plan import choosing, cost, expansion, packing  # noqa: E402
from cluster.plan.choosing import PackItem  # noqa: E402
from cluster.plan.packing import Array, Pack, Resources  # noqa: E402
from cluster.sites import profiles  # noqa: E402
from cluster.sites.profiles import Site  # noqa: E402

CURVE = needs.CURVES["1.5 x"]
WAIT = 1_800.0  # seconds in the queue, on average
SIGNAL = 120  # seconds before its limit that a pack saves and ends

Plan = Callable[[Sequence[Run], Site, cost.Measured], list[Array]]


def grid(seeds: int | None = None, count: int | None = None, studies: Sequence[str] = ()) -> list[Run]:
    """Runs of experiments.yaml; with `seeds`, each of its models with so many."""
    document = loading.load(ROOT / "experiments.yaml")
    cells = grids.cells(document, studies=studies or ())  # all but the optional ones, which few would run
    if seeds:
        cells = [
            replace(cell, config=cell.config.model_copy(update={"seed": seed}))
            for seed in range(seeds)
            for cell in cells
        ]
    runs = expansion.expand(cells)
    return random.Random(0).sample(runs, count) if count else runs


def packed(runs: Sequence[Run], site: Site, measured: cost.Measured) -> list[Array]:
    """As the planner does."""
    work = [choosing.item(run, run.stages, {}, measured) for run in runs]
    return packing.arrange(work, {run.id: run for run in runs}, site, measured)


def one_a_gpu(runs: Sequence[Run], site: Site, measured: cost.Measured) -> list[Array]:
    """As the studies did, each for its own time; the longest first."""
    single = site.model_copy(update={"slots": 1, "runs_per_pack": 1})
    arrays = [array for run in runs for array in packed([run], single, measured)]
    return sorted(arrays, key=lambda array: -array.packs[0].seconds)


def chunks(runs: Sequence[Run], site: Site, measured: cost.Measured) -> list[Array]:
    """As the planner did before: runs of about the same memory, the longest first, in packs of as many as run at a
    time, or as give each job one pack, and surely end in time; an array asks for its longest pack's time."""
    arrays = []
    for _, group in sorted(_by_memory(runs, site, measured).items()):
        slots = 1 if cost.budgeted_seconds(group[0].config) else min(_fitting(run, site, measured) for run in group)
        seconds = {run.id: measured.seconds(run.config, *run.stages, slots=slots) for run in group}
        group.sort(key=lambda run: -seconds[run.id])
        in_time, total = 0, 0.0
        while in_time < len(group) and total + seconds[group[in_time].id] <= site.max_time * 60 / cost.TIME_MARGIN:
            total, in_time = total + seconds[group[in_time].id], in_time + 1
        size = max(1, min(in_time, max(slots, math.ceil(len(group) / (site.max_jobs or len(group))))))
        parts = [group[start : start + size] for start in range(0, len(group), size)]
        packs = tuple(
            Pack(tuple(PackItem(run.id, tuple((s, 1) for s in run.stages), seconds[run.id]) for run in part), 0, 0, 0)
            for part in parts
        )
        minutes = math.ceil(cost.TIME_MARGIN * sum(seconds[run.id] for run in parts[0]) / 600) * 10
        minutes = min(site.max_time, max(site.min_time, minutes))
        arrays.append(Array(Resources(min(slots, size), 1, site.cpus, site.memory_per_cpu, minutes), packs))
    return arrays


def _fitting(run: Run, site: Site, measured: cost.Measured) -> int:
    peak = measured.peak(run.config)
    assert peak
    return min(site.max_slots, int(0.9 * site.gpu_memory / (cost.MEMORY_MARGIN * peak.value + cost.CUDA_CONTEXT)))


def _by_memory(runs: Sequence[Run], site: Site, measured: cost.Measured) -> dict[int, list[Run]]:
    groups: dict[int, list[Run]] = {}
    for run in runs:
        alone = cost.budgeted_seconds(run.config) > 0
        groups.setdefault(0 if alone else int(math.log2(_fitting(run, site, measured))) + 1, []).append(run)
    return groups


PLANS: dict[str, Plan] = {"one run a GPU": one_a_gpu, "before": chunks, "packing": packed}


@dataclass(frozen=True)
class Found:
    """How one plan did in one draw: hours until the end, GPU-hours, the share of the slots' time without a run."""

    end: float
    asked: float
    held: float
    idle: float


def carry_out(arrays: Sequence[Array], runs: Sequence[Run], jobs: int, sigma: float, draw: int) -> Found:
    """Let an account that runs so many jobs at once work through these arrays."""
    by_id = {run.id: run for run in runs}
    wait = random.Random(f"wait {draw}")
    true = {run.id: random.Random(f"{run.id} {draw}").lognormvariate(0, sigma) for run in runs}
    queue: deque[tuple[Array, Pack, dict[PackItem, float] | None]] = deque(
        (array, pack, None) for array in arrays for pack in array.packs
    )
    free = [0.0] * jobs
    asked = held = busy = there = end = 0.0
    while queue:
        array, pack, left = queue.popleft()
        minutes = array.resources.minutes
        lived = needs.play(array, pack, by_id, CURVE, lambda run: true[run.id], minutes * 60 - SIGNAL, left)
        begun = heapq.heappop(free) + wait.expovariate(1 / WAIT)
        heapq.heappush(free, begun + lived.seconds)
        end, asked, held = max(end, begun + lived.seconds), asked + minutes / 60, held + lived.seconds
        busy, there = busy + lived.busy, there + lived.open
        if lived.left:
            queue.append((array, pack, lived.left))
    return Found(end / 3600, asked, held / 3600, 1 - busy / there)


@dataclass
class Task:
    """A task of an array, in its life."""

    array: Array
    pool: list[PackItem]  # of its array, what nobody has begun, the longest first
    own: list[PackItem]
    going: dict[PackItem, float]  # how much of each is left
    begun: float = 0.0
    apart: float = 0.0  # seconds, for what is alone on the device after all else
    apart_since: float | None = None
    busy: float = 0.0

    def fill(self, now: float) -> None:
        """Begin what fits: its own runs in their order, then the longest of others that would surely end in time."""
        resources = self.array.resources
        while len(self.going) < resources.slots and self.apart_since is None:
            free = (resources.memory_limit or math.inf) - sum(item.memory for item in self.going)
            self.own = [item for item in self.own if item in self.pool]
            time = (resources.minutes * 60 - SIGNAL - (now - self.begun)) / (len(self.going) + 1)
            fitting = (
                item
                for item in self.own or self.pool
                if (not self.going or item.memory <= free) and (self.own or item.seconds * item.margin <= time)
            )
            if (item := next(fitting, None)) is None:
                return
            self.pool.remove(item)
            self.going[item] = 1.0


def carry_out_pulling(arrays: Sequence[Array], runs: Sequence[Run], jobs: int, sigma: float, draw: int) -> Found:
    """As `carry_out`, where a task that has begun its own runs pulls others of its array (jobs/pulling.py)."""
    by_id = {run.id: run for run in runs}
    wait = random.Random(f"wait {draw}")
    true = {run.id: random.Random(f"{run.id} {draw}").lognormvariate(0, sigma) for run in runs}
    queue: deque[Task] = deque()
    for array in arrays:
        pool = sorted((item for pack in array.packs for item in pack.items), key=lambda i: -i.seconds * i.margin)
        queue += [Task(array, pool, list(pack.items), {}) for pack in array.packs]
    asked = held = busy = there = end = now = 0.0
    starts = [wait.expovariate(1 / WAIT) for _ in range(jobs)]
    heapq.heapify(starts)
    working: list[Task] = []

    def lasts(task: Task, item: PackItem) -> float:
        run = by_id[item.run_id]
        return true[run.id] * needs.seconds_beside(run, item, CURVE, len(task.going))

    def next_event(task: Task) -> float:
        if task.apart_since is not None:
            return task.apart_since + task.apart
        limit = task.begun + task.array.resources.minutes * 60 - SIGNAL
        return min(limit, now + min((left * lasts(task, i) for i, left in task.going.items()), default=0.0))

    while working or (queue and starts):
        then = min([*(next_event(task) for task in working), *(starts[:1] if queue else [])])
        for task in working:
            task.busy += (then - now) * max(1, len(task.going))
            if task.apart_since is None:
                task.going = {i: left - (then - now) / lasts(task, i) for i, left in task.going.items()}
        now = then
        if queue and starts and starts[0] <= now:
            heapq.heappop(starts)
            task = queue.popleft()
            task.begun, task.busy, task.apart, task.apart_since = now, 0.0, 0.0, None
            asked += task.array.resources.minutes / 60
            working.append(task)
        for task in list(working):
            for item in [item for item, left in task.going.items() if left <= 1e-9]:
                run = by_id[item.run_id]
                task.apart += true[run.id] * needs.seconds_apart(run, item)
                del task.going[item]
            late = now - task.begun >= task.array.resources.minutes * 60 - SIGNAL - 1e-6
            if not late or task.apart_since is not None:
                task.fill(now)
            if not task.going and task.apart_since is None:
                task.apart_since = now
            ended = task.apart_since is not None and now >= task.apart_since + task.apart - 1e-9
            if ended or (late and task.going):
                working.remove(task)
                heapq.heappush(starts, now + wait.expovariate(1 / WAIT))
                lived = now - task.begun
                held, busy, there = held + lived, busy + task.busy, there + lived * task.array.resources.slots
                end = max(end, now) if lived else end
                if not ended:
                    queue.append(task)
    return Found(end / 3600, asked, held / 3600, 1 - busy / there)


def least(runs: Sequence[Run], jobs: int, sigma: float, draw: int) -> Found:
    """No plan ends sooner, nor holds its GPUs for less: all work over all lanes, or the longest run alone."""
    true = {run.id: random.Random(f"{run.id} {draw}").lognormvariate(0, sigma) for run in runs}
    work = sum(true[run.id] * needs.needed([run], CURVE) for run in runs)
    longest = max(true[run.id] * needs.needed([run], {1: 1.0}) for run in runs)
    return Found(max(work / jobs, longest) / 3600, work / 3600, work / 3600, 0.0)


def compared(runs: Sequence[Run], jobs: int, sigma: float, draws: int) -> dict[str, list[Found]]:
    """By plan, and by what no plan can do better than."""
    site = profiles.load("delftblue").model_copy(update={"max_jobs": jobs})
    measured = needs.measured(runs, site, CURVE)
    plans = {name: plan(runs, site, measured) for name, plan in PLANS.items()}
    found = {
        name: [carry_out(arrays, runs, jobs, sigma, draw) for draw in range(draws)] for name, arrays in plans.items()
    }
    pulling = [carry_out_pulling(plans["packing"], runs, jobs, sigma, draw) for draw in range(draws)]
    return (
        found
        | {"packing, pulling": pulling}
        | {"lower bound": [least(runs, jobs, sigma, draw) for draw in range(draws)]}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    draws = parser.parse_args().draws
    grids_of = {
        "whole manifest": grid(), "132 runs": grid(studies=["activations"]), "1,000 mixed": grid(seeds=8, count=1_000)
    }  # fmt: skip
    names = " / ".join((*PLANS, "packing, pulling", "lower bound"))
    print(f"Each cell: {names}\n\n| grid | jobs at once | off by | end, h | asked, GPU-h | held, GPU-h | idle |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for title, runs in grids_of.items():
        for jobs, sigma in itertools.product((1, 4, 8), (0.3, 0.7)):
            found = compared(runs, jobs, sigma, draws).values()
            cells = [
                " / ".join(format(statistics.mean(getattr(each, key) for each in draw), how) for draw in found)
                for key, how in (("end", ",.0f"), ("asked", ",.0f"), ("held", ",.0f"), ("idle", ".0%"))
            ]
            print(f"| {title} | {jobs} | {sigma} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
