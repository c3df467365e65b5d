"""Weights are pruned in the course of training: how many of them when, and which matrices have them. No torch here."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from tiny_transformers.settings.architecture import AnyModel, Architecture, Llama
from tiny_transformers.settings.base import Settings, Share
from tiny_transformers.settings.feed_forward.dense import Dense
from tiny_transformers.settings.transformer import attention_matrices, sized_modules


class Pruning(Settings):
    """Zhu & Gupta 2017 (arXiv:1710.01878), section 3, from a sparsity of 0: of each matrix the smallest weights are set
    to 0 and stay it, so many that the share of zeros after t steps is

        s_t = s_f + (0 - s_f) (1 - (t - t_0) / (n dt))^3    (eq. 1)

    where masks are made, at t_0, t_0 + dt, ..., t_0 + n dt, and between these steps that of the last one."""

    sparsity: Annotated[float, Field(gt=0, lt=1)]  # s_f
    begin: Share = 0.1  # t_0, as a share of the training
    end: Share = 0.8  # t_0 + n dt, likewise; the last dt is shorter where it does not fit
    every: PositiveInt = 100  # dt, in steps

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Pruning:
        if self.begin >= self.end:
            raise ValueError(f"pruning.begin {self.begin:g} is not before pruning.end {self.end:g}")
        return self

    def span(self, max_steps: int) -> tuple[int, int]:
        """Return t_0 and t_0 + n dt, in steps."""
        begin, end = (math.floor(share * max_steps + 0.5) for share in (self.begin, self.end))
        begin = min(begin, max_steps - 1)
        return begin, max(end, begin + 1)

    def is_due(self, step: int, max_steps: int) -> bool:
        """Whether masks are made after so many steps."""
        begin, end = self.span(max_steps)
        return begin <= step <= end and ((step - begin) % self.every == 0 or step == end)

    def share(self, step: int, max_steps: int) -> float:
        """Return the share of each matrix that is 0 after so many steps, before it is rounded to whole weights."""
        begin, end = self.span(max_steps)
        if step < begin:
            return 0.0
        made = end if step >= end else step - (step - begin) % self.every
        return self.sparsity * (1 - (1 - (made - begin) / (end - begin)) ** 3)

    def pruned(self, weights: int, step: int, max_steps: int) -> int:
        """Return how many of a matrix's weights are 0 after so many steps: to the nearest, halves up."""
        return math.floor(self.share(step, max_steps) * weights + 0.5)

    def check(self, model: AnyModel) -> None:
        """Raises ValueError for a model that cannot be pruned."""
        if not isinstance(model, Architecture) or not isinstance(model.ffn, Dense):
            kind = model.ffn.kind if isinstance(model, Architecture) else model.family
            raise ValueError(f"train.pruning is of linear layers and dense feed-forward modules, not of {kind}")


def matrices(model: AnyModel) -> list[int]:
    """Return how many weights each matrix has that is pruned: of each linear layer in a block, shared ones once.

    Embeddings, norms, biases, activations and the head are left alone."""
    assert isinstance(model, Architecture)
    assert isinstance(model.ffn, Dense)
    attentions, feed_forwards = sized_modules(model, unique=True)
    counts = [size for count, of in attentions for size in attention_matrices(of) * count]
    linears = [shape for count, of in feed_forwards for shape in _linears(model.ffn, of) * count]
    return counts + [inputs * outputs for inputs, outputs in linears]


def _linears(ffn: Dense, model: Architecture) -> list[tuple[int, int]]:
    """Of a Llama's usual module what is gated and what gates it are two layers, as stock; elsewhere they are one."""
    first, *others = ffn.linears(model._block)
    if isinstance(model, Llama) and model._block.gated and ffn.depth == 2:
        return [(first[0], first[1] // 2)] * 2 + others
    return [first, *others]


def sparsity(model: AnyModel, pruning: Pruning, step: int, max_steps: int) -> float:
    """Return the share of all weights of these matrices that are 0 after so many steps."""
    sizes = matrices(model)
    return sum([pruning.pruned(size, step, max_steps) for size in sizes]) / sum(sizes)
