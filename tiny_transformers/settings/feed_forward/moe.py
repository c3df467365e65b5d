"""A mixture of experts (Shazeer et al. 2017, arXiv:1701.06538)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from tiny_transformers.settings.base import NonNegative
from tiny_transformers.settings.feed_forward.kind import Block, FeedForwardKind, at_most, dense_size, sized


class MoE(FeedForwardKind):
    """Mixture of experts with a noisy top-k gate (Shazeer et al. 2017, arXiv:1701.06538)."""

    layer: ClassVar[str] = "tiny_transformers.layers.ffn.moe"
    utilisation = 0.12
    whole: ClassVar[bool] = True
    micro_batch_is_free: ClassVar[bool] = False  # it balances its load
    told: ClassVar[tuple[str, ...]] = ("num_experts", "top_k", "expert_size")

    kind: Literal["moe"] = "moe"
    num_experts: PositiveInt = 4
    top_k: PositiveInt = 2
    expert_size: PositiveInt | None = None  # null: as many parameters as the dense module
    balance_loss: NonNegative = 0.01  # weight of CV^2, the experts' uneven share

    @model_validator(mode="after")
    def _enough_experts(self) -> MoE:
        at_most("top_k", self.top_k, "num_experts", self.num_experts)
        return self

    @property
    def activations(self) -> tuple[str, ...]:
        return "relu", "gelu", "silu", "none"

    def resolved(self, hidden: int, intermediate: int, causal: bool) -> Self:  # noqa: ARG002
        size = self.expert_size or expert_size(hidden, intermediate, self.num_experts)
        return self.model_copy(update={"expert_size": size})

    def units(self, hidden: int, intermediate: int) -> int:  # noqa: ARG002
        return self.num_experts * sized(self.expert_size)

    def parameters(self, block: Block) -> int:
        h = block.hidden
        return self.num_experts * (dense_size(h, sized(self.expert_size)) + 2 * h)

    def weights(self, block: Block, *, training: bool) -> int:
        """In training the gate has noise."""
        gates = (2 if training else 1) * block.hidden * self.num_experts
        return gates + self.top_k * 2 * block.hidden * sized(self.expert_size)

    def kept(self, block: Block) -> int:
        """A token is copied for each of its experts, and so is its output."""
        return 2 * self.num_experts + self.top_k * (2 * block.hidden + 4 * sized(self.expert_size))

    @property
    def short(self) -> str:
        return f"moe{self.num_experts}k{self.top_k}"


def expert_size(hidden: int, intermediate: int, experts: int) -> int:
    """Units of each expert so that all of them, with the gate, have as many parameters as the dense module.

    E (2hI + I + h) + 2hE = dense. The study wrote (I - E) / E, rounded: 1023 of 4096 by either."""
    left = dense_size(hidden, intermediate) - 3 * hidden * experts
    return max(1, round(left / (experts * (2 * hidden + 1))))
