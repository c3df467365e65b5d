"""What a study found in one line a family, and its small picture."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scored import BLIMP, LOSS, compare, on_blimp, study, variant

from cluster.report.comparison import seeds_needed, seeds_to_tell
from cluster.report.headlines import ROWS, Effect, headlines, pictures
from cluster.report.results import Family, Study

BASE = [0.60, 0.61, 0.59, 0.60, 0.605, 0.595]
WORSE, BETTER = [each - 0.03 for each in BASE], [each + 0.02 for each in BASE]
ALIKE = [0.601, 0.609, 0.591, 0.599, 0.606, 0.594]


def lines(of):
    return [f"{each.family}: {each.line}" for each in headlines(of, compare(of))]


@pytest.mark.parametrize(
    ("variants", "line"),
    [
        (
            [WORSE, ALIKE],
            "none can be told to beat “GELU”; “a” is worse: -3.0 points of BLiMP; "
            "1 other cannot be told from the baseline.",
        ),
        ([BETTER, ALIKE], "“a” beats “GELU”: +2.0 points of BLiMP; 1 other cannot be told from the baseline."),
        (
            [WORSE, ALIKE, ALIKE, BETTER[:2]],
            "none can be told to beat “GELU”; “a” is worse: -3.0 points of BLiMP; "
            "2 others cannot be told from the baseline, 1 other has too few seeds.",
        ),
        ([WORSE, BETTER], "“b” beats “GELU”: +2.0 points of BLiMP; “a” is worse: -3.0 points of BLiMP."),
        ([ALIKE], "no difference to “GELU” can be told (6 seeds)."),
        ([WORSE[:1]], "1 seed of each, so no difference can be told from chance: that takes 4 or more."),
        ([[]], "nothing can be compared yet."),
    ],
)
def test_a_line_says_what_beats_the_baseline_what_is_worse_or_that_nothing_can_be_told(variants, line):
    assert lines(on_blimp(BASE, *variants)) == [f"GPT-Neo: {line}"]


def test_where_nothing_can_be_told_it_says_how_many_seeds_the_largest_difference_takes():
    near, less = [0.61, 0.60, 0.60, 0.61, 0.60, 0.605], [each - 0.001 for each in reversed(BASE)]
    (line,) = lines(on_blimp(BASE, near, less))
    told = re.fullmatch(
        r".*told \(6 seeds\); the largest seen, \+0.4 points of BLiMP by “a”, would take (\d+) seeds or more to tell.",
        line,
    )
    assert 6 < int(told[1]) < 100
    one, other = np.array([0.0, 1.0, 0.5, 0.5]), np.array([2.0, 3.0, 2.5, 2.5])
    few, many = (seeds_to_tell(one, other, comparisons) for comparisons in (1, 20))
    assert seeds_needed(1) <= few < many
    assert seeds_to_tell(one, one + 0.01, 1) is None, "more than are named"
    assert seeds_to_tell(one, one + 1, 20) > many, "the smaller the difference"


def test_a_long_label_has_a_line_of_its_own():
    def picture(label):
        of = study(variant("gelu", {BLIMP: BASE}), variant(label, {BLIMP: WORSE}))
        return pictures(of, compare(of))[0]

    beside, above, narrow = map(picture, ("b" * 19, "b" * 50, "b" * 80))
    assert [each.is_wide for each in (beside, above, narrow)] == [False, True, True]
    assert [each.effects[0].is_narrow for each in (beside, above, narrow)] == [False, False, True]
    assert [each.effects[0].label for each in (beside, above, narrow)] == ["b" * 19, "b" * 50, "b" * 71 + "…"]


def test_of_many_variants_the_two_that_differ_most_are_named():
    less = [[each - by for each in BASE] for by in (0.02, 0.05, 0.03)]
    assert lines(on_blimp(BASE * 2, *(each * 2 for each in less))) == [
        "GPT-Neo: none can be told to beat “GELU”; “b” (-5.0 points of BLiMP), “c” (-3.0) and 1 more are worse."
    ]
    more = [[each + by for each in BASE] for by in (0.02, 0.05)]
    assert lines(on_blimp(BASE * 2, *(each * 2 for each in more))) == [
        "GPT-Neo: “b” (+5.0 points of BLiMP) and “a” (+2.0) beat “GELU”."
    ]


def test_the_line_speaks_of_the_measure_of_the_picture_and_of_scores_before_losses():
    loss = [1.5, 1.51, 1.49, 1.50, 1.505, 1.495]
    more = [each + 0.1 for each in loss]
    of = study(variant("gelu", {BLIMP: BASE, LOSS: loss}), variant("a", {BLIMP: WORSE, LOSS: more}))
    assert lines(of) == ["GPT-Neo: none can be told to beat “GELU”; “a” is worse: -3.0 points of BLiMP."]
    of = study(variant("gelu", {BLIMP: BASE, LOSS: loss}), variant("a", {BLIMP: ALIKE, LOSS: more}))
    assert lines(of) == ["GPT-Neo: none can be told to beat “GELU”; “a” is worse: +0.100 nats of validation loss."]
    (picture,) = pictures(of, compare(of))
    assert picture.title == "GPT-Neo: validation loss, nats"
    ((effect,), baseline) = (picture.effects, picture.baseline)
    assert (effect.kind, effect.told) == ("worse", "+0.100*")
    assert effect.low <= effect.at <= effect.high < baseline == 1, "a larger loss stands on the left, which is worse"


def test_families_of_which_the_same_is_to_be_said_share_a_line_and_each_has_its_picture():
    scores = [variant("gelu", {BLIMP: BASE[:1]}), variant("a", {BLIMP: WORSE[:1]})]
    of = Study("made_up", "", (Family("gpt_neo", tuple(scores)), Family("roberta", tuple(scores))))
    assert lines(of) == [
        "GPT-Neo and RoBERTa: 1 seed of each, so no difference can be told from chance: that takes 5 or more."
    ]
    assert [each.title for each in pictures(of, compare(of))] == ["GPT-Neo: BLiMP, points", "RoBERTa: BLiMP, points"]


def test_what_is_not_finished_or_alone_is_said():
    assert lines(on_blimp(BASE, WORSE[:1], missing=("blimp",)))[0].endswith(
        " 6 of 6 seeds of “GELU”, 1 of 1 seed of “a” failed, and what they lack is not in this."
    )
    many = lines(on_blimp(BASE, WORSE[:1], WORSE[:2], missing=("blimp",)))[0]
    assert many.endswith("“GELU”, 1 of 1 seed of “a” and seeds of 1 more failed, and what they lack is not in this.")
    waiting = {"pretrain": {"status": "completed"}, "blimp": {"status": "running"}}
    gelu, worse = on_blimp(BASE, WORSE[:1]).variants
    gelu = replace(gelu, runs=tuple(replace(run, stages=waiting) for run in gelu.runs))
    assert lines(study(gelu, worse))[0].endswith("that takes 4 or more. 6 of 7 runs are not finished.")
    assert lines(on_blimp(BASE[:1])) == [
        "GPT-Neo: the study has “GELU” only, so there is nothing to compare; its means are BLiMP 60.0."
    ]
    assert lines(study(variant("gelu", {}), variant("a", {}))) == ["GPT-Neo: no scores yet of 2 runs."]


def test_a_picture_of_many_variants_has_the_best_and_the_worst():
    of = on_blimp(BASE[:2], *([each + place / 100 for each in BASE[:2]] for place in range(12)))
    (picture,) = pictures(of, compare(of))
    assert [each.label for each in picture.effects] == ["l", "k", "j", "i", "d", "c", "b", "a"]
    assert (picture.left_out, picture.which) == (4, f", {ROWS} of 12")
    assert picture.effects[0] == Effect("l", "+11.0", 1.0, None, None, "unsure")
    assert picture.effects[-1].at == picture.baseline == 0
