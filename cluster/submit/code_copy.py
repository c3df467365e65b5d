"""Keep the code of a submission: its jobs run from a copy of our packages below OUTPUT_ROOT, whatever is edited,
checked out or pulled while they wait.

A copy is named by its content, written once and shared. What is in the working folder, in PYTHONPATH or among the
user's own packages cannot stand in its way."""

from __future__ import annotations

import shlex
from pathlib import Path

from cluster.files import kept_code
from cluster.files.folders import OutputRoot
from tiny_transformers.common.files import whole_folder


def keep(root: OutputRoot, home: Path = kept_code.HOME) -> str:
    """Copy our packages, unless this state of them is there already, and whole; return the copy's name."""
    files = kept_code.read(home)
    name = kept_code.name_of(files)
    if kept_code.damage(copy := root.code(name)):
        with whole_folder(copy, replace=True) as draft:
            for folder in sorted({(draft / file).parent for file in files}):
                folder.mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                (draft / file).write_bytes(content)
    return name


def before_prologue() -> list[str]:
    """The shell lines by which a job has nothing of the PYTHONPATH of who submitted it; a module's or a site's comes
    later, and stays."""
    return ["unset PYTHONPATH"]


def after_prologue(root: OutputRoot, name: str) -> list[str]:
    """The shell lines by which a job's Python finds the copy first, and looks neither into the working folder nor among
    the user's own packages."""
    copy = shlex.quote(str(root.code(name).resolve()))
    gone = f"{name}: this copy of the code is gone. `submit` or `rerun` makes it again."
    return [
        f"[ -d {copy}/jobs ] || {{ echo {shlex.quote(gone)} >&2; exit 1; }}",
        f"export PYTHONPATH={copy}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1",
    ]
