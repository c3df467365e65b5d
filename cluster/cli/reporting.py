"""The commands on results as a whole: report, import, ledger rebuild."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from cluster.cli import completion
from cluster.cli.shared import (
    OUTPUT,
    OutputOption,
    SmokeOption,
    app,
    find_runs,
    ledger_app,
    reading_ledger,
    root_of,
)
from cluster.console import clean, console, count
from cluster.errors import InputError
from cluster.files.folders import OutputRoot
from cluster.ledger.checks import unknown_runs
from cluster.ledger.database import Ledger
from cluster.ledger.lock import locked
from cluster.reconcile import orphans, reconciling, session
from cluster.report import score_tables
from tiny_transformers.common import refusals

CurveForm = Literal["csv", "tensorboard"]
TableForm = Literal["latex", "markdown"]
SHOWN = 500  # runs whose scores a terminal gets: a table of 2,000 takes longer than to write their pages


@app.command(name="report")
def report_command(
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
    to: Annotated[Path | None, typer.Option("--to", help="Folder; default OUTPUT_ROOT/report.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE.tar.gz", help="Instead: all results as one archive.")
    ] = None,
    with_models: Annotated[
        bool, typer.Option("--with-models", help="With --export: models, checkpoints and anchors, too.")
    ] = False,
    curves: Annotated[
        CurveForm | None, typer.Option("--curves", help="Also every line of the learning curves, in this form.")
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="STUDY", help="Instead: print a study's table for a paper.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B", help="With --table: measures, parameters, training, hours, seeds."),
    ] = None,
    variants: Annotated[
        str | None, typer.Option("--variants", metavar="A,B", help="With --table: these, and the baseline.")
    ] = None,
    form: Annotated[TableForm | None, typer.Option("--form", help="With --table; latex if it is not said.")] = None,
) -> None:
    """Write what the runs have found as a page, tables and figures, and show the scores."""
    root = root_of(output_root, smoke)
    session.need_ledger(root)
    if not table and (columns or variants or form):
        raise InputError("--columns, --variants, --form: are for --table STUDY.")
    if table and (to or export or curves):
        raise InputError("--table STUDY: prints that table and writes nothing; give it alone.")
    if with_models and not export:
        raise InputError("--with-models: is for --export FILE.tar.gz.")
    if curves and export:
        raise InputError("--curves: is not for --export, which has the curves.")
    if export:
        _export(root, export, with_models)
        return
    from cluster.report import writing  # loads numpy, scipy and matplotlib

    if table:
        with reading_ledger(root) as view:
            typer.echo(
                clean(writing.paper_tables(view, root, table, _words(columns), _words(variants), form != "markdown")),
                nl=False,
            )
        return
    with reading_ledger(root) as view:
        folder = to or root.path / "report"
        try:
            written = writing.write(view, root, folder)
        except PermissionError as error:
            elsewhere = "" if to else " `report --to FOLDER` writes elsewhere."
            raise InputError(f"{refusals.explain(error)}{elsewhere}") from None
        if curves:
            told = writing.write_curves(view.ledger, root, folder, curves)
            console.print(told, soft_wrap=True)
        runs = len(view.ledger.run_ids())
        if runs > SHOWN:
            console.print(f"{count(runs, 'run')}: their scores are in {folder / 'runs.csv'}", soft_wrap=True)
        elif any(True for _ in view.ledger.scores()):
            console.print(score_tables.score_table(view.ledger, console.width))
        else:
            told = f"{count(runs, 'run')}, and no scores yet. `status{root.options}` shows how far they are."
            console.print(told, soft_wrap=True)
        for told in unknown_runs(view.ledger):
            console.print(Text(told, style="yellow"), soft_wrap=True)
    console.print(f"{written[0]}, and {len(written) - 1} more files beside it", soft_wrap=True)


def _words(listed: str | None) -> list[str]:
    return [word.strip() for word in (listed or "").split(",") if word.strip()]


@app.command()
def push(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Its id, the beginning of it, or its name.", autocompletion=completion.runs),
    ],
    to: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model's repository on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Where it is made: for you alone.")] = False,
    smoke: SmokeOption = False,
    output_root: OutputOption = OUTPUT,
) -> None:
    """Upload a run's model, its tokenizer and its card to the Hugging Face hub, with the user's own token."""
    from cluster.report import cards, details

    root = root_of(output_root, smoke)
    session.need_ledger(root)
    with reading_ledger(root) as view:
        (run_id,) = find_runs(view.ledger, [run], one=True)
        made_of = details.run_details(view.ledger, root, [run_id])
    if not cards.write(made_of, root):
        raise InputError(f"push {run}: {root.run(run_id).model} holds no model. Pretrain it first.")
    address = cards.upload(root.run(run_id).model, to, private)
    console.print(f"{address}: {made_of.runs[0].run.name}", soft_wrap=True)


def _export(root: OutputRoot, path: Path, with_models: bool) -> None:
    from cluster.archive import exporting

    with reading_ledger(root):  # brings the ledger up to date
        pass
    made = exporting.export(root, path, session.now(), with_models=with_models)
    console.print(f"{path}: {made.size / 1e6:,.1f} MB, {made.models}", soft_wrap=True)
    if made.gone:
        left = f"{count(len(made.gone), 'folder')} left out, since removed while the archive was written: "
        console.print(Text(left + ", ".join(made.gone), style="yellow"), soft_wrap=True)


@app.command(name="import")
def import_command(
    path: Annotated[Path, typer.Argument(metavar="FILE.tar.gz", help="Written by `report --export`.", readable=False)],
    output_root: OutputOption = OUTPUT,
) -> None:
    """Unpack an archive of `report --export` where nothing is yet; `submit` then does what is missing."""
    from cluster.archive import unpacking

    made = unpacking.unpack(path, output_root.resolve(), session.now())
    with closing(Ledger(made.root.ledger)) as ledger:
        console.print(f"{made.root.path}: {count(len(ledger.known_runs()), 'run')}", soft_wrap=True)
        _say_incomplete(ledger, made.left_out)
    if made.under_way:
        open_ones = count(made.under_way, "stage run", "was", "were")
        console.print(f"{open_ones} under way when it was made: to be done here.")
    if made.commands:
        console.print("What is missing is done, with your --site and --data-root, by")
    for line in made.commands:
        console.print(Text(f"    {line}"), soft_wrap=True)


@ledger_app.command()
def rebuild(smoke: SmokeOption = False, output_root: OutputOption = OUTPUT) -> None:
    """Make the ledger again from the files; an old one is kept beside it."""
    root = root_of(output_root, smoke)
    if not root.runs():
        raise InputError(f"{root.path}: has no runs to make a ledger of. Is --output-root right?")
    with locked(root.lock):
        draft = root.ledger.with_suffix(".new")
        draft.unlink(missing_ok=True)
        ledger = Ledger(draft)
        torn = reconciling.rebuild(ledger, root)
        ledger.close()
        if root.ledger.exists():
            root.ledger.replace(root.ledger.with_suffix(".old"))
        draft.replace(root.ledger)
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        _say_incomplete(ledger, torn)
        console.print(f"{root.ledger}: {len(ledger.known_runs())} runs")


def _say_incomplete(ledger: Ledger, left_out: list[str]) -> None:
    """Say what the files did not tell."""
    for text in [*(f"left out: {each}" for each in left_out), *orphans.say(ledger)]:
        console.print(Text(text, style="yellow"), soft_wrap=True)
