"""A model is described by its settings, checked, and what follows from them in closed form. No torch here.

A default that depends on other settings is written `null` and resolved when the settings are checked, so equal
models have equal settings, and a size that a rule gave is recorded. Of two ways to write one model, one is refused
or becomes the other. GPT-Neo, RoBERTa and Llama are here, Brainformers in brainformer_architecture.py, what a kind of
feed-forward module is in feed_forward/; the modules themselves are in models/ and layers/."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveInt

from tiny_transformers.settings.base import Probability
from tiny_transformers.settings.brainformer_architecture import Brainformer
from tiny_transformers.settings.feed_forward.kind import plain_units
from tiny_transformers.settings.program import Program
from tiny_transformers.settings.recurrence import Recurrence
from tiny_transformers.settings.transformer import Architecture


class GPTNeo(Architecture):
    """A decoder. `gelu` is GPT-Neo's own, the tanh approximation (`gelu_new`)."""

    causal: ClassVar[bool] = True
    heads_name: ClassVar[str] = "num_heads"
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
    heads_name: ClassVar[str] = "num_attention_heads"
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
        return h * h + h + 2 * h + self.vocab_size + self._halting_parameters

    @property
    def head_weights(self) -> int:
        return super().head_weights + self.hidden_size * self.hidden_size


class Llama(Architecture):
    """A decoder of today: rotary positions, RMSNorm, no biases, gated feed-forward modules. `gelu` is GPT-Neo's."""

    causal: ClassVar[bool] = True
    heads_name: ClassVar[str] = "num_attention_heads"
    stock_bias: ClassVar[bool | None] = False
    norm_vectors: ClassVar[int] = 1  # RMSNorm only scales

    family: Literal["llama"] = "llama"
    num_hidden_layers: PositiveInt = 2
    num_attention_heads: PositiveInt = 4
    max_position_embeddings: PositiveInt = 512
    dropout: Probability = 0.0  # of attention's weights alone, as Hugging Face's Llama has it

    def _resolve_recurrence(self, recurrence: Recurrence) -> None:  # noqa: ARG002
        raise ValueError("recurrence adds its signal where positions are embedded, and Llama's are not")

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
