"""NVIDIA's Multi-Process Service for one pack: its runs then use their shared GPU at the same time, not in turns.

A daemon of this user's own, with private folders, which ends with the pack. Without it everything works as before,
so whatever goes wrong here is said and not raised."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.attempts import say

CONTROL = "nvidia-cuda-mps-control"
PATIENCE = 10.0  # seconds for one of its answers


@contextmanager
def daemon(wanted: bool, slots: int) -> Iterator[dict[str, str]]:
    """Yield the variables that make a child a client of the daemon; none if it is not wanted, of no use, or not to be
    had. On leaving the daemon is ended and its folder removed."""
    if not wanted or slots < 2 or not os.environ.get("CUDA_VISIBLE_DEVICES"):
        yield {}
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix="mps-"))  # short: a socket's path has 108 bytes at most
    except OSError as error:
        say(f"MPS: not started, the runs go on without: {error}")
        yield {}
        return
    variables = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    try:
        yield variables if _start(folder, variables) else {}
    finally:
        _end(folder, variables)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, variables: dict[str, str]) -> bool:
    for path in variables.values():
        Path(path).mkdir()
    # SLURM may send USR2 to every process of the job; the daemon must not die of it while the runs save.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        # Its output goes to a file: the daemon would keep a pipe open for as long as it lives.
        with open(folder / "said", "w+b") as said:
            code = _control(["-d"], variables, said.fileno())
            said.seek(0)
            text = said.read().decode("utf-8", "replace").strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        code, text = 1, str(error)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    say("MPS: started" if code == 0 else f"MPS: not started, the runs go on without: {text}")
    return code == 0


def _end(folder: Path, variables: dict[str, str]) -> None:
    """Ask it to quit; if it does not answer, kill it by the number that it left in its pipe folder."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired), open(folder / "quit", "w+b") as words:
        words.write(b"quit\n")
        words.seek(0)
        if _control([], variables, subprocess.DEVNULL, words.fileno()) == 0:
            return
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((folder / "pipe" / f"{CONTROL}.pid").read_text()), signal.SIGKILL)


def _control(words: list[str], variables: dict[str, str], said: int, told: int = subprocess.DEVNULL) -> int:
    command = [CONTROL, *words]
    return subprocess.run(
        command, env=os.environ | variables, stdin=told, stdout=said, stderr=said, timeout=PATIENCE, check=False
    ).returncode
