import math
from types import SimpleNamespace

import count_model
import numpy as np
import pytest
import torch

from tiny_transformers.common.contents import fingerprint
from tiny_transformers.common.work import CheckFailed, Interrupted, Score, TinyTransformersError, Work
from tiny_transformers.data import characters
from tiny_transformers.evaluation import bpc
from tiny_transformers.models import auto
from tiny_transformers.settings.architecture import Brainformer
from tiny_transformers.settings.config import STREAMS, Data, RunConfig

VOCABULARY, WIDTH = 11, 6


class Remembering(torch.nn.Module):
    """What it says of a character depends on all before it, the nearest most, through what its cache carries."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH, dtype=torch.float64)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY, dtype=torch.float64)

    def new_cache(self):
        return SimpleNamespace(state=0.0)

    def base_model(self, input_ids, past_key_values, use_cache):
        assert use_cache
        states = []
        for embedded in self.embedding(input_ids).unbind(1):
            past_key_values.state = 0.9 * past_key_values.state + embedded
            states.append(past_key_values.state)
        return SimpleNamespace(last_hidden_state=torch.stack(states, 1))

    def loss_at(self, hidden, labels):
        return torch.nn.functional.cross_entropy(self.head(hidden), labels, reduction="sum")

    def in_one_piece(self, ids):
        """The loss of all ids but the first, from the beginning of a memory, one character after the other."""
        state, loss = 0.0, 0.0
        for given, wanted in zip(ids[:-1], ids[1:], strict=True):
            state = 0.9 * state + self.embedding.weight[int(given)]
            loss -= float(torch.log_softmax(self.head(state), 0)[int(wanted)])
        return loss


@pytest.fixture
def model():
    return Remembering()


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, VOCABULARY, 101).astype(np.uint8)


@pytest.mark.parametrize("at_once", [1, 7, 100, 2_048])
@torch.inference_mode()
def test_a_row_read_in_blocks_is_the_whole_in_one_piece(model, ids, at_once):
    done = []
    loss = bpc.total_loss(model, ids, 1, done.append, at_once)
    assert loss == pytest.approx(model.in_one_piece(ids), rel=1e-12)
    assert done == sorted(done)
    assert done[-1] == 1


@pytest.mark.parametrize("at_once", [1, 7, 2_048])
@pytest.mark.parametrize("rows", [2, 3, 7, 99])
@torch.inference_mode()
def test_rows_drop_nothing_and_begin_after_the_character_before_them(model, ids, rows, at_once):
    """100 characters in 3, 7 or 99 rows: some are one longer."""
    cuts = [row * 100 // rows for row in range(rows + 1)]
    parts = [ids[begin : end + 1] for begin, end in zip(cuts, cuts[1:], strict=False)]
    assert sum(len(part) - 1 for part in parts) == 100
    expected = sum(model.in_one_piece(part) for part in parts)
    assert bpc.total_loss(model, ids, rows, at_once=at_once) == pytest.approx(expected, rel=1e-12)


@torch.inference_mode()
def test_there_are_no_more_rows_than_characters(model, ids):
    expected = sum(model.in_one_piece(ids[begin : begin + 2]) for begin in range(3))
    assert bpc.total_loss(model, ids[:4], 64) == pytest.approx(expected, rel=1e-12)


BRAINFORMER = Brainformer(
    hidden_size=16, intermediate_size=16, num_heads=2, attn_span=64, adaptive_span=None, vocab_size=VOCABULARY
)


@pytest.fixture
def work(tmp_path):
    path = tmp_path / STREAMS["text8"]
    path.parent.mkdir()
    path.write_text("".join("abcdefghijk"[i * i % 31 % VOCABULARY] for i in range(4_000)))
    evaluation = {"bpc": {"split": "validation"}}
    config = RunConfig(model=BRAINFORMER, data=Data(corpus="text8"), evaluation=evaluation)
    made = Work(config, tmp_path, tmp_path / "cache", tmp_path)
    auto.build(config.model, 0).save_pretrained(made.model_dir)
    return made


@torch.inference_mode()
def test_the_stage_scores_every_character_of_the_split_after_the_one_before_it(work, monkeypatch):
    monkeypatch.setattr(bpc, "AT_ONCE", 32)
    told = []
    work.progress = lambda done, _: told.append(done)
    outcome = bpc.run(work)
    ids = torch.from_numpy(
        characters.read_stream(work.data_root / STREAMS["text8"], "bytes", work.cache).ids.astype(int)
    )
    logits = auto.load_lm(work.model_dir)(input_ids=ids[None, 3_599:3_799]).logits[0]
    nats = torch.nn.functional.cross_entropy(logits, ids[3_600:3_800])
    (score,) = outcome.scores
    assert score == Score("validation", "bpc", score.value, 200)
    assert score.value == pytest.approx(float(nats) / math.log(2), rel=1e-5)
    assert outcome.data == {"char/text8.txt": fingerprint(work.data_root / STREAMS["text8"])}
    assert outcome.metrics["characters_per_second"] == pytest.approx(200 / outcome.metrics["seconds"])
    assert told == [pytest.approx(min(1, blocks * 32 / 200)) for blocks in range(1, 8)]


def test_a_model_that_diverged_has_no_bits(work):
    diverged = auto.build(BRAINFORMER, 0)
    diverged.lm_head.bias.data[3] = math.nan
    diverged.save_pretrained(work.model_dir)
    with pytest.raises(CheckFailed, match="training diverged"):
        bpc.run(work)


def test_asked_to_stop_it_stops(work):
    work.should_stop = lambda: True
    with pytest.raises(Interrupted):
        bpc.run(work)


def test_a_model_that_lacks_characters_is_refused(work):
    work.config = work.config.model_copy(update={"model": Brainformer(vocab_size=5)})
    with pytest.raises(TinyTransformersError, match="Set model.vocab_size to"):
        bpc.run(work)


def test_counts_of_two_characters_are_the_yardstick(shared_data, tmp_path):
    """2.95 bits of text8's first 0.74 MB; a Brainformer is to be below 2.6 in ten minutes."""
    stream = characters.read_stream(shared_data / "char" / "text8.txt", "characters", tmp_path)
    size = len(stream.vocabulary)
    bits = {}
    for name, before, split in (
        ("validation", stream.train, stream.validation),
        ("test", stream.validation, stream.test),
    ):
        bits[name] = count_model.bits_per_character(stream.train, np.concatenate([before[-2:], split]), size)
    print(f"order-2 counts, bits per character: {bits}")
    assert bits == pytest.approx({"validation": 3.008, "test": 2.946}, abs=0.001)


def test_the_count_models_probabilities_are_some():
    train = np.random.default_rng(0).integers(0, 4, 50)
    table = count_model.probabilities(train, 5)
    assert (table > 0).all()
    assert table.sum(-1) == pytest.approx(np.ones((5, 5)))
    alternating = np.arange(1_000) % 3
    assert count_model.bits_per_character(alternating, alternating, 3) < 0.01
    assert count_model.bits_per_character(np.arange(3), np.array([2, 0, 1, 2]), 3) < math.log2(3)
