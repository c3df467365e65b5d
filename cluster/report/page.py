"""A report as one HTML page that opens from a file: styles, scripts and figures are in it, and nothing is fetched.

The template escapes all text. The tables are study_tables.py's and run_tables.py's, figures come in as values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.plan.naming import flat
from cluster.render import render
from cluster.report import trajectories
from cluster.report.details import MadeWith
from cluster.report.every_run import OF_TEACHER
from cluster.report.headlines import headlines, pictures
from cluster.report.insides import study_page
from cluster.report.results import Family, Result, Study, Variant
from cluster.report.study_tables import (
    Section,
    ablation,
    anchor,
    checks_table,
    comparisons_table,
    missing_table,
    published_table,
    seeds_table,
    task_tables,
    variant_target,
)


@dataclass(frozen=True)
class Page:
    as_of: str
    sections: Sequence[Section]
    made_with: MadeWith
    flags: Sequence[str] = ()  # of the whole: data or code that changed between runs
    insides: Collection[str] = ()  # files beside it, of the runs and studies whose models were looked into
    every_run: str = ""  # JSON, of every_run.py
    tables: Sequence[str] = ("runs.csv",)  # files beside it that have the same rows


def text(page: Page) -> str:
    """index.html. The drawings' files are the caller's to write."""
    runs = {run.run_id: run for section in page.sections for run in section.study.runs}
    return render(
        "report.html.j2",
        page=page,
        done=sum(not run.missing for run in runs.values()),
        total=len(runs),
        every_run=page.every_run,
        sections=[_shown(section) | _inside(page, study_page(section.study)) for section in page.sections],
        environments={key: flat(value) for key, value in page.made_with.environments.items()},
    )


def _inside(page: Page, file: str) -> dict[str, str]:
    return {"inside": file if file in page.insides else ""}


def _shown(section: Section) -> dict[str, Any]:
    """Return the part of a study that the template shows."""
    study = section.study
    opening = f"{study.stem}-scores"  # the figure of all variants against the baseline stands first
    return {
        "section": section,
        "target": anchor("study", study.name),
        "checks_target": anchor("checks", study.name),
        "missing_target": anchor("missing", study.name),
        "headlines": headlines(study, section.comparisons),
        "pictures": pictures(study, section.comparisons),
        "opening": [each for each in section.drawings if each.name.startswith(opening)],
        "drawings": [each for each in section.drawings if not each.name.startswith(opening)],
        "done": sum(not run.missing for run in study.runs),
        "failed": _failed(study.runs),
        "total": len(study.runs),
        "missing": missing_table(study),
        "checks": checks_table(study),
        "ablations": [ablation(section, family) for family in study.families],
        "untested": sorted({comparison.test for comparison in section.comparisons if comparison.p is None}),
        "tasks": [table for family in study.families for _, table in task_tables(study, family)],
        "trajectories": [table for family in study.families if (table := trajectories.table(study, family))],
        "published": published_table(section),
        "comparisons": comparisons_table(section) if section.comparisons else None,
        "families": [
            (family, [_shown_variant(study, family, variant) for variant in family.variants])
            for family in study.families
        ],
    }


def _failed(runs: Iterable[Result]) -> int:
    return sum(any(stage["status"] == "failed" for stage in run.stages.values()) for run in runs)


def _shown_variant(study: Study, family: Family, variant: Variant) -> dict[str, Any]:
    base, own = (flat(each.config.model_dump(mode="json")) for each in (family.baseline, variant))
    changed = [
        f"{name}: {own.get(name, 'none')} (baseline: {base.get(name, 'none')})"
        for name in {**base, **own}
        if own.get(name) != base.get(name) and name != "seed" and not name.startswith(OF_TEACHER)
    ]
    return {
        "variant": variant,
        "target": variant_target(study, variant),
        "changed": changed,
        "table": seeds_table(family, variant),
    }
