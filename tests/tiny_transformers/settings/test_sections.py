"""What follows from some sections alone is kept while they are the same objects, and is what it would be otherwise."""

import random

import pytest

from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.sections import by_sections
from tiny_transformers.settings.stages import STAGES

GPT, BERT, CHARACTERS = {"family": "gpt_neo"}, {"family": "roberta"}, {"family": "brainformer"}
STORIES = [{}, {"source": "builtin"}, {"max_length": 64}]
TRAINING = [{}, {"max_steps": 3}, {"budget": {"tokens": 1_000_000}}, {"evaluations": 2, "anchors": [0.5]}]
EVALUATION = [{}, {"limit": 50}, {"superglue": {"epochs": 2, "seeds": 3}}, {"superglue": {"edition": "babylm_2026"}}]
SIZES = {
    "TinyStoriesV2-GPT4-valid.txt": 1_000_000, "char/text8.txt": 1_000_000,
    "filter-data/blimp_filtered/ellipsis.json": 33_000, "filter-data/glue_filtered/cola.train.json": 28_000,
}  # fmt: skip


def drawn(seed):
    """Settings in the order of a grid, or in any: neighbours share sections, as objects or by their content."""
    draw = random.Random(seed)
    stories = [
        RunConfig(
            model=draw.choice([GPT, BERT]) | {"intermediate_size": 256 + number},
            data=draw.choice(STORIES), train=draw.choice(TRAINING), evaluation=draw.choice(EVALUATION),
        )
        for number in range(12)
    ]  # fmt: skip
    streams = [RunConfig(model=CHARACTERS, data={"corpus": name, "tokenizer": "none"}) for name in ("enwik8", "text8")]
    configs = [*stories, *streams]
    shared = [
        draw.choice(stories).model_copy(update={"model": draw.choice(stories).model, "seed": seed})
        for seed in range(40)
    ]  # fmt: skip
    return draw.sample([*configs, *shared], k=len(configs) + len(shared))


@pytest.mark.parametrize("seed", range(5))
def test_the_work_of_a_stage_is_the_same_whatever_was_asked_before(seed):
    for config in drawn(seed):
        stages = ("pretrain", "bpc") if config.data.is_stream else ("pretrain", "blimp", "superglue", "trajectory")
        for stage in stages:
            for sizes in ({}, SIZES):
                alone = STAGES[stage].work(config.model_copy(deep=True), dict(sizes))  # no object was seen before
                assert STAGES[stage].work(config, sizes) == alone == STAGES[stage].work(config, sizes)


def test_what_is_kept_is_that_of_the_last_sections_and_arguments():
    calls = []

    @by_sections("data", "train")
    def told(config, limit=None):
        calls.append(limit)
        return config.data.max_length, config.train.max_steps, limit

    one, other = RunConfig(model=GPT), RunConfig(model=GPT, data={"max_length": 64}, train={"max_steps": 7})
    assert [told(one), told(one.model_copy(update={"model": other.model}))] == [(512, 8_280, None)] * 2
    assert calls == [None], "of another model it is the same"
    assert told(one, 5) == (512, 8_280, 5)
    assert told(other, 5) == (64, 7, 5)
    assert told(other.model_copy(update={"train": one.train}), 5) == (64, 8_280, 5)
    assert told(one) == (512, 8_280, None)
    assert calls == [None, 5, 5, 5, None]
