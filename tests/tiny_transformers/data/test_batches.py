import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data import batches
from tiny_transformers.data.batches import NO_LABEL, Example, Vocabulary

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
MASK = 4


@pytest.fixture
def vocabulary():
    """Ids 0 to 4 are special, 5 to 99 are words."""
    special = np.arange(100) < 5
    return Vocabulary(mask=MASK, special=special, words=np.flatnonzero(~special))


def stories(count=50, seed=0):
    """<s> words </s>, of different lengths, as the tokeniser gives them."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 40, size=count)
    return [np.array([1, *generator.integers(5, 100, size=n), 2], dtype=np.uint16) for n in lengths]


def write_tokenizer(path, specials=SPECIALS, words=("a", "b")):
    tokenizer = Tokenizer(WordLevel({t: i for i, t in enumerate([*specials, *words])}, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in specials])
    tokenizer.save(str(path))
    return path


def flat(examples):
    return np.concatenate([e.inputs for e in examples]), np.concatenate([e.targets for e in examples])


# --- the order


def test_every_epoch_is_a_permutation_of_all_stories():
    order = [i for step in range(20) for i in batches.drawn(num_stories=10, count=4, seed=1, step=step)]
    epochs = [order[start : start + 10] for start in range(0, 80, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_step_may_need_more_stories_than_there_are():
    assert sorted(batches.drawn(num_stories=3, count=7, seed=1, step=0)[:6]) == [0, 0, 1, 1, 2, 2]


def test_order_depends_on_the_seed_and_on_nothing_drawn_before():
    first = batches.drawn(50, 8, seed=1, step=5)
    batches.drawn(50, 8, seed=2, step=0)
    assert batches.drawn(50, 8, seed=1, step=5) == first
    assert batches.drawn(50, 8, seed=2, step=5) != first


def test_purposes_are_independent():
    assert batches.rng(1, "order", 0).random() != batches.rng(1, "mask", 0).random()


# --- what is to be predicted


def test_decoder_predicts_every_token_but_the_first():
    (example,) = batches.causal([np.array([1, 7, 8, 2], dtype=np.uint16), np.array([1], dtype=np.uint16)])
    assert example.inputs.tolist() == [1, 7, 8]
    assert example.targets.tolist() == [7, 8, 2]


def test_encoder_predicts_15_percent_of_the_words_and_sees_80_10_10_of_them(vocabulary):
    corpus = stories(20_000)
    inputs, targets = flat(batches.masked(corpus, vocabulary, 0.15, batches.rng(0, "mask")))
    words = sum(len(story) - 2 for story in corpus)
    labels = targets != NO_LABEL
    assert labels.sum() / words == pytest.approx(0.15, abs=0.003)
    assert (inputs[labels] == MASK).mean() == pytest.approx(0.8, abs=0.005)
    # A random word is the right one once in 95 times.
    assert (inputs[labels] == targets[labels]).mean() == pytest.approx(0.1 + 0.1 / 95, abs=0.005)


def test_special_tokens_are_neither_predicted_nor_put_in(vocabulary):
    corpus = stories(2_000)
    inputs, targets = flat(batches.masked(corpus, vocabulary, 0.9, batches.rng(0, "mask")))
    labels = targets != NO_LABEL
    assert targets[labels].min() >= 5
    assert not np.isin(inputs[labels], [0, 1, 2, 3]).any()


def test_tokens_that_are_not_predicted_are_shown_as_they_are(vocabulary):
    corpus = stories(30)
    examples = batches.masked(corpus, vocabulary, 0.9, batches.rng(0, "mask"))
    assert len(examples) == len(corpus)
    for story, example in zip(corpus, examples, strict=True):
        assert np.array_equal(np.where(example.targets == NO_LABEL, example.inputs, example.targets), story)


def test_at_least_one_token_is_predicted_in_a_step(vocabulary):
    for number in range(50):
        examples = batches.masked(stories(2), vocabulary, 1e-9, batches.rng(0, "mask", number))
        assert batches.num_labels(examples) == 1


def test_stories_without_words_are_refused_by_an_encoder(vocabulary):
    with pytest.raises(TinyTransformersError, match="nothing but special tokens"):
        batches.masked([np.array([1, 2], dtype=np.uint16)] * 3, vocabulary, 0.15, batches.rng(0, "mask"))


# --- micro-batches


@pytest.mark.parametrize("max_tokens", [1, 64, 200, 10_000])
def test_micro_batches_hold_every_example_once_and_keep_the_limit(max_tokens):
    examples = batches.causal(stories())
    cut = list(batches.micro_batches(examples, max_tokens, causal=True))
    rows = [row[: (row != 0).sum()].tolist() for batch in cut for row in batch.input_ids.numpy()]
    assert sorted(rows) == sorted(example.inputs.tolist() for example in examples)
    assert all(batch.input_ids.numel() <= max_tokens or len(batch.input_ids) == 1 for batch in cut)
    assert [batch.input_ids.shape[1] for batch in cut] == sorted((b.input_ids.shape[1] for b in cut), reverse=True)


def test_labels_stand_at_their_positions():
    examples = [Example(np.array([5, 6, 7]), np.array([NO_LABEL, 9, NO_LABEL])), Example(np.array([8]), np.array([8]))]
    (batch,) = batches.micro_batches(examples, 100, causal=False)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.positions.tolist() == [1, 3]
    assert batch.labels.tolist() == [9, 8]


def test_attention_mask_is_left_out_where_a_model_needs_none():
    even = [Example(np.array([5, 6]), np.array([5, 6]))] * 2
    odd = [*even, Example(np.array([5]), np.array([5]))]
    assert next(batches.micro_batches(even, 100, causal=False)).attention_mask is None
    assert next(batches.micro_batches(odd, 100, causal=True)).attention_mask is None
    assert torch.is_tensor(next(batches.micro_batches(odd, 100, causal=False)).attention_mask)


# --- the vocabulary


def test_vocabulary_is_that_of_the_tokenizer_file(tmp_path):
    vocabulary = batches.read_vocabulary(write_tokenizer(tmp_path / "tokenizer.json"), vocab_size=10)
    assert vocabulary.mask == 4
    assert vocabulary.words.tolist() == [5, 6]


def test_study_tokenizer_fits(shared_data):
    vocabulary = batches.read_vocabulary(shared_data / "tokenizer/10k-tok/tokenizer.json", vocab_size=10_000)
    assert vocabulary.mask == 9999
    assert np.flatnonzero(vocabulary.special).tolist() == [0, 1, 2, 3, 9999]


@pytest.mark.parametrize(
    ("specials", "vocab_size", "message"),
    [
        (SPECIALS, 6, "ids up to 6, the model only 6. Set model.vocab_size to 7"),
        (["<s>", "<pad>", *SPECIALS[2:]], 10, "<pad> is 1; the models need it to be 0"),
        (SPECIALS[:4], 10, "has no <mask>"),
    ],
)
def test_tokenizer_that_does_not_fit_the_models_is_refused(tmp_path, specials, vocab_size, message):
    file = write_tokenizer(tmp_path / "tokenizer.json", specials)
    with pytest.raises(TinyTransformersError, match=message):
        batches.read_vocabulary(file, vocab_size)


def test_lengths_are_multiples_so_that_shapes_are_few_but_no_longer_than_a_model_sees():
    examples = batches.causal([np.arange(4, 4 + length, dtype=np.uint16) for length in (6, 17, 18, 40)])
    cut = list(batches.micro_batches(examples, 40, causal=True, multiple=16, longest=39))
    assert [tuple(batch.input_ids.shape) for batch in cut] == [(1, 39), (1, 32), (2, 16)]
    assert sum(len(batch.labels) for batch in cut) == 5 + 16 + 17 + 39
    assert (cut[1].input_ids[0, 17:] == 0).all()
    (encoder,) = batches.micro_batches(examples[:1], 40, causal=False, multiple=16)
    assert encoder.attention_mask.sum() == 5
