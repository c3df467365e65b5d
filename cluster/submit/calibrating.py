"""Submit the calibration of a site of which nothing was measured: short packs in OUTPUT_ROOT/probe, as `probe` has
them, whose figures plan the rest."""

from __future__ import annotations

from dataclasses import replace

from cluster.console import console, count
from cluster.files.documents import Need
from cluster.files.statuses import LIVE
from cluster.ledger import recording
from cluster.plan import calibration, choosing, cost, outlook
from cluster.plan.calibration import Calibration
from cluster.reconcile import session
from cluster.slurm.queries import Slurm
from cluster.slurm.sbatch import RefusedForNow
from cluster.submit import launch, on_disk
from cluster.submit.dispatch import Request, SubmitOptions

OR_ELSE = "what waits for it is planned by what was measured, and by estimates where nothing was"


def wanted(request: Request, asked: bool | None) -> Calibration | None:
    """Return the calibration with which a submission is to begin; None: with none. Not said otherwise (`asked`), it is
    for what takes hours, where nothing was measured and the profile says no `flops` of the user's own. Where limits
    leave room for one pack, it has that one."""
    if asked is False or request.site.scheduler != "slurm" or request.measured.by_stage or not request.items:
        return None
    if not any(run.config.reads_data for run in request.runs):  # programs, whose stages say how long they take
        return None
    arrays = request.planned
    if asked is None and (request.site.flops or outlook.gpu_hours(arrays) < calibration.WORTH):
        return None
    chosen = calibration.choose(arrays, request.runs, request.site)
    if request.room is None or request.room > 1:
        return chosen
    return replace(chosen, together=()) if request.room == 1 else None


def submit(where: SubmitOptions, request: Request, origin: launch.Origin) -> list[Need]:
    """Submit what of it was never tried; returns its stage runs that are under way, for which the rest is to wait.

    Raises SubmitError and SlurmSilent, and then nothing was submitted."""
    assert request.calibration
    root, chosen = where.output_root.probe, request.calibration
    site = request.site.model_copy(update={"requeues": 0})
    with session.writing(root, Slurm()) as ledger:
        assert ledger
        known = ledger.states()
        todo = [(run, choosing.missing(run, known.get(run.id, {}))) for run in chosen.runs]
        todo = [(run, stages) for run, stages in todo if stages]
        states = on_disk.with_taken_numbers(ledger, root, todo, known)
        nothing = cost.Measured.nothing(site)
        items = [choosing.item(run, stages, states.get(run.id, {}), nothing) for run, stages in todo]
        arrays = calibration.arrays(items, chosen.together, site)
        if arrays:
            recording.record_runs(ledger, root, [run for run, _ in todo], origin.created)
            try:
                here = replace(origin, code_copy=launch.Origin.code_copy)  # it has a copy of its own
                jobs = launch.submit(ledger, root, arrays, site, here, where.log_dir.resolve())
                console.print(f"Submitted {', '.join(jobs)}: {told(chosen)}.")
            except RefusedForNow as refusal:
                console.print(f"The calibration is left out: {refusal}", style="yellow", soft_wrap=True)
        states = ledger.states()
        return [
            {"root": root.path.name, "run_id": run.id, "stage": stage, "or_else": OR_ELSE}
            for run in chosen.runs
            for stage in run.stages
            if choosing.status(states.get(run.id, {}), stage) in LIVE
        ]


def told(chosen: Calibration) -> str:
    several = f", and {len(chosen.together)} runs at the same time" if chosen.together else ""
    shapes = count(len(chosen.alone), "shape")
    return f"a calibration, {calibration.MINUTES} minutes at most, of {shapes} one at a time{several}"
