"""Tables for a paper: what is in a cell, what may be chosen, and that LaTeX sets them in a column without shrinking."""

import re
import shutil
import subprocess

import pytest
from scored import BLIMP, LOSS, compare, no_pairs, study, variant

from cluster.errors import InputError
from cluster.report import comparison, paper
from cluster.report.study_tables import Section

BASE = [0.60, 0.61, 0.59, 0.60, 0.605, 0.595]
LOSSES = [1.5, 1.51, 1.49, 1.50, 1.505, 1.495]
LONG_NAME = "gelu-cycle_rev6 very_deep"


def section(*labels):
    """GELU, a variant that is worse on BLiMP, and others that are as good."""
    worse = variant("none", {BLIMP: [each - 0.03 for each in BASE], LOSS: LOSSES})
    others = [variant(label, {BLIMP: BASE[::-1], LOSS: [each - 0.001 for each in LOSSES]}) for label in labels]
    of = study(variant("gelu", {BLIMP: BASE, LOSS: LOSSES}), worse, *others)
    intervals = {
        (each.key, measure.key): comparison.interval(each.values(measure).values())
        for each in of.variants
        for measure in (BLIMP, LOSS)
    }
    return Section(of, intervals=intervals, comparisons=compare(of, no_pairs))


def table(*labels, columns=(), variants=()):
    made = section(*labels)
    return paper.table(made, made.study.families[0], columns, variants)


def test_a_cell_has_the_mean_half_of_its_interval_a_mark_and_the_best_is_bold():
    assert paper.markdown(table("relu")) == (
        "|  | BLiMP, % | val. loss |\n| --- | ---: | ---: |\n"
        "| GELU | **60.0** ± 0.7 | 1.500 ± 0.007 |\n"
        "| no activation | 57.0 ± 0.7\\* | 1.500 ± 0.007 |\n"
        "| ReLU | **60.0** ± 0.7 | **1.499** ± 0.007 |\n\n"
        "made_up, GPT-Neo. Means over 6 seeds; ± half of the 95 % interval over seeds; bold: the best; "
        "\\*: corrected p ≤ 0.05 against the first line (Holm).\n"
    )


def test_the_figures_are_those_of_the_ablation_table():
    made = section("relu")
    (family,) = made.study.families
    for (_, cells), each in zip(paper.table(made, family).rows, family.variants, strict=True):
        for cell, measure in zip(cells, (BLIMP, LOSS), strict=True):
            assert cell.mean == measure.show(each.mean(measure))


def test_columns_and_variants_are_chosen_by_key_title_or_label_and_the_baseline_stays():
    chosen = table("relu", "silu", columns=["loss", "parameters", "seeds"], variants=["SiLU", "none"])
    assert chosen.heads == ["val. loss", "params, M", "seeds"]
    assert [name for name, _ in chosen.rows] == ["GELU", "no activation", "SiLU"]
    assert [cell.mean for cell in chosen.rows[0][1]] == ["1.500", "9.59", "6"]


@pytest.mark.parametrize(
    ("chosen", "refused"),
    [
        ({"columns": ["blmp"]}, "--columns blmp: is no column of this table. Did you mean blimp?"),
        ({"variants": ["rel"]}, "--variants rel: is no variant of GPT-Neo. Did you mean "),
    ],
)
def test_what_is_not_there_is_refused_by_what_may_be_meant(chosen, refused):
    with pytest.raises(InputError, match=re.escape(refused)):
        table("relu", **chosen)


def test_one_seed_has_no_interval_and_a_variant_without_a_score_a_dash():
    of = study(variant("gelu", {BLIMP: BASE[:1]}), variant("a_b", {}, missing=("blimp",)))
    text = paper.latex(paper.table(Section(of), of.families[0]), "x")
    assert r"a\_b & --" in text
    assert r"\pm" not in text.partition("caption")[0]
    assert "Means over 1 seed" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex here")
@pytest.mark.parametrize("options", ["twocolumn", "onecolumn"])
def test_latex_sets_it_in_a_column_of_seven_centimetres_and_breaks_what_is_long(tmp_path, options):
    tables = [table("relu", LONG_NAME)]
    if options == "onecolumn":
        tables.append(table(*(f"{LONG_NAME} {number}" for number in range(paper.LONG))))
        assert "longtable" in paper.latex(tables[-1], "long")
    body = "\n".join(paper.latex(each, f"t{number}") for number, each in enumerate(tables))
    (tmp_path / "a.tex").write_text(
        f"\\documentclass[{options}]{{article}}\\usepackage[textwidth=16cm,columnsep=0.6cm]{{geometry}}\n"
        f"\\usepackage{{booktabs,array,longtable}}\\begin{{document}}\n{body}\nText.\\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
