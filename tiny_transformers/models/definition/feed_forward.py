"""The definitions of activations and feed-forward modules: a line of algebra each, in plain products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tiny_transformers.models.definition.weights import Unknown, Weights
from tiny_transformers.settings.architecture import Architecture, Llama, Roberta
from tiny_transformers.settings.feed_forward.controller import Controller
from tiny_transformers.settings.feed_forward.dense import Dense
from tiny_transformers.settings.feed_forward.kan import KAN
from tiny_transformers.settings.feed_forward.moe import MoE
from tiny_transformers.settings.feed_forward.pkm import ProductKey


def _gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _gated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Of values, and then gates, by halves."""

    def formula(x: Tensor, a: Tensor) -> Tensor:
        units = x.shape[-1] // 2
        return x[..., :units] * a * function(x[..., units:])

    return formula


# Name -> its value at x, with parameter a, which is 1 if it has none. Sources: settings/activations.py's module.
_FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda x, a: torch.where(x > 0, x, 0 * a),
    "silu": lambda x, a: x * _sigmoid(a * x),
    "swish": lambda x, a: x * _sigmoid(a * x),
    "swish_thesis": lambda x, a: a * x**2 * _sigmoid(a * x),
    "prelu": lambda x, a: torch.where(x > 0, x, a * x),
    "learnable_gelu": lambda x, a: a * _gelu_tanh(x),
    "geglu": _gated(_gelu_tanh),
    "learnable_geglu": _gated(_gelu_tanh),
    "none": lambda x, a: x * a,
    "swiglu": _gated(lambda x: x * _sigmoid(x)),
}


def _activated(weights: Weights, settings: Architecture, x: Tensor, name: str) -> Tensor:
    if settings.activation == "gelu":
        return gelu_erf(x) if isinstance(settings, Roberta) else _gelu_tanh(x)
    formula = _FORMULAS.get(str(settings.activation))
    if formula is None:
        raise Unknown(f"activation {settings.activation}")
    parameters = settings._block.activation_parameters
    one = torch.ones((), dtype=x.dtype)
    return formula(x, weights(f"{name}.alpha", parameters) if parameters else one)


# -- feed-forward modules ---------------------------------------------------------------------------------------------


def _dense(weights: Weights, settings: Architecture, x: Tensor, names: tuple[str, str, str]) -> Tensor:
    """W_d act(... act(W_1 x + b_1) ...) + b_d"""
    assert isinstance(settings.ffn, Dense)
    first, between, last = names
    bias, sizes = settings.bias is not False, settings.ffn.linears(settings._block)
    if isinstance(settings, Llama) and settings._activation.gate and len(sizes) == 2:  # two layers, side by side
        parts = [weights.linear(x, name, sizes[1][0], bias=bias) for name in (first, "mlp.gate_proj")]
        return weights.linear(_activated(weights, settings, torch.cat(parts, -1), between), last, x.shape[1], bias=bias)
    for number, (_, outputs) in enumerate(sizes[:-1]):
        x = weights.linear(x, first if number == 0 else f"{between}.{2 * number - 1}", outputs, bias=bias)
        x = _activated(weights, settings, x, between if len(sizes) == 2 else f"{between}.{2 * number}")
    return weights.linear(x, last, sizes[-1][1], bias=bias)


def _kan(weights: Weights, settings: Architecture, x: Tensor, names: tuple[str, str, str]) -> Tensor:
    assert isinstance(settings.ffn, KAN)
    first, between, last = names
    x = _splines(weights.at(first), settings.ffn, x, settings.intermediate_size)
    x = _activated(weights, settings, x, between)
    if settings.ffn.layers == "intermediate":
        return weights.linear(x, last, settings.hidden_size, bias=settings.bias is not False)
    return _splines(weights.at(last), settings.ffn, x, settings.hidden_size)


def _splines(weights: Weights, ffn: KAN, x: Tensor, outputs: int) -> Tensor:
    """Liu et al. 2024, section 2.2, with B-splines by Cox and de Boor on knots that are evenly spaced over [-1, 1]."""
    order, inputs, step = ffn.spline_order, x.shape[-1], 2 / ffn.grid_size
    knots = [-1 + step * (number - order) for number in range(ffn.grid_size + 2 * order + 1)]
    bases = [((x >= low) & (x < low + step)).to(x.dtype) for low in knots[:-1]]
    for degree in range(1, order + 1):
        width = degree * step
        bases = [
            (x - knots[i]) / width * bases[i] + (knots[i + degree + 1] - x) / width * bases[i + 1]
            for i in range(len(bases) - 1)
        ]
    scaled = (
        weights("spline_weight", outputs, inputs, len(bases)) * weights("spline_scaler", outputs, inputs)[..., None]
    )
    y = x * _sigmoid(x) @ weights("base_weight", outputs, inputs).T
    for number, base in enumerate(bases):
        y = y + base @ scaled[..., number].T
    return y


def _moe(weights: Weights, settings: Architecture, x: Tensor) -> Tensor:
    """Shazeer et al. 2017, eq. 1 and 3, without noise."""
    assert isinstance(settings.ffn, MoE)
    ffn, hidden = settings.ffn, settings.hidden_size
    weights("noise.weight", ffn.num_experts, hidden)  # of training
    logits = weights.linear(x, "gate", ffn.num_experts, bias=False)
    return mixed(
        weights, x, largest(logits, ffn.top_k), ffn.expert_size or 0, lambda y: _activated(weights, settings, y, "")
    )


def largest(logits: Tensor, k: int) -> Tensor:
    """(N, E) -> (N, E): the softmax over the k largest, and 0."""
    logits = logits.float()
    bound = logits.sort(dim=-1, descending=True).values[:, k - 1 : k]
    return torch.where(logits >= bound, logits, -math.inf).softmax(-1).double()


def mixed(weights: Weights, x: Tensor, share: Tensor, size: int, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """sum over e of share_e (act(x w1_e + b1_e) w2_e + b2_e). x: (N, H), share: (N, E)"""
    experts, hidden = share.shape[1], x.shape[1]
    w1, b1 = weights("w1", experts, hidden, size), weights("b1", experts, size)
    w2, b2 = weights("w2", experts, size, hidden), weights("b2", experts, hidden)
    return sum(share[:, e, None] * (activation(x @ w1[e] + b1[e]) @ w2[e] + b2[e]) for e in range(experts))


def _controller(weights: Weights, settings: Architecture, x: Tensor) -> Tensor:
    """Jaszczur et al. 2021, section 3.1: of each block the unit with the largest logit."""
    assert isinstance(settings.ffn, Controller)
    ffn, hidden = settings.ffn, settings.hidden_size
    size, blocks = ffn.size or 0, ffn.num_blocks
    logits = weights.linear(weights.linear(x, "u", ffn.rank or 0, bias=False), "v", size, bias=False)
    logits = logits.view(len(x), blocks, size // blocks)
    mask = (logits == logits.max(-1, keepdim=True).values).to(x.dtype).flatten(1)
    inner = _activated(weights, settings, x @ weights("w1", size, hidden).T + weights("b1", size), "")
    return mask * inner @ weights("w2", size, hidden) + weights("b2", hidden)


def _pkm(weights: Weights, settings: Architecture, x: Tensor) -> Tensor:
    """Lample et al. 2019, section 3; of all k x k pairs of sub-keys the k best."""
    assert isinstance(settings.ffn, ProductKey)
    ffn, hidden = settings.ffn, settings.hidden_size
    n, heads, k, width = ffn.num_subkeys or 0, ffn.num_heads, ffn.top_k, ffn.num_heads * ffn.query_size
    query = weights.linear(x, "query", width, bias=False)
    query = (query - weights("norm.running_mean", width)) / (weights("norm.running_var", width) + 1e-5).sqrt()
    query = query * weights("norm.weight", width) + weights("norm.bias", width)
    halves = query.view(len(x), heads, 2, -1)
    values = weights("values.weight", n * n, hidden)
    keys = [weights(f"keys_{side}", heads, n, ffn.query_size // 2) for side in ("left", "right")]
    y = torch.zeros_like(x)
    for head in range(heads):
        best, subkey = zip(*((halves[:, head, side] @ keys[side][head].T).topk(k) for side in (0, 1)), strict=True)
        sums, pair = (best[0][:, :, None] + best[1][:, None, :]).flatten(1).topk(k)
        i, j = pair // k, pair % k
        row = subkey[0].gather(1, i) * n + subkey[1].gather(1, i if ffn.study_values else j)
        y = y + (sums.softmax(-1)[..., None] * values[row]).sum(1)
    return y


_WHOLE = {"moe": _moe, "controller": _controller, "pkm": _pkm}
_PARTS = {"dense": _dense, "kan": _kan}


def feed_forward(
    weights: Weights, settings: Architecture, x: Tensor, whole: str, names: tuple[str, str, str]
) -> Tensor:
    kind = settings.ffn.kind
    if kind in _WHOLE:
        return _WHOLE[kind](weights.at(whole), settings, x)
    if kind in _PARTS:
        return _PARTS[kind](weights, settings, x, names)
    raise Unknown(f"ffn {kind}")
