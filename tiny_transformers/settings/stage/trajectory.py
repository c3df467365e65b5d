"""The stage trajectory: scores of a model on the way of its training, against what it had read by then.

It scores each anchor (`train.anchors`) and the trained model. The report makes curves of it, and says how much a
variant has read when it is as good as the baseline at its end."""

from __future__ import annotations

from pydantic import PositiveInt

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import ANCHORS, RunConfig
from tiny_transformers.settings.costs import forward_flops
from tiny_transformers.settings.stage import blimp, pretrain
from tiny_transformers.settings.stage.kind import UNKNOWN, Measure, Sizes, StageKind

END = "end"  # the trained model's place among the anchors
PLACE = ("step", "tokens", "stories", "minutes")  # the metrics of an anchor, each as `0.1.tokens`; streams: no stories
SERIES = (  # what an anchor may have a score for
    Measure("trajectory_loss", "val. loss", "trajectory", END, "loss", percent=False, higher_is_better=False),
    Measure("trajectory_bpc", "bits per character", "trajectory", END, "bpc", percent=False, higher_is_better=False),
    Measure("trajectory_blimp", "BLiMP", "trajectory", END, "blimp"),
)


class Trajectory(Settings):
    blimp: bool = True  # stories: BLiMP at each anchor, as `evaluation.blimp` says; false: validation only
    limit: PositiveInt | None = 100  # rows used of each of BLiMP's files, no more than evaluation.limit; null: that
    keep: bool = True  # the anchors once they are scored; false: they are removed when the stage has completed


def scores_blimp(config: RunConfig) -> bool:
    return config.evaluation.of(Trajectory).blimp and not config.data.is_stream


def limit(config: RunConfig) -> int | None:
    """Rows used of each of BLiMP's files; None: all."""
    known = [each for each in (config.evaluation.of(Trajectory).limit, config.evaluation.limit) if each]
    return min(known, default=None)


def files(config: RunConfig) -> list[str]:
    return [*pretrain.files(config), *(blimp.files(config) if scores_blimp(config) else [])]


def flops(config: RunConfig, sizes: Sizes = UNKNOWN) -> float:
    of_one = forward_flops(config) * pretrain.validation_tokens(config, sizes)
    if scores_blimp(config):
        of_one += blimp.flops_of(config, limit(config), sizes)
    return (len(config.train.anchors) + 1) * of_one


def misfit(config: RunConfig) -> str | None:
    if not config.train.anchors:
        return "stages: trajectory scores what train.anchors keeps, which is nothing: write train.anchors: [0.1, 0.3]"
    return None


TRAJECTORY = StageKind(
    "trajectory",
    "tiny_transformers.evaluation.trajectory",
    needs=("pretrain",),
    settings=Trajectory,
    files=files,
    flops=flops,
    by_size=True,
    misfit=misfit,
    part_tells=False,  # a calibration keeps no anchors
    spends=lambda config: [] if config.evaluation.of(Trajectory).keep else [ANCHORS],
)
