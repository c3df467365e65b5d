"""When a follow-up's choice is made, what it waits for, and that it is made once, whoever is killed on the way."""

import errno
import json
import os
import re

import numpy as np
import pytest

from cluster.files import whole_files
from cluster.ledger import recording
from cluster.manifest import follow_ups, grids, loading
from cluster.plan import expansion, following
from cluster.reconcile import reconciling
from cluster.submit import choices
from tiny_transformers.common import pairs

MANIFEST = """
defaults: {data: {source: builtin}, train: {max_steps: 10}, stages: [pretrain, add_tokenizer, blimp], seeds: [1]}
models:
  gpt: {family: gpt_neo, hidden_size: 32, num_heads: 2, intermediate_size: 48}
studies:
  first: {model: gpt, grid: {model.activation: [gelu, relu, silu]}}
  again: {model: gpt, grid: {model.activation: [silu, none]}}
  longer:
    from: {study: [first, again], best: 2, by: blimp.average.accuracy, failed: FAILED}
    seeds: [2]
  longest:
    from: {study: longer, by: blimp.average.accuracy}
    train.max_steps: 90
"""
SOURCE = {"created": "2026-11-30T05:00:00+00:00", "site": {"name": "here"}, "data_root": None}


class Scene:
    """A manifest that was submitted, and what has become of its runs."""

    def __init__(self, folder, root, ledger, failed="wait", text=MANIFEST):
        path = folder / "experiments.yaml"
        path.write_text(text.replace("FAILED", failed))
        document = loading.load(path)
        cells = grids.cells(document)
        self.root, self.ledger = root, ledger
        self.runs = expansion.expand(cells)
        self.plans = following.plans(document, follow_ups.follow_ups(document), cells)
        self.longer, self.longest = self.plans
        recording.record_runs(ledger, root, self.runs, SOURCE["created"])
        self.ask()

    def ask(self):
        choices.ask(self.root, choices.known(self.root, self.plans), SOURCE)

    def ends(self, run_id, value=None, status="completed", action="stop", stage="blimp"):
        self.ledger.put_attempt(run_id, stage, 1, submission_id="0" * 12, pack_index=0, status=status, cause="error")
        if value is not None:
            score = {"task": "average", "metric": "accuracy", "value": value, "n": 1000}
            self.ledger.put_outcome(run_id, stage, 1, {"scores": [score]})
        if status == "failed" and action:
            self.ledger.put_decision({"run_id": run_id, "stage": stage, "number": 1, "time": 0.0, "action": action,
                                      "cause": "error", "tries": 1, "changes": "", "due": 1e10})  # fmt: skip

    def waits(self):
        return choices.judge(self.ledger, self.plans[self.longer]).waits

    def go_on(self):
        return choices.go_on(self.ledger, self.root)

    def asked(self):
        """Choice -> the runs that its request asks for; of one that waits, None."""
        found = {}
        for path in self.root.requests():
            request = whole_files.read_json(path)
            found[path.stem] = None if "choice" in request else request["runs"]
        return found

    @property
    def chosen(self):
        choice = whole_files.read_json(self.root.choice(self.longer).choice)
        return choice and [each["label"].split("-")[1] for each in choice["ranked"] if each["chosen"]]


@pytest.fixture
def scene(tmp_path, root, ledger):
    return Scene(tmp_path, root, ledger)


def test_a_choice_waits_for_every_score_of_its_sources(scene):
    assert len(scene.runs) == 4
    for number, run in enumerate(scene.runs):
        assert f"{number} of 4 runs of first and again have blimp.average.accuracy" in scene.waits()
        assert scene.go_on() == choices.Went(2, 0)
        scene.ends(run.id, 0.1 * number)
    assert not scene.waits()
    assert scene.go_on() == choices.Went(2, 1)
    assert scene.chosen == ["none", "silu"], "silu is a cell of both sources, and chosen once"
    runs = whole_files.read_json(scene.root.choice(scene.longer).choice)["runs"]
    assert scene.asked() == {scene.longer: runs, scene.longest: None}
    assert len(runs) == 2
    assert {run.id: run.studies for run in scene.ledger.runs(runs)} == dict.fromkeys(runs, ("longer",))
    (study,) = scene.ledger.studies()
    assert study["grids"][0]["runs"] == runs


def test_a_torn_choice_is_named_and_neither_made_again_nor_in_the_way_of_others(scene, capsys):
    for run in scene.runs:
        scene.ends(run.id, 0.5)
    path = scene.root.choice(scene.longer).choice
    path.write_text('{"study": "lon')
    assert scene.go_on() == choices.Went(2, 0)
    assert f"{path}" in capsys.readouterr().out.replace("\n", "")
    assert path.read_text() == '{"study": "lon'
    assert scene.asked() == {scene.longer: None, scene.longest: None}


def test_what_begins_from_a_choice_chooses_among_what_was_chosen(scene):
    for run in scene.runs:
        scene.ends(run.id, 0.5)
    scene.go_on()
    runs = scene.asked()[scene.longer]
    assert "0 of 2 runs of longer have" in choices.judge(scene.ledger, scene.plans[scene.longest]).waits
    for run_id in runs:
        scene.ends(run_id, 0.5)
    assert scene.go_on() == choices.Went(1, 1)
    assert len(scene.asked()[scene.longest]) == 1


@pytest.mark.parametrize(("failed", "chosen"), [("wait", None), ("leave_out", ["silu", "relu"])])
def test_a_failed_cell_is_waited_for_or_left_out_as_the_study_says(tmp_path, root, ledger, failed, chosen):
    scene = Scene(tmp_path, root, ledger, failed)
    *others, last = scene.runs
    for number, run in enumerate(others):
        scene.ends(run.id, 0.1 * number)
    scene.ends(last.id, status="failed", action="retry")
    assert "3 of 4 runs" in scene.waits(), "a rule tries it again"
    scene.ends(last.id, status="failed")
    scene.go_on()
    assert scene.chosen == chosen
    assert (f"{last.id} failed: `rerun --failed` does what failed again" in scene.waits()) == (failed == "wait")
    if chosen:
        (out,) = [
            each for each in whole_files.read_json(root.choice(scene.longer).choice)["ranked"] if each["place"] is None
        ]
        assert out["left_out"] == "its blimp failed (error)"


def test_a_cell_fails_with_what_its_score_needs(tmp_path, root, ledger):
    scene = Scene(tmp_path, root, ledger, "leave_out")
    first, *others = scene.runs
    scene.ends(first.id, status="failed", stage="pretrain")
    scene.ends(others[0].id)  # completed, and without the score that chooses
    for run in others[1:]:
        scene.ends(run.id, 0.5)
    scene.go_on()
    ranked = whole_files.read_json(root.choice(scene.longer).choice)["ranked"]
    assert [each.get("left_out") for each in ranked] == [
        None, None, "its pretrain failed (error)", "its blimp has no average accuracy"
    ]  # fmt: skip


def test_nothing_is_chosen_of_cells_that_all_failed(tmp_path, root, ledger):
    scene = Scene(tmp_path, root, ledger, "leave_out")
    for run in scene.runs:
        scene.ends(run.id, status="failed")
    scene.go_on()
    assert scene.chosen is None


def all_scored(scene):
    for number, run in enumerate(scene.runs):
        scene.ends(run.id, 0.1 * number)


def test_a_choice_stands_whatever_becomes_of_its_scores_and_whoever_asks_again(scene):
    all_scored(scene)
    scene.go_on()
    before = scene.root.choice(scene.longer).choice.read_bytes()
    for number, run in enumerate(scene.runs):
        scene.ends(run.id, 0.9 - 0.1 * number)
    scene.root.choice(scene.longer).plan.unlink()
    scene.ask()
    assert scene.go_on() == choices.Went(1, 0), "the other one waits, and this one is asked for no more"
    assert scene.root.choice(scene.longer).choice.read_bytes() == before
    assert scene.root.choice(scene.longer).plan.exists()
    known = choices.known(scene.root, scene.plans)
    assert [run.id for run in known.runs] == json.loads(before)["runs"]
    assert list(known.waiting) == [scene.longest]


@pytest.mark.parametrize("point", ["put_choice", "record_runs", "record_studies", "write_json"])
def test_whoever_is_killed_between_a_choice_and_its_request_is_followed(scene, monkeypatch, point):
    all_scored(scene)
    where = {"put_choice": scene.ledger, "write_json": whole_files}.get(point, recording)
    with monkeypatch.context() as patch:
        patch.setattr(where, point, killed, raising=True)
        with pytest.raises(KeyboardInterrupt):
            scene.go_on()
    chosen = scene.root.choice(scene.longer).choice.read_bytes()
    all_scored(scene)
    for number, run in enumerate(scene.runs):  # and its scores are others by now
        scene.ends(run.id, 0.9 - 0.1 * number)
    assert scene.go_on() == choices.Went(2, 1)
    assert scene.root.choice(scene.longer).choice.read_bytes() == chosen
    assert scene.asked()[scene.longer] == json.loads(chosen)["runs"]


def killed(*_, **__):
    raise KeyboardInterrupt


def test_a_choice_that_another_one_made_meanwhile_is_the_one(scene, monkeypatch):
    all_scored(scene)
    scene.go_on()
    path = scene.root.choice(scene.longer).choice
    first = path.read_bytes()
    path.unlink()
    scene.ask()

    def just_before(path, value):
        if not path.exists():
            path.write_bytes(first)
        return real(path, value)

    real = whole_files.create_json
    monkeypatch.setattr(whole_files, "create_json", just_before)
    for number, run in enumerate(scene.runs):
        scene.ends(run.id, 0.9 - 0.1 * number)
    scene.go_on()
    assert path.read_bytes() == first
    assert scene.asked()[scene.longer] == json.loads(first)["runs"]


def test_a_manifest_that_asks_another_question_takes_the_place_of_what_waits(tmp_path, root, ledger, scene):
    other = Scene(tmp_path, root, ledger, text=MANIFEST.replace("best: 2", "best: 1"))
    assert set(other.plans).isdisjoint(scene.plans)
    assert set(other.asked()) == set(other.plans)


def test_what_was_chosen_is_asked_for_though_the_manifest_asks_another_question_before(
    tmp_path, root, ledger, scene, monkeypatch
):
    all_scored(scene)
    with monkeypatch.context() as patch:
        patch.setattr(recording, "record_runs", killed)
        with pytest.raises(KeyboardInterrupt):
            scene.go_on()
    other = Scene(tmp_path, root, ledger, text=MANIFEST.replace("best: 2", "best: 1"))
    assert set(other.asked()) == {*other.plans, scene.longer}
    other.go_on()
    assert other.asked()[scene.longer] == whole_files.read_json(root.choice(scene.longer).choice)["runs"]


def test_a_ledger_that_is_made_again_knows_what_was_chosen(scene):
    all_scored(scene)
    scene.go_on()
    before = scene.ledger.choices()
    assert list(before) == [scene.longer]
    with scene.ledger.transaction():
        scene.ledger.db.execute("DELETE FROM choice")
    assert reconciling.rebuild(scene.ledger, scene.root) == []
    assert scene.ledger.choices() == before


def test_a_choice_says_how_sure_it_is_by_the_rows_that_both_have_kept(scene):
    rng = np.random.default_rng(0)
    right = {run.id: rng.random(400) < 0.4 + 0.1 * number for number, run in enumerate(scene.runs)}
    for run_id, rows in right.items():
        kept = pairs.KeptPairs(
            {"t": "0" * 64}, np.array([400]), np.arange(400, dtype=np.int32), 1.0 * rows, np.full(400, 0.5), {}
        )
        pairs.write(scene.root.run(run_id).path / "scores" / "blimp.npz", kept)
        scene.ends(run_id, float(rows.mean()))
    scene.go_on()
    (told,) = scene.ledger.choices()[scene.longer]["told"]
    last, following = (right[run.id] for run in scene.runs[2:0:-1])
    spread = np.std(last.astype(int) - following.astype(int)) / 400**0.5
    shown = re.search(r"\((\d+\.\d) points, 95 %, by the same rows alone: 1 seed says too little\)", told)
    assert float(shown[1]) == pytest.approx(196 * spread, abs=0.3)


def test_a_choice_of_a_user_who_cancelled_everything_waits(scene):
    all_scored(scene)
    request = scene.root.request(scene.longer)
    whole_files.write_json(request, {**whole_files.read_json(request), "user": "ann"})
    assert scene.ledger.choices() == {}
    choices.go_on(scene.ledger, scene.root, {"ann": "10:00"})
    assert scene.chosen is None
    choices.go_on(scene.ledger, scene.root, {"bob": "10:00"})
    assert scene.chosen


def test_a_plan_that_cannot_be_read_is_told_and_the_others_go_on(scene, capsys):
    scene.root.choice(scene.longest).plan.write_text("{")
    all_scored(scene)
    assert scene.go_on() == choices.Went(2, 1)
    told, request = capsys.readouterr().out, scene.root.request(scene.longest)
    created = whole_files.read_json(request)["created"]
    assert "plan.json: cannot be read, so nothing is chosen, or comes of what was: `submit` its manifest" in told
    assert f"as it was on {created[:10]} at {created[11:16]}. If nobody asks for" in told
    assert f"that any more, remove {request}." in told


def test_a_choice_whose_file_the_disk_does_not_give_is_told_and_all_else_goes_on(scene):
    all_scored(scene)
    path = scene.root.choice(scene.longest).choice
    path.symlink_to(path)
    os.utime(scene.root.request(scene.longest), (0, 0))  # it is looked at first
    went = scene.go_on()
    assert (went.looked_at, went.made) == (2, 1)
    (problem,) = map(str, went.problems)
    assert problem.startswith(f"{path.parent}: [Errno {errno.ELOOP}]")
    assert list(scene.ledger.choices()) == [scene.longer]
    study = scene.root.study("first")
    study.parent.mkdir(exist_ok=True)
    study.symlink_to(study)
    assert reconciling.reconcile(scene.ledger, scene.root, None) == "none"
    with pytest.raises(OSError, match="first.json"):
        reconciling.rebuild(scene.ledger, scene.root)
    path.unlink()
    assert scene.go_on() == choices.Went(1, 0), "it waits as before"


def test_a_folder_of_choices_or_requests_that_the_disk_does_not_list_holds_up_nothing_else(scene):
    for folder in (scene.root.choice("any").path.parent, scene.root.study("any").parent):
        kept = folder.rename(folder.with_name("kept")) if folder.exists() else None
        folder.symlink_to(folder)
        assert reconciling.reconcile(scene.ledger, scene.root, None) == "none"
        with pytest.raises(OSError, match=folder.name):
            reconciling.rebuild(scene.ledger, scene.root)
        folder.unlink()
        if kept:
            kept.rename(folder)
    requests = scene.root.request("any").parent
    requests.rename(requests.with_name("kept"))
    requests.symlink_to(requests)
    went = scene.go_on()
    assert (went.looked_at, [str(requests) in str(each) for each in went.problems]) == (0, [True])
