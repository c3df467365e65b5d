# Self-attention of GPT-Neo, RoBERTa and Llama, except: queries and keys, and values, have widths of their own, several
# heads may share keys and values, and GPT-Neo's may be computed by scaled_dot_product_attention, too.
"""Attention of other widths, and grouped queries (Ainslie et al. 2023, arXiv:2305.13245)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention, eager_attention_forward

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers import packed
from tiny_transformers.layers.dropout import dropout
from tiny_transformers.layers.packed import Texts

SEES_ALL = "sees_all"  # an attribute of a mask


def attend(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, *, causal: bool, scale: float, drop: float = 0.0
) -> Tensor:
    """softmax(scale query key^T) value, over the keys that are visible to a query; some of the weights dropped.

    query: (B, heads, T, D), key: (B, heads, K, D), value: (B, heads, K, V) -> (B, heads, T, V). `visible` can be
    broadcast to (B, heads, T, K) and is bool, or is added to the scores. None: all keys, or, if `causal`, as many as
    queries and each query's own and those before it."""
    training = torch.is_grad_enabled() and query.requires_grad
    # Training on a CPU, torch's fused kernel takes three times as long as these few products, most in the backward pass
    # of bfloat16. They keep (T, K) scores, which are small: stories have at most 512 tokens.
    if not training or query.device.type != "cpu" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=drop, is_causal=causal and visible is None, scale=scale
        )
    scores = (query * scale) @ key.transpose(-1, -2)
    if visible is None and causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if visible is not None:
        scores += _added(visible, scores)
    return dropout(scores.softmax(-1), drop) @ value


def attend_texts(
    query: Tensor, key: Tensor, value: Tensor, texts: Texts, *, scale: float, window: int | None = None
) -> Tensor:
    """`attend`, causal, in each text of a row: see `packed.attend`."""

    def alone(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length, visible = query.shape[2], None
        if window is not None and window < length:
            visible = torch.tril(torch.ones(length, length, dtype=torch.bool)).triu(1 - window)
        return attend(query, key, value, visible, causal=True, scale=scale)

    return packed.attend(query, key, value, texts, scale=scale, window=window, alone=alone)


def rounded(x: Tensor) -> Tensor:
    """In the dtype that autocast would give each product of x: once for all of them."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _added(visible: Tensor, scores: Tensor) -> Tensor:
    """Return what is added to scores: 0, and for what is not visible as good as minus infinity."""
    if visible.dtype != torch.bool:  # float32's least would be minus infinity in bfloat16
        return visible.clamp(min=torch.finfo(scores.dtype).min).to(scores.dtype)
    added = torch.zeros(visible.shape, dtype=scores.dtype, device=scores.device)
    return added.masked_fill_(~visible, torch.finfo(scores.dtype).min)


def sees_all(mask: Tensor) -> None:
    """Say of a mask that each query sees a key: nobody looks then, for which a GPU would have to be waited for."""
    setattr(mask, SEES_ALL, True)


def _sees_nothing(mask: Tensor | None) -> bool:
    """Whether padding stands before a text: its queries see no key at all.

    Hugging Face's own attention of GPT-Neo then averages over the padding up to each; the last of it foretells the
    text's first token, so a loss learns from it. Other kernels would give it zeros, or what comes.
    mask: (B, 1, queries, keys)"""
    if mask is None or mask.shape[2] == 1 or torch.compiler.is_compiling() or getattr(mask, SEES_ALL, False):
        return False
    first = mask[:, :, 0]
    return not bool((first if mask.dtype == torch.bool else first == 0).any(-1).all())


def _as_added(visible: Tensor | None, scores: Tensor) -> Tensor | None:
    """A mask as eager attention has it, of one as eager or as sdpa has it."""
    return visible if visible is None or visible.dtype != torch.bool else _added(visible, scores)


def set_bias(linear: nn.Linear, bias: bool | None) -> None:
    """Give a linear layer a bias, zero, or take it away; None leaves it."""
    if bias is False:
        linear.register_parameter("bias", None)
    elif bias and linear.bias is None:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))


class Widths:
    """The sizes of the attention module of a layer."""

    def __init__(self, config: Any, layer: int) -> None:
        self.hidden, heads = config.hidden_size, config.num_attention_heads
        self.qk, self.v = ((size or self.hidden) // heads for size in (config.qk_size, config.v_size))  # per head
        scaled = config.scaling and config.scaling["heads"]
        self.heads = scaled[layer] if scaled else heads
        self.kv_heads = self.heads * (config.num_key_value_heads or heads) // heads

    def inputs(self, query: nn.Linear, key: nn.Linear, value: nn.Linear) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return (
            _resized(query, self.hidden, self.heads * self.qk),
            _resized(key, self.hidden, self.kv_heads * self.qk),
            _resized(value, self.hidden, self.kv_heads * self.v),
        )

    def repeated(self, x: Tensor) -> Tensor:
        """Keys or values for every head: (B, kv_heads, T, D) -> (B, heads, T, D)"""
        return x if self.kv_heads == self.heads else x.repeat_interleave(self.heads // self.kv_heads, dim=1)

    def out(self, linear: nn.Linear) -> nn.Linear:
        return _resized(linear, self.heads * self.v, self.hidden)


def _resized(linear: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    if (linear.in_features, linear.out_features) == (inputs, outputs):
        return linear
    return nn.Linear(inputs, outputs, bias=linear.bias is not None)


def _heads(x: Tensor, size: int) -> Tensor:
    """(B, T, heads * size) -> (B, heads, T, size)"""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


class TinyGPTNeoSelfAttention(GPTNeoSelfAttention):
    """In place of a stock module, whose projections it takes over or replaces. Not scaled, as GPT-Neo's."""

    def __init__(self, config: Any, stock: GPTNeoSelfAttention) -> None:
        super().__init__(config, stock.attention_type, stock.layer_id)
        self.widths = Widths(config, stock.layer_id)
        self.num_heads = self.widths.heads
        self.q_proj, self.k_proj, self.v_proj = self.widths.inputs(stock.q_proj, stock.k_proj, stock.v_proj)
        self.out_proj = self.widths.out(stock.out_proj)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | Texts | None = None,
        layer_past: Any = None,
        use_cache: bool = False,  # noqa: ARG002 - the caller's words
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states: (B, T, H) -> (B, T, H) and, if asked for or attention is eager, the weights
        (B, heads, T, keys). Of texts in a row there are no weights."""
        widths, hidden_states = self.widths, rounded(hidden_states)
        query = _heads(self.q_proj(hidden_states), widths.qk)  # (B, heads, T, D)
        key = _heads(self.k_proj(hidden_states), widths.qk)  # (B, kv_heads, T, D)
        value = _heads(self.v_proj(hidden_states), widths.v)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_id)
        key, value = widths.repeated(key), widths.repeated(value)
        weights = None
        if isinstance(attention_mask, Texts):
            window = self.config.window_size if self.attention_type == "local" else None
            output = attend_texts(query, key, value, attention_mask, scale=1.0, window=window)
        elif output_attentions or self.config._attn_implementation == "eager" or _sees_nothing(attention_mask):
            output, weights = self._attn(query, key, value, _as_added(attention_mask, query))  # (B, heads, T, V)
        else:
            drop = self.attn_dropout.p if self.training else 0.0
            visible = self._visible(attention_mask, query.shape[2], key.shape[2])
            output = attend(query, key, value, visible, causal=query.shape[2] > 1, scale=1.0, drop=drop)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        return self.resid_dropout(output), weights

    def _visible(self, mask: Tensor | None, queries: int, keys: int) -> Tensor | None:
        """The mask, None where each query sees its own key and all before it, narrowed to the window of a local layer.

        transformers makes none for as many queries as keys, or a single query; of others it has the keys' past."""
        # In this order: where all keys are in the window, compiled code of local and of global layers is the same.
        if keys <= self.config.window_size or self.attention_type != "local":
            return mask
        window = self._window(queries, keys)
        if mask is None:
            return window
        return mask & window if mask.dtype == torch.bool else mask + _added(window, mask)

    def _window(self, queries: int, keys: int) -> Tensor:
        """Which keys each of the last queries sees: (queries, keys), True and False."""
        if not torch.compiler.is_compiling():
            window: Tensor = self.bias[0, 0, keys - queries : keys, :keys]
            return window
        # A slice lies otherwise in memory where it is all there is, and needed code of its own.
        place = torch.arange(keys, device=self.bias.device)
        behind = place[keys - queries :, None] - place
        return (behind >= 0) & (behind < self.config.window_size)


class TinyRobertaSelfAttention(RobertaSelfAttention):
    """In place of a stock module. Scaled by 1/sqrt of the width of one query, as RoBERTa's."""

    def __init__(self, config: Any, stock: RobertaSelfAttention) -> None:
        super().__init__(config, is_causal=stock.is_causal, layer_idx=stock.layer_idx)
        self.widths = Widths(config, stock.layer_idx)
        self.num_attention_heads = self.widths.heads
        self.scaling = self.widths.qk**-0.5
        self.query, self.key, self.value = self.widths.inputs(stock.query, stock.key, stock.value)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,  # the rest of what the model was given, with nothing for attention in it
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states: (B, T, H) -> (B, T, heads * V) and, if asked for or attention is eager, the weights."""
        if not (encoder_hidden_states is None and cache is None and past_key_values is None):
            raise TinyTransformersError("An encoder: its attention sees its own text, all at once, and has no cache.")
        widths, hidden_states = self.widths, rounded(hidden_states)
        query = _heads(self.query(hidden_states), widths.qk)  # (B, heads, T, D)
        key, value = _heads(self.key(hidden_states), widths.qk), _heads(self.value(hidden_states), widths.v)
        key, value, attention_mask = self.seen(key, value, attention_mask)
        key, value = widths.repeated(key), widths.repeated(value)
        drop = self.dropout.p if self.training else 0.0
        if output_attentions or self.config._attn_implementation == "eager":
            mask = _as_added(attention_mask, query)
            output, weights = eager_attention_forward(
                self, query, key, value, mask, dropout=drop, scaling=self.scaling, **kwargs
            )
            return output.flatten(2), weights
        output = attend(query, key, value, attention_mask, causal=False, scale=self.scaling, drop=drop)
        return output.transpose(1, 2).flatten(2), None

    def seen(self, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is attended to: keys and values (B, kv_heads, T, D), and a mask of them."""
        return key, value, mask


class SignedRotaryEmbedding(LlamaRotaryEmbedding):
    """The stock module, but for the sign of the first half of the sines, which `turned` wants."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """x: of whose dtype they are, position_ids: (B or 1, T) -> cosines and sines, (B or 1, T, D)"""
        cosine, sine = super().forward(x, position_ids)
        first, second = sine.chunk(2, dim=-1)
        return cosine, torch.cat((-first, second), dim=-1)


def turned(query: Tensor, key: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Queries and keys at their places: each pair of numbers turned by the place's angle (Su et al. 2021,
    arXiv:2104.09864, eq. 34), where the second of a pair stands half a width behind the first.

    query: (B, heads, T, D), key: (B, kv_heads, T, D), rotation: of SignedRotaryEmbedding, which keeps its dtype in the
    products. In a few large steps for both, since a GPU is told of each."""
    cosine, sine = (part[:, None] for part in rotation)
    both = torch.cat((query, key), dim=1)
    swapped = both.roll(both.shape[-1] // 2, dims=-1)
    both = torch.addcmul(both * cosine, swapped, sine).to(both.dtype)
    return both.split((query.shape[1], key.shape[1]), dim=1)


class TinyLlamaAttention(LlamaAttention):
    """In place of a stock module. Scaled by 1/sqrt of the width of one query, as Llama's."""

    def __init__(self, config: Any, stock: LlamaAttention) -> None:
        super().__init__(config, stock.layer_idx)
        self.widths = Widths(config, stock.layer_idx)
        self.q_proj, self.k_proj, self.v_proj = self.widths.inputs(stock.q_proj, stock.k_proj, stock.v_proj)
        self.o_proj = self.widths.out(stock.o_proj)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | Texts | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,  # noqa: ARG002 - the rest of what the model was given, with nothing for attention in it
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states: (B, T, H) -> (B, T, H) and, if asked for or attention is eager, the weights
        (B, heads, T, keys). Of texts in a row there are no weights."""
        assert position_embeddings is not None
        widths, hidden_states = self.widths, rounded(hidden_states)
        query = _heads(self.q_proj(hidden_states), widths.qk)  # (B, heads, T, D)
        key = _heads(self.k_proj(hidden_states), widths.qk)  # (B, kv_heads, T, D)
        query, key = turned(query, key, position_embeddings)
        value = _heads(self.v_proj(hidden_states), widths.v)
        past = past_key_values if cache is None else cache
        if past is not None:
            key, value = past.update(key, value, self.layer_idx)
        key, value = widths.repeated(key), widths.repeated(value)
        if isinstance(attention_mask, Texts):
            output = attend_texts(query, key, value, attention_mask, scale=self.scaling)
            return self.o_proj(output.transpose(1, 2).flatten(2)), None
        drop, weights = self.attention_dropout if self.training else 0.0, None
        eager = self.config._attn_implementation == "eager"
        if output_attentions or eager:
            output, weights = self._weighed(query, key, value, _as_added(attention_mask, query), drop)
        else:
            output = attend(query, key, value, attention_mask, causal=query.shape[2] > 1, scale=self.scaling, drop=drop)
        # A query that sees no key gets zeros, as torch's kernel gives them to the stock module.
        if attention_mask is not None and not eager and _sees_nothing(attention_mask):
            visible = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
            output = output.masked_fill(~visible.any(-1, keepdim=True), 0)
        return self.o_proj(output.transpose(1, 2).flatten(2)), weights

    def _weighed(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, drop: float
    ) -> tuple[Tensor, Tensor]:
        """As the stock module's eager attention: (B, heads, T, V) and the weights (B, heads, T, keys)."""
        scores = query @ key.transpose(2, 3) * self.scaling
        if mask is None and query.shape[2] > 1:  # transformers makes none for sdpa, where each query sees all before it
            mask = _added(torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril(), scores)
        scores = scores if mask is None else scores + mask
        weights = dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), drop)
        return weights @ value, weights
