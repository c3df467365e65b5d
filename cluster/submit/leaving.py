"""Say what `tick` leaves alone though it is due, and why. `tick` goes by it, and `status` tells it of what was to be
tried again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum

from cluster.files.documents import SourceOfWork
from cluster.files.folders import OutputRoot
from cluster.files.records import AttemptRow, Run, StageState, key_of
from cluster.files.whole_files import TornFile
from cluster.ledger.database import Ledger
from cluster.slurm import environment
from cluster.submit import on_disk, pause
from cluster.submit.earlier import EarlierSubmissions
from tiny_transformers.settings.stages import STAGES, needed_by


class Why(Enum):
    """Why a run is left alone."""

    GONE = "the files of its submission are gone"
    REFUSED = "sbatch refused it"
    CANCELLED = "`cancel --all` was given"
    REMOVED = "files of the run were removed"
    BLOCKED = "an earlier stage of its run has failed"


def why(
    output_root: OutputRoot,
    run: Run,
    states: Mapping[str, StageState],
    source: SourceOfWork | None,
    paused: Collection[str],
) -> Why | None:
    """Tell it of a run that was submitted as `source` says; None: nobody knows. `paused`: users who gave `cancel`."""
    if source is None:
        return Why.GONE
    if paused and source.get("user") in (None, *paused):
        return Why.CANCELLED
    if not output_root.run(run.id).run_json.exists() or on_disk.removed(output_root, run, states):
        return Why.REMOVED
    return None


def all_left(
    ledger: Ledger, output_root: OutputRoot, before: EarlierSubmissions, failed: Collection[AttemptRow]
) -> dict[tuple[str, str, int], Why]:
    """Return those of these failed attempts that this user's `tick` leaves alone; each has a rule to be tried again."""
    try:
        paused = pause.paused(output_root)
    except TornFile:  # `tick` says so
        paused = {}
    if not {environment.user(), pause.SOMEBODY}.isdisjoint(paused):
        return {key_of(attempt): Why.CANCELLED for attempt in failed}
    run_ids = {attempt["run_id"] for attempt in failed}
    sources, states = before.sources(run_ids), ledger.states()
    found: dict[str, Why | None] = {
        run.id: why(output_root, run, states[run.id], sources.get(run.id), paused)
        for run in ledger.runs(sorted(run_ids))
    }
    found |= dict.fromkeys(before.refused, Why.REFUSED)
    told = {
        key_of(attempt): found.get(attempt["run_id"]) if before.is_known(attempt["submission_id"]) else Why.GONE
        for attempt in failed
    }
    due = {key[:2] for key, left in told.items() if not left}
    told |= {key: Why.BLOCKED for key, left in told.items() if not left and _is_blocked(key, states[key[0]], due)}
    return {key: left for key, left in told.items() if left}


def _is_blocked(key: tuple[str, str, int], states: Mapping[str, StageState], due: Collection[tuple[str, str]]) -> bool:
    """Whether a stage that this one needs has failed, and is not due, too. What this version knows nothing of needs
    nothing."""
    run_id, stage, _ = key
    if stage not in STAGES:
        return False
    failed = [need for need in needed_by([stage]) if need in states and states[need].status == "failed"]
    return any((run_id, need) not in due for need in failed)
