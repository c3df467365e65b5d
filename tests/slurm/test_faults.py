"""Whatever is killed, lost or away: every stage run is done once, no attempt is lost, and the ledger is the one that
the files give.

Each test does one fault to a study on the real cluster, lets it be finished as a user would, and checks all of that.
`sweep.py` does many more of them at random."""

import os
import random
import signal
import time

import pytest
from longer import longer
from slurm.cluster import start_daemon, stop_daemon
from slurm.faults import (
    RUNS_OF_A_STUDY,
    STAGES,
    UNTIL_LATER,
    assert_exactly_once,
    differences,
    finish,
    impatient,
    kill_after,
    losses,
    settle,
    wait_for,
)

pytestmark = pytest.mark.slurm
ALL = RUNS_OF_A_STUDY * len(STAGES)  # stage runs of one study


# -- the command on the login node ------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [longer(False), True], ids=["alone", "with its sbatch"])
def test_submit_and_status_killed_with_9_at_random_points(study, group):
    draw = random.Random(f"kills {group}")
    slowly = {"BEFORE": "0.2", "AFTER": "0.2"}  # so that kills fall before, within and after sbatch
    started = time.monotonic()
    study.submit("s0", **slowly)
    duration = time.monotonic() - started
    os.environ.update(slowly)
    killed: list[bool] = []
    try:
        while len(killed) < 3 or (len(killed) < 12 and not any(killed)):
            settle(study)
            words, started = study.words(f"s{len(killed) + 1}"), time.monotonic()
            killed.append(kill_after(study, draw.uniform(0.2, 1) * duration, words, group=group))
            if not killed[-1]:  # the machine is less busy than it was
                duration = time.monotonic() - started
    finally:
        for name in slowly:
            del os.environ[name]
    for _ in range(2):
        kill_after(study, draw.uniform(0, duration), ["status", "--json"], group=group)
    assert any(killed)
    finish(study)
    assert study.tried_once()
    assert_exactly_once(study)


def test_job_whose_sbatch_reply_was_lost_is_adopted_and_runs_without_a_rerun(study):
    study.sbatch("reply lost")
    assert "Socket timed out" in study.submit("s0", code=3).stderr
    study.sbatch("never arrives")  # nothing more is submitted
    study.completes()
    assert "Nothing is missing" in study.submit("s0").stdout
    assert len(study.submission_ids) == 1
    assert study.tried_once()
    assert_exactly_once(study)


def test_submission_that_never_arrived_is_made_again_only_after_its_absence_is_proven(study):
    study.sbatch("silent")
    assert "Socket timed out" in study.submit("s0", code=3).stderr
    study.sbatch("honest")
    assert "may still arrive" in study.submit("s0", code=3, **UNTIL_LATER).stderr
    assert len(study.submission_ids) == 1
    settle(study)
    assert len(study.submission_ids) == 2
    study.completes()
    study.sbatch("never arrives")  # it says itself that it did not reach the controller
    assert "Unable to contact" in study.submit("s1", code=3).stderr
    study.sbatch("honest")
    settle(study)
    study.completes()
    assert_exactly_once(study)


def test_submits_at_once_make_one_array(study):
    racers = [study.start(*study.words("s0")) for _ in range(3)]
    said = [racer.communicate() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], said
    assert sorted("Submitted" in out for out, _ in said) == [False, False, True]
    study.completes()
    assert len(study.submission_ids) == 1
    assert_exactly_once(study)


# -- SLURM's daemons --------------------------------------------------------------------------------------------------


def test_without_a_controller_commands_say_so_and_change_nothing(study):
    study.hang("s0")
    before = study.status()
    stop_daemon(study.cluster, "slurmctld")
    away = {"SLURM_CONF": impatient(study)}
    shown = study.status(code=3, **away)
    assert (shown["slurm"], shown["counts"], shown["runs"]) == ("unreachable", before["counts"], before["runs"])
    assert "Nothing was submitted" in study.submit("s1", code=3, **away).stderr
    study.tell()  # jobs end while nobody answers
    wait_for(lambda: len(study.claims("superglue")) == RUNS_OF_A_STUDY)
    study.run("status", **away)
    assert not {row["cause"] for row in study.attempts()} - {None}
    assert len(study.submission_ids) == 1
    start_daemon(study.cluster, "slurmctld")
    finish(study)
    assert study.tried_once()
    assert_exactly_once(study)


def test_controller_that_dies_when_sbatch_asks_it(study):
    study.sbatch("controller dies")
    assert "gave no answer" in study.submit("s0", code=3).stderr
    start_daemon(study.cluster, "slurmctld")
    study.sbatch("honest")
    finish(study)
    assert study.tried_once()
    assert_exactly_once(study)


def test_without_slurmdbd_nothing_is_judged_lost(study):
    study.hang("s0")
    stop_daemon(study.cluster, "slurmdbd")
    assert study.counts() == {"running": 2, "submitted": ALL - 2}
    study.tell()
    study.completes()
    study.submit("s1")
    study.completes()
    assert not study.causes()
    start_daemon(study.cluster, "slurmdbd")
    assert_exactly_once(study)


@pytest.mark.parametrize("signum", [longer(signal.SIGTERM), signal.SIGKILL], ids=["stopped", "killed"])
def test_controller_is_restarted_with_jobs_in_flight(study, signum):
    study.hang("s0")
    now = time.time()
    study.cluster.ask("scontrol", "update", f"job={study.claims('pretrain')[0]['job']}", "comment=saved")
    state = study.cluster.folder / "state" / "job_state"  # what a killed slurmctld still knows afterwards
    wait_for(lambda: signum == signal.SIGTERM or state.stat().st_mtime > now)
    stop_daemon(study.cluster, "slurmctld", signum)
    start_daemon(study.cluster, "slurmctld")
    assert study.counts() == {"running": 2, "submitted": ALL - 2}
    study.tell()
    study.completes()
    assert study.tried_once()
    assert_exactly_once(study)


def test_node_that_is_set_down_has_its_jobs_done_again(study):
    study.change_site(cpus=40)  # a node each
    study.hang("s0")
    assert sorted(claim["host"] for claim in study.claims("pretrain")) == ["cmp001", "cmp002"]
    study.cluster.ask("scontrol", "update", "nodename=cmp001", "state=down", "reason=fault")
    time.sleep(1)
    study.cluster.ask("scontrol", "update", "nodename=cmp001", "state=resume")
    wait_for(lambda: sum(claim["restart"] for claim in study.claims("pretrain")) == 1)
    study.tell()
    study.completes()
    assert study.causes() == {"node_fail": 1}
    assert_exactly_once(study)


def test_preempted_jobs_go_on_when_their_nodes_are_free_again(study):
    study.change_site(cpus=40, partition="preemptible")
    study.hang("s0")
    others = ["sbatch", "--account=research-eemcs-st", "--partition=compute-p1", "--cpus-per-task=40", "--array=0-1"]
    study.cluster.ask(*others, "--output=/dev/null", "--wrap=sleep 2")
    wait_for(lambda: sum(claim["restart"] for claim in study.claims("pretrain")) == 2)
    study.tell()
    study.completes()
    assert study.causes() == {"preempted": 2}
    assert_exactly_once(study)


def test_task_that_somebody_cancels_is_seen_as_cancelled_and_the_others_go_on(study):
    study.hang("s0")
    study.cluster.ask("scancel", study.claims("pretrain")[0]["job"])
    wait_for(lambda: study.causes() == {"cancelled": 1})
    study.tell()
    wait_for(lambda: study.status()["counts"]["completed"] == len(STAGES))
    finish(study)
    assert study.causes() == {"cancelled": 1}
    assert_exactly_once(study)


@pytest.fixture
def forgetful(study):
    """The study, on a cluster that soon forgets jobs that have ended."""
    before = study.cluster.conf.read_text()

    def restart(text):
        study.cluster.conf.write_text(text)
        stop_daemon(study.cluster, "slurmctld")
        start_daemon(study.cluster, "slurmctld")

    restart(f"{before}\nMinJobAge=2\n")
    yield study
    study.cancel_everything()
    restart(before)


def test_waiting_tasks_cancelled_by_hand_while_slurmdbd_is_away_and_forgotten_are_left_to_a_person(forgetful):
    study = forgetful
    study.nodes("drain")
    study.submit("s0", "s1")
    (job,) = {line[0].partition("_")[0] for line in study.live_jobs()}
    stop_daemon(study.cluster, "slurmdbd")
    study.cluster.ask("scancel", f"{job}_0", f"{job}_1")
    wait_for(lambda: not {f"{job}_0", f"{job}_1"} & set(study.known_jobs()))
    assert study.counts() == {"submitted": 2 * ALL}, "sacct may say why"
    start_daemon(study.cluster, "slurmdbd")
    wait_for(lambda: study.causes() == {"vanished": 2})
    told = " ".join(study.run("status").stdout.split())
    assert f"SLURM no longer knows job {job}_0, which never began: why is not known" in told
    assert "not tried again" in study.run("tick").stdout
    assert len(study.submission_ids) == 1
    study.nodes("resume")
    finish(study)
    assert study.causes() == {"vanished": 2}
    executed = [path.read_text().split() for path in study.output.glob("runs/*/done.txt")]
    assert executed == [list(STAGES)] * 2 * RUNS_OF_A_STUDY
    assert losses(study) == differences(study) == []


# -- the job's processes ----------------------------------------------------------------------------------------------


def test_worker_killed_with_9_fails_alone(study):
    study.change_site(runs_per_pack=2, slots=2)
    study.hang("s0")
    os.kill(study.claims("pretrain")[0]["pid"], signal.SIGKILL)
    wait_for(lambda: study.causes() == {"error": 1})
    study.tell()
    wait_for(lambda: study.status()["counts"]["completed"] == len(STAGES))
    finish(study)
    assert_exactly_once(study)


def test_pack_killed_with_9_takes_its_workers_along_and_is_done_again(study):
    study.hang("s0")
    os.kill(study.tasks()[0]["pid"], signal.SIGKILL)
    wait_for(lambda: study.causes() == {"error": 1})
    finish(study)
    assert study.causes() == {"error": 1}
    assert_exactly_once(study)
