"""How many jobs there may be on a real cluster: by the right rows, beside everybody's jobs, and though that changes."""

import re

import pytest
from slurm.cluster import start_daemon, stop_daemon
from slurm.faults import RUNS_OF_A_STUDY, STAGES, Study, assert_exactly_once, wait_for

from cluster.files import whole_files

pytestmark = pytest.mark.slurm
ACCOUNT = "research-eemcs-st"
SHOW = ("scontrol", "-o", "show", "assoc_mgr", "flags=assoc")


@pytest.fixture
def waiting(study):
    """The study, whose jobs wait until the nodes come back, and whose account has no limit when it has ended."""
    study.nodes("drain")
    yield study
    limit(study, ACCOUNT, None)
    study.nodes("resume")


def limit(study: Study, account: str, jobs: int | None) -> None:
    """Let an account have so many jobs, and wait until slurmctld has heard of it; None: any number."""
    manage(study, *limited(account, jobs))
    wait_for(lambda: limits_of(study, account) == {"N"} if jobs is None else str(jobs) in limits_of(study, account))


def limited(account: str, jobs: int | None) -> list[str]:
    """sacctmgr's words for that."""
    return ["modify", "account", account, "cluster=delftbox", "set", f"GrpSubmitJobs={-1 if jobs is None else jobs}"]


def limits_of(study: Study, account: str) -> set[str]:
    """What slurmctld knows of an account, and of its users."""
    return set(re.findall(r"GrpSubmitJobs=(\w+)\(", study.cluster.ask(*SHOW, f"accounts={account}").stdout))


def manage(study: Study, *words: str) -> None:
    study.cluster.ask("sacctmgr", "-i", *words)


def said(study: Study, *words: str) -> str:
    return " ".join(study.run(*words, COLUMNS="300").stdout.replace("│", " ").split())


def packs(study: Study) -> list[int]:
    """How many packs each submission has."""
    intents = study.output.glob("submissions/*/submission.json")
    return sorted(len(whole_files.read_json(path)["packs"]) for path in intents)


def test_the_limit_of_an_account_holds_and_the_next_tick_goes_on_after_one_that_met_a_full_queue(waiting):
    limit(waiting, ACCOUNT, 4)
    assert "4 packs wait for room: the account may have 4 jobs" in said(waiting, *waiting.words("s0", "s1", "s2", "s3"))
    assert "jobs waiting and running at most 4" in said(waiting, "doctor", "--site", "site.yaml")
    limit(waiting, ACCOUNT, 8)
    heard = f"{' '.join(SHOW)} accounts={ACCOUNT} | grep -q 'GrpSubmitJobs=4('"
    lowered = f"sacctmgr -i {' '.join(limited(ACCOUNT, 4))} > /dev/null; until {heard}; do sleep 0.1; done"
    waiting.shim("sbatch", f'{lowered}; exec $REAL "$@"')
    told = said(waiting, "tick")
    assert "AssocGrpSubmitJobsLimit" in told
    assert "4 packs wait until SLURM takes more. `tick` submits them" in told
    waiting.sbatch("honest")
    limit(waiting, ACCOUNT, None)
    assert "Submitted" in said(waiting, "tick")
    waiting.nodes("resume")
    waiting.completes()
    assert_exactly_once(waiting)


@pytest.fixture
def others(waiting):
    """All accounts may have five jobs together, of which another user has two in another account: that array."""
    manage(waiting, "add", "user", "nobody", "account=innovation")
    limit(waiting, "root", 5)
    wait_for(lambda: "UserName=nobody" in waiting.cluster.ask(*SHOW, "accounts=innovation").stdout)
    job = [
        "--account=innovation",
        "--partition=compute-p1",
        "--mem=100M",
        "--array=0-1",
        "--hold",
        "--output=/dev/null",
    ]
    shown = waiting.cluster.ask("sbatch", "--parsable", "--uid=nobody", "--chdir=/", *job, "--wrap=true")
    array = shown.stdout.strip()
    yield array
    waiting.cluster.ask("scancel", array)
    limit(waiting, "root", None)
    manage(waiting, "delete", "user", "nobody")


def test_jobs_of_others_leave_less_room_under_the_limit_of_an_account_above(waiting, others):
    asked = said(waiting, "doctor", "--site", "site.yaml")
    assert "at most 5; beside everybody's there is room for 3 now" in asked
    told = said(waiting, *waiting.words("s0", "s1"))
    assert "1 pack waits for room: the account may have 5 jobs waiting and running, and beside everybody's" in told
    assert "1 pack waits for room" in said(waiting, "tick")
    waiting.cluster.ask("scancel", others)
    wait_for(lambda: "Submitted" in said(waiting, "tick"))
    assert packs(waiting) == [1, 3]


def test_the_limits_of_another_cluster_of_the_same_database_do_not_hold(waiting):
    user = waiting.cluster.ask("id", "-un").stdout.strip()
    manage(waiting, "add", "cluster", "othercluster")
    try:
        manage(waiting, "add", "account", "research-eemcs-st", "cluster=othercluster")
        manage(waiting, "add", "user", user, "account=research-eemcs-st", "cluster=othercluster", "MaxSubmitJobs=2")
        assert "jobs waiting and running no limit" in said(waiting, "doctor", "--site", "site.yaml")
    finally:
        manage(waiting, "delete", "cluster", "othercluster")


@pytest.fixture
def short_arrays(study):
    """The study, on a cluster whose arrays end at three tasks."""
    before = study.cluster.conf.read_text()

    def restart(text):
        study.cluster.conf.write_text(text)
        stop_daemon(study.cluster, "slurmctld")
        start_daemon(study.cluster, "slurmctld")

    restart(before.replace("MaxArraySize=101", "MaxArraySize=3"))
    yield study
    study.cancel_everything()
    restart(before)


def test_arrays_are_cut_at_slurms_own_size_though_the_profile_says_more(short_arrays):
    short_arrays.submit("s0", "s1")
    assert packs(short_arrays) == [1, 3]
    asked = said(short_arrays, "doctor", "--site", "site.yaml")
    assert "MaxArraySize 3; the profile's max_array_size is" in asked
    short_arrays.completes()
    assert short_arrays.counts() == {"completed": 2 * RUNS_OF_A_STUDY * len(STAGES)}
    assert_exactly_once(short_arrays)
