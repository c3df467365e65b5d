"""A mixture of experts: of E feed-forward blocks each token is computed by those that a gate chose for it, and by no
others. Which these are, and with what weights, is the gate's to say (gates.py, moe.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from tiny_transformers.layers.dropout import dropout
from tiny_transformers.layers.ffn import gates
from tiny_transformers.layers.layer import STD, PerToken
from tiny_transformers.settings.brainformer_architecture import Experts as Settings

ALIGNED = 8  # numbers of bfloat16 that the grouped kernel's rows are a multiple of: 16 bytes


class Experts(PerToken):
    """The blocks: expert e is act(x w1_e + b1_e) w2_e + b2_e, with dropout behind the activation.

    The tokens are sorted by expert, so that every expert is two matrix products over its own tokens. Gathers follow
    permutations only, so no gradient depends on the order in which a GPU adds. Whoever inherits draws the weights."""

    part = "expert"
    multiple = 1  # of tokens that an expert multiplies at once, in bfloat16 on a CPU

    def __init__(
        self,
        hidden_size: int,
        expert_size: int,  # hidden units of one expert
        num_experts: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation, self.dropout = activation, dropout
        self.w1 = nn.Parameter(torch.empty(num_experts, hidden_size, expert_size))
        self.b1 = nn.Parameter(torch.empty(num_experts, expert_size))
        self.w2 = nn.Parameter(torch.empty(num_experts, expert_size, hidden_size))
        self.b2 = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.load: Tensor | None = None  # (E,) long: tokens that each expert computed in the last pass

    def parts(self, x: Tensor) -> Tensor:
        """The experts' weights. x: (N, H) -> (N, E)"""
        weights, chosen, kept = self.routed(x)
        if kept is not None:
            weights = weights.masked_fill(~kept, 0)
        return weights.new_zeros(len(x), len(self.w1)).scatter(1, chosen, weights)

    def routed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Which experts compute each token: as the arguments of `weighted`. x: (N, H)"""
        raise NotImplementedError

    def weighted(self, x: Tensor, weights: Tensor, chosen: Tensor, kept: Tensor | None = None) -> Tensor:
        """x: (N, H); weights, numbers of the experts, and which of these choices count (None: all), each (N, k)
        -> (N, H), the sum of the chosen experts' outputs times their weights."""
        expert = chosen if kept is None else chosen.masked_fill(~kept, len(self.w1))  # what does not count comes last
        expert, order = expert.flatten().sort(stable=True)  # (N k,): token-and-choice, sorted by expert
        ends = torch.searchsorted(expert, torch.arange(len(self.w1), device=x.device), right=True)
        self.load = ends.diff(prepend=ends.new_zeros(1))
        x = x.unsqueeze(1).expand(-1, chosen.shape[1], -1).flatten(0, 1)[order]
        y = self._grouped(x, expert, ends) if self._has_kernel(x) else self._one_by_one(x, self.load.tolist())
        y = y[order.argsort()].unflatten(0, chosen.shape)  # (N, k, H)
        return (weights.to(y.dtype).unsqueeze(-1) * y).sum(1)

    def _one_by_one(self, x: Tensor, counts: list[int]) -> Tensor:
        """x: (N k, H), sorted by expert, `counts` of each and the rest of none -> (N k, H), zeros for the rest.

        `unbind`, since an index per expert would each have a gradient of the size of all experts. An expert without
        tokens multiplies zero rows, which costs nothing and gives it a gradient of zeros."""
        *parts, rest = x.split([*counts, len(x) - sum(counts)])
        half = x.device.type == "cpu" and _dtype_of_products(x) == torch.bfloat16
        experts = zip(*(parameter.unbind() for parameter in (self.w1, self.b1, self.w2, self.b2)), strict=True)
        done = []
        for part, (w1, b1, w2, b2) in zip(parts, experts, strict=True):
            tokens = len(part)
            if half and (missing := -tokens % self.multiple):
                part = F.pad(part, (0, 0, 0, missing))
            hidden = self._activated(torch.addmm(b1, part, w1))  # (tokens of the expert, I)
            done.append(torch.addmm(b2, hidden, w2)[:tokens])
        return torch.cat([*done, rest.new_zeros(rest.shape, dtype=done[0].dtype)])

    def _has_kernel(self, x: Tensor) -> bool:
        """Whether torch multiplies all experts in one kernel: bfloat16, on an A100 or newer. Elsewhere `grouped_mm` is
        a loop over experts, too, that waits for their counts."""
        newer = x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 0)
        return newer and _dtype_of_products(x) == torch.bfloat16

    def _grouped(self, x: Tensor, expert: Tensor, ends: Tensor) -> Tensor:
        """`_one_by_one`, with nothing for a host to wait for. expert: (N k,), ends: (E,)

        Tested on a CPU, where torch has the same function in a loop; no GPU has been there to try or to time it."""
        dtype, rest = _dtype_of_products(x), (expert == len(self.w1)).unsqueeze(-1)
        one_hot = (expert.unsqueeze(-1) == torch.arange(len(self.w1), device=x.device)).to(dtype)  # (N k, E)

        def multiplied(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            # The kernel leaves rows of no expert unwritten, in its gradient as well, hence a mask on either side. It
            # has no bias; as a product, that one's gradient is a product, too, and adds in a fixed order.
            rows, columns = (-size % ALIGNED for size in weight.shape[1:])
            x, weight = _widened(x.masked_fill(rest, 0).to(dtype), rows), _widened(weight.to(dtype), columns, rows)
            y = F.grouped_mm(x, weight, offs=ends.int())[:, : bias.shape[1]]
            return (y + one_hot @ bias.to(dtype)).masked_fill(rest, 0)

        return multiplied(self._activated(multiplied(x, self.w1, self.b1)), self.w2, self.b2)

    def _activated(self, hidden: Tensor) -> Tensor:
        hidden = self.activation(hidden)
        return dropout(hidden, self.dropout) if self.training else hidden


def _widened(x: Tensor, columns: int, rows: int = 0) -> Tensor:
    """With so many zeros more in the last dimension, and in the one before it."""
    return F.pad(x, (0, columns, 0, rows)) if columns or rows else x


def _dtype_of_products(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class GatedExperts(Experts):
    """A Brainformer's, behind the gate that its settings name. (B, T, H) -> (B, T, H)

    `load` is of the last pass; a group that applies its experts three times makes three."""

    multiple = 32  # oneDNN makes a kernel for every number of tokens: of so few numbers, half the time of a step

    def __init__(
        self, settings: Settings, hidden_size: int, expert_size: int, vocab_size: int, dropout: float = 0.0
    ) -> None:
        super().__init__(hidden_size, expert_size, settings.num_experts, dropout=dropout)
        self.gate = gates.build(settings, hidden_size, vocab_size)
        self.ids: Tensor | None = None  # (B, T), of the tokens; the model sets them before a pass, a gate may need them
        self.initialize(STD)

    def initialize(self, std: float) -> None:  # noqa: ARG002
        """As torch draws a linear layer, uniform within 1/sqrt(in)."""
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            bound = 1 / math.sqrt(weight.shape[1])
            init.uniform_(weight, -bound, bound)
            init.uniform_(bias, -bound, bound)

    def schedule(self, fraction: float) -> None:
        """Tell the gate how much of the training is done, 0 to 1."""
        self.gate.schedule(fraction)

    def tokens(self, x: Tensor) -> Tensor:
        """x: (N, H) -> (N, H)"""
        routing = self.gate(x, self._ids())
        self.auxiliary_loss = routing.loss
        if routing.chosen.shape[1] == len(self.w1) and routing.kept is None:
            return self._side_by_side(x, routing.weights, routing.chosen)
        return self.weighted(x, routing.weights, routing.chosen, routing.kept)

    def routed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        routing = self.gate(x, self._ids())
        return routing.weights, routing.chosen, routing.kept

    def _side_by_side(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """`weighted` where every token is of all experts: they are one module of E I units, with nothing to sort."""
        self.load = torch.full((len(self.w1),), len(x), device=x.device)
        hidden = self._activated(torch.addmm(self.b1.flatten(), x, self.w1.transpose(0, 1).flatten(1)))  # (N, E I)
        weights = torch.zeros_like(weights).scatter(1, chosen, weights).to(hidden.dtype)  # (N, E), in order
        hidden = (hidden.unflatten(1, (len(self.w1), -1)) * weights.unsqueeze(-1)).flatten(1)
        return torch.addmm(weights @ self.b2, hidden, self.w2.flatten(0, 1))

    def _ids(self) -> Tensor | None:
        """(N,), as `tokens` sees them"""
        if self.ids is None:
            return None
        return self.ids.flatten() if self.real is None else self.ids.flatten()[self.real]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "ids": None}
