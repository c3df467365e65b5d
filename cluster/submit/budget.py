"""Keep what is submitted within a budget of GPU-hours, by the plan's own estimate; prints nothing.

`--max-gpu-hours` is for what one command asks for. A manifest's `budget` is for all that is submitted to its
OUTPUT_ROOT: what has ended counts with the hours that it used, what is under way with those that were planned for it,
or with those that it has used if they are more. On a site without GPUs the hours are those of its packs. What goes over
is not submitted at all, and not in part: which part is the user's to say."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import NoReturn

from cluster.console import count
from cluster.errors import InputError
from cluster.files import documents, whole_files
from cluster.files.documents import BudgetFile
from cluster.files.folders import OutputRoot
from cluster.files.statuses import OPEN
from cluster.ledger.database import Ledger
from cluster.plan import outlook
from cluster.submit.dispatch import Request, SubmitOptions

ADVICE = {
    "submit": "Narrow its grids, or give it more.",
    "rerun": "Name runs with --run, or raise it in the manifest and `submit` that.",
    "tick": "Raise it in the manifest and `submit` that, or choose: `rerun --failed --run RUN`.",
}


def last(output_root: OutputRoot) -> BudgetFile | None:
    """Return the budget that the manifest had which was submitted last."""
    return documents.read(output_root.budget, BudgetFile)


def keep(output_root: OutputRoot, budget: BudgetFile | None) -> None:
    """Remember a manifest's budget, or that it has none, for `tick` and `rerun`."""
    if budget is None:
        output_root.budget.unlink(missing_ok=True)
    else:
        whole_files.write_json(output_root.budget, budget)


def check(where: SubmitOptions, ledger: Ledger | None, request: Request, asked_by: str) -> None:
    """Raises InputError, which says what would fit, if the request would go over a budget."""
    hours, unit = outlook.gpu_hours(request.planned), request.site.hours_unit
    limit, budget = where.max_gpu_hours, request.budget
    if limit is not None and hours > limit:
        _refuse(f"--max-gpu-hours {limit:g}: this would take about {_told(hours, unit)}", request, limit, asked_by)
    if budget:
        taken = _taken(ledger, where.output_root, bool(request.site.gpus)) if ledger else 0.0
        if taken + hours > budget["gpu_hours"]:
            before = f"{_told(taken, unit)} are used or under way, and " if taken else ""
            told = f"{before}this would take about {_told(hours, unit)}{' more' if taken else ''}"
            place = f"{budget['manifest']}: budget.gpu_hours: {budget['gpu_hours']:g}"
            _refuse(f"{place}: {told}", request, budget["gpu_hours"] - taken, asked_by)


def _taken(ledger: Ledger, output_root: OutputRoot, gpus: bool) -> float:
    """Return the hours of what was submitted from here, on sites with GPUs or on those without."""
    elsewhere = output_root.came_along()
    return sum(
        max(row["spent"], (row["seconds"] or 0.0) / 3600 * max(row["gpus"] or 1, 1))
        if row["state"] in OPEN
        else row["spent"]
        for row in ledger.hours()
        if bool(row["gpus"]) == gpus and row["submission_id"] not in elsewhere
    )


def _refuse(told: str, request: Request, room: float, asked_by: str) -> NoReturn:
    raise InputError(f"{told}. Nothing was submitted. {_what_fits(request, room, asked_by)}")


def _what_fits(request: Request, room: float, asked_by: str) -> str:
    """Say which studies fit, in the manifest's order; where studies cannot be named or none fits, how many runs."""
    hours = outlook.gpu_hours(request.planned)
    seconds = sum(item.seconds for item in request.items)
    of_run = {item.run_id: hours * item.seconds / seconds for item in request.items}  # a pack's hours are its runs'
    fitting: list[str] = []
    members: set[str] = set()
    for study in request.studies if asked_by == "submit" else ():
        more = {run.id for run in request.runs if study in run.studies and run.id in of_run} - members
        if more and sum(map(of_run.__getitem__, members | more)) <= room:
            fitting.append(study)
            members |= more
    if fitting:
        named = " ".join(f"--study {study}" for study in fitting)
        told = _told(sum(map(of_run.__getitem__, members)), request.site.hours_unit)
        return f"This fits, in the manifest's order: {named} (about {told})."
    number = sum(together <= room for together in accumulate(of_run.values()))
    first = f"The first {number:,} of its {count(len(of_run), 'run')} would fit" if number else "Not one run of it fits"
    return f"{first}. {ADVICE[asked_by]}"


def _told(hours: float, unit: str) -> str:
    """Rounded up, so that a budget of what is told is enough."""
    return f"{math.ceil(hours * 100) / 100:,.2f} {unit}"
