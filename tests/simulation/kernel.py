"""Run simulated processes one at a time, in an order that a seed draws, on a clock of their own.

Each thread of a simulated process is a thread of this one, and exactly one runs at any moment: it goes on until it
waits, sleeps, or comes to a `point` (a call of SLURM, the disk or the clock) at which the draw takes its turn away.
kill -9 is an exception that no code of the product catches, raised at a point and at every one after it: what a dying
process would still do in a `finally` does not happen."""

from __future__ import annotations

import heapq
import io
import random
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

TICK = 0.001  # seconds that a call takes
FOREVER = float("inf")


class Killed(BaseException):
    """kill -9."""


class Worker:
    """A thread of this process, which runs those of simulated ones, one after another."""

    idle: list[Worker] = []  # shared by all, since to start one takes long

    def __init__(self) -> None:
        self.baton = threading.Lock()
        self.baton.acquire()
        self.work: Callable[[], None] | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.baton.acquire()
            assert self.work
            self.work()


class Thread:
    """A thread of a simulated process."""

    def __init__(self, kernel: Kernel, process: Process, function: Callable[[], Any]) -> None:
        self.kernel, self.process, self.function = kernel, process, function
        self.wake = 0.0
        self.ready: Callable[[], bool] | None = None  # besides, what it waits for
        self.ended = self.begun = False
        self.worker: Worker | None = None

    @property
    def may_run(self) -> bool:
        process = self.process
        if not process.alive:
            return True
        if process.stopped:
            return False
        if process.signals and process.threads[0] is self and process.deliverable():
            return True
        if self.wake > self.kernel.now:
            return self.ready is not None and self.ready()
        return self.ready is None or self.wake > 0.0 or self.ready()  # a wait for a condition may have an end

    def run(self) -> None:
        process, code = self.process, 0
        try:
            self.function()
        except Killed:
            code = -signal.SIGKILL
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # noqa: BLE001 - a bug of the product, which the walk reports
            code = 1
            process.tracebacks.append(traceback.format_exc())
        self.ended = True
        if process.threads[0] is self and process.alive:
            process.end(code)
        self.kernel.hand_back(self)


class Process:
    """A process of some host: its number, user, environment, what it prints, how it takes signals."""

    def __init__(self, kernel: Kernel, name: str, host: str, user: str, environment: dict[str, str],
                 parent: Process | None = None, draw: random.Random | None = None) -> None:  # fmt: skip
        self.kernel, self.name, self.host, self.user, self.parent = kernel, name, host, user, parent
        self.environ = {key.encode(): value.encode() for key, value in environment.items()}
        self.pid = kernel.next_pid
        kernel.next_pid += 1
        self.alive, self.stopped, self.returncode = True, False, 0
        self.dies_with_parent = False
        self.handlers: dict[int, Any] = {}
        self.blocked: set[int] = set()
        self.signals: list[int] = []
        self.threads: list[Thread] = []
        self.children: list[Process] = []
        self.output = io.StringIO()
        self.tracebacks: list[str] = []
        self.on_end: Callable[[int], None] | None = None
        self.points = 0
        self.kill_at = 0  # at this point, counted from 1; 0: never
        self.draw = draw or random.Random(0)
        self.pace = 60.0  # points, on average, before another may have the turn
        self.turn = self._next_turn()
        self.faults: list[Any] = []  # what its files do: disk.DiskFault
        self.stop: Any = None  # jobs.stage.STOP of this process
        self.peak = 1000  # KiB
        self.notes: dict[str, Any] = {}
        if parent:
            parent.children.append(self)
        kernel.processes[self.pid] = self

    def _next_turn(self) -> int:
        return self.points + 1 + int(self.draw.expovariate(1 / self.pace)) if self.pace else 1 << 60

    def start(self, function: Callable[[], Any]) -> Process:
        self.kernel.add(self, function)
        return self

    def deliverable(self) -> list[int]:
        return [signum for signum in self.signals if signum not in self.blocked]

    def send(self, signum: int) -> None:
        """As kill(2). Raises ProcessLookupError."""
        if not self.alive:
            raise ProcessLookupError(3, "No such process")
        if signum == signal.SIGKILL:
            self.end(-signal.SIGKILL)
        elif signum in self.blocked:
            self.signals.append(signum)
        else:
            self._take(signum)

    def _take(self, signum: int) -> None:
        handler = self.handlers.get(signum, signal.SIG_DFL)
        if handler == signal.SIG_DFL:
            self.end(-signum)
        elif handler != signal.SIG_IGN:
            self.signals.append(signum)

    def unblock(self, numbers: set[int]) -> None:
        self.blocked -= numbers
        for signum in self.deliverable():
            self.signals.remove(signum)
            self._take(signum)

    def handle(self) -> None:
        """Run the handlers of the signals that have come, as Python does: in the main thread."""
        for signum in self.deliverable():
            self.signals.remove(signum)
            handler = self.handlers.get(signum, signal.SIG_DFL)
            if callable(handler):
                handler(signum, None)

    def end(self, code: int) -> None:
        if not self.alive:
            return
        self.alive, self.returncode = False, code
        self.stopped = False
        for child in self.children:
            if child.alive and child.dies_with_parent:
                child.end(-signal.SIGKILL)
        if self.on_end:
            self.on_end(code)


class Kernel:
    """The clock, and whose turn it is."""

    def __init__(self, now: float, draw: random.Random) -> None:
        self.now, self.draw = now, draw
        self.next_pid = 1000
        self.processes: dict[int, Process] = {}
        self.live: list[Thread] = []
        self.current: Thread | None = None
        self._driver = threading.Lock()
        self._driver.acquire()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._until, self._done = 0.0, None  # what `advance` was asked for
        self._problem: Exception | None = None  # that came up while a thread chose who is next

    # -- what the world calls

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, what))

    def advance(self, until: float, done: Callable[[], bool] | None = None) -> None:
        """Let the processes run until that time, or until `done`. Whoever pauses chooses who is next: nothing is
        switched where that is the same thread again."""
        self._until, self._done = until, done
        if (thread := self._choose(first=True)) is not None:
            self._pass_on(thread)
            self._driver.acquire()
        if self._problem:
            problem, self._problem = self._problem, None
            raise problem

    def _choose(self, first: bool = False) -> Thread | None:
        """Return the thread whose turn it is; None: it is the turn of who called `advance`. `first`: its own choice."""
        try:
            return self._next(first)
        except Exception as problem:  # noqa: BLE001 - of the world, and not of the process that pauses
            self._problem = problem
            return None

    def _next(self, first: bool) -> Thread | None:
        until, done = self._until, self._done
        while not (done() if done else self.now > until and not first):
            first = False
            while self._timers and self._timers[0][0] <= self.now:
                heapq.heappop(self._timers)[2]()
            now = self.now
            awake = [  # most sleep
                thread for thread in self.live
                if thread.wake <= now or thread.ready is not None or not thread.process.alive or thread.process.signals
            ]  # fmt: skip
            ready = [thread for thread in awake if thread.may_run]
            if ready:
                dead = [thread for thread in ready if not thread.process.alive]
                chosen = dead[0] if dead else ready[0] if len(ready) == 1 else self.draw.choice(ready)
                if chosen.begun or chosen.process.alive:
                    return chosen
                self.live.remove(chosen)
                continue
            times = [thread.wake for thread in self.live if not thread.process.stopped and thread.wake > self.now]
            times += [self._timers[0][0]] if self._timers else []
            following = min(times, default=FOREVER)
            if following > until:
                self.now = max(self.now, until)
                return None
            self.now = following
        return None

    def add(self, process: Process, function: Callable[[], Any]) -> Thread:
        thread = Thread(self, process, function)
        process.threads.append(thread)
        self.live.append(thread)
        return thread

    def end_all(self) -> None:
        """Leave no thread behind."""
        for process in list(self.processes.values()):
            process.on_end = None
            process.end(-signal.SIGKILL)
        self._until, self._done = -FOREVER, None
        while self.live:
            if self.live[0].begun:
                self._pass_on(self.live[0])
                self._driver.acquire()
            else:
                self.live.pop(0)

    def _pass_on(self, thread: Thread | None) -> None:
        """Give the turn away."""
        if thread is None:
            self._driver.release()
            return
        self._enter(thread)
        if not thread.begun:
            thread.begun = True
            thread.worker = worker = Worker.idle.pop() if Worker.idle else Worker()
            worker.work = thread.run
        assert thread.worker
        thread.worker.baton.release()

    def _enter(self, thread: Thread) -> None:
        self.current = thread
        enter(thread.process)

    # -- what simulated threads call

    def hand_back(self, thread: Thread) -> None:
        """A thread has ended."""
        self.current = None
        self.live.remove(thread)
        assert thread.worker
        thread.worker.work = None  # which would hold on to its world
        Worker.idle.append(thread.worker)
        self._pass_on(self._choose())

    def pause(self, wake: float = 0.0, ready: Callable[[], bool] | None = None) -> None:
        """Wait until that time, or for a condition if one is given, or both: the condition until that time."""
        thread = self.current
        assert thread
        assert thread.worker
        process, deadline = thread.process, wake
        while True:
            thread.wake, thread.ready = deadline, ready
            self.current = None
            if (chosen := self._choose()) is thread:
                self._enter(thread)
            else:
                self._pass_on(chosen)
                thread.worker.baton.acquire()
            if not process.alive:
                raise Killed
            if process.signals and process.threads[0] is thread:
                process.handle()
                if not process.alive:
                    raise Killed
            if ready is not None and ready():
                return
            if self.now >= deadline and (ready is None or deadline > 0.0):
                return

    def point(self) -> Process:
        """A simulated process calls SLURM, the disk or the clock: the world may act."""
        thread = self.current
        assert thread
        process = thread.process
        if not process.alive:
            raise Killed
        process.points += 1
        self.now += TICK
        if process.points == process.kill_at:
            process.notes["killed"] = True
            process.end(-signal.SIGKILL)
            raise Killed
        if process.signals and process.threads[0] is thread and process.deliverable():
            process.handle()
        if process.points >= process.turn:
            process.turn = process._next_turn()
            self.pause()
        return process


# -- what a process sees as its own, swapped with the turn

_enter: list[Callable[[Process], None]] = []


def on_entering(function: Callable[[Process], None]) -> None:
    _enter[:] = [function]


def enter(process: Process) -> None:
    for function in _enter:
        function(process)


# -- stand-ins for Python's threading and queue


class Event:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._set = kernel, False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            until = FOREVER if timeout is None else self._kernel.now + timeout
            self._kernel.pause(until, self.is_set)
        return self._set


class RLock:
    """A lock that its holder may take again."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._holder: Thread | None = None
        self._times = 0

    def __enter__(self) -> None:
        me = self._kernel.current
        while self._holder not in (None, me):
            self._kernel.pause(0.0, lambda: self._holder is None or self._holder.ended)
            if self._holder and self._holder.ended:
                self._holder = None
        self._holder = me
        self._times += 1

    def __exit__(self, *error: object) -> None:
        self._times -= 1
        if not self._times:
            self._holder = None


class Condition:
    """Whoever waits lets others have the lock until it is notified."""

    def __init__(self, kernel: Kernel, lock: RLock) -> None:
        self._kernel, self._lock = kernel, lock
        self._notified = 0

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__()

    def wait(self) -> None:
        before = self._notified
        times, self._lock._times, self._lock._holder = self._lock._times, 0, None
        self._kernel.pause(0.0, lambda: self._notified != before)
        self._lock.__enter__()
        self._lock._times = times

    def notify_all(self) -> None:
        self._notified += 1


class Queue:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._items: list[Any] = []

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self) -> Any:
        while not self._items:
            self._kernel.pause(0.0, lambda: bool(self._items))
        return self._items.pop(0)


class Output(io.TextIOBase):
    """sys.stdout: what a simulated process prints goes to that process, all else where it went."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, kernel: Kernel, real: Any) -> None:
        self._kernel, self._real = kernel, real

    def write(self, text: str) -> int:
        thread = self._kernel.current
        return thread.process.output.write(text) if thread else int(self._real.write(text))

    def flush(self) -> None:
        if self._kernel.current is None:
            self._real.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True
