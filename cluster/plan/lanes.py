"""Put runs on one device: which go beside and after each other, and how long a pack of them takes. Pure.

The rule is the job's own (jobs/pack.py): the runs are taken in order, at most so many at a time, and as soon as a lane
is free the next one whose memory is free begins. Runs at work share the device's speed: a run's seconds for itself,
with k at a time, are its share of what they take together, so that it lasts k times as long."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LOOKED_AT = 5  # runs that are looked through one by one for one whose memory is free; then, by their memory
CLASS = 1.25  # the most memory of a class of them / the least
GAVE_UP = -2


class Load(NamedTuple):
    """The demands of one run on a device."""

    lasts: tuple[float, ...]  # seconds from its beginning to its end, with 1, 2, 3 ... runs at a time
    memory: int = 0  # MB
    alone: float = 0.0  # seconds of stages that need the device for themselves, after all else


@dataclass(frozen=True, slots=True)
class Course:
    """The course of a pack, as predicted: what begins in which order, and how long it takes."""

    order: tuple[int, ...]  # of the loads, as they begin
    shares: tuple[float, ...]  # seconds of the device that each of these takes for itself; together they are `seconds`
    seconds: float
    lanes: int
    busy: float  # seconds of all runs, from their beginnings to their ends
    open: float  # seconds that lanes were there for them, of those that they could fill


class _AtWork:
    """A run that has begun and not ended."""

    __slots__ = ("lasts", "left", "memory", "place")

    def __init__(self, place: int, load: Load) -> None:
        self.left = 1.0  # part of it
        self.place = place  # in the order in which runs begin
        self.lasts, self.memory = load.lasts, load.memory


class Device:
    """A device on which runs begin and end, at most so many at a time, within so much memory."""

    def __init__(self, lanes: int, memory: float) -> None:
        self.lanes, self.free = lanes, memory
        self.now = 0.0
        self.order: list[int] = []
        self.after = 0.0  # seconds, for stages that need the device for themselves
        self._busy = self._own = 0.0  # own: seconds that a run which was always there would have had for itself
        self._at_work: list[_AtWork] = []
        self._began: list[float] = []
        self._shares: list[float] = []

    @property
    def at_work(self) -> int:
        return len(self._at_work)

    def begin(self, number: int, load: Load) -> None:
        self._at_work.append(_AtWork(len(self.order), load))
        self.order.append(number)
        self._began.append(self._own)
        self._shares.append(load.alone)
        self.free -= load.memory
        self.after += load.alone

    def go_on(self) -> None:
        """Until a run ends."""
        number = len(self._at_work)
        which = number - 1
        step = min([run.left * run.lasts[which] for run in self._at_work])
        self.now += step
        self._own += step / number
        self._busy += step * number
        going: list[_AtWork] = []
        for run in self._at_work:
            last = run.lasts[which]
            run.left -= step / last if last else 1.0
            if run.left > 1e-9:
                going.append(run)
                continue
            self._shares[run.place] += self._own - self._began[run.place]
            self.free += run.memory
        self._at_work = going

    def course(self) -> Course:
        opened = min(self.lanes, len(self.order)) * self.now + self.after
        return Course(
            tuple(self.order),
            tuple(self._shares),
            self.now + self.after,
            self.lanes,
            self._busy + self.after,
            opened,
        )


def work_through(loads: Sequence[Load], lanes: int, memory: float = math.inf) -> Course:
    """Return the course of a pack of these runs, taken in this order."""
    device = Device(lanes, memory)
    waiting = list(range(len(loads)))
    while waiting or device.at_work:
        while waiting and device.at_work < device.lanes:
            fitting = (place for place, n in enumerate(waiting) if not device.at_work or loads[n].memory <= device.free)
            if (place := next(fitting, None)) is None:
                break
            number = waiting.pop(place)
            device.begin(number, loads[number])
        device.go_on()
    return device.course()


class Packing:
    """The runs that are not in a pack yet."""

    def __init__(self, loads: Sequence[Load], memory: float = math.inf) -> None:
        self.loads, self.memory = loads, memory
        self.left = len(loads)
        self._waiting = bytearray(b"\1") * (len(loads) + 1)  # the last one stands for the end of every list
        self._sorted: dict[int, _Sorted] = {}  # by lanes

    def next_pack(self, lanes: int, length: float, most: float) -> Course:
        """Return a pack that is opened by the longest run left. It lasts as long as this run beside others, at least
        `length`, at most `most` seconds; where the run lasts longer beside so many others, there are fewer lanes."""
        opener = self._sorted_by(lanes).longest(math.inf, math.inf)
        ends = [lasts + self.loads[opener].alone for lasts in self.loads[opener].lasts]
        lanes = next((fewer for fewer in range(lanes, 1, -1) if ends[fewer - 1] <= most), 1)
        end = min(most, max(length, ends[lanes - 1]))
        device, waiting = Device(lanes, self.memory), self._sorted_by(lanes)
        self._begin(device, opener)
        while True:
            while self.left and device.at_work < lanes and (number := self._beside(device, end, waiting)) >= 0:
                self._begin(device, number)
            if not device.at_work:
                return device.course()
            device.go_on()

    def _begin(self, device: Device, number: int) -> None:
        self._waiting[number] = 0
        self.left -= 1
        device.begin(number, self.loads[number])

    def _beside(self, device: Device, end: float, waiting: _Sorted) -> int:
        """Return the longest run that ends by then, and leaves enough memory for small ones in the other lanes; if
        there is none, one that leaves less. -1 if nothing fits."""
        room, others = end - device.after - device.now, device.lanes - device.at_work - 1
        spared = others * waiting.least() if others and device.free < math.inf else 0
        number = waiting.longest(room, device.free - spared)
        return number if number >= 0 or not spared else waiting.longest(room, device.free)

    def _sorted_by(self, lanes: int) -> _Sorted:
        if lanes not in self._sorted:
            self._sorted[lanes] = _Sorted(self.loads, self._waiting, lanes)
        return self._sorted[lanes]


class _Sorted:
    """The runs that wait, by how long they last in so many lanes: all of them, and apart by their memory."""

    def __init__(self, loads: Sequence[Load], waiting: bytearray, lanes: int) -> None:
        self._lasts = lasts = [load.lasts[lanes - 1] for load in loads]
        numbers = [number for number in range(len(loads)) if waiting[number]]
        numbers.sort(key=lasts.__getitem__, reverse=True)
        parts: dict[int, list[int]] = {}
        for number in numbers:
            parts.setdefault(int(math.log(max(1, loads[number].memory), CLASS)), []).append(number)
        self._every = _Line(numbers, loads, waiting, lasts)
        self._apart = [_Line(parts[key], loads, waiting, lasts) for key in sorted(parts)]  # the least memory first

    def least(self) -> int:
        """Return the least memory that a run still needs, or a little less."""
        while self._apart and self._apart[0].is_empty:
            del self._apart[0]
        return self._apart[0].least if self._apart else 0

    def longest(self, room: float, memory: float) -> int:
        """Return the longest run that waits and fits, or -1."""
        if (number := self._every.longest(room, memory)) != GAVE_UP:
            return number
        found, lasts = -1, -1.0
        for line in self._apart:
            if line.least > memory:
                break
            if (number := line.longest(room, memory)) >= 0 and self._lasts[number] > lasts:
                found, lasts = number, self._lasts[number]
        return found


class _Line:
    """Runs in this order, the longest first. What is in a pack is jumped over."""

    def __init__(
        self, numbers: Sequence[int], loads: Sequence[Load], waiting: bytearray, lasts: Sequence[float]
    ) -> None:
        self._waiting = waiting
        self._keys = [-lasts[number] for number in numbers]
        self._memory = [loads[number].memory for number in numbers]
        self.least = min(self._memory)
        self._numbers = [*numbers, len(loads)]
        self._next = list(range(1, len(self._numbers) + 1))

    @property
    def is_empty(self) -> bool:
        return self._find(0) == len(self._keys)

    def longest(self, room: float, memory: float) -> int:
        """Return the longest that waits and fits, or -1; GAVE_UP where many that are short enough are too large."""
        place, end = self._find(0 if room == math.inf else bisect_left(self._keys, -room)), len(self._keys)
        for _ in range(LOOKED_AT):
            if place == end:
                return -1
            if self._memory[place] <= memory:
                return self._numbers[place]
            place = self._find(place + 1)
        return GAVE_UP

    def _find(self, place: int) -> int:
        """Return the first place from here on whose run still waits."""
        found, waiting, numbers, following = place, self._waiting, self._numbers, self._next
        while not waiting[numbers[found]]:
            found = following[found]
        while place != found:
            following[place], place = found, following[place]
        return found


def pack(loads: Sequence[Load], lanes: int, length: float, most: float, memory: float = math.inf) -> list[Course]:
    """Return packs of all of these runs, each about so many seconds long and no longer than `most`, if it can be."""
    left, packs = Packing(loads, memory), []
    while left.left:
        packs.append(left.next_pack(lanes, length, most))
    return packs


def end_of(lengths: Iterable[float], jobs: int | None, wait: float) -> float:
    """Return the seconds until the last of these packs has ended, the longest first, as many at once as the account may
    run (None: all of them), where each waits so long in the queue."""
    ordered = sorted(lengths, reverse=True)
    if not ordered:
        return 0.0
    if jobs is None or jobs >= len(ordered):
        return wait + ordered[0]
    ends = [0.0] * jobs
    for length in ordered:
        heapq.heapreplace(ends, ends[0] + wait + length)
    return max(ends)
