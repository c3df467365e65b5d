r"""Tables for a paper: a variant a line, of each measure its mean and half of its interval, narrow enough for a column.

LaTeX is for \input and is never shrunk; Markdown is for a README. The figures are those of the ablation table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.errors import InputError, did_you_mean
from cluster.report.forms import escape_latex, prose
from cluster.report.results import Family, Measure, Variant, main_of
from cluster.report.study_tables import TRAINING, Section, hours_title

LONG = 40  # rows from which a table is broken over pages
NARROW = 18  # characters from which a variant's name is broken over lines
COSTS = ("parameters", "training", "hours", "seeds")  # columns beside the measures
CAVEAT = re.compile(r" \((.*)\)$")  # what is to be kept in mind of a measure, at the end of its title


@dataclass(frozen=True)
class PaperCell:
    mean: str  # or what is no mean: a count, a dash
    half: str = ""  # of the 95 % interval
    differs: bool = False  # corrected p of at most 0.05 against the baseline
    best: bool = False


@dataclass(frozen=True)
class PaperTable:
    study: str
    family: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[PaperCell]]]  # a variant's name and its cells; the baseline first
    notes: Sequence[str]


def table(section: Section, family: Family, columns: Sequence[str] = (), variants: Sequence[str] = ()) -> PaperTable:
    """Return the table of a family with these columns (keys of measures, or of COSTS; none: the main measures) and
    these variants (by title or label; none: all). The baseline is always among them.

    Raises InputError for a column or a variant that is not there."""
    measures = {measure.key: measure for measure in family.measures}
    chosen = _chosen(columns, [*measures, *COSTS], "--columns") or [each.key for each in main_of(measures.values())]
    rows = _variants(family, variants)
    cells = {key: _cells(section, rows, measures[key]) if key in measures else _costs(rows, key) for key in chosen}
    return PaperTable(
        section.study.name,
        family.title,
        [_head(measures[key]) if key in measures else _cost_head(family, key) for key in chosen],
        [(variant.title, [cells[key][place] for key in chosen]) for place, variant in enumerate(rows)],
        _notes(rows, [measures[key] for key in chosen if key in measures], cells),
    )


def _chosen(words: Sequence[str], known: Sequence[str], option: str) -> list[str]:
    for word in words:
        if word not in known:
            raise InputError(f"{option} {word}: is no column of this table. {did_you_mean(word, known)}")
    return list(dict.fromkeys(words))


def _variants(family: Family, words: Sequence[str]) -> list[Variant]:
    known = {name: variant for variant in family.variants for name in (variant.title, variant.label)}
    for word in words:
        if word not in known:
            raise InputError(f"--variants {word}: is no variant of {family.title}. {did_you_mean(word, known)}")
    wanted = {known[word].key for word in words}
    return [each for each in family.variants if not words or each.is_baseline or each.key in wanted]


def _cells(section: Section, variants: Sequence[Variant], measure: Measure) -> list[PaperCell]:
    compared = [each for each in section.comparisons if each.measure.key == measure.key]
    differing = {each.variant.key for each in compared if each.significant}
    shown = {each.key: measure.show(mean) for each in variants if (mean := each.mean(measure)) is not None}
    order = max if measure.higher_is_better else min
    best = order(shown.values(), key=float) if len(shown) > 1 else None  # by what is shown: equal figures are all bold
    cells = []
    for variant in variants:
        if variant.key not in shown:
            cells.append(PaperCell("–"))
            continue
        found = section.intervals.get((variant.key, measure.key))
        half = ""
        if found and found.high is not None and found.low is not None:
            half = measure.show((found.high - found.low) / 2)
        cells.append(PaperCell(shown[variant.key], half, variant.key in differing, shown[variant.key] == best))
    return cells


def _costs(variants: Iterable[Variant], key: str) -> list[PaperCell]:
    return [PaperCell(_cost(each, key)) for each in variants]


def _cost(variant: Variant, key: str) -> str:
    if key == "parameters":
        return f"{variant.parameters / 1e6:.2f}" if variant.parameters else "–"
    done = [run for run in variant.runs if not run.missing]
    if key == "seeds":
        return f"{len(done)}"
    value = variant.mean_of((run.training_seconds if key == "training" else run.gpu_hours) for run in done)
    return "–" if value is None else f"{value / 3600:,.2f}" if key == "training" else f"{value:,.2f}"


def _cost_head(family: Family, key: str) -> str:
    titles = {"parameters": "params, M", "training": TRAINING, "hours": hours_title(family), "seeds": "seeds"}
    return titles[key]


def _head(measure: Measure) -> str:
    title = CAVEAT.sub("", measure.title)
    return f"{title}, %" if measure.percent else title


def _notes(
    variants: Sequence[Variant], measures: Sequence[Measure], cells: Mapping[str, Sequence[PaperCell]]
) -> list[str]:
    every = [cell for column in cells.values() for cell in column]
    seeds = sorted({len(each.values(measure)) for each in variants for measure in measures} - {0})
    of = " to ".join(dict.fromkeys(str(each) for each in (seeds[:1] + seeds[-1:])))
    notes = [f"Means over {of} seed{'' if seeds == [1] else 's'}"] if seeds else []
    if any(cell.half for cell in every):
        notes.append("± half of the 95 % interval over seeds")
    if any(cell.best for cell in every):
        notes.append("bold: the best")
    if any(cell.differs for cell in every):
        notes.append("*: corrected p ≤ 0.05 against the first line (Holm)")
    caveats = [(measure, found[1]) for measure in measures if (found := CAVEAT.search(measure.title))]
    return notes + [f"{CAVEAT.sub('', measure.title)}: {caveat}" for measure, caveat in caveats]


# -- forms ------------------------------------------------------------------------------------------------------------


def latex(table: PaperTable, label: str) -> str:
    r"""For \input; what it needs stands in its first line. A long one breaks over pages, in a text of one column."""
    narrow = max(len(name) for name, _ in table.rows) > NARROW
    first = r">{\raggedright\arraybackslash}p{0.34\linewidth}" if narrow else "l"
    form = first + "r" * len(table.heads)
    caption = rf"\caption{{{escape_latex(_caption(table))}.}}\label{{tab:{label.replace('~', ':')}}}"
    # What stands before the comma, and below it the unit: a column is no wider than its figures need.
    two = [[part.strip() for part in f"{title},".split(",")[:2]] for title in table.heads]
    head = r" \\ ".join(" & ".join(["", *map(escape_latex, line)]) for line in zip(*two, strict=True)) + r" \\"
    rows = [" & ".join([escape_latex(name), *map(_in_latex, cells)]) + r" \\" for name, cells in table.rows]
    if rows[1:]:
        rows.insert(1, r"\midrule")  # below the baseline
    if len(table.rows) > LONG:
        lines = [
            r"\begingroup\footnotesize\setlength{\tabcolsep}{2.5pt}",
            rf"\begin{{longtable}}{{{form}}}",
            rf"{caption} \\ \toprule",
            rf"{head} \midrule \endfirsthead",
            rf"\toprule {head} \midrule \endhead",
            r"\bottomrule \endfoot",
            *rows,
            r"\end{longtable}\endgroup",
        ]
        return "% \\usepackage{booktabs,array,longtable}; in one column\n" + "\n".join(lines) + "\n"
    lines = [
        r"\begin{table}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{2.5pt}",
        caption,
        rf"\begin{{tabular}}{{{form}}}",
        rf"\toprule {head} \midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "% \\usepackage{booktabs,array}\n" + "\n".join(lines) + "\n"


def markdown(table: PaperTable) -> str:
    """Return it as a table of Markdown, with its caption below."""
    lines = [["", *table.heads], ["---", *["---:"] * len(table.heads)]]
    lines += [[prose(name), *map(_in_markdown, cells)] for name, cells in table.rows]
    rows = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"{rows}\n\n{prose(_caption(table))}.\n".replace("*:", "\\*:")


def _caption(table: PaperTable) -> str:
    return f"{table.study}, {table.family}. {'; '.join(table.notes)}".removesuffix(". ")


def _in_latex(cell: PaperCell) -> str:
    mean = escape_latex(cell.mean)
    mean = rf"\textbf{{{mean}}}" if cell.best else mean
    half = rf"{{\tiny$\pm${cell.half}}}" if cell.half else ""
    return f"{mean}{half}" + (r"\rlap{*}" if cell.differs else "")


def _in_markdown(cell: PaperCell) -> str:
    mean = f"**{cell.mean}**" if cell.best else cell.mean
    return f"{mean}{f' ± {cell.half}' if cell.half else ''}" + (r"\*" if cell.differs else "")
