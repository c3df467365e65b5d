"""The entry points, and what an error of the user's prints."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Sequence
from sqlite3 import DatabaseError
from typing import Annotated

import typer
from rich.text import Text

from cluster.cli import completion
from cluster.cli.shared import app
from cluster.console import stderr
from cluster.errors import InputError, TinyError
from cluster.files.whole_files import TornFile
from cluster.ledger.store import is_spoilt
from tiny_transformers.common import refusals

COMMANDS = {  # module -> its commands: to load all of them takes longer than most commands do
    "looking": ("status", "logs", "usage", "compare"),
    "reporting": ("report", "push", "import", "ledger"),
    "running": ("submit", "probe", "rerun", "tick", "cancel"),
    "starting": ("init", "models", "schema", "fetch", "score", "doctor"),
}


def load(command: str = "") -> None:
    """Load the module of a command; all, if it is none of these: they are listed, or completed, then."""
    for module in [module for module, commands in COMMANDS.items() if command in commands] or COMMANDS:
        importlib.import_module(f"cluster.cli.{module}")


def _show_version(asked: bool) -> None:
    if not asked:
        return
    from importlib import metadata

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


def collect_rarely() -> None:
    """Look for garbage less often: what a command makes it mostly keeps to its end, and looking would take a third of
    the time in which 100,000 runs are planned."""
    gc.set_threshold(100_000, 50, 100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error of the user's prints as one message and sets the exit code."""
    collect_rarely()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        load(*words[:1] or [completion.command()])
        app(args=arguments, prog_name=completion.PROGRAM)
    except TinyError as error:
        stderr.print(Text(str(error), style="red"))
        sys.exit(error.exit_code)
    except (OSError, TornFile) as error:  # a full disk, a folder that may not be written, a file that is not whole
        stderr.print(Text(refusals.explain(error), style="red"))
        sys.exit(TinyError.exit_code)
    except DatabaseError as error:
        advice = " `tiny-transformers ledger rebuild` makes it again." if is_spoilt(error) else ""
        stderr.print(Text(f"ledger.db: {error}.{advice}", style="red"))
        sys.exit(TinyError.exit_code)


def _short(command: str) -> None:
    words = sys.argv[1:]
    if words in (["--install-completion"], ["--show-completion"]):  # it is a program of its own to the shell
        app(args=words, prog_name=command)
    completion.as_long_command(command)
    main([command, *words])


def submit_main() -> None:
    _short("submit")


def status_main() -> None:
    _short("status")


def rerun_main() -> None:
    _short("rerun")
