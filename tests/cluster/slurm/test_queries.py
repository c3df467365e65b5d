import os

import pytest

from cluster.slurm import queries
from cluster.slurm.queries import Slurm


def test_the_queue_is_keyed_by_array_and_task():
    text = "12_3|12|3|PENDING|Priority||acc|tt-cafe\n13|13|N/A|RUNNING|None|gpu001|acc|other|name\n"
    jobs = queries.parse_queue(text)
    assert jobs["12_3"] == queries.Job("12_3", "tt-cafe", "PENDING", "Priority", account="acc")
    assert jobs["13"] == queries.Job("13", "other|name", "RUNNING", "", "gpu001", account="acc")


HISTORY = """\
5_[1-2,7%2]|tt-a|PENDING|0:0|None assigned|Unknown||4000M|20
5_0|tt-a|CANCELLED by 0|0:0|n1|2026-11-22T08:00:00||4000M|20
6|b|NODE_FAIL|0:0|n1|2026-11-22T08:08:30||4000M|20
6.batch|batch|CANCELLED||n1|2026-11-22T08:08:30|||20
6|b|FAILED|0:9|n2|2026-11-22T08:09:47||4000M|20
6.batch|batch|FAILED|0:9|n2|2026-11-22T08:09:47|10532K||20
6.0|python3|FAILED|0:9|n2|2026-11-22T08:09:47|3.9G||20
"""


def test_accountings_bundled_tasks_are_told_apart():
    jobs = queries.parse_history(HISTORY)
    assert sorted(jobs) == ["5_0", "5_1", "5_2", "5_7", "6"]
    assert (jobs["5_0"].state, jobs["5_0"].cause, jobs["5_2"].live) == ("CANCELLED", "cancelled", True)


def test_a_jobs_lives_are_told_apart_and_its_steps_know_its_memory():
    job = queries.parse_history(HISTORY)["6"]
    assert (job.state, job.node, job.exit_code, job.asked) == ("FAILED", "n2", "0:9", 4000)
    assert job.memory == pytest.approx(3993.6)
    assert [(life.state, life.cause) for life in job.earlier] == [("NODE_FAIL", "node_fail")]


@pytest.mark.parametrize(
    ("state", "code", "peak", "cause"),
    [("FAILED", "0:9", 3990, "out_of_memory"), ("FAILED", "0:9", 900, "error"), ("FAILED", "1:0", 3990, "error"),
     ("OUT_OF_MEMORY", "0:125", 0, "out_of_memory"), ("FAILED", "0:9", 0, "error")],
)  # fmt: skip
def test_a_kill_with_nearly_full_memory_is_one_for_memory(state, code, peak, cause):
    assert queries.Job("1", "a", state, exit_code=code, memory=peak, asked=4000).cause == cause


@pytest.mark.parametrize(
    ("text", "value"), [("1024K", 1), ("200Mc", 200), ("1.5G", 1536), ("4Gn", 4096), ("1T", 2**20), ("", 0)]
)
def test_slurms_sizes_are_megabytes(text, value):
    assert queries.megabytes(text) == value


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Write a stand-in for one of SLURM's commands."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def test_a_refused_or_hanging_query_is_no_answer(client, monkeypatch):
    client("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert Slurm().queue() is None
    monkeypatch.setattr(queries, "TIMEOUT", 0.2)
    client("squeue", "exec sleep 5")
    assert Slurm().queue() is None


def test_an_empty_queue_is_an_answer(client):
    client("squeue", "exit 0")
    assert Slurm().queue() == {}


def test_switched_off_accounting_has_no_record_and_a_dead_one_no_answer(client):
    client("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert Slurm().history(["tt-a"], 2) == {}
    client("sacct", "echo 'sacct: error: slurm_persist_conn_open_without_init: connection refused' >&2; exit 1")
    assert Slurm().history(["tt-a"], 2) is None


def test_without_slurm_nothing_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Slurm().queue() is None
    assert Slurm().cancel(["1"]) == "scancel gave no answer"


def test_limits_are_the_narrowest_of_account_and_qos(client):
    client(
        "sacctmgr",
        """case "$*" in
*assoc*) echo 'innovation|root||11||1||1-00:00:00'; echo 'research|root|gold||200|||';;
*qos*) echo '50|20|||2:00:00';;
*) echo innovation;;
esac""",
    )
    assert Slurm().limits(None, None) == queries.Limits(11, 1, 1440)
    client(
        "sacctmgr",
        """case "$*" in
*assoc*) echo 'research|root|gold||200|8|4|';;
*) echo '50|20|||02:00:00';;
esac""",
    )
    assert Slurm().limits("research", None) == queries.Limits(20, 4, 120)
    client("sacctmgr", "exit 1")
    assert Slurm().limits("research", None) is None


@pytest.mark.parametrize("silent", ["*qos*", "*defaultaccount*"])
def test_limits_of_which_a_part_is_not_known_are_not_known(client, silent):
    rows = "echo 'innovation|root|gold|11||1||'; echo 'research|root|||||'"
    client("sacctmgr", f'case "$*" in *assoc*) {rows};; {silent}) exit 1;; *) echo innovation;; esac')
    assert Slurm().limits(None, None) is None


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "others with a higher priority come first"),
        ("QOSMaxJobsPerUserLimit", "the QOS runs as many jobs as it may"),
        ("AssocGrpGRES", "your account has as many GPUs as it may"),
        ("AssocGrpGRESMinutes", "your account has no compute time left"),
        ("QOSMaxGRESPerUser", "the QOS has as many GPUs"),
        ("JobArrayTaskLimit", "the array's own limit"),
        ("ReqNodeNotAvail, UnavailableNodes:gpu003", "a node that it needs is down"),
        ("Dependency", "another job must end first"),
        ("BeginTime", "it was put off"),
        ("MaxJobsPerAccount", "your account runs as many jobs as it may"),
        ("QOSMaxWallDurationPerJobLimit", "more than one job may have"),
        ("DependencyNeverSatisfied", "what it depends on has failed"),
        ("PartitionTimeLimit", "more time than the partition"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_reasons_to_wait_are_told_in_plain_words(reason, words):
    assert words in queries.in_words(reason)


def test_only_what_will_never_begin_is_said_to_need_a_person():
    never = ("JobHeldUser", "PartitionTimeLimit", "QOSMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit")
    assert all(map(queries.never_starts, never))
    assert not any(
        map(queries.never_starts, ("Priority", "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "DependencyOther", ""))
    )
