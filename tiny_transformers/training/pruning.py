"""The smallest weights of linear layers are kept at 0 while a model is trained (Zhu & Gupta 2017; settings/pruning.py).

As in the paper the gradient goes through the masks, so that what is masked is not updated: its gradient is 0 before it
is clipped, and it is set to 0 again after the optimizer's step, whose moments are of earlier gradients. The paper's
weights keep what they were below the mask, from where they may come back; ours are 0, so that masks only grow.

A mask is part of what the optimizer knows of a parameter, and with it of a checkpoint. No device is waited for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tiny_transformers.common.work import Check
from tiny_transformers.models.language_model import LanguageModel
from tiny_transformers.settings import pruning
from tiny_transformers.settings.config import RunConfig

MASK = "mask"  # in the optimizer's state: 1 where a weight is kept, 0 where it is pruned


class Pruner:
    """Of a training without pruning it does nothing."""

    def __init__(self, config: RunConfig, model: LanguageModel) -> None:
        self.config, self.settings = config, config.train.pruning
        self.matrices = list(linear_weights(model)) if self.settings else []

    @torch.no_grad()
    def before_update(self, optimizer: torch.optim.Optimizer) -> None:
        for weight, mask in self._masks(optimizer):
            if weight.grad is not None:
                weight.grad *= mask

    @torch.no_grad()
    def after_update(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """`step`: how many have been made, this one included."""
        if not self.settings:
            return
        steps = self.config.train.max_steps or 0
        if self.settings.is_due(step, steps):
            for weight in self.matrices:
                state = optimizer.state[weight]
                state[MASK] = smallest_left_out(
                    weight, state.get(MASK), self.settings.pruned(weight.numel(), step, steps)
                )
        for weight, mask in self._masks(optimizer):
            weight *= mask

    def _masks(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
        for weight in self.matrices:
            if MASK in optimizer.state[weight]:
                yield weight, optimizer.state[weight][MASK]

    # --- what it has done; a device is waited for

    def used(self, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Return the share of these weights that masks keep at 0; not a number if one of them is not 0."""
        if not self.settings:
            return {}
        pruned = 0
        for weight, mask in self._masks(optimizer):
            if bool(weight[mask == 0].any()):
                return {"sparsity": float("nan")}
            pruned += int((mask == 0).sum())
        return {"sparsity": pruned / sum(weight.numel() for weight in self.matrices)}

    def planned(self, step: int) -> dict[str, float]:
        """Return what `used` has to say after so many steps."""
        if not self.settings:
            return {}
        return {"sparsity": pruning.sparsity(self.config.model, self.settings, step, self.config.train.max_steps or 0)}

    def check(self, model: LanguageModel, step: int) -> Check:
        """Whether each matrix of a model that was saved has the zeros that were planned; the value is their share."""
        assert self.settings
        steps = self.config.train.max_steps or 0
        found = [(int((weight == 0).sum()), weight.numel()) for weight in linear_weights(model)]
        sizes = sorted(pruning.matrices(self.config.model)) == sorted(size for _, size in found)
        zeros = all(count >= self.settings.pruned(size, step, steps) for count, size in found)
        return Check("sparsity", sizes and zeros, sum(count for count, _ in found) / sum(size for _, size in found))


def linear_weights(model: LanguageModel) -> Iterator[Tensor]:
    """The weights of all linear layers in a model's blocks, those that are shared once."""
    owner, name = model.stack()
    for block in getattr(owner, name).children():
        for module in block.modules():
            if isinstance(module, nn.Linear):
                yield module.weight


def smallest_left_out(weight: Tensor, before: Tensor | None, pruned: int) -> Tensor:
    """Return a mask that is 0 at so many weights: those at which the mask before was 0, and then the smallest by their
    magnitude, of equal ones the first."""
    size = weight.abs()
    if before is not None:
        size = size.masked_fill(before == 0, -1.0)
    order = size.flatten().sort(stable=True).indices
    return torch.ones_like(weight).flatten().index_fill_(0, order[:pruned], 0.0).view_as(weight)


def nonzero_parameters(model: nn.Module) -> int:
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())
