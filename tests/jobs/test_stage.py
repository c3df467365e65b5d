import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from waiting import PATIENCE, wait_for

from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.submit import code_copy
from jobs import attempts, stage
from jobs.attempts import STOPPED, ArrayTask, this_task
from tiny_transformers.common.provenance import decisive_versions, source_digest
from tiny_transformers.common.work import CheckFailed, Interrupted
from tiny_transformers.settings.config import TRAIN_STORIES, VALIDATION_STORIES

CODE = source_digest()
CHILD = (sys.executable, "-m", "jobs.stage")
TWO = [["pretrain", 1], ["add_tokenizer", 1]]


def task(job="7_0", restart=0):
    return ArrayTask(job, restart, "n1", 1, "0")


def claim(run, name="pretrain", who=None, submission_id="cafe"):
    return attempts.claim(run, name, 1, submission_id, who or task())


def test_a_second_job_with_the_same_attempt_does_nothing(run):
    assert claim(run).number == 1
    assert claim(run) is None
    assert claim(run, who=task("8_0", restart=5), submission_id="beef") is None


def test_a_requeued_job_takes_the_next_attempt_and_says_nothing_of_its_earlier_one(run):
    first = claim(run)
    second = claim(run, who=task(restart=1))
    third = claim(run, who=task(restart=2))
    assert (second.number, third.number) == (2, 3)
    assert not first.result.exists()


def test_a_requeued_job_goes_on_after_a_claim_that_its_node_did_not_finish(run):
    first = run.attempt("pretrain", 1)
    first.path.mkdir(parents=True)
    first.claim.write_text('{"submission_id": "ca')
    assert claim(run) is None
    assert claim(run, who=task(restart=1)).number == 2


def test_a_requeued_job_does_not_repeat_what_it_had_completed(run):
    whole_files.write_json(claim(run).result, {"status": "completed", "cause": None})
    assert claim(run, who=task(restart=1)) is None


def test_a_requeued_job_does_not_repeat_what_had_failed_for_good(run):
    whole_files.write_json(claim(run).result, {"status": "failed", "cause": "error"})
    assert claim(run, who=task(restart=1)) is None
    assert [attempt.number for attempt in run.attempts("pretrain")] == [1]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError(), "error"),
        (RuntimeError("out of ideas"), "error"),
        (OSError(errno.ENOSPC, "No space left on device"), "error"),
        (CheckFailed(), "check_failed"),
        (Interrupted(), "timeout"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you"), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "out_of_memory"),
    ],
)
def test_an_exception_has_a_cause(error, cause):
    assert stage.cause(error) == cause


def test_torchs_own_out_of_memory_errors_are_known():
    import torch

    assert stage.cause(torch.OutOfMemoryError("CUDA out of memory")) == "out_of_memory"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert stage.cause(caught.value) == "out_of_memory"


def child(directory, **options):
    return subprocess.run([*CHILD, str(directory.path), "0", "0", "0"], check=False, **options)


@pytest.mark.usefixtures("fake_science")
def test_a_stage_writes_its_claim_its_log_and_its_result_last(run, submit):
    assert child(submit(stages=TWO)).returncode == 0
    attempt = run.attempt("pretrain", 1)
    result = whole_files.read_json(attempt.result)
    assert (result["status"], result["outcome"]["scores"][0]["value"]) == ("completed", 0.5)
    assert "pretrain stand-in" in attempt.log.read_text()
    assert "add_tokenizer stand-in" not in attempt.log.read_text()
    assert "garbage is not looked for" not in attempt.log.read_text()  # as while it was loaded
    assert sorted(os.listdir(attempt.path)) == ["claim.json", "heartbeat.json", "log.txt", "result.json"]


def test_a_stage_whose_data_is_not_what_was_submitted_fails_at_once(run, submit, tmp_path):
    described = whole_files.read_json(run.run_json)
    whole_files.write_json(run.run_json, {**described, "config": described["config"] | {"data": {"source": "files"}}})
    for file in (TRAIN_STORIES, VALIDATION_STORIES, "tokenizer/10k-tok/tokenizer.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("what is there now")
    whole_files.write_json(OutputRoot(tmp_path).contents, {"first": {"tinystories, train": "0" * 64}, "revisions": {}})
    assert child(submit(stages=TWO[:1])).returncode == 1
    result = whole_files.read_json(run.attempt("pretrain", 1).result)
    assert result["cause"] == "error"
    assert f"{tmp_path / TRAIN_STORIES}: is not the file that was submitted as tinystories, train" in result["message"]


@pytest.mark.usefixtures("fake_science")
def test_other_versions_of_libraries_than_at_the_submission_are_said_in_the_result(run, submit):
    here = decisive_versions()
    changed = submit(stages=[["pretrain", 1]], libraries=here | {"torch": "1.0"})
    assert child(changed).returncode == 0
    checks = whole_files.read_json(run.attempt("pretrain", 1).result)["outcome"]["checks"]
    assert [(check["name"], check["blocking"], check["value"]) for check in checks] == [
        ("libraries_of_submission", False, f"torch 1.0 -> {here['torch']}")
    ]
    for told in ({"libraries": here}, {"libraries": here | {"torch": None}}, {}):
        assert stage.other_libraries(told) == []


def test_a_stage_does_not_begin_if_the_copy_of_its_code_was_changed(run, submit, tmp_path, fake_science):
    root = OutputRoot(tmp_path)
    copy = root.code(code_copy.keep(root))
    made_of = {"digest": CODE}
    directory = submit(stages=TWO, code=made_of, code_copy=copy.name)
    whole_files.write_json(directory.task(0), vars(task()) | {"pid": os.getpid(), "code": made_of})
    there = os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH'].partition(':')[0]}:{copy}", "PYTHONSAFEPATH": "1"}
    fake_science.write_text('{"*": {"add_tokenizer": "fail"}}')
    assert child(directory, env=there).returncode == 1
    assert whole_files.read_json(run.attempt("pretrain", 1).result)["status"] == "completed"
    with (copy / "tiny_transformers/layers/noise.py").open("a") as file:
        file.write("# another line\n")
    directory = submit(stages=[["add_tokenizer", 2]], code=made_of, code_copy=copy.name, allow_code_change=True)
    assert child(directory, env=there).returncode == 1
    result = whole_files.read_json(run.attempt("add_tokenizer", 2).result)
    assert (result["cause"], result["outcome"]) == ("error", None)
    assert result["message"] == (
        f"{copy}, the copy of the code that its jobs run from, was changed after it was made: `rerun --failed` "
        "makes it again"
    )


def test_an_outcome_that_cannot_be_written_fails_the_stage_and_says_so(run, submit, fake_science):
    fake_science.write_text('{"*": {"pretrain": "unwritable"}}')
    assert child(submit(stages=TWO)).returncode == 1
    result = whole_files.read_json(run.attempt("pretrain", 1).result)
    assert (result["status"], result["cause"]) == ("failed", "error")
    assert "TypeError: Object of type set is not JSON serializable" in result["message"]
    assert "Traceback" in run.attempt("pretrain", 1).log.read_text()


def test_a_failed_stage_keeps_its_traceback_and_stops_what_needs_it(run, submit, fake_science):
    fake_science.write_text('{"*": {"pretrain": "fail"}}')
    assert child(submit(stages=TWO)).returncode == 1
    assert "Traceback" in run.attempt("pretrain", 1).log.read_text()
    assert run.attempts("add_tokenizer") == []


@pytest.mark.usefixtures("fake_science")
def test_an_attempts_own_micro_batch_overrides_the_runs_and_is_logged(run, submit):
    child(submit(stages=[["pretrain", 1]], item={"micro_batch_tokens": 512}))
    attempt = run.attempt("pretrain", 1)
    assert whole_files.read_json(attempt.result)["outcome"]["metrics"]["micro_batch_tokens"] == 512
    assert "micro_batch_tokens: 512 for this attempt, not 8192" in attempt.log.read_text()


@pytest.mark.usefixtures("fake_science")
def test_a_stage_is_given_the_model_of_the_run_that_it_needs_and_fails_if_that_has_not_made_it(make_run, submit):
    run, teacher = make_run("abc"), make_run("def")
    needs = [{"stage": "pretrain", "run_id": "def", "needed": "pretrain"}]
    whole_files.write_json(run.run_json, whole_files.read_json(run.run_json) | {"needs": needs})
    child(submit(stages=[["pretrain", 1]]))
    result = whole_files.read_json(run.attempt("pretrain", 1).result)
    assert (result["status"], result["cause"]) == ("failed", "error")
    assert result["message"] == "needs pretrain of run def, which has not completed"
    whole_files.write_json(claim(teacher).result, {"status": "completed", "cause": None})
    child(submit(stages=[["pretrain", 2], ["add_tokenizer", 1]]))
    assert whole_files.read_json(run.attempt("pretrain", 2).result)["status"] == "completed"
    assert f"teacher: {teacher.model}\n" in run.attempt("pretrain", 2).log.read_text()
    assert "teacher" not in run.attempt("add_tokenizer", 1).log.read_text()


@pytest.mark.usefixtures("fake_science")
def test_a_missing_run_file_is_an_error_that_says_so(run, submit):
    run.run_json.unlink()
    child(submit())
    assert "run.json: is missing" in whole_files.read_json(run.attempt("pretrain", 1).result)["message"]


def start_child(directory, **options):
    return subprocess.Popen([*CHILD, str(directory.path), "0", "0", "0"], **options)


def test_a_stage_asked_to_stop_leaves_no_result_and_no_further_claim(run, submit, fake_science):
    fake_science.write_text('{"*": {"pretrain": "train"}}')
    process = start_child(submit())
    log = run.attempt("pretrain", 1).log
    wait_for(lambda: log.exists() and "told: train" in log.read_text())
    process.send_signal(signal.SIGUSR2)
    assert process.wait(PATIENCE) == STOPPED
    assert (run.path / "saved.txt").read_text() == "pretrain\n"
    assert not run.attempt("pretrain", 1).result.exists()
    assert run.attempts("add_tokenizer") == []


ASKED_AGAIN = """
import signal, sys
from jobs import stage

def ask(*_):
    sys.settrace(None)
    signal.raise_signal(signal.SIGUSR2)
    sys.settrace(ask)
    return ask

signal.signal(signal.SIGUSR2, lambda *_: stage.STOP.set())
sys.settrace(ask)
stage.STOP.wait(0.001)
stage.STOP.set()
"""


def test_who_is_asked_to_stop_again_at_any_line_of_being_asked_or_waiting_goes_on():
    """SLURM's signal to all of a job comes when the pack's to its child does."""
    process = subprocess.Popen([sys.executable, "-c", ASKED_AGAIN])
    try:
        wait_for(lambda: process.poll() is not None)
    finally:
        process.kill()
    assert process.returncode == 0


@pytest.mark.usefixtures("fake_science")
def test_a_signal_that_comes_while_the_child_starts_is_heard_later(run, submit):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    process = start_child(submit())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(PATIENCE) == STOPPED
    assert run.attempts("pretrain") == []


@pytest.mark.usefixtures("fake_science")
def test_a_child_whose_pack_has_died_does_nothing(run, submit):
    directory = submit()
    whole_files.write_json(directory.task(0), {"job": "7", "restart": 0, "host": "n1", "pid": 1})
    assert child(directory).returncode == 1
    assert run.attempts("pretrain") == []


def disk_is_full(directory, name):
    """A child that finds the disk full whenever it writes a file of this name."""
    code = (
        "import errno, sys; from cluster.files import whole_files; from jobs import attempts, stage\n"
        "attempts.PAUSE = 0.01; stage.HEARTBEAT = 0.01\n"
        "name, real = sys.argv.pop(), whole_files.write_json\n"
        "def full(path, value):\n"
        "    if path.name == name: raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    real(path, value)\n"
        "whole_files.write_json = full\n"
        "sys.exit(stage.main(*sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(directory.path), "0", "0", "0", name]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("fake_science")
def test_a_result_that_cannot_be_written_is_said_in_the_log_and_leaves_no_half_file(run, submit):
    done = disk_is_full(submit(stages=TWO), "result.json")
    attempt = run.attempt("pretrain", 1)
    assert (done.returncode, done.stderr) == (1, "")
    assert attempt.log.read_text().count("No space left on device. It would say: completed") == attempts.TRIES
    assert not attempt.result.exists()
    assert run.attempts("add_tokenizer") == []


@pytest.mark.usefixtures("fake_science")
def test_a_heartbeat_that_cannot_be_written_fails_nothing(run, submit):
    assert disk_is_full(submit(stages=TWO), "heartbeat.json").returncode == 0
    assert "heartbeat: [Errno 28]" in run.attempt("pretrain", 1).log.read_text()


def done_with(run, name, code, number=1, **result):
    """An attempt of an earlier submission, made with this version of the code."""
    attempt = run.attempt(name, number)
    whole_files.write_json(
        attempt.claim,
        {"submission_id": "beef", "job": "6", "host": "n1", "pid": 1, "restart": 0, "time": 1.0}
        | ({"code": {"digest": code}} if code else {}),
    )
    if result:
        whole_files.write_json(attempt.result, result)
    os.utime(attempt.claim, (1.0, 1.0))  # whoever began it has long been silent
    return attempt


def go_on(submit, stages=(["pretrain", 2], ["add_tokenizer", 2]), pack_code=None, **words):
    """A child of a pack that runs with the present code, at pretrain's attempt 2 and what follows."""
    directory = submit(stages=list(stages), **words)
    whole_files.write_json(
        directory.task(0),
        {"job": "7", "restart": 0, "host": "n1", "pid": os.getpid(), "code": {"digest": pack_code or CODE}},
    )
    return child(directory)


@pytest.mark.usefixtures("fake_science")
def test_checkpoints_of_other_code_are_not_gone_on_from_unless_that_is_allowed(run, submit):
    done_with(run, "pretrain", "a1b2")  # interrupted: it has no result
    (run.path / "checkpoints" / "step-00000001").mkdir(parents=True)
    assert go_on(submit).returncode == 1
    result = whole_files.read_json(run.attempt("pretrain", 2).result)
    assert (result["status"], result["cause"]) == ("failed", "error")
    assert f"the code is not that of pretrain attempt 1 (a1b2 -> {CODE})" in result["message"]
    assert "--allow-code-change" in result["message"]
    run.attempt("pretrain", 2).claim.unlink()
    run.attempt("pretrain", 2).result.unlink()
    assert go_on(submit, allow_code_change=True).returncode == 0


@pytest.mark.usefixtures("fake_science")
def test_a_completed_stage_of_other_code_stops_the_next_one_unless_it_is_done_again(run, submit):
    done_with(run, "pretrain", "a1b2", status="completed", cause=None)
    assert go_on(submit, [["add_tokenizer", 2]]).returncode == 1
    assert "pretrain attempt 1" in whole_files.read_json(run.attempt("add_tokenizer", 2).result)["message"]
    again = {"done": {"pretrain": 1}}
    assert go_on(submit, [["pretrain", 3], ["add_tokenizer", 3]], item=again).returncode == 0
    assert whole_files.read_json(run.attempt("pretrain", 3).result)["status"] == "completed"


@pytest.mark.usefixtures("fake_science")
def test_a_refusal_for_its_code_does_not_make_the_next_attempt_free(run, submit):
    done_with(run, "pretrain", "a1b2")
    (run.path / "checkpoints" / "step-00000001").mkdir(parents=True)
    assert go_on(submit).returncode == 1
    assert go_on(submit, [["pretrain", 3]]).returncode == 1
    assert "pretrain attempt 1" in whole_files.read_json(run.attempt("pretrain", 3).result)["message"]


@pytest.mark.usefixtures("fake_science")
def test_a_source_that_changed_since_the_pack_began_is_what_the_claim_names(run, submit):
    assert go_on(submit, pack_code="a1b2").returncode == 0
    assert whole_files.read_json(run.attempt("pretrain", 2).claim)["code"]["digest"] == CODE


@pytest.mark.parametrize(
    ("code", "result"),
    [("same", {}), (None, {}), ("a1b2", {"status": "failed", "cause": "error"}), ("a1b2", {})],
    ids=["the same code", "a claim without code", "an error, which other code may mend", "nothing was saved"],
)
@pytest.mark.usefixtures("fake_science")
def test_code_that_may_go_on(run, submit, code, result):
    done_with(run, "pretrain", CODE if code == "same" else code, **result)
    if code == "same" or result:
        (run.path / "checkpoints" / "step-00000001").mkdir(parents=True)
    assert go_on(submit).returncode == 0


def test_a_job_that_comes_too_late_leaves_a_run_to_the_one_that_took_its_place(run):
    assert attempts.claim(run, "pretrain", 2, "beef", task("8_0"))
    assert claim(run) is None
    assert not run.attempt("pretrain", 1).claim.exists()


# -- the last to know -------------------------------------------------------------------------------------------------


def at_work(run, number=2, who=None, **words):
    return attempts.at_work(run, "pretrain", number, "cafe", who or task("8_0"), **words)


def beat(attempt, seconds_ago=0.0):
    whole_files.write_json(attempt.heartbeat, {"time": 1.0})
    when = time.time() - seconds_ago
    os.utime(attempt.heartbeat, (when, when))


def test_an_earlier_attempt_that_goes_on_beating_is_at_work_whatever_was_believed_of_it(run):
    earlier = claim(run, submission_id="beef")
    beat(earlier, seconds_ago=8)
    whole_files.write_json(earlier.verdict, {"status": "failed", "cause": "lost"})
    assert at_work(run, wait=lambda _: beat(earlier)) == earlier
    assert at_work(run) == earlier, "where there is no time to wait, silence proves nothing yet"


def test_one_that_has_just_begun_is_at_work(run):
    earlier = claim(run, submission_id="beef")
    assert at_work(run, wait=lambda _: beat(earlier)) == earlier


@pytest.mark.parametrize(("seen", "silent", "found"), [(None, 1, True), (None, 60, False), (False, 1, False)])
def test_a_local_one_that_is_hidden_from_this_user_is_at_work_while_it_beats(run, monkeypatch, seen, silent, found):
    earlier = claim(run, submission_id="beef")
    mine = task("local-8")
    whole_files.write_json(earlier.claim, {**whole_files.read_json(earlier.claim), "job": "local-7", "host": mine.host})
    os.utime(earlier.claim, (1.0, 1.0))
    beat(earlier, seconds_ago=silent)
    monkeypatch.setattr(attempts.processes, "is_alive", lambda _: seen)
    assert at_work(run, who=mine) == (earlier if found else None)


def test_one_whose_claim_is_withdrawn_while_it_is_looked_at_is_not(run, monkeypatch):
    earlier = claim(run, submission_id="beef")
    real = attempts.whole

    def withdrawn(path, kind):
        told = real(path, kind)
        if path == earlier.claim:
            path.unlink()
        return told

    monkeypatch.setattr(attempts, "whole", withdrawn)
    assert at_work(run) is None


def test_an_earlier_attempt_that_stays_silent_is_not(run, monkeypatch):
    earlier = claim(run, submission_id="beef")
    os.utime(earlier.claim, (1.0, 1.0))
    beat(earlier, seconds_ago=31)
    assert at_work(run) is None
    beat(earlier)
    monkeypatch.setattr(attempts, "FRESH", 0.2)
    waited = []
    assert at_work(run, wait=lambda seconds: waited.append(seconds) or time.sleep(seconds)) is None
    assert sum(waited) < 1


def test_one_that_ends_while_it_is_waited_for_is_not(run):
    earlier = claim(run, submission_id="beef")
    beat(earlier)
    ended = {"status": "failed", "cause": "error"}
    assert at_work(run, wait=lambda _: whole_files.write_json(earlier.result, ended)) is None


def test_who_is_told_to_stop_waits_no_more(run):
    earlier = claim(run, submission_id="beef")
    told = iter([False, True])
    assert at_work(run, wait=lambda _: next(told)) == earlier


def test_what_comes_later_or_is_ones_own_is_not_waited_for(run):
    beat(claim(run))  # the same task's, before a requeue that it asked for itself
    assert at_work(run, who=task(restart=1)) is None
    os.utime(run.attempt("pretrain", 1).claim, (1.0, 1.0))
    beat(run.attempt("pretrain", 1), seconds_ago=31)
    beat(attempts.claim(run, "pretrain", 3, "beef", task("9_0")))
    assert at_work(run) is None


def test_an_earlier_life_that_slurm_took_for_dead_may_go_on(run):
    first = claim(run)
    beat(first)
    assert at_work(run, number=1, who=task(restart=1), lives={0}, wait=lambda _: beat(first)) == first


@pytest.mark.parametrize(("start", "found"), [(None, True), ("0", False)], ids=["alive", "its pid came again"])
def test_on_one_machine_a_process_is_looked_for(run, start, found):
    me = this_task()
    holder = replace(me, job="local-1", start=start or me.start)
    earlier = attempts.claim(run, "pretrain", 1, "beef", holder)
    assert at_work(run, who=replace(me, job="local-2"), wait=pytest.fail) == (earlier if found else None)


@pytest.mark.usefixtures("fake_science")
@pytest.mark.parametrize("done", [{}, {"pretrain": 1}], ids=["nobody knew", "it is done again"])
def test_what_has_completed_is_done_again_only_where_that_was_known(run, submit, done):
    done_with(run, "pretrain", CODE, status="completed", cause=None)
    assert go_on(submit, item={"done": done}).returncode == 0
    executed = (run.path / "done.txt").read_text().split()
    assert executed == [*done, "add_tokenizer"]
    assert run.attempt("pretrain", 2).claim.exists() == bool(done)


def test_what_completed_before_the_one_that_failed_last_is_no_reason_to_leave(run):
    for number, result in ((1, {"status": "completed"}), (2, {"status": "failed", "cause": "error"})):
        done_with(run, "pretrain", CODE, number, **result)
    assert attempts.done_before(run, "pretrain", 3, {"done": {}}) is None
    assert attempts.done_before(run, "pretrain", 2, {"done": {}}) == run.attempt("pretrain", 1)
    assert attempts.done_before(run, "pretrain", 2, {}) is None, "older submissions do not say what was known"


def test_of_two_jobs_that_begin_a_stage_at_the_same_moment_one_makes_way(run, monkeypatch):
    create = whole_files.create_json

    def at_once(path, value):
        """Both have looked, and found nothing; now both claim."""
        monkeypatch.setattr(whole_files, "create_json", create)
        assert create(path, value)
        other = 3 - int(path.parent.name)
        assert create(run.attempt("pretrain", other).claim, {**value, "submission_id": "beef"})
        return True

    monkeypatch.setattr(attempts, "YIELD", 0.0)
    for number, who in ((2, "the later one"), (1, "the earlier one, since the other did not")):
        monkeypatch.setattr(whole_files, "create_json", at_once)
        assert attempts.claim(run, "pretrain", number, "cafe", task("8_0")) is None, who
        assert not run.attempt("pretrain", number).claim.exists()
        run.attempt("pretrain", 3 - number).claim.unlink()


@pytest.mark.parametrize("goes_on", [True, False], ids=["it goes on", "it dies at once"])
def test_a_life_makes_way_for_an_earlier_one_that_began_unseen_at_the_same_moment(run, monkeypatch, goes_on):
    claim(run)
    stale = time.time() - 31
    os.utime(run.attempt("pretrain", 1).claim, (stale, stale))
    create, second = whole_files.create_json, run.attempt("pretrain", 2)

    def at_once(path, value):
        """The second life is on a node that SLURM has lost. Both have waited for the first one; now both claim."""
        monkeypatch.setattr(whole_files, "create_json", create)
        assert create(second.claim, {**value, "restart": 1})
        return create(path, value)

    def wait(seconds):
        if goes_on:
            beat(second)
        else:
            os.utime(second.claim, (stale, stale))
            time.sleep(seconds)

    monkeypatch.setattr(whole_files, "create_json", at_once)
    monkeypatch.setattr(attempts, "FRESH", 3.0)
    mine = attempts.claim(run, "pretrain", 1, "cafe", task(restart=2), None, {0, 1}, wait)
    assert mine == (None if goes_on else run.attempt("pretrain", 3))
    assert run.attempt("pretrain", 3).claim.exists() != goes_on


def test_an_earlier_attempt_goes_on_once_the_later_one_has_made_way(run, monkeypatch):
    create, claims = whole_files.create_json, []

    def at_once(path, value):
        claims.append(run.attempt("pretrain", 2).claim)
        return create(path, value) and create(claims[0], {**value, "submission_id": "beef"})

    monkeypatch.setattr(whole_files, "create_json", at_once)
    monkeypatch.setattr(attempts.time, "sleep", lambda _: claims[0].unlink())
    assert claim(run) == run.attempt("pretrain", 1)


def test_at_the_time_limit_nothing_is_said_for_what_another_has_done_or_does(run):
    item = {"run_id": "abc", "stages": [["pretrain", 2]], "done": {}}
    done_with(run, "pretrain", CODE, status="completed", cause=None)
    attempts.time_ran_out(run, item, "cafe", task("8_0"), {})
    run.attempt("pretrain", 1).result.unlink()
    beat(run.attempt("pretrain", 1))
    attempts.time_ran_out(run, item, "cafe", task("8_0"), {})
    assert not run.attempt("pretrain", 2).path.exists()
    beat(run.attempt("pretrain", 1), seconds_ago=31)
    attempts.time_ran_out(run, item, "cafe", task("8_0"), {})
    assert whole_files.read_json(run.attempt("pretrain", 2).result)["cause"] == "timeout"


def test_the_job_is_named_as_slurm_names_it(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu001")
    assert (this_task().job, this_task().host) == ("9", "gpu001")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert (this_task().job, this_task().restart) == ("8_3", 2)


def test_what_a_stage_has_spent_is_removed_once_it_has_completed_and_only_if_its_settings_say_so(run):
    (run.path / "anchors/0.5").mkdir(parents=True)
    for name, keep in (("trajectory", True), ("blimp", False), ("trajectory", False)):
        assert (run.path / "anchors/0.5").exists()
        described = whole_files.read_json(run.run_json)
        described["config"]["evaluation"]["trajectory"] = {"keep": keep}
        whole_files.write_json(run.run_json, described)
        stage.remove_spent(run, name)
    assert not (run.path / "anchors").exists()


@pytest.mark.parametrize("failing", ["run.json", "anchors"])
def test_what_a_disk_does_not_remove_is_said_and_the_stage_stays_completed(run, monkeypatch, capfd, failing):
    (run.path / "anchors/0.5").mkdir(parents=True)
    described = whole_files.read_json(run.run_json)
    described["config"]["evaluation"]["trajectory"] = {"keep": False}
    whole_files.write_json(run.run_json, described)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(*((stage.documents, "read") if failing == "run.json" else (stage.shutil, "rmtree")), fail)
    stage.remove_spent(run, "trajectory")
    told = "".join(capfd.readouterr())
    assert "not removed, though nobody needs it any more" in told
    assert "anchors removed" not in told
