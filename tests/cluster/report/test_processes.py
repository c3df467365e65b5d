"""Work that copies of a process do."""

import os
import signal
import time

import pytest

from cluster.errors import InputError
from cluster.report import processes

MANY = processes.MANY


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(processes, "_cores", lambda: 2)


def test_what_is_made_comes_in_order_of_two_other_processes():
    unsent = [lambda: "first", lambda: "second", lambda: "third"]  # which no pickle takes
    with processes.begun(lambda make: (make(), os.getpid()), unsent, runs=MANY) as all_made:
        made = list(all_made)
    assert [what for what, _ in made] == ["first", "second", "third"]
    workers = {number for _, number in made}
    assert os.getpid() not in workers
    assert len(workers) <= 2


def test_a_report_of_few_runs_has_no_other_process():
    with processes.begun(lambda _: os.getpid(), [1, 2], runs=MANY - 1) as made:
        assert list(made) == [os.getpid()] * 2


def test_no_work_is_no_process():
    with processes.begun(abs, [], runs=MANY) as made:
        assert list(made) == []


def test_an_error_is_the_one_that_was_raised():
    with processes.begun(lambda number: 1 / number, [1, 0, 2], runs=MANY) as made:
        assert next(made) == 1
        with pytest.raises(ZeroDivisionError):
            next(made)


def test_a_killed_process_is_said_in_a_sentence():
    killed = processes.begun(lambda _: os.kill(os.getpid(), signal.SIGKILL), [1], runs=MANY)
    with pytest.raises(InputError, match="was killed: is there too little memory"), killed as made:
        next(made)


def test_what_was_not_taken_is_not_waited_for(tmp_path):
    """Ctrl-C, and a folder that may not be written, end a command before it has taken anything."""

    def work(number):
        (tmp_path / str(number)).touch()
        time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt), processes.begun(work, range(100), runs=MANY):
        raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) < 20
