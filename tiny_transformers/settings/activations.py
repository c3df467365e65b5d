"""The activations of the feed-forward modules. One from elsewhere is added in the same way, by `ACTIVATIONS.add`.

No torch here: the module that computes one is loaded with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tiny_transformers.settings.kinds import Kinds, KnownNow

OURS = "tiny_transformers.layers.activations"


@dataclass(frozen=True)
class Activation:
    name: str
    title: str  # in a sentence
    # What computes it: a torch module "package.module:Class", which takes (parameters, start) if it is learnable;
    # or a function by Hugging Face's name. Neither: the family's own GELU.
    module: str | None = None
    stock: str | None = None
    start: float | None = None  # where its parameters start unless `activation_init` says otherwise; None: it has none
    gated: bool = False  # half of the units gate the other half: the layer before is twice as wide
    gate: str | None = None  # a gated one: the activation of these gates, which are then multiplied with the values
    has_zeros: bool = False  # it is exactly 0 for all that is below some input, not only near 0

    @property
    def is_learnable(self) -> bool:
        return self.start is not None


ACTIVATIONS: Kinds[Activation] = Kinds("activation", lambda activation: activation.name)
ACTIVATIONS.add(
    Activation("gelu", "GELU"),
    Activation("relu", "ReLU", stock="relu", has_zeros=True),
    Activation("silu", "SiLU", stock="silu"),
    Activation("swish", "Swish", f"{OURS}:Swish", start=1.0),
    Activation("swish_thesis", "the thesis' Swish", f"{OURS}:SwishThesis", start=1.0),
    Activation("prelu", "PReLU", f"{OURS}:PReLU", start=0.25),
    Activation("learnable_gelu", "learnable GELU", f"{OURS}:LearnableGELU", start=1.0),
    Activation("geglu", "GEGLU", f"{OURS}:GEGLU", gated=True, gate="gelu"),
    Activation(
        "learnable_geglu", "learnable GEGLU", f"{OURS}:LearnableGEGLU", start=1.0, gated=True, gate="learnable_gelu"
    ),
    Activation("none", "no activation", stock="linear"),
    Activation("swiglu", "SwiGLU", f"{OURS}:SwiGLU", gated=True, gate="silu"),
)
ActivationName = Annotated[str, KnownNow(ACTIVATIONS, lambda: Literal[tuple(ACTIVATIONS)])]
