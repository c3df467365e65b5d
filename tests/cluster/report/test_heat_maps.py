"""Heat maps: which cells are pale, in which colours the others stand, and how many items a task has."""

import dataclasses
import math
import re

import matplotlib
import numpy as np
import pytest
import synthetic
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch

from cluster.ledger.database import Ledger
from cluster.report import results
from cluster.report.figures import heat_maps, printing, sheets
from cluster.report.results import TASKS

BLIMP = next(scored for scored in TASKS if scored.stage == "blimp")
ACCURACY = ("blimp", "hypernym", "accuracy")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """GPT-Neo's three first cells of the study heads, with four seeds each."""
    runs = [run for run in synthetic.planned(["heads"], seeds=4) if run.config.family == "gpt_neo"][:12]
    ledger = Ledger(synthetic.make(tmp_path_factory.mktemp("maps"), runs, with_pairs=False).ledger)
    (study,) = results.read(ledger)
    ledger.close()
    return study.families[0]


def scored(variant, values, n=86, bounds=0.0):
    """The variant with these accuracies of its seeds on hypernym; with `bounds`, as its evaluator would say them."""

    def of(run, value):
        scores = {key: each for key, each in run.scores.items() if key[1] != "hypernym"}
        scores[ACCURACY] = (value, n)
        if bounds:
            scores |= {(*ACCURACY[:2], f"accuracy_{end}"): (value + by, n)
                       for end, by in (("low", -bounds), ("high", bounds))}  # fmt: skip
        return dataclasses.replace(run, scores=scores)

    kept = tuple(of(run, value) for run, value in zip(variant.runs, values, strict=False))
    return dataclasses.replace(variant, runs=kept)


def difference(family, ours, theirs, **how):
    pair = scored(family.variants[1], ours, **how), scored(family.baseline, theirs, **how)
    return heat_maps.difference(*pair, BLIMP, "hypernym")


def test_a_cell_is_pale_where_its_interval_over_seeds_has_zero_in_it(family):
    base = [0.50, 0.52, 0.48, 0.51]
    shifted = difference(family, [value + 0.03 + 0.001 * i for i, value in enumerate(base)], base)
    assert (round(shifted.points, 2), shifted.beyond_noise) == (3.15, True)
    assert difference(family, [value - 0.03 - 0.001 * i for i, value in enumerate(base)], base).beyond_noise
    scattered = difference(family, [0.60, 0.42, 0.58, 0.53], base)
    assert (round(scattered.points, 2), scattered.beyond_noise) == (3.0, False)


@pytest.mark.parametrize(("bounds", "beyond"), [(0.02, True), (0.022, False)])
def test_one_seed_is_held_against_the_noise_of_the_items(family, bounds, beyond):
    # both have it: together the root of two times as wide
    assert difference(family, [0.53], [0.50], bounds=bounds).beyond_noise is beyond


@pytest.mark.parametrize(("n", "beyond"), [(2_000, False), (2_300, True)])
def test_where_no_evaluator_gave_an_interval_it_is_that_of_a_share(family, n, beyond):
    assert difference(family, [0.53], [0.50], n=n).beyond_noise is beyond
    assert (100 * math.sqrt(2) * 1.96 * 0.5 / math.sqrt(n) < 3) is beyond


def test_a_difference_is_over_the_seeds_that_both_have(family):
    variant, baseline = scored(family.variants[1], [0.6, 0.9]), scored(family.baseline, [0.5])
    assert heat_maps.difference(variant, baseline, BLIMP, "hypernym").points == pytest.approx(10)
    alone = dataclasses.replace(variant, runs=variant.runs[1:])
    assert math.isnan(heat_maps.difference(alone, baseline, BLIMP, "hypernym").points)


def test_a_difference_has_its_colour_whatever_the_others_are():
    assert heat_maps.colour_of(3) == heat_maps.colour_of(4.9) != heat_maps.colour_of(5)
    assert heat_maps.colour_of(40) == heat_maps.colour_of(10) != heat_maps.colour_of(-10)
    red, blue = (tuple(int(heat_maps.colour_of(by)[at : at + 2], 16) for at in (1, 5)) for by in (-6, 6))
    assert red[0] > red[1]
    assert blue[1] > blue[0]


def test_cells_are_drawn_by_their_colours_and_pale_ones_nearly_not(family):
    variants = (
        scored(family.baseline, [0.5] * 4), scored(family.variants[1], [0.53, 0.531, 0.532, 0.533]),
        scored(family.variants[2], [0.60, 0.40, 0.60, 0.44]),
    )  # fmt: skip
    study = results.Study("heads", "", (dataclasses.replace(family, variants=variants),))
    with matplotlib.rc_context(sheets.RC):
        sheet = next(iter(heat_maps.heat_maps(study)))
    (axes,) = sheet.drawing.axes
    names = [text.get_text() for text in sheet.drawing.texts if text.get_rotation()]
    where, row = names.index("hypernym (86)") + 0.5, axes.get_ylim()[0] / 3
    baseline, beyond, within = (
        [shape.get_facecolor() for shape in axes.findobj(PathPatch) if shape.get_path().contains_point((where, place))]
        for place in (0.5 * row, 1.5 * row, 2.5 * row)
    )
    assert baseline == []
    assert [(to_hex(colour), colour[3]) for colour in beyond] == [(heat_maps.colour_of(3.15), 1)]
    assert [colour[3] for colour in within] == [heat_maps.PALE]


def test_the_figures_of_cells_stand_where_a_text_of_its_own_would():
    def each_its_own(axes):
        for x, y, text in ((0.2, 0.4, "−1.3"), (0.6, 0.6, "57.8")):
            axes.text(x, y, text, color="red", ha="center", va="center_baseline")

    together = placed(lambda axes: axes.add_artist(sheets.Texts([(0.2, 0.4, "−1.3"), (0.6, 0.6, "57.8")], "red")))
    assert together == placed(each_its_own)
    assert [words for *_, words in together] == ["−1.3", "57.8"]


def placed(write):
    """How and where texts stand in an SVG, to a tenth of a point."""
    sheets.make_font()
    with matplotlib.rc_context(sheets.RC):
        drawn = sheets.Sheet("cells", "Cells", sheets.NARROW, 1.0)
        axes = drawn.axes(0.1, 0.1, 3.0, 0.8)
        axes.set_axis_off()
        write(axes)
        svg = printing.print_sheet(drawn, results.Study("a study", "", ())).svg
    found = re.findall(r'<text style="([^"]*)" x="([^"]*)" y="([^"]*)"[^>]*>([^<]*)<', svg)
    return [(how, round(float(x), 1), round(float(y), 1), words) for how, x, y, words in found]


def test_twenty_variants_and_seventeen_tasks_have_room_for_their_figures():
    labels = [f"variant number {number}" for number in range(20)]
    tasks = [f"{name.replace('_', ' ')} ({1_000})" for name in (*synthetic.PHENOMENA, *synthetic.SUPPLEMENT)]
    values = np.full((20, 17), -12.3)
    grid = heat_maps.CellGrid(values, values < 0, values > 0, labels, tasks)
    assert grid.fits(1)
    assert grid.sheet("many", "Many").width <= sheets.WIDE
