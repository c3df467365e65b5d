"""One unit of each block, chosen by a controller (Jaszczur et al. 2021, arXiv:2111.12763)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from tiny_transformers.settings.feed_forward.kind import Block, FeedForwardKind, dense_size, sized


class Controller(FeedForwardKind):
    """One unit of each block, chosen by a low-rank controller (Jaszczur et al. 2021, arXiv:2111.12763)."""

    layer: ClassVar[str] = "tiny_transformers.layers.ffn.controller"
    utilisation = 0.2
    whole: ClassVar[bool] = True
    has_study_initialization: ClassVar[bool] = False
    told: ClassVar[tuple[str, ...]] = ("num_blocks", "size")

    kind: Literal["controller"] = "controller"
    num_blocks: PositiveInt = 64
    rank: PositiveInt | None = None  # of the controller; null: hidden_size / num_blocks
    size: PositiveInt | None = None  # units in all; null: as many parameters as the dense module
    temperature: Annotated[float, Field(gt=0)] = 0.1  # of Gumbel's softmax, in training

    @model_validator(mode="after")
    def _whole_blocks(self) -> Controller:
        if self.size is not None and self.size % self.num_blocks:
            raise ValueError(f"size {self.size} is not a multiple of num_blocks {self.num_blocks}")
        return self

    @property
    def activations(self) -> tuple[str, ...]:
        return "relu", "gelu", "silu", "none"

    def resolved(self, hidden: int, intermediate: int, causal: bool) -> Self:  # noqa: ARG002
        rank = self.rank or max(1, hidden // self.num_blocks)
        size = self.size or controller_size(hidden, intermediate, self.num_blocks, rank)
        return self.model_copy(update={"rank": rank, "size": size})

    def units(self, hidden: int, intermediate: int) -> int:  # noqa: ARG002
        return sized(self.size)

    def parameters(self, block: Block) -> int:
        h, size = block.hidden, sized(self.size)
        return dense_size(h, size) + sized(self.rank) * (h + size)

    def weights(self, block: Block, *, training: bool) -> int:
        """In training all units are computed."""
        h, size = block.hidden, sized(self.size)
        return sized(self.rank) * (h + size) + 2 * h * (size if training else self.num_blocks)

    def kept(self, block: Block) -> int:  # noqa: ARG002
        return 8 * sized(self.size) + sized(self.rank)

    @property
    def short(self) -> str:
        return f"cnt{self.num_blocks}"


def controller_size(hidden: int, intermediate: int, blocks: int, rank: int) -> int:
    """Units, a multiple of the blocks, so that they and the controller have as many parameters as the dense module.

    I (2h + 1 + r) + h + hr = dense. The study left the biases out, h (32N - 1) / (2N + 1) for I = 16h: the same
    multiples."""
    left = dense_size(hidden, intermediate) - hidden - hidden * rank
    return max(1, round(left / (2 * hidden + 1 + rank) / blocks)) * blocks
