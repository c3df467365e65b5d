r"""A report's tables in forms other than the page's: Markdown, LaTeX with booktabs, CSV."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cluster.report.study_tables import MISSING, StudyTable, TableCell

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "†": r"\textdagger{}", "≤": r"$\le$",
}  # fmt: skip
NUMBER = re.compile(r"[+−-]?\d[\d,]*(\.\d+)?")  # as a cell shows it
TAG = re.compile(r"<(?=[A-Za-z/!?])")  # what Markdown would take for one


def markdown(table: StudyTable) -> str:
    titles = [": ".join(filter(None, (column.group, column.title))) for column in table.columns]
    rules = ["---" if index == 0 or column.is_text else "---:" for index, column in enumerate(table.columns)]
    rows = [[text(cell) for cell in row.cells] for row in table.rows]
    return "\n".join(f"| {' | '.join(map(_in_markdown, row))} |" for row in (titles, rules, *rows))


def _in_markdown(words: str) -> str:
    return prose(words).replace("|", "\\|").replace("*", "\\*") if words.strip("-:") else words


def prose(words: str) -> str:
    """In a line of Markdown: without tags, which it would not show, and line breaks, which could begin a block."""
    return TAG.sub(r"\\<", " ".join(words.split()))


def latex(table: StudyTable, label: str, notes: Sequence[str] = (), study: str = "") -> str:
    r"""For \input; what it needs stands in its first line."""
    columns = "".join("l" if index == 0 or column.is_text else "r" for index, column in enumerate(table.columns))
    caption = ", ".join(filter(None, (study, table.label)))
    caption += f". {'; '.join(note.rstrip('.') for note in notes)}" if notes else ""
    lines = [
        r"\centering",
        rf"\caption{{{escape_latex(caption)}.}}",
        rf"\label{{tab:{label.replace('~', ':')}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_latex_groups(table),
        " & ".join(escape_latex(column.title) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(escape_latex(text(cell)) for cell in row.cells) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    body = "\n".join(f"  {line}" for line in lines)
    return f"% \\usepackage{{booktabs,graphicx}}\n\\begin{{table}}[t]\n{body}\n\\end{{table}}\n"


def _latex_groups(table: StudyTable) -> list[str]:
    """The line of common titles, and a rule below each."""
    if not any(title for title, _ in table.groups):
        return []
    cells, rules, at = [], [], 1
    for title, width in table.groups:
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(title)}}}" if title else "")
        rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if title else []
        at += width
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def escape_latex(words: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in words)


def text(cell: TableCell) -> str:
    """All lines of a cell as one, and a mark where a check did not hold."""
    return " ".join(f"{cell.text}{'†' if cell.checks else ''} {cell.small}".split())


def rows(table: StudyTable) -> list[dict[str, Any]]:
    """For CSV: a number as it is shown, in the unit of its title. What else a cell says is in a column of its own."""
    split = [[_number_and_note(cell) for cell in row.cells] for row in table.rows]
    columns: dict[str, tuple[int, int]] = {}  # title -> which column, and which of the two parts
    for index, column in enumerate(table.columns):
        title = _unused(": ".join(filter(None, (column.group, column.title))), columns)
        columns[title] = index, 0
        if any(cells[index][1] for cells in split):
            columns[_unused(f"{title}: note", columns)] = index, 1
    return [{title: cells[index][part] for title, (index, part) in columns.items()} for cells in split]


def _number_and_note(cell: TableCell) -> tuple[str, str]:
    """`−1.2*` and `[−1.9, −0.5]` -> `-1.2`, `* [-1.9, -0.5]`. What is no number is its words, or empty if missing."""
    found = NUMBER.match(cell.text) if cell.sort is not None else None
    shown = found[0] if found else "" if cell.text == MISSING.text else cell.text
    rest = cell.text[len(shown) :] if found else ""
    note = " ".join(f"{rest}{'†' if cell.checks else ''} {cell.small}".split())
    return shown.replace(",", "").replace("−", "-").lstrip("+") if found else shown, note.replace("−", "-")


def _unused(title: str, taken: Mapping[str, Any]) -> str:
    """No column may hide another of the same title."""
    numbered = (title if number == 1 else f"{title} ({number})" for number in itertools.count(1))
    return next(each for each in numbered if each not in taken)


def as_csv(rows: Iterable[Mapping[str, Any]], titles: Sequence[str] = ()) -> str:
    """With a header of the first row's keys; without rows of these titles, if there are any."""
    of = iter(rows)
    if not (first := next(of, None)):
        return lines(titles, ()) if titles else ""
    return lines([*first], itertools.chain([first.values()], (_values(row, first) for row in of)))


def lines(titles: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return rows of values as CSV, with a header."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(itertools.chain([titles], rows))
    return stream.getvalue()


def _values(row: Mapping[str, Any], first: Mapping[str, Any]) -> Iterable[Any]:
    """Raises KeyError for a row with other keys than the first."""
    if len(row) != len(first):
        raise KeyError(f"a row has {[*row]}, the first one {[*first]}")
    return [row[key] for key in first]
