"""The figures of a study: what is in them, and that nothing but the ledger and the runs' files decides it."""

import dataclasses
import html
import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree
import zlib

import matplotlib
import numpy as np
import pytest
import synthetic
from matplotlib.backends import backend_agg
from matplotlib.text import Text

from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.report import results
from cluster.report.figures import (
    costs,
    drawing,
    heat_maps,
    learned_functions,
    learning_curves,
    printing,
    sheets,
    styles,
    weight_sharing,
)
from cluster.report.results import BY_KEY, TASKS, Study

SVG = "{http://www.w3.org/2000/svg}"


def read(root):
    ledger = Ledger(root.ledger)
    try:
        return {study.name: study for study in results.read(ledger)}
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    runs = synthetic.planned(("activations", "sparse_ffn", "sharing", "heads"))
    return synthetic.make(tmp_path_factory.mktemp("figures"), runs, with_pairs=False)


@pytest.fixture(scope="module")
def studies(root):
    return read(root)


@pytest.fixture(scope="module")
def pictured(studies):
    """The studies, two of them with one family, since each variant takes its time."""
    few = {
        name: dataclasses.replace(studies[name], families=studies[name].families[1:]) for name in ("sharing", "heads")
    }
    return studies | few


@pytest.fixture(scope="module")
def drawings(pictured, root):
    return {name: drawing.sheets_of(study, root) for name, study in pictured.items()}


@pytest.fixture(scope="module")
def drawn(pictured, drawings):
    with matplotlib.rc_context(sheets.RC):
        return {name: [printing.print_sheet(sheet, pictured[name]) for sheet in of] for name, of in drawings.items()}


def only(drawn, ending):
    (figure,) = [figure for figure in drawn if figure.name.endswith(ending)]
    return figure


def texts(svg):
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def with_variants(study, change):
    families = tuple(dataclasses.replace(family, variants=change(family.variants)) for family in study.families)
    return dataclasses.replace(study, families=tuple(family for family in families if family.variants))


def scored(variant, where, value):
    runs = tuple(dataclasses.replace(run, scores={**run.scores, where: (value, 9)}) for run in variant.runs)
    return dataclasses.replace(variant, runs=runs)


def curve_of(root, run, lines):
    path = root.run(run.run_id).path / "curve.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


# --- files


def test_every_figure_is_a_whole_svg_and_pdf_with_a_title_and_a_caption(drawn):
    every = [figure for of_study in drawn.values() for figure in of_study]
    assert len({figure.name for figure in every}) == len(every) > 25
    for figure in every:
        root = ElementTree.fromstring(figure.svg)
        assert root.findtext(f"{SVG}title") == figure.title
        assert root.get("width") in ("504pt", "244.8pt")
        assert figure.title.lstrip("(")[0].isupper()
        assert figure.caption.endswith(".")
        assert figure.pdf.startswith(b"%PDF")
        assert figure.pdf.rstrip().endswith(b"%%EOF")
        assert b"/FontFile2" in figure.pdf  # a TrueType font: text stays text


def test_ids_are_unique_in_a_report_and_all_that_is_referred_to_is_there(drawn):
    every = [figure for of_study in drawn.values() for figure in of_study]
    seen = set()
    for figure in every:
        inline = drawing.inline_svg(figure.svg)
        ids = re.findall(r'\bid="([^"]*)"', inline)
        assert len(set(ids)) == len(ids)
        assert not seen & set(ids)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', inline)) <= set(ids)
        seen |= set(ids)


def test_the_inline_svg_takes_the_pages_colour_and_room(drawn):
    for figure in drawn["activations"]:
        inline = drawing.inline_svg(figure.svg)
        root = ElementTree.fromstring(inline)
        assert root.get("role") == "img"
        assert root.get("aria-label") == figure.title
        assert root.get("viewBox")
        assert root.get("width") is None
        assert "currentColor" in inline
        assert sheets.INK not in inline
        assert not re.search(r"<(path|rect)[^>]*fill: #ffffff", inline)
        assert "<style" not in inline  # it would hold for the whole page
        assert texts(inline) == texts(figure.svg)
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)", inline)]
        assert min(sizes) >= 8


def test_a_figure_of_scores_that_are_selected_on_their_rows_says_so_in_its_files(drawn):
    for figure in drawn["activations"]:
        shown = f"{figure.title} {figure.caption} {' '.join(texts(figure.svg))}"
        marked = ["(Super)GLUE (selected on these rows)"] if "(Super)GLUE" in shown else []
        assert re.findall(r"\S+ \(selected on these rows\)", " ".join(texts(figure.svg))) == marked
        assert re.findall(r"\S+ \(selected on these rows\)", pdf_text(figure.pdf)) == marked
    of_scores = {figure.name for figure in drawn["activations"] if "selected on" in figure.svg}
    maps = {f"activations-superglue-{family}" for family in ("gpt_neo", "roberta")}
    assert of_scores == {"activations-scores", *maps}


def pdf_text(pdf):
    """The texts of a PDF of matplotlib's, whose letters here are a zero and a byte each."""
    packed = re.findall(rb"stream\r?\n(x.*?)\r?\nendstream", pdf, re.DOTALL)
    shown = [text for each in packed for text in re.findall(rb"\nBT\n(.*?)\nET\n", zlib.decompress(each), re.DOTALL)]
    letters = [b"".join(re.findall(rb"\(((?:[^\\()]|\\.)*)\)", text)).replace(b"\0", b"") for text in shown]
    return " ".join(re.sub(r"\\(.)", r"\1", each.decode("latin-1")) for each in letters)


@pytest.mark.usefixtures("drawn")
def test_nothing_of_a_drawing_is_cut_off(drawings):
    with matplotlib.rc_context(sheets.RC):
        for sheet in itertools.chain(*drawings.values()):
            box = sheet.drawing.get_tightbbox(backend_agg.FigureCanvasAgg(sheet.drawing).get_renderer())
            assert min(box.x0, box.y0) >= -0.02, sheet.name
            assert box.x1 <= sheet.width + 0.02, sheet.name
            assert box.y1 <= sheet.height + 0.02, sheet.name


# --- what is there, and what is left out


def test_a_study_has_the_figures_that_it_has_data_for(drawn):
    def kinds(study):
        return {figure.name.removeprefix(f"{study}-") for figure in drawn[study]}

    always = {"scores", "curves", "by-time", "queue", "blimp-roberta", "superglue-roberta"}
    of_both = always | {"blimp-gpt_neo", "superglue-gpt_neo"}
    assert kinds("activations") == of_both | {"by-parameters", "functions", "edges"}
    assert kinds("sparse_ffn") == of_both | {"by-speed"}
    assert kinds("sharing") == always | {"sharing"}
    assert kinds("heads") == always


def test_all_variants_are_named(drawn, pictured):
    for name, study in pictured.items():
        for family in study.families:
            shown = " ".join(texts(only(drawn[name], "-scores").svg))
            cells = " ".join(texts(only(drawn[name], f"-blimp-{family.name}").svg))
            for variant in family.variants:
                assert variant.title in shown
                assert variant.title in cells
        if max(len(family.variants) for family in study.families) <= styles.COLOURED:
            ends = texts(only(drawn[name], "-curves").svg)
            assert {variant.title for variant in study.variants} <= set(ends)


def test_of_many_variants_the_baseline_the_best_and_the_worst_are_in_colour(studies, root):
    study = studies["sharing"]
    looks = styles.looks_of(study)
    grey = {v.key for v in study.variants if looks[v.key].is_grey}
    for family in study.families:
        ranked = [v.key for v in sorted(family.variants[1:], key=lambda v: -v.mean(BY_KEY["blimp"]))]
        shown = {family.baseline.key, *ranked[: styles.BEST], *ranked[-styles.WORST :]}
        assert {v.key for v in family.variants} - grey == shown
    (sheet,) = learning_curves.learning_curves(study, root)
    assert "the best 3 and the worst 3 of each family by BLiMP; the others are grey" in sheet.caption
    assert "training loss" not in sheet.caption


def test_a_grey_line_has_its_name_under_the_pointer_and_in_the_list(studies, drawn):
    looks = styles.looks_of(studies["heads"])
    assert not any(look.is_grey for look in looks.values())
    figure = only(drawn["activations"], "-curves")
    looks = styles.looks_of(studies["activations"])
    grey = [v for v in studies["activations"].variants if looks[v.key].is_grey]
    assert len(grey) == len(figure.names) > 4
    shown = re.findall(
        r"<g><title>(.*?), [\d.]+</title>\s*<path[^>]*stroke-opacity: 0;[^>]*stroke-width: 7", figure.svg
    )
    assert sorted(map(html.unescape, shown)) == sorted(v.title for v in grey)
    assert {name.rpartition(":")[0] for name in figure.names} == {
        f"{results.FAMILIES[v.family]} {v.title}" for v in grey
    }


def test_an_svg_has_no_ids_but_those_that_something_refers_to(drawn):
    for figure in drawn["activations"]:
        ids = re.findall(r' id="([^"]*)"', figure.svg)
        assert set(ids) == set(re.findall(r'(?:href="#|url\(#)([^")]+)', figure.svg))


def test_lines_differ_without_colour(studies):
    for study in studies.values():
        looks = styles.looks_of(study)
        for family in study.families:
            coloured = [looks[v.key] for v in family.variants if not looks[v.key].is_grey]
            assert len({(str(look.dash), look.marker, look.width) for look in coloured}) == len(coloured)


def test_an_empty_study_has_no_figure(studies, tmp_path):
    nothing = with_variants(
        studies["activations"],
        lambda variants: tuple(
            dataclasses.replace(v, runs=tuple(dataclasses.replace(r, scores={}, metrics={}, tries=()) for r in v.runs))
            for v in variants
        ),
    )
    assert drawing.draw(nothing, OutputRoot(tmp_path)) == []
    assert drawing.draw(Study("none", "", ()), OutputRoot(tmp_path)) == []


def test_a_score_that_is_not_a_number_is_no_score(studies, root):
    where = BY_KEY["blimp"].where
    spoilt = with_variants(studies["heads"], lambda v: (*v[:2], scored(v[2], where, math.nan), *v[3:]))
    lost = spoilt.families[0].variants[2]
    assert styles.values_of(lost, BY_KEY["blimp"]) == []
    every = drawing.draw(spoilt, root)
    assert f"Without data: GPT-Neo {lost.title}, RoBERTa" in only(every, "-by-time").caption
    assert "nan" not in "".join(figure.svg for figure in every).lower()


@pytest.mark.parametrize("kept", [1, 2])
def test_few_variants_and_one_family_are_drawn(studies, root, kept):
    one = dataclasses.replace(studies["activations"], families=studies["activations"].families[:1])
    few = with_variants(one, lambda variants: variants[:kept])
    names = {figure.name for figure in drawing.draw(few, root)}
    assert "activations-curves" in names
    assert ("activations-scores" in names) == (kept > 1)


def test_long_and_many_labels_and_markup_are_drawn_as_they_are(studies, root):
    def many(variants):
        made = [dataclasses.replace(v, key=f"{v.key}{i}", label=f"{v.label} <b>&$x^{i}$ train.learning_rate=0.00{i:02}",
                                    is_baseline=not i) for i, v in enumerate(variants * 2)]  # fmt: skip
        return tuple(made[:16])

    one = dataclasses.replace(studies["activations"], families=studies["activations"].families[:1])
    study = with_variants(one, many)
    every = drawing.draw(study, root)
    shown = " ".join(texts(only(every, "-scores").svg))
    for variant in study.families[0].variants:
        assert all(part in shown for part in variant.title.split())
    for figure in every:
        ElementTree.fromstring(drawing.inline_svg(figure.svg))


# --- learning curves


def test_the_band_is_the_range_of_the_seeds(studies, root):
    variant = studies["activations"].families[0].baseline
    curves = [learning_curves._curves(root, run.run_id)[1] for run in variant.runs]
    band = learning_curves._band(curves)
    assert len(curves) == 6
    for step, low, mean, high in zip(band.steps, band.low, band.mean, band.high, strict=True):
        values = [curve[int(step)] for curve in curves]
        assert (low, high) == (min(values), max(values))
        assert mean == pytest.approx(sum(values) / 6)


def test_a_seed_that_has_not_come_so_far_ends_where_it_is():
    band = learning_curves._band([{10: 4.0, 20: 2.0, 30: 1.0}, {10: 6.0, 20: 4.0}, {}])
    assert band.mean.tolist() == [5.0, 3.0, 1.0]
    assert learning_curves._band([{}]) is None


def test_what_is_whole_of_a_curve_is_read(studies, tmp_path):
    run = studies["heads"].runs[0]
    other = OutputRoot(tmp_path)
    assert learning_curves._curves(other, run.run_id) == ({}, {})
    lines = ['{"step": 2, "loss": 5.0}\n', '{"step": 2, "eval_loss": 4.5}\n', "[]\n", '{"step": 3, "loss": NaN}\n',
             '{"loss": 1}\n', '{"step": 4, "lo']  # fmt: skip
    curve_of(other, run, lines)
    assert learning_curves._curves(other, run.run_id) == ({2: 5.0}, {2: 4.5})
    assert [sheet.name for sheet in learning_curves.learning_curves(studies["heads"], other)] == ["curves"]


def test_a_training_without_an_evaluation_is_drawn_by_its_training_loss(studies, tmp_path):
    root, study = OutputRoot(tmp_path), studies["heads"]
    curve_of(root, study.runs[0], [json.dumps({"step": step, "loss": 9 / step}) + "\n" for step in range(1, 60)])
    caption = next(iter(learning_curves.learning_curves(study, root))).caption
    assert caption.startswith("Training loss, smoothed, against optimizer steps.")
    assert "Without data: GPT-Neo" in caption


def test_names_at_the_ends_of_lines_do_not_overlap():
    heights = [0.1, 0.2, 0.1, 0.1]
    places = learning_curves._spread([0.5, 0.5, 0.51, 0.99], heights)
    for index in range(3):
        assert places[index + 1] - places[index] >= (heights[index] + heights[index + 1]) / 2 - 1e-9
    assert places[0] >= 0.05
    assert places[-1] <= 0.95 + 1e-9


# --- the front, and names beside points


def points(studies, pairs):
    variants = [*studies["sharing"].variants][: len(pairs)]
    return [costs.Point(variant, x, y) for variant, (x, y) in zip(variants, pairs, strict=True)]


@pytest.mark.parametrize("lower_x", [True, False])
@pytest.mark.parametrize("higher_y", [True, False])
def test_nothing_is_better_than_the_front_in_both(studies, lower_x, higher_y):
    generator = np.random.default_rng(1)
    every = points(studies, [(float(x), float(y)) for x, y in generator.integers(0, 8, (25, 2))])
    front = costs._front(every, lower_x, higher_y)

    def beats(a, b):
        gains = (b.x - a.x) if lower_x else (a.x - b.x), (a.y - b.y) if higher_y else (b.y - a.y)
        return min(gains) >= 0 and max(gains) > 0

    best = {(p.x, p.y) for p in every if not any(beats(other, p) for other in every)}
    assert {(p.x, p.y) for p in front} == best
    assert [p.x for p in front] == sorted(p.x for p in front)


def test_names_beside_points_do_not_overlap(studies):
    with matplotlib.rc_context(sheets.RC):
        sheets.make_font()
        for sheet in costs.costs(studies["activations"]):
            canvas = backend_agg.FigureCanvasAgg(sheet.drawing)
            canvas.draw()
            boxes = [text.get_window_extent(canvas.get_renderer()) for text in sheet.drawing.texts]
            assert len(boxes) > 12
            for index, box in enumerate(boxes):
                assert not any(box.padded(-1.5).overlaps(other.padded(-1.5)) for other in boxes[:index])


def test_every_point_is_named_under_the_pointer_and_in_the_list_and_the_front_beside_it(studies):
    study = studies["sharing"]
    sheets.make_font()
    with matplotlib.rc_context(sheets.RC):
        (sheet,) = costs.costs(study)
        svg = printing.print_sheet(sheet, study).svg
    names = {f"{results.FAMILIES[v.family]} {v.title}" for v in study.variants}
    assert len(names) > 20
    titles = re.findall(r"<g><title>(.*?): [\d.]+ at [\d.]+</title>", svg)
    assert len(titles) == len(study.variants)
    assert set(titles) == names == {name.partition(":")[0] for name in sheet.names}
    scores = [float(name.partition(": ")[2].split()[0]) for name in sheet.names]
    assert scores == sorted(scores, reverse=True)
    front = [name.partition(":")[0] for name in sheet.names if name.endswith("(front)")]
    beside = {" ".join(text.get_text().split()) for text in sheet.drawing.texts}
    assert front
    assert all(name.removeprefix("GPT-Neo ").removeprefix("RoBERTa ") in beside for name in front)


# --- heat maps and functions


def test_cells_are_differences_to_the_baseline_in_points(studies, drawn):
    family = studies["activations"].families[0]
    where = ("blimp", "ellipsis", "accuracy")

    def mean(variant):
        return 100 * sum(run.scores[where][0] for run in variant.runs) / len(variant.runs)

    cells = texts(only(drawn["activations"], "-blimp-gpt_neo").svg)
    assert f"{mean(family.baseline):.1f}" in cells
    for variant in family.variants[1:]:
        assert sheets.signed(mean(variant) - mean(family.baseline)) in cells
    assert {"ellipsis (150)", "turn taking (280)"} <= set(cells)
    assert not {"blimp", "supplement", "average"} & {cell.partition(" (")[0] for cell in cells}
    assert "average (" not in " ".join(texts(only(drawn["activations"], "-superglue-gpt_neo").svg))


def test_heat_maps_have_tasks_and_neither_averages_nor_parts(studies):
    def full(variants):
        for task in ("micro", "binding/principle_A_case_1"):
            variants = tuple(scored(v, ("blimp", task, "accuracy"), 0.5) for v in variants)
        return variants

    family = with_variants(studies["heads"], full).families[0]
    tasks = heat_maps._tasks(TASKS[0], family)
    assert "binding" in tasks
    assert not [task for task in tasks if task == "micro" or "/" in task]


def test_many_tasks_are_the_rows(studies):
    def full(variants):
        for i in range(60):
            variants = tuple(scored(v, ("blimp", f"paradigm_{i}", "accuracy"), 0.5 + i / 200) for v in variants)
        return variants

    with matplotlib.rc_context(sheets.RC):
        found = [*heat_maps.heat_maps(with_variants(studies["heads"], full))]
    assert "paradigm 59 (9)" in [text.get_text() for text in found[0].drawing.texts if not text.get_rotation()]
    assert found[0].width <= sheets.WIDE


def test_signs_are_of_what_is_shown():
    assert [sheets.signed(value) for value in (0.04, -0.04, 0.06, -1.26)] == ["0.0", "0.0", "+0.1", "−1.3"]


def test_the_learned_functions_are_those_of_the_files(studies, root):
    study = studies["activations"]
    by_name = {sheet.name: sheet for sheet in learned_functions.learned_functions(study, root)}
    lines = [line.get_ydata() for axes in by_name["functions"].drawing.axes for line in axes.get_lines()]
    shown = [tuple(part[~np.isnan(part)]) for line in lines for part in np.split(line, np.flatnonzero(np.isnan(line)))]
    variant = next(v for v in study.variants if v.label == "prelu")
    told = json.loads((root.run(variant.runs[2].run_id).path / "functions.json").read_text())
    for layer in told["layers"]:
        assert tuple(layer["curves"][1]["y"]) in shown
        assert tuple(layer["initial"]) in shown
    assert len(by_name["functions"].drawing.axes) == 5 * 4
    assert len(by_name["edges"].drawing.axes) == 6


def test_of_many_layers_some_are_shown_and_the_caption_says_so(studies, root, tmp_path):
    study = with_variants(studies["activations"], lambda v: tuple(x for x in v if x.label == "swish"))
    other = OutputRoot(tmp_path)
    for run in study.runs:
        path = root.run(run.run_id).path / "functions.json"
        told = json.loads(path.read_text())
        told["layers"] = [told["layers"][0] | {"layer": number} for number in range(12)]
        target = other.run(run.run_id).path / "functions.json"
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps(told))
    sheets = [*learned_functions.learned_functions(study, other)]
    assert [sheet.name for sheet in sheets] == ["functions-gpt_neo", "functions-roberta"]
    assert all(len(sheet.drawing.axes) == 6 and "6 of 12 places are shown" in sheet.caption for sheet in sheets)


def test_a_torn_functions_file_is_passed_over(studies, tmp_path):
    run = studies["activations"].runs[0]
    target = OutputRoot(tmp_path).run(run.run_id).path / "functions.json"
    target.parent.mkdir(parents=True)
    target.write_text('{"x": [1')
    assert list(learned_functions.learned_functions(studies["activations"], OutputRoot(tmp_path))) == []


@pytest.mark.parametrize(
    "text",
    [
        '{"x": [0, 1]}', "[]", "[1]", '{"x": [0, 1], "layers": [{"layer": 0}]}', '{"x": 3, "layers": [{}]}',
        '{"x": [0, 1], "layers": [{"layer": 0, "module": "", "curves": [{"name": "median", "y": [1]}], "initial": 0}]}',
        '{"x": [0, 1], "layers": [{"layer": 0, "module": "m", "initial": null, "curves": []}]}',
    ],
)  # fmt: skip
def test_a_malformed_functions_file_is_passed_over(studies, tmp_path, text):
    run = studies["activations"].runs[0]
    target = OutputRoot(tmp_path).run(run.run_id).path / "functions.json"
    target.parent.mkdir(parents=True)
    target.write_text(text)
    assert list(learned_functions.learned_functions(studies["activations"], OutputRoot(tmp_path))) == []


def with_status(study, run, status):
    def change(variants):
        return tuple(
            dataclasses.replace(v, runs=tuple(
                dataclasses.replace(r, stages={**r.stages, "pretrain": {"status": status}}) if r is run else r
                for r in v.runs
            ))
            for v in variants
        )  # fmt: skip

    return with_variants(study, change)


@pytest.mark.parametrize("status", ["failed", "running"])
def test_curves_are_of_completed_pretrainings(studies, tmp_path, status):
    root, study = OutputRoot(tmp_path), studies["heads"]
    curve_of(root, study.runs[0], [json.dumps({"step": step, "loss": 9 / step}) + "\n" for step in range(1, 60)])
    assert list(learning_curves.learning_curves(with_status(study, study.runs[0], status), root)) == []
    curve_of(root, study.runs[1], [json.dumps({"step": step, "loss": 8 / step}) + "\n" for step in range(1, 60)])
    (sheet,) = learning_curves.learning_curves(with_status(study, study.runs[0], status), root)
    assert "Left out are 1 runs" in sheet.caption


def test_sharing_has_one_line_and_the_models_that_are_like_the_baseline(studies):
    family = studies["sharing"].families[0]
    shared = next(v for v in family.variants if v.config.model.sharing)

    def faster(v):
        train = v.config.train.model_copy(update={"learning_rate": 0.1})
        return dataclasses.replace(v, config=v.config.model_copy(update={"train": train}), is_baseline=False)

    more = dataclasses.replace(family, variants=(*family.variants, faster(family.baseline), faster(shared)))
    assert weight_sharing._comparable(more) == weight_sharing._comparable(family)
    assert [v for v in weight_sharing._comparable(more) if not v.config.model.sharing] == [family.baseline]
    assert len(weight_sharing._comparable(family)) == len(family.variants)


def test_sharing_is_by_layout_and_strategy(studies):
    (sheet,) = weight_sharing.sharing(studies["sharing"])
    shown = {line for text in sheet.drawing.findobj(Text) for line in text.get_text().splitlines()}
    assert {"seq", "cycle", "cycle, last pass reversed", "nothing shared", "24L"} <= shown
    assert weight_sharing._layouts(studies["sharing"].families[0])[0] == (6, 2, 416, "all", 6)


def test_models_of_different_corpora_are_never_in_one_plane(tmp_path):
    study = read(synthetic.make(tmp_path, synthetic.planned(["brainformer"]), with_pairs=False))["brainformer"]
    assert [family.name for family in study.families] == ["brainformer-enwik8", "brainformer-text8"]
    assert all(family.baseline.is_baseline for family in study.families)
    sheets = {sheet.name: sheet.drawing.axes[0].get_legend_handles_labels()[1] for sheet in costs.costs(study)}
    for corpus in ("enwik8", "text8"):
        assert sheets[f"by-time-{corpus}"] == ["Pareto front", f"Brainformer, {corpus}"]
