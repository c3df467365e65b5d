"""Blocks that stand at several places, and blocks that borrow a module of another one.

In both a tensor that is shared is there once: it is saved, counted, drawn and moved with the one block that owns it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from torch import nn


class SharedLayers(nn.ModuleList):
    """The unique layers of a model. Going through them gives the layer of every place in turn (`places`), and so does
    a slice, which is one of places."""

    def __init__(self, layers: Any, places: list[int]) -> None:
        super().__init__(layers)
        self.places = places

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return islice(self, index.start, index.stop, index.step)  # one by one: a layer is told its place
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[nn.Module]:
        for place, unique in enumerate(self.places):
            layer = self[unique]
            set_place(layer, place)
            yield layer


def set_place(block: nn.Module, place: int) -> None:
    """Tell a block's attention which entry of the cache of keys and values is its own."""
    for part in (block, *borrowed(block)):
        for module in part.modules():
            for name in ("layer_id", "layer_idx"):  # GPT-Neo's, and that of all others
                if hasattr(module, name):
                    setattr(module, name, place)


def lend(blocks: Sequence[nn.Module], names: Sequence[str], places: Sequence[int]) -> None:
    """Let each block have the modules of these names that `places` says, by the numbers of the blocks that made them:
    as its own where they stand first, and borrowed at all later places."""
    made = [[getattr(block, name) for name in names] for block in blocks]
    owners: dict[int, nn.Module] = {}
    for block, unique in zip(blocks, places, strict=True):
        first = owners.setdefault(unique, block) is block
        for name, module in zip(names, made[unique], strict=True):
            if first:
                setattr(block, name, module)
            else:
                delattr(block, name)
                vars(block)[name] = module  # an attribute, and no child


def borrowed(block: nn.Module) -> list[nn.Module]:
    return [module for module in vars(block).values() if isinstance(module, nn.Module)]
