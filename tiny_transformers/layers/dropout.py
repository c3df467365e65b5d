"""Dropout (Srivastava et al. 2014) whose masks do not take longer than the model.

On a CPU torch draws one number at a time for every element, a sixth of an encoder's training. Here 16 random bits
decide an element, so p is off by at most 2^-17, and what is kept is scaled for that p. Elsewhere, torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_transformers.layers import noise

BITS = 16
ONE = 0x3F80  # bfloat16's 1.0, as the bits of an int16


class Dropout(nn.Dropout):
    """In the place of torch's module."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, p: float) -> Tensor:
    """x with each element zero with probability p, the others divided by 1 - p; from torch's random state."""
    if p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return _Dropout.apply(x, p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        dropped = round(p * 2**BITS)
        ctx.scale = 2**BITS / (2**BITS - dropped) if dropped < 2**BITS else 0.0
        kept = _kept(x, dropped).to(x.dtype)
        ctx.save_for_backward(kept)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(ctx.scale), None


def _kept(x: Tensor, dropped: int) -> Tensor:
    """1 where an element stays, with probability 1 - dropped / 2^16, else 0. Of the shape of x, bfloat16."""
    bits = noise.bits(x.shape, torch.int16)
    # The comparison gives 0 and 1 as integers; times the bits of 1.0 they are floats, without a conversion.
    return bits.ge_(dropped - 2 ** (BITS - 1)).mul_(ONE).view(torch.bfloat16)
