"""A study that commit c196086 has done is done for today's code, too.

tests/known_answers/c196086.tar.xz is that study's folder, made by that commit's `submit` with its own stand-ins, one of
which was told to fail; models are empty folders, as stand-ins make them."""

import json
import tarfile
from pathlib import Path

import processes
import pytest

from cluster.ledger.database import Ledger

RECORDED = Path(__file__).parents[2] / "known_answers/c196086.tar.xz"
RUNS, COMPLETED = 13, 35
OTHER_RECIPE = "warm_up"  # the study whose run is done by another recipe today, and is another run
SAME = [word for name in ("activations", "sparse", "sharing", "characters", "float32") for word in ("--study", name)]


@pytest.fixture
def command(tmp_path):
    with tarfile.open(RECORDED) as file:
        file.extractall(tmp_path, filter="data")

    def run(*words):
        done = processes.command(*words, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def rows(path):
    """All rows of a ledger's tables, but of what only this file knows of itself."""
    ledger = Ledger(path)
    try:
        tables = [name for name in ledger.db.table_names() if name != "meta" and not name.startswith(("sqlite_", "_"))]
        return {name: sorted(map(str, ledger.db.query(f"SELECT * FROM {name}"))) for name in tables}
    finally:
        ledger.close()


def files(folder):
    return {path: path.read_bytes() for path in (folder / "output/runs").rglob("*") if path.is_file()}


def test_its_results_are_shown_and_nothing_of_it_is_done_again(command, tmp_path):
    before = files(tmp_path)
    counts = json.loads(command("status", "--json").stdout)["counts"]
    assert (counts["completed"], counts["failed"]) == (COMPLETED, 1)
    submit = ("submit", "experiments.yaml", "--site", "site.yaml", "--yes")
    said = command(*submit, *SAME)
    assert (said.returncode, "Nothing is to be submitted: 12 runs" in said.stdout) == (0, True), (
        said.stdout + said.stderr
    )
    assert "1 pack with 1 run;" in command(*submit, "--dry-run", "--study", OTHER_RECIPE).stdout
    assert command("report", "--to", "report").returncode == 0
    summary = (tmp_path / "report/summary.csv").read_text().splitlines()
    assert len(summary) == 1 + RUNS
    assert {path for path, content in files(tmp_path).items() if before.get(path) != content} == set()


def test_a_ledger_made_again_of_its_files_is_the_one_that_it_had(command, tmp_path):
    had = rows(tmp_path / "output/ledger.db")
    made = command("ledger", "rebuild")
    assert (made.returncode, "left out" in made.stdout) == (0, False), made.stdout
    assert rows(tmp_path / "output/ledger.db") == had
    assert sum(len(each) for each in had.values()) > 200
