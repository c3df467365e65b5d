"""A run's own section of the page."""

from dataclasses import replace

import pytest
import synthetic

from cluster.plan.naming import flat
from cluster.report import run_tables
from cluster.report.details import RunDetails, StageDetails
from cluster.report.every_run import settings_of
from cluster.report.run_tables import SettingsOfRuns, shown_run
from cluster.report.study_tables import Row, StudyTable, TableCell

ATTEMPT = {
    "number": 1, "status": "completed", "cause": None, "message": None, "job": "7_0", "host": "gpu1", "site": "here",
    "code": "c0de", "environment": None,
}  # fmt: skip


def shown(runs, *stages):
    return shown_run(RunDetails(runs[0], stages), (), SettingsOfRuns(settings_of(runs)))


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


def test_runs_that_differ_in_their_seed_have_each_its_own():
    cell = synthetic.planned(["heads"], seeds=1)[0]
    runs = [replace(cell, id=f"{seed}", config=cell.config.model_copy(update={"seed": seed})) for seed in (7, 42, 43)]
    settings = SettingsOfRuns(settings_of(runs))
    for run in runs:
        every, unusual = settings.every[run.id], settings.unusual(run)
        assert every == flat(run.config.model_dump(mode="json"))
        assert unusual["seed"] == every["seed"] == f"{run.config.seed}"
        assert [*unusual.items()] == [*run_tables._unusual(run.config, True).items()], "in their order"


def test_a_plain_table_is_escaped_whatever_stands_in_it():
    cells = [TableCell("<b>", link="a&b.html"), TableCell("x<y>", small="'1'", kind="flagged"), TableCell("3")]
    assert StudyTable("of cells", [], [Row(cells), Row([TableCell("last")])]).plain == (
        '<tr><th scope="row"><a href="a&amp;b.html">&lt;b&gt;</a></th>'
        '<td class="flagged">x&lt;y&gt; <small>&#39;1&#39;</small></td><td>3</td></tr>\n'
        '<tr><th scope="row">last</th></tr>\n'
    )
    assert StudyTable("of none", [], []).plain == ""
