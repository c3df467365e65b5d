"""Read the runs that were planned from their files into the ledger.

A run.json is checked against where it lies, since its id and its stages become parts of paths."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from pydantic import ValidationError

from cluster.console import count, some
from cluster.files.documents import RunFile
from cluster.files.fields import LARGEST
from cluster.files.folders import RunDir
from cluster.files.records import Run
from cluster.ledger.database import Ledger
from cluster.ledger.runs import first_unknown
from cluster.reconcile.opened import read_whole
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES


def record_planned(ledger: Ledger, directories: Iterable[RunDir], torn: list[str]) -> set[str]:
    """Record the runs of these folders, in the order in which they were planned, and return their ids. What cannot be
    used is told among the `torn` files."""
    found: list[tuple[RunFile, Run]] = []
    unknown: list[str] = []
    for directory in directories:
        value = read_whole(directory.run_json, RunFile, torn)
        if value is None:
            continue
        try:
            found.append((value, _run_of(value, directory)))
        except ValidationError as error:
            unknown.append(f"{value['name']} ({value['run_id']}: {first_unknown(error)})")
        except (ValueError, ArithmeticError) as error:
            torn.append(f"{directory.run_json}: is no run.json ({error})")
    if unknown:
        torn.append(f"{count(len(unknown), 'run')} of settings that this version does not know: {some(unknown)}")
    found.sort(key=lambda pair: (pair[0]["created"], pair[0]["order"]))
    for created, at_once in groupby(found, key=lambda pair: pair[0]["created"]):
        ledger.record_runs((run for _, run in at_once), created)
    return {run.id for _, run in found}


def _run_of(value: RunFile, directory: RunDir) -> Run:
    """Raises ValueError or ArithmeticError if it is not the run of this folder, or none of this version's."""
    stages = value["stages"]
    if value["run_id"] != directory.path.name:
        raise ValueError(f"run_id: is {value['run_id']}, and not its folder's name")
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ValueError(f"stages: no stage here is called {', '.join(unknown)}")
    if not stages or len(set(stages)) < len(stages):
        raise ValueError("stages: must have one or more, each once")
    config = RunConfig.model_validate(value["config"])
    above = directory.path.absolute().parts
    if config.smoke and "smoke" not in above:  # its probes lie below smoke/, too
        raise ValueError("is a smoke run among real ones, where it would count: it belongs below smoke/")
    if config.probe and above[-3:-1] != ("probe", "runs"):
        raise ValueError("is a probe's run among real ones, where it would count: it belongs below probe/")
    run = Run(value["run_id"], value["name"], config, tuple(stages), tuple(value["studies"]))
    if not 0 <= run.parameters <= LARGEST:
        raise ValueError("config: has a number of parameters that no model can have")
    return run
