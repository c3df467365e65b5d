"""Say in words what looks wrong across runs."""

from __future__ import annotations

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
