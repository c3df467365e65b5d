# GPT-Neo, except: a block's feed-forward module and attention are as the configuration says, blocks may share their
# weights, and the two kinds of modules may stand in another order.
"""The decoder: Hugging Face's GPT-Neo classes, and only what differs from them (see `variant`)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoForSequenceClassification,
    GPTNeoModel,
    GPTNeoPreTrainedModel,
)

from tiny_transformers.layers import attention, feed_forward
from tiny_transformers.layers.activations import stock_name
from tiny_transformers.layers.feed_forward import Zero
from tiny_transformers.layers.packed import Texts, places
from tiny_transformers.models.language_model import REAL, known_attention
from tiny_transformers.models.variant import VariantConfig, VariantModel

GELU = "gelu_pytorch_tanh"  # GPT-Neo's gelu_new, equal to rounding, in one kernel instead of eight


@strict
class TinyGPTNeoConfig(VariantConfig, GPTNeoConfig):
    model_type = "tiny_gpt_neo"

    def __post_init__(self, **kwargs: Any) -> None:
        self.activation_function = stock_name(self.activation, GELU)
        self.intermediate_size: int = self.intermediate_size or 4 * self.hidden_size  # Hugging Face's rule for None
        super().__post_init__(**kwargs)


class NoAttention(nn.Module):
    """In a block without attention: adds nothing."""

    def forward(
        self,
        hidden_states: Tensor,
        layer_past: Any = None,  # noqa: ARG002 - the caller's words
        attention_mask: Tensor | None = None,  # noqa: ARG002
        use_cache: bool = False,  # noqa: ARG002
        output_attentions: bool = False,  # noqa: ARG002
    ) -> tuple[Tensor, None]:
        """hidden_states: (B, T, H) -> (B, T, H)"""
        return torch.zeros_like(hidden_states), None


def without_absent(model: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG001
    """After a forward pass of the blocks: of `attentions` no entry is of a block that has no attention."""
    if isinstance(output, tuple):
        return tuple(_present(part) if isinstance(part, tuple) else part for part in output)
    if output.attentions is not None:
        output.attentions = _present(output.attentions)
    return output


def _present(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)


class TinyGPTNeoPreTrainedModel(VariantModel, GPTNeoPreTrainedModel):
    config_class = TinyGPTNeoConfig
    parts = {"attention": ("ln_1", "attn"), "feed_forward": ("ln_2", "mlp")}
    reads_last = True

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        # transformers refuses GPT-Neo any other attention than eager: asked before our own is in place.
        asked = known_attention(config._attn_implementation_internal or "sdpa")
        config._attn_implementation = "eager"
        super().__init__(config, *args, **kwargs)
        self.config._attn_implementation = asked
        self.base_model.register_forward_hook(without_absent)

    def stack(self) -> tuple[nn.Module, str]:
        return self.base_model, "h"

    def change(self, block: Any, modules: str, config: Any) -> None:
        if "s" in modules:
            self._change_attention(block.attn)
        else:
            block.ln_1, block.attn = nn.Identity(), NoAttention()
        if "f" in modules:
            self._change_feed_forward(block, config)
        else:
            block.ln_2, block.mlp = nn.Identity(), Zero()

    def states(
        self, input_ids: Tensor, mask: Tensor | None = None, real: Tensor | None = None, texts: Texts | None = None
    ) -> Tensor:
        """As GPT-Neo's forward pass, which looks whether the positions are of several texts in a row."""
        if mask is not None:
            return super().states(input_ids, mask, real)
        base: Any = self.base_model
        self._begin(base, (), {REAL: real})
        hidden = base.drop(base.wte(input_ids) + base.wpe(places(input_ids, texts)))
        return base.ln_f(self.through(hidden, texts))

    def through(self, hidden: Tensor, texts: Texts | None = None) -> Tensor:
        """The blocks, one after the other. (B, T, H) -> (B, T, H)"""
        base: Any = self.base_model
        for block in base.h:
            hidden = block(hidden, attention_mask=texts)[0]
        return hidden

    def _compile_stack(self) -> None:
        self.through = torch.compile(self.through, dynamic=True)  # type: ignore[method-assign]

    def attention(self, block: Any) -> nn.Module | None:
        return None if isinstance(block.attn, NoAttention) else block.attn

    def after_attention(self, block: Any) -> list[nn.Module]:
        return [*([] if isinstance(block.attn, NoAttention) else [block.attn.attention.out_proj]), block.mlp]

    def feed_forward(self, block: Any) -> nn.Module | None:
        return None if isinstance(block.mlp, Zero) else block.mlp

    def positions(self) -> tuple[nn.Embedding, int, float]:
        base: Any = self.base_model
        return base.wpe, 0, self._std

    def _change_attention(self, attn: Any) -> None:
        attn.attention = attention.TinyGPTNeoSelfAttention(self.config, attn.attention)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            attention.set_bias(getattr(attn.attention, name), self.config.bias)

    def _change_feed_forward(self, block: Any, config: Any) -> None:
        mlp, whole = block.mlp, feed_forward.whole(config, GELU)
        if whole:
            block.mlp = nn.Sequential(OrderedDict(ffn=whole, dropout=mlp.dropout))
        else:
            mlp.c_fc, mlp.act, mlp.c_proj = feed_forward.parts(config, GELU, mlp.c_fc, mlp.c_proj)


class TinyGPTNeoModel(TinyGPTNeoPreTrainedModel, GPTNeoModel):
    pass


class TinyGPTNeoForCausalLM(TinyGPTNeoPreTrainedModel, GPTNeoForCausalLM):
    divides_by_items = True


class TinyGPTNeoForSequenceClassification(TinyGPTNeoPreTrainedModel, GPTNeoForSequenceClassification):
    pass


AutoConfig.register(TinyGPTNeoConfig.model_type, TinyGPTNeoConfig)
AutoModel.register(TinyGPTNeoConfig, TinyGPTNeoModel)
AutoModelForCausalLM.register(TinyGPTNeoConfig, TinyGPTNeoForCausalLM)
AutoModelForSequenceClassification.register(TinyGPTNeoConfig, TinyGPTNeoForSequenceClassification)
