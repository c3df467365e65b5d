"""A forward pass is watched: what its attentions, its feed-forward modules and its blocks compute is told to listeners
where it is computed, so that whoever listens keeps what it needs and no more.

All families by the same hooks. Of layers that share their weights each place is told by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformers.common.insides import Place
from tiny_transformers.layers import feed_forward
from tiny_transformers.layers.attention import TinyGPTNeoSelfAttention, TinyLlamaAttention, TinyRobertaSelfAttention
from tiny_transformers.layers.layer import PerToken
from tiny_transformers.layers.linformer import LinformerSelfAttention
from tiny_transformers.layers.recurrence import Recurrence
from tiny_transformers.layers.span_attention import SpanAttention

LAST = ("mlp.c_proj", "mlp.down_proj", "output.dense", "feed_forward.down")  # of a dense module in a block, by family


ATTENTIONS = (TinyGPTNeoSelfAttention, TinyLlamaAttention, TinyRobertaSelfAttention, SpanAttention)


def _nobody(*_: Any) -> None:
    """Does not listen."""


@dataclass
class Listener:
    """What is told of a pass over ids (B, T), in the order in which it is computed."""

    # Weights (B, heads, T, T) of queries and then keys, and which keys a query sees, padding or not (T, T)
    attention: Callable[[Place, Tensor, Tensor], None] = _nobody
    parts: Callable[[Place, str, Tensor], None] = _nobody  # of which kind, and how much each does (B, T, parts)
    state: Callable[[int, Tensor], None] = _nobody  # after so many blocks (B, T, H)


@dataclass
class _Pass:
    """Where a forward pass is."""

    layer: int = 0
    attentions: int = 0
    feed_forwards: int = 0
    steps: bool = False  # of a recurrence, which tells the states


@dataclass
class _At:
    """A module of the block with these weights, which other blocks may have borrowed."""

    here: _Pass
    weights: int

    def place(self, kind: str) -> Place:
        setattr(self.here, kind, getattr(self.here, kind) + 1)
        return Place(layer=self.here.layer, weights=self.weights, application=getattr(self.here, kind))


def look(model: Any, listener: Listener, ids: Tensor, real: Tensor) -> Tensor:
    """Tell the listener what a pass over ids (B, T) computes, of which `real` (B, T) are no padding; -> (B, T, H), the
    last hidden states."""
    mask = {} if real.all() else {"attention_mask": real.long()}
    with _listening(model, listener):
        hidden: Tensor = model.base_model(input_ids=ids, use_cache=False, **mask)[0]
    return hidden


def said(model: Any, states: Tensor) -> Tensor:
    """The logits that the model would give if these were what its last block comes to: (N, H) -> (N, V).

    Post-LN models end with their last block; a GPT-Neo has one more LayerNorm behind it, as a Llama has its norm."""
    norm = getattr(model.base_model, "ln_f", None) or getattr(model.base_model, "norm", None)
    logits: Tensor = model.lm_head(states if norm is None else norm(states))
    return logits.float()


@contextmanager
def _listening(model: Any, listener: Listener) -> Iterator[None]:
    owner, name = model.stack()
    blocks = list(getattr(owner, name).children())
    here = _Pass()
    attention = model.config._attn_implementation
    with ExitStack() as hooks:
        if listener.attention is not _nobody and attention != "eager":
            model.set_attn_implementation("eager")  # which has a matrix of weights
            hooks.callback(model.set_attn_implementation, attention)
        if recurrence := next((module for module in owner.children() if isinstance(module, Recurrence)), None):
            here.steps = True
            hooks.enter_context(_removed(recurrence.register_forward_hook(partial(_tell_step, here, listener))))
        for number, block in enumerate(blocks, 1):
            at = _At(here, number)
            _hook_block(block, here, listener, hooks)
            for module in block.modules():
                if isinstance(module, ATTENTIONS):
                    told = partial(_tell_attention, at, listener)
                    hooks.enter_context(_removed(module.register_forward_hook(told)))
                elif isinstance(module, PerToken):
                    hooks.enter_context(_removed(module.register_forward_hook(partial(_tell_parts, at, listener))))
            linear = _last_linear(model, block)
            if linear is not None and linear in set(block.modules()):  # a borrowed one is its owner's to tell of
                hooks.enter_context(_removed(linear.register_forward_pre_hook(partial(_tell_units, at, listener))))
        yield


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _hook_block(block: nn.Module, here: _Pass, listener: Listener, hooks: ExitStack) -> None:
    def begins(module: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG001
        if not here.layer and not here.steps:
            listener.state(0, args[0])
        here.layer += 1

    def ends(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
        if not here.steps:
            listener.state(here.layer, output[0] if isinstance(output, tuple) else output)

    hooks.enter_context(_removed(block.register_forward_pre_hook(begins)))
    hooks.enter_context(_removed(block.register_forward_hook(ends)))


def _tell_step(here: _Pass, listener: Listener, module: Any, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    """The state before a step is without the signal, and behind it what the next step begins with."""
    if here.layer == 1:
        listener.state(0, args[0])
    listener.state(here.layer, output)


def _tell_attention(at: _At, listener: Listener, module: Any, args: tuple[Any, ...], output: Any) -> None:
    if isinstance(module, LinformerSelfAttention):
        return  # its heads look at mixtures of positions, of which none is near or far
    place = at.place("attentions")
    if listener.attention is not _nobody:
        weights = module.weights(args[0], args[1]) if isinstance(module, SpanAttention) else output[1]
        listener.attention(place, weights, _seen(module, weights.shape[-1], weights.device))


def _seen(module: Any, length: int, device: Any) -> Tensor:
    """Which keys a query of such an attention sees: (T, T) bool. A weight may be 0 where it does see."""
    every = torch.ones(length, length, dtype=torch.bool, device=device)
    if isinstance(module, SpanAttention):
        return every.tril(-1).triu(-module.span)
    if isinstance(module, TinyLlamaAttention):
        return every.tril()
    return every if isinstance(module, TinyRobertaSelfAttention) else module.bias[0, 0, :length, :length].bool()


def _tell_parts(at: _At, listener: Listener, module: Any, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    place, x = at.place("feed_forwards"), args[0]
    if listener.parts is not _nobody:
        listener.parts(place, module.part, module.parts(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


def _tell_units(at: _At, listener: Listener, module: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG001
    """What a dense module's last linear layer, or a KAN's, is given is what its units give."""
    listener.parts(at.place("feed_forwards"), "unit", args[0])


def _last_linear(model: Any, block: nn.Module) -> nn.Module | None:
    """The one whose inputs are units; None where there is none: in other kinds of modules, and in a single layer."""
    if hasattr(model.config, "ffn") and getattr(feed_forward.settings(model.config), "depth", 2) == 1:
        return None
    for name in LAST:
        owner, _, child = name.rpartition(".")
        found = getattr(getattr(block, owner, None), child, None)
        if isinstance(found, nn.Module) and not isinstance(found, nn.Identity):
            return found
    return None
