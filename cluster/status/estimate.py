"""Estimate when what is running will have ended, and add up the hours that were used."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cluster.console import count
from cluster.ledger.rows import HoursRow, PackRow
from cluster.slurm.reasons import never_starts
from cluster.status.facts import HoursUsed, RunningPack, RunningStage, WaitingPacks

LITTLE = 0.02  # of a stage: from so little no time is reckoned


def hours_used(submissions: Iterable[HoursRow]) -> HoursUsed | None:
    rows = list(submissions)
    if not rows:
        return None
    planned = [row["seconds"] / 3600 * max(row["gpus"] or 1, 1) for row in rows if row["seconds"] is not None]
    known = sum(planned) if len(planned) == len(rows) else None
    return HoursUsed(
        sum(row["spent"] for row in rows), known, "GPU-hours" if any(row["gpus"] for row in rows) else "hours"
    )


def estimate_times(
    submissions: Mapping[str, HoursRow],
    open_packs: Mapping[tuple[str, int], PackRow],
    packs: Sequence[RunningPack],
    queue: Sequence[WaitingPacks],
    now: float,
) -> tuple[float | None, str]:
    """Seconds until all that is submitted has ended, and what that rests on: each pack takes what was planned, times
    what the ended ones took of theirs, or, once it has taken that, what the share of its stage runs that is done
    suggests; as many go on at a time as now."""
    still = {key: row for key, row in open_packs.items() if row["open"]}
    if not still:
        return None, ""
    stuck = next((each for each in queue if never_starts(each.reason)), None)
    if stuck:
        own = "itself" if len(stuck.packs) == 1 else "themselves"
        return None, f"{count(len(stuck.packs), 'pack')} will not start by {own}"
    sizes = Counter(submission_id for submission_id, _ in open_packs)
    planned = {
        (submission_id, index): seconds / sizes[submission_id]
        for submission_id, index in open_packs
        if submission_id in submissions and (seconds := submissions[submission_id]["seconds"])
    }
    if still.keys() - planned.keys():
        return None, "how long it takes was not planned"
    ended = {
        key: row["ended"] - row["started"]
        for key, row in open_packs.items()
        if key in planned and row["completed"] == row["attempts"] and row["ended"] and row["started"]
    }
    pace = sum(ended.values()) / sum(planned[key] for key in ended) if ended else 1.0
    working = {(pack.submission_id, pack.pack_index): pack.working for pack in packs}
    lefts, longer = [], 0  # of these, packs that have taken more than their time
    for key, row in still.items():
        if row["started"]:
            taken = now - row["started"]
            over = taken >= pace * planned[key]
            of_stages = max((each.seconds_left or 0.0 for each in working.get(key, ())), default=0.0)
            left = _beyond(row, working.get(key, ()), taken) if over else pace * planned[key] - taken
            if left is None:
                return None, "a pack takes longer than planned, and nothing of it is done"
            lefts.append(max(left, of_stages))
            longer += over
    waiting = [pace * planned[key] for key, row in still.items() if not row["started"]]
    if not lefts:
        return None, "nothing has begun, and when it does is SLURM's to say"
    heapq.heapify(lefts)
    for seconds in sorted(waiting, reverse=True):
        heapq.heapreplace(lefts, lefts[0] + seconds)
    basis = f"packs take {pace:.1f} x what was planned, by {len(ended):,} that ended" if ended else "as planned"
    if longer:
        basis += f"; {count(longer, 'pack')} longer than that, reckoned from what of it is done"
    return max(lefts), basis + (f"; {len(lefts):,} at a time, as now" if waiting else "")


def _beyond(row: PackRow, working: Sequence[RunningStage], taken: float) -> float | None:
    """Seconds that are left of a pack that has taken all of its time: none but its stages', if all that is open is at
    work and says when it ends; else by the share of its stage runs that is done. None: none of it is."""
    if len(working) == row["open"] and all(each.seconds_left is not None for each in working):
        return 0.0
    done = row["attempts"] - row["open"] + sum(each.fraction for each in working)
    return taken * (row["attempts"] / done - 1) if done else None
