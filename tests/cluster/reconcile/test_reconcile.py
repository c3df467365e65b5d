"""What the files and SLURM say, for every state and every bad answer, with a small fake of SLURM's clients."""

import contextlib
import json
import os
import shutil
import time
from dataclasses import replace

import pytest

from cluster.errors import SlurmSilent
from cluster.files import processes, records, whole_files
from cluster.files.folders import OutputRoot
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import choosing, cost, expansion, packing
from cluster.reconcile import intents, judging, reconciling, session
from cluster.reconcile.judging import SlurmAnswers
from cluster.reconcile.opened import OpenSubmission, read_files
from cluster.sites import profiles
from cluster.slurm import answers
from cluster.slurm.answers import Job
from cluster.submit import code_copy, launch

STAGES = ("pretrain", "add_tokenizer", "blimp", "superglue")


class FakeSlurm:
    """Answers what it was told; None is silence."""

    def __init__(self, queue=(), history=()):
        self.jobs, self.past, self.calls = queue, history, []

    def queue(self):
        self.calls.append("squeue")
        return None if self.jobs is None else {job.key: job for job in self.jobs}

    def history(self, names, days):
        self.calls.append("sacct")
        assert days >= 2
        if self.past is None:
            return None
        return {job.key: job for job in self.past if job.name in list(names)}


@pytest.fixture
def runs(manifest_file):
    return expansion.expand(grids.cells(loading.load(manifest_file), studies=["first"]))


ORIGIN = launch.Origin("submit", "2026-01-01T00:00:00+00:00", None, {"digest": "c0de"}, None)


def intend(ledger, root, runs, submission_id="cafe", scheduler="slurm", runs_per_pack=1, done=launch.EMPTY):
    """Record runs and a submission of all their stages, as `launch.submit` does before sbatch."""
    where = profiles.Site(name="test", scheduler=scheduler, runs_per_pack=runs_per_pack, cpus=4)
    recording.record_runs(ledger, root, runs, "2026-01-01")
    work = [choosing.item(run, run.stages, ledger.states()[run.id], cost.Measured(1e12)) for run in runs]
    (array,) = packing.arrange(work, {run.id: run for run in runs}, where)
    directory = root.submission(submission_id)
    intent = launch.describe(array, where, root, submission_id, ORIGIN, done)
    whole_files.write_json(directory.submission, intent)
    recording.record_intent(ledger, directory, intent)
    return [[item["run_id"] for item in pack] for pack in intent["packs"]]


def of_user(ledger, root, user, submission_id="cafe"):
    path = root.submission(submission_id).submission
    whole_files.write_json(path, {**whole_files.read_json(path), "user": user})
    ledger.update_submission(submission_id, user=user)


def answer(ledger, root, submission_id="cafe", **values):
    values = {"state": "submitted", "job_id": "7"} | values
    whole_files.write_json(root.submission(submission_id).answer, values)
    ledger.update_submission(submission_id, state=values["state"], job_id=values["job_id"])


def claim(root, run_id, stage, number=1, job="7_0", submission_id="cafe", restart=0):
    """As a job does: its pack first, then the attempt."""
    mine = {"submission_id": submission_id, "job": job, "host": "n1", "pid": 1, "restart": restart, "time": 1.0}
    intent = whole_files.read_json(root.submission(submission_id).submission)
    packs = [[item["run_id"] for item in pack] for pack in intent["packs"]] if intent else []
    for index, pack in enumerate(packs):
        if run_id in pack:
            whole_files.write_json(root.submission(submission_id).task(index), mine)
    attempt = root.run(run_id).attempt(stage, number)
    whole_files.create_json(attempt.claim, mine)
    return attempt


def complete(root, run_id, stage, number=1, **claimed):
    score = {"task": "average", "metric": "accuracy", "value": 0.75, "n": 8}
    outcome = {"scores": [score], "checks": [], "metrics": {"seconds": 2.0}, "data": {"a.json": "00"}}
    result = {"status": "completed", "cause": None, "message": None, "ended": 3.0, "outcome": outcome}
    whole_files.write_json(claim(root, run_id, stage, number, **claimed).result, result)


def statuses(ledger, run_id):
    (run,) = [run for run in ledger.overview() if run["run_id"] == run_id]
    return [run["stages"][stage]["status"] for stage in STAGES]


def causes(ledger, run_id):
    (run,) = [run for run in ledger.overview() if run["run_id"] == run_id]
    return [run["stages"][stage]["cause"] for stage in STAGES]


def test_results_are_the_truth_whatever_slurm_says(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    for stage in STAGES:
        complete(root, pack[0], stage)
    slurm = FakeSlurm([Job("7", "tt-cafe", "FAILED")])
    assert reconciling.reconcile(ledger, root, slurm) == "none", "there is nothing left to ask"
    assert statuses(ledger, pack[0]) == ["completed"] * 4
    assert {row["value"] for row in ledger.scores()} == {0.75}
    assert ledger.open_submissions() == []


def test_a_claim_is_running_and_its_pack_mates_are_submitted(ledger, root, runs):
    packs = intend(ledger, root, runs[:2])
    answer(ledger, root)
    claim(root, packs[0][0], "pretrain")
    slurm = FakeSlurm([Job("7_0", "tt-cafe", "RUNNING"), Job("7_1", "tt-cafe", "PENDING", "Resources")])
    reconciling.reconcile(ledger, root, slurm)
    assert statuses(ledger, packs[0][0]) == ["running", "submitted", "submitted", "submitted"]
    assert statuses(ledger, packs[1][0]) == ["submitted"] * 4
    waiting = [row for row in ledger.newest_attempts("submitted") if row["job"] == "7_1"]
    assert [row["progress"] for row in waiting] == ['{"reason": "Resources"}', None, None, None], "a run waits once"


@pytest.mark.parametrize(
    ("state", "cause"),
    [("FAILED", "error"), ("TIMEOUT", "timeout"), ("OUT_OF_MEMORY", "out_of_memory"), ("NODE_FAIL", "node_fail"),
     ("BOOT_FAIL", "node_fail"), ("PREEMPTED", "preempted"), ("CANCELLED", "cancelled"), ("DEADLINE", "timeout"),
     ("COMPLETED", "lost")],
)  # fmt: skip
def test_an_ended_job_explains_a_missing_result(ledger, root, runs, state, cause):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", state, node="n1", exit_code="0:9")]))
    assert statuses(ledger, pack[0]) == ["failed", "blocked", "blocked", "blocked"]
    assert causes(ledger, pack[0])[0] == cause
    verdict = whole_files.read_json(root.run(pack[0]).attempt("pretrain", 1).verdict)
    assert verdict["cause"] == cause
    assert state in verdict["message"]


@pytest.mark.parametrize(
    ("slurm", "said"),
    [(FakeSlurm(None), "unreachable"), (FakeSlurm([], None), "partial")],
    ids=["no squeue", "no sacct"],
)
def test_silence_changes_nothing(ledger, root, runs, slurm, said):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "RUNNING")]))
    before = ledger.overview()
    assert reconciling.reconcile(ledger, root, slurm) == said
    assert ledger.overview() == before


@pytest.mark.parametrize(
    ("began", "shown", "past", "cause"),
    [
        (True, [], [], "lost"),
        (False, [], [], "vanished"),
        (False, [Job("7_1", "tt-cafe", "PENDING")], [Job("7_1", "tt-cafe", "PENDING")], "vanished"),
        (False, [Job("7_0", "train", "PENDING", comment="mine")], [], "vanished"),
        (False, [], [Job("7_0", "tt-cafe", "CANCELLED")], "cancelled"),
        (False, [], [Job("7_0", "tt-cafe", "PENDING")], None),
        (False, [], None, None),
    ],
    ids=["begun", "never begun", "beside others", "another has its number", "told", "alive by sacct", "no sacct"],
)
def test_a_job_that_every_answer_lacks_is_lost_or_has_vanished_if_it_never_began(
    ledger, root, runs, began, shown, past, cause
):
    (pack, _) = intend(ledger, root, runs[:2])
    answer(ledger, root)
    if began:
        claim(root, pack[0], "pretrain", job="7_0")
    reconciling.reconcile(ledger, root, FakeSlurm(shown, past))
    assert causes(ledger, pack[0])[0] == cause
    message = ledger.attempt(pack[0], "pretrain", 1)["message"] or ""
    assert ("why is not known, and somebody may have cancelled it" in message) is (cause == "vanished")


LIVING = (
    "PENDING",
    "RUNNING",
    "SUSPENDED",
    "COMPLETING",
    "REQUEUE_HOLD",
    "CONFIGURING",
    "EXPEDITING",
    "?",
    "NEW_IN_27",
)


@pytest.mark.parametrize("state", LIVING)
def test_a_live_job_fails_nothing_however_old_its_heartbeat(ledger, root, runs, state):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    attempt = claim(root, pack[0], "pretrain", job="7")
    whole_files.write_json(attempt.heartbeat, {"time": 0.0, "fraction": 0.5, "text": "step 3"})
    job = Job("7", "tt-cafe", state)
    reconciling.reconcile(ledger, root, FakeSlurm([job]))
    assert statuses(ledger, pack[0])[0] == ("submitted" if job.waits_for else "running")


def test_at_most_two_calls_and_none_when_nothing_is_open(ledger, root, runs):
    packs = intend(ledger, root, runs)
    answer(ledger, root)
    slurm = FakeSlurm([Job("7_0", "tt-cafe", "RUNNING")], [Job(f"7_{i}", "tt-cafe", "FAILED") for i in (1, 2, 3)])
    reconciling.reconcile(ledger, root, slurm)
    assert slurm.calls == ["squeue", "sacct"]
    assert len(packs) == 4
    slurm = FakeSlurm([Job("7_0", "tt-cafe", "CANCELLED")])
    reconciling.reconcile(ledger, root, slurm)
    assert reconciling.reconcile(ledger, root, slurm) == "none"
    assert slurm.calls == ["squeue"]


def test_reconciling_twice_changes_nothing(ledger, root, runs):
    packs = intend(ledger, root, runs[:2])
    answer(ledger, root)
    complete(root, packs[0][0], "pretrain")
    claim(root, packs[1][0], "pretrain", job="7_1")
    slurm = FakeSlurm([Job("7_0", "tt-cafe", "RUNNING"), Job("7_1", "tt-cafe", "TIMEOUT")])
    reconciling.reconcile(ledger, root, slurm)
    before = list(ledger.db.query("SELECT * FROM attempt ORDER BY rowid"))
    reconciling.reconcile(ledger, root, slurm)
    assert list(ledger.db.query("SELECT * FROM attempt ORDER BY rowid")) == before


def test_a_torn_result_is_none(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    complete(root, pack[0], "pretrain", job="7")
    root.run(pack[0]).attempt("pretrain", 1).result.write_text('{"status": "compl')
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "RUNNING")]))
    assert statuses(ledger, pack[0])[0] == "running"
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "COMPLETED")]))
    assert (statuses(ledger, pack[0])[0], causes(ledger, pack[0])[0]) == ("failed", "lost")
    assert "result.json is there but not whole" in ledger.attempt(pack[0], "pretrain", 1)["message"]


def test_a_stage_that_raised_blocks_what_needs_it_and_not_its_siblings(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    for stage in ("pretrain", "add_tokenizer", "superglue"):
        complete(root, pack[0], stage, job="7")
    failure = {"status": "failed", "cause": "error", "message": "ValueError: no", "ended": 2.0, "outcome": None}
    whole_files.write_json(claim(root, pack[0], "blimp", job="7").result, failure)
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "RUNNING")]))
    assert statuses(ledger, pack[0]) == ["completed", "completed", "failed", "completed"]


def test_packs_that_wait_as_they_did_are_not_read_again(ledger, root, runs):
    packs = intend(ledger, root, runs[:3])
    answer(ledger, root)

    def read_at(*reasons):
        opened = OpenSubmission(ledger, root, ledger.open_submissions()[0])
        read_files(opened)
        jobs = {f"7_{index}": Job(f"7_{index}", "tt-cafe", "PENDING", why) for index, why in enumerate(reasons)}
        judging.judge(opened, SlurmAnswers(jobs, None))
        return {attempt["pack_index"] for attempt in opened.attempts}

    assert read_at("Priority", "Priority", "") == {0, 1, 2}
    assert read_at("Priority", "Priority", "") == set()
    assert read_at("Priority", "Resources", "Priority") == {1, 2}
    told = [row["progress"] for row in ledger.newest_attempts("submitted") if row["stage"] == "pretrain"]
    assert told == [json.dumps({"reason": why}) for why in ("Priority", "Resources", "Priority")]
    claim(root, packs[0][0], "pretrain")
    assert read_at("Priority", "Resources", "Priority") == {0}, "its job has begun, whatever SLURM shows"


def requeued(ledger, root, runs):
    """A pack whose job was requeued in its pretraining, and has begun the next attempt."""
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", 1, job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "PENDING", "BeginTime")]))
    assert statuses(ledger, pack[0])[0] == "submitted", "it is not over: it waits"
    claim(root, pack[0], "pretrain", 2, job="7", restart=1)
    return pack[0]


AGAIN = [
    (Job("7", "tt-cafe", "PENDING", "BeginTime"), "BeginTime"),
    (Job("7", "tt-cafe", "PENDING", "JobHeldUser"), "JobHeldUser"),
    (Job("7", "tt-cafe", "PENDING"), "PENDING"),
    (Job("7", "tt-cafe", "PENDING", "launch failed requeued held"), "launch failed requeued held"),
    (Job("7", "tt-cafe", "REQUEUE_HOLD", "BeginTime"), "REQUEUE_HOLD"),  # held, whatever else it waits for
    (Job("7", "tt-cafe", "SPECIAL_EXIT", "JobHeldAdmin"), "JobHeldAdmin"),
    (Job("7", "tt-cafe", "SUSPENDED"), "SUSPENDED"),
    (Job("7", "tt-cafe", "REQUEUED"), "REQUEUED"),
]


@pytest.mark.parametrize(("job", "reason"), AGAIN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_pack_that_had_begun_and_waits_again_has_slurms_reason_until_it_runs(ledger, root, runs, job, reason):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    beat = {"time": 5.0, "fraction": 0.5, "text": "step 3"}
    heartbeat = claim(root, pack[0], "pretrain", job="7").heartbeat
    whole_files.write_json(heartbeat, beat)

    def told(*jobs, silent=False):
        reconciling.reconcile(ledger, root, FakeSlurm(None if silent else jobs))
        return json.loads(ledger.attempt(pack[0], "pretrain", 1)["progress"])

    running = Job("7", "tt-cafe", "RUNNING")
    assert told(running) == beat
    assert ledger.open_packs()[0]["started"] == 1.0
    for _ in range(2):
        assert told(job) == beat | {"waits_for": reason}
    assert told(silent=True) == beat | {"waits_for": reason}, "silence changes nothing"
    assert ledger.open_packs()[0]["started"] is None
    assert told(running) == beat
    assert ledger.open_packs()[0]["started"] == 1.0
    told(job)
    whole_files.write_json(heartbeat, beat | {"time": 6.0})
    assert told(silent=True) == beat | {"time": 6.0}, "it has been heard of since"


def test_a_suspended_pack_without_a_heartbeat_waits_too(ledger, root, runs):
    packs = intend(ledger, root, runs[:2], runs_per_pack=2)
    answer(ledger, root)
    for run_id in packs[0]:
        claim(root, run_id, "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "SUSPENDED")]))
    progress = [ledger.attempt(run_id, "pretrain", 1)["progress"] for run_id in packs[0]]
    assert progress == ['{"waits_for": "SUSPENDED"}'] * 2
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "RUNNING")]))
    assert [ledger.attempt(run_id, "pretrain", 1)["progress"] for run_id in packs[0]] == [None] * 2


def lives(*states):
    *earlier, last = [Job("7", "tt-cafe", state, node="n1") for state in states]
    return Job("7", "tt-cafe", last.state, earlier=tuple(earlier))


@pytest.mark.parametrize(
    ("past", "cause"),
    [([lives("NODE_FAIL", "RUNNING")], "node_fail"), ([lives("PREEMPTED", "RUNNING")], "preempted"), ([], "preempted")],
)
def test_a_requeued_job_goes_on_under_the_next_number(ledger, root, runs, past, cause):
    run_id = requeued(ledger, root, runs)
    slurm = FakeSlurm([Job("7", "tt-cafe", "RUNNING")], past)
    reconciling.reconcile(ledger, root, slurm)
    assert slurm.calls == ["squeue", "sacct"]
    assert statuses(ledger, run_id)[0] == "running"
    assert [(each["status"], each["cause"]) for each in ledger.history(run_id, "pretrain")] == [
        ("failed", cause), ("running", None)]  # fmt: skip
    complete(root, run_id, "pretrain", 2, job="7", restart=1)
    reconciling.reconcile(ledger, root, slurm)
    assert statuses(ledger, run_id)[:2] == ["completed", "submitted"]


def test_a_stage_that_had_no_turn_because_its_run_was_killed_has_not_failed(ledger, root, runs):
    packs = intend(ledger, root, runs[:2], runs_per_pack=2)
    answer(ledger, root)
    for stage in STAGES[:2]:
        complete(root, packs[0][0], stage, job="7")
    killed = {"status": "failed", "cause": "error", "message": "killed by SIGKILL", "ended": 2.0, "outcome": None}
    whole_files.write_json(claim(root, packs[0][0], "blimp", job="7").result, killed)
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "COMPLETED")]))
    assert statuses(ledger, packs[0][0]) == ["completed", "completed", "failed", "eligible"]
    assert causes(ledger, packs[0][1])[0] == "lost", "a run of which nothing was begun is not passed over in silence"
    again = Ledger(root.path / "again.db")
    reconciling.rebuild(again, root)
    assert again.open_submissions() == [], "it is known from the files alone"
    assert statuses(again, packs[0][0]) == statuses(ledger, packs[0][0])
    key = (packs[0][0], "superglue", 1)
    assert again.attempt(*key) == ledger.attempt(*key), "to the last word"
    again.close()


def test_a_requeue_at_the_time_limit_is_marked_as_such_by_the_pack(ledger, root, runs):
    run_id = requeued(ledger, root, runs)
    task = root.submission("cafe").task(0)
    earlier = [{"job": "7", "restart": 0, "host": "n1", "pid": 1, "ended_by": "timeout"}]
    whole_files.write_json(task, whole_files.read_json(task) | {"earlier": earlier})
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "RUNNING")], None))
    assert ledger.attempt(run_id, "pretrain", 1)["cause"] == "timeout"


def test_a_cancelled_job_that_had_requeued_itself_is_cancelled(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    task = root.submission("cafe").task(0)
    whole_files.write_json(task, whole_files.read_json(task) | {"ended_by": "timeout"})
    waiting = FakeSlurm([Job("7", "tt-cafe", "PENDING", "BeginTime")])
    reconciling.reconcile(ledger, root, waiting)
    assert statuses(ledger, pack[0])[0] == "submitted"
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "CANCELLED")]))
    assert causes(ledger, pack[0])[0] == "cancelled"


@pytest.mark.parametrize(("past", "cause"), [(["FAILED"], "timeout"), (["REQUEUED", "FAILED"], "launch_failed")])
def test_a_job_that_could_not_be_requeued_ran_out_of_time_and_one_that_was_failed_at_its_launch(
    ledger, root, runs, past, cause
):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    task = root.submission("cafe").task(0)
    whole_files.write_json(task, whole_files.read_json(task) | {"ended_by": "timeout"})
    reconciling.reconcile(ledger, root, FakeSlurm([], [lives(*past)]))
    assert causes(ledger, pack[0])[0] == cause


def test_a_late_result_outweighs_what_was_guessed(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([], []))
    assert causes(ledger, pack[0])[0] == "lost"
    for stage in STAGES:
        complete(root, pack[0], stage, job="7")
    reconciling.late_results(ledger, root)
    assert statuses(ledger, pack[0]) == ["completed"] * 4, "those that had no turn by then, too"
    assert {row["value"] for row in ledger.scores()} == {0.75}
    assert ledger.attempt(pack[0], "blimp", 1)["host"] == "n1"


def test_what_died_while_nobody_looked_counts_until_its_last_sign_of_life(ledger, root, runs, tmp_path):
    packs = intend(ledger, root, runs[:2])
    answer(ledger, root)
    beaten, silent = (claim(root, pack[0], "pretrain", job=f"7_{task}") for task, pack in enumerate(packs))
    whole_files.write_json(beaten.heartbeat, {"time": 1801.0})
    os.utime(beaten.heartbeat, (1801.0, 1801.0))
    reconciling.reconcile(ledger, root, FakeSlurm(None))
    assert [row["spent"] for row in ledger.hours()] == [0.5], "running, and last heard of after half an hour"
    lost = [Job(f"7_{task}", "tt-cafe", "NODE_FAIL", node="n1") for task in range(2)]
    reconciling.reconcile(ledger, root, FakeSlurm([], lost))
    assert [whole_files.read_json(attempt.verdict)["ended"] for attempt in (beaten, silent)] == [1801.0, 1.0]
    again = Ledger(tmp_path / "again.db")
    reconciling.rebuild(again, root)
    assert again.hours() == ledger.hours()
    assert [row["spent"] for row in ledger.hours()] == [0.5]
    assert sum(row["gpu_hours"] for row in ledger.gpu_hours()) == 0.5
    again.close()


def test_a_failure_that_a_job_tells_after_it_was_judged_changes_nothing(ledger, root, runs, tmp_path):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    attempt = claim(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "CANCELLED")]))
    told = {"status": "failed", "cause": "error", "message": "killed by SIGKILL", "ended": 2.0}
    whole_files.write_json(attempt.result, told)
    reconciling.late_results(ledger, root)
    assert causes(ledger, pack[0])[0] == "cancelled"
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    assert again.attempt(pack[0], "pretrain", 1) == ledger.attempt(pack[0], "pretrain", 1)
    again.close()


def test_a_late_result_counts_with_its_hours(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    attempt = claim(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "NODE_FAIL")]))
    assert [row["spent"] for row in ledger.hours()] == [0.0]
    whole_files.write_json(attempt.result, {"status": "completed", "cause": None, "message": None, "ended": 3601.0})
    reconciling.late_results(ledger, root)
    assert [row["spent"] for row in ledger.hours()] == [1.0]


def test_a_job_that_takes_its_pack_after_it_was_given_up_is_listened_to(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    reconciling.reconcile(ledger, root, FakeSlurm([], []))
    assert causes(ledger, pack[0])[0] == "vanished"
    reconciling.late_results(ledger, root)
    assert statuses(ledger, pack[0])[0] == "failed", "no job has taken it"
    complete(root, pack[0], "pretrain", job="7")
    reconciling.late_results(ledger, root)
    assert statuses(ledger, pack[0])[0] == "completed"


def test_without_an_answer_an_interrupted_attempt_is_not_judged_and_the_next_one_shows(ledger, root, runs):
    run_id = requeued(ledger, root, runs)
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "RUNNING")], None))
    assert [each["status"] for each in ledger.history(run_id, "pretrain")] == ["running", "running"]


def test_a_pack_that_never_began_has_failed_at_its_launch(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "FAILED", exit_code="1:0", node="n1")]))
    assert causes(ledger, pack[0])[0] == "launch_failed"
    attempt = ledger.attempt(pack[0], "pretrain", 1)
    assert "slurm_logs/cafe" in attempt["message"]
    assert attempt["host"] == "n1", "which is to be avoided"


def test_what_has_become_of_the_code_of_a_failed_job_is_said_with_its_cause(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    submission = root.submission("cafe").submission
    copy = root.code(code_copy.keep(root))
    whole_files.write_json(submission, whole_files.read_json(submission) | {"code_copy": copy.name})
    answer(ledger, root)
    shutil.rmtree(copy)
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "FAILED", exit_code="1:0", node="n1")]))
    assert causes(ledger, pack[0])[0] == "launch_failed"
    message = ledger.attempt(pack[0], "pretrain", 1)["message"]
    assert message.endswith(
        f"see slurm_logs/cafe. {copy}, the copy of the code that its jobs run from, is gone: `rerun --failed` makes "
        "it again"
    )


def test_a_kill_for_memory_is_known_by_accounting(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    killed = Job("7", "tt-cafe", "FAILED", exit_code="0:9", memory=3950, asked=4000)
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "FAILED")], None))
    assert statuses(ledger, pack[0])[0] == "running", "why is not known before accounting answers"
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "FAILED")], [killed]))
    assert causes(ledger, pack[0])[0] == "out_of_memory"
    assert "3,950 of 4,000 MB" in ledger.attempt(pack[0], "pretrain", 1)["message"]


def test_a_job_that_the_controller_forgot_but_that_still_beats_is_not_lost(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    beat = claim(root, pack[0], "pretrain", job="7").heartbeat
    whole_files.write_json(beat, {"time": 0.0, "fraction": 0.5, "text": "step 3"})  # by a node whose clock is wrong
    reconciling.reconcile(ledger, root, FakeSlurm([], []))
    assert statuses(ledger, pack[0])[0] == "running"
    os.utime(beat, (time.time() - 120,) * 2)
    reconciling.reconcile(ledger, root, FakeSlurm([], []))
    assert causes(ledger, pack[0])[0] == "lost"


def test_a_submission_that_the_ledger_never_heard_of_is_taken_in(ledger, root, runs, tmp_path):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    complete(root, pack[0], "pretrain", job="7")
    other = Ledger(tmp_path / "other.db")  # as it was before `submit` was killed
    reconciling.reconcile(other, root, FakeSlurm([Job("7", "tt-cafe", "RUNNING")]))
    assert statuses(other, pack[0]) == ["completed", "submitted", "submitted", "submitted"]
    other.close()


def test_runs_that_were_taken_in_have_the_order_of_the_manifest(ledger, root, runs, tmp_path):
    intend(ledger, root, runs)
    other = Ledger(tmp_path / "other.db")
    reconciling.reconcile(other, root, FakeSlurm())
    assert [run["run_id"] for run in other.overview()] == [run.id for run in runs]
    other.close()


def test_a_study_that_is_on_disk_only_is_taken_in(ledger, root):
    ledger.put_study("first", "Which?", [])
    grid = {"overrides": [], "stages": ["pretrain"], "runs": ["0123456789ab"], "baselines": ["0123456789ab"]}
    told = {"name": "first", "description": "Which one?", "grids": [grid]}
    whole_files.write_json(root.study("first"), told)
    reconciling.reconcile(ledger, root, FakeSlurm())
    assert ledger.studies() == [told]


def test_an_answer_that_was_heard_needs_no_search(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    whole_files.write_json(root.submission("cafe").answer, {"state": "submitted", "job_id": "9"})
    reconciling.reconcile(ledger, root, FakeSlurm(None))
    (submission,) = ledger.open_submissions()
    assert (submission["state"], submission["job_id"]) == ("submitted", "9")
    assert statuses(ledger, pack[0]) == ["submitted"] * 4


def test_another_submissions_claim_is_not_read_as_ours(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", submission_id="beef")
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "PENDING")]))
    assert statuses(ledger, pack[0])[0] == "submitted"


# -- whose a job is, and whether it is there ---------------------------------------------------------------------------

OTHERS = {"name": "train", "comment": "mine"}  # the labels of a job that is not ours


@pytest.mark.parametrize(
    ("labels", "state", "wanted"),
    [
        ({"name": "tt-cafe", "comment": "changed"}, "RUNNING", "running"),
        ({"name": "renamed", "comment": "cafe"}, "RUNNING", "running"),
        ({"name": "renamed", "comment": "cafe"}, "CANCELLED", "failed"),
        (OTHERS, "RUNNING", "failed"),  # numbers came again: ours is gone
        ({"name": "train"}, "FAILED", "running"),  # its comment was not shown: it may be ours
    ],
)
def test_a_job_is_ours_by_its_name_or_comment_and_never_by_its_number(ledger, root, runs, labels, state, wanted):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", state=state, **labels)]))
    assert statuses(ledger, pack[0])[0] == wanted
    if labels is OTHERS:
        assert causes(ledger, pack[0])[0] == "lost", "whatever became of the other one"


def test_anothers_end_says_nothing_of_ours(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    past = [Job("7", "tt-cafe", "NODE_FAIL", node="n1")]
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", state="COMPLETED", **OTHERS)], past))
    assert causes(ledger, pack[0])[0] == "node_fail"


def test_a_submission_is_found_under_the_number_that_it_has(ledger, root, runs):
    """sbatch's answer may have been misread, for all that a site's script says around it."""
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root, job_id="2026")
    slurm = FakeSlurm([Job("9", "tt-cafe", "PENDING", "Resources"), Job("2026", state="FAILED", **OTHERS)])
    assert reconciling.reconcile(ledger, root, slurm) == "answered"
    assert statuses(ledger, pack[0])[0] == "submitted"
    assert whole_files.read_json(root.submission("cafe").answer) == {"state": "submitted", "job_id": "9"}


def test_of_two_submissions_whose_jobs_have_one_number_each_is_judged_by_its_own(ledger, root, runs):
    """A controller that has lost its state gives its numbers again."""
    (first,), (second,) = intend(ledger, root, runs[:1]), intend(ledger, root, runs[1:2], "beef")
    answer(ledger, root)
    answer(ledger, root, "beef")
    claim(root, second[0], "pretrain", submission_id="beef")
    past = answers.parse_history(
        "7|tt-cafe|PENDING|0:0|None assigned|Unknown||400M|2\n"
        "7_0|tt-beef|REQUEUED|0:0|n1|2026-01-01T00:00:00||400M|2\n"
        "7_0|tt-beef|CANCELLED by 0|0:0|None assigned|Unknown||400M|2\n"
    )
    slurm = FakeSlurm([])
    slurm.history = lambda *_: past
    reconciling.reconcile(ledger, root, slurm)
    assert causes(ledger, second[0])[0] == "cancelled", "and not lost, which is tried again"
    assert statuses(ledger, first[0])[0] == "submitted"
    assert ledger.attempt(first[0], "pretrain", 1)["progress"] == '{"reason": "NotInQueue"}'


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "?"])
def test_what_never_began_is_there_as_long_as_accounting_has_it(ledger, root, runs, state):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    known = [Job("7_0", "tt-cafe", state)]
    for _ in range(2):
        reconciling.reconcile(ledger, root, FakeSlurm([], known))
        assert statuses(ledger, pack[0]) == ["submitted"] * 4
    assert ledger.attempt(pack[0], "pretrain", 1)["progress"] == '{"reason": "NotInQueue"}'
    answer(ledger, root, cancelled=True)  # by then it may be given up: should it come, it finds that
    reconciling.reconcile(ledger, root, FakeSlurm([], known))
    assert causes(ledger, pack[0])[0] == "cancelled"


def test_of_an_array_those_that_were_cancelled_while_they_waited_are_cancelled(ledger, root, runs):
    """Neither squeue nor sacct has anything of them."""
    packs = intend(ledger, root, runs[:2])
    answer(ledger, root, cancelled_packs=[1])
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7_0", "tt-cafe", "PENDING")], []))
    assert [statuses(ledger, pack[0])[0] for pack in packs] == ["submitted", "failed"]
    assert causes(ledger, packs[1][0])[0] == "cancelled"
    intents._answer(OpenSubmission(ledger, root, ledger.open_submissions()[0]), {"state": "submitted"})
    assert whole_files.read_json(root.submission("cafe").answer)["cancelled_packs"] == [1], "it is not forgotten"


def test_a_task_that_accountings_cut_list_does_not_name_may_be_there(ledger, root, runs):
    packs = intend(ledger, root, runs[:2])
    answer(ledger, root)
    cut = answers.parse_history("7_[0,1...%4]|tt-cafe|PENDING|0:0|None assigned|Unknown||400M|2\n").values()
    reconciling.reconcile(ledger, root, FakeSlurm([], list(cut)))
    assert [statuses(ledger, pack[0])[0] for pack in packs] == ["submitted"] * 2


@pytest.mark.parametrize("slurm", [FakeSlurm([], []), FakeSlurm(None)], ids=["shows nothing", "silent"])
def test_what_slurm_hides_of_others_jobs_changes_nothing(ledger, root, runs, slurm):
    packs = intend(ledger, root, runs[:2])
    answer(ledger, root)
    of_user(ledger, root, "alice")
    claim(root, packs[0][0], "pretrain", job="7_0")
    assert reconciling.reconcile(ledger, root, slurm) == "none", "nobody but alice is told of her jobs"
    assert [statuses(ledger, pack[0])[0] for pack in packs] == ["running", "submitted"]
    complete(root, packs[1][0], "pretrain", job="7_1")
    reconciling.reconcile(ledger, root, slurm)
    assert statuses(ledger, packs[1][0])[0] == "completed", "files are read all the same"
    again = Ledger(root.path / "again.db")
    reconciling.rebuild(again, root)
    assert [row["user"] for row in again.submissions()] == ["alice"]
    again.close()


def test_anothers_submission_without_an_answer_is_not_given_up(ledger, root, runs):
    intend(ledger, root, runs[:1])
    of_user(ledger, root, "alice")
    age(root)
    reconciling.reconcile(ledger, root, FakeSlurm([], []))
    assert [row["state"] for row in ledger.open_submissions()] == ["intended"]
    with pytest.raises(SlurmSilent, match="try again when alice has looked"):
        session._refuse_unsettled(ledger, root)


@pytest.mark.parametrize("made_again", [False, True], ids=["", "of a ledger made again"])
def test_every_attempt_that_was_left_to_an_earlier_one_makes_way_for_its_result(
    ledger, root, runs, made_again, tmp_path
):
    """A requeue, and a retry after that, both of which found the first life at work: a walk has found it."""
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    first = claim(root, pack[0], "pretrain", job="7")
    task = root.submission("cafe").task(0)
    life = whole_files.read_json(task)
    whole_files.write_json(task, {**life, "restart": 1, "earlier": [life]})
    for running, state in (([Job("7", "tt-cafe", "RUNNING")], "RUNNING"), ([], "COMPLETED")):
        reconciling.reconcile(ledger, root, FakeSlurm(running, [lives("NODE_FAIL", state)]))
    assert [row["cause"] for row in ledger.history(pack[0], "pretrain")] == ["node_fail", "lost"]
    intend(ledger, root, runs[:1], "beef")
    answer(ledger, root, "beef", job_id="8")
    whole_files.write_json(root.submission("beef").task(0), {"job": "8", "restart": 0, "host": "n1", "pid": 1})
    whole_files.write_json(first.result, {"status": "completed", "cause": None, "message": None, "ended": 3.0})
    if made_again:
        ledger = Ledger(tmp_path / "again.db")
        reconciling.rebuild(ledger, root)
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("8", "tt-beef", "COMPLETED")]))
    reconciling.late_results(ledger, root)
    assert [(row["number"], row["status"]) for row in ledger.history(pack[0], "pretrain")] == [(1, "completed")]
    again = Ledger(tmp_path / "once more.db")
    assert reconciling.rebuild(again, root) == []
    assert again.submission_ids() == {"cafe", "beef"}
    for number in (1, 2, 3):
        assert again.attempt(pack[0], "pretrain", number) == ledger.attempt(pack[0], "pretrain", number)
    again.close()


@pytest.mark.parametrize("when", ["its own, late", "its own, late, and the next one begun",
                                  "an earlier one's, before its job left", "an earlier one's, after"])  # fmt: skip
def test_what_a_cancelled_job_had_not_come_to_stays_cancelled_though_what_it_needs_completes(
    ledger, root, runs, when, tmp_path
):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    first = claim(root, pack[0], "pretrain", job="7")
    result = {"status": "completed", "cause": None, "message": None, "ended": 3.0}
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "CANCELLED")]))
    assert statuses(ledger, pack[0])[:2] == ["failed", "blocked"]
    if "earlier" in when:
        intend(ledger, root, runs[:1], "beef")
        answer(ledger, root, "beef", job_id="8")
        whole_files.write_json(root.submission("beef").task(0), {"job": "8", "restart": 0, "host": "n1", "pid": 1})
        if "before" in when:
            whole_files.write_json(first.result, result)
        reconciling.reconcile(ledger, root, FakeSlurm([], [Job("8", "tt-beef", "CANCELLED")]))
    whole_files.write_json(first.result, result)
    if "begun" in when:  # and its process killed then
        claim(root, pack[0], "add_tokenizer", job="7")
    reconciling.late_results(ledger, root)
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    for each in (ledger, again):
        assert statuses(each, pack[0]) == ["completed", "failed", "blocked", "blocked"], "and not eligible for a tick"
        assert causes(each, pack[0])[1] == "cancelled"
    for stage, number in (("add_tokenizer", 1), ("blimp", 1), ("add_tokenizer", 2), ("blimp", 2)):
        assert again.attempt(pack[0], stage, number) == ledger.attempt(pack[0], stage, number)
    again.close()


def test_what_is_done_again_on_purpose_does_not_make_way(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    complete(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "COMPLETED")]))
    intend(ledger, root, runs[:1], "beef", done={(pack[0], "pretrain"): 1})
    answer(ledger, root, "beef", job_id="8")
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("8", "tt-beef", "CANCELLED")]))
    reconciling.late_results(ledger, root)
    assert [row["status"] for row in ledger.history(pack[0], "pretrain")] == ["completed", "failed"]


@pytest.mark.parametrize("when", ["before its job left", "after"])
def test_an_attempt_that_was_left_to_an_earlier_one_makes_way_for_its_result(ledger, root, runs, when, tmp_path):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    first = claim(root, pack[0], "pretrain", job="7_0")
    reconciling.reconcile(ledger, root, FakeSlurm([], []))
    assert causes(ledger, pack[0])[0] == "lost", "though it goes on"
    intend(ledger, root, runs[:1], "beef")
    answer(ledger, root, "beef", job_id="8")
    whole_files.write_json(root.submission("beef").task(0), {"job": "8", "restart": 0, "host": "n1", "pid": 1})
    result = {"status": "completed", "cause": None, "message": None, "ended": 3.0}
    if when != "after":
        whole_files.write_json(first.result, result)
    left = FakeSlurm([], [Job("8", "tt-beef", "COMPLETED")])
    reconciling.reconcile(ledger, root, left)
    if when == "after":
        assert causes(ledger, pack[0])[0] == "lost"
        whole_files.write_json(first.result, result)
        reconciling.late_results(ledger, root)
    assert statuses(ledger, pack[0])[0] == "completed"
    assert [(row["number"], row["status"]) for row in ledger.history(pack[0], "pretrain")] == [(1, "completed")]
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    for number in (1, 2):
        assert again.attempt(pack[0], "pretrain", number) == ledger.attempt(pack[0], "pretrain", number)
    again.close()


@pytest.mark.parametrize("when", ["before its job left", "after", "while the other is open"])
def test_an_attempt_that_the_job_of_an_earlier_submission_has_begun_is_that_ones(ledger, root, runs, when, tmp_path):
    """Its node was lost to SLURM; the job was requeued there, cancelled, and done again, and goes on with the number
    that was planned for that: a walk has found it."""
    (pack, *_) = intend(ledger, root, runs[:2])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7_0")
    others = [Job("7_1", "tt-cafe", "RUNNING")] if "open" in when else []
    ended = [Job("7_0", "tt-cafe", "CANCELLED"), Job("7_1", "tt-cafe", "CANCELLED"), Job("8", "tt-beef", "COMPLETED")]
    reconciling.reconcile(ledger, root, FakeSlurm(others, ended))
    assert causes(ledger, pack[0])[0] == "cancelled"
    intend(ledger, root, runs[:1], "beef")
    answer(ledger, root, "beef", job_id="8")
    whole_files.write_json(root.submission("beef").task(0), {"job": "8", "restart": 0, "host": "n1", "pid": 1})
    second = claim(root, pack[0], "pretrain", 2, job="7_0", restart=1)
    result = {"status": "completed", "cause": None, "message": None, "ended": 3.0}
    if "before" in when:
        whole_files.write_json(second.result, result)
        complete(root, pack[0], "add_tokenizer", job="7_0", restart=1)
    for _ in range(2):
        reconciling.reconcile(ledger, root, FakeSlurm(others, ended))
    whole_files.write_json(second.result, result)
    reconciling.late_results(ledger, root)
    told = [(row["number"], row["status"], row["submission_id"]) for row in ledger.history(pack[0], "pretrain")]
    assert told == [(1, "failed", "cafe"), (2, "completed", "cafe")]
    reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    assert list(ledger.open_submissions()) == []
    assert ledger.attempt(pack[0], "add_tokenizer", 1)["status"] == ("completed" if "before" in when else "failed")
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    for stage in STAGES:
        for number in (1, 2):
            assert again.attempt(pack[0], stage, number) == ledger.attempt(pack[0], stage, number)
    again.close()


def begun_again(root):
    """Its job was requeued, and a life of it has taken the pack once more."""
    task = root.submission("cafe").task(0)
    life = whole_files.read_json(task)
    whole_files.write_json(task, {**life, "restart": 1, "earlier": [life]})


@pytest.mark.parametrize("begun", ["the next life", "the first one, which nobody saw"])
def test_a_ledger_that_is_made_again_lets_an_attempt_be_that_ones_who_has_begun_it(ledger, root, runs, begun, tmp_path):
    """A job was requeued, cancelled, and done again. Its next life finds the other at work and leaves; or its first one
    goes on unseen, and dies in a later stage: a walk has found it."""
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    first = claim(root, pack[0], "pretrain", job="7")
    unseen = "first" in begun
    if unseen:
        begun_again(root)
    ended = [lives("NODE_FAIL", "CANCELLED"), Job("8", "tt-beef", "COMPLETED")]
    reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    assert causes(ledger, pack[0])[0] == "cancelled"
    intend(ledger, root, runs[:1], "beef")
    answer(ledger, root, "beef", job_id="8")
    if unseen:
        whole_files.write_json(first.result, {"status": "completed", "cause": None, "message": None, "ended": 3.0})
        claim(root, pack[0], "add_tokenizer", job="7")
    else:
        complete(root, pack[0], "pretrain", 2, job="8", submission_id="beef")
    begun_again(root)
    for stage in STAGES[1:]:
        complete(root, pack[0], stage, 2, job="8", submission_id="beef")
    for _ in range(2):
        reconciling.reconcile(ledger, root, FakeSlurm([], ended))
        reconciling.late_results(ledger, root)
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    for each in (ledger, again):
        assert statuses(each, pack[0]) == ["completed"] * len(STAGES)
        assert each.attempt(pack[0], "add_tokenizer", 2)["submission_id"] == "beef"
    for stage in STAGES:
        for number in (1, 2, 3):
            assert again.attempt(pack[0], stage, number) == ledger.attempt(pack[0], stage, number)
    again.close()


def test_a_ledger_that_is_made_again_has_no_next_attempt_of_a_stage_whose_turn_had_not_come(
    ledger, root, runs, tmp_path
):
    """A life that nobody saw completes its stage, begins the next one and dies, once the job has been given up."""
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    first = claim(root, pack[0], "pretrain", job="7")
    begun_again(root)
    ended = [lives("NODE_FAIL", "FAILED")]
    reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    whole_files.write_json(first.result, {"status": "completed", "cause": None, "message": None, "ended": 3.0})
    claim(root, pack[0], "add_tokenizer", job="7")
    begun_again(root)
    reconciling.late_results(ledger, root)
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    assert ledger.attempt(pack[0], "add_tokenizer", 1)["status"] == "void"
    for stage in STAGES:
        for number in (1, 2, 3):
            assert again.attempt(pack[0], stage, number) == ledger.attempt(pack[0], stage, number)
    again.close()


def same_again(ledger, root, run_id, path):
    """Whether a ledger that is made again has the same of a run, and of the submissions."""
    again = Ledger(path)
    assert reconciling.rebuild(again, root) == []
    for stage in STAGES:
        for number in (1, 2, 3):
            assert again.attempt(run_id, stage, number) == ledger.attempt(run_id, stage, number)
    kept, made = ({row["submission_id"]: row for row in each.submissions()} for each in (ledger, again))
    assert made == kept
    again.close()


@pytest.mark.parametrize("end", ["killed", "out_of_memory"])
def test_what_a_cancelled_job_went_on_with_unseen_is_told_with_its_times_and_hours(ledger, root, runs, end, tmp_path):
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    first = claim(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "CANCELLED")]))
    whole_files.write_json(first.result, {"status": "completed", "cause": None, "message": None, "ended": 3601.0})
    second = claim(root, pack[0], "add_tokenizer", job="7")
    whole_files.write_json(second.claim, {**whole_files.read_json(second.claim), "time": 3602.0})
    whole_files.write_json(second.heartbeat, {"time": 7202.0, "fraction": 0.5})
    if end == "out_of_memory":
        said = {"status": "failed", "cause": end, "message": "no room", "ended": 7202.0}
        whole_files.write_json(second.result, said)
    reconciling.late_results(ledger, root)
    told = ledger.attempt(pack[0], "add_tokenizer", 1)
    cause = "cancelled" if end == "killed" else end
    assert (told["status"], told["cause"], told["started"], told["ended"]) == ("failed", cause, 3602.0, 7202.0)
    assert statuses(ledger, pack[0]) == ["completed", "failed", "blocked", "blocked"]
    assert ledger.submissions()[0]["spent"] == pytest.approx(2.0), "hours on the one GPU that it had"
    same_again(ledger, root, pack[0], tmp_path / "again.db")


def given_up(ledger, root, runs):
    """A job that was judged, and another one that its stages were sent with."""
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7", "tt-cafe", "FAILED")]))
    intend(ledger, root, runs[:1], "beef")
    answer(ledger, root, "beef", job_id="8")
    return pack[0]


def test_what_stands_behind_a_stage_that_another_job_goes_on_with_has_not_failed(ledger, root, runs, tmp_path):
    run_id = given_up(ledger, root, runs)
    whole_files.write_json(root.submission("beef").task(0), {"job": "8", "restart": 0, "host": "n1", "pid": 1})
    claim(root, run_id, "pretrain", 2, job="7", restart=1)
    for _ in range(2):
        slurm = FakeSlurm([Job("7", "tt-cafe", "RUNNING")], [Job("8", "tt-beef", "COMPLETED")])
        reconciling.reconcile(ledger, root, slurm)
    assert statuses(ledger, run_id) == ["running", "waiting", "waiting", "waiting"]
    same_again(ledger, root, run_id, tmp_path / "again.db")


def test_what_a_job_completes_under_the_number_of_another_that_was_judged_counts(ledger, root, runs, tmp_path):
    """The other one was cancelled before it began; the first one was requeued after that."""
    run_id = given_up(ledger, root, runs)
    ended = [Job("7", "tt-cafe", "COMPLETED"), Job("8", "tt-beef", "CANCELLED")]
    reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    complete(root, run_id, "pretrain", 2, job="7", restart=1)
    for stage in STAGES[1:]:
        complete(root, run_id, stage, job="7", restart=1)
    reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    reconciling.late_results(ledger, root)
    assert statuses(ledger, run_id) == ["completed"] * len(STAGES)
    assert ledger.attempt(run_id, "pretrain", 2)["submission_id"] == "cafe"
    same_again(ledger, root, run_id, tmp_path / "again.db")


@pytest.mark.parametrize("planned", ["nobody", "one that sbatch refused", "one that was cancelled"])
@pytest.mark.parametrize("lives", [2, 3])
def test_what_a_job_completes_after_it_was_judged_is_heard_under_any_number(
    ledger, root, runs, planned, lives, tmp_path
):
    """It was requeued by hand, or SLURM had lost sight of it; it was out of time in its second life, or not."""
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    claim(root, pack[0], "pretrain", job="7")
    ended = [Job("7", "tt-cafe", "FAILED"), Job("8", "tt-beef", "CANCELLED")]
    reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    if planned != "nobody":
        intend(ledger, root, runs[:1], "beef")
        answer(ledger, root, "beef", job_id="8", state="refused" if "refused" in planned else "submitted")
        reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    if "refused" in planned:
        for stage in STAGES:
            ledger.put_attempt(pack[0], stage, 2, status="void")
    for number in range(2, lives):
        claim(root, pack[0], "pretrain", number, job="7", restart=number - 1)
    complete(root, pack[0], "pretrain", lives, job="7", restart=lives - 1)
    for stage in STAGES[1:]:
        complete(root, pack[0], stage, job="7", restart=lives - 1)
    reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    reconciling.late_results(ledger, root)
    reconciling.reconcile(ledger, root, FakeSlurm([], ended))
    assert statuses(ledger, pack[0]) == ["completed"] * len(STAGES)
    assert {ledger.attempt(pack[0], "pretrain", n)["submission_id"] for n in range(1, lives + 1)} == {"cafe"}
    same_again(ledger, root, pack[0], tmp_path / "again.db")


def test_a_life_that_ends_unseen_while_slurm_answers_is_not_judged(ledger, root, runs):
    """Its job was requeued, and waits; squeue took its time: a walk has found it."""
    (pack,) = intend(ledger, root, runs[:1])
    answer(ledger, root)
    first = claim(root, pack[0], "pretrain", job="7")
    begun_again(root)

    class Slow(FakeSlurm):
        def history(self, names, days):
            result = {"status": "completed", "cause": None, "message": None, "ended": 3.0}
            whole_files.write_json(first.result, result)
            return super().history(names, days)

    reconciling.reconcile(ledger, root, Slow([Job("7", "tt-cafe", "RUNNING")], [lives("NODE_FAIL", "RUNNING")]))
    assert [ledger.attempt(pack[0], "pretrain", number)["status"] for number in (1, 2)] == ["completed", "submitted"]
    assert not first.verdict.exists()


def test_a_claim_that_was_seen_and_withdrawn_is_none(ledger, root, runs, tmp_path):
    """Its job has found the one before it at work, and has left; that one completes."""
    run_id = given_up(ledger, root, runs)
    second = claim(root, run_id, "pretrain", 2, job="8", submission_id="beef")
    reconciling.reconcile(ledger, root, FakeSlurm([Job("8", "tt-beef", "RUNNING")], []))
    assert statuses(ledger, run_id)[0] == "running"
    second.claim.unlink()
    result = {"status": "completed", "cause": None, "message": None, "ended": 3.0}
    whole_files.write_json(root.run(run_id).attempt("pretrain", 1).result, result)
    ended = FakeSlurm([], [Job("7", "tt-cafe", "FAILED"), Job("8", "tt-beef", "COMPLETED")])
    reconciling.reconcile(ledger, root, ended)
    reconciling.late_results(ledger, root)
    assert statuses(ledger, run_id)[:2] == ["completed", "eligible"]
    same_again(ledger, root, run_id, tmp_path / "again.db")


# -- a lost answer ----------------------------------------------------------------------------------------------------


def test_a_job_whose_answer_was_lost_is_adopted_from_the_queue(ledger, root, runs):
    packs = intend(ledger, root, runs[:2])
    slurm = FakeSlurm([Job("9_0", "tt-cafe", "RUNNING"), Job("9_1", "tt-cafe", "PENDING"), Job("8", "x", "RUNNING")])
    reconciling.reconcile(ledger, root, slurm)
    (submission,) = ledger.open_submissions()
    assert (submission["state"], submission["job_id"]) == ("submitted", "9")
    assert whole_files.read_json(root.submission("cafe").answer)["job_id"] == "9"
    assert statuses(ledger, packs[0][0]) == ["submitted"] * 4


def test_tasks_of_an_adopted_array_that_have_left_the_queue_are_judged_by_accounting(ledger, root, runs):
    packs = intend(ledger, root, runs[:2])
    slurm = FakeSlurm([Job("9_1", "tt-cafe", "PENDING")], [Job("9_0", "tt-cafe", "OUT_OF_MEMORY", node="n1")])
    reconciling.reconcile(ledger, root, slurm)
    assert causes(ledger, packs[0][0])[0] == "out_of_memory"


def test_an_intent_without_its_folder_is_void(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    shutil.rmtree(root.submission("cafe").path)
    reconciling.reconcile(ledger, root, FakeSlurm())
    assert statuses(ledger, pack[0])[0] == "eligible"


def test_a_job_whose_answer_was_lost_is_adopted_from_accounting(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("9", "tt-cafe", "NODE_FAIL", node="n1")]))
    assert causes(ledger, pack[0])[0] == "node_fail"


@pytest.mark.parametrize("slurm", [FakeSlurm(None), FakeSlurm([], None)], ids=["no squeue", "no sacct"])
def test_an_unanswered_submission_stays_while_slurm_is_silent(ledger, root, runs, slurm):
    intend(ledger, root, runs[:1])
    age(root)
    reconciling.reconcile(ledger, root, slurm)
    assert [row["state"] for row in ledger.open_submissions()] == ["intended"]


def age(root, seconds=3600):
    path = root.submission("cafe").submission
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("scheduler", ["slurm", "local"])
def test_an_unanswered_submission_is_void_only_once_its_absence_is_proven(ledger, root, runs, scheduler):
    (pack,) = intend(ledger, root, runs[:1], scheduler=scheduler)
    reconciling.reconcile(ledger, root, FakeSlurm())
    assert statuses(ledger, pack[0]) == ["submitted"] * 4, "sbatch may still be trying"
    age(root)
    reconciling.reconcile(ledger, root, FakeSlurm())
    assert ledger.open_submissions() == []
    assert statuses(ledger, pack[0]) == ["eligible", "waiting", "waiting", "waiting"]
    assert ledger.states()[pack[0]]["pretrain"].attempts == 1, "its number is not used again"


def test_an_sbatch_that_never_reached_the_controller_need_not_be_waited_for(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    whole_files.write_json(root.submission("cafe").answer, {"state": "intended", "reached": False})
    reconciling.reconcile(ledger, root, FakeSlurm(None))
    assert statuses(ledger, pack[0]) == ["submitted"] * 4, "silence proves nothing"
    reconciling.reconcile(ledger, root, FakeSlurm())
    assert statuses(ledger, pack[0])[0] == "eligible"


def test_a_job_that_arrives_while_it_is_given_up_is_adopted(ledger, root, runs, monkeypatch):
    (pack,) = intend(ledger, root, runs[:1])
    age(root)
    directory = root.submission("cafe")
    write = whole_files.write_json

    def late(path, value):
        write(path, value)
        if value.get("state") == "void":
            write(directory.task(0), {"job": "9", "restart": 0, "host": "n1", "pid": 1})

    monkeypatch.setattr(whole_files, "write_json", late)
    reconciling.reconcile(ledger, root, FakeSlurm())
    assert whole_files.read_json(directory.answer) == {"state": "submitted", "job_id": "9"}
    assert statuses(ledger, pack[0])[0] == "submitted"


# -- this machine -----------------------------------------------------------------------------------------------------


def test_a_local_pack_is_alive_as_long_as_its_process(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1], scheduler="local")
    me = {"host": os.uname().nodename, "pid": os.getpid(), "start": processes.process_start(os.getpid())}
    answer(ledger, root, job_id="local-1", process=me)
    claim(root, pack[0], "pretrain", job="local-1")
    assert reconciling.reconcile(ledger, root, FakeSlurm(None)) == "none"
    assert statuses(ledger, pack[0])[0] == "running"
    whole_files.write_json(
        root.submission("cafe").task(0), me | {"job": "local-1", "restart": 0, "start": "0"}
    )  # its pid came again
    reconciling.reconcile(ledger, root, FakeSlurm(None))
    assert (statuses(ledger, pack[0])[0], causes(ledger, pack[0])[0]) == ("failed", "lost")


def test_a_process_of_another_machine_is_not_judged(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1], scheduler="local")
    answer(ledger, root, job_id="local-1", process={"host": "elsewhere", "pid": 1, "start": "0"})
    claim(root, pack[0], "pretrain")
    reconciling.reconcile(ledger, root, FakeSlurm())
    assert statuses(ledger, pack[0])[0] == "running"


def test_a_local_pack_that_was_cancelled_before_it_was_started_is_void(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1], scheduler="local")
    launch.cancel_local(root.submission("cafe"), 0)
    age(root)
    reconciling.reconcile(ledger, root, FakeSlurm())
    assert statuses(ledger, pack[0])[0] == "eligible"


def test_a_cancelled_submission_that_arrives_after_all_leaves_as_cancelled(ledger, root, runs):
    (pack,) = intend(ledger, root, runs[:1])
    whole_files.write_json(root.submission("cafe").answer, {"state": "intended", "cancelled": True})
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "PENDING")]))
    assert whole_files.read_json(root.submission("cafe").answer) == {
        "state": "submitted",
        "job_id": "7",
        "cancelled": True,
    }
    whole_files.write_json(root.submission("cafe").task(0), {"job": "7", "restart": 0, "host": "n1", "pid": 1})
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "COMPLETED")]))
    assert causes(ledger, pack[0])[0] == "cancelled"


# -- rebuilding -------------------------------------------------------------------------------------------------------


def test_a_rebuilt_ledger_equals_the_old_one(ledger, root, runs, tmp_path):
    packs = intend(ledger, root, runs, runs_per_pack=2)
    answer(ledger, root)
    for stage in STAGES:
        complete(root, packs[0][0], stage)
    complete(root, packs[0][1], "pretrain")
    claim(root, packs[0][1], "add_tokenizer")
    recording.record_studies(
        ledger, root, [records.StudyRecord("z/1", "Why?", (runs[0].id,)), records.StudyRecord("first", "", ())]
    )
    renamed = replace(runs[0], name="another", studies=("third",))
    recording.record_runs(ledger, root, [renamed], "2026-11-22T12:00:00")
    slurm = FakeSlurm([Job("7_0", "tt-cafe", "TIMEOUT"), Job("7_1", "tt-cafe", "CANCELLED")])
    reconciling.reconcile(ledger, root, slurm)
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    assert again.names([runs[0].id]) == {runs[0].id: runs[0].name}, "a run keeps its first name"
    assert json.dumps(again.overview()) == json.dumps(ledger.overview())
    assert list(again.scores()) == list(ledger.scores())
    assert [study["name"] for study in again.studies()] == ["first", "z/1"]
    tables = ("run", "study_run", "study", "submission", "score", "metric", "data_file", "check_result")
    for table in tables:
        query = f"SELECT * FROM {table} ORDER BY 1, 2"
        assert list(again.db.query(query)) == list(ledger.db.query(query)), table
    again.close()


def test_a_smoke_run_among_real_ones_is_told_and_does_not_count(root, runs, tmp_path):
    trial = replace(runs[0], config=runs[0].config.model_copy(update={"smoke": True}))
    for number, place in enumerate((root, root.smoke, root.smoke.probe)):
        recording.record_runs(Ledger(tmp_path / f"{number}.db"), place, [trial], "2026-11-22T12:00:00")
    again, apart, probed = (Ledger(tmp_path / f"{name}.db") for name in ("again", "apart", "probed"))
    (told,) = reconciling.rebuild(again, root)
    assert "is a smoke run among real ones, where it would count: it belongs below smoke/" in told
    assert again.overview() == []
    assert reconciling.rebuild(apart, root.smoke) == reconciling.rebuild(probed, root.smoke.probe) == []
    assert [row["run_id"] for row in apart.overview()] == [trial.id]


def test_a_probes_run_among_real_ones_is_told_and_does_not_count(root, runs, tmp_path):
    config = expansion.as_probe(runs[0].config)
    probe = replace(runs[0], id=expansion.identity(config), config=config)
    assert probe.id != runs[0].id
    for place in (root, root.probe, OutputRoot(tmp_path / "copied" / "probes"), root.smoke.probe):
        with contextlib.closing(Ledger(tmp_path / "planned.db")) as ledger:
            recording.record_runs(ledger, place, [probe], "2026-11-22T12:00:00")
        (tmp_path / "planned.db").unlink()
        with contextlib.closing(Ledger(tmp_path / "again.db")) as again:
            told = reconciling.rebuild(again, place)
            if place.path.name == "probe":
                assert (told, [row["run_id"] for row in again.overview()]) == ([], [probe.id])
            else:
                assert "is a probe's run among real ones, where it would count: it belongs below probe/" in told[0]
                assert again.overview() == []
        (tmp_path / "again.db").unlink()


def test_a_torn_run_file_is_told_and_the_others_are_kept(ledger, root, runs, tmp_path):
    intend(ledger, root, runs[:2])
    root.run(runs[0].id).run_json.write_text('{"run_id": ')
    again = Ledger(tmp_path / "again.db")
    (torn,) = reconciling.rebuild(again, root)
    assert runs[0].id in torn
    assert [run["run_id"] for run in again.overview()] == [runs[1].id]
    again.close()


FORMS = ("[" * 100_000, "[1]", '"x"', "3", "null", "{}", '{"status": ["completed"], "time": 1e999, "state": 1}')
PLACES = ("result", "claim", "verdict", "heartbeat", "run", "submission", "answer", "task", "study", "decision")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_file_of_another_form_is_left_out_and_named_and_all_else_is_as_before(ledger, root, runs, place, form):
    recording.record_studies(ledger, root, [records.StudyRecord("first", "", ())])
    for submission_id, run in (("cafe", runs[0]), ("beef", runs[1])):
        intend(ledger, root, [run], submission_id)
        answer(ledger, root, submission_id)
        for stage in STAGES[:3]:
            complete(root, run.id, stage, job="7", submission_id=submission_id)
    attempt = root.run(runs[0].id).attempt("blimp", 1)
    if place in ("verdict", "heartbeat"):
        attempt.result.unlink()
    submission = root.submission("cafe")
    path = {
        "run": root.run(runs[0].id).run_json, "submission": submission.submission, "answer": submission.answer,
        "task": submission.task(0), "study": root.study("first"),
    }.get(place) or getattr(attempt, place)  # fmt: skip
    path.write_text(form)
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7", "tt-cafe", "RUNNING"), Job("7", "tt-beef", "RUNNING")]))
    assert statuses(ledger, runs[1].id)[:3] == ["completed"] * 3
    ledger.close()
    root.ledger.unlink()
    again = Ledger(root.ledger)
    named = reconciling.rebuild(again, root)
    assert [str(path) in text for text in named] == [True] * (place not in ("answer", "task"))
    assert statuses(again, runs[1].id)[:3] == ["completed"] * 3
    again.close()


# -- runs that another task has pulled ---------------------------------------------------------------------------------


def pull(root, run_id, pack, submission_id="cafe"):
    """As the task of a pack does before anything else."""
    assert whole_files.create_json(root.submission(submission_id).taken(run_id), {"pack": pack})


def begin(root, index, submission_id="cafe"):
    task = {"job": f"7_{index}", "restart": 0, "host": "n1", "pid": 1, "start": "1"}
    whole_files.write_json(root.submission(submission_id).task(index), task)


def pack_of(ledger, run_id):
    return {row["pack_index"] for row in ledger.attempts_in("cafe") if row["run_id"] == run_id}


def pulling(ledger, root, runs):
    """Packs of one run each; the task of the first has pulled the second's. Returns their runs."""
    (own,), (other,) = intend(ledger, root, runs[:2])
    answer(ledger, root)
    begin(root, 0)
    for run_id in (own, other):
        pull(root, run_id, 0)
    complete(root, own, "pretrain")
    return own, other


def test_a_run_that_another_task_has_pulled_is_not_lost_when_its_own_ends_without_it(ledger, root, runs):
    _, other = pulling(ledger, root, runs)
    for history in ([], [Job("7_1", "tt-cafe", "COMPLETED")]):
        reconciling.reconcile(ledger, root, FakeSlurm([Job("7_0", "tt-cafe", "RUNNING")], history))
        assert statuses(ledger, other) == ["submitted"] * 4
        assert pack_of(ledger, other) == {0}
    complete(root, other, "pretrain", job="7_0")
    reconciling.reconcile(ledger, root, FakeSlurm([Job("7_0", "tt-cafe", "RUNNING")]))
    assert statuses(ledger, other)[0] == "completed"


def test_a_run_is_judged_by_the_task_that_has_pulled_it_though_it_was_killed_before_it_began(ledger, root, runs):
    _, other = pulling(ledger, root, runs)
    slurm = FakeSlurm([Job("7_1", "tt-cafe", "PENDING")], [Job("7_0", "tt-cafe", "NODE_FAIL", node="n1")])
    reconciling.reconcile(ledger, root, slurm)
    assert (statuses(ledger, other)[0], causes(ledger, other)[0]) == ("failed", "node_fail")


def test_a_run_that_nobody_has_begun_can_not_be_pulled_once_it_is_judged(ledger, root, runs):
    (own,), (other,) = intend(ledger, root, runs[:2])
    answer(ledger, root)
    begin(root, 0)
    running = Job("7_0", "tt-cafe", "RUNNING")
    reconciling.reconcile(ledger, root, FakeSlurm([running], [Job("7_1", "tt-cafe", "CANCELLED")]))
    assert causes(ledger, other)[0] == "cancelled"
    assert root.submission("cafe").taken_runs() == {other}
    assert whole_files.read_json(root.submission("cafe").taken(other)) == {"pack": 1}
    assert statuses(ledger, own)[0] == "submitted"


def test_a_run_that_is_pulled_while_its_pack_is_judged_is_the_pullers(ledger, root, runs):
    _, (other,) = intend(ledger, root, runs[:2])
    answer(ledger, root)
    begin(root, 0)

    class PulledMeanwhile(FakeSlurm):
        def history(self, names, days):
            pull(root, other, 0)
            return super().history(names, days)

    jobs = [Job("7_0", "tt-cafe", "RUNNING")], [Job("7_1", "tt-cafe", "CANCELLED")]
    reconciling.reconcile(ledger, root, PulledMeanwhile(*jobs))
    reconciling.reconcile(ledger, root, FakeSlurm(*jobs))
    assert (statuses(ledger, other), pack_of(ledger, other)) == (["submitted"] * 4, {0})


def test_a_ledger_made_anew_knows_who_has_pulled_what(ledger, root, runs, tmp_path):
    _, other = pulling(ledger, root, runs)
    complete(root, other, "pretrain", job="7_0")
    reconciling.reconcile(ledger, root, FakeSlurm([], [Job("7_0", "tt-cafe", "COMPLETED")]))
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    assert pack_of(again, other) == pack_of(ledger, other) == {0}
    assert again.attempts_in("cafe") == ledger.attempts_in("cafe")
