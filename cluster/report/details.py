"""The ledger and the logs -> what each run is made of, for a report: settings, attempts, scores, checks, data, the
environment and the end of the log. What many runs share, environments and data files, is held once. Thousands of runs
are read in parts, so that a report never holds the details of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cluster.console import clean
from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.files.records import AttemptKey, AttemptRow, Run, SitedAttempt, key_of
from cluster.files.statuses import StageStatus
from cluster.ledger.database import Ledger
from cluster.ledger.rows import CheckRow, DataFileRow, MetricRow, ScoreRow

Row = TypeVar("Row", bound=AttemptKey)

LOG_LINES, LOG_WIDTH = 20, 240  # of the end of a log; of a line
PART = 100  # runs


@dataclass(frozen=True)
class StageDetails:
    name: str
    status: StageStatus
    attempts: Sequence[SitedAttempt] = ()  # oldest first
    scores: Sequence[ScoreRow] = ()
    checks: Sequence[CheckRow] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None  # a key of Details.data
    log: str = ""  # the end of the newest attempt's


@dataclass(frozen=True)
class RunDetails:
    run: Run
    stages: Sequence[StageDetails]


@dataclass(frozen=True)
class Details:
    """Where the figures come from."""

    runs: Sequence[RunDetails]
    environments: Mapping[str, Mapping[str, Any]]  # only those that its attempts ran in
    data: Mapping[str, Mapping[str, str]]  # key -> file -> SHA-256: the same files are listed once for all stage runs


@dataclass
class MadeWith:
    """What is held once for all runs."""

    environments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    data: dict[str, Mapping[str, str]] = field(default_factory=dict)
    code: Counter[str] = field(default_factory=Counter)  # digest of the science's source -> completed stage runs

    def add(self, part: Details) -> None:
        self.environments |= part.environments
        self.data |= part.data
        newest = (stage.attempts[-1] for run in part.runs for stage in run.stages if stage.attempts)
        self.code.update(each["code"] for each in newest if each["code"] and each["status"] == "completed")


def run_details(ledger: Ledger, output_root: OutputRoot, run_ids: Iterable[str]) -> Details:
    """Return the details of these runs, in the order in which they were recorded."""
    return _details(ledger, output_root, ledger.runs(list(run_ids)), _Sets())


def in_parts(ledger: Ledger, output_root: OutputRoot, runs: Sequence[Run]) -> Iterator[Details]:
    """Yield those of these runs a hundred at a time; a key of data files is the same set of files in all parts."""
    data = _Sets()
    for start in range(0, len(runs), PART):
        yield _details(ledger, output_root, runs[start : start + PART], data)


def _details(ledger: Ledger, output_root: OutputRoot, runs: Sequence[Run], data: _Sets) -> Details:
    chosen = [run.id for run in runs]
    attempts = _by_stage(ledger.attempts_of(chosen))
    scores = _by_stage(ledger.outcomes_of(ScoreRow, chosen))
    checks = _by_stage(ledger.outcomes_of(CheckRow, chosen))
    metrics = _by_stage(ledger.outcomes_of(MetricRow, chosen))
    statuses = {run["run_id"]: run["stages"] for run in ledger.overview(chosen)}
    files = {key: data.add(rows) for key, rows in _by_stage(ledger.outcomes_of(DataFileRow, chosen)).items()}

    def stage(run: Run, name: str) -> StageDetails:
        key = run.id, name
        return StageDetails(
            name,
            statuses[run.id][name]["status"],
            attempts.get(key, ()),
            scores.get(key, ()),
            checks.get(key, ()),
            {row["name"]: row["value"] for row in metrics.get(key, ())},
            files.get(key),
            _log(output_root, attempts[key][-1]) if key in attempts else "",
        )

    found = [RunDetails(run, [stage(run, name) for name in run.stages]) for run in runs]
    used = {attempt["environment"] for rows in attempts.values() for attempt in rows}
    return Details(found, {key: value for key, value in ledger.environments().items() if key in used}, data.found)


def _by_stage(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["run_id"], row["stage"]), []).append(row)
    return grouped


class _Sets:
    """Sets of data files, each once, numbered as they come."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}
        self._keys: dict[tuple[tuple[str, str], ...], str] = {}

    def add(self, rows: Sequence[DataFileRow]) -> str:
        files = tuple((row["file"], row["sha256"]) for row in rows)
        key = self._keys.setdefault(files, str(len(self._keys) + 1))
        self.found[key] = dict(files)
        return key


def _log(root: OutputRoot, attempt: AttemptRow) -> str:
    path = root.attempt(*key_of(attempt)).log
    lines = (clean(line).rstrip() for line in whole_files.tail(path, LOG_LINES))
    return "\n".join(line if len(line) <= LOG_WIDTH else f"{line[:LOG_WIDTH]} ..." for line in lines if line)
