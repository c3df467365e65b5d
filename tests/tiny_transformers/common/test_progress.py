"""Long work says how far it is, where it does not get into what a program prints."""

import io
import threading
from types import SimpleNamespace

import pytest

from tiny_transformers.common import progress
from tiny_transformers.common.progress import Pace


class Heard(io.StringIO):
    """Standard error, of which a test can wait for a line."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal, self.has_line = terminal, threading.Event()

    def isatty(self):
        return self.terminal

    def flush(self):
        self.has_line.set()


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def heard(request, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("TERMINAL", "ELSEWHERE"):
        monkeypatch.setattr(progress, name, Pace(0, 0.001))
    stream = Heard(request.param)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))  # pytest puts its own in place of sys.stderr
    return stream


def test_long_work_says_how_far_it_is_and_leaves_a_terminal_as_it_was(heard, capsys):
    taken = []
    for item in progress.counted(range(2_000), "stories"):
        taken.append(item)
        if item == 1_500:
            heard.has_line.clear()
            assert heard.has_line.wait(30)
    assert taken == list(range(2_000))
    last = heard.getvalue().split(progress.CLEAR if heard.terminal else "\n")
    assert "stories, 1,500 of 2,000, 0 s" in last
    assert last[-1] == "", "the line is emptied, or ended"
    assert capsys.readouterr().out == ""


def test_what_others_named_cannot_steer_a_terminal(heard):
    with progress.shown("reading a\x1b[31mb\n"):
        assert heard.has_line.wait(30)
    assert "reading a[31mb, 0 s" in heard.getvalue()


def test_quick_work_says_nothing(heard, monkeypatch):
    for name in ("TERMINAL", "ELSEWHERE"):
        monkeypatch.setattr(progress, name, Pace(3_600, 0.001))
    assert list(progress.counted((number for number in range(3)), "stories")) == [0, 1, 2]
    assert heard.getvalue() == ""


def test_work_that_fails_ends_its_line(heard):
    def fail():
        with progress.shown("reading"):
            assert heard.has_line.wait(30)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert heard.getvalue().endswith(progress.CLEAR if heard.terminal else " s\n")
