"""Attention to a span of positions before one's own (Sukhbaatar et al. 2019, arXiv:1905.07799).

A query sees the `attn_span` positions before its own, not itself, by what is there and by how far back it is. What lies
before the beginning of a text counts as zero vectors and is seen like the rest. With an adaptive span every head learns
how far it looks, and no more is computed than the farthest of them needs.

Queries are cut into chunks, each with the window of all keys that it sees: of C queries and a span S, (C, S + C) scores
are computed where the whole block of M would have (M, S + M)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache
from transformers import initialization as init

from tiny_transformers.layers.attention import rounded
from tiny_transformers.layers.dropout import dropout
from tiny_transformers.layers.layer import Layer
from tiny_transformers.settings.brainformer_architecture import ALIGNED, CHUNK, AdaptiveSpan

# CHUNK queries: on a CPU the fastest of 32 to 512, or a fifth at most behind it, at spans of 64 to 2,048.
MULTIPLE = 64  # a span in use is one of it: few different shapes in a training


class PositionKeys(Layer):
    """A key for every distance, shared by all layers and heads. (D, attn_span): from the farthest to the nearest."""

    def __init__(self, head_size: int, attn_span: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(head_size, attn_span))

    def initialize(self, std: float) -> None:  # noqa: ARG002
        init.normal_(self.weight, 0.0, 1.0)


class SpanAttention(Layer):
    """Without biases, so that zero vectors have zero keys and values."""

    def __init__(
        self, hidden_size: int, num_heads: int, attn_span: int, adaptive: AdaptiveSpan | None, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads, self.attn_span, self.adaptive, self.dropout = num_heads, attn_span, adaptive, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(4))
        # How far each head looks, in parts of attn_span.
        self.reach = nn.Parameter(torch.empty(num_heads)) if adaptive else None
        self._span: int | None = None  # in use, once it is known

    def initialize(self, std: float) -> None:  # noqa: ARG002
        if self.adaptive and self.reach is not None:
            init.constant_(self.reach, self.adaptive.init)

    # --- spans

    def spans(self) -> list[int]:
        """Return the span of each head: the positions that have any weight, the ramp's included."""
        if self.reach is None:
            return [self.attn_span] * self.num_heads
        return [self._positions(reach) for reach in self.reach.tolist()]

    @property
    def span(self) -> int:
        """In use: positions before its own that a query is compared with."""
        if self._span is None:
            self.set_span(1.0 if self.reach is None else self.reach.max().item())
        assert self._span
        return self._span

    def set_span(self, reach: float) -> None:
        """To that of the head that looks farthest."""
        self._span = min(self.attn_span, -(-self._positions(reach) // MULTIPLE) * MULTIPLE)

    @property
    def memory_size(self) -> int:
        """Positions that a training carries on: some more than are in use, for a span that grows."""
        return min(self.attn_span, self.span + MULTIPLE)

    def _positions(self, reach: float) -> int:
        ramp = self.adaptive.ramp if self.adaptive else 0
        # A reach below 0 is of an optimizer that `after_update` did not follow.
        return min(self.attn_span, math.ceil(max(0.0, reach) * self.attn_span) + ramp)

    def span_loss(self) -> Tensor | float:
        if not self.adaptive or self.reach is None:
            return 0.0
        return self.adaptive.loss * self.attn_span * self.reach.mean()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._span = None

    # --- the forward pass

    def forward(
        self,
        x: Tensor,
        position_keys: Tensor,
        memory: Tensor | None = None,
        cache: Cache | None = None,
        place: int = 0,
    ) -> Tensor:
        """x: (B, M, H), position_keys: (D, attn_span) -> (B, M, H)

        What came before x is `memory`, the inputs (B, P, H) of this very place, or keys and values at `place` of the
        cache, which is brought up to date; or nothing."""
        x, span = rounded(x), self.span
        query = (self._heads(self.query(x)) * (x.shape[-1] // self.num_heads) ** -0.5).contiguous()
        seen = x if memory is None else torch.cat([rounded(memory)[:, -span:], x], dim=1)
        key, value = self._heads(self.key(seen)), self._heads(self.value(seen))  # (heads, B, P + M, D)
        if cache is not None:
            past = cache.update(key.transpose(0, 1), value.transpose(0, 1), place)
            key, value = (tensor.transpose(0, 1) for tensor in past)
        drop = self.dropout if self.training else 0.0
        output = look_back(query, key, value, rounded(position_keys[:, -span:]), self._log_mask(span), drop)
        return self.out(output.permute(1, 2, 0, 3).flatten(2))

    def weights(self, x: Tensor, position_keys: Tensor) -> Tensor:
        """What each position of a text that nothing precedes attends to: each is given a unit vector of its own as its
        value. What lies before the text has the weight that a row lacks of 1. x: (B, T, H) -> (B, heads, T, T)"""
        x = rounded(x)
        query = (self._heads(self.query(x)) * (x.shape[-1] // self.num_heads) ** -0.5).contiguous()
        key, own = self._heads(self.key(x)), torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        value = own.expand(*key.shape[:2], -1, -1)
        weights = look_back(query, key, value, rounded(position_keys[:, -self.span :]), self._log_mask(self.span))
        return weights.transpose(0, 1)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (heads, B, T, D)"""
        return x.unflatten(-1, (self.num_heads, -1)).permute(2, 0, 1, 3)

    def _log_mask(self, span: int) -> Tensor | None:
        """-> (heads, span), to be added to scores: the same as masking their softmax and dividing by the sum. (Eq. 5)

        The gradient of a span is that of the mask, which has one where it is just 0, and where it is just 1, as the
        original's clamp has: heads begin there. So what is not to be seen is at exp(-48), too little to be seen in a
        sum and enough to have a gradient; minus infinity would have none."""
        if not self.adaptive or self.reach is None:
            return None
        before = torch.arange(span - 1, -1, -1, device=self.reach.device)  # of the farthest, ..., of the nearest: 0
        mask = (self.reach.float()[:, None] * self.attn_span - before) / self.adaptive.ramp + 1
        return (mask.clamp(0, 1) + math.exp(-48)).log()


def look_back(
    query: Tensor, key: Tensor, value: Tensor, position_keys: Tensor, log_mask: Tensor | None, drop: float = 0.0
) -> Tensor:
    """The last M keys and values are the queries' own; some of the weights are dropped.

    query: (heads, B, M, D), key: (heads, B, K, D), value: (heads, B, K, V), position_keys: (D, S), log_mask: (heads, S)
    -> (heads, B, M, V)"""
    length, span = query.shape[2], position_keys.shape[1]
    chunk = min(CHUNK, length)
    filled = -length % chunk
    key, value = (_padded(x[:, :, -(span + length) :], span + length, filled) for x in (key, value))
    query = _padded(query, length, filled)
    band = _band(position_keys, log_mask, chunk, len(query))
    # All chunks at once, where many small products wait for each other; on a CPU one by one, they stay in its cache.
    step = chunk if query.device.type == "cpu" else query.shape[2]
    keys, values = (_windows(x, span + chunk, chunk) for x in (key, value))
    parts = [
        _chunks(some, of_keys, of_values, *band, chunk, drop)
        for some, of_keys, of_values in zip(query.split(step, dim=2), keys, values, strict=True)
    ]
    output = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return output[:, :, :length]


def _padded(x: Tensor, length: int, after: int) -> Tensor:
    """With zeros before, up to `length`, and `after` of them behind. x: (heads, B, T, D)"""
    before = length - x.shape[2]
    return F.pad(x, (0, 0, before, after)) if before or after else x


def _band(position_keys: Tensor, log_mask: Tensor | None, chunk: int, heads: int) -> tuple[Tensor, Tensor]:
    """Keys of positions (heads, D, P) and what is added to their scores (heads, 1, P), minus infinity beyond the span:
    P is longer by at least a chunk."""
    size, span = position_keys.shape
    beyond = -(-(span + chunk + 1) // ALIGNED) * ALIGNED - span
    added = position_keys.new_zeros(heads, span) if log_mask is None else log_mask.to(position_keys.dtype)
    added = F.pad(added, (0, beyond), value=-math.inf)
    return F.pad(position_keys, (0, beyond)).expand(heads, size, -1), added.unsqueeze(1)


def _chunks(
    query: Tensor, key: Tensor, value: Tensor, position_keys: Tensor, added: Tensor, chunk: int, drop: float
) -> Tensor:
    """query: (heads, B, N, D), N a multiple of `chunk`; key, value: the windows of the N / chunk chunks,
    (heads B chunks, S + chunk, D or V) -> (heads, B, N, V)"""
    heads, rows, length, size = query.shape
    width = key.shape[1]
    by_position = torch.baddbmm(added, query.reshape(heads, rows * length, size), position_keys)
    by_position = _skewed(by_position.view(-1, chunk, added.shape[-1]), width)
    scores = torch.baddbmm(by_position, query.reshape(-1, chunk, size), key.transpose(1, 2))
    weights = dropout(scores.softmax(-1), drop)  # (heads B chunks, chunk, width)
    return (weights.to(value.dtype) @ value).view(heads, rows, length, -1)


def _skewed(scores: Tensor, width: int) -> Tensor:
    """Row i moved i to the right, where its keys lie in the window; what comes in from the left is the end of the row
    above, minus infinity. (N, C, P) -> (N, C, width), a view"""
    _, chunk, length = scores.shape
    return scores.flatten(1)[:, : chunk * (length - 1)].unflatten(1, (chunk, length - 1))[..., :width]


def _windows(x: Tensor, width: int, step: int) -> tuple[Tensor, ...]:
    """Return the windows of x (heads, B, T, D), each a step behind the last one: on a CPU one after the other, as views
    (heads B, width, D), elsewhere as one tensor (heads B windows, width, D)."""
    if x.device.type == "cpu":
        windows: tuple[Tensor, ...] = _Windows.apply(x.contiguous().flatten(0, 1), width, step)
        return windows
    return (_at_once(x, width, step),)


def _at_once(x: Tensor, width: int, step: int) -> Tensor:
    """In one copy, and a gradient of one addition. (heads, B, T, D) -> (heads B windows, width, D)"""
    return x.unfold(2, width, step).transpose(-1, -2).flatten(0, 2)


class _Windows(torch.autograd.Function):
    """x: (N, T, D) -> (N, width, D), as many as there are. Their gradients are added up where they belong, the last
    window's first, as slices would have it; of a slice autograd makes one that is as long as x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, step: int) -> tuple[Tensor, ...]:
        ctx.shape, ctx.step = x.shape, step
        return tuple(x[:, start : start + width] for start in range(0, x.shape[1] - width + 1, step))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        whole = grads[0].new_zeros(ctx.shape)
        for number, grad in reversed(list(enumerate(grads))):
            whole[:, number * ctx.step :][:, : grad.shape[1]] += grad
        return whole, None, None
