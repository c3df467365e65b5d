"""The commands before anything runs: init, models, schema, fetch, doctor."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

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
    StudyOption,
    app,
)
from cluster.console import console, count
from cluster.errors import InputError
from cluster.files.folders import OutputRoot
from cluster.manifest import follow_ups, loading
from cluster.reconcile import session
from cluster.sites import profiles
from cluster.sites.profiles import Site
from cluster.slurm.queries import Slurm
from cluster.submit import tables
from tiny_transformers.common.files import whole_file

UNNAMED = "mycluster"  # until the cluster has said what it is called
START = ("experiments.yaml", "site.yaml")  # what `init` copies from templates/
NEXT = """\
    submit experiments.yaml --smoke --site local --yes --wait
    status --smoke
    tiny-transformers report --smoke
Then the whole of it, here or on a cluster:
    submit experiments.yaml --site local --dry-run
    tiny-transformers doctor --site site.yaml        # once site.yaml says what the cluster has
    submit experiments.yaml --site site.yaml --dry-run"""


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
def models(
    manifest_path: ManifestArgument,
    study: StudyOption = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs, with every setting.")] = False,
) -> None:
    """The distinct models of a manifest, of its optional studies, too: parameters, exactly, and FLOPs of a token."""
    document = loading.load(manifest_path)
    cells = follow_ups.all_cells(document, studies=study or document.studies, overrides=overrides or ())
    if as_json:
        typer.echo(json.dumps(tables.distinct_models(cells), indent=1))
    else:
        console.print(tables.models_table(cells, console.width))


@app.command()
def schema(
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Into this file, not to the output.")] = None,
) -> None:
    """Write the JSON schema of the manifest, for editors."""
    from cluster.manifest.schema import json_schema

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
    raise typer.Exit(subprocess.call([sys.executable, "-m", "tiny_transformers.data.fetch", *context.args]))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def score(context: typer.Context) -> None:
    """Score a saved model, also one of others: BLiMP and LAMBADA. `score --help` lists its options."""
    import subprocess

    # A process of its own, since it loads torch, which no command here does.
    raise typer.Exit(subprocess.call([sys.executable, "-m", "tiny_transformers.score", *context.args]))


@app.command()
def doctor(
    site: SiteOption = None,
    account: AccountOption = None,
    partition: PartitionOption = None,
    data_root: DataOption = None,
    output_root: OutputOption = OUTPUT,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE.yaml", help="Instead: write a site file of what SLURM says.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --write: in place of a file that is there.")
    ] = False,
    job: Annotated[
        bool, typer.Option("--job", help="Ask a compute node, too, by a short job: whether CUDA starts there.")
    ] = False,
) -> None:
    """Compare what this site offers with what its profile assumes, or write a profile of what it offers.

    With --write what SLURM does not know (modules, the prologue, the container) is that of --site, if it is given."""
    from cluster.sites import doctor as examination

    if write:
        base = profiles.load(site) if site else Site(name=UNNAMED, scheduler="slurm")
        _write_site(base, write, overwrite, account=account, partition=partition)
        return
    if overwrite:
        raise InputError("--overwrite: is for --write FILE.yaml.")
    where = profiles.load(site or profiles.default_site(), account=account, partition=partition)
    findings = examination.examine(where, Slurm(), data_root, output_root)
    if job:
        from cluster.submit import node_job

        findings += node_job.look(where, Slurm(), OutputRoot(output_root), LOGS.absolute())
    table = Table(title=f"site {where.name}", title_justify="left")
    for title in ("", "what", "found"):
        table.add_column(title)
    for finding in findings:
        table.add_row(Text(finding.mark, style=finding.colour), finding.what, finding.found)
    console.print(table)
    raise typer.Exit(2 if any(finding.mark == "wrong" for finding in findings) else 0)


def _write_site(base: Site, path: Path, overwrite: bool, **asked: str | None) -> None:
    from cluster.sites import drafting

    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--write {path}: must end in .yaml, so that --site takes it.")
    if path.exists() and not overwrite:
        raise InputError(
            f"--write {path}: is there already. Name another file, or say --overwrite. Nothing was written."
        )
    if base.scheduler != "slurm":
        raise InputError(f"--write {path}: is for a cluster, and site {base.name} has no SLURM.")
    said = base.model_dump(mode="json", exclude_unset=True)
    drafted = drafting.draft(profiles.checked(said, str(path), **asked), Slurm(), named=base.name != UNNAMED)
    text = drafting.text(drafted, session.now(), str(path))
    with whole_file(path.absolute()) as draft:
        draft.write_text(text, encoding="utf-8")
    console.print(f"Wrote {path}, {count(len(drafted), 'key')}.", soft_wrap=True)
    for each in drafted:
        if not each.read:
            console.print(f"{each.key}: {each.source}", style="yellow", soft_wrap=True)
    console.print(f"Look it over; then `tiny-transformers doctor --site {shlex.quote(str(path))}`.", soft_wrap=True)
