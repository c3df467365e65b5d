"""A command of ours in a process of its own, but without the time that Python and our imports take: a fork of a small
process that has them loaded (commands_loaded.py), and no torch. That a fresh process has all that it needs is for a few
other tests."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path

from waiting import PATIENCE

ROOT = Path(__file__).parents[1]


class Started:
    """A command of ours that was begun, with what of `subprocess.Popen` a test needs."""

    def __init__(self, words: tuple[str | Path, ...], cwd: Path, env: Mapping[str, str] | None, *, leads: bool) -> None:
        self._said = [tempfile.NamedTemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - closed with this object
        told = (list(map(str, words)), cwd, dict(env or os.environ), *(file.name for file in self._said), leads)
        self._process = _server().Process(target=_become, args=told)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> None:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a command of ours", timeout or 0.0)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self) -> tuple[str, str]:
        """Wait; return what it wrote to its output and to its error output."""
        self.wait()
        out, err = (Path(file.name).read_text() for file in self._said)
        return out, err


def start(*words: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Started:
    """Begin `tiny-transformers words` in the folder `cwd`, as the leader of a process group, with nobody at its
    standard input."""
    return Started(words, cwd, env, leads=True)


def command(
    *words: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """The same to its end, in this process' group."""
    process = Started(words, cwd, env, leads=False)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"the command had not ended after {timeout:g} s") from None
    return subprocess.CompletedProcess(words, process.returncode or 0, *process.communicate())


def _server() -> multiprocessing.context.ForkServerContext:
    """The small process, which is started once; it finds this folder's modules where this process does."""
    context = multiprocessing.get_context("forkserver")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT), *([before] if before else [])])
    try:
        context.set_forkserver_preload(["commands_loaded"])
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def _become(words: list[str], cwd: Path, env: dict[str, str], out: str, err: str, leads: bool) -> None:
    """What a child does, to its end."""
    import commands_loaded

    code = 1
    if leads:
        os.setsid()
    gc.disable()  # what is loaded is not looked through: that would copy all of it
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(out, os.O_WRONLY | os.O_APPEND), 1)
        os.dup2(os.open(err, os.O_WRONLY | os.O_APPEND), 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        commands_loaded.entry.main(words)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python does at the end of a program
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
