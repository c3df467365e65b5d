"""The types of rows say what SQLite gives."""

import typing
from contextlib import closing

import pytest
import synthetic

from cluster.files import documents, fields
from cluster.files.records import AskedAttempt, AttemptRow, SitedAttempt
from cluster.ledger import rows
from cluster.ledger.database import Ledger
from cluster.sites.profiles import Site
from cluster.submit import retries

BESIDE = {"place", "rowid"}  # which attempt is the newest is found out with them


@pytest.fixture
def ledger(tmp_path):
    runs = synthetic.planned(("activations",), limit=4)
    first = min(run.id for run in runs)
    root = synthetic.make(
        tmp_path, runs,
        failing=lambda run: "superglue" if run.id == first else None,
        unfinished=lambda run: "blimp" if run.id != first else None,
    )  # fmt: skip
    with closing(Ledger(root.ledger)) as opened:
        retries.decide(opened, root, lambda _: Site(name="delftblue", scheduler="slurm"), 0.0)
        yield opened


def answers(ledger):
    """Each question's kind of row, and its rows."""
    runs = sorted(ledger.known_runs())
    yield AttemptRow, ledger.attempts_in("00000000")
    yield AttemptRow, ledger.newest_attempts("failed", "running", "completed")
    yield AttemptRow, ledger.newest_of(runs[0]).values()
    yield AttemptRow, ledger.latest_ends(100)
    yield AskedAttempt, ledger.history(runs[0], "pretrain")
    yield SitedAttempt, ledger.attempts_of(runs)
    yield rows.SubmissionRow, ledger.submissions()
    yield rows.SubmissionRow, ledger.open_submissions()
    yield rows.UsageRow, ledger.usage()
    yield rows.HoursRow, ledger.hours()
    yield rows.PackRow, ledger.open_packs()
    yield rows.StageWorkRow, ledger.stage_work()
    yield (
        rows.OpenStageRow,
        ledger.open_stages((row["submission_id"], row["pack_index"]) for row in ledger.open_packs()),
    )
    yield rows.ScoreRow, ledger.scores()
    yield rows.MetricRow, ledger.metrics()
    yield rows.ScoreRow, ledger.outcomes_of(rows.ScoreRow, runs)
    yield rows.CheckRow, ledger.outcomes_of(rows.CheckRow, runs)
    yield rows.MetricRow, ledger.outcomes_of(rows.MetricRow, runs)
    yield rows.DataFileRow, ledger.outcomes_of(rows.DataFileRow, runs)
    yield rows.HoursOfStage, ledger.gpu_hours()
    yield rows.TryRow, ledger.tries()
    yield rows.RunRow, ledger.overview()
    yield rows.FailureRow, ledger.failures_by_study()
    yield rows.MeasurementRow, ledger.measurements("delftblue", "pretrain", 10)
    yield documents.DecisionFile, ledger.decisions().values()
    yield documents.StudyFile, ledger.studies()


def test_a_row_has_the_columns_of_its_type(ledger):
    for kind, found in answers(ledger):
        assert found, kind
        for row in found:
            assert row.keys() - BESIDE == typing.get_type_hints(kind).keys(), kind
            assert not fields.find_fault(dict(row), kind), kind
