"""What limits, rules and the code's version let through."""

import pytest

from cluster.errors import BreakerOpen, InputError, SlurmSilent
from cluster.files import folders, whole_files
from cluster.ledger import recording
from cluster.plan import cost, outlook
from cluster.sites.profiles import Rule, Site
from cluster.slurm.answers import Job
from cluster.slurm.queries import Limits
from cluster.submit import dispatch, retries
from cluster.submit.wording import _new, say_decided

SITE = Site(name="test", scheduler="slurm", account="acc", runs_per_pack=1, cpus=4)


class FakeSlurm:
    """A queue, and what an account allows; None is silence."""

    def __init__(self, jobs=(), limits=None, silent=False, partition=None, settings=None):
        self.seen = None
        self._settings = settings
        self._jobs, self._limits, self._silent, self._partition = jobs, limits, silent, partition

    def partition(self, name):
        assert name == "gpu"
        return self._partition

    def queue(self):
        return None if self._silent else {job.key: job for job in self._jobs}

    def limits(self, account, qos, partitions):
        assert (account, qos) == ("acc", None)
        assert partitions == ({} if self._partition is None else {"gpu": self._partition})
        return self._limits

    def configuration(self):
        return self._settings


def ask(runs, slurm, site=SITE, **words):
    todo = [(run, list(run.stages)) for run in runs]
    return dispatch.request(None, runs, todo, {}, site, cost.Measured(1e12), [], slurm, **words)


def packs(arrays):
    return sum(len(array.packs) for array in arrays)


def jobs(*states, account="ACC"):
    return [Job(str(number), "x", state, account=account) for number, state in enumerate(states)]


@pytest.mark.parametrize(
    ("limits", "site", "now"),
    [(Limits(max_submit=5), {}, 5 - 2), (None, {"max_submit": 4}, 4 - 2), (Limits(max_submit=9), {"max_submit": 3}, 1),
     (Limits(max_submit=2), {}, 0), (Limits(), {}, 7), (None, {}, 7)],
)  # fmt: skip
def test_no_more_is_submitted_than_the_account_has_room_for(runs, limits, site, now):
    queue = [*jobs("RUNNING", "PENDING", "COMPLETED"), Job("9", "x", "RUNNING", account="other")]
    request = ask(runs, FakeSlurm(queue, limits), SITE.model_copy(update=site))
    assert (packs(request.arrays), packs(request.held)) == (now, 7 - now)


def test_without_an_answer_nothing_is_submitted_under_a_limit(runs):
    with pytest.raises(SlurmSilent, match="squeue did not answer"):
        ask(runs, FakeSlurm(silent=True, limits=Limits(max_submit=5)))


def test_an_account_that_runs_one_job_at_a_time_gets_long_packs_within_its_time(runs):
    site = SITE.model_copy(update={"runs_per_pack": None, "slots": 1})
    request = ask(runs, FakeSlurm(limits=Limits(max_jobs=1, max_time=600)), site)
    (array,) = request.arrays
    assert (len(array.packs), len(array.packs[0].items)) == (1, 7)
    assert array.resources.minutes <= 600


def in_partition(runs, partition, **words):
    site = SITE.model_copy(update={"partition": "gpu", "max_time": 6000, "min_time": 5000, **words})
    return ask(runs, FakeSlurm(partition=partition), site).arrays[0].resources.minutes


def test_no_more_time_is_asked_for_than_the_partition_gives(runs):
    assert in_partition(runs, {"MaxTime": "1-00:00:00"}) == 1440
    assert in_partition(runs, {"MaxTime": "UNLIMITED"}) == 5000
    assert in_partition(runs, None) == 5000, "no answer is no limit"


@pytest.mark.parametrize(
    ("partition", "message"),
    [({}, "no partition gpu"), ({"MaxMemPerCPU": "3000"}, "memory_per_cpu is 4000 MB, .* gives at most 3000")],
)
def test_what_the_partition_would_not_give_is_refused_before_sbatch(runs, partition, message):
    with pytest.raises(InputError, match=message):
        in_partition(runs, partition)


class Partitions(FakeSlurm):
    """A cluster of several partitions: name -> scontrol's words, or None where it does not answer."""

    def __init__(self, partitions, **words):
        super().__init__(**words)
        self.partitions = partitions

    def partition(self, name):
        return self.partitions.get(name, {})

    def limits(self, account, qos, partitions):  # noqa: ARG002
        assert list(partitions) == [name for name, words in self.partitions.items() if words is not None]
        return self._limits


BOTH = SITE.model_copy(update={"partition": "compute-p1,compute-p2", "max_time": 6000, "min_time": 5000})


def test_of_several_partitions_the_narrowest_limits_hold_since_a_job_may_go_to_either(runs):
    slurm = Partitions({"compute-p1": {"MaxTime": "1-00:00:00"}, "compute-p2": {"MaxTime": "2-00:00:00"}})
    assert ask(runs, slurm, BOTH).arrays[0].resources.minutes == 1440
    slurm = Partitions({"compute-p1": {"MaxTime": "UNLIMITED"}, "compute-p2": None})
    assert ask(runs, slurm, BOTH).arrays[0].resources.minutes == 5000
    with pytest.raises(InputError, match="no partition compute-p2"):
        ask(runs, Partitions({"compute-p1": {"MaxTime": "UNLIMITED"}}), BOTH)
    mean = {"compute-p1": {"MaxMemPerCPU": "9000"}, "compute-p2": {"MaxMemPerCPU": "3000"}}
    with pytest.raises(InputError, match="partition compute-p2 gives at most 3000"):
        ask(runs, Partitions(mean), BOTH)


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [({"MaxArraySize": "3"}, [3, 3, 1]), *((said, [5, 2]) for said in ({"MaxArraySize": "1001"}, {"MaxArraySize": "0"},
     {}, None))],
)  # fmt: skip
def test_arrays_are_cut_at_the_smaller_of_what_slurm_and_the_profile_say(runs, settings, sizes):
    request = ask(runs, FakeSlurm(settings=settings), SITE.model_copy(update={"max_array_size": 5}))
    assert [len(array.packs) for array in request.arrays] == sizes


def failed(
    ledger, run, cause, message="no", submission_id="cafe", number=1, pack_index=0, ended=1.0, asked_by="submit"
):
    if submission_id not in ledger.submission_ids():
        ledger.record_runs([run], "2026")
        row = {
            "submission_id": submission_id,
            "created": f"2026-{submission_id}",
            "state": "done",
            "asked_by": asked_by,
            "scheduler": "slurm",
        }
        ledger.record_submission(row, [])
    values = {
        "submission_id": submission_id,
        "pack_index": pack_index,
        "status": "failed",
        "cause": cause,
        "message": message,
        "ended": ended,
    }
    ledger.put_attempt(run.id, "pretrain", number, **values)


def test_a_decision_is_made_once_and_is_a_file_and_a_row(ledger, root, runs):
    failed(ledger, runs[0], "timeout")
    assert retries.decide(ledger, root, lambda _: SITE, 10.0).decided == [], "its files were removed"
    root.attempt(runs[0].id, "pretrain", 1).path.mkdir(parents=True)
    assert retries.decide(ledger, root, lambda _: None, 10.0).decided == [], "nobody knows where it ran"
    first = retries.decide(ledger, root, lambda _: SITE, 10.0)
    assert first.due == {runs[0].id: ["pretrain"]}
    (decision,) = first.decided
    assert (decision["action"], decision["changes"]) == ("retry", "1.5 x the time")
    assert whole_files.read_json(root.run(runs[0].id).attempt("pretrain", 1).decision) == decision
    again = retries.decide(ledger, root, lambda _: SITE, 20.0)
    assert (again.decided, again.due) == ([], first.due), "it stays due until it is submitted"
    assert list(ledger.decisions().values()) == [decision]


def test_what_is_to_wait_is_not_due_yet(ledger, root, runs):
    site = SITE.model_copy(update={"retry": {"lost": Rule(times=1, wait=5)}})
    failed(ledger, runs[0], "lost", ended=100.0)
    root.attempt(runs[0].id, "pretrain", 1).path.mkdir(parents=True)
    assert retries.decide(ledger, root, lambda _: site, 110.0).waiting == 1
    assert retries.decide(ledger, root, lambda _: site, 500.0).due == {runs[0].id: ["pretrain"]}


def test_what_was_to_be_tried_again_is_left_alone_once_nobody_knows_where_it_was_submitted(ledger, root, runs):
    failed(ledger, runs[0], "lost")
    root.attempt(runs[0].id, "pretrain", 1).path.mkdir(parents=True)
    assert retries.decide(ledger, root, lambda _: SITE, 10.0).due
    plan = retries.decide(ledger, root, lambda _: None, 10.0)
    assert (plan.due, plan.waiting, plan.left) == ({}, 0, 1)


def test_the_breaker_opens_after_the_same_failure_again_and_again_until_a_person_reruns(ledger, runs):
    ledger.record_runs(runs, "2026")
    for number, run in enumerate(runs[:5]):
        retries.check_breaker(ledger, SITE)
        failed(ledger, run, "error", f"no module torch in /x/{number}", pack_index=number, ended=float(number))
    with pytest.raises(BreakerOpen, match="last 5 packs failed alike .*no module torch"):
        retries.check_breaker(ledger, SITE)
    retries.check_breaker(ledger, SITE.model_copy(update={"breaker": None}))
    failed(ledger, runs[5], "error", "other", submission_id="dead", asked_by="rerun", ended=9.0)
    retries.check_breaker(ledger, SITE)


def test_what_was_done_again_keeps_the_breaker_open_by_no_clock(ledger, runs):
    """They were submitted, and ended, by a clock that is ahead of the one of the rerun: a walk has found it."""
    ledger.record_runs(runs, "2026")
    for number, run in enumerate(runs[:6]):
        failed(ledger, run, "error", "no module torch", pack_index=number, ended=1e6 + number)
    again = {"submission_id": "beef", "state": "done", "created": "1999", "scheduler": "slurm", "asked_by": "rerun"}
    ledger.record_submission({**again, "site": "s", "job_id": "8", "seconds": 1.0, "slots": 1, "gpus": 0}, [])
    with pytest.raises(BreakerOpen, match="last 6 packs"):
        retries.check_breaker(ledger, SITE)
    for number, run in enumerate(runs[:6]):
        done = {"submission_id": "beef", "pack_index": number, "status": "completed", "ended": float(number)}
        ledger.put_attempt(run.id, "pretrain", 2, **done)
    retries.check_breaker(ledger, SITE)


def completed(ledger, run, stage, code, number=1):
    ledger.put_attempt(run.id, stage, number, status="completed", code=code)


def other_code(ledger, root, run, stages, digest="c3d4"):
    return dispatch.other_code(ledger, root, run.id, stages, digest)


def test_work_of_another_version_of_the_code_is_not_gone_on_from_but_may_be_done_again(ledger, root, runs):
    recording.record_runs(ledger, root, runs[:1], "2026")
    run = runs[0]
    completed(ledger, run, "pretrain", "a1b2")
    assert other_code(ledger, root, run, ["add_tokenizer"]) == "pretrain is of a1b2"
    assert other_code(ledger, root, run, ["add_tokenizer"], "a1b2") is None
    assert other_code(ledger, root, run, run.stages) is None
    completed(ledger, run, "pretrain", "c3d4", number=2)
    assert other_code(ledger, root, run, ["add_tokenizer"]) is None, "the newest counts"


@pytest.mark.parametrize(("cause", "told"), [("timeout", "pretrain is of a1b2"), ("error", None)])
def test_checkpoints_of_another_version_are_gone_on_from_only_to_mend_a_mistake(ledger, root, runs, cause, told):
    recording.record_runs(ledger, root, runs[:1], "2026")
    run = runs[0]
    ledger.record_submission({"submission_id": "cafe", "created": "2026", "state": "done", "asked_by": "submit"}, [])
    ledger.put_attempt(run.id, "pretrain", 1, submission_id="cafe", status="failed", cause=cause, code="a1b2")
    assert other_code(ledger, root, run, run.stages) is None, "there is nothing to go on from"
    (root.run(run.id).path / "checkpoints" / "step-00000001").mkdir(parents=True)
    assert other_code(ledger, root, run, run.stages) == told


def test_an_attempt_that_was_refused_for_its_code_does_not_make_the_next_one_free(ledger, root, runs):
    recording.record_runs(ledger, root, runs[:1], "2026")
    run = runs[0]
    ledger.record_submission({"submission_id": "cafe", "created": "2026", "state": "done", "asked_by": "submit"}, [])
    (root.run(run.id).path / "checkpoints" / "step-00000001").mkdir(parents=True)
    first = {"submission_id": "cafe", "status": "failed", "cause": "timeout", "code": "a1b2"}
    ledger.put_attempt(run.id, "pretrain", 1, **first)
    refused = {"status": "failed", "cause": "error", "message": f"{folders.OTHER_CODE} pretrain attempt 1"}
    ledger.put_attempt(run.id, "pretrain", 2, submission_id="cafe", code="c3d4", **refused)
    ledger.put_attempt(run.id, "pretrain", 3, submission_id="cafe", status="failed", cause="launch_failed")
    assert other_code(ledger, root, run, run.stages) == "pretrain is of a1b2"


def test_what_only_follows_from_a_stage_does_not_bind_it_to_its_code(ledger, root, runs):
    recording.record_runs(ledger, root, runs[:1], "2026")
    completed(ledger, runs[0], "pretrain", "c3d4")
    completed(ledger, runs[0], "superglue", "a1b2")
    assert other_code(ledger, root, runs[0], ["blimp"]) is None


def test_what_is_asked_for_has_the_time_that_it_takes_beside_others(runs):
    speeds = {number: cost.Estimate(1e12 * gain, "measured") for number, gain in {1: 1, 4: 2}.items()}
    key = cost.architecture_key(runs[0].config)
    measured = cost.Measured(1e10, {"pretrain": speeds[1]}, together={key: speeds}, gains={key: {1: 1.0, 4: 2.0}})
    site = SITE.model_copy(update={"runs_per_pack": 4, "cpus": 8, "memory_per_cpu": 8_000})
    todo = [(run, list(run.stages)) for run in runs]
    request = dispatch.request(None, runs, todo, {}, site, measured, [], FakeSlurm())
    assert request.arrays[0].resources.slots == 4
    assert [item.run_id for item in request.items] == [run.id for run in runs]
    assert sum(item.seconds for item in request.items) == pytest.approx(3600 * outlook.gpu_hours(request.arrays))


def test_what_is_not_tried_again_is_told_with_the_command_of_its_own_output_root(tmp_path, capsys):
    stop = {"run_id": "0" * 12, "stage": "blimp", "number": 1, "time": 0.0, "action": "stop", "cause": "error",
            "tries": 1, "changes": "", "due": 0.0}  # fmt: skip
    say_decided(retries.RetryPlan({}, 0, [stop], 0), folders.OutputRoot(tmp_path).options)
    assert f"see `status --failed --output-root {tmp_path}`.\n" in capsys.readouterr().out


def test_an_output_root_of_which_nothing_was_submitted_to_a_cluster_is_told(tmp_path):
    """Whoever stands in another folder than before would pay for everything twice."""
    root = folders.OutputRoot(tmp_path / "output")
    where = dispatch.SubmitOptions(root, tmp_path / "logs")
    assert _new(SITE, where) == f"{root.path} is new: what was submitted from another folder is not known here."
    assert _new(SITE.model_copy(update={"scheduler": "local"}), where) is None
    root.submission("0" * 12).path.mkdir(parents=True)
    assert _new(SITE, where) is None
