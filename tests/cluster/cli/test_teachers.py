"""Students and their teachers by the commands, on this machine, with stand-ins for the stages."""

import json
import re

import pytest

from cluster.files import whole_files
from cluster.manifest import grids, loading
from cluster.plan import expansion

MANIFEST = """
defaults: {data: {source: builtin}, stages: [pretrain, add_tokenizer]}
models:
  gpt: {family: gpt_neo, hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 48}
  big: {family: gpt_neo, hidden_size: 48, num_layers: 2, num_heads: 2, intermediate_size: 64}
studies:
  lessons:
    baseline: {train.teacher: null}
    grid:
      model: [gpt]
      train.teacher: [null, {model: big}, {model: big, alpha: 0.1}]
"""
SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml", "--yes")


@pytest.fixture
def lessons(command, few_runs):
    """The commands, and the ids of a run without a teacher, the teacher's, and its students'."""
    few_runs.write_text(MANIFEST)
    runs = expansion.expand(grids.cells(loading.load(few_runs)))
    (plain,) = [run.id for run in runs if not run.config.teacher and len(run.stages) == 2]
    (teacher,) = [run.id for run in runs if len(run.stages) == 1]
    return command, plain, teacher, [run.id for run in runs if run.config.teacher]


def statuses(command):
    shown = json.loads(command("status", "--json").stdout)
    return {run["run_id"]: [stage["status"] for stage in run["stages"].values()] for run in shown["runs"]}


def test_students_are_submitted_once_their_teacher_is_trained_and_by_nobody_else(lessons, tmp_path):
    command, plain, teacher, students = lessons
    shown = command(*SUBMIT[:-1], "--dry-run").stdout
    assert "2 runs wait for pretrain of big-" in " ".join(shown.split())
    assert shown.count(teacher) >= 1
    command(*SUBMIT, "--wait")
    assert statuses(command) == {
        run: ["completed"] * (1 if run == teacher else 2) for run in (plain, teacher, *students)
    }
    packs = [whole_files.read_json(path)["packs"] for path in tmp_path.glob("output/submissions/*/submission.json")]
    together = sorted(sorted({item["run_id"] for pack in each for item in pack}) for each in packs)
    assert together == sorted([sorted({plain, teacher}), sorted(students)])
    for run in (plain, teacher, *students):
        assert (tmp_path / "output/runs" / run / "done.txt").read_text().count("pretrain\n") == 1
    assert not list(tmp_path.glob("output/requests/*"))
    described = whole_files.read_json(tmp_path / "output/runs" / students[0] / "run.json")
    assert described["needs"] == [{"stage": "pretrain", "run_id": teacher, "needed": "pretrain"}]
    assert "needs" not in whole_files.read_json(tmp_path / "output/runs" / plain / "run.json")
    assert "Nothing is missing: 4 runs" in command(*SUBMIT).stdout


def test_a_failed_teacher_blocks_its_students_which_says_why_until_it_is_done_again(lessons, fake_science):
    command, plain, teacher, students = lessons
    fake_science.write_text(json.dumps({teacher: {"pretrain": "fail"}}))
    assert command(*SUBMIT, "--wait", check=False).returncode == 1
    blocked = dict.fromkeys(students, ["blocked"] * 2)
    assert statuses(command) == {plain: ["completed"] * 2, teacher: ["failed"], **blocked}
    told = " ".join(command("status").stdout.split())
    assert "2 runs blocked, since pretrain of big-" in told
    assert (
        f"failed (error: RuntimeError: pretrain was told to fail): `rerun --failed --run {teacher}` frees them" in told
    )
    assert "2 runs wait for pretrain of big-" in " ".join(command(*SUBMIT).stdout.split()), "submit asks for them again"
    ticked = " ".join(command("tick").stdout.split())
    assert re.search(r"2 runs wait for pretrain of big-\S+ \(\w+\), which is failed\.", ticked)
    left = command("rerun", "--stage", "pretrain", "--run", students[0], "--yes", check=False)
    assert "Left alone: do it again then." in " ".join(left.stdout.split())
    assert statuses(command)[students[0]] == ["blocked"] * 2
    fake_science.write_text("{}")
    command("rerun", "--failed", "--run", teacher, "--yes", "--wait")
    assert statuses(command)[students[0]] == ["eligible", "waiting"]
    command("ledger", "rebuild")
    assert statuses(command)[students[0]] == ["eligible", "waiting"], "it is known by files"
    command("tick")
    command(*SUBMIT, "--wait")
    assert set(map(tuple, (statuses(command)[run] for run in (plain, *students)))) == {("completed",) * 2}


def test_students_whose_teachers_model_was_removed_are_left_alone(lessons, tmp_path):
    command, _, teacher, students = lessons
    command(*SUBMIT, "--wait", "--set", "train.teacher.alpha=1")
    command("rerun", "--run", teacher, "--yes", check=False)
    command(*SUBMIT)
    assert set(statuses(command)) > set(students)
    command(*SUBMIT, "--wait")
    model = tmp_path / "output/runs" / teacher / "model"
    model.rename(model.with_name("elsewhere"))
    said = command("rerun", "--run", students[0], "--yes", check=False)
    assert "the model that they learn from is gone" in " ".join((said.stdout + said.stderr).split())
