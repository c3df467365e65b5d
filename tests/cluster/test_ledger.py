import os
import socket
import subprocess
import sys
import threading

import pytest

from cluster import rundir
from cluster.errors import LedgerBusy
from cluster.ledger import Ledger, locked


def test_a_ledger_migrates_once_and_reopens(tmp_path):
    first = Ledger(tmp_path / "ledger.db")
    first.remember("as_of", "now")
    first.close()
    again = Ledger(tmp_path / "ledger.db")
    assert again.recall("as_of") == "now"
    assert again.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    again.close()


def test_a_reader_cannot_write(tmp_path):
    Ledger(tmp_path / "ledger.db").close()
    reader = Ledger(tmp_path / "ledger.db", read_only=True)
    with pytest.raises(Exception, match="readonly"):
        reader.remember("a", "b")
    reader.close()


def test_the_lock_keeps_a_second_holder_out(tmp_path):
    lock, order = tmp_path / "ledger.lock", []
    entered = threading.Event()

    def second():
        entered.set()
        with locked(lock, wait=10):
            order.append("second")

    with locked(lock):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        with pytest.raises(LedgerBusy, match=str(os.getpid())), locked(lock, wait=0.1):
            order.append("never")
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not lock.exists()


def test_a_dead_holders_lock_is_taken_over(tmp_path):
    lock = tmp_path / "ledger.lock"
    code = "import os,sys; from pathlib import Path; from cluster.ledger import locked\n" \
           "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(lock)], check=False)
    assert lock.exists()
    with locked(lock, wait=1):
        assert rundir.read_json(lock)["pid"] == os.getpid()


def test_another_hosts_lock_is_never_broken(tmp_path):
    lock = tmp_path / "ledger.lock"
    rundir.create_json(lock, {"host": f"not-{socket.gethostname()}", "pid": 1, "start": "0"})
    with pytest.raises(LedgerBusy, match="not-"), locked(lock, wait=0.2):
        pass
    assert lock.exists()


def test_commands_load_no_torch():
    unwanted = ("torch", "transformers", "datasets", "numpy", "pandas")
    code = (
        f"import sys, cluster.cli, cluster.launch, cluster.doctor; print([m for m in {unwanted} if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
