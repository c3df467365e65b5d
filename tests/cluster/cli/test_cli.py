"""The commands from end to end on this machine, with stand-ins for the stages."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from longer import longer
from waiting import PATIENCE, wait_for

from cluster.cli import entry, shared
from cluster.files import processes, whole_files
from cluster.manifest import grids, loading
from cluster.plan import expansion
from tiny_transformers.common import pairs
from tiny_transformers.settings.stage.blimp import PAIR_SCORES

ROOT = Path(__file__).parents[3]

STAGES = ["pretrain", "add_tokenizer", "blimp", "superglue"]


SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml")


def status(command, *words):
    return json.loads(command("status", "--json", *words).stdout)


def stage_statuses(shown):
    return {run["name"]: [stage["status"] for stage in run["stages"].values()] for run in shown["runs"]}


def test_a_command_is_in_the_module_that_is_loaded_for_it_alone():
    entry.load()
    found = {(each.callback.__module__, each.name or each.callback.__name__) for each in shared.app.registered_commands}
    found |= {(each.callback.__module__, "ledger") for each in shared.ledger_app.registered_commands}
    assert found == {(f"cluster.cli.{module}", name) for module, names in entry.COMMANDS.items() for name in names}
    code = "import sys; from cluster.cli import entry; entry.load('status'); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(shown.stdout.split())
    assert "cluster.cli.looking" in loaded
    assert not {"cluster.cli.running", "cluster.plan.packing", "yaml", "wrapt", "asyncio", "submitit"} & loaded


def test_submit_completes_every_stage_once_and_then_finds_nothing_missing(command, tmp_path):
    command(*SUBMIT, "--yes", "--wait")
    shown = status(command)
    assert {"as_of", "slurm", "counts", "runs"} <= set(shown)
    assert (shown["slurm"], shown["counts"]["completed"], len(shown["runs"])) == ("none", 20, 5)
    assert set(shown["runs"][0]["stages"]["blimp"]) == {"status", "cause", "attempts", "job"}
    again = command(*SUBMIT, "--yes", "--wait")
    assert "Nothing is missing: 5 runs, 20 stage runs, 20 completed." in again.stdout
    for run in (tmp_path / "output" / "runs").iterdir():
        assert (run / "done.txt").read_text().split() == STAGES


def test_folders_may_have_odd_names(command):
    where = ("--output-root", "-[/b] 50%41?#'ö")
    done = command(*SUBMIT, "--study", "second", *where, "--log-dir", "a\\b [red]", "--yes", "--wait")
    assert status(command, *where)["counts"]["completed"] == 8, done.stdout
    assert f"{where[1]}/ledger.db: 2 runs" in command("ledger", "rebuild", *where).stdout
    refused = command(*SUBMIT, "--study", "first", "--log-dir", "100%job", "--yes", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "100%job: has %j in its name" in refused.stderr
    assert status(command)["runs"] == []


def test_jobs_run_in_a_container(command, tmp_path):
    image, apptainer = tmp_path / "image.sif", tmp_path / "bin" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/called
while [ "$1" != "{image}" ]; do shift; done
shift
exec "$@"
""")
    apptainer.chmod(0o755)
    site = tmp_path / "site.yaml"
    site.write_text(f"{site.read_text()}container: {image}\npython: {sys.executable}\nbinds: [/opt]\n")
    path = os.environ | {"PATH": f"{apptainer.parent}:{os.environ['PATH']}"}
    command(*SUBMIT, "--study", "second", "--yes", "--wait", env=path)
    assert status(command)["counts"]["completed"] == 8
    binds = " ".join(f"--bind {folder}" for folder in (tmp_path / "output", tmp_path / "slurm_logs", "/opt"))
    (called,) = (tmp_path / "called").read_text().splitlines()
    assert re.fullmatch(rf"exec (--nv )?{binds} {image} {sys.executable} -u -m submitit.*", called)


def test_models_lists_each_distinct_model_with_its_exact_count(command):
    shown = command("models", "experiments.yaml").stdout
    assert "5 distinct models" in shown
    assert re.search(r"gpt-relu-\S+ +\S*.*first second", shown)
    listed = json.loads(command("models", "experiments.yaml", "--json", "--study", "second").stdout)
    assert [model["settings"]["activation"] for model in listed] == ["relu", "silu"]
    for model in listed:
        assert model["parameters"] == sum(model[part] for part in ("embedding", "attention", "feed_forward", "head"))
        assert model["training_flops_per_token"] == 3 * model["flops_per_token"]


def test_a_dry_run_of_the_whole_study_shows_it_study_by_study(command):
    shown = command("submit", str(ROOT / "experiments.yaml"), "--site", "delftblue", "--account", "a",
                    "--set", "data.source=builtin", "--dry-run").stdout  # fmt: skip
    assert re.search(r"activations +132 +22 +132 +530 ", shown)
    assert re.search(r"in all, each once +271 +147 ", shown)
    told = " ".join(shown.split())
    assert re.search(r"pretrain 271 [\d.,]+ .*estimated, 25% of the peak in bfloat16: \d+.* a budget of hours: 2", told)
    left_out = ", ".join(loading.load(ROOT / "experiments.yaml").optional)
    assert f"Left out, since optional: {left_out}." in told
    assert re.search(r"On disk: 1\d\.\d GB of weights; a run at work takes up to 0\.\d GB more\.", told)
    assert not re.search(r"^ *brainformer_small +\d", shown, re.M)  # no row of its own
    way = r"of models with a published time is [\d.]+ GPU-hours of these. The studies' own way .* take [\d.]+ hours"
    assert re.search(way, shown.replace("\n", " "))
    assert re.search(r"about [\d.]+ GPU-hours of a as estimated", told)
    packs = re.search(r"^([\d,]+) packs, [\d.]+ runs at a time on average; ", shown, re.M)
    assert packs, "what the packs come to is said in a line"
    assert int(packs[1]) < 271 / 4
    assert "(x 3: at least in part estimated)" in told
    assert "beside more the longest run would not surely end within 24 h" in told


def test_a_dry_run_shows_the_plan_and_leaves_no_trace(command, tmp_path):
    before = sorted(tmp_path.iterdir())
    shown = command("submit", "experiments.yaml", "--site", "delftblue", "--dry-run").stdout
    assert "5 runs to do" in shown
    assert "#SBATCH --partition=gpu-a100" in shown
    assert "GPU-hours" in shown
    assert sorted(tmp_path.iterdir()) == before


def test_submit_records_what_the_chosen_studies_ask_even_if_nothing_is_missing(command, tmp_path):
    command(*SUBMIT, "--study", "first", "--yes", "--wait")
    (path,) = (tmp_path / "output/studies").iterdir()
    told = json.loads(path.read_text())
    names = {run["run_id"]: run["name"] for run in status(command)["runs"]}
    assert (told["name"], told["description"]) == ("first", "")
    assert [names[run_id].split("-")[:2] for run_id in told["grids"][0]["baselines"]] == [
        ["gpt", "gelu"],
        ["bert", "gelu"],
    ]
    manifest = tmp_path / "experiments.yaml"
    manifest.write_text(manifest.read_text().replace("first:\n", "first:\n    baseline: {model.activation: relu}\n"))
    command(*SUBMIT, "--study", "first", "--dry-run")
    assert json.loads(path.read_text()) == told
    assert "Nothing is missing: 4 runs" in command(*SUBMIT, "--study", "first").stdout
    told = json.loads(path.read_text())
    assert [names[run_id].split("-")[:2] for run_id in told["grids"][0]["baselines"]] == [
        ["gpt", "relu"],
        ["bert", "relu"],
    ]


@pytest.mark.usefixtures("second_done")
def test_a_pilot_with_other_settings_leaves_a_study_its_grid_and_baseline(command, tmp_path):
    (path,) = (tmp_path / "output/studies").iterdir()
    (whole,) = json.loads(path.read_text())["grids"]
    command(*SUBMIT, "--study", "second", "--yes", "--wait", "--set", "train.max_steps=5")
    grids = json.loads(path.read_text())["grids"]
    assert grids[0] == whole
    assert grids[1]["overrides"] == ["train.max_steps=5"]
    assert not set(grids[1]["runs"]) & set(whole["runs"])
    assert set(grids[1]["baselines"]) < set(grids[1]["runs"])


def test_a_probe_measures_each_architecture_apart_and_submit_plans_by_it(command, tmp_path):
    probed = command("probe", "experiments.yaml", "--site", "site.yaml", "--yes", "--wait").stdout
    assert "site here: 5 architectures" in probed
    assert len(list((tmp_path / "output/probe/runs").iterdir())) == 5
    assert not (tmp_path / "output/runs").exists()
    for path in (tmp_path / "output/probe/runs").glob("*/run.json"):
        described = json.loads(path.read_text())
        assert described["stages"] == ["pretrain"]
        assert described["config"]["train"]["max_steps"] == 5
        assert described["config"]["probe"]
    shown = " ".join(command(*SUBMIT, "--dry-run").stdout.split())
    assert "345 MB, probed (1) x 1.15" in shown
    assert "FLOP/s, probed (1)" in shown
    assert "closed form" in command(*SUBMIT, "--dry-run", "--output-root", "elsewhere").stdout
    assert "Nothing is missing: 5 runs" in command("probe", "experiments.yaml", "--site", "site.yaml").stdout
    refused = command(*SUBMIT, "--yes", "--output-root", "output/probe", check=False)
    assert refused.returncode == 2
    assert "--output-root output/probe: is where probes lie, which never count: name another." in refused.stderr
    command("report", "--output-root", "output/probe")
    assert "Probes: some steps of a training" in (tmp_path / "output/probe/report/index.html").read_text()


def test_a_probe_of_stories_and_streams_validates_on_a_little_of_either(command, tmp_path):
    studies = ("--study", "quickstart", "--study", "brainformer", "--set", "data.source=builtin")
    command("probe", ROOT / "experiments.yaml", *studies, "--site", "site.yaml", "--yes", "--wait")
    trains = [json.loads(path.read_text())["config"]["train"] for path in tmp_path.glob("output/probe/runs/*/run.json")]
    few = {(train["eval_stories"], train.get("eval_characters")) for train in trains}
    assert few == {(8, None), (None, 4096)}


def test_a_probe_of_several_at_a_time_runs_each_number_in_a_pack_of_its_own(command, tmp_path):
    words = ("probe", "experiments.yaml", "--site", "site.yaml", "--model", "bert", "--yes")
    shown = command(*words, "--slots", "1,3").stdout
    assert "site here: pretrainings at a time" in shown
    # one of the three may have been alone nearly throughout, and counts with what it shared
    assert re.search(r"bert-gelu\S+ +1 +(10,[0-4]|9,[5-9])\d\d .* alone", shown)
    assert re.search(r"bert-gelu\S+ +3 ", shown)
    intents = [
        json.loads(path.read_text()) for path in (tmp_path / "output/probe/submissions").glob("*/submission.json")
    ]
    assert sorted((intent["slots"], [len(pack) for pack in intent["packs"]]) for intent in intents) == [
        (1, [1]),
        (3, [3]),
    ]
    assert "Nothing is missing: 3 runs" in command(*words, "--slots", "3").stdout
    assert "must be numbers" in command(*words, "--slots", "1,x", check=False).stderr
    assert (
        "--model gtp: is in no study that was asked for. Did you mean gpt"
        in command(
            "probe", "experiments.yaml", "--site", "site.yaml", "--slots", "2", "--model", "gtp", check=False
        ).stderr
    )


def test_a_dry_run_says_how_the_sizes_came_about_and_what_is_too_long(command):
    words = (
        "submit",
        "experiments.yaml",
        "--site",
        "delftblue-small",
        "--dry-run",
        "--set",
        "train.max_steps=20000000",
    )
    shown = command(*words).stdout
    for line in ("memory +[\\d,]+ MB, closed form", "slots +1: a MIG slice takes one run", "runs +1 in a pack",
                 "estimated, 25% of the peak in bfloat16"):  # fmt: skip
        assert re.search(line, shown), line
    told = "5 runs may need up to .* h, more than the site's 4 h: they would have to be requeued up to \\d+ times"
    assert re.search(f"{told}, and the site's `requeues` is 3", shown)


@pytest.mark.usefixtures("second_done")
def test_usage_holds_what_was_used_against_what_was_planned(command):
    shown = command("usage").stdout
    assert re.search(r"second +1 / 1 .* 300 / [\d,]+ +[\d.]+ / 2.0 +10,000 +memory x 0.\d", shown)
    before = shown
    command("ledger", "rebuild")
    assert command("usage").stdout == before


def test_without_yes_and_without_a_terminal_nothing_is_submitted(command, tmp_path):
    refused = command(*SUBMIT, check=False)
    assert refused.returncode == 2
    assert "say --yes" in refused.stderr
    assert not list((tmp_path / "output").glob("runs/*"))


def test_a_failed_stage_is_shown_and_rerun_with_what_follows_and_nothing_else(command, fake_science,
                                                                             tmp_path):  # fmt: skip
    fake_science.write_text('{"*": {"add_tokenizer": "fail"}}')
    assert command(*SUBMIT, "--study", "second", "--yes", "--wait", check=False).returncode == 1
    shown = status(command)
    assert set(map(tuple, stage_statuses(shown).values())) == {("completed", "failed", "blocked", "blocked")}
    failures = command("status", "--failed").stdout
    assert "error: RuntimeError: add_tokenizer was told to fail" in failures
    assert 'raise RuntimeError(f"{stage} was told to fail")' in failures, "the log's last lines"
    told = "Nothing is to be submitted: 2 runs, 8 stage runs, 2 completed, 2 failed.\n`rerun --failed` does them again."
    assert told in command(*SUBMIT, "--study", "second", "--yes").stdout
    more = command(*SUBMIT, "--study", "second", "--study", "first", "--dry-run").stdout
    assert "Failed or cancelled before, and not among these: 2 stage runs. `rerun --failed` goes on with that." in more
    fake_science.write_text("{}")
    command("rerun", "--failed", "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 8
    for run in (tmp_path / "output" / "runs").iterdir():
        assert (run / "done.txt").read_text().split() == STAGES, "pretrain was not done again"
    assert "Nothing to rerun" in command("rerun", "--failed", "--yes").stdout


def test_one_runs_crash_leaves_the_others_alone(command, fake_science, tmp_path):
    victim = plan_ids(tmp_path)[0]
    fake_science.write_text(json.dumps({victim: {"pretrain": "exit", "blimp": "fail"}}))
    command(*SUBMIT, "--yes", "--wait", check=False)
    shown = {run["run_id"]: run["stages"] for run in status(command)["runs"]}
    assert shown.pop(victim)["pretrain"]["cause"] == "error"
    assert {stage["status"] for stages in shown.values() for stage in stages.values()} == {"completed"}
    assert "killed by SIGKILL" in command("status", "--failed").stdout


def plan_ids(folder):
    document = loading.load(folder / "experiments.yaml")
    return [run.id for run in expansion.expand(grids.cells(document))]


def test_a_sibling_of_a_failed_stage_still_runs(command, fake_science):
    fake_science.write_text('{"*": {"blimp": "out_of_memory"}}')
    command(*SUBMIT, "--study", "second", "--yes", "--wait", check=False)
    shown = status(command)
    assert set(map(tuple, stage_statuses(shown).values())) == {("completed", "completed", "failed", "completed")}
    assert {run["stages"]["blimp"]["cause"] for run in shown["runs"]} == {"out_of_memory"}
    assert "Nothing to rerun" in command("rerun", "--failed", "--stage", "superglue", "--yes").stdout
    fake_science.write_text("{}")
    name = shown["runs"][0]["name"]
    command("rerun", "--failed", "--run", name, "--yes", "--wait", check=False)
    assert status(command)["counts"]["failed"] == 1


def test_two_submits_at_once_submit_once(command, tmp_path):
    words = [sys.executable, "-m", "cluster.cli", *SUBMIT, "--study", "second", "--yes"]
    racers = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [racer.communicate()[0] for racer in racers]
    assert sorted("Submitted" in text for text in said) == [False, False, True]
    assert len(list((tmp_path / "output" / "submissions").iterdir())) == 1
    wait_for(lambda: status(command)["counts"]["completed"] == 8)


def test_a_pack_killed_with_9_is_lost_and_done_again(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"blimp": "hang"}}')
    command(*SUBMIT, "--study", "second", "--yes")
    wait_for(lambda: status(command)["counts"]["running"] == 2)
    (task,) = (tmp_path / "output" / "submissions").glob("*/task-0.json")
    pack = whole_files.read_json(task)["pid"]
    claims = [
        whole_files.read_json(path) for path in (tmp_path / "output" / "runs").glob("*/stages/blimp/1/claim.json")
    ]
    os.kill(pack, signal.SIGKILL)
    wait_for(lambda: not any(map(processes.is_alive, claims)))  # its children do not go on without it
    wait_for(lambda: status(command)["counts"]["running"] == 0)
    shown = status(command)
    assert {stage["cause"] for run in shown["runs"] for stage in run["stages"].values()} == {None, "lost"}
    fake_science.write_text("{}")
    command("rerun", "--failed", "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 8


def attempts_of(tmp_path, study):
    """The attempts that were begun of the runs of this study alone."""
    cells = grids.cells(loading.load(tmp_path / "experiments.yaml"))
    ids = [run.id for run in expansion.expand(cells) if run.studies == (study,)]
    return [path for run_id in ids for path in tmp_path.glob(f"output/runs/{run_id}/stages/*/*/claim.json")]


def test_a_pack_waits_for_the_one_before_it_on_this_machine_until_that_is_killed(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"pretrain": "hang"}}')
    command(*SUBMIT, "--study", "first", "--yes")
    wait_for(lambda: status(command)["counts"]["running"] == 2)
    (first,) = (tmp_path / "output").glob("submissions/*/task-0.json")
    command(*SUBMIT, "--study", "second", "--yes")
    wait_for(lambda: "(EarlierPack)" in command("status").stdout)
    line = r"1 pack, 1 run \(job local-\d+\): waits for the pack before it on this machine \(EarlierPack\)\n"
    assert re.search(line, command("status").stdout)
    assert not attempts_of(tmp_path, "second")
    os.kill(json.loads(first.read_text())["pid"], signal.SIGKILL)
    fake_science.write_text("{}")
    wait_for(lambda: status(command)["counts"]["completed"] == 4)
    assert len(attempts_of(tmp_path, "second")) == 4
    assert status(command)["queue"] == []


def test_a_pack_that_waits_for_another_can_be_cancelled(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"pretrain": "hang"}}')
    command(*SUBMIT, "--study", "first", "--yes")
    command(*SUBMIT, "--study", "second", "--yes")
    wait_for(lambda: "(EarlierPack)" in command("status").stdout)
    name = next(run["name"] for run in status(command)["runs"] if run["studies"] == ["second"])
    command("cancel", "--run", name, "--yes")
    wait_for(lambda: "1 cancelled" in command("status").stdout)
    assert not attempts_of(tmp_path, "second")
    fake_science.write_text("{}")
    wait_for(lambda: status(command)["counts"]["completed"] == 16)


def test_whoever_leaves_a_wait_is_told_that_jobs_go_on_and_they_do(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"pretrain": "hang"}}')
    words = [sys.executable, "-m", "cluster.cli", *SUBMIT, "--study", "second", "--yes", "--wait"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout
        assert next(line for line in waiting.stdout if " running" in line)
        waiting.send_signal(signal.SIGINT)
        _, told = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, told.startswith("Jobs go on: `status` shows how they go")) == (130, True), told
    fake_science.write_text("{}")
    wait_for(lambda: status(command)["counts"]["completed"] == 8)


def test_what_ends_the_process_group_of_a_submit_ends_no_pack(command, fake_science, tmp_path):
    """As `timeout 1h submit --wait` does, or a shell that ends its jobs."""
    fake_science.write_text('{"*": {"pretrain": "hang"}}')
    words = [sys.executable, "-m", "cluster.cli", *SUBMIT, "--study", "second", "--yes", "--wait"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as waiting:
        assert waiting.stdout
        assert next(line for line in waiting.stdout if " running" in line)
        os.killpg(waiting.pid, signal.SIGTERM)
    fake_science.write_text("{}")
    wait_for(lambda: status(command)["counts"]["running"] == 0)
    assert status(command)["counts"]["completed"] == 8


def test_cancel_ends_the_pack_and_says_so(command, fake_science):
    fake_science.write_text('{"*": {"pretrain": "hang"}}')
    command(*SUBMIT, "--study", "second", "--yes")
    wait_for(lambda: status(command)["counts"]["running"] == 2)
    command("cancel", "--all", "--yes")
    wait_for(lambda: status(command)["counts"]["running"] == 0)
    causes = {stage["cause"] for run in status(command)["runs"] for stage in run["stages"].values()}
    assert causes == {None, "cancelled"}
    told = command(*SUBMIT, "--study", "second", "--yes").stdout
    assert "2 cancelled.\n`rerun --failed` goes on with them from where they were." in told
    assert "Nothing is running" in command("cancel", "--all", "--yes").stdout


def test_a_ledger_removed_is_rebuilt_as_it_was(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"superglue": "fail"}}')
    command(*SUBMIT, "--study", "second", "--yes", "--wait", check=False)
    before = status(command)
    (tmp_path / "output" / "ledger.db").unlink()
    refused = command("status", check=False)
    assert refused.returncode == 2
    assert "ledger rebuild" in refused.stderr
    assert command(*SUBMIT, "--yes", check=False).returncode == 2, "submitting blindly would do everything again"
    command("ledger", "rebuild")
    after = status(command)
    assert {**after, "as_of": ""} == {**before, "as_of": ""}


@pytest.mark.usefixtures("second_done")
def test_a_run_file_torn_and_left_out_of_a_rebuild_breaks_nothing_else(command, tmp_path):
    torn = next((tmp_path / "output" / "runs").glob("*/run.json"))
    torn.write_text('{"run_id": ')
    assert "left out" in command("ledger", "rebuild").stdout
    assert status(command)["counts"]["completed"] == 4
    command("report")
    command(*SUBMIT, "--study", "second", "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 8
    assert whole_files.read_json(torn)["run_id"] == torn.parent.name


def test_a_rerun_leaves_out_what_cannot_go_ahead(command, fake_science):
    fake_science.write_text('{"*": {"pretrain": "fail"}}')
    command(*SUBMIT, "--study", "second", "--yes", "--wait", check=False)
    assert "Nothing to rerun" in command("rerun", "--stage", "blimp", "--yes").stdout


def test_a_folder_that_cannot_be_made_is_an_error_without_a_traceback(command):
    refused = command("submit", "experiments.yaml", "--site", "site.yaml", "--output-root", "/dev/null/x", "--yes",
                      check=False)  # fmt: skip
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "/dev/null/x" in refused.stderr


def test_smoke_runs_are_kept_apart(command, tmp_path):
    told = command(*SUBMIT, "--smoke", "--study", "second", "--yes", "--wait").stdout
    assert "`status --smoke` shows how it goes" in told
    assert "say --smoke" in command("report", check=False).stderr
    assert status(command, "--smoke")["counts"]["completed"] == 8
    assert command("status", check=False).returncode == 2
    assert not (tmp_path / "output" / "ledger.db").exists()
    command(*SUBMIT, "--study", "second", "--yes", "--wait")
    ids = {run["run_id"] for run in status(command)["runs"]}
    assert ids.isdisjoint(run["run_id"] for run in status(command, "--smoke")["runs"])


def test_data_that_is_not_there_is_named_before_anything_is_submitted(command, manifest_file, tmp_path):
    manifest_file.write_text(manifest_file.read_text().replace("source: builtin", "source: files"))
    refused = command(*SUBMIT, "--yes", check=False)
    assert refused.returncode == 2
    assert "--data-root" in refused.stderr
    (tmp_path / "data").mkdir()
    refused = command(*SUBMIT, "--data-root", "data", "--yes", check=False)
    assert refused.returncode == 2
    assert "data: lacks filter-data/blimp_filtered/anaphor_agreement.json" in refused.stderr
    assert "`tiny-transformers fetch --data-root data`" in refused.stderr
    full = command(*SUBMIT, "--data-root", "data", "--set", "evaluation.blimp.data=full", "--yes", check=False)
    assert "`tiny-transformers fetch --data-root data --full-blimp`" in full.stderr
    assert not (tmp_path / "output" / "submissions").exists()


@pytest.mark.usefixtures("second_done")
def test_report_writes_a_row_per_run_and_a_row_per_score(command, tmp_path):
    command("report")
    folder = tmp_path / "output" / "report"
    assert len((folder / "summary.csv").read_text().splitlines()) == 1 + 2
    assert len((folder / "scores.csv").read_text().splitlines()) == 1 + 2 * 4
    assert ",pretrain,1,tokens_per_second,10000.0\n" in (folder / "metrics.csv").read_text()
    text = (folder / "report.md").read_text()
    assert "## second" in text
    assert "| 50.0 " in text
    assert (folder / "index.html").exists()


def keep_scores(folder, run_id, good):
    """Of four pairs, in each of which the bad sentence has -2."""
    kept = pairs.KeptPairs({"binding": "sha"}, np.array([4]), np.arange(4), np.full(4, good), np.full(4, -2.0), {})
    pairs.write(folder / "output" / "runs" / run_id / PAIR_SCORES, kept)


@pytest.mark.usefixtures("second_done")
def test_two_runs_are_compared_by_their_kept_scores(command, tmp_path):
    ids = [run["run_id"] for run in status(command)["runs"]][:2]
    refused = command("compare", *ids, check=False)
    assert refused.returncode == 2
    assert f"({ids[0]}) has no scores of pairs" in refused.stderr
    assert refused.stdout == ""
    for run_id, good in zip(ids, (-1.0, -3.0), strict=True):
        keep_scores(tmp_path, run_id, good)
    told = command("compare", *ids).stdout
    assert told.splitlines()[0].startswith("a: ")
    assert "4 pairs: both right 0, a alone 4, b alone 0, neither 0" in told
    of_rows = command("compare", *ids, "--stage", "babylm", check=False)
    assert "The stage babylm writes them" in of_rows.stderr
    unknown = command("compare", *ids, "--stage", "lambada", check=False)
    assert unknown.returncode == 2
    assert "--stage lambada: keeps no scores of rows" in unknown.stderr


@pytest.mark.usefixtures("second_done")
def test_logs_prints_the_newest_attempt(command):
    run_id = status(command)["runs"][0]["run_id"]
    assert "blimp stand-in" in command("logs", run_id[:8], "blimp").stdout
    refused = command("logs", run_id, "lambada", check=False)
    assert f"logs: {run_id} has no log of lambada yet." in refused.stderr
    refused = command("logs", "gpt-gelo", check=False)
    assert refused.returncode == 2
    assert "is no run" in refused.stderr


@pytest.mark.usefixtures("second_done")
def test_a_held_ledger_is_still_shown(command, tmp_path):
    lock = tmp_path / "output" / "ledger.lock"
    whole_files.create_json(lock, {"host": "elsewhere", "pid": 1, "start": "0"})
    shown = command("status")
    assert "another command holds the ledger" in shown.stderr
    assert "2/2 runs" in shown.stdout
    lock.unlink()


# All from one process: each is a fork of one that this one has started, and may do what this one may.
SEVERAL = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import processes
done = [processes.command(*words, cwd=Path.cwd()) for words in json.loads(sys.argv[2])]
print(json.dumps([(each.returncode, each.stdout, each.stderr) for each in done]))
"""
MOUNTED = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


def who_may_only_read(folder, way):
    """The words before a command that may not write there, as another user, or on a disk that is mounted read-only."""
    root = os.geteuid() == 0
    if way == "mounted":
        words = ["unshare", "-m" if root else "-rm", "sh", "-c", MOUNTED, "sh", str(folder)]
    else:
        subprocess.run(["chmod", "-R", "a-w", str(folder)], check=True)
        rights = "-dac_override,-dac_read_search"  # with which root writes anywhere
        words = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if root else []
    if words and (shutil.which(words[0]) is None or subprocess.run([*words, "true"], check=False).returncode):
        pytest.skip(f"{words[0]} is not here, or not allowed")
    return words


@pytest.mark.parametrize("way", ["another's", longer("mounted")])
@pytest.mark.usefixtures("second_done")
def test_who_may_only_read_sees_the_last_state_and_is_told_what_cannot_be_written(command, tmp_path, way):
    before, output = command("status").stdout, tmp_path / "output"
    ids = [run["run_id"] for run in status(command)["runs"][:2]]
    for run_id in ids:
        keep_scores(tmp_path, run_id, -1.0)
    notify = {"command": "touch TOLD", "events": ["study_finished"], "unreachable_after": 1, "retried": []}
    (output / "notify.json").write_text(json.dumps(notify))
    commands = [["status"], ["logs", ids[0]], ["compare", *ids], ["report", "--to", "elsewhere"], ["tick"],
                ["status", "--json"]]  # fmt: skip
    words = [*who_may_only_read(output, way), sys.executable, "-c", SEVERAL, str(ROOT / "tests"), json.dumps(commands)]
    try:
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(output)], check=True)
    assert done.returncode == 0, done.stderr
    *each, made = [subprocess.CompletedProcess([], *ended) for ended in json.loads(done.stdout)]
    shown = dict(zip([name for name, *_ in commands], each, strict=False))
    refused = shown.pop("tick")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "cannot be written" in refused.stderr
    assert {name: (done.returncode, done.stderr.count("\n")) for name, done in shown.items()} == dict.fromkeys(
        shown, (0, 1)
    )
    assert all("What follows is its last state." in done.stderr for done in shown.values())
    assert [line for line in shown["status"].stdout.splitlines() if "as of" not in line] == [
        line for line in before.splitlines() if "as of" not in line
    ]
    assert json.loads(made.stdout)["counts"]["completed"] == 8
    assert "blimp stand-in" in shown["logs"].stdout
    assert "4 pairs: both right 4" in shown["compare"].stdout
    assert (tmp_path / "elsewhere" / "index.html").exists()
    assert not (tmp_path / "TOLD").exists()


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="there is no file here that cannot be read")
@pytest.mark.usefixtures("second_done")
def test_what_the_system_cannot_read_is_said_in_its_words_and_nothing_is_to_be_rebuilt(command, tmp_path):
    ledger = tmp_path / "output" / "ledger.db"
    ledger.rename(tmp_path / "kept.db")
    ledger.symlink_to("/proc/self/mem")  # which the kernel opens, and then does not read
    for name in ("status", "tick", "report"):
        refused = command(name, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "Input/output error: 'output/ledger.db'" in refused.stderr
        assert "rebuild" not in refused.stderr
    ledger.unlink()
    ledger.write_text("no ledger" * 1000)
    assert "ledger rebuild` makes it again" in command("status", check=False).stderr


def test_a_torn_result_on_disk_is_a_failure_that_can_be_rerun(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"superglue": "hang"}}')
    command(*SUBMIT, "--study", "second", "--yes")
    wait_for(lambda: status(command)["counts"]["running"] == 2)
    (folder, *_) = [path.parent for path in (tmp_path / "output" / "runs").glob("*/stages/superglue/1/claim.json")]
    command("cancel", "--all", "--yes")
    (folder / "result.json").write_text('{"status": "completed", "out')
    wait_for(lambda: status(command)["counts"]["running"] == 0)
    assert status(command)["counts"]["failed"] >= 2
    fake_science.write_text("{}")
    command("rerun", "--failed", "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 8


def test_a_slurm_site_without_sbatch_is_refused(command, tmp_path):
    nowhere = os.environ | {"PATH": str(tmp_path)}
    refused = command("submit", "experiments.yaml", "--site", "delftblue", "--yes", check=False, env=nowhere)
    assert refused.returncode == 2
    assert "there is no sbatch on this machine" in refused.stderr


def test_doctor_writes_no_site_file_where_nothing_answers_and_over_none_that_is_there(command, tmp_path):
    nowhere = os.environ | {"PATH": str(tmp_path)}
    silent = command("doctor", "--write", "mine.yaml", check=False, env=nowhere)
    assert (silent.returncode, silent.stderr.count("\n")) == (3, 1)
    assert not (tmp_path / "mine.yaml").exists()
    before = (tmp_path / "site.yaml").read_text()
    refused = command("doctor", "--write", "site.yaml", check=False, env=nowhere)
    assert refused.returncode == 2
    assert "is there already" in refused.stderr
    assert (tmp_path / "site.yaml").read_text() == before


# -- tick -------------------------------------------------------------------------------------------------------------


def decisions(tmp_path):
    return [whole_files.read_json(path) for path in sorted(tmp_path.glob("output/runs/*/stages/*/*/decision.json"))]


def test_tick_tries_again_what_its_rule_says_and_nothing_else(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"blimp": "out_of_memory", "superglue": "fail"}}')
    command(*SUBMIT, "--study", "second", "--yes")
    wait_for(lambda: status(command)["counts"]["failed"] == 4)
    fake_science.write_text("{}")
    shown = command("tick").stdout
    assert "2 stage runs ended in out_of_memory: tried again, 1/2 of the memory." in shown
    assert "2 stage runs ended in error: not tried again" in shown
    assert "Submitted" in shown
    wait_for(lambda: status(command)["counts"]["running"] + status(command)["counts"]["submitted"] == 0)
    assert (status(command)["counts"]["completed"], status(command)["counts"]["failed"]) == (6, 2)
    assert sorted((each["stage"], each["action"]) for each in decisions(tmp_path)) == (
        [("blimp", "retry")] * 2 + [("superglue", "stop")] * 2)  # fmt: skip
    assert "Nothing to do." in command("tick").stdout
    assert "not tried again by itself" in command("status", "--failed").stdout
    command("ledger", "rebuild")
    assert "Nothing to do." in command("tick").stdout, "the decisions are in the files"


def test_tick_submits_nothing_after_the_same_failure_again_and_again(command, fake_science, tmp_path):
    (tmp_path / "experiments.yaml").write_text(
        (tmp_path / "experiments.yaml").read_text() + "retry: {error: {times: 9}}\n"
    )
    fake_science.write_text('{"*": {"pretrain": "fail"}}')
    assert command(*SUBMIT, "--study", "second", "--yes", "--wait", check=False).returncode == 1
    for words in (("tick",), (*SUBMIT, "--study", "second")):
        refused = command(*words, *(["--yes"] if "submit" in words else []), check=False)
        assert (refused.returncode, "failed alike" in refused.stderr) == (2, True)
    fake_science.write_text("{}")
    command("rerun", "--failed", "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 8


def test_a_budget_holds_for_submit_rerun_and_tick_as_the_manifest_had_it_last(command, fake_science, tmp_path):
    path, told = tmp_path / "experiments.yaml", (tmp_path / "experiments.yaml").read_text()

    def give(hours):
        path.write_text(f"{told}budget: {{gpu_hours: {hours}}}\n")

    give(1e-3)
    for words in ([*SUBMIT, "--yes"], [*SUBMIT, "--dry-run"]):
        refused = command(*words, check=False)
        assert (refused.returncode, "this would take about" in refused.stderr) == (2, True)
        assert "experiments.yaml: budget.gpu_hours: 0.001: " in refused.stderr
    assert not list((tmp_path / "output").glob("submissions/*"))
    refused = command(*SUBMIT, "--max-gpu-hours", "0.001", check=False)
    assert refused.stderr.startswith("--max-gpu-hours 0.001: this would take about")

    fake_science.write_text('{"*": {"blimp": "out_of_memory"}}')
    give(9)
    command(*SUBMIT, "--study", "second", "--max-gpu-hours", "9", "--yes")
    wait_for(lambda: status(command)["counts"]["failed"] == 2)
    fake_science.write_text("{}")
    give(1e-3)
    assert "Nothing is to be submitted" in command(*SUBMIT, "--study", "second").stdout
    for words in (["tick"], ["rerun", "--failed", "--yes"]):
        refused = command(*words, check=False)
        assert (refused.returncode, "are used or under way" in refused.stderr) == (2, True)
    assert len(list((tmp_path / "output").glob("submissions/*"))) == 1
    give(9)
    command(*SUBMIT, "--study", "second")
    assert "Submitted" in command("tick").stdout
    wait_for(lambda: status(command)["counts"]["completed"] == 8)


def test_a_question_is_asked_with_the_ledger_free(command, tmp_path):
    import pty

    terminal, theirs = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *SUBMIT, "--study", "second"], cwd=tmp_path, stdin=theirs,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert asking.stdout
    shown = b""
    while b"[y/N]" not in shown:
        shown += (more := os.read(asking.stdout.fileno(), 4096))
        assert more, shown
    command(*SUBMIT, "--study", "second", "--yes", "--wait")
    os.write(terminal, b"y\n")
    asking.communicate(timeout=PATIENCE)
    assert asking.returncode == 2, "it has been done since"
    assert len(list((tmp_path / "output" / "submissions").iterdir())) == 1


@pytest.mark.usefixtures("second_done")
def test_tick_leaves_alone_what_was_refused_and_goes_on_with_what_was_held(command, tmp_path):
    """What limits held back is on disk, with its own site; what SLURM refused is the user's to ask for again."""
    (tmp_path / "far.yaml").write_text("name: far\nscheduler: slurm\n")
    (tmp_path / "bin").mkdir()
    scripts = {"sbatch": "echo 'sbatch: error: Invalid account' >&2; exit 1", "srun": "exit 0", "sacctmgr": "exit 1",
               "squeue": "echo 'JOBID|'", "sacct": "echo 'JobID|'", "scontrol": "exit 1"}  # fmt: skip
    for name, script in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    away = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    refused = command("submit", "experiments.yaml", "--site", "far.yaml", "--yes", check=False, env=away)
    assert "Invalid account" in refused.stderr
    assert "Nothing to do." in command("tick", env=away).stdout
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 17\n")
    (tmp_path / "bin" / "sacctmgr").write_text("#!/bin/sh\ncase $* in *assoc*) echo 'c|a|root||||0||||';; esac\n")
    shown = command("submit", "experiments.yaml", "--site", "far.yaml", "--yes", env=away).stdout
    assert "wait for room" in shown
    assert status(command)["counts"]["submitted"] == 0
    assert "wait for room" in command("tick", env=away).stdout
    (tmp_path / "bin" / "sacctmgr").write_text("#!/bin/sh\nexit 1\n")
    assert "Submitted 17" in command("tick", env=away).stdout
    assert not list((tmp_path / "output" / "requests").iterdir())
    command("cancel", "--all", "--yes", env=away)


@pytest.fixture
def full_queue(command, tmp_path):
    """A site of SLURM whose limits have no room for what was submitted; returns the environment that has its clients,
    and what makes room."""
    (tmp_path / "far.yaml").write_text("name: far\nscheduler: slurm\n")
    (tmp_path / "bin").mkdir()
    full = "case $* in *assoc*) echo 'c|a|root||||0||||';; esac"
    scripts = {"sbatch": "echo 17", "srun": "exit 0", "sacctmgr": full, "squeue": "echo 'JOBID|'",
               "sacct": "echo 'JobID|'", "scontrol": "exit 1"}  # fmt: skip
    for name, script in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    away = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    asked = command("submit", "experiments.yaml", "--study", "second", "--site", "far.yaml", "--yes", env=away)
    assert "wait for room" in asked.stdout
    return away, lambda: (tmp_path / "bin" / "sacctmgr").write_text("#!/bin/sh\nexit 1\n")


def test_tick_leaves_alone_a_run_that_was_held_and_whose_folder_was_removed(command, full_queue, tmp_path):
    away, make_room = full_queue
    gone, kept = sorted((tmp_path / "output/runs").iterdir())
    shutil.rmtree(gone)
    make_room()
    ticked = command("tick", env=away).stdout
    assert f"1 run left alone, since files of theirs were removed ({gone.name}): `submit` does them again." in ticked
    assert "Submitted 17" in ticked
    submissions = [json.loads(path.read_text()) for path in (tmp_path / "output").glob("submissions/*/submission.json")]
    assert [[item["run_id"] for item in pack] for made in submissions for pack in made["packs"]] == [[kept.name]]
    assert not gone.exists()
    again = command("submit", "experiments.yaml", "--study", "second", "--site", "far.yaml", "--yes", env=away).stdout
    assert "Submitted 17" in again
    assert (gone / "run.json").exists()


def test_cancel_all_pauses_what_its_own_user_asked_for_and_no_other(command, full_queue, tmp_path):
    away, make_room = full_queue
    make_room()
    (asked,) = (tmp_path / "output/requests").iterdir()
    paused = tmp_path / "output/paused.json"
    mine = json.loads(asked.read_text())

    def asked_by(user):
        whole_files.write_json(asked, {**mine, "user": user})

    asked_by("alice")
    assert "`tick` begins nothing of yours either" in command("cancel", "--all", "--yes", env=away).stdout
    assert asked.exists()
    assert "`cancel --all` was given at" in command("tick", env=away).stdout
    whole_files.write_json(paused, {"time": "12:00", "users": {"alice": "12:00"}})
    left = command("tick", env=away).stdout
    assert "2 runs left alone, since alice gave `cancel --all`: the next `submit`" in " ".join(left.split())
    assert status(command)["counts"]["submitted"] == 0
    asked_by(mine["user"])
    assert "Submitted 17" in command("tick", env=away).stdout
    assert json.loads(paused.read_text())["users"] == {"alice": "12:00"}
    command("cancel", "--all", "--yes", env=away)
    assert json.loads(paused.read_text())["users"].keys() == {"alice", mine["user"]}
    command("submit", "experiments.yaml", "--study", "second", "--site", "far.yaml", "--yes", env=away)
    assert json.loads(paused.read_text())["users"] == {"alice": "12:00"}


def test_after_cancel_all_an_earlier_version_has_paused_everybody(command, full_queue, tmp_path):
    away, make_room = full_queue
    make_room()
    whole_files.write_json(tmp_path / "output/paused.json", {"time": "12:00"})
    assert "`cancel --all` was given at 12:00" in command("tick", env=away).stdout
    command("submit", "experiments.yaml", "--study", "second", "--site", "far.yaml", "--yes", env=away)
    assert not (tmp_path / "output/paused.json").exists()


def test_after_cancel_all_tick_begins_nothing_until_a_person_asks(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"pretrain": "hang"}}')
    command(*SUBMIT, "--study", "second", "--yes")
    wait_for(lambda: status(command)["counts"]["running"] > 0)
    command("cancel", "--all", "--yes")
    wait_for(lambda: status(command)["counts"]["running"] == 0)
    fake_science.write_text("{}")
    assert "`cancel --all` was given" in command("tick").stdout
    command("rerun", "--failed", "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 8
    assert "Nothing to do." in command("tick").stdout
    assert not (tmp_path / "output" / "paused.json").exists()


@pytest.mark.usefixtures("second_done")
def test_tick_names_what_is_spoilt_and_is_paused_where_that_cannot_be_known(command, tmp_path):
    (tmp_path / "output" / "requests" / "cafe.json").write_text("[1]")
    ticked = command("tick")
    assert "cafe.json: is no cafe.json (must be an object)" in ticked.stderr.replace("\n", "")
    assert "Nothing to do." in ticked.stdout
    (tmp_path / "output" / "paused.json").write_text("[]")
    assert "paused.json: is no paused.json" in command("tick", check=False).stderr.replace("\n", "")


def test_what_stays_is_made_without_looking_for_garbage_and_never_looked_through():
    frozen = gc.get_freeze_count()
    with shared.that_stays():
        assert not gc.isenabled()
        kept = [[] for _ in range(1_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(kept)
    gc.disable()  # as in a process that does so itself, and goes on with other commands
    frozen = gc.get_freeze_count()
    try:
        with shared.that_stays():
            pass
        assert not gc.isenabled()
        assert gc.get_freeze_count() == frozen
    finally:
        gc.enable()
