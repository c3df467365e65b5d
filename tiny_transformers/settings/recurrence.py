"""Layers that are applied again and again, as the steps of a Universal Transformer (Dehghani et al. 2019,
arXiv:1807.03819, section 2), with adaptive computation time (Graves 2016, arXiv:1603.08983, section 2). No torch here.

Which weights a step has is for `sharing` to say: here is what a step does besides."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tiny_transformers.settings.base import NonNegative, Settings

EPSILON, PONDER = 0.01, 0.01


class Halting(Settings):
    """Each position halts by itself; what the model goes on with is the mean of its states, weighed by their halting
    probabilities."""

    epsilon: Annotated[float, Field(gt=0, lt=1)] = EPSILON  # a position halts when its probabilities come to 1 less it
    ponder: NonNegative = PONDER  # weight of the ponder cost: steps and remainder of a token, on average


class Recurrence(Settings):
    """There are as many steps as the model has layers, at most."""

    kind: Literal["universal"] = "universal"
    signal: bool = True  # of position and step, added before each step
    halting: Halting | None = None

    def check(self, layers: int, order: str | None) -> None:
        """Raises ValueError for settings of the model that it cannot have."""
        if order is not None:
            raise ValueError("recurrence is of whole layers; it cannot be combined with an order of modules")
        if layers == 1:
            raise ValueError("recurrence of 1 layer has one step: give more layers, as many as steps at most")
        if not self.signal and self.halting is None:
            raise ValueError("recurrence without signal and halting is sharing: leave recurrence out")

    # --- closed forms; the last step ends by itself, and asks nothing

    def parameters(self, hidden: int) -> int:
        return hidden + 1 if self.halting else 0

    def weights(self, hidden: int, layers: int) -> int:
        """Return how many weights one token is multiplied with, all of its steps computed."""
        return (layers - 1) * hidden if self.halting else 0

    def kept(self, hidden: int, layers: int) -> int:
        """Return about how many numbers are kept of a token for the backward pass: of each step its state, what the
        step began with, and a few numbers of the position."""
        return layers * ((2 if self.halting else 1) * hidden + 8)

    @property
    def micro_batch_is_free(self) -> bool:
        """Whether a step of training comes out the same however it is cut: the ponder cost is a mean over tokens."""
        return self.halting is None or not self.halting.ponder

    @property
    def label(self) -> str:
        words: list[str] = [self.kind]
        if not self.signal:
            words.append("nosignal")
        if self.halting:
            words.append("halting")
            words += [f"eps{self.halting.epsilon:g}"] if self.halting.epsilon != EPSILON else []
            words += [f"ponder{self.halting.ponder:g}"] if self.halting.ponder != PONDER else []
        return "-".join(words)
