"""The feed-forward module of a block, as its configuration says: dense, KAN, or one of the sparse ones.

A dense module stays in Hugging Face's place and names, as two linear layers and what is between them. A sparse one
replaces the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from tiny_transformers.layers import activations
from tiny_transformers.layers.attention import set_bias
from tiny_transformers.layers.ffn.controller import Controller
from tiny_transformers.layers.ffn.kan import KANLinear
from tiny_transformers.layers.ffn.moe import MixtureOfExperts
from tiny_transformers.layers.ffn.pkm import ProductKeyMemory
from tiny_transformers.layers.layer import PerToken, StudyLinear
from tiny_transformers.settings import architecture
from tiny_transformers.settings.architecture import GATED, KAN, SPARSE, Dense, MoE, ProductKey, sized

_SETTINGS: TypeAdapter[Any] = TypeAdapter(architecture.FeedForward)


def settings(config: Any) -> Any:
    """What a Hugging Face configuration of ours says of the feed-forward module, as settings."""
    ffn = _SETTINGS.validate_python(config.ffn or {"kind": "dense"})
    return sized(ffn, config.hidden_size, config.intermediate_size) if isinstance(ffn, SPARSE) else ffn


def sparse(config: Any, gelu: str) -> PerToken | None:
    """The whole module (B, T, H) -> (B, T, H), if it is a sparse one."""
    ffn, h = settings(config), config.hidden_size
    if not isinstance(ffn, SPARSE):
        return None
    if isinstance(ffn, ProductKey):
        assert ffn.num_subkeys
        return ProductKeyMemory(h, ffn.num_subkeys, ffn.top_k, ffn.num_heads, ffn.query_size, ffn.study_values)
    activation: Callable[[Tensor], Tensor] = activations.build(config, gelu)
    if isinstance(ffn, MoE):
        assert ffn.expert_size
        return MixtureOfExperts(
            h,
            ffn.expert_size,
            ffn.num_experts,
            ffn.top_k,
            balance_loss=ffn.balance_loss,
            activation=activation,
            study_initialization=config.initialization == "study",
        )
    assert ffn.size
    assert ffn.rank
    return Controller(h, ffn.size, ffn.num_blocks, ffn.rank, temperature=ffn.temperature, activation=activation)


def dense(config: Any, gelu: str, first: nn.Linear, last: nn.Linear) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The first layer, what is between, and the last layer, from those of the stock module."""
    ffn, h, size = settings(config), config.hidden_size, config.intermediate_size
    study = config.initialization == "study"
    if isinstance(ffn, KAN):
        spline: dict[str, Any] = {
            "grid_size": ffn.grid_size,
            "spline_order": ffn.spline_order,
            "initialization": "study" if study else "upstream",
        }
        both = ffn.layers != "intermediate"
        between = activations.build(config, gelu)
        return KANLinear(h, size, **spline), between, KANLinear(size, h, **spline) if both else last
    assert isinstance(ffn, Dense)
    if ffn.depth == 1:
        return nn.Identity(), nn.Identity(), _linear(config, h, h, last)
    wide = 2 * size if config.activation in GATED else size
    layers: list[nn.Module] = [activations.build(config, gelu)]
    for _ in range(ffn.depth - 2):
        layers += [_linear(config, size, wide), activations.build(config, gelu)]
    between = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    return _linear(config, h, wide, first), between, _linear(config, size, h, last)


def _linear(config: Any, inputs: int, outputs: int, stock: nn.Linear | None = None) -> nn.Linear:
    if config.initialization == "study":
        return StudyLinear(inputs, outputs, bias=config.bias is not False)
    if stock is not None and (stock.in_features, stock.out_features) == (inputs, outputs):
        set_bias(stock, config.bias)
        return stock
    return nn.Linear(inputs, outputs, bias=config.bias is not False)


class Zero(nn.Module):
    """Adds nothing to the residual stream; in place of a module that a block has not."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, H) -> (B, T, H)"""
        return torch.zeros_like(x)
