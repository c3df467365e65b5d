"""Compute a model's logits a second time, by the definitions in its settings, to see that it is the one asked for.

Written from the papers' formulas in plain products, one module after the other, in float64, and never by the layers
that train: what these do in other orders, in chunks and by kernels is here a line of algebra. Each tensor is asked for
by its name and shape, and none may be left over. All parameters are moved first, so that no formula hides in its
starting point (a slope of 1, a bias of 0)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tiny_transformers.common.work import Check
from tiny_transformers.models.defined_steps import through
from tiny_transformers.models.language_model import LanguageModel
from tiny_transformers.settings.architecture import AnyModel, Architecture, GPTNeo, Llama, Roberta
from tiny_transformers.settings.brainformer_architecture import Brainformer
from tiny_transformers.settings.brainformer_architecture import Experts as GateSettings
from tiny_transformers.settings.feed_forward.controller import Controller
from tiny_transformers.settings.feed_forward.dense import Dense
from tiny_transformers.settings.feed_forward.kan import KAN
from tiny_transformers.settings.feed_forward.moe import MoE
from tiny_transformers.settings.feed_forward.pkm import ProductKey
from tiny_transformers.settings.order import blocks_of
from tiny_transformers.settings.sharing import Sharing

ROUNDING = 1e-6  # of the largest logit; gates choose in float32
TOKENS = 12  # of the fixed text; of GPT-Neo as many more as its local attention looks back
MOVED = 0.3, 0.02  # deviations by which every parameter is moved: relative, and absolute


class _Differs(Exception):
    """What a model has is not what its settings say."""


class _Unknown(Exception):
    """There is no definition here: of an activation, or a kind of module, from elsewhere."""


def check(model: LanguageModel, settings: AnyModel) -> Check:
    """Compare the logits that `model` gives for a fixed text with those of the definition. The value is the largest
    difference, in units of the largest logit, or what is wrong with a parameter."""
    moved = _moved(model)
    generator = torch.Generator().manual_seed(1)
    length = TOKENS + (settings.window_size if isinstance(settings, GPTNeo) else 0)
    ids = torch.randint(1, settings.vocab_size, (1, min(length, settings.positions or length)), generator=generator)
    weights = _Weights({**moved.state_dict(), **dict(moved.named_parameters())})
    try:
        with torch.no_grad():
            expected = _LOGITS[settings.family](weights, settings, ids[0])
            weights.all_asked(moved)
            found = moved(input_ids=ids, use_cache=False).logits[0]
    except _Unknown as unknown:
        return Check("definition", passed=True, value=f"not checked: there is no definition of {unknown} here")
    except _Differs as differs:
        return Check("definition", passed=False, value=str(differs))
    except (RuntimeError, ValueError, IndexError) as error:  # a module that cannot compute a text of this length
        return Check("definition", passed=False, value=" ".join(f"{type(error).__name__}: {error}".split())[:200])
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    return Check("definition", passed=difference <= ROUNDING, value=difference)


def _moved(model: LanguageModel) -> LanguageModel:
    moved: LanguageModel = copy.deepcopy(model).cpu().double().eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in moved.parameters():
            relative, absolute = torch.randn(2, *parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + MOVED[0] * relative).add_(MOVED[1] * absolute)
    moved.schedule(1.0)
    moved.after_update()
    return moved


class _Weights:
    """A model's tensors by name. `at` has a common beginning of names."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = "", asked: set[str] | None = None) -> None:
        self.tensors, self.prefix, self.asked = tensors, prefix, set() if asked is None else asked

    def at(self, name: str) -> _Weights:
        return _Weights(self.tensors, f"{self.prefix}{name}.", self.asked)

    def __call__(self, name: str, *shape: int) -> Tensor:
        name = f"{self.prefix}{name}"
        if name not in self.tensors:
            raise _Differs(f"{name} is absent")
        if self.tensors[name].shape != shape:
            raise _Differs(f"{name} has the shape {tuple(self.tensors[name].shape)}, not {shape}")
        self.asked.add(name)
        return self.tensors[name]

    def all_asked(self, model: nn.Module) -> None:
        left = [name for name, _ in model.named_parameters() if name not in self.asked]
        if left:
            raise _Differs(f"{left[0]} is no parameter of the model that was asked for")

    def linear(self, x: Tensor, name: str, outputs: int, *, bias: bool = True) -> Tensor:
        y = x @ self(f"{name}.weight", outputs, x.shape[-1]).T
        return y + self(f"{name}.bias", outputs) if bias else y

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        size = x.shape[-1]
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self(f"{name}.weight", size) + self(f"{name}.bias", size)

    def rms_norm(self, x: Tensor, name: str) -> Tensor:
        """Zhang & Sennrich 2019 (arXiv:1910.07467), eq. 4"""
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self(f"{name}.weight", x.shape[-1])


# -- activations ------------------------------------------------------------------------------------------------------


def _gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu_erf(x: Tensor) -> Tensor:
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


def _activated(weights: _Weights, settings: Architecture, x: Tensor, name: str) -> Tensor:
    if settings.activation == "gelu":
        return _gelu_erf(x) if isinstance(settings, Roberta) else _gelu_tanh(x)
    formula = _FORMULAS.get(str(settings.activation))
    if formula is None:
        raise _Unknown(f"activation {settings.activation}")
    parameters = settings._block.activation_parameters
    one = torch.ones((), dtype=x.dtype)
    return formula(x, weights(f"{name}.alpha", parameters) if parameters else one)


# -- feed-forward modules ---------------------------------------------------------------------------------------------


def _dense(weights: _Weights, settings: Architecture, x: Tensor, names: tuple[str, str, str]) -> Tensor:
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


def _kan(weights: _Weights, settings: Architecture, x: Tensor, names: tuple[str, str, str]) -> Tensor:
    assert isinstance(settings.ffn, KAN)
    first, between, last = names
    x = _splines(weights.at(first), settings.ffn, x, settings.intermediate_size)
    x = _activated(weights, settings, x, between)
    if settings.ffn.layers == "intermediate":
        return weights.linear(x, last, settings.hidden_size, bias=settings.bias is not False)
    return _splines(weights.at(last), settings.ffn, x, settings.hidden_size)


def _splines(weights: _Weights, ffn: KAN, x: Tensor, outputs: int) -> Tensor:
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


def _moe(weights: _Weights, settings: Architecture, x: Tensor) -> Tensor:
    """Shazeer et al. 2017, eq. 1 and 3, without noise."""
    assert isinstance(settings.ffn, MoE)
    ffn, hidden = settings.ffn, settings.hidden_size
    weights("noise.weight", ffn.num_experts, hidden)  # of training
    logits = weights.linear(x, "gate", ffn.num_experts, bias=False)
    return _mixed(
        weights, x, _largest(logits, ffn.top_k), ffn.expert_size or 0, lambda y: _activated(weights, settings, y, "")
    )


def _largest(logits: Tensor, k: int) -> Tensor:
    """(N, E) -> (N, E): the softmax over the k largest, and 0."""
    logits = logits.float()
    bound = logits.sort(dim=-1, descending=True).values[:, k - 1 : k]
    return torch.where(logits >= bound, logits, -math.inf).softmax(-1).double()


def _mixed(weights: _Weights, x: Tensor, share: Tensor, size: int, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """sum over e of share_e (act(x w1_e + b1_e) w2_e + b2_e). x: (N, H), share: (N, E)"""
    experts, hidden = share.shape[1], x.shape[1]
    w1, b1 = weights("w1", experts, hidden, size), weights("b1", experts, size)
    w2, b2 = weights("w2", experts, size, hidden), weights("b2", experts, hidden)
    return sum(share[:, e, None] * (activation(x @ w1[e] + b1[e]) @ w2[e] + b2[e]) for e in range(experts))


def _controller(weights: _Weights, settings: Architecture, x: Tensor) -> Tensor:
    """Jaszczur et al. 2021, section 3.1: of each block the unit with the largest logit."""
    assert isinstance(settings.ffn, Controller)
    ffn, hidden = settings.ffn, settings.hidden_size
    size, blocks = ffn.size or 0, ffn.num_blocks
    logits = weights.linear(weights.linear(x, "u", ffn.rank or 0, bias=False), "v", size, bias=False)
    logits = logits.view(len(x), blocks, size // blocks)
    mask = (logits == logits.max(-1, keepdim=True).values).to(x.dtype).flatten(1)
    inner = _activated(weights, settings, x @ weights("w1", size, hidden).T + weights("b1", size), "")
    return mask * inner @ weights("w2", size, hidden) + weights("b2", hidden)


def _pkm(weights: _Weights, settings: Architecture, x: Tensor) -> Tensor:
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


def _feed_forward(
    weights: _Weights, settings: Architecture, x: Tensor, whole: str, names: tuple[str, str, str]
) -> Tensor:
    kind = settings.ffn.kind
    if kind in _WHOLE:
        return _WHOLE[kind](weights.at(whole), settings, x)
    if kind in _PARTS:
        return _PARTS[kind](weights, settings, x, names)
    raise _Unknown(f"ffn {kind}")


# -- the families -----------------------------------------------------------------------------------------------------


def _attention(
    weights: _Weights,
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


def _mixing(body: _Weights, attention: _Weights, settings: Architecture, length: int) -> tuple[Tensor, Tensor] | None:
    """E and F of a Linformer (Wang et al. 2020, eq. 7), for a text of this length: (k, T) each."""
    linformer = settings.linformer
    if linformer is None:
        return None
    shape = linformer.k, settings.positions
    owner = body.at("encoder.projection") if linformer.share == "layerwise" else attention.at("self.projection")
    of_keys = owner("keys", *shape)
    of_values = owner("values", *shape) if linformer.share == "headwise" else of_keys
    return of_keys[:, :length], of_values[:, :length]


class _Place(NamedTuple):
    """Of a place in a forward pass: which blocks have the weights of its modules; None where it has no such module."""

    attention: int | None
    feed_forward: int | None
    attentions: int  # that are different, before this one

    @classmethod
    def of(cls, settings: Architecture) -> list[_Place]:
        if settings.sharing:
            return cls._shared(settings.sharing, settings.layers)
        blocks = list(enumerate(blocks_of(settings.order) if settings.order else ["sf"] * settings.layers))
        before = [sum("s" in modules for _, modules in blocks[:block]) for block, _ in blocks]
        return [cls(block if "s" in modules else None, block if "f" in modules else None, before[block])
                for block, modules in blocks]  # fmt: skip

    @classmethod
    def _shared(cls, sharing: Sharing, layers: int) -> list[_Place]:
        """Layers that share all they have are saved once; of others each has what stands at an earlier one no more."""
        unique, every = sharing.places(layers), list(range(layers))
        if sharing.modules == "all":
            return [cls(block, block, block) for block in unique]
        first = [unique.index(number) for number in unique]
        if sharing.modules == "attention":
            return [cls(*each) for each in zip(first, every, unique, strict=True)]
        return [cls(*each) for each in zip(every, first, every, strict=True)]


def _sized(settings: Architecture) -> list[tuple[_Place, Architecture]]:
    """The places of a forward pass, each with a model of its sizes."""
    return [(place, settings.layer(number)) for number, place in enumerate(_Place.of(settings))]


def _gpt_neo(weights: _Weights, settings: Any, ids: Tensor) -> Tensor:
    """ids: (T,) -> (T, V)"""
    hidden, body = settings.hidden_size, weights.at("transformer")
    embedding = body("wte.weight", settings.vocab_size, hidden)
    x = embedding[ids] + body("wpe.weight", settings.max_position_embeddings, hidden)[: len(ids)]
    back = torch.arange(len(ids))[:, None] - torch.arange(len(ids))
    bias = settings.bias is not False

    def apply(at: tuple[_Place, Any], x: Tensor) -> Tensor:
        place, layer = at
        if place.attention is not None:
            block = body.at(f"h.{place.attention}")
            visible = (back >= 0) & ((back < settings.window_size) | (place.attentions % 2 == 0))
            attention = block.at("attn.attention")
            names = "q_proj", "k_proj", "v_proj"
            seen = _attention(attention, layer, block.norm(x, "ln_1", 1e-5), names, visible, scaled=False)
            x = x + attention.linear(seen, "out_proj", hidden, bias=bias)
        if place.feed_forward is not None:
            block = body.at(f"h.{place.feed_forward}")
            names = "mlp.c_fc", "mlp.act", "mlp.c_proj"
            x = x + _feed_forward(block, layer, block.norm(x, "ln_2", 1e-5), "mlp.ffn", names)
        return x

    x = through(body, settings, x, _sized(settings), apply, scale=0.02)  # as large as embeddings are drawn
    return body.norm(x, "ln_f", 1e-5) @ embedding.T


def _llama(weights: _Weights, settings: Any, ids: Tensor) -> Tensor:
    """ids: (T,) -> (T, V)"""
    hidden, body, bias = settings.hidden_size, weights.at("model"), settings.bias
    embedding = body("embed_tokens.weight", settings.vocab_size, hidden)
    x = embedding[ids]
    visible = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    for place, layer in _sized(settings):
        if place.attention is not None:
            block = body.at(f"layers.{place.attention}")
            attention, names = block.at("self_attn"), ("q_proj", "k_proj", "v_proj")
            before = block.rms_norm(x, "input_layernorm")
            seen = _attention(attention, layer, before, names, visible, scaled=True, turned=_turned)
            x = x + attention.linear(seen, "o_proj", hidden, bias=bias)
        if place.feed_forward is not None:
            block = body.at(f"layers.{place.feed_forward}")
            names = "mlp.up_proj", "mlp.act_fn", "mlp.down_proj"
            x = x + _feed_forward(block, layer, block.rms_norm(x, "post_attention_layernorm"), "mlp", names)
    return body.rms_norm(x, "norm") @ embedding.T


def _turned(x: Tensor) -> Tensor:
    """Su et al. 2021 (arXiv:2104.09864), eq. 15: numbers i and i + D/2 are one complex number, turned by the angle
    place * 10000^(-2i / D), which is taken in float32, as it is trained. x: (T, D) -> (T, D)"""
    half = x.shape[1] // 2
    waves = 1.0 / (10_000.0 ** (torch.arange(0, 2 * half, 2, dtype=torch.float32) / (2 * half)))
    angles = (torch.arange(len(x), dtype=torch.float32)[:, None] * waves).double()
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=1)


def _roberta(weights: _Weights, settings: Any, ids: Tensor) -> Tensor:
    """ids: (T,) -> (T, V)"""
    hidden, eps, body = settings.hidden_size, 1e-12, weights.at("roberta")
    embeddings = body.at("embeddings")
    words = embeddings("word_embeddings.weight", settings.vocab_size, hidden)
    positions = embeddings("position_embeddings.weight", settings.max_position_embeddings, hidden)
    x = words[ids] + positions[1 : 1 + len(ids)] + embeddings("token_type_embeddings.weight", 2, hidden)[0]
    x = embeddings.norm(x, "LayerNorm", eps)
    visible = torch.ones(len(ids), len(ids), dtype=torch.bool)
    bias = settings.bias is not False

    def apply(at: tuple[_Place, Any], x: Tensor) -> Tensor:
        place, layer = at
        if place.attention is not None:
            attention = body.at(f"encoder.layer.{place.attention}.attention")
            names = "self.query", "self.key", "self.value"
            mixing = _mixing(body, attention, settings, len(ids))
            seen = _attention(attention, layer, x, names, visible, scaled=True, mixing=mixing)
            x = attention.norm(x + attention.linear(seen, "output.dense", hidden, bias=bias), "output.LayerNorm", eps)
        if place.feed_forward is not None:
            block = body.at(f"encoder.layer.{place.feed_forward}")
            names = "intermediate.dense", "intermediate.intermediate_act_fn", "output.dense"
            x = block.norm(x + _feed_forward(block, layer, x, "intermediate", names), "output.LayerNorm", eps)
        return x

    x = through(body.at("encoder"), settings, x, _sized(settings), apply, scale=1.0)
    head = weights.at("lm_head")
    x = head.norm(_gelu_erf(head.linear(x, "dense", hidden)), "layer_norm", eps)
    return x @ words.T + head("bias", settings.vocab_size)


def _brainformer(weights: _Weights, settings: Any, ids: Tensor) -> Tensor:
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
                y = _mixed(experts, x, share, inner, lambda z: z.clamp(min=0))
            x = group.norm(x + y, f"norms.{letter}", 1e-5)
    output = embedding if settings.tie_word_embeddings else weights("lm_head.weight", settings.vocab_size, hidden)
    return x @ output.T + weights("lm_head.bias", settings.vocab_size)


def _look_back(weights: _Weights, settings: Brainformer, x: Tensor, position_keys: Tensor) -> Tensor:
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


def _chosen(weights: _Weights, gate: GateSettings, x: Tensor, ids: Tensor, vocab_size: int) -> Tensor:
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
    return _largest(logits, k)


_LOGITS: dict[str, Callable[[_Weights, Any, Tensor], Tensor]] = {
    "gpt_neo": _gpt_neo,
    "roberta": _roberta,
    "llama": _llama,
    "brainformer": _brainformer,
}
