"""What the packs of the whole manifest come to, by needs that are not the planner's own (tests/needs.csv).

Needed hours: the GPU time that the work takes without a gap, each run with as many beside it as gain most
(`needs.needed`). Idle share: the part of the slots' time in which they have no run."""

from pathlib import Path

import needs
import pytest

from cluster.manifest import grids, loading
from cluster.plan import choosing, cost, expansion, packing
from cluster.sites import profiles

SITE = profiles.load("delftblue")


@pytest.fixture(scope="module")
def runs():
    document = loading.load(Path(__file__).parents[3] / "experiments.yaml")
    return expansion.expand(grids.cells(document))  # all but the optional studies


def planned(runs, measured):
    work = [choosing.item(run, run.stages, {}, measured) for run in runs]
    return packing.arrange(work, {run.id: run for run in runs}, SITE, measured)


def asked(arrays):
    return sum(array.resources.minutes * 60 * len(array.packs) for array in arrays)


def test_measured_the_manifest_is_few_full_packs_that_ask_for_little_more_than_is_needed(runs):
    curve = needs.CURVES["1.5 x"]
    arrays = planned(runs, needs.measured(runs, SITE, curve))
    by_id = {run.id: run for run in runs}
    played = [(array, needs.play(array, pack, by_id, curve)) for array in arrays for pack in array.packs]
    seconds = sum(pack.seconds for _, pack in played)
    assert len(played) <= 45
    assert sum(pack.busy for _, pack in played) / seconds >= 5, "runs at a time"
    assert 1 - sum(pack.busy for _, pack in played) / sum(pack.open for _, pack in played) <= 0.15, "idle share"
    assert asked(arrays) <= 1.8 * needs.needed(runs, curve)
    assert all(pack.seconds <= array.resources.minutes * 60 for array, pack in played)
    assert max(pack.memory for _, pack in played) <= 0.9 * SITE.gpu_memory
    assert max(pack.memory for _, pack in played) > 0.5 * SITE.gpu_memory, "the large ones are beside others"


def test_what_is_predicted_is_what_the_job_does(runs):
    curve = needs.CURVES["3 x"]
    arrays = planned(runs, needs.measured(runs, SITE, curve))
    by_id = {run.id: run for run in runs}
    played = [(pack, needs.play(array, pack, by_id, curve)) for array in arrays for pack in array.packs]
    assert [pack.seconds for pack, _ in played] == pytest.approx([found.seconds for _, found in played], rel=0.02)
    assert sum(pack.busy for pack, _ in played) == pytest.approx(sum(found.busy for _, found in played), rel=0.02)


def test_where_sharing_gains_nothing_no_gpu_is_shared(runs):
    curve = needs.CURVES["none"]
    arrays = planned(runs, needs.measured(runs, SITE, curve))
    assert {array.resources.slots for array in arrays} == {1}
    assert asked(arrays) <= 1.8 * needs.needed(runs, curve)


@pytest.mark.parametrize("name", ["none", "1.5 x"])
def test_where_nothing_was_measured_no_more_is_asked_than_three_and_a_half_times_what_is_needed(runs, name):
    arrays = planned(runs, cost.Measured.nothing(SITE))
    assert asked(arrays) <= 3.5 * needs.needed(runs, needs.CURVES[name])


def test_every_model_of_the_manifest_has_its_needs():
    document = loading.load(Path(__file__).parents[3] / "experiments.yaml")
    for run in expansion.expand(grids.cells(document)):
        assert set(run.stages) <= set(needs.of(run).seconds), run.name
