"""Work that copies of a process do."""

import os
import signal

import pytest

from cluster.errors import InputError
from cluster.report import processes

MANY = processes.MANY


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(processes, "_cores", lambda: 2)


def test_what_is_made_comes_in_order_of_two_other_processes():
    unsent = [lambda: "first", lambda: "second", lambda: "third"]  # which no pickle takes
    made = list(processes.begun(lambda make: (make(), os.getpid()), unsent, runs=MANY))
    assert [what for what, _ in made] == ["first", "second", "third"]
    workers = {number for _, number in made}
    assert os.getpid() not in workers
    assert len(workers) <= 2


def test_a_report_of_few_runs_has_no_other_process():
    assert list(processes.begun(lambda _: os.getpid(), [1, 2], runs=MANY - 1)) == [os.getpid()] * 2


def test_no_work_is_no_process():
    assert list(processes.begun(abs, [], runs=MANY)) == []


def test_an_error_is_the_one_that_was_raised():
    made = processes.begun(lambda number: 1 / number, [1, 0, 2], runs=MANY)
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_a_killed_process_is_said_in_a_sentence():
    made = processes.begun(lambda _: os.kill(os.getpid(), signal.SIGKILL), [1], runs=MANY)
    with pytest.raises(InputError, match="was killed: is there too little memory"):
        next(made)
