"""The stage lambada: the last word of a passage (Paperno et al. 2016)."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.costs import forward_flops, limited, one_mask_flops, rows_in
from tiny_transformers.settings.stage.kind import UNKNOWN, Measure, Sizes, StageKind

FILE = "lambada/lambada_test.jsonl"
PASSAGES = {"files": 5_153.0, "builtin": 200.0}
PASSAGE_TOKENS = {"files": 94, "builtin": 40}
PASSAGE_BYTES = 353.0  # of a line, on average
TARGET_TOKENS = 2.0  # of the last word


class Lambada(Settings):
    start_token: Literal["bos", "eos", "none"] = "bos"  # decoders: what stands before the passage; lm-eval: none
    passages: PositiveInt | None = 1_000  # encoders: so many, evenly spaced, get a pseudo-perplexity; null: all


def flops(config: RunConfig, sizes: Sizes = UNKNOWN) -> float:
    source, kept = config.data.source, config.evaluation.of(Lambada).passages
    there = rows_in(config, FILE, PASSAGE_BYTES, PASSAGES, sizes)
    passages, length = limited(there, config.evaluation.limit), PASSAGE_TOKENS[source]
    if config.model.causal:
        return 1.0 * forward_flops(config) * passages * length
    whole = min(passages, kept or passages) * length  # masks
    return one_mask_flops(config, length) * (passages * TARGET_TOKENS + whole)


LAMBADA = StageKind(
    "lambada",
    "tiny_transformers.evaluation.lambada",
    needs=("add_tokenizer",),
    reads="stories",
    settings=Lambada,
    keeps_defaults=True,
    files=lambda _: [FILE],
    flops=flops,
    by_size=True,
    measures=(
        Measure("lambada", "LAMBADA", "lambada", "last_word", "accuracy", is_main=True),
        Measure("lambada_ppl", "LAMBADA token ppl.", "lambada", "passage", "perplexity", percent=False,
                higher_is_better=False),
    ),
)  # fmt: skip
