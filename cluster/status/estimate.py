"""Estimate when what is running will have ended, and add up the hours that were used."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cluster.console import count
from cluster.ledger.rows import HoursRow, OpenStageRow, PackRow, StageWorkRow
from cluster.slurm.reasons import never_starts
from cluster.status.facts import HoursUsed, RunningPack, WaitingPacks
from cluster.status.pace import pace_of

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
    work: Sequence[StageWorkRow] = (),
    open_stages: Iterable[OpenStageRow] = (),
) -> tuple[float | None, str]:
    """Seconds until all that is submitted has ended, and what that rests on: what the stage runs that have completed
    took (`work`; `open_stages`: what is open in the packs that have begun). While there is none, each pack takes what
    was planned, or, once it has taken that, what the share of its stage runs that is done suggests. As many go on at a
    time as now."""
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
    working = {(pack.submission_id, pack.pack_index): pack.working for pack in packs}
    begun = {key: row for key, row in still.items() if row["started"]}
    if not begun:
        return None, "nothing has begun, and when it does is SLURM's to say"
    pace = pace_of(submissions, open_packs.values(), work)
    numbers: dict[tuple[str, int], dict[str, int]] = {}
    for each in open_stages:
        numbers.setdefault((each["submission_id"], each["pack_index"]), {})[each["stage"]] = each["open"]
    lefts, longer = [], 0
    for key, row in begun.items():
        at_work, taken = working.get(key, ()), now - (row["started"] or 0.0)
        left: float | None = pace.left(key[0], numbers.get(key, {}), at_work)
        if not pace.completed:
            longer += taken >= planned[key]
            left = _by_plan(planned[key], taken, (left or 0.0) / pace.whole[key[0]])
        if left is None:
            return None, "a pack takes longer than planned, and nothing of it is done"
        lefts.append(max([left, *(each.seconds_left or 0.0 for each in at_work)]))
    basis = pace.basis
    if longer:
        basis += f"; {count(longer, 'pack')} longer than that, reckoned from what of it is done"
    waiting = [pace.whole[key[0]] for key in still.keys() - begun.keys()]
    heapq.heapify(lefts)
    for seconds in sorted(waiting, reverse=True):
        heapq.heapreplace(lefts, lefts[0] + seconds)
    return max(lefts), basis + (f"; {len(lefts):,} at a time, as now" if waiting else "")


def _by_plan(planned: float, taken: float, share: float) -> float | None:
    """Seconds that are left of a pack, by what was planned for it; once it has taken that, by the share of it that is
    left. None: all of it is."""
    if taken < planned:
        return planned - taken
    return taken * share / (1 - share) if share < 1 else None
