"""The table of a study: what stands first, and which differences it has."""

from contextlib import closing

import pytest
import synthetic

from cluster.ledger.database import Ledger
from cluster.report import results, study_tables, writing


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    """RoBERTa's four first activations with their six seeds."""
    runs = [run for run in synthetic.planned(["activations"]) if run.config.family == "roberta"][:24]
    root = synthetic.make(tmp_path_factory.mktemp("tables"), runs, with_pairs=False)
    with closing(Ledger(root.ledger)) as ledger:
        (study,) = results.read(ledger)
    return writing.section(study, root, ())


@pytest.fixture(scope="module")
def table(section):
    return study_tables.ablation(section, section.study.families[0])


def test_the_main_scores_stand_first_and_losses_after_them(table):
    groups = [title for title, _ in table.groups if title]
    assert groups[0] == "BLiMP, %"
    assert groups[1].startswith("(Super)GLUE")
    assert groups.index("val. loss") < groups.index("suppl., %")


def test_the_measure_of_the_published_table_has_a_difference_too(section, table):
    family = section.study.families[0]
    place = next(index for index, column in enumerate(table.columns)
                 if (column.title, column.group) == ("difference", "BLiMP+suppl., %"))  # fmt: skip
    assert table.columns[place].hint == "to the baseline; not tested"
    measure = results.BY_KEY["blimp_all"]
    for variant, row in zip(family.variants[1:], table.rows[1:], strict=True):
        expected = 100 * (variant.mean(measure) - family.baseline.mean(measure))
        assert row.cells[place].text.replace("−", "-") == f"{expected:+.1f}"
        assert row.cells[place].small.startswith("[")
    assert table.rows[0].cells[place].text == ""


def test_what_no_published_table_has_gets_none(table):
    assert ("difference", "suppl., %") not in {(column.title, column.group) for column in table.columns}


def test_training_is_in_hours(section, table):
    place = next(index for index, column in enumerate(table.columns) if column.title == "training, hours")
    baseline = section.study.families[0].baseline
    assert table.rows[0].cells[place].text == f"{baseline.training_seconds / 3600:.2f}"
