"""A kind of feed-forward module answers all questions about itself; a subclass is its settings.

Sizes, counts and FLOPs are in closed form. The layer is in a module of torch's, named here and loaded with a model."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.kinds import Kinds


class Block(NamedTuple):
    """The model's settings that bear on its feed-forward modules, beside their own."""

    hidden: int
    intermediate: int
    activation_parameters: int  # of one activation
    gated: bool  # the activation takes as many gates as values
    bias: bool  # of linear layers


class FeedForwardKind(Settings):
    """A subclass names itself by `kind: Literal["name"] = "name"`, and has a default for every other setting."""

    layer: ClassVar[str]  # the module with `build`; see layers/feed_forward.py for its arguments
    whole: ClassVar[bool] = False  # stands for the stock module; else its two linear layers and what is between do
    has_bias_choice: ClassVar[bool] = False  # may be without biases
    has_study_initialization: ClassVar[bool] = True
    takes_gated: ClassVar[bool] = True  # activations
    # Whether a step comes out the same however it is cut into micro-batches: nothing is computed over all its tokens.
    micro_batch_is_free: ClassVar[bool] = True
    same_shapes: ClassVar[bool] = False  # every pass computes the same; else it goes by the tokens
    # The share of a GPU's peak that small models of this kind reach in training, as estimated; for planning only.
    utilisation: ClassVar[float] = 0.1
    told: ClassVar[tuple[str, ...]] = ()  # settings that the label tells, or the units in all

    kind: str

    @property
    def activations(self) -> tuple[str, ...] | None:
        """Those that it may have between its layers, the usual one first; None: all, gelu is usual."""
        return None

    @property
    def has_free_units(self) -> bool:
        """Whether a layer may have another number of units than the next one."""
        return not self.whole

    @property
    def usual_activation(self) -> str:
        return self.activations[0] if self.activations else "gelu"

    def resolved(self, hidden: int, intermediate: int, causal: bool) -> Self:  # noqa: ARG002
        """Return these settings with all that was left open said; a whole module has then as many parameters as the
        dense one of `intermediate` units, as nearly as can be. Raises ValueError where that cannot be."""
        return self

    def units(self, hidden: int, intermediate: int) -> int:  # noqa: ARG002
        """Return the hidden units in all, of resolved settings."""
        return intermediate

    def check(self, activation: str | None, bias: bool | None, initialization: str) -> None:
        """Raises ValueError for settings of the model that it cannot have."""
        if bias is False and not self.has_bias_choice:
            raise ValueError(f"bias false is defined for dense feed-forward modules, not for {self.kind}")
        if initialization == "study" and not self.has_study_initialization:
            raise ValueError(f"initialization study is that of dense, kan and moe; {self.kind} has family only")
        if self.activations is not None and activation not in (None, *self.activations):
            known = ", ".join(self.activations)
            raise ValueError(f"activation {activation} cannot be used in {self.kind}, only {known}")

    def parameters(self, block: Block) -> int:
        """Return how many one module has, its norm left out; a built model with another count refuses to train."""
        raise NotImplementedError

    def weights(self, block: Block, *, training: bool) -> int:
        """Return how many weights one token is multiplied with in one module."""
        raise NotImplementedError

    def kept(self, block: Block) -> int:
        """Return about how many numbers one module keeps of a token for the backward pass."""
        raise NotImplementedError

    @property
    def short(self) -> str:
        """Its name in a model's label."""
        raise NotImplementedError

    def label(self, activation: str) -> str:
        return self.short if activation == self.usual_activation else f"{self.short}-{activation}"


def kind_of(settings: type[FeedForwardKind]) -> str:
    return str(settings.model_fields["kind"].default)


FEED_FORWARD: Kinds[type[FeedForwardKind]] = Kinds("kind of feed-forward module", kind_of)


def dense_size(hidden: int, intermediate: int) -> int:
    """Parameters of the stock feed-forward module, biases included."""
    return 2 * hidden * intermediate + intermediate + hidden


def plain_units(hidden: int, intermediate: int) -> int:
    """Return the units with which the stock module has the parameters of a gated one without biases, 3hI, as nearly as
    can be: what the module of a Llama is to the rules by which sparse ones take the size of the dense one."""
    return max(1, round((3 * hidden * intermediate - hidden) / (2 * hidden + 1)))


def at_most(name: str, value: int, limit_name: str, limit: int) -> None:
    if value > limit:
        raise ValueError(f"{name} {value} is more than {limit_name} {limit}")


def sized(value: Any) -> int:
    """Return a size that is known once settings are resolved."""
    assert value, "the settings are not resolved"
    return int(value)
