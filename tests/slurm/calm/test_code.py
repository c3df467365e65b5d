"""What was submitted is what runs: real models come out byte for byte the same, whatever becomes of the code and of the
folder while an array of them waits."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from slurm.faults import wait_for

from cluster.files import kept_code, whole_files

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[3]
SITE = Path(__file__).parents[1] / "site.yaml"
IN_THE_WAY = ("cluster", "jobs", "random", "sitecustomize", "submitit", "tiny_transformers", "torch")
MANIFEST = """
defaults: {data: {source: builtin}, stages: [pretrain, add_tokenizer, blimp]}
models:
  bert: {family: roberta, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 48}
studies:
  s:
    model: bert
    seeds: [1, 2]
    train: {max_steps: 6, stories_per_step: 8, eval_stories: 20}
    evaluation: {limit: 12}
retry: {error: {times: 1}}
"""
STAGE_RUNS = 6


@pytest.fixture
def checkout(tmp_path):
    """A clone with another branch, on which models learn three times as fast and no sentence can be scored."""
    made = tmp_path / "checkout"
    for package in (*kept_code.PACKAGES, "templates"):
        shutil.copytree(ROOT / package, made / package, ignore=shutil.ignore_patterns("__pycache__"))
    git(made, "init", "--quiet", "--initial-branch=main")
    commit(made, "ours")
    git(made, "checkout", "--quiet", "-b", "other")
    rates = made / "tiny_transformers/training/optimizers.py"
    rates.write_text(
        rates.read_text().replace("return settings.learning_rate *", "return 3 * settings.learning_rate *")
    )
    (made / "tiny_transformers/evaluation/scoring.py").unlink()
    commit(made, "other")
    git(made, "checkout", "--quiet", "main")
    return made


def git(folder, *words):
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def commit(folder, text):
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", text)


@pytest.fixture
def command(checkout, slurm, tmp_path):  # noqa: ARG001 - SLURM is up
    """Run a command of the checkout; modules behind it on PYTHONPATH are in tmp_path/behind."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "experiments.yaml").write_text(MANIFEST)
    site = yaml.safe_load(SITE.read_text()) | {"runs_per_pack": 1}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))

    def run(*words):
        ours = {"PYTHONPATH": f"{checkout}:{tmp_path / 'behind'}", "PYTHONSAFEPATH": "1"}
        line = [sys.executable, "-m", "cluster.cli", *words]
        done = subprocess.run(
            line, cwd=folder, env=os.environ | ours, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    yield run
    nodes("resume")
    run("cancel", "--all", "--yes")


def nodes(state):
    why = ["reason=test"] if state == "drain" else []
    subprocess.run(["scontrol", "update", "nodename=cmp[001-002]", f"state={state}", *why])


def results(root):
    """Weights, and the scores of each stage, by run."""
    found = {}
    for run in sorted(root.glob("runs/*")):
        told = [whole_files.read_json(path) for path in sorted(run.glob("stages/*/*/result.json"))]
        scores = [result["outcome"]["scores"] for result in told if result["status"] == "completed"]
        found[run.name] = (run / "model/model.safetensors").read_bytes(), scores
    return found


# `longer`, since five real stages' processes take 40 s of CPU: tests/cluster/submit/test_code_copy.py has a program.
@pytest.mark.longer
def test_models_are_the_same_though_a_branch_is_switched_and_files_are_laid_in_the_way(command, checkout, tmp_path):
    folder, submit = tmp_path / "work", ("submit", "experiments.yaml", "--site", "site.yaml", "--yes")
    undisturbed = command(*submit, "--output-root", "whole", "--wait")
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    nodes("drain")
    assert command(*submit).returncode == 0
    git(checkout, "checkout", "--quiet", "other")
    (checkout / "jobs/stage.py").write_text("raise SystemExit('edited while an array waited')\n")
    laid = [place / f"{name}.py" for place in (folder, tmp_path / "behind") for name in IN_THE_WAY]
    for path in laid:
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('a file of the user stands in the way')\n")
    nodes("resume")
    claim = wait_for(lambda: next(folder.glob("output/runs/*/stages/pretrain/1/claim.json"), None))
    job = whole_files.read_json(claim)["job"]
    tasks = [whole_files.read_json(path) for path in folder.glob("output/submissions/*/task-*.json")]
    os.kill(next(task["pid"] for task in tasks if task["job"] == job), signal.SIGKILL)
    for path in laid[len(IN_THE_WAY) :]:  # which the commands, too, would find
        path.unlink()

    def completed():
        command("tick")  # as the other branch does it
        return json.loads(command("status", "--json").stdout)["counts"]["completed"] == STAGE_RUNS

    wait_for(completed)
    assert (claim.parents[1] / "2" / "result.json").exists(), "it was tried again"
    assert results(folder / "output") == results(folder / "whole")
    claims = [whole_files.read_json(path) for path in folder.glob("*/runs/*/stages/*/*/claim.json")]
    assert len({claim["code"]["digest"] for claim in claims}) == 1
