"""The definition of a Universal Transformer's steps, for `families`: position by position, by Graves 2016,
eq. 4 to 9, and Dehghani et al. 2019, eq. 6 and 7; and not by the layer that trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from tiny_transformers.settings.architecture import Architecture

Place = TypeVar("Place")


def through(
    weights: Any,
    settings: Architecture,
    x: Tensor,
    places: Sequence[Place],
    apply: Callable[[Place, Tensor], Tensor],
    scale: float,
) -> Tensor:
    """x (T, H) as it comes out behind the last place, each of which is applied to it in turn; `scale` is the signal's
    size. With a recurrence `weights` has its halting unit."""
    recurrence, hidden, shares = settings.recurrence, x.shape[-1], []
    states: list[Tensor] = []
    sums, running = [0.0] * len(x), [True] * len(x)
    unit = None
    if recurrence and recurrence.halting:
        unit = weights("recurrence.weight", 1, hidden)[0], weights("recurrence.bias", 1)[0]
    for step, place in enumerate(places, 1):
        signal = torch.zeros_like(x)
        if recurrence and recurrence.signal:
            waves = [(scale * _wave(t, hidden)).float().double() for t in range(max(len(x), step) + 1)]  # as trained
            signal = torch.stack([waves[i] + waves[step] for i in range(1, len(x) + 1)])
        y = apply(place, x + signal)
        if unit is None or recurrence is None or recurrence.halting is None:
            x = y
            continue
        x = torch.stack([new if runs else old for new, old, runs in zip(y, x, running, strict=True)])
        share = torch.zeros(len(x), 1, dtype=x.dtype)
        for i in [i for i, runs in enumerate(running) if runs]:
            probability = 1 / (1 + math.exp(-float(x[i] @ unit[0] + unit[1])))
            halts = step == len(places) or sums[i] + probability >= 1 - recurrence.halting.epsilon
            share[i] = 1 - sums[i] if halts else probability
            sums[i], running[i] = sums[i] + probability, not halts
        states.append(x)
        shares.append(share)
    return x if unit is None else sum((s * share for s, share in zip(states, shares, strict=True)), torch.zeros_like(x))


def _wave(t: int, hidden: int) -> Tensor:
    """sin(t / 10000^(2j/H)), cos(t / 10000^(2j/H)), ... (H,)"""
    angles = [t / 10_000 ** (2 * (column // 2) / hidden) for column in range(hidden)]
    values = [math.cos(angle) if column % 2 else math.sin(angle) for column, angle in enumerate(angles)]
    return torch.tensor(values, dtype=torch.float64)
