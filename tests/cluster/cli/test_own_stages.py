"""Stages of a user's own from the manifest to the report: any program, and stages beside ours."""

import csv
import json
import os
import signal
import time

import pytest
import yaml
from waiting import wait_for

SUBMIT = ("submit", "programs.yaml", "--site", "site.yaml", "--yes", "--wait")
TOY = """
import json, sys, time
run, out, lr, seed, rows = sys.argv[1:]
trained = json.load(open(f"{run}/trained.json"))
assert trained["lr"] == float(lr), "another run's"
scores = [{"task": "toy", "metric": "accuracy", "value": float(lr) + int(seed) / 1000, "n": int(rows)}]
json.dump({"scores": scores, "metrics": {"epochs": trained["epochs"]}}, open(out, "w"))
"""
PROGRAM = {
    "stages": {
        "train": {"command": 'echo "{\\"lr\\": "{lr}", \\"epochs\\": "{epochs}"}" > {run}/trained.json',
                  "settings": {"epochs": 3}, "minutes": 1, "gpu": False},
        "score": {"command": "python toy.py {run} {out} {lr} {seed} {rows}", "needs": ["train"], "minutes": 1,
                  "settings": {"rows": 100}, "gpu": False,
                  "measures": [{"task": "toy", "metric": "accuracy", "title": "toy", "percent": True}]},
    },
    "studies": {"rates": {"description": "Which rate?", "baseline": {"lr": 0.1}, "grid": {"lr": [0.1, 0.3]},
                          "seeds": [1]}},
}  # fmt: skip


def write(folder, document):
    (folder / "programs.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    (folder / "toy.py").write_text(TOY)


def changed(*places):
    document = json.loads(json.dumps(PROGRAM))
    for path, value in places:
        *parents, last = path.split("/")
        node = document
        for parent in parents:
            node = node[parent]
        node[last] = value
    return document


def status(command, *words):
    return json.loads(command("status", "--json", *words).stdout)


def counts(command, *words):
    return {name: number for name, number in status(command, *words)["counts"].items() if number}


def test_a_grid_of_any_program_goes_from_the_manifest_to_a_report_with_its_tests(command, tmp_path):
    write(tmp_path, changed(("studies/rates/seeds", [1, 2, 3, 4, 5, 6])))
    command(*SUBMIT)
    assert counts(command) == {"completed": 24}
    assert "Nothing is missing: 12 runs, 24 stage runs, 24 completed." in command(*SUBMIT).stdout
    command("report")
    report = tmp_path / "output" / "report"
    answer = (report / "report.md").read_text()
    assert "“lr=0.3” beats “lr=0.1” on toy by 20.0 points [20.0, 20.0], p = 0.031 after correction, 6 seeds." in answer
    (table,) = (report / "tables").glob("*.csv")
    with table.open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert [row["toy, %: mean"] for row in rows.values()] == ["10.3", "30.3"]
    assert not any("parameters" in title for title in rows["lr=0.1"])
    with (report / "scores.csv").open() as file:
        assert {(row["stage"], row["task"], row["n"]) for row in csv.DictReader(file)} == {("score", "toy", "100")}


def test_the_runs_are_known_without_the_manifest(command, tmp_path):
    write(tmp_path, PROGRAM)
    command(*SUBMIT)
    shown = status(command)
    (tmp_path / "programs.yaml").unlink()
    (tmp_path / "output" / "ledger.db").unlink()
    command("ledger", "rebuild")
    assert status(command)["runs"] == shown["runs"]
    command("rerun", "--stage", "train", "--yes", "--wait")
    again = status(command)["runs"]
    assert {stage["attempts"] for run in again for stage in run["stages"].values()} == {2}, "and what follows from it"
    assert "toy.py" in command("logs", again[0]["name"], "score").stdout
    refused = command("rerun", "--stage", "scor", "--yes", check=False)
    assert (refused.returncode, refused.stderr) == (2, "--stage scor: is no stage. Did you mean score?\n")


def test_a_definition_that_was_removed_is_told_and_written_again_by_submit(command, tmp_path):
    write(tmp_path, changed(("studies/rates/grid/lr", [0.1])))
    command(*SUBMIT)
    (tmp_path / "output/stages/score.json").unlink()
    refused = command("status", check=False)
    assert refused.returncode == 2
    assert "output/stages/score.json: is gone" in refused.stderr
    assert "Nothing is missing" in command(*SUBMIT).stdout
    assert "1/1 run" in command("status").stdout


def test_an_archive_shows_the_results_and_runs_nothing_of_its_commands(command, tmp_path):
    write(tmp_path, changed(("stages/score/command", "exit 9")))
    command(*SUBMIT, check=False)
    command("report", "--export", "all.tar.gz")
    command("import", "all.tar.gz", "--output-root", "there")
    assert counts(command, "--output-root", "there") == {"completed": 2, "failed": 2}
    refused = command("rerun", "--failed", "--site", "site.yaml", "--output-root", "there", "--yes", check=False)
    assert refused.returncode == 2
    assert "score: came with an archive, and nothing of an archive is run. `submit` its manifest" in refused.stderr
    write(tmp_path, PROGRAM)
    command(*SUBMIT, "--output-root", "there", check=False)
    command("rerun", "--failed", "--site", "site.yaml", "--output-root", "there", "--yes", "--wait")
    assert counts(command, "--output-root", "there") == {"completed": 4}


def test_a_failure_says_the_last_words_and_is_done_again_when_its_command_is_mended(command, tmp_path):
    write(tmp_path, changed(("stages/score/command", "echo 'no rows left' >&2; exit 4")))
    command(*SUBMIT, check=False)
    assert "exit code 4: no rows left" in command("status", "--failed").stdout
    write(tmp_path, PROGRAM)
    command(*SUBMIT, check=False)  # which defines it anew
    command("rerun", "--failed", "--yes", "--wait")
    assert counts(command) == {"completed": 4}


def test_another_command_under_the_name_of_one_that_runs_have_done_is_refused(command, tmp_path):
    write(tmp_path, PROGRAM)
    command(*SUBMIT)
    before = (tmp_path / "output" / "stages" / "score.json").read_text()
    write(tmp_path, changed(("studies/rates/seeds", [1, 2]), ("stages/score/settings/rows", 50)))
    refused = command(*SUBMIT, check=False)
    assert refused.returncode == 2
    assert (
        "stages.score.settings: is {'rows': 50}, and was {'rows': 100} when 2 runs in output did it." in refused.stderr
    )
    assert (tmp_path / "output" / "stages" / "score.json").read_text() == before
    assert counts(command) == {"completed": 4}, "nothing was submitted"
    write(tmp_path, changed(("stages/train/settings/epochs", 4)))
    command(*SUBMIT)
    assert counts(command) == {"completed": 8}, "other programs are other runs"
    epochs = [run["name"] for run in status(command)["runs"]]
    assert len(epochs) == 4
    command("rerun", "--stage", "train", "--run", status(command)["runs"][0]["run_id"], "--yes", "--wait")
    trained = [json.loads(path.read_text()) for path in (tmp_path / "output" / "runs").glob("*/trained.json")]
    assert sorted(each["epochs"] for each in trained) == [3, 3, 4, 4], "each by what it was planned with"


def test_a_killed_grid_is_done_to_its_end_by_a_rerun_and_nothing_twice(command, tmp_path):
    """kill -9 of the pack: its programs end with it."""
    line = (
        "echo $$ >> {run}/pids; echo begun >> {run}/begun; if [ -e go ]; then touch {run}/done-{lr}; else sleep 600; fi"
    )
    document = {"stages": {"once": {"command": line, "minutes": 1, "gpu": False}},
                "studies": {"s": {"grid": {"lr": [1, 2, 3]}}}}  # fmt: skip
    write(tmp_path, document)
    command("submit", "programs.yaml", "--site", "site.yaml", "--yes")
    runs = tmp_path / "output" / "runs"
    wait_for(lambda: len(list(runs.glob("*/pids"))) == 2)  # slots
    (task,) = (tmp_path / "output" / "submissions").glob("*/task-0.json")
    os.kill(json.loads(task.read_text())["pid"], signal.SIGKILL)
    pids = [int(path.read_text()) for path in runs.glob("*/pids")]
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") and _lives(pid) for pid in pids))
    (tmp_path / "go").touch()
    for _ in range(3):
        command("rerun", "--failed", "--yes", "--wait", check=False)
        command("submit", "programs.yaml", "--site", "site.yaml", "--yes", "--wait")
        if counts(command) == {"completed": 3}:
            break
        time.sleep(1)
    assert counts(command) == {"completed": 3}
    assert sorted(len(path.read_text().split()) for path in runs.glob("*/begun")) == [1, 2, 2]


def _lives(pid):
    try:
        return open(f"/proc/{pid}/stat").read().split()[2] != "Z"
    except OSError:
        return False


MODELS = """
import json
from tiny_transformers.common.work import Outcome, Score

def run(work):
    assert (work.model_dir).is_dir()
    return Outcome(scores=[Score("words", "accuracy", work.settings["value"], 10)])
"""


@pytest.fixture
def with_models(command, tmp_path, few_runs):
    """A study of two models with a function and a command of the user's behind our stages, which are stand-ins."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ewok.py").write_text(MODELS)
    document = yaml.safe_load(few_runs.read_text())
    document["studies"] = {"second": document["studies"]["second"] | {"stages": ["pretrain", "size", "ewok"]}}
    document["stages"] = {
        "ewok": {"run": "mine.ewok:run", "needs": ["pretrain"], "settings": {"value": 0.25}},
        "size": {"command": "test -d {model} && echo '{\"scores\": []}' > {out}", "needs": ["ewok"]},
    }
    few_runs.write_text(yaml.safe_dump(document))
    return command


def test_a_function_and_a_command_follow_our_stages(with_models, tmp_path):
    with_models("submit", "experiments.yaml", "--site", "site.yaml", "--yes", "--wait")
    shown = status(with_models)
    assert [list(run["stages"]) for run in shown["runs"]] == [["pretrain", "ewok", "size"]] * 2
    assert counts(with_models) == {"completed": 6}
    with_models("report")
    assert "ewok words accuracy: mean" in (tmp_path / "output" / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("run", "said"),
    [("mine.ewoc:run", "there is no module mine.ewoc, neither in {} nor installed."),
     ("mine.ewok:evaluate", "{}/mine/ewok.py defines no evaluate.")],
)  # fmt: skip
def test_a_function_that_no_job_would_find_is_refused_before_anything_is_submitted(with_models, tmp_path, run, said):
    path = tmp_path / "experiments.yaml"
    path.write_text(path.read_text().replace("mine.ewok:run", run))
    refused = with_models("submit", "experiments.yaml", "--site", "site.yaml", "--yes", check=False)
    assert (refused.returncode, said.format(tmp_path) in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "output" / "stages").exists()
