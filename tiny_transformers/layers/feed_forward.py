"""The feed-forward module of a block, as its configuration says.

Each kind (settings/feed_forward/) names a module that has a function `build`. One that stands for the whole module is
built by `build(ffn, config, gelu)`: (B, T, H) -> (B, T, H). The others stay in Hugging Face's place and names, as two
linear layers and what is between them, which `build(ffn, config, gelu, first, last)` makes of the stock module's own.
`gelu` is the family's own."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from tiny_transformers.settings import transformer
from tiny_transformers.settings.feed_forward.kind import FeedForwardKind, plain_units

_SETTINGS: TypeAdapter[Any] = TypeAdapter(transformer.FeedForward)


def settings(config: Any) -> FeedForwardKind:
    """Return the settings of the feed-forward module that a Hugging Face configuration of ours has."""
    ffn: FeedForwardKind = _SETTINGS.validate_python(config.ffn or {"kind": "dense"})
    if not ffn.whole:
        return ffn
    causal, units = config.model_type != "tiny_roberta", config.intermediate_size
    if config.model_type == "tiny_llama":
        units = plain_units(config.hidden_size, units)
    return ffn.resolved(config.hidden_size, units, causal)


def of_layer(config: Any, number: int) -> Any:
    """Return the configuration of one layer's module, which may have units of its own number."""
    if not config.scaling or not config.scaling["units"]:
        return config
    sized = copy.copy(config)
    sized.intermediate_size = config.scaling["units"][number]
    return sized


def whole(config: Any, gelu: str) -> nn.Module | None:
    """The whole module (B, T, H) -> (B, T, H), if the kind has one of its own."""
    ffn = settings(config)
    return import_module(ffn.layer).build(ffn, config, gelu) if ffn.whole else None


def parts(config: Any, gelu: str, first: nn.Linear, last: nn.Linear) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The first layer, what is between, and the last layer, from those of the stock module."""
    ffn = settings(config)
    made: tuple[nn.Module, nn.Module, nn.Module] = import_module(ffn.layer).build(ffn, config, gelu, first, last)
    return made


class Zero(nn.Module):
    """Adds nothing to the residual stream; in place of a module that a block has not."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, H) -> (B, T, H)"""
        return torch.zeros_like(x)
