"""The forms of a report's tables: nothing that a table holds breaks them."""

import csv
import io
import shutil
import subprocess

import pytest

from cluster.report import forms
from cluster.report.study_tables import Column, Row, StudyTable, TableCell

TABLE = StudyTable(
    "50 % of A & B_c",
    [
        Column("variant"),
        Column("mean", "BLiMP, %"),
        Column("difference", "BLiMP, %"),
        Column("source", is_text=True),
    ],
    [
        Row(
            [
                TableCell("a|b_{1}"),
                TableCell("57.8", 0.5781, small="[56.9, 58.7]"),
                TableCell("−1.2*", -0.0123),
                TableCell("#1"),
            ]
        ),
        Row([TableCell("~^\\$"), TableCell("–", small="1 failed"), TableCell(""), TableCell("x", checks="checks-s")]),
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
    cell = TableCell("57.8", small="[56.9, 58.7]\n5 of 6 seeds")
    assert forms.text(cell) == "57.8 [56.9, 58.7] 5 of 6 seeds"
    table = StudyTable("t", [Column("variant"), Column("mean")], [Row([TableCell("a"), cell])])
    assert len(forms.markdown(table).splitlines()) == 3
    assert "a & 57.8 [56.9, 58.7] 5 of 6 seeds" in forms.latex(table, "t")


def test_rows_of_one_csv_have_the_same_keys_in_any_order():
    assert forms.as_csv([]) == ""
    assert forms.as_csv([{"a": 1, "b": None}, {"b": "x,y", "a": 2}]) == 'a,b\n1,\n2,"x,y"\n'
    for other in ({"a": 2}, {"a": 2, "c": 3}, {"a": 2, "b": 3, "c": 4}):
        with pytest.raises(KeyError):
            forms.as_csv([{"a": 1, "b": 2}, other])


def test_csv_has_numbers_as_shown_and_what_else_a_cell_says_beside_them():
    first, second = csv.DictReader(io.StringIO(forms.as_csv(forms.rows(TABLE))))
    assert first == {"variant": "a|b_{1}", "BLiMP, %: mean": "57.8", "BLiMP, %: mean: note": "[56.9, 58.7]",
                     "BLiMP, %: difference": "-1.2", "BLiMP, %: difference: note": "*", "source": "#1",
                     "source: note": ""}  # fmt: skip
    assert (second["BLiMP, %: mean"], second["BLiMP, %: mean: note"]) == ("", "1 failed")
    assert (second["source"], second["source: note"]) == ("x", "†")


@pytest.mark.parametrize(
    ("cell", "number", "note"),
    [
        (TableCell("9,585,664", 9585664, small="−1.0 %"), "9585664", "-1.0 %"),
        (TableCell("4 of 6", 4), "4", "of 6"),
        (
            TableCell("57.8", 0.578, small="[56.9, 58.7]\n5 of 6 seeds", checks="c"),
            "57.8",
            "† [56.9, 58.7] 5 of 6 seeds",
        ),
        (TableCell("+0.5*", 0.005), "0.5", "*"),
        (TableCell("< 0.001", 0.0), "< 0.001", ""),
    ],
)
def test_the_number_of_a_cell_is_plain(cell, number, note):
    (row,) = forms.rows(StudyTable("t", [Column("a")], [Row([cell])]))
    assert (row["a"], row.get("a: note", "")) == (number, note)


def test_no_column_hides_another_of_its_title():
    columns = [Column("a"), Column("b"), Column("b"), Column("b: note")]
    (row,) = forms.rows(
        StudyTable(
            "t",
            columns,
            [Row([TableCell("x"), TableCell("1", 1, small="n"), TableCell("2", 2), TableCell("3", 3)])],
        )
    )
    assert row == {"a": "x", "b": "1", "b: note": "n", "b (2)": "2", "b: note (2)": "3"}


def test_markdown_has_no_tags_and_no_line_breaks_of_others():
    assert forms.prose("a <b>c</b>\n# d, p < 0.001") == "a \\<b>c\\</b> # d, p < 0.001"
    table = StudyTable("t", [Column("variant")], [Row([TableCell("<script>")])])
    assert forms.markdown(table).splitlines()[-1] == "| \\<script> |"


def test_latex_has_booktabs_groups_and_no_bare_special_characters():
    text = forms.latex(TABLE, "s-x", ["One % note."])
    assert r"\multicolumn{2}{c}{BLiMP, \%} &  \\" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert r"a\textbar{}b\_\{1\} & 57.8 [56.9, 58.7] & $-$1.2* & \#1 \\" in text
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{}\$ & -- 1 failed &  & x\textdagger{} \\" in text
    assert r"\caption{50 \% of A \& B\_c. One \% note.}" in text
    assert r"\label{tab:s-x}" in text
    assert forms.escape_latex('<a> "b" ≤') == r"\textless{}a\textgreater{} ''b'' $\le$"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex here")
def test_latex_compiles(tmp_path):
    head = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "a.tex").write_text(head + forms.latex(TABLE, "s-x", ["One % note."]) + "\\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
