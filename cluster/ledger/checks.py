"""Say in words what looks wrong across runs."""

from __future__ import annotations

from cluster.console import count, some
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger

FLAGGED = 8  # runs with a failed check that are named; of more the checks are counted


def identical_scores(ledger: Ledger) -> list[str]:
    """Check `identical_scores`: runs that were trained differently and score the same to the last digit."""
    told = []
    for stage, run_ids in ledger.identical_scores():
        known = ledger.names(run_ids)
        names = [f"{known[run_id]} ({run_id})" for run_id in run_ids]
        more = f" and {len(names) - FLAGGED:,} more" if len(names) > FLAGGED else ""
        told.append(f"{stage}: identical_scores: {', '.join(names[:FLAGGED])}{more}")
    return told


def unknown_runs(ledger: Ledger) -> list[str]:
    """Check that this version knows the settings of all runs: whatever it does not know it leaves out."""
    unknown = ledger.unknown_runs()
    if not unknown:
        return []
    named = some([f"{name} ({run_id}: {what})" for run_id, (name, what) in unknown.items()])
    return [f"{count(len(unknown), 'run')} left out, of settings that this version does not know: {named}"]


def removed_runs(ledger: Ledger, output_root: OutputRoot) -> list[str]:
    """Check the folders of runs: what the ledger knows of one that was removed has no files any more."""
    folder = output_root.path / "runs"
    try:
        removed = set(ledger.run_ids()) - output_root.run_ids()
    except OSError as error:
        return [f"{folder}: {error.strerror}, so what is shown of runs is what the ledger remembers"]
    if not removed:
        return []
    return [
        f"{folder} has no folder of {count(len(removed), 'run')} ({some(removed)}): what is shown "
        "of them is what the ledger remembers; `submit` does them again, `ledger rebuild` forgets them"
    ]
