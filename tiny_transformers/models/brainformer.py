"""The decoder of characters: post-LN groups of attention to a span, feed-forward modules and mixtures of experts.

After Brainformer-SMOE. Its text is one stream, read in blocks: attention sees what came before a block, by the memory
of a training or by Hugging Face's cache, of which a block needs no more than `attn_span` positions."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, Cache, GenerationMixin
from transformers import initialization as init
from transformers.cache_utils import DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.dropout import Dropout, dropout
from tiny_transformers.layers.ffn.experts import GatedExperts
from tiny_transformers.layers.ffn.gates import Gate
from tiny_transformers.layers.layer import Layer
from tiny_transformers.layers.span_attention import PositionKeys, SpanAttention
from tiny_transformers.models.language_model import CACHE, CACHE_NAMES, LanguageModel, SavedConfig, one_cache
from tiny_transformers.settings.architecture import Brainformer

# What the configuration has under the settings' names; of an order there is only the code's reading.
SETTINGS = tuple(name for name in Brainformer.model_fields if name not in ("family", "reading"))


@strict
class TinyBrainformerConfig(SavedConfig):
    """`architecture.Brainformer`, for Hugging Face. `adaptive_span` None is a fixed span."""

    model_type = "tiny_brainformer"
    attribute_map = {"num_attention_heads": "num_heads"}
    keys_to_ignore_at_inference = [*CACHE_NAMES, "memory"]

    order: str = "sgfgfg.sgfgfg"
    hidden_size: int = 256
    intermediate_size: int = 256
    num_heads: int = 8
    attn_span: int = 2_048
    adaptive_span: dict | None = None
    experts: dict | None = None
    dropout: float = 0.0
    tie_word_embeddings: bool = False
    vocab_size: int = 205
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def validate_settings(self) -> None:
        self.settings()

    def settings(self) -> Brainformer:
        values = {name: getattr(self, name) for name in SETTINGS}
        return Brainformer(**values | {"experts": self.experts or {}})

    @property
    def num_hidden_layers(self) -> int:
        """As a cache counts: one for every application of attention."""
        return self.order.count("s")

    @property
    def sliding_window(self) -> int:
        """As a cache counts: with one's own position."""
        return self.attn_span + 1


@dataclass
class BrainformerOutput(BaseModelOutputWithPast):
    memory: list[Tensor] | None = None  # to be given to the next block's pass; of every application of attention


@dataclass
class BrainformerLMOutput(CausalLMOutputWithPast):
    memory: list[Tensor] | None = None


@dataclass
class Past:
    """The states of earlier blocks that attention sees, in the order in which a pass comes to them."""

    memory: list[Tensor] | None  # (B, P, H) each
    cache: Cache | None
    place: int = 0  # applications of attention so far
    inputs: list[Tensor] = field(default_factory=list)  # theirs: the memory of the next block

    def attend(self, attention: SpanAttention, x: Tensor, position_keys: Tensor) -> Tensor:
        """x: (B, T, H) -> (B, T, H)"""
        place, before = self.place, None
        self.place += 1
        if self.memory is not None:
            before = self.memory[place]
            self.inputs.append(_last(before, x.detach(), attention.memory_size))
        return attention(x, position_keys, before, self.cache, place)


class Group(nn.Module):
    """A module of each kind that its letters name. Each letter applies its module: x = norm(x + module(x))."""

    def __init__(self, settings: Brainformer, letters: str) -> None:
        super().__init__()
        size, inner, drop = settings.hidden_size, settings.intermediate_size, settings.dropout
        self.letters, self.dropout = letters, drop
        if "s" in letters:
            self.attention = SpanAttention(size, settings.num_heads, settings.attn_span, settings.adaptive_span, drop)
        if "f" in letters:
            layers = {"up": nn.Linear(size, inner), "relu": nn.ReLU(), "dropout": Dropout(drop)}
            self.feed_forward = nn.Sequential(OrderedDict(layers | {"down": nn.Linear(inner, size)}))
        if "g" in letters:
            self.experts = GatedExperts(settings.experts, size, inner, settings.vocab_size, drop)
        self.norms = nn.ModuleDict({letter: nn.LayerNorm(size) for letter in "sfg" if letter in letters})

    def forward(self, x: Tensor, position_keys: Tensor, past: Past) -> Tensor:
        """x: (B, T, H) -> (B, T, H)"""
        for letter in self.letters:
            x = self.norms[letter](x + self._applied(letter, x, position_keys, past))
        return x

    def _applied(self, letter: str, x: Tensor, position_keys: Tensor, past: Past) -> Tensor:
        if letter == "s":
            return past.attend(self.attention, x, position_keys)
        if letter == "f":
            return self.feed_forward(x)
        y = self.experts(x)
        return dropout(y, self.dropout) if self.training else y


class TinyBrainformerPreTrainedModel(LanguageModel):
    config_class = TinyBrainformerConfig
    base_model_prefix = "model"
    _supports_sdpa = True  # known_attention's two names mean the same here

    def stack(self) -> tuple[nn.Module, str]:
        return self.base_model, "groups"

    def feed_forward(self, block: Any) -> nn.Module | None:
        """Its mixture of experts, if it has one."""
        return getattr(block, "experts", None) or getattr(block, "feed_forward", None)

    def schedule(self, fraction: float) -> None:
        for experts in self.all_of(GatedExperts):
            experts.schedule(fraction)

    def used(self, tokens: int) -> dict[str, float]:
        """The experts that computed a token, on average; not a number where mixtures differ in it."""
        growing = [experts for experts in self.all_of(GatedExperts) if experts.gate.settings.last_top_k]
        loads = {experts.load.sum().item() / tokens for experts in growing if experts.load is not None}
        return {"experts_per_token": loads.pop() if len(loads) == 1 else math.nan} if growing else {}

    @torch.no_grad()
    def after_update(self) -> None:
        """Spans are brought back into 0 to 1, and read, all at once: a GPU has to be waited for."""
        adaptive = [(attention, attention.reach) for attention in self._attentions() if attention.reach is not None]
        if adaptive:
            farthest = torch.stack([reach.clamp_(0, 1).max() for _, reach in adaptive])
            for (attention, _), reach in zip(adaptive, farthest.tolist(), strict=True):
                attention.set_span(reach)

    def auxiliary_loss(self) -> Tensor | float:
        total = super().auxiliary_loss()
        return total + sum(attention.span_loss() for attention in self._attentions()) if self.training else total

    def spans(self) -> list[list[int]]:
        """How many positions each head of each group with attention looks back."""
        return [attention.spans() for attention in self._attentions()]

    def keys_per_token(self, length: float) -> float:
        """As many as the spans in use have, on average over the applications of attention."""
        base: Any = self.base_model
        used = [group.attention.span for group in base.groups for _ in range(group.letters.count("s"))]
        return min(length, sum(used) / len(used))

    def figures(self) -> dict[str, float]:
        spans = [span for group in self.spans() for span in group]
        return {"mean_span": sum(spans) / len(spans), "longest_span": max(spans)}

    def empty_memory(self, rows: int) -> list[Tensor]:
        """Return the memory at the beginning of `rows` streams."""
        config = self.config
        nothing = torch.empty(rows, 0, config.hidden_size, dtype=self.dtype, device=self.device)
        return [nothing] * config.num_hidden_layers

    def new_cache(self) -> Cache:
        """For inference, of no more positions than the spans in use; Hugging Face's own keeps attn_span of them."""
        base: Any = self.base_model
        windows = [group.attention.span + 1 for group in base.groups for _ in range(group.letters.count("s"))]
        return Cache(layers=[DynamicSlidingWindowLayer(sliding_window=window) for window in windows])

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Embedding:
        """As Hugging Face does it. Raises TinyTransformersError if a gate chooses experts by character: of a new one
        it knows nothing."""
        if self._by_ids() and (pad_to_multiple_of or new_num_tokens not in (None, self.config.vocab_size)):
            raise TinyTransformersError(
                "gate hash has drawn experts for each character of this vocabulary: its embedding cannot be resized."
            )
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, *args, **kwargs)

    def _by_ids(self) -> bool:
        return any(gate.by_ids for gate in self.all_of(Gate))

    def _attentions(self) -> list[SpanAttention]:
        return self.all_of(SpanAttention)

    def _begin(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        for experts in self.all_of(GatedExperts):
            experts.ids = kwargs.get("input_ids", args[0] if args else None)
        return super()._begin(base, args, kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """A linear layer as torch draws it, the embedding N(0, 1/H)."""
        if isinstance(module, nn.Linear) and not isinstance(module, Layer):
            if not (self.config.tie_word_embeddings and module is self.get_output_embeddings()):
                init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                init.uniform_(module.bias, -(module.in_features**-0.5), module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, 0.0, module.embedding_dim**-0.5)
        else:
            super()._init_weights(module)


class TinyBrainformerModel(TinyBrainformerPreTrainedModel):
    def __init__(self, config: TinyBrainformerConfig) -> None:
        super().__init__(config)
        settings = config.settings()
        self.embed_tokens = nn.Embedding(settings.vocab_size, settings.hidden_size)
        self.position_keys = PositionKeys(settings.hidden_size // settings.num_heads, settings.attn_span)
        self.groups = nn.ModuleList(Group(settings, letters) for letters in settings.groups)
        self.post_init()
        self.register_forward_pre_hook(self._begin, with_kwargs=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        memory: list[Tensor] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BrainformerOutput:
        """input_ids: (B, T), or inputs_embeds: (B, T, H), beside which ids are for a gate that chooses by them.

        `cache` and `past_key_values` are one thing, by the names of two releases of transformers. With a `memory`, of
        the last pass or `empty_memory`, the output has that for the next. `hidden_states` are the embeddings and what
        comes out of each group."""
        cache = one_cache(cache, past_key_values)
        if cache is not None and cache.is_compileable:
            raise TinyTransformersError("A static cache holds positions to come, too: leave cache_implementation out.")
        if _asked(output_attentions, self.config.output_attentions):
            raise TinyTransformersError("output_attentions: a Brainformer has no matrix of attention weights to give.")
        _check_mask(attention_mask)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and memory is None
        if memory is not None and (use_cache or cache is not None):
            raise ValueError("memory and past_key_values are two ways to say what came before: give one.")
        if use_cache and cache is None:
            cache = self.new_cache()
        past = Past(memory, cache)
        x = self._embedded(input_ids, inputs_embeds)
        keeps = _asked(output_hidden_states, self.config.output_hidden_states)
        states = [x]
        for group in self.groups:
            x = group(x, self.position_keys.weight, past)
            states = [*states, x] if keeps else []
        return BrainformerOutput(x, cache, tuple(states) or None, memory=None if memory is None else past.inputs)

    def _embedded(self, ids: Tensor | None, embedded: Tensor | None) -> Tensor:
        """(B, T, H)"""
        if embedded is None and ids is not None:
            return self.embed_tokens(ids)
        by_ids = self._by_ids()
        if embedded is None or (ids is not None and not by_ids):
            raise TinyTransformersError("Of input_ids and inputs_embeds give one; gate hash takes both.")
        if by_ids and (ids is None or ids.shape != embedded.shape[:2]):
            raise TinyTransformersError("gate hash chooses experts by character: give input_ids with inputs_embeds.")
        return embedded


class TinyBrainformerForCausalLM(TinyBrainformerPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    divides_by_items = True
    accepts_loss_kwargs = True  # Trainer looks for **kwargs

    def __init__(self, config: TinyBrainformerConfig) -> None:
        super().__init__(config)
        self.model = TinyBrainformerModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()
        self.register_forward_hook(self._end, with_kwargs=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        memory: list[Tensor] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **of_loss: Any,
    ) -> BrainformerLMOutput:
        """As the model's. labels: (B, T), shifted here, as in every decoder of transformers; their loss is divided by
        `num_items_in_batch`, if that is given, instead of by their number. shift_labels: (B, T), already shifted, are
        taken in place of labels; named among the arguments, Trainer would ask every batch for them."""
        if unknown := of_loss.keys() - {"shift_labels"}:
            raise TypeError(f"{type(self).__name__}.forward() got an unexpected keyword argument {min(unknown)!r}")
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            memory=memory,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                **of_loss,
            )
        return BrainformerLMOutput(loss, logits, output.get(CACHE), output.hidden_states, memory=output.memory)


def _asked(now: bool | None, usual: bool) -> bool:
    return usual if now is None else now


def _last(before: Tensor, x: Tensor, size: int) -> Tensor:
    """The last `size` positions of both, one behind the other. before: (B, P, H), x: (B, T, H)"""
    x = x[:, max(0, x.shape[1] - size) :]
    return torch.cat([before[:, max(0, before.shape[1] + x.shape[1] - size) :], x], dim=1)


def _check_mask(mask: Tensor | None) -> None:
    if mask is not None and (mask.ndim != 2 or (mask.long().diff(dim=1) > 0).any()):
        raise TinyTransformersError(
            "attention_mask: padding must be on the right, behind the text; a Brainformer reads all that comes before."
        )


AutoConfig.register(TinyBrainformerConfig.model_type, TinyBrainformerConfig)
AutoModel.register(TinyBrainformerConfig, TinyBrainformerModel)
AutoModelForCausalLM.register(TinyBrainformerConfig, TinyBrainformerForCausalLM)
