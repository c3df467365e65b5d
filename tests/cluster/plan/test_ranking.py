"""Which candidates are chosen by which scores, and how sure that is said to be."""

import pytest

from cluster.plan import choice_words, ranking


def candidate(label, parameters=100, group="", seeds=(1,), study="first"):
    runs = [{"run_id": f"{label}{seed}", "name": f"{label}-s{seed}", "seed": seed} for seed in seeds]
    return {"study": study, "label": label, "group": group, "parameters": parameters, "before": None, "runs": runs,
            "into": []}  # fmt: skip


def plan(*candidates, best=1, per=None, higher=True, percent=True, metric="accuracy"):
    rule = {
        "sources": [{"study": "first", "choice": ""}], "best": best, "per": per, "failed": "wait", "stage": "lambada",
        "task": "last_word", "metric": metric, "title": "LAMBADA", "percent": percent, "higher_is_better": higher,
    }  # fmt: skip
    return {"study": "next", "description": "", "overrides": [], "stages": ["pretrain"], "rule": rule,
            "candidates": list(candidates), "fixed": {"runs": [], "baselines": [], "families": []}}  # fmt: skip


def ranked(asked, values, n=1000, left_out=None):
    scores = {run_id: (value, n) for run_id, value in values.items()}
    left_out = left_out or {}
    numbers = [number for number in range(len(asked["candidates"])) if number not in left_out]
    return ranking.rank(asked, numbers, scores, left_out)


def chosen(found):
    return [each["label"] for each in found.candidates if each["chosen"]]


def test_the_best_of_each_group_are_chosen_by_their_means_over_seeds():
    of = [candidate(name, group=group, seeds=(1, 2)) for name, group in zip("abcd", "xxyy", strict=True)]
    values = {"a1": 0.1, "a2": 0.9, "b1": 0.6, "b2": 0.6, "c1": 0.2, "c2": 0.2, "d1": 0.3, "d2": 0.0}
    found = ranked(plan(*of, per="model.family"), values)
    assert chosen(found) == ["b", "c"]
    assert [(each["label"], each["place"]) for each in found.candidates] == [("b", 1), ("a", 2), ("c", 1), ("d", 2)]
    assert found.candidates[1]["mean"] == pytest.approx(0.5)
    assert found.told[0].startswith("model.family x: 1 of 2 cells: b (60.0); a is 10.0 points behind")


def test_of_a_measure_that_is_better_low_the_lowest_is_chosen():
    found = ranked(plan(candidate("a"), candidate("b"), higher=False, percent=False), {"a1": 20.5, "b1": 19.0})
    assert chosen(found) == ["b"]
    assert "b (19.000); a is 1.500 behind" in found.told[0]


def test_equal_scores_are_told_apart_by_size_then_name_whatever_their_order():
    small, large, early = candidate("small", 90), candidate("large", 110), candidate("early", 110)
    for order in ((small, large, early), (early, large, small), (large, small, early)):
        found = ranked(plan(*order, best=2), {"small1": 0.1 + 0.2, "large1": 0.3, "early1": 0.3})
        assert chosen(found) == ["small", "early"]
        assert "large has the same score, and was not chosen since it comes later by its name" in found.told[0]
    found = ranked(plan(large, small), {"large1": 0.3, "small1": 0.3})
    assert "large has the same score, and was not chosen since it has more parameters" in found.told[0]


def test_what_failed_stands_beside_the_others_and_is_never_chosen():
    found = ranked(plan(*map(candidate, "abc")), {"a1": 0.1, "b1": 0.2}, left_out={2: "its blimp failed (error)"})
    assert chosen(found) == ["b"]
    assert (found.candidates[2]["place"], found.candidates[2]["left_out"]) == (None, "its blimp failed (error)")
    assert "1 of 3 cells (1 left out, since it failed): b" in found.told[0]


def test_a_choice_of_all_has_no_next_one():
    assert ranked(plan(candidate("a"), best=2), {"a1": 0.1}).told == ["1 of 1 cell: a (10.0); there was no other."]


def scored(*values, n=1000):
    return [
        {"run_id": f"r{seed}", "name": "r", "seed": seed, "value": value, "n": n} for seed, value in enumerate(values)
    ]


def test_what_chance_does_is_known_by_three_seeds_or_more_pair_by_pair():
    rule = plan()["rule"]
    half, by = ranking.chance(rule, scored(0.52, 0.50, 0.51), scored(0.50, 0.49, 0.48))
    assert by == "by 3 seeds"
    assert half == pytest.approx(4.303 * 0.01 / 3**0.5), "differences 0.02, 0.01, 0.03: their deviation is 0.01"


def test_what_chance_does_is_known_of_fewer_seeds_by_the_rows_of_a_share_alone():
    rule = plan()["rule"]
    half, by = ranking.chance(rule, scored(0.5), scored(0.4))
    assert half == pytest.approx(1.96 * (0.25 / 1000 + 0.24 / 1000) ** 0.5)
    assert by == "by their rows alone: 1 seed says too little"
    two, _ = ranking.chance(rule, scored(0.5, 0.5), scored(0.4, 0.4))
    assert two == pytest.approx(half / 2**0.5)
    assert ranking.chance(plan(metric="perplexity", percent=False)["rule"], scored(20.0), scored(30.0))[0] is None


def test_what_chance_does_is_not_known_of_seeds_without_spread_or_of_a_mean_of_tasks_without_its_rows():
    rule = plan()["rule"]
    half, why = ranking.chance(rule, scored(0.6, 0.7, 0.8), scored(0.5, 0.6, 0.7))
    assert (half, why) == (None, "3 seeds, which all differ by as much")
    of_tasks = rule | {"stage": "blimp", "task": "blimp", "title": "BLiMP"}
    half, why = ranking.chance(of_tasks, scored(0.5), scored(0.4))
    assert (half, why) == (None, "1 seed, and BLiMP is a mean of tasks, whose rows do not weigh alike")
    assert ranking.chance(of_tasks, scored(0.5), scored(0.4), lambda *_: 0.03)[0] == pytest.approx(0.03)
    assert ranking.chance(of_tasks | {"task": "micro"}, scored(0.5), scored(0.4))[0] is not None, "all rows alike"


def test_what_chance_does_is_known_row_by_row_where_rows_are_kept_of_every_seed():
    asked: list[tuple[str, str, float]] = []

    def paired(one, other, difference):
        asked.append((one, other, difference))
        return 0.03 if one == "r0" else 0.04

    rule = plan()["rule"]
    half, by = ranking.chance(rule, scored(0.5, 0.6), scored(0.4, 0.45), paired)
    assert half == pytest.approx(0.025), "of the mean of two: half of 0.05"
    assert by == "by the same rows alone: 2 seeds say too little"
    assert [difference for *_, difference in asked] == pytest.approx([0.1, 0.15])
    lacking = ranking.chance(rule, scored(0.5, 0.6), scored(0.4, 0.45), lambda one, *_: 0.03 if one == "r0" else None)
    assert lacking == ranking.chance(rule, scored(0.5, 0.6), scored(0.4, 0.45)), "one has not kept them"


@pytest.mark.parametrize(("n", "verdict"), [(100, "within what chance does"), (10_000, "more than chance does")])
def test_a_choice_says_whether_the_next_one_is_within_what_chance_does(n, verdict):
    assert verdict in ranked(plan(candidate("a"), candidate("b")), {"a1": 0.55, "b1": 0.5}, n=n).told[0]


def test_scores_that_are_others_than_those_that_chose_are_told():
    asked = plan(candidate("a"), candidate("b"))
    found = ranked(asked, {"a1": 0.1, "b1": 0.2})
    choice = {"study": "next", "overrides": [], "made": "2026-11-30T05:00", "user": "me", "rule": asked["rule"],
              "ranked": found.candidates, "told": found.told, "runs": []}  # fmt: skip
    assert choice_words.changed(choice, {"a1": (0.1, 9), "b1": (0.2, 9)}) == ""
    told = choice_words.changed(choice, {"a1": (0.3, 9), "b1": (0.2, 9)})
    assert "1 score by which next was chosen is another now" in told
    assert "(a-s1: 10.0 then, 30.0 now). The choice stands." in told
