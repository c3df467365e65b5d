# RoBERTa, except: a block's feed-forward module and attention are as the configuration says, blocks may share their
# weights, and the two kinds of modules may stand in another order.
"""The encoder: Hugging Face's RoBERTa classes, and only what differs from them (see `variant`).

The GELU inside the language-model head is not a block's: it stays."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
    RobertaPreTrainedModel,
)

from tiny_transformers.layers import attention, feed_forward, linformer
from tiny_transformers.layers.activations import stock_name
from tiny_transformers.layers.head import Head
from tiny_transformers.models.variant import VariantConfig, VariantModel

GELU = "gelu"  # the exact one, by erf


@strict
class TinyRobertaConfig(VariantConfig, RobertaConfig):
    model_type = "tiny_roberta"

    def __post_init__(self, **kwargs: Any) -> None:
        self.hidden_act = stock_name(self.activation, GELU)
        super().__post_init__(**kwargs)


class NoAttention(nn.Module):
    """In a block without attention."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:  # noqa: ARG002
        """hidden_states: (B, T, H), handed on"""
        return hidden_states, None


class NoOutput(nn.Module):
    """In a block without a feed-forward module."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:  # noqa: ARG002
        """input_tensor: (B, T, H), handed on"""
        return input_tensor


class TinyRobertaPreTrainedModel(VariantModel, RobertaPreTrainedModel):
    config_class = TinyRobertaConfig
    parts = {"attention": ("attention",), "feed_forward": ("intermediate", "output")}
    _supports_flash_attn = _supports_flex_attn = False  # see `known_attention`

    def stack(self) -> tuple[nn.Module, str]:
        return self.base_model.get_submodule("encoder"), "layer"

    def change(self, block: Any, modules: str, config: Any) -> None:
        if "s" in modules:
            self._change_attention(block.attention)
        else:
            block.attention = NoAttention()
        if "f" in modules:
            self._change_feed_forward(block, config)
        else:
            block.intermediate, block.output = nn.Identity(), NoOutput()

    def attention(self, block: Any) -> nn.Module | None:
        return None if isinstance(block.attention, NoAttention) else block.attention

    def after_attention(self, block: Any) -> list[nn.Module]:
        return [] if isinstance(block.attention, NoAttention) else [block.attention.output]

    def feed_forward(self, block: Any) -> nn.Module | None:
        output = block.output
        if isinstance(output, NoOutput):
            return None
        return nn.Sequential(block.intermediate, output.dense, output.dropout).train(block.training)

    def positions(self) -> tuple[nn.Embedding, int, float]:
        embeddings: Any = self.base_model.get_submodule("embeddings")
        return embeddings.position_embeddings, embeddings.padding_idx + 1, 1.0  # behind a LayerNorm

    def _change_attention(self, module: Any) -> None:
        module.self = linformer.attention(self.config, module.self, self.stack()[0])
        module.output.dense = module.self.widths.out(module.output.dense)
        for linear in (module.self.query, module.self.key, module.self.value, module.output.dense):
            attention.set_bias(linear, self.config.bias)

    def _change_feed_forward(self, block: Any, config: Any) -> None:
        intermediate, output = block.intermediate, block.output
        whole = feed_forward.whole(config, GELU)
        if whole:
            block.intermediate, output.dense = whole, nn.Identity()
        else:
            intermediate.dense, intermediate.intermediate_act_fn, output.dense = feed_forward.parts(
                config, GELU, intermediate.dense, output.dense
            )


class TinyRobertaModel(TinyRobertaPreTrainedModel, RobertaModel):
    pass


class TinyRobertaForMaskedLM(TinyRobertaPreTrainedModel, RobertaForMaskedLM):
    def head_at(self, hidden: Tensor) -> Head:
        head = self.lm_head
        return Head(head.layer_norm(F.gelu(head.dense(hidden))), head.decoder.weight, head.decoder.bias)


class TinyRobertaForSequenceClassification(TinyRobertaPreTrainedModel, RobertaForSequenceClassification):
    pass


AutoConfig.register(TinyRobertaConfig.model_type, TinyRobertaConfig)
AutoModel.register(TinyRobertaConfig, TinyRobertaModel)
AutoModelForMaskedLM.register(TinyRobertaConfig, TinyRobertaForMaskedLM)
AutoModelForSequenceClassification.register(TinyRobertaConfig, TinyRobertaForSequenceClassification)
