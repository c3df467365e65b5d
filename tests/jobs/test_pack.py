"""Packs as real processes: started by submitit as on a compute node, with children whose stages are stand-ins."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from submitit.core.utils import DelayedSubmission
from waiting import PATIENCE, wait_for

from cluster.files import processes, whole_files
from jobs import attempts, memory
from jobs.attempts import STOPPED, ArrayTask
from jobs.lives import take, unseen
from jobs.pack import PackJob, PackWork, patience, slot_environment

REQUEUED = 255  # submitit's sys.exit(-1) after `scontrol requeue`


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a submission's pack as submitit does in job 77, in its nth life; `scontrol` is a stand-in that notes what
    it is told in scontrol.txt."""
    folder = tmp_path / "submitit"
    folder.mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    started = []

    def go(directory, restart=0, executor="slurm", **options):
        pickled = folder / "77_submitted.pkl"
        if not restart:
            delayed = DelayedSubmission(PackJob(str(directory.path)))
            delayed.set_timeout(10, 3)
            delayed.dump(pickled)
        names = {"slurm": {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restart), "SLURM_PROCID": "0"},
                 "local": {"SUBMITIT_LOCAL_JOB_ID": "77", "SUBMITIT_LOCAL_GLOBALID": "0"}}[executor]  # fmt: skip
        environment = os.environ | names | {"SUBMITIT_EXECUTOR": executor}
        command = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]
        with open(folder / "log", "a") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, **options))
        return started[-1]

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def tell(fake_science):
    """Tell the stand-ins what to do: by run, or `all` of them."""

    def write(**runs):
        fake_science.write_text(json.dumps({"*" if name == "all" else name: told for name, told in runs.items()}))

    return write


def says(run, stage="pretrain", number=1):
    """The cause of a failure, "completed", or None if there is no result."""
    result = whole_files.read_json(run.attempt(stage, number).result) or {}
    return result.get("cause") or result.get("status")


def has_begun(run, what, number=1):
    log = run.attempt("pretrain", number).log
    return lambda: log.exists() and f"told: {what}" in log.read_text()


def log_of(tmp_path):
    return (tmp_path / "submitit" / "log").read_text()


def test_a_pack_is_pickled_by_name_and_path_only():
    assert pickle.loads(pickle.dumps(PackJob("/a/b"))).submission == "/a/b"


def test_importing_the_pack_loads_neither_submitit_nor_torch():
    code = "import sys, jobs.pack; print({'submitit', 'torch', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_at_the_time_limit_a_pack_saves_requeues_and_goes_on_under_the_next_attempt(
    make_run, submit, start, tell, tmp_path
):
    first, second = make_run("abc"), make_run("def")
    tell(all={"pretrain": "train"})
    directory = submit("abc", "def", requeues=1)
    job = start(directory)
    wait_for(has_begun(first, "train"))
    job.send_signal(signal.SIGUSR2)
    assert job.wait(PATIENCE) == REQUEUED, log_of(tmp_path)
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"
    assert (first.path / "saved.txt").read_text() == "pretrain\n"
    assert (says(first), second.attempts("pretrain")) == (None, [])
    life = whole_files.read_json(directory.task(0))
    assert (life["job"], life["restart"], life["ended_by"]) == ("77", 0, "timeout")
    tell()
    assert start(directory, restart=1).wait(PATIENCE) == 0, log_of(tmp_path)
    assert (says(first), says(first, number=2), says(second)) == (None, "completed", "completed")
    assert {says(run, "superglue") for run in (first, second)} == {"completed"}
    life = whole_files.read_json(directory.task(0))
    assert (life["restart"], "ended_by" in life) == (1, False)
    assert [(each["restart"], each["ended_by"]) for each in life["earlier"]] == [(0, "timeout")]


def test_a_pack_that_may_requeue_no_more_says_timeout_for_all_that_is_left(make_run, submit, start, tell, tmp_path):
    first, second, third = (make_run(name) for name in ("one", "two", "three"))
    tell(all={"pretrain": "train"}, one={"blimp": "hang"})
    job = start(submit("one", "two", "three", slots=2, requeues=0))
    wait_for(has_begun(second, "train"))
    wait_for(lambda: first.attempts("blimp"))
    job.send_signal(signal.SIGUSR2)
    assert job.wait(PATIENCE) == 1  # submitit's UncompletedJobError
    assert not (tmp_path / "scontrol.txt").exists()
    assert (says(first), says(first, "blimp"), says(first, "superglue")) == ("completed", "completed", "timeout")
    assert (says(second), says(third)) == ("timeout", "timeout")
    assert second.attempts("add_tokenizer") == []
    assert "before its turn" in whole_files.read_json(third.attempt("pretrain", 1).result)["message"]
    assert whole_files.read_json(third.attempt("pretrain", 1).claim)["code"]["digest"]


def test_a_child_that_does_not_listen_is_killed_when_its_time_is_over(run, submit, start, tell):
    tell(all={"pretrain": "deaf"})
    job = start(submit(site={"signal_delay": 30}))
    wait_for(has_begun(run, "deaf"))
    begun = time.monotonic()
    job.send_signal(signal.SIGUSR2)
    assert job.wait(PATIENCE) == 1
    assert time.monotonic() - begun > 9, "after its patience"
    assert says(run) == "timeout"
    assert not is_there(whole_files.read_json(run.attempt("pretrain", 1).claim))


def is_there(claim):
    return processes.process_start(claim["pid"]) == claim["start"]


@pytest.mark.parametrize(("delay", "seconds"), [(120, 100), (30, 10), (0, 10)])
def test_children_have_the_signals_delay_less_a_reserve(delay, seconds):
    assert patience({"site": {"signal_delay": delay}}) == seconds


@pytest.mark.usefixtures("run")
def test_a_signal_to_a_child_that_starts_waits_until_it_can_be_answered(submit, start, tell, tmp_path, monkeypatch):
    tell()
    monkeypatch.setenv("FAKE_SIGNAL_AT_START", "1")
    assert start(submit()).wait(PATIENCE) == 0
    assert f"ended with {STOPPED}" in log_of(tmp_path)


def test_a_local_pack_never_requeues(run, submit, start, tell, tmp_path):
    tell(all={"pretrain": "train"})
    job = start(submit(requeues=5), executor="local")
    wait_for(has_begun(run, "train"))
    job.send_signal(signal.SIGUSR2)
    assert job.wait(PATIENCE) == 1
    assert (says(run), (tmp_path / "scontrol.txt").exists()) == ("timeout", False)


def test_without_submitit_a_pack_answers_the_signal_itself(run, submit, tell):
    tell(all={"pretrain": "train"})
    code = "import sys; from jobs.pack import PackJob; PackJob(sys.argv[1])()"
    job = subprocess.Popen([sys.executable, "-c", code, str(submit(requeues=5).path)])
    wait_for(has_begun(run, "train"))
    job.send_signal(signal.SIGUSR2)
    assert job.wait(PATIENCE) == 0
    assert says(run) == "timeout"


def test_a_pack_whose_runs_are_done_is_not_requeued_for_nothing(run, submit, start, tell, tmp_path):
    tell(all={"superglue": "hang"})
    job = start(submit(requeues=1))
    wait_for(lambda: run.attempts("superglue"))
    job.send_signal(signal.SIGUSR2)
    job.wait(PATIENCE)
    assert (says(run, "superglue"), (tmp_path / "scontrol.txt").exists()) == ("completed", False)


def test_a_pack_cancelled_while_it_saves_says_nothing_and_does_not_requeue(make_run, submit, start, tell, tmp_path):
    run, queued = make_run("one"), make_run("two")
    tell(all={"pretrain": "deaf"})
    job = start(submit("one", "two", requeues=1))
    wait_for(has_begun(run, "deaf"))
    job.send_signal(signal.SIGUSR2)
    wait_for(lambda: "Caught signal SIGUSR2" in log_of(tmp_path))
    job.send_signal(signal.SIGTERM)
    job.wait(PATIENCE)
    assert (says(run), queued.attempts("pretrain")) == (None, [])
    assert not (tmp_path / "scontrol.txt").exists()


def test_a_child_killed_with_9_fails_alone_and_the_others_go_on(make_run, submit, start, tell, tmp_path):
    first, second = make_run("one"), make_run("two")
    tell(one={"pretrain": "exit"})
    assert start(submit("one", "two")).wait(PATIENCE) == 0, log_of(tmp_path)
    assert (says(first), says(second, "superglue")) == ("error", "completed")
    assert whole_files.read_json(first.attempt("pretrain", 1).result)["message"] == "killed by SIGKILL"


def test_a_child_killed_with_9_when_all_are_near_the_limit_ran_out_of_memory(
    make_run, submit, start, tell, monkeypatch
):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "460")
    runs = [make_run(name) for name in ("one", "two")]
    tell(all={"pretrain": "eat"})
    job = start(submit("one", "two", slots=2))
    wait_for(lambda: all(has_begun(run, "eat")() for run in runs))
    pids = [whole_files.read_json(run.attempt("pretrain", 1).claim)["pid"] for run in runs]
    wait_for(lambda: all(memory.peak_of(pid) > 210 << 20 for pid in pids))
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: says(runs[0]))
    result = whole_files.read_json(runs[0].attempt("pretrain", 1).result)
    assert result["cause"] == "out_of_memory"
    assert "with the 1 beside it" in result["message"]
    assert "of 460 MB allowed" in result["message"]
    tell()
    assert job.wait(PATIENCE) == 0


def test_a_run_begins_once_its_memory_is_free_and_holds_up_no_smaller_one_behind_it(
    make_run, submit, start, tell, tmp_path
):
    large, as_large, small = (make_run(name) for name in ("one", "two", "three"))
    tell(all={"pretrain": "train"})
    directory = submit("one", "two", "three", stages=[["pretrain", 1]], slots=3, memory_limit=10, requeues=1)
    intent = whole_files.read_json(directory.submission)
    for packed, megabytes in zip(intent["packs"][0], (6, 6, 4), strict=True):
        packed["memory"] = megabytes
    whole_files.write_json(directory.submission, intent)
    job = start(directory)
    wait_for(has_begun(large, "train"))
    wait_for(has_begun(small, "train"))
    assert as_large.attempts("pretrain") == []
    os.kill(whole_files.read_json(large.attempt("pretrain", 1).claim)["pid"], signal.SIGKILL)
    wait_for(has_begun(as_large, "train"))
    job.send_signal(signal.SIGUSR2)
    assert job.wait(PATIENCE) == REQUEUED, log_of(tmp_path)
    assert [says(run) for run in (large, as_large, small)] == ["error", None, None]


def test_a_run_that_is_planned_with_more_memory_than_there_is_runs_alone(make_run, submit, start, tell, tmp_path):
    runs = [make_run(name) for name in ("one", "two")]
    tell()
    directory = submit("one", "two", stages=[["pretrain", 1]], item={"memory": 11}, slots=2, memory_limit=10)
    assert start(directory).wait(PATIENCE) == 0, log_of(tmp_path)
    first, second = (run.attempt("pretrain", 1) for run in runs)
    assert whole_files.read_json(first.result)["ended"] <= whole_files.read_json(second.claim)["time"]


def with_speed(submit, *names, **words):
    """A pack as the login node describes it: what shares the device first, then what is alone on it."""
    directory = submit(*names, stages=[["pretrain", 1], ["add_tokenizer", 1], ["blimp", 1]], **words)
    intent = whole_files.read_json(directory.submission)
    intent["packs"][0] += [{"run_id": name, "stages": [["speed", 1]], "alone": True} for name in names]
    whole_files.write_json(directory.submission, intent)
    return directory


def test_what_is_measured_alone_comes_after_all_else_one_run_at_a_time_with_all_cpus(
    make_run, submit, start, tell, tmp_path, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cpus = min(2, len(os.sched_getaffinity(0)))
    runs = [make_run(name) for name in ("one", "two", "three")]
    tell(all={"speed": 0.3}, two={"pretrain": 1})
    assert start(with_speed(submit, "one", "two", "three", slots=3)).wait(PATIENCE) == 0, log_of(tmp_path)
    times = [
        (whole_files.read_json(attempt.claim)["time"], whole_files.read_json(attempt.result)["ended"])
        for attempt in sorted(
            (run.attempt("speed", 1) for run in runs), key=lambda a: whole_files.read_json(a.claim)["time"]
        )
    ]
    assert times[0][0] >= max(whole_files.read_json(run.attempt("blimp", 1).result)["ended"] for run in runs)
    assert all(ended <= begun for (_, ended), (begun, _) in zip(times, times[1:], strict=False))
    for run in runs:
        assert "threads: 1;" in run.attempt("blimp", 1).log.read_text()
        assert f"threads: {cpus};" in run.attempt("speed", 1).log.read_text()


def test_what_is_measured_alone_has_no_turn_where_the_model_failed(make_run, submit, start, tell, tmp_path):
    runs = [make_run(name) for name in ("one", "two")]
    tell(one={"pretrain": "fail"})
    assert start(with_speed(submit, "one", "two", slots=2)).wait(PATIENCE) == 0, log_of(tmp_path)
    assert [says(run, "speed") for run in runs] == [None, "completed"]
    assert runs[0].attempts("speed") == []


def test_what_follows_a_stage_that_failed_when_done_again_has_no_turn(make_run, submit, start, tell, tmp_path):
    run = make_run("one")
    earlier = run.attempt("pretrain", 1)
    whole_files.create_json(earlier.claim, {"submission_id": "earlier", "restart": 0})
    whole_files.write_json(earlier.result, {"status": "completed"})
    tell(one={"pretrain": "fail"})
    directory = submit("one", stages=[["pretrain", 2], ["add_tokenizer", 1]])
    intent = whole_files.read_json(directory.submission)
    intent["packs"][0].append({"run_id": "one", "stages": [["speed", 1]], "alone": True})
    whole_files.write_json(directory.submission, intent)
    assert start(directory).wait(PATIENCE) == 0, log_of(tmp_path)
    assert (says(run, number=2), run.attempts("add_tokenizer"), run.attempts("speed")) == ("error", [], [])


def test_at_the_time_limit_what_was_to_be_measured_alone_times_out_where_it_could_have_been(
    make_run, submit, start, tell
):
    first, second = make_run("one"), make_run("two")
    tell(two={"pretrain": "train"})
    job = start(with_speed(submit, "one", "two", slots=2, requeues=0))
    wait_for(has_begun(second, "train"))
    wait_for(lambda: says(first, "blimp"))
    job.send_signal(signal.SIGUSR2)
    assert job.wait(PATIENCE) == 1
    assert (says(first, "speed"), says(second, "speed"), says(second)) == ("timeout", None, "timeout")


def test_every_claim_says_with_what_code_and_where(run, submit, start, tell, tmp_path):
    tell()
    assert start(submit()).wait(PATIENCE) == 0, log_of(tmp_path)
    claims = [whole_files.read_json(run.attempt(stage, 1).claim) for stage in ("pretrain", "superglue")]
    assert {claim["job"] for claim in claims} == {"77"}
    assert set(claims[0]["code"]) == {"digest", "commit", "diff"}
    assert claims[0]["environment"]["torch"]
    assert claims[0]["code"] == claims[1]["code"]


def test_a_disk_with_no_room_for_one_runs_result_stops_no_other(make_run, submit, start, tell, tmp_path):
    """The first run's folder is a file system of its own, which is nearly full."""
    first, second = make_run("one"), make_run("two")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(first.path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        make_run("one")
        (first.path / "filler").write_bytes(bytes(8_000))
        tell()
        assert start(submit("one", "two")).wait(PATIENCE) == 0, log_of(tmp_path)
        assert says(first, "superglue") is None
        assert says(second, "superglue") == "completed"
        assert "No space left on device" in log_of(tmp_path)
    finally:
        subprocess.run(["umount", "-l", str(first.path)], check=True)


@pytest.mark.parametrize(
    "answer",
    [{"state": "submitted", "cancelled": True}, {"state": "submitted", "cancelled_packs": [2, 0]}, {"state": "void"},
     {"state": "refused", "job_id": None}],
)  # fmt: skip
def test_a_submission_that_was_given_up_is_left_alone_once_it_is_known_who_looked(submit, answer):
    directory = submit()
    whole_files.write_json(directory.answer, answer)
    assert not take(directory, 0, ArrayTask("7", 0, "n1", 1, "0"))
    assert whole_files.read_json(directory.task(0))["job"] == "7"


def test_a_pack_is_done_though_others_of_its_array_were_cancelled(submit):
    directory = submit()
    whole_files.write_json(directory.answer, {"state": "submitted", "cancelled_packs": [1]})
    assert take(directory, 0, ArrayTask("7", 0, "n1", 1, "0"))


def test_a_pack_is_one_tasks_only_and_its_next_life_takes_it_over(submit):
    directory = submit()
    assert take(directory, 0, ArrayTask("7", 0, "n1", 1, "0"))
    assert not take(directory, 0, ArrayTask("7", 0, "n1", 1, "0"))
    assert not take(directory, 0, ArrayTask("8", 1, "n1", 1, "0"))
    assert take(directory, 0, ArrayTask("7", 1, "n2", 1, "0"))
    assert take(directory, 0, ArrayTask("7", 2, "n3", 1, "0"))
    life = whole_files.read_json(directory.task(0))
    assert (life["host"], [each["host"] for each in life["earlier"]]) == ("n3", ["n1", "n2"])


def test_a_torn_task_file_is_another_tasks_unless_this_one_was_requeued(submit):
    directory = submit()
    directory.task(0).write_text("{")
    assert not take(directory, 0, ArrayTask("7", 0, "n1", 1, "0"))
    assert take(directory, 0, ArrayTask("7", 1, "n1", 1, "0"))


def test_a_pack_says_nothing_for_a_run_at_which_an_earlier_life_is_at_work_unseen(run, submit):
    """What that one completes would be the second result of its stage."""
    directory, first = submit(stages=[["pretrain", 1]]), ArrayTask("77", 0, "n1", 1, "0")
    assert take(directory, 0, first)
    assert attempts.claim(run, "pretrain", 1, "cafe", first)
    second = replace(first, restart=1, host="n2")
    assert take(directory, 0, second)
    work = PackWork(directory, attempts.read_intent(directory), 0, second)
    work._settle()
    work._speak_for(0, "error", "no process could be started")
    assert [attempt.number for attempt in run.attempts("pretrain") if attempt.claim.exists()] == [1]
    stale = time.time() - 31
    os.utime(run.attempt("pretrain", 1).claim, (stale, stale))
    work._settle()
    assert (says(run), says(run, number=2)) == (None, "timeout")


def test_an_earlier_life_that_ended_by_itself_is_not_looked_for():
    life = {"job": "77", "restart": 0, "host": "n1", "pid": 1, "start": "0"}
    lives = [life, life | {"restart": 1, "ended_by": "timeout"}]
    assert (unseen({**life, "restart": 2, "earlier": lives}), unseen(life), unseen(None)) == ({0}, set(), set())


def test_a_duplicate_pack_does_no_work_twice(run, submit, start, tell, tmp_path):
    tell()
    directory = submit(stages=[["pretrain", 1]])
    assert [start(directory).wait(PATIENCE) for _ in range(2)] == [0, 0]
    assert "is another task's" in log_of(tmp_path)
    assert (run.path / "done.txt").read_text() == "pretrain\n"


def test_slots_share_the_cpus_to_compute_and_to_compile_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "7")
    shared = slot_environment(0, 2, 16, {})
    assert (shared["OMP_NUM_THREADS"], shared["TORCHINDUCTOR_COMPILE_THREADS"]) == ("4", "7")
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS")
    assert slot_environment(1, 4, 6, {})["TORCHINDUCTOR_COMPILE_THREADS"] == "1"


def test_slots_share_the_visible_gpus_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    devices = [slot_environment(slot, 4, 8, {})["CUDA_VISIBLE_DEVICES"] for slot in range(4)]
    assert devices == ["2", "3", "2", "3"]


def test_clients_of_mps_number_its_gpus_from_0(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    variables = {"CUDA_MPS_PIPE_DIRECTORY": "/p"}
    devices = [slot_environment(slot, 4, 8, variables)["CUDA_VISIBLE_DEVICES"] for slot in range(4)]
    assert devices == ["0", "1", "0", "1"]
