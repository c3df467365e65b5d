"""How states change from block to block: how alike they are (linear CKA), and what the model would say of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.common.insides import Layers, Lens
from tiny_transformers.evaluation.interpret.watching import said

POSITIONS = 4_000  # whose states are kept, at most, evenly spaced
AT_ONCE = 512  # whose logits exist at once


class States:
    """Keeps the states of some positions after each block, and adds up the cosines of successive ones of all."""

    def __init__(self) -> None:
        self._kept: list[list[Tensor]] = []  # by block, of each pass (n, H)
        self._cosines: list[Tensor] = []
        self._count = 0
        self._before = torch.empty(0)
        self._at = self._real = torch.empty(0)

    def begin(self, real: Tensor, at: Tensor) -> None:
        """Before a pass. real, at: (B, T) bool, no padding, and to be kept"""
        self._real, self._at = real, at
        self._count += int(real.sum())

    def add(self, blocks: int, state: Tensor) -> None:
        """state: (B, T, H), after so many blocks"""
        if blocks == len(self._kept):
            self._kept.append([])
        self._kept[blocks].append(state[self._at].float().cpu())
        if blocks:
            cosine = F.cosine_similarity(self._before.float(), state.float(), dim=-1)[self._real].double().sum()
            if blocks > len(self._cosines):
                self._cosines.append(cosine)
            else:
                self._cosines[blocks - 1] += cosine
        self._before = state

    def kept(self) -> list[Tensor]:
        """Of each block (N, H)"""
        return [torch.cat(parts) for parts in self._kept]

    def cosines(self) -> list[float]:
        return [round((cosine / self._count).item(), 4) for cosine in self._cosines]


def described(model: Any, states: States, foretelling: States) -> Layers:
    """`foretelling`: of the positions at which the model says something: of an encoder the masked ones."""
    lens, depth, positions = lenses(model, foretelling.kept())
    kept = states.kept()
    return Layers(
        similarity=[[round(value, 4) for value in row] for row in similarities(kept)],
        cosine=states.cosines(),
        lens=lens,
        depth=depth,
        compared=len(kept[0]),
        positions=positions,
    )


def similarities(states: list[Tensor]) -> list[list[float]]:
    """Linear CKA of each with each (Kornblith et al. 2019, arXiv:1905.00414, section 3): each (N, H) -> (L, L)"""
    centred = [state.double() - state.double().mean(0) for state in states]
    own = [(state.T @ state).norm() for state in centred]
    values = torch.eye(len(states), dtype=torch.float64)
    for i, one in enumerate(centred):
        for j in range(i):
            scale = own[i] * own[j]
            shared = (one.T @ centred[j]).square().sum()
            values[i, j] = values[j, i] = shared / scale if scale > 0 else 0.0
    return values.tolist()


def lenses(model: Any, states: list[Tensor]) -> tuple[list[Lens], float, int]:
    """The logit lens (nostalgebraist 2020) of each state, and the mean share of the blocks after which the answer of
    the end stands. states: after each number of blocks (N, H)"""
    count, blocks = len(states[0]), len(states) - 1
    agreements = torch.zeros(len(states))
    ranks, divergences, stands = torch.zeros_like(agreements), torch.zeros_like(agreements), 0.0
    for first in range(0, count, AT_ONCE):
        some = [state[first : first + AT_ONCE].to(model.device) for state in states]
        final = said(model, some[-1]).log_softmax(-1)  # (n, V)
        answer = final.argmax(-1)
        settled = torch.zeros_like(answer)  # blocks after which the answer was another for the last time, + 1
        for number, state in enumerate(some):
            here = said(model, state).log_softmax(-1)
            agrees = here.argmax(-1) == answer
            settled = torch.where(agrees, settled, number + 1)
            agreements[number] += agrees.sum().item()
            ranks[number] += (here > here.gather(-1, answer[:, None])).sum().item() + len(answer)
            divergences[number] += (final.exp() * (final - here)).sum().item()
        stands += settled.sum().item()
    lens = [
        Lens(agreement=round(a / count, 4), rank=round(r / count, 2), divergence=round(max(0.0, d / count), 4))
        for a, r, d in zip(agreements.tolist(), ranks.tolist(), divergences.tolist(), strict=True)
    ]
    return lens, round(stands / count / max(blocks, 1), 4), count
