"""Linear layers with activations between them, those of the stock module where they have its shapes."""

from __future__ import annotations

from typing import Any

from torch import nn

from tiny_transformers.layers import activations
from tiny_transformers.layers.attention import set_bias
from tiny_transformers.layers.layer import StudyLinear
from tiny_transformers.settings.activations import ACTIVATIONS
from tiny_transformers.settings.feed_forward.dense import Dense


def build(
    ffn: Dense, config: Any, gelu: str, first: nn.Linear, last: nn.Linear
) -> tuple[nn.Module, nn.Module, nn.Module]:
    h, size = config.hidden_size, config.intermediate_size
    if ffn.depth == 1:
        return nn.Identity(), nn.Identity(), linear(config, h, h, last)
    wide = 2 * size if ACTIVATIONS[config.activation].gated else size
    layers: list[nn.Module] = [activations.build(config, gelu)]
    for _ in range(ffn.depth - 2):
        layers += [linear(config, size, wide), activations.build(config, gelu)]
    between = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
    return linear(config, h, wide, first), between, linear(config, size, h, last)


def linear(config: Any, inputs: int, outputs: int, stock: nn.Linear | None = None) -> nn.Linear:
    """A layer as the configuration has them: the stock one if it is of this shape."""
    if config.initialization == "study":
        return StudyLinear(inputs, outputs, bias=config.bias is not False)
    if stock is not None and (stock.in_features, stock.out_features) == (inputs, outputs):
        set_bias(stock, config.bias)
        return stock
    return nn.Linear(inputs, outputs, bias=config.bias is not False)
