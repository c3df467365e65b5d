"""A run's own section of the page."""

import pytest

from cluster.report.details import RunDetails, StageDetails
from cluster.report.run_tables import shown_run

ATTEMPT = {
    "number": 1, "status": "completed", "cause": None, "message": None, "job": "7_0", "host": "gpu1", "site": "here",
    "code": "c0de", "environment": None,
}  # fmt: skip


def shown(runs, *stages):
    return shown_run(RunDetails(runs[0], stages), ())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.4, "59 s"), (60, "1 min"), (3_540, "59 min"), (3_600, "1 h 00 min"), (90_000 + 120, "25 h 02 min")],
)
def test_how_long_an_attempt_took_is_told_in_seconds_minutes_or_hours(runs, seconds, words):
    stage = StageDetails("pretrain", "completed", [ATTEMPT | {"started": 1.0, "ended": 1.0 + seconds}])
    (row,) = shown(runs, stage)["attempts"].rows
    assert [cell.text for cell in row.cells][6:8] == ["1970-01-01 00:00", words]


def test_a_run_is_as_the_worst_of_its_stages(runs):
    stages = [StageDetails(name, status) for name, status in (("pretrain", "completed"), ("blimp", "failed"))]
    assert shown(runs, *stages)["status"] == "failed"
    assert shown(runs, stages[0])["status"] == "completed"
