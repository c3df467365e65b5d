"""What comes in kinds may be added from elsewhere: one object of tests/outside, which nothing of ours names, goes from
the manifest through jobs to the report."""

import csv
import os
import re
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


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The builtin data is made once for all of these tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def outside(tmp_path, cache):
    """Run a command in a process that knows what a module of tests/outside adds."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "cache").symlink_to(cache)

    def run(module, *words, check=True):
        added = {"PYTHONPATH": f"{TESTS / 'outside'}:{TESTS.parent}", "OUTSIDE": module, "COLUMNS": "120"}
        site = {"name": "here", "scheduler": "local", "slots": 1, "environment": added}
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
        command = [sys.executable, "-m", "cluster.cli", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | added, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml")


def write_manifest(folder, **study):
    manifest = {
        "defaults": DEFAULTS,
        "models": {"gpt": MODEL},
        "studies": {"s": {"model": "gpt"} | study},
    }
    (folder / "experiments.yaml").write_text(yaml.safe_dump(manifest))


def table(folder, name="s-gpt_neo"):
    """A table of the report: variant -> column -> text."""
    with (folder / "output" / "report" / "tables" / f"{name}.csv").open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def test_a_stage_from_elsewhere_has_settings_is_planned_is_done_and_has_a_column(outside, tmp_path):
    mine = {"stages": ["pretrain", "embedding_share"], "evaluation.embedding_share.digits": 2}
    write_manifest(tmp_path, **mine)
    shown = outside("embedding_share", *SUBMIT, "--dry-run").stdout
    assert re.search(r"embedding_share +1 +1\.0 +assumed", shown)
    outside("embedding_share", *SUBMIT, "--yes", "--wait")
    outside("embedding_share", "report")
    (row,) = table(tmp_path).values()
    assert row["embeddings, %: mean"] == "93.0"
    (row,) = table(tmp_path, "s-gpt_neo-embedding_share").values()
    assert row["other"] == "7.0"
    write_manifest(tmp_path, **mine | {"evaluation.embedding_share.digist": 2})
    refused = outside("embedding_share", *SUBMIT, check=False).stderr
    assert "unknown key. Did you mean digits?" in refused


def test_a_feed_forward_kind_from_elsewhere_is_counted_trained_and_has_a_row(outside, tmp_path):
    write_manifest(tmp_path, grid={"model.ffn": [{"kind": "bilinear", "size": 8}]})
    outside("bilinear", *SUBMIT, "--yes", "--wait")
    outside("bilinear", "report")
    row = table(tmp_path)["bilinear8"]
    assert float(row["val. loss: mean"]) == pytest.approx(9.2, abs=0.1)
    write_manifest(tmp_path, grid={"model.ffn": [{"kind": "bilinera"}]})
    refused = outside("bilinear", *SUBMIT, check=False).stderr
    assert "'bilinera' is no kind of feed-forward module. Did you mean bilinear?" in refused


def test_an_activation_from_elsewhere_is_counted_trained_and_has_a_row(outside, tmp_path):
    write_manifest(tmp_path, **{"model.activation": "sine"})
    outside("sine", *SUBMIT, "--yes", "--wait")
    outside("sine", "report")
    row = table(tmp_path)["sine"]
    assert float(row["val. loss: mean"]) == pytest.approx(9.2, abs=0.1)
    write_manifest(tmp_path, **{"model.activation": "sien"})
    refused = outside("sine", *SUBMIT, check=False).stderr
    assert "'sien' is not known. Did you mean sine?" in refused
