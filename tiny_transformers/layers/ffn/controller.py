"""A feed-forward block with one unit on in each of its blocks of units; a controller of low rank says which.

Jaszczur et al. 2021 ("Sparse is Enough in Scaling Transformers"), arXiv:2111.12763, section 3.1. Training goes through
all units; evaluation reads the rows of the chosen ones alone, where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from tiny_transformers.layers import activations
from tiny_transformers.layers.layer import STD, PerToken
from tiny_transformers.layers.noise import gumbel
from tiny_transformers.settings.feed_forward import controller
from tiny_transformers.settings.feed_forward.kind import sized

# Measured on two cores of a CPU, float32, hidden size 256, against the product with all units. Up to so many chosen
# units in all, reading only their rows is faster (sixteen tokens of 256 blocks take as long either way), and the rows
# still fit into the cache. More are read that many at a time, which stays faster if one unit in 32, or fewer, is on.
# Elsewhere the products are cheap and the pieces are not: there, one piece or all units.
ROWS = 4096
UNITS_PER_BLOCK = {"cpu": 32}


class _GumbelOneHot(torch.autograd.Function):
    """One 1 in each block, drawn by the softmax of its logits, with the gradient of the Gumbel softmax.

    Straight-through: Jang et al. 2017, arXiv:1611.01144, section 2.2. As torch's `gumbel_softmax(hard=True)`, in fewer
    passes. In float32: over a temperature of 0.1, an error of bfloat16 in the logits would be ten times as large."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float) -> Tensor:
        """logits: (N, blocks, S) -> the same, 0 and 1"""
        ctx.temperature = temperature
        soft = gumbel(logits).add_(logits).div_(temperature).softmax(-1)
        ctx.save_for_backward(soft)
        return torch.zeros_like(logits).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (soft,) = ctx.saved_tensors
        through = torch._softmax_backward_data(grad.float(), soft, -1, torch.float32).div_(ctx.temperature)
        return through.to(grad.dtype), None


class Controller(PerToken):
    """y = w2^T (mask * act(w1 x + b1)) + b2, where the mask has a single 1 in each of `num_blocks` blocks.

    Unit u belongs to block u // (size / num_blocks). Both weights are stored (size, H): a unit is a row of both."""

    part = "unit"

    def __init__(
        self,
        hidden_size: int,
        size: int,  # units; a multiple of num_blocks
        num_blocks: int,
        rank: int,  # of the controller's logits
        temperature: float = 0.1,  # of the Gumbel softmax
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        self.num_blocks, self.temperature, self.activation = num_blocks, temperature, activation
        self.u = nn.Linear(hidden_size, rank, bias=False)
        self.v = nn.Linear(rank, size, bias=False)
        self.w1 = nn.Parameter(torch.empty(size, hidden_size))
        self.b1 = nn.Parameter(torch.empty(size))
        self.w2 = nn.Parameter(torch.empty(size, hidden_size))  # the transpose of a Linear's weight
        self.b2 = nn.Parameter(torch.empty(hidden_size))
        self.initialize(STD)

    def initialize(self, std: float) -> None:
        for weight in (self.w1, self.w2):
            init.normal_(weight, 0.0, std)
        for bias in (self.b1, self.b2):
            init.zeros_(bias)

    def tokens(self, x: Tensor) -> Tensor:
        """x: (N, H) -> (N, H)"""
        logits = self.v(self.u(x)).unflatten(1, (self.num_blocks, -1))  # (N, blocks, units of a block)
        if self.training:
            return self._dense(x, self._sampled(logits))
        chosen = self._chosen(logits)
        if not self._sparse_is_faster(x.device.type, chosen.numel()):
            return self._dense(x, self._mask(chosen))
        step = max(1, ROWS // self.num_blocks)  # tokens
        return torch.cat([self._sparse(*piece) for piece in zip(x.split(step), chosen.split(step), strict=True)])

    def parts(self, x: Tensor) -> Tensor:
        """What the units that are on give. x: (N, H) -> (N, size)"""
        logits = self.v(self.u(x)).unflatten(1, (self.num_blocks, -1))
        return self._mask(self._chosen(logits)) * self.activation(F.linear(x, self.w1, self.b1))

    def _sampled(self, logits: Tensor) -> Tensor:
        """logits: (N, blocks, S) -> (N, size), one 1 per block"""
        mask: Tensor = _GumbelOneHot.apply(logits, self.temperature)
        return mask.flatten(1)

    def _chosen(self, logits: Tensor) -> Tensor:
        """logits: (N, blocks, S) -> (N, blocks), the numbers of the units that are on"""
        first = torch.arange(self.num_blocks, device=logits.device) * logits.shape[-1]  # unit of each block
        return logits.argmax(-1) + first

    def _mask(self, chosen: Tensor) -> Tensor:
        """chosen: (N, blocks) -> (N, size)"""
        return self.b1.new_zeros(len(chosen), len(self.b1)).scatter(1, chosen, 1.0)

    def _dense(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (N, H), mask: (N, size) -> (N, H)"""
        hidden = self.activation(F.linear(x, self.w1, self.b1))  # (N, size)
        return torch.addmm(self.b2, mask.to(hidden.dtype) * hidden, self.w2)

    def _sparse(self, x: Tensor, chosen: Tensor) -> Tensor:
        """x: (N, H), chosen: (N, blocks) -> (N, H), reading rows `chosen` of w1 and w2 only"""
        w1 = F.embedding(chosen, self.w1)  # (N, blocks, H)
        hidden = self.activation(torch.baddbmm(self.b1[chosen].unsqueeze(2), w1, x.unsqueeze(2)).squeeze(2))
        y = F.embedding_bag(chosen, self.w2, per_sample_weights=hidden.to(self.w2.dtype), mode="sum")
        return (y + self.b2).to(hidden.dtype)

    def _sparse_is_faster(self, device: str, rows: int) -> bool:
        units = len(self.b1) // self.num_blocks
        return rows <= ROWS or units >= UNITS_PER_BLOCK.get(device, units + 1)


def build(ffn: controller.Controller, config: Any, gelu: str) -> Controller:
    return Controller(
        config.hidden_size,
        sized(ffn.size),
        ffn.num_blocks,
        sized(ffn.rank),
        temperature=ffn.temperature,
        activation=activations.build(config, gelu),
    )
