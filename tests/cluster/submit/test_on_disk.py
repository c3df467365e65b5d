"""The numbers of attempts, and what counts as done, where files were removed."""

import shutil

import pytest
import synthetic

from cluster.files.folders import OutputRoot
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.reconcile import reconciling
from cluster.submit import on_disk


class Silent:
    """SLURM, which does not answer."""

    def queue(self):
        return None


@pytest.fixture
def runs():
    return synthetic.planned(("heads",), limit=2)


@pytest.fixture
def root(tmp_path, runs):
    """Two runs, completed in one submission."""
    return synthetic.make(tmp_path / "output", runs, with_pairs=False)


def rebuilt(root):
    root.ledger.unlink(missing_ok=True)
    ledger = Ledger(root.ledger)
    reconciling.rebuild(ledger, root)
    return ledger


def next_numbers(ledger, root, run):
    states = on_disk.with_taken_numbers(ledger, root, [(run, list(run.stages))], ledger.states())
    ledger.close()
    return {states[run.id][stage].attempts + 1 for stage in run.stages}


def forgotten(root, _):
    return rebuilt(root)


def recorded_anew_and_nothing_submitted(root, run):
    """As a `submit` does that was killed then, or for which there was no room."""
    ledger = rebuilt(root)
    recording.record_runs(ledger, root, [run], "2026-11-29T12:00:00+00:00")
    return ledger


def rebuilt_twice(root, run):
    recorded_anew_and_nothing_submitted(root, run).close()
    return rebuilt(root)


def with_a_torn_run_json(root, run):
    root.run(run.id).path.mkdir()
    root.run(run.id).run_json.write_text("{")
    return rebuilt(root)


def without_a_ledger(root, _):
    """The next `submit` makes one, and takes in the submissions that it finds."""
    root.ledger.unlink()
    ledger = Ledger(root.ledger)
    reconciling.reconcile(ledger, root, Silent())
    return ledger


@pytest.mark.parametrize(
    "come_back",
    [forgotten, recorded_anew_and_nothing_submitted, rebuilt_twice, with_a_torn_run_json, without_a_ledger],
)
def test_a_number_that_an_attempt_had_is_never_given_again(root, runs, come_back):
    run, other = runs
    shutil.rmtree(root.run(run.id).path)
    assert next_numbers(come_back(root, run), root, run) == {2}
    assert next_numbers(Ledger(root.ledger), root, other) == {2}


def test_what_was_tried_of_a_run_whose_file_was_torn_keeps_its_numbers(root, runs):
    run = runs[0]
    shutil.rmtree(root.path / "submissions")
    root.run(run.id).run_json.write_text("{")
    assert next_numbers(rebuilt(root), root, run) == {2}


def test_a_run_that_nobody_has_tried_begins_with_1(tmp_path, runs):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record_runs(runs, "2026")
    assert next_numbers(ledger, OutputRoot(tmp_path), runs[0]) == {1}


def test_stages_that_were_removed_count_as_never_done_but_not_while_something_is_under_way(root, runs, capsys):
    run, ledger = runs[0], Ledger(root.ledger)
    assert on_disk.without_removed(root, runs, ledger.states()) == ledger.states()
    shutil.rmtree(root.run(run.id).path / "stages/pretrain")
    found = on_disk.without_removed(root, runs, ledger.states())
    assert {found[run.id][stage].status for stage in run.stages} == {"waiting"}
    assert found[runs[1].id] == ledger.states()[runs[1].id]
    assert f"(pretrain of {run.id})" in capsys.readouterr().out.replace("\n", " ")
    ledger.put_attempt(run.id, run.stages[-1], 1, status="running")
    assert on_disk.without_removed(root, runs, ledger.states()) == ledger.states()
    ledger.close()


def test_a_folder_that_cannot_be_read_is_no_folder_that_was_removed(root, runs):
    stages = root.run(runs[0].id).path / "stages"
    shutil.rmtree(stages)
    stages.symlink_to(stages)  # for root, too: its reading fails, and not since it is not there
    ledger = Ledger(root.ledger)
    with pytest.raises(OSError, match="symbolic links"):
        on_disk.without_removed(root, runs, ledger.states())
    ledger.close()
