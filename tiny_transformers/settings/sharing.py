"""Layers that share weights: what of them, how many of them, and whose weights stand at each place. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from tiny_transformers.settings.base import Settings, added

SHORT = {"all": "", "attention": "att", "feed_forward": "ff"}  # of what is shared, in a label


class Sharing(Settings):
    """Layers that share their parameters, norms included (Takase & Kiyono 2021, arXiv:2104.06022, section 3), or one
    kind of module of theirs with its norm (Lan et al. 2020, arXiv:1909.11942, section 3.1)."""

    strategy: Literal["seq", "cycle", "cycle_rev"]
    unique_layers: PositiveInt  # that are different among those that share
    modules: Literal["all", "attention", "feed_forward"] = added("all")  # what they share
    first: PositiveInt | None = added(None)  # so many layers share, from the embedding on; null: all

    def check(self, layers: int) -> None:
        """Raises ValueError where so many layers cannot share like this, or there is another way to write it."""
        unique, first = self.unique_layers, self.first or layers
        counted = "the number of layers" if self.first is None else "sharing.first"
        if first > layers:
            raise ValueError(f"sharing.first {first} is more than the number of layers, {layers}")
        if first % unique:
            raise ValueError(f"sharing.unique_layers {unique} does not divide {counted}, {first}")
        if unique == first:
            raise ValueError(f"sharing.unique_layers {unique} of {first} layers shares nothing: leave sharing out")
        if unique == 1 and self.strategy != "seq":
            raise ValueError("with sharing.unique_layers 1 all strategies are the same model: write strategy seq")

    def places(self, layers: int) -> list[int]:
        """Return whose weights each layer has: numbers of unique ones, in the order in which they first stand."""
        first = self.first or layers
        alone = range(self.unique_layers, self.unique_layers + layers - first)
        return [*layer_map(self.strategy, self.unique_layers, first), *alone]

    def unique(self, module: str, layers: int) -> int:
        """Return how many modules of a kind, `attention` or `feed_forward`, are different."""
        return max(self.places(layers)) + 1 if self.modules in ("all", module) else layers

    @property
    def label(self) -> str:
        first = f"first{self.first}" if self.first else ""
        return "-".join(filter(None, [f"{self.strategy}{self.unique_layers}{SHORT[self.modules]}", first]))


def layer_map(strategy: str, unique: int, layers: int) -> list[int]:
    """Which of the unique layers stands at each place (Takase & Kiyono 2021, section 3).

    seq 3, 6: 0 0 1 1 2 2; cycle: 0 1 2 0 1 2; cycle_rev, whose last pass is reversed: 0 1 2 2 1 0."""
    once = list(range(unique))
    if strategy == "seq":
        return [layer for layer in once for _ in range(layers // unique)]
    passes = layers // unique
    return once * (passes - 1) + (once[::-1] if strategy == "cycle_rev" else once)
