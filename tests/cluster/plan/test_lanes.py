"""Runs on one device: what begins when, how long it takes, and whether the job's rule does what was predicted."""

import random

import pytest

from cluster.plan import lanes
from cluster.plan.lanes import Load


def load(seconds, gain=1.0, memory=0, alone=0.0, most=8):
    """A run of so many seconds alone; with all lanes taken the device does `gain` times as much."""
    gains = [1 + (gain - 1) * (number - 1) / (most - 1) for number in range(1, most + 1)]
    return Load(tuple(number * seconds / gains[number - 1] for number in range(1, most + 1)), memory, alone)


def many(count, seed=0):
    pick = random.Random(seed)
    return [load(pick.lognormvariate(6, 1), 2.0, pick.choice([1, 2, 3, 10, 40])) for _ in range(count)]


def test_runs_that_gain_nothing_from_each_other_take_together_what_they_take_one_after_another():
    course = lanes.work_through([load(100), load(50), load(30)], 2)
    assert (course.seconds, course.shares) == (pytest.approx(180), pytest.approx((100, 50, 30)))
    assert course.busy / course.seconds == pytest.approx((160 * 2 + 20) / 180), "the longest is alone in the end"


def test_runs_that_do_not_hinder_each_other_take_as_long_as_the_longest():
    course = lanes.work_through([load(100, gain=8), load(50, gain=8), load(30, gain=8)], 8)
    assert course.seconds == pytest.approx(100)
    assert sum(course.shares) == pytest.approx(100)


def test_what_needs_the_device_for_itself_comes_after_all_else():
    course = lanes.work_through([load(100, gain=8, alone=7), load(100, gain=8, alone=5)], 8)
    assert course.seconds == pytest.approx(100 + 7 + 5)
    assert course.shares == pytest.approx((50 + 7, 50 + 5))


def test_a_run_waits_for_memory_and_a_smaller_one_goes_before_it():
    course = lanes.work_through([load(100, 8, 6), load(100, 8, 6), load(60, 8, 4)], 3, memory=10)
    assert course.order == (0, 2, 1)
    assert course.seconds == pytest.approx(200)


def at_any_moment(course, loads):
    """The memory of the runs at work after each beginning, by the job's rule, played again run by run."""
    waiting, at_work, taken = list(course.order), {}, []
    limit = course.lanes
    while waiting or at_work:
        while waiting and len(at_work) < limit:
            used = sum(loads[number].memory for number in at_work)
            number = next((n for n in waiting if not at_work or used + loads[n].memory <= 60), None)
            if number is None:
                break
            waiting.remove(number)
            at_work[number] = 1.0
        taken.append(sum(loads[number].memory for number in at_work))
        lasts = {number: loads[number].lasts[len(at_work) - 1] for number in at_work}
        step = min(left * lasts[number] for number, left in at_work.items())
        at_work = {n: left - step / lasts[n] for n, left in at_work.items() if left - step / lasts[n] > 1e-9}
    return taken


def test_no_pack_takes_more_memory_than_there_is_at_any_moment():
    loads = many(300)
    courses = lanes.pack(loads, 8, 3_000, 30_000, memory=60)
    assert sorted(number for course in courses for number in course.order) == list(range(300))
    assert max(max(at_any_moment(course, loads)) for course in courses) <= 60
    assert max(len(course.order) for course in courses) > 8


def test_a_pack_lasts_as_predicted_when_the_job_takes_its_runs_in_order():
    loads = many(200, seed=1)
    for course in lanes.pack(loads, 8, 3_000, 30_000, memory=60):
        again = lanes.work_through([loads[number] for number in course.order], course.lanes, memory=60)
        assert again.seconds == pytest.approx(course.seconds)
        assert sum(course.shares) == pytest.approx(course.seconds)


def test_packs_are_no_longer_than_they_may_be_but_for_a_run_that_is():
    loads = many(200, seed=2)
    longest = max(load.lasts[0] for load in loads)
    for most in (longest, 3 * longest, longest / 3):
        courses = lanes.pack(loads, 8, 1_000, most)
        too_long = [course for course in courses if course.seconds > most * (1 + 1e-9)]
        assert all(len(course.order) == 1 for course in too_long)
        assert len(too_long) == sum(load.lasts[0] > most * (1 + 1e-9) for load in loads)


def test_a_long_run_has_fewer_beside_it_where_it_would_not_end_in_time_beside_more():
    (course, *_) = lanes.pack([load(100), *[load(10) for _ in range(40)]], 8, 10, 450)
    assert course.lanes == 4
    assert course.order[0] == 0
    assert course.seconds <= 450


def test_small_runs_go_beside_large_ones_rather_than_large_ones_together():
    loads = [*[load(100, 8, 30) for _ in range(4)], *[load(90, 8, 5) for _ in range(12)]]
    courses = lanes.pack(loads, 4, 100, 100, memory=60)
    assert [sorted(loads[number].memory for number in course.order) for course in courses] == [[5, 5, 5, 30]] * 4


def test_the_last_pack_ends_when_the_account_runs_so_many_at_once():
    assert lanes.end_of([10, 10, 10], None, 5) == 15
    assert lanes.end_of([10, 10, 30], 1, 5) == 65
    assert lanes.end_of([10, 10, 30], 2, 0) == 30
    assert lanes.end_of([], 2, 5) == 0
