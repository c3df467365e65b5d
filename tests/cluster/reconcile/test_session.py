"""What a command does before it begins: cluster/reconcile/session.py."""

import time

from cluster.reconcile import session


def test_what_happens_later_has_the_greater_moment(monkeypatch):
    """Also within one second, and where the clock is put back for the winter."""
    before = session.moment()
    assert before < session.moment()
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    before = session.moment()
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()
    try:
        assert before < session.moment()
    finally:
        monkeypatch.undo()
        time.tzset()
