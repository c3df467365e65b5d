"""A mixture of experts behind a noisy top-k gate: of E feed-forward blocks, k compute a token, chosen per token.

Shazeer et al. 2017, arXiv:1701.06538, section 2.1 and appendix A. The tokens are sorted by expert, so that every expert
is two matrix products over its own tokens; no expert has a capacity and no token is dropped. Gathers follow
permutations only, so no gradient depends on the order in which a GPU adds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from tiny_transformers.layer import STD, PerToken


class MixtureOfExperts(PerToken):
    """y = sum over the k chosen e of G_e(x) (act(x w1_e + b1_e) w2_e + b2_e).

    With top_k 1 the softmax over the one kept logit is 1: the gate then learns nothing, as in eq. 3."""

    def __init__(
        self,
        hidden_size: int,
        expert_size: int,  # hidden units of one expert
        num_experts: int,
        top_k: int,
        balance_loss: float = 0.01,  # w_importance of eq. 7
        activation: Callable[[Tensor], Tensor] = F.relu,
        study_initialization: bool = False,
        noisy: bool = True,
    ) -> None:
        super().__init__()
        self.top_k, self.balance_loss = top_k, balance_loss
        self.activation, self.study_initialization = activation, study_initialization
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.noise = nn.Linear(hidden_size, num_experts, bias=False) if noisy else None
        self.w1 = nn.Parameter(torch.empty(num_experts, hidden_size, expert_size))
        self.b1 = nn.Parameter(torch.empty(num_experts, expert_size))
        self.w2 = nn.Parameter(torch.empty(num_experts, expert_size, hidden_size))
        self.b2 = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.initialize(STD)

    def initialize(self, std: float) -> None:
        """The family's rule; the study draws all four tensors from U(-1/sqrt(H), 1/sqrt(H)), whatever `std` is."""
        if self.study_initialization:
            bound = 1 / math.sqrt(self.w1.shape[1])
            for parameter in (self.w1, self.b1, self.w2, self.b2):
                init.uniform_(parameter, -bound, bound)
            return
        for weight in (self.w1, self.w2):
            init.normal_(weight, 0.0, std)
        for bias in (self.b1, self.b2):
            init.zeros_(bias)

    def tokens(self, x: Tensor) -> Tensor:
        """x: (N, H) -> (N, H)"""
        weights, chosen = self._gated(x)  # (N, k)
        if self.training:
            self.auxiliary_loss = self.balance_loss * _cv_squared(self._importance(weights, chosen))
        order = chosen.flatten().argsort(stable=True)  # (N k,): token-and-choice, sorted by expert
        x = x.unsqueeze(1).expand(-1, self.top_k, -1).flatten(0, 1)[order]
        y = self._experts(x, torch.bincount(chosen.flatten(), minlength=len(self.w1)).tolist())
        y = y[order.argsort()].unflatten(0, chosen.shape)  # (N, k, H)
        return (weights.to(y.dtype).unsqueeze(-1) * y).sum(1)

    def _gated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (N, H) -> weights, in float32, and numbers of the chosen experts, both (N, k). Eq. 3-5."""
        logits = self.gate(x).float()  # (N, E)
        if self.training and self.noise is not None:
            logits = logits + torch.randn_like(logits) * F.softplus(self.noise(x).float())
        kept, chosen = logits.topk(self.top_k)
        return kept.softmax(-1), chosen

    def _experts(self, x: Tensor, counts: list[int]) -> Tensor:
        """x: (N k, H), sorted by expert -> (N k, H), each row by its expert.

        `unbind`, since an index per expert would each have a gradient of the size of all experts. An expert without
        tokens multiplies zero rows, which costs nothing and gives it a gradient of zeros."""
        parts = []
        experts = zip(*(parameter.unbind() for parameter in (self.w1, self.b1, self.w2, self.b2)), strict=True)
        for part, (w1, b1, w2, b2) in zip(x.split(counts), experts, strict=True):
            hidden = self.activation(torch.addmm(b1, part, w1))  # (tokens of the expert, I)
            parts.append(torch.addmm(b2, hidden, w2))
        return torch.cat(parts)

    def _importance(self, weights: Tensor, chosen: Tensor) -> Tensor:
        """weights, chosen: (N, k) -> (E,), the sum of each expert's weights over the tokens. Eq. 6."""
        return weights.new_zeros(len(weights), len(self.w1)).scatter(1, chosen, weights).sum(0)


def _cv_squared(importance: Tensor) -> Tensor:
    """importance: (E,) -> (), variance (unbiased) / mean^2; 0 for one expert and for no tokens. Eq. 7."""
    variance = importance.var(correction=min(1, len(importance) - 1))
    return variance / importance.mean().square().clamp(min=torch.finfo(importance.dtype).tiny)
