"""How a model of ours differs from Hugging Face's: its blocks are changed after the constructor.

A family says where its blocks are (`stack`) and what becomes of one (`change`). What both families have in common is
here: layers that share their weights, an order of modules, losses besides the model's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from tiny_transformers.activations import check_activation
from tiny_transformers.architecture import layer_map
from tiny_transformers.dropout import Dropout
from tiny_transformers.feed_forward import settings
from tiny_transformers.ffn.kan import KANLinear
from tiny_transformers.layer import Layer, PerToken
from tiny_transformers.order import blocks_of
from tiny_transformers.work import TinyTransformersError

CODE = "tiny_transformers_auto"  # a module in the folder of every saved model


@strict
class VariantConfig(PreTrainedConfig):
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

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """With a line of code beside it: `trust_remote_code=True` loads what is saved here in any program that knows
        only transformers, if this package is installed. Who has imported the package needs neither."""
        name = type(self).__name__
        self.auto_map = {"AutoConfig": f"{CODE}.{name}"}  # the models follow: the import registers them
        super().save_pretrained(save_directory, *args, **kwargs)
        (Path(save_directory) / f"{CODE}.py").write_text(f"from {type(self).__module__} import {name}  # noqa: F401\n")

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: transformers would copy the whole module, absolute imports and all, to where a model is saved."""


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
            module.layer_id = place  # type: ignore[assignment]


def known_attention(implementation: str) -> str:
    """Raises ValueError for what is neither `eager` nor `sdpa`: its masks have another form, which our attention
    would take for a matrix of queries and keys."""
    if implementation not in ("eager", "sdpa"):
        raise ValueError(f"attn_implementation {implementation!r}: this model has eager and sdpa.")
    return implementation


class Variant(PreTrainedModel):
    """To be named before a model class of Hugging Face among the bases."""

    divides_by_items = False  # whether the stock head heeds `num_items_in_batch`

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

    def set_attn_implementation(self, attn_implementation: str, **_: Any) -> None:  # type: ignore[override]
        """`eager` or `sdpa`; transformers, which reads the source of our modules, would only warn and leave it."""
        self.config._attn_implementation = known_attention(attn_implementation)

    def stack(self) -> tuple[nn.Module, str]:
        """The module that holds the list of blocks, and the list's name there."""
        raise NotImplementedError

    def change(self, block: Any, modules: str) -> None:
        """Replace what differs in a block of the stock model, in place; `modules` is `sf`, `s` or `f`: what it has."""
        raise NotImplementedError

    def loss_at(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """The summed cross-entropy, in nats, of labels (N,) given the last hidden states (N, H) where they are."""
        raise NotImplementedError

    def feed_forward(self, block: Any) -> nn.Module | None:
        """A block's feed-forward module by itself, (B, T, H) -> (B, T, H), without LayerNorm and residual; None if the
        block has none."""
        raise NotImplementedError

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """The family's rule, N(0, 0.02) and zero biases, after what it does not know of.

        `from_pretrained` calls this too, for what a checkpoint lacks. (`_init_weights` is not asked about the modules
        of a head's inner, stock model.)"""
        for module in self.modules():
            if isinstance(module, Layer) and not getattr(module, "_is_hf_initialized", False):
                module.initialize(self.config.initializer_range)
                module._is_hf_initialized = True  # type: ignore[assignment]
        super().initialize_weights()

    @torch.no_grad()
    def draw(self, module: nn.Module) -> None:
        """Give a module's own parameters, not its children's, their initial values by the rules above, once more."""
        if module is self.get_output_embeddings():
            return  # they are the input's
        if isinstance(module, Layer):
            module.initialize(self.config.initializer_range)
        else:
            self._init_weights(module)

    # --- losses besides the model's own

    def auxiliary_loss(self) -> Tensor | float:
        """To be added to the loss of the forward pass just made, in training: a scalar, 0 for most models.

        `forward` with labels has added it; whoever computes the loss outside asks here."""
        losses = [module.auxiliary_loss for module in self.modules() if isinstance(module, PerToken)]
        total: Tensor | float = sum((loss for loss in losses if loss is not None), 0.0)
        weight = getattr(settings(self.config), "regularization", 0.0)
        if weight and self.training:
            total += weight * sum(m.regularization_loss() for m in self.modules() if isinstance(m, KANLinear))
        return total

    def _begin(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a forward pass: what the last one left is cleared, and in training padding is pointed out."""
        sparse = [module for module in base.modules() if isinstance(module, PerToken)]
        if sparse:
            real = self._real_tokens(args, kwargs) if base.training else None
            for module in sparse:
                module.real, module.auxiliary_loss = real, None

    def _real_tokens(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids", args[0] if args else None)
        if mask is not None and mask.ndim == 2:
            new = mask.shape[1] if ids is None else ids.shape[1]  # with a cache the mask is of the past, too
            return mask[:, -new:].bool()
        return None if ids is None else ids != self.config.pad_token_id

    def _end(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ARG002
        """After a forward pass of a head with labels: the loss is whole."""
        labels, items = kwargs.get("labels"), kwargs.get("num_items_in_batch")
        if not model.training or labels is None:
            return output
        # Of one of several micro-batches of Hugging Face's Trainer, the loss is divided by the labels of all of them.
        share = (labels != -100).sum() / items if items is not None and self.divides_by_items else 1.0
        if isinstance(output, tuple):
            return (output[0] + share * self.auxiliary_loss(), *output[1:])
        output.loss = output.loss + share * self.auxiliary_loss()
        return output
