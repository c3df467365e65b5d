"""manifest + ledger -> runs -> packs -> arrays. Pure: reads no files, calls no SLURM.

A run's id is a hash of everything that can change its result. A pack is what one array task works through. An array
is packs with the same resources, at most MaxArraySize of them, indexed from 0."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster import cost
from cluster.errors import InputError
from cluster.manifest import Cell
from cluster.site import Site
from tiny_transformers.architecture import Architecture, label, num_heads, num_layers, num_parameters
from tiny_transformers.config import NEEDS, STAGES, RunConfig, Train

TIME_MARGIN = 1.5  # asked for / estimated
TIME_STEP = 10  # minutes


@dataclass(frozen=True)
class Run:
    id: str
    name: str
    config: RunConfig
    stages: tuple[str, ...]
    studies: tuple[str, ...]

    @property
    def parameters(self) -> int:
        return num_parameters(self.config.model)


@dataclass(frozen=True)
class StageState:
    """What the ledger knows of one stage run."""

    status: str
    attempts: int  # the highest number so far


@dataclass(frozen=True)
class Item:
    """One run's share of a pack: stages in order, each with the number of its new attempt."""

    run_id: str
    stages: tuple[tuple[str, int], ...]
    seconds: float  # estimated


@dataclass(frozen=True)
class Resources:
    """Of one pack, in sbatch's units."""

    slots: int
    gpus: int
    cpus: int
    memory_per_cpu: int  # MB
    minutes: int


@dataclass(frozen=True)
class Pack:
    items: tuple[Item, ...]

    @property
    def seconds(self) -> float:
        # Runs that share a device are taken to share its speed: no gain is promised before it is measured.
        return sum(item.seconds for item in self.items)


@dataclass(frozen=True)
class Array:
    resources: Resources
    packs: tuple[Pack, ...]


# -- runs -------------------------------------------------------------------------------------------------------------


def expand(cells: Iterable[Cell]) -> list[Run]:
    """Runs in the order of the cells; a run that several studies contain is there once, with all its stages."""
    runs: dict[str, Run] = {}
    for cell in cells:
        run_id = identity(cell.config)
        run = runs.setdefault(run_id, Run(run_id, name(cell.model, cell.config), cell.config, (), ()))
        studies = run.studies if cell.study in run.studies else (*run.studies, cell.study)
        runs[run_id] = replace(run, stages=_in_order((*run.stages, *cell.stages)), studies=studies)
    return list(runs.values())


def identity(config: RunConfig) -> str:
    """12 hexadecimal digits of the SHA-256 of the settings as canonical JSON."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def name(model: str, config: RunConfig) -> str:
    """Readable; not unique: the id is."""
    steps = config.train.max_steps
    trained = "" if steps == Train().max_steps else f"-{steps}steps"
    return f"{model_name(model, config.model)}{trained}-s{config.seed}"


def model_name(model: str, shape: Architecture) -> str:
    """With the true parameter count; `model` is its name in the manifest."""
    return (
        f"{model}-{label(shape)}-{num_parameters(shape) / 1e6:.2f}M-{num_layers(shape)}L-{num_heads(shape)}H"
        f"-{shape.hidden_size}C-{shape.intermediate_size}I"
    )


def _in_order(stages: Iterable[str]) -> tuple[str, ...]:
    chosen = set(stages)
    return tuple(stage for stage in STAGES if stage in chosen)


# -- what is to be done -----------------------------------------------------------------------------------------------


def missing(run: Run, states: Mapping[str, StageState]) -> list[str]:
    """Stages of this run that were never tried and can go ahead: what they need is completed or goes with them."""
    chosen: list[str] = []
    for stage in run.stages:
        if status(states, stage) not in ("eligible", "waiting"):
            continue
        if ready(stage, chosen, states):
            chosen.append(stage)
    return chosen


def ready(stage: str, chosen: Sequence[str], states: Mapping[str, StageState]) -> bool:
    """Whether all that a stage needs is completed or goes with it."""
    return all(need in chosen or status(states, need) == "completed" for need in NEEDS[stage])


def status(states: Mapping[str, StageState], stage: str) -> str:
    return states[stage].status if stage in states else "waiting"


def redo(run: Run, stages: Iterable[str]) -> list[str]:
    """These stages of the run and whatever follows from them, in order."""
    chosen = set(stages)
    for stage in run.stages:
        if chosen & set(NEEDS[stage]):
            chosen.add(stage)
    return list(_in_order(chosen & set(run.stages)))


def item(run: Run, stages: Sequence[str], states: Mapping[str, StageState], rates: cost.Rates) -> Item:
    numbered = tuple((stage, states[stage].attempts + 1 if stage in states else 1) for stage in stages)
    return Item(run.id, numbered, sum(cost.seconds(run.config, stage, rates) for stage in stages))


# -- packs and arrays -------------------------------------------------------------------------------------------------


def arrange(items: Sequence[Item], runs: Mapping[str, Run], site: Site) -> list[Array]:
    """Items -> packs -> arrays, for this site.

    Raises InputError if a run does not fit the site at all."""
    if not items:
        return []
    slots = _slots([runs[item.run_id] for item in items], site)
    size = len(items) if site.scheduler == "local" else _runs_per_pack(items, slots, site)
    slots = min(slots, size)
    # The longest first, so that packs of one array end together and the last slot does not wait for a long run.
    ordered = sorted(items, key=lambda item: -item.seconds)
    packs = [Pack(tuple(ordered[start : start + size])) for start in range(0, len(ordered), size)]
    arrays = []
    for start in range(0, len(packs), site.max_array_size):
        part = tuple(packs[start : start + site.max_array_size])
        arrays.append(Array(_resources(part, slots, site), part))
    return arrays


def _runs_per_pack(items: Sequence[Item], slots: int, site: Site) -> int:
    """No more than surely end within the site's time limit."""
    in_time = int(site.max_time * 60 / TIME_MARGIN / max(item.seconds for item in items))
    return site.runs_per_pack or max(1, min(slots, in_time))


def _slots(runs: Sequence[Run], site: Site) -> int:
    if site.slots:
        return site.slots
    largest = max(runs, key=lambda run: cost.memory(run.config))
    need = cost.memory(largest.config)
    if site.gpus:
        fit = int(0.9 * site.gpu_memory) // (need + cost.CUDA_CONTEXT)
        host = site.cpus * site.memory_per_cpu // cost.PROCESS_MEMORY
    else:
        fit = host = site.cpus * site.memory_per_cpu // (need + cost.PROCESS_MEMORY)
    if min(fit, host) < 1:
        raise InputError(
            f"{largest.name} needs about {need} MB on the device: more than site {site.name} gives one pack. "
            "Lower train.micro_batch_tokens, or raise the site's memory."
        )
    return max(1, min(fit, host, site.cpus // 2, site.max_slots))


def _resources(packs: Sequence[Pack], slots: int, site: Site) -> Resources:
    longest = max(pack.seconds for pack in packs)
    wanted = math.ceil(TIME_MARGIN * longest / 60 / TIME_STEP) * TIME_STEP
    minutes = min(site.max_time, max(site.min_time, wanted))
    return Resources(slots, site.gpus, site.cpus, site.memory_per_cpu, minutes)


def gpu_hours(arrays: Iterable[Array]) -> float:
    """Estimated hours of whole packs: GPU-hours where a pack has a GPU."""
    return sum(pack.seconds for array in arrays for pack in array.packs) / 3600
