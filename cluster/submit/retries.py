"""What is done about failures: a decision on each, once, by its cause's rule, and a halt where packs fail alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cluster.errors import BreakerOpen
from cluster.files import whole_files
from cluster.files.documents import DecisionFile
from cluster.files.folders import OutputRoot
from cluster.files.records import AskedAttempt, AttemptRow, key_of
from cluster.ledger.database import Ledger
from cluster.plan import retry
from cluster.sites.profiles import Site


@dataclass(frozen=True)
class RetryPlan:
    """The failed stage runs that are tried again, and what else was decided."""

    due: dict[str, list[str]]  # run id -> stages
    waiting: int  # stage runs whose rule says to wait
    decided: list[DecisionFile]  # decisions made just now
    left: int  # stage runs that are left alone, since nobody knows how they were submitted


def decide(
    ledger: Ledger,
    output_root: OutputRoot,
    site_of: Callable[[str], Site | None],
    now: float,
    only: Collection[str] | None = None,
) -> RetryPlan:
    """Decide on every failed stage run, of these runs if given, that nothing was decided on yet: a file beside the
    attempt, and a row. Nothing is decided on an attempt whose files were removed, or whose site is not known; nor is
    one tried again whose site is not known any more."""
    known = ledger.decisions()
    due: dict[str, list[str]] = {}
    decided: list[DecisionFile] = []
    waiting = left = 0
    failed = [each for each in ledger.newest_attempts("failed") if only is None or each["run_id"] in only]
    histories = ledger.histories(attempt["run_id"] for attempt in failed if key_of(attempt) not in known)
    for attempt in failed:
        key = key_of(attempt)
        decision = known.get(key)
        if decision and decision["action"] == "stop":
            continue
        site = site_of(attempt["submission_id"])
        if site is None:
            left += 1
            continue
        if decision is None:
            if not output_root.attempt(*key).path.is_dir():
                continue
            decision = _decision(key, histories, site, now)
            whole_files.write_json(output_root.attempt(*key).decision, decision, indent=None)
            ledger.put_decision(decision)
            decided.append(decision)
        if decision["action"] == "retry" and decision["due"] <= now:
            due.setdefault(attempt["run_id"], []).append(attempt["stage"])
        elif decision["action"] == "retry":
            waiting += 1
    return RetryPlan(due, waiting, decided, left)


def expected(
    ledger: Ledger, output_root: OutputRoot, site_of: Callable[[str], Site | None], failed: Sequence[AttemptRow],
    now: float,
) -> dict[tuple[str, str, int], DecisionFile]:  # fmt: skip
    """Return what the next `tick` will decide on these, of those that it will try again, as far as the disk tells."""
    histories = ledger.histories(attempt["run_id"] for attempt in failed)
    made: dict[tuple[str, str, int], DecisionFile] = {}
    for attempt in failed:
        key, site = key_of(attempt), site_of(attempt["submission_id"])
        if site and (decision := _decision(key, histories, site, now))["action"] == "retry":
            with suppress(OSError):
                if output_root.attempt(*key).path.is_dir():
                    made[key] = decision
    return made


def _decision(
    key: tuple[str, str, int], histories: Mapping[tuple[str, str], Sequence[AskedAttempt]], site: Site, now: float
) -> DecisionFile:
    made = retry.decide(histories[key[:2]], site, now)
    return {
        "run_id": key[0], "stage": key[1], "number": key[2], "time": now, "action": made.action,
        "cause": made.cause, "tries": made.tries, "changes": made.changes, "due": made.due,
    }  # fmt: skip


def check_breaker(ledger: Ledger, site: Site) -> None:
    """Raises BreakerOpen if the attempts that ended last failed alike, one after another."""
    if site.breaker is None:
        return
    ended = ledger.latest_ends(2_000)  # a pack may have many, and failures that do not count may lie between
    alike = retry.in_a_row(ended)
    if alike >= site.breaker:
        newest = next(attempt for attempt in ended if attempt["status"] == "failed")
        raise BreakerOpen(
            f"The last {alike} packs failed alike ({newest['stage']}, {newest['cause']}: {newest['message']}). "
            "Nothing is submitted before a person has looked: `status --failed`; then `rerun --failed`, which goes on."
        )
