"""A mixture of experts behind a noisy top-k gate: of E feed-forward blocks, k compute a token, chosen per token.

Shazeer et al. 2017, arXiv:1701.06538, section 2.1 and appendix A. No expert has a capacity and no token is dropped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from tiny_transformers.layers import activations
from tiny_transformers.layers.ffn.experts import Experts
from tiny_transformers.layers.ffn.gates import cv_squared, importance, largest
from tiny_transformers.layers.layer import STD
from tiny_transformers.settings.feed_forward.kind import sized
from tiny_transformers.settings.feed_forward.moe import MoE


class MixtureOfExperts(Experts):
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
        super().__init__(hidden_size, expert_size, num_experts, activation)
        self.top_k, self.balance_loss, self.study_initialization = top_k, balance_loss, study_initialization
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.noise = nn.Linear(hidden_size, num_experts, bias=False) if noisy else None
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
            self.auxiliary_loss = self.balance_loss * cv_squared(importance(weights, chosen, len(self.w1)))
        return self.weighted(x, weights, chosen)

    def routed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return *self._gated(x), None

    def _gated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (N, H) -> weights, in float32, and numbers of the chosen experts, both (N, k). Eq. 3-5."""
        logits = self.gate(x).float()  # (N, E)
        if self.training and self.noise is not None:
            logits = logits + torch.randn_like(logits) * F.softplus(self.noise(x).float())
        return largest(logits, self.top_k)


def build(ffn: MoE, config: Any, gelu: str) -> MixtureOfExperts:
    return MixtureOfExperts(
        config.hidden_size,
        sized(ffn.expert_size),
        ffn.num_experts,
        ffn.top_k,
        balance_loss=ffn.balance_loss,
        activation=activations.build(config, gelu),
        study_initialization=config.initialization == "study",
    )
