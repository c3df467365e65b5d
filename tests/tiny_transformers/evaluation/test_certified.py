"""Verdicts that are float32's, of scores that bfloat16 moves by known errors."""

import numpy as np
import pytest
import torch

from tiny_transformers.evaluation import certified
from tiny_transformers.evaluation.certified import SAMPLE, Verdicts, certify, pays

CPU = torch.device("cpu")
N = 20_000


class Scores:
    """Pairs whose scores, and errors in bfloat16, are known; remembers which were asked for in float32."""

    def __init__(self, margins, errors, groups=None):
        random = np.random.default_rng(3)
        bad = random.normal(-40, 5, size=len(margins))
        self.exact = np.stack([bad + margins, bad], 1)
        self.errors = errors
        self.groups = np.zeros(len(margins), dtype=np.int64) if groups is None else groups
        self.again = []

    def __call__(self, numbers, precision):
        if precision == "float32":
            self.again += numbers.tolist()
            return self.exact[numbers]
        return self.exact[numbers] + np.stack([self.errors[numbers], np.zeros(len(numbers))], 1)

    @property
    def right(self):
        return self.exact[:, 0] > self.exact[:, 1]


def right(verdicts: Verdicts):
    return verdicts.scores[:, 0] > verdicts.scores[:, 1]


def noise(n, size, seed=0):
    return np.random.default_rng(seed).normal(0, size, size=n)


def test_verdicts_are_float32s_and_most_pairs_are_scored_in_bfloat16_alone():
    pairs = Scores(noise(N, 3.0, seed=1), noise(N, 0.02))
    found = certify(pairs, pairs.groups, seed=0)
    assert (((pairs.exact[:, 0] + pairs.errors) > pairs.exact[:, 1]) != pairs.right).any(), (
        "bfloat16 alone is not enough"
    )
    np.testing.assert_array_equal(right(found), pairs.right)
    assert len(pairs.again) < 0.2 * N
    assert len(set(pairs.again)) == len(pairs.again), "none is scored again twice"
    assert found.error <= found.bound


def test_what_was_scored_again_has_float32s_scores_and_the_rest_bfloat16s():
    pairs = Scores(noise(N, 3.0, seed=1), noise(N, 0.02))
    found = certify(pairs, pairs.groups, seed=0)
    assert np.flatnonzero(~found.rounded).tolist() == sorted(pairs.again)
    np.testing.assert_array_equal(found.scores[~found.rounded], pairs.exact[~found.rounded])
    moved = (found.scores - pairs.exact)[found.rounded, 0]
    np.testing.assert_allclose(moved, pairs.errors[found.rounded], atol=1e-12)
    assert np.abs(np.subtract(*found.scores[found.rounded].T)).min() > found.bound


def test_of_near_ties_all_are_scored_again():
    pairs = Scores(noise(N, 0.001, seed=1), noise(N, 0.02))
    found = certify(pairs, pairs.groups, seed=0)
    np.testing.assert_array_equal(found.scores, pairs.exact)


def test_a_tie_stays_one():
    margins = np.where(np.arange(N) % 10, noise(N, 3.0, seed=1), 0.0)
    pairs = Scores(margins, np.zeros(N))
    found = certify(pairs, pairs.groups, seed=0)
    assert found.bound == 0
    assert (found.scores[:, 0] == found.scores[:, 1]).sum() == N / 10
    pairs.errors = noise(N, 0.02)
    assert (np.equal(*certify(pairs, pairs.groups, seed=0).scores.T)).sum() == N / 10


def test_the_bound_widens_if_errors_outside_of_it_exceed_it():
    """One pair of 300 is moved by far more than the others, and none of those stands near 0 in bfloat16."""
    hostile = np.arange(N) % 300 == 7
    margins = np.where(hostile, 2.0, 10 * np.sign(noise(N, 1.0, seed=1)))
    errors = np.where(hostile, -5.0, noise(N, 0.01))
    pairs = Scores(margins, errors)
    seed = next(seed for seed in range(100) if not hostile[_first(seed)].any())
    found = certify(pairs, pairs.groups, seed)
    assert found.error == pytest.approx(5.0)
    assert found.bound == pytest.approx(10.0)
    np.testing.assert_array_equal(right(found), pairs.right)


def _first(seed):
    """The pairs drawn before there is a bound."""
    mixed = np.random.default_rng(seed).permutation(N)
    return mixed[:SAMPLE]


def test_every_group_has_its_part_of_a_sample_however_small_it_is():
    """The few pairs of one group have long sentences, and errors to match."""
    groups = np.minimum(np.arange(N) // 50, 1)  # 50 of one, all others of the other
    errors = np.where(groups == 0, 0.5, 0.001) * np.where(np.arange(N) % 2, 1, -1)
    pairs = Scores(noise(N, 1.0, seed=1), errors, groups)
    for seed in range(5):
        found = certify(pairs, groups, seed)
        assert found.error == pytest.approx(0.5)
        np.testing.assert_array_equal(right(found), pairs.right)


def test_a_seed_decides_which_pairs_are_drawn():
    first, same, other = (Scores(noise(N, 3.0, seed=1), noise(N, 0.02)) for _ in range(3))
    for pairs, seed in ((first, 1), (same, 1), (other, 2)):
        certify(pairs, pairs.groups, seed)
    assert first.again == same.again != other.again


def test_where_all_are_in_a_sample_all_are_float32s():
    pairs = Scores(noise(50, 3.0, seed=1), noise(50, 0.02))
    found = certify(pairs, pairs.groups, seed=0)
    np.testing.assert_array_equal(found.scores, pairs.exact)
    assert not found.rounded.any()


def not_to_be_called(*_):
    raise AssertionError("was tried")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a score takes, of float32 and of bfloat16, by a clock of our own; the CPU has bfloat16."""
    now, seconds = [0.0], {"float32": 1.0, "bfloat16": 0.5}

    def score(numbers, precision):
        now[0] += seconds[precision]
        return np.zeros((len(numbers), 2))

    monkeypatch.setattr(certified.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(certified, "has_bfloat16", lambda _: True)
    return score, seconds


def test_bfloat16_comes_first_where_a_trial_shows_that_it_is_faster(clock):
    score, seconds = clock
    assert pays(score, 63_273, CPU)
    seconds["bfloat16"] = 0.9
    assert not pays(score, 63_273, CPU), "what is saved is lost again"
    seconds["bfloat16"] = 40.0
    assert not pays(score, 63_273, CPU)


@pytest.mark.usefixtures("clock")
def test_without_bfloat16_or_with_few_pairs_or_on_a_gpu_nothing_is_tried(monkeypatch):
    assert not pays(not_to_be_called, 9_000, CPU)
    assert not pays(not_to_be_called, 63_273, torch.device("cuda"))
    monkeypatch.setattr(certified, "has_bfloat16", lambda _: False)
    assert not pays(not_to_be_called, 63_273, CPU)
