"""What GPT-Neo, RoBERTa and Llama have in common: their settings, and what follows from them in closed form. No torch
here."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from tiny_transformers.settings.activations import ACTIVATIONS, Activation, ActivationName
from tiny_transformers.settings.base import Settings, added
from tiny_transformers.settings.feed_forward.controller import Controller
from tiny_transformers.settings.feed_forward.dense import Dense
from tiny_transformers.settings.feed_forward.kan import KAN
from tiny_transformers.settings.feed_forward.kind import FEED_FORWARD, Block, FeedForwardKind
from tiny_transformers.settings.feed_forward.moe import MoE
from tiny_transformers.settings.feed_forward.pkm import ProductKey
from tiny_transformers.settings.kinds import KnownNow
from tiny_transformers.settings.linformer import Linformer
from tiny_transformers.settings.order import modules
from tiny_transformers.settings.recurrence import Recurrence
from tiny_transformers.settings.scaling import Scaling
from tiny_transformers.settings.sharing import Sharing

FEED_FORWARD.add(Dense, KAN, MoE, Controller, ProductKey)
FeedForward = Annotated[
    FeedForwardKind,
    KnownNow(FEED_FORWARD, lambda: Annotated[reduce(or_, FEED_FORWARD.values()), Field(discriminator="kind")]),
]


class Architecture(Settings):
    """The settings that GPT-Neo, RoBERTa and Llama have in common. A family says of itself what `Brainformer` says,
    too: how it is trained, and the closed forms."""

    causal: ClassVar[bool]  # predicts each token from those before it
    heads_name: ClassVar[str]  # Hugging Face's word for their number
    stock_bias: ClassVar[bool | None]  # what `bias` null is; None: as GPT-Neo's, which queries, keys and values lack
    norm_vectors: ClassVar[int] = 2  # parameters of a norm, by the model's width

    hidden_size: PositiveInt = 512
    intermediate_size: PositiveInt = 1024  # a sparse module takes the size of the dense one, and has then its own units
    activation: ActivationName | None = None  # null: the family's; in a sparse module that of its paper
    activation_parameters: Literal["per_unit", "one"] | None = None  # learnable activations; null: per_unit
    activation_init: float | None = None  # where they start; null: 0.25 for prelu, else 1
    ffn: FeedForward = Dense()
    qk_size: PositiveInt | None = None  # of queries, all heads together; null: hidden_size
    v_size: PositiveInt | None = None  # of values, likewise
    num_key_value_heads: PositiveInt | None = None  # fewer share keys and values among heads (GQA); null: all
    bias: bool | None = None  # of the linear layers in blocks; null: as the family has it
    order: str | None = None  # s and f: attention and feed-forward modules in their order; null: sfsf...
    sharing: Sharing | None = None
    scaling: Scaling | None = added(None)  # layers of different sizes
    recurrence: Recurrence | None = added(None)  # of what `sharing` shares; null there: of one layer
    linformer: Linformer | None = added(None)  # encoders: attention to mixtures of positions
    initialization: Literal["family", "study"] = "family"  # study: the feed-forward modules' own, a confound of its
    vocab_size: PositiveInt = 10_000

    @field_validator("ffn", mode="before")
    @classmethod
    def _dense_unless_said(cls, value: Any) -> Any:
        return {"kind": "dense"} | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _resolve_all(self) -> Architecture:
        self._resolve_feed_forward()
        self._resolve_activation()
        self._resolve_attention()
        if self.order is not None:
            self._resolve_order(self.order)
        if self.recurrence is not None:
            self._resolve_recurrence(self.recurrence)
        if self.sharing is not None:
            self._check_sharing(self.sharing)
        if self.scaling is not None:
            self._resolve_scaling(self.scaling)
        if self.linformer is not None:
            self._resolve_linformer(self.linformer)
        return self

    def _resolve_feed_forward(self) -> None:
        ffn = self.ffn.resolved(self.hidden_size, self._dense_units, self.causal)
        self._resolve(ffn=ffn, intermediate_size=ffn.units(self.hidden_size, self.intermediate_size))
        ffn.check(self.activation, None if self.bias is self.stock_bias else self.bias, self.initialization)

    def _resolve_activation(self) -> None:
        if self.activation is None:
            self._resolve(activation=self.ffn.usual_activation)
        activation = self._activation
        if activation.gated and not self.ffn.takes_gated:
            raise ValueError(f"activation {self.activation} gates linear layers, which {self.ffn.kind} replaces")
        if activation.is_learnable:
            self._resolve(
                activation_parameters=self.activation_parameters or "per_unit",
                activation_init=activation.start if self.activation_init is None else self.activation_init,
            )
        elif self.activation_parameters is not None or self.activation_init is not None:
            raise ValueError(f"activation {self.activation} has no parameters: leave out activation_parameters, _init")

    def _resolve_attention(self) -> None:
        heads, kv_heads = self.heads, self.num_key_value_heads
        sizes = {"hidden_size": self.hidden_size, "qk_size": self.qk_size, "v_size": self.v_size}
        for name, size in sizes.items():
            if size is not None and size % heads:
                raise ValueError(f"{name} {size} is not a multiple of {self.heads_name} {heads}")
        if kv_heads is not None and heads % kv_heads:
            raise ValueError(f"num_key_value_heads {kv_heads} does not divide {self.heads_name} {heads}")
        self._resolve(
            qk_size=self.qk_size or self.hidden_size,
            v_size=self.v_size or self.hidden_size,
            num_key_value_heads=kv_heads or heads,
            bias=self.stock_bias if self.bias is None else self.bias,
        )

    def _resolve_order(self, written: str) -> None:
        order, layers = modules(written), self.layers
        if max(order.count("s"), order.count("f")) != layers:
            counts = f"{order.count('s')} attention and {order.count('f')} feed-forward modules"
            raise ValueError(f"order {written} has {counts}; the larger must be the number of layers, {layers}")
        self._resolve(order=None if order == "sf" * layers else order)

    def _resolve_recurrence(self, recurrence: Recurrence) -> None:
        recurrence.check(self.layers, self.order)
        if self.sharing and (self.sharing.modules != "all" or self.sharing.first):
            raise ValueError("recurrence is of whole layers, all of them: leave out sharing.modules and sharing.first")
        self._resolve(sharing=self.sharing or Sharing(strategy="seq", unique_layers=1))

    def _check_sharing(self, sharing: Sharing) -> None:
        if self.order is not None:
            raise ValueError("sharing is of whole layers; it cannot be combined with an order of modules")
        if sharing.first == self.layers:
            sharing = sharing.model_copy(update={"first": None})
            self._resolve(sharing=sharing)
        sharing.check(self.layers)

    def _resolve_scaling(self, scaling: Scaling) -> None:
        assert self.num_key_value_heads
        if self.sharing is not None or self.order is not None:
            raise ValueError("scaling is of whole layers of their own: it cannot be combined with sharing or an order")
        group = self.heads // self.num_key_value_heads
        scaling = scaling.resolved(self.layers, self.heads, group, self.intermediate_size)
        if scaling.units and not self.ffn.has_free_units:
            raise ValueError(
                f"scaling.feed_forward and units: the sizes of {self.ffn.kind} follow from its own settings"
            )
        self._resolve(intermediate_size=max(scaling.units or [self.intermediate_size]), scaling=scaling.uneven)

    def _resolve_linformer(self, linformer: Linformer) -> None:
        linformer.check(self.positions, causal=self.causal)
        attentions, _ = sized_modules(self, unique=True)
        self._resolve(linformer=linformer.resolved(sum([count for count, _ in attentions])))

    # --- what follows from it

    def layer(self, number: int) -> Self:
        """Return a model all of whose layers have the sizes of this one."""
        if self.scaling is None:
            return self
        assert self.qk_size
        assert self.v_size
        assert self.num_key_value_heads
        heads = self.scaling.heads[number] if self.scaling.heads else self.heads
        of_heads = {
            name: size * heads // self.heads
            for name, size in (
                (self.heads_name, self.heads), ("num_key_value_heads", self.num_key_value_heads),
                ("qk_size", self.qk_size), ("v_size", self.v_size),
            )
        }  # fmt: skip
        units = self.scaling.units[number] if self.scaling.units else self.intermediate_size
        return self.model_copy(update=of_heads | {"intermediate_size": units, "scaling": None})

    @property
    def layers(self) -> int:
        """Applied in a forward pass, shared or not."""
        raise NotImplementedError

    @property
    def heads(self) -> int:
        raise NotImplementedError

    @property
    def positions(self) -> int:
        """Tokens that the model can see at once."""
        raise NotImplementedError

    @property
    def initial_logit_variance(self) -> float:
        """Return the variance of an untrained model's logits: a LayerNorm's output times weights N(0, 0.02)."""
        return self.hidden_size * 0.02**2

    @property
    def initial_loss_slack(self) -> float:
        return 0.0

    def scheduled(self, fraction: float) -> dict[str, float]:  # noqa: ARG002
        """Return what a pass uses when this part of the training is done, of what changes in its course: nothing."""
        return {}

    @property
    def micro_batch_is_free(self) -> bool:
        """Whether a step comes out the same however it is cut."""
        return self.ffn.micro_batch_is_free and (self.recurrence is None or self.recurrence.micro_batch_is_free)

    @property
    def same_shapes(self) -> bool:
        """Whether every pass computes the same."""
        return self.ffn.same_shapes

    @property
    def is_read_by_layers(self) -> bool:
        """Whether an encoder's layers can be computed one by one, the last at one token (evaluation/masked.py)."""
        return self.recurrence is None and self.linformer is None

    @property
    def utilisation(self) -> float:
        """Return the share of a GPU's peak that training reaches, as estimated."""
        return self.ffn.utilisation

    @property
    def _dense_units(self) -> int:
        """Those of a dense module of the stock kind that is as large as the family's own of `intermediate_size`."""
        return self.intermediate_size

    @property
    def _activation(self) -> Activation:
        return ACTIVATIONS[str(self.activation)]

    @property
    def _block(self) -> Block:
        activation, units = self._activation, self.intermediate_size
        learned = (units if self.activation_parameters == "per_unit" else 1) if activation.is_learnable else 0
        return Block(self.hidden_size, units, learned, activation.gated, self.bias is not False)

    @property
    def embedding_parameters(self) -> int:
        return (self.vocab_size + self.max_position_embeddings) * self.hidden_size  # type: ignore[attr-defined]

    @property
    def attention_parameters(self) -> int:
        attentions, _ = sized_modules(self, unique=True)
        modules = sum([count for count, _ in attentions])
        mixing = self.linformer.parameters(self.positions, modules) if self.linformer else 0
        return mixing + sum([count * (_attention_parameters(of) + self.norm_parameters) for count, of in attentions])

    @property
    def feed_forward_parameters(self) -> int:
        _, feed_forwards = sized_modules(self, unique=True)
        return sum([count * (self.ffn.parameters(of._block) + self.norm_parameters) for count, of in feed_forwards])

    @property
    def norm_parameters(self) -> int:
        return self.norm_vectors * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """With the unit that halts a recurrence."""
        return self.norm_parameters + self._halting_parameters

    @property
    def _halting_parameters(self) -> int:
        return self.recurrence.parameters(self.hidden_size) if self.recurrence else 0

    @property
    def head_weights(self) -> int:
        """That one token is multiplied with; the tied output embedding is counted as the product it is."""
        return self.hidden_size * self.vocab_size

    def weights_per_token(self, *, training: bool) -> float:
        """That one token is multiplied with, the head's left out."""
        attentions, feed_forwards = sized_modules(self, unique=False)
        weights = sum([count * _attention_weights(of) for count, of in attentions]) + sum(
            [count * self.ffn.weights(of._block, training=training) for count, of in feed_forwards]
        )
        if self.linformer:
            weights += sum([count * self.linformer.weights(_keys_and_values(of)) for count, of in attentions])
        return weights + (self.recurrence.weights(self.hidden_size, self.layers) if self.recurrence else 0)

    @property
    def feed_forward_flops(self) -> int:
        """Return the FLOPs of the first feed-forward module and one token, in evaluation; counted as in
        `flops_per_token`."""
        return 2 * self.ffn.weights(self.layer(0)._block, training=False)

    def score_flops(self, length: float) -> float:
        """Return the FLOPs of one token's attention to so many keys, beside the weights."""
        attentions, _ = sized_modules(self, unique=False)
        return 2 * sum([count * _width_of_heads(of) for count, of in attentions]) * self._keys(length)

    def _keys(self, length: float) -> float:
        """How many keys a query has in a text of this length."""
        return self.linformer.k if self.linformer else length

    def kept_per_token(self, length: float) -> float:
        """Numbers that all layers keep of a token for the backward pass, about, in a text of this length."""
        kept = sum([count * of._kept_in_layer(length) for count, of in _sizes(self, self.layers)])
        return kept + (self.recurrence.kept(self.hidden_size, self.layers) if self.recurrence else 0)

    def _kept_in_layer(self, length: float) -> float:
        scores = self.heads * self._keys(length) * (4 if self.dropout else 1)  # type: ignore[attr-defined]
        heads = 2 * _width_of_heads(self)  # queries and keys, values and their weighted sums
        return 12 * self.hidden_size + heads + self.ffn.kept(self._block) + scores

    def carried_per_row(self, length: float) -> float:  # noqa: ARG002
        """Numbers that go from one text to the next: none."""
        return 0.0

    @property
    def label(self) -> str:
        """Return in short what a model has that the stock one of its family has not."""
        return _label(self)


Sizes = list[tuple[int, Architecture]]  # how many modules are like those of a model that has no others


def sized_modules(model: Architecture, *, unique: bool) -> tuple[Sizes, Sizes]:
    """Return the sizes of the attention and feed-forward modules that there are, or are applied."""
    attentions = feed_forwards = model.layers
    if model.order is not None:
        attentions, feed_forwards = model.order.count("s"), model.order.count("f")
    elif unique and model.sharing:
        attentions = model.sharing.unique("attention", model.layers)
        feed_forwards = model.sharing.unique("feed_forward", model.layers)
    return _sizes(model, attentions), _sizes(model, feed_forwards)


def _sizes(model: Architecture, count: int) -> Sizes:
    return [(1, model.layer(number)) for number in range(count)] if model.scaling else [(count, model)]


def _width_of_heads(model: Architecture) -> int:
    assert model.qk_size
    assert model.v_size
    return model.qk_size + model.v_size


def _keys_and_values(model: Architecture) -> int:
    """How many numbers a token's key and value have, all heads together."""
    assert model.qk_size
    assert model.v_size
    assert model.num_key_value_heads
    return round((model.qk_size + model.v_size) * model.num_key_value_heads / model.heads)


def _attention_weights(model: Architecture) -> int:
    assert model.qk_size
    assert model.v_size
    return model.hidden_size * (model.qk_size + _keys_and_values(model) + model.v_size)


def attention_matrices(model: Architecture) -> list[int]:
    """Return the weights of each linear layer of an attention module."""
    assert model.qk_size
    assert model.v_size
    assert model.num_key_value_heads
    widths = model.qk_size, model.v_size
    keys, values = (width // model.heads * model.num_key_value_heads for width in widths)
    return [model.hidden_size * width for width in (model.qk_size, keys, values, model.v_size)]


def _attention_parameters(model: Architecture) -> int:
    assert model.qk_size
    biases = model.qk_size + _keys_and_values(model) if model.bias else 0
    return _attention_weights(model) + biases + (0 if model.bias is False else model.hidden_size)


# -- names ------------------------------------------------------------------------------------------------------------


def _label(model: Architecture) -> str:
    h = model.hidden_size
    words = [model.ffn.label(str(model.activation))]
    if model.activation_parameters == "one":
        words.append("one")
    if model.activation_init != model._activation.start:
        words.append(f"init{model.activation_init:g}")
    words += [f"{name}{size}" for name, size in (("qk", model.qk_size), ("v", model.v_size)) if size != h]
    if model.num_key_value_heads != model.heads:
        words.append(f"{model.num_key_value_heads}KV")
    if model.bias is not model.stock_bias:
        words.append("bias" if model.bias else "nobias")
    if model.order:
        words.append(model.order)
    if model.sharing:
        words.append(model.sharing.label)
    if model.scaling:
        words.append(model.scaling.label)
    if model.recurrence:
        words.append(model.recurrence.label)
    if model.linformer:
        words.append(model.linformer.label)
    if model.initialization == "study":
        words.append("studyinit")
    return "-".join(words)
