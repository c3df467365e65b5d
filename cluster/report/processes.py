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
R = TypeVar("R")
MANY = 100  # runs of a report that has other processes
MOST = 4  # processes: a login node has many cores, and many users
_work: Callable[[int], Any]  # of a process that was made for it


@contextmanager
def begun(work: Callable[[T], R], items: Sequence[T], *, runs: int) -> Iterator[Iterator[R]]:
    """Begin with the work on all items, and yield what it makes of each, in order; what is done before that is taken
    goes on beside it. Of a report of few runs, or where there is one core, all is done when it is taken. At the end of
    the block what has not begun never does.

    Enter it while this process has one thread. Raises InputError if a process was killed."""
    cores = _cores()
    if runs < MANY or cores < 2 or not items or sys.platform != "linux":  # elsewhere a copy of a process may not go on
        yield map(work, items)
        return
    context, number = multiprocessing.get_context("fork"), min(cores, MOST, len(items))
    pool = ProcessPoolExecutor(number, context, _begin, (lambda at: work(items[at]),))
    promised = [pool.submit(_done, at) for at in range(len(items))]  # the first of these makes all processes
    try:
        yield (each.result() for each in promised)
    except BrokenProcessPool:
        raise InputError("a process of this command was killed: is there too little memory?") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _begin(work: Callable[[int], Any]) -> None:
    global _work
    _work = work
    gc.freeze()  # what it was made with stays, and is not looked through again
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, and the first process says so


def _done(at: int) -> Any:
    return _work(at)
