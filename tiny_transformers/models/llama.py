# Llama, except: a block's feed-forward module and attention are as the configuration says, blocks may share their
# weights, the two kinds of modules may stand in another order, and the output embedding is the input's.
"""The decoder of today: Hugging Face's Llama classes, and only what differs from them (see `variant`)."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    LlamaPreTrainedModel,
)
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tiny_transformers.layers import activations, attention, feed_forward
from tiny_transformers.layers.attention import rounded
from tiny_transformers.layers.feed_forward import Zero
from tiny_transformers.layers.ffn.dense import linear
from tiny_transformers.layers.packed import Texts, places
from tiny_transformers.models.language_model import REAL
from tiny_transformers.models.variant import VariantConfig, VariantModel
from tiny_transformers.settings.activations import ACTIVATIONS

GELU = "gelu_pytorch_tanh"  # GPT-Neo's, so that the activations are the same in both decoders
THETA = 10_000.0  # of the rotary positions: the longest wave, in tokens by 2 pi


@strict
class TinyLlamaConfig(VariantConfig, LlamaConfig):
    model_type = "tiny_llama"

    activation: str = "swiglu"
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        known = ACTIVATIONS.get(self.activation)
        self.hidden_act = activations.stock_name(known.gate if known and known.gate else self.activation, GELU)
        self.bias = self.attention_bias = self.mlp_bias = bool(self.bias)
        self.head_dim = (self.qk_size or self.hidden_size) // self.num_attention_heads  # which is turned
        self.rope_parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": THETA}
        super().__post_init__(**kwargs)


class NoAttention(nn.Module):
    """In a block without attention: adds nothing."""

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:  # noqa: ARG002
        """hidden_states: (B, T, H) -> (B, T, H)"""
        return torch.zeros_like(hidden_states), None


class RMSNorm(LlamaRMSNorm):
    """In one kernel instead of seven, equal to rounding."""

    def __init__(self, stock: LlamaRMSNorm) -> None:
        super().__init__(len(stock.weight), stock.variance_epsilon)
        self.weight = stock.weight

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states: (..., H) -> (..., H)"""
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


class GatedMLP(nn.Module):
    """W_down (act(W_gate x) * W_up x), in the stock module's names (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: Any, stock: LlamaMLP, act_fn: nn.Module) -> None:
        super().__init__()
        hidden, size = config.hidden_size, config.intermediate_size
        self.gate_proj = linear(config, hidden, size, stock.gate_proj)
        self.up_proj = linear(config, hidden, size, stock.up_proj)
        self.down_proj = linear(config, size, hidden, stock.down_proj)
        self.act_fn = act_fn

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, H) -> (B, T, H)"""
        x = rounded(x)
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class PlainMLP(nn.Module):
    """W_down act(W_up x), in the stock module's names; `act_fn` is whatever stands between the first and the last."""

    def __init__(self, up_proj: nn.Module, act_fn: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.up_proj, self.act_fn, self.down_proj = up_proj, act_fn, down_proj

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, H) -> (B, T, H)"""
        return self.down_proj(self.act_fn(self.up_proj(x)))


class TinyLlamaPreTrainedModel(VariantModel, LlamaPreTrainedModel):
    config_class = TinyLlamaConfig
    parts = {"attention": ("input_layernorm", "self_attn"), "feed_forward": ("post_attention_layernorm", "mlp")}
    reads_last = True
    _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = False  # see `known_attention`

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.base_model.norm = RMSNorm(self.base_model.norm)
        self.base_model.rotary_emb = attention.SignedRotaryEmbedding(self.config)

    def stack(self) -> tuple[nn.Module, str]:
        return self.base_model, "layers"

    def change(self, block: Any, modules: str, config: Any) -> None:
        if "s" in modules:
            block.input_layernorm = RMSNorm(block.input_layernorm)
            block.self_attn = attention.TinyLlamaAttention(self.config, block.self_attn)
        else:
            block.input_layernorm, block.self_attn = nn.Identity(), NoAttention()
        if "f" in modules:
            block.post_attention_layernorm = RMSNorm(block.post_attention_layernorm)
            block.mlp = _feed_forward(config, block.mlp)
        else:
            block.post_attention_layernorm, block.mlp = nn.Identity(), Zero()

    def states(
        self, input_ids: Tensor, mask: Tensor | None = None, real: Tensor | None = None, texts: Texts | None = None
    ) -> Tensor:
        """As Llama's forward pass, without what it looks up and makes for a cache and a mask."""
        if mask is not None:
            return super().states(input_ids, mask, real)
        base: Any = self.base_model
        self._begin(base, (), {REAL: real})
        hidden = base.embed_tokens(input_ids)
        rotation = base.rotary_emb(hidden, places(input_ids, texts)[None])
        return base.norm(self.through(hidden, rotation, texts))

    def through(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], texts: Texts | None = None) -> Tensor:
        """The blocks, one after the other. (B, T, H) -> (B, T, H)"""
        base: Any = self.base_model
        for block in base.layers:
            hidden = block(hidden, position_embeddings=rotation, attention_mask=texts)
        return hidden

    def _compile_stack(self) -> None:
        self.through = torch.compile(self.through, dynamic=True)  # type: ignore[method-assign]

    def attention(self, block: Any) -> nn.Module | None:
        return None if isinstance(block.self_attn, NoAttention) else block.self_attn

    def after_attention(self, block: Any) -> list[nn.Module]:
        return [*([] if isinstance(block.self_attn, NoAttention) else [block.self_attn.o_proj]), block.mlp]

    def feed_forward(self, block: Any) -> nn.Module | None:
        return None if isinstance(block.mlp, Zero) else block.mlp


def _feed_forward(config: Any, stock: LlamaMLP) -> nn.Module:
    if whole := feed_forward.whole(config, GELU):
        return whole
    gate = activations.build_gate(config, GELU)
    if gate is not None and getattr(feed_forward.settings(config), "depth", 2) == 2:
        return GatedMLP(config, stock, gate)
    return PlainMLP(*feed_forward.parts(config, GELU, stock.up_proj, stock.down_proj))


class TinyLlamaModel(TinyLlamaPreTrainedModel, LlamaModel):
    pass


class TinyLlamaForCausalLM(TinyLlamaPreTrainedModel, LlamaForCausalLM):
    divides_by_items = True


class StockClassifier(LlamaForSequenceClassification):
    """With a stock model inside, as the heads of the other families have it. The constructor of transformers would ask
    the Auto classes for one, which give ours: its blocks would be changed twice."""

    def __init__(self, config: Any) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = LlamaModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()


class TinyLlamaForSequenceClassification(TinyLlamaPreTrainedModel, StockClassifier):
    pass


AutoConfig.register(TinyLlamaConfig.model_type, TinyLlamaConfig)
AutoModel.register(TinyLlamaConfig, TinyLlamaModel)
AutoModelForCausalLM.register(TinyLlamaConfig, TinyLlamaForCausalLM)
AutoModelForSequenceClassification.register(TinyLlamaConfig, TinyLlamaForSequenceClassification)
