"""How a model of ours differs from Hugging Face's: its blocks are changed after the constructor.

A family says where its blocks are (`stack`) and what becomes of one (`change`). What both families have in common is
here: layers that share their weights, an order of modules, KANs' regularization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from tiny_transformers.activations import check_activation
from tiny_transformers.architecture import layer_map
from tiny_transformers.dropout import Dropout
from tiny_transformers.feed_forward import settings
from tiny_transformers.ffn.kan import KANLinear
from tiny_transformers.language_model import LanguageModel, SavedConfig
from tiny_transformers.order import blocks_of
from tiny_transformers.work import TinyTransformersError


@strict
class VariantConfig(SavedConfig):
    """What `architecture.Architecture` says and Hugging Face's configurations have no word for.

    `None` everywhere is the stock model. The family's own name of the activation follows from `activation`."""

    activation: str = "gelu"
    activation_parameters: str | None = None
    activation_init: float | None = None
    ffn: dict | None = None
    qk_size: int | None = None
    v_size: int | None = None
    num_key_value_heads: int | None = None
    bias: bool | None = None
    order: str | None = None
    sharing: dict | None = None
    initialization: str = "family"

    def validate_activation(self) -> None:
        check_activation(self.activation)

    def validate_sharing(self) -> None:
        if self.sharing and self.num_hidden_layers % self.sharing["unique_layers"]:
            raise TinyTransformersError(
                f"sharing: {self.sharing['unique_layers']} unique layers do not divide {self.num_hidden_layers}."
            )

    def validate_initialization(self) -> None:
        if self.initialization not in ("family", "study"):
            raise TinyTransformersError(f"initialization: {self.initialization!r} is neither family nor study.")


class SharedLayers(nn.ModuleList):
    """The unique layers of a model. Going through them gives the layer of every place in turn (`places`)."""

    def __init__(self, layers: Any, places: list[int]) -> None:
        super().__init__(layers)
        self.places = places

    def __getitem__(self, index: Any) -> Any:
        return nn.ModuleList(list(self.children())[index]) if isinstance(index, slice) else super().__getitem__(index)

    def __iter__(self) -> Iterator[nn.Module]:
        for place, unique in enumerate(self.places):
            layer = self[unique]
            set_place(layer, place)
            yield layer


def set_place(block: nn.Module, place: int) -> None:
    """Tell a block's attention which entry of the cache of keys and values is its own."""
    for module in block.modules():
        if hasattr(module, "layer_id"):  # GPT-Neo's; an encoder has no cache
            module.layer_id = place


class Variant(LanguageModel):
    """To be named before a model class of Hugging Face among the bases."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        owner, name = self.stack()
        layers = getattr(owner, name)
        if config.sharing:
            unique = config.sharing["unique_layers"]
            places = layer_map(config.sharing["strategy"], unique, len(layers))
            layers = SharedLayers(layers[:unique], places)
            setattr(owner, name, layers)
        orders = blocks_of(config.order) if config.order else ["sf"] * len(layers)
        attentions = 0
        for block, modules in zip(layers.children(), orders, strict=True):
            self.change(block, modules)
            set_place(block, attentions)
            attentions += "s" in modules
        for module in list(self.modules()):
            for name, child in module.named_children():
                if type(child) is nn.Dropout:
                    setattr(module, name, Dropout(child.p))
        self.init_weights()  # of what is new: Hugging Face marks what it has done
        self.base_model.register_forward_pre_hook(self._begin, with_kwargs=True)
        self.register_forward_hook(self._end, with_kwargs=True)

    def change(self, block: Any, modules: str) -> None:
        """Replace what differs in a block of the stock model, in place; `modules` is `sf`, `s` or `f`: what it has."""
        raise NotImplementedError

    @torch.no_grad()
    def draw(self, module: nn.Module) -> None:
        if module is not self.get_output_embeddings():  # they are the input's
            super().draw(module)

    def auxiliary_loss(self) -> Tensor | float:
        total = super().auxiliary_loss()
        weight = getattr(settings(self.config), "regularization", 0.0)
        if weight and self.training:
            total += weight * sum(m.regularization_loss() for m in self.modules() if isinstance(m, KANLinear))
        return total
