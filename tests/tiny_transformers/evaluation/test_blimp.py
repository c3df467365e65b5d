"""BLiMP from a folder of pairs to scores, with models whose preference is known."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binom
from variants import preferring

from tiny_transformers.common import pairs
from tiny_transformers.common.work import Interrupted, TinyTransformersError
from tiny_transformers.evaluation import blimp, certified, scoring
from tiny_transformers.models.auto import build, load_lm
from tiny_transformers.settings import config
from tiny_transformers.settings.config import Data
from tiny_transformers.settings.stage import blimp as stage
from tiny_transformers.settings.stage.blimp import BUILTIN_BLIMP_TASKS, PAIR_SCORES, Blimp, blimp_files

BUILTIN = blimp_files(Data(source="builtin"))

# Where the model makes no difference.
any_model = pytest.mark.parametrize("family", ["decoder"], indirect=True)


def opinionated(family):
    """An untrained model whose answers depend on what it sees, by nats."""
    model = build(family, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 10
    return model


def pair(good, bad, uid="one"):
    return {"sentence_good": good, "sentence_bad": bad, "UID": uid}


@pytest.fixture
def write_pairs(write_rows):
    """Write `pairs` as every task's, or those of `but` as some tasks'."""

    def write(work, pairs, **but):
        for task, file in BUILTIN.items():
            write_rows(work.data_root / file, but.get(task, pairs))

    return write


def accuracies(outcome, *, paradigms=False):
    scores = [score for score in outcome.scores if score.metric == "accuracy"]
    return {score.task: score.value for score in scores if ("/" in score.task) == paradigms}


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
    assert {name: value for name, value in outcome.metrics.items() if "." in name} == {
        f"{task}.ties": 1 for task in BUILTIN
    }


def test_a_longer_sentence_is_not_compensated_for_its_length(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"))
    write_pairs(work, [pair("a", "ggg")])
    assert set(accuracies(blimp.run(work)).values()) == {1.0}


def test_normalisation_is_by_the_tokens_or_by_the_characters_of_the_sentence(family, tokenizer, make_work, write_pairs):
    """A g costs 2.6 nats, any other token 5.6, so does the space before the sentence; é is two tokens."""
    verdicts = {  # right by: no normalisation, tokens, characters without the space
        ("gg", "g"): (0, 1, 1),
        ("xg", "égg"): (1, 0, 1),
        ("g", "gx"): (1, 1, 0),
    }
    for column, normalisation in enumerate(("none", "tokens", "characters")):
        work = make_work(preferring(family, tokenizer, "g"), blimp={"normalisation": normalisation})
        write_pairs(work, [pair(*sentences, uid=" < ".join(sentences)) for sentences in verdicts])
        values = accuracies(blimp.run(work), paradigms=True)
        for (good, bad), expected in verdicts.items():
            assert values[f"irregular_forms/{good} < {bad}"] == expected[column]


@any_model
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
    of_task = {name: value for name, value in outcome.metrics.items() if "." in name}
    assert of_task == {"argument_structure.skipped_equal": 1, "argument_structure.skipped_too_long": 2}
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].split() == ["argument_structure", "0.5000", "0.0000..1.0000", "2", "0", "1", "2"]
    assert len({len(line) for line in shown[:8]}) == 1


@any_model
def test_paradigms_are_the_uids_of_a_group(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"))
    right, wrong = pair("g", "b", "first"), pair("b", "g", "second")
    write_pairs(work, [right], npi_licensing=[right, wrong, right, wrong])
    outcome = blimp.run(work)
    counts = {score.task: (score.value, score.n) for score in outcome.scores if "/" in score.task}
    assert counts.pop("npi_licensing/first") == (1.0, 2)
    assert counts.pop("npi_licensing/second") == (0.0, 2)
    assert set(counts) == {f"{task}/first" for task in BUILTIN_BLIMP_TASKS if task != "npi_licensing"}


@any_model
def test_every_task_and_average_has_its_interval(family, tokenizer, make_work, write_pairs):
    """Of a task it is the binomial's; that of the average is narrower, since tasks are resampled independently."""
    work = make_work(preferring(family, tokenizer, "g"))
    right, wrong = [pair(f"g{i}", f"b{i}") for i in range(30)], [pair(f"b{i}", f"g{i}") for i in range(10)]
    write_pairs(work, right + wrong)
    outcome = blimp.run(work)
    found = {(score.task, score.metric): score.value for score in outcome.scores if "/" not in score.task}
    low, high = binom(40, 0.75).ppf([0.025, 0.975]) / 40
    for task in BUILTIN:
        assert found[task, "accuracy_low"] == pytest.approx(low, abs=0.03)
        assert found[task, "accuracy_high"] == pytest.approx(high, abs=0.03)
    half = 1.96 * (0.75 * 0.25 / 40 / len(BUILTIN)) ** 0.5
    assert found["average", "accuracy_low"] == pytest.approx(0.75 - half, abs=0.005)
    assert found["average", "accuracy_high"] == pytest.approx(0.75 + half, abs=0.005)
    assert {task for task, metric in found if metric == "accuracy_low"} == set(accuracies(outcome))
    assert blimp.run(work).scores == outcome.scores


@any_model
def test_the_full_blimp_averages_paradigms_and_pools_them_by_phenomenon(
    family, tokenizer, make_work, write_rows, monkeypatch, capsys
):
    terms = {"wh_island": "island_effects", "adjunct_island": "island_effects", "causative": "argument_structure",
             "animate_subject_trans": "s-selection"}  # fmt: skip
    monkeypatch.setattr(stage, "BLIMP_PARADIGMS", tuple(terms))
    work = make_work(preferring(family, tokenizer, "g"))
    full = config.evaluation_class()(blimp=Blimp(data="full"))
    work.config = work.config.model_copy(update={"evaluation": full, "data": Data()})
    wrong = {"wh_island": 1, "adjunct_island": 0, "causative": 2, "animate_subject_trans": 0}
    for paradigm, term in terms.items():
        pairs = [pair("g", "b")] + [pair("b", "g")] * wrong[paradigm]
        rows = [row | {"UID": paradigm, "linguistics_term": term} for row in pairs]
        write_rows(work.data_root / f"blimp/{paradigm}.jsonl", rows)
    outcome = blimp.run(work)
    of_paradigms = {
        "island_effects/wh_island": 1 / 2,
        "island_effects/adjunct_island": 1,
        "argument_structure/causative": 1 / 3,
        "argument_structure/animate_subject_trans": 1,
    }
    assert accuracies(outcome, paradigms=True) == of_paradigms
    mean = pytest.approx((1 / 2 + 1 + 1 / 3 + 1) / 4)
    pooled = {"island_effects": 2 / 3, "argument_structure": 2 / 4, "micro": 4 / 7}
    assert accuracies(outcome) == {"average": mean, "blimp": mean, **pooled}
    assert list(outcome.data) == [f"blimp/{paradigm}.jsonl" for paradigm in terms]
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "island_effects"


def test_every_pairs_two_scores_are_kept(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"), limit=2)
    write_pairs(work, [pair("g", "b"), pair("x", "y")], npi_licensing=[pair("same", "same"), pair("x", "xg")])
    outcome = blimp.run(work)
    kept = pairs.read(work.run_dir / PAIR_SCORES)
    assert dict(zip(kept.files, kept.counts.tolist(), strict=True)) == dict.fromkeys(BUILTIN, 2) | {"npi_licensing": 1}
    assert {BUILTIN[task]: fingerprint for task, fingerprint in kept.files.items()} == outcome.data
    assert kept.of_task(kept.rows)["npi_licensing"].tolist() == [1]
    z = np.log(len(tokenizer) - 1 + np.exp(3))
    assert kept.of_task(kept.good)["irregular_forms"] == pytest.approx([-2 * z + 3, -2 * z], abs=1e-4)
    assert kept.of_task(kept.bad)["npi_licensing"] == pytest.approx([-3 * z + 3], abs=1e-4)
    assert kept.settings == {"family": family.family, "precision": "float32"} | Blimp().model_dump()


@pytest.mark.parametrize("family", ["encoder"], indirect=True)
def test_word_l2r_masks_the_rest_of_a_word(family, make_work, tokenizer, write_pairs):
    work = make_work(opinionated(family), blimp={"pll": "word_l2r"})
    write_pairs(work, [pair("ab, cd.", "ba")])
    blimp.run(work)
    sequence = [1, *tokenizer(" ab, cd.", add_special_tokens=False)["input_ids"], 2]  # " ab" "," " cd" "."
    words = [None, 0, 0, 0, 1, 2, 2, 2, 3, None]
    mask_id = tokenizer.mask_token_id
    model = load_lm(work.model_dir)
    expected = scoring.pseudo_log_likelihoods(model, [sequence], mask_id, words=[words])
    assert abs(expected - scoring.pseudo_log_likelihoods(model, [sequence], mask_id)) > 1e-3
    assert pairs.read(work.run_dir / PAIR_SCORES).good[0] == pytest.approx(expected[0], abs=1e-4)


def test_bfloat16_moves_scores_a_little_and_hardly_a_verdict(family, make_work, write_pairs):
    """A sentence's log-likelihood by less than 1 %; of these 60 pairs at most one gets another verdict."""
    letters = np.random.default_rng(0).choice(list("acdefhijklmnop"), size=(60, 8))
    rows = [pair("".join(word[:4]), "".join(word[4:])) for word in letters]
    kept = {}
    for precision in ("float32", "bfloat16"):
        work = make_work(opinionated(family), precision=precision)
        write_pairs(work, rows)
        blimp.run(work)
        kept[precision] = (work.run_dir / PAIR_SCORES).rename(work.run_dir / precision)
    exact, rounded = (pairs.read(path).good for path in kept.values())
    assert 0 < np.abs(rounded - exact).max() < 0.01 * np.abs(exact).max()
    found = pairs.compare(*kept.values())
    assert (found.only_a + found.only_b) <= found.n / 60
    assert found.settings == {"precision": ("float32", "bfloat16")}


def test_bfloat16_first_gives_the_verdicts_of_float32(family, make_work, write_pairs, monkeypatch):
    """Words sorted by their likelihoods: neighbours are near ties, and half of all words lie between the others."""
    monkeypatch.setattr(blimp.certified, "certify", partial(certified.certify, sample=28))
    work, seen = make_work(opinionated(family)), []
    work.progress = lambda fraction, _: seen.append(fraction)

    def run(rows, precision="float32", first=False):
        monkeypatch.setattr(blimp.certified, "pays", lambda *_: first)
        work.config = make_work(opinionated(family), precision=precision).config
        write_pairs(work, [pair("g", "b")], irregular_forms=rows)
        outcome = blimp.run(work)
        return outcome, pairs.read(work.run_dir / PAIR_SCORES)

    words = ["".join(word) for word in np.random.default_rng(0).choice(list("acdefhijklmnop"), size=(120, 6))]
    _, kept = run([pair(word, "b") for word in words])
    values = kept.of_task(kept.good)["irregular_forms"]
    words = [words[place] for place in np.argsort(values)]
    rows = [pair(*sentences) for sentences in [*pairwise(words), *zip(words, words[60:], strict=False)]]
    plain, exact = run(rows)
    outcome, both = run(rows, first=True)
    rounded_alone = run(rows, precision="bfloat16")[1]
    assert (rounded_alone.right != exact.right).any(), "bfloat16 alone is not enough"
    np.testing.assert_array_equal(both.right, exact.right)
    assert accuracies(outcome, paradigms=True) == accuracies(plain, paradigms=True)
    moved = np.abs(both.good - exact.good)
    assert moved[~both.rounded].max() < 1e-4 < moved[both.rounded].max()
    assert outcome.metrics["precision"] == "bfloat16, then float32"
    assert outcome.metrics["scored_again"] == (~both.rounded).sum() < len(both.rows)
    assert 0 < outcome.metrics["largest_error"] <= outcome.metrics["bound"]
    assert both.settings == exact.settings
    assert [kept.rounded.mean() for kept in (exact, rounded_alone)] == [0, 1]
    assert seen[-1] == 1.0


@any_model
def test_bfloat16_comes_first_only_where_float32_is_asked_for(family, make_work, write_pairs, monkeypatch):
    monkeypatch.setattr(blimp.certified, "pays", lambda *_: True)
    for precision, expected in (("bfloat16", "bfloat16"), ("float32", "bfloat16, then float32")):
        work = make_work(family, precision=precision)
        write_pairs(work, [pair("g", "b")])
        assert blimp.run(work).metrics["precision"] == expected


@any_model
def test_a_task_without_a_pair_to_score_is_an_error(tokenizer, make_work, write_pairs, family):
    work = make_work(preferring(family, tokenizer, "g"))
    write_pairs(work, [pair("g", "b")], ellipsis=[pair("g", "b")], irregular_forms=[pair("same", "same")])
    with pytest.raises(TinyTransformersError, match=r"irregular_forms\.json: none of its pairs can be scored \(1 have"):
        blimp.run(work)


@any_model
def test_a_row_without_its_sentence_names_file_and_line(tokenizer, make_work, write_pairs, family):
    work = make_work(preferring(family, tokenizer, "g"))
    for row in ({"sentence_good": "g"}, pair("g", None)):
        write_pairs(work, [pair("g", "b")], npi_licensing=[pair("g", "b"), row])
        with pytest.raises(TinyTransformersError, match=r"npi_licensing\.json: line 2: .*sentence_bad"):
            blimp.run(work)


@any_model
def test_limit_takes_so_many_pairs_of_every_task(family, tokenizer, make_work, write_pairs):
    work = make_work(preferring(family, tokenizer, "g"), limit=3)
    write_pairs(work, [pair(f"g{i}", f"b{i}") for i in range(10)])
    assert {score.n for score in blimp.run(work).scores if score.task in BUILTIN} == {3}


@any_model
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


@any_model
def test_every_bad_file_is_named(family, make_work, write_pairs):
    work = make_work(family)
    write_pairs(work, [pair("A.", "B.")])
    files = list(blimp_files(work.config.data).values())
    (work.data_root / files[0]).write_text("")
    (work.data_root / files[2]).write_text("no JSON\n")
    with pytest.raises(TinyTransformersError) as raised:
        blimp.run(work)
    assert [line.split(": ")[0] for line in str(raised.value).splitlines()] == [
        str(work.data_root / files[0]), str(work.data_root / files[2])]  # fmt: skip
