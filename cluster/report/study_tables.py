"""A study's tables, as cells that link to where each figure comes from; report.py makes files of them, page.py a page.

A mean links to its variant's runs, a difference to its comparison, a run's value to the run. What is missing says so
in its place. Statistics are made elsewhere and come in as values."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from cluster.files.statuses import WORST_FIRST
from cluster.report.results import (
    TASKS,
    Family,
    Measure,
    Result,
    Study,
    Variant,
    caveat,
    main_of,
    stem,
    told,
)

if TYPE_CHECKING:
    from cluster.report.findings import Comparison, Interval, PairsFinding
    from cluster.report.published import Published


@dataclass(frozen=True)
class PageFigure:
    """A figure for the page; its files are figures/<name>.svg and .pdf beside it."""

    name: str
    title: str
    caption: str
    svg: str  # an <svg> element to stand in the page as it is: trusted
    names_of: str = ""  # what these names are of
    names: Sequence[str] = ()  # folded away: of lines and points that have none in the picture


@dataclass(frozen=True)
class Section:
    """A study and what is told of it."""

    study: Study
    answers: Sequence[str] = ()
    intervals: Mapping[tuple[str, str], Interval] = field(default_factory=dict)  # (variant's key, measure's key) ->
    comparisons: Sequence[Comparison] = ()
    published: Mapping[tuple[str, str], Published] = field(default_factory=dict)  # likewise
    untested: Mapping[tuple[str, str], Interval] = field(default_factory=dict)  # likewise: differences on what is no
    # main measure, but stands in a published table
    known_differences: Sequence[str] = ()
    drawings: Sequence[PageFigure] = ()
    trials: Sequence[str] = ()  # what keeps its figures from being results, where that does not hold for all studies
    notes: Sequence[str] = ()  # what else has to be known of its data


@dataclass(frozen=True)
class Column:
    title: str
    group: str = ""  # columns side by side that are of one thing have it as a common title
    hint: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class TableCell:
    text: str
    sort: float | None = None  # where it stands when rows are sorted by numbers; None: last
    link: str = ""  # a target on the page, or a file beside it
    small: str = ""  # a second line
    kind: str = ""  # better, worse, missing, flagged: how it is shown
    checks: str = ""  # where it is that lists checks which did not hold for it


@dataclass(frozen=True)
class Row:
    cells: Sequence[TableCell]  # the first one names it
    target: str = ""
    is_baseline: bool = False


@dataclass(frozen=True)
class StudyTable:
    label: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Title and width of each group of columns, and of each column without one."""
        widths: list[tuple[str, int]] = []
        for column in self.columns:
            if column.group and widths and widths[-1][0] == column.group:
                widths[-1] = column.group, widths[-1][1] + 1
            else:
                widths.append((column.group, 1))
        return widths

    @property
    def plain(self) -> Markup:
        """Its rows in HTML, without what sorts them: of thousands of runs each has such tables."""
        return Markup("".join(_plain_row(row.cells) for row in self.rows))


def _plain_row(cells: Sequence[TableCell]) -> str:
    parts = [f'<tr><th scope="row">{_plain(cells[0])}</th>']
    for cell in cells[1:]:
        begin = f'<td class="{cell.kind}">' if cell.kind else "<td>"
        parts.append(f"{begin}{_plain(cell)}</td>")
    return "".join([*parts, "</tr>\n"])


def _plain(cell: TableCell) -> str:
    shown = _escaped(cell.text)
    if cell.link:
        shown = f'<a href="{_escaped(cell.link)}">{shown}</a>'
    return f"{shown} <small>{_escaped(cell.small)}</small>" if cell.small else shown


def _escaped(text: str) -> str:
    """Few texts need it, and to find that out is quicker."""
    return str(escape(text)) if SPECIAL.search(text) else text


SPECIAL = re.compile("[&<>'\"]")
TRAINING = "training, hours"  # as GPU-hours beside it, and as the published figures
MISSING = TableCell("–", kind="missing")


def anchor(*parts: str) -> str:
    """The name of a target on the page."""
    return "-".join(map(stem, parts))


def run_file(run_id: str) -> str:
    """The page with a run's details, beside the report's."""
    return f"runs/{run_id}.html"


def ablation(section: Section, family: Family) -> StudyTable:
    compared = {(each.variant.key, each.measure.key): each for each in section.comparisons}
    measures = _measures(family)
    known = {*compared, *section.untested}
    differing = {key for variant, key in known if any(variant == own.key for own in family.variants)}
    columns = [Column("variant"), Column("seeds", hint="runs with all their stages completed")]
    for measure in measures:
        columns.append(Column("mean", _title(measure)))
        if measure.key in differing:
            hint = "to the baseline" if measure.is_main else "to the baseline; not tested"
            columns.append(Column("difference", _title(measure), hint))
    if family.has_models:
        columns += [Column("parameters", hint="and the difference to the baseline"),
                    Column(TRAINING, hint="of a complete run, mean")]  # fmt: skip
    columns.append(Column(hours_title(family), hint="of a complete run, mean"))
    rows = []
    for variant in family.variants:
        target = variant_target(section.study, variant)
        done = sum(not run.missing for run in variant.runs)
        seeds = f"{done}" if done == len(variant.runs) else f"{done} of {len(variant.runs)}"
        cells = [TableCell(variant.title, link=target, small="baseline" if variant.is_baseline else ""),
                 TableCell(seeds, done, target)]  # fmt: skip
        for measure in measures:
            cells.append(_mean_cell(section, variant, measure))
            if measure.key in differing:
                cells.append(_difference_cell(section, variant, measure, compared.get((variant.key, measure.key))))
        training, hours = _cost_cells(variant.runs, target)
        cells += [*([_size_cell(variant, family.baseline, target), training] if family.has_models else []), hours]
        rows.append(Row(cells, is_baseline=variant.is_baseline))
    return StudyTable(family.title, columns, rows)


def _measures(family: Family) -> list[Measure]:
    """Those with a value, and of each stage that is still to give one the main one. The main ones come first, scores
    before losses: a narrow screen shows a table's beginning."""
    known = {measure.key: measure for measure in family.measures}
    to_come = {stage for variant in family.variants for run in variant.runs for stage in run.stages}
    to_come -= {measure.stage for measure in known.values()}
    all_known = family.known_measures
    main = {each.stage: each for each in reversed(all_known) if each.is_main and each.stage in to_come}
    every = known | {each.key: told(each, (v.config for v in family.variants)) for each in main.values()}
    shown = [every[each.key] for each in all_known if each.key in every]
    first = main_of(shown)
    return [*first, *(each for each in shown if each not in first)]


def _title(measure: Measure) -> str:
    return f"{measure.title}, %" if measure.percent else measure.title


def variant_target(study: Study, variant: Variant) -> str:
    return anchor("variant", study.name, variant.key)


def _name_cell(study: Study, family: Family, variant: Variant) -> TableCell:
    """Where the families are in one table."""
    return TableCell(variant.title, link=variant_target(study, variant), small=family.title)


def _mean_cell(section: Section, variant: Variant, measure: Measure) -> TableCell:
    target, values = variant_target(section.study, variant), variant.values(measure)
    if not values:
        return TableCell("–", link=target, small=_lacking(variant.runs, measure.stage), kind="missing")
    mean, interval = variant.mean(measure), section.intervals.get((variant.key, measure.key))
    small = _span(measure.show, interval.low, interval.high) if interval else ""
    if len(values) < len(variant.runs):
        small = f"{small}\n{len(values)} of {len(variant.runs)} seeds".strip()
    flagged = any(check["stage"] == measure.stage for run in variant.runs for check in run.failed_checks)
    return TableCell(
        measure.show(mean), mean, target, small, checks=anchor("checks", section.study.name) if flagged else ""
    )


def _lacking(runs: Iterable[Result], stage: str) -> str:
    """Why there is no score of a stage."""
    statuses = Counter(run.stages[stage]["status"] for run in runs if stage in run.stages)
    told = [f"{statuses[status]} {status}" for status in WORST_FIRST if statuses[status]]
    return ", ".join(told) if told else "not planned"


def _difference_cell(section: Section, variant: Variant, measure: Measure, compared: Comparison | None) -> TableCell:
    if compared is None:
        found = section.untested.get((variant.key, measure.key))
        if found is None:
            return TableCell("") if variant.is_baseline else MISSING
        span = _span(lambda bound: _signed(measure, bound), found.low, found.high)
        return TableCell(_signed(measure, found.mean), found.mean, variant_target(section.study, variant), span)
    cell = _change(measure, compared, _comparison_target(section.study, compared))
    if compared.n < len(variant.values(measure)):
        cell = replace(cell, small=f"{cell.small}\n{_seeds(compared.n)} of both".strip())
    if not compared.significant:
        return cell
    return replace(cell, text=f"{cell.text}*", kind="better" if compared.advantage > 0 else "worse")


def _change(measure: Measure, found: Comparison | PairsFinding, target: str) -> TableCell:
    span = _span(lambda bound: _signed(measure, bound), found.low, found.high)
    return TableCell(_signed(measure, found.difference), found.difference, target, span)


def _comparison_target(study: Study, compared: Comparison) -> str:
    return anchor("comparison", study.name, compared.variant.key, compared.measure.key)


def _signed(measure: Measure, difference: float) -> str:
    shown, digits = (100 * difference, 1) if measure.percent else (difference, 3)
    return f"{round(shown, digits) + 0.0:+.{digits}f}".replace("-", "−")  # + 0.0: no negative zero


def _span(show: Any, low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{show(low)}, {show(high)}]"


def _size_cell(variant: Variant, baseline: Variant, target: str) -> TableCell:
    more = f"{100 * (variant.parameters / baseline.parameters - 1):+.1f} %".replace("-", "−")
    small = "" if variant.parameters == baseline.parameters else more
    return TableCell(f"{variant.parameters:,}", variant.parameters, target, small)


def hours_title(family: Family) -> str:
    """Where no run had a GPU, an hour is none of a GPU; of a program nobody knows whether it had one."""
    return "GPU-hours" if on_a_gpu(family) and family.has_models else "hours"


def on_a_gpu(family: Family) -> bool:
    """Whether a model of it was trained on a GPU; while none is trained, whether one has a GPU."""
    return any_on_a_gpu(run for variant in family.variants for run in variant.runs)


def any_on_a_gpu(results: Iterable[Result]) -> bool:
    results = list(results)
    devices = {result.metrics.get(("pretrain", "device")) for result in results} - {None}
    return devices != {"cpu"} if devices else any(each["on_gpu"] for result in results for each in result.tries)


def _cost_cells(runs: Sequence[Result], target: str) -> Iterator[TableCell]:
    """Means over the runs that are complete: what another took says nothing of a whole one."""
    done = [run for run in runs if not run.missing]
    yield _cost_cell([run.training_seconds for run in done], len(runs), 3600, 2, target)
    yield _cost_cell([run.gpu_hours for run in done], len(runs), 1, 2, target)


def _run_cost_cells(run: Result, target: str) -> Iterator[TableCell]:
    yield _cost_cell([run.training_seconds], 1, 3600, 2, target)
    yield _cost_cell([run.gpu_hours], 1, 1, 2, target)


def _cost_cell(values: Iterable[float | None], runs: int, unit: float, digits: int, target: str) -> TableCell:
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    mean = statistics.fmean(known)
    small = f"{len(known)} of {runs} runs" if len(known) < runs else ""
    return TableCell(f"{mean / unit:,.{digits}f}", mean, target, small)


def task_tables(study: Study, family: Family) -> Iterator[tuple[str, StudyTable]]:
    """Stage -> its tasks, a column each."""
    for scored in reversed(TASKS):
        keys = {key: None for variant in family.variants for run in variant.runs for key in run.scores}
        tasks = [
            task
            for stage, task, metric in keys
            if (stage, metric) == (scored.stage, scored.metric)
            and task not in scored.averages
            and "/" not in task  # "/": a part of a task
        ]
        if not tasks:
            continue
        columns = [
            Column("variant"),
            *(Column(task.replace("_", " "), scored.group(task)) for task in tasks),
        ]
        rows = []
        for variant in family.variants:
            measures = [Measure(task, task, scored.stage, task, scored.metric) for task in tasks]
            means = [_mean_cell(Section(study), variant, measure) for measure in measures]
            label = TableCell(variant.title, link=variant_target(study, variant))
            rows.append(Row([label, *means], is_baseline=variant.is_baseline))
        title = f"{scored.title}{caveat(scored.stage, (variant.config for variant in family.variants))}"
        yield scored.stage, StudyTable(f"{family.title}: {title}, %", columns, rows)


def published_table(section: Section) -> StudyTable | None:
    known = {variant.key: (family, variant) for family in section.study.families for variant in family.variants}
    rows = []
    for (key, _), theirs in section.published.items():
        (family, variant), measure = known[key], theirs.measure
        target, ours = variant_target(section.study, variant), theirs.ours(variant)
        span = _span(measure.show, theirs.low, theirs.high)
        cells = [
            _name_cell(section.study, family, variant),
            TableCell(_title(told(measure, [variant.config]))),
            TableCell(measure.show(theirs.value), theirs.value, small=f"{span} {_seeds(theirs.n)}".strip()),
        ]
        if ours:
            mean, found = statistics.fmean(ours), section.intervals.get((key, measure.key))
            span = _span(measure.show, found.low, found.high) if found else ""
            cells.append(TableCell(measure.show(mean), mean, target, f"{span} {_seeds(len(ours))}".strip()))
            cells.append(TableCell(_signed(measure, mean - theirs.value), mean - theirs.value, target))
        else:
            cells += [TableCell("–", link=target, small=_lacking(variant.runs, measure.stage), kind="missing"), MISSING]
        rows.append(Row([*cells, TableCell(theirs.source)]))
    columns = [Column("variant"), Column("measure", is_text=True), Column("published"), Column("here"),
               Column("difference", hint="here - published"), Column("source", is_text=True)]  # fmt: skip
    return StudyTable("Beside the published figures", columns, rows) if rows else None


def _seeds(n: int | None) -> str:
    return "" if n is None else f"{n} seed{'s' if n > 1 else ''}"


def comparisons_table(section: Section) -> StudyTable:
    rows = []
    for each in section.comparisons:
        target = variant_target(section.study, each.variant)
        items = each.items
        rows.append(Row([
            _name_cell(section.study, each.family, each.variant),
            TableCell(each.measure.title),
            TableCell(f"{each.n}", each.n, target),
            _change(each.measure, each, target),
            _p_cell(each.p),
            _p_cell(each.p_corrected),
            MISSING if each.effect_size is None
            else TableCell(f"{each.effect_size:+.2f}".replace("-", "−"), each.effect_size),
            MISSING if items is None else _change(each.measure, items, target),
            MISSING if items is None else _p_cell(items.p_corrected),
            TableCell(each.test),
        ], _comparison_target(section.study, each)))  # fmt: skip
    columns = [
        Column("variant"), Column("measure", is_text=True), Column("seeds", hint="that both have"),
        Column("difference", "over seeds", "variant - baseline"), Column("p", "over seeds"),
        Column("corrected p", "over seeds", "Holm's correction"),
        Column("Hedges' g", "over seeds", "effect size"),
        Column("difference", "over BLiMP's pairs"), Column("corrected p", "over BLiMP's pairs"),
        Column("test", is_text=True),
    ]  # fmt: skip
    return StudyTable("Comparisons with the baseline", columns, rows)


def _p_cell(p: float | None) -> TableCell:
    if p is None:
        return MISSING
    return TableCell("< 0.001" if p < 0.001 else f"{p:.3f}", p)


def _seed_cell(run: Result) -> TableCell:
    return TableCell(f"seed\N{NO-BREAK SPACE}{run.seed}", run.seed, run_file(run.run_id))


def seeds_table(family: Family, variant: Variant) -> StudyTable:
    measures = _measures(family)
    columns = [Column("run"), *(Column(_title(measure)) for measure in measures), Column(TRAINING),
               Column(hours_title(family)), Column("stages", is_text=True)]  # fmt: skip
    rows = []
    for run in variant.runs:
        target = run_file(run.run_id)
        cells = [_seed_cell(run)]
        for measure in measures:
            value = run.value(measure)
            flagged = any(check["stage"] == measure.stage for check in run.failed_checks)
            cells.append(
                TableCell("–", link=target, small=run.status(measure.stage) or "", kind="missing")
                if value is None
                else TableCell(measure.show(value), value, target, checks=target if flagged else "")
            )
        rows.append(Row([*cells, *_run_cost_cells(run, target), TableCell(_stages_of(run), link=target)]))
    return StudyTable(f"Runs of {variant.title}", columns, rows)


def _stages_of(run: Result) -> str:
    if not run.missing:
        return f"all {len(run.stages)} completed"
    left = [(stage, run.stages[stage]) for stage in run.missing]
    return ", ".join(
        f"{stage} {state['status']}" + (f" ({state['cause']})" if state["cause"] else "") for stage, state in left
    )


def missing_table(study: Study) -> StudyTable | None:
    """The runs that are not complete, and what stands in their way."""
    rows = [
        Row([
            _name_cell(study, family, variant),
            _seed_cell(run),
            TableCell(_stages_of(run), link=run_file(run.run_id)),
        ])
        for family in study.families for variant in family.variants for run in variant.runs
        if run.missing
    ]  # fmt: skip
    columns = [Column("variant"), Column("seed"), Column("stages", is_text=True)]
    return StudyTable("Runs that are not complete", columns, rows) if rows else None


def checks_table(study: Study) -> StudyTable | None:
    rows = [
        Row([
            _name_cell(study, family, variant),
            _seed_cell(run),
            TableCell(check["stage"]),
            TableCell(check["name"], link=run_file(run.run_id), kind="flagged"),
            TableCell(short(check["value"])),
            TableCell("the stage failed" if check["blocking"] else "flagged only"),
        ])
        for family in study.families for variant in family.variants for run in variant.runs
        for check in run.failed_checks
    ]  # fmt: skip
    columns = [Column("variant"), Column("seed"), Column("stage", is_text=True), Column("check", is_text=True),
               Column("value"), Column("consequence", is_text=True)]  # fmt: skip
    return StudyTable("Checks that did not hold", columns, rows) if rows else None


def short(value: Any) -> str:
    """A number of any size, or a text as it is."""
    try:
        number = float(value)
    except ValueError:
        return str(value)
    if number.is_integer():
        return f"{number:,.0f}"
    return f"{number:.4g}" if abs(number) < 1_000 else f"{number:,.1f}"
