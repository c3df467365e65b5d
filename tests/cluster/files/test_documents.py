"""A file that is not of its kind is refused with what is wrong in it."""

import json

import pytest

from cluster.files import documents, fields
from cluster.files.whole_files import TornFile

SCORE = {"task": "average", "metric": "accuracy", "value": 0.5, "n": 100}


def result(**outcome):
    return {
        "status": "completed",
        "cause": None,
        "message": None,
        "ended": 1.8e9,
        "outcome": {"scores": [SCORE]} | outcome,
    }


def test_a_file_of_its_kind_is_its_value_and_what_a_later_version_added_is_kept(tmp_path):
    path = tmp_path / "result.json"
    value = result(metrics={"loss": 1, "precision": "bfloat16"}) | {"new": [1]}
    path.write_text(json.dumps(value))
    assert documents.read(path, documents.ResultFile) == value
    assert documents.read(tmp_path / "absent.json", documents.ResultFile) is None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ([1], "must be an object"),
        (None, "must be an object"),
        ({}, "status: is missing"),
        (result() | {"status": ["completed"]}, "status: must be one of completed, failed"),
        (result() | {"cause": "bad luck"}, "cause: must be one of error, timeout,"),
        (result() | {"message": {"a": 1}}, "message: must be text"),
        (result() | {"ended": float("nan")}, "ended: must be a number"),
        (result() | {"ended": 10**400}, "ended: must be a number"),
        (result() | {"ended": True}, "ended: must be a number"),
        (result(scores=None), "outcome.scores: must be a list"),
        (result(scores=[SCORE | {"n": 10**30}]), "outcome.scores.0.n: must be a whole number"),
        (result(scores=[SCORE, {**SCORE, "value": "high"}]), "outcome.scores.1.value: must be a number"),
        (result(scores=[{"task": "a"}]), "outcome.scores.0.metric: is missing"),
        (result(metrics=[1]), "outcome.metrics: must be an object"),
        (result(checks=[{"name": "x", "passed": True, "blocking": False}]), "outcome.checks.0.value: is missing"),
        (result(data={"file": 1}), "outcome.data.file: must be text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_place(tmp_path, value, wrong):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(value))
    with pytest.raises(TornFile) as error:
        documents.read(path, documents.ResultFile)
    assert str(error.value).startswith(f"{path}: is no result.json ({wrong}")


def test_a_result_with_a_check_that_is_no_number_is_a_result(tmp_path):
    """As of a loss that diverged: the attempt must not count as lost for it."""
    path = tmp_path / "result.json"
    check = {"name": "loss", "passed": False, "value": float("nan"), "blocking": False}
    path.write_text(json.dumps(result(checks=[check], metrics={"loss": float("inf"), "compiled": True})))
    assert documents.read(path, documents.ResultFile)


def test_a_field_that_an_earlier_version_named_otherwise_is_read_by_its_name_of_today(tmp_path):
    life = {"pid": 1, "host": "n1", "started": 1.0, "job": "7", "restart": 0, "time": 2.0}
    (tmp_path / "claim.json").write_text(json.dumps(life | {"token": "aa"}))
    assert documents.read(tmp_path / "claim.json", documents.Claim) == life | {"submission_id": "aa"}
    (tmp_path / "heartbeat.json").write_text(json.dumps({"time": 2.0, "token": "aa"}))
    assert documents.read(tmp_path / "heartbeat.json", documents.Heartbeat) == {"time": 2.0, "token": "aa"}, (
        "no such field"
    )


def test_a_file_that_comes_while_it_is_asked_for_is_absent_or_there(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda _: True)
    assert documents.read(tmp_path / "claim.json", documents.Claim) is None


def test_a_heartbeat_has_numbers_but_a_loss_that_is_none_is_still_a_heartbeat():
    beat = {"time": 1.0, "loss": float("nan"), "seconds_left": float("inf")}
    assert fields.find_fault(beat, documents.Heartbeat) == ""
    assert fields.find_fault(beat | {"loss": "high"}, documents.Heartbeat) == "loss: must be a number"
    assert fields.find_fault(beat | {"loss": 10**400}, documents.Heartbeat) == "loss: must be a number"


def test_stages_of_a_pack_are_pairs():
    packed = {"run_id": "abc", "stages": [["pretrain", 1]]}
    assert fields.find_fault(packed, documents.PackedRun) == ""
    for stages in ([["pretrain"]], [["pretrain", 1, 2]], [[1, "pretrain"]], ["pretrain"]):
        assert fields.find_fault(packed | {"stages": stages}, documents.PackedRun).startswith("stages.0")


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, "\x00", '{"a": 1'])
def test_what_json_cannot_be_read_is_not_whole(tmp_path, text):
    path = tmp_path / "claim.json"
    path.write_text(text)
    with pytest.raises(TornFile, match=r"claim\.json: not whole"):
        documents.read(path, documents.Claim)


def test_a_folder_in_the_place_of_a_file_is_no_file(tmp_path):
    (tmp_path / "claim.json").mkdir()
    with pytest.raises(TornFile, match=r"claim\.json: is a folder"):
        documents.read(tmp_path / "claim.json", documents.Claim)


@pytest.mark.parametrize(
    "text", ["", ".", "..", ".hidden", "a/b", "/a", "../../x", "a\\b", "a\nb", "a\x1b[2J", "a\0", "x" * 256]
)
def test_what_leads_elsewhere_is_no_name(text):
    assert not fields.is_name(text)
    packed = {"run_id": text, "stages": [["pretrain", 1]]}
    assert fields.find_fault(packed, documents.PackedRun) == "run_id: must be a name that a folder may have"


def test_ids_stages_and_hashes_are_names():
    for text in ("0123456789ab", "cafe", "add_tokenizer", "3f2a-set-1b2c3d-my experiments.yaml", "ä"):
        assert fields.is_name(text)


@pytest.mark.parametrize("time", [-1.0, 1e300, float("nan"), "now", True])
def test_a_time_is_one_that_a_calendar_has(time):
    assert fields.find_fault({"time": time}, documents.Heartbeat).startswith("time: must be a number")
