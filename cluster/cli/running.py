"""The commands that submit and cancel: submit, probe, rerun, tick, cancel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli import completion
from cluster.cli.shared import (
    LOGS,
    OUTPUT,
    AccountOption,
    DataOption,
    ManifestArgument,
    OutputOption,
    PartitionOption,
    SetOption,
    SiteOption,
    SmokeOption,
    StudyOption,
    app,
    cancel_jobs,
    check_stage,
    find_runs,
    packs_to_cancel,
    reading_ledger,
    root_of,
    runs_of_studies,
    same_site,
    that_stays,
    wait_until_done,
)
from cluster.console import ask, console, count, some
from cluster.errors import InputError, did_you_mean
from cluster.files.documents import BudgetFile, SourceOfWork
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.ledger.database import Ledger
from cluster.manifest import follow_ups, grids, loading
from cluster.manifest.loading import Cell
from cluster.plan import cost, expansion, following
from cluster.reconcile import reconciling, session
from cluster.sites import profiles
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.slurm.queries import Slurm
from cluster.submit import tables
from cluster.submit.dispatch import SubmitOptions
from tiny_transformers.common import progress

LogOption = Annotated[Path, typer.Option("--log-dir", help="SLURM's and submitit's files.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Stay until all of it has ended.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted, and submit nothing.")]
CodeOption = Annotated[
    bool, typer.Option("--allow-code-change", help="Go on with runs that another version of the code began.")
]
PROBE_VALIDATION = {False: "train.eval_stories=8", True: "train.eval_characters=4096"}  # of stories, of a stream


@app.command()
def submit(
    manifest_path: ManifestArgument,
    study: StudyOption = None,
    overrides: SetOption = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Small, and kept apart: a trial of the machinery.")] = False,
    site: SiteOption = None,
    data_root: DataOption = None,
    account: AccountOption = None,
    partition: PartitionOption = None,
    output_root: OutputOption = OUTPUT,
    log_dir: LogOption = LOGS,
    dry_run: DryOption = False,
    yes: YesOption = False,
    wait: WaitOption = False,
    allow_code_change: CodeOption = False,
    accept_data: Annotated[
        bool, typer.Option("--accept-data", help="Data has another content than before: make other runs of it.")
    ] = False,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option("--max-gpu-hours", metavar="H", min=0, help="Submit nothing if it would take more, by the plan."),
    ] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibration/--no-calibration",
            help="Begin with a short measurement, for which the rest waits; by itself where nothing was measured and "
            "the plan has hours.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Submit what is missing of a manifest."""
    from cluster.submit import choices, contents, submitting

    document = loading.load(manifest_path)
    profile = profiles.load(site or profiles.default_site(), account=account, partition=partition).with_rules(
        document.retry, document.notify
    )
    root = root_of(output_root, smoke)
    asked: dict[str, Any] = {"studies": study or (), "overrides": overrides or (), "smoke": smoke}
    with progress.shown("checking the cells of the studies"), that_stays():
        cells, later = grids.cells(document, **asked), follow_ups.follow_ups(document, **asked)
    known = None
    if root.path.exists() or not dry_run:
        every = [*cells, *(cell for each in later for cell in each.all_cells)]
        every, known = contents.revise(every, data_root, root, accept_data)
        rest = iter(every)
        cells, later = [next(rest) for _ in cells], [each.revised(rest) for each in later]
    steps = choices.known(root, following.plans(document, later, cells, overrides or ()))
    with that_stays():
        runs = expansion.merged([*expansion.expand(progress.counted(cells, "naming runs")), *steps.runs])
    where = SubmitOptions(root, log_dir, dry_run, yes, allow_code_change, max_gpu_hours)
    source = loading.source(manifest_path, overrides or (), study or ())
    about = steps.about(expansion.studies(document, cells, overrides or ()))
    about = [replace(each, manifest=str(manifest_path.resolve())) for each in about]
    budget: BudgetFile | None = None
    if document.budget:
        budget = {"gpu_hours": document.budget.gpu_hours, "manifest": manifest_path.name}
    left_out = () if study else [name for name in document.optional if name not in grids.taken(document, ())]
    submitting.submit_missing(
        where,
        runs,
        profile,
        list(document.studies),
        data_root,
        source,
        about,
        left_out,
        budget,
        calibrate,
        known,
        document.own,
        steps,
    )
    if wait and not dry_run:
        wait_until_done(where, [*runs, *steps.possible])


@app.command()
def probe(
    manifest_path: ManifestArgument,
    study: StudyOption = None,
    overrides: SetOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps of each probe.")] = 5,
    slots: Annotated[
        str | None, typer.Option("--slots", metavar="1,2,4,8", help="So many runs at a time: what do they gain?")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="With --slots: this model, not the largest; may be given again.",
            autocompletion=completion.models,
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="With torch.compile, as long trainings on a GPU; give --steps 100 or more."),
    ] = False,
    site: SiteOption = None,
    data_root: DataOption = None,
    account: AccountOption = None,
    partition: PartitionOption = None,
    output_root: OutputOption = OUTPUT,
    log_dir: LogOption = LOGS,
    dry_run: DryOption = False,
    yes: YesOption = False,
    wait: WaitOption = False,
) -> None:
    """Measure memory and speed: a few steps of each distinct architecture, kept apart in OUTPUT_ROOT/probe.

    With --slots: several runs of one model at the same time, and what they reach together. `submit` and `rerun` plan by
    what the probes measured where no real run has. Given again, it reads the results."""
    from cluster.submit import requests, submitting

    numbers = _numbers(slots)
    document = loading.load(manifest_path)
    profile = profiles.load(site or profiles.default_site(), account=account, partition=partition).with_rules(
        document.retry
    )
    if document.of_programs:
        raise InputError(
            f"probe: {manifest_path} has no models to measure. `minutes` and `memory` of its stages say it."
        )
    short = [f"train.max_steps={steps}", "train.budget=null", "train.evaluations=1"]
    if compiled:  # on a GPU so short a training is not, by itself, and what is measured should be what will run
        short.append("train.compile=true")
    overrides = [*(overrides or ()), *short]
    cells = follow_ups.all_cells(document, studies=study or (), overrides=overrides)
    overrides += [PROBE_VALIDATION[is_stream] for is_stream in sorted({cell.config.data.is_stream for cell in cells})]
    cells = follow_ups.all_cells(document, studies=study or (), overrides=overrides)
    root = OutputRoot(output_root).probe
    where = SubmitOptions(root, log_dir, dry_run, yes)
    source = loading.source(manifest_path, overrides)

    def submit_and_wait(runs: list[Run], profile: Site, wait: bool) -> None:
        submitting.submit_missing(where, runs, profile, list(document.studies), data_root, source)
        if wait and not dry_run:
            wait_until_done(where, runs)

    runs: list[Run] = []
    if numbers:
        chosen = _chosen_models(cells, model)
        for number in numbers:
            these = expansion.expand(expansion.probe_together(chosen, number))
            each = profile.model_copy(update={"slots": number, "runs_per_pack": number})
            # On this machine packs come one after another, so that the table has them all when the last has ended.
            submit_and_wait(these, each, wait or profile.scheduler == "local")
            runs += these
    else:
        submit_and_wait(runs := expansion.expand(expansion.probes(cells)), profile, wait)
    if root.ledger.exists():
        with closing(Ledger(root.ledger, read_only=True)) as ledger:
            measured = requests.measured(ledger, root, profile)
            shown = tables.together_table(runs, numbers, profile, measured) if numbers else None
            console.print(shown or tables.measured_table(runs, profile, measured))


def _numbers(slots: str | None) -> list[int]:
    """The numbers of --slots; one alone is always among them, since the others are held against it."""
    words = [word.strip() for word in slots.split(",")] if slots else []
    if not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"--slots {slots}: must be numbers of runs at a time, such as 1,2,4,8.")
    return sorted({1, *map(int, words)}) if words else []


def _chosen_models(cells: Sequence[Cell], models: Sequence[str] | None) -> list[Cell]:
    """The first architecture of each of these models; of none, the one with the most FLOPs."""
    if not models:
        return [max(cells, key=lambda cell: cost.training_flops(cell.config))]
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.model, cell)
    for name in models:
        if name not in first:
            raise InputError(f"--model {name}: is in no study that was asked for. {did_you_mean(name, first)}")
    return [first[name] for name in dict.fromkeys(models)]


@app.command()
def rerun(
    failed: Annotated[bool, typer.Option("--failed", help="Stage runs that failed.")] = False,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", help="Stage runs of this stage.", autocompletion=completion.stages)
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="Stage runs of this run: id or name.", autocompletion=completion.runs),
    ] = None,
    smoke: SmokeOption = False,
    site: SiteOption = None,
    data_root: DataOption = None,
    account: AccountOption = None,
    partition: PartitionOption = None,
    output_root: OutputOption = OUTPUT,
    log_dir: LogOption = LOGS,
    dry_run: DryOption = False,
    yes: YesOption = False,
    wait: WaitOption = False,
    allow_code_change: CodeOption = False,
) -> None:
    """Do stage runs again, and what follows from them; nothing else.

    The choices narrow each other: --failed --stage blimp is every blimp that failed. Without --failed, completed
    stage runs are done again too. Where and on which data: as the last submission, unless given."""
    from cluster.submit import earlier, submitting

    if not (failed or stage or run):
        raise InputError("rerun: say what: --failed, --stage STAGE or --run RUN.")
    root = root_of(output_root, smoke)
    session.need_ledger(root)
    for name in stage or ():
        check_stage(root, name, f"--stage {name}")

    def site_of(before: SourceOfWork | None) -> Site:
        if site:
            return profiles.load(site, account=account, partition=partition)
        if before is None:
            raise earlier.nothing_submitted(root)
        return same_site(before, account=account, partition=partition)

    where = SubmitOptions(root, log_dir, dry_run, yes, allow_code_change)
    runs = submitting.rerun(
        where, lambda ledger: find_runs(ledger, run) if run else None, stage, failed, site_of, data_root
    )
    if wait and not dry_run:
        wait_until_done(where, runs)


@app.command()
def tick(
    smoke: SmokeOption = False,
    site: SiteOption = None,
    data_root: DataOption = None,
    output_root: OutputOption = OUTPUT,
    log_dir: LogOption = LOGS,
) -> None:
    """Go on with what was submitted: try again what failed, as its rule says, and submit what limits held back.

    Asks nothing, so that cron may run it. Where and on which data: as each run was before, unless given."""
    from cluster.submit import submitting

    root = root_of(output_root, smoke)
    session.need_ledger(root)
    submitting.tick(SubmitOptions(root, log_dir, yes=True), profiles.load(site) if site else None, data_root)


@app.command()
def cancel(
    everything: Annotated[bool, typer.Option("--all", help="All that is running or waiting.")] = False,
    study: Annotated[
        list[str] | None,
        typer.Option(
            "--study", help="The packs of this study; may be given again.", autocompletion=completion.recorded_studies
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="The packs of this run: id or name.", autocompletion=completion.runs),
    ] = None,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
    yes: YesOption = False,
) -> None:
    """Cancel jobs of yours. A pack is one job: with a run, the other runs of its pack are cancelled too. What of a
    study or a run you have asked for, and was not submitted yet, is taken back.

    After --all `tick` begins nothing of yours before your next `submit` or `rerun`; what others asked for goes on."""
    from cluster.submit import pause

    if [everything, bool(study), bool(run)].count(True) != 1:
        raise InputError("cancel: say what: --all, --study STUDY or --run RUN.")
    root, user = root_of(output_root, smoke), environment.user()
    session.need_ledger(root)
    with reading_ledger(root) as view:
        wanted = None if everything else _named(view.ledger, study, run)
        packs, others = packs_to_cancel(view.ledger, wanted)
        asked = _held_back(view.ledger, root, user, wanted)
        runs = {attempt["run_id"] for attempts in packs.values() for attempt in attempts}
        beside = sorted(view.ledger.names(runs - wanted).values()) if wanted else []
    for other, number in others.items():
        console.print(f"{count(number, 'pack')} of {other} left alone, who alone can cancel them.", style="yellow")
    if not packs and not asked and not everything:
        console.print("Nothing is running or waiting.")
        return
    if packs or asked:
        if beside:
            console.print(f"In the same jobs, to be cancelled with them: {some(beside)}.")
        told = [*([f"{count(len(packs), 'pack')} with {count(len(runs), 'run')}"] if packs else []),
                *([f"{count(len(asked), 'run')} of which not all was submitted"] if asked else [])]  # fmt: skip
        ask(f"Cancel {', and '.join(told)}?", yes)
    with session.writing(root, slurm := Slurm(), unsettled=True) as ledger:
        assert ledger
        if everything:  # and nothing new is begun, until a person asks for it
            pause.begin(root, user, session.now())
        wanted = None if everything else _named(ledger, study, run)
        asked = _held_back(ledger, root, user, wanted)
        pause.take_back(root, user, asked)
        if asked:  # said at once: SLURM may not answer what follows
            console.print(f"Taken back: {count(len(asked), 'run')}. `submit` asks for what is missing of them again.")
        packs, _ = packs_to_cancel(ledger, wanted)
        cancel_jobs(ledger, root, slurm, list(packs))
        reconciling.follow_runs(ledger, root)  # another task may have pulled one of them before it could see that
        pulled = packs_to_cancel(ledger, wanted)[0].keys() - packs.keys()
        cancel_jobs(ledger, root, slurm, sorted(pulled))
    if packs:
        cancelled = count(len({*packs, *pulled}), "pack")
        console.print(
            f"Cancelled {cancelled}. Once that has ended `status` shows the runs as cancelled; "
            f"`rerun --failed{root.options}` goes on from where they were."
        )
    if everything and not packs:
        console.print(
            f"Nothing {'of yours ' if others else ''}is running or waiting; `tick` begins nothing of yours either, "
            "until your next `submit` or `rerun`."
        )


def _named(ledger: Ledger, studies: Sequence[str] | None, words: Sequence[str] | None) -> set[str]:
    return runs_of_studies(ledger, studies or ()) | set(find_runs(ledger, words or ()))


def _held_back(ledger: Ledger, root: OutputRoot, user: str, wanted: Collection[str] | None) -> set[str]:
    """Return those of these runs that a user has asked for and of which something was not submitted yet."""
    from cluster.submit import pause

    not_submitted = {*ledger.runs_with("eligible"), *ledger.runs_that_need()}
    return pause.waiting(root, user, not_submitted.intersection(wanted or ()))
