"""How runs go on that were asked for before: also where the disk does not give what was asked for."""

import errno
import os

import pytest

from cluster.files import documents, whole_files
from cluster.ledger import recording
from cluster.plan import choosing, cost, packing
from cluster.sites.profiles import Site
from cluster.submit import earlier, launch

SITE = Site(name="test", scheduler="slurm", cpus=4)
ORIGIN = launch.Origin("submit", "2026-11-30T05:00:00+00:00", None, {"digest": "c0de"}, None)
THEN = 1_796_014_800.0  # of ORIGIN
ASKED = {"created": "2026-11-30T06:00:00+00:00", "site": SITE.model_dump(mode="json"), "data_root": None}


@pytest.fixture
def sent(ledger, root, runs):
    """A run that was submitted, and one that was not."""
    recording.record_runs(ledger, root, runs, "2026-11-30")
    item = choosing.item(runs[0], runs[0].stages, ledger.states()[runs[0].id], cost.Measured(1e12))
    (array,) = packing.arrange([item], {runs[0].id: runs[0]}, SITE)
    directory = root.submission("cafe")
    whole_files.write_json(directory.submission, launch.describe(array, SITE, root, "cafe", ORIGIN, launch.EMPTY))
    recording.record_intent(ledger, directory, whole_files.read_json(directory.submission))
    return runs[0].id, runs[1].id


@pytest.fixture
def unread(root, sent, monkeypatch):
    """A request for the one that was not submitted, which the disk does not give."""
    path = root.request("lost")
    whole_files.write_json(path, {**ASKED, "runs": [sent[1]]})
    read = documents.read

    def fails(file, kind):
        if file == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return read(file, kind)

    monkeypatch.setattr(documents, "read", fails)
    return path


@pytest.mark.parametrize(("later", "goes_on"), [(60, False), (-60, True)])
def test_what_a_request_that_cannot_be_read_may_ask_otherwise_waits(ledger, root, sent, unread, later, goes_on):
    os.utime(unread, (THEN + later, THEN + later))
    problems = []
    before = earlier.EarlierSubmissions(ledger, root, None, problems)
    assert before.sources(sent).keys() == ({sent[0]} if goes_on else set())
    assert before.unsure == (set() if goes_on else {sent[0]})
    before.forget_done()
    assert unread.exists()
    earlier.EarlierSubmissions(ledger, root, None, problems)
    (problem,) = map(str, problems)
    assert problem.startswith(f"[Errno 5] Input/output error: '{unread}'. What is asked for there waits:")


@pytest.mark.usefixtures("unread")
def test_what_another_request_asks_for_goes_on_beside_one_that_cannot_be_read(ledger, root, sent):
    whole_files.write_json(root.request("read"), {**ASKED, "runs": [sent[0]]})
    before = earlier.EarlierSubmissions(ledger, root, None, [])
    assert {run_id: source["created"] for run_id, source in before.sources(sent).items()} == {sent[0]: ASKED["created"]}
    assert not before.unsure


def test_nothing_goes_on_as_it_went_while_the_folder_of_requests_cannot_be_listed(ledger, root, sent):
    folder = root.request("any").parent
    folder.symlink_to(folder)
    problems = []
    before = earlier.EarlierSubmissions(ledger, root, None, problems)
    assert (before.sources(sent), before.unsure) == ({}, {sent[0]})
    assert [str(folder) in str(each) for each in problems] == [True]


@pytest.mark.usefixtures("unread")
def test_where_nobody_keeps_what_the_disk_did_not_give_it_is_an_error(ledger, root):
    with pytest.raises(OSError, match="Input/output error"):
        earlier.EarlierSubmissions(ledger, root, None)
