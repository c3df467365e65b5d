"""What comes in kinds may be added from elsewhere: one object of tests/outside, which nothing of ours names, goes from
the manifest through jobs to the report."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from waiting import PATIENCE

TESTS = Path(__file__).parents[2]
MODEL = {"family": "gpt_neo", "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 48}
DEFAULTS = {
    "data": {"source": "builtin", "max_length": 32},
    "train": {"max_steps": 2, "stories_per_step": 2, "evaluations": 1, "eval_stories": 4},
    "evaluation.superglue.max_length": 32,
    "stages": ["pretrain"],
}


@pytest.fixture
def outside(tmp_path):
    """Run a command in a process that knows what the modules of tests/outside add."""
    added = {"PYTHONPATH": f"{TESTS / 'outside'}:{TESTS.parent}", "COLUMNS": "120"}
    site = {"name": "here", "scheduler": "local", "slots": 1, "flops": 1e13, "environment": added}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))

    def run(*words, check=True):
        command = [sys.executable, "-m", "cluster.cli", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | added, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml")


def write_manifest(folder, **studies):
    manifest = {
        "defaults": DEFAULTS,
        "models": {"gpt": MODEL},
        "studies": {name: {"model": "gpt"} | study for name, study in studies.items()},
    }
    (folder / "experiments.yaml").write_text(yaml.safe_dump(manifest))


def table(folder, name):
    """A table of the report: variant -> column -> text."""
    with (folder / "output" / "report" / "tables" / f"{name}.csv").open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


SHARE = {"stages": ["pretrain", "embedding_share"], "evaluation.embedding_share.digits": 2}


def test_a_stage_a_feed_forward_kind_and_an_activation_from_elsewhere_are_counted_done_and_in_the_report(
    outside, builtin_root, tmp_path
):
    shutil.copytree(builtin_root, tmp_path / "output" / "cache" / builtin_root.name)
    studies = {
        "stage": SHARE | {"model.activation": "sine"},
        "kind": {"grid": {"model.ffn": [{"kind": "bilinear", "size": 8}]}},
    }
    write_manifest(tmp_path, **studies)
    assert re.search(r"embedding_share +1 +1\.0 +site profile", outside(*SUBMIT, "--dry-run").stdout)
    outside(*SUBMIT, "--yes", "--wait")
    outside("report")
    (row,) = table(tmp_path, "stage-gpt_neo").values()
    assert row["embeddings, %: mean"] == "93.0"
    (row,) = table(tmp_path, "stage-gpt_neo-embedding_share").values()
    assert row["other"] == "7.0"
    for study, variant in (("stage", "a sine"), ("kind", "bilinear8")):
        row = table(tmp_path, f"{study}-gpt_neo")[variant]
        assert float(row["val. loss: mean"]) == pytest.approx(9.2, abs=0.1)


@pytest.mark.parametrize(
    ("study", "told"),
    [
        (SHARE | {"evaluation.embedding_share.digist": 2}, "unknown key. Did you mean digits?"),
        (
            {"grid": {"model.ffn": [{"kind": "bilinera"}]}},
            "'bilinera' is no kind of feed-forward module. Did you mean bilinear?",
        ),
        ({"model.activation": "sien"}, "'sien' is not known. Did you mean sine?"),
    ],
)
def test_what_is_near_to_something_from_elsewhere_is_told_so(outside, tmp_path, study, told):
    write_manifest(tmp_path, s=study)
    assert told in outside(*SUBMIT, check=False).stderr
