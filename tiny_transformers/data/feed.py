"""The batches of an optimizer step, made while the device still works on the step before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tiny_transformers.data.batches import Batch


@dataclass(frozen=True)
class Step:
    batches: list[Batch]
    labels: int  # of all batches
    tokens: int  # of the texts, without padding
    eligible: int  # tokens that could have been labels


class Feed:
    """`make` gives a step's batches, by its number alone; it is called in a thread of its own, one step ahead.

    A thread will do, since most of the work is numpy's, which lets others run meanwhile."""

    def __init__(self, make: Callable[[int], Step]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "feed")
        self._next: tuple[int, Future[Step]] | None = None

    def take(self, number: int, *, last: bool) -> Step:
        """Step `number`; unless it is the last, the one after it is begun. Raises what `make` raises."""
        waiting = self._next
        future = waiting[1] if waiting and waiting[0] == number else self._thread.submit(self._make, number)
        step = future.result()
        self._next = None if last else (number + 1, self._thread.submit(self._make, number + 1))
        return step

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
