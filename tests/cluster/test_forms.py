"""The forms of a report's tables: nothing that a table holds breaks them."""

import csv
import io
import shutil
import subprocess

import pytest

from cluster import forms
from cluster.study_tables import Cell, Column, Row, Table

TABLE = Table(
    "50 % of A & B_c",
    [Column("variant"), Column("mean", "BLiMP, %"), Column("difference", "BLiMP, %"), Column("source", is_text=True)],
    [
        Row([Cell("a|b_{1}"), Cell("57.8", 0.5781, small="[56.9, 58.7]"), Cell("−1.2*", -0.0123), Cell("#1")]),
        Row([Cell("~^\\$"), Cell("–", small="1 failed"), Cell(""), Cell("x", checks="checks-s")]),
    ],
)


def test_markdown_keeps_what_would_break_a_table():
    assert forms.markdown(TABLE).splitlines() == [
        "| variant | BLiMP, %: mean | BLiMP, %: difference | source |",
        "| --- | ---: | ---: | --- |",
        "| a\\|b_{1} | 57.8 [56.9, 58.7] | −1.2\\* | #1 |",
        "| ~^\\$ | – 1 failed |  | x† |",
    ]


def test_a_cell_of_several_lines_is_one_line():
    cell = Cell("57.8", small="[56.9, 58.7]\n5 of 6 seeds")
    assert forms.text(cell) == "57.8 [56.9, 58.7] 5 of 6 seeds"
    table = Table("t", [Column("variant"), Column("mean")], [Row([Cell("a"), cell])])
    assert len(forms.markdown(table).splitlines()) == 3
    assert "a & 57.8 [56.9, 58.7] 5 of 6 seeds" in forms.latex(table, "t")


def test_csv_has_numbers_in_full_precision():
    first, second = csv.DictReader(io.StringIO(forms.as_csv(forms.rows(TABLE))))
    assert first == {"variant": "a|b_{1}", "BLiMP, %: mean": "0.5781", "BLiMP, %: difference": "-0.0123",
                     "source": "#1"}  # fmt: skip
    assert second["BLiMP, %: mean"] == "– 1 failed"


def test_latex_has_booktabs_groups_and_no_bare_special_characters():
    text = forms.latex(TABLE, "s-x", ["One % note."])
    assert r"\multicolumn{2}{c}{BLiMP, \%} &  \\" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert r"a|b\_\{1\} & 57.8 [56.9, 58.7] & $-$1.2* & \#1 \\" in text
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{}\$ & -- 1 failed &  & x† \\" in text
    assert r"\caption{50 \% of A \& B\_c. One \% note.}" in text
    assert r"\label{tab:s-x}" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex here")
def test_latex_compiles(tmp_path):
    head = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "a.tex").write_text(head + forms.latex(TABLE, "s-x", ["One % note."]) + "\\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
