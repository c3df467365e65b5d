"""What a signal's handler says to the work that it interrupts. No torch."""

from __future__ import annotations

import time

LOOK = 0.1  # seconds between two looks of who waits


class Stop:
    """Whether this process was asked to stop.

    No threading.Event, whose lock its own thread cannot take twice: of two signals that come at once, as SLURM's to all
    of a job and the pack's to its child do, the second could interrupt the first in `set`, and wait for it for ever."""

    def __init__(self) -> None:
        self._asked = False

    def set(self) -> None:
        self._asked = True

    def is_set(self) -> bool:
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is set; whether it is."""
        until = time.monotonic() + seconds
        while not self._asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK))
        return self._asked
