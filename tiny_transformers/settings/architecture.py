"""A model is described by its settings, checked, and what follows from them in closed form. No torch here.

A default that depends on other settings is written `null` and resolved when the settings are checked, so equal
models have equal settings, and a size that a rule gave is recorded. Of two ways to write one model, one is refused
or becomes the other. GPT-Neo, RoBERTa and Llama are here, Brainformers in brainformer_architecture.py, what a kind of
feed-forward module is in feed_forward/; the modules themselves are in models/ and layers/."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveInt, field_validator, model_validator

from tiny_transformers.settings.activations import ACTIVATIONS, Activation, ActivationName
from tiny_transformers.settings.base import Probability, Settings
from tiny_transformers.settings.brainformer_architecture import Brainformer
from tiny_transformers.settings.feed_forward.controller import Controller
from tiny_transformers.settings.feed_forward.dense import Dense
from tiny_transformers.settings.feed_forward.kan import KAN
from tiny_transformers.settings.feed_forward.kind import FEED_FORWARD, Block, FeedForwardKind, plain_units
from tiny_transformers.settings.feed_forward.moe import MoE
from tiny_transformers.settings.feed_forward.pkm import ProductKey
from tiny_transformers.settings.kinds import KnownNow
from tiny_transformers.settings.order import modules
from tiny_transformers.settings.program import Program

FEED_FORWARD.add(Dense, KAN, MoE, Controller, ProductKey)
FeedForward = Annotated[
    FeedForwardKind,
    KnownNow(FEED_FORWARD, lambda: Annotated[reduce(or_, FEED_FORWARD.values()), Field(discriminator="kind")]),
]


class Sharing(Settings):
    """Layers that share all their parameters, norms included (Takase & Kiyono 2021, arXiv:2104.06022, section 3)."""

    strategy: Literal["seq", "cycle", "cycle_rev"]
    unique_layers: PositiveInt


# -- the families -----------------------------------------------------------------------------------------------------


class Architecture(Settings):
    """The settings that GPT-Neo, RoBERTa and Llama have in common. A family says of itself what `Brainformer` says,
    too: how it is trained, and the closed forms."""

    causal: ClassVar[bool]  # predicts each token from those before it
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
        self._resolve_order()
        self._check_sharing()
        return self

    def _resolve_feed_forward(self) -> None:
        ffn = self.ffn.resolved(self.hidden_size, self._dense_units, self.causal)
        self._resolve(ffn=ffn, intermediate_size=ffn.units(self.hidden_size, self.intermediate_size))
        ffn.check(self.activation, None if self.bias is self.stock_bias else self.bias, self.initialization)

    def _resolve_activation(self) -> None:
        self._resolve(activation=self.activation or self.ffn.usual_activation)
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
        heads_name = "num_heads" if isinstance(self, GPTNeo) else "num_attention_heads"
        for name in ("hidden_size", "qk_size", "v_size"):
            size = getattr(self, name)
            if size is not None and size % heads:
                raise ValueError(f"{name} {size} is not a multiple of {heads_name} {heads}")
        if kv_heads is not None and heads % kv_heads:
            raise ValueError(f"num_key_value_heads {kv_heads} does not divide {heads_name} {heads}")
        self._resolve(
            qk_size=self.qk_size or self.hidden_size,
            v_size=self.v_size or self.hidden_size,
            num_key_value_heads=kv_heads or heads,
            bias=self.stock_bias if self.bias is None else self.bias,
        )

    def _resolve_order(self) -> None:
        if self.order is None:
            return
        order, layers = modules(self.order), self.layers
        if max(order.count("s"), order.count("f")) != layers:
            counts = f"{order.count('s')} attention and {order.count('f')} feed-forward modules"
            raise ValueError(f"order {self.order} has {counts}; the larger must be the number of layers, {layers}")
        self._resolve(order=None if order == "sf" * layers else order)

    def _check_sharing(self) -> None:
        if self.sharing is None:
            return
        unique, layers = self.sharing.unique_layers, self.layers
        if self.order is not None:
            raise ValueError("sharing is of whole layers; it cannot be combined with an order of modules")
        if layers % unique:
            raise ValueError(f"sharing.unique_layers {unique} does not divide the number of layers, {layers}")
        if unique == layers:
            raise ValueError(f"sharing.unique_layers {unique} of {layers} layers shares nothing: leave sharing out")
        if unique == 1 and self.sharing.strategy != "seq":
            raise ValueError("with sharing.unique_layers 1 all strategies are the same model: write strategy seq")

    # --- what follows from it

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
        return self.ffn.micro_batch_is_free

    @property
    def same_shapes(self) -> bool:
        """Whether every pass computes the same."""
        return self.ffn.same_shapes

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
        activation, per_unit = self._activation, self.activation_parameters == "per_unit"
        return Block(
            hidden=self.hidden_size,
            intermediate=self.intermediate_size,
            activation_parameters=(self.intermediate_size if per_unit else 1) if activation.is_learnable else 0,
            gated=activation.gated,
            bias=self.bias is not False,
        )

    @property
    def embedding_parameters(self) -> int:
        return (self.vocab_size + self.max_position_embeddings) * self.hidden_size  # type: ignore[attr-defined]

    @property
    def attention_parameters(self) -> int:
        return _modules(self, unique=True)[0] * (_attention_parameters(self) + self.norm_parameters)

    @property
    def feed_forward_parameters(self) -> int:
        return _modules(self, unique=True)[1] * (self.ffn.parameters(self._block) + self.norm_parameters)

    @property
    def norm_parameters(self) -> int:
        return self.norm_vectors * self.hidden_size

    @property
    def head_parameters(self) -> int:
        return self.norm_parameters

    @property
    def head_weights(self) -> int:
        """That one token is multiplied with; the tied output embedding is counted as the product it is."""
        return self.hidden_size * self.vocab_size

    def weights_per_token(self, *, training: bool) -> float:
        """That one token is multiplied with, the head's left out."""
        attention, feed_forward = _modules(self, unique=False)
        return attention * _attention_weights(self) + feed_forward * self.ffn.weights(self._block, training=training)

    @property
    def feed_forward_flops(self) -> int:
        """Return the FLOPs of one feed-forward module and one token, in evaluation; counted as in `flops_per_token`."""
        return 2 * self.ffn.weights(self._block, training=False)

    def score_flops(self, length: float) -> float:
        """Return the FLOPs of one token's attention to so many keys, beside the weights."""
        assert self.qk_size
        assert self.v_size
        return 2 * _modules(self, unique=False)[0] * (self.qk_size + self.v_size) * length

    def kept_per_token(self, length: float) -> float:
        """Numbers that all layers keep of a token for the backward pass, about, in a text of this length."""
        scores = self.heads * length * (4 if self.dropout else 1)  # type: ignore[attr-defined]
        assert self.qk_size
        assert self.v_size
        heads = 2 * (self.qk_size + self.v_size)  # queries and keys, values and their weighted sums
        return self.layers * (12 * self.hidden_size + heads + self.ffn.kept(self._block) + scores)

    def carried_per_row(self, length: float) -> float:  # noqa: ARG002
        """Numbers that go from one text to the next: none."""
        return 0.0

    @property
    def label(self) -> str:
        """Return in short what a model has that the stock one of its family has not."""
        return _label(self)


class GPTNeo(Architecture):
    """A decoder. `gelu` is GPT-Neo's own, the tanh approximation (`gelu_new`)."""

    causal: ClassVar[bool] = True
    stock_bias: ClassVar[bool | None] = None

    family: Literal["gpt_neo"] = "gpt_neo"
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 4
    max_position_embeddings: PositiveInt = 512
    window_size: PositiveInt = 256  # tokens that local attention, every second layer, looks back
    dropout: Probability = 0.0

    @property
    def layers(self) -> int:
        return self.num_layers

    @property
    def heads(self) -> int:
        return self.num_heads

    @property
    def positions(self) -> int:
        return self.max_position_embeddings


class Roberta(Architecture):
    """An encoder. `gelu` is RoBERTa's own, the exact one (erf)."""

    causal: ClassVar[bool] = False
    stock_bias: ClassVar[bool | None] = True

    family: Literal["roberta"] = "roberta"
    num_hidden_layers: PositiveInt = 2
    num_attention_heads: PositiveInt = 4
    max_position_embeddings: PositiveInt = 513  # 512 tokens and the padding position that RoBERTa counts from
    dropout: Probability = 0.1

    @property
    def layers(self) -> int:
        return self.num_hidden_layers

    @property
    def heads(self) -> int:
        return self.num_attention_heads

    @property
    def positions(self) -> int:
        return self.max_position_embeddings - 1  # it counts from its padding position

    @property
    def embedding_parameters(self) -> int:
        """With two token types, and a norm."""
        return super().embedding_parameters + 2 * self.hidden_size + 2 * self.hidden_size

    @property
    def head_parameters(self) -> int:
        h = self.hidden_size
        return h * h + h + 2 * h + self.vocab_size

    @property
    def head_weights(self) -> int:
        return super().head_weights + self.hidden_size * self.hidden_size


class Llama(Architecture):
    """A decoder of today: rotary positions, RMSNorm, no biases, gated feed-forward modules. `gelu` is GPT-Neo's."""

    causal: ClassVar[bool] = True
    stock_bias: ClassVar[bool | None] = False
    norm_vectors: ClassVar[int] = 1  # RMSNorm only scales

    family: Literal["llama"] = "llama"
    num_hidden_layers: PositiveInt = 2
    num_attention_heads: PositiveInt = 4
    max_position_embeddings: PositiveInt = 512
    dropout: Probability = 0.0  # of attention's weights alone, as Hugging Face's Llama has it

    def _resolve_feed_forward(self) -> None:
        if self.ffn.activations is None and self.ffn.takes_gated:
            self._resolve(activation=self.activation or "swiglu")
        super()._resolve_feed_forward()

    def _resolve_attention(self) -> None:
        super()._resolve_attention()
        if (size := (self.qk_size or 0) // self.heads) % 2:
            raise ValueError(f"a query has {size} numbers, which rotary positions turn in pairs: make them even")

    @property
    def layers(self) -> int:
        return self.num_hidden_layers

    @property
    def heads(self) -> int:
        return self.num_attention_heads

    @property
    def positions(self) -> int:
        return self.max_position_embeddings

    @property
    def _dense_units(self) -> int:
        return plain_units(self.hidden_size, self.intermediate_size)

    @property
    def embedding_parameters(self) -> int:
        """Positions have none: queries and keys are turned by angles."""
        return self.vocab_size * self.hidden_size


AnyModel = GPTNeo | Roberta | Llama | Brainformer | Program
# Those that a manifest may name; a Program is what a manifest without models is about.
FAMILIES: dict[str, type[GPTNeo] | type[Roberta] | type[Llama] | type[Brainformer]] = {
    "gpt_neo": GPTNeo, "roberta": Roberta, "llama": Llama, "brainformer": Brainformer,
}  # fmt: skip
Model = Annotated[AnyModel, Field(discriminator="family")]


# -- sharing ------------------------------------------------------------------------------------------------


def layer_map(strategy: str, unique: int, layers: int) -> list[int]:
    """Which of the unique layers stands at each place (Takase & Kiyono 2021, section 3).

    seq 3, 6: 0 0 1 1 2 2; cycle: 0 1 2 0 1 2; cycle_rev, whose last pass is reversed: 0 1 2 2 1 0."""
    once = list(range(unique))
    if strategy == "seq":
        return [layer for layer in once for _ in range(layers // unique)]
    passes = layers // unique
    return once * (passes - 1) + (once[::-1] if strategy == "cycle_rev" else once)


# -- closed forms -----------------------------------------------------------------------------------------------------


class Parameters(NamedTuple):
    """The parameters of a language model, tied embeddings counted once; a module's LayerNorm is counted with it."""

    embedding: int
    attention: int
    feed_forward: int
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.feed_forward + self.head


def parameters(model: AnyModel) -> Parameters:
    """The exact counts."""
    return Parameters(
        model.embedding_parameters, model.attention_parameters, model.feed_forward_parameters, model.head_parameters
    )


def num_parameters(model: AnyModel) -> int:
    return parameters(model).total


def flops_per_token(model: AnyModel, *, training: bool = False) -> int:
    """Return the FLOPs of a token in a forward pass: 2 per weight that a token is multiplied with (Kaplan et al. 2020,
    section 2.1).

    Left out are attention scores, which grow with the text, and whatever is done unit by unit."""
    return round(2 * (model.weights_per_token(training=training) + model.head_weights))


def training_flops(model: AnyModel, *, labelled: float, length: float) -> float:
    """Return the FLOPs of one token, forward and backward: three times the forward pass (Kaplan et al. 2020, section
    2.1).

    `labelled`: the share of tokens with a label, where alone the head is applied; `length`: how many keys a token's
    attention has on average, those that are masked included, as in the model FLOPs utilisation of Chowdhery et al. 2022
    (arXiv:2204.02311, appendix B)."""
    unlabelled = (1 - labelled) * 2 * model.head_weights
    return 3.0 * (flops_per_token(model, training=True) - unlabelled + model.score_flops(length))


def _modules(model: Architecture, *, unique: bool) -> tuple[int, int]:
    """How many attention and feed-forward modules there are, or are applied."""
    if model.order is not None:
        return model.order.count("s"), model.order.count("f")
    layers = model.sharing.unique_layers if unique and model.sharing else model.layers
    return layers, layers


def _attention_weights(model: Architecture) -> int:
    assert model.qk_size
    assert model.v_size
    assert model.num_key_value_heads
    share = model.num_key_value_heads / model.heads
    queries, keys_values = model.qk_size, round((model.qk_size + model.v_size) * share)
    return model.hidden_size * (queries + keys_values + model.v_size)


def _attention_parameters(model: Architecture) -> int:
    assert model.qk_size
    assert model.v_size
    assert model.num_key_value_heads
    share = model.num_key_value_heads / model.heads
    biases = model.qk_size + round((model.qk_size + model.v_size) * share) if model.bias else 0
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
        words.append(f"{model.sharing.strategy}{model.sharing.unique_layers}")
    if model.initialization == "study":
        words.append("studyinit")
    return "-".join(words)
