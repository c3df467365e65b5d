"""Torch's random state, and random numbers from it on a CPU without torch's draw per element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def set_seed(number: int) -> None:
    """Set the random states of the CPU and of the GPUs that are in use, as `torch.manual_seed` does.

    Torch's own keeps each call with its stack for every kind of accelerator that is not in use yet: 10 ms a call."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


def bits(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Integers of a signed `dtype`, every value of it as likely, on the CPU: 64 bits are drawn at a time."""
    count, each = torch.Size(shape).numel(), torch.iinfo(dtype).bits
    words = torch.empty(-(-count * each // 64), dtype=torch.int64).random_(-(2**63), None)
    return words.view(dtype)[:count].view(tuple(shape))


def gumbel(like: Tensor) -> Tensor:
    """Gumbel(0, 1) noise, -log(-log u), of the shape and on the device of `like`, float32."""
    if like.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.empty_like(like, dtype=torch.float32).exponential_().log_().neg_()
    # u from 2^-33 to the float32 below 1, where the noise would be infinite
    u = bits(like.shape, torch.int32).float().mul_(2**-32).add_(0.5).clamp_(2**-33, 1 - 2**-24)
    return u.log_().neg_().log_().neg_()
