"""A feed-forward kind of someone else's: a linear layer gates another one (Shazeer 2020, arXiv:2002.05202, eq. 5)."""

from typing import Any, ClassVar, Literal, Self

from pydantic import PositiveInt

from tiny_transformers.settings.feed_forward.kind import FEED_FORWARD, Block, FeedForwardKind, dense_size, sized


class Bilinear(FeedForwardKind):
    layer: ClassVar[str] = __name__
    whole: ClassVar[bool] = True
    has_study_initialization: ClassVar[bool] = False
    same_shapes: ClassVar[bool] = True
    told: ClassVar[tuple[str, ...]] = ("size",)

    kind: Literal["bilinear"] = "bilinear"
    size: PositiveInt | None = None  # units; null: as many parameters as the dense module

    @property
    def activations(self) -> tuple[str, ...]:
        return ("none",)

    def resolved(self, hidden: int, intermediate: int, causal: bool) -> Self:  # noqa: ARG002
        return self.model_copy(update={"size": self.size or round(dense_size(hidden, intermediate) / (3 * hidden))})

    def units(self, hidden: int, intermediate: int) -> int:  # noqa: ARG002
        return sized(self.size)

    def parameters(self, block: Block) -> int:
        return 3 * block.hidden * sized(self.size)

    def weights(self, block: Block, *, training: bool) -> int:  # noqa: ARG002
        return self.parameters(block)

    def kept(self, block: Block) -> int:  # noqa: ARG002
        return 4 * sized(self.size)

    @property
    def short(self) -> str:
        return f"bilinear{self.size}"


def build(ffn: Bilinear, config: Any, gelu: str) -> Any:  # noqa: ARG001
    from torch import nn

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values, self.gates = (nn.Linear(config.hidden_size, sized(ffn.size), bias=False) for _ in range(2))
            self.out = nn.Linear(sized(ffn.size), config.hidden_size, bias=False)

        def forward(self, x: Any) -> Any:
            """x: (B, T, H) -> (B, T, H)"""
            return self.out(self.values(x) * self.gates(x))

    return Module()


FEED_FORWARD.add(Bilinear)
