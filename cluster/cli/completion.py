"""Complete names of runs, studies and stages in the shell. Reads the ledger or the manifest, never SLURM; whatever is
wrong with them, nothing is completed and nothing is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import typer

from cluster.console import clean
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from tiny_transformers.settings.stages import STAGES

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
        from cluster.manifest import loading

        path = context.params.get("manifest_path") or Path("experiments.yaml")
        return [name for name in loading.load(Path(path)).studies if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001
        return []


def stages(incomplete: str) -> list[str]:
    return [stage for stage in STAGES if stage.startswith(incomplete)]


@contextmanager
def _ledger(context: typer.Context) -> Iterator[Ledger]:
    output = Path(context.params.get("output_root") or "output")
    root = OutputRoot(output / "smoke" if context.params.get("smoke") else output)
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        yield ledger
