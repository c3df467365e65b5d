"""Evaluations that have a name: `evaluation: babylm_2026` in a manifest. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """The settings that it stands for, and the stages of a study that names none."""

    evaluation: Mapping[str, Any]
    stages: tuple[str, ...]


PRESETS = {
    "babylm_2026": Preset(
        {"superglue": {"edition": "babylm_2026"}}, ("pretrain", "add_tokenizer", "superglue", "babylm")
    ),
}
