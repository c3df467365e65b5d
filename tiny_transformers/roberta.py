# RoBERTa, except: the activation of every block is `config.activation`, and may have parameters.
"""The encoder: Hugging Face's RoBERTa classes, and only what differs from them (see `variant`).

The GELU inside the language-model head is not a block's: it stays."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
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

from tiny_transformers.activations import check_activation, learnable, stock_name
from tiny_transformers.variant import Variant

GELU = "gelu"  # the exact one, by erf


@strict
class TinyRobertaConfig(RobertaConfig):
    """`activation` is one of `config.ACTIVATIONS`; `hidden_act` follows from it."""

    model_type = "tiny_roberta"

    activation: str = "gelu"

    def __post_init__(self, **kwargs: Any) -> None:
        self.hidden_act = stock_name(self.activation, GELU)
        super().__post_init__(**kwargs)

    def validate_activation(self) -> None:
        check_activation(self.activation)


class TinyRobertaPreTrainedModel(Variant, RobertaPreTrainedModel):
    config_class = TinyRobertaConfig

    def blocks(self) -> Any:
        return self.base_model.get_submodule("encoder.layer")

    def change(self, block: Any) -> None:
        if activation := learnable(self.config.activation, block.intermediate.dense.out_features):
            block.intermediate.intermediate_act_fn = activation


class TinyRobertaModel(TinyRobertaPreTrainedModel, RobertaModel):
    pass


class TinyRobertaForMaskedLM(TinyRobertaPreTrainedModel, RobertaForMaskedLM):
    pass


class TinyRobertaForSequenceClassification(TinyRobertaPreTrainedModel, RobertaForSequenceClassification):
    pass


AutoConfig.register(TinyRobertaConfig.model_type, TinyRobertaConfig)
AutoModel.register(TinyRobertaConfig, TinyRobertaModel)
AutoModelForMaskedLM.register(TinyRobertaConfig, TinyRobertaForMaskedLM)
AutoModelForSequenceClassification.register(TinyRobertaConfig, TinyRobertaForSequenceClassification)
