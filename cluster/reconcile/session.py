"""The ledger of one OUTPUT_ROOT, opened as a command needs it: for writing, locked and reconciled, or for reading."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import OperationalError

from cluster.errors import InputError, LedgerBusy, OldLedger, SlurmSilent
from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.files.statuses import GIVEN_UP
from cluster.ledger.database import Ledger
from cluster.ledger.lock import locked
from cluster.ledger.rows import NOT_KNOWN, SubmissionRow
from cluster.ledger.store import in_the_systems_words, may_not_write
from cluster.reconcile import intents, notify, reconciling
from cluster.slurm import environment
from cluster.slurm.answers import job_name
from cluster.slurm.queries import Slurm

WAIT = 5.0  # seconds for the lock, before the ledger is read as it is


@dataclass(frozen=True)
class LedgerView:
    """A ledger to read from."""

    ledger: Ledger
    as_of: str  # when SLURM last answered, or nothing of it was open
    slurm: str  # reconcile's Answer


def need_ledger(output_root: OutputRoot) -> None:
    if not output_root.ledger.exists():
        here = "" if output_root.path.is_absolute() else f" below {Path.cwd()}"
        smoke = "Smoke runs are kept apart: say --smoke." if output_root.smoke.ledger.exists() else ""
        elsewhere = "Go to the folder where you submitted, or say --output-root. Nowhere yet? Submit first."
        advice = smoke or elsewhere
        if output_root.runs():
            advice = f"`tiny-transformers ledger rebuild` makes it from the files. {smoke}".rstrip()
        raise InputError(f"{output_root.ledger}: there is no ledger{here}. {advice}")


@contextmanager
def writing(
    output_root: OutputRoot, slurm: Slurm, dry_run: bool = False, unsettled: bool = False
) -> Iterator[Ledger | None]:
    """The ledger, locked and reconciled; None for a dry run where there is none, so that it leaves no trace.

    Raises SlurmSilent, with nothing changed, if SLURM does not answer, or has not answered for a submission unless such
    `unsettled` ones may be."""
    if dry_run and not output_root.ledger.exists():
        yield None
        return
    if not output_root.ledger.exists() and output_root.runs():
        need_ledger(output_root)
    held = False
    try:
        with locked(output_root.lock), in_the_systems_words(output_root.ledger):
            held = True
            ledger = Ledger(output_root.ledger)
            try:
                if _reconcile(ledger, output_root, slurm) == "unreachable":
                    raise SlurmSilent(
                        "SLURM did not answer, so what is under way is not known. Nothing was submitted or cancelled."
                    )
                if not unsettled:
                    _refuse_unsettled(ledger, output_root)
                yield ledger
            finally:
                ledger.close()
    finally:
        if held and not dry_run:
            notify.tell(output_root)  # with the ledger unlocked


@contextmanager
def reading(output_root: OutputRoot, slurm: Slurm | None) -> Iterator[tuple[LedgerView, str | None]]:
    """The ledger, reconciled if nobody else is at it and it may be written; else as it is, with a warning. Without
    `slurm` only the files are read, and what SLURM said last stands."""
    if not output_root.ledger.exists():
        need_ledger(output_root)
    warning = None
    with in_the_systems_words(output_root.ledger):
        try:
            with locked(output_root.lock, wait=WAIT):
                ledger, answer = _brought_up_to_date(output_root, slurm)
        except (LedgerBusy, OSError, OperationalError) as problem:
            if not isinstance(problem, LedgerBusy) and not may_not_write(problem):
                raise
            why = _told(output_root, problem)
            warning = f"{why} What follows is its last state."
            try:
                ledger = Ledger(output_root.ledger, read_only=True)
            except OldLedger as old:
                raise OldLedger(f"{why} {old}") from None
            answer = ledger.recall("slurm") or "none"
        try:
            yield LedgerView(ledger, ledger.recall("as_of") or "never", answer), warning
            if os.access(output_root.path, os.W_OK):
                notify.tell(output_root)
        finally:
            ledger.close()


def _told(output_root: OutputRoot, problem: Exception) -> str:
    if isinstance(problem, LedgerBusy):
        return str(problem)
    if isinstance(problem, OSError):
        return f"{problem.filename or output_root.path}: {problem.strerror}."
    return f"{output_root.ledger}: {problem}."


def _brought_up_to_date(output_root: OutputRoot, slurm: Slurm | None) -> tuple[Ledger, str]:
    ledger = Ledger(output_root.ledger)
    try:
        return ledger, _reconcile(ledger, output_root, slurm) if slurm else _read_files(ledger, output_root)
    except BaseException:
        ledger.close()
        raise


def made_here(ledger: Ledger, output_root: OutputRoot) -> list[SubmissionRow]:
    """The submissions that say where and how to go on from here, the newest last: not those that SLURM refused, nor
    those that came with an archive, whose site, account and folders are somebody else's, nor those whose files are
    gone."""
    elsewhere = output_root.came_along()
    return [
        row
        for row in ledger.submissions()
        if row["state"] not in GIVEN_UP and row["submission_id"] not in elsewhere and row["site"] != NOT_KNOWN
    ]


def only_imported(ledger: Ledger, output_root: OutputRoot) -> bool:
    """Whether it was unpacked from an archive, and nothing has been submitted here yet."""
    return output_root.imported.exists() and not output_root.requests() and not made_here(ledger, output_root)


def now() -> str:
    """The time as people read it."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def moment() -> str:
    """The time as what happened is put in order by: of two, the later one is the greater string."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _reconcile(ledger: Ledger, root: OutputRoot, slurm: Slurm) -> reconciling.SlurmReply:
    answer = reconciling.reconcile(ledger, root, slurm)
    with ledger.transaction():
        ledger.remember("slurm", answer)
        if answer != "unreachable":
            ledger.remember("as_of", now())
    return answer


class _Unasked:
    """In SLURM's place: no answer, which changes nothing."""

    def queue(self) -> None:
        return None

    def history(self, names: Iterable[str], days: int) -> None:  # noqa: ARG002
        return None


def _read_files(ledger: Ledger, root: OutputRoot) -> str:
    if reconciling.reconcile(ledger, root, _Unasked()) == "none":
        with ledger.transaction():
            ledger.remember("slurm", "none")
            ledger.remember("as_of", now())
    return ledger.recall("slurm") or "none"


def _refuse_unsettled(ledger: Ledger, root: OutputRoot) -> None:
    """Nothing is submitted beside a submission that may still arrive."""
    rows = [row for row in ledger.open_submissions() if row["state"] == "intended"]
    unsettled = [row["submission_id"] for row in rows]
    if not unsettled:
        return
    others = sorted({row["user"] for row in rows if row["user"]} - {environment.user()})
    youngest = min(whole_files.age(root.submission(submission_id).submission) for submission_id in unsettled)
    left = max(0, round(intents.patience() - youngest))
    if all(row["scheduler"] == "local" for row in rows):
        raise InputError(
            f"{', '.join(map(job_name, unsettled))} was to be started on this machine, by a command that was killed or "
            f"is at it. Nothing was submitted; try again in {left} s."
        )
    when = f"in {left} s" if left else "when sacct answers"
    when = f"when {' and '.join(others)} has looked, who alone sees those jobs" if others else when
    raise SlurmSilent(
        f"sbatch never answered for {', '.join(map(job_name, unsettled))}; SLURM does not show it, and it "
        f"may still arrive. Nothing was submitted; try again {when}."
    )
