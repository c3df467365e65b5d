"""A study with teachers on a real cluster: one that fails blocks its students, and its rerun frees them."""

import json

import pytest
import yaml
from slurm.faults import wait_for

from cluster.files import whole_files
from cluster.manifest import grids, loading
from cluster.plan import expansion

pytestmark = pytest.mark.slurm
LESSONS = {"model": "gpt", "seeds": [1, 2], "grid": {"train.teacher": [None, {"model": "big"}]}}
SUBMIT = ("submit", "experiments.yaml", "--site", "site.yaml", "--yes")


def test_a_teacher_is_trained_once_its_failure_blocks_its_students_and_its_rerun_frees_them(study):
    path = study.folder / "experiments.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["defaults"]["stages"] = ["pretrain", "add_tokenizer"]
    manifest["models"]["big"] = manifest["models"]["gpt"] | {"hidden_size": 48}
    path.write_text(yaml.safe_dump(manifest | {"studies": {"lessons": LESSONS}}))
    runs = expansion.expand(grids.cells(loading.load(path)))
    teacher, *others = sorted((run.id for run in runs), key=lambda run_id: not _is_teacher(runs, run_id))
    students = [run.id for run in runs if run.config.teacher]
    assert (len(runs), len(students)) == (5, 2)
    told = study.folder / "fake_science.json"
    told.write_text(json.dumps({teacher: {"pretrain": "fail"}}))
    said = study.run(*SUBMIT)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "2 runs wait for pretrain of big-" in " ".join(said.stdout.split())

    def statuses():
        shown = json.loads(study.run("status", "--json").stdout)
        return {run["run_id"]: {stage["status"] for stage in run["stages"].values()} for run in shown["runs"]}

    def submitted():
        packs = [whole_files.read_json(each)["packs"] for each in study.output.glob("submissions/*/submission.json")]
        return sorted(item["run_id"] for pack in packs for items in pack for item in items)

    plain = [run_id for run_id in others if run_id not in students]
    blocked = {teacher: {"failed"}} | dict.fromkeys(plain, {"completed"}) | dict.fromkeys(students, {"blocked"})
    wait_for(lambda: statuses() == blocked, 300)
    shown = " ".join(study.run("status").stdout.split())
    assert "2 runs blocked, since pretrain of big-" in shown
    assert f"`rerun --failed --run {teacher}` frees them" in shown
    assert study.run("tick").returncode == 0
    assert submitted() == sorted([teacher, *plain]), "students of a teacher that failed are not submitted"
    told.write_text("{}")
    assert study.run("rerun", "--failed", "--yes").returncode == 0
    completed = dict.fromkeys([teacher, *others], {"completed"})

    def all_completed():
        assert study.run("tick").returncode == 0
        return statuses() == completed

    wait_for(all_completed, 300)
    assert submitted() == sorted([teacher, teacher, *plain, *students]), "each student once"
    for run_id in (teacher, *others):
        done = (study.output / "runs" / run_id / "done.txt").read_text().split()
        assert done.count("pretrain") == 1
    assert not list(study.output.glob("requests/*"))


def _is_teacher(runs, run_id):
    return any(need["run_id"] == run_id for run in runs for need in run.needs)
