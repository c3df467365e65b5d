"""Turn what is to be done into packs, and packs into arrays. A pack is what one array task works through: a schedule on
one GPU (`lanes`), in which long runs share it with short ones beside or after them, within its memory and the site's
time. An array is packs of about the same length with the same resources, at most MaxArraySize of them, indexed from 0.
Pure: reads no files, calls no SLURM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby

from cluster.errors import InputError
from cluster.files.records import Run
from cluster.plan import cost, lanes
from cluster.plan.choosing import PackItem
from cluster.plan.lanes import Course, Load
from cluster.plan.memo import PerSettings
from cluster.sites.profiles import Site
from tiny_transformers.settings.config import RunConfig, tokens_at_once
from tiny_transformers.settings.stages import STAGES

TIME_STEP = 10  # minutes
LEAST_TOKENS = 512  # of a micro-batch: a whole story
NEARLY = 0.03  # of the best throughput, that fewer runs at a time may lack
USABLE = 0.9  # of a GPU's memory
SIMILAR = 1.15  # longest / shortest pack of an array: all of them ask for the longest's time
QUEUE = 1_800.0  # seconds that a pack is taken to wait in the queue
SOONEST = 1.05  # of the soonest end, within which a plan is as good: the one that asks for least is taken
TOGETHER = 1.02  # of an equal share: packs are not filled to the last second
FINER = 1.5  # between the lengths of packs that are tried
SAMPLE = 500  # runs by which the length is chosen, where there are many more


@dataclass(frozen=True)
class Resources:
    """The resources of one pack, in sbatch's units."""

    slots: int
    gpus: int
    cpus: int
    memory_per_cpu: int  # MB
    minutes: int
    exclude: tuple[str, ...] = ()  # nodes
    memory_limit: int | None = None  # MB of the device that runs at work take together, as planned; None: slots say it


@dataclass(frozen=True)
class Sizing:
    """How the size of packs came about; the words are shown to the user."""

    largest: str  # name of the run whose memory is the most
    memory: int  # MB that it is planned with; on a GPU without the context of its process
    memory_basis: str
    slots: int
    slots_bound: str  # what allows no more
    size_bound: str  # why packs are as long as they are


@dataclass(frozen=True)
class Pack:
    """Runs in the order in which they begin, and what is predicted of them together."""

    items: tuple[PackItem, ...]
    seconds: float  # from the first run's beginning to the last one's end
    busy: float  # seconds of all runs, from the beginning of each to its end
    open: float  # seconds that its slots are there for them

    @cached_property
    def asked(self) -> float:
        """Seconds, with each run's margin."""
        return sum(item.seconds * item.margin for item in self.items)


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
    off certain nodes or alone has arrays of its own.

    Raises InputError if a run does not fit the site at all."""
    groups: dict[tuple[int, tuple[str, ...], bool], list[PackItem]] = {}
    if site.scheduler == "local" and items:  # one pack, as careful as any of its runs needs
        alone = any(_alone(item, runs) for item in items)
        groups[max(item.adjustment.less_memory for item in items), (), alone] = list(items)
    else:
        for item in items:
            key = item.adjustment.less_memory, item.adjustment.exclude, _alone(item, runs)
            groups.setdefault(key, []).append(item)
    measured = measured or cost.Measured.nothing(site)
    arrays = [
        array
        for (less_memory, exclude, alone), group in groups.items()
        for array in _Group(group, runs, site, measured, less_memory, exclude, alone).arrays()
    ]
    # Where not all run at once, the longest begin first, so that none of them is the last one left.
    return sorted(arrays, key=lambda array: -array.packs[0].seconds)


def _alone(item: PackItem, runs: Mapping[str, Run]) -> bool:
    """Whether others on the device would take from the result: what a run learns in some hours depends on the speed."""
    budgeted = cost.budgeted_seconds(runs[item.run_id].config) > 0
    return budgeted and any(stage == "pretrain" for stage, _ in item.stages)


class _Group:
    """Items that may share packs."""

    def __init__(
        self,
        items: Sequence[PackItem],
        runs: Mapping[str, Run],
        site: Site,
        measured: cost.Measured,
        less_memory: int,
        exclude: tuple[str, ...],
        alone: bool,
    ) -> None:
        self.runs, self.site, self.measured, self.exclude = runs, site, measured, exclude
        self.stages, self.parted = cache(_names), cache(_parted)
        needs, said = PerSettings(lambda config: _model_need(config, site, measured)), cache(cost.own_memory)
        self.needs = {
            item.run_id: _need(needs.of(runs[item.run_id].config), said(self.stages(item.stages))) for item in items
        }
        self.largest = max(items, key=lambda item: self.needs[item.run_id][0])
        # The job fits its runs into one GPU's memory, or into the host's. Elsewhere slots are those of the largest run.
        self.fits_memory = site.scheduler == "slurm" and site.gpus <= 1 and not (site.slots or site.mig or less_memory)
        self.slots, self.bound = self._slots(items, alone)
        halvings = 0
        if less_memory:
            self.slots, halvings = _fewer(self.slots, less_memory, len(items))
            self.bound = "as many as before ran out of memory" if halvings < less_memory else self.bound
        self.items = [_shrunk(item, runs[item.run_id], halvings, site) for item in items] if halvings else items

    def arrays(self) -> list[Array]:
        loads = self._loads()
        courses, why = self._courses(loads)
        packs = [(self._pack(course), course.lanes) for course in courses]
        packs.sort(key=lambda pair: (-pair[1], -pair[0].asked))
        arrays = []
        for slots, alike in groupby(packs, key=lambda pair: pair[1]):
            for part in self._parts([pack for pack, _ in alike]):
                arrays.append(Array(self._resources(part, slots), part, self._sizing(part, slots, why)))
        return arrays

    def _slots(self, items: Sequence[PackItem], alone: bool) -> tuple[int, str]:
        """Raises InputError if a run does not fit the site at all."""
        site = self.site
        gains = _gains(items, self.runs, self.measured)
        smallest = min(items, key=lambda item: self.needs[item.run_id][0])
        slots, bound = _slots(self._need(self.largest), site, gains)  # which says so where even one is too large
        if self.fits_memory:
            slots, bound = _slots(self._need(smallest), site, gains)
        if alone and slots > 1:
            return 1, "a budget of hours is for a run alone"
        return slots, bound

    def _need(self, item: PackItem) -> _Need:
        return _Need(self.runs[item.run_id].name, *self.needs[item.run_id])

    def _taken(self, item: PackItem) -> int:
        return self.needs[item.run_id][0] + (cost.CUDA_CONTEXT if self.site.gpus else 0)

    def _loads(self) -> list[Load]:
        """In the order of the items."""
        figures = PerSettings(self._figures)
        loads = []
        for item in self.items:
            whole, shares, apart = figures.of(self.runs[item.run_id].config, self.stages(item.stages))
            factor = item.seconds / whole
            lasts = tuple([factor * number * share for number, share in enumerate(shares, 1)])
            loads.append(Load(lasts, self._taken(item) if self.fits_memory else 0, factor * apart))
        return loads

    def _figures(self, config: RunConfig, stages: tuple[str, ...]) -> tuple[float, tuple[float, ...], float]:
        """Return the seconds of these stages: of all, of those that go beside others for each number of runs at a time,
        and of those that are alone on the device."""
        together, apart = self.parted(stages)
        shares = self.measured.shares(config, *together, most=self.slots)
        alone = self.measured.seconds(config, *apart) if apart else 0.0
        return shares[0] + alone, shares, alone

    def _courses(self, loads: Sequence[Load]) -> tuple[list[Course], str]:
        """The packs, and why they are as long as they are."""
        site = self.site
        order = sorted(range(len(loads)), key=lambda number: -(loads[number].lasts[-1] + loads[number].alone))
        if site.scheduler == "local" or site.runs_per_pack:
            size = len(loads) if site.scheduler == "local" else site.runs_per_pack or 1
            why = "all in one pack on this machine" if site.scheduler == "local" else "the site's runs_per_pack"
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            courses = [lanes.work_through([loads[n] for n in part], self.slots, self._room) for part in parts]
            return [
                replace(course, order=tuple(part[place] for place in course.order))
                for part, course in zip(parts, courses, strict=True)
            ], why
        most = site.max_time * 60 / max(item.margin for item in self.items)
        length = self._length([loads[number] for number in order], most)
        why = f"as many as end beside the longest, or within {length / 3600:.1f} h, by which all is done soonest"
        return lanes.pack(loads, self.slots, length, most, self._room), why

    @property
    def _room(self) -> float:
        return _limit(self.site) if self.fits_memory else math.inf

    def _length(self, loads: Sequence[Load], most: float) -> float:
        """Return the length of packs by which all is done soonest; of those that end nearly as soon, the one that asks
        for the fewest hours."""
        step = max(1, len(loads) // SAMPLE)
        sample = loads[::step]
        margin = max(item.margin for item in self.items)
        shortest = self.site.min_time * 60 / margin
        tried: list[tuple[float, float, float]] = []
        for length in self._lengths(loads, shortest, most):
            seconds = [course.seconds for course in lanes.pack(sample, self.slots, length, most, self._room)]
            end = lanes.end_of(seconds * step, jobs_at_once(self.site), QUEUE)
            asked = sum(max(each, shortest) + TIME_STEP * 60 / 2 for each in seconds)
            tried.append((end, asked, length))
        soonest = min(end for end, _, _ in tried)
        return min((asked, length) for end, asked, length in tried if end <= SOONEST * soonest)[1]

    def _lengths(self, loads: Sequence[Load], shortest: float, most: float) -> list[float]:
        """Return lengths to try: from the site's limit downwards, and those by which each of the jobs that the account
        runs at once gets the same number of packs."""
        lengths = [most]
        while lengths[-1] / FINER >= shortest:
            lengths.append(lengths[-1] / FINER)
        if jobs := jobs_at_once(self.site):
            share = sum(load.lasts[-1] / self.slots + load.alone for load in loads) / jobs
            lengths += [TOGETHER * share / number for number in (1, 2, 3, 4)]
        return [length for length in lengths if shortest <= length <= most] or [most]

    def _pack(self, course: Course) -> Pack:
        items = tuple(
            self.items[number]._replace(seconds=share, memory=self._taken(self.items[number]))
            for number, share in zip(course.order, course.shares, strict=True)
        )
        return Pack(items, course.seconds, course.busy, course.open)

    def _parts(self, packs: Sequence[Pack]) -> list[tuple[Pack, ...]]:
        """Packs of about the same length, or all where the user says how many runs they have; the longest first, cut at
        what an array may have."""
        parts: list[list[Pack]] = []
        for pack in packs:
            like = parts and (self._same_time(parts[-1][0], pack) or self.site.runs_per_pack)
            if not like or len(parts[-1]) == self.site.max_array_size:
                parts.append([])
            parts[-1].append(pack)
        return [tuple(part) for part in parts]

    def _same_time(self, longest: Pack, pack: Pack) -> bool:
        return longest.asked <= SIMILAR * pack.asked or self._minutes([longest]) == self._minutes([pack])

    def _resources(self, packs: Sequence[Pack], slots: int) -> Resources:
        site = self.site
        slots = min(slots, max(len(pack.items) for pack in packs))
        limit = int(self._room) if self.fits_memory else None
        return Resources(slots, site.gpus, site.cpus, site.memory_per_cpu, self._minutes(packs), self.exclude, limit)

    def _minutes(self, packs: Sequence[Pack]) -> int:
        wanted = math.ceil(max(pack.asked for pack in packs) / 60 / TIME_STEP) * TIME_STEP
        least = max(item.adjustment.minutes for pack in packs for item in pack.items)
        return min(self.site.max_time, max(self.site.min_time, wanted, least))

    def _sizing(self, packs: Sequence[Pack], slots: int, why: str) -> Sizing:
        need = self._need(max((item for pack in packs for item in pack.items), key=lambda item: item.memory))
        bound = self.bound
        if slots < self.slots:
            bound = f"beside more the longest run would not surely end within {self.site.max_time / 60:g} h"
        return Sizing(need.largest, need.memory, need.basis, slots, bound, why)


def jobs_at_once(site: Site) -> int | None:
    """How many packs may run at once; None: as many as there are."""
    return min((limit for limit in (site.max_jobs, site.max_tasks_at_once) if limit), default=None)


def _fewer(slots: int, halvings: int, runs: int) -> tuple[int, int]:
    """Fewer runs at a time; and how often the micro-batch is to be halved once there is one at a time."""
    slots = min(slots, runs)
    while halvings and slots > 1:
        slots, halvings = slots // 2, halvings - 1
    return slots, halvings


def _shrunk(item: PackItem, run: Run, halvings: int, site: Site) -> PackItem:
    """With a smaller micro-batch, unless that would change the result."""
    if not halvings or not run.config.model.micro_batch_is_free:
        return item
    tokens = tokens_at_once(run.config, gpu=bool(site.gpus))
    return item._replace(micro_batch_tokens=min(tokens, max(LEAST_TOKENS, tokens // 2**halvings)))


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


def _names(stages: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple([stage for stage, _ in stages])


def _parted(stages: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that go beside others, and those that are alone on the device."""
    apart = tuple([stage for stage in stages if STAGES[stage].alone])
    return tuple([stage for stage in stages if stage not in apart]), apart


def _need(of_model: tuple[int, str], said: int) -> tuple[int, str]:
    """The MB that a run's stages are planned with, and by what: its model, or what a user says of stages of their
    own."""
    return (said, "a stage's `memory`") if said > of_model[0] else of_model


def _model_need(config: RunConfig, site: Site, measured: cost.Measured) -> tuple[int, str]:
    """As measured, or else by the closed form."""
    if peak := measured.peak(config):
        return math.ceil(peak.value * cost.MEMORY_MARGIN), f"{peak.basis} x {cost.MEMORY_MARGIN}"
    need = cost.memory(config, bool(site.gpus))
    if site.gpus:
        return need, "closed form"
    return need + cost.CPU_PROCESS_MEMORY, f"closed form, and {cost.CPU_PROCESS_MEMORY} for Python"


def _limit(site: Site) -> int:
    """MB of the device."""
    return int(USABLE * site.gpu_memory) if site.gpus else site.cpus * site.memory_per_cpu


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
        return [(host // max(1, need.memory), f"memory, {host:,} MB / {need.memory:,} MB")]
    usable, each = _limit(site), need.memory + cost.CUDA_CONTEXT
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
