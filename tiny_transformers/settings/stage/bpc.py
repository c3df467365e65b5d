"""The stage bpc: bits per character of a stream."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import RunConfig, stream_files
from tiny_transformers.settings.costs import characters, forward_flops
from tiny_transformers.settings.stage.kind import UNKNOWN, Measure, Sizes, StageKind


class Bpc(Settings):
    """Bits per character of a split of the stream, all of it."""

    split: Literal["validation", "test"] = "test"
    batch_size: PositiveInt = 1  # rows that the split is cut into; 1: each character sees all that is before it


def flops(config: RunConfig, sizes: Sizes = UNKNOWN) -> float:
    split = config.evaluation.of(Bpc).split
    return forward_flops(config) * characters(config, 1 if split == "validation" else 2, sizes)


BPC = StageKind(
    "bpc",
    "tiny_transformers.evaluation.bpc",
    needs=("pretrain",),
    reads="streams",
    settings=Bpc,
    files=stream_files,
    flops=flops,
    by_size=True,
    measures=(
        Measure("bpc", "bits/char", "bpc", "test", "bpc", percent=False, higher_is_better=False, is_main=True),
        Measure("bpc_validation", "val. bits/char", "bpc", "validation", "bpc", percent=False, higher_is_better=False,
                is_main=True),
    ),
)  # fmt: skip
