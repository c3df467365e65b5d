"""Cells -> runs. A run's id is a hash of everything that can change its result; two studies that contain the same run
share it. Pure: reads no files, calls no SLURM."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from cluster.files.choices import SeededRun
from cluster.files.identity import Identities
from cluster.files.identity import identity as identity  # of the plan, as it is asked for
from cluster.files.records import Run, StudyRecord
from cluster.manifest.loading import Cell, Manifest
from cluster.plan import cost, naming
from cluster.plan.memo import PerSettings
from cluster.plan.naming import Named
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES, needed_by


def expand(cells: Iterable[Cell]) -> list[Run]:
    """Runs in the order of the cells; a run that several studies contain is there once, with all its stages. Before a
    run that needs the product of another one comes that one, with the stages that make it."""
    identities, ordered = Identities(), cache(in_order)
    planned: dict[str, tuple[Named, tuple[str, ...]]] = {}  # run id -> what it is called by, and its stages

    def add(study: str, model: str, config: RunConfig, stages: tuple[str, ...]) -> None:
        for other in [other for stage in stages for other in STAGES[stage].of_others(config)]:
            add(study, other.model, other.config, in_order({other.stage, *needed_by([other.stage])}))
        run_id = identities.of(config)
        if run_id not in planned:
            planned[run_id] = Named((study,), model, config), ordered(stages)
            return
        known, before = planned[run_id]
        studies = tuple(dict.fromkeys((*known.studies, study)))
        planned[run_id] = known._replace(studies=studies), ordered((*before, *stages))

    for cell in cells:
        add(cell.study, cell.model, cell.config, cell.stages)
    named = naming.names(each for each, _ in planned.values())
    return [
        Run(run_id, name, each.config, stages, each.studies)
        for (run_id, (each, stages)), name in zip(planned.items(), named, strict=True)
    ]


def merged(runs: Iterable[Run]) -> list[Run]:
    """Each run once, with all its stages and studies."""
    found: dict[str, Run] = {}
    for run in runs:
        known = found.setdefault(run.id, run)
        if known is not run:
            every = dict.fromkeys((*known.studies, *run.studies))
            found[run.id] = replace(known, stages=in_order((*known.stages, *run.stages)), studies=tuple(every))
    return list(found.values())


def studies(manifest: Manifest, cells: Iterable[Cell], overrides: Iterable[str] = ()) -> list[StudyRecord]:
    """The studies that these cells are of; `overrides`: the --set texts that they were made with. Runs that are there
    for others to learn from are not among those that are compared."""
    identities = Identities()
    runs: dict[str, dict[str, bool]] = {}  # study -> run id -> whether it is a baseline
    stages: dict[str, tuple[str, ...]] = {}
    for cell in cells:
        run_id = identities.of(cell.config)
        of_study = runs.setdefault(cell.study, {})
        of_study[run_id] = of_study.get(run_id, False) or cell.baseline  # cells may come to one run
        stages[cell.study] = cell.stages
    return [
        StudyRecord(
            name,
            str(manifest.studies[name].get("description", "")),
            tuple(run_id for run_id, is_baseline in of_study.items() if is_baseline),
            tuple(of_study),
            stages[name],
            tuple(sorted(overrides)),
        )
        for name, of_study in runs.items()
    ]


def seeded_runs(cells: Iterable[Cell]) -> list[SeededRun]:
    """The run of each of these cells, by its id, name and seed."""
    identities, cells = Identities(), list(cells)
    named = naming.names(Named((cell.study,), cell.model, cell.config) for cell in cells)
    return [
        {"run_id": identities.of(cell.config), "name": name, "seed": cell.config.seed}
        for cell, name in zip(cells, named, strict=True)
    ]


def probes(cells: Iterable[Cell]) -> list[Cell]:
    """The first cell of each architecture, for pretraining only: enough to measure memory and speed."""
    keys = PerSettings(cost.architecture_key)
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(keys.of(cell.config), cell)
    return [replace(cell, config=as_probe(cell.config), stages=("pretrain",)) for cell in first.values()]


def probe_together(cells: Iterable[Cell], number: int) -> list[Cell]:
    """So many runs of each of these cells, of their pretraining only. Their seeds are their own for each number, so
    that none of them is also a run of another number."""
    return [
        replace(cell, config=as_probe(cell.config, seed=1_000 * number + seed), stages=("pretrain",))
        for cell in cells
        for seed in range(number)
    ]


def as_probe(config: RunConfig, **changes: object) -> RunConfig:
    """The settings of a run that is made to measure, and says so itself."""
    return config.model_copy(update={"probe": True, **changes})


def in_order(stages: Iterable[str]) -> tuple[str, ...]:
    chosen = set(stages)
    return tuple([stage for stage in STAGES if stage in chosen])
