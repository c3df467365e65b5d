"""LAMBADA from a file of passages to scores: against the definitions, and against lm-eval's own model."""

import functools
import math

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tiny_transformers.common.contents import fingerprint
from tiny_transformers.common.work import CheckFailed, Interrupted, TinyTransformersError
from tiny_transformers.evaluation import lambada
from tiny_transformers.models.auto import build, load_lm
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.lambada import FILE as LAMBADA

# Where the model makes no difference.
any_model = pytest.mark.parametrize("family", ["decoder"], indirect=True)
TEXTS = ["my dog, my dog, my dog, my dog", "a  b", 'She said: "yes', "one two\nthree"]


def uniform(family):
    """A model to which all tokens are alike."""
    model = build(family, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


@functools.cache
def taught(family, tokenizer, text):
    """A model that has seen one text, with special tokens and without: some last words are what it would say."""
    model = build(family, seed=4).eval()  # without dropout, so that it learns the same whatever was drawn before
    both = [torch.tensor([tokenizer(text, add_special_tokens=special)["input_ids"]] * 8) for special in (True, False)]
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    for ids in both * 40:
        masked = torch.rand(ids.shape, generator=generator) < torch.rand(len(ids), 1, generator=generator)
        seen = ids.masked_fill(masked, tokenizer.mask_token_id) if family.family == "roberta" else ids
        model(input_ids=seen, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture
def write_texts(write_rows):
    return lambda work, texts: write_rows(work.data_root / LAMBADA, [{"text": text} for text in texts])


def values(outcome):
    return {(score.task, score.metric): score.value for score in outcome.scores}


def counts(outcome):
    return {(score.task, score.metric): score.n for score in outcome.scores}


def likeliest(model, ids, position, hidden):
    """log p(ids[position]) and whether it is the most likely, one forward pass; an encoder's `hidden` are masked."""
    seen, row = torch.tensor([ids]), position - 1
    if model.config.model_type == "tiny_roberta":
        seen[0, list(hidden)], row = model.config.vocab_size - 1, position
    with torch.no_grad():
        log_probs = model(seen).logits[0, row].log_softmax(0)
    return log_probs[ids[position]].item(), int(log_probs.argmax()) == ids[position]


def by_definition(model, tokenizer, text, before, after):
    """Sum over the last word, whether it is greedy, sum over the passage, its tokens; token by token."""
    context = text.rsplit(" ", 1)[0].rstrip()
    passage = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = before + passage + after
    first, end = len(before) + len(tokenizer(context, add_special_tokens=False)["input_ids"]), len(ids) - len(after)
    word = [likeliest(model, ids, i, range(i, end)) for i in range(first, end)]
    whole = [likeliest(model, ids, i, [i])[0] for i in range(len(before) or 1, end)]
    return sum(p for p, _ in word), all(best for _, best in word), sum(whole), len(whole)


@pytest.mark.parametrize(("family", "start_token", "before", "after"), [
    ("decoder", "bos", [1], []), ("decoder", "eos", [2], []), ("decoder", "none", [], []),
    ("encoder", "none", [1], [2]),
], indirect=["family"])  # fmt: skip
def test_the_scores_are_their_definitions(make_work, write_texts, tokenizer, family, start_token, before, after):
    work = make_work(taught(family, tokenizer, TEXTS[0]), lambada={"start_token": start_token})
    write_texts(work, TEXTS)
    outcome = lambada.run(work)
    saved = load_lm(work.model_dir)
    each = [by_definition(saved, tokenizer, text, before, after) for text in TEXTS]
    word, greedy, whole, tokens = zip(*each, strict=True)
    assert 0 < sum(greedy) < len(TEXTS)
    expected = {
        ("last_word", "accuracy"): np.mean(greedy),
        ("last_word", "perplexity"): math.exp(-np.mean(word)),
        ("passage", "perplexity"): math.exp(-sum(whole) / sum(tokens)),
    }
    assert {key: values(outcome)[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert (outcome.metrics["passages"], outcome.metrics["tokens"]) == (4, sum(tokens))
    assert outcome.metrics["truncated"] == 0


def test_a_word_is_right_only_if_each_of_its_tokens_is_the_likeliest(family, tokenizer, make_work, write_texts):
    work = make_work(taught(family, tokenizer, "b gg"))
    write_texts(work, ["b gg", "b gb", "b bg", "b bb"])
    assert values(lambada.run(work))["last_word", "accuracy"] == 0.25


def test_of_a_model_without_preference_the_perplexity_is_the_vocabulary(family, make_work, write_texts):
    work = make_work(uniform(family))
    write_texts(work, ["a b", "cd e"])  # last words of two tokens, the space and a letter
    outcome = lambada.run(work)
    assert values(outcome)["passage", "perplexity"] == pytest.approx(family.vocab_size, rel=1e-4)
    assert values(outcome)["last_word", "perplexity"] == pytest.approx(family.vocab_size**2, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["decoder"], indirect=True)
def test_a_decoder_without_a_start_token_is_scored_as_lm_eval_does(family, make_work, write_texts, tokenizer):
    from lm_eval.models.huggingface import HFLM

    texts = [
        *TEXTS,
        "a cat, a cat",
        "a dog, a cat",
        *(f"{a}{b} {c} {b}{a}" for a in "xyz" for b in "pq" for c in ("w", "ww")),
    ]
    work = make_work(taught(family, tokenizer, TEXTS[0]), lambada={"start_token": "none"})
    passages, model = _read(work, write_texts, texts), load_lm(work.model_dir)
    result = lambada._score(work, model, tokenizer, passages)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu", add_bos_token=False)
    pairs = [(" ".join(text.split(" ")[:-1]), " " + text.split(" ")[-1]) for text in texts]
    requests = [(pair, *theirs._encode_pair(*pair)) for pair in pairs]
    expected = theirs._loglikelihood_tokens(requests, disable_tqdm=True)
    np.testing.assert_allclose(result.last_word, [p for p, _ in expected], atol=1e-4)
    assert 0 < sum(result.correct) < len(texts)
    assert result.correct.tolist() == [greedy for _, greedy in expected]


def _read(work, write_texts, texts):
    write_texts(work, texts)
    tokenizer = AutoTokenizer.from_pretrained(work.model_dir)
    return lambada.read_passages(work.data_root / LAMBADA, tokenizer, work.config)


def test_a_long_passage_is_cut_from_the_left_and_counted(family, make_work, write_texts, tokenizer):
    after = 1 if family.family == "roberta" else 0
    room = 64 - 1 - after  # letters and spaces
    fits = "a" * (room - 3) + " bc"
    passages = _read(make_work(family), write_texts, [fits, "xx" + fits])
    assert passages.truncated == 1
    assert passages.sequences[0] == passages.sequences[1]
    assert len(passages.sequences[0]) == 64
    assert passages.targets == [64 - after - 3] * 2
    end = passages.sequences[1][passages.targets[1] : 64 - after]
    assert tokenizer.decode(end) == " bc"


def test_a_last_word_that_does_not_fit_names_file_and_line(family, make_work, write_texts):
    work = make_work(family, lambada={"start_token": "none"})
    longest = 62 if family.family == "roberta" else 63  # <s> and </s>; a first token that is not scored
    _read(work, write_texts, ["a b", "a " + "b" * (longest - 1)])
    with pytest.raises(TinyTransformersError, match=rf"lambada_test\.jsonl: line 2: the last word has {longest + 1} "):
        _read(work, write_texts, ["a b", "a " + "b" * longest])


@any_model
@pytest.mark.parametrize("text", ["word", " word", "a word ", "", " ", "a \n"])
def test_a_passage_without_context_and_last_word_names_file_and_line(family, make_work, write_texts, text):
    with pytest.raises(TinyTransformersError, match=r"lambada_test\.jsonl: line 2: .* does not end in a space and"):
        _read(make_work(family), write_texts, ["a b", text])


@any_model
def test_a_row_without_its_text_and_an_empty_file_are_errors(family, make_work, write_rows):
    work = make_work(family)
    for rows, message in (([{"text": "a b"}, {"txt": "a b"}], "line 2: lacks the field 'text'"), ([], "is empty")):
        write_rows(work.data_root / LAMBADA, rows)
        with pytest.raises(TinyTransformersError, match=message):
            lambada.run(work)


def test_of_a_limited_file_an_encoders_passages_are_evenly_spaced_and_its_last_words_all(
    family, make_work, write_texts
):
    work = make_work(uniform(family), limit=8, lambada={"passages": 4})
    write_texts(work, [f"a{'b' * i} c" for i in range(10)])
    outcome = lambada.run(work)
    lengths = [3 + i for i in (0, 1, 2, 3, 5, 6, 7, 8)]  # of the first eight, evenly spaced
    whole = lengths[::2] if family.family == "roberta" else lengths
    n = counts(outcome)
    assert n["last_word", "accuracy"] == n["last_word", "perplexity"] == outcome.metrics["passages"] == 8
    assert n["passage", "perplexity"] == len(whole)
    assert outcome.metrics["tokens"] == sum(whole)


def test_the_interval_of_the_accuracy_is_that_of_resampled_passages():
    def interval(right, n):
        values = np.full(n, -1.0)
        scores = lambada.summarise(lambada.PassageScores(np.arange(n) < right, values, values, n))
        found = {score.metric: score.value for score in scores if score.task == "last_word"}
        assert found["accuracy"] == right / n
        return found["accuracy_low"], found["accuracy_high"]

    spread = 1.96 * math.sqrt(0.3 * 0.7 / 1_000)
    assert interval(300, 1_000) == pytest.approx((0.3 - spread, 0.3 + spread), abs=2e-3)
    assert interval(300, 1_000) == interval(300, 1_000)
    assert interval(0, 50) == (0, 0)


def test_a_perplexity_beyond_all_numbers_fails_the_check():
    result = lambada.PassageScores(np.array([False]), np.array([-800.0]), np.array([-800.0]), 1)
    with pytest.raises(CheckFailed, match="diverged"):
        lambada.summarise(result)


@any_model
def test_the_file_is_fingerprinted_and_progress_reaches_the_end(family, make_work, write_texts):
    work = make_work(family)
    write_texts(work, TEXTS)
    seen = []
    work.progress = lambda fraction, text: seen.append((fraction, text))
    assert lambada.run(work).data == {LAMBADA: fingerprint(work.data_root / LAMBADA)}
    assert seen[-1] == (1.0, "100% of 4 passages")


def test_a_stop_is_heard(family, make_work, write_texts):
    work = make_work(family)
    write_texts(work, TEXTS)
    work.should_stop = lambda: True
    with pytest.raises(Interrupted):
        lambada.run(work)


def test_bfloat16_is_the_same_but_for_rounding(family, make_work, write_texts, tokenizer):
    model, logs = taught(family, tokenizer, TEXTS[0]), []
    for precision in ("float32", "bfloat16"):
        work = make_work(model, precision=precision)
        write_texts(work, TEXTS)
        logs.append(math.log(values(lambada.run(work))["passage", "perplexity"]))
    assert logs[0] != logs[1]
    assert logs[0] == pytest.approx(logs[1], rel=0.02)


def test_the_real_file_becomes_passages(shared_data):
    real = AutoTokenizer.from_pretrained(shared_data / "tokenizer" / "10k-tok")
    passages = lambada.read_passages(shared_data / LAMBADA, real, RunConfig(model=GPTNeo()))
    assert (len(passages), passages.truncated) == (5_153, 0)
    lengths = [len(ids) for ids in passages.sequences]
    assert (max(lengths), sum(lengths)) == (251, 484_357 + 5_153)
    targets = [len(ids) - target for ids, target in zip(passages.sequences, passages.targets, strict=True)]
    assert (min(targets), targets.count(1), max(targets), sum(targets)) == (1, 1_645, 12, 10_236)
    assert real.decode(passages.sequences[0][passages.targets[0] :]) == " signs"
