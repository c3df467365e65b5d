"""Every run as a row: which columns there are, and the same rows as CSV, as Parquet and in the page."""

import csv
import io
import json
from dataclasses import replace

import pytest

from cluster.report import every_run, forms
from cluster.report.every_run import POINTS
from cluster.report.results import BY_KEY, Result
from tiny_transformers.settings.config import CURVE


def result(run, *, score=0.58846, status="completed", checks=()):
    scores = {("blimp", "blimp", "accuracy"): (score, 9), ("pretrain", "validation", "loss"): (1.5, 9)}
    return Result(
        run.id, run.name, run.config.seed, run.studies, {"pretrain": {"status": status}},
        {} if score is None else scores,
        {("pretrain", "seconds"): "600", ("pretrain", "device"): "cpu"}, checks, {"pretrain": 0.25},
    )  # fmt: skip


@pytest.fixture
def two(runs):
    """A run, and the same with another width and seed that failed."""
    config = runs[0].config
    wider = config.model.model_copy(update={"intermediate_size": 4 * config.model.intermediate_size})
    other = replace(runs[0], id="b" * 12, name="<b>wide", config=config.model_copy(update={"model": wider, "seed": 77}))
    return [replace(runs[0], id="a" * 12), other]


@pytest.fixture
def columns(two):
    check = {"stage": "pretrain", "name": "loss_start"}
    results = [result(two[0]), result(two[1], score=None, status="failed", checks=(check, check))]
    return every_run.columns(results, two, every_run.settings_of(two), ())


def values(columns, title):
    (found,) = [column.values for column in columns if column.title == title]
    return list(found)


def test_settings_are_columns_only_where_runs_differ(two, columns):
    settings = [column.title for column in columns if column.kind == "setting"]
    assert settings == ["model.intermediate_size"], "the seed has a column of its own"
    assert values(columns, "seed") == [two[0].config.seed, 77]


def test_a_row_says_how_its_run_stands(columns):
    assert values(columns, "status") == ["completed", "failed"]
    assert values(columns, "failed checks") == ["", "pretrain: loss_start"]
    assert values(columns, "BLiMP") == [0.58846, None]
    assert values(columns, "training, hours") == [600 / 3600] * 2
    assert values(columns, "hours") == [0.25, 0.25], "none of them had a GPU"
    assert "LAMBADA" not in [column.title for column in columns], "no run has a score of it"


def test_parquet_has_the_rows_of_the_csv_with_numbers_as_numbers(columns):
    arrow = pytest.importorskip("pyarrow.parquet")
    told = every_run.rows(columns)
    read = arrow.read_table(io.BytesIO(every_run.parquet(columns))).to_pylist()
    size = "model.intermediate_size"
    assert [row | {size: str(int(row[size]))} for row in read] == told
    rows = list(csv.DictReader(io.StringIO(forms.as_csv(told))))
    assert [row["run"] for row in rows] == ["<b>wide" if row["seed"] == "77" else row["run"] for row in rows]
    assert rows[0]["BLiMP"] == "0.58846"
    assert rows[1]["BLiMP"] == ""


def test_without_pyarrow_there_is_no_parquet(columns, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(every_run.importlib, "import_module", missing)
    assert every_run.parquet(columns) is None


def test_the_page_has_figures_as_they_are_shown_and_no_text_that_ends_its_script(columns, root):
    text = every_run.as_json(columns, root)
    assert "<" not in text
    shown = {column["title"]: column for column in json.loads(text)["columns"]}
    assert shown["BLiMP, %"] | {"kind": "score", "digits": 1} == shown["BLiMP, %"]
    assert [f"{value:.1f}" for value in shown["BLiMP, %"]["values"][:1]] == [BY_KEY["blimp"].show(0.58846)]
    assert shown["BLiMP, %"]["values"][1] is None
    name = shown["run"]
    assert name["levels"][name["values"][1]] == "<b>wide"


def curves(columns, root, lines):
    for run_id, of_run in zip(values(columns, "run_id"), lines, strict=True):
        path = root.run(run_id).path / CURVE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in of_run) + '{"step": 9')
    told = json.loads(every_run.as_json(columns, root))["curves"]
    return [run and (told["steps"][run[0]], *run[1:]) for run in told["runs"]]


def test_a_curve_is_the_validation_loss_and_that_of_training_where_there_is_no_other(columns, root):
    training = [{"step": step, "loss": float(step)} for step in (1, 2)]
    validation = [{"step": 2, "eval_loss": 1.23456}, {"step": 1, "eval_loss": float("nan")}]
    assert curves(columns, root, [training + validation, training]) == [([2], [1.235], False), ([1, 2], [1, 2], True)]
    assert curves(columns, root, [training, []]) == [([1, 2], [1, 2], True), None]


def test_a_long_curve_is_the_means_of_its_parts(columns, root):
    lines = [{"step": step, "loss": float(step % 2)} for step in range(1, 1_001)]
    (steps, losses, _), _ = curves(columns, root, [lines, lines])
    assert (len(steps), steps[-1]) == (POINTS, 1_000)
    assert set(losses) == {0.52, 0.48}, "25 points each"
