"""Turn what is to be done into packs, and packs into arrays. A pack is what one array task works through. An array is
packs with the same resources, at most MaxArraySize of them, indexed from 0. Pure: reads no files, calls no SLURM."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from cluster.errors import InputError
from cluster.files.records import Run
from cluster.plan import cost
from cluster.plan.choosing import PackItem
from cluster.plan.memo import PerSettings
from cluster.sites.profiles import Site
from tiny_transformers.settings.config import RunConfig, tokens_at_once

TIME_MARGIN = 1.5  # asked for / estimated
TIME_STEP = 10  # minutes
LEAST_TOKENS = 512  # of a micro-batch: a whole story
NEARLY = 0.03  # of the best throughput, that fewer runs at a time may lack


@dataclass(frozen=True)
class Resources:
    """The resources of one pack, in sbatch's units."""

    slots: int
    gpus: int
    cpus: int
    memory_per_cpu: int  # MB
    minutes: int
    exclude: tuple[str, ...] = ()  # nodes


@dataclass(frozen=True)
class Sizing:
    """How the size of packs came about; the words are shown to the user."""

    largest: str  # name of the run whose memory decides
    memory: int  # MB that it is planned with; on a GPU without the context of its process
    memory_basis: str
    slots: int
    slots_bound: str  # what allows no more
    size: int  # runs per pack
    size_bound: str


@dataclass(frozen=True)
class Pack:
    items: tuple[PackItem, ...]

    @property
    def seconds(self) -> float:
        # Runs that share a device share its speed, which is the measured one of so many, if there is one.
        return sum(item.seconds for item in self.items)


@dataclass(frozen=True)
class Array:
    resources: Resources
    packs: tuple[Pack, ...]
    sizing: Sizing | None = None

    def at_a_time(self, pack: Pack) -> int:
        """Runs of this pack that go on at once: it may have fewer than slots."""
        return min(self.resources.slots, len(pack.items))


def arrange(
    items: Sequence[PackItem], runs: Mapping[str, Run], site: Site, measured: cost.Measured | None = None
) -> list[Array]:
    """Items -> packs -> arrays, for this site. An array has one set of resources, so what must run with less memory,
    off certain nodes or alone has arrays of its own; and so have runs that need more than twice the memory of others,
    of which there would be few at a time on their account.

    Raises InputError if a run does not fit the site at all."""
    groups: dict[tuple[int, tuple[str, ...], bool], list[PackItem]] = {}
    if site.scheduler == "local" and items:  # one pack, as careful as any of its runs needs
        alone = any(_alone(item, runs) for item in items)
        groups[max(item.adjustment.less_memory for item in items), (), alone] = list(items)
    else:
        for item in items:
            key = item.adjustment.less_memory, item.adjustment.exclude, _alone(item, runs)
            groups.setdefault(key, []).append(item)
    measured = measured or cost.Measured(site.flops)
    return [
        array
        for (less_memory, exclude, alone), group in groups.items()
        for part in ([group] if alone or site.scheduler == "local" else _by_memory(group, runs, site, measured))
        for array in _arrange_alike(part, runs, site, measured, less_memory, exclude)
    ]


def _by_memory(
    items: Sequence[PackItem], runs: Mapping[str, Run], site: Site, measured: cost.Measured
) -> list[list[PackItem]]:
    """Parts in which as many runs as the largest one allows at a time are more than half of what any of them would
    allow by itself; the part of most runs at a time first."""
    fitting = PerSettings(lambda config: _fitting(config, site, measured))
    parts: list[list[PackItem]] = []
    least = 0
    for item in sorted(items, key=lambda item: fitting.of(runs[item.run_id].config)):
        fits = fitting.of(runs[item.run_id].config)
        if not parts or fits >= 2 * max(1, least):
            parts.append([])
            least = fits
        parts[-1].append(item)
    return parts[::-1]


def _fitting(config: RunConfig, site: Site, measured: cost.Measured) -> int:
    """How many runs like this one fit on the site's device at a time, by memory and CPUs; where that is given, the
    same for all."""
    if site.slots or site.mig:
        return 1
    peak = measured.peak(config)
    need = peak.value * cost.MEMORY_MARGIN if peak else measured.closed_form(config, bool(site.gpus))
    bounds = _memory_bounds(_Need("", math.ceil(need), ""), site)
    return min(site.max_slots, max(1, site.cpus // 2), *(slots for slots, _ in bounds))


def _alone(item: PackItem, runs: Mapping[str, Run]) -> bool:
    """Whether others on the device would take from the result: what a run learns in some hours depends on the speed."""
    pretrains = any(stage == "pretrain" for stage, _ in item.stages)
    return pretrains and cost.budgeted_seconds(runs[item.run_id].config) > 0


def _arrange_alike(
    items: Sequence[PackItem],
    runs: Mapping[str, Run],
    site: Site,
    measured: cost.Measured,
    less_memory: int,
    exclude: tuple[str, ...],
) -> list[Array]:
    sizing, halvings = _with_less_memory(size(items, runs, site, measured), less_memory, len(items))
    items = [_shrunk(item, runs[item.run_id], halvings, site) for item in items]
    # The longest first, so that packs of one array end together and the last slot does not wait for a long run.
    ordered = sorted(items, key=lambda item: -item.seconds)
    parts = [ordered[start : start + sizing.size] for start in range(0, len(ordered), sizing.size)]
    packs = [Pack(_timed(part, runs, measured, min(sizing.slots, len(part)))) for part in parts]
    arrays = []
    for start in range(0, len(packs), site.max_array_size):
        part = tuple(packs[start : start + site.max_array_size])
        resources = replace(_resources(part, sizing.slots, site), exclude=exclude)
        arrays.append(Array(resources, part, sizing))
    return arrays


def _with_less_memory(sizing: Sizing, halvings: int, runs: int) -> tuple[Sizing, int]:
    """Fewer runs at a time; and how often the micro-batch is to be halved once there is one at a time."""
    slots = min(sizing.slots, runs) if halvings else sizing.slots
    while halvings and slots > 1:
        slots, halvings = slots // 2, halvings - 1
    if slots < sizing.slots:
        sizing = replace(sizing, slots=slots, slots_bound=f"{sizing.slots} ran out of memory")
    return sizing, halvings


def _shrunk(item: PackItem, run: Run, halvings: int, site: Site) -> PackItem:
    """With a smaller micro-batch, unless that would change the result."""
    if not halvings or not run.config.model.micro_batch_is_free:
        return item
    tokens = tokens_at_once(run.config, gpu=bool(site.gpus))
    return replace(item, micro_batch_tokens=min(tokens, max(LEAST_TOKENS, tokens // 2**halvings)))


def size(items: Sequence[PackItem], runs: Mapping[str, Run], site: Site, measured: cost.Measured) -> Sizing:
    """How many runs a pack of these has, and how many of them at a time.

    Raises InputError if a run does not fit the site at all."""
    need = _memory([runs[item.run_id] for item in items], site, measured)
    slots, slots_bound = _slots(need, site, _gains(items, runs, measured))
    if slots > 1 and any(_alone(item, runs) for item in items):
        slots, slots_bound = 1, "a budget of hours is for a run alone"
    count, count_bound = _runs_per_pack(_timed(items, runs, measured, slots), slots, site)
    if count < slots:
        slots, slots_bound = count, f"runs in a pack: {count_bound}"
    return Sizing(need.largest, need.memory, need.basis, slots, slots_bound, count, count_bound)


def _timed(
    items: Sequence[PackItem], runs: Mapping[str, Run], measured: cost.Measured, slots: int
) -> tuple[PackItem, ...]:
    """With the time that they take at the measured speed of so many runs at a time."""
    if not measured.together:
        return tuple(items)
    timed = []
    for item in items:
        config, stages = runs[item.run_id].config, [stage for stage, _ in item.stages]
        factor = measured.seconds(config, *stages, slots=slots) / measured.seconds(config, *stages)
        timed.append(replace(item, seconds=item.seconds * factor))
    return tuple(timed)


def _gains(items: Sequence[PackItem], runs: Mapping[str, Run], measured: cost.Measured) -> dict[int, float]:
    """Runs at a time -> how much sooner all of these are done than one after another, as measured; {} if it was not."""
    if not measured.gains:
        return {}
    curves = [(measured.curve(runs[item.run_id].config), item.seconds) for item in items]
    alone = sum(seconds for _, seconds in curves)
    return {number: alone / sum(seconds / curve[number] for curve, seconds in curves) for number in curves[0][0]}


@dataclass(frozen=True)
class _Need:
    """The memory that slots are planned by."""

    largest: str  # name of the run
    memory: int  # MB; on a GPU without the context of its process, on a CPU of the whole process
    basis: str


def _memory(runs: Sequence[Run], site: Site, measured: cost.Measured) -> _Need:
    """As measured if every architecture was; otherwise the closed form, since the largest may be one that was not."""
    peaks = [(peak, run) for run in runs if (peak := measured.peak(run.config))]
    if len(peaks) == len(runs):
        peak, run = max(peaks, key=lambda pair: pair[0].value)
        return _Need(run.name, math.ceil(peak.value * cost.MEMORY_MARGIN), f"{peak.basis} x {cost.MEMORY_MARGIN}")
    run = max(runs, key=lambda run: measured.closed_form(run.config, bool(site.gpus)))
    need = measured.closed_form(run.config, bool(site.gpus))
    if site.gpus:
        return _Need(run.name, need, "closed form")
    return _Need(run.name, need + cost.CPU_PROCESS_MEMORY, f"closed form, and {cost.CPU_PROCESS_MEMORY} for Python")


def _slots(need: _Need, site: Site, gains: Mapping[int, float]) -> tuple[int, str]:
    """As many as were measured to be best together; if that is not known, the least of all bounds, and which it is. The
    user's own `slots` is taken as it is."""
    if site.slots:
        return site.slots, "the site's `slots`"
    if site.mig:
        return 1, "a MIG slice takes one run"
    bounds = [(site.max_slots, "the site's max_slots"), *_memory_bounds(need, site)]
    if best := _best(gains, *min([*bounds, (site.cpus, f"{site.cpus} CPUs")], key=lambda pair: pair[0])):
        return best
    if site.scheduler == "local":
        return site.local_slots, "one a GPU" if site.gpus else f"2 of {site.cpus} CPUs each"
    bounds.insert(1, (max(1, site.cpus // 2), f"2 of {site.cpus} CPUs each"))
    slots, bound = min(bounds, key=lambda pair: pair[0])
    if slots < 1:
        raise InputError(
            f"{need.largest} needs about {need.memory} MB on the device: more than site {site.name} gives one pack "
            f"({bound}). Lower train.micro_batch_tokens, or raise the site's memory."
        )
    return slots, bound


def _memory_bounds(need: _Need, site: Site) -> list[tuple[int, str]]:
    host = site.cpus * site.memory_per_cpu
    if not site.gpus:
        return [(host // need.memory, f"memory, {host:,} MB / {need.memory:,} MB")]
    usable, each = int(0.9 * site.gpu_memory), need.memory + cost.CUDA_CONTEXT
    return [
        (site.gpus * (usable // each), f"GPU memory, {usable:,} MB / {each:,} MB"),
        (host // cost.PROCESS_MEMORY, f"host memory, {host:,} MB / {cost.PROCESS_MEMORY:,} MB"),
    ]


def _best(gains: Mapping[int, float], most: int, bound: str) -> tuple[int, str] | None:
    """Return the number of runs at a time, at most so many, with the best throughput, of nearly equal ones the fewest,
    and why; None if nothing can be compared."""
    allowed = {number: gain for number, gain in gains.items() if number <= most}
    if len(allowed) < 2:
        return None
    best = min(number for number, gain in allowed.items() if gain >= (1 - NEARLY) * max(allowed.values()))
    shown = best if best > 1 else max(allowed, key=lambda number: (number > 1, allowed[number]))
    words = f"measured: {shown} at a time give {allowed[shown]:.2g} x one"
    if max(gains.values()) * (1 - NEARLY) > allowed[best]:
        words += f"; more is not allowed: {bound}"
    elif best == max(gains) < most:
        words += "; more were not tried"
    return best, words


def _runs_per_pack(items: Sequence[PackItem], slots: int, site: Site) -> tuple[int, str]:
    """As many as slots, or, where the account may run few tasks at once, as many as give each of them one long pack;
    no more than surely end within the site's time limit, whichever they are."""
    if site.scheduler == "local":
        return len(items), "all in one pack on this machine"
    if site.runs_per_pack:
        return site.runs_per_pack, "the site's runs_per_pack"
    wanted, bound = slots, "as many as run at a time"
    share = math.ceil(len(items) / site.max_jobs) if site.max_jobs else 0
    if share > slots:
        wanted, bound = share, f"{len(items)} runs for the {site.max_jobs} jobs that may run at once"
    in_time = _in_time(items, site)
    if in_time < min(wanted, len(items)):
        return max(1, in_time), f"what surely ends within {site.max_time / 60:g} h"
    return wanted, bound


def _in_time(items: Sequence[PackItem], site: Site) -> int:
    """How many of even the longest runs end within the time limit, one after another."""
    left = site.max_time * 60 / TIME_MARGIN
    longest = sorted((item.seconds for item in items), reverse=True)
    return sum(total <= left for total in accumulate(longest))


def _resources(packs: Sequence[Pack], slots: int, site: Site) -> Resources:
    longest = max(pack.seconds for pack in packs)
    wanted = math.ceil(TIME_MARGIN * longest / 60 / TIME_STEP) * TIME_STEP
    least = max(item.adjustment.minutes for pack in packs for item in pack.items)
    minutes = min(site.max_time, max(site.min_time, wanted, least))
    return Resources(slots, site.gpus, site.cpus, site.memory_per_cpu, minutes)


def too_long(items: Iterable[PackItem], site: Site) -> str | None:
    """Return what to say of runs that may not end within the site's time limit; None if there are none."""
    needs = [TIME_MARGIN * item.seconds / 60 for item in items if TIME_MARGIN * item.seconds / 60 > site.max_time]
    if not needs:
        return None
    count, longest = len(needs), max(needs)
    start = (
        f"{count} run{'s' if count > 1 else ''} may need up to {longest / 60:,.1f} h, more than the site's "
        f"{site.max_time / 60:g} h"
    )
    if site.scheduler == "local" or not site.sbatch.get("requeue", True):
        return f"{start}: they stop then, and `rerun --failed` goes on from their checkpoints."
    times = math.ceil(longest / site.max_time) - 1
    return f"{start}: they will be requeued up to {times} time{'s' if times > 1 else ''}, and go on from checkpoints."


def gpu_hours(arrays: Iterable[Array]) -> float:
    """Estimated hours of whole packs: GPU-hours where a pack has a GPU."""
    return sum(pack.seconds for array in arrays for pack in array.packs) / 3600
