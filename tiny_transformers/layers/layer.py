"""The layers of our own have this in common: a starting point that Hugging Face's rule for them does not know."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init

STD = 0.02  # of the families' rule: every weight N(0, 0.02), every bias 0


class Layer(nn.Module):
    """A module with parameters that are neither a Linear's, an Embedding's nor a LayerNorm's."""

    def initialize(self, std: float) -> None:
        """Draw this module's own parameters, and fill its buffers; not those of its children.

        Only by functions of `transformers.initialization`: they leave alone what was loaded from a checkpoint.
        `from_pretrained` builds on the meta device, where what a constructor wrote is lost, and then calls this."""
        raise NotImplementedError


class StudyLinear(Layer, nn.Linear):
    """A linear layer drawn as torch does, uniform within 1/sqrt(in): the study's, where it replaced a module."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        nn.Linear.__init__(self, inputs, outputs, bias)

    def initialize(self, std: float) -> None:  # noqa: ARG002
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            init.uniform_(self.bias, -1 / math.sqrt(self.in_features), 1 / math.sqrt(self.in_features))


class SeesReal(Layer):
    """A module that is told which tokens are no padding, and has a loss of its own in training.

    `real`, `told` and `auxiliary_loss` are set by the model before each of its forward passes
    (`language_model.LanguageModel`)."""

    in_evaluation: ClassVar[bool] = False  # is told there, too, where whoever calls the model knows it

    def __init__(self) -> None:
        super().__init__()
        self.real: Tensor | None = None  # (N,), which of the B * T tokens are real; None: all
        self.told = False  # whether that is known; in training it always is
        self.auxiliary_loss: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:  # what is of one pass a copy has not
        return {**self.__dict__, "real": None, "told": False, "auxiliary_loss": None}


class PerToken(SeesReal):
    """A feed-forward module that, while it trains, sees real tokens only: padding counts in no statistic of it.

    What `tokens` makes of `auxiliary_loss` in training, a scalar to be added to the
    loss, adds up over the places of a shared module; without a model around it, set it to None before a pass."""

    part: ClassVar[Literal["unit", "expert", "value"]]

    @torch.compiler.disable  # its shapes are of the data
    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, H) -> (B, T, H), zero at padding if `real` says which is."""
        before, self.auxiliary_loss = self.auxiliary_loss, None
        y = self._real_tokens(x)
        if before is not None and self.auxiliary_loss is not None:
            self.auxiliary_loss = before + self.auxiliary_loss
        return y

    def _real_tokens(self, x: Tensor) -> Tensor:
        if self.real is None:
            return self.tokens(x.reshape(-1, x.shape[-1])).view_as(x)
        flat = x.flatten(0, 1)
        y = self.tokens(flat[self.real])
        return torch.zeros_like(flat).index_copy(0, self.real, y.to(x.dtype)).view_as(x)

    def tokens(self, x: Tensor) -> Tensor:
        """x: (N, H), real tokens -> (N, H)"""
        raise NotImplementedError

    def parts(self, x: Tensor) -> Tensor:
        """How much each of its parts (`part` says what they are) does for each token: 0 where it is not chosen.
        x: (N, H) -> (N, parts)"""
        raise NotImplementedError
