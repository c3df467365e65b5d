"""Linear layers with the activation between them: Hugging Face's own, but for their number and the activation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from tiny_transformers.settings.feed_forward.kind import Block, FeedForwardKind

STOCK = ("gelu", "relu", "silu")  # activations with which the study left the module as it was


class Dense(FeedForwardKind):
    """Linear layers with the activation between them."""

    layer: ClassVar[str] = "tiny_transformers.layers.ffn.dense"
    utilisation = 0.25
    has_bias_choice: ClassVar[bool] = True
    same_shapes: ClassVar[bool] = True
    told: ClassVar[tuple[str, ...]] = ("depth",)

    kind: Literal["dense"] = "dense"
    depth: PositiveInt = 2  # linear layers

    @property
    def activations(self) -> tuple[str, ...] | None:
        return ("none",) if self.depth == 1 else None

    @property
    def has_free_units(self) -> bool:
        return self.depth > 1

    def units(self, hidden: int, intermediate: int) -> int:
        return hidden if self.depth == 1 else intermediate  # there is none, and no activation

    def check(self, activation: str | None, bias: bool | None, initialization: str) -> None:
        if self.depth == 1 and activation not in (None, "none"):
            raise ValueError("ffn.depth 1 is one linear layer: it has no activation; leave it out or write none")
        if initialization == "study" and self.depth > 1 and activation in (None, *STOCK):
            raise ValueError("initialization study: the study's gelu, relu and silu were drawn as the family's")
        super().check(activation, bias, initialization)

    def linears(self, block: Block) -> list[tuple[int, int]]:
        """Return (in, out) of the linear layers."""
        h, size, wide = block.hidden, block.intermediate, 2 if block.gated else 1
        if self.depth == 1:
            return [(h, h)]
        return [(h, wide * size), *[(size, wide * size)] * (self.depth - 2), (size, h)]

    def parameters(self, block: Block) -> int:
        shapes = self.linears(block)
        biases = sum([out for _, out in shapes]) if block.bias else 0
        return sum([i * o for i, o in shapes]) + biases + (self.depth - 1) * block.activation_parameters

    def weights(self, block: Block, *, training: bool) -> int:  # noqa: ARG002
        return sum([i * o for i, o in self.linears(block)])

    def kept(self, block: Block) -> int:
        return 4 * (2 if block.gated else 1) * max(1, self.depth - 1) * block.intermediate

    def label(self, activation: str) -> str:
        return activation if self.depth == 2 else f"{activation}-depth{self.depth}"
