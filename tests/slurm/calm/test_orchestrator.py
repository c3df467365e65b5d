"""submit, status, rerun and cancel against a real slurmctld. What is killed, or does not answer: test_faults.py."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import fresh
import processes
import pytest
import yaml
from longer import longer
from slurm.faults import wait_for

from cluster.files import whole_files
from tiny_transformers.settings.stages import STAGES

pytestmark = pytest.mark.slurm
SITE = Path(__file__).parents[1] / "site.yaml"
OF_FILES = ("babylm", "lm_eval")  # which the builtin data has none of
MAIN = ["pretrain", "add_tokenizer", "blimp", "superglue", "lambada"]
OF_STORIES = [name for name, kind in STAGES.items() if kind.reads != "streams" and name not in OF_FILES]
SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml")


@pytest.fixture
def command(tmp_path, manifest_file, slurm):  # noqa: ARG001 - they are there
    """Run a command in a process of its own; site.yaml is the test cluster's."""
    (tmp_path / "site.yaml").write_text(SITE.read_text())

    def run(*words, check=True, **options):
        done = processes.command(*words, cwd=tmp_path, timeout=1000, **options)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    yield run
    run("cancel", "--all", "--yes", check=False)


@pytest.fixture
def stand_ins(command, fake_science, tmp_path):  # noqa: ARG001
    """The stages' stand-ins in every job; the file that tells them what to do."""
    change_site(tmp_path, environment={"PYTHONPATH": os.environ["PYTHONPATH"], "FAKE_SCIENCE": str(fake_science)})
    return fake_science


def change_site(folder, **settings):
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))


def status(command, *words, check=True):
    return json.loads(command("status", "--json", *words, check=check).stdout)


def sacct(*options):
    shown = subprocess.run(["sacct", "-X", "-n", "-P", *options], capture_output=True, text=True, check=True)
    return [line.split("|") for line in shown.stdout.splitlines()]


def job_ids(folder):
    return [whole_files.read_json(path)["job_id"] for path in (folder / "output" / "submissions").glob("*/answer.json")]


def causes(shown):
    return {stage["cause"] for run in shown["runs"] for stage in run["stages"].values()} - {None}


@pytest.mark.parametrize("stages", [MAIN, longer(OF_STORIES)], ids=["main", "all"])
def test_an_array_of_real_models_runs_on_two_nodes_and_status_agrees_with_sacct(
    command, manifest_file, builtin_root, tmp_path, stages
):
    """Real stages, tiny models, builtin data: pretrain to scores."""
    shutil.copytree(builtin_root, tmp_path / "output" / "cache" / builtin_root.name)
    told = manifest_file.read_text().replace("defaults:", f"defaults:\n  stages: {stages}")
    manifest_file.write_text(told.replace("first:\n", "first:\n    exclude: [{model.activation: relu}]\n"))
    change_site(tmp_path, runs_per_pack=1)
    settings = ["--set", "train.max_steps=3", "--set", "train.stories_per_step=8", "--set", "train.eval_stories=20",
                "--set", "train.anchors=[0.5]", "--set", "evaluation.limit=12",
                "--set", "evaluation.superglue.epochs=1",
                "--set", "evaluation.lambada.passages=4", "--set", "evaluation.speed.batch_sizes=[1, 2]",
                "--set", "evaluation.speed.tokens=32", "--set", "evaluation.speed.prompt_tokens=4",
                "--set", "evaluation.speed.new_tokens=4", "--set", "evaluation.speed.warmup=1",
                "--set", "evaluation.speed.repetitions=1", "--set", "data.max_length=128"]  # fmt: skip
    done = command(*SUBMIT, "--study", "first", *settings, "--yes", "--wait")
    shown = status(command)
    assert shown["counts"]["completed"] == 2 * len(stages), done.stdout
    (job,) = job_ids(tmp_path)
    wait_for(lambda: {row[1] for row in sacct("-j", job, "--format=JobID,State")} == {"COMPLETED"})
    rows = sacct("-j", job, "--format=JobID,NodeList")
    assert {row[1] for row in rows} == {"cmp001", "cmp002"}
    assert {row[0] for row in rows} == {stage["job"] for run in shown["runs"] for stage in run["stages"].values()}
    assert "Nothing is missing" in command(*SUBMIT, "--study", "first", *settings, "--yes").stdout
    scores = tmp_path / "report"
    command("report", "--to", str(scores))
    assert len((scores / "summary.csv").read_text().splitlines()) == 3
    for run in shown["runs"] if stages is OF_STORIES else ():  # it takes as long as all of these stages
        load_in_a_fresh_process(tmp_path / "output" / "runs" / run["run_id"] / "model", run["name"])


def load_in_a_fresh_process(folder, name):
    auto = "AutoModelForCausalLM" if name.startswith("gpt") else "AutoModelForMaskedLM"
    code = (
        "import sys, tiny_transformers\n"
        f"from transformers import {auto}, AutoTokenizer\n"
        f"model, tokenizer = {auto}.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(type(model).__name__, tokenizer('Once upon')['input_ids'][0])"
    )
    done = fresh.python(code, folder)
    assert done.stdout.split() == [f"Tiny{'GPTNeoForCausalLM' if 'Causal' in auto else 'RobertaForMaskedLM'}", "1"]


@pytest.mark.longer  # test_limits.py has more of it
@pytest.mark.usefixtures("stand_ins")
def test_arrays_are_cut_at_the_sites_limit_and_indexed_from_0(command, tmp_path):
    change_site(tmp_path, runs_per_pack=1, max_array_size=3, cpus=4)
    command(*SUBMIT, "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 28
    tasks = sorted(int(path.stem.removeprefix("task-")) for path in tmp_path.glob("output/submissions/*/task-*.json"))
    assert tasks == [0, 0, 0, 1, 1, 2, 2]


def test_a_failed_stage_and_what_follows_it_are_rerun_and_nothing_else(command, stand_ins, tmp_path):
    stand_ins.write_text('{"*": {"blimp": "fail"}}')
    assert command(*SUBMIT, "--study", "first", "--yes", "--wait", check=False).returncode == 1
    assert causes(status(command)) == {"error"}
    assert "RuntimeError: blimp was told to fail" in command("status", "--failed").stdout
    stand_ins.write_text("{}")
    command("rerun", "--failed", "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 16
    for done in tmp_path.glob("output/runs/*/done.txt"):
        assert done.read_text().split() == ["pretrain", "add_tokenizer", "superglue", "blimp"]


def test_why_packs_wait_is_told_in_plain_words(command, stand_ins, tmp_path):
    change_site(tmp_path, runs_per_pack=1, cpus=40)  # a node each, of two
    stand_ins.write_text('{"*": {"pretrain": "hang"}}')
    command(*SUBMIT, "--study", "first", "--yes")
    (job,) = job_ids(tmp_path)
    wait_for(lambda: status(command)["counts"]["running"] == 2)
    subprocess.run(["scontrol", "uhold", f"{job}_3"], check=True)
    wait_for(lambda: "JobHeldUser" in command("status").stdout)
    told = command("status").stdout
    assert "Running: 2 packs on 2 nodes" in told
    assert f"1 pack, 1 run (job {job}_[3]): held by you: `scontrol release` or `cancel` it (JobHeldUser)" in told
    assert f"1 pack, 1 run (job {job}_[2]): next in line, until a node is free (Resources)" in told
    assert "When it is done is unknown: 1 pack will not start by itself" in told


def test_a_single_pack_which_is_no_array_is_cancelled_too(command, stand_ins, tmp_path):
    change_site(tmp_path, runs_per_pack=8)
    stand_ins.write_text('{"*": {"pretrain": "hang"}}')
    command(*SUBMIT, "--study", "first", "--yes")
    wait_for(lambda: status(command)["counts"]["running"] == 1)
    command("cancel", "--all", "--yes")
    wait_for(lambda: status(command)["counts"]["failed"] >= 1)
    assert causes(status(command)) == {"cancelled"}


@pytest.mark.usefixtures("stand_ins")
def test_a_refusal_is_shown_in_slurms_words_and_records_nothing_as_submitted(command, tmp_path):
    change_site(tmp_path, account="nobody")
    refused = command(*SUBMIT, "--yes", check=False)
    assert refused.returncode == 2
    assert "Invalid account" in refused.stderr
    assert status(command)["counts"]["submitted"] == 0
    change_site(tmp_path, account="research-eemcs-st")
    command(*SUBMIT, "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 28


def test_a_gpu_pack_sees_its_gpu(command, stand_ins, tmp_path):
    change_site(tmp_path, partition="gpu-a100", gpus=1, cpus=8, runs_per_pack=2)
    stand_ins.write_text('{"*": {"blimp": "hang"}}')
    command(*SUBMIT, "--study", "first", "--yes")
    claims = lambda: [*tmp_path.glob("output/runs/*/stages/blimp/1/claim.json")]  # noqa: E731
    wait_for(lambda: len(claims()) == 2)
    pids = [whole_files.read_json(path)["pid"] for path in claims()]
    seen = [Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0") for pid in pids]
    devices = [value for each in seen for value in each if value.startswith("CUDA_VISIBLE_DEVICES=")]
    assert sorted(devices) == ["CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"]
    stand_ins.write_text("{}")
    wait_for(lambda: status(command)["counts"]["completed"] == 16)


@pytest.mark.usefixtures("slurm")
def test_doctor_finds_the_test_site_as_its_profile_says(command, tmp_path):
    shown = command("doctor", "--site", "site.yaml")
    assert "22.05" in shown.stdout
    assert "wrong" not in shown.stdout
    change_site(tmp_path, max_array_size=1001)
    told = command("doctor", "--site", "site.yaml").stdout
    assert "101; the profile's max_array_size is 1001: arrays are cut at SLURM's" in " ".join(told.split())
    change_site(tmp_path, account="nobody")
    assert command("doctor", "--site", "site.yaml", check=False).returncode == 2


@pytest.mark.usefixtures("slurm")
def test_a_site_file_that_doctor_writes_is_one_to_submit_by(command, tmp_path):
    made = ("doctor", "--partition", "gpu-a100-small", "--account", "research-eemcs-st", "--write", "made.yaml")
    command(*made)
    site = yaml.safe_load((tmp_path / "made.yaml").read_text())
    told = {"name": "delftbox", "gpus": 1, "mig": True, "cpus": 2, "memory_per_cpu": 8000, "max_time": 240}
    assert told.items() <= (site | {"max_array_size": 101}).items()
    assert "wrong" not in command("doctor", "--site", "made.yaml").stdout
    shown = command("submit", "experiments.yaml", "--site", "made.yaml", "--dry-run").stdout
    assert "gpu-a100-small 1 GPU, 2 CPUs, 16,000 MB" in shown
    assert command(*made, check=False).returncode == 2
    assert "Wrote made.yaml" in command(*made, "--overwrite").stdout


@pytest.mark.usefixtures("stand_ins")
def test_runs_and_logs_may_lie_in_folders_of_odd_names(command):
    where = ("--output-root", "-50%j\\ [b] 'x' ö")
    command(*SUBMIT, "--study", "second", *where, "--log-dir", "-a 'b' (c) #$d", "--yes", "--wait")
    assert status(command, *where)["counts"]["completed"] == 16


@pytest.fixture
def narrow_account(slurm):  # noqa: ARG001
    """An account that may have three jobs waiting and running."""
    account = "education-eemcs-courses-cse3000"
    limit = ["sacctmgr", "-i", "modify", "user", "root", "where", f"account={account}", "set"]
    subprocess.run([*limit, "MaxSubmitJobs=3"], check=True, capture_output=True)
    yield account
    subprocess.run([*limit, "MaxSubmitJobs=-1"], check=True, capture_output=True)


@pytest.mark.longer  # test_limits.py has more of it
@pytest.mark.usefixtures("stand_ins")
def test_a_grid_larger_than_the_accounts_limit_is_completed_by_ticks(command, narrow_account, tmp_path):
    change_site(tmp_path, runs_per_pack=1, cpus=4, account=narrow_account)
    assert "4 packs wait for room" in command(*SUBMIT, "--yes").stdout
    assert "tick` submits what is eligible" in command("status").stdout

    def done():
        command("tick")
        return status(command)["counts"]["completed"] == 28

    wait_for(done)
    packs = [
        len(whole_files.read_json(path)["packs"]) for path in tmp_path.glob("output/submissions/*/submission.json")
    ]
    assert sum(packs) == 7
    assert max(packs) <= 3
    assert "Nothing to do." in command("tick").stdout


def test_an_account_that_runs_one_job_at_a_time_gets_one_long_pack(command, stand_ins, tmp_path):
    change_site(tmp_path, runs_per_pack=None, account="innovation", flops=1.0e12)
    stand_ins.write_text("{}")
    shown = command(*SUBMIT, "--yes", "--wait").stdout
    assert "1 pack with 7 runs" in shown
    assert status(command)["counts"]["completed"] == 28


STREAM = """
models:
  bf: {family: brainformer, order: sgf.sf, hidden_size: 32, intermediate_size: 32, num_heads: 2, attn_span: 128,
       vocab_size: 27, experts: {num_experts: 4, gate: random, top_k: 2}, dropout: 0.1}
studies:
  characters:
    model: bf
    data: {source: builtin, corpus: text8}
    stages: [pretrain, add_tokenizer, bpc]
    seeds: [1]
    train: {optimizer: adagrad, clipping: per_tensor, max_grad_norm: 0.03, lr_scheduler_type: constant,
            learning_rate: 0.05, warmup_steps: 20, max_steps: 300, evaluations: 15, batch_size: 8, block_size: 64,
            eval_characters: 500}
"""


# Kills of stand-ins on SLURM, and of a training's process, are in tests that take seconds; this one is both at once.
@pytest.mark.longer
def test_a_stream_whose_job_was_killed_goes_on_to_the_weights_of_one_that_was_not(command, tmp_path):
    (tmp_path / "experiments.yaml").write_text(STREAM)
    whole = ("--output-root", "whole")
    command(*SUBMIT, "--yes")
    command(*SUBMIT, *whole, "--yes")
    (run,) = wait_for(lambda: list((tmp_path / "output/runs").glob("*")))
    wait_for(lambda: (run / "checkpoints/step-00000020").is_dir(), 120)
    killed = whole_files.read_json(run / "stages/pretrain/1/claim.json")["job"]
    subprocess.run(["scancel", "--signal=KILL", killed], check=True)
    wait_for(lambda: causes(status(command)) - {"blocked"} != set())
    assert not (run / "model").exists()
    command("rerun", "--failed", "--yes", "--wait")
    assert status(command)["counts"]["completed"] == 3
    log = (run / "stages/pretrain/2/log.txt").read_text()
    resumed = int(re.search(r"resuming after step (\d+)", log)[1])
    assert 20 <= resumed < 300
    twin = tmp_path / "whole/runs" / run.name
    wait_for(lambda: status(command, *whole)["counts"].get("completed") == 3, 300)
    assert (run / "model/model.safetensors").read_bytes() == (twin / "model/model.safetensors").read_bytes()
    results = (max(each.glob("stages/bpc/*/result.json")) for each in (run, twin))
    scores = [whole_files.read_json(path)["outcome"]["scores"] for path in results]
    assert scores[0] == scores[1]
    (score,) = scores[0]
    assert score["value"] < 4  # 4.75 bits are chance
