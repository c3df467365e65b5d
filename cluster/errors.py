"""The errors that a user may meet, as a tree, and the exit code of each branch.

    TinyError
    +-- InputError    2  the user's input is wrong: a manifest, a site, a folder, a run's name
    +-- SubmitError   2  SLURM answered, and refused
    +-- SlurmSilent   3  SLURM gave no answer, and nothing was changed
    +-- LedgerBusy    2  another command holds the ledger
    +-- OldLedger    2  it was made by an older version, and may not be changed now
    +-- BreakerOpen   2  the same failure again and again: a person must look

These print as one message without a traceback. Anything else is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TinyError(Exception):
    exit_code = 2


class InputError(TinyError):
    pass


class SubmitError(TinyError):
    pass


class SlurmSilent(TinyError):
    exit_code = 3


class LedgerBusy(TinyError):
    pass


class OldLedger(TinyError):
    pass


class BreakerOpen(TinyError):
    pass


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that ends an error: the nearest known word, or all of them."""
    known = list(known)
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Known: {', '.join(known)}." if known else ""
