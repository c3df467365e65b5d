"""Word what `submit`, `rerun` and `tick` tell the user: what would be submitted, what waits, what was decided."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from rich.text import Text

from cluster.console import clean, console, count, hours, some
from cluster.files.folders import OutputRoot
from cluster.files.statuses import LIVE
from cluster.ledger.checks import unknown_runs
from cluster.ledger.database import Ledger
from cluster.plan import choice_words, choosing, disk, following, outlook, packing
from cluster.sites.profiles import Site
from cluster.slurm.sbatch import RefusedForNow
from cluster.submit import calibrating, launch, others, retries, tables
from cluster.submit.dispatch import Request, SubmitOptions
from cluster.submit.leaving import Why

GONE, RERUN = "the files of their submissions are gone", "`rerun --failed --site SITE` does them again"
CANCELLED = "the next `submit` or `rerun` of the same user goes on with them"
LISTED_RUNS = 60  # a dry run of more shows the studies only


def say_unknown(ledger: Ledger) -> None:
    """Name the runs that are left out, since another version has made them."""
    for told in unknown_runs(ledger):
        console.print(told, style="yellow", soft_wrap=True)


def show(request: Request, where: SubmitOptions, asked_by: str, data_root: Path | None) -> None:
    """Raises InputError for folders that no job could use: before anything is recorded."""
    unit = request.site.hours_unit
    arrays = request.planned
    if where.dry_run and len(request.items) <= LISTED_RUNS:
        console.print(tables.runs_table(request.runs, request.items, arrays))
    if where.dry_run:
        console.print(tables.studies_table(request.runs, request.items, request.site, request.studies))
        console.print(tables.stages_table(arrays, request.runs, unit, request.measured))
    with_data = launch.with_data(request.site, data_root)
    launch.check(with_data, where.output_root, where.log_dir.resolve())
    shown: list[packing.Resources] = []
    for number, array in enumerate(request.arrays, 1):
        runs = sum(len(pack.items) for pack in array.packs)
        console.print(
            f"array {number}: {count(len(array.packs), 'pack')} with {count(runs, 'run')}; each "
            f"{launch.resource_line(array, request.site)}"
        )
        if where.dry_run and request.site.scheduler == "slurm" and array.resources not in shown:  # else the same script
            shown.append(array.resources)
            text = launch.script(array, with_data, where.output_root, "TOKEN", where.log_dir.resolve())
            console.print(Text(text, style="dim"), soft_wrap=True)
    say_held(request, asked_by)
    say_later(request, where.output_root)
    if request.calibration:
        first = f"First comes {calibrating.told(request.calibration)}; the rest waits for it (or --no-calibration)."
        console.print(first, soft_wrap=True)
    if request.left_out:
        console.print(f"Left out, since optional: {', '.join(request.left_out)}. `--study S` takes one.")
    say_follow_ups(request, where.dry_run)
    basis = (
        "as measured on this site" if request.measured.by_stage else "as estimated: nothing was measured on this site"
    )
    stages = sum(len(item.stages) for item in request.items)
    site = request.site
    of = f" of {site.account}" if site.account and site.scheduler == "slurm" else ""
    console.print(f"{count(stages, 'stage run')}, about {hours(outlook.gpu_hours(arrays))} {unit}{of} {basis}.")
    if where.dry_run:
        console.print(tables.outlook_view(arrays, request.site, unit, request.later), soft_wrap=True)
    compared = where.dry_run and request.site.gpus  # with one A100
    if way := compared and tables.studies_way(arrays, request.runs, unit, request.measured):
        console.print(way)
    if where.dry_run:
        console.print(tables.sizes_view(arrays, request.runs, request.site, request.measured))
    space = disk.plan(request.items, request.runs)
    if where.dry_run and space.kept:
        console.print(space.told())
    if asked_by == "submit":
        _say_failed(request, where.output_root)
    say_mixed(request)
    said = (outlook.too_long(request.items, request.site), _too_little(space, where), _new(request.site, where))
    for note in filter(None, (*said, *request.notes)):
        console.print(f"Note: {note}", style="yellow", soft_wrap=True)
    if where.dry_run:
        console.print("A dry run: nothing was submitted.")


def _say_failed(request: Request, output_root: OutputRoot) -> None:
    """Say that `submit` does nothing again."""
    ended = [state.status for run in request.runs for state in request.states.get(run.id, {}).values()]
    if failed := ended.count("failed"):
        told = f"Failed or cancelled before, and not among these: {count(failed, 'stage run')}."
        console.print(f"{told} `rerun --failed{output_root.options}` goes on with that.", soft_wrap=True)


def say_mixed(request: Request) -> None:
    """Say which studies another manifest has submitted by the same name."""
    for told in request.mixed:
        console.print(f"Note: {told}", style="yellow", soft_wrap=True)


def say_follow_ups(request: Request, dry_run: bool = False) -> None:
    """Say which studies begin from others' results, what is chosen for them, and how much that is at most."""
    for plan in request.follow_ups.waiting.values():
        most = f", about {hours(outlook.most_hours(plan, request.measured))} {request.site.hours_unit} one at a time"
        most = most if dry_run else ""
        go_on = "" if dry_run else " `tick` chooses, and submits them, now and then or by cron."
        told = f"{choice_words.dry(plan)}{most}. {choice_words.again(following.seeds_again(plan))}".rstrip() + go_on
        console.print(told, soft_wrap=True)
    for choice in request.follow_ups.made.values():
        console.print(f"{choice_words.title(choice)}: chosen on {choice_words.when(choice)}, which stands.")


def _too_little(space: disk.Space, where: SubmitOptions) -> str | None:
    """What to say where the disk has less room than the weights take; of a quota nothing is known here."""
    path, needed = where.output_root.path.absolute(), space.kept + space.at_work
    try:
        free = shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free
    except OSError:  # it cannot be asked
        return None
    return f"{path}: {disk.size(free)} are free; weights take {disk.size(needed)}." if needed > free else None


def _new(site: Site, where: SubmitOptions) -> str | None:
    """What to say where nothing was submitted yet, since whoever stands in another folder than before pays twice."""
    path = where.output_root.path
    if site.scheduler == "local" or (path / "submissions").exists():
        return None
    return f"{path.absolute()} is new: what was submitted from another folder is not known here."


def say_held(request: Request, asked_by: str) -> None:
    packs = sum(len(array.packs) for array in request.held)
    if packs:
        known = ", as far as is known since sbatch refused more" if request.assumed else ""
        most, room = request.limits.max_submit, request.limits.room
        submitted = sum(len(array.packs) for array in request.arrays)
        others = f", and beside everybody's there is room for {room}" if room == submitted != most else ""
        console.print(
            f"{count(packs, 'pack', 'waits', 'wait')} for room: the account may have {count(most or 0, 'job')} waiting "
            f"and running{known}{others}. {_go_on(asked_by)}",
            soft_wrap=True,
        )


def say_later(request: Request, output_root: OutputRoot) -> None:
    """Say which runs wait for other ones."""
    runs = {item.run_id for array in request.later for pack in array.packs for item in pack.items}
    todo = [(run, list(run.stages)) for run in request.runs if run.id in runs]
    waiting = others.look(output_root, todo, request.states).later.values()
    go_on = f"`tiny-transformers tick{output_root.options}`, or --wait, submits them then."
    for told in others.told_later(waiting, {run.id: run.name for run in request.runs}, go_on):
        console.print(told, soft_wrap=True)


def say_refused(refusal: RefusedForNow, left: Sequence[packing.Array], asked_by: str) -> None:
    packs = sum(len(array.packs) for array in left)
    told = f"{clean(str(refusal))} {count(packs, 'pack', 'waits', 'wait')} until SLURM takes more. {_go_on(asked_by)}"
    console.print(Text(told, style="yellow"), soft_wrap=True)


def _go_on(asked_by: str) -> str:
    return "Do it again then." if asked_by == "rerun" else "`tick` submits them, now and then or by cron."


def say_left_alone(left: Mapping[str, Why], paused: Iterable[str]) -> None:
    """Say which runs are left alone, and what goes on with them. `paused`: users who gave `cancel --all`."""
    ways = {
        Why.GONE: (GONE, RERUN),
        Why.CANCELLED: (f"{' and '.join(paused)} gave `cancel --all`", CANCELLED),
        Why.REMOVED: ("files of theirs were removed ({})", "`submit` does them again"),
    }
    for each, (why, way) in ways.items():
        if runs := [run_id for run_id in left if left[run_id] is each]:
            told = f"{count(len(runs), 'run')} left alone, since {why.format(some(runs))}: {way}."
            console.print(told, style="yellow", soft_wrap=True)


def say_left_refused(refused: Mapping[str, str]) -> None:
    """Say which runs are left alone since SLURM refused them for good: run id -> why."""
    told = f"{count(len(refused), 'run')} left alone, since sbatch refused: {clean(next(iter(refused.values())))}."
    console.print(Text(f"{told} Mend that, and `submit` again.", style="yellow"), soft_wrap=True)


def say_decided(again: retries.RetryPlan, options: str) -> None:
    """Say what was decided of failures; `options` are what a command must be told to speak of this OUTPUT_ROOT."""
    retried = Counter((d["cause"], d["changes"]) for d in again.decided if d["action"] == "retry")
    stopped = Counter(d["cause"] for d in again.decided if d["action"] == "stop")
    for (cause, changes), number in retried.items():
        console.print(f"{count(number, 'stage run')} ended in {cause}: tried again, {changes}.")
    for cause, number in stopped.items():
        told = f"{count(number, 'stage run')} ended in {cause}: not tried again; see `status --failed{options}`."
        console.print(told, soft_wrap=True)
    if again.left:
        told = f"{count(again.left, 'stage run')} left alone, since {GONE}: {RERUN}."
        console.print(told, style="yellow", soft_wrap=True)
    if again.waiting:
        console.print(f"{count(again.waiting, 'stage run')} will be tried again later, as the rule says.")


def say_nothing_missing(request: Request, output_root: OutputRoot) -> None:
    states = request.states
    status = [state.status for run in request.runs for state in states.get(run.id, {}).values()]
    held = sum(
        choosing.status(states.get(run.id, {}), stage) == "waiting" for run in request.runs for stage in run.stages
    )
    if held:
        console.print(f"{count(held, 'stage run')} cannot be submitted before what is under way has ended.")
        return
    failed, cancelled = status.count("failed"), 0
    if failed:
        with closing(Ledger(output_root.ledger, read_only=True)) as ledger:
            cancelled = ledger.cancelled(run.id for run in request.runs)
    counts = {
        "completed": status.count("completed"),
        "under way": sum(each in LIVE for each in status),
        "cancelled": cancelled,
        "failed": failed - cancelled,
    }
    told = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number or what == "completed")
    how = "is to be submitted" if failed else "is missing"
    console.print(f"Nothing {how}: {count(len(request.runs), 'run')}, {count(len(status), 'stage run')}, {told}.")
    if failed:
        goes_on = "goes on with them from where they were" if cancelled == failed else "does them again"
        console.print(f"`rerun --failed{output_root.options}` {goes_on}.", soft_wrap=True)
