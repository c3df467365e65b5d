"""What the stage interpret has found inside a model: insides.json in a run's folder, checked where it is read.

docs/interpret.md defines every number. A place is where a module is applied: of layers that share their weights each
is one, and `weights` says which of them have the same. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tiny_transformers.common.files import whole_file

INSIDES = "insides.json"  # in a run's folder
# A weight of attention is one of these letters, from 0 to 1 in even steps: pictures are drawn of them.
LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Place(Record):
    layer: int  # the block's place, from 1
    weights: int  # the block's number among those with weights of their own, from 1
    application: int  # of this kind of module in the model, from 1


class Module(Record):
    place: Place


class Head(Record):
    """Means over the queries that see more than one key."""

    distance: float  # positions from the query to what it attends to
    entropy: float  # nats
    relative_entropy: float  # of the logarithm of the number of keys
    first: float  # weight of the text's first token,
    previous: float  # of the token before the query's,
    same: float  # of the query's own,
    following: float  # and of the one after it, which only an encoder sees


class Attention(Module):
    heads: list[Head]


class Picture(Record):
    """The weights of all heads on one text of T tokens."""

    tokens: list[str]
    weights: list[list[str]]  # of each attention, of each head T * T LEVELS: a row a query


class Token(Record):
    token: str
    share: float


class Context(Record):
    before: str
    token: str
    after: str
    value: float


class Part(Record):
    """A unit, an expert or a value of a memory."""

    number: int
    selectivity: float  # of the part's energy, the largest share that one token has
    tokens: list[Token]
    contexts: list[Context]


class FeedForward(Module):
    kind: Literal["unit", "expert", "value"]  # of what its parts are
    parts: int
    threshold: float  # a part is active where its absolute value is above it
    never_active: float  # share of its parts
    active: float  # share of its parts that are at a token, on average
    effective: float  # exp(entropy of how often each is active) / parts: 1 if all are as often
    usage: list[float]  # experts alone: the share of tokens that each computes
    shown: list[Part]


class Lens(Record):
    """What the model would say if a state were its last one."""

    agreement: float  # share of positions at which that is what it says in the end
    rank: float  # of what it says in the end, from 1, on average
    divergence: float  # KL(in the end || here), nats


class Layers(Record):
    """States: the embeddings, then what comes out of each block."""

    similarity: list[list[float]]  # linear CKA of each state with each
    cosine: list[float]  # of a position's states before and after each block
    lens: list[Lens]  # of each state
    depth: float  # the share of the blocks after which what it says in the end stands, on average
    compared: int  # positions whose states were
    positions: int  # at which it says something


class Continuation(Record):
    beginning: str
    greedy: str
    sampled: str


class Blank(Record):
    before: str
    word: str  # that was masked
    after: str
    candidates: list[Token]  # the likeliest, with their probabilities


class Insides(Record):
    causal: bool
    characters: bool  # whether a token is a character
    texts: int
    tokens: int  # of these texts
    attentions: list[Attention]
    pictures: list[Picture]
    feed_forwards: list[FeedForward]
    layers: Layers
    continuations: list[Continuation]
    blanks: list[Blank]

    @model_validator(mode="after")
    def _sizes_agree(self) -> Insides:
        """So that who shows it need not look."""
        of, heads = self.layers, [len(each.heads) for each in self.attentions]
        states = len(of.cosine) + 1
        right = len(of.lens) == len(of.similarity) == states and all(len(row) == states for row in of.similarity)
        right &= all(each.kind != "expert" or len(each.usage) == each.parts for each in self.feed_forwards)
        right &= all(part.number < each.parts for each in self.feed_forwards for part in each.shown)
        for each in self.pictures:
            right &= [len(letters) for letters in each.weights] == heads
            lengths = {len(letters) for of_heads in each.weights for letters in of_heads}
            right &= lengths <= {len(each.tokens) ** 2}
        if not right:
            raise ValueError("numbers of layers, heads, parts or tokens do not agree")
        return self


def write(path: Path, insides: Insides) -> None:
    with whole_file(path) as draft:
        draft.write_text(insides.model_dump_json(), encoding="utf-8")


def read(path: Path) -> Insides | None:
    """Return what a run's file says; None where there is none, or one that is not as it should be."""
    try:
        return Insides.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
