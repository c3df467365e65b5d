"""Gates of a Brainformer's experts: which of them compute a token, and with what weights.

docs/models.md has a table of them. A loss is of training only and comes with its weight; softmaxes and losses are of
float32, under autocast as well."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from tiny_transformers.layers.layer import STD, Layer, StudyLinear
from tiny_transformers.settings.brainformer_architecture import Experts as Settings

JITTER = 0.1  # of Switch, at most, up or down
LEAST_DEVIATION = 0.01  # of the noise, where the load's estimate divides by it


class Routing(NamedTuple):
    """A gate's choice of experts for N tokens."""

    weights: Tensor  # (N, k) float32
    chosen: Tensor  # (N, k), numbers of experts, all different in a row
    kept: Tensor | None = None  # (N, k) bool: the choices that count; None: all
    loss: Tensor | None = None  # (), to be added to the model's


class Gate(nn.Module):
    """forward: x (N, H), and where a gate asks for them the tokens' ids (N,) -> Routing"""

    by_ids = False  # whether it asks for them

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        assert settings.top_k
        self.settings, self.k = settings, settings.top_k  # k: experts of a token, now

    def schedule(self, fraction: float) -> None:
        """How much of the training is done, 0 to 1; most gates do not care."""

    def _loss(self, unweighted: Tensor) -> Tensor | None:
        return (self.settings.balance_loss or 0.0) * unweighted if self.training else None

    def _queued(self, chosen: Tensor, used: Tensor) -> Tensor | None:
        """chosen, used: (N, k) -> (N, k) bool: the used choices for which their expert has room, `capacity` times its
        even share of all choices. The first choices of all tokens are served before any second one, and of these,
        earlier tokens before later ones.

        In evaluation there is room for all: else a token's score would depend on what is read with it, and by way of
        second choices even on what comes after it."""
        if not self.training:
            return None
        assert self.settings.capacity
        capacity = math.ceil(self.settings.capacity * chosen.numel() / self.settings.num_experts)
        queue = F.one_hot(chosen.T, self.settings.num_experts) * used.T.unsqueeze(-1)  # (k, N, E)
        places = (queue.flatten(0, 1).cumsum(0).view_as(queue) * queue).sum(-1).T  # (N, k), from 1; 0 if not used
        return used & (places <= capacity)


class Naive(Gate):
    """The k largest logits, and the softmax over them."""

    def __init__(self, settings: Settings, hidden_size: int) -> None:
        super().__init__(settings)
        self.linear = StudyLinear(hidden_size, settings.num_experts, bias=True)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Routing:  # noqa: ARG002
        return Routing(*largest(self.linear(x).float(), self.k))


class Dense(Naive):
    """All experts, and the softmax over all."""

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Routing:  # noqa: ARG002
        weights = self.linear(x).float().softmax(-1)
        return Routing(weights, torch.arange(self.k, device=x.device).expand_as(weights))


class Balanced(Naive):
    """Naive, and a loss that evens out the experts' load."""

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Routing:  # noqa: ARG002
        logits = self.linear(x).float()
        weights, chosen = largest(logits, self.k)
        return Routing(weights, chosen, loss=self._loss(imbalance(logits.softmax(-1), chosen)))


class GShard(Naive):
    """Two experts, the second one at random if its weight is small, and no more tokens than an expert has capacity
    for. (Lepikhin et al. 2020, arXiv:2006.16668, algorithm 1)"""

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Routing:  # noqa: ARG002
        probabilities = self.linear(x).float().softmax(-1)
        best, chosen = probabilities.topk(self.k)
        weights = best / best.sum(-1, keepdim=True)
        used = torch.ones_like(chosen, dtype=torch.bool)
        if self.training:
            used[:, 1:] = torch.rand_like(weights[:, 1:]) < 2 * weights[:, 1:]
        loss = self._loss(imbalance(probabilities, chosen[:, :1]))
        return Routing(weights, chosen, self._queued(chosen, used), loss)


class Switch(Naive):
    """One expert, weighted by its probability among all. (Fedus et al. 2021, arXiv:2101.03961, section 2)"""

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Routing:  # noqa: ARG002
        if self.training:
            x = x * torch.empty_like(x).uniform_(1 - JITTER, 1 + JITTER)
        probabilities = self.linear(x).float().softmax(-1)
        weights, chosen = probabilities.max(-1, keepdim=True)
        kept = self._queued(chosen, torch.ones_like(chosen, dtype=torch.bool))
        return Routing(weights, chosen, kept, self._loss(imbalance(probabilities, chosen)))


class Random(Naive):
    """Naive with weights that stay as they were drawn; more experts the longer the training lasts, and the most of
    them after it. (SMoE-Dropout: Chen et al. 2023, arXiv:2303.01610)"""

    def __init__(self, settings: Settings, hidden_size: int) -> None:
        super().__init__(settings, hidden_size)
        self.linear.requires_grad_(False)
        self.schedule(1.0)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Routing:  # noqa: ARG002
        weight, bias = self.linear.weight, self.linear.bias
        # Detached, since `from_pretrained` makes parameters that want a gradient of those that did not.
        return Routing(*largest(F.linear(x, weight.detach(), bias.detach()).float(), self.k))

    def schedule(self, fraction: float) -> None:
        first, last = self.settings.top_k, self.settings.last_top_k
        assert first
        assert last
        self.k = first + math.floor((last - first) * fraction)


class Noisy(Gate):
    """Naive with noise of a learned deviation while it trains, and a loss of two parts.
    (Shazeer et al. 2017, arXiv:1701.06538, eq. 3-5 and appendix A)"""

    def __init__(self, settings: Settings, hidden_size: int) -> None:
        super().__init__(settings)
        self.linear = StudyLinear(hidden_size, settings.num_experts, bias=False)
        self.noise = StudyLinear(hidden_size, settings.num_experts, bias=False)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Routing:  # noqa: ARG002
        clean = self.linear(x).float()
        if not self.training:
            return Routing(*largest(clean, self.k))
        deviation = F.softplus(self.noise(x).float())
        noisy = clean + torch.randn_like(clean) * deviation
        weights, chosen = largest(noisy, self.k)
        uneven = cv_squared(importance(weights, chosen, self.settings.num_experts))
        return Routing(weights, chosen, loss=self._loss(uneven + cv_squared(self._load(clean, noisy, deviation))))

    def _load(self, clean: Tensor, noisy: Tensor, deviation: Tensor) -> Tensor:
        """All (N, E) -> (E,): of each expert, summed over the tokens, the probability of being among the k largest if
        its noise alone were drawn again. Unlike a count it has a gradient. Eq. 8-10."""
        if self.k == self.settings.num_experts:
            return torch.ones_like(clean).sum(0)
        best = noisy.topk(self.k + 1).values
        last, next_ = best[:, -2:-1], best[:, -1:]
        others = torch.where(noisy >= last, next_, last)  # the k-th largest without the expert itself
        return torch.special.ndtr((clean - others) / deviation.clamp(min=LEAST_DEVIATION)).sum(0)


class Hash(Gate, Layer):
    """k different experts of every token id, drawn once, with weights 1/k. (Roller et al. 2021, arXiv:2106.04426)"""

    by_ids = True
    table: Tensor  # (V, k)

    def __init__(self, settings: Settings, vocab_size: int) -> None:
        super().__init__(settings)
        self.register_buffer("table", torch.empty(vocab_size, self.k, dtype=torch.long))
        self.initialize(STD)

    def initialize(self, std: float) -> None:  # noqa: ARG002
        numbers = torch.rand(len(self.table), self.settings.num_experts, device=self.table.device)
        init.copy_(self.table, numbers.argsort(1)[:, : self.k])

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Routing:
        """Raises ValueError without ids."""
        if ids is None:
            raise ValueError("gate hash chooses experts by token id: pass input_ids (without a model, set `ids`).")
        return Routing(torch.full((len(x), self.k), 1 / self.k, device=x.device), self.table[ids])


WITH_LOGITS: dict[str, type[Naive | Noisy]] = {
    "naive": Naive,
    "noisy": Noisy,
    "gshard": GShard,
    "switch": Switch,
    "balanced": Balanced,
    "random": Random,
    "dense": Dense,
}


def build(settings: Settings, hidden_size: int, vocab_size: int) -> Gate:
    if settings.gate == "hash":
        return Hash(settings, vocab_size)
    return WITH_LOGITS[settings.gate](settings, hidden_size)


def largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """logits: (N, E) -> the softmax over the k largest, and their numbers, both (N, k)"""
    kept, chosen = logits.topk(k)
    return kept.softmax(-1), chosen


def imbalance(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """(N, E), (N, k) -> (): E sum over e of (share of choices that fell on e) (mean probability of e); 1 if all are
    even, and 0 for no tokens. Fedus et al. 2021, eq. 4; with first choices GShard's, but for its factor."""
    tokens, experts = probabilities.shape
    shares = torch.zeros_like(probabilities).scatter(1, chosen, 1.0).sum(0) / max(chosen.numel(), 1)
    return experts * (shares * probabilities.sum(0) / max(tokens, 1)).sum()


def importance(weights: Tensor, chosen: Tensor, experts: int) -> Tensor:
    """weights, chosen: (N, k) -> (E,), the sum of each expert's weights over the tokens. Shazeer et al. 2017, eq. 6."""
    return weights.new_zeros(len(weights), experts).scatter(1, chosen, weights).sum(0)


def cv_squared(amounts: Tensor) -> Tensor:
    """amounts: (E,) -> (), variance (unbiased) / mean^2; 0 for one expert and for no tokens. Eq. 7 there."""
    variance = amounts.var(correction=min(1, len(amounts) - 1))
    return variance / amounts.mean().square().clamp(min=torch.finfo(amounts.dtype).tiny)
