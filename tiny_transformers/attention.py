# GPT-Neo's and RoBERTa's self-attention, except: queries and keys, and values, have widths of their own, and several
# heads may share keys and values.
"""Attention of other widths, and grouped queries (Ainslie et al. 2023, arXiv:2305.13245)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention, eager_attention_forward


def differs(config: Any) -> bool:
    """Whether a configuration of ours asks for other attention than its family's."""
    h, heads = config.hidden_size, config.num_attention_heads
    return (config.qk_size or h, config.v_size or h, config.num_key_value_heads or heads) != (h, h, heads)


def set_bias(linear: nn.Linear, bias: bool | None) -> None:
    """Give a linear layer a bias, zero, or take it away; None leaves it."""
    if bias is False:
        linear.register_parameter("bias", None)
    elif bias and linear.bias is None:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))


class Widths:
    """The sizes of one attention module."""

    def __init__(self, config: Any) -> None:
        self.hidden, self.heads = config.hidden_size, config.num_attention_heads
        self.kv_heads = config.num_key_value_heads or self.heads
        self.qk, self.v = ((size or self.hidden) // self.heads for size in (config.qk_size, config.v_size))  # per head

    def inputs(self, query: nn.Linear, key: nn.Linear, value: nn.Linear) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return (
            _resized(query, self.hidden, self.heads * self.qk),
            _resized(key, self.hidden, self.kv_heads * self.qk),
            _resized(value, self.hidden, self.kv_heads * self.v),
        )

    def out(self, linear: nn.Linear) -> nn.Linear:
        return _resized(linear, self.heads * self.v, self.hidden)


def _resized(linear: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    if (linear.in_features, linear.out_features) == (inputs, outputs):
        return linear
    return nn.Linear(inputs, outputs, bias=linear.bias is not None)


def _heads(x: Tensor, size: int) -> Tensor:
    """(B, T, heads * size) -> (B, heads, T, size)"""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


class GroupedGPTNeoSelfAttention(GPTNeoSelfAttention):
    """In place of a stock module, whose projections it takes over or replaces. Not scaled, as GPT-Neo's."""

    def __init__(self, config: Any, stock: GPTNeoSelfAttention) -> None:
        super().__init__(config, stock.attention_type, stock.layer_id)
        self.widths = Widths(config)
        self.q_proj, self.k_proj, self.v_proj = self.widths.inputs(stock.q_proj, stock.k_proj, stock.v_proj)
        self.out_proj = self.widths.out(stock.out_proj)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        layer_past: Any = None,
        use_cache: bool = False,  # noqa: ARG002 - the caller's words
        output_attentions: bool = False,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """hidden_states: (B, T, H) -> (B, T, H) and the weights (B, heads, T, keys)."""
        widths = self.widths
        query = _heads(self.q_proj(hidden_states), widths.qk)  # (B, heads, T, D)
        key = _heads(self.k_proj(hidden_states), widths.qk)  # (B, kv_heads, T, D)
        value = _heads(self.v_proj(hidden_states), widths.v)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_id)
        groups = widths.heads // widths.kv_heads
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        output, weights = self._attn(query, key, value, attention_mask)  # (B, heads, T, V)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        return self.resid_dropout(output), weights


class GroupedRobertaSelfAttention(RobertaSelfAttention):
    """In place of a stock module. Scaled by 1/sqrt of the width of one query, as RoBERTa's."""

    def __init__(self, config: Any, stock: RobertaSelfAttention) -> None:
        super().__init__(config, is_causal=stock.is_causal, layer_idx=stock.layer_idx)
        self.widths = Widths(config)
        self.scaling = self.widths.qk**-0.5
        self.query, self.key, self.value = self.widths.inputs(stock.query, stock.key, stock.value)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,  # noqa: ARG002 - an encoder has none
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """hidden_states: (B, T, H) -> (B, T, heads * V) and the weights, where the implementation has them."""
        widths = self.widths
        groups = widths.heads // widths.kv_heads
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            _heads(self.query(hidden_states), widths.qk),  # (B, heads, T, D)
            _heads(self.key(hidden_states), widths.qk).repeat_interleave(groups, dim=1),
            _heads(self.value(hidden_states), widths.v).repeat_interleave(groups, dim=1),
            attention_mask,
            dropout=self.dropout.p if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return output.flatten(2), weights
