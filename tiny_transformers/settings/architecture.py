"""What a model is made of: its settings, checked, and what follows from them in closed form. No torch here.

A default that depends on other settings is written `null` and resolved when the settings are checked, so equal
models have equal settings, and a size that a rule gave is recorded. Of two ways to write one model, one is refused
or becomes the other. GPT-Neo and RoBERTa are here, Brainformers in brainformer_architecture.py; the modules themselves
are in gpt_neo.py, roberta.py, attention.py, feed_forward.py and ffn/."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from tiny_transformers.settings.base import NonNegative, Probability, Settings
from tiny_transformers.settings.brainformer_architecture import Brainformer
from tiny_transformers.settings.order import modules

ACTIVATIONS = (
    "gelu", "relu", "silu", "swish", "swish_thesis", "prelu", "learnable_gelu", "geglu", "learnable_geglu", "none",
)  # fmt: skip
# The learnable ones, and where their parameters start unless `activation_init` says otherwise.
LEARNABLE = {"swish": 1.0, "swish_thesis": 1.0, "prelu": 0.25, "learnable_gelu": 1.0, "learnable_geglu": 1.0}
GATED = ("geglu", "learnable_geglu")  # half of the units gate the other half: the layer before is twice as wide

Activation = Literal[
    "gelu", "relu", "silu", "swish", "swish_thesis", "prelu", "learnable_gelu", "geglu", "learnable_geglu", "none"
]

# -- feed-forward modules ---------------------------------------------------------------------------------------------


class Dense(Settings):
    """Linear layers with the activation between them."""

    kind: Literal["dense"] = "dense"
    depth: PositiveInt = 2  # linear layers


class KAN(Settings):
    """B-spline layers (Liu et al. 2024, arXiv:2404.19756, as efficient-kan computes them) for linear ones."""

    kind: Literal["kan"] = "kan"
    grid_size: PositiveInt = 3  # intervals; the thesis says 3 and order 5, its code has 3 and 3
    spline_order: Annotated[int, Field(ge=0, le=8)] = 3
    layers: Literal["both", "intermediate"] | None = None  # null: both in gpt_neo, the first in roberta, as the study
    regularization: NonNegative = 0.0  # weight of the L1 and entropy loss


class MoE(Settings):
    """Mixture of experts with a noisy top-k gate (Shazeer et al. 2017, arXiv:1701.06538)."""

    kind: Literal["moe"] = "moe"
    num_experts: PositiveInt = 4
    top_k: PositiveInt = 2
    expert_size: PositiveInt | None = None  # null: as many parameters as the dense module
    balance_loss: NonNegative = 0.01  # weight of CV^2, the experts' uneven share

    @model_validator(mode="after")
    def _enough_experts(self) -> MoE:
        return _at_most(self, "top_k", self.top_k, "num_experts", self.num_experts)


class Controller(Settings):
    """One unit of each block, chosen by a low-rank controller (Jaszczur et al. 2021, arXiv:2111.12763)."""

    kind: Literal["controller"] = "controller"
    num_blocks: PositiveInt = 64
    rank: PositiveInt | None = None  # of the controller; null: hidden_size / num_blocks
    size: PositiveInt | None = None  # units in all; null: as many parameters as the dense module
    temperature: Annotated[float, Field(gt=0)] = 0.1  # of Gumbel's softmax, in training

    @model_validator(mode="after")
    def _whole_blocks(self) -> Controller:
        if self.size is not None and self.size % self.num_blocks:
            raise ValueError(f"size {self.size} is not a multiple of num_blocks {self.num_blocks}")
        return self


class ProductKey(Settings):
    """A memory of num_subkeys^2 values, addressed by pairs of sub-keys (Lample et al. 2019, arXiv:1907.05242)."""

    kind: Literal["pkm"] = "pkm"
    top_k: PositiveInt = 28  # of the sub-keys of each half, and of the memory
    num_subkeys: PositiveInt | None = None  # null: as many parameters as the dense module
    num_heads: PositiveInt = 4
    query_size: Annotated[int, Field(gt=0, multiple_of=2)] = 1024  # of each head
    study_values: bool = False  # read the values as the study's code does, which is not as the paper


FeedForward = Annotated[Dense | KAN | MoE | Controller | ProductKey, Field(discriminator="kind")]
FEED_FORWARD: dict[str, type[Settings]] = {
    "dense": Dense, "kan": KAN, "moe": MoE, "controller": Controller, "pkm": ProductKey,
}  # fmt: skip
SPARSE = (MoE, Controller, ProductKey)
# What a sparse module may have between its layers; the first is the default, that of its paper.
SPARSE_ACTIVATIONS = {
    "moe": ("relu", "gelu", "silu", "none"),
    "controller": ("relu", "gelu", "silu", "none"),
    "pkm": ("none",),
}


class Sharing(Settings):
    """Layers that share all their parameters, norms included (Takase & Kiyono 2021, arXiv:2104.06022, section 3)."""

    strategy: Literal["seq", "cycle", "cycle_rev"]
    unique_layers: PositiveInt


# -- the families -----------------------------------------------------------------------------------------------------


class Architecture(Settings):
    """What GPT-Neo and RoBERTa have. A family says of itself what `Brainformer` says, too: how it is trained, and the
    closed forms."""

    causal: ClassVar[bool]  # predicts each token from those before it

    hidden_size: PositiveInt = 512
    intermediate_size: PositiveInt = 1024  # a sparse module takes the size of the dense one, and has then its own units
    activation: Activation | None = None  # null: gelu; in a sparse module that of its paper
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
        ffn = self.ffn
        if isinstance(ffn, Dense) and ffn.depth == 1:
            self._resolve(intermediate_size=self.hidden_size)  # there is none, and no activation
            if self.activation not in (None, "none"):
                raise ValueError("ffn.depth 1 is one linear layer: it has no activation; leave it out or write none")
            self._resolve(activation="none")
        if isinstance(ffn, KAN) and ffn.layers is None:
            layers = "both" if isinstance(self, GPTNeo) else "intermediate"
            self._resolve(ffn=ffn.model_copy(update={"layers": layers}))
        if isinstance(ffn, SPARSE):
            whole = sized(ffn, self.hidden_size, self.intermediate_size)
            self._resolve(ffn=whole, intermediate_size=units(whole))
        if self.bias is False and not isinstance(ffn, Dense):
            raise ValueError(f"bias false is defined for dense feed-forward modules, not for {ffn.kind}")
        if self.initialization == "study" and isinstance(ffn, (Controller, ProductKey)):
            raise ValueError(f"initialization study is that of dense, kan and moe; {ffn.kind} has family only")
        stock = isinstance(ffn, Dense) and self.activation in (None, "gelu", "relu", "silu")
        if self.initialization == "study" and stock:
            raise ValueError("initialization study: the study's gelu, relu and silu were drawn as the family's")

    def _resolve_activation(self) -> None:
        kind = self.ffn.kind
        allowed = SPARSE_ACTIVATIONS.get(kind, ACTIVATIONS)
        if self.activation is None:
            self._resolve(activation=allowed[0])
        if self.activation not in allowed:
            raise ValueError(f"activation {self.activation} cannot be used in {kind}, only {', '.join(allowed)}")
        if self.activation in GATED and kind == "kan":
            raise ValueError(f"activation {self.activation} gates linear layers, which kan replaces")
        if self.activation in LEARNABLE:
            self._resolve(
                activation_parameters=self.activation_parameters or "per_unit",
                activation_init=LEARNABLE[self.activation] if self.activation_init is None else self.activation_init,
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
            bias=True if self.bias is None and isinstance(self, Roberta) else self.bias,
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
        """Of an untrained model: a LayerNorm's output times weights N(0, 0.02)."""
        return self.hidden_size * 0.02**2

    @property
    def initial_loss_slack(self) -> float:
        return 0.0

    @property
    def micro_batch_is_free(self) -> bool:
        """Whether a step comes out the same however it is cut. A mixture of experts balances its load, and a
        product-key memory normalizes its queries, over a micro-batch."""
        return self.ffn.kind not in ("moe", "pkm")

    @property
    def same_shapes(self) -> bool:
        """Whether every pass computes the same; sparse modules go by their tokens."""
        return self.ffn.kind == "dense"

    @property
    def embedding_parameters(self) -> int:
        return (self.vocab_size + self.max_position_embeddings) * self.hidden_size  # type: ignore[attr-defined]

    @property
    def attention_parameters(self) -> int:
        return _modules(self, unique=True)[0] * (_attention_parameters(self) + 2 * self.hidden_size)

    @property
    def feed_forward_parameters(self) -> int:
        return _modules(self, unique=True)[1] * (_feed_forward_parameters(self) + 2 * self.hidden_size)

    @property
    def head_parameters(self) -> int:
        return 2 * self.hidden_size

    @property
    def head_weights(self) -> int:
        """That one token is multiplied with; the tied output embedding is counted as the product it is."""
        return self.hidden_size * self.vocab_size

    def weights_per_token(self, *, training: bool) -> float:
        """That one token is multiplied with, the head's left out. In training a controller's layers are dense and a
        MoE's gate has noise."""
        attention, feed_forward = _modules(self, unique=False)
        return attention * _attention_weights(self) + feed_forward * _feed_forward_weights(self, training=training)

    @property
    def feed_forward_flops(self) -> int:
        """Of one feed-forward module and one token, in evaluation; counted as in `flops_per_token`."""
        return 2 * _feed_forward_weights(self, training=False)

    def score_flops(self, length: float) -> float:
        """Of one token's attention to so many keys, beside the weights."""
        assert self.qk_size
        assert self.v_size
        return 2 * _modules(self, unique=False)[0] * (self.qk_size + self.v_size) * length

    def kept_per_token(self, length: float) -> float:
        """Numbers that all layers keep of a token for the backward pass, about, in a text of this length."""
        scores = self.heads * length * (4 if self.dropout else 1)  # type: ignore[attr-defined]
        return self.layers * (16 * self.hidden_size + _units_per_token(self) + scores)

    def carried_per_row(self, length: float) -> float:  # noqa: ARG002
        """Numbers that go from one text to the next: none."""
        return 0.0

    @property
    def label(self) -> str:
        """What a model has that the stock one of its family has not, in short."""
        return _label(self)


class GPTNeo(Architecture):
    """A decoder. `gelu` is GPT-Neo's own, the tanh approximation (`gelu_new`)."""

    causal: ClassVar[bool] = True

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


AnyModel = GPTNeo | Roberta | Brainformer
FAMILIES: dict[str, type[GPTNeo] | type[Roberta] | type[Brainformer]] = {
    "gpt_neo": GPTNeo, "roberta": Roberta, "brainformer": Brainformer,
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


# -- sizes ------------------------------------------------------------------------------------------------------------


def dense_size(hidden: int, intermediate: int) -> int:
    """Parameters of the stock feed-forward module, biases included."""
    return 2 * hidden * intermediate + intermediate + hidden


def expert_size(hidden: int, intermediate: int, experts: int) -> int:
    """Units of each expert so that all of them, with the gate, have as many parameters as the dense module.

    E (2hI + I + h) + 2hE = dense. The study wrote (I - E) / E, rounded: 1023 of 4096 by either."""
    left = dense_size(hidden, intermediate) - 3 * hidden * experts
    return max(1, round(left / (experts * (2 * hidden + 1))))


def controller_size(hidden: int, intermediate: int, blocks: int, rank: int) -> int:
    """Units, a multiple of the blocks, so that they and the controller have as many parameters as the dense module.

    I (2h + 1 + r) + h + hr = dense. The study left the biases out, h (32N - 1) / (2N + 1) for I = 16h: the same
    multiples."""
    left = dense_size(hidden, intermediate) - hidden - hidden * rank
    return max(1, round(left / (2 * hidden + 1 + rank) / blocks)) * blocks


def num_subkeys(hidden: int, intermediate: int, heads: int, query: int) -> int:
    """Sub-keys s, the positive root of h s^2 + heads query s + heads query (h + 2) = dense, rounded.

    Raises ValueError if there is none."""
    b, c = heads * query, heads * query * (hidden + 2) - dense_size(hidden, intermediate)
    if c >= 0:
        raise ValueError(
            f"ffn: queries of {heads} x {query} alone have more parameters than the dense module whose size the memory "
            "is to take: lower ffn.query_size, or say ffn.num_subkeys"
        )
    return max(1, round((math.sqrt(b * b - 4 * hidden * c) - b) / (2 * hidden)))


def units(ffn: MoE | Controller | ProductKey) -> int:
    """Of a sparse module with its sizes: hidden units, or values of a memory, in all."""
    if isinstance(ffn, MoE):
        return ffn.num_experts * (ffn.expert_size or 0)
    if isinstance(ffn, Controller):
        return ffn.size or 0
    return (ffn.num_subkeys or 0) ** 2


def sized(ffn: MoE | Controller | ProductKey, hidden: int, intermediate: int) -> MoE | Controller | ProductKey:
    """With every size that was left open, as many parameters as a dense module of `intermediate` units.

    Raises ValueError where that cannot be."""
    if isinstance(ffn, MoE):
        size = ffn.expert_size or expert_size(hidden, intermediate, ffn.num_experts)
        return ffn.model_copy(update={"expert_size": size})
    if isinstance(ffn, Controller):
        rank = ffn.rank or max(1, hidden // ffn.num_blocks)
        size = ffn.size or controller_size(hidden, intermediate, ffn.num_blocks, rank)
        return ffn.model_copy(update={"rank": rank, "size": size})
    subkeys = ffn.num_subkeys or num_subkeys(hidden, intermediate, ffn.num_heads, ffn.query_size)
    _at_most(ffn, "ffn.top_k", ffn.top_k, "ffn.num_subkeys", subkeys)
    return ffn.model_copy(update={"num_subkeys": subkeys})


def _at_most(settings: Any, name: str, value: int, limit_name: str, limit: int) -> Any:
    if value > limit:
        raise ValueError(f"{name} {value} is more than {limit_name} {limit}")
    return settings


# -- closed forms -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """Of a language model, tied embeddings counted once; a module's LayerNorm is counted with it."""

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
    """Of a forward pass: 2 per weight that a token is multiplied with (Kaplan et al. 2020, section 2.1).

    Left out are attention scores, which grow with the text, and whatever is done unit by unit."""
    return round(2 * (model.weights_per_token(training=training) + model.head_weights))


def training_flops(model: AnyModel, *, labelled: float, length: float) -> float:
    """Of one token, forward and backward, three times the forward pass (Kaplan et al. 2020, section 2.1).

    `labelled`: the share of tokens with a label, where alone the head is applied; `length`: how many keys a token's
    attention has on average, those that are masked included, as in the model FLOPs utilisation of Chowdhery et al. 2022
    (arXiv:2204.02311, appendix B)."""
    unlabelled = (1 - labelled) * 2 * model.head_weights
    return 3.0 * (flops_per_token(model, training=True) - unlabelled + model.score_flops(length))


def _units_per_token(model: Architecture) -> int:
    """Numbers that one feed-forward module keeps of a token for the backward pass, about."""
    ffn = model.ffn
    if isinstance(ffn, MoE):
        return 4 * ffn.top_k * (ffn.expert_size or 0)
    if isinstance(ffn, Controller):
        return 8 * (ffn.size or 0)
    if isinstance(ffn, ProductKey):
        return ffn.num_heads * (ffn.query_size + 16 * ffn.top_k)
    wide = 2 if model.activation in GATED else 1
    return (4 if isinstance(ffn, KAN) else 4 * wide * max(1, ffn.depth - 1)) * model.intermediate_size


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


def _feed_forward_parameters(model: Architecture) -> int:
    h, ffn = model.hidden_size, model.ffn
    if isinstance(ffn, MoE):
        assert ffn.expert_size
        return ffn.num_experts * (dense_size(h, ffn.expert_size) + 2 * h)
    if isinstance(ffn, Controller):
        assert ffn.size
        assert ffn.rank
        return dense_size(h, ffn.size) + ffn.rank * (h + ffn.size)
    if isinstance(ffn, ProductKey):
        assert ffn.num_subkeys
        query = ffn.num_heads * ffn.query_size
        return h * query + 2 * query + query * ffn.num_subkeys + h * ffn.num_subkeys**2
    if isinstance(ffn, KAN):
        coefficients = 2 + ffn.grid_size + ffn.spline_order  # base, scaler and the spline's
        linears = [(coefficients, 0), (coefficients, 0) if ffn.layers == "both" else (1, h)]
        sizes = h * model.intermediate_size
        return sum(times * sizes + bias for times, bias in linears) + _activation_parameters(model)
    shapes = _linears(model)
    biases = 0 if model.bias is False else sum(out for _, out in shapes)
    return sum(i * o for i, o in shapes) + biases + (ffn.depth - 1) * _activation_parameters(model)


def _linears(model: Architecture) -> list[tuple[int, int]]:
    """(in, out) of the linear layers of a dense module."""
    assert isinstance(model.ffn, Dense)
    h, size, wide = model.hidden_size, model.intermediate_size, 2 if model.activation in GATED else 1
    if model.ffn.depth == 1:
        return [(h, h)]
    return [(h, wide * size), *[(size, wide * size)] * (model.ffn.depth - 2), (size, h)]


def _activation_parameters(model: Architecture) -> int:
    if model.activation not in LEARNABLE:
        return 0
    return model.intermediate_size if model.activation_parameters == "per_unit" else 1


def _feed_forward_weights(model: Architecture, *, training: bool) -> int:
    """That one token is multiplied with."""
    h, ffn = model.hidden_size, model.ffn
    if isinstance(ffn, MoE):
        assert ffn.expert_size
        return (2 if training else 1) * h * ffn.num_experts + ffn.top_k * 2 * h * ffn.expert_size
    if isinstance(ffn, Controller):
        assert ffn.size
        assert ffn.rank
        return ffn.rank * (h + ffn.size) + 2 * h * (ffn.size if training else ffn.num_blocks)
    if isinstance(ffn, ProductKey):
        assert ffn.num_subkeys
        query = ffn.num_heads * ffn.query_size
        return h * query + query * ffn.num_subkeys + ffn.num_heads * ffn.top_k * h
    if isinstance(ffn, KAN):
        times = 1 + ffn.grid_size + ffn.spline_order
        return h * model.intermediate_size * (times + (times if ffn.layers == "both" else 1))
    return sum(i * o for i, o in _linears(model))


# -- names ------------------------------------------------------------------------------------------------------------


def _label(model: Architecture) -> str:
    h, ffn = model.hidden_size, model.ffn
    words = [_feed_forward_label(model)]
    if isinstance(ffn, Dense) and ffn.depth != 2:
        words.append(f"depth{ffn.depth}")
    if model.activation in LEARNABLE and model.activation_parameters == "one":
        words.append("one")
    if model.activation in LEARNABLE and model.activation_init != LEARNABLE[model.activation]:
        words.append(f"init{model.activation_init:g}")
    words += [f"{name}{size}" for name, size in (("qk", model.qk_size), ("v", model.v_size)) if size != h]
    if model.num_key_value_heads != model.heads:
        words.append(f"{model.num_key_value_heads}KV")
    if model.bias is not (True if isinstance(model, Roberta) else None):
        words.append("bias" if model.bias else "nobias")
    if model.order:
        words.append(model.order)
    if model.sharing:
        words.append(f"{model.sharing.strategy}{model.sharing.unique_layers}")
    if model.initialization == "study":
        words.append("studyinit")
    return "-".join(words)


def _feed_forward_label(model: Architecture) -> str:
    ffn, activation = model.ffn, str(model.activation)
    if isinstance(ffn, Dense):
        return activation
    if isinstance(ffn, KAN):
        name, usual = f"kan_g{ffn.grid_size}k{ffn.spline_order}", "gelu"
    elif isinstance(ffn, MoE):
        name, usual = f"moe{ffn.num_experts}k{ffn.top_k}", "relu"
    elif isinstance(ffn, Controller):
        name, usual = f"cnt{ffn.num_blocks}", "relu"
    else:
        name, usual = f"pkm{ffn.num_subkeys}k{ffn.top_k}{'study' if ffn.study_values else ''}", "none"
    return name if activation == usual else f"{name}-{activation}"
