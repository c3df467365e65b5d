"""The stage speed: how fast the model encodes and generates."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from tiny_transformers.settings.base import Settings, added
from tiny_transformers.settings.config import RunConfig, tokenizer_files
from tiny_transformers.settings.costs import forward_flops, head_flops
from tiny_transformers.settings.stage import blimp
from tiny_transformers.settings.stage.kind import UNKNOWN, Sizes, StageKind


class Speed(Settings):
    """The inference study."""

    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 8, 64, 512)
    tokens: PositiveInt = 256  # of an encoded sequence
    prompt_tokens: PositiveInt = 16  # decoders: what generation begins with
    new_tokens: PositiveInt = 64  # decoders: generated, greedily
    warmup: PositiveInt = 3  # passes that are not counted
    repetitions: PositiveInt = 10  # passes that are
    # Besides, on the CPU: for who will run it on a small machine.
    threads: tuple[PositiveInt, ...] = added(())  # encoding and generation with so many threads each
    int8: bool = added(False)  # the same with weights of 8 bits, their size, and BLiMP with them and without
    export: bool = added(False)  # the model as a program of torch.export, in the run's folder


def flops(config: RunConfig, sizes: Sizes = UNKNOWN) -> float:
    speed, forward = config.evaluation.of(Speed), forward_flops(config)
    passes, rows = speed.warmup + speed.repetitions, sum(speed.batch_sizes)
    generated = speed.prompt_tokens + speed.new_tokens if config.model.causal else 0
    measured = passes * rows * ((forward - head_flops(config)) * speed.tokens + forward * generated)
    asked = 2 * blimp.flops(config, sizes) if speed.int8 and not config.data.is_stream else 0.0
    rounds = (len(speed.threads) or speed.int8) * (1 + speed.int8)  # on the CPU, besides
    return measured * (1 + rounds) + asked


def files(config: RunConfig) -> list[str]:
    if not config.evaluation.of(Speed).int8 or config.data.is_stream:
        return []
    return [*blimp.files(config), *tokenizer_files(config.data)]


def misfit(config: RunConfig) -> str | None:
    speed = config.evaluation.of(Speed)
    longest = {"tokens": speed.tokens}
    if config.model.causal:
        longest["prompt_tokens + new_tokens"] = speed.prompt_tokens + speed.new_tokens
    for name, length in longest.items():
        if length > config.positions:
            return f"evaluation.speed.{name} {length} exceeds the model's {config.positions} positions"
    return None


SPEED = StageKind(
    "speed",
    "tiny_transformers.evaluation.speed",
    needs=("pretrain",),
    alone=True,
    settings=Speed,
    keeps_defaults=True,
    files=files,
    flops=flops,
    by_size=True,
    misfit=misfit,
)
