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

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

FEW, MANY = 3, 20  # words that are named as alternatives, and as all that is known


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
    """A hint that ends an error: what the known words that begin so, have it in them or are spelt alike are; if none
    does, what is known."""
    known = list(dict.fromkeys(known))
    if near := like(word, known):
        return f"Did you mean {either(near)}?"
    return f"Known: {', '.join(known[:MANY])}{_more(known, MANY)}." if known else ""


def like(word: str, known: Sequence[str]) -> list[str]:
    """Return the words that may have been meant: those that begin so; else one that is spelt alike; else those that
    have it in them."""
    low = word.lower()
    begin = [each for each in known if low and each.lower().startswith(low)]
    spelt = get_close_matches(word, known, n=1, cutoff=0.5)
    return begin or spelt or [each for each in known if len(low) > 1 and low in each.lower()]


def either(words: Sequence[str]) -> str:
    """Return the first of these words as alternatives, and how many more there are."""
    if len(words) > FEW:
        return f"{', '.join(words[:FEW])}{_more(words, FEW)}"
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _more(words: Sequence[str], shown: int) -> str:
    return f" and {len(words) - shown:,} more" if len(words) > shown else ""
