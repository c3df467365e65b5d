"""What a real ledger has measured, and what is made of it."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import choosing, cost, expansion, packing
from cluster.reconcile import reconciling
from cluster.reconcile.measure import measured
from cluster.reconcile.session import LedgerView
from cluster.report import writing
from cluster.sites import profiles
from cluster.status import showing
from cluster.submit import launch, tables
from tiny_transformers.settings.config import CPU_TOKENS, RunConfig
from tiny_transformers.settings.stages import required_files

SITE = profiles.Site(name="here", scheduler="slurm", gpus=1, cpus=8, slots=2, runs_per_pack=2)
GPU = {"tokens_per_second": 1e5, "peak_memory_mb": 900.0, "device": "NVIDIA A100"}


ORIGIN = launch.Origin("submit", "2026-01-01", None, {"digest": "c0de"}, None)


def finish(root, runs, metrics, where=SITE, seconds=100.0, stages=("pretrain", "blimp"), begins="cafe"):
    """A ledger in which these runs have ended, each of their stages after so many seconds."""
    ledger = Ledger(root.ledger)
    work = [choosing.item(run, stages, {}, cost.Measured(1e12)) for run in runs]
    recording.record_runs(ledger, root, runs, "2026-01-01")
    for number, array in enumerate(packing.arrange(work, {run.id: run for run in runs}, where)):
        directory = root.submission(f"{begins}{number}")
        intent = launch.describe(array, where, root, directory.id, ORIGIN)
        whole_files.write_json(directory.submission, intent)
        whole_files.write_json(directory.answer, {"state": "submitted", "job_id": directory.id})
        recording.record_intent(ledger, directory, intent)
        for index, pack in enumerate(array.packs):
            for item in pack.items:
                for place, (stage, attempt) in enumerate(item.stages):
                    values = {"submission_id": directory.id, "pack_index": index, "status": "completed",
                              "started": place * seconds, "ended": (place + 1) * seconds}  # fmt: skip
                    ledger.put_attempt(item.run_id, stage, attempt, **values)
                    ledger.put_outcome(item.run_id, stage, attempt, {"metrics": metrics if stage == "pretrain" else {}})
    return ledger


def test_pretrainings_speed_is_that_of_its_tokens_and_of_all_runs_that_shared_the_pack(root, runs):
    found = measured([(finish(root, runs[:2], GPU), "measured")], SITE)
    config = runs[0].config
    speed = found.speed(config, "pretrain")
    assert speed.value == pytest.approx(2 * 1e5 * cost.training_flops(config))
    assert speed.basis == "measured (1)"


def test_other_stages_speed_is_that_of_their_seconds(root, runs):
    found = measured([(finish(root, runs[:2], GPU), "measured")], SITE)
    config = runs[0].config
    expected = 2 * cost.flops(config, "blimp") / (100 - cost.STAGE_OVERHEAD)
    assert found.speed(config, "blimp").value == pytest.approx(expected)


def test_a_stage_that_ended_before_it_began_by_a_clock_that_was_set_back_can_be_planned_again(root, runs):
    found = measured(
        [(finish(root, runs[:1], GPU, seconds=-5.0, stages=("pretrain", "add_tokenizer")), "measured")], SITE
    )
    again = choosing.item(runs[0], ("add_tokenizer",), {}, found)
    assert (again.seconds, again.shares) == (0.1, (1.0,))
    assert packing.arrange([again], {runs[0].id: runs[0]}, SITE, found)


def test_a_short_stage_begins_no_slower_than_it_ended_and_is_at_least_so_fast(root, runs):
    slow = SITE.model_copy(update={"flops": 1e6, "slots": 1, "runs_per_pack": 1})
    ledger = finish(root, runs[:1], GPU | {"seconds": 3.0}, where=slow, seconds=4.0)
    found, config = measured([(ledger, "measured")], slow), runs[0].config
    assert (found.overhead("pretrain"), found.overhead("blimp")) == (1.0, 4.0)
    assert found.overhead("superglue") == cost.STAGE_OVERHEAD, "of which nothing is known"
    assert found.speed(config, "blimp").value == cost.flops(config, "blimp") / 4
    fast = slow.model_copy(update={"flops": 1e15})
    assert measured([(ledger, "measured")], fast).speed(config, "blimp").basis == "site profile"
    sizes = dict.fromkeys(required_files(config, ["blimp"]), 33_000)
    known = measured([(ledger, "measured")], slow, sizes)
    assert known.speed(config, "blimp").value == known.work(config, "blimp") / 4, "by what was really done"


def test_what_is_alone_on_the_device_is_not_sped_up_by_its_pack_mates_nor_limits_slots(root, runs):
    found = measured([(finish(root, runs[:2], GPU, stages=("pretrain", "speed")), "measured")], SITE)
    config = runs[0].config
    assert found.speed(config, "speed").value == cost.flops(config, "speed") / (100 - cost.STAGE_OVERHEAD)
    ledger = finish(root, runs[2:3], GPU, stages=("pretrain", "speed"))
    ledger.put_outcome(runs[2].id, "speed", 1, {"metrics": {"peak_memory_mb": 5_000.0, "device": "NVIDIA A100"}})
    assert measured([(ledger, "measured")], SITE).peak(runs[2].config) == cost.Estimate(900.0, "measured (1)")


def deeper(config):
    model = config.model.model_dump() | {"num_layers": config.model.layers + 1}
    return RunConfig.model_validate(config.model_dump() | {"model": model})


def test_a_model_that_differs_in_its_activation_alone_is_as_fast_and_as_large(root, runs):
    found = measured([(finish(root, runs[:2], GPU), "measured")], SITE)
    other = runs[-1].config
    assert other.model.activation not in {run.config.model.activation for run in runs[:2]}
    assert found.speed(other, "pretrain") == replace(
        found.speed(runs[0].config, "pretrain"), basis="measured with another activation (2)"
    )
    assert found.peak(other) == cost.Estimate(900.0, "measured with another activation (2)")


def test_a_model_that_was_not_measured_goes_at_other_models_speed_but_has_its_own_memory(root, runs):
    found = measured([(finish(root, runs[:2], GPU), "measured")], SITE)
    other = deeper(runs[0].config)
    assert cost.architecture_key(other) not in found.peaks
    assert found.speed(other, "pretrain").basis == "measured for this stage on other models (2)"
    assert found.peak(other) is None
    assert found.peak(runs[0].config) == cost.Estimate(900.0, "measured (1)")
    assert found.speed(other, "superglue").basis.startswith("assumed")


def test_a_site_without_gpus_is_assumed_to_have_the_speed_of_its_cores_not_of_a_gpu(runs):
    without = SITE.model_copy(update={"gpus": 0, "flops": None, "peak_flops": {}, "cpus": 4})
    found = cost.Measured.nothing(without).speed(runs[0].config, "pretrain")
    assert found == cost.Estimate(1e11, "assumed of its CPUs: the site says no `flops`")


def test_another_seed_is_the_same_architecture(root, runs):
    found = measured([(finish(root, runs[:1], GPU), "measured")], SITE)
    seeded = RunConfig.model_validate(runs[0].config.model_dump() | {"seed": 99})
    assert found.peak(seeded).value == 900.0


def test_figures_of_another_site_and_of_another_kind_of_device_do_not_count(root, runs):
    ledger = finish(root, runs[:1], GPU)
    elsewhere = measured([(ledger, "measured")], SITE.model_copy(update={"name": "elsewhere"}))
    assert (elsewhere.by_stage, elsewhere.by_architecture, elsewhere.peaks) == ({}, {}, {})
    without = measured([(ledger, "measured")], SITE.model_copy(update={"gpus": 0}))
    assert without.peaks == without.together == {}
    assert "pretrain" not in without.by_stage


def test_what_failed_is_no_measurement(root, runs):
    ledger = finish(root, runs[:1], GPU)
    ledger.put_attempt(runs[0].id, "pretrain", 1, status="failed")
    found = measured([(ledger, "measured")], SITE)
    assert found.peaks == {}
    assert "pretrain" not in found.by_stage


def test_a_probes_figures_count_where_the_ledger_has_none(root, runs, tmp_path):
    own = finish(root, runs[:1], GPU)
    probe = finish(OutputRoot(tmp_path / "probe"), runs[:2], GPU | {"peak_memory_mb": 500.0})
    found = measured([(own, "measured"), (probe, "probed")], SITE)
    assert found.peak(runs[0].config) == cost.Estimate(900.0, "measured (1)")
    assert found.peak(runs[1].config) == cost.Estimate(500.0, "probed (1)")
    assert found.speed(deeper(runs[0].config), "pretrain").basis.startswith("measured for this stage")


def probed(root, manifest_file, rates, place=0):
    """A ledger with packs of so many pretrainings of one architecture, each at so many tokens per second; and a run."""
    cell = expansion.probes(grids.cells(loading.load(manifest_file)))[place]
    for number, rate in rates.items():
        runs = expansion.expand(expansion.probe_together([cell], number))
        where = SITE.model_copy(update={"slots": number, "runs_per_pack": number})
        metrics = GPU | {"tokens_per_second": rate, "seconds": 60.0}
        ledger = finish(root, runs, metrics, where, stages=("pretrain",), begins=f"{place}-{number}-")
    return ledger, runs[0]


def test_what_several_at_a_time_reach_is_held_against_one(root, manifest_file, runs):
    ledger, run = probed(root, manifest_file, {1: 1e5, 2: 0.7e5, 4: 0.5e5})
    found = measured([(ledger, "probed")], SITE)
    work = cost.training_flops(run.config)
    assert found.curve(run.config) == pytest.approx({1: 1, 2: 1.4, 4: 2})
    assert found.speed(run.config, "pretrain", 4) == cost.Estimate(pytest.approx(2e5 * work), "probed (4), 4 at a time")
    assert found.speed(run.config, "pretrain", 1).value == pytest.approx(1e5 * work)
    assert found.speed(run.config, "pretrain", 3).value == pytest.approx(1.7e5 * work)  # between its neighbours
    other = runs[-1].config  # never measured: it goes as fast as this one, and gains as much
    assert found.speed(other, "pretrain", 4).value == pytest.approx(2 * found.speed(other, "pretrain", 1).value)
    assert found.speed(other, "blimp", 4) == found.speed(other, "blimp", 1)


def test_a_model_that_was_not_measured_gains_what_the_others_gain(root, manifest_file, runs):
    _, own = probed(root, manifest_file, {1: 1e5, 2: 0.7e5})
    probed(root, manifest_file, {1: 1e5, 2: 0.8e5, 4: 0.5e5}, place=1)
    ledger, _ = probed(root, manifest_file, {1: 1e5, 2: 0.9e5}, place=2)
    found = measured([(ledger, "probed")], SITE)
    unknown = next(run.config for run in runs if cost.architecture_key(run.config) not in found.gains)
    assert found.curve(unknown) == pytest.approx({1: 1, 2: 1.6, 4: 2})
    assert found.curve(own.config) == pytest.approx({1: 1, 2: 1.4, 4: 2})


def test_pretrainings_that_were_not_trained_at_the_same_time_tell_no_gain(root, manifest_file):
    ledger, run = probed(root, manifest_file, {1: 1e5, 2: 0.7e5})
    late = next(row for row in ledger.attempts_in("0-2-0"))
    ledger.put_attempt(late["run_id"], "pretrain", 1, started=20.0, ended=120.0)
    found = measured([(ledger, "probed")], SITE)
    assert found.gains == {}
    assert set(found.together[cost.architecture_key(run.config)]) == {1}
    # Now they trained together for nearly all of the 60 seconds that their steps took.
    ledger.put_attempt(late["run_id"], "pretrain", 1, started=2.0, ended=102.0)
    (gains,) = measured([(ledger, "probed")], SITE).gains.values()
    assert gains[2] == pytest.approx(0.7 * (60 + 58) / 60)


def test_a_pretraining_beside_an_evaluation_is_not_one_alone(root, runs):
    ledger = finish(root, runs[:2], GPU)
    key = cost.architecture_key(runs[0].config)
    ledger.put_attempt(runs[0].id, "pretrain", 1, started=100.0, ended=200.0)
    assert key not in measured([(ledger, "measured")], SITE).together
    ledger.put_attempt(runs[0].id, "pretrain", 1, started=300.0, ended=400.0)
    assert set(measured([(ledger, "measured")], SITE).together[key]) == {1}


def test_a_real_run_counts_before_a_probe_and_is_not_held_against_one(root, manifest_file, tmp_path):
    probe, run = probed(OutputRoot(tmp_path / "probe"), manifest_file, {1: 1e5, 2: 0.7e5})
    own, _ = probed(root, manifest_file, {2: 5e5})
    found = measured([(own, "measured"), (probe, "probed")], SITE)
    assert found.speed(run.config, "pretrain", 2).basis == "measured (2), 2 at a time"
    assert found.curve(run.config) == pytest.approx({1: 1, 2: 1.4})


def test_on_a_cpu_the_micro_batch_that_was_usual_there_does_not_make_a_peak_a_small_one(root, runs):
    where = SITE.model_copy(update={"gpus": 0})
    for tokens, known in ((CPU_TOKENS, True), (8192, True), (1024, False)):
        metrics = GPU | {"device": "cpu", "micro_batch_tokens": tokens}
        found = measured([(finish(root, runs[:1], metrics, where, begins="cafe"), "measured")], where)
        assert (found.peak(runs[0].config) is not None) == known


NEW = {"mfu": 0.625, "data_wait": 0.01, "precision": "bfloat16", "compiled": 1}


def test_how_fast_a_pretraining_was_is_in_every_view(root, runs, tmp_path):
    finish(root, runs[:2], GPU | NEW)
    ledger = finish(root, runs[2:3], GPU, begins="old")  # of a version that did not tell
    told = {row["submission_id"]: row for row in ledger.usage()}
    assert [told["cafe0"][key] for key in ("tokens_per_second", "mfu", "data_wait", "precisions")] == [
        1e5, 0.625, 0.01, "bfloat16"]  # fmt: skip
    assert (told["old0"]["mfu"], told["old0"]["precisions"]) == (None, None)
    shown = rendered(tables.usage_table(ledger.usage()))
    assert re.search(r"cafe0 .* 100,000 +62% +1% +bfloat16 ", shown)
    assert re.search(r"old0 .* 100,000 {10,}", shown)
    view = LedgerView(ledger, "now", "none")
    per_run = rendered(showing.status_view(view, root, per_run=True, failed_only=False))
    assert re.search(rf"{runs[0].id} .* 100,000 +62%", per_run)
    assert re.search(rf"{runs[2].id} .* 100,000 *\n", per_run)
    writing.write(view, root, tmp_path)
    assert f"{runs[0].id},pretrain,1,precision,bfloat16" in (tmp_path / "metrics.csv").read_text()


def test_views_of_older_attempts_have_no_empty_columns(root, runs):
    shown = rendered(tables.usage_table(finish(root, runs[:2], GPU).usage()))
    assert "tokens/s" in shown
    assert "MFU" not in shown


def rendered(what):
    console = Console(width=200, file=io.StringIO())
    console.print(what)
    return console.file.getvalue()


def test_usage_is_of_the_packs_that_have_ended(root, runs):
    ledger = finish(root, runs[:4], GPU, SITE.model_copy(update={"min_time": 10}))
    ledger.put_attempt(runs[3].id, "blimp", 1, status="running", ended=None)
    (row,) = ledger.usage()
    assert (row["packs"], row["ended"], row["longest"], row["used"]) == (2, 1, 200, 200)
    assert row["busy"] == 400
    assert (row["slots"], row["gpus"], row["cpus"], row["memory_per_cpu"], row["minutes"]) == (2, 1, 8, 4000, 20)
    assert (row["peak"], row["studies"]) == (900, "first,second")
    assert row["memory"] == max(cost.memory(run.config) for run in runs[:4])


def test_a_rebuilt_ledger_has_the_same_plans(root, runs):
    finish(root, runs[:4], GPU).close()
    kept = ("slots", "gpus", "cpus", "memory_per_cpu", "minutes", "memory", "seconds")
    before = [[row[key] for key in kept] for row in Ledger(root.ledger).submissions()]
    root.ledger.unlink()
    again = Ledger(root.ledger)
    reconciling.rebuild(again, root)
    assert [[row[key] for key in kept] for row in again.submissions()] == before
    assert None not in before[0]


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({}, "as it was"),
        ({"longest": 600}, "time x 0.2"),
        ({"longest": 3600}, "time x 1.5"),
        ({"longest": 600, "scheduler": "local"}, "as it was"),
        ({"peak": 300}, "memory x 0.3"),
        ({"longest": None}, ""),
    ],
)
def test_advice_keeps_the_margins_of_planning(change, advice):
    row = {"longest": 2400, "minutes": 60, "scheduler": "slurm", "peak": 900, "memory": 1035}
    assert tables.advice(row | change) == advice
