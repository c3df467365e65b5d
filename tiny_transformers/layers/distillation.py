"""The loss of a language model that learns from labels and from a teacher (settings/teaching.py), at its last linear
layer.

It is made in pieces, as head.py's cross-entropy: nothing of the size of the logits is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.layers.head import Head, cast, rows_at_once
from tiny_transformers.settings.teaching import Teaching

PIECES = 4  # of what a plain head computes at once: there are so many times as many tensors of the logits' size


def distilled(student: Head, teacher: Head, labels: Tensor, settings: Teaching) -> tuple[Tensor, Tensor]:
    """The sum over rows of alpha CE + (1 - alpha) T^2 KL(teacher || student), in nats, with a gradient for the student
    alone; and its parts, the sums of CE and of KL, without any. -> (), (2,), float32

    labels: (N,). Products are in autocast's dtype, if it is on; what is computed of the logits is in float32."""
    return _Distilled.apply(*student, *teacher, labels, settings)


class _Distilled(torch.autograd.Function):
    """The backward pass is done in the forward pass; what is left is to multiply by the gradient of the sum."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        taught: Tensor,
        taught_weight: Tensor,
        taught_bias: Tensor | None,
        labels: Tensor,
        settings: Teaching,
    ) -> tuple[Tensor, Tensor]:
        ctx.dtypes = features.dtype, weight.dtype
        student, teacher = Head(*cast(features, weight, bias)), Head(*cast(taught, taught_weight, taught_bias))
        step = max(1, rows_at_once(features) // PIECES)
        grad_features = torch.empty_like(student.features)
        grad_weight = torch.zeros_like(student.weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        parts = torch.zeros(2, device=features.device)
        with torch.autocast(features.device.type, enabled=False):
            for start in range(0, len(labels), step):
                piece = slice(start, start + step)
                logits, theirs = (
                    F.linear(head.features[piece], head.weight, head.bias).float() for head in (student, teacher)
                )
                some, grad = _of_logits(logits, theirs, labels[piece], settings)  # grad: (rows, V)
                parts += some
                grad = grad.to(student.weight.dtype)
                torch.mm(grad, student.weight, out=grad_features[piece])
                grad_weight += grad.T @ student.features[piece]
                if grad_bias is not None:
                    grad_bias += grad.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        ctx.mark_non_differentiable(parts)
        shares = settings.alpha, (1 - settings.alpha) * settings.temperature**2
        return shares[0] * parts[0] + shares[1] * parts[1], parts

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias = ctx.saved_tensors
        # In place: a second backward pass through the same graph is refused by torch anyway.
        of_features = features.to(ctx.dtypes[0]).mul_(grad)
        return of_features, weight.mul_(grad), None if bias is None else bias.mul_(grad), *[None] * 5


def _of_logits(logits: Tensor, theirs: Tensor, labels: Tensor, settings: Teaching) -> tuple[Tensor, Tensor]:
    """The sums of CE and KL of some rows, and the gradient of their loss with respect to the logits (rows, V)."""
    alpha, temperature = settings.alpha, settings.temperature
    ours = (logits / temperature).log_softmax(-1)
    theirs = theirs.div_(temperature).log_softmax(-1)
    likely = theirs.exp()  # what the teacher takes for likely
    divergence = likely.mul(theirs.sub_(ours)).sum()
    # d T^2 KL / d logits = T (softmax(logits / T) - the teacher's)
    grad = ours.exp_().sub_(likely).mul_((1 - alpha) * temperature)
    logs = logits.log_softmax(-1)
    at = torch.arange(len(labels), device=labels.device)
    nats = -logs[at, labels].sum()
    grad.add_(logs.exp_(), alpha=alpha)
    grad[at, labels] -= alpha
    return torch.stack([nats, divergence]), grad
