"""The activations of the feed-forward modules: Hugging Face's own by name, learnable and gated ones as modules.

Which there are is said once, in settings/activations.py. A learnable one has a parameter per unit of the
last axis, or one in all, and starts where the settings say."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.layer import STD, Layer
from tiny_transformers.settings.activations import ACTIVATIONS, Activation


class Learnable(Layer):
    """An activation with parameters: (units,) or (1,)."""

    def __init__(self, parameters: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.alpha = nn.Parameter(torch.empty(parameters))
        self.initialize(STD)

    def initialize(self, std: float) -> None:  # noqa: ARG002 - it starts as one known function, not at random
        init.constant_(self.alpha, self.start)


class LearnableGELU(Learnable):
    """0.5 alpha x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GELU in the tanh form (Hendrycks & Gimpel 2016,
    arXiv:1606.08415, section 2), scaled."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., units) -> (..., units)"""
        return self.alpha * F.gelu(x, approximate="tanh")


class Swish(Learnable):
    """x sigmoid(alpha x) (Ramachandran et al. 2017, arXiv:1710.05941, section 3); SiLU at 1."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., units) -> (..., units)"""
        return x * torch.sigmoid(self.alpha * x)


class SwishThesis(Learnable):
    """x silu(alpha x) = alpha x^2 sigmoid(alpha x): what the thesis and its code call Swish."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., units) -> (..., units)"""
        return x * F.silu(self.alpha * x)


class PReLU(Learnable):
    """max(0, x) + alpha min(0, x) (He et al. 2015, arXiv:1502.01852, eq. 1).

    Not torch's, which takes the second axis, here the position in the text, for the units."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., units) -> (..., units)"""
        return x.clamp(min=0) + self.alpha * x.clamp(max=0)


class GEGLU(nn.Module):
    """x gelu(gate), GELU in the tanh form (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., 2 units), values then gates -> (..., units)"""
        x, gate = x.chunk(2, dim=-1)
        return x * F.gelu(gate, approximate="tanh")


class SwiGLU(nn.Module):
    """x silu(gate) (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., 2 units), values then gates -> (..., units)"""
        x, gate = x.chunk(2, dim=-1)
        return x * F.silu(gate)


class LearnableGEGLU(Learnable):
    """x alpha gelu(gate): GEGLU with a scaled GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., 2 units), values then gates -> (..., units)"""
        x, gate = x.chunk(2, dim=-1)
        return x * (self.alpha * F.gelu(gate, approximate="tanh"))


def check_activation(name: str) -> None:
    """Raises TinyTransformersError for a name that is not one of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise TinyTransformersError(f"activation: {name!r} is unknown. Known: {', '.join(ACTIVATIONS)}.")


def stock_name(activation: str, gelu: str) -> str:
    """Hugging Face's name for `activation`, where `gelu` is the family's own; one that it lacks begins as that."""
    known = ACTIVATIONS.get(activation)  # an unknown one is refused by its name, later
    return known.stock if known and known.stock else gelu


def module_of(activation: Activation) -> type[nn.Module]:
    """The class that computes an activation which is not Hugging Face's."""
    assert activation.module
    place, _, name = activation.module.partition(":")
    found: type[nn.Module] = getattr(import_module(place), name)
    return found


def build(config: Any, gelu: str) -> nn.Module:
    """A new module for the activation that a Hugging Face configuration of ours names."""
    return _built(ACTIVATIONS[config.activation], config, gelu)


def build_gate(config: Any, gelu: str) -> nn.Module | None:
    """A new module for the gates of that activation; None if it has none, or takes values and gates as one only."""
    gate = ACTIVATIONS[config.activation].gate
    return _built(ACTIVATIONS[gate], config, gelu) if gate else None


def _built(activation: Activation, config: Any, gelu: str) -> nn.Module:
    if activation.is_learnable:
        units = config.intermediate_size if config.activation_parameters != "one" else 1
        start = config.activation_init
        return module_of(activation)(units, activation.start if start is None else start)
    return module_of(activation)() if activation.module else ACT2FN[stock_name(activation.name, gelu)]
