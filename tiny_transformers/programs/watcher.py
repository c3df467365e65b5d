"""Run one line of bash, and see that nothing of it outlives the job: `python watcher.py PARENT LINE`.

Asked by SIGINT, it asks what it started to end, by SIGTERM. When PARENT, the process that started it, dies, or by
SIGTERM, all of it is killed, whatever it has started itself. Standard library only: it runs by its path."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType


def main(parent: int, line: str) -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # until there is something to end
    child = subprocess.Popen(
        ["/bin/bash", "-c", line], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_hear_signals
    )

    def end(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM if signum == signal.SIGINT else signal.SIGKILL)

    for each in ENDS:
        signal.signal(each, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
    if os.getppid() != parent:
        end(signal.SIGTERM, None)
    code = child.wait()
    end(signal.SIGTERM, None)  # what it left behind
    return code if code >= 0 else 128 - code


def _hear_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*ENDS, signal.SIGUSR2})


ENDS = (signal.SIGINT, signal.SIGTERM)

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
