"""The last linear layer of a language model and its cross-entropy, as one: only where there is a label, in pieces.

The logits of a micro-batch, (N, V), are the largest tensor of these models by far. They are made some rows at a time,
turned into their own gradient where they lie, and are gone: nothing of their size is kept for the backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.settings.config import HEAD_ROWS


class Head(NamedTuple):
    """A last linear layer, and what it is given: features (N, H), weight (V, H), bias (V,)."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None


def cross_entropy(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """The sum over rows of -log softmax(features weight^T + bias)[label], in nats. -> (), float32

    features: (N, H), weight: (V, H), bias: (V,), labels: (N,). The products are in autocast's dtype, if it is on. A
    label that has next to no probability counts as that of the smallest normal number: 87 nats."""
    gradient = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (features, weight, bias))
    if gradient:
        return _CrossEntropy.apply(features, weight, bias, labels)
    features, weight, bias = cast(features, weight, bias)
    total = torch.zeros((), device=features.device)
    for some, of in zip(features.split(rows_at_once(features)), labels.split(rows_at_once(features)), strict=True):
        total += F.cross_entropy(F.linear(some, weight, bias).float(), of, reduction="sum")
    return total


class _CrossEntropy(torch.autograd.Function):
    """The backward pass is done in the forward pass; what is left is to multiply by the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        ctx.dtypes = features.dtype, weight.dtype
        features, weight, bias = cast(features, weight, bias)
        with torch.autocast(features.device.type, enabled=False):  # a GPU's would make the softmax float32
            return _CrossEntropy._forward(ctx, features, weight, bias, labels)

    @staticmethod
    def _forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        step = rows_at_once(features)
        grad_features = torch.empty_like(features)
        grad_weight: Tensor | None = None  # both in float32: each addition of a piece would be rounded
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        total = torch.zeros((), device=features.device)
        for start in range(0, len(labels), step):
            rows, label = features[start : start + step], labels[start : start + step]
            at = torch.arange(len(label), device=label.device)
            # (rows, V): probabilities, and then, less 1 at the label, the gradient of the logits
            grad = F.linear(rows, weight, bias).softmax(-1)
            chosen = grad[at, label].float()
            total -= chosen.clamp(min=torch.finfo(torch.float32).tiny).log().sum()
            grad[at, label] = (chosen - 1).to(grad.dtype)  # scatter_ would copy all of it
            torch.mm(grad, weight, out=grad_features[start : start + step])
            product = grad.T @ rows
            grad_weight = product.float() if grad_weight is None else grad_weight.add_(product)
            if grad_bias is not None:
                grad_bias += grad.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        features, weight, bias = ctx.saved_tensors
        # In place: a second backward pass through the same graph is refused by torch anyway.
        of_features = features.to(ctx.dtypes[0]).mul_(grad)
        return of_features, weight.mul_(grad), None if bias is None else bias.mul_(grad), None


def cast(*tensors: Tensor | None) -> list[Any]:
    """In the dtype of autocast's products, if it is on."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


def rows_at_once(features: Tensor) -> int:
    """At a time. On a CPU the products want some hundreds of rows, and logits should not leave the cache by far (256 to
    1,024 cannot be told apart); elsewhere only the memory counts."""
    return HEAD_ROWS["cpu" if features.device.type == "cpu" else "cuda"]
