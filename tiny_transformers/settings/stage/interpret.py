"""The stage interpret: what is inside a trained model. Its figures describe; none of them is better or worse, so none
is a measure that variants are held against each other by."""

from __future__ import annotations

from pydantic import PositiveInt

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import RunConfig, stream_files
from tiny_transformers.settings.costs import forward_flops, limited
from tiny_transformers.settings.stage.kind import StageKind

LEAST = 60  # positions: what the longest sentence takes, where a token is a byte
TEXTS = 10  # continued: five beginnings, greedily and sampled


class Interpret(Settings):
    """What is looked at, and how much of it is kept."""

    stories: PositiveInt = 200  # of validation, evenly spaced; of a stream as many pieces of it
    tokens: PositiveInt = 128  # that each is cut at
    units: PositiveInt = 4  # of each feed-forward module, the most selective ones, shown with what excites them
    new_tokens: PositiveInt = 80  # decoders: that a beginning is continued by; characters three times as many
    seed: int = 0  # of what is sampled, and of where an encoder's tokens are masked


def flops(config: RunConfig) -> float:
    interpret = config.evaluation.of(Interpret)
    read = limited(interpret.stories, config.evaluation.limit) * interpret.tokens
    written = TEXTS * interpret.new_tokens * (3 if config.data.is_stream else 1)
    return forward_flops(config) * (read + written if config.model.causal else 2 * read)


def files(config: RunConfig) -> list[str]:
    return stream_files(config) or [config.data.files.files[1]]


def misfit(config: RunConfig) -> str | None:
    if config.positions < LEAST:
        return f"interpret: its sentences take {LEAST} positions, and the model has {config.positions}"
    return None


INTERPRET = StageKind(
    "interpret",
    "tiny_transformers.evaluation.interpret.stage",
    needs=("add_tokenizer",),
    settings=Interpret,
    files=files,
    flops=flops,
    misfit=misfit,
)
