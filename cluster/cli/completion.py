"""Complete names of runs, studies, models, settings, stages and sites in the shell. Reads the ledger or the manifest,
never SLURM; whatever is wrong with them, nothing is completed and nothing is said."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cluster.console import clean
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from tiny_transformers.settings.stages import STAGES

if TYPE_CHECKING:
    from cluster.manifest.loading import Manifest

PROGRAM = "tiny-transformers"
ASKED = "_TINY_TRANSFORMERS_COMPLETE"  # the variables by which a shell asks, typer's: how, and the line
LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
MOST = 200  # runs that are offered
ABOUT = 4  # ids that stand beside a name that several runs have


def runs(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names, with their ids beside them, and ids for what begins as one."""
    try:
        with _ledger(context) as ledger:
            found = ledger.beginning_with(incomplete, MOST)
    except Exception:  # noqa: BLE001
        return []
    offered: dict[str, list[str]] = {}
    for run_id, name in found:
        if name.startswith(incomplete):
            offered.setdefault(name, []).append(run_id)
        else:
            offered[run_id] = [name]
    return [(clean(word), clean(", ".join(about[:ABOUT]))) for word, about in offered.items()]


def studies(context: typer.Context, incomplete: str) -> list[str]:
    """Return the studies of the manifest that the command is given."""
    try:
        return _beginning(incomplete, _manifest(context).studies)
    except Exception:  # noqa: BLE001
        return []


def recorded_studies(context: typer.Context, incomplete: str) -> list[str]:
    """Return the studies that the ledger has."""
    try:
        with _ledger(context) as ledger:
            return _beginning(incomplete, ledger.study_sizes())
    except Exception:  # noqa: BLE001
        return []


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Return the models of the manifest that the command is given."""
    try:
        return _beginning(incomplete, _manifest(context).models)
    except Exception:  # noqa: BLE001
        return []


def settings(context: typer.Context, incomplete: str) -> list[str]:
    """Return what --set may set, in the models of that manifest, each with the = that follows."""
    try:
        from cluster.manifest import grids
        from cluster.manifest.loading import SECTIONS

        manifest = _manifest(context)
        trees = [cell.config.model_dump() for cell in grids.cells(manifest, studies=list(manifest.studies))]
        paths = {path for tree in trees for key in ("model", *SECTIONS) for path in _paths(tree[key], key)}
        return _beginning(incomplete, sorted(f"{path}=" for path in paths))
    except Exception:  # noqa: BLE001
        return []


def stages(incomplete: str) -> list[str]:
    return _beginning(incomplete, STAGES)


def stages_with_rows(incomplete: str) -> list[str]:
    return _beginning(incomplete, [name for name, kind in STAGES.items() if kind.keeps_rows])


def sites(incomplete: str) -> list[str]:
    """Return the shipped sites; where none begins so, the shell offers files."""
    from cluster.sites import profiles

    return _beginning(incomplete, profiles.shipped())


def as_long_command(name: str) -> None:
    """Where the shell asks `submit` to complete a line of its own, let it have asked `tiny-transformers submit`.

    bash gives the line and the number of the word, other shells the line alone."""
    asked = os.environ.pop(f"_{name.upper()}_COMPLETE", None)
    if asked is None:
        return
    os.environ[ASKED] = asked
    for line in LINES:
        if line in os.environ:
            os.environ[line] = f"{PROGRAM} {os.environ[line]}"
    if "COMP_CWORD" in os.environ:
        os.environ["COMP_CWORD"] = str(int(os.environ["COMP_CWORD"]) + 1)


def command() -> str:
    """Return the command of the line that the shell asks to complete; nothing, where it asks nothing or which command
    there is."""
    line = next((os.environ[name] for name in LINES if name in os.environ), "") if ASKED in os.environ else ""
    words = line.split()
    return words[1] if len(words) > 2 else ""


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _manifest(context: typer.Context) -> Manifest:
    from cluster.manifest import loading

    return loading.load(Path(context.params.get("manifest_path") or "experiments.yaml"))


def _paths(tree: Any, path: str) -> Iterator[str]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _paths(value, f"{path}.{key}")
    else:
        yield path


@contextmanager
def _ledger(context: typer.Context) -> Iterator[Ledger]:
    output = Path(context.params.get("output_root") or "output")
    root = OutputRoot(output / "smoke" if context.params.get("smoke") else output)
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        yield ledger
