"""Keep the code of a submission: its jobs run from a copy of our packages below OUTPUT_ROOT, whatever is edited,
checked out or pulled while they wait.

A copy is named by its content, written once and shared. What is in the working folder, in PYTHONPATH or among the
user's own packages cannot stand in its way."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.files.folders import OutputRoot
from tiny_transformers.common.files import whole_folder
from tiny_transformers.common.provenance import PACKAGE

PACKAGES = ("cluster", "jobs", "tiny_transformers")  # that a job loads


def keep(root: OutputRoot, home: Path = PACKAGE.parent) -> str:
    """Copy our packages, unless this state of them is there already; return the copy's name."""
    name, files = _packages(home)
    if not (copy := root.code(name)).is_dir():
        with whole_folder(copy) as draft:
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


def _packages(home: Path) -> tuple[str, Mapping[str, bytes]]:
    """Return a digest of our packages, and what each file of them holds."""
    files = {path.relative_to(home).as_posix(): path.read_bytes() for path in _files(home)}
    digest = hashlib.sha256()
    for file, content in files.items():
        digest.update(f"{file}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12], files


def _files(home: Path) -> Iterator[Path]:
    """In the order of their names."""
    for package in PACKAGES:
        for folder, folders, names in os.walk(home / package):
            folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))
