"""A model's layers as the steps of a Universal Transformer: going through them gives each step in turn.

A step is called as its layer is; what happens before and behind it is layers/recurrence.py's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from tiny_transformers.layers.recurrence import Recurrence
from tiny_transformers.settings.recurrence import Recurrence as Settings


class Steps(nn.ModuleList):
    """The unique layers, under the names that they have in `layers`, which says which of them stands at each place."""

    def __init__(self, layers: nn.ModuleList, recurrence: Recurrence) -> None:
        super().__init__(layers.children())
        self._outside = (layers, recurrence)  # in a tuple they are no children

    def __iter__(self) -> Iterator[Any]:
        layers, recurrence = self._outside
        for step, layer in enumerate(layers):
            yield partial(self.step, layer, recurrence, step)

    @staticmethod
    def step(layer: nn.Module, recurrence: Recurrence, step: int, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(recurrence.before(hidden, step), *args, **kwargs)
        if isinstance(output, tuple):  # GPT-Neo's, with the weights of attention
            return (recurrence(hidden, output[0], step), *output[1:])
        return recurrence(hidden, output, step)


def settings(config: Any) -> Settings | None:
    return Settings(**config.recurrence) if config.recurrence else None


class Recurrent:
    """A model whose layers may be steps: what it tells of them."""

    base_model: Any
    all_of: Any  # LanguageModel's

    def recurrence(self) -> Recurrence | None:
        return next(iter(self.all_of(Recurrence)), None)

    def counted(self) -> dict[str, float]:
        recurrence = self.recurrence()
        steps = recurrence.counted() if recurrence else None
        return {} if steps is None else {"steps_per_token": steps}


def make_recurrent(model: Any, positions: nn.Embedding, first: int, scale: float) -> None:
    """Make the layers of a model steps, if its configuration says so. `positions` embeds the family's positions, which
    are counted from `first`; the signal is as large as an untrained model's embeddings are (`scale`)."""
    recurrence = settings(model.config)
    if recurrence is None:
        return
    owner, name = model.stack()
    layers = getattr(owner, name)
    owner.recurrence = Recurrence(
        recurrence, model.config.hidden_size, positions.num_embeddings, model.config.num_hidden_layers,
        first=first, scale=scale,
    )  # fmt: skip
    positions.register_forward_pre_hook(owner.recurrence.place)
    setattr(owner, name, Steps(layers, owner.recurrence))
