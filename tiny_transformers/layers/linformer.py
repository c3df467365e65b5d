# RoBERTa's self-attention, except: keys and values of all positions are mixed into k of each before they are attended
# to.
"""Linformer (Wang et al. 2020, arXiv:2006.04768, eq. 7): softmax(Q (E K)^T / sqrt(d)) (F V), of each head.

A text of T tokens takes the first T columns of E and F. Padding has keys and values of zero before they are mixed, so
a text gets the same result however it is padded; behind the mixing nothing is masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention

from tiny_transformers.layers.attention import TinyRobertaSelfAttention
from tiny_transformers.layers.layer import Layer
from tiny_transformers.settings.linformer import Linformer


class Projection(Layer):
    """E and F, or one matrix for both."""

    def __init__(self, k: int, positions: int, *, apart: bool) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(k, positions))
        self.values = nn.Parameter(torch.empty(k, positions)) if apart else None

    def initialize(self, std: float) -> None:  # noqa: ARG002
        """N(0, 1/k), of the paper's theorem 2: mixed keys are then about as long as keys."""
        for matrix in self.parameters(recurse=False):
            init.normal_(matrix, 0.0, len(matrix) ** -0.5)

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, heads, T, D) -> (B, heads, k, D)"""
        length = key.shape[2]
        of_keys = self.keys[:, :length]
        of_values = of_keys if self.values is None else self.values[:, :length]
        return torch.einsum("kt,bhtd->bhkd", of_keys, key), torch.einsum("kt,bhtd->bhkd", of_values, value)


class LinformerSelfAttention(TinyRobertaSelfAttention):
    """In place of a stock module. `shared` is the projection of all layers, which the encoder has."""

    def __init__(self, config: Any, stock: RobertaSelfAttention, shared: Projection | None) -> None:
        super().__init__(config, stock)
        if shared is None:
            self.projection = _projection(config)
        self._shared = (shared,)  # in a tuple it is no child

    def seen(self, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mixtures of keys and values, all of which each query sees."""
        if mask is not None:
            real = mask[:, 0, -1, :, None]  # (B, T, 1), as every query of an encoder sees them
            real = real if real.dtype == torch.bool else real == 0
            key, value = (x.masked_fill(~real[:, None], 0.0) for x in (key, value))
        return *(self._shared[0] or self.projection)(key, value), None


def attention(config: Any, stock: RobertaSelfAttention, encoder: nn.Module) -> TinyRobertaSelfAttention:
    """As the configuration says, in place of a stock module of this encoder, which gets what its layers share."""
    linformer = settings(config)
    if linformer is None:
        return TinyRobertaSelfAttention(config, stock)
    if linformer.share != "layerwise":
        return LinformerSelfAttention(config, stock, None)
    if not hasattr(encoder, "projection"):
        encoder.projection = _projection(config)
    shared: Any = encoder.projection
    return LinformerSelfAttention(config, stock, shared)


def settings(config: Any) -> Linformer | None:
    return Linformer(**config.linformer) if config.linformer else None


def _projection(config: Any) -> Projection:
    linformer = settings(config)
    assert linformer
    positions = config.max_position_embeddings - config.pad_token_id - 1
    return Projection(linformer.k, positions, apart=linformer.share == "headwise")
