"""NVIDIA's daemon, as a program on PATH that behaves like it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_for

from cluster.files import processes
from jobs import mps

CONTROL = """#!/bin/sh
echo "$@" "$CUDA_MPS_PIPE_DIRECTORY" >> {notes}
case "$1" in
-d) {start} ;;
*) read words; [ "$words" = quit ] || exit 1
   kill -9 $(cat $CUDA_MPS_PIPE_DIRECTORY/nvidia-cuda-mps-control.pid) ;;
esac
"""
START = "sleep 1000 > /dev/null 2>&1 & echo $! > $CUDA_MPS_PIPE_DIRECTORY/nvidia-cuda-mps-control.pid"


@pytest.fixture
def control(tmp_path, monkeypatch):
    """Put the program there; returns how to change it, and the file with what it was told."""
    path, notes = tmp_path / "bin" / "nvidia-cuda-mps-control", tmp_path / "notes"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    def write(start=START, text=CONTROL):
        path.write_text(text.format(notes=notes, start=start))
        path.chmod(0o755)
        return notes

    return write


def pid_of(variables):
    return int((Path(variables["CUDA_MPS_PIPE_DIRECTORY"]) / "nvidia-cuda-mps-control.pid").read_text())


def test_the_daemon_serves_the_pack_and_ends_with_it(control):
    notes = control()
    with mps.daemon(True, 2) as variables:
        pipe, pid = Path(variables["CUDA_MPS_PIPE_DIRECTORY"]), pid_of(variables)
        assert Path(variables["CUDA_MPS_LOG_DIRECTORY"]).is_dir()
        assert processes.process_start(pid)
    wait_for(lambda: not processes.process_start(pid))
    assert not pipe.parent.exists()
    assert [line.split() for line in notes.read_text().splitlines()] == [["-d", str(pipe)], [str(pipe)]]


def test_the_daemon_ends_when_the_pack_is_interrupted(control):
    control()

    def interrupted():
        with mps.daemon(True, 2) as variables:
            raise SystemExit(pid_of(variables))

    with pytest.raises(SystemExit) as ended:
        interrupted()
    wait_for(lambda: not processes.process_start(ended.value.code))


def test_a_daemon_that_does_not_quit_is_killed(control, monkeypatch):
    monkeypatch.setattr(mps, "PATIENCE", 0.5)
    control(text=CONTROL.replace("read words;", "sleep 5;"))
    with mps.daemon(True, 2) as variables:
        pid = pid_of(variables)
    wait_for(lambda: not processes.process_start(pid))


def test_the_daemon_does_not_die_of_the_signal_before_the_time_limit(control):
    control()
    with mps.daemon(True, 2) as variables:
        status = Path(f"/proc/{pid_of(variables)}/status").read_text()
        (blocked,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")]
        assert int(blocked, 16) & 1 << (signal.SIGUSR2 - 1)
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


@pytest.mark.parametrize("start", ["echo no GPU here >&2; exit 1", "exit 7"])
def test_without_the_daemon_the_runs_go_on(control, capfd, start):
    control(start)
    with mps.daemon(True, 2) as variables:
        assert variables == {}
    said = capfd.readouterr().out
    assert "MPS: not started" in said
    assert "no GPU here" in said or "echo" not in start


def test_a_program_that_is_not_there_is_said_and_no_more(monkeypatch, capfd):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("PATH", "")
    with mps.daemon(True, 2) as variables:
        assert variables == {}
    assert "MPS: not started" in capfd.readouterr().out


@pytest.mark.parametrize(("wanted", "slots", "gpus"), [(False, 2, "0"), (True, 1, "0"), (True, 2, "")])
def test_it_is_started_only_where_it_is_wanted_and_of_use(control, monkeypatch, wanted, slots, gpus):
    notes = control()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    with mps.daemon(wanted, slots) as variables:
        assert variables == {}
    assert not notes.exists()


@pytest.mark.usefixtures("fake_science")
def test_the_children_of_a_pack_are_its_clients(make_run, submit, control):
    control()
    runs = [make_run(name) for name in ("one", "two")]
    directory = submit("one", "two", slots=2, site={"mps": True}, stages=[["pretrain", 1]])
    code = "import sys; from jobs.pack import PackJob; PackJob(sys.argv[1])()"
    done = subprocess.run([sys.executable, "-c", code, str(directory.path)], capture_output=True, text=True)
    assert (done.returncode, "MPS: started" in done.stdout) == (0, True), done.stderr
    logs = [run.attempt("pretrain", 1).log.read_text() for run in runs]
    pipes = {line.partition("MPS: ")[2] for log in logs for line in log.splitlines() if "MPS: " in line}
    assert [Path(pipe).name for pipe in pipes] == ["pipe"]
