"""Layers of different sizes: how many heads and feed-forward units each of them has. No torch here.

What is recorded are sizes: the shares that gave them are dropped, so that equal models have equal settings."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from tiny_transformers.settings.base import Settings

Shares = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]  # of the first layer, and of the last


class Scaling(Settings):
    """Sizes that grow, or shrink, evenly from the first layer to the last (Mehta et al. 2024, arXiv:2404.14619, section
    3.1), or any others."""

    attention: Shares | None = None  # of the model's heads, the paper's alpha; a head stays as wide as it is
    feed_forward: Shares | None = None  # of intermediate_size
    heads: tuple[PositiveInt, ...] | None = None  # of each layer; null: as `attention` says, or all
    units: tuple[PositiveInt, ...] | None = None  # of each layer; null: as `feed_forward` says, or all

    @model_validator(mode="after")
    def _said_once(self) -> Scaling:
        for shares, sizes in (("attention", "heads"), ("feed_forward", "units")):
            if getattr(self, shares) is not None and getattr(self, sizes) is not None:
                raise ValueError(f"scaling.{shares} gives the sizes of scaling.{sizes}: write one of the two")
        return self

    def resolved(self, layers: int, heads: int, group: int, units: int) -> Scaling:
        """Return the sizes alone. `group`: heads that share keys and values; a layer's heads are whole groups.
        Raises ValueError."""
        if layers == 1:
            raise ValueError("scaling is from the first layer to the last: with one layer leave it out")
        made: dict[str, tuple[int, ...] | None] = {}
        if self.attention:
            made["heads"] = tuple(group * number for number in sizes(self.attention, heads // group, layers))
        if self.feed_forward:
            made["units"] = sizes(self.feed_forward, units, layers)
        resolved = self.model_copy(update=made | {"attention": None, "feed_forward": None})
        for name, given in (("heads", resolved.heads), ("units", resolved.units)):
            if given is not None and len(given) != layers:
                raise ValueError(f"scaling.{name} has {len(given)} sizes for {layers} layers")
        if resolved.heads and max(resolved.heads) != heads:
            most = max(resolved.heads)
            raise ValueError(
                f"scaling: the most heads of a layer are {most} of {heads}: one must have all, a share of 1"
            )
        if resolved.heads and any(number % group for number in resolved.heads):
            raise ValueError(
                f"scaling.heads: {group} heads share keys and values; each layer must have a multiple of it"
            )
        return resolved

    @property
    def uneven(self) -> Scaling | None:
        """Without the sizes that are the same in all layers; None: they all are."""
        kept = {name: given if given and len(set(given)) > 1 else None
                for name, given in (("heads", self.heads), ("units", self.units))}  # fmt: skip
        return self.model_copy(update=kept) if any(kept.values()) else None

    @property
    def label(self) -> str:
        told = (("heads", self.heads), ("units", self.units))
        return "-".join(f"{name}{given[0]}to{given[-1]}" for name, given in told if given)


def sizes(shares: Shares, whole: int, layers: int) -> tuple[int, ...]:
    """Return each layer's size, which is its share of `whole` rounded to the nearest number, halves up, and at least 1.

    Layer i of N has the share a + (b - a) i / (N - 1); computed without rounding before, a share being what is written.
    """
    first, last = (Fraction(repr(share)) for share in shares)
    even = [(first + (last - first) * Fraction(i, layers - 1)) * whole for i in range(layers)]
    return tuple(max(1, math.floor(size + Fraction(1, 2))) for size in even)
