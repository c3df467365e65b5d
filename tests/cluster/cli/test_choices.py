"""A study that begins from another's result, from its submission to its report, by the commands."""

import json
import re
from contextlib import closing

import pytest

from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import expansion

MANIFEST = """
defaults: {data: {source: builtin}, train: {max_steps: 10}, stages: [pretrain, add_tokenizer, blimp], seeds: [1]}
models:
  gpt: {family: gpt_neo, hidden_size: 32, num_heads: 2, intermediate_size: 48}
studies:
  first: {model: gpt, grid: {model.activation: [gelu, relu, silu]}}
  longer:
    optional: true
    from: {study: first, by: blimp.average.accuracy}
    train.max_steps: 30
"""
SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml", "--study", "longer")


@pytest.fixture
def scores(command, fake_science, tmp_path):  # noqa: ARG001 - `command` writes a manifest, too
    """Tell the stand-ins which score the run with an activation has."""
    (tmp_path / "experiments.yaml").write_text(MANIFEST)
    runs = expansion.expand(grids.cells(loading.load(tmp_path / "experiments.yaml"), studies=["first"]))
    ids = {run.config.model.activation: run.id for run in runs}

    def tell(**told):
        scored = {"task": "average", "metric": "accuracy", "n": 1000}
        fake_science.write_text(
            json.dumps({ids[name]: {"blimp": scored | {"value": value}} for name, value in told.items()})
        )

    tell(gelu=0.5, relu=0.7, silu=0.6)
    return tell


def choices_of(folder):
    with closing(Ledger(OutputRoot(folder / "output").ledger, read_only=True)) as ledger:
        return ledger.choices()


def test_a_dry_run_says_what_cannot_be_planned_yet(command, scores, tmp_path):  # noqa: ARG001
    shown = command(*SUBMIT, "--dry-run").stdout
    assert re.search(
        r"longer: chosen later, best 1 from first by BLiMP\+suppl\. \(blimp\.average\.accuracy\): at most 1 of 3 "
        r"possible cells, 1 combination with 1 seed, about 0\.\d+ hours one at a time\. Seed 1 chose its cells, too",
        shown,
    )
    assert not (tmp_path / "output").exists()
    assert "Left out, since optional: longer" in command(*SUBMIT[:4], "--dry-run").stdout


def test_a_choice_is_made_once_by_tick_and_told_from_then_on(command, scores, tmp_path):
    command(*SUBMIT, "--yes")
    assert "longer waits to choose: " in command("tick").stdout
    command(*SUBMIT, "--yes", "--wait")
    (choice,) = choices_of(tmp_path).values()
    assert [each["chosen"] for each in choice["ranked"]] == [True, False, False]
    assert "gpt-relu-" in choice["ranked"][0]["label"]
    assert "Nothing to do." in command("tick").stdout
    shown = command(*SUBMIT, "--yes").stdout
    assert "Nothing is missing: 4 runs, 12 stage runs, 12 completed." in shown
    assert "longer: chosen on " in shown
    assert re.search(r"longer was chosen from first by BLiMP\+suppl\. on .*: gpt-relu-", command("status").stdout)

    scores(gelu=0.9, relu=0.4, silu=0.6)
    command("rerun", "--stage", "blimp", "--yes", "--wait")
    assert "2 scores by which longer was chosen are others now" in command("status").stdout
    command("ledger", "rebuild")
    assert list(choices_of(tmp_path).values()) == [choice]
    command("report", "--to", "report")
    report = (tmp_path / "report" / "report.md").read_text()
    assert "so the scores that chose them are too good" in report
    assert "longer chose 1 cell of it by BLiMP+suppl.: that score of the chosen is too good" in report
    assert "The choice stands." in report
    command("report", "--export", "all.tar.gz")
    command("import", "all.tar.gz", "--output-root", "elsewhere/output")
    assert choices_of(tmp_path / "elsewhere") == choices_of(tmp_path)
