"""From the settings of a model to the model, and from its folder back.

The ids of the special tokens are those of every tokenizer of the study: pad 0, bos 1, eos 2. Characters have none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import logging as hf_logging

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.noise import set_seed
from tiny_transformers.models.brainformer import SETTINGS, TinyBrainformerConfig, TinyBrainformerForCausalLM
from tiny_transformers.models.gpt_neo import TinyGPTNeoConfig, TinyGPTNeoForCausalLM
from tiny_transformers.models.language_model import LanguageModel, SavedConfig
from tiny_transformers.models.llama import TinyLlamaConfig, TinyLlamaForCausalLM
from tiny_transformers.models.roberta import TinyRobertaConfig, TinyRobertaForMaskedLM
from tiny_transformers.settings.architecture import AnyModel, Brainformer, GPTNeo, Llama, Roberta
from tiny_transformers.settings.order import blocks_of
from tiny_transformers.settings.program import Program

PAD, BOS, EOS = 0, 1, 2
VARIANT = (  # settings that our Hugging Face configurations have under the same name
    "activation", "activation_parameters", "activation_init", "qk_size", "v_size", "num_key_value_heads", "bias",
    "order", "initialization",
)  # fmt: skip
HEADS = ("score.", "classifier.")  # what a classifier has and a language model lacks
LM_HEADS = ("lm_head.",)  # the other way round
CONSTANTS = (".attn.attention.bias", ".attn.attention.masked_bias")  # masks, which older GPT-Neos saved with them
OURS = "tiny_"  # how the types of our models begin
_CLASSES: dict[str, Any] = {
    "gpt_neo": TinyGPTNeoForCausalLM,
    "roberta": TinyRobertaForMaskedLM,
    "llama": TinyLlamaForCausalLM,
    "brainformer": TinyBrainformerForCausalLM,
}


def hf_config(model: AnyModel, **extra: Any) -> SavedConfig:
    """Hugging Face's configuration of `model`; `extra` is passed on to it (`num_labels=3`)."""
    if isinstance(model, Brainformer):
        return TinyBrainformerConfig(**model.model_dump(include=set(SETTINGS)) | extra)
    if isinstance(model, Program):
        raise TinyTransformersError(f"{model.label}: is a program, which has no model to build.")
    shared = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "max_position_embeddings": model.max_position_embeddings,
        **{name: getattr(model, name) for name in VARIANT},
        "ffn": model.ffn.model_dump(),
        "sharing": model.sharing.model_dump() if model.sharing else None,
        "scaling": model.scaling.model_dump(mode="json", include={"heads", "units"}) if model.scaling else None,
        "recurrence": model.recurrence.model_dump() if model.recurrence else None,
        "linformer": model.linformer.model_dump() if model.linformer else None,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    if isinstance(model, GPTNeo):
        return TinyGPTNeoConfig(**shared | _gpt_neo(model) | extra)
    if isinstance(model, Llama):
        return TinyLlamaConfig(**shared | _llama(model) | extra)
    return TinyRobertaConfig(**shared | _roberta(model) | extra)


def build(model: AnyModel, seed: int) -> LanguageModel:
    """The untrained language model, on the CPU, torch's random state left as it was.

    A module's weights are a function of the seed and the module's name, so that what two models have in common they
    have alike, whatever else is in them or was drawn before."""
    config = hf_config(model)
    with torch.random.fork_rng(devices=[]):
        built: LanguageModel = _CLASSES[model.family](config)
        for name, module in built.named_modules():
            set_seed(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big"))
            built.draw(module)
    return built


def load_lm(model_dir: Path) -> PreTrainedModel:
    """The language model saved in `model_dir`, of ours or another of Hugging Face's, in evaluation mode and float32.

    Raises TinyTransformersError if there is none, or if its weights are not exactly those the model has. Another's may
    have more, as Hugging Face allows: a pooler, a head for something else."""
    config = _config(model_dir)
    auto = AutoModelForMaskedLM if is_encoder(config, model_dir) else AutoModelForCausalLM
    if config.model_type.startswith(OURS):
        return _load(auto, model_dir, may_lack=(), may_have=())
    return _load(auto, model_dir, may_lack=(), may_have=("",), dtype=torch.float32)


def is_encoder(config: Any, model_dir: Path) -> bool:
    """Whether a saved language model fills in masks; else it foretells the next token.

    Raises TinyTransformersError if it does neither."""
    name = config.model_type
    if config.is_encoder_decoder:
        raise TinyTransformersError(f"{model_dir}: {name} is an encoder-decoder, and gives a text alone no likelihood.")
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if not masked and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise TinyTransformersError(f"{model_dir}: {name} is no language model, so it gives a text no likelihood.")
    return masked


def load_classifier(model_dir: Path, num_labels: int, seed: int) -> PreTrainedModel:
    """The saved model with a new classification head of `num_labels` labels drawn from `seed`, in evaluation mode.

    Raises TinyTransformersError as `load_lm` does."""
    _config(model_dir)
    with _seeded(seed):
        return _load(
            AutoModelForSequenceClassification, model_dir, may_lack=HEADS, may_have=LM_HEADS, num_labels=num_labels
        )


def _gpt_neo(model: GPTNeo) -> dict[str, Any]:
    blocks = _blocks(model)
    before = [sum("s" in block for block in blocks[:i]) for i in range(len(blocks))]
    layers = [("global", "local")[attentions % 2] for attentions in before]
    return {
        "num_layers": len(blocks),
        "num_heads": model.num_heads,
        "attention_types": [[layers, 1]],  # [[kinds, times], ...]
        "window_size": model.window_size,
        "resid_dropout": model.dropout,
        "embed_dropout": model.dropout,
        "attention_dropout": model.dropout,
    }


def _roberta(model: Roberta) -> dict[str, Any]:
    return {
        "num_hidden_layers": len(_blocks(model)),
        "num_attention_heads": model.num_attention_heads,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.dropout,
    }


def _llama(model: Llama) -> dict[str, Any]:
    return {
        "num_hidden_layers": len(_blocks(model)),
        "num_attention_heads": model.num_attention_heads,
        "attention_dropout": model.dropout,
    }


def _blocks(model: GPTNeo | Roberta | Llama) -> list[str]:
    """The modules of every block; Hugging Face's number of layers is that of blocks."""
    return blocks_of(model.order) if model.order else ["sf"] * model.layers


def _config(model_dir: Path) -> Any:
    if not (model_dir / "config.json").is_file():
        raise TinyTransformersError(f"{model_dir}: holds no model (config.json is absent). Pretrain it first.")
    try:
        return AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError) as error:  # a type that is not known, a file that is none
        raise TinyTransformersError(f"{model_dir}: cannot be loaded ({str(error).splitlines()[0]}).") from None


def _load(
    auto: Any, model_dir: Path, may_lack: tuple[str, ...], may_have: tuple[str, ...], **extra: Any
) -> PreTrainedModel:
    """Hugging Face would fill in what a folder lacks and drop what it has too much, with a warning; here that fails."""
    with quiet():
        model, info = auto.from_pretrained(model_dir, local_files_only=True, output_loading_info=True, **extra)
    wrong = [f"lacks {key}" for key in info["missing_keys"] if not key.startswith(may_lack)]
    besides = [key for key in info["unexpected_keys"] if not key.endswith(CONSTANTS)]
    wrong += [f"has {key} besides" for key in besides if not key.startswith(may_have)]
    if wrong:
        raise TinyTransformersError(
            f"{model_dir}: the weights do not fit {type(model).__name__}: {'; '.join(sorted(wrong))}. "
            "It was saved by another kind of model: pretrain it again."
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without Hugging Face's progress bars, and its report of a head that is new: `_load` checks the same."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        set_seed(seed)
        yield
