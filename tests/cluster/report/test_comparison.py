"""What may be said of scores: intervals, tests, corrections and sentences."""

import json
import re
from dataclasses import replace
from itertools import combinations, product
from math import comb, sqrt

import numpy as np
import pytest
import synthetic
from longer import longer
from scipy import stats
from scored import BLIMP, LOSS, compare, no_pairs, on_blimp, study, variant

from cluster.ledger.database import Ledger
from cluster.manifest import loading
from cluster.report import comparison, findings, results, wording
from cluster.report.results import BY_KEY, Family, Study
from tiny_transformers.common import pairs
from tiny_transformers.common.pairs import KeptPairs
from tiny_transformers.settings.stage.blimp import PAIR_SCORES


def sentences(of, kept=no_pairs):
    return " ".join(wording.answer(of, compare(of, kept)))


def kept(right, tasks=("binding",)):
    """A model that has these pairs right; as many in each task."""
    right = np.asarray(right)
    each = len(right) // len(tasks)
    return KeptPairs(
        files={task: f"sha of {task}" for task in tasks},
        counts=np.array([each] * len(tasks)),
        rows=np.tile(np.arange(each, dtype=np.int32), len(tasks)),
        good=np.where(right, -1.0, -3.0),
        bad=np.full(len(right), -2.0),
        settings={},
    )


# -- intervals --------------------------------------------------------------------------------------------------------


def test_the_interval_is_students_and_needs_three_seeds():
    found = comparison.interval([0.5, 0.6, 0.7])
    assert (found.mean, found.n) == (pytest.approx(0.6), 3)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / sqrt(3))  # a table's t for two degrees of freedom
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert comparison.interval([0.5, 0.7]) == findings.Interval(0.6, None, None, 2)
    assert comparison.interval([]) is None


def test_the_interval_covers_the_mean_where_a_bootstrap_of_few_seeds_does_not():
    rng = np.random.default_rng(0)
    for n in (3, 6):
        samples = rng.normal(size=(1000, n))
        found = [comparison.interval(sample) for sample in samples]
        covered = np.mean([each.low <= 0 <= each.high for each in found])
        bootstrap = stats.bootstrap(
            (samples,), np.mean, axis=-1, method="percentile", n_resamples=999, rng=rng
        ).confidence_interval
        assert covered == pytest.approx(0.95, abs=0.02)
        assert np.mean((bootstrap.low <= 0) & (bootstrap.high >= 0)) < 0.89


# -- known answers ----------------------------------------------------------------------------------------------------


def test_a_paired_permutation_counts_the_changes_of_sign_by_hand():
    """Differences 1, 2, 3, -1: of 16 sums 5 or more are 7, 5 and 5, so two-sided 2 x 3 / 16."""
    values = np.array([[[11, 22, 33, 39], [10, 20, 30, 40]]], dtype=float)
    assert comparison.permutation(values, paired=True) == pytest.approx([6 / 16])


def test_an_unpaired_permutation_counts_the_deals_by_hand():
    """Of 20 ways to deal 1, 2, 3 and 4, 5, 6 out, two have as large a difference; if 3 and 4 change places, four."""
    apart = [[4, 5, 6], [1, 2, 3]]
    crossed = [[3, 5, 6], [1, 2, 4]]
    p_values = comparison.permutation(np.array([apart, crossed], dtype=float), paired=False)
    assert p_values == pytest.approx([2 / 20, 4 / 20])


def test_equal_means_have_a_p_value_of_one_whatever_rounding_does():
    """0.1 + 0.7 is not 0.2 + 0.6 in floating point."""
    values = np.array([[[0.1, 0.7, 0.3, 0.4], [0.2, 0.6, 0.4, 0.3]]])
    for paired in (True, False):
        assert comparison.permutation(values, paired=paired).tolist() == [1.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_a_number_has_no_p_value(value):
    with pytest.raises(ValueError, match="not a finite number"):
        comparison.permutation(np.array([[[0.5, value], [0.4, 0.6]]]), paired=True)


def test_many_seeds_are_permuted_at_random_and_always_alike():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 2, 24))
    found = comparison.permutation(values, paired=True)
    assert found == comparison.permutation(values, paired=True)
    assert found == pytest.approx(stats.ttest_rel(*values[0]).pvalue, abs=0.03)


def test_holms_correction_of_a_textbook_example():
    """p-values .01, .04, .03, .005 (Wikipedia, Holm-Bonferroni method): the two smallest are rejected at .05."""
    assert comparison.holm([0.01, 0.04, 0.03, 0.005], 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparison.holm([0.01, None, 0.4], 5) == [pytest.approx(0.05), None, 1.0]


def test_hedges_g_of_a_small_example():
    """Means 4 and 2, both with variance 1: d = 2; J for four degrees of freedom is 0.7979, about 1 - 3 / 15."""
    assert comparison.hedges_g(np.array([3.0, 4, 5]), np.array([1.0, 2, 3])) == pytest.approx(2 * 0.79788, abs=1e-4)
    assert comparison.hedges_g(np.array([3.0]), np.array([1.0])) is None
    assert comparison.hedges_g(np.array([3.0, 3]), np.array([1.0, 1])) is None
    assert comparison.hedges_g(np.full(6, 0.1), np.full(6, 0.3)) is None, "their means are not quite 0.1 and 0.3"
    assert comparison.hedges_g(np.zeros(3), np.zeros(3)) is None


def test_one_seeds_pairs_are_mcnemars():
    """Of 8 pairs that one model alone has right, 7 are the variant's: 2 x (8 + 1) / 2^8."""
    found = comparison.over_items(np.array([1] * 7 + [-1] + [0] * 92, dtype=np.int8), seeds=1)
    assert (found.n, found.difference, found.p) == (100, pytest.approx(0.06), pytest.approx(2 * 9 / 256))
    assert found.low < 0.06 < found.high
    assert comparison.over_items(np.zeros(9, dtype=np.int8), seeds=1).p == 1


def test_several_seeds_pairs_keep_mcnemars_level():
    """A pair's seeds are counted together: three seeds that answer alike are not three times the evidence."""
    rng = np.random.default_rng(0)
    one = rng.choice(np.array([-1, 0, 1], dtype=np.int8), p=[0.1, 0.78, 0.12], size=2000)
    alone, thrice = comparison.over_items(one, seeds=1), comparison.over_items(one * np.int8(3), seeds=3)
    assert thrice.difference == alone.difference
    assert thrice.p == pytest.approx(alone.p, rel=0.1)
    few = comparison.over_items(np.array([2] * 6 + [0] * 90, dtype=np.int8), seeds=2)
    assert few.p == pytest.approx(2 * stats.norm.sf((6 - 1) / sqrt(6)))  # Edwards' correction; exact are 2 / 2^6
    assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high), abs=0.002)


# -- the choice of the test -------------------------------------------------------------------------------------------


def test_the_test_follows_from_seeds_and_comparisons_alone():
    assert comparison.paired_test(6, 1) is True  # 2 / 64
    assert comparison.paired_test(6, 2) is False  # 2 x 2 / 64 > .05, 2 x 2 / 924
    assert comparison.paired_test(6, 20) is False
    assert comparison.paired_test(6, 24) is None
    assert comparison.paired_test(10, 20) is True
    for comparisons in (1, 8, 20, 30, 1000):
        needed = comparison.seeds_needed(comparisons)
        assert 2 * comparisons / comb(2 * needed, needed) <= 0.05 < 2 * comparisons / comb(2 * needed - 2, needed - 1)


def test_unfinished_variants_are_corrected_for_too():
    values = np.arange(12.0)
    whole = study(*(variant(label, {BLIMP: list(values)}) for label in ("gelu", "a")), variant("b", {}))
    (found,) = compare(whole)
    assert comparison.planned(whole) == 2
    assert "Holm's correction for 2 comparisons" in found.test


def test_only_seeds_that_both_have_count():
    baseline, other = variant("gelu", {BLIMP: [0.5, 0.6, 0.7, 0.8]}), variant("a", {BLIMP: [0.5, 0.7, 0.9]})
    (found,) = compare(study(baseline, other))
    assert (found.n, found.difference) == (3, pytest.approx(0.1))


def test_runs_that_read_other_data_are_not_compared():
    """Of the second seed the variant was scored on another version of a file, of the third it was trained on one."""

    def reading(of, *versions):
        runs = zip(of.runs, versions, strict=True)
        return replace(of, runs=tuple(replace(run, data=dict(data)) for run, data in runs))

    first = {("pretrain", "train.jsonl"): "1", ("blimp", "binding.jsonl"): "1", ("superglue", "rte.json"): "1"}
    scored = first | {("blimp", "binding.jsonl"): "2"}
    trained = first | {("pretrain", "train.jsonl"): "2"}
    besides = first | {("superglue", "rte.json"): "2", ("blimp", "ellipsis.jsonl"): "1"}
    baseline = reading(variant("gelu", {BLIMP: [0.5, 0.6, 0.7, 0.8]}), *[first] * 4)
    other = reading(variant("a", {BLIMP: [0.6, 0.7, 0.8, 0.9]}), first, scored, trained, besides)
    assert compare(study(baseline, other))[0].n == 2
    only = reading(variant("a", {BLIMP: [0.6]}), scored)
    assert "no variant has a score on one of its seeds and its data" in sentences(study(baseline, only))


def test_losses_of_other_vocabularies_are_not_compared_and_scores_are():
    def of_size(name, size, value):
        told = variant(name, {BLIMP: [value], LOSS: [value]})
        read = {("pretrain", "train.jsonl"): "1", ("pretrain", f"tokenizer/bpe-{size}/tokenizer.json"): str(size)}
        return replace(told, runs=tuple(replace(run, data=read) for run in told.runs))

    baseline, alike, larger = of_size("gelu", 2_000, 0.5), of_size("a", 2_000, 0.6), of_size("b", 8_000, 0.7)
    found = {(each.variant.label, each.measure.key) for each in compare(study(baseline, alike, larger))}
    assert found == {("a", "blimp"), ("a", "loss"), ("b", "blimp")}


# -- sentences --------------------------------------------------------------------------------------------------------

LOW = [0.500, 0.502, 0.504, 0.506, 0.508, 0.510]
HIGH = [0.516, 0.514, 0.518, 0.520, 0.522, 0.524]  # 1.4 points more, each above all of LOW


def test_a_difference_is_told_with_interval_p_seeds_and_parameters():
    geglu = variant("geglu", {BLIMP: HIGH}, parameters=10_636_288)
    (found,) = compare(study(variant("gelu", {BLIMP: LOW}), geglu))
    assert found.p_corrected == 2 / 64
    assert found.sentence == (
        "“GEGLU” beats “GELU” on BLiMP by 1.4 points [1.3, 1.5], p = 0.031 after correction, 6 seeds; "
        "it has 11 % more parameters"
    )
    assert found.significant
    (other,) = compare(study(variant("gelu", {BLIMP: HIGH}), variant("relu", {BLIMP: LOW})))
    assert other.sentence == (
        "“ReLU” is worse than “GELU” on BLiMP by 1.4 points [1.3, 1.5], p = 0.031 after correction, 6 seeds"
    )
    assert (other.difference, other.low) == (pytest.approx(-0.014), pytest.approx(-found.high))


def test_of_losses_the_lower_one_is_better():
    of = study(variant("gelu", {LOSS: [1.6 - x for x in LOW]}), variant("silu", {LOSS: [1.6 - x for x in HIGH]}))
    (found,) = compare(of)
    assert found.difference < 0 < found.advantage
    assert found.sentence.startswith("“SiLU” beats “GELU” in validation loss by 0.014 nats [0.013, 0.015], p = 0.031 ")


def test_what_cannot_be_told_is_not_called_equal():
    (found,) = compare(on_blimp(LOW, LOW[::-1]))
    assert found.sentence.startswith(
        "No difference between “a” and “GELU” can be told on BLiMP: they have the same mean [-"
    )
    assert not found.significant
    assert "equal" not in found.sentence


def test_no_difference_is_neither_better_nor_worse_and_no_zero_is_negative():
    (found,) = compare(on_blimp([0.5] * 6, [0.5] * 6))
    assert "they have the same mean [0.0, 0.0], p = 1.00" in found.sentence
    (found,) = compare(on_blimp([0.5], [0.5]))
    assert found.sentence.startswith("“a” has the same mean as “GELU” on BLiMP, but 1 seed: ")
    (found,) = compare(on_blimp([0.5, 0.6, 0.7], [0.5001, 0.6002, 0.70029]))
    assert "-0.0" not in found.sentence.replace("-0.00", "")


def test_a_difference_is_never_shown_as_zero():
    (found,) = compare(on_blimp(LOW, [value + 0.0002 + 1e-6 * seed for seed, value in enumerate(LOW)]))
    assert "“a” beats “GELU” on BLiMP by 0.02 points [0.02, 0.02]" in found.sentence


def test_a_name_is_never_read_as_a_word_of_the_sentence():
    (found,) = compare(study(variant("gelu", {BLIMP: HIGH}), variant("none", {BLIMP: LOW})))
    assert found.sentence.startswith("“no activation” is worse than “GELU” on BLiMP by 1.4 points")
    odd = variant("is worse than”, “all", {BLIMP: HIGH})
    (found,) = compare(study(variant("gelu", {BLIMP: LOW}), odd))
    assert found.sentence.startswith("“is worse than', 'all” beats “GELU” on BLiMP by 1.4 points")


def test_too_few_seeds_have_no_p_value_but_the_number_that_is_needed():
    of = on_blimp([0.5, 0.51], [0.6, 0.62], [0.5, 0.52])
    found = compare(of)[0]
    assert (found.p, found.p_corrected, found.low, found.items) == (None, None, None, None)
    assert found.sentence == (
        "“a” is 10.5 points better than “GELU” on BLiMP, "
        "but 2 seeds: at least 5 are needed for a p-value with 2 comparisons"
    )
    assert sentences(of) == (
        "GPT-Neo: No difference to “GELU” can be told on BLiMP (2 seeds: at least 5 are needed for a p-value with 2 "
        "comparisons): “a” +10.5, “b” +0.5 points."
    )


def test_the_answer_names_what_is_better_and_counts_the_rest_as_not_told():
    told = sentences(on_blimp(LOW, HIGH, LOW[::-1], LOW[1:] + LOW[:1]))
    assert told.startswith("GPT-Neo: “a” beats “GELU” on BLiMP by 1.4 points [")
    assert "No difference to “GELU” can be told on BLiMP for “b” 0.0, “c” 0.0 points, 6 seeds." in told


def test_the_answer_says_what_is_missing():
    assert "the ledger has no run of made_up" in sentences(Study("made_up", "", ()))
    nothing = study(variant("gelu", {}), variant("a", {}))
    assert sentences(nothing) == "GPT-Neo: nothing can be said yet, none of its 2 runs has a score."
    told = sentences(study(variant("gelu", {}, missing=["blimp"]), variant("a", {BLIMP: [0.5]})))
    assert "nothing can be compared with the baseline “GELU” on BLiMP yet: it has no score." in told
    assert "GPT-Neo: 1 of 1 seed of “GELU” failed, and what they lack is not in this." in told
    assert "not finished" not in told
    waiting = variant("gelu", {})
    waiting = replace(waiting, runs=(replace(waiting.runs[0], stages={"blimp": {"status": "waiting"}}),))
    told = sentences(study(waiting, variant("a", {BLIMP: [0.5]})))
    assert "1 of 2 runs are not finished, so this may change." in told
    apart = variant("a", {BLIMP: [0.5, 0.6]})
    apart = replace(apart, runs=apart.runs[1:])
    assert "no variant has a score on one of its seeds" in sentences(study(variant("gelu", {BLIMP: [0.5]}), apart))
    assert "the study has “GELU” only, so there is nothing to compare; its means are BLiMP 50.0" in sentences(
        study(variant("gelu", {BLIMP: [0.5]}))
    )


@pytest.fixture(scope="module")
def every_study(tmp_path_factory):
    """Every study of experiments.yaml, one seed of each cell; one run has failed."""
    names = list(loading.load(synthetic.EXPERIMENTS).studies)
    planned = synthetic.planned(names, seeds=1)
    root = synthetic.make(tmp_path_factory.mktemp("every"), planned, with_pairs=False)
    ledger = Ledger(root.ledger)
    found = results.read(ledger)
    ledger.close()
    assert {each.name for each in found} == {run_study for run in planned for run_study in run.studies}
    assert len(found) == len(names) - 3, "three steps of the pipeline have no cells of their own"
    return found


def test_every_study_of_the_manifest_has_its_sentences(every_study):
    for each in every_study:
        told = wording.answer(each, compare(each))
        assert len(told) >= len(each.families)
        for family in each.families:
            mine = [line for line in told if line.startswith(f"{family.title}: ")]
            assert mine, (each.name, family.title)
            assert all("No difference to" in line or "there is nothing to compare" in line for line in mine)


# The sentences of a comparison, N a name and # a number: if a name were read as a word, they would say something else.
RANGE = r"( \[[-#]+, [-#]+\])?"
MORE = r"(; it has # % (more|fewer) parameters)?"
WHERE = f"({'|'.join(re.escape(wording._where(BY_KEY[key])) for key in results.MAIN)})( \\(selected on these rows\\))?"
SURE = re.compile(
    rf"N (beats|is worse than) N {WHERE} by #( points| nats|){RANGE}, p [=<] # after correction, # seeds?{MORE}"
)
UNSURE = re.compile(
    rf"No difference between N and N can be told {WHERE}: (they have the same mean|N is #( points| nats|))"
    rf"{RANGE}( better| worse)?, p [=<] # after correction, # seeds?{MORE}"
)
TOO_FEW = re.compile(
    rf"N (is #( points| nats|){RANGE} (better|worse) than|has the same mean as) N {WHERE}, "
    rf"but # seeds?: at least # are needed for a p-value with # comparisons?{MORE}"
)
LISTED = re.compile(
    rf"No difference to N can be told {WHERE} \(# seeds?: at least # are needed for a p-value with # comparisons?\): "
    r"N [+-]?#(, N [+-]?#)*( points| nats|)\."
)
ALONE = re.compile(r"the study has N only, so there is nothing to compare; its means are .*#\.")


def read_aloud(sentence):
    """The names that a sentence sets apart, and the sentence with N for each and # for each number."""
    names = re.findall(r"“([^“”]*)”", sentence)
    return names, re.sub(r"(?<!\w)\d[\d,]*(\.\d+)?", "#", re.sub(r"“[^“”]*”", "N", sentence))


def test_the_sentences_of_every_variant_of_the_manifest_read_as_what_was_found(every_study):
    read = set()
    for each in every_study:
        for found in compare(each):
            ours, theirs = (wording.name(v)[1:-1] for v in (found.variant, found.family.baseline))
            assert ours != theirs
            for p, form in ((0.01, SURE), (0.5, UNSURE), (None, TOO_FEW)):
                sentence = wording.sentence_of(replace(found, p=p, p_corrected=p))
                names, said = read_aloud(sentence)
                assert form.fullmatch(said), (sentence, said)
                if form is UNSURE:
                    assert names in ([ours, theirs, ours], [ours, theirs])
                else:
                    assert names == [ours, theirs], sentence
                if abs(found.difference) > 1e-9:
                    better = "N beats N" in said or " better" in said
                    assert better == (found.advantage > 0), sentence
            read.add((each.name, found.family.name, found.variant.label))
        for line in wording.answer(each, compare(each)):
            _, said = read_aloud(line.partition(": ")[2])
            assert LISTED.fullmatch(said) or ALONE.fullmatch(said) or "what they lack is not in this" in said, line
    assert len(read) == sum(len(family.variants) - 1 for each in every_study for family in each.families)
    assert any(label == "none" for _, _, label in read)


# -- pairs of BLiMP ---------------------------------------------------------------------------------------------------


def test_pairs_of_one_seed_are_told_to_be_of_two_models():
    of = on_blimp([0.5], [0.6])
    right = np.arange(1000) < 500
    models = {"gelu-0": kept(right), "a-0": kept(right | (np.arange(1000) < 560))}
    (found,) = compare(of, models.get)
    assert (found.items.n, found.items.seeds, found.items.difference) == (1000, 1, pytest.approx(0.06))
    assert found.items.p == pytest.approx(2 / 2**60)
    assert found.sentence.endswith(
        "on the same 1,000 pairs it has 6.0 points more right [4.6, 7.5], p < 0.001 after correction; "
        "one seed: this compares two trained models, not the designs"
    )
    assert (
        "Pair by pair the models of “a” (+6.0 points) do differ from the baseline's, but one seed: this"
        in sentences(of, models.get)
    )


def test_a_difference_that_is_none_is_told_from_one_that_rounding_hides():
    assert wording.signed(BLIMP, 0.0004) == "+0.04"
    assert wording.signed(BLIMP, -0.014) == "-1.4"
    assert wording.signed(LOSS, -0.00004) == "-0.00004"
    assert wording.signed(BLIMP, 1e-12) == "0.0"
    right = np.arange(10_000) < 5_000
    models = {"gelu-0": kept(right), "a-0": kept(right | (np.arange(10_000) < 5_003))}
    assert "it has 0.03 points more right [" in compare(on_blimp([0.5], [0.6]), models.get)[0].sentence


def test_pairs_of_seeds_that_were_trained_on_other_data_are_not_compared():
    of = on_blimp([0.5, 0.5], [0.6, 0.6])
    gelu, other = of.variants
    read = lambda run, sha: replace(run, data={("pretrain", "train.jsonl"): sha})  # noqa: E731
    gelu = replace(gelu, runs=tuple(read(run, "1") for run in gelu.runs))
    other = replace(other, runs=tuple(read(run, sha) for run, sha in zip(other.runs, "12", strict=True)))
    right = {"gelu-0": range(500), "gelu-1": range(500), "a-0": range(510), "a-1": range(900)}
    models = {run: kept(np.isin(np.arange(1000), right[run])) for run in right}
    (found,) = compare(study(gelu, other), models.get)
    assert (found.n, found.items.seeds, found.items.difference) == (1, 1, pytest.approx(0.01))


def test_pairs_that_say_the_opposite_of_the_mean_of_tasks_are_told_with_a_word():
    """A small task of which the variant has all right outweighs the large one in the mean, and not in the pairs."""
    of, tasks = on_blimp([0.5], [0.6]), {"gelu-0": np.arange(1000) < 500, "a-0": np.arange(1000) < 400}
    found = compare(of, {name: kept(right) for name, right in tasks.items()}.get)[0]
    assert found.difference > 0 > found.items.difference
    assert "10.0 points fewer right" in found.sentence
    assert "after correction, the opposite, since here every pair weighs alike and there every task; one seed" in (
        found.sentence
    )
    told = sentences(of, {name: kept(right) for name, right in tasks.items()}.get)
    assert (
        "of “a” (-10.0 points, the opposite, since here every pair weighs alike and there every task) do differ" in told
    )


def test_pairs_of_the_supplement_do_not_count():
    of, tasks = on_blimp([0.5], [0.6]), ("binding", "hypernym")
    right = np.zeros(20, dtype=bool)
    models = {"gelu-0": kept(right, tasks), "a-0": kept(~right, tasks)}
    assert compare(of, models.get)[0].items.n == 10
    only = {name: kept(right, ("hypernym",)) for name in models}
    assert compare(of, only.get)[0].items is None


def test_pairs_that_are_absent_torn_or_others_are_not_compared():
    of = on_blimp([0.5, 0.6], [0.6, 0.7])
    right = np.arange(20) < 10
    whole = {f"{label}-{seed}": kept(right) for label in ("gelu", "a") for seed in (0, 1)}
    assert compare(of, whole.get)[0].items.seeds == 2
    assert compare(of, (whole | {"a-1": None}).get)[0].items.seeds == 1, "the other seed is still there"
    assert compare(of, (whole | {"a-1": None, "gelu-0": None}).get)[0].items is None
    for other in (
        kept(right[:10]),
        replace(kept(right), rows=np.arange(20, dtype=np.int32)[::-1]),
        replace(kept(right), files={"binding": "another file"}),
        replace(kept(right), good=kept(right).good[:3], bad=kept(right).bad[:3]),
        replace(kept(right), counts=np.array([7])),
    ):
        assert compare(of, (whole | {"a-1": other}).get)[0].items is None
    assert compare(of, dict.fromkeys(whole, replace(kept(right), counts=np.array([7]))).get)[0].items is None


def test_pairs_of_a_run_without_a_score_are_not_compared():
    right = np.arange(20) < 10
    files = {f"{label}-{seed}": kept(right) for label in ("gelu", "a") for seed in (0, 1)}
    of = study(variant("gelu", {BLIMP: [0.5, 0.6]}), variant("a", {BLIMP: [0.6], LOSS: [1.5, 1.6]}))
    assert compare(of, files.get)[0].items.seeds == 1, "its second seed failed after it had kept its pairs"


def test_a_sentence_over_several_variants_tells_the_seeds_of_each():
    scores = [0.57, 0.58, 0.56, 0.59, 0.55, 0.575]
    told = sentences(on_blimp(scores, scores[::-1], scores[:5][::-1]))
    assert "5 to 6 seeds" in told
    told = sentences(on_blimp(scores, scores[:1], scores[:2]))
    assert "(1 seed: at least 5 are needed for a p-value with 2 comparisons): “a”" in told
    assert "(2 seeds: at least 5 are needed for a p-value with 2 comparisons): “b”" in told


# -- by simulation ----------------------------------------------------------------------------------------------------


def simulated(rng, *, seeds, variants=10, families=2, together=0.5, effect=0.0):
    """Studies without an effect but for the first variant's, in standard deviations between seeds. `together`: the
    correlation of the models of a seed."""
    made = []
    for number in range(families):
        common = rng.normal(size=seeds) * sqrt(together)
        values = common + rng.normal(size=(variants + 1, seeds)) * sqrt(1 - together)
        values[1] += effect
        labels = ["gelu", *"abcdefghijklmnop"[:variants]]
        scores = [variant(label, {BLIMP: list(0.57 + 0.01 * row)}) for label, row in zip(labels, values, strict=True)]
        made.append(Family(f"family{number}", tuple(scores)))
    return Study("made_up", "", tuple(made))


SIMULATIONS = 100


def at_most_five_percent(of):
    """Within the error of so many studies: exceeded by chance once in a hundred times."""
    return stats.binom(of, 0.05).ppf(0.99)


@pytest.mark.parametrize(("seeds", "together", "paired"), [
    (6, 0.5, False), longer(6, 0.0, False), longer(12, 0.5, True),
])  # fmt: skip
def test_without_an_effect_one_study_in_twenty_at_most_claims_one(seeds, together, paired):
    rng = np.random.default_rng(seeds)
    claims = 0
    for _ in range(SIMULATIONS):
        found = compare(simulated(rng, seeds=seeds, together=together))
        assert all(each.test.startswith("paired") is paired for each in found)
        claims += any(each.significant for each in found)
    assert claims <= at_most_five_percent(SIMULATIONS)


@pytest.mark.parametrize("seeds", [1, longer(3)])
def test_without_a_difference_the_pairs_claim_one_in_twenty_studies_at_most(seeds):
    """The models of a study answer a pair alike more often than not, as it is a hard one or an easy one."""
    rng, claims = np.random.default_rng(0), 0
    of = on_blimp(*[[0.5] * seeds] * 4)
    for _ in range(SIMULATIONS):
        chance = rng.beta(1.2, 1.0, size=500)
        models = {run.run_id: kept(rng.random(500) < chance) for run in of.runs}
        claims += any(each.items.p_corrected <= 0.05 for each in compare(of, models.get))
    assert claims <= at_most_five_percent(SIMULATIONS)


@pytest.mark.parametrize(("seeds", "effect", "least"), [(12, 2.0, 0.8), (6, 4.0, 0.8)])
def test_an_effect_is_found(seeds, effect, least):
    rng = np.random.default_rng(0)
    found = [compare(simulated(rng, seeds=seeds, families=1, effect=effect))[0] for _ in range(50)]
    assert np.mean([each.significant and each.difference > 0 for each in found]) >= least


# The grids that scores lie on: all of LAMBADA's 5,153 passages, and `limit: 100`.
GRIDS = {"lambada": (5_153, 0.083), "limit_100": (100, 0.57)}


def exact_p_values(counts, *, paired):
    """The same test in whole numbers, counts (comparisons, 2, seeds): one permutation after the other."""
    n = counts.shape[2]
    flat = counts.reshape(len(counts), -1)
    if paired:
        signs = [(*kept, *(-sign for sign in kept)) for kept in product((1, -1), repeat=n)]
    else:
        signs = [[1 if place in dealt else -1 for place in range(2 * n)] for dealt in combinations(range(2 * n), n)]
    found = np.abs(counts[:, 0].sum(1) - counts[:, 1].sum(1))
    as_large = np.zeros(len(counts), dtype=np.int64)
    for row in signs:
        as_large += np.abs(flat @ np.array(row)) >= found
    return as_large / len(signs)


@pytest.mark.parametrize("studies", [200, longer(3_000)])
@pytest.mark.parametrize("paired", [True, False], ids=["paired", "unpaired"])
@pytest.mark.parametrize("seeds", [5, 6])
@pytest.mark.parametrize("grid", GRIDS)
def test_of_studies_without_an_effect_all_p_values_are_those_of_whole_numbers(grid, seeds, paired, studies):
    """As many comparisons as the test can correct for; 5 seeds are too few for the paired one even with one."""
    rows, chance = GRIDS[grid]
    smallest = 2 / 2**seeds if paired else 2 / comb(2 * seeds, seeds)
    comparisons = max(1, int(0.05 / smallest))
    rng = np.random.default_rng(seeds)
    # A model's own chance varies with its seed by a point, or its rows' chance is all the difference there is.
    chances = np.clip(rng.normal(chance, 0.01, (studies, comparisons + 1, seeds)), 0.001, 0.999)
    counts = rng.binomial(rows, chances)
    both = np.stack([counts[:, 1:], np.broadcast_to(counts[:, :1], counts[:, 1:].shape)], axis=2)
    flat = both.reshape(-1, 2, seeds)
    parts = np.array_split(flat / rows, max(1, len(flat) // 5_000))  # for memory's sake
    found = np.concatenate([comparison.permutation(part, paired=paired) for part in parts])
    assert (found == exact_p_values(flat, paired=paired)).all()
    claims = [min(comparison.holm(list(of_study), comparisons)) <= 0.05 for of_study in found.reshape(studies, -1)]
    assert sum(claims) <= 0.05 * studies


# -- at its size -----------------------------------------------------------------------------------------------------


def test_the_largest_study_is_compared(tmp_path):
    root = synthetic.make(tmp_path, synthetic.planned(["activations"]))
    ledger = Ledger(root.ledger)
    (activations,) = results.read(ledger)
    ledger.close()
    found = compare(activations, lambda run_id: pairs.read(root.run(run_id).path / PAIR_SCORES))
    assert len(found) == 20 * 3
    assert {each.items.seeds for each in found if each.measure == BLIMP} == {6}
    assert json.dumps([each.sentence for each in found])
