"""How tests wait: for a condition, never for a time. The limit is for what will never come; a busy machine is slow."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 280  # seconds; less than breaks.py gives a test, so that what never comes is told by an assertion
RARELY = 10  # times as long as a look takes until the next: on a cluster's tests little else is to be done
LONGEST = 4  # seconds between two looks: where one takes 20, 200 more would only be lost


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE, pause: float = 0.05) -> Any:
    """What the condition returned, once that is true. What takes long to ask is asked less often."""
    began = time.monotonic()
    deadline = began + seconds
    while not (found := condition()):
        now = time.monotonic()
        assert now < deadline, f"it did not come about within {seconds:g} s"
        time.sleep(max(pause, min(RARELY * (now - began), LONGEST)))
        began = time.monotonic()
    return found
