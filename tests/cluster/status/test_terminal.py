"""`status --watch` in a terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import synthetic
import waiting

from cluster.files.folders import OutputRoot
from cluster.reconcile import session
from cluster.status import reading


class Terminal:
    """`status --watch` in a terminal of its own, with stand-ins for SLURM's clients."""

    def __init__(self, folder, root, columns=100, client="cat queue.txt", **variables):
        self.calls = folder / "calls.txt"
        self.calls.touch()
        self.folder, self.root = folder, root
        self.client("squeue", client)
        self.client("scancel", "true")
        self.client("sacct", "exit 1")
        main, self.side = pty.openpty()
        self.main, self.text = main, ""
        self.resize(columns)
        self.before = termios.tcgetattr(self.side)
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "TERM": "xterm-256color",
                                    "PYTHONPATH": str(Path(__file__).parents[3])}  # fmt: skip
        environment |= variables
        for name in ("COLUMNS", "LINES"):  # which a worker of pytest has
            environment.pop(name, None)
        command = [sys.executable, "-m", "cluster.cli", "status", "--watch", "--output-root", str(root.path)]
        self.process = subprocess.Popen(command, stdin=self.side, stdout=self.side, stderr=self.side, cwd=folder,
                                        env=environment, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))  # fmt: skip

    def client(self, name, script):
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >> {self.calls}\n{script}\n')
        path.chmod(0o755)

    def resize(self, columns, rows=30):
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys):
        os.write(self.main, keys.encode())

    def wait_for(self, words):
        self.take_until(lambda: words in self.picture(), f"{words!r} did not come")

    def take_until(self, condition, told):
        """Read what is drawn meanwhile: a program whose terminal nobody reads waits for ever."""
        deadline = time.monotonic() + waiting.PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{told}; it shows:\n{self.picture()}"
            self.take()

    def take(self):
        """Whether there was something to read."""
        there = bool(select.select([self.main], [], [], 0.2)[0])
        if there:
            self.text += os.read(self.main, 65_536).decode("utf-8", "replace")
        return there

    def picture(self):
        """What was drawn last."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text.rpartition("\x1b[H")[2])

    def ended(self):
        """Its exit code; the terminal is as it was."""
        self.take_until(lambda: self.process.poll() is not None, "it did not end")
        while self.take():
            pass
        assert self.text.count("\x1b[?1049h") == self.text.count("\x1b[?1049l") == 1
        assert "\x1b[?25h" in self.text.rpartition("\x1b[?25l")[2]
        assert termios.tcgetattr(self.side) == self.before
        return self.process.returncode


@pytest.fixture
def terminal(tmp_path):
    runs = synthetic.planned(["width"], limit=10)
    first, second = runs[0].id, runs[9].id
    root = synthetic.make(
        tmp_path / "output", runs, with_pairs=False,
        unfinished=lambda run: "pretrain" if run.id == first else None,
        failing=lambda run: "blimp" if run.id == second else None,
    )  # fmt: skip
    jobs = [f"100_{task}|100|{task}|RUNNING|None|gpu000|acc|tt-00000000\n" for task in range(4)]
    (tmp_path / "queue.txt").write_text("".join(jobs))
    made = Terminal(tmp_path, root)
    made.running, made.failed = runs[0], runs[9]
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_keys_filter_open_a_log_and_cancel(terminal):
    terminal.wait_for("Running: ")
    terminal.wait_for("Failed: 1 error")
    terminal.press("f")
    terminal.wait_for("[running]")
    assert "Failed: " not in terminal.picture()
    terminal.press("f")
    terminal.wait_for("[failed]")
    terminal.press("\r")
    terminal.wait_for(f"blimp of {terminal.failed.name}")
    terminal.press("qc")
    terminal.wait_for("nothing to cancel")
    terminal.press("ffj")
    terminal.wait_for("[running]")
    terminal.press("c")
    terminal.wait_for("Cancel the pack of")
    terminal.press("n")
    terminal.wait_for("not cancelled")
    assert "scancel" not in terminal.calls.read_text()
    terminal.press("cy")
    terminal.wait_for("cancelled")
    terminal.wait_for("it is shown as that")
    assert re.search(r"scancel --quiet 100(_\d)?\n", terminal.calls.read_text())
    terminal.press("s")
    terminal.wait_for("[width]")
    terminal.press("q")
    assert terminal.ended() == 0
    # Once for the screen, and once so that nothing but what is known is cancelled.
    assert terminal.calls.read_text().count("squeue") == 2


def test_keys_that_mean_nothing_do_nothing(terminal):
    terminal.wait_for("Running: ")
    terminal.press("\x1b[C\x1b[3~\x1b[1~\x1b[4~\x1bOQ\x1b[1;5Df")  # right, delete, home, end, F2, Ctrl-left
    terminal.wait_for("[running]")
    terminal.press("\x1b[Bf")
    terminal.wait_for("[failed]")
    terminal.press("\x1b")  # Escape itself
    assert terminal.ended() == 0


def test_a_dumb_terminal_gets_lines_that_say_when_slurm_is_silent(tmp_path, terminal):
    terminal.process.kill()
    terminal.process.wait()
    dumb = Terminal(tmp_path, terminal.root, client="exit 1", TERM="dumb")
    dumb.take_until(lambda: "1 running" in dumb.text, "no line came")
    assert "; SLURM did not answer; as of" in dumb.text
    assert "\x1b[?1049h" not in dumb.text
    dumb.process.kill()
    dumb.process.wait()


def test_the_screen_does_not_wait_for_slurm(tmp_path, terminal):
    terminal.process.kill()
    terminal.process.wait()
    slow = Terminal(tmp_path, terminal.root, client="until [ -e answer ]; do sleep 0.1; done")
    slow.wait_for("Running: ")
    slow.process.kill()
    slow.process.wait()


def test_without_runs_watching_says_so_and_ends(ledger, tmp_path):
    ledger.close()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "cluster.cli", "status", "--watch"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No runs yet in" in done.stdout


def drawn(terminal, rows, columns):
    """Whether a whole picture of this size is there."""
    lines = terminal.picture().splitlines()
    return len(lines) == rows and max(map(len, lines)) <= columns


def test_a_new_size_is_drawn_at_once(terminal):
    terminal.wait_for("Running: ")
    terminal.resize(60)
    terminal.take_until(lambda: drawn(terminal, rows=30, columns=60), "it is as wide as before")
    terminal.press("\x03")
    assert terminal.ended() != 0


def test_the_terminal_is_given_back_to_whoever_ends_it(terminal):
    terminal.wait_for("Running: ")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.ended() == 128 + signal.SIGTERM


def test_slurm_away_is_told_and_survived(tmp_path, terminal):
    terminal.process.kill()
    terminal.process.wait()
    away = Terminal(tmp_path, terminal.root)
    away.client("squeue", "exit 1")
    away.wait_for("SLURM did not answer; as of")
    away.press("q")
    assert away.ended() == 0


def test_between_two_questions_to_slurm_only_files_are_read(terminal, tmp_path):
    terminal.process.kill()
    terminal.process.wait()
    with session.reading(terminal.root, None) as (view, _):
        assert view.slurm == "none"
        assert reading.counts(view.ledger)["running"] == 1, "nothing is judged by an answer that was not given"
    assert OutputRoot(tmp_path / "output").ledger.exists()
