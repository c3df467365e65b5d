"""A Brainformer is described by its settings, checked, and what follows from them in closed form. No torch here.

Brainformer-SMOE: a post-LN transformer that reads a stream of characters in blocks, remembers what it computed of those
before, and has sparse mixtures of experts among its modules. The modules themselves are in brainformer.py."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from tiny_transformers.settings.base import NonNegative, Probability, Settings, Share
from tiny_transformers.settings.order import groups

# What a gate computes of its own: none (hash, which needs no weights), logits with a bias, or logits and their noise.
BALANCED = ("noisy", "gshard", "switch", "balanced")  # gates with a loss that evens out the experts' load
CHUNK = 64  # queries that see one window of keys; layers/span_attention.py, where it was chosen
ALIGNED = 8  # scores by position are so many times a whole number, which tensor cores want
CAPACITY = ("gshard", "switch")  # gates that drop tokens beyond an expert's capacity
Gate = Literal["naive", "noisy", "gshard", "switch", "balanced", "hash", "random", "dense"]


class Experts(Settings):
    """The mixture of experts of every g. Which of them compute a token is the gate's to say: docs/models.md."""

    num_experts: PositiveInt = 16
    gate: Gate = "naive"
    top_k: PositiveInt | None = None  # of a token; null: 2, with switch 1, random 8, dense all
    last_top_k: PositiveInt | None = None  # random: to which top_k grows in the course of training; null: num_experts
    balance_loss: NonNegative | None = None  # weight of the loss of gates that have one; null: 0.01
    capacity: Annotated[float, Field(gt=0)] | None = None  # of an expert, in even shares; null: 1.2

    @model_validator(mode="after")
    def _resolve_gate(self) -> Experts:
        gate = self.gate
        usual = min(self.num_experts, {"switch": 1, "random": 8, "dense": self.num_experts}.get(gate, 2))
        self._resolve(top_k=self.top_k or usual)
        for name, owners, default in (
            ("last_top_k", ("random",), self.num_experts),
            ("balance_loss", BALANCED, 0.01),
            ("capacity", CAPACITY, 1.2),
        ):
            if gate in owners and getattr(self, name) is None:
                self._resolve(**{name: default})
            elif gate not in owners and getattr(self, name) is not None:
                raise ValueError(f"{name} is of {', '.join(owners)}; leave it out with gate {gate}")
        assert self.top_k
        if gate in ("switch", "gshard", "dense") and self.top_k != usual:
            raise ValueError(f"gate {gate} has top_k {usual}: leave it out")
        last = self.last_top_k or self.top_k
        if not self.top_k <= last <= self.num_experts:
            raise ValueError(f"top_k {self.top_k} to {last} does not lie within the {self.num_experts} experts")
        return self

    def top_k_at(self, fraction: float) -> int:
        """Return the experts of a token when this part of the training is done: whole ones more, up to the last."""
        assert self.top_k
        return self.top_k + math.floor(((self.last_top_k or self.top_k) - self.top_k) * fraction)

    @property
    def computed(self) -> float:
        """Experts that compute a token, on average over the training."""
        assert self.top_k
        return (self.top_k + (self.last_top_k or self.top_k)) / 2


class AdaptiveSpan(Settings):
    """Every head learns how far it looks back (Sukhbaatar et al. 2019, arXiv:1905.07799)."""

    ramp: PositiveInt = 32  # positions over which the mask falls from 1 to 0
    init: Share = 0.0  # of attn_span, where heads begin
    loss: NonNegative = 5e-7  # weight, times attn_span, of a head's share of it, on average; summed over groups


class Brainformer(Settings):
    """A decoder of characters. A layer is a group of modules that its order names."""

    causal: ClassVar[bool] = True
    positions: ClassVar[int | None] = None  # relative: a text has any length
    same_shapes: ClassVar[bool] = False  # passes go by their tokens, and by how far heads look

    family: Literal["brainformer"] = "brainformer"
    order: str = "sgfgfg.sgfgfg"  # s, f, g in groups; docs/brainformers.md has the grammar
    reading: Literal["code", "readme"] = "code"  # of order; recorded is always the code's
    hidden_size: PositiveInt = 256
    intermediate_size: PositiveInt = 256  # of f, and of each expert
    num_heads: PositiveInt = 8
    attn_span: PositiveInt = 2_048  # positions before its own that a head can see
    adaptive_span: AdaptiveSpan | None = AdaptiveSpan()  # null: every head sees all of attn_span
    experts: Experts = Experts()
    dropout: Probability = 0.0
    tie_word_embeddings: bool = False
    vocab_size: PositiveInt = 205  # different bytes in enwik8; 27 in text8

    @model_validator(mode="after")
    def _resolve_order(self) -> Brainformer:
        self._resolve(order=".".join(groups(self.order, self.reading)), reading="code")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if "g" not in self.order and self.experts != Experts():
            raise ValueError(f"order {self.order} has no g, so experts would count for nothing: leave them out")
        return self

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.order.split("."))

    @property
    def layers(self) -> int:
        return len(self.groups)

    @property
    def heads(self) -> int:
        return self.num_heads

    @property
    def applied(self) -> dict[str, int]:
        """How often each kind of module is applied in a forward pass."""
        return {letter: self.order.count(letter) for letter in "sfg"}

    @property
    def initial_logit_variance(self) -> float:
        """Return the variance of an untrained model's logits: the last LayerNorm's output times weights, U(+-1/sqrt(h))
        or, tied, N(0, 1/h) of the embedding; the bias is U(+-1/sqrt(h)), too."""
        return (1.0 if self.tie_word_embeddings else 1 / 3) + 1 / (3 * self.hidden_size)

    @property
    def initial_loss_slack(self) -> float:
        """Nats that the first loss may be higher than these variances say: a tied model of few layers foretells the
        character that it has just read, whose embedding is in the residual, by a logit of up to sqrt(h)."""
        return math.sqrt(self.hidden_size) if self.tie_word_embeddings else 0.0

    def scheduled(self, fraction: float) -> dict[str, float]:
        """Return what a pass uses when this part of the training is done, of what changes in its course."""
        growing = "g" in self.order and self.experts.last_top_k
        return {"experts_per_token": float(self.experts.top_k_at(fraction))} if growing else {}

    # --- closed forms

    @property
    def embedding_parameters(self) -> int:
        """The characters', and the keys of relative positions, which all heads and layers share."""
        return self.vocab_size * self.hidden_size + self.hidden_size // self.num_heads * self.attn_span

    @property
    def attention_parameters(self) -> int:
        h = self.hidden_size
        spans = self.num_heads if self.adaptive_span else 0
        return self._existing("s") * (4 * h * h + 2 * h + spans)

    @property
    def feed_forward_parameters(self) -> int:
        h, gate = self.hidden_size, self.experts.gate
        block = 2 * h * self.intermediate_size + self.intermediate_size + h
        experts = self.experts.num_experts
        of_gate = {"hash": 0, "noisy": 2 * h * experts}.get(gate, (h + 1) * experts)
        return self._existing("f") * (block + 2 * h) + self._existing("g") * (experts * block + of_gate + 2 * h)

    @property
    def head_parameters(self) -> int:
        """A bias, and weights unless they are the embedding's."""
        return self.vocab_size * (1 if self.tie_word_embeddings else 1 + self.hidden_size)

    @property
    def head_weights(self) -> int:
        """That one character is multiplied with."""
        return self.hidden_size * self.vocab_size

    def weights_per_token(self, *, training: bool) -> float:
        """That one character is multiplied with, the head's left out; a growing top_k is in training that of its
        middle, else its last."""
        applied, of_each = self.applied, self._module_weights(training=training)
        return sum(applied[letter] * of_each[letter] for letter in "sfg")

    @property
    def feed_forward_flops(self) -> int:
        """Return the FLOPs of the g, or else the f, of the first group that has one, for one character, in
        evaluation."""
        first = next(group for group in self.groups if set(group) & set("fg"))
        return round(2 * self._module_weights(training=False)["g" if "g" in first else "f"])

    def _module_weights(self, *, training: bool) -> dict[str, float]:
        """That one character is multiplied with in a module of each kind."""
        h, experts = self.hidden_size, self.experts
        dense = 2 * h * self.intermediate_size
        computed = experts.computed if training else (experts.last_top_k or experts.top_k or 0)
        # Noise has weights of its own; those of random have no gradient; dense weighs biases in a product, too.
        gates = {"hash": 0, "noisy": 2 if training else 1, "random": 2 / 3 if training else 1, "dense": 2}
        gate = h * experts.num_experts * gates.get(experts.gate, 1)
        return {"s": 4 * h * h, "f": dense, "g": computed * dense + gate}

    @property
    def expected_keys(self) -> float:
        """Positions whose keys a character meets. How far heads that learn it will look is a guess until it is
        measured: the ramp, and a quarter of what they could."""
        return self.attn_span / 4 + self.adaptive_span.ramp if self.adaptive_span else self.attn_span

    def score_flops(self, length: float) -> float:
        """Return the FLOPs of one character's attention to so many keys, beside the weights: scores by content and by
        position, and the weighted sum. A chunk of queries has one window, of the keys that any of them sees."""
        window = length + CHUNK
        by_position = ALIGNED * math.ceil((window + 1) / ALIGNED)
        return 2.0 * self.applied["s"] * self.hidden_size * (2 * window + by_position)

    def kept_per_token(self, length: float) -> float:
        """Numbers that all layers keep of a character for the backward pass, about, if it meets so many keys."""
        h, applied, experts = self.hidden_size, self.applied, self.experts
        scores = self.num_heads * (length + CHUNK)  # of one kind, of one attention
        chosen = max(experts.top_k or 0, experts.last_top_k or 0)
        in_flight = 2 * scores  # of the attention whose gradients are being computed
        return (
            applied["s"] * (10 * h + scores * (5 if self.dropout else 2))
            + applied["f"] * (4 * h + 2 * self.intermediate_size)
            + applied["g"] * (4 * h + 8 * experts.num_experts + chosen * (2 * self.intermediate_size + 2 * h))
            + in_flight
        )

    def carried_per_row(self, length: float) -> float:
        """Numbers that go from one block of a row to the next: so many inputs of every application of attention."""
        return self.applied["s"] * self.hidden_size * length

    @property
    def utilisation(self) -> float:
        """Return the share of a GPU's peak that training reaches, as estimated: experts are many small products."""
        return 0.08

    @property
    def micro_batch_is_free(self) -> bool:
        """Whether a step comes out the same however it is cut: no gate evens out, or limits, the load of a part."""
        return "g" not in self.order or self.experts.gate not in BALANCED

    @property
    def label(self) -> str:
        """Return in short what a model has that `Brainformer()` has not; its order first."""
        experts, stock = self.experts, type(self).model_fields
        words = [_repeated(self.groups)]
        if "g" in self.order:
            k = f"{experts.top_k}" + (f"to{experts.last_top_k}" if experts.last_top_k else "")
            words.append(f"{experts.gate}{experts.num_experts}k{k}")
            if experts.balance_loss not in (None, 0.01):
                words.append(f"balance{experts.balance_loss:g}")
            if experts.capacity not in (None, 1.2):
                words.append(f"capacity{experts.capacity:g}")
        if self.attn_span != stock["attn_span"].default:
            words.append(f"span{self.attn_span}")
        if not self.adaptive_span:
            words.append("fixedspan")
        elif self.adaptive_span != AdaptiveSpan():
            span = self.adaptive_span
            words.append(f"adaptive{span.ramp}r{span.init:g}i{span.loss:g}l")
        if self.tie_word_embeddings:
            words.append("tied")
        return "-".join(words)

    def _existing(self, letter: str) -> int:
        """Modules of a kind: one in each group that names it."""
        return sum(letter in group for group in self.groups)


def _repeated(groups: tuple[str, ...]) -> str:
    """Groups that follow each other, counted: sgfgfg, sgfgfg -> 2xsgfgfg."""
    runs: list[list[str]] = []
    for group in groups:
        if runs and runs[-1][0] == group:
            runs[-1].append(group)
        else:
            runs.append([group])
    return ".".join(f"{len(run)}x{run[0]}" if len(run) > 1 else run[0] for run in runs)
