"""Everything of an OUTPUT_ROOT as rows, for other tools: a pandas frame where pandas is installed, else a list.

    from cluster.report.frames import curves, read
    runs = read("output")

Nothing is written; the ledger is read as the last command left it."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from tiny_transformers.settings.config import CURVE


def read(output_root: str | Path) -> Any:
    """A row per run: run_id, name, studies; `status.<stage>`; every setting by its path (`model.hidden_size`); scores
    as `<stage>.<task>.<metric>`, and what else was measured as `<stage>.<name>`. None where a run has no such value.

    Raises InputError where there is no ledger."""
    with closing(_ledger(output_root)) as ledger:
        rows: dict[str, dict[str, Any]] = {}
        for run in ledger.overview():
            row = {"run_id": run["run_id"], "name": run["name"], "studies": " ".join(run["studies"])}
            row |= {f"status.{stage}": told["status"] for stage, told in run["stages"].items()}
            rows[run["run_id"]] = row
        for each in ledger.runs():
            rows[each.id] |= dict(_flat(each.config.model_dump(mode="json")))
        for score in ledger.scores():
            rows[score["run_id"]][f"{score['stage']}.{score['task']}.{score['metric']}"] = score["value"]
        for metric in ledger.metrics():
            rows[metric["run_id"]][f"{metric['stage']}.{metric['name']}"] = _value(metric["value"])
    return _frame([*rows.values()])


def curves(output_root: str | Path) -> Any:
    """A row per line of each run's curve.jsonl: run_id, name, step, and of a step `loss`, `learning_rate`, `tokens`,
    `seconds`, of an evaluation `eval_loss`. Raises InputError where there is no ledger."""
    root = OutputRoot(Path(output_root))
    with closing(_ledger(output_root)) as ledger:
        runs = [(run["run_id"], run["name"]) for run in ledger.overview()]
    return _frame(
        [{"run_id": run_id, "name": name} | record for run_id, name in runs for record in curve(root, run_id)]
    )


def curve(root: OutputRoot, run_id: str) -> list[dict[str, Any]]:
    """The lines of a run's curve.jsonl that are whole; none, if there is none."""
    try:
        lines = (root.run(run_id).path / CURVE).read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [each for each in _records(lines) if isinstance(each, dict) and isinstance(each.get("step"), int)]


def losses(records: Sequence[Mapping[str, Any]], name: str) -> dict[int, float]:
    """Return the finite values of `loss`, in training, or of `eval_loss`, by their steps in order."""
    found = [(record["step"], float(value)) for record in records
             if isinstance(value := record.get(name), (int, float)) and math.isfinite(value)]  # fmt: skip
    return dict(sorted(dict(found).items()))


def _records(lines: Sequence[str]) -> list[Any]:
    """Return the values of the lines that are whole. They are read at once, or where one is torn (its run is being
    written, or was cut off) line by line."""
    try:
        found = json.loads(f"[{','.join(lines)}]")
        if len(found) == len(lines) and all(line[0] == "{" and line[-1] == "}" for line in lines):
            return list(found)
    except (ValueError, RecursionError):
        pass
    found = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return found


def _ledger(output_root: str | Path) -> Ledger:
    path = OutputRoot(Path(output_root)).ledger
    if not path.exists():
        raise InputError(f"{path}: is not there. `submit` makes it, and `tiny-transformers ledger rebuild`.")
    return Ledger(path, read_only=True)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _value(text: Any) -> Any:
    """Metrics are kept as JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _frame(rows: list[dict[str, Any]]) -> Any:
    names = list(dict.fromkeys(name for row in rows for name in row))
    rows = [{name: row.get(name) for name in names} for row in rows]
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        return rows
    return pandas.DataFrame(rows, columns=names)
