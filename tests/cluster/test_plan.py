import dataclasses
from pathlib import Path

import pytest

from cluster import cost, manifest, plan, site
from cluster.errors import InputError
from cluster.plan import Item, StageState
from tiny_transformers.architecture import GPTNeo, Roberta
from tiny_transformers.config import RunConfig

ROOT = Path(__file__).parents[2]
SITE = site.Site(name="test", scheduler="slurm", cpus=8, memory_per_cpu=4000)


@pytest.fixture
def runs(manifest_file):
    return plan.expand(manifest.cells(manifest.load(manifest_file)))


def test_a_run_of_two_studies_is_planned_once(runs):
    assert len(runs) == 7
    assert [run.studies for run in runs if len(run.studies) > 1] == [("first", "second")]


def test_whatever_changes_a_result_changes_the_id():
    base = RunConfig(model=GPTNeo())
    changed = [
        base.model_copy(update={"seed": 1}),
        base.model_copy(update={"smoke": True}),
        base.model_copy(update={"recipe": 99}),
        RunConfig(model=Roberta()),
        RunConfig(model=GPTNeo(activation="relu")),
        RunConfig.model_validate({"model": {"family": "gpt_neo"}, "data": {"source": "builtin"}}),
        RunConfig.model_validate({"model": {"family": "gpt_neo"}, "train": {"learning_rate": 1e-3}}),
        RunConfig.model_validate({"model": {"family": "gpt_neo"}, "evaluation": {"limit": 10}}),
    ]
    assert len({plan.identity(config) for config in [base, *changed]}) == len(changed) + 1
    assert plan.identity(base) == plan.identity(RunConfig.model_validate_json(base.model_dump_json()))


def test_a_name_shows_the_true_parameter_count():
    assert plan.name("gpt", RunConfig(model=GPTNeo())) == "gpt-gelu-9.59M-2L-4H-512C-1024I-s42"
    longer = RunConfig(model=GPTNeo(), train={"max_steps": 10_000})
    assert plan.name("gpt", longer) == "gpt-gelu-9.59M-2L-4H-512C-1024I-10000steps-s42"


def states(**status):
    return {stage: StageState(word, 1) for stage, word in status.items()}


def test_only_stages_that_were_never_tried_and_can_go_ahead_are_missing(runs):
    run = runs[0]
    assert plan.missing(run, {}) == ["pretrain", "add_tokenizer", "blimp", "superglue"]
    done = {"pretrain": "completed", "add_tokenizer": "completed"}
    assert plan.missing(run, states(**done, blimp="completed", superglue="completed")) == []
    assert plan.missing(run, states(**done, blimp="failed", superglue="eligible")) == ["superglue"]
    failed = states(pretrain="failed", add_tokenizer="blocked", blimp="blocked", superglue="blocked")
    assert plan.missing(run, failed) == []
    under_way = states(pretrain="running", add_tokenizer="submitted", blimp="submitted", superglue="waiting")
    assert plan.missing(run, under_way) == []


def test_redoing_a_stage_redoes_what_follows_from_it_and_nothing_else(runs):
    assert plan.redo(runs[0], ["blimp"]) == ["blimp"]
    assert plan.redo(runs[0], ["add_tokenizer"]) == ["add_tokenizer", "blimp", "superglue"]
    assert plan.redo(runs[0], []) == []


def test_a_new_attempt_has_the_next_number(runs):
    item = plan.item(runs[0], ["blimp"], {"blimp": StageState("failed", 3)}, cost.Rates(1e12, {}))
    assert item.stages == (("blimp", 4),)


def items(count, seconds=60.0):
    return [Item(f"run{number}", (("pretrain", 1),), seconds) for number in range(count)]


def arrange(work, runs, where):
    return plan.arrange(work, {item.run_id: runs[0] for item in work}, where)


def test_every_item_is_in_one_pack_and_arrays_are_cut_at_the_sites_limit(runs):
    where = SITE.model_copy(update={"runs_per_pack": 2, "max_array_size": 3})
    arrays = arrange(items(15), runs, where)
    assert [len(array.packs) for array in arrays] == [3, 3, 2]
    packed = [item.run_id for array in arrays for pack in array.packs for item in pack.items]
    assert sorted(packed) == sorted(item.run_id for item in items(15))


def test_a_local_site_has_one_pack(runs):
    where = SITE.model_copy(update={"scheduler": "local", "slots": 2})
    (array,) = arrange(items(9), runs, where)
    assert len(array.packs) == 1
    assert array.resources.slots == 2


def test_time_is_asked_with_a_margin_and_within_the_sites_limits(runs):
    where = SITE.model_copy(update={"runs_per_pack": 1, "min_time": 10, "max_time": 600})
    assert arrange(items(1, 60), runs, where)[0].resources.minutes == 10
    assert arrange(items(1, 3600), runs, where)[0].resources.minutes == 90
    assert arrange(items(1, 1e6), runs, where)[0].resources.minutes == 600


def test_a_pack_is_no_longer_than_the_sites_time_limit_allows(runs):
    where = SITE.model_copy(update={"max_time": 60, "slots": 8})
    (array,) = arrange(items(8, 1000), runs, where)
    assert [len(pack.items) for pack in array.packs] == [2, 2, 2, 2]
    assert array.resources.slots == 2


def test_slots_are_what_memory_and_cpus_allow():
    big = plan.expand(manifest.cells(manifest.load(ROOT / "experiments.yaml"), studies=["quickstart"]))
    need = cost.memory(big[0].config) + cost.CUDA_CONTEXT
    work = [plan.item(run, ["pretrain"], {}, cost.Rates(1e13, {})) for run in big]
    gpu = {"gpus": 1, "cpus": 16, "memory_per_cpu": 7600, "runs_per_pack": 4}
    by_id = {run.id: run for run in big}

    def slots(**update):
        return plan.arrange(work, by_id, SITE.model_copy(update=gpu | update))[0].resources.slots

    assert slots() == 4
    assert slots(gpu_memory=round(2.5 * need / 0.9)) == 2
    assert slots(cpus=2) == 1
    with pytest.raises(InputError, match="needs about .* MB"):
        slots(gpu_memory=1000)


def test_measured_rates_replace_the_profile():
    config = RunConfig(model=GPTNeo())
    slow, fast = cost.Rates(1e12, {}), cost.Rates(1e12, {"pretrain": 1e13})
    work = cost.seconds(config, "pretrain", slow) - cost.STAGE_OVERHEAD
    assert cost.seconds(config, "pretrain", fast) - cost.STAGE_OVERHEAD == pytest.approx(work / 10)
    assert cost.seconds(config, "blimp", fast) == cost.seconds(config, "blimp", slow)


def test_the_published_epoch_takes_about_as_long_as_was_published():
    """Seed study: 1 h 42 min for one epoch on an A100, 57 % of its tokens padding, which we do not compute."""
    hours = cost.seconds(RunConfig(model=GPTNeo()), "pretrain", cost.Rates(site.load("delftblue").flops, {})) / 3600
    assert hours == pytest.approx(1.7 * 0.43, rel=0.2)


@pytest.mark.parametrize("smoke", [False, True])
def test_every_shipped_study_is_planned(smoke):
    document = manifest.load(ROOT / "experiments.yaml")
    planned = plan.expand(manifest.cells(document, smoke=smoke))
    assert {study for run in planned for study in run.studies} == set(document.studies)
    for name in ("local", "delftblue"):
        where = site.load(name)
        work = [plan.item(run, plan.missing(run, {}), {}, cost.Rates(where.flops, {})) for run in planned]
        arrays = plan.arrange(work, {run.id: run for run in planned}, where)
        assert sum(len(pack.items) for array in arrays for pack in array.packs) == len(planned)


def test_a_plan_is_immutable(runs):
    with pytest.raises(dataclasses.FrozenInstanceError):
        runs[0].name = "other"
