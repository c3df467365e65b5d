"""Whose jobs `cancel` ends, with stand-ins for SLURM's clients."""

import os
from dataclasses import replace

import pytest

from cluster.cli import looking, running, shared
from cluster.errors import InputError, SlurmSilent, SubmitError
from cluster.files import whole_files
from cluster.slurm import environment
from cluster.slurm.queries import Slurm
from cluster.status import reading

HEADING = "JOBID|ARRAY_JOB_ID|ARRAY_TASK_ID|STATE|REASON|NODELIST|ACCOUNT|COMMENT|NAME\n"


@pytest.fixture
def submission(ledger, root, runs):
    """Record a submission of two packs, which SLURM has as job 7."""

    def record(user=None):
        ledger.record_runs(runs[:2], "2026-01-01")
        attempts = [{"run_id": run.id, "stage": "pretrain", "number": 1, "pack_index": index}
                    for index, run in enumerate(runs[:2])]  # fmt: skip
        row = {"submission_id": "cafe", "created": "2026", "scheduler": "slurm", "site": "s", "state": "submitted",
               "job_id": "7", "user": user}  # fmt: skip
        ledger.record_submission(row, attempts)
        whole_files.write_json(root.submission("cafe").answer, {"state": "submitted", "job_id": "7"})

    return record


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Say what squeue shows; returns what scancel was given."""
    calls = tmp_path / "calls"
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def show(*lines, code=0):
        (tmp_path / "shown").write_text(HEADING + "".join(f"{line}\n" for line in lines))
        scripts = {"squeue": f"cat {tmp_path}/shown; exit {code}", "scancel": f'echo "$@" >> {calls}'}
        for name, script in scripts.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        return lambda: calls.read_text().split() if calls.exists() else []

    return show


def cancelled(root):
    answer = whole_files.read_json(root.submission("cafe").answer)
    return answer.get("cancelled") or answer.get("cancelled_packs")


BOTH = [("cafe", 0), ("cafe", 1)]
OURS = ["7_0|7|0|PENDING|None||a|cafe|tt-cafe", "7_1|7|1|RUNNING|None|n1|a|cafe|renamed"]
OTHERS = ["7|7|N/A|RUNNING|None|n1|a|(null)|train"]


@pytest.mark.parametrize(
    ("shown", "packs", "given", "noted"),
    [
        (OURS, BOTH, ["--quiet", "7"], True),
        (OURS, BOTH[1:], ["--quiet", "7_1"], [1]),
        (OTHERS, BOTH, [], True),  # ours may be there all the same, and leaves when it begins
        (["sweep", "seed3|x", *OURS[:1]], BOTH, ["--quiet", "7"], True),
        ([], BOTH[:1], [], [0]),  # SLURM forgets a task that is cancelled while it waits
    ],
)
def test_only_jobs_of_the_submission_are_cancelled(ledger, root, submission, queue, shown, packs, given, noted):
    submission()
    calls = queue(*shown)
    shared.cancel_jobs(ledger, root, Slurm(), packs)
    assert (calls(), cancelled(root)) == (given, noted)


def test_a_run_that_is_pulled_at_this_moment_is_cancelled_where_it_runs(
    ledger, root, runs, submission, queue, monkeypatch
):
    submission()
    calls = queue(*OURS)
    real = shared.cancel_jobs

    def pulled_meanwhile(*args):
        whole_files.create_json(root.submission("cafe").taken(runs[1].id), {"pack": 0})
        real(*args)

    monkeypatch.setattr(running, "cancel_jobs", pulled_meanwhile)
    ledger.db.close()
    running.cancel(run=[runs[1].id], output_root=root.path, yes=True)
    assert ([each for each in calls() if each != "--quiet"], cancelled(root)) == (["7_1", "7"], True)


@pytest.mark.parametrize("text", ["", "[]", '{"state": "sub'])
def test_a_spoilt_answer_is_written_anew_of_what_the_ledger_knows(ledger, root, submission, queue, text):
    submission()
    queue(*OURS)
    root.submission("cafe").answer.write_text(text)
    shared.cancel_jobs(ledger, root, Slurm(), BOTH[1:])
    assert whole_files.read_json(root.submission("cafe").answer) == {
        "state": "submitted", "job_id": "7", "cancelled_packs": [1],
    }  # fmt: skip


def test_where_squeue_is_silent_nothing_is_cancelled(ledger, root, submission, queue):
    submission()
    calls = queue(*OURS, code=1)
    with pytest.raises(SlurmSilent, match="squeue gave no answer. Try again"):
        shared.cancel_jobs(ledger, root, Slurm(), BOTH)
    assert (calls(), cancelled(root)) == ([], None)


def test_what_scancel_refuses_is_no_silence(ledger, root, submission, queue, tmp_path):
    submission()
    queue(*OURS)
    told = "scancel: error: Kill job error on job id 7: Access/permission denied"
    (tmp_path / "bin" / "scancel").write_text(f"#!/bin/sh\necho '{told}' >&2; exit 1\n")
    with pytest.raises(SubmitError, match="permission denied"):
        shared.cancel_jobs(ledger, root, Slurm(), BOTH)


def test_cancel_all_cancels_ones_own_packs_and_says_whose_the_others_are(ledger, root, runs, submission, queue, capsys):
    submission("alice")
    row = {"submission_id": "beef", "created": "2026", "scheduler": "slurm", "site": "s", "state": "submitted",
           "job_id": "8", "user": environment.user()}  # fmt: skip
    ledger.record_runs(runs[2:3], "2026-01-01")
    ledger.record_submission(row, [{"run_id": runs[2].id, "stage": "pretrain", "number": 1, "pack_index": 0}])
    calls = queue(*OURS, "8_0|8|0|PENDING|None||a|beef|tt-beef")
    ledger.db.close()
    running.cancel(everything=True, output_root=root.path, yes=True)
    assert "2 packs of alice left alone, who alone can cancel them." in capsys.readouterr().out
    assert (calls(), cancelled(root)) == (["--quiet", "8"], None)


def test_a_local_pack_of_another_user_is_that_users_to_cancel(ledger, root, runs, capsys):
    row = {"submission_id": "beef", "created": "2026", "scheduler": "local", "site": "s", "state": "submitted",
           "job_id": "local-1", "user": "alice"}  # fmt: skip
    ledger.record_runs(runs[:1], "2026-01-01")
    ledger.record_submission(row, [{"run_id": runs[0].id, "stage": "pretrain", "number": 1, "pack_index": 0}])
    whole_files.write_json(root.submission("beef").answer, {"state": "submitted", "job_id": "local-1"})
    ledger.db.close()
    running.cancel(everything=True, output_root=root.path, yes=True)
    assert "1 pack of alice left alone, who alone can cancel them." in capsys.readouterr().out
    assert whole_files.read_json(root.submission("beef").answer) == {"state": "submitted", "job_id": "local-1"}


def test_anothers_jobs_are_that_users_to_cancel_and_status_says_whose_they_are(ledger, root, submission, queue):
    submission("alice")
    calls = queue(*OURS)
    with pytest.raises(InputError, match="tt-cafe is of alice"):
        shared.cancel_jobs(ledger, root, Slurm(), BOTH)
    assert (calls(), cancelled(root)) == ([], None)
    assert reading._flags(ledger) == ["jobs of alice are under way: SLURM is asked about them when alice looks"]


@pytest.mark.parametrize("told", [True, False])
def test_what_else_is_in_the_job_of_a_run_is_said_before_it_is_cancelled(
    ledger, root, runs, submission, queue, capsys, told
):
    submission()
    if told:  # both runs in one pack
        ledger.db.execute("UPDATE attempt SET pack_index = 0")
    queue(*OURS)
    ledger.db.close()
    running.cancel(run=[runs[0].id], output_root=root.path, yes=True)
    said = " ".join(capsys.readouterr().out.split())
    assert (f"In the same jobs, to be cancelled with them: {runs[1].name}." in said) == told
    again = f"`rerun --failed --output-root {root.path}` goes on from where they were."
    assert again in said


def test_the_logs_of_what_was_cancelled_before_it_began_say_so(ledger, root, runs, submission):
    submission()
    told = {"status": "failed", "cause": "cancelled", "message": "job 7_0 ended as CANCELLED"}
    ledger.put_attempt(runs[0].id, "pretrain", 1, **told)
    ledger.db.close()
    with pytest.raises(InputError, match=f"logs: {runs[0].name} has no log: cancelled: job 7_0 ended as CANCELLED."):
        looking.logs(runs[0].name, output_root=root.path)


@pytest.fixture
def asked(ledger, root, runs, submission):
    """Two runs are submitted, and three were asked for: the first and the third are of a study `s`."""
    submission()
    ledger.record_runs([replace(runs[0], studies=("s",)), replace(runs[2], studies=("s",))], "2026-01-01")
    ledger.db.execute("UPDATE attempt SET status = 'running'")
    request = {"created": "2026", "site": {}, "data_root": None, "user": environment.user(),
               "runs": [run.id for run in runs[:3]]}  # fmt: skip
    whole_files.write_json(root.request("one"), request)
    return root.request("one")


def test_a_studys_packs_are_cancelled_and_what_limits_held_back_is_taken_back(ledger, root, runs, asked, queue, capsys):
    calls = queue(*OURS)
    ledger.db.close()
    running.cancel(study=["s"], output_root=root.path, yes=True)
    assert (calls(), cancelled(root)) == (["--quiet", "7_0"], [0])
    said = " ".join(capsys.readouterr().out.split())
    assert "Cancelled 1 pack." in said
    assert "Taken back: 1 run." in said
    assert runs[2].id not in whole_files.read_json(asked)["runs"]
    assert runs[1].id in whole_files.read_json(asked)["runs"]


def test_where_squeue_is_silent_nothing_is_taken_back(ledger, root, asked, queue, capsys):
    before = whole_files.read_json(asked)["runs"]
    queue(*OURS, code=1)
    ledger.db.close()
    with pytest.raises(SlurmSilent):
        running.cancel(study=["s"], output_root=root.path, yes=True)
    assert whole_files.read_json(asked)["runs"] == before
    assert "Taken back" not in capsys.readouterr().out


def test_a_run_that_waits_for_room_alone_is_taken_back(ledger, root, runs, asked, queue, capsys):
    calls = queue(*OURS)
    ledger.db.close()
    running.cancel(run=[runs[2].id], output_root=root.path, yes=True)
    assert (calls(), cancelled(root)) == ([], None)
    assert "Taken back: 1 run. `submit` asks for what is missing" in " ".join(capsys.readouterr().out.split())
    assert whole_files.read_json(asked)["runs"] == [run.id for run in runs[:2]]


@pytest.mark.parametrize("words", [{}, {"everything": True, "study": ["s"]}, {"study": ["s"], "run": ["a"]}])
def test_what_is_to_be_cancelled_is_said_in_one_way(root, words):
    with pytest.raises(InputError, match="--all, --study STUDY or --run RUN"):
        running.cancel(output_root=root.path, yes=True, **words)


def test_a_study_that_is_none_is_refused_with_the_nearest(ledger, root, asked, queue):  # noqa: ARG001
    queue(*OURS)
    ledger.db.close()
    with pytest.raises(InputError, match="S: is no study here. Did you mean s?"):
        running.cancel(study=["S"], output_root=root.path, yes=True)
