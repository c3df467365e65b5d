"""Work that copies of a process do."""

import os
import signal
import time
from functools import partial

import pytest

from cluster.errors import InputError
from cluster.report import processes

MANY = processes.MANY


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(processes, "_cores", lambda: 2)


def test_what_is_made_comes_in_order_of_two_other_processes():
    unsent = [partial(lambda word: (word, os.getpid()), word) for word in ("first", "second", "third")]
    with processes.begun(unsent, runs=MANY) as tasks:  # which no pickle takes
        made = [take() for take in tasks]
    assert [what for what, _ in made] == ["first", "second", "third"]
    workers = {number for _, number in made}
    assert os.getpid() not in workers
    assert len(workers) <= 2


def test_a_report_of_few_runs_has_no_other_process():
    with processes.begun([os.getpid] * 2, runs=MANY - 1) as tasks:
        assert [take() for take in tasks] == [os.getpid()] * 2


def test_no_work_is_no_process():
    with processes.begun([], runs=MANY) as tasks:
        assert list(tasks) == []


def test_an_error_is_the_one_that_was_raised():
    with processes.begun([lambda: 1, lambda: 1 // 0, lambda: 2], runs=MANY) as tasks:
        assert (tasks[2](), tasks[0]()) == (2, 1), "in whichever order they are taken"
        with pytest.raises(ZeroDivisionError):
            tasks[1]()


def test_a_killed_process_is_said_in_a_sentence():
    killed = processes.begun([lambda: os.kill(os.getpid(), signal.SIGKILL)], runs=MANY)
    with pytest.raises(InputError, match="was killed: is there too little memory"), killed as tasks:
        tasks[0]()


def test_what_was_not_taken_is_not_waited_for(tmp_path):
    """Ctrl-C, and a folder that may not be written, end a command before it has taken anything."""

    def work(number):
        (tmp_path / str(number)).touch()
        time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt), processes.begun([partial(work, n) for n in range(100)], runs=MANY):
        raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) < 20
