"""What a command does before it begins: cluster/reconcile/session.py."""

import errno
import os
import time
from pathlib import Path

import pytest
import synthetic

from cluster.errors import InputError
from cluster.files.folders import OutputRoot
from cluster.ledger import checks
from cluster.ledger.database import Ledger
from cluster.reconcile import session

NOBODY = 65_534  # a user's number


def test_where_there_is_no_ledger_the_folder_that_was_looked_in_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"output/ledger.db: there is no ledger below {tmp_path}. Go to the folder"):
        session.need_ledger(OutputRoot(Path("output")))
    with pytest.raises(InputError, match=r"there is no ledger\. Go to the folder where you submitted"):
        session.need_ledger(OutputRoot(tmp_path / "output"))
    smoke = OutputRoot(tmp_path / "output").smoke
    smoke.path.mkdir(parents=True)
    smoke.ledger.touch()
    with pytest.raises(InputError, match=r"there is no ledger\. Smoke runs are kept apart: say --smoke"):
        session.need_ledger(OutputRoot(tmp_path / "output"))
    run = OutputRoot(tmp_path / "output").run("0" * 12)
    run.path.mkdir(parents=True)
    run.run_json.touch()
    with pytest.raises(InputError, match="ledger rebuild` makes it from the files. Smoke runs are kept apart"):
        session.need_ledger(OutputRoot(tmp_path / "output"))


def test_what_happens_later_has_the_greater_moment(monkeypatch):
    """Also within one second, and where the clock is put back for the winter."""
    before = session.moment()
    assert before < session.moment()
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    before = session.moment()
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()
    try:
        assert before < session.moment()
    finally:
        monkeypatch.undo()
        time.tzset()


def not_allowed(ledger):
    ledger.parent.chmod(0o700 if os.geteuid() == 0 else 0)


def on_a_disk_that_fails(ledger):
    ledger.unlink()
    ledger.symlink_to("/proc/self/mem")  # which the kernel opens, and then does not read


def a_folder_in_its_place(ledger):
    ledger.unlink()
    ledger.mkdir()


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="there is no file here that cannot be read")
@pytest.mark.parametrize(
    ("spoil", "number"),
    [(not_allowed, errno.EACCES), (on_a_disk_that_fails, errno.EIO), (a_folder_in_its_place, errno.EISDIR)],
)
def test_a_ledger_that_the_system_does_not_give_is_told_in_its_words_and_is_not_to_be_rebuilt(tmp_path, spoil, number):
    root = OutputRoot(tmp_path / "output")
    Ledger(root.ledger).close()
    spoil(root.ledger)
    try:
        if os.geteuid() == 0:
            os.seteuid(NOBODY if spoil is not_allowed else 0)  # root may read all
        with pytest.raises(OSError, match=r"ledger\.db") as told, session.reading(root, None):
            pass
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        root.path.chmod(0o700)
    assert (told.value.errno, "rebuild" in str(told.value)) == (number, False)


def test_a_folder_of_runs_that_cannot_be_read_is_said_and_no_run_is_said_to_be_removed(tmp_path):
    root, run = OutputRoot(tmp_path), synthetic.planned(("heads",), limit=1)[0]
    (tmp_path / "runs").symlink_to(tmp_path / "runs")  # reading it fails, and not since it is not there
    ledger = Ledger(root.ledger)
    ledger.record_runs([run], "2026")
    (said,) = checks.removed_runs(ledger, root)
    assert said.startswith(f"{tmp_path / 'runs'}: Too many levels of symbolic links")
    (tmp_path / "runs").unlink()
    (said,) = checks.removed_runs(ledger, root)
    assert f"has no folder of 1 run ({run.id})" in said
    root.run(run.id).path.mkdir(parents=True)
    assert checks.removed_runs(ledger, root) == []
    ledger.close()


def test_what_was_to_be_started_on_this_machine_is_not_told_of_as_slurms(ledger, root):
    row = {"submission_id": "cafe", "created": "2026", "scheduler": "local", "site": "here", "state": "intended",
           "job_id": None, "user": None}  # fmt: skip
    ledger.record_submission(row, [])
    root.submission("cafe").path.mkdir(parents=True)
    root.submission("cafe").submission.write_text("{}")
    with pytest.raises(InputError, match=r"tt-cafe was to be started on this machine.*try again in \d+ s"):
        session._refuse_unsettled(ledger, root)
