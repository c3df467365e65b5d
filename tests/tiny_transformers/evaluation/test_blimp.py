"""BLiMP from a folder of pairs to scores, with models whose preference is known."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tiny_transformers.architecture import GPTNeo
from tiny_transformers.config import (
    BLIMP_TASKS,
    SUPPLEMENT_TASKS,
    Blimp,
    Data,
    Evaluation,
    RunConfig,
    blimp_files,
)
from tiny_transformers.evaluation import blimp
from tiny_transformers.models import build
from tiny_transformers.work import Interrupted, TinyTransformersError

BUILTIN = blimp_files(Data(source="builtin"))


def preferring(family, tokenizer, letter):
    """A model to which `letter` is likelier than any other token, wherever it stands."""
    model = build(family, seed=0)
    favourite = tokenizer(letter, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        if family.family == "roberta":
            model.lm_head.bias[favourite] = 3
        else:
            model.transformer.ln_f.bias[0] = 1
            model.transformer.wte.weight[favourite, 0] = 3
    return model


def pair(good, bad):
    return {"sentence_good": good, "sentence_bad": bad}


@pytest.fixture
def write_pairs(write_rows):
    """Write `pairs` as every task's, or those of `but` as some tasks'."""

    def write(work, pairs, **but):
        for task, file in BUILTIN.items():
            write_rows(work.root / file, but.get(task, pairs))

    return write


def accuracies(outcome):
    return {score.task: score.value for score in outcome.scores}


def test_a_model_that_prefers_the_good_sentence_scores_one(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"))
    write_pairs(work, [pair("a g c", "a b c"), pair("g", "b")])
    outcome = blimp.run(work)
    names = {*BUILTIN, "average", "blimp", "supplement", "micro"}
    assert accuracies(outcome) == dict.fromkeys(names, 1.0)
    assert {score.task: score.n for score in outcome.scores}["average"] == 2 * len(BUILTIN)


def test_a_model_that_prefers_the_bad_sentence_scores_zero(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "b"))
    write_pairs(work, [pair("a g c", "a b c")])
    assert set(accuracies(blimp.run(work)).values()) == {0.0}


def test_a_tie_is_wrong_and_counted(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"))
    write_pairs(work, [pair("a g", "a x"), pair("one", "two")])
    outcome = blimp.run(work)
    assert set(accuracies(outcome).values()) == {0.5}
    assert outcome.metrics["ties"] == len(BUILTIN)


def test_a_longer_sentence_is_not_compensated_for_its_length(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"))
    write_pairs(work, [pair("a", "ggg")])
    assert set(accuracies(blimp.run(work)).values()) == {1.0}


def test_averages_weigh_tasks_and_micro_weighs_pairs(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"))
    right, wrong = pair("g", "b"), pair("b", "g")
    write_pairs(work, [right], anaphor_agreement=[right, wrong, wrong, wrong], subject_aux_inversion=[wrong])
    values = accuracies(blimp.run(work))
    assert values["anaphor_agreement"] == 0.25
    assert values["blimp"] == pytest.approx((0.25 + 5 * 1) / 6)
    assert values["supplement"] == 0
    assert values["average"] == pytest.approx((0.25 + 5 * 1 + 0) / 7)
    assert values["micro"] == pytest.approx((1 + 5) / 10)


def test_pairs_that_cannot_be_scored_are_left_out_and_counted(family, tokenizer, make_work, write_pairs, capsys):
    work = make_work(preferring(family, tokenizer, "g"))
    fits = 61 if family.family == "roberta" else 62  # letters beside the space and <s>, or <s> and </s>: 64 tokens
    odd = [pair("same", "same"), pair("g" * (fits + 1), "b"), pair("b", "g" * (fits + 1)), pair("b", "g" * fits)]
    write_pairs(work, [pair("g", "b")], argument_structure=[pair("b", "g"), *odd])
    outcome = blimp.run(work)
    score = next(score for score in outcome.scores if score.task == "argument_structure")
    assert (score.value, score.n) == (0.5, 2)
    skipped = {name: outcome.metrics[name] for name in ("skipped", "skipped_equal", "skipped_too_long")}
    assert skipped == {"skipped": 3, "skipped_equal": 1, "skipped_too_long": 2}
    assert capsys.readouterr().out.splitlines()[2].split() == ["argument_structure", "0.5000", "2", "0", "1", "2"]


def test_a_task_without_a_pair_to_score_is_an_error(tokenizer, make_work, write_pairs, family):
    work = make_work(preferring(family, tokenizer, "g"))
    write_pairs(work, [pair("g", "b")], ellipsis=[pair("g", "b")], irregular_forms=[pair("same", "same")])
    with pytest.raises(TinyTransformersError, match=r"irregular_forms\.json: none of its pairs can be scored \(1 have"):
        blimp.run(work)


def test_a_row_without_its_sentence_names_file_and_line(tokenizer, make_work, write_pairs, family):
    work = make_work(preferring(family, tokenizer, "g"))
    for row in ({"sentence_good": "g"}, pair("g", None)):
        write_pairs(work, [pair("g", "b")], npi_licensing=[pair("g", "b"), row])
        with pytest.raises(TinyTransformersError, match=r"npi_licensing\.json: line 2: .*sentence_bad"):
            blimp.run(work)


def test_limit_takes_so_many_pairs_of_every_task(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"), limit=3)
    write_pairs(work, [pair(f"g{i}", f"b{i}") for i in range(10)])
    assert {score.n for score in blimp.run(work).scores if score.task in BUILTIN} == {3}


def test_the_context_and_the_leading_space_are_settings(make_work, tokenizer, write_rows, family):
    work = make_work(family)
    path = work.root / "pairs.json"
    write_rows(path, [pair("a", "b")])

    def first_sequence(**settings):
        evaluation = Evaluation(blimp=Blimp(**settings))
        changed = work.config.model_copy(update={"evaluation": evaluation})
        return blimp.read_pairs(path, "binding", tokenizer, changed).sequences[0]

    space, a = tokenizer(" a", add_special_tokens=False)["input_ids"]
    if family.family == "roberta":
        assert first_sequence() == [1, space, a, 2]
        assert first_sequence(start_token="eos", leading_space=False) == [1, a, 2]
    else:
        assert first_sequence() == [1, space, a]
        assert first_sequence(start_token="eos", leading_space=False) == [2, a]


def test_the_files_are_fingerprinted_and_progress_reaches_the_end(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"))
    write_pairs(work, [pair("g", "b")])
    seen = []
    work.progress = lambda fraction, text: seen.append((fraction, text))
    outcome = blimp.run(work)
    assert set(outcome.data) == set(BUILTIN.values())
    assert len(set(outcome.data.values())) == 1
    assert seen[-1] == (1.0, "100% of 14 sentences")


def test_a_stop_is_heard(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"))
    write_pairs(work, [pair("g", "b")])
    work.should_stop = lambda: True
    with pytest.raises(Interrupted):
        blimp.run(work)


def test_an_untrained_model_is_near_one_half(family, make_work, write_pairs):
    work = make_work(family)
    letters = np.random.default_rng(0).choice(list("acdefhijklmnop"), size=(60, 4))
    write_pairs(work, [pair(f"{a}g{b}", f"{c}b{d}") for a, b, c, d in letters])
    assert 0.2 < accuracies(blimp.run(work))["micro"] < 0.8


def test_every_real_file_becomes_pairs(shared_data):
    """The counts of the whole filtered files; two pairs of one and five of another have two equal sentences."""
    real = AutoTokenizer.from_pretrained(shared_data / "tokenizer" / "10k-tok")
    counted = {}
    for task, file in blimp_files(Data()).items():
        pairs = blimp.read_pairs(shared_data / file, task, real, RunConfig(model=GPTNeo()))
        counted[task] = len(pairs.sequences) // 2
        assert pairs.too_long == 0
    assert sum(counted[task] for task in BLIMP_TASKS) == 57_812 - 7
    assert sum(counted[task] for task in SUPPLEMENT_TASKS) == 5_468
    assert (counted["argument_structure"], counted["binding"]) == (8_248 - 2, 6_738 - 5)
