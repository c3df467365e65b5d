"""A command of ours in a process of its own, but without the time that Python and our imports take: a fork of the
process of the tests, which has them loaded. That a fresh process has all that it needs is for a few other tests."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from waiting import PATIENCE

from cluster import cli, submitting  # noqa: F401 - loaded before the fork


def command(
    *words: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """`tiny-transformers words` in the folder `cwd`, with nobody at its standard input."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            _become(list(map(str, words)), cwd, dict(env or os.environ), out.fileno(), err.fileno())
        code = _await(pid, timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def _become(words: list[str], cwd: Path, env: dict[str, str], out: int, err: int) -> None:
    """What a child does, to its end."""
    code = 1
    gc.freeze()  # what is loaded is not looked through again: that would copy all of it
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        cli.main(words)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python does at the end of a program
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _await(pid: int, timeout: float) -> int:
    """Its exit code, negative for a signal as in `subprocess`."""
    deadline = time.monotonic() + timeout
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"the command had not ended after {timeout:g} s")
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(ended[1])
