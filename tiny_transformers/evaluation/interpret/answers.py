"""What a model says: a decoder goes on with the beginnings of texts, an encoder fills in masked words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tiny_transformers.common.insides import Blank, Continuation, Token
from tiny_transformers.evaluation.interpret.texts import Sentence, around_blank
from tiny_transformers.layers.noise import set_seed

CANDIDATES = 5  # of a masked word


def continued(
    model: Any, tokenizer: Any, beginnings: Sequence[Sequence[int]], new_tokens: int, seed: int
) -> list[Continuation]:
    """Each greedily, and sampled from all tokens as likely as they are, until </s> or so many new ones. The random
    state is left as it was."""
    made: dict[int, Continuation] = {}
    with torch.random.fork_rng():
        for length in dict.fromkeys(map(len, beginnings)):  # together, since nothing has to be padded
            places = [place for place, ids in enumerate(beginnings) if len(ids) == length]
            given = torch.tensor([list(beginnings[place]) for place in places], device=model.device)
            greedy = _continuations(model, tokenizer, given, new_tokens, do_sample=False)
            set_seed(seed + places[0])  # else all would be drawn by the same numbers
            sampled = _continuations(model, tokenizer, given, new_tokens, do_sample=True, top_k=0, temperature=1.0)
            for place, *texts in zip(places, greedy, sampled, strict=True):
                beginning = tokenizer.decode(beginnings[place], skip_special_tokens=True)
                made[place] = Continuation(beginning=beginning, greedy=texts[0], sampled=texts[1])
    return [made[place] for place in range(len(beginnings))]


def _continuations(model: Any, tokenizer: Any, given: Tensor, new_tokens: int, **how: Any) -> list[str]:
    """given: (B, T)"""
    length = given.shape[1]
    room = (getattr(model.config, "max_position_embeddings", None) or 2**31) - length
    how |= {"pad_token_id": model.config.pad_token_id or 0, "max_new_tokens": min(new_tokens, room)}
    whole = model.generate(given, attention_mask=torch.ones_like(given), **how)
    texts: list[str] = tokenizer.batch_decode(whole[:, length:], skip_special_tokens=True)
    return texts


def filled(model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> list[Blank]:
    """The likeliest tokens for the one masked word of each, with their probabilities."""
    blanks = []
    for sentence in sentences:
        ids, at = around_blank(tokenizer, sentence)
        states = model.base_model(input_ids=torch.tensor([ids], device=model.device))[0][0, at]
        best = model.lm_head(states).float().softmax(-1).topk(CANDIDATES)
        candidates = [
            Token(token=tokenizer.decode([token]).strip(), share=round(probability, 4))
            for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        blanks.append(Blank(before=sentence.before, word=sentence.word, after=sentence.after, candidates=candidates))
    return blanks
