"""Work of which one process would have long: copies of it do it, so that only what they return is sent."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster.errors import InputError

T = TypeVar("T")
MANY = 100  # runs of a report that has other processes
MOST = 4  # processes: a login node has many cores, and many users
_tasks: Sequence[Callable[[], Any]]  # of a process that was made for them


@contextmanager
def begun(tasks: Sequence[Callable[[], T]], *, runs: int) -> Iterator[Sequence[Callable[[], T]]]:
    """Begin with all tasks, in their order, and yield for each what waits for its result; what is done before that is
    taken goes on beside them. Of a report of few runs, or where there is one core, a task is done when it is taken. At
    the end of the block what has not begun never does.

    Enter it while this process has one thread. Raises InputError if a process was killed."""
    cores = _cores()
    if runs < MANY or cores < 2 or not tasks or sys.platform != "linux":  # elsewhere a copy of a process may not go on
        yield tasks
        return
    context, number = multiprocessing.get_context("fork"), min(cores, MOST, len(tasks))
    pool = ProcessPoolExecutor(number, context, _begin, (tasks,))
    promised = [pool.submit(_done, at) for at in range(len(tasks))]  # the first of these makes all processes
    try:
        yield [each.result for each in promised]
    except BrokenProcessPool:
        raise InputError("a process of this command was killed: is there too little memory?") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _begin(tasks: Sequence[Callable[[], Any]]) -> None:
    global _tasks
    _tasks = tasks
    gc.freeze()  # what it was made with stays, and is not looked through again
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and the first process says so


def _done(at: int) -> Any:
    return _tasks[at]()
