"""A trained model teaches another one while that is trained: knowledge distillation, in settings/teaching.py's words.

The teacher computes in evaluation mode and without gradients, on the same device and in the same precision, for the
same micro-batch, and only where there is a label. Its pass comes first, so that nothing of it is left but its last
hidden states when the student's begins. What it says changes nothing of the student's dropout, nor of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tiny_transformers.common.contents import fingerprint
from tiny_transformers.common.work import TinyTransformersError, Work
from tiny_transformers.data.batches import Batch
from tiny_transformers.layers.distillation import distilled
from tiny_transformers.layers.head import Head
from tiny_transformers.models import auto
from tiny_transformers.models.language_model import LanguageModel
from tiny_transformers.settings.teaching import Teaching

WEIGHTS = "model.safetensors"


class Teacher:
    """A model that is not trained any more."""

    def __init__(self, model: Any, settings: Teaching, fingerprints: Mapping[str, str]) -> None:
        self.model: LanguageModel = model.eval().requires_grad_(False)
        self.settings, self.fingerprints = settings, fingerprints

    def head(self, batch: Batch) -> Head:
        """What the teacher has to say where there is a label."""
        with torch.no_grad():
            hidden = self.model.states(batch.input_ids, batch.attention_mask, batch.real, batch.texts)
            return self.model.head_at(hidden.flatten(0, 1)[batch.positions])

    def losses(self, student: LanguageModel, batch: Batch, said: Head) -> tuple[Tensor, Tensor]:
        """The student's loss, summed over the labels, and its parts, as `distilled` has them."""
        hidden = student.states(batch.input_ids, batch.attention_mask, batch.real, batch.texts)
        at_labels = hidden.flatten(0, 1)[batch.positions]  # (B, T, H) -> (B T, H) -> (N, H)
        return distilled(student.head_at(at_labels), said, batch.labels, self.settings)


def teacher_of(work: Work, device: torch.device) -> Teacher | None:
    """Load the teacher of a run; None if it has none. What only measures memory and speed learns from an untrained one.

    Raises TinyTransformersError if its model is not there."""
    told = work.config.teacher
    if told is None:
        return None
    if work.config.probe:
        return Teacher(auto.build(told.model, told.seed).to(device), told, {})
    if work.teacher_dir is None or not work.teacher_dir.is_dir():
        raise TinyTransformersError(
            f"{work.teacher_dir or 'train.teacher'}: the teacher's model is not there. Train it again: "
            f"`rerun --stage pretrain --run {work.teacher_dir.parent.name if work.teacher_dir else 'TEACHER'}`."
        )
    folder = work.teacher_dir
    name = f"{folder.parent.name}/{folder.name}/{WEIGHTS}"  # another run's file: no data, but read as such
    model: Any = auto.load_lm(folder)
    return Teacher(model.to(device), told, {name: fingerprint(folder / WEIGHTS)})
