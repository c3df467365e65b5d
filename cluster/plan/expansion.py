"""Cells -> runs. A run's id is a hash of everything that can change its result; two studies that contain the same run
share it. Pure: reads no files, calls no SLURM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from cluster.files.records import Run, StudyRecord
from cluster.manifest.loading import Cell, Manifest
from cluster.plan import cost
from cluster.plan.memo import PerSettings
from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import RunConfig, Train
from tiny_transformers.settings.program import Program
from tiny_transformers.settings.stages import STAGES

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
GAP = "\0"  # is in no JSON
USUAL_STEPS = Train.model_fields["max_steps"].default


def expand(cells: Iterable[Cell]) -> list[Run]:
    """Runs in the order of the cells; a run that several studies contain is there once, with all its stages."""
    identities, names = PerSettings(_Around()), PerSettings(_unseeded_name)
    runs: dict[str, Run] = {}
    for cell in cells:
        config = cell.config
        run_id = _seeded_identity(identities.of(config), config.seed)
        known = runs.get(run_id)
        if known is None:
            readable = f"{names.of(config, cell.model)}-s{config.seed}"
            runs[run_id] = Run(run_id, readable, config, in_order(cell.stages), (cell.study,))
        else:
            studies = tuple(dict.fromkeys((*known.studies, cell.study)))
            runs[run_id] = replace(known, stages=in_order((*known.stages, *cell.stages)), studies=studies)
    return list(runs.values())


def studies(manifest: Manifest, cells: Iterable[Cell], overrides: Iterable[str] = ()) -> list[StudyRecord]:
    """The studies that these cells are of; `overrides`: the --set texts that they were made with."""
    identities = PerSettings(_Around())
    runs: dict[str, dict[str, bool]] = {}  # study -> run id -> whether it is a baseline
    stages: dict[str, tuple[str, ...]] = {}
    for cell in cells:
        run_id = _seeded_identity(identities.of(cell.config), cell.config.seed)
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


def identity(config: RunConfig) -> str:
    """12 hexadecimal digits of the SHA-256 of the settings as canonical JSON."""
    return _seeded_identity(_Around()(config), config.seed)


class _Around:
    """The canonical JSON before and behind the seed, which is all that differs between the runs of a cell. What is
    around the model, too, is written once for the cells that share it as objects."""

    NAMES = sorted(RunConfig.model_fields)

    def __init__(self) -> None:
        self._around: dict[tuple[Any, ...], tuple[RunConfig, list[str]]] = {}  # with its objects, which live as long

    def __call__(self, config: RunConfig) -> tuple[str, str]:
        shared = id(config.data), id(config.train), id(config.evaluation), config.recipe, config.smoke, config.probe
        known = self._around.get(shared)
        if known is None:
            known = self._around[shared] = config, self._around_both(config)
        before, between, behind = known[1]
        return f"{before}{_canonical(config.model)}{between}", behind

    def _around_both(self, config: RunConfig) -> list[str]:
        """The texts before the model, between it and the seed, and behind that."""
        texts = []
        for name in self.NAMES:
            value, field = getattr(config, name), RunConfig.model_fields[name]
            if name in ("model", "seed"):
                texts.append(f'"{name}":{GAP}')
            elif not (field.exclude_if and value == field.default):
                # Of a corpus its name counts, and neither where its files are nor how they are read.
                settings = value.model_dump(mode="json", exclude={"definition"}) if name == "data" else value
                texts.append(f'"{name}":{_canonical(settings)}')
        return f"{{{','.join(texts)}}}".split(GAP)


def _seeded_identity(around: tuple[str, str], seed: int) -> str:
    return hashlib.sha256(f"{around[0]}{seed}{around[1]}".encode()).hexdigest()[:12]


def _canonical(value: Any) -> str:
    settings = value.model_dump(mode="json") if isinstance(value, Settings) else value
    return _ENCODER.encode(settings)


def name(model: str, config: RunConfig) -> str:
    """Readable; not unique: the id is."""
    return f"{_unseeded_name(config, model)}-s{config.seed}"


def _unseeded_name(config: RunConfig, model: str) -> str:
    corpus = f"-{config.data.label}" if config.data.label else ""
    return f"{model_name(model, config)}{corpus}{_trained(config.train)}"


def _trained(train: Train) -> str:
    """How long, unless it is as long as usual, and how many weights in 100 are pruned."""
    pruned = f"-pruned{100 * train.pruning.sparsity:g}" if train.pruning else ""
    if budget := train.budget:
        return f"-{budget.hours:g}h" if budget.hours else f"-{(budget.tokens or 0) / 1e6:g}Mtokens"
    return ("" if train.max_steps == USUAL_STEPS else f"-{train.max_steps}steps") + pruned


def model_name(model: str, config: RunConfig) -> str:
    """With the true parameter count; `model` is its name in the manifest. A program has its parameters alone."""
    shape = config.model
    if isinstance(shape, Program):
        return f"{model}-{shape.label}"
    return (
        f"{model}-{shape.label}-{config.parameters / 1e6:.2f}M-{shape.layers}L-{shape.heads}H"
        f"-{shape.hidden_size}C-{shape.intermediate_size}I"
    )


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
