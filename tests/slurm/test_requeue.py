"""A pack on a real slurmctld meets its time limit: it saves, requeues itself and goes on under the next attempt."""

import os
import subprocess
from pathlib import Path

import pytest
import submitit
from slurm.faults import wait_for

from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from jobs.pack import PackJob
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import RunConfig

pytestmark = pytest.mark.slurm
REPOSITORY = Path(__file__).parents[2]
# Seconds. SLURM tells up to a minute early: of three minutes one is sure, for a job to begin in, and of this delay
# what a pack leaves its children to save. Either is much more than it takes on a busy machine.
DELAY = 60
STAGES = [["pretrain", 1], ["add_tokenizer", 1], ["blimp", 1], ["superglue", 1]]


@pytest.fixture
def task(slurm_of_limits, fake_science, tmp_path, monkeypatch):
    """A task of two packs of one run each, whose pretraining waits until it is asked to stop: job, runs, intent."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_of_limits))
    fake_science.write_text('{"*": {"pretrain": "train"}}')
    runs = [OutputRoot(tmp_path).run(name) for name in ("one", "two")]
    for run in runs:
        config = RunConfig(model=GPTNeo()).model_dump(mode="json")
        whole_files.write_json(run.run_json, {"run_id": run.path.name, "name": run.path.name, "created": "2026",
                                              "order": 0, "studies": [], "stages": [], "config": config})  # fmt: skip
    directory = OutputRoot(tmp_path).submission("cafe")
    intent = {"submission_id": "cafe", "created": "2026", "output_root": str(tmp_path), "data_root": str(tmp_path),
              "cache": str(tmp_path), "slots": 1, "cpus": 1, "site": {"signal_delay": DELAY}, "requeues": 1,
              "packs": [[{"run_id": run.path.name, "stages": STAGES}] for run in runs]}  # fmt: skip
    whole_files.write_json(directory.submission, intent)
    executor = submitit.SlurmExecutor(tmp_path / "slurm_logs", max_num_timeout=3)
    path = f"{os.environ['PYTHONPATH']}:{REPOSITORY}"
    setup = [f"export PYTHONPATH={path} FAKE_SCIENCE={fake_science} OMP_NUM_THREADS=1"]
    executor.update_parameters(partition="compute-p1", account="research-eemcs-st", time=3, mem_per_cpu="200M",
                               signal_delay_s=DELAY, setup=setup, additional_parameters={"requeue": True})  # fmt: skip
    jobs = executor.submit_array([PackJob(str(directory.path))] * 2)
    yield jobs[0].job_id.partition("_")[0], runs, directory
    subprocess.run(["scancel", jobs[0].job_id.partition("_")[0]], check=False)


def trains(run, number=1):
    log = run.attempt("pretrain", number).log
    return log.exists() and "told: train" in log.read_text()


def result(run, stage, number):
    return whole_files.read_json(run.attempt(stage, number).result) or {}


def test_a_pack_stopped_by_its_signal_goes_on_after_a_requeue(task, fake_science):
    job, runs, directory = task
    wait_for(lambda: all(map(trains, runs)))
    fake_science.write_text('{"two": {"pretrain": "train"}}')
    wait_for(lambda: result(runs[0], "superglue", 1))  # one went through, the other meets its limit
    subprocess.run(["scancel", "--signal=USR2", f"{job}_1"], check=True)
    wait_for(lambda: (runs[1].path / "saved.txt").exists())
    fake_science.write_text("{}")
    wait_for(lambda: result(runs[1], "superglue", 1))
    assert result(runs[1], "pretrain", 1) == {}
    assert result(runs[1], "pretrain", 2)["status"] == "completed"
    life = whole_files.read_json(directory.task(1))
    assert (life["job"], life["restart"], life["earlier"][0]["ended_by"]) == (f"{job}_1", 1, "timeout")


def story(runs, directory):
    """All that was said, to be shown where it is not what it should have been."""
    of_stages = [path for run in runs for path in run.path.glob("stages/*/*/*")]
    of_packs = [path for path in directory.path.parents[1].glob("slurm_logs/*") if path.suffix in {".out", ".err"}]
    return "\n".join(f"-- {path}\n{path.read_text()}" for path in sorted([*of_stages, *of_packs]))


def test_the_second_time_the_limit_is_the_end(task):
    """With the real limit; both packs at once."""
    _, runs, directory = task
    wait_for(lambda: all(result(run, "pretrain", 2) for run in runs), 420)
    assert {result(run, "pretrain", 2)["cause"] for run in runs} == {"timeout"}
    assert [result(run, "pretrain", 1) for run in runs] == [{}, {}]
    assert {whole_files.read_json(directory.task(index))["restart"] for index in (0, 1)} == {1}
    saved = [(run.path / "saved.txt").read_text().split() for run in runs]
    assert saved == [["pretrain"] * 2] * 2, story(runs, directory)
