"""Files that are there and that the system does not give: of a disk that fails, of a server that forgot, of others."""

import errno
import os
from pathlib import Path

import pytest
import synthetic

from cluster.cli import entry
from cluster.report import writing


def ended(*words):
    with pytest.raises(SystemExit) as end:
        entry.main(words)
    return end.value.code or 0


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_is_told_in_the_systems_words_and_nothing_is_lost_or_to_be_rebuilt(
    tmp_path, monkeypatch, capfd, number
):
    """The look is at a study of which one run is under way; there is no SLURM, so 3 is its code."""
    first, *others = synthetic.planned(("heads",), limit=3)
    root = synthetic.make(
        tmp_path / "output", [first, *others], unfinished=lambda run: "blimp" if run == first else None,
        failing=lambda run: "superglue" if run == others[0] else None, with_pairs=False,
    )  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))
    read = Path.read_bytes
    where = ("--output-root", str(root.path))
    names = {path.name for path in root.path.rglob("*.json")}
    assert {"run.json", "claim.json", "result.json", "heartbeat.json", "submission.json", "task-0.json"} <= names
    refused = {}
    for name in sorted(names):

        def not_given(path, name=name):
            if path.name == name:
                raise OSError(number, os.strerror(number))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", not_given)
        for words in (("ledger", "rebuild"), ("status",), ("tick",)):
            before = read(root.ledger)
            code = ended(*words, *where)
            said = "".join(capfd.readouterr())
            assert (code in (0, 2, 3), "Traceback" in said, "ledger rebuild" in said) == (True, False, False), said
            if code == 2:
                assert os.strerror(number) in said
                assert f"/{name}'" in said
                refused.setdefault(words, set()).add(name)
            assert words[0] == "status" or code != 2 or read(root.ledger) == before
        monkeypatch.setattr(Path, "read_bytes", read)
    assert refused["ledger", "rebuild"] == names, "what cannot be read would be missing in the ledger"
    assert "task-0.json" in refused["tick",]


def test_a_report_without_scores_says_so_and_one_that_may_not_be_written_where_it_may(tmp_path, monkeypatch, capfd):
    root = synthetic.make(
        tmp_path / "output", synthetic.planned(("heads",), limit=1), unfinished=lambda _: "pretrain", with_pairs=False
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(writing, "write", lambda _view, _root, folder: [folder / "index.html"])
    assert ended("report", "--output-root", str(root.path)) == 0
    assert f"1 run, and no scores yet. `status --output-root {root.path}` shows" in capfd.readouterr().out

    def shut(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "index.html")

    monkeypatch.setattr(writing, "write", shut)
    assert ended("report", "--output-root", str(root.path)) == 2
    assert "'index.html' `report --to FOLDER` writes elsewhere." in capfd.readouterr().err
