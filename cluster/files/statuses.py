"""A stage run, an attempt and a submission have one of these statuses each. Both halves and the ledger use the words,
and the groups of them that are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

# Of a stage run: the first that fits.
StageStatus = Literal["completed", "running", "submitted", "failed", "blocked", "eligible", "waiting"]
STATUSES: tuple[StageStatus, ...] = get_args(StageStatus)
WORST_FIRST: Final = ("failed", "blocked", "running", "submitted", "eligible", "waiting", "completed")

# Of an attempt.
Ended = Literal["completed", "failed"]  # as the job itself says
Judged = Literal[Ended, "void"]  # as the login node says; void: its pack ended before its turn, so it does not count
AttemptStatus = Literal["submitted", "running", Judged]
LIVE: Final = ("submitted", "running")  # under way
TRIED: Final = ("completed", "running", "submitted", "failed")  # stage runs that have an attempt
UNTRIED: Final = ("eligible", "waiting", "blocked")  # and those that have none
UNFINISHED: Final = (*LIVE, "eligible", "waiting")  # of which a result may still come by itself
STUCK: Final = ("failed", "blocked")  # what needs one of these is blocked
FRUITLESS: Final = ("failed", "void")  # attempts that are over and have no score

# Of a submission. intended: sbatch may know it or not; refused: sbatch said no; void: proven absent.
State = Literal["intended", "submitted", "done", "refused", "void"]
OPEN: Final = ("intended", "submitted")  # something may still happen
TAKEN: Final = ("submitted", "done")  # the scheduler has taken it
GIVEN_UP: Final = ("refused", "void")  # none of it will run


def worst(statuses: Iterable[StageStatus]) -> StageStatus:
    """Return what stands for a run whose stages have these."""
    return min(statuses, key=WORST_FIRST.index, default="waiting")
