"""Choose what a site is measured by before it is asked for much: short runs of what is planned. Pure.

One run of each shape (kind, width, depth, length of texts), a few steps of it, those first for which the most time is
planned: models that differ in their activation alone share a shape. And of the shape with the most planned time several
runs, which are to go on at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.files.records import Run
from cluster.manifest.loading import Cell
from cluster.plan import cost, expansion
from cluster.plan.choosing import PackItem
from cluster.plan.memo import PerSettings
from cluster.plan.packing import Array, Pack, Resources
from cluster.sites.profiles import Site
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES

MINUTES = 20  # of each pack, at most
SHAPES = 30  # that end within them
STEPS = {True: 100, False: 5}  # on a GPU, where steps are short and the first ones are not like the others; on CPUs
ROWS = 200  # of each file of an evaluation
STORIES, CHARACTERS = 8, 4_096  # that are validated on
WORTH = 1.0  # hours of packs that are planned, from which on it pays


@dataclass(frozen=True)
class Calibration:
    """The runs of a calibration: those that are measured one at a time, and those that go on at the same time."""

    alone: tuple[Run, ...]
    together: tuple[Run, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return (*self.alone, *self.together)


def choose(arrays: Sequence[Array], runs: Iterable[Run], site: Site) -> Calibration:
    """Return what measures the shapes of these arrays."""
    by_id, shapes = {run.id: run for run in runs}, PerSettings(cost.shape_key)
    planned: dict[str, float] = {}
    first: dict[str, Run] = {}
    slots: dict[str, int] = {}
    for array in arrays:
        for item in (item for pack in array.packs for item in pack.items):
            run = by_id[item.run_id]
            shape = shapes.of(run.config)
            first.setdefault(shape, run)
            planned[shape] = planned.get(shape, 0.0) + item.seconds
            slots[shape] = max(slots.get(shape, 1), array.resources.slots)
    ordered = sorted(first, key=lambda shape: -planned[shape])[:SHAPES]
    main = first[ordered[0]]
    cells = [_cell(first[shape], site, ("pretrain",)) for shape in ordered[1:]]
    kinds = [STAGES[stage] for stage in main.stages]
    stages = tuple(kind.name for kind in kinds if kind.part_tells and kind.name != "speed" and not kind.own)
    number = slots[ordered[0]]
    several = [_cell(main, site, ("pretrain",))] if number > 1 else []
    return Calibration(
        tuple(expansion.expand([_cell(main, site, stages), *cells])),
        tuple(expansion.expand(expansion.probe_together(several, number))),
    )


def _cell(run: Run, site: Site, stages: tuple[str, ...]) -> Cell:
    return Cell("calibration", run.name.partition("-")[0], _short(run.config, site), stages)


def _short(config: RunConfig, site: Site) -> RunConfig:
    """Some steps of a run, and a part of its evaluation; as a long one would do them."""
    steps = min(STEPS[bool(site.gpus)], config.train.max_steps or STEPS[bool(site.gpus)])
    validated = {"eval_characters": CHARACTERS} if config.data.is_stream else {"eval_stories": STORIES}
    changed: dict[str, object] = {"max_steps": steps, "budget": None, "evaluations": 1, **validated}
    if site.gpus and config.train.compile is None and config.model.same_shapes:
        changed["compile"] = True
    return expansion.as_probe(
        config,
        train=config.train.model_copy(update=changed),
        evaluation=config.evaluation.model_copy(update={"limit": min(ROWS, config.evaluation.limit or ROWS)}),
    )


def arrays(items: Sequence[PackItem], together: Sequence[Run], site: Site) -> list[Array]:
    """Return a pack of those that are measured one at a time, and one of those that go on at the same time."""
    at_once = {run.id for run in together}
    parts = [[item for item in items if (item.run_id in at_once) == several] for several in (False, True)]
    return [
        Array(
            Resources(len(part) if several else 1, site.gpus, site.cpus, site.memory_per_cpu, _minutes(site)),
            (Pack(tuple(part), 60.0 * _minutes(site), 0.0, 0.0),),
        )
        for several, part in zip((False, True), parts, strict=True)
        if part
    ]


def _minutes(site: Site) -> int:
    return min(MINUTES, site.max_time)
