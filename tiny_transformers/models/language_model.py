"""A language model of any family answers what pretraining asks of it, whoever wrote its modules.

It is saved so that others can load it, its weights can be drawn module by module, its loss is computed outside of
`forward` from hidden states, and it may have losses besides. What changes Hugging Face's models is in variant.py, a
model all of our own in brainformer.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.head import Head, cross_entropy
from tiny_transformers.layers.layer import STD, Layer, SeesReal
from tiny_transformers.layers.packed import Texts

CODE = "tiny_transformers_auto"  # a module in the folder of every saved model
# What releases of transformers call the keys and values of what came before, among a model's arguments and outputs.
CACHE_NAMES = ("cache", "past_key_values")
# What the installed one calls them.
CACHE = next(field.name for field in fields(CausalLMOutputWithPast) if field.name in CACHE_NAMES)
M = TypeVar("M", bound=nn.Module)
REAL = "real"  # an argument of `base_model` in training: see `LanguageModel.states`


def one_cache(cache: Cache | None = None, past_key_values: Cache | None = None) -> Cache | None:
    """The cache that is given by either of its names."""
    if cache is not None and past_key_values is not None:
        raise TinyTransformersError("cache and past_key_values are two names for one thing: give one.")
    return past_key_values if cache is None else cache


class SavedConfig(PreTrainedConfig):
    """A configuration of ours."""

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


def known_attention(implementation: str) -> str:
    """Raises ValueError for what is neither `eager` nor `sdpa`: its masks have another form, which our attention
    would take for a matrix of queries and keys."""
    if implementation not in ("eager", "sdpa"):
        said = f'Specified `attn_implementation="{implementation}"` is not supported'  # in transformers' own words
        raise ValueError(f"{said}: this model has eager and sdpa.")
    return implementation


class LanguageModel(PreTrainedModel):
    """`_begin` and `_end` are hooks for the constructor of a family to register: before `base_model`, after a head."""

    reads_last = False  # whether a classifier's answer stands at a text's last token: no token sees those behind it
    divides_by_items = False  # whether the head heeds `num_items_in_batch`
    _known: tuple[Tensor | None, ...] = ()  # see `knowing`
    _all_of: dict[type[nn.Module], list[Any]] | None = None  # see `all_of`

    def set_attn_implementation(self, attn_implementation: str, **_: Any) -> None:
        """`eager` or `sdpa`; transformers, which reads the source of our modules, would only warn and leave it."""
        self.config._attn_implementation = known_attention(attn_implementation)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """It can. transformers would look for that in the source, or remember what it found in the class we extend."""
        return True

    def all_of(self, kind: type[M]) -> list[M]:
        """The modules of a kind that this model has. They are looked for once: a step would walk through all modules
        several times."""
        if self._all_of is None:
            self._all_of = {}
        if kind not in self._all_of:
            self._all_of[kind] = [module for module in self.modules() if isinstance(module, kind)]
        return self._all_of[kind]

    def stack(self) -> tuple[nn.Module, str]:
        """The module that holds the list of blocks, and the list's name there."""
        raise NotImplementedError

    def compile_blocks(self, *, whole: bool) -> bool:
        """Let torch.compile make code of the blocks for training, for texts of any number and length but a single one.
        False: nothing of this model is compiled.

        Of one block for all, where they are alike, else of all of them as one. Unless `whole`, of their attention
        alone: what else a block computes is in pieces that go by the data."""
        owner, name = self.stack()
        blocks = list(getattr(owner, name).children())
        if whole and len({str(block) for block in blocks}) > 1:
            self._compile_stack()
            return True
        modules = blocks if whole else [module for block in blocks if (module := self.attention(block))]
        for module in modules:  # they share the code
            module.compile(dynamic=True)
        return bool(modules)

    def attention(self, block: Any) -> nn.Module | None:  # noqa: ARG002
        """A block's attention, if it computes the same for any data."""
        return None

    def _compile_stack(self) -> None:
        owner, _ = self.stack()
        owner.compile(dynamic=True)

    def states(
        self,
        input_ids: Tensor,
        mask: Tensor | None = None,
        real: Tensor | None = None,
        texts: Texts | None = None,  # noqa: ARG002 - of decoders
    ) -> Tensor:
        """The last hidden states (B, T, H) of texts, with nothing that a GPU would have to be waited for.

        input_ids: (B, T); mask: (B, T), 0 at padding, None where attention sees none; real: (N,), which of the B * T
        tokens are no padding, None for all. `forward` would look at the values of both. With `texts`, of decoders
        without dropout in their attention, input_ids is one row that has them one behind the other."""
        visible = None if mask is None else mask[:, None, None].bool()
        hidden: Tensor = self.base_model(input_ids=input_ids, attention_mask=visible, real=real, use_cache=False)[0]
        return hidden

    def loss_at(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """The summed cross-entropy, in nats, of labels (N,) given the last hidden states (N, H) where they are."""
        return cross_entropy(*self.head_at(hidden), labels)

    def head_at(self, hidden: Tensor) -> Head:
        """The last linear layer of the head, and what it is given of the last hidden states (N, H)."""
        last: Any = self.get_output_embeddings()
        return Head(hidden, last.weight, last.bias)

    def feed_forward(self, block: Any) -> nn.Module | None:
        """A block's feed-forward module by itself, (B, T, H) -> (B, T, H), without LayerNorm and residual; None if the
        block has none."""
        raise NotImplementedError

    def after_attention(self, block: Any) -> list[nn.Module]:
        """The modules in which a block turns to what it does at each position by itself, in their order."""
        raise NotImplementedError

    def schedule(self, fraction: float) -> None:
        """For what changes in the course of training, of which this part is done, 0 to 1: before each step."""

    def used(self, tokens: int) -> dict[str, float]:  # noqa: ARG002
        """Return what the forward pass just made, of so many tokens, really used of what `schedule` changes, under the
        names of the settings' `scheduled`."""
        return {}

    def after_update(self) -> None:
        """For what is not the optimizer's to do: after each of its updates."""

    def empty_memory(self, rows: int) -> list[Tensor]:
        """Return the memory at the beginning of so many streams, if the model reads such."""
        raise NotImplementedError

    def keys_per_token(self, length: float) -> float:
        """How many keys a token's attention has, where so many are there."""
        return length

    def figures(self) -> dict[str, float]:
        """Return the numbers that there are to tell of a trained model besides its loss."""
        return {}

    def counted(self) -> dict[str, float]:
        """Return what a model has counted in its evaluating passes since the last call, of what goes by the tokens."""
        return {}

    # --- initial weights

    @property
    def _std(self) -> float:
        return getattr(self.config, "initializer_range", STD)

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """The family's rule, after what it does not know of.

        `from_pretrained` calls this too, for what a checkpoint lacks. (`_init_weights` is not asked about the modules
        of a head's inner, stock model.)"""
        for module in self.modules():
            if isinstance(module, Layer):
                self._initialize_weights(module)
        super().initialize_weights()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Layer):
            module.initialize(self._std)
        else:
            super()._init_weights(module)

    def draw(self, module: nn.Module) -> None:
        """Give a module's own parameters, not its children's, their initial values by the rules above, once more."""
        self._init_weights(module)

    # --- losses besides the model's own

    def auxiliary_loss(self) -> Tensor | float:
        """To be added to the loss of the forward pass just made, in training: a scalar, 0 for most models.

        `forward` with labels has added it; whoever computes the loss outside asks here."""
        losses = [module.auxiliary_loss for module in self.all_of(SeesReal)]
        return sum((loss for loss in losses if loss is not None), 0.0)

    @contextmanager
    def knowing(self, real: Tensor | None) -> Iterator[None]:
        """For passes of a head, which has no argument for it: let sparse modules know which of the B * T tokens are no
        padding, (N,), None for all. They would look at the mask, for which a GPU would be waited for."""
        self._known = (real,)
        try:
            yield
        finally:
            self._known = ()

    def _begin(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Before a forward pass: what the last one left is cleared, and in training padding is pointed out."""
        told = REAL in kwargs or bool(self._known)
        given = kwargs.pop(REAL) if REAL in kwargs else next(iter(self._known), None)
        seeing = self.all_of(SeesReal)
        if seeing:
            real = given if told or not base.training else self._real_tokens(args, kwargs)
            for module in seeing:
                module.told = base.training or (told and module.in_evaluation)
                module.real, module.auxiliary_loss = real if module.told else None, None
        return args, kwargs

    def _real_tokens(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids", args[0] if args else None)
        if mask is not None and mask.ndim == 2:
            new = mask.shape[1] if ids is None else ids.shape[1]  # with a cache the mask is of the past, too
            return mask[:, -new:].flatten().nonzero().squeeze(1)
        padding = self.config.pad_token_id
        return None if ids is None or padding is None else (ids != padding).flatten().nonzero().squeeze(1)

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
