import hashlib
import json
import re
from collections import Counter

import pytest
import torch

from tiny_transformers.common.work import Work
from tiny_transformers.data import builtin, tokenizer
from tiny_transformers.data.sources import read_rows
from tiny_transformers.evaluation import blimp, lambada
from tiny_transformers.models import auto
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import (
    STREAMS,
    TRAIN_STORIES,
    VALIDATION_STORIES,
    Data,
    Evaluation,
    RunConfig,
    Train,
)
from tiny_transformers.settings.stage.blimp import blimp_files
from tiny_transformers.settings.stage.lambada import FILE as LAMBADA
from tiny_transformers.settings.stage.superglue import superglue_files
from tiny_transformers.settings.stages import required_files
from tiny_transformers.training import pretrain

DATA = Data(source="builtin")
FILES = blimp_files(DATA)


def pairs(builtin_root, task):
    return [
        (row["sentence_good"], row["sentence_bad"]) for row in read_rows(builtin_root / FILES[task], ["sentence_good"])
    ]


def test_it_is_the_same_every_time(builtin_root, tmp_path):
    builtin.write_builtin(tmp_path)
    for file in [*required_files(RunConfig(model=GPTNeo(), data=DATA)), *STREAMS.values()]:
        assert hashlib.sha256((tmp_path / file).read_bytes()).digest() == (
            hashlib.sha256((builtin_root / file).read_bytes()).digest()
        ), file


def test_no_sentence_of_a_pair_is_in_a_story(builtin_root):
    told = set()
    for file in (TRAIN_STORIES, VALIDATION_STORIES):
        for row in read_rows(builtin_root / file, ["text"]):
            told.update(sentence.strip() for sentence in row["text"].replace("?", "?.").replace(".", ".|").split("|"))
    assert "" in told
    for task in FILES:
        for pair in pairs(builtin_root, task):
            assert told.isdisjoint(pair), task


@pytest.mark.parametrize("task", FILES)
def test_words_and_lengths_do_not_tell_the_good_sentence(builtin_root, task):
    good, bad = zip(*pairs(builtin_root, task), strict=True)
    words = [Counter(re.findall(r"\w+", " ".join(sentences))) for sentences in (good, bad)]
    assert words[0] == words[1]
    assert all(len(g.split()) == len(b.split()) and g != b for g, b in zip(good, bad, strict=True))


@pytest.mark.parametrize("task", ["cola", "sst2", "rte"])
def test_labels_are_balanced_and_rows_are_glues(builtin_root, task):
    texts = ["sentence1", "sentence2"] if task == "rte" else ["sentence"]
    seen = []
    for file in superglue_files(task).values():
        rows = read_rows(builtin_root / file, [*texts, "label", "idx"])
        assert abs(sum(row["label"] for row in rows) / len(rows) - 0.5) <= 0.02
        seen += [json.dumps([row[text] for text in texts]) for row in rows]
    assert len(set(seen)) == len(seen), "no row is in both splits"


def test_the_last_word_of_a_passage_was_said_before_and_no_passage_begins_a_story(builtin_root):
    passages = [row["text"] for row in read_rows(builtin_root / LAMBADA, ["text"])]
    assert len(set(passages)) == builtin.PASSAGES
    for passage in passages:
        *earlier, last = re.split(r"[.?] ", passage)
        assert last.split(" ")[-1] in re.findall(r"\w+", " ".join(earlier)), passage
    stories = [row["text"] for row in read_rows(builtin_root / TRAIN_STORIES, ["text"])]
    assert not any(story.startswith(passage) for passage in passages for story in stories)
    assert len({passage.rsplit(" ", 1)[1] for passage in passages}) > 10


def test_its_streams_are_like_enwik8_and_text8(builtin_root):
    text8, enwik8 = ((builtin_root / STREAMS[corpus]).read_bytes() for corpus in ("text8", "enwik8"))
    assert re.fullmatch(rb"[a-z]+( [a-z]+)*", text8)
    assert enwik8.count(b"<page>") == enwik8.count(b"</page>") == builtin.IN_MARKUP
    assert len(enwik8.decode()) < len(enwik8), "bytes and characters are not the same"
    for stream in (text8, enwik8):
        assert 1.0e6 < len(stream) < 1.2e6


def test_an_untrained_model_is_at_chance_and_a_trained_one_is_not(builtin_root, builtin_cache, tmp_path):
    """Width 64, some seconds: what the builtin data is for."""
    torch.set_num_threads(1)
    config = RunConfig(
        model=GPTNeo(hidden_size=64, intermediate_size=128, vocab_size=2_000),
        data=DATA,
        train=Train(max_steps=100, stories_per_step=24, learning_rate=6e-3, evaluations=1, eval_stories=50),
        evaluation=Evaluation(limit=100),
    )
    untrained = Work(config, builtin_root, builtin_cache, tmp_path / "untrained")
    auto.build(config.model, 0).save_pretrained(untrained.model_dir)
    trained = Work(config, builtin_root, builtin_cache, tmp_path / "trained")
    pretrain.run(trained)
    averages, perplexities = [], []
    for work in (untrained, trained):
        tokenizer.run(work)
        scores = {score.task: score.value for score in blimp.run(work).scores if score.metric == "accuracy"}
        averages.append(scores["average"])
        perplexities += [score.value for score in lambada.run(work).scores if score.task == "passage"]
    assert 0.42 < averages[0] < 0.58
    assert averages[1] > 0.7, averages
    assert 1_000 < perplexities[0] < 4_000, "about the vocabulary"
    assert perplexities[1] < 10
