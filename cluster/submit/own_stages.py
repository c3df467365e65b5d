"""What a submission defines of users' own stages: refused where it could not run, or where completed runs have done
something else under the same name."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from cluster.console import count
from cluster.errors import InputError
from cluster.files import own_stages
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.files.statuses import LIVE
from cluster.ledger.database import Ledger
from cluster.sites.profiles import Site
from tiny_transformers.settings.program import Program
from tiny_transformers.settings.stage.known import make_known
from tiny_transformers.settings.stage.own import OwnStage
from tiny_transformers.settings.stages import STAGES


def define(
    ledger: Ledger | None,
    root: OutputRoot,
    own: Mapping[str, OwnStage],
    runs: Iterable[Run],
    site: Site,
    data_root: Path | None,
) -> dict[str, OwnStage]:
    """Make the stages known that these runs have, as the manifest has them, and return them to be recorded.

    Raises InputError for one that cannot run, or that was another one when runs did it."""
    asked = {stage for run in runs for stage in run.stages}
    used = {name: stage for name, stage in own.items() if name in asked}
    before = own_stages.read(root)
    for name, stage in used.items():
        if "data" in stage.placeholders and data_root is None:
            raise InputError(
                f"stages.{name}.command: has {{data}}: say where with --data-root DIR or TINY_TRANSFORMERS_DATA."
            )
        if stage.run and not (site.python or site.container):  # whose Python has other modules than this one
            _check_function(name, stage.run, stage.folder)
        if ledger and name in before:
            _check_same(ledger, root, name, before[name], stage)
    make_known(used)
    return used


def check_runnable(todo: Iterable[tuple[Run, Sequence[str]]]) -> None:
    """Raises InputError for a stage that came with an archive: its command is somebody else's."""
    for name in dict.fromkeys(stage for _, stages in todo for stage in stages):
        if (own := STAGES[name].own) and not own.folder:
            raise InputError(
                f"{name}: came with an archive, and nothing of an archive is run. `submit` its manifest from a folder "
                "that has its programs, and it is defined here. Nothing was submitted."
            )


def _check_same(ledger: Ledger, root: OutputRoot, name: str, before: OwnStage, now: OwnStage) -> None:
    """Results of one name are of one thing. A run of a program keeps what its first stages do in its id, so these may
    change: then there are other runs."""
    if (before.doing, before.needs) == (now.doing, now.needs):
        return
    done = [run_id for run_id, stages in ledger.states().items()
            if name in stages and stages[name].status in ("completed", *LIVE)]  # fmt: skip
    apart = {
        run.id
        for run in ledger.runs(done)
        if before.needs == now.needs and isinstance(run.config.model, Program) and name in run.config.model.stages
    }
    if left := [run_id for run_id in done if run_id not in apart]:
        changed = next(
            key for key in ("run", "command", "settings", "needs") if getattr(before, key) != getattr(now, key)
        )
        raise InputError(
            f"stages.{name}.{changed}: is {getattr(now, changed)!r}, and was {getattr(before, changed)!r} when "
            f"{count(len(left), 'run')} in {root.path} did it. Give the stage another name: its results would not be "
            "of one thing. Nothing was submitted."
        )


def _check_function(name: str, run: str, folder: str) -> None:
    """Raises InputError if a job would not find it. Nothing of it is run here: it may load torch."""
    module, _, function = run.partition(":")
    spec = _find(module, [*sys.path, folder])
    if spec is None:
        raise InputError(
            f"stages.{name}.run: there is no module {module}, neither in {folder} nor installed. Nothing was submitted."
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        return
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except SyntaxError as error:
        raise InputError(f"{spec.origin}: line {error.lineno}: {error.msg}. Nothing was submitted.") from None
    if function not in _names(tree):
        raise InputError(f"stages.{name}.run: {spec.origin} defines no {function}. Nothing was submitted.")


def _find(module: str, path: Sequence[str] | None) -> ModuleSpec | None:
    spec = None
    whole = ""
    for part in module.split("."):
        whole = f"{whole}.{part}".lstrip(".")
        spec = PathFinder.find_spec(whole, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _names(tree: ast.Module) -> set[str]:
    """The names that a module binds at its top."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found
