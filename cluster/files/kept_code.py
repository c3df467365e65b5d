"""Tell by its content whether a copy of the code, from which a submission's jobs run, is still the one that was made.

A copy's name is a hash over all of its files. `submit` makes copies; jobs and the login node look at them here."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

PACKAGES = ("cluster", "jobs", "tiny_transformers")  # that a job loads
HOME = Path(__file__).resolve().parents[2]  # what this process runs from: a checkout, what is installed, or a copy


def read(home: Path) -> dict[str, bytes]:
    """Return all that the packages below a folder have, by relative name and in its order, but compiled files."""
    files = {}
    for package in PACKAGES:
        for folder, folders, names in os.walk(home / package):
            folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
            place = Path(folder).relative_to(home).as_posix()
            for name in sorted(name for name in names if not name.startswith(".")):
                with open(f"{folder}/{name}", "rb", buffering=0) as file:
                    files[f"{place}/{name}"] = file.readall()
    return files


def name_of(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for file, content in files.items():
        digest.update(f"{file}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def damage(copy: Path) -> str | None:
    """Say what has become of a copy, and what to do, unless it is whole."""
    try:
        files = read(copy)
    except OSError as error:
        return f"{copy}, the copy of the code that its jobs run from, cannot be read: {error}"
    if name_of(files) == copy.name:
        return None
    state = "was changed after it was made" if files else "is gone"
    return f"{copy}, the copy of the code that its jobs run from, {state}: `rerun --failed` makes it again"
