"""Whether the texts of a step lie one behind the other in a row, without padding: `train.packed`.

With null they do where one kernel computes the attention of all of them, and are padded elsewhere: on a CPU, where
batches of similar length are faster. The loss is the same but for rounding, however they lie."""

from __future__ import annotations

from typing import Any

import torch

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.packed import WIDEST
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.training.device import has_tensor_cores


def packs(config: RunConfig, device: torch.device, precision: str) -> bool:
    """Raises TinyTransformersError where that is asked for and cannot be."""
    asked = config.train.packed
    if asked is False:
        return False
    lacks = _lacks(config) or _device_lacks(device, precision)
    if asked and lacks:
        raise TinyTransformersError(f"train.packed is true, and {lacks}: leave it out.")
    return not lacks and (asked is True or device.type == "cuda")


def _lacks(config: RunConfig) -> str | None:
    model: Any = config.model
    if config.data.is_stream or not model.causal:
        return "only decoders of stories have texts that can lie in a row"
    if model.dropout:
        return "attention to texts in a row has no dropout"
    models = [model, *([config.teacher.model] if config.teacher else [])]  # a decoder's is one, too
    sizes = ((model, size) for model in models for size in (model.qk_size, model.v_size))
    widest = max((size or model.hidden_size) // model.heads for model, size in sizes)
    return f"heads of {widest} numbers are wider than {WIDEST}" if widest > WIDEST else None


def _device_lacks(device: torch.device, precision: str) -> str | None:
    if device.type == "cpu":
        return None
    if has_tensor_cores(device) and precision == "bfloat16" and torch.backends.cuda.is_flash_attention_available():
        return None
    return "attention to texts in a row needs bfloat16 and FlashAttention on an NVIDIA GPU from Ampere on, or a CPU"
