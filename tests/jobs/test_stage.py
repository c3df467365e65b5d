import os
import signal
import subprocess
import sys
import time

import pytest

from cluster import rundir
from cluster.rundir import OutputRoot
from jobs import stage
from jobs.pack import Task, this_task, work
from tiny_transformers.architecture import GPTNeo
from tiny_transformers.config import RunConfig
from tiny_transformers.work import CheckFailed, Interrupted


@pytest.fixture
def run(tmp_path):
    directory = OutputRoot(tmp_path).run("abc")
    config = RunConfig(model=GPTNeo()).model_dump(mode="json")
    rundir.write_json(directory.run_json, {"run_id": "abc", "config": config})
    return directory


def submission(tmp_path, stages, packs=1):
    directory = OutputRoot(tmp_path).submission("cafe")
    rundir.write_json(
        directory.submission,
        {"token": "cafe", "output_root": str(tmp_path), "data_root": str(tmp_path), "cache": str(tmp_path / "cache"),
         "slots": 1, "cpus": 2, "packs": [[{"run_id": "abc", "stages": stages}]] * packs},
    )  # fmt: skip
    return directory


def task(job="7_0", restart=0):
    return Task(job, restart, "n1", 1, "0")


def test_a_second_job_with_the_same_attempt_does_nothing(run):
    assert stage.claim(run, "pretrain", 1, "cafe", task()).number == 1
    assert stage.claim(run, "pretrain", 1, "cafe", task()) is None
    assert stage.claim(run, "pretrain", 1, "beef", task("8_0", restart=5)) is None


def test_a_requeued_job_takes_the_next_attempt_and_closes_its_own(run):
    first = stage.claim(run, "pretrain", 1, "cafe", task())
    second = stage.claim(run, "pretrain", 1, "cafe", task(restart=1))
    assert second.number == 2
    assert rundir.read_json(first.result)["cause"] == "preempted"


def test_a_requeued_job_does_not_repeat_what_it_had_completed(run):
    first = stage.claim(run, "pretrain", 1, "cafe", task())
    rundir.write_json(first.result, {"status": "completed", "cause": None})
    assert stage.claim(run, "pretrain", 1, "cafe", task(restart=1)) is None


def test_a_requeued_job_does_not_repeat_what_had_failed_for_good(run):
    first = stage.claim(run, "pretrain", 1, "cafe", task())
    rundir.write_json(first.result, {"status": "failed", "cause": "error"})
    assert stage.claim(run, "pretrain", 1, "cafe", task(restart=1)) is None
    assert [attempt.number for attempt in run.attempts("pretrain")] == [1]


@pytest.mark.parametrize(
    ("error", "cause"),
    [(ValueError(), "error"), (MemoryError(), "out_of_memory"), (CheckFailed(), "check_failed"),
     (Interrupted(), "timeout")],
)  # fmt: skip
def test_an_exception_has_a_cause(error, cause):
    assert stage.cause(error) == cause


def child(directory, *words):
    return subprocess.run([sys.executable, "-m", "jobs.stage", str(directory.path), "0", "0", *words], check=False)


@pytest.mark.usefixtures("fake_science")
def test_a_stage_writes_its_claim_its_log_and_its_result_last(run, tmp_path):
    directory = submission(tmp_path, [["pretrain", 1], ["add_tokenizer", 1]])
    assert child(directory).returncode == 0
    attempt = run.attempt("pretrain", 1)
    result = rundir.read_json(attempt.result)
    assert (result["status"], result["outcome"]["scores"][0]["value"]) == ("completed", 0.5)
    assert "pretrain stand-in" in attempt.log.read_text()
    assert "add_tokenizer stand-in" not in attempt.log.read_text()
    assert sorted(os.listdir(attempt.path)) == ["claim.json", "heartbeat.json", "log.txt", "result.json"]


def test_a_failed_stage_keeps_its_traceback_and_stops_what_needs_it(run, tmp_path, fake_science):
    fake_science.write_text('{"*": {"pretrain": "fail"}}')
    directory = submission(tmp_path, [["pretrain", 1], ["add_tokenizer", 1]])
    assert child(directory).returncode == 1
    assert "Traceback" in run.attempt("pretrain", 1).log.read_text()
    assert run.attempts("add_tokenizer") == []


@pytest.mark.usefixtures("fake_science")
def test_a_result_that_cannot_be_written_is_a_failure_and_leaves_no_half_file(run, tmp_path):
    """A full disk while the result is written: the attempt's folder takes no more than the claim and the log."""
    directory = submission(tmp_path, [["pretrain", 1]])
    code = (
        "import errno, os, sys; from cluster import rundir; from jobs import stage\n"
        "real = rundir.write_json\n"
        "def full(path, value):\n"
        "    if path.name == 'result.json': raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    real(path, value)\n"
        "rundir.write_json = full\n"
        "stage.main(*sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(directory.path), "0", "0"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert not run.attempt("pretrain", 1).result.exists()


@pytest.mark.usefixtures("fake_science")
def test_a_missing_run_file_is_an_error_that_says_so(run, tmp_path):
    run.run_json.unlink()
    child(submission(tmp_path, [["pretrain", 1]]))
    assert "run.json: is missing" in rundir.read_json(run.attempt("pretrain", 1).result)["message"]


def test_a_stage_asked_to_stop_leaves_the_next_ones_as_timed_out(run, tmp_path, fake_science):
    fake_science.write_text('{"*": {"pretrain": "hang"}}')
    directory = submission(tmp_path, [["pretrain", 1], ["add_tokenizer", 1]])
    words = [sys.executable, "-m", "jobs.stage", str(directory.path), "0", "0"]
    process = subprocess.Popen(words)
    while not run.attempt("pretrain", 1).log.exists() or "told: hang" not in run.attempt("pretrain", 1).log.read_text():
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR2)
    process.wait()
    result = rundir.read_json(run.attempt("add_tokenizer", 1).result)
    assert (result["status"], result["cause"]) == ("failed", "timeout")


@pytest.mark.usefixtures("fake_science")
def test_a_pack_cancelled_before_it_began_does_nothing(run, tmp_path):
    directory = submission(tmp_path, [["pretrain", 1]])
    rundir.write_json(directory.answer, {"state": "submitted", "cancelled": True})
    work(str(directory.path), 0)
    assert run.attempts("pretrain") == []


@pytest.mark.usefixtures("fake_science")
def test_a_duplicate_pack_does_no_work_twice(run, tmp_path, capfd):
    directory = submission(tmp_path, [["pretrain", 1]])
    work(str(directory.path), 0)
    work(str(directory.path), 0)
    assert "is another task's" in capfd.readouterr().out
    assert (run.path / "done.txt").read_text() == "pretrain\n"


def test_the_job_is_named_as_slurm_names_it(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu001")
    assert (this_task().job, this_task().host) == ("9", "gpu001")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert (this_task().job, this_task().restart) == ("8_3", 2)
