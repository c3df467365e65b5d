"""How a model learns from another one beside the labels: knowledge distillation (Hinton, Vinyals & Dean 2015,
arXiv:1503.02531).

With the logits z of the student and v of the teacher, both divided by a temperature T for the second part, the loss of
a label is alpha CE(z) + (1 - alpha) T^2 KL(softmax(v / T) || softmax(z / T)). T^2 keeps the size of the second part's
gradient, which falls with the square of T. No torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tiny_transformers.settings.architecture import AnyModel, Brainformer
from tiny_transformers.settings.base import Settings, Share


class Teaching(Settings):
    """The two numbers of the loss."""

    alpha: Share = 0.5  # of the labels' own loss; at 1 nothing is learned from the teacher, and there is none
    temperature: Annotated[float, Field(gt=0)] = 2.0  # that both models' logits are divided by


def unteachable(student: AnyModel, teacher: AnyModel) -> str | None:
    """Return why the one cannot learn from the other, in words; None: it can. What they read is the same anyway."""
    if isinstance(student, Brainformer) or isinstance(teacher, Brainformer):
        return "models that read characters learn from no teacher"
    if student.causal != teacher.causal:
        kinds = {True: "a decoder, which predicts the next token", False: "an encoder, which predicts masked ones"}
        return f"it is {kinds[teacher.causal]}, and the student is {kinds[student.causal]}"
    if student.vocab_size != teacher.vocab_size:
        return f"its vocab_size is {teacher.vocab_size}, and the student's {student.vocab_size}"
    return None
