"""The commands that show what is known: status, logs, usage, compare."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.text import Text

from cluster.cli import completion
from cluster.cli.shared import (
    OUTPUT,
    OutputOption,
    RunArgument,
    SmokeOption,
    app,
    check_stage,
    find_runs,
    reading_ledger,
    root_of,
    watch_queue,
)
from cluster.console import clean, console
from cluster.errors import InputError, SlurmSilent, did_you_mean
from cluster.files import whole_files
from cluster.reconcile import session
from cluster.status import reading, showing
from tiny_transformers.settings.stages import STAGES

KEEPS_ROWS = tuple(name for name, kind in STAGES.items() if kind.keeps_rows)


@app.command(name="status")
def status_command(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, and why.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="A line per run.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds, until all has ended.")] = False,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """Show what has been done, what is under way, what failed and why."""
    root = root_of(output_root, smoke)
    if watch and as_json:
        raise InputError("status: --json is of one moment; give it without --watch.")
    if watch:
        watch_queue(root, failed_only=failed, per_run=runs)
        return
    with reading_ledger(root) as view:
        if as_json:
            typer.echo(json.dumps(reading.status_json(view, root), indent=1))
        else:
            console.print(showing.status_view(view, root, per_run=runs, failed_only=failed))
    if view.slurm == "unreachable":
        raise typer.Exit(SlurmSilent.exit_code)


@app.command()
def logs(
    run: RunArgument,
    stage: Annotated[str | None, typer.Argument(help="Only this stage.", autocompletion=completion.stages)] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Only this attempt; else the newest.")] = None,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """Print the logs of a run."""
    root = root_of(output_root, smoke)
    session.need_ledger(root)
    with reading_ledger(root) as view:
        (run_id,) = find_runs(view.ledger, [run], one=True)
        failed = [each for each in view.ledger.newest_attempts("failed") if each["run_id"] == run_id]
    if stage:
        check_stage(root, stage, f"logs {stage}")
    shown, stages = False, [stage] if stage else list(STAGES)
    for name in stages:
        attempts = [each for each in root.run(run_id).attempts(name) if attempt in (None, each.number)]
        for each in attempts[-1:]:
            if each.log.exists():
                typer.echo(clean(f"==> {each.log}"))
                typer.echo(clean("\n".join(whole_files.log_lines(whole_files.read(each.log)))))
                shown = True
    if not shown:
        why = next((f": {each['cause']}: {each['message']}" for each in failed if each["stage"] in stages), " yet")
        raise InputError(clean(f"logs: {run} has no log{f' of {stage}' if stage else ''}{why}."))


@app.command()
def usage(smoke: SmokeOption = False, output_root: OutputOption = OUTPUT) -> None:
    """Show what each submission was planned to take, what it used, and what to change."""
    from cluster.submit import tables

    root = root_of(output_root, smoke)
    session.need_ledger(root)
    with reading_ledger(root) as view:
        console.print(tables.usage_table(view.ledger.usage()))


@app.command()
def compare(
    a: RunArgument,
    b: Annotated[str, typer.Argument(help="The run that it is held against.", autocompletion=completion.runs)],
    stage: Annotated[
        str, typer.Option(help=f"Whose rows: {', '.join(KEEPS_ROWS)}.", autocompletion=completion.stages_with_rows)
    ] = "blimp",
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """Hold two runs against each other on BLiMP, pair by pair, or row by row on what another stage scored."""
    import subprocess

    if stage not in KEEPS_ROWS:
        raise InputError(f"--stage {stage}: keeps no scores of rows. {did_you_mean(stage, KEEPS_ROWS)}")
    root = root_of(output_root, smoke)
    session.need_ledger(root)
    with reading_ledger(root) as view:
        ids = [find_runs(view.ledger, [run], one=True)[0] for run in (a, b)]
        names = view.ledger.names(ids)
    files = [root.run(run_id).path / "scores" / f"{stage}.npz" for run_id in ids]
    for run_id, file in zip(ids, files, strict=True):
        if not file.exists():
            raise InputError(
                f"compare: {names[run_id]} ({run_id}) has no scores of pairs ({file}). The stage {stage} writes them: "
                "add it to the study's stages and submit, or see `status` for how it went."
            )
    for letter, run_id in zip("ab", ids, strict=True):
        console.print(Text(f"{letter}: {names[run_id]} ({run_id})"))
    # A process of its own: it loads numpy, which no other command here does. Its text is printed here, since this
    # process knows what to do when nobody reads on.
    pairs = [sys.executable, "-m", "tiny_transformers.common.pairs", *map(str, files)]
    done = subprocess.run(pairs, stdout=subprocess.PIPE, text=True, check=False)
    typer.echo(clean(done.stdout), nl=False)
    raise typer.Exit(done.returncode)
