"""Make jobs of what is asked for: a request is built from the ledger as it is now, shown, asked about and submitted.

A question is asked with the ledger unlocked, and what was shown is submitted only if it still is what is missing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.console import ask, console, count
from cluster.errors import InputError, SubmitError
from cluster.files import own_stages, whole_files
from cluster.files.documents import RequestFile
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.plan import cost
from cluster.plan.memo import PerSettings
from cluster.reconcile import notify, reconciling, session
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.slurm.queries import Slurm
from cluster.slurm.sbatch import RefusedForNow
from cluster.submit import budget, calibrating, choices, code_copy, contents, dispatch, launch, on_disk, others, pause
from cluster.submit.dispatch import Request, States, SubmitOptions, Todo
from cluster.submit.own_stages import check_runnable
from cluster.submit.wording import say_refused, say_unknown, show
from tiny_transformers.common import progress
from tiny_transformers.common.data_root import explain
from tiny_transformers.common.provenance import code_version
from tiny_transformers.settings.config import lacking_files
from tiny_transformers.settings.stage.kind import UNKNOWN, Sizes
from tiny_transformers.settings.stages import needed_by


def compose(
    where: SubmitOptions,
    ledger: Ledger | None,
    runs: list[Run],
    todo: Todo,
    states: States,
    site: Site,
    studies: list[str],
    slurm: Slurm,
    origin: launch.Origin,
) -> Request:
    """Return what would be submitted of these stage runs, without what is left alone; says why it is."""
    reached = dispatch.last_limit(ledger, where.output_root, site) if ledger else None
    check_runnable(todo)
    of_one = _of_one_code(where, ledger, _with_model(where, todo), origin)
    waiting = others.look(where.output_root, of_one, states)
    if waiting.gone:
        console.print(others.told_gone(waiting.gone, where.output_root), style="yellow", soft_wrap=True)
    if waiting.later and origin.asked_by != "submit":  # which alone keeps what it was asked for
        names = ledger.names(need["run_id"] for need in waiting.later.values()) if ledger else {}
        go_on = "`tick` goes on then." if origin.asked_by == "tick" else "Left alone: do it again then."
        for told in others.told_later(waiting.later.values(), names, go_on):
            console.print(told, style="yellow", soft_wrap=True)
    left = waiting.gone.keys() | (waiting.later.keys() if origin.asked_by != "submit" else set())
    of_one = [(run, stages) for run, stages in of_one if run.id not in left]
    rates = measured(ledger, where.output_root, site, contents.sizes(of_one, origin.data_root))
    states = on_disk.with_taken_numbers(ledger, where.output_root, of_one, states)
    with progress.shown(f"planning {count(len(of_one), 'run')}"):
        request = dispatch.request(ledger, runs, of_one, states, site, rates, studies, slurm, reached, waiting.later)
    return replace(request, left_alone=len(todo) - len(of_one), budget=budget.last(where.output_root))


def _with_model(where: SubmitOptions, todo: Todo) -> Todo:
    """Without the runs whose pretrained model is gone, or did not come with an archive; says so."""
    root = where.output_root
    lacking = [
        run
        for run, stages in todo
        if "pretrain" not in stages and "pretrain" in needed_by(stages) and not root.run(run.id).model.is_dir()
    ]
    if lacking:
        imported = root.imported.exists()
        why = (
            "trained elsewhere, and the archive that they came from has no models, which their missing stages need"
            if imported
            else "their missing stages need the model that was trained, and it is gone"
        )
        advice = "Import one made by `report --export FILE --with-models`" if imported else "Bring it back"
        console.print(
            f"{count(len(lacking), 'run')} left alone: {why} ({lacking[0].name}; {root.run(lacking[0].id).model}). "
            f"{advice}, or train again: `rerun --stage pretrain --run {lacking[0].id}`.",
            style="yellow",
            soft_wrap=True,
        )
    ids = {run.id for run in lacking}
    return [(run, stages) for run, stages in todo if run.id not in ids]


def _of_one_code(where: SubmitOptions, ledger: Ledger | None, todo: Todo, origin: launch.Origin) -> Todo:
    """Without the runs that another version of the code began; says so."""
    if ledger is None or where.allow_code_change:
        return todo
    digest = origin.code["digest"]
    begun = ledger.runs_of_other_code(digest)
    mixed = {
        run.id: other
        for run, stages in todo
        if stages
        and run.id in begun
        and (other := dispatch.other_code(ledger, where.output_root, run.id, stages, digest))
    }
    if mixed:
        first = next(iter(mixed))
        console.print(
            f"{count(len(mixed), 'run')} left alone: tiny_transformers is {digest} now, and was another when they "
            f"began ({first}: {mixed[first]}). Their results would be of both: restore that version, or say "
            "--allow-code-change.",
            style="yellow",
            soft_wrap=True,
        )
    return [(run, stages) for run, stages in todo if run.id not in mixed]


def perform(where: SubmitOptions, build: Callable[[Ledger | None, Slurm], tuple[Request, launch.Origin]]) -> Request:
    """Show what is to be submitted, ask, and submit it if it still is what is to be submitted. `build` makes the
    request, and says where it comes from."""
    with session.writing(where.output_root, slurm := Slurm(), where.dry_run) as ledger:
        if ledger:
            reconciling.late_results(ledger, where.output_root)
            say_unknown(ledger)
        request, origin = build(ledger, slurm)
        if not request.items and request.left_alone:
            raise InputError("Nothing was submitted: all that there is to do is of runs that were left alone.")
        if not request.items:
            if ledger and not where.dry_run:
                _record(where, ledger, request, origin)
                pause.end(where.output_root, environment.user())
            return request
        show(request, where, origin.asked_by, origin.data_root)
        budget.check(where, ledger, request, origin.asked_by)
        if where.dry_run:
            return request
        if where.yes:
            assert ledger
            return carry_out(where, ledger, request, origin, slurm)
    packs = sum(len(array.packs) for array in request.arrays)
    ask(f"Submit {count(packs, 'pack')} in {count(len(request.arrays), 'array')}?", where.yes)
    with session.writing(where.output_root, slurm := Slurm()) as ledger:
        assert ledger
        again, origin = build(ledger, slurm)
        if again.work != request.work:
            raise InputError("What is to be submitted has changed since. Nothing was submitted; run the command again.")
        return carry_out(where, ledger, again, replace(origin, created=session.moment()), slurm)


def _record(where: SubmitOptions, ledger: Ledger, request: Request, origin: launch.Origin) -> None:
    if request.follow_ups.waiting:
        origin = with_code(where, origin)
    if request.contents:  # first of all: it may refuse
        contents.keep(where.output_root, request.contents)
    chosen = {item.run_id for item in request.items}  # `rerun` and `tick` bring no other removed run back
    runs = [run for run in request.runs if origin.asked_by == "submit" or run.id in chosen]
    for name, stage in request.own.items():
        own_stages.write(where.output_root, name, stage)
    recording.record_runs(ledger, where.output_root, runs, origin.created)
    if request.about:
        recording.record_studies(ledger, where.output_root, request.about)
        notify.configure(ledger, where.output_root, request.site)
        budget.keep(where.output_root, request.budget)
    choices.ask(where.output_root, request.follow_ups, launch.origin_of(request.site, origin))


def with_code(where: SubmitOptions, origin: launch.Origin) -> launch.Origin:
    """With a copy of our packages, from which its jobs will run."""
    if origin.code_copy != launch.Origin.code_copy:
        return origin
    return replace(origin, code_copy=code_copy.keep(where.output_root))


def carry_out(where: SubmitOptions, ledger: Ledger, request: Request, origin: launch.Origin, slurm: Slurm) -> Request:
    """Submit what there is room for; returns the request as SLURM has taken it. What is asked for is on disk first, and
    stays there while part of it is held back or in doubt, so that `tick` goes on with it.

    Raises InputError if it would go over a budget; then nothing is submitted or recorded."""
    budget.check(where, ledger, request, origin.asked_by)
    origin = with_code(where, origin)
    needs = calibrating.submit(where, request, origin) if request.calibration else []
    _record(where, ledger, request, origin)
    path = where.output_root.request(secrets.token_hex(6))
    pause.end(where.output_root, environment.user())  # whose `tick` does not come here before
    if origin.asked_by == "submit":
        asked: RequestFile = {**launch.origin_of(request.site, origin), "runs": [item.run_id for item in request.items]}
        whole_files.write_json(path, {**asked, "needs": needs} if needs else asked)
    if needs:
        runs = f"{count(len(request.items), 'run', 'waits', 'wait')} for it"
        tick = f"`tiny-transformers tick{where.output_root.options}`, now and then or by cron"
        console.print(f"{runs}: {tick}, sizes and submits them then.", soft_wrap=True)
        return replace(request, arrays=[], held=request.planned, later=())
    try:
        jobs = launch.submit(ledger, where.output_root, request.arrays, request.site, origin, where.log_dir.resolve())
    except RefusedForNow as refusal:
        dispatch.note_limit(where.output_root, request, refusal, slurm)
        now, left = request.arrays[: refusal.accepted], request.arrays[refusal.accepted :]
        say_refused(refusal, left, origin.asked_by)
        return replace(request, arrays=now, held=[*left, *request.held])
    except (InputError, SubmitError):  # refused: what is left of it is the user's to ask for again
        path.unlink(missing_ok=True)
        raise
    if not (request.held or request.later):
        path.unlink(missing_ok=True)
    if jobs:
        console.print(f"Submitted {', '.join(jobs)}. `status{where.output_root.options}` shows how it goes.")
    return request


def origin_now(
    asked_by: str, data_root: Path | None, manifest: dict[str, Any] | None, allow_code_change: bool
) -> launch.Origin:
    """Return where a submission of this moment comes from."""
    return launch.Origin(asked_by, session.moment(), data_root, code_version(), manifest, allow_code_change)


def measured(ledger: Ledger | None, output_root: OutputRoot, site: Site, sizes: Sizes = UNKNOWN) -> cost.Measured:
    """Return what this ledger has measured and, for what it has not, what a probe has."""
    from cluster.reconcile.measure import measured

    probe = output_root.probe.ledger
    with ExitStack() as stack:
        ledgers = [(ledger, "measured")] if ledger else []
        if probe.exists():
            ledgers.append((stack.enter_context(closing(Ledger(probe, read_only=True))), "probed"))
        return measured(ledgers, site, sizes)


def check_data(runs: Sequence[Run], data_root: Path | None) -> None:
    """Every file that these runs read is there, before anything is submitted. Raises InputError."""
    reading = [run for run in runs if run.config.reads_data and run.config.data.source == "files"]
    if not reading:
        return
    if data_root is None:
        raise InputError(
            "data.source is files: say where with --data-root DIR or TINY_TRANSFORMERS_DATA. "
            "`tiny-transformers fetch --data-root DIR` brings the data; --set data.source=builtin needs none."
        )
    needed = PerSettings(lambda config, stages: contents.files_of(config, stages, data_root))
    files = {file for run in reading for file in needed.of(run.config, run.stages)}
    lacking = lacking_files(data_root, sorted(files))
    if lacking:
        raise InputError(f"{explain(data_root, lacking, data_root)} Nothing was submitted.")
