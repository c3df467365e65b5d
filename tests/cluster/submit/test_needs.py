"""What waits for the product of another run, and what a calibration is made of."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.files.records import StageState
from cluster.manifest import grids, loading
from cluster.plan import calibration, choosing, cost, expansion, packing
from cluster.sites import profiles
from cluster.sites.profiles import Site
from cluster.submit import calibrating, needs
from tiny_transformers.settings.config import RunConfig

SITE = Site(
    name="test", scheduler="slurm", account="acc", gpus=1, cpus=16, memory_per_cpu=4000, peak_flops={"tf32": 1e11}
)
TOKENIZER = {"root": "", "run_id": "t", "stage": "add_tokenizer"}
MEASURED = {"root": "probe", "run_id": "p", "stage": "pretrain", "or_else": "the rest is estimated"}


def asked(*wanted):
    return {"runs": ["a", "b"], "needs": list(wanted)}


def known(tokenizer="completed", measured="completed"):
    states = {
        "": {"t": {"add_tokenizer": StageState(tokenizer, 1)}},
        "probe": {"p": {"pretrain": StageState(measured, 1)}},
    }
    return lambda root: states[root]


@pytest.mark.parametrize(
    ("tokenizer", "measured", "waits"),
    [("completed", "completed", False), ("running", "completed", True), ("completed", "submitted", True),
     ("failed", "completed", True), ("waiting", "completed", True), ("completed", "failed", False),
     ("completed", "eligible", False)],
)  # fmt: skip
def test_a_run_waits_until_what_it_needs_is_there_or_can_be_done_without(tokenizer, measured, waits):
    found = needs.waiting([asked(TOKENIZER, MEASURED)], known(tokenizer, measured))
    assert found.runs == (frozenset("ab") if waits else frozenset())
    assert ("wait for 1 stage run" in str(found.told)) == waits


def test_what_is_done_without_a_need_is_told():
    (told,) = needs.waiting([asked(MEASURED)], known(measured="failed")).told
    assert told == "1 stage run in probe did not complete, so the rest is estimated."


def test_a_request_without_needs_waits_for_nothing():
    assert needs.waiting([{"runs": ["a"]}], known()) == needs.Waiting()


def arranged(runs, site=SITE):
    work = [choosing.item(run, run.stages, {}, cost.Measured.nothing(site)) for run in runs]
    return packing.arrange(work, {run.id: run for run in runs}, site)


def test_a_calibration_has_one_short_run_of_each_shape_and_several_of_the_one_that_takes_most(runs):
    chosen = calibration.choose(arranged(runs), runs, SITE)
    shapes = {cost.shape_key(run.config) for run in runs}
    assert len(shapes) < len({cost.architecture_key(run.config) for run in runs})
    assert {cost.shape_key(run.config) for run in chosen.alone} == shapes
    assert len(chosen.alone) == len(shapes)
    assert max(run.config.train.max_steps for run in chosen.runs) <= calibration.STEPS[True]
    assert [run.stages for run in chosen.alone[1:]] == [("pretrain",)] * (len(shapes) - 1)
    assert set(chosen.alone[0].stages) > {"pretrain"}
    assert {cost.shape_key(run.config) for run in chosen.together} == {cost.shape_key(chosen.alone[0].config)}
    assert len(chosen.together) > 1


def test_a_stage_of_whose_size_only_its_data_tells_is_not_measured_by_a_part_of_it(runs):
    asked = [replace(run, stages=("pretrain", "add_tokenizer", "babylm", "lm_eval")) for run in runs]
    chosen = calibration.choose(arranged(asked), asked, SITE)
    assert chosen.alone[0].stages == ("pretrain", "add_tokenizer", "babylm")


def test_a_calibration_is_short_packs(runs):
    chosen = calibration.choose(arranged(runs), runs, SITE)
    items = [choosing.item(run, run.stages, {}, cost.Measured.nothing(SITE)) for run in chosen.runs]
    one, several = calibration.arrays(items, chosen.together, SITE)
    assert [len(array.packs) for array in (one, several)] == [1, 1]
    assert {array.resources.minutes for array in (one, several)} == {calibration.MINUTES}
    assert (one.resources.slots, several.resources.slots) == (1, len(chosen.together))


class Planned:
    """What `calibrating.wanted` asks of a request."""

    def __init__(self, runs, site=SITE, measured=None, room=None):
        self.room = room
        self.runs, self.site, self.arrays, self.held = runs, site, arranged(runs, site), []
        self.planned = self.arrays
        self.items, self.measured = runs, measured or cost.Measured.nothing(site)


def test_a_calibration_comes_by_itself_where_hours_are_planned_and_nothing_is_known(runs):
    assert calibrating.wanted(Planned(runs), None)
    assert not calibrating.wanted(Planned(runs), False)
    fast = SITE.model_copy(update={"peak_flops": {"tf32": 1e16}})
    assert not calibrating.wanted(Planned(runs, fast), None), "it would take longer than what is planned"
    assert calibrating.wanted(Planned(runs, fast), True)
    users_own = SITE.model_copy(update={"flops": 1e7})
    assert not calibrating.wanted(Planned(runs, users_own), None)
    known = replace(cost.Measured.nothing(SITE), by_stage={"pretrain": cost.Estimate(1e12, "measured (1)")})
    assert not calibrating.wanted(Planned(runs, measured=known), True), "it is measured"
    assert not calibrating.wanted(Planned(runs, Site(name="here", scheduler="local", cpus=4)), True)


def test_a_calibration_has_no_more_packs_than_limits_leave_room_for(runs):
    assert calibrating.wanted(Planned(runs, room=2), None) == calibrating.wanted(Planned(runs), None)
    one = calibrating.wanted(Planned(runs, room=1), None)
    assert one.alone
    assert not one.together
    assert calibrating.wanted(Planned(runs, room=0), True) is None


def test_what_a_calibration_makes_short_is_still_a_run_of_the_manifest():
    document = loading.load(Path(__file__).parents[3] / "experiments.yaml")
    planned = expansion.expand(grids.cells(document, studies=list(document.studies)))
    site = profiles.load("delftblue")
    for several in (planned[:40], planned[-40:]):
        chosen = calibration.choose(arranged(several, site), several, site)
        for run in chosen.runs:
            assert RunConfig.model_validate(run.config.model_dump(mode="json")) == run.config
        assert len(chosen.alone) <= calibration.SHAPES
