"""What the parts of feed-forward modules are for: units, experts, or the values of a memory.

One pass over the sample is enough: of each part its energy by token is added up, and the places where it is strongest
are kept, the strongest of each text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tiny_transformers.common.insides import Context, FeedForward, Part, Place, Token
from tiny_transformers.layers import feed_forward
from tiny_transformers.settings.activations import ACTIVATIONS

CONTEXTS = 5  # of a part
TOKENS = 5  # that excite it most
OFTEN = 5  # times that a token must occur to be told of
KINDS = 1_000  # tokens, the most frequent, that are told of
NEAR_ZERO = 0.01  # of the root mean square of all units: what counts as not active where nothing is exactly 0
MOST_EXPERTS = 16  # shown


def threshold_share(config: Any) -> float:
    """Of the units' root mean square what one must exceed to be active: 0 where activations have zeros of their own, as
    a Brainformer's ReLU."""
    known = ACTIVATIONS.get(getattr(config, "activation", "relu"))
    whole = hasattr(config, "ffn") and feed_forward.settings(config).whole
    return 0.0 if whole or (known and known.has_zeros) else NEAR_ZERO


class Vocabulary:
    """The tokens of a sample that are told of, numbered; all others share one number more."""

    def __init__(self, texts: Sequence[Sequence[int]], special: set[int]) -> None:
        ids, counts = torch.cat([torch.tensor(text) for text in texts]).unique(return_counts=True)
        told = [(count, -token) for token, count in zip(ids.tolist(), counts.tolist(), strict=True)
                if count >= OFTEN and token not in special]  # fmt: skip
        self.ids = [-token for _, token in sorted(told, reverse=True)[:KINDS]]
        self.special = special
        self._number = torch.full((int(ids.max()) + 1,), len(self.ids))
        self._number[self.ids] = torch.arange(len(self.ids))

    def numbers(self, ids: Tensor) -> Tensor:
        return self._number.to(ids.device)[ids]

    def texts_own(self, ids: Tensor) -> Tensor:
        """Which of them are of a text, and not special: (B, T) bool"""
        return ~torch.isin(ids, torch.tensor(sorted(self.special), dtype=ids.dtype, device=ids.device))


@dataclass
class _Sums:
    """Of a module at one place, over the tokens so far."""

    place: Place
    kind: str
    threshold: float
    energy: Tensor  # (tokens told of + 1, parts): squares; of experts how often each is chosen
    active: Tensor  # (parts,): tokens
    best: Tensor  # (CONTEXTS, parts), absolute values, the largest first
    where: Tensor  # (CONTEXTS, parts, 2): text and position of each
    signs: Tensor  # (CONTEXTS, parts)


@dataclass
class Parts:
    vocabulary: Vocabulary
    threshold_share: float
    sums: list[_Sums] = field(default_factory=list)
    counts: Tensor = field(init=False)  # (tokens told of + 1,)

    def __post_init__(self) -> None:
        self.counts = torch.zeros(len(self.vocabulary.ids) + 1)

    def begin(self, ids: Tensor, real: Tensor, rows: Tensor) -> None:
        """Before a pass over ids (B, T), which are texts `rows` (B,) of the sample."""
        self._own = real & self.vocabulary.texts_own(ids)
        self._numbers, self._rows = self.vocabulary.numbers(ids)[self._own], rows
        self.counts += torch.bincount(self._numbers, minlength=len(self.counts)).to(self.counts)

    def add(self, place: Place, kind: str, values: Tensor) -> None:
        """values: (B, T, parts)"""
        values = values.float()
        if place.application > len(self.sums):
            self.sums.append(self._new(place, kind, values[self._own]))
        sums = self.sums[place.application - 1]
        flat = values[self._own]  # (N, parts)
        is_active = flat.abs() > sums.threshold
        sums.active += is_active.sum(0)
        sums.energy.index_add_(0, self._numbers, is_active.float() if kind == "expert" else flat.square())
        self._keep_best(sums, values)

    def found(self, units: int, name: Callable[[int], str], context: Callable[[int, int], tuple[str, str, str]],
              ) -> list[FeedForward]:  # fmt: skip
        """`name` gives the text of a token, `context` what stands before, at and after a position of a text."""
        return [self._described(sums, units, name, context) for sums in self.sums]

    def _new(self, place: Place, kind: str, values: Tensor) -> _Sums:
        count = values.shape[1]
        share = self.threshold_share if kind == "unit" else 0.0
        zeros = values.new_zeros(CONTEXTS, count)
        return _Sums(
            place,
            kind,
            share * values.square().mean().sqrt().item() if len(values) else 0.0,
            values.new_zeros(len(self.counts), count),
            values.new_zeros(count),
            zeros,
            torch.zeros(CONTEXTS, count, 2, dtype=torch.long, device=values.device),
            zeros.clone(),
        )

    def _keep_best(self, sums: _Sums, values: Tensor) -> None:
        """Of each text the strongest position alone, so that the contexts are of different texts."""
        strength, position = values.abs().masked_fill(~self._own[..., None], 0).max(1)  # (B, parts)
        signs = values.gather(1, position[:, None])[:, 0].sign()
        rows = self._rows.to(position.device)[:, None].expand_as(position)
        strength, where = torch.cat([sums.best, strength]), torch.cat([sums.where, torch.stack([rows, position], -1)])
        sums.best, order = strength.topk(CONTEXTS, dim=0)
        sums.where = where.gather(0, order[..., None].expand(-1, -1, 2))
        sums.signs = torch.cat([sums.signs, signs]).gather(0, order)

    def _described(self, sums: _Sums, units: int, name: Any, context: Any) -> FeedForward:
        count, tokens = sums.energy.shape[1], self.counts.sum().item()
        told = sums.energy[:-1]  # without the others
        share = told / sums.energy.sum(0).clamp(min=torch.finfo(told.dtype).tiny)  # (tokens, parts)
        selectivity = share.amax(0) if len(told) else sums.active.new_zeros(count)
        experts = sums.kind == "expert"
        if experts:  # of each token's occurrences those that an expert computes
            share = told / self.counts[:-1, None].to(told)
        chosen = list(range(min(count, MOST_EXPERTS))) if experts else _most_selective(share, selectivity, units)
        return FeedForward(
            place=sums.place,
            kind=sums.kind,
            parts=count,
            threshold=sums.threshold,
            never_active=round((sums.active == 0).float().mean().item(), 4),
            active=round((sums.active.mean() / max(tokens, 1)).item(), 4),
            effective=round(_evenness(sums.active), 4),
            usage=[round(value, 4) for value in (sums.active / max(tokens, 1)).tolist()] if experts else [],
            shown=[
                Part(
                    number=number,
                    selectivity=round(selectivity[number].item(), 4),
                    tokens=_most(share[:, number], self.vocabulary.ids, name),
                    contexts=[] if experts else _contexts(sums, number, context),
                )
                for number in chosen
            ],
        )


def _most_selective(share: Tensor, selectivity: Tensor, units: int) -> list[int]:
    """The parts of the largest selectivity, of each token one: often there are many for a full stop.
    share: (tokens, parts), selectivity: (parts,)"""
    chosen: dict[int, int] = {}
    tokens = share.argmax(0).tolist() if len(share) else []
    for number in selectivity.argsort(descending=True, stable=True).tolist()[: len(tokens)]:
        chosen.setdefault(tokens[number], number)
        if len(chosen) == units:
            break
    return list(chosen.values())


def _evenness(amounts: Tensor) -> float:
    """exp(entropy of the shares) / number: 1 if all have as much, 0 if there is nothing. amounts: (parts,)"""
    total = amounts.sum().item()
    return math.exp(torch.special.entr(amounts / total).sum().item()) / len(amounts) if total else 0.0


def _most(share: Tensor, ids: Sequence[int], name: Callable[[int], str]) -> list[Token]:
    best = share.topk(min(TOKENS, len(share)))
    return [Token(token=name(ids[place]), share=round(value, 4))
            for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True) if value > 0]  # fmt: skip


def _contexts(sums: _Sums, number: int, context: Callable[[int, int], tuple[str, str, str]]) -> list[Context]:
    found = []
    for rank in range(CONTEXTS):
        value = (sums.best[rank, number] * sums.signs[rank, number]).item()
        if value:
            before, token, after = context(*sums.where[rank, number].tolist())
            found.append(Context(before=before, token=token, after=after, value=float(f"{value:.3g}")))
    return found
