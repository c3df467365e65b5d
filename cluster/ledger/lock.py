"""The lock file of a ledger: one command writes at a time, and who has died does not hold up the others."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import LedgerBusy
from cluster.files import documents, processes, whole_files
from cluster.files.processes import Process


@contextmanager
def locked(path: Path, *, wait: float = 60.0) -> Iterator[None]:
    """Hold the lock file `path`. A lock whose process has died on this host is taken over; on another host that
    cannot be known, so it is waited for.

    Raises LedgerBusy after `wait` seconds, naming the holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "start": processes.process_start(os.getpid())}
    deadline = time.monotonic() + wait
    while not whole_files.create_json(path, mine):
        _break_if_dead(path)
        if time.monotonic() > deadline:
            raise LedgerBusy(_busy(path))
        time.sleep(0.05)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _holder(path: Path) -> Process | None:
    try:
        return documents.read(path, Process)
    except whole_files.TornFile:  # being written this moment, or its writer died in that moment
        return None


def _break_if_dead(path: Path) -> None:
    holder = _holder(path)
    if holder is None or processes.is_alive(holder) is not False:
        return
    # Two commands may see the same dead holder: the one whose rename succeeds removes it, and only if it is still
    # that holder's; otherwise it is put back.
    grave = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    if _holder(grave) == holder:
        grave.unlink()
    else:
        os.rename(grave, path)


def _busy(path: Path) -> str:
    holder = _holder(path) or {"host": "unknown", "pid": "unknown"}
    return (
        f"{path}: another command holds the ledger: process {holder['pid']} on {holder['host']}. Wait for it; if that "
        "machine has died, remove the file."
    )
