"""Files that a person removes: what is left is kept, what is gone is said, and only `submit` does it again."""

import json
import shutil

import pytest

from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger

SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml", "--study", "second")
STAGES = ["pretrain", "add_tokenizer", "blimp", "superglue"]


@pytest.fixture
def root(second_done, tmp_path):  # noqa: ARG001
    """Two runs, completed."""
    return OutputRoot(tmp_path / "output")


def counts(command):
    shown = json.loads(command("status", "--json").stdout)["counts"]
    return {status: number for status, number in shown.items() if number}


def times_done(root):
    """Stages that each run has worked through since its folder was made."""
    return sorted(len((run.path / "done.txt").read_text().split()) for run in root.runs())


def numbers(root, run_id):
    return [[attempt.number for attempt in root.run(run_id).attempts(stage)] for stage in STAGES]


COMMANDS = (
    ("status",), ("status", "--runs"), ("status", "--failed"), ("usage",), ("tick",), (*SUBMIT, "--dry-run"),
    ("rerun", "--failed", "--yes", "--site", "site.yaml"),
)  # fmt: skip
REPORT = ("report",)  # which takes longer than all of these


def all_commands_work(command, commands=COMMANDS):
    for words in commands:
        done = command(*words, check=False)
        assert "Traceback" not in done.stdout + done.stderr
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_whose_folder_was_removed_is_done_anew_by_submit_only_and_its_numbers_go_on(command, root):
    gone = root.runs()[0]
    shutil.rmtree(gone.path)
    all_commands_work(command, [*COMMANDS, REPORT])
    assert f"has no folder of 1 run ({gone.path.name})" in command("status").stdout.replace("\n  ", " ")
    assert "Nothing to do." in command("tick").stdout
    assert not gone.path.exists()
    said = command(*SUBMIT, "--yes", "--wait").stdout
    assert f"The files of 4 stage runs that had ended are gone (add_tokenizer of {gone.path.name}" in said
    assert numbers(root, gone.path.name) == [[2]] * 4
    assert times_done(root) == [4] * 2
    command("ledger", "rebuild")
    assert counts(command) == {"completed": 8}
    assert "no folder" not in command("status").stdout


def test_after_all_runs_were_removed_submit_does_them_again_whether_or_not_the_ledger_is_there(command, root):
    ids = [run.path.name for run in root.runs()]
    shutil.rmtree(root.path / "runs")
    all_commands_work(command, [*COMMANDS, REPORT])
    assert "has no folder of 2 runs" in command("status").stdout
    refused = command("ledger", "rebuild", check=False)
    assert (refused.returncode, "has no runs to make a ledger of" in refused.stderr) == (2, True)
    command(*SUBMIT, "--yes", "--wait")
    assert {str(numbers(root, run_id)) for run_id in ids} == {"[[2], [2], [2], [2]]"}
    shutil.rmtree(root.path / "runs")
    root.ledger.unlink()
    command(*SUBMIT, "--yes", "--wait")
    assert {str(numbers(root, run_id)) for run_id in ids} == {"[[3], [3], [3], [3]]"}
    command("ledger", "rebuild")
    assert counts(command) == {"completed": 8}
    assert "Nothing is missing" in command(*SUBMIT, "--yes").stdout


def test_a_rebuilt_ledger_forgets_a_removed_run_says_so_and_gives_none_of_its_numbers_again(command, root):
    gone = root.runs()[0].path
    shutil.rmtree(gone)
    assert f"has no run.json of {gone.name}, which had been submitted" in command("ledger", "rebuild").stdout
    assert counts(command) == {"completed": 4}
    command(*SUBMIT, "--yes", "--wait")
    assert numbers(root, gone.name) == [[2]] * 4
    command("ledger", "rebuild")
    assert counts(command) == {"completed": 8}
    with_failures = command("status", "--failed").stdout
    assert "No stage run has failed." in with_failures


def test_a_removed_stage_is_done_again_with_the_number_that_follows_and_what_needs_it(command, root):
    run, other = root.runs()[:2]
    shutil.rmtree(run.path / "stages/blimp")
    shutil.rmtree(other.path / "stages/pretrain")
    all_commands_work(command)
    assert "Nothing to do." in command("tick").stdout
    command(*SUBMIT, "--yes", "--wait")
    assert numbers(root, run.path.name) == [[1], [1], [2], [1]]
    assert numbers(root, other.path.name) == [[2], [1, 2], [1, 2], [1, 2]]
    assert counts(command) == {"completed": 8}


def test_a_later_stage_is_left_alone_where_the_model_that_it_needs_was_removed(command, root):
    run = root.runs()[0]
    shutil.rmtree(run.model)
    assert "Nothing is missing" in command(*SUBMIT, "--yes").stdout
    refused = command("rerun", "--run", run.path.name, "--stage", "blimp", "--yes", check=False)
    said = refused.stdout + refused.stderr
    assert (refused.returncode, "1 run left alone" in said, "it is gone" in said) == (2, True, True), said
    assert f"rerun --stage pretrain --run {run.path.name}" in said
    command("rerun", "--run", run.path.name, "--stage", "pretrain", "--yes", "--wait")
    assert run.model.is_dir()
    assert counts(command) == {"completed": 8}


def test_tick_leaves_alone_what_failed_in_a_folder_that_was_removed(command, fake_science, tmp_path):
    fake_science.write_text('{"*": {"blimp": "exit"}}')  # lost, or an error: some of it would be tried again
    command(*SUBMIT, "--yes", "--wait", check=False)
    root = OutputRoot(tmp_path / "output")
    gone = root.runs()[0].path
    shutil.rmtree(gone)
    fake_science.write_text("{}")
    command("tick")
    assert not gone.exists()
    command(*SUBMIT, "--yes", "--wait", check=False)
    assert numbers(root, gone.name)[0] == [2]
    assert (gone / "done.txt").read_text().split() == STAGES


def lose_submissions(root, *ids):
    for submission_id in ids or root.submission_ids():
        shutil.rmtree(root.submission(submission_id).path)
    root.ledger.unlink()


def test_without_submissions_what_runs_show_is_kept_what_is_not_known_is_said_and_nothing_is_done_again(command, root):
    (submission_id,) = root.submission_ids()
    kept = root.submission(submission_id).path.rename(root.path / "kept")
    all_commands_work(command, COMMANDS[:-1])  # with the ledger
    refused = command(*COMMANDS[-1], check=False).stderr
    assert "is missing: it says where and how was submitted. Give --site and --data-root." in refused
    assert counts(command) == {"completed": 8}
    kept.rename(root.submission(submission_id).path)
    lose_submissions(root)
    said = command("ledger", "rebuild").stdout
    assert f"The files of 1 submission are gone from submissions/ ({submission_id})" in said
    assert counts(command) == {"completed": 8}
    all_commands_work(command)
    assert "Nothing is missing" in command(*SUBMIT, "--yes").stdout
    assert "Nothing to do." in command("tick").stdout
    assert "0.00 minutes used" in command("status").stdout
    assert "of 1 submission" in command("ledger", "rebuild").stdout
    assert (times_done(root), counts(command)) == ([4] * 2, {"completed": 8})
    command("rerun", "--stage", "blimp", "--run", root.runs()[0].path.name, "--site", "site.yaml", "--yes", "--wait")
    assert numbers(root, root.runs()[0].path.name) == [[1], [1], [1, 2], [1]]
    command("ledger", "rebuild")
    assert counts(command) == {"completed": 8}


def test_runs_alone_copied_elsewhere_are_the_same_results(command, root, tmp_path):
    shutil.copytree(root.path / "runs", tmp_path / "copy/runs")
    there = ("--output-root", "copy")
    command("ledger", "rebuild", *there)
    assert "Nothing is missing" in command(*SUBMIT, "--yes", *there).stdout
    command("report")
    command("report", *there)
    first, second = (
        (folder / "report/scores.csv").read_text().splitlines() for folder in (root.path, tmp_path / "copy")
    )
    assert sorted(first) == sorted(second)
    assert len(first) == 9


def test_of_several_submissions_those_that_are_left_tell_what_they_did(command, root):
    (old,) = root.submission_ids()
    command("submit", "experiments.yaml", "--site", "site.yaml", "--study", "first", "--yes", "--wait")
    lose_submissions(root, old)
    assert f"1 submission are gone from submissions/ ({old})" in command("ledger", "rebuild").stdout
    assert counts(command) == {"completed": 20}
    ledger = Ledger(root.ledger)
    sites = sorted(row["site"] for row in ledger.submissions())
    ledger.close()
    assert sites == ["here", "not known"]
    assert "Nothing is missing" in command(*SUBMIT, "--yes").stdout


def test_what_had_not_ended_when_its_submission_was_lost_is_no_ones_until_a_person_asks(command, root):
    run = root.runs()[0]
    result = run.attempt("superglue", 1).result
    told = result.read_text()
    result.unlink()
    lose_submissions(root)
    command("ledger", "rebuild")
    assert counts(command) == {"completed": 7, "failed": 1}
    assert "its submission's files are gone" in command("status", "--failed").stdout.replace("\n    ", " ")
    said = command("tick").stdout
    assert said.startswith("1 stage run left alone, since the files of their submissions are gone: `rerun --failed")
    result.write_text(told)  # its job was at work all the time
    assert "Nothing to do." in command("tick").stdout
    assert counts(command) == {"completed": 8}
