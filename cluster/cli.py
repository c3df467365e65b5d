"""The commands. Each is the path of DESIGN: read, plan, launch, reconcile, show; nothing is decided here.

Loads no torch: any command answers in a fraction of a second."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from sqlite3 import DatabaseError
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cluster import completion, cost, manifest, plan, reconcile, rundir, scores, session, status, tables
from cluster import site as sites
from cluster.console import ask, console, count, stderr
from cluster.errors import BreakerOpen, InputError, SlurmSilent, TinyError, did_you_mean
from cluster.ledger import Ledger, locked
from cluster.manifest import Cell
from cluster.plan import Run
from cluster.rundir import OutputRoot, TornFile
from cluster.session import View
from cluster.site import Site
from cluster.slurm import Slurm
from tiny_transformers.config import PAIR_SCORES, STAGES

if TYPE_CHECKING:
    from cluster import submitting

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ledger_app = typer.Typer(help="The ledger itself.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(ledger_app, name="ledger")

OutputOption = Annotated[
    Path,
    typer.Option("--output-root", envvar="TINY_TRANSFORMERS_OUTPUT", help="Where runs and the ledger are."),
]
SmokeOption = Annotated[bool, typer.Option("--smoke", help="The smoke runs, which are kept apart.")]
SiteOption = Annotated[str | None, typer.Option("--site", help="A shipped site, or a YAML file of yours.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="TINY_TRANSFORMERS_DATA", help="The data, in the layout of docs/data.md."),
]
LogOption = Annotated[Path, typer.Option("--log-dir", help="SLURM's and submitit's files.")]
AccountOption = Annotated[str | None, typer.Option("--account", help="Overrides the site's account.")]
PartitionOption = Annotated[str | None, typer.Option("--partition", help="Overrides the site's partition.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Stay until all of it has ended.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted, and submit nothing.")]
CodeOption = Annotated[
    bool, typer.Option("--allow-code-change", help="Go on with runs that another version of the code began.")
]
OUTPUT, LOGS = Path("output"), Path("slurm_logs")
START = ("experiments.yaml", "site.yaml")  # what `init` copies from templates/
NEXT = """\
    submit experiments.yaml --smoke --site local --yes --wait
    status --smoke
    tiny-transformers report --smoke
Then the whole of it, here or on a cluster:
    submit experiments.yaml --site local --dry-run
    tiny-transformers doctor --site site.yaml        # once site.yaml says what the cluster has
    submit experiments.yaml --site site.yaml --dry-run"""
PROBE_VALIDATION = {False: "train.eval_stories=8", True: "train.eval_characters=4096"}  # of stories, of a stream


def _show_version(asked: bool) -> None:
    if not asked:
        return
    try:
        typer.echo(f"tiny-transformers {metadata.version('tiny-transformers')}")
    except metadata.PackageNotFoundError:
        raise InputError("--version: this copy is not installed, so it has none. `pip install -e .` does it.") from None
    raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the installed version.")
    ] = False,
) -> None:
    """One manifest, one cluster, a finished table."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; it is made if it is not there.")] = Path(),
) -> None:
    """Write a manifest and a site file to start from, with comments, and say what to type next."""
    from cluster.render import FOLDER

    if there := [str(folder / name) for name in START if (folder / name).exists()]:
        raise InputError(f"init: {' and '.join(there)}: already there. Nothing was written; name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in START:
        with (folder / name).open("x", encoding="utf-8") as file:
            file.write((FOLDER / name).read_text(encoding="utf-8"))
    console.print(Text(f"Wrote {' and '.join(str(folder / name) for name in START)}. Next, a trial on this machine:"))
    if folder != Path():
        console.print(Text(f"    cd {shlex.quote(str(folder))}"))
    console.print(NEXT, soft_wrap=True)


@app.command()
def submit(
    manifest_path: Annotated[Path, typer.Argument(metavar="MANIFEST", help="experiments.yaml")],
    study: Annotated[
        list[str] | None,
        typer.Option("--study", help="Only this study; may be given again.", autocompletion=completion.studies),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="For all runs; part of their identity.")
    ] = None,
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
) -> None:
    """Submit what is missing of a manifest."""
    from cluster import submitting

    document = manifest.load(manifest_path)
    profile = sites.load(site or sites.default_site(), account=account, partition=partition).with_rules(
        document.retry, document.notify
    )
    cells = manifest.cells(document, studies=study or (), overrides=overrides or (), smoke=smoke)
    runs, root = plan.expand(cells), _root(output_root, smoke)
    where = submitting.Where(root, log_dir, dry_run, yes, allow_code_change)
    source = manifest.source(manifest_path, overrides or (), study or ())
    about = plan.studies(document, cells, overrides or ())
    submitting.submit_missing(where, runs, profile, list(document.studies), data_root, source, about)
    if wait and not dry_run:
        _wait(where, runs)


@app.command()
def probe(
    manifest_path: Annotated[Path, typer.Argument(metavar="MANIFEST", help="experiments.yaml")],
    study: Annotated[
        list[str] | None,
        typer.Option("--study", help="Only this study; may be given again.", autocompletion=completion.studies),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="For all runs.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps of each probe.")] = 5,
    slots: Annotated[
        str | None, typer.Option("--slots", metavar="1,2,4,8", help="So many runs at a time: what do they gain?")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="With --slots: this model, not the largest; may be given again.")
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
    from cluster import submitting

    numbers = _numbers(slots)
    document = manifest.load(manifest_path)
    profile = sites.load(site or sites.default_site(), account=account, partition=partition).with_rules(document.retry)
    short = [f"train.max_steps={steps}", "train.budget=null", "train.evaluations=1"]
    if compiled:  # on a GPU so short a training is not, by itself, and what is measured should be what will run
        short.append("train.compile=true")
    overrides = [*(overrides or ()), *short]
    cells = manifest.cells(document, studies=study or (), overrides=overrides)
    overrides += [PROBE_VALIDATION[is_stream] for is_stream in sorted({cell.config.data.is_stream for cell in cells})]
    cells = manifest.cells(document, studies=study or (), overrides=overrides)
    root = OutputRoot(output_root).probe
    where = submitting.Where(root, log_dir, dry_run, yes)
    source = manifest.source(manifest_path, overrides)

    def submit_and_wait(runs: list[Run], profile: Site, wait: bool) -> None:
        submitting.submit_missing(where, runs, profile, list(document.studies), data_root, source)
        if wait and not dry_run:
            _wait(where, runs)

    runs: list[Run] = []
    if numbers:
        chosen = _chosen_models(cells, model)
        for number in numbers:
            these = plan.expand(plan.probe_together(chosen, number))
            each = profile.model_copy(update={"slots": number, "runs_per_pack": number})
            # On this machine a pack begins at once, and would be beside the one before.
            submit_and_wait(these, each, wait or profile.scheduler == "local")
            runs += these
    else:
        submit_and_wait(runs := plan.expand(plan.probes(cells)), profile, wait)
    if root.ledger.exists():
        with closing(Ledger(root.ledger, read_only=True)) as ledger:
            measured = submitting.measured(ledger, root, profile)
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
    from cluster import submitting

    if not (failed or stage or run):
        raise InputError("rerun: say what: --failed, --stage STAGE or --run RUN.")
    for name in stage or ():
        if name not in STAGES:
            raise InputError(f"--stage {name}: is no stage. {did_you_mean(name, STAGES)}")
    root = _root(output_root, smoke)
    session.need_ledger(root)

    def site_of(before: dict[str, Any] | None) -> Site:
        if site:
            return sites.load(site, account=account, partition=partition)
        if before is None:
            raise submitting.nothing_submitted(root)
        return _same_site(before, account=account, partition=partition)

    where = submitting.Where(root, log_dir, dry_run, yes, allow_code_change)
    runs = submitting.rerun(
        where, lambda ledger: _find_runs(ledger, run) if run else None, stage, failed, site_of, data_root
    )
    if wait and not dry_run:
        _wait(where, runs)


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
    from cluster import submitting

    root = _root(output_root, smoke)
    session.need_ledger(root)
    submitting.tick(submitting.Where(root, log_dir, yes=True), sites.load(site) if site else None, data_root)


@app.command(name="status")
def status_command(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, and why.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="A line per run.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds, until all has ended.")] = False,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """What has been done, what is under way, what failed and why."""
    root = _root(output_root, smoke)
    if watch and as_json:
        raise InputError("status: --json is of one moment; give it without --watch.")
    if watch:
        _watch(root, failed_only=failed, per_run=runs)
        return
    with _reading(root) as view:
        if as_json:
            typer.echo(json.dumps(status.status_json(view, root), indent=1))
        else:
            console.print(status.status_view(view, root, per_run=runs, failed_only=failed))
    if view.slurm == "unreachable":
        raise typer.Exit(SlurmSilent.exit_code)


@app.command()
def cancel(
    everything: Annotated[bool, typer.Option("--all", help="All that is running or waiting.")] = False,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="The packs of this run: id or name.", autocompletion=completion.runs),
    ] = None,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
    yes: YesOption = False,
) -> None:
    """Cancel jobs. A pack is one job: with a run, the other runs of its pack are cancelled too."""
    if everything == bool(run):
        raise InputError("cancel: say what: --all or --run RUN.")
    root = _root(output_root, smoke)
    session.need_ledger(root)
    with _reading(root) as view:
        packs = _live_packs(view.ledger, set(_find_runs(view.ledger, run)) if run else None)
    runs = {attempt["run_id"] for attempts in packs.values() for attempt in attempts}
    if not packs and not everything:
        console.print("Nothing is running or waiting.")
        return
    if packs:
        ask(f"Cancel {count(len(packs), 'pack')} with {count(len(runs), 'run')}?", yes)
    with session.writing(root, Slurm(), unsettled=True) as ledger:
        assert ledger
        if everything:  # and nothing new is begun, until a person asks for it
            rundir.write_json(root.paused, {"time": session.now()})
            for path in root.requests():
                path.unlink(missing_ok=True)
        packs = _live_packs(ledger, set(_find_runs(ledger, run)) if run else None)
        _cancel(ledger, root, list(packs))
    if packs:
        console.print(f"Cancelled {count(len(packs), 'pack')}. `status` shows them as cancelled once they have ended.")
    else:
        console.print(
            "Nothing is running or waiting; `tick` begins nothing either, until the next `submit` or `rerun`."
        )


@app.command()
def logs(
    run: Annotated[
        str, typer.Argument(help="Its id, the beginning of it, or its name.", autocompletion=completion.runs)
    ],
    stage: Annotated[str | None, typer.Argument(help="Only this stage.", autocompletion=completion.stages)] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Only this attempt; else the newest.")] = None,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """Print the logs of a run."""
    root = _root(output_root, smoke)
    session.need_ledger(root)
    with _reading(root) as view:
        (run_id,) = _find_runs(view.ledger, [run], one=True)
    if stage and stage not in STAGES:
        raise InputError(f"logs: {stage} is no stage. {did_you_mean(stage, STAGES)}")
    shown = False
    for name in [stage] if stage else STAGES:
        attempts = [each for each in root.run(run_id).attempts(name) if attempt in (None, each.number)]
        for each in attempts[-1:]:
            if each.log.exists():
                typer.echo(f"==> {each.log}")
                typer.echo(each.log.read_text(encoding="utf-8", errors="replace"))
                shown = True
    if not shown:
        raise InputError(f"logs: {run_id} has no log{f' of {stage}' if stage else ''} yet.")


@app.command(name="report")
def report_command(
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
    to: Annotated[Path | None, typer.Option("--to", help="Folder; default OUTPUT_ROOT/report.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE.tar.gz", help="Instead: all results as one archive.")
    ] = None,
    with_models: Annotated[
        bool, typer.Option("--with-models", help="With --export: models and checkpoints, too.")
    ] = False,
) -> None:
    """Write what the runs have found as a page, tables and figures, and show the scores."""
    root = _root(output_root, smoke)
    session.need_ledger(root)
    if with_models and not export:
        raise InputError("--with-models: is for --export FILE.tar.gz.")
    if export:
        _export(root, export, with_models)
        return
    from cluster import report  # loads numpy, scipy and matplotlib

    with _reading(root) as view:
        written = report.write(view, root, to or root.path / "report")
        console.print(scores.score_table(view.ledger, console.width))
    console.print(f"{written[0]}, and {len(written) - 1} more files beside it", soft_wrap=True)


def _export(root: OutputRoot, path: Path, with_models: bool) -> None:
    from cluster import archive

    with _reading(root):  # brings the ledger up to date
        pass
    made = archive.export(root, path, session.now(), with_models=with_models)
    console.print(f"{path}: {made.size / 1e6:,.1f} MB, {made.models}", soft_wrap=True)
    if made.gone:
        left = f"{count(len(made.gone), 'checkpoint')} left out, since removed while the archive was written: "
        console.print(Text(left + ", ".join(made.gone), style="yellow"), soft_wrap=True)


@app.command(name="import")
def import_command(
    path: Annotated[Path, typer.Argument(metavar="FILE.tar.gz", help="Written by `report --export`.")],
    output_root: OutputOption = OUTPUT,
) -> None:
    """Unpack an archive of `report --export` where nothing is yet; `submit` then does what is missing."""
    from cluster import archive

    made = archive.unpack(path, output_root.resolve(), session.now())
    with closing(Ledger(made.root.ledger)) as ledger:
        console.print(f"{made.root.path}: {count(len(ledger.known_runs()), 'run')}", soft_wrap=True)
    if made.under_way:
        console.print(f"{count(made.under_way, 'stage run')} were under way when it was made, and are to be done here.")
    if made.commands:
        console.print("What is missing is done, with your --site and --data-root, by")
    for line in made.commands:
        console.print(Text(f"    {line}"), soft_wrap=True)


@app.command()
def usage(smoke: SmokeOption = False, output_root: OutputOption = OUTPUT) -> None:
    """What each submission was planned to take, what it used, and what to change."""
    root = _root(output_root, smoke)
    session.need_ledger(root)
    with _reading(root) as view:
        console.print(tables.usage_table(view.ledger.usage()))


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="A run: its id, the beginning of it, or its name.", autocompletion=completion.runs)
    ],
    b: Annotated[str, typer.Argument(help="The run that it is held against.", autocompletion=completion.runs)],
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """Hold two runs against each other on BLiMP, pair by pair."""
    import subprocess

    root = _root(output_root, smoke)
    session.need_ledger(root)
    with _reading(root) as view:
        ids = [_find_runs(view.ledger, [run], one=True)[0] for run in (a, b)]
        names = view.ledger.names(ids)
    files = [root.run(run_id).path / PAIR_SCORES for run_id in ids]
    for run_id, file in zip(ids, files, strict=True):
        if not file.exists():
            raise InputError(
                f"compare: {names[run_id]} ({run_id}) has no scores of pairs ({file}). The stage blimp writes them: "
                "add it to the study's stages and submit, or see `status` for how it went."
            )
    for letter, run_id in zip("ab", ids, strict=True):
        console.print(Text(f"{letter}: {names[run_id]} ({run_id})"))
    # A process of its own: it loads numpy, which no other command here does. Its text is printed here, since this
    # process knows what to do when nobody reads on.
    pairs = [sys.executable, "-m", "tiny_transformers.evaluation.pairs", *map(str, files)]
    done = subprocess.run(pairs, stdout=subprocess.PIPE, text=True, check=False)
    typer.echo(done.stdout, nl=False)
    raise typer.Exit(done.returncode)


@ledger_app.command()
def rebuild(smoke: SmokeOption = False, output_root: OutputOption = OUTPUT) -> None:
    """Make the ledger again from the files; an old one is kept beside it."""
    root = _root(output_root, smoke)
    if not root.runs():
        raise InputError(f"{root.path}: has no runs to make a ledger of. Is --output-root right?")
    with locked(root.lock):
        draft = root.ledger.with_suffix(".new")
        draft.unlink(missing_ok=True)
        ledger = Ledger(draft)
        torn = reconcile.rebuild(ledger, root)
        runs = len(ledger.known_runs())
        ledger.close()
        if root.ledger.exists():
            root.ledger.replace(root.ledger.with_suffix(".old"))
        draft.replace(root.ledger)
    for text in torn:
        console.print(f"left out: {text}", style="yellow")
    console.print(f"{root.ledger}: {runs} runs")


@app.command()
def models(
    manifest_path: Annotated[Path, typer.Argument(metavar="MANIFEST", help="experiments.yaml")],
    study: Annotated[
        list[str] | None,
        typer.Option("--study", help="Only this study; may be given again.", autocompletion=completion.studies),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="For all runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs, with every setting.")] = False,
) -> None:
    """The distinct models of a manifest: their parameters, exactly, and FLOPs of a token."""
    cells = manifest.cells(manifest.load(manifest_path), studies=study or (), overrides=overrides or ())
    if as_json:
        typer.echo(json.dumps(tables.distinct_models(cells), indent=1))
    else:
        console.print(tables.models_table(cells, console.width))


@app.command()
def schema(
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Into this file, not to the output.")] = None,
) -> None:
    """Write the JSON schema of the manifest, for editors."""
    from cluster.schema import json_schema

    text = json.dumps(json_schema(), indent=1)
    if to:
        to.write_text(text + "\n", encoding="utf-8")
        console.print(str(to), soft_wrap=True)
    else:
        typer.echo(text)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def fetch(context: typer.Context) -> None:
    """Bring the data to DATA_ROOT, on a machine with internet. `fetch --help` lists its options."""
    import subprocess

    # A process of its own, since it loads the hub's libraries, which no other command here does.
    raise typer.Exit(subprocess.call([sys.executable, "-m", "tiny_transformers.fetch", *context.args]))


@app.command()
def doctor(
    site: SiteOption = None,
    account: AccountOption = None,
    partition: PartitionOption = None,
    data_root: DataOption = None,
    output_root: OutputOption = OUTPUT,
) -> None:
    """Compare what this site offers with what its profile assumes."""
    from cluster import doctor as examination

    where = sites.load(site or sites.default_site(), account=account, partition=partition)
    findings = examination.examine(where, Slurm(), data_root, output_root)
    table = Table(title=f"site {where.name}", title_justify="left")
    for title in ("", "what", "found"):
        table.add_column(title)
    for finding in findings:
        table.add_row(Text(finding.mark, style=finding.colour), finding.what, finding.found)
    console.print(table)
    raise typer.Exit(2 if any(finding.mark == "wrong" for finding in findings) else 0)


# -- what the commands share ------------------------------------------------------------------------------------------


def _root(output_root: Path, smoke: bool) -> OutputRoot:
    root = OutputRoot(output_root)
    return root.smoke if smoke else root


@contextmanager
def _reading(root: OutputRoot) -> Iterator[View]:
    with session.reading(root, Slurm()) as (view, warning):
        if warning:
            stderr.print(warning, style="yellow", soft_wrap=True)
        yield view


def _same_site(before: dict[str, Any], **overrides: Any) -> Site:
    return Site.model_validate(before["site"] | {key: value for key, value in overrides.items() if value is not None})


def _find_runs(ledger: Ledger, words: Sequence[str], one: bool = False) -> list[str]:
    """Run ids for ids, beginnings of ids, or names."""
    runs = ledger.overview()
    found: list[str] = []
    for word in words:
        exact = [run["run_id"] for run in runs if word in (run["run_id"], run["name"])]
        matches = exact or [run["run_id"] for run in runs if run["run_id"].startswith(word)]
        if not matches:
            raise InputError(f"{word}: is no run. {did_you_mean(word, [run['name'] for run in runs])}")
        if (one or not exact) and len(matches) > 1:
            raise InputError(f"{word}: may be any of {', '.join(matches)}. Give the id.")
        found += matches
    return found


def _live_packs(
    ledger: Ledger, runs: set[str] | None, token: str | None = None
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(token, index) of packs with something open, and what; only those of these runs or of this submission, if
    given."""
    packs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for submission in ledger.open_submissions():
        if token not in (None, submission["token"]):
            continue
        for attempt in ledger.open_attempts(submission["token"]):
            packs.setdefault((submission["token"], attempt["task"]), []).append(attempt)
    return {
        key: attempts
        for key, attempts in packs.items()
        if runs is None or any(attempt["run_id"] in runs for attempt in attempts)
    }


def _cancel(ledger: Ledger, root: OutputRoot, packs: Sequence[tuple[str, int]]) -> None:
    from cluster import launch

    rows = {row["token"]: row for row in ledger.open_submissions()}
    # An array of which all that is open is cancelled is named by its id alone, as is an array of one.
    jobs: list[str] = []
    for token, indices in _by_token(packs).items():
        row = rows[token]
        if row["scheduler"] == "slurm" and row["job_id"]:
            everything = len(indices) == len(_live_packs(ledger, None, token))
            jobs += [row["job_id"]] if everything else [f"{row['job_id']}_{index}" for index in indices]
        elif row["scheduler"] == "slurm":  # should it be there all the same, its tasks find this and leave
            answer = root.submission(token).answer
            rundir.write_json(answer, (rundir.read_json(answer) or {"state": "intended"}) | {"cancelled": True})
    problem = Slurm().cancel(jobs) if jobs else None
    problems: list[TinyError] = [SlurmSilent(f"scancel: {problem}. Try again.")] if problem else []
    for token, index in packs:
        if rows[token]["scheduler"] == "local":
            try:
                launch.cancel_local(root.submission(token), index)
            except InputError as elsewhere:
                problems.append(elsewhere)
    if problems:
        raise problems[0]


def _by_token(packs: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {}
    for token, index in packs:
        indices.setdefault(token, []).append(index)
    return indices


def _wait(where: submitting.Where, runs: Sequence[Run]) -> None:
    """Until nothing is open and nothing is left to try. Exit code 1 if something of these runs failed."""
    from cluster import submitting

    ids = {run.id for run in runs}
    going_on = True
    while going_on:
        _watch(where.root)
        try:
            ticked = submitting.tick(where, None, None, ids)
        except BreakerOpen as error:
            stderr.print(Text(str(error), style="red"))
            break
        going_on = ticked.submitted or ticked.more
        if ticked.more and not ticked.submitted:
            time.sleep(30)
    with _reading(where.root) as view:
        console.print(scores.score_table(view.ledger, console.width))
        overview = view.ledger.overview(ids)
    if any(stage["status"] == "failed" for run in overview for stage in run["stages"].values()):
        raise typer.Exit(1)


def _watch(root: OutputRoot, **shown: bool) -> None:
    """Raises typer.Exit if the person left before all had ended."""
    from cluster import watch

    def cancel_packs(entry: status.Entry) -> int:
        with session.writing(root, Slurm(), unsettled=True) as ledger:
            assert ledger
            begun = {(pack["token"], pack["task"]) for pack in ledger.open_packs() if pack["started"]}
            left = _live_packs(ledger, None).keys() - (begun if entry.waiting else ())
            chosen = [pack for pack in entry.packs if pack in left]
            _cancel(ledger, root, chosen)
            return len(chosen)

    session.need_ledger(root)
    if not watch.until_done(console, root, cancel_packs, **shown):
        raise typer.Exit


# -- entry points -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error of the user's prints as one message and sets the exit code."""
    try:
        app(args=arguments, prog_name="tiny-transformers")
    except TinyError as error:
        stderr.print(Text(str(error), style="red"))
        sys.exit(error.exit_code)
    except (OSError, TornFile) as error:  # a full disk, a folder that may not be written, a file that is not whole
        stderr.print(Text(f"{type(error).__name__}: {error}", style="red"))
        sys.exit(TinyError.exit_code)
    except DatabaseError as error:
        stderr.print(Text(f"ledger.db: {error}. `tiny-transformers ledger rebuild` makes it again.", style="red"))
        sys.exit(TinyError.exit_code)


def submit_main() -> None:
    main(["submit", *sys.argv[1:]])


def status_main() -> None:
    main(["status", *sys.argv[1:]])


def rerun_main() -> None:
    main(["rerun", *sys.argv[1:]])


if __name__ == "__main__":
    main()
