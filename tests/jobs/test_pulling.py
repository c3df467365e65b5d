"""Which runs of an array a task has: its own, and those that it pulls; with stages that are stand-ins."""

import json
import os
import signal
import subprocess
import sys

import pytest
from submitit.core.utils import DelayedSubmission
from waiting import PATIENCE, wait_for

from cluster.files import whole_files
from jobs.pack import PackJob
from jobs.pulling import Runs

REQUEUED = 255
PRETRAIN = [["pretrain", 1]]
CLAIM = {"submission_id": "earlier", "job": "1_0", "host": "n", "pid": 1, "start": "1", "restart": 0, "time": 1.0}


@pytest.fixture
def array(make_run, submit):
    """Write an array of packs of runs, each as (name, seconds, MB); further words change the intent."""

    def write(*packs, **words):
        items = [[{"run_id": n, "stages": PRETRAIN, "seconds": s, "memory": m} for n, s, m in pack] for pack in packs]
        for item in (item for pack in items for item in pack):
            make_run(item["run_id"])
        return submit(**{"packs": items, "minutes": 600, "memory_limit": 10, "requeues": 1} | words)

    return write


@pytest.fixture
def start(tmp_path):
    """Start the task of a pack as submitit does on a compute node, in its nth life."""
    folder = tmp_path / "submitit"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "scontrol").write_text("#!/bin/sh\n")
    (folder / "bin" / "scontrol").chmod(0o755)
    started = []

    def go(directory, index, restart=0):
        pickled = folder / f"7{index}_submitted.pkl"
        if not restart:
            delayed = DelayedSubmission(PackJob(str(directory.path)))
            delayed.set_timeout(10, 3)
            delayed.dump(pickled)
        environment = os.environ | {
            "SLURM_JOB_ID": f"7{index}", "SLURM_ARRAY_TASK_ID": str(index), "SLURM_RESTART_COUNT": str(restart),
            "SLURM_PROCID": "0", "SUBMITIT_EXECUTOR": "slurm", "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        command = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]
        with open(folder / "log", "a") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return started[-1]

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def runs_of(directory, index):
    return Runs(directory, whole_files.read_json(directory.submission), index)


def pulled(runs, memory=10, seconds=1e9, alone=False):
    return [part.run_id for part in runs.pull(alone, memory, seconds)]


def holder(directory, run_id):
    return (whole_files.read_json(directory.taken(run_id)) or {}).get("pack")


def done(tmp_path, name):
    path = tmp_path / "runs" / name / "done.txt"
    return path.read_text().split() if path.exists() else []


def test_the_longest_run_that_fits_is_pulled(array):
    directory = array([("own", 1, 1)], [("short", 10, 1), ("long", 30, 1)], [("large", 50, 9), ("middle", 20, 1)])
    runs = runs_of(directory, 0)
    assert pulled(runs, memory=8, seconds=25) == ["middle"]
    assert pulled(runs, memory=8) == ["long"]
    assert pulled(runs) == ["large"]
    assert pulled(runs, seconds=9) == []
    assert pulled(runs) == ["short"]
    assert pulled(runs) == []
    assert not runs.any_left()


def test_each_run_is_one_tasks(array):
    directory = array(*[[(f"r{pack}{number}", number, 1) for number in range(5)] for pack in range(3)])
    tasks = [runs_of(directory, index) for index in range(3)]
    had = [run for _ in range(8) for task in tasks for run in pulled(task)]
    assert sorted(had) == sorted({part.run_id for part in tasks[0].parts} & set(had))
    for task in tasks:
        own = {part.run_id for part in task.own(False)}
        assert {run for run in own if task.take(run)} == own
        had += own - set(had)
    assert sorted(had) == sorted({part.run_id for part in tasks[0].parts})
    assert len(had) == len(set(had)) == 15


def test_a_run_that_another_task_has_taken_since_is_not_taken(array):
    directory = array([("one", 1, 1)], [("two", 1, 1)])
    own, other, next_life = (runs_of(directory, index) for index in (1, 0, 0))
    assert [part.run_id for part in own.own(False)] == ["two"]
    assert other.take("two")
    assert (own.take("two"), next_life.take("two"), holder(directory, "two")) == (False, True, 0)


def test_a_run_of_a_cancelled_pack_is_not_pulled(array):
    directory = array([("own", 1, 1)], [("kept", 9, 1)], [("free", 5, 1)])
    whole_files.write_json(directory.answer, {"state": "submitted", "cancelled_packs": [1]})
    runs = runs_of(directory, 0)
    assert (pulled(runs), pulled(runs)) == (["free"], [])


def test_what_is_alone_on_the_device_goes_with_its_run(array):
    directory = array([("own", 1, 1)], [("other", 5, 1)])
    intent = whole_files.read_json(directory.submission)
    intent["packs"][1] += [{"run_id": name, "stages": [["speed", 1]], "alone": True} for name in ("other", "third")]
    whole_files.write_json(directory.submission, intent)
    runs = runs_of(directory, 0)
    assert [part.alone for part in runs.pull(False, 10, 1e9)] == [False, True]
    assert pulled(runs) == [], "the third has nothing that may share the device"


@pytest.mark.usefixtures("fake_science")
def test_a_task_does_what_nobody_has_begun_and_one_that_finds_nothing_left_ends_at_once(array, start, tmp_path):
    directory = array([("one", 5, 1)], [("two", 5, 1), ("three", 5, 1)], slots=2)
    assert start(directory, 0).wait(PATIENCE) == 0
    assert [done(tmp_path, name) for name in ("one", "two", "three")] == [["pretrain"]] * 3
    assert {holder(directory, name) for name in ("one", "two", "three")} == {0}
    assert start(directory, 1).wait(PATIENCE) == 0
    assert "nothing is left to do" in (tmp_path / "submitit" / "log").read_text()
    assert [done(tmp_path, name) for name in ("one", "two", "three")] == [["pretrain"]] * 3


def test_what_would_not_end_in_time_is_left_to_its_own_task(array, start, fake_science, tmp_path):
    fake_science.write_text("{}")
    directory = array([("one", 5, 1)], [("two", 3600, 1), ("three", 5, 1)], minutes=10)
    assert start(directory, 0).wait(PATIENCE) == 0
    assert [done(tmp_path, name) for name in ("one", "two", "three")] == [["pretrain"], [], ["pretrain"]]
    assert start(directory, 1).wait(PATIENCE) == 0
    assert [done(tmp_path, name) for name in ("one", "two", "three")] == [["pretrain"]] * 3
    assert (holder(directory, "two"), holder(directory, "three")) == (1, 0)


def test_a_requeued_task_goes_on_with_what_it_had_pulled(array, start, fake_science, tmp_path):
    fake_science.write_text(json.dumps({"two": {"pretrain": "train"}}))
    directory = array([("one", 5, 1)], [("two", 5, 1)])
    job = start(directory, 0)
    wait_for(lambda: (tmp_path / "runs/two/stages/pretrain/1/heartbeat.json").exists())
    job.send_signal(signal.SIGUSR2)
    assert job.wait(PATIENCE) == REQUEUED
    fake_science.write_text("{}")
    assert start(directory, 1).wait(PATIENCE) == 0
    assert done(tmp_path, "two") == [], "it is the other task's"
    assert start(directory, 0, restart=1).wait(PATIENCE) == 0
    assert done(tmp_path, "two") == ["pretrain"]
    assert (tmp_path / "runs/two/saved.txt").exists()


def test_a_run_whose_pack_is_cancelled_while_it_is_pulled_is_cancelled(array, fake_science, tmp_path):
    """The login node notes it after the puller has looked for the last time."""
    fake_science.write_text("{}")
    directory = array([("one", 5, 1)], [("two", 5, 1)])
    trained = tmp_path / "runs/two/stages/pretrain/1"
    whole_files.create_json(trained / "claim.json", CLAIM)
    whole_files.write_json(trained / "result.json", {"status": "completed"})
    intent = whole_files.read_json(directory.submission)
    intent["packs"][1][0]["stages"] = [["add_tokenizer", 1]]
    intent["packs"][1].append({"run_id": "two", "stages": [["speed", 1]], "alone": True})
    whole_files.write_json(directory.submission, intent)
    code = (
        "import sys; from cluster.files import whole_files; from jobs import pulling\n"
        "take = pulling.Runs.take\n"
        "def cancelled_meanwhile(runs, run_id):\n"
        "    if run_id == 'two':\n"
        "        whole_files.write_json(runs.directory.answer, {'state': 'submitted', 'cancelled_packs': [1]})\n"
        "    return take(runs, run_id)\n"
        "pulling.Runs.take = cancelled_meanwhile\n"
        "from jobs.pack import PackJob; PackJob(sys.argv[1])()"
    )
    environment = os.environ | {"SLURM_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "0"}
    subprocess.run([sys.executable, "-c", code, str(directory.path)], env=environment, check=True)
    assert (done(tmp_path, "one"), done(tmp_path, "two")) == (["pretrain"], [])
    assert whole_files.read_json(tmp_path / "runs/two/stages/add_tokenizer/1/result.json")["cause"] == "cancelled"
    assert not (tmp_path / "runs/two/stages/speed").exists()


@pytest.fixture
def run_pack(array, fake_science):
    """Do the first of two packs, the second with two runs, in a process in which lines of Python are run before."""
    fake_science.write_text("{}")

    def go(patch, *first):
        directory = array([*first, ("one", 5, 1)], [("two", 5, 1), ("three", 4, 1)])
        code = f"import sys; from jobs import pulling\n{patch}\nfrom jobs.pack import PackJob; PackJob(sys.argv[1])()"
        environment = os.environ | {"SLURM_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "0"}
        command = [sys.executable, "-c", code, str(directory.path)]
        return directory, subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    return go


def test_a_pulled_run_fails_where_it_cannot_be_read_whether_its_pack_was_cancelled_and_no_other_is_pulled(
    run_pack, tmp_path
):
    directory, said = run_pack("def failing(*_): raise OSError(5, 'EIO')\npulling.Runs.is_cancelled = failing")
    assert (done(tmp_path, "one"), done(tmp_path, "two")) == (["pretrain"], [])
    result = whole_files.read_json(tmp_path / "runs/two/stages/pretrain/1/result.json")
    assert (result["cause"], "cancelled could not be read" in result["message"]) == ("error", True)
    assert (holder(directory, "two"), holder(directory, "three")) == (0, None)
    assert "Traceback" not in said


def test_of_a_run_whose_task_cannot_be_told_nothing_is_said(run_pack, tmp_path):
    """Another may have it, and be about to begin it."""
    patch = (
        "take = pulling.Runs.take\n"
        "def failing(runs, run_id):\n"
        "    if run_id == 'mine': raise OSError(5, 'EIO')\n"
        "    return take(runs, run_id)\n"
        "pulling.Runs.take = failing"
    )
    _, said = run_pack(patch, ("mine", 5, 1))
    assert [done(tmp_path, name) for name in ("mine", "one", "two")] == [[], ["pretrain"], ["pretrain"]]
    assert not (tmp_path / "runs/mine/stages").exists()
    assert "run mine is left, since whose it is could not be told" in said


@pytest.mark.parametrize(("gpus", "left"), [(1, ["two", "three"]), (0, [])])
def test_a_task_whose_node_has_no_gpu_fails_its_own_runs_and_pulls_no_others(
    array, start, tmp_path, fake_science, gpus, left
):
    directory = array([("own", 5, 1), ("last", 4, 1)], [("two", 5, 1), ("three", 5, 1)], slots=1, site={"gpus": gpus})
    fake_science.write_text(json.dumps({"*": {"pretrain": "no_gpu"}}))
    start(directory, 0).wait(PATIENCE)
    results = [tmp_path / "runs" / name / "stages/pretrain/1/result.json" for name in ("own", "last", "two", "three")]
    causes = [(whole_files.read_json(path) or {}).get("cause") for path in results]
    assert causes == (["no_gpu", "no_gpu", None, None] if gpus else [None] * 4)
    assert [name for name in ("two", "three") if holder(directory, name) is None] == left
