"""The lock of a ledger among real processes that stop, or are killed, between any two of its steps."""

import json
import multiprocessing
import os
import random
import signal
import socket
import time

import pytest
from waiting import wait_for

from cluster.files import whole_files
from cluster.ledger.lock import locked

STEPS = ("link", "rename", "unlink")  # of the lock; `link` creates a file exclusively
TRIES = 5  # after so many more it is clear that a process does not get the lock for the time being
fork = multiprocessing.get_context("fork")
DEAD = {"host": socket.gethostname(), "pid": 2**22 + 1, "start": "1"}  # a number that the kernel never gives


@pytest.fixture
def lock(tmp_path):
    """A lock whose holder has died."""
    path = tmp_path / "ledger.lock"
    path.write_text(json.dumps(DEAD))
    return path


def nothing(*_):
    pass


class Contender:
    """A process that takes a lock, once or more often, and before a step and inside does what it is told."""

    def __init__(self):
        self.links, self.held, self.together, self.gone = (fork.Value("i", 0) for _ in range(4))

    def start(self, lock, before_step=nothing, inside=nothing, times=1):
        self.process = fork.Process(target=self._contend, args=(lock, before_step, inside, times), daemon=True)
        self.process.start()

    def wait(self):
        """Until it has had the lock, or is gone, or does not get the lock for the time being."""
        before = self.links.value
        wait_for(lambda: self.held.value or self.gone.value or self.links.value >= before + TRIES)

    def die(self):
        self.gone.value = 1
        os.kill(os.getpid(), signal.SIGKILL)

    def _contend(self, lock, before_step, inside, times):
        for step in STEPS:
            setattr(os, step, self._told(step, getattr(os, step), before_step))
        for _ in range(times):
            with locked(lock, wait=240):
                self._be_inside(lock.with_name("inside"), inside)

    def _told(self, step, real, before):
        count = 0

        def call(*words, **options):
            nonlocal count
            count += 1
            self.links.value += step == "link"
            before(step, count)
            return real(*words, **options)

        return call

    def _be_inside(self, mark, inside):
        """No two may be so at a time."""
        try:
            mark.open("x").close()
        except FileExistsError:
            self.together.value += 1
        self.held.value += 1
        inside()
        mark.replace(mark.with_name(f"outside-{os.getpid()}"))


@pytest.mark.parametrize("fate", ["lives", "dies as the holder", "dies before its rename"])
@pytest.mark.parametrize("stop", [("link", 2), ("rename", 1)], ids=["creating", "renaming"])
def test_of_three_at_a_dead_holders_lock_no_two_ever_hold_it_together(lock, stop, fate):
    first, second, third = everyone = [Contender() for _ in range(3)]

    def pause(step, number):
        """Before what it does after it has seen the dead holder; and before what it renames after that."""
        if (step, number) == stop:
            second.wait()
        elif step == "rename":
            third.wait()

    def end(step, _):
        if step == "rename" and fate == "dies before its rename":
            second.die()

    def hold():
        if fate == "dies as the holder":
            lock.with_name("inside").unlink()
            second.die()
        first.wait()

    first.start(lock, pause)
    wait_for(lambda: first.links.value >= 2)
    second.start(lock, end, hold)
    second.wait()
    third.start(lock)
    for each in everyone:
        each.process.join(240)
    assert [each.together.value for each in everyone] == [0, 0, 0]
    assert (first.process.exitcode, third.process.exitcode) == (0, 0)
    assert list(lock.parent.glob("ledger.lock.*")) == []


def test_commands_that_are_killed_anywhere_never_let_two_hold_it_together_nor_hold_it_up(lock):
    everyone, living = [], []

    def begin(seed):
        one = Contender()

        def perhaps(*_):
            if random.random() < 0.03:
                one.die()

        def inside():
            time.sleep(0.002)

        random.seed(seed)
        one.start(lock, perhaps, inside, times=10**6)
        return one

    def long_enough():
        living[:] = [one for one in living if one.process.is_alive()]
        while len(living) < 4:
            living.append(begin(len(everyone)))
            everyone.append(living[-1])
        return sum(one.held.value for one in everyone) > 60 and len(everyone) > 20

    try:
        wait_for(long_enough)
    finally:
        for one in living:
            one.process.kill()
    assert {one.together.value for one in everyone} == {0}
    assert all(one.process.exitcode == -signal.SIGKILL for one in everyone if one not in living)


def test_a_lock_that_a_person_removed_and_another_took_is_left_to_it(lock):
    with locked(lock):
        lock.unlink()
        whole_files.create_json(lock, {**DEAD, "host": "elsewhere"})
    assert whole_files.read_json(lock)["host"] == "elsewhere"
