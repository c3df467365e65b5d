"""The activations of the feed-forward modules: Hugging Face's own by name, learnable ones as modules.

Which names there are is said once, in `config.ACTIVATIONS`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_transformers.config import ACTIVATIONS, LEARNABLE
from tiny_transformers.work import TinyTransformersError


class LearnableGELU(nn.Module):
    """0.5 alpha x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), one alpha per intermediate unit, 1 at the start.

    GELU in the tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2), scaled per unit."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., units) -> (..., units)"""
        return self.alpha * F.gelu(x, approximate="tanh")


def check_activation(name: str) -> None:
    """Raises TinyTransformersError for a name that is not one of `config.ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise TinyTransformersError(f"activation: {name!r} is unknown. Known: {', '.join(ACTIVATIONS)}.")


def stock_name(activation: str, gelu: str) -> str:
    """Hugging Face's name for `activation`, where `gelu` is the family's own; a learnable one begins as that."""
    return gelu if activation in ("gelu", *LEARNABLE) else activation


def learnable(activation: str, units: int) -> nn.Module | None:
    """A new module for a learnable activation over `units` intermediate units; None for a stock one."""
    return LearnableGELU(units) if activation == "learnable_gelu" else None
