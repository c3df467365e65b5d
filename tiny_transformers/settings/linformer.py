"""Attention to k mixtures of all positions in place of the positions themselves (Wang et al. 2020, arXiv:2006.04768,
eq. 7). No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from tiny_transformers.settings.base import Settings


class Linformer(Settings):
    """Keys are mixed by a matrix E, values by F, (k, positions) each."""

    k: PositiveInt
    # Who has them in common, heads always (section 4): the heads of a layer; its keys and values, too; all layers, too.
    share: Literal["headwise", "key_value", "layerwise"] = "layerwise"

    def check(self, positions: int, *, causal: bool) -> None:
        """Raises ValueError for settings of the model that it cannot have."""
        if causal:
            raise ValueError("linformer mixes positions, so a decoder would see what it is to foretell: encoders only")
        if self.k > positions:
            raise ValueError(f"linformer.k {self.k} is more than the {positions} positions that it would mix")

    def resolved(self, attentions: int) -> Linformer:
        """With one attention whose weights are its own, both ways to share E with F are one."""
        return Linformer(k=self.k, share="key_value") if (attentions, self.share) == (1, "layerwise") else self

    # --- closed forms

    def parameters(self, positions: int, attentions: int) -> int:
        """Return how many all attentions of a model have."""
        matrices = {"headwise": 2 * attentions, "key_value": attentions, "layerwise": 1}[self.share]
        return matrices * self.k * positions

    def weights(self, width: int) -> int:
        """Return how many numbers one token's key and value, of so many numbers in all, are multiplied with."""
        return self.k * width

    @property
    def label(self) -> str:
        return f"linformer{self.k}" + ("" if self.share == "layerwise" else f"-{self.share}")
