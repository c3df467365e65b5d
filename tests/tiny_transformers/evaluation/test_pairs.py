"""Two scores a pair: kept in a file, and compared with those of another model."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from tiny_transformers.common import bootstrap, pairs
from tiny_transformers.common.pairs import KeptPairs
from tiny_transformers.common.work import TinyTransformersError


def kept(**right):
    """A model that has these pairs right (1), wrong (0) or tied (None), by task."""
    verdicts = [verdict for task in right.values() for verdict in task]
    good = np.array([{1: -1.0, 0: -3.0, None: -2.0}[verdict] for verdict in verdicts])
    return KeptPairs(
        files={task: f"sha of {task}" for task in right},
        counts=np.array([len(task) for task in right.values()]),
        rows=np.concatenate([np.arange(len(task)) for task in right.values()]).astype(np.int32),
        good=good,
        bad=np.full_like(good, -2.0),
        settings={"family": "gpt_neo", "pll": "original"},
    )


@pytest.fixture
def compare(tmp_path):
    def compare(a, b):
        pairs.write(tmp_path / "a.npz", a)
        pairs.write(tmp_path / "b.npz", b)
        return pairs.compare(tmp_path / "a.npz", tmp_path / "b.npz")

    return compare


def test_what_is_read_is_what_was_written_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    written = replace(kept(binding=[1, 0], ellipsis=[1]), good=rng.normal(size=3), bad=rng.normal(size=3))
    path = tmp_path / "scores" / "blimp.npz"
    pairs.write(path, kept(binding=[0]))
    pairs.write(path, written)
    read = pairs.read(path)
    assert (read.files, read.settings) == (written.files, written.settings)
    for name in ("counts", "rows", "good", "bad"):
        assert getattr(read, name).tolist() == getattr(written, name).tolist()
        assert getattr(read, name).dtype == getattr(written, name).dtype
    assert [*path.parent.iterdir()] == [path], "no draft stays"


def test_all_of_blimp_and_the_supplement_is_about_a_megabyte(tmp_path):
    n, rng = 63_273, np.random.default_rng(0)
    good = rng.normal(-60, 20, size=(n, 12)).astype(np.float32).astype(np.float64).sum(1)
    rows = np.arange(n, dtype=np.int32)
    pairs.write(
        tmp_path / "x.npz", replace(kept(binding=[0]), counts=np.array([n]), rows=rows, good=good, bad=good + 1)
    )
    assert (tmp_path / "x.npz").stat().st_size < 1.1e6


def test_pairs_are_compared_one_by_one_and_a_tie_is_wrong(compare):
    a = kept(binding=[1, 1, 1, 0, None], ellipsis=[1, 1])
    b = kept(binding=[1, 0, None, 1, None], ellipsis=[1, 0])
    found = compare(a, b)
    assert (found.n, found.both, found.only_a, found.only_b, found.neither) == (7, 2, 3, 1, 1)
    assert found.by_task.difference == pytest.approx(((3 - 2) / 5 + (2 - 1) / 2) / 2)
    assert found.by_pair.difference == pytest.approx((4 - 3 + 2 - 1) / 7)
    assert found.by_pair.p_value == pytest.approx(10 / 16)  # of 4 pairs, 3 or more on one side: 2 x (4 + 1) / 2^4
    other = compare(b, a)
    assert (other.only_a, other.by_task.difference) == (1, pytest.approx(-0.35))
    assert (other.by_task.p_value, other.by_pair.p_value) == (found.by_task.p_value, found.by_pair.p_value)


def test_the_difference_of_the_averages_has_a_test_of_its_own(compare):
    """Of tasks of 5 and 2 pairs three and one differ: 16 ways to exchange them, 4 of which differ by 0.35 or more."""
    a = kept(binding=[1, 1, 1, 0, None], ellipsis=[1, 1])
    b = kept(binding=[1, 0, None, 1, None], ellipsis=[1, 0])
    ways = [abs(sum(signs[:3]) / 5 + signs[3] / 2) / 2 for signs in product((1, -1), repeat=4)]
    exact = sum(way >= 0.35 - 1e-9 for way in ways) / 16
    assert compare(a, b).by_task.p_value == pytest.approx(exact, abs=0.01)
    one_task = compare(kept(binding=[1] * 9 + [0]), kept(binding=[0] * 9 + [1]))
    assert one_task.by_task.p_value == pytest.approx(one_task.by_pair.p_value, abs=0.002)


def test_two_differences_that_point_to_different_models_have_a_line_each_and_a_word(compare):
    """Of a small task a has all right, of a large one b has more."""
    a = kept(binding=[1] * 20, ellipsis=[0] * 300 + [1] * 700)
    b = kept(binding=[0] * 20, ellipsis=[1] * 300 + [0] * 100 + [1] * 600)
    found = compare(a, b)
    assert found.by_task.difference == pytest.approx((1 - 0.2) / 2)
    assert found.by_pair.difference == pytest.approx((20 - 200) / 1020)
    assert found.by_task.low > 0 > found.by_pair.high
    told = pairs.describe(found).splitlines()
    assert told[1].startswith("every task alike (the average): a - b +40.00 points, 95 % interval +")
    assert told[1].endswith(f"p = {found.by_task.p_value:.2g} (answers exchanged pair by pair)")
    assert told[2].startswith("every pair alike: a - b -17.65 points, 95 % interval -")
    assert told[2].endswith("(McNemar's exact test)")
    assert told[3] == pairs.DISAGREE
    assert pairs.DISAGREE not in pairs.describe(compare(a, a))


def test_the_interval_of_the_difference_is_of_paired_answers(compare):
    """Two models that agree on all but 10 of 500 pairs differ more surely than their accuracies' intervals say."""
    a = kept(binding=[1] * 240 + [0] * 160, ellipsis=[1] * 50 + [0] * 50)
    b = kept(binding=[1] * 230 + [0] * 170, ellipsis=[1] * 50 + [0] * 50)
    found = compare(a, b)
    assert found.by_task.difference == pytest.approx(10 / 400 / 2)
    expected = binom(400, 10 / 400).ppf([0.025, 0.975]) / 400 / 2  # the other task's difference has no spread
    assert [found.by_task.low, found.by_task.high] == pytest.approx(expected, abs=1.1 / 400 / 2)
    assert found.by_pair.p_value == pytest.approx(2 / 2**10)


def test_equal_models_do_not_differ(compare):
    a = kept(binding=[1, 0, 1])
    found = compare(a, a)
    assert found.by_task == found.by_pair == pairs.Estimate(0, 0, 0, 1)
    assert found.settings == {}


def test_a_comparison_is_told_as_a_whole_and_task_by_task(tmp_path, capsys):
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    pairs.write(files[0], kept(binding=[1, 1, 1, 0], ellipsis=[1, None]))
    pairs.write(files[1], replace(kept(binding=[1, 0, 0, 0], ellipsis=[0, 1]), settings={"family": "roberta"}))
    assert pairs.main(*map(str, files)) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "6 pairs: both right 1, a alone 3, b alone 1, neither 1"
    assert told[1].startswith("every task alike (the average): a - b +25.00 points, 95 % interval ")
    assert told[2].startswith("every pair alike: a - b +33.33 points, 95 % interval ")
    assert "settings differ: family: a gpt_neo, b roberta" in told
    assert [line.split() for line in told[-2:]] == [
        ["binding", "4", "75.00", "25.00", "+50.00", "2", "0"], ["ellipsis", "2", "50.00", "50.00", "+0.00", "1", "1"]
    ]  # fmt: skip
    assert pairs.main(str(files[0]), "nowhere.npz") == 2
    assert "nowhere.npz: is missing" in capsys.readouterr().err


def test_settings_may_differ_and_are_named(compare):
    a = kept(binding=[1, 0])
    b = replace(a, settings={"family": "roberta", "pll": "original", "precision": "bfloat16"})
    assert compare(a, b).settings == {"family": ("gpt_neo", "roberta"), "precision": (None, "bfloat16")}


@pytest.mark.parametrize(
    "other",
    [
        kept(binding=[1, 0, 1]),
        kept(binding=[1, 0, 1], ellipsis=[1, 0]),
        kept(binding=[1, 0, 1], ellipsis=[1], hypernym=[1]),
        replace(kept(binding=[1, 0, 1], ellipsis=[1]), rows=np.array([0, 1, 2, 7], dtype=np.int32)),
        replace(kept(binding=[1, 0, 1], ellipsis=[1]), files={"binding": "sha of binding", "ellipsis": "another"}),
    ],
    ids=["a task less", "a pair more", "a task more", "another row", "another file"],
)
def test_different_pairs_are_not_compared(compare, other):
    for a, b in ((kept(binding=[1, 0, 1], ellipsis=[1]), other), (other, kept(binding=[1, 0, 1], ellipsis=[1]))):
        with pytest.raises(TinyTransformersError, match=r"are of different pairs \((ellipsis|hypernym)\)"):
            compare(a, b)


def test_tasks_in_another_order_are_compared_by_name(compare):
    found = compare(kept(binding=[1, 1], ellipsis=[0]), kept(ellipsis=[0], binding=[1, 1]))
    assert (found.both, found.neither, found.by_task.difference) == (2, 1, 0)


@pytest.mark.parametrize("content", [None, b"", b"not a zip", "half", "other"])
def test_a_file_that_is_not_one_is_refused_by_name(tmp_path, content):
    path = tmp_path / "blimp.npz"
    if content == "half":
        pairs.write(path, kept(binding=[1]))
        path.write_bytes(path.read_bytes()[:300])
    elif content == "other":
        np.savez(path, weights=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(TinyTransformersError, match=r"blimp\.npz: (is missing|holds no scores)"):
        pairs.read(path)


def test_a_file_with_any_damaged_byte_is_refused_or_read(tmp_path):
    path = tmp_path / "blimp.npz"
    pairs.write(path, kept(binding=[1, 0, 1]))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            pairs.read(path)
        except TinyTransformersError:
            continue


def test_a_bootstrap_resamples_each_task_on_its_own():
    draws = bootstrap.resample(np.array([[30, 10], [5, 15], [7, 0]]))
    assert draws.shape == (bootstrap.DRAWS, 3, 2)
    assert (draws.sum(2) == [40, 20, 7]).all()
    assert draws[..., 0].mean(0) == pytest.approx([30, 5, 7], abs=0.15)
    assert abs(np.corrcoef(draws[:, 0, 0], draws[:, 1, 0])[0, 1]) < 0.05
    assert bootstrap.interval(np.arange(10_001) / 10_000) == pytest.approx((0.025, 0.975))
