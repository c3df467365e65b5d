import json
import os
import socket
import subprocess
import sys

import pytest

from cluster.files import folders, processes, whole_files


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    whole_files.write_json(path, {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        whole_files.write_json(path, {"a": 2})
    monkeypatch.undo()
    assert whole_files.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_missing_file_is_none_and_a_torn_one_is_told(tmp_path):
    assert whole_files.read_json(tmp_path / "none.json") is None
    torn = tmp_path / "torn.json"
    torn.write_text('{"status": "comple')
    with pytest.raises(whole_files.TornFile, match="torn.json: not whole"):
        whole_files.read_json(torn)
    torn.write_bytes(b"\x00" * 100)  # as some file systems leave it after a crash
    with pytest.raises(whole_files.TornFile):
        whole_files.read_json(torn)


def test_halves_of_characters_are_none_when_a_file_is_read(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a\udc80": ["\U0001f600 \udcff", 1, float("inf")]}))
    assert whole_files.read_json(tmp_path / "x.json") == {"a?": ["\U0001f600 ?", 1, float("inf")]}
    (tmp_path / "x.json").write_text(r'"\uDCFF \\ud800"')
    assert whole_files.read_json(tmp_path / "x.json") == r"? \ud800"


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="there is no file here that cannot be read")
def test_a_file_that_the_system_cannot_read_is_named_and_is_not_torn(tmp_path):
    (tmp_path / "claim.json").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error.*claim.json"):
        whole_files.read_json(tmp_path / "claim.json")


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"", []),
        (b"one\n\nthree\n", ["one", "", "three"]),
        (b"10 %\r20 %\r30 %\nend", ["30 %", "end"]),
        (b"as Windows\r\nwrites\r\r\n", ["as Windows", "writes"]),
        (b"bar\r   \r", ["   "]),
        (b"caf\xe9\x0b\xc2\x85", ["caf\ufffd\x0b\x85"]),
        (b"\r" * 100_000 + b"a" * 100_000, ["a" * 100_000]),
    ],
)
def test_of_a_line_of_a_log_that_was_written_over_the_last_state_is_shown(tmp_path, written, lines):
    assert whole_files.log_lines(written) == lines
    (tmp_path / "log.txt").write_bytes(written)
    assert whole_files.tail(tmp_path / "log.txt", 1) == [line[-65_536:] for line in lines[-1:]]


def test_runs_are_the_folders_with_a_run_json(tmp_path):
    root = folders.OutputRoot(tmp_path)
    assert root.runs() == []
    for name in ("b", "a", "empty"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "file").touch()
    for name in ("b", "a"):
        (tmp_path / "runs" / name / "run.json").touch()
    assert root.runs() == [root.run("a"), root.run("b")]


def test_one_of_many_claims_wins(tmp_path):
    code = (
        "import sys; from pathlib import Path; from cluster.files import whole_files\n"
        "print(whole_files.create_json(Path(sys.argv[1]), {'pid': 1}))"
    )
    claim = str(tmp_path / "stages" / "claim.json")
    racers = [subprocess.Popen([sys.executable, "-c", code, claim], stdout=subprocess.PIPE) for _ in range(6)]
    assert sorted(racer.communicate()[0].strip() for racer in racers) == [b"False"] * 5 + [b"True"]


def test_a_claim_that_was_made_counts_though_its_draft_stays(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "unlink", fails)
    claims = [whole_files.create_json(tmp_path / "claim.json", {"pid": 1}) for _ in range(2)]
    assert claims == [True, False]


def test_a_claim_whose_answer_was_lost_on_the_way_is_ones_own(tmp_path, monkeypatch):
    """NFS asks again, and is told that it is there."""
    real = os.link

    def answered_late(source, target):
        real(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", answered_late)
    assert whole_files.create_json(tmp_path / "claim.json", {"pid": 1})
    monkeypatch.undo()
    assert not whole_files.create_json(tmp_path / "claim.json", {"pid": 2})
    assert whole_files.read_json(tmp_path / "claim.json") == {"pid": 1}


@pytest.mark.parametrize(
    ("seen", "killed", "alive"),
    [
        (FileNotFoundError(2, "No such file"), PermissionError(1, "Operation not permitted"), None),  # hidepid=2
        (FileNotFoundError(2, "No such file"), ProcessLookupError(3, "No such process"), False),
        (PermissionError(13, "Permission denied"), None, None),  # hidepid=1
    ],
)
def test_a_process_that_proc_hides_is_not_dead(monkeypatch, seen, killed, alive):
    def fails(error):
        def fail(*_, **__):
            raise error

        return fail

    monkeypatch.setattr("builtins.open", fails(seen))
    monkeypatch.setattr(os, "kill", fails(killed))
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    told = processes.is_alive({"host": socket.gethostname(), "pid": 7, "start": "1"})
    monkeypatch.undo()
    assert told is alive


def test_a_process_is_told_from_another_with_its_pid():
    start = processes.process_start(os.getpid())
    assert start == processes.process_start(os.getpid())
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "start": start}
    assert [processes.is_alive(mine | other) for other in ({}, {"start": "1"}, {"host": "another"})] == [
        True,
        False,
        None,
    ]
    child = subprocess.Popen(["sleep", "60"])
    assert processes.process_start(child.pid) not in (None, start)
    child.kill()
    child.wait()
    assert processes.process_start(child.pid) is None


def test_attempts_are_listed_by_number(tmp_path):
    run = folders.OutputRoot(tmp_path).run("abc")
    for number in (10, 9, 1):
        run.attempt("blimp", number).path.mkdir(parents=True)
    (run.path / "stages" / "blimp" / "notes").mkdir()
    assert [attempt.number for attempt in run.attempts("blimp")] == [1, 9, 10]


def test_a_tail_is_the_end_of_a_log(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("\n".join(map(str, range(100_000))))
    assert whole_files.tail(log, 2) == ["99998", "99999"]
    assert whole_files.tail(tmp_path / "none", 2) == []
