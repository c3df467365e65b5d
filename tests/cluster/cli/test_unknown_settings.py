"""Runs of another version or another branch, whose settings this one does not know: left out, and told."""

import json
import sqlite3

import pytest
from longer import longer

from cluster.files import whole_files
from cluster.files.folders import OutputRoot

SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml", "--study", "second")
COMMANDS = (
    ("status",), ("status", "--runs"), ("status", "--failed"), ("status", "--json"), ("usage",), ("report",), ("tick",),
    (*SUBMIT, "--dry-run"), (*SUBMIT, "--yes"), ("rerun", "--failed", "--yes"),
    ("rerun", "--stage", "blimp", "--dry-run"),
)  # fmt: skip
SAY_SO = {"status", "report", "tick", "submit", "rerun"}


@pytest.fixture
def root(second_done, tmp_path):  # noqa: ARG001
    """Two runs, completed."""
    return OutputRoot(tmp_path / "output")


def change(root, edit):
    """Have another version made the first run: its settings, or its stages, are not ours."""
    run = root.runs()[0]
    described = whole_files.read_json(run.run_json)
    edit(described)
    whole_files.write_json(run.run_json, described)
    with sqlite3.connect(root.ledger) as ledger:
        values = json.dumps(described["config"], separators=(",", ":")), json.dumps(described["stages"])
        ledger.execute(
            "UPDATE run SET config = ?, stages = ?, statuses = NULL WHERE id = ?", (*values, described["run_id"])
        )
    return described


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda described: described["config"]["model"].update(activation="relu2"), "model.activation"),
        (lambda described: described["stages"].append("ewok"), "ewok"),
        longer(lambda described: described["config"]["train"].update(lookahead=3), "train.lookahead"),
    ],
)
def test_runs_that_this_version_does_not_know_are_left_out_by_name_and_count(command, root, edit, what):
    theirs = change(root, edit)
    for words in COMMANDS:
        done = command(*words, check=False)
        said = " ".join((done.stdout + done.stderr).split())
        assert (done.returncode, "Traceback" in said) == (0, False), said
        if words[0] in SAY_SO and words[1:] not in [("--failed",), ("--json",)]:
            assert "1 run left out, of settings that this version does not know" in said, words
            assert theirs["run_id"] in said
            assert what in said
    page = (root.path / "report/index.html").read_text()
    assert f"{theirs['name']} ({theirs['run_id']}" in page
    rebuilt = " ".join(command("ledger", "rebuild").stdout.split())
    assert theirs["run_id"] in rebuilt
    assert what in rebuilt
    assert "1 runs" in rebuilt
    command("status")
