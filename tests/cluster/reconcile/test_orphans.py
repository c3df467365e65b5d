"""Attempts whose submission's files are gone."""

import shutil

import synthetic

from cluster.ledger.database import Ledger
from cluster.reconcile import orphans, reconciling
from cluster.status import reading


def test_a_rebuild_without_submissions_keeps_what_runs_show_and_says_what_is_not_known(tmp_path):
    root = synthetic.make(tmp_path / "output", synthetic.planned(("heads",), limit=2), with_pairs=False)
    shutil.rmtree(root.path / "submissions")
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, root) == []
    counted = reading.counts(again)
    assert counted["completed"] == sum(counted.values()) == 8
    (said,) = orphans.say(again)
    again.close()
    assert "is not known" in said
