"""How much a variant reads until it is as good as the baseline at its end: of scores that are known."""

import csv
import dataclasses
import math
from contextlib import closing

import matplotlib
import pytest
import synthetic
from matplotlib.backends import backend_agg

from cluster.ledger.database import Ledger
from cluster.reconcile.session import LedgerView
from cluster.report import forms, results, trajectories, writing
from cluster.report.figures import printing, sheets
from cluster.report.figures import trajectories as figure
from cluster.report.trajectories import Reached, reach
from tiny_transformers.settings.stage.trajectory import SERIES

LOSS, BPC, BLIMP = SERIES


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    runs = synthetic.planned(("sample_efficiency",))
    return synthetic.make(tmp_path_factory.mktemp("report"), runs, with_pairs=False)


@pytest.fixture(scope="module")
def study(root):
    ledger = Ledger(root.ledger)
    try:
        (study,) = results.read(ledger)
        return study
    finally:
        ledger.close()


def with_scores(run, way, *, metric="blimp"):
    """The run with these scores alone: tokens -> score, the last one at its end."""
    names = [*map(str, [*way][:-1]), "end"]
    scores = {("trajectory", name, metric): (value, 9) for name, value in zip(names, way.values(), strict=True)}
    places = {("trajectory", f"{name}.tokens"): str(tokens) for name, tokens in zip(names, way, strict=True)}
    return dataclasses.replace(run, scores=scores, metrics=places | {("pretrain", "device"): "cpu"})


def family_of(study, baseline, *ways, metric="blimp"):
    """A family whose baseline and second variant have these scores, a seed each."""
    family = study.families[0]
    made = [
        dataclasses.replace(variant, runs=tuple(
            with_scores(run, way, metric=metric) for run, way in zip(variant.runs, of, strict=False)
        ))
        for variant, of in zip(family.variants, ([baseline] * 3, ways), strict=False)
    ]  # fmt: skip
    return dataclasses.replace(family, variants=tuple(made))


def cells(study, family, row):
    return [forms.text(cell) for cell in trajectories.table(study, family).rows[row].cells]


BASE = {100: 0.5, 1_000: 0.6, 10_000: 0.7}


def test_a_target_between_two_anchors_is_reached_evenly_in_the_logarithm_of_the_tokens(study):
    way = trajectories.points(family_of(study, BASE).baseline.runs[0])
    assert [point.tokens for point in way] == [100, 1_000, 10_000]
    assert reach(way, BLIMP, 0.65) == Reached(pytest.approx(1_000 * math.sqrt(10)), at_first=False)
    assert reach(way, BLIMP, 0.6) == Reached(pytest.approx(1_000), at_first=False)
    assert reach(way, BLIMP, 0.4) == Reached(100, at_first=True)
    assert reach(way, BLIMP, 0.71) is None
    assert reach(way, LOSS, 0.6) is None  # it has none


def test_of_a_loss_less_is_better(study):
    way = trajectories.points(family_of(study, {100: 4.0, 1_000: 3.0, 10_000: 2.0}, metric="loss").baseline.runs[0])
    assert reach(way, LOSS, 2.5).tokens == pytest.approx(1_000 * math.sqrt(10))
    assert reach(way, LOSS, 1.9) is None


def test_the_first_crossing_counts_where_a_score_wavers(study):
    way = trajectories.points(family_of(study, {1: 0.2, 10: 0.8, 100: 0.3, 1_000: 0.9}).baseline.runs[0])
    assert reach(way, BLIMP, 0.5).tokens == pytest.approx(10**0.5)


def test_a_variant_has_the_geometric_mean_of_its_seeds_and_their_interval(study):
    ways = [{100: 0.5, tokens: 0.7, 10_000: 0.8} for tokens in (1_000, 2_000, 4_000)]
    family = family_of(study, BASE, *ways)
    found = trajectories.needed(family.variants[1], family.baseline, BLIMP)
    assert (found.target, found.seeds, found.baseline) == (pytest.approx(0.7), 3, 10_000)
    assert found.tokens.mean == pytest.approx(2_000)
    half = 4.302653 * math.log(2) / math.sqrt(3)  # Student's t of 2 degrees of freedom, of logarithms log(2) apart
    assert (found.tokens.low, found.tokens.high) == (
        pytest.approx(2_000 / math.exp(half), rel=1e-5), pytest.approx(2_000 * math.exp(half), rel=1e-5)
    )  # fmt: skip
    assert cells(study, family, 1)[2:] == ["80.0 [80.0, 80.0]", "2,000 [357, 11,200]", "0.20"]
    assert cells(study, family, 0)[2:] == ["70.0 [70.0, 70.0]", "10,000 at its end", "1.00"]


def test_what_is_not_reached_says_so_and_has_no_mean(study):
    good, bad = {100: 0.5, 1_000: 0.7, 10_000: 0.8}, {100: 0.5, 10_000: 0.6}
    assert cells(study, family_of(study, BASE, good, bad, bad), 1)[3:] == ["not reached 1 of 3 seeds reach it", "–"]
    assert cells(study, family_of(study, BASE, bad), 1)[3:] == ["not reached", "–"]


def test_what_is_as_good_at_its_first_anchor_needed_no_more(study):
    assert cells(study, family_of(study, BASE, {100: 0.75, 10_000: 0.8}), 1)[3:] == ["≤ 100", "≤ 0.01"]


def test_runs_that_read_other_data_are_not_held_against_the_baseline(study):
    family = family_of(study, BASE, {100: 0.75, 10_000: 0.8})
    runs = [dataclasses.replace(run, data={("trajectory", "x.jsonl"): digest}) for run, digest in
            ((family.baseline.runs[0], "a"), (family.variants[1].runs[0], "b"))]  # fmt: skip
    baseline, other = (dataclasses.replace(v, runs=(run,)) for v, run in zip(family.variants, runs, strict=True))
    assert trajectories.needed(other, baseline, BLIMP) is None
    assert trajectories.needed(baseline, baseline, BLIMP) is not None


def test_a_study_without_anchors_has_neither_a_table_nor_a_figure(study):
    plain = dataclasses.replace(study.families[0], variants=tuple(
        dataclasses.replace(v, runs=tuple(dataclasses.replace(r, scores={}) for r in v.runs))
        for v in study.families[0].variants
    ))  # fmt: skip
    assert trajectories.table(study, plain) is None
    assert [*figure.trajectories_of(dataclasses.replace(study, families=(plain,)))] == []
    assert trajectories.rows([run for variant in plain.variants for run in variant.runs]) == []


@pytest.mark.parametrize(("count", "shown"), [(7, "7"), (123_456, "123,000"), (999.6, "1,000"), (0.2, "0")])
def test_counts_have_three_digits(count, shown):
    assert trajectories.rounded(count) == shown


def test_a_band_is_the_range_of_the_seeds_at_each_anchor(study):
    ways = [{100: 0.5, 1_000: 0.6}, {100: 0.4, 1_000: 0.8}]
    variant = family_of(study, BASE, *ways).variants[1]
    found = figure.band(variant, "tokens", BLIMP)
    assert found == figure.Band([100, 1_000], [pytest.approx(45), pytest.approx(70)], [40, 60], [50, 80])
    assert figure.band(variant, "stories", BLIMP).x == []


def test_the_figure_has_a_panel_for_each_score_and_quantity_and_nothing_is_cut_off(study):
    sheets.make_font()
    with matplotlib.rc_context(sheets.RC):
        (sheet,) = figure.trajectories_of(study)
        titles = [axes.get_xlabel() for axes in sheet.drawing.axes if axes.get_xlabel()]
        assert titles == ["tokens read", "stories read", "GPU-minutes of training"] * 2 * 2
        box = sheet.drawing.get_tightbbox(backend_agg.FigureCanvasAgg(sheet.drawing).get_renderer())
        assert min(box.x0, box.y0) >= -0.02
        assert box.x1 <= sheet.width + 0.02
        assert box.y1 <= sheet.height + 0.02
        svg = printing.print_sheet(sheet, study).svg
    for variant in study.variants:
        assert f">{variant.title}<" in svg
    assert sheet.caption.startswith("Validation loss and BLiMP at each anchor")
    assert "3 seeds each" in sheet.caption
    assert "mathdefault" not in svg


def test_of_a_stream_there_are_characters_and_no_stories(study):
    family = family_of(study, {100: 3.0, 1_000: 2.5}, {100: 2.9, 1_000: 2.4}, metric="bpc")
    stream = family.baseline.config.model_copy(update={"data": family.baseline.config.data.model_copy(
        update={"corpus": "text8"})})  # fmt: skip
    variants = tuple(dataclasses.replace(variant, config=stream) for variant in family.variants)
    found = trajectories.table(study, dataclasses.replace(family, variants=variants))
    assert [column.title for column in found.columns][2:] == ["at the end", "characters needed", "of the baseline's"]
    with matplotlib.rc_context(sheets.RC):
        (sheet,) = figure.trajectories_of(dataclasses.replace(study, families=(dataclasses.replace(
            family, variants=variants),)))  # fmt: skip
    titles = [axes.get_xlabel() for axes in sheet.drawing.axes if axes.get_xlabel()]
    assert titles == ["characters read"]  # of these made-up runs no minutes are known
    assert sheet.caption.startswith("Bits per character at each anchor")


def test_a_report_has_the_series_the_tables_and_the_figure_in_all_its_forms(root, study, tmp_path):
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        view = LedgerView(ledger, "2026-11-22T12:00:00", "none")
        names = {str(path.relative_to(tmp_path)) for path in writing.write(view, root, tmp_path)}
    for ending in ("csv", "tex"):
        assert {f"tables/sample_efficiency-{family}-trajectory.{ending}" for family in ("gpt_neo", "roberta")} <= names
    assert {"figures/sample_efficiency-trajectory.svg", "figures/sample_efficiency-trajectory.pdf"} <= names
    with (tmp_path / "trajectory.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(study.runs) * 7
    assert [row["anchor"] for row in rows[:7]] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "end"]
    assert (rows[6]["step"], rows[6]["stories"], rows[6]["bpc"]) == ("8280.0", str(8280 * 256.0), "")
    for file in ("index.html", "report.md"):
        assert "GPT-Neo: tokens until as good as the baseline at its end" in (tmp_path / file).read_text()
    assert "<h3>Against what was read</h3>" in (tmp_path / "index.html").read_text()
