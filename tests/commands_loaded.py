"""Before a fork of processes.py: all commands are loaded, and made of their functions, which takes typer as long as
many of them run; and so is what a submission and a report load. Settings were checked once, for which pydantic first
makes what checks them: that takes a third of a command's time."""

import functools
import importlib
from contextlib import suppress
from pathlib import Path

import jinja2  # noqa: F401
import rich.live  # noqa: F401
import submitit.slurm.slurm  # noqa: F401
import typer.main
from ledgers import made_by_statements

import cluster.reconcile.measure
import cluster.report.writing
import cluster.status.watching
import cluster.submit.submitting  # noqa: F401
import jobs.pack  # noqa: F401
from cluster.cli import entry, shared
from cluster.manifest import grids, loading
from cluster.report.figures import sheets
from cluster.sites import profiles

with suppress(ImportError):  # older releases have none
    importlib.import_module("typer._adapters")
made_by_statements()
entry.load()
typer.main.get_command = functools.cache(typer.main.get_command)
typer.main.get_command(shared.app)
sheets.make_font()
shipped = loading.load(Path(entry.__file__).parents[2] / "experiments.yaml")
grids.cells(shipped, studies=("quickstart", "brainformer"), overrides=("data.source=builtin",))
profiles.load("local")
