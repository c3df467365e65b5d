"""A product-key memory (Lample et al. 2019, arXiv:1907.05242)."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt

from tiny_transformers.settings.feed_forward.kind import Block, FeedForwardKind, at_most, dense_size, sized


class ProductKey(FeedForwardKind):
    """A memory of num_subkeys^2 values, addressed by pairs of sub-keys (Lample et al. 2019, arXiv:1907.05242)."""

    layer: ClassVar[str] = "tiny_transformers.layers.ffn.pkm"
    utilisation = 0.1
    whole: ClassVar[bool] = True
    has_study_initialization: ClassVar[bool] = False
    micro_batch_is_free: ClassVar[bool] = False  # it normalizes its queries
    told: ClassVar[tuple[str, ...]] = ("top_k", "num_subkeys", "study_values")

    kind: Literal["pkm"] = "pkm"
    top_k: PositiveInt = 28  # of the sub-keys of each half, and of the memory
    num_subkeys: PositiveInt | None = None  # null: as many parameters as the dense module
    num_heads: PositiveInt = 4
    query_size: Annotated[int, Field(gt=0, multiple_of=2)] = 1024  # of each head
    study_values: bool = False  # read the values as the study's code does, which is not as the paper

    @property
    def activations(self) -> tuple[str, ...]:
        return ("none",)

    def resolved(self, hidden: int, intermediate: int, causal: bool) -> Self:  # noqa: ARG002
        subkeys = self.num_subkeys or num_subkeys(hidden, intermediate, self.num_heads, self.query_size)
        at_most("ffn.top_k", self.top_k, "ffn.num_subkeys", subkeys)
        return self.model_copy(update={"num_subkeys": subkeys})

    def units(self, hidden: int, intermediate: int) -> int:  # noqa: ARG002
        """Return the number of values."""
        return sized(self.num_subkeys) ** 2

    def parameters(self, block: Block) -> int:
        h, subkeys, query = block.hidden, sized(self.num_subkeys), self.num_heads * self.query_size
        return h * query + 2 * query + query * subkeys + h * subkeys**2

    def weights(self, block: Block, *, training: bool) -> int:
        """In the order of the paper: the query, its sub-keys. The layer takes the cheaper one. In training tokens are
        multiplied with each other, for the statistics of the queries."""
        h, query = block.hidden, self.num_heads * self.query_size
        covariance = h * h if training else 0
        return h * query + query * sized(self.num_subkeys) + self.num_heads * self.top_k * h + covariance

    def kept(self, block: Block) -> int:
        """Of many tokens no query is built where scores straight from the token take fewer multiplications."""
        h, subkeys = block.hidden, sized(self.num_subkeys)
        built = 2 * subkeys * h > self.query_size * (h + subkeys)
        return self.num_heads * ((2 * self.query_size if built else 0) + 16 * self.top_k + 2 * subkeys)

    @property
    def short(self) -> str:
        return f"pkm{self.num_subkeys}k{self.top_k}{'study' if self.study_values else ''}"


def num_subkeys(hidden: int, intermediate: int, heads: int, query: int) -> int:
    """Sub-keys s, the positive root of h s^2 + heads query s + heads query (h + 2) = dense, rounded.

    Raises ValueError if there is none."""
    b, c = heads * query, heads * query * (hidden + 2) - dense_size(hidden, intermediate)
    if c >= 0:
        raise ValueError(
            f"ffn: queries of {heads} x {query} alone have more parameters than the dense module whose size the memory "
            "is to take: lower ffn.query_size, or say ffn.num_subkeys"
        )
    return max(1, round((math.sqrt(b * b - 4 * hidden * c) - b) / (2 * hidden)))
