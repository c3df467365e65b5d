"""The definition of attention, and of which blocks' weights stand at which place of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tiny_transformers.models.definition.weights import Weights
from tiny_transformers.settings.architecture import Architecture, Roberta
from tiny_transformers.settings.order import blocks_of
from tiny_transformers.settings.sharing import Sharing


def attended(
    weights: Weights,
    settings: Architecture,
    x: Tensor,
    names: tuple[str, str, str],
    visible: Tensor,
    *,
    scaled: bool,
    mixing: tuple[Tensor, Tensor] | None = None,
    turned: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """softmax(q k^T) v of each head; heads in a row share keys and values. `turned`: a head's queries or keys by their
    places. x: (T, H) -> (T, heads V)"""
    heads, kv_heads = settings.heads, settings.num_key_value_heads or 0
    qk, v = (settings.qk_size or 0) // heads, (settings.v_size or 0) // heads
    bias = settings.bias if settings.bias is not None else isinstance(settings, Roberta)
    query, key, value = (
        weights.linear(x, name, size, bias=bias)
        for name, size in zip(names, (heads * qk, kv_heads * qk, kv_heads * v), strict=True)
    )
    if mixing:
        key, value = mixing[0] @ key, mixing[1] @ value
        visible = torch.ones(len(x), len(key), dtype=torch.bool)
    outputs = []
    for head in range(heads):
        of = head // (heads // kv_heads)
        scores = turned(query[:, head * qk : (head + 1) * qk]) @ turned(key[:, of * qk : (of + 1) * qk]).T
        scores = (scores / math.sqrt(qk) if scaled else scores).masked_fill(~visible, -math.inf)
        outputs.append(scores.softmax(-1) @ value[:, of * v : (of + 1) * v])
    return torch.cat(outputs, dim=-1)


def mixing_of(body: Weights, attention: Weights, settings: Architecture, length: int) -> tuple[Tensor, Tensor] | None:
    """E and F of a Linformer (Wang et al. 2020, eq. 7), for a text of this length: (k, T) each."""
    linformer = settings.linformer
    if linformer is None:
        return None
    shape = linformer.k, settings.positions
    owner = body.at("encoder.projection") if linformer.share == "layerwise" else attention.at("self.projection")
    of_keys = owner("keys", *shape)
    of_values = owner("values", *shape) if linformer.share == "headwise" else of_keys
    return of_keys[:, :length], of_values[:, :length]


class Place(NamedTuple):
    """Of a place in a forward pass: which blocks have the weights of its modules; None where it has no such module."""

    attention: int | None
    feed_forward: int | None
    attentions: int  # that are different, before this one

    @classmethod
    def of(cls, settings: Architecture) -> list[Place]:
        if settings.sharing:
            return cls._shared(settings.sharing, settings.layers)
        blocks = list(enumerate(blocks_of(settings.order) if settings.order else ["sf"] * settings.layers))
        before = [sum("s" in modules for _, modules in blocks[:block]) for block, _ in blocks]
        return [cls(block if "s" in modules else None, block if "f" in modules else None, before[block])
                for block, modules in blocks]  # fmt: skip

    @classmethod
    def _shared(cls, sharing: Sharing, layers: int) -> list[Place]:
        """Layers that share all they have are saved once; of others each has what stands at an earlier one no more."""
        unique, every = sharing.places(layers), list(range(layers))
        if sharing.modules == "all":
            return [cls(block, block, block) for block in unique]
        first = [unique.index(number) for number in unique]
        if sharing.modules == "attention":
            return [cls(*each) for each in zip(first, every, unique, strict=True)]
        return [cls(*each) for each in zip(every, first, every, strict=True)]


def sized(settings: Architecture) -> list[tuple[Place, Architecture]]:
    """The places of a forward pass, each with a model of its sizes."""
    return [(place, settings.layer(number)) for number, place in enumerate(Place.of(settings))]
