"""A process by its host, number and start, and whether it is alive. Standard library only."""

import os
import socket
from typing import NotRequired, TypedDict


class Process(TypedDict):
    """A process of some host, named for good."""

    host: str
    pid: int
    start: NotRequired[str | None]  # in its kernel's words; None: it had ended before it could be named


def process_start(pid: int) -> str | None:
    """When this process of this host started, in the kernel's words, or None if there is none. With the pid it
    names a process for good, since pids come again."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if os.path.isdir("/proc/self") else _process_start_by_ps(pid)
    return None if fields[0] == "Z" else fields[19]


def is_alive(process: Process) -> bool | None:
    """Whether a process named by host, pid and start is there; None if that cannot be known from this host, or by this
    user."""
    if process["host"] != socket.gethostname():
        return None
    if "start" not in process:  # its pid alone may be another's by now
        return None
    if process["start"] is None:  # it had ended before it could be named
        return False
    try:
        started = process_start(process["pid"])
    except PermissionError:
        return None
    if started is None and _is_hidden(process["pid"]):
        return None
    return started == process["start"]


def _is_hidden(pid: int) -> bool:
    """Whether there is a process that /proc does not show, as it may be mounted so as to show nobody another's."""
    if os.path.exists(f"/proc/{pid}"):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return False


def _process_start_by_ps(pid: int) -> str | None:
    """The same where there is no /proc (macOS)."""
    import subprocess

    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
