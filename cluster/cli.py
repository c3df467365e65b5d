"""The commands. Each is the path of DESIGN: read, plan, launch, reconcile, show; nothing is decided here.

Loads no torch: any command answers in a fraction of a second."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from sqlite3 import DatabaseError
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster import cost, manifest, plan, reconcile, report, rundir, tables
from cluster import site as sites
from cluster.errors import InputError, LedgerBusy, SlurmSilent, TinyError, did_you_mean
from cluster.ledger import Ledger, locked
from cluster.plan import Array, Item, Run
from cluster.rundir import OutputRoot, TornFile
from cluster.site import Site
from cluster.slurm import Slurm
from tiny_transformers.config import STAGES, required_files

app = typer.Typer(
    help="One manifest, one cluster, a finished table.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ledger_app = typer.Typer(help="The ledger itself.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(ledger_app, name="ledger")
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)  # a pipe has no width of its own

stderr = Console(stderr=True, highlight=False, soft_wrap=True)

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
OUTPUT, LOGS = Path("output"), Path("slurm_logs")
LISTED_RUNS = 60  # a dry run of more shows the studies only


@app.command()
def submit(
    manifest_path: Annotated[Path, typer.Argument(metavar="MANIFEST", help="experiments.yaml")],
    study: Annotated[list[str] | None, typer.Option("--study", help="Only this study; may be given again.")] = None,
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
) -> None:
    """Submit what is missing of a manifest."""
    where = sites.load(site or sites.default_site(), account=account, partition=partition)
    document = manifest.load(manifest_path)
    runs = plan.expand(manifest.cells(document, studies=study or (), overrides=overrides or (), smoke=smoke))
    _check_data(runs, data_root)
    root = _root(output_root, smoke)
    with _writing(root, dry_run) as ledger:
        states = ledger.states() if ledger else {}
        states |= {run.id: _numbers_on_disk(root, run) for run in runs if run.id not in states}
        todo = [(run, plan.missing(run, states.get(run.id, {}))) for run in runs]
        request = _request(ledger, runs, todo, states, where, studies=list(document.studies))
        if not request.arrays:
            if ledger:
                _record_runs(ledger, root, runs, dry_run)
            _say_nothing_missing(runs, states)
        else:
            _confirm_and_launch(ledger, root, request, data_root, log_dir, dry_run, yes)
    if wait and not dry_run:
        _wait(root, runs)


@app.command()
def rerun(
    failed: Annotated[bool, typer.Option("--failed", help="Stage runs that failed.")] = False,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Stage runs of this stage.")] = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="Stage runs of this run: id or name.")] = None,
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
) -> None:
    """Do stage runs again, and what follows from them; nothing else.

    The choices narrow each other: --failed --stage blimp is every blimp that failed. Without --failed, completed
    stage runs are done again too. Where and on which data: as the last submission, unless given."""
    if not (failed or stage or run):
        raise InputError("rerun: say what: --failed, --stage STAGE or --run RUN.")
    for name in stage or ():
        if name not in STAGES:
            raise InputError(f"--stage {name}: is no stage. {did_you_mean(name, STAGES)}")
    root = _root(output_root, smoke)
    _need_ledger(root)
    with _writing(root) as ledger:
        assert ledger
        before = _last_submission(ledger, root)
        where = (
            sites.load(site, account=account, partition=partition)
            if site
            else _same_site(before, account=account, partition=partition)
        )
        data = data_root or (Path(before["data_root"]) if before and before["data_root"] else None)
        states = ledger.states()
        runs = ledger.runs(_find_runs(ledger, run) if run else None)
        todo = [(each, _chosen(each, states[each.id], stage, failed)) for each in runs]
        _check_data([each for each, stages in todo if stages], data)
        studies = list(dict.fromkeys(study for each in runs for study in each.studies))
        request = _request(ledger, runs, todo, states, where, studies=studies)
        if not request.arrays:
            console.print("Nothing to rerun.")
            return
        _confirm_and_launch(ledger, root, request, data, log_dir, dry_run, yes)
    if wait and not dry_run:
        _wait(root, runs)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, and why.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="A line per run.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds, until all has ended.")] = False,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """What has been done, what is under way, what failed and why."""
    root = _root(output_root, smoke)
    if watch:
        _watch(root, lambda ledger, now, slurm: report.status_view(
            ledger, root, now, slurm, per_run=runs, failed_only=failed))  # fmt: skip
        return
    with _reading(root) as (ledger, as_of, slurm):
        if as_json:
            typer.echo(json.dumps(report.status_json(ledger.overview(), as_of, slurm), indent=1))
        else:
            console.print(report.status_view(ledger, root, as_of, slurm, per_run=runs, failed_only=failed))
    if slurm == "unreachable":
        raise typer.Exit(SlurmSilent.exit_code)


@app.command()
def cancel(
    everything: Annotated[bool, typer.Option("--all", help="All that is running or waiting.")] = False,
    run: Annotated[list[str] | None, typer.Option("--run", help="The packs of this run: id or name.")] = None,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
    yes: YesOption = False,
) -> None:
    """Cancel jobs. A pack is one job: with a run, the other runs of its pack are cancelled too."""
    if everything == bool(run):
        raise InputError("cancel: say what: --all or --run RUN.")
    root = _root(output_root, smoke)
    _need_ledger(root)
    with _writing(root) as ledger:
        assert ledger
        chosen = set(_find_runs(ledger, run)) if run else None
        packs = _live_packs(ledger, chosen)
        if not packs:
            console.print("Nothing is running or waiting.")
            return
        runs = {attempt["run_id"] for attempts in packs.values() for attempt in attempts}
        _ask(f"Cancel {len(packs)} pack{'s' if len(packs) > 1 else ''} with {len(runs)} runs?", yes)
        _cancel(ledger, root, list(packs))
    console.print(f"Cancelled {len(packs)} packs. `status` shows them as cancelled once they have ended.")


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="Its id, the beginning of it, or its name.")],
    stage: Annotated[str | None, typer.Argument(help="Only this stage.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Only this attempt; else the newest.")] = None,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """Print the logs of a run."""
    root = _root(output_root, smoke)
    _need_ledger(root)
    with _reading(root) as (ledger, _, _):
        (run_id,) = _find_runs(ledger, [run], one=True)
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
) -> None:
    """Write the scores of every run as Markdown and CSV, and show them."""
    root = _root(output_root, smoke)
    _need_ledger(root)
    with _reading(root) as (ledger, _, _):
        written = report.write(ledger, to or root.path / "report")
        console.print(report.score_table(ledger))
    console.print("\n".join(str(path) for path in written), soft_wrap=True)


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
        runs = len(ledger.overview())
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
    study: Annotated[list[str] | None, typer.Option("--study", help="Only this study; may be given again.")] = None,
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
    to: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("cluster/experiments.schema.json"),
) -> None:
    """Write the JSON schema of the manifest, for editors."""
    from cluster.schema import json_schema

    to.write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
    console.print(str(to))


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


@dataclass(frozen=True)
class Request:
    """What would be submitted, where."""

    site: Site
    runs: list[Run]  # all that were asked for
    items: list[Item]
    arrays: list[Array]
    rates: cost.Rates
    studies: list[str]  # in the order in which they are shown


def _root(output_root: Path, smoke: bool) -> OutputRoot:
    return OutputRoot(output_root / "smoke" if smoke else output_root)


def _need_ledger(root: OutputRoot) -> None:
    if not root.ledger.exists():
        has_runs = "`tiny-transformers ledger rebuild` makes it from the files." if root.runs() else "Submit first."
        raise InputError(f"{root.ledger}: there is no ledger. {has_runs}")


@contextmanager
def _writing(root: OutputRoot, dry_run: bool = False) -> Iterator[Ledger | None]:
    """The ledger, locked and reconciled; None for a dry run where there is none, so that it leaves no trace.

    Raises SlurmSilent, with nothing changed, if SLURM does not answer."""
    if dry_run and not root.ledger.exists():
        yield None
        return
    if root.runs() and not root.ledger.exists():
        _need_ledger(root)
    with locked(root.lock):
        ledger = Ledger(root.ledger)
        try:
            if _reconcile(ledger, root) == "unreachable":
                raise SlurmSilent("SLURM did not answer, so what is under way is not known. Nothing was submitted.")
            unsettled = [row["token"] for row in ledger.open_submissions() if row["state"] == "intended"]
            if unsettled:
                raise SlurmSilent(
                    f"A submission of the last minutes ({', '.join(map(reconcile.job_name, unsettled))}) was never "
                    f"answered and may still arrive. Nothing was submitted; try again in "
                    f"{reconcile.SBATCH_PATIENCE // 60} minutes."
                )
            yield ledger
        finally:
            ledger.close()


@contextmanager
def _reading(root: OutputRoot) -> Iterator[tuple[Ledger, str, str]]:
    """The ledger, reconciled if nobody else is at it; with when that was, and whether SLURM answered."""
    if not root.ledger.exists():
        _need_ledger(root)
    try:
        with locked(root.lock, wait=5):
            ledger = Ledger(root.ledger)
            slurm = _reconcile(ledger, root)
    except LedgerBusy as busy:
        stderr.print(f"{busy} What follows is its last state.", style="yellow", soft_wrap=True)
        ledger = Ledger(root.ledger, read_only=True)
        slurm = ledger.recall("slurm") or "none"
    try:
        yield ledger, ledger.recall("as_of") or "never", slurm
    finally:
        ledger.close()


def _reconcile(ledger: Ledger, root: OutputRoot) -> str:
    slurm = reconcile.reconcile(ledger, root, Slurm())
    with ledger.transaction():
        ledger.remember("slurm", slurm)
        if slurm != "unreachable":
            ledger.remember("as_of", _now())
    return slurm


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _check_data(runs: Sequence[Run], data_root: Path | None) -> None:
    """Every file that these runs read is there, before anything is submitted."""
    reading = [run for run in runs if run.config.data.source == "files"]
    if not reading:
        return
    if data_root is None:
        raise InputError(
            "data.source is files: say where with --data-root DIR or TINY_TRANSFORMERS_DATA. "
            "`tiny-transformers fetch --data-root DIR` brings the data; --set data.source=builtin needs none."
        )
    files = {file for run in reading for file in required_files(run.config, run.stages)}
    lacking = sorted(file for file in files if not (data_root / file).is_file())
    if lacking:
        raise InputError(
            f"{data_root}: lacks {', '.join(lacking[:5])}{f' and {len(lacking) - 5} more' if len(lacking) > 5 else ''}."
            f" Put it there, or run `tiny-transformers fetch --data-root {data_root}`. Nothing was submitted."
        )


def _request(
    ledger: Ledger | None,
    runs: list[Run],
    todo: Sequence[tuple[Run, list[str]]],
    states: dict[str, dict[str, plan.StageState]],
    site: Site,
    studies: list[str],
) -> Request:
    from cluster import launch

    rates = cost.Rates(site.flops, launch.measured_rates(ledger, site) if ledger else {})
    items = [plan.item(run, stages, states.get(run.id, {}), rates) for run, stages in todo if stages]
    return Request(site, runs, items, plan.arrange(items, {run.id: run for run in runs}, site), rates, studies)


def _numbers_on_disk(root: OutputRoot, run: Run) -> dict[str, plan.StageState]:
    """Of a run that the ledger does not know, the attempt numbers that are taken: its run.json may have been torn."""
    taken = {stage: root.run(run.id).attempts(stage) for stage in run.stages}
    return {stage: plan.StageState("waiting", attempts[-1].number) for stage, attempts in taken.items() if attempts}


def _chosen(run: Run, states: dict[str, plan.StageState], stages: Sequence[str] | None, failed: bool) -> list[str]:
    """The stages of a run that a rerun does; none of a run of which something is still under way."""
    selected = [stage for stage in run.stages if not stages or stage in stages]
    if failed:
        selected = [stage for stage in selected if states[stage].status == "failed"]
    chosen = plan.redo(run, [stage for stage in selected if plan.ready(stage, selected, states)])
    live = [stage for stage in run.stages if states[stage].status in ("running", "submitted")]
    if chosen and live:
        console.print(f"{run.name}: left alone, {', '.join(live)} under way", style="yellow")
        return []
    return chosen


def _confirm_and_launch(
    ledger: Ledger | None,
    root: OutputRoot,
    request: Request,
    data_root: Path | None,
    log_dir: Path,
    dry_run: bool,
    yes: bool,
) -> None:
    from cluster import launch

    _show(request, root, log_dir, dry_run)
    if dry_run:
        return
    assert ledger
    packs = sum(len(array.packs) for array in request.arrays)
    _ask(f"Submit {_count(packs, 'pack')} in {_count(len(request.arrays), 'array')}?", yes)
    _record_runs(ledger, root, request.runs, dry_run)
    jobs = launch.submit(
        ledger, root, request.arrays, request.site, data_root=data_root, log_dir=log_dir.resolve(), created=_now()
    )
    console.print(f"Submitted {', '.join(jobs)}. `status` shows how it goes.")


def _record_runs(ledger: Ledger, root: OutputRoot, runs: Sequence[Run], dry_run: bool) -> None:
    from cluster import launch

    if not dry_run:
        launch.record_runs(ledger, root, runs, _now())


def _show(request: Request, root: OutputRoot, log_dir: Path, dry_run: bool) -> None:
    from cluster import launch

    hours, unit = plan.gpu_hours(request.arrays), "GPU-hours" if request.site.gpus else "hours"
    if dry_run and len(request.items) <= LISTED_RUNS:
        console.print(tables.runs_table(request.runs, request.items, request.arrays))
    if dry_run:
        console.print(tables.studies_table(request.runs, request.items, unit, request.studies))
    shown: list[plan.Resources] = []
    for number, array in enumerate(request.arrays, 1):
        runs = sum(len(pack.items) for pack in array.packs)
        console.print(
            f"array {number}: {_count(len(array.packs), 'pack')} with {_count(runs, 'run')}; each "
            f"{launch.resource_line(array, request.site)}"
        )
        if dry_run and request.site.scheduler == "slurm" and array.resources not in shown:  # else it is the same script
            shown.append(array.resources)
            text = launch.script(array, request.site, root, "TOKEN", log_dir.resolve())
            console.print(Text(text, style="dim"), soft_wrap=True)
    basis = "as measured in this ledger" if request.rates.measured else "by the site's profile"
    stages = sum(len(item.stages) for item in request.items)
    console.print(f"{_count(stages, 'stage run')}, about {hours:,.1f} {unit} {basis}.")
    if dry_run:
        console.print("A dry run: nothing was submitted.")


def _say_nothing_missing(runs: Sequence[Run], states: dict[str, dict[str, plan.StageState]]) -> None:
    status = [state.status for run in runs for state in states.get(run.id, {}).values()]
    held = [stage for run in runs for stage in run.stages if plan.status(states.get(run.id, {}), stage) == "waiting"]
    if held:
        console.print(f"{_count(len(held), 'stage run')} cannot be submitted before what is under way has ended.")
        return
    failed = status.count("failed")
    live = status.count("running") + status.count("submitted")
    console.print(f"Nothing is missing: {_count(len(runs), 'run')}, {_count(len(status), 'stage run')}, "
                  f"{status.count('completed')} completed"
                  + (f", {live} under way" if live else "")
                  + (f", {failed} failed (`rerun --failed` does them again)" if failed else "") + ".")  # fmt: skip


def _ask(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is nobody to ask: say --yes.")
    typer.confirm(question, abort=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _last_submission(ledger: Ledger, root: OutputRoot) -> dict[str, Any] | None:
    rows = [row for row in ledger.submissions() if row["state"] not in ("refused", "void")]
    return rundir.read_json(root.submission(rows[-1]["token"]).submission) if rows else None


def _same_site(before: dict[str, Any] | None, **overrides: Any) -> Site:
    if before is None:
        raise InputError("Nothing was ever submitted from here. Submit a manifest first.")
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


def _live_packs(ledger: Ledger, runs: set[str] | None) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(token, index) of packs with something open, and what; only those of these runs, if given."""
    packs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for submission in ledger.open_submissions():
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
    local = [(token, index) for token, index in packs if rows[token]["scheduler"] == "local"]
    for token, index in local:
        launch.cancel_local(root.submission(token), index)
    # submitit makes a plain job, without tasks, of an array of one.
    jobs = [
        f"{rows[token]['job_id']}_{index}" if ledger.packs(token) > 1 else rows[token]["job_id"]
        for token, index in packs
        if rows[token]["scheduler"] == "slurm"
    ]
    problem = Slurm().cancel(jobs) if jobs else None
    if problem:
        raise SlurmSilent(f"scancel: {problem}. Try again.")


def _wait(root: OutputRoot, runs: Sequence[Run]) -> None:
    """Until nothing is open. Exit code 1 if something of these runs failed."""
    _watch(root, lambda ledger, now, slurm: report.status_view(
        ledger, root, now, slurm, per_run=False, failed_only=False))  # fmt: skip
    with _reading(root) as (ledger, _, _):
        console.print(report.score_table(ledger))
        ids = {run.id for run in runs}
        failed = any(
            view["status"] == "failed"
            for run in ledger.overview()
            if run["run_id"] in ids
            for view in run["stages"].values()
        )
    if failed:
        raise typer.Exit(1)


def _watch(root: OutputRoot, view: Callable[[Ledger, str, str], Any]) -> None:
    """Show the view again and again until nothing is open; in place on a terminal, a line per change elsewhere."""
    from rich.live import Live

    pause, last = 1.0, ""
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            with _reading(root) as (ledger, as_of, slurm):
                rendered, open_submissions = view(ledger, as_of, slurm), ledger.open_submissions()
                counts = report.status_json(ledger.overview(), as_of, slurm)["counts"]
            line = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
            if live:
                live.update(rendered, refresh=True)
            elif line != last:
                console.print(f"{as_of} {line}")
            last = line
            if not open_submissions:
                break
            time.sleep(pause)
            # A person at the start wants to see it begin; later SLURM is asked twice a minute.
            pause = min(30.0, pause * 1.3) if any(row["scheduler"] == "slurm" for row in open_submissions) else 2.0
    if not live:
        console.print(rendered)


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
