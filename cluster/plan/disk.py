"""Foretell the disk space of a plan: of weights that stay, and what a run takes besides while it is at work. Pure.

Weights are float32, each parameter once. What else a run writes (settings, logs, curves, scores; of some layers a few
buffers) is small, and not counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.files.records import Run
from cluster.plan.choosing import PackItem
from cluster.plan.memo import PerSettings
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.costs import keys_of_a_token
from tiny_transformers.settings.pruning import matrices
from tiny_transformers.settings.stages import STAGES

WEIGHT = 4  # bytes
CHECKPOINTS = 3  # at once: two are kept, and a third is written
STATES = {"adamw": 2, "adagrad": 1}  # that an optimizer has of each parameter


@dataclass(frozen=True)
class Space:
    """Bytes below OUTPUT_ROOT."""

    models: int  # that stay
    anchors: int  # that stay
    at_work: int  # that a run takes besides, and gives back: the most of any

    @property
    def kept(self) -> int:
        return self.models + self.anchors

    def told(self) -> str:
        anchors = f", {size(self.anchors)} of it anchors" if self.anchors else ""
        return f"On disk: {size(self.kept)} of weights{anchors}; a run at work takes up to {size(self.at_work)} more."


def plan(items: Iterable[PackItem], runs: Iterable[Run]) -> Space:
    """What the pretrainings among these stage runs write."""
    by_id, spaces = {run.id: run for run in runs}, PerSettings(of_run)
    found = [
        spaces.of(run.config, run.stages)
        for item in items
        if (run := by_id[item.run_id]).config.reads_data and any(stage == "pretrain" for stage, _ in item.stages)
    ]
    return Space(
        sum(each.models for each in found),
        sum(each.anchors for each in found),
        max((each.at_work for each in found), default=0),
    )


def of_run(config: RunConfig, stages: Iterable[str]) -> Space:
    """What one run with these stages writes. An anchor that it does not come to counts, too."""
    weights = WEIGHT * config.parameters
    carried = WEIGHT * config.train.batch_size * config.model.carried_per_row(keys_of_a_token(config))
    masks = WEIGHT * sum(matrices(config.model)) if config.train.pruning else 0
    checkpoints = CHECKPOINTS * round((1 + STATES[config.train.optimizer]) * weights + masks + carried)
    anchors = 0 if config.probe else len(config.train.anchors) * weights
    spent = any(STAGES[stage].spends(config) for stage in stages)
    return Space(weights, 0 if spent else anchors, checkpoints + (anchors if spent else 0))


def size(count: float) -> str:
    """Bytes, for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
