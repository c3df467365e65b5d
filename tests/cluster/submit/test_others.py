"""What waits for the product of another run of the same OUTPUT_ROOT, by what is planned, in the ledger, in words."""

import json
from dataclasses import replace

import pytest

from cluster.console import duration
from cluster.files.records import StageState
from cluster.ledger import recording
from cluster.manifest import grids, loading
from cluster.plan import choosing, cost, expansion, outlook, packing
from cluster.report import results
from cluster.sites.profiles import Site
from cluster.slurm.queries import Slurm
from cluster.status import needs
from cluster.submit import dispatch, others, tables

MANIFEST = """
defaults: {data: {source: builtin}, stages: [pretrain, add_tokenizer]}
models:
  gpt: {family: gpt_neo, hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 48}
  big: {family: gpt_neo, hidden_size: 48, num_layers: 2, num_heads: 2, intermediate_size: 64}
studies:
  lessons:
    model: gpt
    seeds: [1, 2]
    grid: {train.teacher: [{model: big}, null]}
"""


@pytest.fixture
def lessons(tmp_path):
    """A teacher, two students, two runs without a teacher; in this order."""
    path = tmp_path / "lessons.yaml"
    path.write_text(MANIFEST)
    planned = expansion.expand(grids.cells(loading.load(path)))
    assert [len(run.needs) for run in planned] == [0, 1, 1, 0, 0]
    return planned


def known(lessons, status):
    return {lessons[0].id: {"pretrain": StageState(status, 1)}}


def look(root, lessons, states, runs=None):
    return others.look(root, [(run, list(run.stages)) for run in runs or lessons], states)


@pytest.mark.parametrize("status", ["waiting", "submitted", "running", "failed", "completed"])
def test_a_student_waits_until_its_teacher_is_trained(root, lessons, status):
    root.run(lessons[0].id).model.mkdir(parents=True)
    found = look(root, lessons, known(lessons, status), lessons[1:])
    waits = set() if status == "completed" else {run.id for run in lessons[1:3]}
    assert (found.later.keys(), found.gone) == (waits, {})
    again = look(root, lessons, known(lessons, status))
    assert again.later.keys() == {run.id for run in lessons[1:3]}, (
        "its teacher is trained once more, by the same command"
    )
    rest = others.look(root, [(lessons[1], ["add_tokenizer"])], known(lessons, status))
    assert rest == others.Others({}, {}), "what follows from its own training waits for no teacher"


def test_a_student_is_left_alone_if_its_teachers_model_was_removed(root, lessons):
    found = look(root, lessons, known(lessons, "completed"), lessons[1:])
    assert (found.later, found.gone.keys()) == ({}, {run.id for run in lessons[1:3]})
    told = others.told_gone(found.gone, root)
    assert told.startswith("2 runs left alone: the model that they learn from is gone (")
    assert told.endswith(f"`rerun --stage pretrain --run {lessons[0].id}`.")


def test_what_waits_is_planned_and_costed_with_the_rest_and_not_submitted(lessons):
    site = Site(name="test", scheduler="local", cpus=4, flops=1e10)
    todo = [(run, list(run.stages)) for run in lessons]
    later = {run.id for run in lessons[1:3]}
    asked = dispatch.request(None, lessons, todo, {}, site, cost.Measured.nothing(site), [], Slurm(), later=later)

    def runs_of(arrays):
        return {item.run_id for array in arrays for pack in array.packs for item in pack.items}

    assert (runs_of(asked.arrays), runs_of(asked.later)) == ({run.id for run in lessons} - later, later)
    assert runs_of(asked.planned) == {item.run_id for item in asked.items} == {run.id for run in lessons}


def test_the_end_is_foretold_with_students_after_their_teacher(lessons):
    site = Site(name="test", scheduler="slurm", cpus=4, flops=1e8)
    measured, by_id = cost.Measured.nothing(site), {run.id: run for run in lessons}
    first, later = (
        packing.arrange([choosing.item(run, run.stages, {}, measured) for run in some], by_id, site, measured)
        for some in ((lessons[0], *lessons[3:]), lessons[1:3])
    )
    ends = [outlook.predict(arrays, site).end for arrays in (first, later)]
    assert outlook.predict([*first, *later], site).end < sum(ends)
    told = tables.outlook_view([*first, *later], site, "hours", later)
    assert f"Predicted to end in {duration(sum(ends))}" in told


def test_a_students_status_follows_that_of_its_teacher(ledger, root, lessons):
    recording.record_runs(ledger, root, lessons, "2026-01-01T00:00:00")
    teacher, student = lessons[0].id, lessons[1].id

    def status():
        of_student = {stage: state.status for stage, state in ledger.states()[student].items()}
        (row,) = ledger.overview([student])
        assert {stage: state["status"] for stage, state in row["stages"].items()} == of_student
        return tuple(of_student.values())

    def attempt(number, **values):
        ledger.put_attempt(teacher, "pretrain", number, **values)

    assert status() == ("waiting", "waiting")
    row = {"submission_id": "s", "created": "", "scheduler": "local", "site": "here", "state": "submitted"}
    for number, outcome in ((1, "failed"), (2, "completed")):
        ledger.record_submission(
            row | {"submission_id": f"s{number}"},
            [{"run_id": teacher, "stage": "pretrain", "number": number, "pack_index": 0, "status": "submitted"}],
        )
        assert status() == ("waiting", "waiting"), "also while a teacher that failed is tried again"
        attempt(number, status="running", started=1.0)
        assert status() == ("waiting", "waiting")
        attempt(number, status=outcome, cause="cancelled" if outcome == "failed" else None, message="by hand")
        assert status() == (("blocked", "blocked") if outcome == "failed" else ("eligible", "waiting"))
        told = needs.told_of_others(ledger.unmet_needs(), " --smoke")
        if outcome == "failed":
            assert told == [
                f"2 runs blocked, since pretrain of {lessons[0].name} ({teacher}) failed (cancelled: by hand): "
                f"`rerun --failed --run {teacher} --smoke` frees them"
            ]
    assert told == []
    assert ledger.runs_that_need() == {run.id for run in lessons[1:3]}
    assert ledger.tally()["lessons"]["pretrain"] == {"completed": 1, "eligible": 4}


def test_what_needs_a_run_that_nobody_knows_waits_for_it(ledger, root, lessons):
    recording.record_runs(ledger, root, lessons[1:2], "2026-01-01T00:00:00")
    (row,) = ledger.unmet_needs()
    assert (row["run_id"], row["name"], row["status"], row["runs"]) == (lessons[0].id, None, "waiting", 1)
    assert "waits for pretrain of a run that is gone" in needs.told_of_others([row], "")[0]


def test_a_teacher_is_no_row_of_a_study_that_has_it_for_its_students_alone(ledger, root, lessons, tmp_path):
    manifest = loading.load(tmp_path / "lessons.yaml")
    recording.record_runs(ledger, root, lessons, "2026-01-01T00:00:00")
    recording.record_studies(ledger, root, expansion.studies(manifest, grids.cells(manifest)))
    (study,) = results.read(ledger)
    assert {run.run_id for run in study.runs} == {run.id for run in lessons[1:]}
    labels = [variant.label for variant in study.variants]
    assert [label for label in labels if "from-big-a0.5-T2" in label] == labels[:1]


def test_run_json_says_what_a_run_needs_whichever_study_asked_first(ledger, root, lessons):
    short = replace(lessons[1], stages=("pretrain",))
    for run in (short, lessons[1]):
        recording.record_runs(ledger, root, [run], "2026-01-01T00:00:00")
        told = json.loads(root.run(run.id).run_json.read_text())
        assert told["needs"] == [{"stage": "pretrain", "run_id": lessons[0].id, "needed": "pretrain"}]
