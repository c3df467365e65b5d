"""Texts that lie one behind the other in one row, without padding, and the attention of each to itself.

Such a row of N tokens is a batch of one, (1, N). On NVIDIA's GPUs from Ampere on, in 16 bits, one kernel computes the
attention of all texts (torch.nn.attention.varlen: FlashAttention, Dao 2023, arXiv:2307.08691). Elsewhere each text is
computed by itself, for which the host has to know where they begin: on a CPU it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

ALIGNED = 8  # the kernel's heads have a multiple of so many numbers
WIDEST = 256  # and at most so many


class Texts(NamedTuple):
    """Where the texts of a row are; what attention is given in the place of a mask."""

    starts: Tensor  # (texts + 1,) int32: where each begins, and where the last one ends
    places: Tensor  # (N,) each token's place in its text, from 0
    longest: int  # tokens of the longest one


def places(input_ids: Tensor, texts: Texts | None) -> Tensor:
    """Each token's place in its text, from 0: (T,)"""
    return torch.arange(input_ids.shape[1], device=input_ids.device) if texts is None else texts.places


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    texts: Texts,
    *,
    scale: float,
    window: int | None,
    alone: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """softmax(scale query key^T) value, where each query sees its own key and those before it in its text, at most
    `window` of them. `alone` is the same of one text, for where there is no kernel.

    query, key: (1, heads, N, D), value: (1, heads, N, V) -> (1, heads, N, V)"""
    if not has_kernel(query):
        parts = (x.split(texts.starts.diff().tolist(), dim=2) for x in (query, key, value))
        return torch.cat([alone(*text) for text in zip(*parts, strict=True)], dim=2)
    size = value.shape[-1]
    wide = -(-max(query.shape[-1], size) // ALIGNED) * ALIGNED
    query, key, value = (_laid(x, wide) for x in (query, key, value))
    output = _kernel(query, key, value, texts, scale, -1 if window is None else window - 1)
    return output[..., :size].transpose(0, 1).unsqueeze(0)


def _laid(x: Tensor, wide: int) -> Tensor:
    """With zeros behind, which change no score. (1, heads, N, D) -> (N, heads, wide)"""
    return (F.pad(x, (0, wide - x.shape[-1])) if x.shape[-1] < wide else x)[0].transpose(0, 1)


def has_kernel(query: Tensor) -> bool:
    return query.is_cuda


def _kernel(query: Tensor, key: Tensor, value: Tensor, texts: Texts, scale: float, before: int) -> Tensor:
    """`before`: so many keys before its own that a query sees; -1: all. (N, heads, D) -> (N, heads, D)"""
    where, longest = texts.starts, texts.longest
    output: Tensor = varlen_attn(
        query, key, value, where, where, longest, longest, scale=scale, window_size=(before, 0)
    )
    return output
