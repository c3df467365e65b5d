"""Whose turn it is on a machine without SLURM, by the processes of the packs before."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from cluster.files import processes, whole_files
from cluster.files.folders import OutputRoot
from jobs.attempts import ArrayTask
from jobs.pack import PackWork
from jobs.turn import pack_before


@pytest.fixture
def alive():
    """A process that lives until the test ends it."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield started
    started.kill()
    started.wait()


def named(pid, **changed):
    return {"host": socket.gethostname(), "pid": pid, "start": processes.process_start(pid)} | changed


def task(pid, **changed):
    return named(pid) | {"job": f"local-{pid}", "restart": 0} | changed


def submitted(root, name, second, **words):
    """A submission whose intent was written at this second."""
    directory = root.submission(name)
    whole_files.write_json(
        directory.submission, {"output_root": str(root.path), "packs": [[]], "slots": 1, "site": {}, **words}
    )
    os.utime(directory.submission, (second, second))
    return directory


def test_a_pack_waits_for_those_that_were_submitted_before_it_and_for_no_others(tmp_path, alive):
    root = OutputRoot(tmp_path)
    early, late = submitted(root, "bbbb", 1), submitted(root, "aaaa", 2)
    for directory in (early, late):
        whole_files.write_json(directory.task(0), task(alive.pid))
    assert pack_before(late) == task(alive.pid)
    assert pack_before(early) is None
    os.utime(late.submission, (1, 1))
    assert (pack_before(late), pack_before(early)) == (None, task(alive.pid)), "of the same moment: by their names"


def test_before_a_pack_has_announced_itself_its_controller_is_watched(tmp_path, alive):
    root = OutputRoot(tmp_path)
    early, late = submitted(root, "early", 1), submitted(root, "late", 2)
    assert pack_before(late) is None, "nobody was started for it"
    whole_files.write_json(early.answer, {"state": "submitted", "job_id": "local-1", "process": named(alive.pid)})
    assert pack_before(late) == named(alive.pid)


def test_nobody_waits_for_the_dead_for_other_hosts_or_for_slurms_jobs(tmp_path, alive):
    root = OutputRoot(tmp_path)
    early, late = submitted(root, "early", 1), submitted(root, "late", 2)
    for other in (task(alive.pid, host="elsewhere"), task(alive.pid, start="0"), task(alive.pid, job="7_0")):
        whole_files.write_json(early.task(0), other)
        assert pack_before(late) is None
    whole_files.write_json(early.task(0), task(alive.pid))
    assert pack_before(late)
    alive.send_signal(signal.SIGKILL)
    alive.wait()
    assert pack_before(late) is None


def test_probes_wait_like_other_packs_and_smoke_runs_among_themselves(tmp_path, alive):
    root = OutputRoot(tmp_path)
    for busy in (root, root.probe, root.smoke):
        whole_files.write_json(submitted(busy, f"busy-{busy.path.name}", 1).task(0), task(alive.pid))
        waiting = {each.path.name for each in (root, root.probe, root.smoke) if pack_before(submitted(each, "late", 2))}
        assert waiting == ({"smoke"} if busy == root.smoke else {root.path.name, "probe"})
        (busy.submission(f"busy-{busy.path.name}").task(0)).unlink()


def test_a_pack_that_waits_says_so_in_its_file_and_hears_that_it_is_to_stop(tmp_path, alive):
    root = OutputRoot(tmp_path)
    early, late = submitted(root, "early", 1), submitted(root, "late", 2)
    whole_files.write_json(early.task(0), task(alive.pid))
    whole_files.write_json(late.task(0), task(os.getpid()))
    work = PackWork(late, whole_files.read_json(late.submission), 0, ArrayTask("local-1", 0, "here", 1, None))
    said = []

    def on_alarm(signum, frame):  # noqa: ARG001
        said.append(whole_files.read_json(late.task(0)).get("waits"))
        work.stop(signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 2)
        begun = time.monotonic()
        work.wait_for_turn()
        assert time.monotonic() - begun >= 1.9
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (said, whole_files.read_json(late.task(0))["waits"]) == ([True], False)
