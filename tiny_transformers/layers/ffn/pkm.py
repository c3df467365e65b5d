"""A memory of n^2 values, found by the best of n x n keys, each a pair of one of n left and one of n right sub-keys.

Lample et al. 2019 ("Large Memory Layers with Product Keys"), arXiv:1907.05242, section 3. Three rewrites, all exact,
make it fast: a score is linear in the token, so where tokens are many the sub-keys are brought to the tokens' space
once and no query is built; of the k x k sums only those that can be among the k largest are compared; and the values
are added up as they are read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from tiny_transformers.layers.layer import STD, PerToken
from tiny_transformers.settings.feed_forward.kind import sized
from tiny_transformers.settings.feed_forward.pkm import ProductKey

MOMENTUM = 0.1  # of the running statistics, torch's own


class ProductKeyMemory(PerToken):
    """y = sum over heads and the k best keys of softmax(score) value; score = left sub-key . left half of the query,
    plus the same to the right; the query is a batch-normalized linear function of the token.

    Key (l, r) has value l num_subkeys + r. `study_values` reads, for the key of the i-th best left and the j-th best
    right sub-key, the value of the i-th best of both instead, weighted by the key's score: so does the study's code."""

    part = "value"
    ranks: Tensor

    def __init__(
        self,
        hidden_size: int,
        num_subkeys: int,  # of each half and head; the square root of the number of values
        top_k: int,
        num_heads: int = 4,
        query_size: int = 1024,  # of one head, both halves together
        study_values: bool = False,
    ) -> None:
        super().__init__()
        self.top_k, self.study_values = top_k, study_values
        self.query = nn.Linear(hidden_size, num_heads * query_size, bias=False)
        self.norm = nn.BatchNorm1d(num_heads * query_size, momentum=MOMENTUM)
        self.keys_left = nn.Parameter(torch.empty(num_heads, num_subkeys, query_size // 2))
        self.keys_right = nn.Parameter(torch.empty(num_heads, num_subkeys, query_size // 2))
        self.values = nn.Embedding(num_subkeys**2, hidden_size)
        self.register_buffer("ranks", torch.empty(2, len(_ranks(top_k)), dtype=torch.long), persistent=False)
        self.initialize(STD)

    def initialize(self, std: float) -> None:  # noqa: ARG002 - the scale of a score follows from the query's size
        """Sub-keys from U(-1/sqrt(Q), 1/sqrt(Q)), Q the query's size, as in the paper's code and the study."""
        bound = 1 / math.sqrt(2 * self.keys_left.shape[-1])
        init.uniform_(self.keys_left, -bound, bound)
        init.uniform_(self.keys_right, -bound, bound)
        init.copy_(self.ranks, torch.tensor(_ranks(self.top_k), device=self.ranks.device).T)

    def tokens(self, x: Tensor) -> Tensor:
        """x: (N, H) -> (N, H)"""
        value, weights = self._read(x)
        return F.embedding_bag(value, self.values.weight, per_sample_weights=weights, mode="sum")

    def parts(self, x: Tensor) -> Tensor:
        """The weights of the values, of all heads together. x: (N, H) -> (N, n^2)"""
        value, weights = self._read(x)
        return weights.new_zeros(len(x), len(self.values.weight)).scatter_add(1, value, weights)

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (N, H) -> the rows of the values that a token reads, and their weights, (N, heads k)"""
        with torch.autocast(x.device.type, enabled=False):
            scores = self._scores(x.to(_working_dtype(x)))  # (N, heads, 2, n)
        left, right, value = self._best(scores.detach())  # (N, heads, k)
        weights = scores[:, :, 0].gather(-1, left) + scores[:, :, 1].gather(-1, right)
        weights = weights.softmax(-1).to(self.values.weight.dtype)
        return value.flatten(1), weights.flatten(1)

    def _scores(self, x: Tensor) -> Tensor:
        """x: (N, H) -> (N, heads, 2, n), of the left and the right sub-keys, in the cheaper of two orders."""
        weight = self.query.weight.to(x.dtype)  # (heads Q, H)
        scale, shift = self._normalization(x, weight)  # (heads Q,)
        keys = torch.stack((self.keys_left, self.keys_right), dim=1).to(x.dtype)  # (heads, 2, n, Q/2)
        heads, _, n, half = keys.shape
        if _key_first(len(x), x.shape[1], heads, n, half):
            weight = (scale.unsqueeze(1) * weight).view(heads, 2, half, -1)
            bias = keys @ shift.view(heads, 2, half, 1)  # (heads, 2, n, 1)
            return F.linear(x, (keys @ weight).flatten(0, 2), bias.flatten()).unflatten(1, (heads, 2, n))
        query = (F.linear(x, weight) * scale + shift).unflatten(1, (heads, 2, half))
        return torch.einsum("bhpd,hpnd->bhpn", query, keys)

    def _normalization(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """x: (N, H), weight: (heads Q, H) -> scale and shift, (heads Q,), of batch normalization of x weight^T.

        Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1. The statistics of a linear function follow from mean and
        covariance of x. A single token has no variance: it is normalized, even in training, by the running statistics,
        which it leaves as they are."""
        if self.norm.training and len(x) > 1:
            centred = x - x.mean(0)
            mean = weight @ x.mean(0)
            variance = ((weight @ (centred.T @ centred / len(x))) * weight).sum(1).clamp(min=0)
            self._track(mean, variance * (len(x) / (len(x) - 1)))
        else:
            mean, variance = (tensor.float() for tensor in self._running())
        scale = self.norm.weight * (variance + self.norm.eps).rsqrt()
        return scale, self.norm.bias - mean * scale

    def _running(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, (heads Q,)"""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        return mean, variance

    @torch.no_grad()
    def _track(self, *batch: Tensor) -> None:
        """Bring the running mean and variance nearer to a batch's, (heads Q,), unbiased, as BatchNorm1d does."""
        for running, value in zip(self._running(), batch, strict=True):
            running.lerp_(value.to(running.dtype), MOMENTUM)
        assert self.norm.num_batches_tracked is not None
        self.norm.num_batches_tracked.add_(1)

    def _best(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """scores: (N, heads, 2, n) -> left and right sub-key of the k best keys, and the row of each's value.

        All (N, heads, k), in no order."""
        best, subkey = scores.topk(self.top_k)  # descending
        sums = best[:, :, 0].index_select(-1, self.ranks[0]) + best[:, :, 1].index_select(-1, self.ranks[1])
        i, j = self.ranks[:, sums.topk(self.top_k, sorted=False).indices]
        left, right = subkey[:, :, 0].gather(-1, i), subkey[:, :, 1].gather(-1, j)
        paired = subkey[:, :, 1].gather(-1, i) if self.study_values else right
        return left, right, left * scores.shape[-1] + paired


def _working_dtype(x: Tensor) -> torch.dtype:
    """At least float32: near scores are told apart."""
    return torch.promote_types(x.dtype, torch.float32)


def _ranks(k: int) -> list[tuple[int, int]]:
    """The (i, j), from 0, whose sums of two descending lists of k can be among the k largest.

    At least (i + 1) (j + 1) sums, those of (i', j') with i' <= i and j' <= j, are no smaller than that of (i, j)."""
    return [(i, j) for i in range(k) for j in range(k // (i + 1))]


def _key_first(tokens: int, hidden: int, heads: int, n: int, half: int) -> bool:
    """Whether x (W^T key) takes fewer multiplications than (x W^T) key."""
    width = heads * 2 * half
    return width * n * hidden + tokens * heads * 2 * n * hidden < tokens * width * (hidden + n)


def build(ffn: ProductKey, config: Any, gelu: str) -> ProductKeyMemory:  # noqa: ARG001 - nothing is between its layers
    subkeys = sized(ffn.num_subkeys)
    return ProductKeyMemory(config.hidden_size, subkeys, ffn.top_k, ffn.num_heads, ffn.query_size, ffn.study_values)
