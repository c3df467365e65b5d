"""The stage interpret: what is inside a trained model of any family, as one small file of a run.

The sample is read once with everything listened to, batch by batch, and nothing of a batch is kept but sums, the
strongest places of each unit and the states of a few thousand positions. An encoder reads it once more with masks,
since it says something at masked positions only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiny_transformers.common import insides
from tiny_transformers.common.insides import INSIDES, Insides, Layers
from tiny_transformers.common.work import CheckFailed, Interrupted, Outcome, Score, Work
from tiny_transformers.evaluation import scoring
from tiny_transformers.evaluation.interpret import answers, heads, layers, parts, texts
from tiny_transformers.evaluation.interpret.heads import Heads
from tiny_transformers.evaluation.interpret.layers import POSITIONS, States
from tiny_transformers.evaluation.interpret.parts import Parts, Vocabulary
from tiny_transformers.evaluation.interpret.texts import Texts
from tiny_transformers.evaluation.interpret.watching import Listener, look
from tiny_transformers.models import auto
from tiny_transformers.settings.stage.interpret import Interpret
from tiny_transformers.training import device

WEIGHTS = 2**24  # of one attention, of all heads, that exist at once
MASKED = 0.15  # of an encoder's tokens, all of which are replaced by <mask>
LONGER = 3  # times as many characters as tokens go on with a beginning


def run(work: Work) -> Outcome:
    """Look inside the model of `work.model_dir`, and write `insides.json` into the run's folder."""
    where, settings, began = device.pick_device(work.has_gpu), work.config.evaluation.of(Interpret), time.monotonic()
    read = texts.read(work)
    model: Any = auto.load_lm(work.model_dir)
    model.to(where)
    with scoring.evaluating(model, work.config.evaluation.precision):
        found = inspect(model, read, settings, work)
    path = work.run_dir / INSIDES
    insides.write(path, found)
    scores = summarise(found)
    for score in scores:
        print(f"{score.task + ' ' + score.metric:32}{score.value:10.4f}{score.n:9}")
    return Outcome(
        scores=scores,
        metrics={
            "seconds": time.monotonic() - began,
            "bytes": path.stat().st_size,
            "peak_memory_mb": device.peak_memory_mb(),
        },
        data=read.data,
    )


def inspect(model: Any, read: Texts, settings: Interpret, work: Work) -> Insides:
    """All that there is to tell of a model that is evaluating. Raises CheckFailed if its states are no numbers."""
    of_heads, states = Heads(), States()
    of_parts = Parts(Vocabulary(read.sample, read.special), parts.threshold_share(model.config))
    listener = Listener(attention=of_heads.add, parts=of_parts.add, state=states.add)
    causal = work.config.model.causal
    stride = -(-sum(map(len, read.sample)) // POSITIONS)
    share = 0.5 if causal else 0.4
    for rows, ids, real, done in _batches(model, read.sample):
        _go_on(work, share * done, "reading")
        of_heads.begin(real)
        of_parts.begin(ids, real, rows)
        states.begin(real, _every(real, stride))
        if not torch.isfinite(look(model, listener, ids, real)).all():
            raise CheckFailed("a state is not a finite number: the model's training diverged")
    foretelling = states if causal else _masked(model, read, settings.seed, work)
    _go_on(work, 0.8, "comparing layers")
    described: Layers = layers.described(model, states, foretelling)
    _go_on(work, 0.9, "asking the model")
    new_tokens = settings.new_tokens * (LONGER if read.are_characters else 1)
    return Insides(
        causal=causal,
        characters=read.are_characters,
        texts=len(read.sample),
        tokens=sum(map(len, read.sample)),
        attentions=of_heads.found(),
        pictures=heads.pictures(model, read.shown, [[read.name(token) for token in text] for text in read.shown]),
        feed_forwards=of_parts.found(settings.units, read.name, read.context),
        layers=described,
        continuations=answers.continued(model, read.tokenizer, read.beginnings, new_tokens, settings.seed),
        blanks=[] if causal else answers.filled(model, read.tokenizer, texts.sentences()),
    )


def summarise(found: Insides) -> list[Score]:
    """The few figures of a run that stand for the rest: means over heads and over modules."""
    every = [head for attention in found.attentions for head in attention.heads]
    scores = []
    if every:  # a Linformer's look at no positions
        scores = [
            Score("heads", name, sum(getattr(head, name) for head in every) / len(every), found.tokens)
            for name in heads.FIGURES
            if name != "following" or not found.causal
        ]
        scores.append(Score("heads", "previous_most", max(head.previous for head in every), found.tokens))
    for kind in dict.fromkeys(each.kind for each in found.feed_forwards):
        alike = [each for each in found.feed_forwards if each.kind == kind]
        for name in ("never_active", "active", "effective"):
            value = sum(getattr(each, name) for each in alike) / len(alike)
            scores.append(Score(f"{kind}s", name, value, found.tokens))
    of = found.layers
    scores.append(Score("layers", "first_last_similarity", of.similarity[0][-1], of.compared))
    scores.append(Score("layers", "successive_cosine", sum(of.cosine) / len(of.cosine), found.tokens))
    scores.append(Score("layers", "lens_depth", of.depth, of.positions))
    return scores


def _masked(model: Any, read: Texts, seed: int, work: Work) -> States:
    """An encoder's states at masked positions, up to POSITIONS of them."""
    states, draw = States(), torch.Generator().manual_seed(seed)
    listener = Listener(state=states.add)
    mask, left = read.tokenizer.mask_token_id, POSITIONS
    for _, ids, real, done in _batches(model, read.sample):
        _go_on(work, 0.4 + 0.4 * done, "reading with masks")
        special = torch.tensor(sorted(read.special), device=ids.device)
        chosen = (torch.rand(ids.shape, generator=draw) < MASKED).to(ids.device) & real & ~torch.isin(ids, special)
        chosen &= chosen.flatten().cumsum(0).view_as(chosen) <= left
        left -= int(chosen.sum())
        states.begin(real, chosen)
        look(model, listener, ids.masked_fill(chosen, mask), real)
    return states


def _batches(model: Any, sample: list[list[int]]) -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
    """Numbers of texts (B,), their ids and which of them are real, (B, T) each, and the share done with them."""
    lengths = np.array([len(text) for text in sample])
    of_heads = max(1, getattr(model.config, "num_attention_heads", 1))
    most = min(scoring.budget(model), WEIGHTS // (of_heads * int(lengths.max())))
    for rows, done in scoring.batches(lengths, most):
        ids, real = scoring.padded([sample[row] for row in rows], model)
        yield *(device.carried(each, model.device) for each in (rows, ids, real)), done


def _every(real: Tensor, stride: int) -> Tensor:
    """Every so many of the positions that are no padding. (B, T) -> (B, T)"""
    number = real.flatten().cumsum(0).view_as(real) - 1
    return real & (number % stride == 0)


def _go_on(work: Work, done: float, what: str) -> None:
    if work.should_stop():
        raise Interrupted
    work.progress(done, what)
