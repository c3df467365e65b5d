"""The report's folder, whole; and what it says of scores, of checks that did not hold and of what is missing."""

import csv
import io
import re
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import pytest
import synthetic
from rich.console import Console

from cluster.cli import reporting
from cluster.errors import InputError
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import expansion
from cluster.reconcile.session import LedgerView
from cluster.report import comparison, details, forms, processes, results, score_tables, study_tables, writing
from cluster.report.results import BY_KEY, Family, Result, Variant
from cluster.report.study_tables import Section
from tiny_transformers.settings.config import RunConfig


def record(ledger, run, stage, scores=(), checks=()):
    ledger.put_attempt(run.id, stage, 1, status="completed")
    rows = [{"task": task, "metric": metric, "value": value, "n": n} for task, metric, value, n in scores]
    ledger.put_outcome(run.id, stage, 1, {"scores": rows, "checks": checks})


def shown(renderable, width=200):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def write(ledger, root, folder):
    return writing.write(LedgerView(ledger, "2026-11-22T12:00:00", "none"), root, folder)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three seeds of some activations of both families, of which GEGLU is better, and some numbers of heads; one run
    failed. OUTPUT_ROOT, its ledger, the files of its report, which is made as one of many runs is."""
    few = r"\w+-(gelu|relu|geglu|prelu)-.*-(2|4)H-.*-s(1|2|42)"
    runs = [run for run in synthetic.planned(["activations", "heads"]) if re.fullmatch(few, run.name)]
    failed = next(run for run in runs if "gpt-relu" in run.name)
    root = synthetic.make(
        tmp_path_factory.mktemp("output"), runs, effect=lambda run: 0.1 * ("-geglu" in run.name),
        failing=lambda run: "superglue" if run is failed else None,
    )  # fmt: skip
    ledger = Ledger(root.ledger, read_only=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "MANY", 1)
        files = write(ledger, root, root.path / "report")
    yield root, ledger, files
    ledger.close()


def test_the_folder_has_the_page_tables_and_figures(whole):
    root, ledger, written = whole
    names = {str(path.relative_to(root.path / "report")) for path in written}
    assert written[0].name == "index.html"
    assert {"report.md", "runs.csv", "summary.csv", "scores.csv", "metrics.csv", "comparisons.csv"} <= names
    runs = set(ledger.run_ids())
    assert {f"runs/{run_id}.html" for run_id in runs} | {"runs/style.css"} <= names
    assert {row["run_id"] for row in table(root.path / "report/runs.csv")} == runs
    for stem in ("activations-gpt_neo", "activations-roberta-blimp", "activations-published", "heads-gpt_neo"):
        assert {f"tables/{stem}.tex", f"tables/{stem}.csv"} <= names
    drawn = {name for name in names if name.startswith("figures/")}
    assert {name.removesuffix(".svg") for name in drawn if name.endswith(".svg")} == {
        name.removesuffix(".pdf") for name in drawn if name.endswith(".pdf")
    }
    assert "figures/activations-curves.svg" in drawn
    text = (root.path / "report/report.md").read_text()
    for link in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert link in drawn
    page = written[0].read_text()
    for link in re.findall(r'href="(figures/[^"]+)"', page):
        assert link in drawn


def test_a_table_for_a_paper_has_the_figures_of_the_csv(whole, capsys):
    root, _, _ = whole
    folder = root.path / "report" / "tables"
    lines = (folder / "activations-gpt_neo-paper.tex").read_text().splitlines()
    for row in table(folder / "activations-gpt_neo.csv"):
        (line,) = [line for line in lines if line.startswith(f"{row['variant'].replace('_', chr(92) + '_')} & ")]
        for measure in ("BLiMP, %", "val. loss"):
            assert not row[f"{measure}: mean"] or row[f"{measure}: mean"] in line
    reporting.report_command(table="activations", columns="blimp, seeds", form="markdown", output_root=root.path)
    printed = capsys.readouterr().out
    assert printed.count("|  | BLiMP, % | seeds |") == 2, "one for each family"
    with pytest.raises(InputError, match="--table activation: there is no such study. Did you mean activations?"):
        reporting.report_command(table="activation", output_root=root.path)
    with pytest.raises(InputError, match="are for --table STUDY"):
        reporting.report_command(columns="blimp", output_root=root.path)


def test_the_summary_has_seed_family_and_the_settings_in_which_runs_differ(whole):
    root, ledger, _ = whole
    rows = table(root.path / "report" / "summary.csv")
    configs = {run.id: run.config for run in ledger.runs()}
    assert rows
    for row in rows:
        config = configs[row["run_id"]]
        assert (row["seed"], row["family"]) == (str(config.seed), config.family)
        assert row.get("model.activation") == config.model.activation
    assert "model.hidden_size" not in rows[0], "all runs have the same"
    assert list(rows[0])[:5] == ["run", "run_id", "studies", "seed", "family"]


def test_the_details_of_runs_in_parts_are_those_of_all(whole, monkeypatch):
    root, ledger, _ = whole

    def told(of):
        return [
            (run.run, [(replace(stage, data=None), of.data.get(stage.data)) for stage in run.stages]) for run in of.runs
        ]

    monkeypatch.setattr(details, "PART", 4)
    parts, made_with = list(details.in_parts(ledger, root, ledger.runs())), details.MadeWith()
    for part in parts:
        made_with.add(part)
    every = details.run_details(ledger, root, ledger.run_ids())
    assert len(parts) > 2
    assert [run for part in parts for run in told(part)] == told(every)
    assert sorted(map(str, made_with.data.values())) == sorted(map(str, every.data.values()))
    completed = sum(stage.status == "completed" for run in every.runs for stage in run.stages)
    assert made_with.code == {"c0de": completed}


def test_a_terminal_gets_the_scores_of_so_many_runs_only(whole, monkeypatch, capsys):
    root, ledger, _ = whole
    monkeypatch.setattr(writing, "write", lambda view, root, folder: [folder / "index.html"])  # noqa: ARG005
    reporting.report_command(output_root=root.path)
    assert "gpt-geglu" in capsys.readouterr().out
    monkeypatch.setattr(reporting, "SHOWN", 3)
    reporting.report_command(output_root=root.path)
    said = capsys.readouterr().out
    assert "gpt-geglu" not in said
    assert f"{len(ledger.run_ids())} runs: their scores are in {root.path / 'report/runs.csv'}" in said


def test_all_forms_say_the_same_mean(whole):
    root, ledger, _ = whole
    folder = root.path / "report"
    (row,) = [row for row in table(folder / "tables/activations-gpt_neo.csv") if row["variant"] == "GEGLU"]
    values = [
        float(row["value"])
        for row in table(folder / "scores.csv")
        if re.match("gpt-geglu", row["run"]) and (row["task"], row["metric"]) == ("blimp", "accuracy")
    ]
    mean = sum(values) / 3
    assert row["BLiMP, %: mean"] == BY_KEY["blimp"].show(mean)
    for file in ("report.md", "index.html", "tables/activations-gpt_neo.tex"):
        assert BY_KEY["blimp"].show(mean) in (folder / file).read_text()
    (compared,) = [
        row
        for row in table(folder / "comparisons.csv")
        if (row["study"], row["family"], row["variant"], row["measure"]) == ("activations", "gpt_neo", "geglu", "BLiMP")
    ]
    assert 100 * float(compared["difference"]) == pytest.approx(float(row["BLiMP, %: difference"]), abs=0.0501)
    assert compared["seeds"] == "3"
    assert compared["p"] == "", "three seeds are too few"
    assert float(compared["pairs_p_corrected"]) < 0.05, "but these models differ on these pairs"


def test_a_file_of_rows_that_has_none_has_its_titles(ledger, root, runs, tmp_path):
    ledger.record_runs(runs[:1], "2026")
    record(ledger, runs[0], "blimp", [("average", "accuracy", 0.5, 8)])
    write(ledger, root, tmp_path)
    assert (tmp_path / "comparisons.csv").read_text().startswith("study,family,variant,baseline,measure,seeds,")
    assert (tmp_path / "metrics.csv").read_text().startswith("run,studies,")


def test_each_study_has_its_question_its_answer_and_what_is_missing(whole):
    root, ledger, _ = whole
    text = (root.path / "report/report.md").read_text()
    for study in ledger.studies():
        section = text.partition(f"## {study['name']}\n")[2].partition("\n## ")[0]
        assert study["description"] in section
        assert re.search(r"^- GPT-Neo: ", section, re.M)
        assert re.search(r"^- RoBERTa: ", section, re.M)
    missing = text.partition("### activations: runs that are not complete")[2].partition("\n#")[0]
    assert re.search(r"\| ReLU .*superglue failed \(error\)", missing)
    assert "### heads: runs that are not complete" not in text


def test_a_report_replaces_the_one_before_and_leaves_other_files_alone(tmp_path):
    runs = [run for run in synthetic.planned(["heads"], seeds=2) if re.match("gpt.*-(2|4)H-", run.name)]
    root = synthetic.make(tmp_path / "output", runs, with_pairs=False)
    ledger, tmp_path = Ledger(root.ledger, read_only=True), tmp_path / "report"
    first = {path.relative_to(tmp_path): path.read_bytes() for path in write(ledger, root, tmp_path)}
    (tmp_path / "figures/mine.svg").write_text("mine")
    (tmp_path / writing.WRITTEN).write_text('["figures/gone.svg", "report.md"]')
    (tmp_path / "figures/gone.svg").write_text("of the report before")
    (run_page,) = tmp_path.glob(f"runs/{runs[0].id}.html")
    untouched = run_page.stat().st_ino
    second = {path.relative_to(tmp_path): path.read_bytes() for path in write(ledger, root, tmp_path)}
    assert run_page.stat().st_ino == untouched, "what says the same is not written anew"
    assert first == second, "the same ledger is the same report"
    assert (tmp_path / "figures/mine.svg").exists()
    assert not (tmp_path / "figures/gone.svg").exists()
    assert not list(tmp_path.rglob(".*.??????*")), "no draft stays"
    ledger.close()


@pytest.mark.parametrize("record", ["[", '{"a": 1}', "[1, null]", '["../mine.txt", "/etc/none", "figures"]', "3"])
def test_a_damaged_record_of_the_report_before_is_none_and_removes_nothing_outside(tmp_path, record):
    folder, mine = tmp_path / "report", tmp_path / "mine.txt"
    (folder / "figures").mkdir(parents=True)
    mine.write_text("mine")
    (folder / writing.WRITTEN).write_text(record)
    assert writing._replace(folder, {"a.csv": "1"}) == [folder / "a.csv"]
    assert mine.exists()
    assert (folder / writing.WRITTEN).read_text() == '["a.csv"]'


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    with pytest.raises(InputError, match="would lie outside"):
        writing._replace(tmp_path / "report", {"a.csv": "1", "tables/../../b.csv": "2"})
    assert not list(tmp_path.rglob("*.csv"))


def test_the_caption_in_latex_says_study_and_marks(whole):
    root, _, _ = whole
    text = (root.path / "report/tables/activations-gpt_neo.tex").read_text()
    assert r"\caption{activations, GPT-Neo. Means over seeds; in brackets 95 \% intervals.}" in text
    assert "2 of 3 seeds" in text, "of a variant that lacks a run"
    assert "2 seeds of both" not in text, "as many as in the mean"
    (row,) = [row for row in table(root.path / "report/tables/activations-gpt_neo.csv") if row["variant"] == "ReLU"]
    assert row["GPU-hours: note"] == "2 of 3 runs"


def _costs(*runs):
    return [cell.text for cell in study_tables._cost_cells(runs, "")]


@pytest.mark.parametrize(
    ("split", "title", "other"), [("test", "bits/char", "val. bits/char"), ("validation", "val. bits/char", "| bits/")]
)
def test_models_of_characters_are_compared_in_bits_of_the_split_that_they_have(tmp_path, split, title, other):
    runs = synthetic.planned(["brainformer"], seeds=3, overrides=[f"evaluation.bpc.split={split}"])
    root = synthetic.make(tmp_path, runs, effect=lambda run: 0.1 * ("-random" in run.name))
    with closing(Ledger(root.ledger, read_only=True)) as ledger:
        write(ledger, root, tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    for family in ("enwik8", "text8"):
        assert f"Brainformer, {family}" in text
    assert f"{title}: difference" in text
    assert other not in text
    assert f"can be told on {title}" in text
    assert "nats per character" in (tmp_path / "report/index.html").read_text()


def test_costs_are_means_of_complete_runs():
    done, failed = {"pretrain": {"status": "completed"}}, {"pretrain": {"status": "failed"}}
    one = Result(
        "a",
        "a",
        1,
        (),
        done,
        {},
        {("pretrain", "seconds"): "600", ("pretrain", "device"): "cpu"},
        (),
        {"pretrain": 2.0},
    )
    other = replace(one, stages=failed, hours={"pretrain": 0.1})
    assert _costs(one, other) == ["0.17", "2.00"]
    assert [cell.small for cell in study_tables._cost_cells([one, other], "")] == ["1 of 2 runs"] * 2
    assert _costs(other) == ["–", "–"]
    config = RunConfig.model_validate({"model": {"family": "gpt_neo"}})
    family = Family("gpt_neo", (Variant("a", "a", "gpt_neo", config, 1, True, (one, other)),))
    assert study_tables.hours_title(family) == "hours"
    for on_gpu, title in ((0, "hours"), (1, "GPU-hours")):  # while none is trained
        tried = replace(one, metrics={}, tries=({"on_gpu": on_gpu},))
        begun = replace(family, variants=(replace(family.baseline, runs=(tried,)),))
        assert study_tables.hours_title(begun) == title


def test_a_difference_over_fewer_seeds_than_the_mean_says_so(whole):
    root, ledger, _ = whole
    study = results.read(ledger)[0]
    family = study.families[0]
    base = replace(family.baseline, runs=family.baseline.runs[:2])
    family = replace(family, variants=(base, *family.variants[1:]))
    fewer = replace(study, families=(family,))
    section = Section(fewer, comparisons=comparison.compare(fewer, lambda _: None))
    text = forms.latex(study_tables.ablation(section, family), "x")
    assert "2 seeds of both" in text


def test_a_figure_that_selects_and_scores_on_the_same_rows_says_so_wherever_it_is_shown(whole):
    root, ledger, _ = whole
    said, folder = "(Super)GLUE (selected on these rows)", root.path / "report"
    page = (folder / "index.html").read_text()
    drawn = [each for each in re.findall("<figure>.*?</figure>", page, re.DOTALL) if "(Super)GLUE" in each]
    assert drawn
    assert all(said in each for each in drawn)
    undrawn = re.sub("<figure>.*?</figure>", "", page, flags=re.DOTALL)
    for shown_text in (undrawn, (folder / "report.md").read_text()):
        assert said in shown_text
        others = shown_text.replace(said, "").replace("(Super)GLUE by task (selected on these rows)", "")
        assert [line for line in others.splitlines() if "(Super)GLUE" in line and not line.startswith("![")] == []
    assert said in table(folder / "summary.csv")[0]
    assert {row["measure"] for row in table(folder / "comparisons.csv")} >= {"BLiMP", said}
    assert "(Super)GLUE (selected on these rows)" in (folder / "tables/activations-gpt_neo.tex").read_text()
    assert "(selected on these rows)" in " ".join(shown(score_tables.score_table(ledger, 400), 400).split())
    (cell, *_) = grids.cells(
        loading.load(synthetic.EXPERIMENTS), studies=["heads"], overrides=["evaluation.superglue.select_on=train_split"]
    )
    assert results.caveat("superglue", [cell.config]) == ""


def test_failed_checks_and_identical_scores_are_told_in_the_report(ledger, root, runs, tmp_path):
    ledger.record_runs(runs[:2], "2026")
    one_class = {"name": "rte.majority_class", "passed": False, "blocking": False, "value": 1.0}
    for run in runs[:2]:
        record(ledger, run, "blimp", [("average", "accuracy", 0.512345, 5_000)])
    record(ledger, runs[0], "superglue", [("average", "main", 0.4, 9)], [one_class])
    write(ledger, root, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Flags, and checks that did not hold" in text
    assert f"- {runs[0].name} ({runs[0].id}): superglue: rte.majority_class: 1.0\n" in text
    assert "- blimp: identical_scores: " in text


def test_what_is_no_result_is_said_to_be_none(tmp_path, manifest_file):
    cells = grids.cells(loading.load(manifest_file), overrides=["evaluation.limit=5"], smoke=True)
    root = synthetic.make(tmp_path / "output", expansion.expand(cells), with_pairs=False, studies=())
    ledger = Ledger(root.ledger, read_only=True)
    page = write(ledger, root, tmp_path / "report")[0].read_text()
    ledger.close()
    for words in ("Smoke runs: ", "Built-in data, ", "Scored on a part of the data"):
        assert words in page
        assert f"- {words}" in (tmp_path / "report/report.md").read_text()


def test_a_column_without_a_value_is_left_out_of_the_tables(ledger, root, runs, tmp_path):
    ledger.record_runs(runs[:1], "2026")
    record(
        ledger, runs[0], "lambada", [("last_word", "accuracy", 0.0834, 5_153), ("passage", "perplexity", 22.13, 5_153)]
    )
    of_scores = shown(score_tables.score_table(ledger, 200))
    assert "8.3" in of_scores
    assert "22.130" in of_scores
    assert "BLiMP" not in of_scores
    write(ledger, root, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "LAMBADA, %: mean | val. loss: mean | LAMBADA token ppl.: mean" in text
    assert "- blimp: " not in text
    assert "BLiMP" in (tmp_path / "summary.csv").read_text()


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_a_table_of_scores_is_cut_at_no_width(whole, width):
    _, ledger, _ = whole
    lines = shown(score_tables.score_table(ledger, width), width).splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if "9,585,664" in line)
    assert "…" not in row
    assert len(re.findall(r"\d+\.\d+\b", row)) >= 3


def test_runs_with_one_name_are_told_apart_by_their_ids(ledger, runs):
    ledger.record_runs(runs[:2], "2026")
    ledger.db.execute("UPDATE run SET name = 'same'")
    for run, value in zip(runs[:2], (0.5, 0.6), strict=True):
        record(ledger, run, "blimp", [("blimp", "accuracy", value, 9)])
    text = shown(score_tables.score_table(ledger, 200))
    assert all(f"same ({run.id})" in text for run in runs[:2])
    assert all(a != b for a, b in pairwise(text.splitlines()))


def test_what_lm_eval_is_asked_for_has_a_column(ledger, root, runs, tmp_path):
    ledger.record_runs(runs[:1], "2026")
    scores = [("verbs", "acc", 0.625, 200), ("verbs/irregular", "acc", 0.5, 20), ("wiki", "word_perplexity", 81.5, 9)]
    record(ledger, runs[0], "lm_eval", scores)
    write(ledger, root, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "verbs acc, %: mean" in text
    assert "wiki word_perplexity: mean" in text
    assert "irregular acc" not in text
