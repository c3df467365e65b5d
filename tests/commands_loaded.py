"""Before a fork of processes.py: all commands are loaded, and made of their functions, which takes typer as long as
many of them run; and so is what a submission and a report load."""

import functools

import jinja2  # noqa: F401
import submitit.slurm.slurm  # noqa: F401
import typer.main

import cluster.report.writing  # noqa: F401
import jobs.pack  # noqa: F401
from cluster.cli import entry, shared
from cluster.report.figures import sheets

entry.load()
typer.main.get_command = functools.cache(typer.main.get_command)
typer.main.get_command(shared.app)
sheets.make_font()
