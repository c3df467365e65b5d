import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from cluster.errors import InputError
from cluster.files.records import StageState
from cluster.manifest import checking, follow_ups, grids, loading
from cluster.plan import choosing, cost, expansion, naming, outlook, packing
from cluster.plan.choosing import PackItem
from cluster.plan.cost import Estimate
from cluster.plan.retry import Adjustment
from cluster.sites import profiles
from cluster.submit import tables
from tiny_transformers.settings.architecture import GPTNeo, Roberta
from tiny_transformers.settings.config import CPU_TOKENS, RunConfig
from tiny_transformers.settings.stages import required_files

ROOT = Path(__file__).parents[3]
SLOW = 1e8  # FLOP/s, with which what a run of these tests computes takes longer than its start
SHIPPED = {
    (3, "gpt_neo"): "60b769f456472423",
    (3, "roberta"): "90dcae7ca7cb1123",
    (3, "llama"): "2ce2e4b8e6f68802",
    (4, "brainformer"): "b9128a6ba9dd14b2",
}
SITE = profiles.Site(name="test", scheduler="slurm", cpus=8, memory_per_cpu=4000, flops=SLOW)


def test_a_run_of_two_studies_is_planned_once(runs):
    assert len(runs) == 7
    assert [run.studies for run in runs if len(run.studies) > 1] == [("first", "second")]


def test_a_name_tells_a_run_from_the_others_of_its_study_by_what_is_not_at_its_default(tmp_path):
    text = """
models: {gpt: {family: gpt_neo}}
studies:
  rates: {grid: {model: [gpt], train.learning_rate: [5.0e-4, 1.0e-3]}, seeds: [1, 2]}
  lengths: {grid: {model: [gpt], data.max_length: [512, 64], evaluation.superglue.max_length: [128, 64]}, seeds: [1]}
"""
    (tmp_path / "names.yaml").write_text(text)
    cells = grids.cells(loading.load(tmp_path / "names.yaml"))
    base = "gpt-gelu-9.59M-2L-4H-512C-1024I"
    expected = [f"{base}{more}-s{seed}" for more in ("", "-learning_rate=0.001") for seed in (1, 2)]
    data, superglue = "-data.max_length=64", "-superglue.max_length=64"
    expected += [f"{base}{more}-s1" for more in (superglue, data, f"{data}{superglue}")]
    assert [run.name for run in expansion.expand(cells)] == expected
    assert expansion.seeded_runs(cells)[2]["name"] == expected[2]
    stream = RunConfig.model_validate({"model": {"family": "brainformer"}, "data": {"corpus": "text8"}})
    more = stream.model_copy(update={"train": stream.train.model_copy(update={"weight_decay": 0.5})})
    named = naming.names(naming.Named(("s",), "bf", config) for config in (stream, more))
    assert named[1] == named[0].replace("-s42", "-weight_decay=0.5-s42")
    alone = expansion.expand(cell for cell in cells if cell.config.train.learning_rate == 1e-3)
    assert alone[0].name == f"{base}-s1", "where its study has no other"


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
    assert len({expansion.identity(config) for config in [base, *changed]}) == len(changed) + 1
    assert expansion.identity(base) == expansion.identity(RunConfig.model_validate_json(base.model_dump_json()))


def test_a_name_shows_the_true_parameter_count():
    assert naming.name("gpt", RunConfig(model=GPTNeo())) == "gpt-gelu-9.59M-2L-4H-512C-1024I-s42"
    longer = RunConfig(model=GPTNeo(), train={"max_steps": 10_000})
    assert naming.name("gpt", longer) == "gpt-gelu-9.59M-2L-4H-512C-1024I-10000steps-s42"
    for budget, word in (({"hours": 5}, "5h"), ({"hours": 0.5}, "0.5h"), ({"tokens": 475_000_000}, "475Mtokens")):
        assert naming.name("gpt", RunConfig(model=GPTNeo(), train={"budget": budget})).endswith(f"1024I-{word}-s42")


def states(**status):
    return {stage: StageState(word, 1) for stage, word in status.items()}


def test_only_stages_that_were_never_tried_and_can_go_ahead_are_missing(runs):
    run = runs[0]
    assert choosing.missing(run, {}) == ["pretrain", "add_tokenizer", "blimp", "superglue"]
    done = {"pretrain": "completed", "add_tokenizer": "completed"}
    assert choosing.missing(run, states(**done, blimp="completed", superglue="completed")) == []
    assert choosing.missing(run, states(**done, blimp="failed", superglue="eligible")) == ["superglue"]
    failed = states(pretrain="failed", add_tokenizer="blocked", blimp="blocked", superglue="blocked")
    assert choosing.missing(run, failed) == []
    under_way = states(pretrain="running", add_tokenizer="submitted", blimp="submitted", superglue="waiting")
    assert choosing.missing(run, under_way) == []


def test_redoing_a_stage_redoes_what_follows_from_it_and_nothing_else(runs):
    assert choosing.redo(runs[0], ["blimp"]) == ["blimp"]
    assert choosing.redo(runs[0], ["add_tokenizer"]) == ["add_tokenizer", "blimp", "superglue"]
    assert choosing.redo(runs[0], []) == []


def test_a_new_attempt_has_the_next_number(runs):
    item = choosing.item(runs[0], ["blimp"], {"blimp": StageState("failed", 3)}, cost.Measured(1e12))
    assert item.stages == (("blimp", 4),)


def test_each_stage_has_the_share_of_an_items_time_that_it_takes_by_itself(runs):
    timed, measured = with_budget(runs[0], 0, hours=1), gaining(runs, GAINS)
    for run in (runs[0], timed):
        for stages in (run.stages, ("pretrain", "speed"), ("blimp",)):
            item = choosing.item(run, stages, {}, measured)
            alone = [measured.seconds(run.config, stage) for stage in stages]
            assert item.seconds == pytest.approx(sum(alone))
            assert item.shares == pytest.approx([seconds / sum(alone) for seconds in alone])
    item = choosing.item(timed, ("pretrain", "blimp"), {}, measured)
    assert item.shares[0] * item.seconds > 3600, "its steps take the hour, evaluations and the start come besides"


def items(count, seconds=60.0):
    return [PackItem(f"run{number}", (("pretrain", 1),), seconds) for number in range(count)]


def arrange(work, runs, where):
    return packing.arrange(work, {item.run_id: runs[0] for item in work}, where)


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
    arrays = arrange(items(8, 1000), runs, where)
    assert [len(pack.items) for array in arrays for pack in array.packs] == [2, 2, 2, 2]
    assert {array.resources.slots for array in arrays} == {2}
    assert all(pack.asked <= 3600 for array in arrays for pack in array.packs)


def test_large_and_small_runs_share_a_pack_within_its_memory():
    document = loading.load(ROOT / "experiments.yaml")
    chosen = expansion.expand(grids.cells(document, studies=["activations", "brainformer_medium"]))
    work = [choosing.item(run, ["pretrain"], {}, cost.Measured(1e15)) for run in chosen]
    gpu = {"gpus": 1, "cpus": 16, "memory_per_cpu": 7600}
    arrays = packing.arrange(work, {run.id: run for run in chosen}, SITE.model_copy(update=gpu))
    names = {run.id: run.name.partition("-")[0] for run in chosen}
    (mixed,) = [
        (array, pack) for array in arrays for pack in array.packs
        if {"bf_medium", "gpt"} <= {names[item.run_id] for item in pack.items}
    ][:1]  # fmt: skip
    array, pack = mixed
    assert array.resources.memory_limit == 72_000
    assert sum(item.memory for item in pack.items) > 72_000
    alike = SITE.model_copy(update=gpu | {"slots": 2, "runs_per_pack": 2})  # where slots are given, they are for all
    (given,) = {array.resources.memory_limit for array in packing.arrange(work, {r.id: r for r in chosen}, alike)}
    assert given is None


def test_slots_are_what_memory_and_cpus_allow():
    big = expansion.expand(grids.cells(loading.load(ROOT / "experiments.yaml"), studies=["quickstart"]))
    need = cost.memory(big[0].config) + cost.CUDA_CONTEXT
    work = [choosing.item(run, ["pretrain"], {}, cost.Measured(1e13)) for run in big]
    gpu = {"gpus": 1, "cpus": 16, "memory_per_cpu": 7600, "runs_per_pack": 4}
    by_id = {run.id: run for run in big}

    def slots(**update):
        return packing.arrange(work, by_id, SITE.model_copy(update=gpu | update))[0].resources.slots

    assert slots() == 4
    assert slots(gpu_memory=round(2.5 * need / 0.9)) == 2
    assert slots(cpus=2) == 1
    with pytest.raises(InputError, match="needs about .* MB"):
        slots(gpu_memory=1000)


def test_measured_speed_replaces_the_profile_first_the_architectures_own_then_other_models():
    config, other = RunConfig(model=GPTNeo()), RunConfig(model=Roberta())
    key = cost.architecture_key(config)
    measured = cost.Measured(
        1e12,
        by_stage={"pretrain": Estimate(2e12, "others (9)")},
        by_architecture={(key, "pretrain"): Estimate(1e13, "own (3)")},
    )
    assert measured.speed(config, "pretrain") == Estimate(1e13, "own (3)")
    assert measured.speed(other, "pretrain") == Estimate(2e12, "others (9)")
    assert measured.speed(config, "blimp") == Estimate(1e12, "site profile")
    plain = cost.Measured(1e12)
    work = plain.seconds(config, "pretrain") - cost.STAGE_OVERHEAD
    assert measured.seconds(config, "pretrain") - cost.STAGE_OVERHEAD == pytest.approx(work / 10)
    assert measured.seconds(config, "blimp") == plain.seconds(config, "blimp")
    assert plain.seconds(config, "pretrain", "blimp") == pytest.approx(
        plain.seconds(config, "pretrain") + plain.seconds(config, "blimp")
    )


def test_work_goes_by_the_size_of_the_data_that_is_there_and_by_what_is_used_of_it():
    def config(**settings):
        return RunConfig.model_validate({"model": {"family": "gpt_neo"}, "train": {"max_steps": 1}} | settings)

    usual, sizes = config(), dict.fromkeys(required_files(config()), 896 * 50)
    small = cost.Measured(SLOW, sizes=sizes)  # 50 stories of 224 tokens, some 136 pairs, 160 rows
    fifty = cost.flops(config(train={"max_steps": 1, "eval_stories": 50}), "pretrain")
    assert small.work(usual, "pretrain") == pytest.approx(fifty) != cost.flops(usual, "pretrain")
    limited = config(train={"max_steps": 1, "eval_stories": 20}, evaluation={"limit": 30})
    assert small.work(limited, "pretrain") == cost.flops(limited, "pretrain") < fifty
    for stage in ("blimp", "superglue", "lambada"):
        assert small.work(usual, stage) < cost.flops(usual, stage) / 5
        assert small.work(limited, stage) == pytest.approx(cost.flops(limited, stage))
        assert small.work(limited, stage) < small.work(usual, stage)
    builtin = config(data={"source": "builtin"})
    assert small.work(builtin, "pretrain") == cost.flops(builtin, "pretrain"), "which is always the same"
    stream = RunConfig.model_validate({"model": {"family": "brainformer"}, "data": {"corpus": "text8"}})
    less = cost.Measured(SLOW, sizes=dict.fromkeys(stream.data.files.files, 50_000_000))
    assert less.work(stream, "bpc") == pytest.approx(cost.flops(stream, "bpc") / 2)


def test_without_a_gpu_stages_begin_sooner():
    config = RunConfig(model=GPTNeo())
    with_gpus, without = (cost.Measured(SLOW, cores=cores) for cores in (0, 2))
    assert with_gpus.seconds(config, "add_tokenizer") == cost.STAGE_OVERHEAD
    assert without.seconds(config, "add_tokenizer") == cost.CPU_STAGE_OVERHEAD < cost.STAGE_OVERHEAD / 2


def test_the_architecture_key_is_of_what_decides_speed_and_memory_and_of_nothing_else():
    base = {"model": {"family": "gpt_neo"}}
    same = [base, base | {"seed": 7}, base | {"train": {"learning_rate": 1e-3, "max_steps": 5}}]
    other = [
        {"model": {"family": "gpt_neo", "activation": "silu"}},
        base | {"train": {"micro_batch_tokens": 4096}},
        base | {"data": {"max_length": 256}},
        base | {"data": {"source": "builtin"}},
    ]
    keys = [cost.architecture_key(RunConfig.model_validate(each)) for each in (*same, *other)]
    assert len(set(keys[: len(same)])) == 1
    assert len(set(keys)) == 1 + len(other)


def test_the_published_epoch_takes_about_as_long_as_was_published():
    """Seed study: 1 h 42 min for one epoch on an A100, 57 % of its tokens padding, which we do not compute."""
    hours = cost.Measured(profiles.load("delftblue").flops).seconds(RunConfig(model=GPTNeo()), "pretrain") / 3600
    assert hours == pytest.approx(1.7 * 0.43, rel=0.2)


# Peak RSS in MB of two float32 steps on a CPU, of 60 stories of TinyStories or 256 builtin ones, by pretrain's report.
PEAKS = [
    ({"family": "gpt_neo"}, "files", 1042),
    ({"family": "roberta"}, "files", 1265),
    ({"family": "gpt_neo", "ffn": {"kind": "kan"}}, "files", 1365),
    ({"family": "gpt_neo", "ffn": {"kind": "moe"}}, "files", 1592),
    ({"family": "gpt_neo", "ffn": {"kind": "controller"}}, "files", 1166),
    ({"family": "gpt_neo"}, "builtin", 1117),
    ({"family": "roberta"}, "builtin", 1192),
    ({"family": "gpt_neo", "intermediate_size": 4096, "ffn": {"kind": "pkm"}}, "builtin", 1436),
]


@pytest.mark.parametrize(("model", "source", "peak"), PEAKS)
def test_the_closed_form_of_memory_is_near_what_was_measured_and_hardly_below(model, source, peak):
    config = RunConfig.model_validate({"model": model, "data": {"source": source}})
    assert 0.97 < (cost.memory(config, gpu=False) + cost.CPU_PROCESS_MEMORY) / peak < 1.35


def test_on_a_cpu_a_smaller_micro_batch_is_planned_with_unless_that_would_change_the_result():
    def config(kind, tokens):
        return RunConfig.model_validate(
            {"model": {"family": "gpt_neo", "ffn": {"kind": kind}}, "train": {"micro_batch_tokens": tokens}}
        )

    assert cost.memory(config("dense", 8192), gpu=False) == cost.memory(config("dense", 3072), gpu=False)
    assert cost.memory(config("dense", 1024), gpu=False) < cost.memory(config("dense", 2048), gpu=False)
    assert cost.memory(config("moe", 8192), gpu=False) > cost.memory(config("moe", 3072), gpu=False)


def first(runs, where, measured=None, seconds=60.0):
    """The first array that these runs come to."""
    work = [PackItem(f"{run.id}{number}", (("pretrain", 1),), seconds) for number, run in enumerate(runs)]
    by_id = {item.run_id: run for item, run in zip(work, runs, strict=True)}
    return packing.arrange(work, by_id, where, measured or cost.Measured(where.flops))[0]


def test_a_run_is_planned_with_the_memory_that_was_measured_of_its_architecture_or_else_with_the_closed_form(runs):
    where = SITE.model_copy(update={"cpus": 64, "memory_per_cpu": 100})
    known = cost.architecture_key(runs[0].config)
    measured = cost.Measured(1e12, peaks={known: Estimate(500, "measured (1)")})
    array = first(runs, where, measured)
    planned = {item.run_id[:-1]: item.memory for pack in array.packs for item in pack.items}
    assert planned[runs[0].id] == 575
    closed = {run.id: cost.memory(run.config, gpu=False) + cost.CPU_PROCESS_MEMORY for run in runs}
    assert {run_id: planned[run_id] for run_id in planned if run_id != runs[0].id}.items() <= closed.items()
    assert array.sizing.memory_basis.startswith("closed form"), "the largest was not measured"
    only = first(runs[:1], where, measured)
    assert (only.sizing.memory, only.sizing.memory_basis) == (575, "measured (1) x 1.15")


def test_on_a_gpu_every_process_takes_its_context_beside_what_was_measured(runs):
    gpu = SITE.model_copy(update={"gpus": 1, "gpu_memory": 10_000, "cpus": 32, "memory_per_cpu": 8000})
    measured = cost.Measured(
        1e12, peaks={cost.architecture_key(run.config): Estimate(1000, "measured (1)") for run in runs}
    )
    found = first(runs, gpu, measured)
    assert found.resources.slots == 9000 // (1150 + cost.CUDA_CONTEXT) == 5
    assert found.sizing.slots_bound == "GPU memory, 9,000 MB / 1,750 MB"
    assert {item.memory for pack in found.packs for item in pack.items} == {1150 + cost.CUDA_CONTEXT}


def test_the_bound_that_decides_the_slots_is_named(runs):
    gpu = SITE.model_copy(update={"gpus": 1, "cpus": 64, "memory_per_cpu": 8000})

    def bound(**update):
        return first(runs, gpu.model_copy(update=update)).sizing.slots_bound

    assert "max_slots" in bound(max_slots=2)
    assert "CPUs" in bound(cpus=4)
    assert "host memory" in bound(memory_per_cpu=100)
    assert "`slots`" in bound(slots=3, runs_per_pack=3)
    assert "runs_per_pack" in first(runs, gpu.model_copy(update={"runs_per_pack": 2})).sizing.size_bound


def test_a_mig_slice_takes_one_run_unless_the_user_says_otherwise(runs):
    small = profiles.load("delftblue-small")
    assert first(runs, small).resources.slots == 1
    assert first(runs, small.model_copy(update={"slots": 2})).resources.slots == 2
    assert first(runs, small.model_copy(update={"mig": False, "cpus": 8})).resources.slots > 1


def test_an_account_that_may_run_few_jobs_gets_long_packs(runs):
    many, site = runs[:1] * 32, SITE.model_copy(update={"max_slots": 2})

    def packs(**update):
        work = [PackItem(f"run{number}", (("pretrain", 1),), 1800.0) for number in range(len(many))]
        arrays = packing.arrange(work, {item.run_id: runs[0] for item in work}, site.model_copy(update=update))
        return sum(len(array.packs) for array in arrays)

    assert packs(max_jobs=1) == 1, "32 times half an hour, two at a time"
    assert packs(max_jobs=2) == packs(max_tasks_at_once=2) == 2
    assert packs() > 8, "they end soonest side by side"
    assert packs(max_jobs=1, max_time=360) == 4


@pytest.mark.parametrize(
    ("grid", "noted"),
    [
        ("{model: [gpt, bert]}", True),
        ("{model: [gpt]}", False),
        ("{model: [gpt, bert], model.activation: [gelu, relu]}", False),
        ("{model: [gpt, bert], train.max_steps: [10, 20]}", False),
    ],
)
def test_a_study_with_one_variant_of_each_family_is_said_to_compare_nothing(tmp_path, grid, noted):
    path = tmp_path / "m.yaml"
    path.write_text(
        "models: {gpt: {family: gpt_neo}, bert: {family: roberta}}\n"
        f"studies: {{a: {{grid: {grid}, seeds: [1, 2, 3]}}, b: {{grid: {{model: [gpt]}}, seeds: [1]}}}}\n"
    )
    told = outlook.alone(expansion.expand(grids.cells(loading.load(path))))
    assert (told or "").startswith("a has one variant of each family") == noted
    assert told is None or noted


def test_runs_that_need_more_than_the_sites_time_are_said_not_clipped_in_silence():
    where = SITE.model_copy(update={"max_time": 60})
    assert outlook.too_long(items(2, 2000), where) is None
    note = outlook.too_long([*items(2, 2000), *items(1, 6000)], where)
    assert note.startswith("1 run may need up to 2.5 h, more than the site's 1 h: they will be requeued up to 2 times")
    fewer = outlook.too_long(items(1, 6000), where.model_copy(update={"requeues": 1}))
    assert fewer.endswith("requeued up to 2 times, and the site's `requeues` is 1. `tick` and `rerun --failed` go on "
                          "from their checkpoints then.")  # fmt: skip
    assert "more than the site's 0.0167 h" in outlook.too_long(items(1, 60), SITE.model_copy(update={"max_time": 1}))
    assert "rerun --failed" in outlook.too_long(items(1, 6000), where.model_copy(update={"scheduler": "local"}))
    assert "rerun --failed" in outlook.too_long(items(1, 6000), where.model_copy(update={"sbatch": {"requeue": False}}))


GAINS = {1: 1.0, 2: 1.6, 4: 2.25, 8: 2.3}


def gaining(runs, gains):
    """Measured on a site where all that is known is one model, alone and with others of its kind."""
    key = cost.architecture_key(runs[0].config)
    together = {number: Estimate(SLOW * gain, f"measured (1), {number} at a time") for number, gain in gains.items()}
    return cost.Measured(
        SLOW, {"pretrain": Estimate(SLOW, "others (1)")}, peaks={}, together={key: together}, gains={key: gains}
    )


@pytest.mark.parametrize(
    ("gains", "update", "slots", "words"),
    [
        (GAINS, {}, 4, "measured: 4 at a time give 2.2 x one"),
        ({**GAINS, 8: 2.5}, {}, 8, "measured: 8 at a time give 2.5 x one"),
        ({1: 1.0, 2: 0.9, 4: 0.8}, {}, 1, "measured: 2 at a time give 0.9 x one"),
        (GAINS, {"max_slots": 3}, 2, "measured: 2 at a time give 1.6 x one; more is not allowed: the site's max_slots"),
        (GAINS, {"memory_per_cpu": 250}, 2, "measured: 2 at a time give 1.6 x one; more is not allowed: memory"),
        ({1: 1.0, 2: 1.6}, {}, 2, "measured: 2 at a time give 1.6 x one; more were not tried"),
        (GAINS, {"cpus": 4}, 4, "measured: 4 at a time"),
        (GAINS, {"slots": 8}, 8, "the site's `slots`"),
        (GAINS, {"mig": True}, 1, "a MIG slice takes one run"),
        ({2: 1.6, 8: 2.3}, {"max_slots": 7}, 4, "2 of 8 CPUs each"),
        ({}, {}, 4, "2 of 8 CPUs each"),
    ],
)
def test_slots_are_those_that_were_measured_to_be_best_of_what_is_allowed(runs, gains, update, slots, words):
    where = SITE.model_copy(update={"memory_per_cpu": 8_000, "runs_per_pack": 8} | update)
    found = first(runs[:1] * 8, where, gaining(runs, gains))
    assert found.resources.slots == slots
    assert found.sizing.slots_bound.startswith(words)


def test_runs_take_the_time_that_so_many_at_a_time_were_measured_to_take(runs):
    where = SITE.model_copy(update={"memory_per_cpu": 8_000, "runs_per_pack": 4})
    by_id = {run.id: run for run in runs}

    def hours(measured, of=4):
        work = [choosing.item(run, ["pretrain"], {}, measured) for run in runs[:of]]
        return outlook.gpu_hours(packing.arrange(work, by_id, where, measured))

    alone = hours(cost.Measured(SLOW))
    fixed = 4 * cost.STAGE_OVERHEAD / 3600
    started = fixed / 4  # side by side
    assert hours(gaining(runs, GAINS)) - started == pytest.approx((alone - started) / 2.25, rel=0.01)
    assert hours(gaining(runs, GAINS), of=1) == pytest.approx(hours(cost.Measured(SLOW), of=1))
    one_left = hours(gaining(runs, GAINS), of=5)  # the second pack has nothing beside its run
    assert one_left > hours(gaining(runs, GAINS)) + 0.9 * alone / 4
    assert hours(gaining(runs, {1: 1.0, 2: 0.9})) - fixed == pytest.approx(alone - started, rel=0.01)


def test_more_runs_surely_end_in_time_where_several_at_a_time_gain(runs):
    where = SITE.model_copy(update={"memory_per_cpu": 8_000, "max_jobs": 1, "max_time": 60})
    slower, sooner = (first(runs[:1] * 7, where, gaining(runs, {1: 1.0, 2: gain}), 1_000) for gain in (1.01, 2.0))
    assert [max(len(pack.items) for pack in array.packs) for array in (slower, sooner)] == [2, 4]


def test_on_this_machine_half_of_the_cores_are_taken_until_it_is_measured_what_is_best(runs):
    here = profiles.Site(name="here", scheduler="local", cpus=2, memory_per_cpu=8_000)
    gain = gaining(runs, {1: 1.0, 2: 1.3})
    assert first(runs, here).resources.slots == 1
    assert first(runs, here, gain).resources.slots == 2
    assert first(runs, here.model_copy(update={"memory_per_cpu": 1}), gain).resources.slots == 1
    assert first(runs, here.model_copy(update={"gpus": 2})).sizing.slots_bound == "one a GPU"


def test_probes_of_several_at_a_time_are_runs_of_their_own(manifest_file):
    (cell, *_) = grids.cells(loading.load(manifest_file))
    runs = [expansion.expand(expansion.probe_together([cell], number)) for number in (1, 2, 4)]
    assert [len(each) for each in runs] == [1, 2, 4]
    assert len({run.id for each in runs for run in each}) == 7
    assert {cost.architecture_key(run.config) for each in runs for run in each} == {cost.architecture_key(cell.config)}


# -- a budget ----------------------------------------------------------------------------------------------------------


def with_budget(run, number, **budget):
    train = run.config.train.model_validate({"budget": budget})
    return dataclasses.replace(run, id=f"budget{number}", config=run.config.model_copy(update={"train": train}))


def test_runs_with_a_budget_of_hours_are_alone_and_take_their_hours(runs):
    where = SITE.model_copy(update={"memory_per_cpu": 8_000, "slots": 4, "runs_per_pack": 4})
    timed = [with_budget(run, number, hours=5) for number, run in enumerate(runs[:2])]
    every = [*runs, *timed, with_budget(runs[0], "tokens", tokens=1_000)]
    by_id, measured = {run.id: run for run in every}, gaining(runs, GAINS)
    work = [choosing.item(run, ["pretrain"], {}, measured) for run in every]
    shared, alone = packing.arrange(work, by_id, where, measured)
    assert (shared.resources.slots, alone.resources.slots) == (4, 1)
    assert alone.sizing.slots_bound == "a budget of hours is for a run alone"
    assert {item.run_id for pack in alone.packs for item in pack.items} == {run.id for run in timed}
    evaluated = cost.flops(timed[0].config, "pretrain") / SLOW
    assert measured.seconds(timed[0].config, "pretrain") == pytest.approx(5 * 3600 + cost.STAGE_OVERHEAD + evaluated)
    evaluations = [choosing.item(run, ["blimp"], {}, measured) for run in timed]
    (later,) = packing.arrange(evaluations, by_id, where, measured)
    assert later.resources.slots == len(timed)
    (local,) = packing.arrange(work, by_id, where.model_copy(update={"scheduler": "local"}), measured)
    assert local.resources.slots == 1


def test_a_budget_of_tokens_costs_as_many_steps_of_the_usual_stories():
    def config(**train):
        return RunConfig.model_validate({"model": {"family": "gpt_neo"}, "train": train})

    steps, tokens = config(max_steps=100), config(budget={"tokens": 100 * 256 * 224})
    assert cost.flops(tokens, "pretrain") == pytest.approx(cost.flops(steps, "pretrain"))
    assert cost.studies_seconds(tokens) == pytest.approx(cost.studies_seconds(steps))
    assert cost.studies_seconds(config(budget={"hours": 5})) == 5 * 3600


# -- the studies' own way ---------------------------------------------------------------------------------------------


def test_the_studies_own_way_takes_the_published_times_and_others_in_proportion():
    def hours(model, **settings):
        return cost.studies_seconds(RunConfig.model_validate({"model": model, **settings})) / 3600

    gpt, bert = {"family": "gpt_neo"}, {"family": "roberta"}
    assert hours(gpt) == pytest.approx(1 + 42 / 60 + 26 / 3600, rel=1e-4)
    assert hours(bert) == pytest.approx(1 + 45 / 60 + 56 / 3600, rel=1e-4)
    assert hours(gpt, train={"max_steps": 828}) == pytest.approx(hours(gpt) / 10)
    assert hours(gpt, data={"max_length": 256}) == pytest.approx(hours(gpt) / 2)
    # Published for models that FLOPs alone say less of: GEGLU 1:45:35; KAN 3:23:35, whose splines are much besides.
    assert hours(gpt | {"activation": "geglu"}) == pytest.approx(1.76, rel=0.1)
    assert 0.5 < hours(gpt | {"ffn": {"kind": "kan"}, "intermediate_size": 256}) / 3.39 < 1


def test_a_dry_run_holds_the_studies_own_way_beside_the_rates_in_force(runs):
    where = SITE.model_copy(update={"gpus": 1, "cpus": 16, "memory_per_cpu": 8_000, "runs_per_pack": 7})
    measured = gaining(runs, GAINS)
    work = [choosing.item(run, run.stages, {}, measured) for run in runs]
    arrays = packing.arrange(work, {run.id: run for run in runs}, where, measured)
    (slots,) = {array.resources.slots for array in arrays}
    ours = sum(measured.seconds(run.config, "pretrain", slots=slots) for run in runs) / 3600
    theirs = sum(cost.studies_seconds(run.config) for run in runs) / 3600
    said = tables.studies_way(arrays, runs, "GPU-hours", measured)
    assert said.startswith(f"Pretraining of models with a published time is {ours:,.1f} GPU-hours of these.")
    assert f"would take {theirs:,.1f} hours on one A100" in said
    later = [choosing.item(run, ["blimp"], {}, measured) for run in runs]
    arrays_later = packing.arrange(later, {run.id: run for run in runs}, where, measured)
    assert tables.studies_way(arrays_later, runs, "GPU-hours", measured) == ""
    shown = rendered(tables.stages_table(arrays, runs, "GPU-hours", measured), width=100)
    assert re.search(r"pretrain +7 +[\d.,]+ +others, 4 at a time: 6; measured, 4 at a time: 1", shown)
    assert re.search(r"add_tokenizer +7 +[\d.]+ +fixed", shown)
    assert re.search(r"blimp +7 +[\d.]+ +site profile", shown)
    studies = rendered(tables.studies_table(runs, work, where, ["first", "second"]))
    assert re.search(rf"in all, +7 +.* {theirs:.1f} *\n", studies)
    laptop = rendered(tables.studies_table(runs, work, where.model_copy(update={"gpus": 0}), ["first", "second"]))
    assert "hours" in laptop, "and they are not held against an A100's"
    assert not re.search("GPU|way", laptop)


def test_a_study_whose_own_way_has_no_published_time_says_none():
    cells = grids.cells(loading.load(ROOT / "experiments.yaml"), studies=["brainformer"])
    runs, measured = expansion.expand(cells), cost.Measured(1e13)
    work = [choosing.item(run, run.stages, {}, measured) for run in runs]
    shown = rendered(tables.studies_table(runs, work, SITE.model_copy(update={"gpus": 1}), ["brainformer"]), width=100)
    assert re.search(r"brainformer +6 +6 +6 +24 +[\d.]+ *\n", shown)


def rendered(table, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def test_a_probe_is_one_pretraining_of_each_architecture(manifest_file):
    cells = grids.cells(loading.load(manifest_file))
    probes = expansion.probes(cells)
    assert len(probes) == 5
    assert {cell.stages for cell in probes} == {("pretrain",)}


def test_ids_are_those_of_the_whole_canonical_settings_and_do_not_change():
    document = loading.load(ROOT / "experiments.yaml")
    planned = expansion.expand(follow_ups.all_cells(document, studies=document.studies))
    for run in planned:
        told = run.config.model_dump(mode="json", exclude={"teacher": {"name"}})
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        assert run.id == expansion.identity(run.config) == hashlib.sha256(text.encode()).hexdigest()[:12]
        assert run.config == RunConfig.model_validate(run.config.model_dump())
    assert expansion.identity(RunConfig(model=GPTNeo())) == "a1a2c59481f0"
    assert expansion.identity(RunConfig(model=Roberta(), seed=7)) == "e1783a2adec0"
    ids = {}  # of the shipped manifest: (recipe, family) -> ids
    for run in planned:
        ids.setdefault((run.config.recipe, run.config.model.family), []).append(run.id)
    digests = {key: hashlib.sha256(" ".join(sorted(some)).encode()).hexdigest()[:16] for key, some in ids.items()}
    assert digests == SHIPPED, "runs of experiments.yaml have other ids: they would be trained anew"


def test_only_runs_that_a_change_of_the_recipe_concerns_have_another_one():
    def recipe(family="gpt_neo", corpus="tinystories", train=None, **model):
        config = {"model": {"family": family, **model}, "data": {"corpus": corpus}, "train": train or {}}
        return RunConfig.model_validate(config).recipe

    assert recipe() == recipe("roberta") == recipe(train={"lr_scheduler_type": "constant"}) == 3
    assert recipe(train={"warmup_steps": 1}) == recipe(train={"weight_decay": 0.1}) == 4
    assert recipe("brainformer", "text8") == 4
    assert recipe("brainformer", "text8", adaptive_span=None) == 3
    old = RunConfig.model_validate({"model": {"family": "gpt_neo"}, "train": {"weight_decay": 0.1}, "recipe": 3})
    assert old.recipe == 3  # as it is read from the files of a run
    assert expansion.identity(old) != expansion.identity(RunConfig.model_validate(old.model_dump() | {"recipe": None}))


def test_a_hundred_thousand_runs_are_planned_without_checking_each(tmp_path, monkeypatch):
    path = tmp_path / "many.yaml"
    path.write_text(
        f"models: {{gpt: {{family: gpt_neo}}}}\nstudies: {{s: {{model: gpt, seeds: {list(range(100_000))}}}}}\n"
    )
    checked = []
    check = checking.checked
    monkeypatch.setattr(grids, "checked", lambda *given: checked.append(1) or check(*given))
    planned = expansion.expand(grids.cells(loading.load(path)))
    assert len({run.id for run in planned}) == 100_000
    assert len(checked) == 1


@pytest.mark.parametrize("smoke", [False, True])
def test_every_shipped_study_is_planned(smoke):
    document = loading.load(ROOT / "experiments.yaml")
    planned = expansion.expand(follow_ups.all_cells(document, studies=document.studies, smoke=smoke))
    assert {study for run in planned for study in run.studies} == set(document.studies)
    for name in ("local", "delftblue", "delftblue-small"):
        where = profiles.load(name)
        work = [choosing.item(run, choosing.missing(run, {}), {}, cost.Measured(where.flops)) for run in planned]
        arrays = packing.arrange(work, {run.id: run for run in planned}, where)
        assert sum(len(pack.items) for array in arrays for pack in array.packs) == len(planned)


def test_a_plan_is_immutable(runs):
    with pytest.raises(dataclasses.FrozenInstanceError):
        runs[0].name = "other"


# -- adjusted ---------------------------------------------------------------------------------------------------------


def items_with(runs, *adjustments):
    measured = cost.Measured(1e13)
    return [choosing.item(run, run.stages, {}, measured, each) for run, each in zip(runs, adjustments, strict=False)]


def arranged(runs, where, *adjustments):
    return packing.arrange(items_with(runs, *adjustments), {run.id: run for run in runs}, where)


def test_what_ran_out_of_memory_or_off_a_node_has_arrays_of_its_own(runs):
    arrays = arranged(runs, SITE, Adjustment(), Adjustment(exclude=("n1",)), Adjustment(less_memory=1), Adjustment())
    found = sorted((len(each.packs[0].items), each.resources.exclude) for each in arrays)
    assert found == [(1, ()), (1, ("n1",)), (2, ())]


def test_memory_is_saved_by_fewer_runs_at_a_time_and_then_by_smaller_micro_batches(runs):
    roomy = SITE.model_copy(update={"cpus": 16, "memory_per_cpu": 16_000})
    slots, tokens = [], []
    for halvings in range(5):
        (array,) = arranged(runs[:4], roomy, *[Adjustment(less_memory=halvings)] * 4)
        slots.append(array.resources.slots)
        tokens.append(array.packs[0].items[0].micro_batch_tokens)
    in_force = CPU_TOKENS
    assert (slots, tokens) == ([4, 2, 1, 1, 1], [None, None, None, in_force // 2, in_force // 4])


@pytest.mark.parametrize(("gpus", "tokens"), [(1, 8192 // 2), (0, CPU_TOKENS // 2)])
def test_a_run_alone_in_its_pack_has_its_micro_batch_halved_whatever_the_slots(runs, gpus, tokens):
    roomy = SITE.model_copy(update={"slots": 8, "runs_per_pack": 8, "gpus": gpus})
    (array,) = arranged(runs[:1], roomy, Adjustment(less_memory=1))
    assert array.packs[0].items[0].micro_batch_tokens == tokens


def test_a_micro_batch_never_grows(manifest_file):
    small = ["train.micro_batch_tokens=256"]
    runs = expansion.expand(grids.cells(loading.load(manifest_file), overrides=small))
    (array,) = arranged(runs[:1], SITE, Adjustment(less_memory=2))
    assert array.packs[0].items[0].micro_batch_tokens == 256


def test_a_mixture_of_experts_keeps_its_micro_batch_because_it_changes_the_result(manifest_file):
    layers = ["model.ffn.kind=moe"]
    runs = expansion.expand(grids.cells(loading.load(manifest_file), studies=["second"], overrides=layers))
    (array,) = arranged(runs[:1], SITE, Adjustment(less_memory=9))
    assert array.packs[0].items[0].micro_batch_tokens is None


def test_more_time_is_asked_for_what_ran_out_of_it_up_to_the_sites_limit(runs):
    def minutes(factor):
        (item,) = items_with(runs[:1], Adjustment(factor))
        items = [item._replace(seconds=3600 * factor, margin=cost.TIME_MARGIN)]
        return packing.arrange(items, {run.id: run for run in runs}, SITE)[0].resources.minutes

    assert (minutes(1), minutes(1.5), minutes(1000)) == (90, 140, SITE.max_time)
    items = items_with(runs[:1], Adjustment(minutes=700))
    assert packing.arrange(items, {run.id: run for run in runs}, SITE)[0].resources.minutes == 700


def test_this_machine_takes_all_in_one_pack_however_they_differ(runs):
    local = profiles.Site(name="here", scheduler="local", cpus=8, slots=4)
    (array,) = arranged(runs, local, Adjustment(), Adjustment(exclude=("n1",)), Adjustment(less_memory=1))
    assert (len(array.packs), len(array.packs[0].items), array.resources.slots) == (1, 3, 1)


@pytest.mark.parametrize(
    ("statuses", "again", "stages"),
    [("completed failed blocked blocked", [], []),
     ("completed failed blocked blocked", ["add_tokenizer"], ["add_tokenizer", "blimp", "superglue"]),
     ("completed completed failed running", ["blimp"], []),
     ("completed completed failed completed", ["blimp"], ["blimp"]),
     ("failed completed completed completed", ["pretrain"], ["pretrain", "add_tokenizer", "blimp", "superglue"]),
     ("completed completed failed eligible", [], ["superglue"]),
     ("eligible waiting waiting waiting", [], ["pretrain", "add_tokenizer", "blimp", "superglue"])],
)  # fmt: skip
def test_what_is_tried_again_goes_with_what_waited_for_it_once_nothing_of_the_run_is_under_way(
    runs, statuses, again, stages
):
    states = {stage: StageState(status, 1) for stage, status in zip(runs[0].stages, statuses.split(), strict=True)}
    assert choosing.missing(runs[0], states, again) == stages
