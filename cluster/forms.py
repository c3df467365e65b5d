r"""A report's tables in forms other than the page's: Markdown, LaTeX with booktabs, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.study_tables import Cell, Table

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--",
}  # fmt: skip


def markdown(table: Table) -> str:
    titles = [": ".join(filter(None, (column.group, column.title))) for column in table.columns]
    rules = ["---" if index == 0 or column.is_text else "---:" for index, column in enumerate(table.columns)]
    rows = [[text(cell) for cell in row.cells] for row in table.rows]
    return "\n".join(f"| {' | '.join(map(_in_markdown, row))} |" for row in (titles, rules, *rows))


def _in_markdown(words: str) -> str:
    return words.replace("|", "\\|").replace("*", "\\*") if words.strip("-:") else words


def latex(table: Table, label: str, notes: Sequence[str] = ()) -> str:
    r"""For \input; what it needs stands in its first line."""
    columns = "".join("l" if index == 0 or column.is_text else "r" for index, column in enumerate(table.columns))
    caption = ". ".join([table.label, *(note.rstrip(".") for note in notes)])
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


def _latex_groups(table: Table) -> list[str]:
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


def text(cell: Cell) -> str:
    """All lines of a cell as one, and a mark where a check did not hold."""
    return " ".join(f"{cell.text}{'†' if cell.checks else ''} {cell.small}".split())


def rows(table: Table) -> list[dict[str, Any]]:
    """For CSV: of a cell with a number, the number in its full precision."""
    titles = [": ".join(filter(None, (column.group, column.title))) for column in table.columns]
    return [
        {title: text(cell) if cell.sort is None or index == 0 else cell.sort
         for index, (title, cell) in enumerate(zip(titles, row.cells, strict=True))}
        for row in table.rows
    ]  # fmt: skip


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """With a header of the first row's keys; empty without rows."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()
