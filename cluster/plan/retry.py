"""Decide what is done about a failure: a rule per cause, written as data in the site's profile. Pure.

A decision is made once for every failed attempt. How the next attempt differs follows from all earlier ones of the
stage run, so that a rerun which a person asks for learns from them, too."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from cluster.files.records import AskedAttempt, AttemptRow
from cluster.sites.profiles import Site

NO_MISTAKE = ("cancelled", "vanished", "preempted", "node_fail", "timeout")  # causes that say nothing against a run


@dataclass(frozen=True)
class Adjustment:
    """How a stage run's next attempt differs from a first one."""

    time: float = 1.0  # factor on the estimated time
    minutes: int = 0  # the least time limit
    less_memory: int = 0  # times that memory was halved: runs at a time first, then the micro-batch
    exclude: tuple[str, ...] = ()  # nodes

    def __or__(self, other: Adjustment) -> Adjustment:
        """Return what satisfies both, for stages of one run that go together."""
        exclude = tuple(sorted({*self.exclude, *other.exclude}))
        return Adjustment(
            max(self.time, other.time),
            max(self.minutes, other.minutes),
            max(self.less_memory, other.less_memory),
            exclude,
        )

    def __str__(self) -> str:
        words = [f"{self.time:g} x the time"] if self.time > 1 else []
        words += [f"1/{2**self.less_memory} of the memory"] if self.less_memory else []
        words += [f"not on {', '.join(self.exclude)}"] if self.exclude else []
        return ", ".join(words) or "the same again"


@dataclass(frozen=True)
class Decision:
    action: Literal["retry", "stop"]
    cause: str
    tries: int  # failures of this cause since a person last asked for the stage run
    changes: str
    due: float  # seconds since the epoch


def adjust(history: Sequence[AskedAttempt], site: Site) -> Adjustment:
    """How the attempt after these, oldest first, differs. A completed one ends what was learnt before it."""
    adjustment = Adjustment()
    for attempt in _submitted(history):
        if attempt["status"] == "completed":
            adjustment = Adjustment()
        if attempt["status"] != "failed":
            continue
        rule = site.rule(attempt["cause"])
        limit = math.ceil(rule.time * (attempt["minutes"] or 0)) if rule.time > 1 else 0
        # Only the last such node: a small partition would soon have none left.
        node = (attempt["host"],) if rule.exclude_node and attempt["host"] else adjustment.exclude
        adjustment = Adjustment(
            adjustment.time * rule.time,
            max(adjustment.minutes, limit),
            adjustment.less_memory + rule.less_memory,
            node,
        )
    return adjustment


def decide(history: Sequence[AskedAttempt], site: Site, now: float) -> Decision:
    """Decide what to do about the last of these attempts, which failed."""
    failed = history[-1]
    cause = cast(str, failed["cause"])  # what has failed has one
    rule = site.rule(cause)
    tries = 0
    for attempt in reversed(_submitted(history)):
        if attempt["status"] == "failed" and attempt["cause"] == cause:
            tries += 1
        if attempt["asked_by"] != "tick":  # a person saw what was before it
            break
    if tries > rule.times:
        return Decision("stop", cause, tries, "", now)
    due = (failed["ended"] or now) + 60 * rule.wait
    # Clocks of nodes may be wrong: nothing is put off for longer than the rule says.
    return Decision("retry", cause, tries, str(adjust(history, site)), min(due, now + 60 * rule.wait))


def _submitted(history: Sequence[AskedAttempt]) -> list[AskedAttempt]:
    """The last attempt of each submission: those before it are of a job that was requeued and went on."""
    return list({attempt["submission_id"]: attempt for attempt in history}.values())


def kind(attempt: AttemptRow) -> tuple[str, str, str]:
    """Failures that are alike: stage, cause, and the message without its numbers and names."""
    message = re.sub(r"\S*[\d/]\S*", "", attempt["message"] or "")
    return attempt["stage"], attempt["cause"] or "", " ".join(message.split())[:80]


def in_a_row(ended: Sequence[AttemptRow]) -> int:
    """In how many packs, one after another, the attempts that ended last, newest first, failed alike: what befalls a
    pack befalls all its runs. Those that a person cancelled, or may have, and what is no mistake in a run, do not
    count."""
    packs: set[tuple[str, int]] = set()
    first: tuple[str, str, str] | None = None
    for attempt in ended:
        if attempt["status"] == "failed" and attempt["cause"] in NO_MISTAKE:
            continue
        if attempt["status"] != "failed" or (first and kind(attempt) != first):
            break
        first = first or kind(attempt)
        packs.add((attempt["submission_id"], attempt["pack_index"]))
    return len(packs)
