"""Tasks that take runs of each other, on the fake A100s: of very unequal length and memory, with wrong estimates, while
one task is killed and one stays pending."""

import json
import os
import random
import signal

import pytest
import yaml
from slurm.faults import differences, duplicates, wait_for

from cluster.files import whole_files
from cluster.files.folders import OutputRoot

pytestmark = pytest.mark.slurm
PACKS, RUNS, STAGES = 6, 36, ("pretrain", "add_tokenizer")
GRID = {
    "model.activation": ["gelu", "relu"],
    "train.micro_batch_tokens": [1024, 65536],
    "train.max_steps": [10, 30, 90],
}
SITE = {"partition": "gpu-a100", "gpus": 1, "gpu_memory": 4500, "cpus": 8, "memory_per_cpu": 4000, "max_slots": 3,
        "slots": None, "runs_per_pack": RUNS // PACKS, "flops": 1e10, "max_time": 600}  # fmt: skip


@pytest.fixture
def grid(study):
    """A submission of 36 stand-ins of 0.1 to 20 s, of which the planner knows nothing, in six packs; no node is there
    yet."""
    manifest = yaml.safe_load((study.folder / "experiments.yaml").read_text())
    manifest["studies"] = {"s0": {"model": "gpt", "grid": GRID, "seeds": list(range(3)), "stages": list(STAGES)}}
    (study.folder / "experiments.yaml").write_text(yaml.safe_dump(manifest))
    study.change_site(**SITE)
    gpus(study, "drain")
    study.submit("s0")
    (name,) = study.submission_ids
    directory = OutputRoot(study.output).submission(name)
    packs = whole_files.read_json(directory.submission)["packs"]
    draw = random.Random(0)
    told = {item["run_id"]: {"pretrain": min(20.0, draw.lognormvariate(0, 1.5))} for pack in packs for item in pack}
    (study.folder / "fake_science.json").write_text(json.dumps(told))
    yield study, directory, packs
    gpus(study, "resume")


def gpus(study, state):
    why = ["reason=test"] if state == "drain" else []
    study.cluster.ask("scontrol", "update", "nodename=gpu001", f"state={state}", *why)


def completed(study):
    return study.counts().get("completed", 0)


def test_every_run_is_done_once_whatever_becomes_of_its_task(grid):
    study, directory, packs = grid
    assert (len(packs), sum(map(len, packs))) == (PACKS, RUNS)
    job = whole_files.read_json(directory.answer)["job_id"]
    held = PACKS - 1
    study.cluster.ask("scontrol", "hold", f"{job}_{held}")
    gpus(study, "resume")
    wait_for(lambda: len(directory.taken_runs()) > 12)
    os.kill(whole_files.read_json(directory.task(1))["pid"], signal.SIGKILL)
    wait_for(lambda: len(directory.taken_runs()) == RUNS, 400)
    wait_for(lambda: not [line for line in study.live_jobs() or [[None] * 3] if line[2] != "PENDING"], 400)
    pulled = {
        item["run_id"]
        for number, pack in enumerate(packs)
        for item in pack
        if whole_files.read_json(directory.taken(item["run_id"])) != {"pack": number}
    }
    assert pulled >= {item["run_id"] for item in packs[held]}, "those of the task that stays pending, at least"
    assert held not in directory.tasks()
    study.cluster.ask("scontrol", "release", f"{job}_{held}")
    wait_for(lambda: study.live_jobs() == [])
    assert {attempt["pack_index"] for attempt in attempts(study) if attempt["run_id"] in pulled} <= set(range(held))
    assert held in directory.tasks()
    left = RUNS * len(STAGES) - completed(study)
    assert 0 < left <= len(STAGES) * 3, "what the killed task had begun"
    while completed(study) < RUNS * len(STAGES):
        assert study.run("tick").returncode == 0
        assert study.run("rerun", "--failed", "--yes").returncode == 0
        wait_for(lambda: study.live_jobs() == [])
    assert not (found := duplicates(study)), "\n".join(found)
    assert not (found := differences(study)), "\n".join(found)


def attempts(study):
    study.status()
    return study.attempts()
