"""As test_faults.py, where sacct does not answer and ended jobs are soon forgotten."""

import os
import signal

import pytest
from slurm.faults import RUNS_OF_A_STUDY, UNTIL_LATER, assert_exactly_once, finish, wait_for

pytestmark = pytest.mark.slurm


@pytest.fixture
def study(study_without_accounting):
    return study_without_accounting


def test_a_lost_reply_makes_no_second_array(study):
    study.sbatch("reply lost")
    study.submit("s0", code=3)
    wait_for(lambda: study.live_jobs() == [] and study.known_jobs() == [])  # done and forgotten before anyone looked
    study.completes()
    assert len(study.submission_ids) == 1
    study.sbatch("silent")
    study.submit("s1", code=3)
    study.sbatch("honest")
    study.submit("s1", code=3, **UNTIL_LATER)
    finish(study)
    assert study.tried_once()
    assert_exactly_once(study)


def test_a_job_that_vanished_is_lost_and_done_again(study):
    study.hang("s0")
    for task in study.tasks():
        os.kill(task["pid"], signal.SIGKILL)
    wait_for(lambda: study.known_jobs() == [])
    wait_for(lambda: study.status()["counts"]["failed"] == RUNS_OF_A_STUDY)
    assert study.causes() == {"lost": RUNS_OF_A_STUDY}
    finish(study)
    assert_exactly_once(study)


def test_a_cancelled_job_is_not_taken_for_running(study):
    study.hang("s0")
    study.run("cancel", "--all", "--yes")
    wait_for(lambda: study.status()["counts"]["failed"] == RUNS_OF_A_STUDY)
    assert study.causes().keys() <= {"cancelled", "lost"}  # cancelled, if it was looked at in time
    finish(study)
    assert_exactly_once(study)
