"""How a model of ours differs from Hugging Face's: its blocks are changed after the constructor.

A family says where its blocks are (`stack`) and what becomes of one (`change`). What the families have in common is
here: layers that share their weights, an order of modules, KANs' regularization."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.activations import check_activation
from tiny_transformers.layers.dropout import Dropout
from tiny_transformers.layers.feed_forward import of_layer, settings
from tiny_transformers.layers.ffn.kan import KANLinear
from tiny_transformers.models.language_model import CACHE, CACHE_NAMES, REAL, LanguageModel, SavedConfig, one_cache
from tiny_transformers.models.recurrence import Recurrent, make_recurrent
from tiny_transformers.models.sharing import SharedLayers, lend, set_place
from tiny_transformers.settings.order import blocks_of
from tiny_transformers.settings.sharing import Sharing

# What transformers' forward passes understand without naming it.
UNNAMED = {
    "return_dict",  # a decorator takes it off
    "output_attentions",  # RoBERTa's are collected by a decorator
    "output_hidden_states",
    "num_items_in_batch",  # Trainer gives it to all: a decoder's loss is divided by it, others have no use for it
}


@strict
class VariantConfig(SavedConfig):
    """The settings of `architecture.Architecture` for which Hugging Face's configurations have no word.

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
    scaling: dict | None = None
    recurrence: dict | None = None
    linformer: dict | None = None
    initialization: str = "family"

    def validate_activation(self) -> None:
        check_activation(self.activation)

    def validate_sharing(self) -> None:
        if self.sharing:
            try:
                Sharing(**self.sharing).check(self.num_hidden_layers)
            except ValueError as error:
                raise TinyTransformersError(f"{error}.") from None

    def validate_scaling(self) -> None:
        for name, given in (self.scaling or {}).items():
            if given and len(given) != self.num_hidden_layers:
                raise TinyTransformersError(
                    f"scaling: {name} has {len(given)} sizes for {self.num_hidden_layers} layers."
                )

    def validate_initialization(self) -> None:
        if self.initialization not in ("family", "study"):
            raise TinyTransformersError(f"initialization: {self.initialization!r} is neither family nor study.")


def with_known_arguments(
    known: frozenset[str], model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before a forward pass of transformers' code, which takes in silence what it does not know: its arguments, with
    the cache under the name that the installed release has for it.

    Raises TypeError for an argument of another name, unless it is None: wrappers pass on all that they might have."""
    cache = one_cache(**{name: kwargs[name] for name in CACHE_NAMES if name in kwargs})
    kwargs = {name: value for name, value in kwargs.items() if name not in CACHE_NAMES}
    if cache is not None:
        kwargs[CACHE] = cache
    for name, value in kwargs.items():
        if name not in known and value is not None:
            raise TypeError(f"{type(model).__name__}.forward() got an unexpected keyword argument {name!r}")
    return args, kwargs


def _named(*models: nn.Module) -> frozenset[str]:
    """The arguments of their forward passes."""
    return frozenset(name for model in models for name in inspect.signature(type(model).forward).parameters)


class VariantModel(Recurrent, LanguageModel):
    """To be named before a model class of Hugging Face among the bases."""

    parts: ClassVar[dict[str, tuple[str, ...]]]  # a block's modules that are its attention, and its feed-forward module

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        owner, name = self.stack()
        layers = getattr(owner, name)
        sharing = Sharing(**config.sharing) if config.sharing else None
        places = sharing.places(len(layers)) if sharing else []
        if sharing and sharing.modules == "all":
            layers = SharedLayers(layers[: max(places) + 1], places)
            setattr(owner, name, layers)
        orders = blocks_of(config.order) if config.order else ["sf"] * len(layers)
        attentions = 0
        for number, (block, modules) in enumerate(zip(layers.children(), orders, strict=True)):
            self.change(block, modules, of_layer(config, number))
            set_place(block, attentions)
            attentions += "s" in modules
        if sharing and sharing.modules != "all":
            lend(list(layers), self.parts[sharing.modules], places)
        if sharing and sharing.modules == "attention":  # each place has an entry of its own in the cache
            setattr(owner, name, SharedLayers(layers, list(range(len(layers)))))
        for module in list(self.modules()):
            for name, child in module.named_children():
                if type(child) is nn.Dropout:
                    setattr(module, name, Dropout(child.p))
        if config.recurrence:
            make_recurrent(self, *self.positions())
        self.init_weights()  # of what is new: Hugging Face marks what it has done
        for model in {self, self.base_model}:
            known = _named(model, self.base_model) | UNNAMED  # RoBERTa's heads pass on what they do not name
            if self.divides_by_items:
                known |= {"shift_labels"}  # of a decoder's loss, too: labels where the logits are
            if model is self.base_model:
                known |= {REAL}
            model.register_forward_pre_hook(partial(with_known_arguments, known), with_kwargs=True)
        self.base_model.register_forward_pre_hook(self._begin, with_kwargs=True)
        self.register_forward_hook(self._end, with_kwargs=True)

    def change(self, block: Any, modules: str, config: Any) -> None:
        """Replace what differs in a block of the stock model, in place; `modules` is `sf`, `s` or `f`: what it has.
        `config` is that of its feed-forward module."""
        raise NotImplementedError

    def positions(self) -> tuple[nn.Embedding, int, float]:
        """The embedding of positions, the number of the first one, and how large an untrained model's embeddings are,
        the root of the mean square."""
        raise NotImplementedError

    def draw(self, module: nn.Module) -> None:
        if module is not self.get_output_embeddings():  # they are the input's
            super().draw(module)

    def auxiliary_loss(self) -> Tensor | float:
        total = super().auxiliary_loss()
        weight = getattr(settings(self.config), "regularization", 0.0)
        if weight and self.training:
            total += weight * sum(module.regularization_loss() for module in self.all_of(KANLinear))
        return total
