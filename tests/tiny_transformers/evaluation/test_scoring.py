"""Log-likelihoods against the definition, computed one sentence at a time."""

import copy
import math

import numpy as np
import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM, RobertaConfig, RobertaForMaskedLM
from variants import DECODERS, ENCODERS, perturb, small

from tiny_transformers.common.work import CheckFailed
from tiny_transformers.evaluation import scoring
from tiny_transformers.models.auto import build
from tiny_transformers.settings.architecture import GPTNeo, Roberta

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


def encoder_by_definition(model, sequence, mask=MASK, words=None):
    scored, rows = range(1, len(sequence) - 1), []
    for i in scored:
        masked = [j for j in range(len(sequence)) if j == i or (words and j > i and words[j] == words[i])]
        rows.append([mask if j in masked else token for j, token in enumerate(sequence)])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(rows)).logits
    return sum(logits[row, i].log_softmax(-1)[sequence[i]].item() for row, i in enumerate(scored))


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


@pytest.mark.parametrize("head_rows", [3, 40])
def test_few_positions_at_a_time_give_the_same_logits(scored, sequences, monkeypatch, head_rows):
    model, score, _ = scored
    values = score(model, sequences)
    monkeypatch.setattr(scoring, "HEAD_ROWS", head_rows)
    np.testing.assert_allclose(score(model, sequences, tokens_per_batch=100), values, rtol=0, atol=1e-4)


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


# --- every variant


BRANCHING = [
    [1, 5, 6, 7, 8, 2], [1, 5, 6, 7, 9, 10, 2], [1, 5, 6, 7, 8, 2], [1, 5, 6, 2], [1, 5, 6, 7, 8, 11, 12, 2],
    [1, 20, 6, 7, 8, 2], [1, 5, 13, 14, 15, 16, 17, 18, 19, 20, 21, 2], [1, 9, 2],
]  # fmt: skip


@pytest.mark.parametrize(("variant", "family"), DECODERS)
def test_every_decoder_is_scored_as_defined(variant, family):
    sizes = {"window_size": 12} if family == "gpt_neo" else {}
    model = perturb(build(small(family, variant, **sizes), seed=0))
    expected = [decoder_by_definition(model, sequence) for sequence in BRANCHING]
    np.testing.assert_allclose(scoring.decoder_log_likelihoods(model, BRANCHING), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("variant", ENCODERS)
def test_every_encoder_is_scored_as_defined(variant):
    model = perturb(build(small("roberta", variant), seed=0))
    expected = [encoder_by_definition(model, sequence, mask=3) for sequence in BRANCHING]
    np.testing.assert_allclose(scoring.pseudo_log_likelihoods(model, BRANCHING, 3), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("window", [1, 3, 5, 24])
def test_local_attention_sees_its_window_whatever_shares_a_row(window):
    model = perturb(build(small("gpt_neo", window_size=window), seed=0))
    expected = [decoder_by_definition(model, sequence) for sequence in BRANCHING]
    np.testing.assert_allclose(scoring.decoder_log_likelihoods(model, BRANCHING), expected, rtol=1e-5, atol=1e-4)


def test_stock_classes_are_scored_as_defined():
    sizes = {"vocab_size": 97, "hidden_size": 32, "max_position_embeddings": 130, "pad_token_id": 90}
    gpt = GPTNeoForCausalLM(
        GPTNeoConfig(**sizes, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=20)
    ).eval()
    bert = RobertaForMaskedLM(RobertaConfig(**sizes, num_hidden_layers=3, num_attention_heads=4)).eval()
    for model, values, definition in (
        (gpt, scoring.decoder_log_likelihoods(gpt, BRANCHING), decoder_by_definition),
        (bert, with_mask(bert, BRANCHING), encoder_by_definition),
    ):
        np.testing.assert_allclose(values, [definition(model, s) for s in BRANCHING], rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ["moe_k1", "pkm"])
def test_a_training_pass_leaves_nothing_behind(variant):
    model = perturb(build(small("roberta", variant), seed=0))
    expected = scoring.pseudo_log_likelihoods(model, BRANCHING, 3)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    model(input_ids=torch.tensor([[1, 7, 8, 2, 0]]), attention_mask=torch.tensor([[1, 1, 1, 1, 0]]))
    model.load_state_dict(statistics, strict=False)
    np.testing.assert_array_equal(scoring.pseudo_log_likelihoods(model, BRANCHING, 3), expected)


def test_a_decoder_sees_a_shared_beginning_once_and_no_last_token(decoder):
    seen = []
    hook = decoder.get_input_embeddings().register_forward_hook(lambda _, ids, __: seen.append(ids[0].numel()))
    scoring.decoder_log_likelihoods(decoder, [[1, 5, 6, 7], [1, 5, 6, 8], [1, 5, 9, 7], [1, 5, 6, 7]])
    hook.remove()
    assert seen == [len(["1", "1 5", "1 5 6", "1 5 9"])]


# --- what of a sequence is scored


def test_a_continuation_is_scored_given_its_context(scored, sequences):
    model, score, _ = scored
    longer = [sequence for sequence in sequences if len(sequence) > 6]
    ends = len(longer[0]) if score is scoring.decoder_log_likelihoods else len(longer[0]) - 1
    whole, rest = score(model, longer), score(model, longer, scored=[4] * len(longer))
    suffixes = score(model, [longer[0]] * (ends - 1), scored=list(range(1, ends)))
    assert suffixes[0] == pytest.approx(whole[0], abs=1e-4)
    assert suffixes[3] == pytest.approx(rest[0], abs=1e-4)
    assert (np.diff(suffixes) > 0).all()
    assert (whole < rest).all()


def test_log_probabilities_of_tokens_are_differences_of_continuations(decoder):
    sequence = [1, 5, 6, 7, 8]
    suffixes = scoring.decoder_log_likelihoods(decoder, [sequence] * 4, scored=[1, 2, 3, 4])
    parts = [decoder_by_definition(decoder, sequence[:n]) for n in range(1, 6)]
    np.testing.assert_allclose(suffixes, parts[4] - np.array(parts[:4]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("start", [0, 5])
def test_a_continuation_of_nothing_or_without_context_is_refused(scored, start):
    model, score, _ = scored
    with pytest.raises(ValueError, match=f"sequence 1 is to be scored from token {start}; from 1 to"):
        score(model, [[1, 5, 6, 7, 2], [1, 5, 6, 7, 2]], scored=[1, start])


def test_an_encoder_does_not_score_its_end_token(encoder):
    with pytest.raises(ValueError, match="from 1 to 3 is possible"):
        with_mask(encoder, [[1, 5, 6, 7, 2]], scored=[4])


def test_the_rest_of_a_word_is_masked_with_its_token(encoder):
    encoder.eval()
    sequences = [[1, 5, 6, 7, 8, 9, 10, 2], [1, 5, 6, 7, 8, 9, 10, 2], [1, 11, 12, 2]]
    words = [[None, 0, 1, 1, 1, 2, 2, None], [None, 0, 1, 2, 3, 4, 5, None], [None, 0, 0, None]]
    expected = [encoder_by_definition(encoder, s, words=w) for s, w in zip(sequences, words, strict=True)]
    values = with_mask(encoder, sequences, words=words)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(values[1], with_mask(encoder, sequences)[1], rtol=0, atol=1e-4)
    assert abs(values[0] - values[1]) > 0.1


def test_tokens_of_no_word_are_masked_alone(encoder):
    alone, none = [[None, 0, 1, 2, None]], [[None, None, None, None, None]]
    assert with_mask(encoder, [[1, 5, 6, 7, 2]], words=none) == with_mask(encoder, [[1, 5, 6, 7, 2]], words=alone)


def test_greedy_is_what_the_model_would_have_written(decoder):
    decoder.eval()
    text = decoder.generate(
        torch.tensor([[1, 5]]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0].tolist()
    other = [*text[:-1], (text[-1] + 1) % VOCAB_SIZE]
    scores = scoring.score_decoder(decoder, [text, other, text, other], scored=[2, 2, 7, 7])
    assert scores.greedy.tolist() == [True, False, True, False]


def test_of_equally_likely_tokens_one_is_greedy(decoder):
    """As in bfloat16, where the highest logits are often equal: two right answers at a place are one too many."""
    tied = copy.deepcopy(decoder)
    with torch.no_grad():
        logits = tied(input_ids=torch.tensor([[1, 5]])).logits[0, 1]
        best = logits.argmax().item()
        twin = 7 if best != 7 else 8
        tied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight.clone())
        tied.lm_head.weight[twin] = tied.lm_head.weight[best]
    scores = scoring.score_decoder(tied, [[1, 5, best], [1, 5, twin]], scored=[2, 2])
    assert scores.log_likelihoods[0] == scores.log_likelihoods[1]
    assert scores.greedy.tolist() == [best < twin, twin < best]


def test_greedy_holds_if_every_masked_token_is_the_likeliest(encoder):
    encoder.eval()
    with torch.no_grad():
        best = encoder(input_ids=torch.tensor([[1, 5, MASK, 7, 2]])).logits[0, 2].argmax().item()
    other = (best + 1) % VOCAB_SIZE
    scores = scoring.score_encoder(encoder, [[1, 5, best, 7, 2], [1, 5, other, 7, 2]], MASK, scored=[2, 2])
    at_7 = [
        encoder(input_ids=torch.tensor([[1, 5, token, MASK, 2]])).logits[0, 3].argmax().item() == 7
        for token in (best, other)
    ]
    assert scores.greedy.tolist() == [at_7[0], False]


# --- precision


def test_bfloat16_is_close_and_leaves_the_model_as_it_was(scored, sequences):
    model, score, _ = scored
    values = score(model, sequences)
    rounded = score(model, sequences, precision="bfloat16")
    assert 0 < np.abs(rounded / values - 1).max() < 0.05
    np.testing.assert_array_equal(score(model, sequences), values)
