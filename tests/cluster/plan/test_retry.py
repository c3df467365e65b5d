"""What is done about failures: rules as data, decisions once, adjustments from all that was learnt."""

import itertools

import pytest

from cluster.plan import retry
from cluster.plan.retry import Adjustment
from cluster.sites.profiles import Rule, Site

SITE = Site(name="test", scheduler="slurm")


IDS = itertools.count()


def attempt(
    cause=None, asked_by="tick", host="n1", ended=100.0, message="", stage="pretrain", submission_id=None, **more
):
    """Of a submission of its own, unless told otherwise."""
    status = "failed" if cause else "completed"
    return {"status": status, "cause": cause, "asked_by": asked_by, "host": host, "ended": ended, "message": message,
            "stage": stage, "submission_id": submission_id or str(next(IDS)), "pack_index": 0, "minutes": None,
            **more}  # fmt: skip


def failures(*causes):
    """The first asked for by a person, the others by `tick`."""
    return [attempt(cause, "submit" if i == 0 else "tick", f"n{i}") for i, cause in enumerate(causes)]


@pytest.mark.parametrize(
    ("causes", "action"),
    [(["timeout"], "retry"), (["timeout"] * 3, "retry"), (["timeout"] * 4, "stop"), (["error"], "stop"),
     (["cancelled"], "stop"), (["check_failed"], "stop"), (["vanished"], "stop"),
     (["lost"], "retry"), (["lost"] * 2, "stop"),
     (["no_gpu"], "retry"), (["no_gpu"] * 2, "stop"),
     (["lost", "timeout"], "retry"), (["preempted"] * 10, "retry"), (["preempted"] * 11, "stop")],
)  # fmt: skip
def test_a_cause_is_tried_again_as_often_as_its_rule_says(causes, action):
    assert retry.decide(failures(*causes), SITE, now=200.0).action == action


def test_tries_are_counted_anew_after_a_person_has_asked():
    history = [*failures("timeout", "timeout", "timeout"), attempt("timeout", "rerun")]
    decision = retry.decide(history, SITE, now=200.0)
    assert (decision.action, decision.tries) == ("retry", 1)


def test_a_sites_rule_takes_the_place_of_the_built_in_one():
    site = SITE.model_copy(update={"retry": {"error": Rule(times=1, wait=2)}})
    decision = retry.decide(failures("error"), site, now=110.0)
    assert (decision.action, decision.due) == ("retry", 220.0)
    assert retry.decide(failures("timeout"), site, now=110.0).action == "retry", "the others stay"


def test_a_clock_an_hour_ahead_delays_nothing_for_longer_than_the_rule():
    site = SITE.model_copy(update={"retry": {"error": Rule(times=1, wait=2)}})
    assert retry.decide([attempt("error", "submit", ended=3700.0)], site, now=100.0).due == 220.0


@pytest.mark.parametrize(
    ("causes", "adjustment", "words"),
    [(["timeout"], Adjustment(time=1.5), "1.5 x the time"),
     (["timeout", "timeout"], Adjustment(time=2.25), "2.25 x the time"),
     (["out_of_memory", "timeout"], Adjustment(1.5, less_memory=1), "1.5 x the time, 1/2 of the memory"),
     (["node_fail", "node_fail"], Adjustment(exclude=("n1",)), "not on n1"),
     (["preempted"], Adjustment(), "the same again"), ([], Adjustment(), "the same again")],
)  # fmt: skip
def test_the_next_attempt_differs_by_what_the_earlier_ones_have_taught(causes, adjustment, words):
    found = retry.adjust(failures(*causes), SITE)
    assert (found, str(found)) == (adjustment, words)


def test_a_success_ends_what_was_learnt_before_it():
    assert retry.adjust([*failures("timeout"), attempt(), *failures("node_fail")], SITE) == Adjustment(exclude=("n0",))


def test_stages_that_go_together_satisfy_all_of_them():
    both = Adjustment(2.0, 30, 0, ("a",)) | Adjustment(1.0, 90, 2, ("b",))
    assert both == Adjustment(2.0, 90, 2, ("a", "b"))


def alike(message, stage="pretrain", cause="error"):
    return attempt(cause, message=message, stage=stage)


def test_failures_that_differ_in_numbers_and_paths_only_are_alike():
    ended = [alike(f"FileNotFoundError: /scratch/{name}: no such file") for name in ("a/7", "b/8")]
    assert retry.in_a_row(ended) == 2
    assert retry.in_a_row([*ended, alike("ValueError: no")]) == 2
    assert retry.in_a_row([*ended, alike("FileNotFoundError: /x: no such file", "blimp")]) == 2
    assert retry.in_a_row([ended[0], attempt(), ended[1]]) == 1
    assert retry.in_a_row([attempt(), *ended]) == 0


def test_what_is_nobodys_mistake_neither_counts_nor_ends_the_row():
    ended = [alike("no"), attempt("preempted"), attempt("cancelled"), alike("no"), attempt("node_fail"), alike("no")]
    assert retry.in_a_row(ended) == 3


def test_runs_of_one_pack_that_fail_alike_are_one_failure():
    pack = [attempt("launch_failed", submission_id="cafe") for _ in range(8)]
    assert retry.in_a_row(pack) == 1
    assert retry.in_a_row([*pack, attempt("launch_failed", submission_id="cafe") | {"pack_index": 1}]) == 2


def test_a_job_that_requeued_itself_is_one_try():
    lives = [attempt("timeout", "submit", submission_id="cafe", minutes=60) for _ in range(4)]
    assert retry.decide(lives, SITE, now=200.0).tries == 1
    assert retry.adjust(lives, SITE) == Adjustment(time=1.5, minutes=90)


def test_the_next_limit_is_one_and_a_half_times_the_last():
    history = [attempt("timeout", "submit", minutes=60), attempt("timeout", minutes=90)]
    assert retry.adjust(history, SITE) == Adjustment(time=2.25, minutes=135)


def test_what_found_no_gpu_is_tried_once_on_another_node():
    decision = retry.decide(failures("no_gpu"), SITE, now=200.0)
    assert (decision.action, decision.changes) == ("retry", "not on n0")
