"""The pages of runs, a file each beside the report's page, which leads to them.

They are made a hundred at a time and written at once: a report of thousands of runs never holds them all."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from cluster.render import render
from cluster.report.details import Details, RunDetails
from cluster.report.insides import run_page
from cluster.report.run_tables import SettingsOfRuns, shown_run
from cluster.report.study_tables import run_file

STYLE = "runs/style.css"  # of all of them


def style() -> str:
    return render("report.css.j2")


def text(details: RunDetails, studies: Collection[str], insides: Collection[str], settings: SettingsOfRuns) -> str:
    """Return a run's page. `studies`: those that the report's page has; `insides`: the files beside it that show what
    is inside models."""
    inside = run_page(details.run.id)
    return render(
        "run.html.j2",
        shown=shown_run(details, studies, settings),
        style=STYLE.rpartition("/")[2],
        inside=inside if inside in insides else "",
    )


def pages(
    part: Details, studies: Collection[str], insides: Collection[str], settings: SettingsOfRuns
) -> Iterator[tuple[str, str]]:
    """Yield the file and the text of each of these runs' pages."""
    for each in part.runs:
        yield run_file(each.run.id), text(each, studies, insides, settings)
