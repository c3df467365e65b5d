"""What heads attend to: means over a sample of texts, and the weights on single texts as letters to be drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tiny_transformers.common.insides import LEVELS, Attention, Head, Picture, Place
from tiny_transformers.evaluation.interpret.watching import Listener, look

DRAWN = 300_000  # weights that pictures have in all; the texts beyond it are left out
FIGURES = ("distance", "entropy", "relative_entropy", "first", "previous", "same", "following")


class Heads:
    """Adds up the figures of each head at each place, over the queries that see more than one key."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self._sums: list[Tensor] = []  # (figures, heads)
        self._counts: list[Tensor] = []  # ()
        self._real = torch.empty(0)

    def begin(self, real: Tensor) -> None:
        """Before a pass. real: (B, T), which tokens are no padding"""
        self._real = real

    def add(self, place: Place, weights: Tensor, seen: Tensor) -> None:
        """weights: (B, heads, T, T), seen: (T, T), of queries and then keys"""
        sums, count = figures(weights.float(), self._real, seen)
        if place.application > len(self.places):
            self.places.append(place)
            self._sums.append(sums)
            self._counts.append(count)
        else:
            self._sums[place.application - 1] += sums
            self._counts[place.application - 1] += count

    def found(self) -> list[Attention]:
        attentions = []
        for place, sums, count in zip(self.places, self._sums, self._counts, strict=True):
            means = (sums / count.clamp(min=1)).T.tolist()
            heads = [Head(**{name: round(value, 4) for name, value in zip(FIGURES, head, strict=True)})
                     for head in means]  # fmt: skip
            attentions.append(Attention(place=place, heads=heads))
        return attentions


def figures(weights: Tensor, real: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """weights: (B, heads, T, T), real: (B, T), seen: (T, T) -> the sums of FIGURES, (figures, heads), and of how many
    queries.

    What a row lacks of 1 is of what came before the text: its weights are taken as shares of what the text has."""
    weights = weights * real[:, None, None, :]
    keys = (seen & real[:, None, :]).sum(-1)[:, None]  # (B, 1, T)
    counted = real[:, None] & (keys > 1)  # (B, 1, T)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    place = torch.arange(weights.shape[-1], device=weights.device)
    away = (place[:, None] - place).abs().to(weights.dtype)  # (T, T)
    entropy = torch.special.entr(weights).sum(-1)  # (B, heads, T)
    none = torch.zeros_like(entropy[..., :1])
    values = torch.stack(
        [
            (weights * away).sum(-1),
            entropy,
            entropy / keys.clamp(min=2).log(),
            weights[..., 0],
            torch.cat([none, weights.diagonal(-1, -2, -1)], -1),
            weights.diagonal(0, -2, -1),
            torch.cat([weights.diagonal(1, -2, -1), none], -1),
        ]
    )  # (figures, B, heads, T)
    return (values * counted).double().sum((1, 3)), counted.sum()


def pictures(model: Any, texts: list[list[int]], names: list[list[str]]) -> list[Picture]:
    """The weights on each text, as many of the first ones as DRAWN has room for; one at least, if the
    model's heads look at positions."""
    made: list[Picture] = []
    for ids, tokens in zip(texts, names, strict=True):
        drawn: list[list[str]] = []
        listener = Listener(attention=lambda _, weights, __, drawn=drawn: drawn.append(letters(weights[0])))  # type: ignore[misc]
        on_device = torch.tensor([ids], device=model.device)
        look(model, listener, on_device, torch.ones_like(on_device, dtype=torch.bool))
        if not drawn:
            return []  # of a Linformer there is nothing to draw
        made.append(Picture(tokens=tokens, weights=drawn))
        if len(made) * sum(map(len, drawn)) * len(ids) ** 2 > DRAWN:
            break
    return made


def letters(weights: Tensor) -> list[str]:
    """(heads, T, T) -> of each head T * T letters"""
    steps = (weights.float() * (len(LEVELS) - 1)).round().clamp(0, len(LEVELS) - 1).int().flatten(1)
    return ["".join(LEVELS[step] for step in head) for head in steps.tolist()]
