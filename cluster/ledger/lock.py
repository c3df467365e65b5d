"""The lock file of a ledger: one command writes at a time, and who has died does not hold up the others.

The lock is a file that is created exclusively, since flock does not hold on every file system. It names its holder.
A lock whose process has died is not removed: between the look and the removal it may have become a living command's.
It is succeeded to:

1. Whoever sees a dead holder creates, exclusively, a file that is named after the dead. One alone can.
2. It looks again. If the lock is the dead's no more, another has succeeded already: start anew. If it still is, it
   stays so, since only this heir may change the lock now.
3. The heir renames its file over the lock, which so is never nobody's.

An heir that dies before 3 is succeeded to in the same way: its file is as a lock whose holder has died, with a file
named after that one. No name comes twice, since a process is named by its host, pid and start."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import LedgerBusy
from cluster.files import documents, processes, whole_files
from cluster.files.processes import Process

SHORTEST, LONGEST = 0.05, 1.0  # seconds between two tries for the lock, each of which writes a file: the first, later


@contextmanager
def locked(path: Path, *, wait: float = 60.0) -> Iterator[None]:
    """Hold the lock file `path`. A lock whose process has died on this host is succeeded to; on another host that
    cannot be known, so it is waited for.

    Raises LedgerBusy after `wait` seconds, naming the holder, and OSError where no lock can be written."""
    mine: Process = {"host": socket.gethostname(), "pid": os.getpid(), "start": processes.process_start(os.getpid())}
    deadline, pause = time.monotonic() + wait, SHORTEST
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not (whole_files.create_json(path, mine) or _succeed(path, mine)):
            if time.monotonic() > deadline:
                raise LedgerBusy(_busy(path))
            time.sleep(pause)
            pause = min(LONGEST, 1.5 * pause)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path.parent)) from None
    try:
        yield
    finally:
        if _holder(path) == mine:  # a person may have removed it by hand, and another command hold it by now
            path.unlink(missing_ok=True)


def _holder(path: Path) -> Process | None:
    try:
        return documents.read(path, Process)
    except whole_files.TornFile:  # being written this moment, or its writer died in that moment
        return None


def _succeed(path: Path, mine: Process) -> bool:
    """Make the lock mine if its holder has died, and so has every heir of it so far."""
    first = dead = _holder(path)
    while dead and processes.is_alive(dead) is False:
        inheritance = _inheritance(path, dead)
        if not whole_files.create_json(inheritance, mine):
            dead = _holder(inheritance)
            continue
        if _holder(path) != first:
            inheritance.unlink(missing_ok=True)
            return False
        os.rename(inheritance, path)
        for left in path.parent.glob(f"{path.name}.*"):  # of those who died on the way, or came too late
            left.unlink(missing_ok=True)
        return True
    return False


def _inheritance(path: Path, dead: Process) -> Path:
    name = json.dumps([dead["host"], dead["pid"], dead.get("start")])
    return path.with_name(f"{path.name}.{hashlib.sha256(name.encode()).hexdigest()[:16]}")


def _busy(path: Path) -> str:
    holder = _holder(path) or {"host": "unknown", "pid": "unknown"}
    return (
        f"{path}: another command holds the ledger: process {holder['pid']} on {holder['host']}. Wait for it; if that "
        "machine has died, remove the file."
    )
