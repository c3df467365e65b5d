# GPT-Neo, except: the activation of every block is `config.activation`, and may have parameters.
"""The decoder: Hugging Face's GPT-Neo classes, and only what differs from them (see `variant`)."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
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

from tiny_transformers.activations import check_activation, learnable, stock_name
from tiny_transformers.variant import Variant

GELU = "gelu_pytorch_tanh"  # GPT-Neo's gelu_new, equal to rounding, in one kernel instead of eight


@strict
class TinyGPTNeoConfig(GPTNeoConfig):
    """`activation` is one of `config.ACTIVATIONS`; `activation_function` follows from it."""

    model_type = "tiny_gpt_neo"

    activation: str = "gelu"

    def __post_init__(self, **kwargs: Any) -> None:
        self.activation_function = stock_name(self.activation, GELU)
        super().__post_init__(**kwargs)

    def validate_activation(self) -> None:
        check_activation(self.activation)


class TinyGPTNeoPreTrainedModel(Variant, GPTNeoPreTrainedModel):
    config_class = TinyGPTNeoConfig

    def blocks(self) -> Any:
        return self.base_model.h

    def change(self, block: Any) -> None:
        if activation := learnable(self.config.activation, block.mlp.c_fc.out_features):
            block.mlp.act = activation


class TinyGPTNeoModel(TinyGPTNeoPreTrainedModel, GPTNeoModel):
    pass


class TinyGPTNeoForCausalLM(TinyGPTNeoPreTrainedModel, GPTNeoForCausalLM):
    pass


class TinyGPTNeoForSequenceClassification(TinyGPTNeoPreTrainedModel, GPTNeoForSequenceClassification):
    pass


AutoConfig.register(TinyGPTNeoConfig.model_type, TinyGPTNeoConfig)
AutoModel.register(TinyGPTNeoConfig, TinyGPTNeoModel)
AutoModelForCausalLM.register(TinyGPTNeoConfig, TinyGPTNeoForCausalLM)
AutoModelForSequenceClassification.register(TinyGPTNeoConfig, TinyGPTNeoForSequenceClassification)
