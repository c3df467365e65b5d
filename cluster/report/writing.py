"""The ledger -> a folder that needs no server: the page, Markdown, CSV and LaTeX tables, figures as SVG and PDF.

Loads numpy, scipy and matplotlib, as no other command does: only `report` imports it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.console import clean, count
from cluster.errors import InputError, did_you_mean
from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.ledger.checks import identical_scores, removed_runs, unknown_runs
from cluster.ledger.database import Ledger
from cluster.ledger.rows import MetricRow, ScoreRow
from cluster.reconcile.session import LedgerView
from cluster.render import render
from cluster.report import (
    cards,
    chosen,
    comparison,
    details,
    every_run,
    forms,
    frames,
    insides,
    notes,
    page,
    paper,
    processes,
    published,
    results,
    run_pages,
    run_tables,
    score_tables,
    study_tables,
    trajectories,
    wording,
)
from cluster.report.figures import drawing
from cluster.report.figures.printing import Figure
from cluster.report.page import Page
from cluster.report.results import Result, Study
from cluster.report.study_tables import PageFigure, Section, StudyTable
from tiny_transformers.common import pairs, progress
from tiny_transformers.common.files import whole_file, whole_folder
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.stage.blimp import PAIR_SCORES

WRITTEN = ".written.json"  # what the last report wrote, so that this one removes what it has no more
COMPARED = (
    "study", "family", "variant", "baseline", "measure", "seeds", "difference", "low", "high", "effect_size", "p",
    "p_corrected", "test", "pairs", "pairs_difference", "pairs_low", "pairs_high", "pairs_p", "pairs_p_corrected",
)  # fmt: skip


def write(view: LedgerView, output_root: OutputRoot, folder: Path) -> list[Path]:
    """Everything of the ledger's runs; returns the files, the page first. What an earlier report wrote there and this
    one does not is removed, other files are left alone."""
    every = results.every_result(view.ledger)
    studies, runs = results.read(view.ledger, every), view.ledger.runs()
    settings = every_run.settings_of(runs)
    columns = every_run.columns(every, runs, settings, studies)
    inside = insides.pages(studies, runs, output_root)
    _refuse_outside(folder, [*inside, run_pages.STYLE, "figures/of a study", "tables/of a study"])
    told = Told(every, studies, runs, settings, columns, inside)
    tasks: list[Callable[[], Any]] = [
        partial(_write_runs, told, output_root, folder),  # the longest is the first to begin
        partial(every_run.files, columns),
        *drawing.tasks(studies, output_root),
    ]
    with processes.begun(tasks, runs=len(runs)) as (pages, tables, *drawings):
        return _write(view, output_root, folder, told, pages, tables, drawings)


@dataclass(frozen=True)
class Told:
    """What is written of."""

    every: Sequence[Result]
    studies: Sequence[Study]
    runs: Sequence[Run]
    settings: Mapping[str, every_run.Settings]
    columns: Sequence[every_run.RunColumn]
    inside: Mapping[str, str]  # pages of what is inside models


def _write(
    view: LedgerView,
    output_root: OutputRoot,
    folder: Path,
    of: Told,
    pages: Callable[[], tuple[details.MadeWith, list[str]]],
    of_runs: Callable[[], dict[str, str | bytes]],
    drawings: Sequence[Callable[[], list[Figure]]],
) -> list[Path]:
    """What others do meanwhile is taken as late as may be: `pages` and `of_runs`, those of runs, and `drawings`."""
    ledger, files, sections = view.ledger, dict[str, str | bytes](), []
    for study in progress.counted(of.studies, "studies of the report"):
        sections.append(section(study, output_root, chosen.sentences(ledger, study)))
    of_all, sections = notes.placed(sections)
    tables_of = [list(_tables(each)) for each in sections]
    for each, found in zip(sections, tables_of, strict=True):
        files |= _table_files(each, found)
    over = [*of_all, *identical_scores(ledger), *notes.changed_data(of.studies), *unknown_runs(ledger)]
    over += removed_runs(ledger, output_root)
    flags = [*over, *score_tables.failed_checks(ledger)]  # on the page each study has its own
    written = list[str]()
    for name, text in _rows(ledger, of.every, sections, of.settings):
        written.append(name)  # at once: they are long
        _put(folder, name, text)
    shown = every_run.as_json(of.columns, output_root)
    to_take, told = iter(progress.counted(drawings, "kinds of figures of the report")), []
    for each in sections:
        drawn = [figure for take in islice(to_take, len(drawing.KINDS)) for figure in take()]
        told.append(replace(each, drawings=[_on_page(figure) for figure in drawn]))
        for figure in drawn:
            files |= {f"figures/{figure.name}.svg": figure.svg, f"figures/{figure.name}.pdf": figure.pdf}
    files["report.md"] = render(
        "report.md.j2",
        sections=[_in_markdown(*each) for each in zip(told, tables_of, strict=True)],
        flags=flags,
        prose=forms.prose,
    )
    with progress.shown("pages of runs of the report"):
        made_with, of_each = pages()
    tables = of_runs()
    files |= {**tables, **of.inside, run_pages.STYLE: run_pages.style()}
    files["index.html"] = page.text(Page(view.as_of, told, made_with, over, of.inside.keys(), shown, list(tables)))
    return _replace(folder, files, [*written, *of_each])


def _write_runs(of: Told, output_root: OutputRoot, folder: Path) -> tuple[details.MadeWith, list[str]]:
    """Write the pages of runs and the cards of their models; return what the runs were made with, and the files."""
    made_with, written, studies = details.MadeWith(), list[str](), {study.name for study in of.studies}
    settings = run_tables.SettingsOfRuns(of.settings)
    with closing(Ledger(output_root.ledger, read_only=True)) as ledger:  # no two processes may have one of SQLite's
        for part in details.in_parts(ledger, output_root, of.runs):
            made_with.add(part)
            cards.write(part, output_root)
            for name, text in run_pages.pages(part, studies, of.inside, settings):
                written.append(name)
                _put(folder, name, text)
    return made_with, written


def write_curves(ledger: Ledger, output_root: OutputRoot, folder: Path, form: str) -> str:
    """Write the lines of all learning curves as curves.csv, or as TensorBoard's event files; return where they are.

    Raises InputError where TensorBoard is not installed."""
    runs = [(run["run_id"], run["name"]) for run in ledger.overview()]
    if form == "csv":
        rows = [{"run": name, "run_id": run_id, "step": None, "loss": None, "eval_loss": None} | record
                for run_id, name in runs for record in frames.curve(output_root, run_id)]  # fmt: skip
        names = list(dict.fromkeys(name for row in rows for name in row))
        with whole_file(folder / "curves.csv") as draft:
            draft.write_text(forms.as_csv([{name: row.get(name) for name in names} for row in rows]), encoding="utf-8")
        return f"{folder / 'curves.csv'}: {count(len(rows), 'line')}"
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--curves tensorboard: TensorBoard is not installed. `pip install tensorboard`.") from None
    with whole_folder(folder / "tensorboard", replace=True) as draft:
        for run_id, name in runs:
            with SummaryWriter(str(draft / f"{name} {run_id}")) as writer:
                for record in frames.curve(output_root, run_id):
                    for key, value in record.items():
                        if key != "step" and isinstance(value, int | float):
                            writer.add_scalar(key, value, record["step"])
    return f"{folder / 'tensorboard'}: `tensorboard --logdir {folder / 'tensorboard'}` shows them"


def section(study: Study, output_root: OutputRoot, first: Sequence[str] = ()) -> Section:
    """All that is to be said of a study, without its figures; `first`: sentences before all others."""

    def pairs_of(run_id: str) -> pairs.KeptPairs | None:
        try:
            return pairs.read(output_root.run(run_id).path / PAIR_SCORES)
        except TinyTransformersError:  # missing or torn: nothing can be said pair by pair
            return None

    comparisons = comparison.compare(study, pairs_of)
    theirs = published.published(study)
    return Section(
        study,
        answers=[*first, *wording.answer(study, comparisons)],
        intervals={
            (variant.key, measure.key): interval
            for variant in study.variants
            for measure in study.known_measures
            if (interval := comparison.interval(variant.values(measure).values()))
        },
        comparisons=comparisons,
        published=theirs,
        untested=comparison.untested(study, {key for _, key in theirs}),
        known_differences=published.known_differences(study),
        notes=notes.own_tokenizers(study),
    )


def _on_page(of: Figure) -> PageFigure:
    return PageFigure(of.name, of.title, of.caption, drawing.inline_svg(of.svg), of.names_of, of.names)


# -- the files --------------------------------------------------------------------------------------------------------


def _tables(of: Section) -> Iterator[tuple[str, StudyTable]]:
    """Those that go into a text, with the stems of their files."""
    for family in of.study.families:
        stem = f"{of.study.stem}-{family.name}"
        yield stem, study_tables.ablation(of, family)
        for stage, table in study_tables.task_tables(of.study, family):
            yield f"{stem}-{stage}", table
        if on_the_way := trajectories.table(of.study, family):
            yield f"{stem}-trajectory", on_the_way
    if theirs := study_tables.published_table(of):
        yield f"{of.study.stem}-published", theirs


def _table_files(of: Section, in_texts: Iterable[tuple[str, StudyTable]]) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for stem, table in in_texts:
        files[f"tables/{stem}.tex"] = forms.latex(table, stem, _notes(table), of.study.name)
        files[f"tables/{stem}.csv"] = forms.as_csv(forms.rows(table))
    for family in of.study.families:
        if family.measures:
            label = f"{of.study.stem}-{family.name}-paper"
            files[f"tables/{label}.tex"] = paper.latex(paper.table(of, family), label)
    return files


def paper_tables(
    view: LedgerView,
    output_root: OutputRoot,
    name: str,
    columns: Sequence[str],
    variants: Sequence[str],
    in_latex: bool,
) -> str:
    """Return the tables of a study for a paper, one for each family that has all of these variants.

    Raises InputError for a study, a column or a variant that is not there."""
    studies = {study.name: study for study in results.read(view.ledger)}
    if name not in studies:
        raise InputError(f"--table {name}: there is no such study. {did_you_mean(name, studies)}")
    of = section(studies[name], output_root)
    tables, problems = [], []
    for family in of.study.families:
        try:
            tables.append((family.name, paper.table(of, family, columns, variants)))
        except InputError as problem:
            problems.append(problem)
    if not tables:
        raise problems[0] if problems else InputError(f"--table {name}: it has no runs.")
    stem = of.study.stem
    forms_of = (
        paper.latex(each, f"{stem}-{family}-paper") if in_latex else paper.markdown(each) for family, each in tables
    )
    return "\n".join(forms_of)


def _notes(table: StudyTable) -> list[str]:
    """Explain those marks that a table has in its cells."""
    cells = [cell for row in table.rows for cell in row.cells]
    told = {
        "Means over seeds": True,
        "in brackets 95 % intervals": any("[" in cell.small for cell in cells),
        "*: corrected p ≤ 0.05 against the baseline (Holm)": any(cell.text.endswith("*") for cell in cells),
        "†: of a run a check did not hold": any(cell.checks for cell in cells),
    }
    return [note for note, is_there in told.items() if is_there]


def _in_markdown(of: Section, in_texts: Iterable[tuple[str, StudyTable]]) -> dict[str, Any]:
    tables = [(table.label, forms.markdown(table)) for _, table in in_texts]
    missing = study_tables.missing_table(of.study)
    return {"section": of, "tables": tables, "missing": forms.markdown(missing) if missing else ""}


def _rows(
    ledger: Ledger, every: Sequence[Result], sections: Sequence[Section], settings: Mapping[str, every_run.Settings]
) -> Iterator[tuple[str, str]]:
    """summary.csv (a row per run), comparisons.csv (per variant and measure), scores.csv (per figure, with its count)
    and metrics.csv (whatever else the stages measured: counts, spreads over seeds, hardware), one after the other; and
    trajectory.csv, where there is one."""
    yield "summary.csv", forms.as_csv(score_tables.summary_with_settings(ledger, every, settings))
    yield "comparisons.csv", forms.as_csv((row for each in sections for row in _comparisons(each)), COMPARED)
    yield "scores.csv", score_tables.with_names(ledger, ScoreRow)
    yield "metrics.csv", score_tables.with_names(ledger, MetricRow)
    if on_the_way := _on_the_way(sections):
        yield "trajectory.csv", forms.as_csv(on_the_way)


def _on_the_way(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """A row per run and anchor, each run once."""
    runs = {run.run_id: run for each in sections for run in each.study.runs}
    return trajectories.rows(list(runs.values()))


def _comparisons(of: Section) -> Iterator[Mapping[str, Any]]:
    for each in of.comparisons:
        items = each.items
        of_pairs = items and (items.n, items.difference, items.low, items.high, items.p, items.p_corrected)
        values = (
            of.study.name, each.family.name, each.variant.label, each.family.baseline.label, each.measure.title, each.n,
            each.difference, each.low, each.high, each.effect_size, each.p, each.p_corrected, each.test,
            *(of_pairs or (None,) * 6),
        )  # fmt: skip
        yield dict(zip(COMPARED, values, strict=True))


def _replace(folder: Path, files: Mapping[str, str | bytes], written: Collection[str] = ()) -> list[Path]:
    """Write each file whole, then remove what only the report before wrote; `written`: files that this report has
    already. The page comes first.

    Raises InputError, with nothing written, if a file would lie outside of the folder."""
    _refuse_outside(folder, files)
    for name, content in files.items():
        _put(folder, name, content)
    names = {*files, *written}
    record = folder / WRITTEN
    for name in _written_before(record) - names:
        if _is_within(folder, name) and (folder / name).is_file():
            (folder / name).unlink()
    _put(folder, WRITTEN, json.dumps(sorted(names)))
    return sorted((folder / name for name in names), key=lambda path: (path.name != "index.html", str(path)))


def _refuse_outside(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not _is_within(folder, name):
            raise InputError(f"report: {name} would lie outside of {folder}, so nothing was written: rename its study")


def _put(folder: Path, name: str, content: str | bytes) -> None:
    """Write a file whole, without what a terminal would obey; one that says the same is left as it is. Thousands do not
    wait for the disk: what a machine that lost its power has torn is written again by the next report."""
    path, said = folder / name, clean(content).encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == said:
        return
    with whole_file(path, synced=False) as draft:
        draft.write_bytes(said)


def _written_before(record: Path) -> set[str]:
    """Empty if there is no record, or it is none of ours."""
    try:
        before = whole_files.read_json(record)
    except (whole_files.TornFile, OSError):
        return set()
    return {name for name in before if isinstance(name, str)} if isinstance(before, list) else set()


def _is_within(folder: Path, name: str) -> bool:
    """Whether the file lies in the folder, whatever links are on the way to it."""
    return "\0" not in name and (folder / name).parent.resolve().is_relative_to(folder.resolve())
