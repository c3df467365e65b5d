"""As test_faults.py: disks that are full, results that are torn, clocks that are wrong."""

import os
import signal
import time

import pytest
from longer import longer
from slurm.faults import RUNS_OF_A_STUDY, STAGES, assert_exactly_once, fill, finish, small_disk, wait_for

pytestmark = pytest.mark.slurm
ALL = RUNS_OF_A_STUDY * len(STAGES)  # stage runs of one study


@pytest.fixture
def small_output(study):
    """The study's output root is a disk of 8 MB."""
    try:
        with small_disk(study.output) as disk:
            yield disk
            study.cancel_everything()
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")


@pytest.mark.parametrize(
    "left",
    [0, 6, *(longer(left) for left in (24, 96))],
    ids=lambda left: f"{left} KiB left",
)
def test_disk_of_the_ledger_is_full(study, small_output, left):
    study.change_site(runs_per_pack=3)
    study.submit("s0")
    study.completes()
    ballast = fill(small_output, leave=left * 1024)
    full = study.run(*study.words("s1", "s2", "s3"))
    if left == 0:
        assert full.returncode != 0
    assert full.returncode == 0 or any(words in full.stderr for words in ("No space left", "disk is full")), full
    looked = study.run("status", "--json")
    assert looked.returncode == 0 or any(words in looked.stderr for words in ("No space left", "disk is full")), looked
    ballast.unlink()
    finish(study)
    assert_exactly_once(study, undisturbed=False)


def test_disk_of_the_runs_is_full_when_results_are_written(study, small_output):
    study.hang("s0", stage="blimp")
    ballast = fill(small_output)
    study.tell()
    wait_for(lambda: study.live_jobs() == [])
    ballast.unlink()
    counts = study.counts()
    assert counts["completed"] == 2 * RUNS_OF_A_STUDY  # what was done before
    assert "running" not in counts
    finish(study)
    assert_exactly_once(study, undisturbed=False)


def test_result_torn_before_anybody_read_it_is_no_success_and_is_done_again(study):
    study.hang("s0", stage="superglue")
    path = sorted(study.output.glob("runs/*/stages/blimp/1/result.json"))[0]
    os.truncate(path, path.stat().st_size // 2)
    assert study.status()["counts"]["failed"] == 0  # its job may still write it
    study.tell()
    wait_for(lambda: study.status()["counts"]["failed"] == 1)
    finish(study)
    assert_exactly_once(study, undisturbed=False)


def test_result_torn_after_it_was_read_stays_a_success_and_a_rebuild_names_it(study):
    study.submit("s0")
    study.completes()
    path = sorted(study.output.glob("runs/*/stages/superglue/1/result.json"))[0]
    os.truncate(path, path.stat().st_size // 2)
    assert study.counts() == {"completed": ALL}
    assert "Nothing is missing" in study.submit("s0").stdout
    assert str(path.relative_to(study.folder)) in study.run("ledger", "rebuild").stdout.replace("\n", "")
    finish(study)
    assert_exactly_once(study, undisturbed=False)


def test_clocks_an_hour_off_judge_nothing(study):
    study.change_site(cpus=40, environment={"FAKE_CLOCKS": '{"cmp001": 3600, "cmp002": -3600}'})
    study.hang("s0")
    now = time.time()
    assert sorted(round((claim["time"] - now) / 3600) for claim in study.claims("pretrain")) == [-1, 1]
    assert study.counts() == {"running": 2, "submitted": ALL - 2}
    os.kill(study.tasks()[0]["pid"], signal.SIGKILL)
    wait_for(lambda: study.status()["counts"]["failed"] == 1)
    finish(study)
    assert study.causes() == {"error": 1}
    assert_exactly_once(study)
