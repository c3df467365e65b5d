"""The definitions of the families that read tokens: a text's logits from the tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tiny_transformers.models.definition.attention import Place, attended, mixing_of, sized
from tiny_transformers.models.definition.feed_forward import feed_forward, gelu_erf
from tiny_transformers.models.definition.steps import through
from tiny_transformers.models.definition.weights import Weights


def gpt_neo(weights: Weights, settings: Any, ids: Tensor) -> Tensor:
    """ids: (T,) -> (T, V)"""
    hidden, body = settings.hidden_size, weights.at("transformer")
    embedding = body("wte.weight", settings.vocab_size, hidden)
    x = embedding[ids] + body("wpe.weight", settings.max_position_embeddings, hidden)[: len(ids)]
    back = torch.arange(len(ids))[:, None] - torch.arange(len(ids))
    bias = settings.bias is not False

    def apply(at: tuple[Place, Any], x: Tensor) -> Tensor:
        place, layer = at
        if place.attention is not None:
            block = body.at(f"h.{place.attention}")
            visible = (back >= 0) & ((back < settings.window_size) | (place.attentions % 2 == 0))
            attention = block.at("attn.attention")
            names = "q_proj", "k_proj", "v_proj"
            seen = attended(attention, layer, block.norm(x, "ln_1", 1e-5), names, visible, scaled=False)
            x = x + attention.linear(seen, "out_proj", hidden, bias=bias)
        if place.feed_forward is not None:
            block = body.at(f"h.{place.feed_forward}")
            names = "mlp.c_fc", "mlp.act", "mlp.c_proj"
            x = x + feed_forward(block, layer, block.norm(x, "ln_2", 1e-5), "mlp.ffn", names)
        return x

    x = through(body, settings, x, sized(settings), apply, scale=0.02)  # as large as embeddings are drawn
    return body.norm(x, "ln_f", 1e-5) @ embedding.T


def llama(weights: Weights, settings: Any, ids: Tensor) -> Tensor:
    """ids: (T,) -> (T, V)"""
    hidden, body, bias = settings.hidden_size, weights.at("model"), settings.bias
    embedding = body("embed_tokens.weight", settings.vocab_size, hidden)
    x = embedding[ids]
    visible = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    for place, layer in sized(settings):
        if place.attention is not None:
            block = body.at(f"layers.{place.attention}")
            attention, names = block.at("self_attn"), ("q_proj", "k_proj", "v_proj")
            before = block.rms_norm(x, "input_layernorm")
            seen = attended(attention, layer, before, names, visible, scaled=True, turned=_turned)
            x = x + attention.linear(seen, "o_proj", hidden, bias=bias)
        if place.feed_forward is not None:
            block = body.at(f"layers.{place.feed_forward}")
            names = "mlp.up_proj", "mlp.act_fn", "mlp.down_proj"
            x = x + feed_forward(block, layer, block.rms_norm(x, "post_attention_layernorm"), "mlp", names)
    return body.rms_norm(x, "norm") @ embedding.T


def _turned(x: Tensor) -> Tensor:
    """Su et al. 2021 (arXiv:2104.09864), eq. 15: numbers i and i + D/2 are one complex number, turned by the angle
    place * 10000^(-2i / D), which is taken in float32, as it is trained. x: (T, D) -> (T, D)"""
    half = x.shape[1] // 2
    waves = 1.0 / (10_000.0 ** (torch.arange(0, 2 * half, 2, dtype=torch.float32) / (2 * half)))
    angles = (torch.arange(len(x), dtype=torch.float32)[:, None] * waves).double()
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=1)


def roberta(weights: Weights, settings: Any, ids: Tensor) -> Tensor:
    """ids: (T,) -> (T, V)"""
    hidden, eps, body = settings.hidden_size, 1e-12, weights.at("roberta")
    embeddings = body.at("embeddings")
    words = embeddings("word_embeddings.weight", settings.vocab_size, hidden)
    positions = embeddings("position_embeddings.weight", settings.max_position_embeddings, hidden)
    x = words[ids] + positions[1 : 1 + len(ids)] + embeddings("token_type_embeddings.weight", 2, hidden)[0]
    x = embeddings.norm(x, "LayerNorm", eps)
    visible = torch.ones(len(ids), len(ids), dtype=torch.bool)
    bias = settings.bias is not False

    def apply(at: tuple[Place, Any], x: Tensor) -> Tensor:
        place, layer = at
        if place.attention is not None:
            attention = body.at(f"encoder.layer.{place.attention}.attention")
            names = "self.query", "self.key", "self.value"
            mixing = mixing_of(body, attention, settings, len(ids))
            seen = attended(attention, layer, x, names, visible, scaled=True, mixing=mixing)
            x = attention.norm(x + attention.linear(seen, "output.dense", hidden, bias=bias), "output.LayerNorm", eps)
        if place.feed_forward is not None:
            block = body.at(f"encoder.layer.{place.feed_forward}")
            names = "intermediate.dense", "intermediate.intermediate_act_fn", "output.dense"
            x = block.norm(x + feed_forward(block, layer, x, "intermediate", names), "output.LayerNorm", eps)
        return x

    x = through(body.at("encoder"), settings, x, sized(settings), apply, scale=1.0)
    head = weights.at("lm_head")
    x = head.norm(gelu_erf(head.linear(x, "dense", hidden)), "layer_norm", eps)
    return x @ words.T + head("bias", settings.vocab_size)
