"""What a Universal Transformer does besides its layers (Dehghani et al. 2019, arXiv:1807.03819, section 2).

Before each step a signal of position and step is added to every state. With halting each position stops by itself
(Graves 2016, arXiv:1603.08983, section 2.1): a state has a halting probability, the position stops at the first step
at which these come to 1 - epsilon, or at the last one, and the result is the sum of its states, weighed by their
probabilities, the last one by what is left of 1. A position that has stopped carries its state on, which others see.

All steps are computed for all positions, and masks say what counts: nothing has to be waited for, every pass is of the
same shapes, and a cache has the keys and values of all steps. So a model that halts early is not faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from tiny_transformers.layers.layer import SeesReal
from tiny_transformers.settings.recurrence import Recurrence as Settings

PERIOD = 10_000.0  # the longest wave, over 2 pi
BIAS = 1.0  # of the halting unit, at the start: about two steps (Graves 2016, section 2; the paper's code)


@dataclass
class _Pass:
    """Where a forward pass is. Of halting every tensor is (B, T): of positions."""

    positions: Tensor | None = None  # their numbers, from 1; broadcast to (B, T)
    running: Tensor | None = None  # which have not halted, bool
    reached: Tensor | None = None  # the sum of halting probabilities
    cost: Tensor | None = None  # steps, and the remainder once it has halted
    taken: Tensor | None = None  # steps
    mixed: Tensor | None = None  # (B, T, H), the weighed states so far


@dataclass
class _Count:
    """Of evaluating passes whose real tokens are known."""

    steps: Tensor | None = None  # (), taken by all
    tokens: int = 0


class Recurrence(SeesReal):
    """`first` is the number of the family's first position, `scale` the signal's size."""

    in_evaluation = True  # it counts the steps of real tokens

    def __init__(
        self, settings: Settings, hidden_size: int, positions: int, steps: int, *, first: int, scale: float
    ) -> None:
        super().__init__()
        self.settings, self.steps, self.first, self.scale = settings, steps, first, scale
        if settings.halting:
            self.weight, self.bias = nn.Parameter(torch.empty(1, hidden_size)), nn.Parameter(torch.empty(1))
        # Row t is of position t or of step t; in float32 whatever the model is trained in.
        self.register_buffer("waves", torch.empty(max(positions + 1, steps) + 1, hidden_size), persistent=False)
        self._pass, self._count = _Pass(), _Count()

    def initialize(self, std: float) -> None:
        init.copy_(self.waves, self.scale * waves(*self.waves.shape).float())
        if self.settings.halting:
            init.normal_(self.weight, 0.0, std)
            init.constant_(self.bias, BIAS)

    def place(self, module: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG002
        """A hook before the family's embedding of positions, whose numbers are the signal's: with a cache, padding
        or branches, too."""
        self._pass = _Pass(positions=args[0] + (1 - self.first))

    def before(self, state: Tensor, step: int) -> Tensor:
        """The state (B, T, H) with the signal of a step, counted from 0. (Eq. 6 and 7)"""
        if not self.settings.signal:
            return state
        return state + (self.waves[self._pass.positions] + self.waves[step + 1]).to(state.dtype)

    def forward(self, before: Tensor, after: Tensor, step: int) -> Tensor:
        """What the next step begins with, and at the last step the model's result.

        before: (B, T, H), the state that the step began with, without the signal; after: what it came to"""
        halting, now = self.settings.halting, self._pass
        if halting is None:
            return after
        if step == 0:
            now.running = torch.ones(after.shape[:2], dtype=torch.bool, device=after.device)
            now.reached = torch.zeros(after.shape[:2], dtype=_wide(after), device=after.device)
            now.cost, now.taken, now.mixed = now.reached, now.reached, torch.zeros_like(after)
        assert now.running is not None
        assert now.reached is not None
        state = torch.where(now.running.unsqueeze(-1), after, before)
        left = 1 - now.reached
        if step == self.steps - 1:
            halts, share = now.running, left
        else:
            probability = self.probability(state)
            halts = now.running & (now.reached + probability >= 1 - halting.epsilon)
            share = torch.where(halts, left, probability)
        share = share * now.running
        now.mixed = now.mixed + share.unsqueeze(-1).to(state.dtype) * state
        now.taken = now.taken + now.running
        now.cost = now.cost + now.running + halts * left
        now.reached, now.running = now.reached + share, now.running & ~halts
        if step < self.steps - 1:
            return state
        return self._ended(now)

    def probability(self, state: Tensor) -> Tensor:
        """Of halting, in float32 at least: (B, T, H) -> (B, T)"""
        state, weight, bias = (x.to(_wide(x)) for x in (state, self.weight, self.bias))
        with torch.autocast(state.device.type, enabled=False):
            return F.linear(state, weight, bias).squeeze(-1).sigmoid()

    def _ended(self, now: _Pass) -> Tensor:
        assert self.settings.halting
        assert now.cost is not None
        assert now.taken is not None
        assert now.mixed is not None
        if self.training:
            self.auxiliary_loss = self.settings.halting.ponder * self.of_real(now.cost).mean()
        elif self.told:
            taken = self.of_real(now.taken)
            self._count.steps = taken.sum() + (0.0 if self._count.steps is None else self._count.steps)
            self._count.tokens += taken.numel()
        self._pass = _Pass()
        return now.mixed

    def of_real(self, x: Tensor) -> Tensor:
        """Of the real tokens: (B, T) -> (N,)"""
        return x.flatten() if self.real is None else x.flatten()[self.real]

    def counted(self) -> float | None:
        """Return the mean steps of a token in the evaluating passes since the last call; None: there were none."""
        count, self._count = self._count, _Count()
        return None if count.steps is None else count.steps.item() / count.tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pass": _Pass(), "_count": _Count()}


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def waves(rows: int, hidden_size: int) -> Tensor:
    """sin(t / 10000^(2j/H)) in column 2j and its cosine in 2j + 1, of each row t: (rows, H), float64"""
    column = torch.arange(hidden_size)
    angle = torch.arange(rows, dtype=torch.float64)[:, None] / PERIOD ** ((column - column % 2).double() / hidden_size)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())
