import os

import pytest

from cluster import slurm
from cluster.slurm import Slurm


def test_the_queue_is_keyed_by_array_and_task():
    text = "12_3|12|3|PENDING|Priority||tt-cafe\n13|13|N/A|RUNNING|None|gpu001|other|name\n"
    jobs = slurm.parse_queue(text)
    assert jobs["12_3"] == slurm.Job("12_3", "tt-cafe", "PENDING", "Priority")
    assert jobs["13"] == slurm.Job("13", "other|name", "RUNNING", "", "gpu001")


def test_accountings_bundled_tasks_are_told_apart():
    text = "5_[1-2,7%2]|tt-a|PENDING|0:0|None assigned\n5_0|tt-a|CANCELLED by 0|0:0|n1\n6|b|FAILED|0:9|n2\n"
    jobs = slurm.parse_history(text)
    assert sorted(jobs) == ["5_0", "5_1", "5_2", "5_7", "6"]
    assert (jobs["5_0"].state, jobs["6"].exit_code) == ("CANCELLED", "0:9")


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
    monkeypatch.setattr(slurm, "TIMEOUT", 0.2)
    client("squeue", "exec sleep 5")
    assert Slurm().queue() is None


def test_an_empty_queue_is_an_answer(client):
    client("squeue", "exit 0")
    assert Slurm().queue() == {}


def test_switched_off_accounting_has_no_record_and_a_dead_one_no_answer(client):
    client("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert Slurm().history(["1"]) == {}
    client("sacct", "echo 'sacct: error: slurm_persist_conn_open_without_init: connection refused' >&2; exit 1")
    assert Slurm().history(["1"]) is None


def test_without_slurm_nothing_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Slurm().queue() is None
    assert Slurm().cancel(["1"]) == "scancel gave no answer"
