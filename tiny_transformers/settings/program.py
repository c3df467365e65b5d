"""In place of a model: the parameters of any program, and what its first stages do with them. No torch here.

It has no weights, reads no corpus and computes nothing that a closed form could tell, so all of these are 0."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.stage.own import Doing, Value, told

SHOWN = 24  # characters of a value in a label


class Program(Settings):
    causal: ClassVar[bool] = False
    positions: ClassVar[int | None] = None
    same_shapes: ClassVar[bool] = False
    micro_batch_is_free: ClassVar[bool] = False
    utilisation: ClassVar[float] = 1.0
    layers: ClassVar[int] = 0
    heads: ClassVar[int] = 0
    hidden_size: ClassVar[int] = 0
    intermediate_size: ClassVar[int] = 0
    vocab_size: ClassVar[int] = 0
    embedding_parameters: ClassVar[int] = 0
    attention_parameters: ClassVar[int] = 0
    feed_forward_parameters: ClassVar[int] = 0
    head_parameters: ClassVar[int] = 0
    head_weights: ClassVar[int] = 0
    feed_forward_flops: ClassVar[int] = 0
    initial_logit_variance: ClassVar[float] = 0.0
    initial_loss_slack: ClassVar[float] = 0.0

    family: Literal["program"] = "program"
    parameters: dict[str, Value] = {}
    stages: dict[str, Doing] = {}  # those that need no other: what all else of the run follows from

    @property
    def label(self) -> str:
        """Its parameters, as a part of a run's name."""
        texts = {name: told(value)[:SHOWN] for name, value in self.parameters.items()}
        words = [f"{name}={re.sub(r'[^A-Za-z0-9_.+-]+', '_', text)}" for name, text in texts.items()]
        return ",".join(words) or "once"

    def weights_per_token(self, *, training: bool) -> float:  # noqa: ARG002
        return 0.0

    def scheduled(self, fraction: float) -> dict[str, float]:  # noqa: ARG002
        return {}

    def score_flops(self, length: float) -> float:  # noqa: ARG002
        return 0.0

    def kept_per_token(self, length: float) -> float:  # noqa: ARG002
        return 0.0

    def carried_per_row(self, length: float) -> float:  # noqa: ARG002
        return 0.0
