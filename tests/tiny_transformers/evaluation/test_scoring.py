"""Log-likelihoods against the definition, computed one sentence and one mask at a time."""

import copy
import math

import numpy as np
import pytest
import torch

from tiny_transformers.architecture import GPTNeo, Roberta
from tiny_transformers.evaluation import scoring
from tiny_transformers.models import build
from tiny_transformers.work import CheckFailed

VOCAB_SIZE, MASK = 97, 96
SIZES = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": VOCAB_SIZE}


def spread(model):
    """Weights large enough that tokens differ clearly in probability."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


@pytest.fixture(scope="module")
def decoder():
    return spread(build(GPTNeo(num_layers=2, num_heads=2, max_position_embeddings=40, **SIZES), seed=3))


@pytest.fixture(scope="module")
def encoder():
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 41}
    return spread(build(Roberta(**sizes, **SIZES), seed=3))


@pytest.fixture(scope="module")
def sequences():
    """Of many lengths, in no order; starting with 1 and ending with 2."""
    random = np.random.default_rng(5)
    return [[1, *random.integers(3, MASK, size=length).tolist(), 2] for length in random.integers(1, 38, size=24)]


def decoder_by_definition(model, sequence):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sequence])).logits[0]
    return sum(logits[i - 1].log_softmax(-1)[sequence[i]].item() for i in range(1, len(sequence)))


def encoder_by_definition(model, sequence):
    total = 0.0
    for i in range(1, len(sequence) - 1):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*sequence[:i], MASK, *sequence[i + 1 :]]])).logits[0]
        total += logits[i].log_softmax(-1)[sequence[i]].item()
    return total


@pytest.fixture(params=["decoder", "encoder"])
def scored(request, decoder, encoder):
    """The function under test with its model in evaluation mode, and the definition it must agree with."""
    if request.param == "decoder":
        return decoder.eval(), scoring.decoder_log_likelihoods, decoder_by_definition
    return encoder.eval(), with_mask, encoder_by_definition


def with_mask(model, sequences, **options):
    return scoring.pseudo_log_likelihoods(model, sequences, MASK, **options)


def test_batches_agree_with_one_sentence_at_a_time(scored, sequences):
    model, score, definition = scored
    expected = [definition(model, sequence) for sequence in sequences]
    assert np.ptp(expected) > 10
    np.testing.assert_allclose(score(model, sequences), expected, rtol=0, atol=1e-4)


def test_what_differs_from_one_sentence_at_a_time_is_rounding(scored, sequences):
    model, score, definition = scored
    model = copy.deepcopy(model).double()
    # GPT-Neo's attention computes in float32 whatever the model's type.
    tolerance = 5e-5 if definition is decoder_by_definition else 1e-9
    expected = [definition(model, sequence) for sequence in sequences]
    np.testing.assert_allclose(score(model, sequences), expected, rtol=0, atol=tolerance)


def test_order_does_not_matter(scored, sequences):
    model, score, _ = scored
    shuffled = np.random.default_rng(0).permutation(len(sequences))
    values = score(model, sequences)
    np.testing.assert_allclose(score(model, [sequences[i] for i in shuffled]), values[shuffled], rtol=0, atol=1e-4)


@pytest.mark.parametrize("tokens_per_batch", [1, 70, 100_000])
def test_the_size_of_a_batch_does_not_matter(scored, sequences, tokens_per_batch):
    model, score, _ = scored
    values = score(model, sequences, tokens_per_batch=tokens_per_batch)
    np.testing.assert_allclose(values, score(model, sequences), rtol=0, atol=1e-4)


def test_padding_does_not_matter(scored):
    model, score, _ = scored
    short, long = [1, 7, 8, 2], [1, *range(3, 35), 2]
    together = score(model, [short, long], tokens_per_batch=10_000)
    np.testing.assert_allclose(together, [score(model, [s])[0] for s in (short, long)], rtol=0, atol=1e-4)


def test_few_positions_at_a_time_give_the_same_logits(scored, sequences, monkeypatch):
    model, score, _ = scored
    values = score(model, sequences)
    monkeypatch.setattr(scoring, "HEAD_ROWS", 3)
    np.testing.assert_allclose(score(model, sequences), values, rtol=0, atol=1e-4)


def test_the_same_sequence_is_scored_once_and_equal(scored):
    model, score, _ = scored
    one, other, done = [1, 5, 6, 7, 2], [1, 9, 2], []
    values = score(model, [one, other, one], tokens_per_batch=1, on_batch=done.append)
    assert values[0] == values[2] != values[1]
    assert len(done) == (2 if score is scoring.decoder_log_likelihoods else 3 + 1)
    assert done == sorted(done)
    assert done[-1] == 1


def test_dropout_is_off_and_the_mode_is_given_back():
    model = build(Roberta(num_hidden_layers=1, num_attention_heads=2, dropout=0.5, **SIZES), seed=0)
    model.train()
    first, second = (with_mask(model, [[1, 5, 6, 7, 2]]) for _ in range(2))
    assert first == second
    assert model.training


def test_a_model_without_preference_gives_every_token_one_over_the_vocabulary(scored):
    model, score, definition = scored
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.get_output_embeddings().parameters():
            parameter.zero_()
    # One of the five is context to a decoder; <s> and </s> do not count for an encoder.
    tokens = 4 if definition is decoder_by_definition else 3
    assert score(model, [[1, 5, 6, 7, 2]])[0] == pytest.approx(-tokens * math.log(VOCAB_SIZE), abs=1e-5)


def test_the_longest_sequence_fits_and_a_longer_one_is_refused(scored):
    model, score, _ = scored
    assert np.isfinite(score(model, [[1, *[5] * 38, 2]])).all()
    with pytest.raises(ValueError, match="sequence 1 has 41 tokens; from . to 40 can be scored"):
        score(model, [[1, 5, 2], [1, *[5] * 39, 2]])


def test_a_sequence_with_nothing_to_score_is_refused(decoder, encoder):
    with pytest.raises(ValueError, match="sequence 0 has 1 tokens"):
        scoring.decoder_log_likelihoods(decoder, [[1]])
    with pytest.raises(ValueError, match="sequence 0 has 2 tokens"):
        with_mask(encoder, [[1, 2]])


def test_a_broken_model_does_not_get_a_number():
    model = build(GPTNeo(num_layers=1, num_heads=2, max_position_embeddings=40, **SIZES), seed=0)
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = math.nan
    with pytest.raises(CheckFailed, match="1 of 1 sequences"):
        scoring.decoder_log_likelihoods(model, [[1, 5, 2]])


def test_no_sequences_give_no_numbers(scored):
    model, score, _ = scored
    assert score(model, []).shape == (0,)
