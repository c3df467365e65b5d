"""The definition of a Brainformer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tiny_transformers.models.definition.feed_forward import largest, mixed
from tiny_transformers.models.definition.weights import Weights
from tiny_transformers.settings.brainformer_architecture import Brainformer, Experts


def brainformer(weights: Weights, settings: Any, ids: Tensor) -> Tensor:
    """ids: (T,) -> (T, V)"""
    hidden, inner, body = settings.hidden_size, settings.intermediate_size, weights.at("model")
    x = embedding = body("embed_tokens.weight", settings.vocab_size, hidden)
    x = x[ids]
    position_keys = body("position_keys.weight", hidden // settings.num_heads, settings.attn_span)
    for number, letters in enumerate(settings.groups):
        group = body.at(f"groups.{number}")
        for letter in letters:
            if letter == "s":
                y = _look_back(group.at("attention"), settings, x, position_keys)
            elif letter == "f":
                y = group.linear(x, "feed_forward.up", inner).clamp(min=0)
                y = group.linear(y, "feed_forward.down", hidden)
            else:
                experts = group.at("experts")
                share = _chosen(experts.at("gate"), settings.experts, x, ids, settings.vocab_size)
                y = mixed(experts, x, share, inner, lambda z: z.clamp(min=0))
            x = group.norm(x + y, f"norms.{letter}", 1e-5)
    output = embedding if settings.tie_word_embeddings else weights("lm_head.weight", settings.vocab_size, hidden)
    return x @ output.T + weights("lm_head.bias", settings.vocab_size)


def _look_back(weights: Weights, settings: Brainformer, x: Tensor, position_keys: Tensor) -> Tensor:
    """Sukhbaatar et al. 2019, eq. 1 to 5: the attn_span positions before one's own, zeros before the beginning."""
    length, hidden = x.shape
    span, size = settings.attn_span, hidden // settings.num_heads
    query, key, value = (weights.linear(x, name, hidden, bias=False) for name in ("query", "key", "value"))
    added = torch.zeros(settings.num_heads, span, dtype=x.dtype)
    if settings.adaptive_span:
        # In float32, as it is trained; the columns are distances, the farthest first.
        reach = weights("reach", settings.num_heads).float()[:, None] * span
        mask = (reach - torch.arange(span - 1, -1, -1)) / settings.adaptive_span.ramp + 1
        added = mask.clamp(torch.finfo(mask.dtype).tiny, 1).log().to(x.dtype)
    outputs = []
    for head in range(settings.num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ position_keys  # (T, span)
        near = min(span, length - 1)
        for distance in range(1, near + 1):
            scores[distance:, span - distance] += (query[distance:, part] * key[:-distance, part]).sum(-1)
        share = (scores / math.sqrt(size) + added[head]).softmax(-1)
        y = torch.zeros(length, size, dtype=x.dtype)
        for distance in range(1, near + 1):
            y[distance:] += share[distance:, span - distance, None] * value[:-distance, part]
        outputs.append(y)
    return weights.linear(torch.cat(outputs, dim=-1), "out", hidden, bias=False)


def _chosen(weights: Weights, gate: Experts, x: Tensor, ids: Tensor, vocab_size: int) -> Tensor:
    """The weight of every expert for every token, without what is of training only; docs/models.md. (N, E)"""
    experts, k = gate.num_experts, gate.last_top_k or gate.top_k or 0
    if gate.gate == "hash":
        chosen = weights("table", vocab_size, k)[ids]
        return torch.zeros(len(ids), experts, dtype=x.dtype).scatter(1, chosen, 1 / k)
    logits = weights.linear(x, "linear", experts, bias=gate.gate != "noisy")
    if gate.gate == "noisy":
        weights("noise.weight", experts, x.shape[1])
    if gate.gate == "switch":
        share = logits.float().softmax(-1).double()
        return torch.where(share == share.max(-1, keepdim=True).values, share, 0)
    return largest(logits, k)
