"""A command that is told of events, as a real shell runs it."""

import json
import os
import shutil
import threading
import time

import pytest
from processes import command as run_command
from waiting import wait_for

from cluster.errors import InputError
from cluster.files import processes, whole_files
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import expansion
from cluster.reconcile import notify, reconciling, session
from cluster.sites import profiles


def settings(command, **values):
    return profiles.Site(name="here", scheduler="local", notify=profiles.Notify(command=command, **values))


@pytest.fixture
def told(tmp_path):
    """What the command has written: a line an event."""

    def read():
        path = tmp_path / "told"
        return path.read_text().splitlines() if path.exists() else []

    return read


@pytest.fixture
def write(tmp_path):
    """A command that writes its event, study and input as a line."""
    return f'echo "$TT_EVENT $TT_STUDY $(cat)" >> {tmp_path}/told'


@pytest.fixture
def started(ledger, root, runs):
    """All runs recorded, nothing of them done."""
    recording.record_runs(ledger, root, runs, "2026-01-01")
    return [run for run in runs if "first" in run.studies]


def put(ledger, runs, status="completed", number=1, **values):
    for run in runs:
        for stage in run.stages:
            ledger.put_attempt(run.id, stage, number, status=status, **values)


def test_a_study_that_finishes_is_told_once(ledger, root, started, write, told):
    notify.configure(ledger, root, settings(f"{write}; echo $TT_COMPLETED $TT_FAILED $TT_COUNTS >> {root.path}/counts"))
    put(ledger, started[1:])
    notify.tell(root)
    assert told() == []
    put(ledger, started[:1])
    for _ in range(3):
        notify.tell(root)
    assert told() == ["study_finished first first has finished: 16 of 16 stage runs completed"]
    assert (root.path / "counts").read_text().split() == ["16", "0", '{"completed":', "16}"]


def test_commands_that_notice_at_once_tell_once(root, write, told):
    together = threading.Barrier(4)

    def notice():
        for number in range(30):
            together.wait()
            notify._tell_once(root, write, notify.Event("study_finished", str(number), "", str(number)))

    threads = [threading.Thread(target=notice) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told()) == len(set(told())) == 30


def test_a_failing_command_is_a_warning_and_is_tried_three_times(ledger, root, started, monkeypatch, capfd, tmp_path):
    notify.configure(ledger, root, settings(f"echo x >> {tmp_path}/tries; echo no route; exit 7"))
    put(ledger, started)
    notify.tell(root)
    notify.tell(root)  # too soon
    assert capfd.readouterr().err.count("the command ended with 7: no route; tried again in 60 s or later.") == 1
    assert (tmp_path / "tries").read_text() == "x\n"
    monkeypatch.setattr(notify, "AGAIN", 0.0)
    for _ in range(4):
        notify.tell(root)
    assert (tmp_path / "tries").read_text() == "x\n" * 3
    assert capfd.readouterr().err.count("not tried again") == 1


def test_one_that_was_killed_while_it_told_is_made_good(ledger, root, started, write, told, monkeypatch):
    notify.configure(ledger, root, settings(write))
    put(ledger, started)
    (event,) = notify._of_studies(ledger, whole_files.read_json(root.notify))
    whole_files.create_json(notify._file(root, event, 1), {"pid": 1})
    notify.tell(root)
    assert told() == []  # somebody may be at it
    monkeypatch.setattr(notify, "AGAIN", 0.0)
    notify.tell(root)
    notify.tell(root)
    assert len(told()) == 1


def test_a_command_that_does_not_end_is_ended_with_what_it_started(ledger, root, started, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(notify, "TIMEOUT", 0.3)
    notify.configure(ledger, root, settings(f"sleep 600 & echo $! > {tmp_path}/pid; wait"))
    put(ledger, started)
    began = time.monotonic()
    notify.tell(root)
    assert time.monotonic() - began < 300
    assert "had not ended after 0.3 s" in capfd.readouterr().err
    wait_for(lambda: not processes.process_start(int((tmp_path / "pid").read_text())))


@pytest.mark.parametrize("spoil", ["{", "[]", '{"command": "true"}'])
def test_nothing_that_is_wrong_with_it_stops_the_command_that_noticed(ledger, root, started, capfd, spoil):
    put(ledger, started)
    root.notify.write_text(spoil)
    notify.tell(root)
    assert "notify: " in capfd.readouterr().err


def test_what_was_past_is_not_told_and_a_rebuilt_ledger_tells_nothing_again(ledger, root, runs, started, write, told):
    put(ledger, started)
    notify.configure(ledger, root, settings(write))
    notify.tell(root)
    assert told() == []
    second = [run for run in runs if "second" in run.studies]
    put(ledger, second)
    notify.tell(root)
    assert len(told()) == 1
    ledger.close()
    root.ledger.unlink()
    again = Ledger(root.ledger)
    reconciling.rebuild(again, root)
    put(again, runs)
    again.close()
    notify.tell(root)
    assert len(told()) == 1


def test_a_failure_is_told_once_a_study_and_only_when_no_rule_tries_it_again(ledger, root, started, write, told):
    notify.configure(ledger, root, settings(write))
    one, other = started[:2]
    ledger.put_attempt(one.id, "pretrain", 1, status="failed", cause="timeout", message="too long", ended=1.0)
    notify.tell(root)
    assert told() == []
    ledger.put_decision({"run_id": one.id, "stage": "pretrain", "number": 1, "action": "stop", "cause": "timeout",
                         "tries": 4, "changes": "", "due": 0.0, "time": 0.0})  # fmt: skip
    ledger.put_attempt(other.id, "pretrain", 1, status="failed", cause="error", message="no", ended=2.0)
    notify.tell(root)
    assert told()[0] == f"first_failure first first: pretrain of {one.name} failed: timeout: too long"
    ledger.put_attempt(started[2].id, "pretrain", 1, status="failed", cause="error", message="no", ended=3.0)
    notify.tell(root)
    assert len([line for line in told() if line.startswith("first_failure first")]) == 1


def test_a_study_ends_with_failures_too_and_again_when_more_is_completed(ledger, root, started, write, told):
    notify.configure(ledger, root, settings(write, events=("study_finished",)))
    put(ledger, started[1:])
    ledger.put_attempt(started[0].id, "pretrain", 1, status="failed", cause="error", message="no", ended=1.0)
    notify.tell(root)
    put(ledger, started[:1], number=2)
    notify.tell(root)
    assert told() == [
        "study_finished first first has finished: 12 of 16 stage runs completed, 1 failed, 3 blocked",
        "study_finished first first has finished: 16 of 16 stage runs completed",
    ]


def test_slurm_away_for_long_is_told_once_per_outage(ledger, root, started, write, told):
    assert started
    notify.configure(ledger, root, settings(write, unreachable_after=5))
    ledger.remember("slurm", "unreachable")
    notify.tell(root)
    assert told() == []

    def long_ago(minutes):
        whole_files.write_json(root.notification("unreachable"), {"since": int(time.time() - 60 * minutes)})

    long_ago(6)
    notify.tell(root)
    notify.tell(root)
    assert told() == ["slurm_unreachable  SLURM has not answered for 6 minutes"]
    ledger.remember("slurm", "answered")
    notify.tell(root)
    ledger.remember("slurm", "unreachable")
    notify.tell(root)
    long_ago(7)
    notify.tell(root)
    assert len(told()) == 2


def test_silence_is_told_by_the_command_that_it_stops(ledger, root, runs, write, told):
    class Silent:
        def queue(self):
            return None

        def history(self, names, days):  # noqa: ARG002
            return None

    recording.record_runs(ledger, root, runs, "2026-01-01")
    row = {"submission_id": "cafe", "created": session.now(), "scheduler": "slurm", "state": "submitted"}
    ledger.record_submission(row, [{"run_id": runs[0].id, "stage": "pretrain", "number": 1, "pack_index": 0}])
    notify.configure(ledger, root, settings(write, unreachable_after=1))
    whole_files.write_json(root.notification("unreachable"), {"since": int(time.time() - 90)})
    with pytest.raises(Exception, match="SLURM did not answer"), session.writing(root, Silent()):
        pass
    assert len(told()) == 1
    assert not root.lock.exists()


def test_without_the_setting_nothing_is_told_and_a_submit_without_it_ends_it(ledger, root, started, write, told):
    put(ledger, started)
    notify.tell(root)
    notify.configure(ledger, root, settings(write))
    notify.configure(ledger, root, profiles.Site(name="here", scheduler="local"))
    notify.tell(root)
    assert told() == []
    assert not root.notify.exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{comand: x}", "notify.comand: unknown key. Did you mean command?"),
        ("{command: x, events: [finished]}", "notify.events.0: 'finished': Input should be 'study_finished'"),
        ("{command: x, unreachable_after: 0}", "notify.unreachable_after: 0: Input should be greater than 0"),
        ("{events: []}", "notify.command: "),
        ("mail", "notify: must be a mapping"),
    ],
)
def test_a_mistake_in_the_section_is_named(manifest_file, section, message):
    manifest_file.write_text(f"{manifest_file.read_text()}notify: {section}\n")
    with pytest.raises(InputError, match="experiments.yaml: ") as raised:
        loading.load(manifest_file)
    assert message in str(raised.value)


def test_submit_and_wait_tells_and_a_dry_run_does_not(tmp_path, few_runs, fake_science, write, told):
    document = loading.load(few_runs)
    failing = next(run for run in expansion.expand(grids.cells(document, studies=["second"])))
    fake_science.write_text(json.dumps({failing.id: {"superglue": "fail"}}))
    text = few_runs.read_text() + "notify: {command: " + json.dumps(write) + "}\n"
    few_runs.write_text(text)
    here = f"name: here\nscheduler: local\nslots: 2\nenvironment: {{PYTHONPATH: {os.environ['PYTHONPATH']}}}\n"
    (tmp_path / "site.yaml").write_text(here)

    def command(*words):
        return run_command(*words, cwd=tmp_path)

    submit = ("submit", few_runs.name, "--site", "site.yaml", "--study", "second")
    assert command(*submit, "--dry-run").returncode == 0
    assert not (tmp_path / "output").exists()
    assert command(*submit, "--yes", "--wait").returncode == 1
    assert sorted(line.split()[0] for line in told()) == ["first_failure", "study_finished"]
    assert "RuntimeError: superglue was told to fail" in "".join(told())
    command("tick")
    assert len(told()) == 2
    shutil.rmtree(tmp_path / "output/notifications")
    for _ in range(2):
        assert command("status").returncode == 0
    assert len(told()) == 4
