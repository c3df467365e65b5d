"""Layers with a learnable function on every edge (Liu et al. 2024, arXiv:2404.19756) for linear ones."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt

from tiny_transformers.settings.base import NonNegative
from tiny_transformers.settings.feed_forward.kind import Block, FeedForwardKind


class KAN(FeedForwardKind):
    """B-spline layers (Liu et al. 2024, arXiv:2404.19756, as efficient-kan computes them) for linear ones."""

    layer: ClassVar[str] = "tiny_transformers.layers.ffn.kan"
    utilisation = 0.08
    takes_gated: ClassVar[bool] = False
    told: ClassVar[tuple[str, ...]] = ("grid_size", "spline_order")

    kind: Literal["kan"] = "kan"
    grid_size: PositiveInt = 3  # intervals; the thesis says 3 and order 5, its code has 3 and 3
    spline_order: Annotated[int, Field(ge=0, le=8)] = 3
    layers: Literal["both", "intermediate"] | None = None  # null: both in decoders, the first in roberta, as the study
    regularization: NonNegative = 0.0  # weight of the L1 and entropy loss

    def resolved(self, hidden: int, intermediate: int, causal: bool) -> Self:  # noqa: ARG002
        layers = self.layers or ("both" if causal else "intermediate")
        return self.model_copy(update={"layers": layers})

    def parameters(self, block: Block) -> int:
        coefficients = 2 + self.grid_size + self.spline_order  # base, scaler and the spline's
        linears = [(coefficients, 0), (coefficients, 0) if self.layers == "both" else (1, block.hidden * block.bias)]
        sizes = block.hidden * block.intermediate
        return sum(times * sizes + bias for times, bias in linears) + block.activation_parameters

    def weights(self, block: Block, *, training: bool) -> int:  # noqa: ARG002
        times = 1 + self.grid_size + self.spline_order
        return block.hidden * block.intermediate * (times + (times if self.layers == "both" else 1))

    def kept(self, block: Block) -> int:
        return 4 * block.intermediate

    @property
    def short(self) -> str:
        return f"kan_g{self.grid_size}k{self.spline_order}"
