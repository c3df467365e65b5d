"""An OUTPUT_ROOT as one archive, and back."""

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest
import synthetic

from cluster import archive, manifest, plan, reconcile
from cluster.errors import InputError
from cluster.ledger import Ledger
from cluster.rundir import OutputRoot

NOW = "2026-11-22T12:00:00+00:00"
TABLES = ("run", "study_run", "study", "submission", "attempt", "score", "metric", "check_result", "data_file",
          "environment", "decision")  # fmt: skip


def rows(path):
    ledger = Ledger(path)
    found = {table: sorted(map(str, ledger.db.query(f"SELECT * FROM {table}"))) for table in TABLES}
    ledger.close()
    return found


@pytest.fixture
def finished(tmp_path):
    root = synthetic.make(tmp_path / "output", synthetic.planned(("heads",), limit=3))
    for run in root.runs():
        (run.path / "model").mkdir()
        (run.path / "model/config.json").write_text("{}")
        (run.path / ".draft.123").write_text("half")
    return root


def names(path):
    with tarfile.open(path) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def test_an_archive_unpacks_to_the_same_ledger_and_so_does_a_rebuild(finished, tmp_path):
    archive.export(finished, tmp_path / "a.tar.gz", NOW)
    there = OutputRoot(tmp_path / "there")
    assert archive.unpack(tmp_path / "a.tar.gz", there.path, NOW).under_way == 0
    assert rows(there.ledger) == rows(finished.ledger)
    again = Ledger(tmp_path / "again.db")
    assert reconcile.rebuild(again, there) == []
    again.close()
    assert rows(tmp_path / "again.db") == rows(finished.ledger)


def test_sha256sum_finds_every_file_as_it_was(finished, tmp_path):
    archive.export(finished, tmp_path / "a.tar.gz", NOW)
    subprocess.run(["tar", "xzf", "a.tar.gz"], cwd=tmp_path, check=True)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "a", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(done.stdout.splitlines()) == len(files) - 1
    assert "3 runs, without their models" in (tmp_path / "a/README.md").read_text()
    (environment,) = json.loads((tmp_path / "a/environments.json").read_text()).values()
    assert environment["gpu"] == "NVIDIA A100"


def test_models_come_only_if_they_are_asked_for_and_drafts_never(finished, tmp_path):
    archive.export(finished, tmp_path / "a.tar.gz", NOW)
    archive.export(finished, tmp_path / "b.tar.gz", NOW, with_models=True)
    run = finished.runs()[0].path.relative_to(finished.path)
    light, heavy = names(tmp_path / "a.tar.gz"), names(tmp_path / "b.tar.gz")
    assert heavy - light == {f"runs/{each.path.name}/model/config.json" for each in finished.runs()}
    assert {f"{run}/run.json", f"{run}/curve.jsonl", f"{run}/scores/blimp.npz"} <= light
    assert not any(".draft" in name for name in heavy)


def test_an_export_that_fails_leaves_nothing(finished, tmp_path):
    (finished.runs()[0].path / "gone.json").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"gone.json: was removed while it was read; nothing was written"):
        archive.export(finished, tmp_path / "a.tar.gz", NOW)
    with pytest.raises(InputError, match="must end in .tar.gz"):
        archive.export(finished, tmp_path / "a.zip", NOW)
    assert sorted(tmp_path.iterdir()) == before
    assert not finished.lock.exists()


ABOUT = b'{"created": "2026", "smoke": false, "manifests": {}}'


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def altered(source, target, change):
    """The archive with what `change` makes of each member: (name, bytes) or None to drop it."""
    with tarfile.open(source) as old, tarfile.open(target, "w:gz") as new:
        for member in old:
            made = change(member.name, old.extractfile(member).read())
            if made:
                add(new, *made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: (name, data + b" " if name.endswith("/run.json") else data), "is not what SHA256SUMS says"),
        (lambda name, data: None if name.endswith("ledger.db") else (name, data), "ledger.db is not what SHA256SUMS"),
        (lambda name, data: None if name.endswith("SUMS") else (name, data), "has no SHA256SUMS: it is cut short"),
        (lambda name, data: (name.replace("a/studies", "a/../.."), data), "is no file of such an archive"),
        (lambda name, data: (name.replace("a/studies", "a/studies/../../.."), data), "is no file of such an archive"),
        (lambda name, data: (name.replace("a/studies", "/tmp/studies"), data), "is no file of such an archive"),
        (lambda name, data: (name.replace("a/studies", "b/studies"), data), "is no file of such an archive"),
        (lambda name, data: (name.replace("a/README.md", "a/notify.json"), data), "is no file of such an archive"),
    ],
)
def test_a_changed_archive_is_refused_whole(finished, tmp_path, change, message):
    archive.export(finished, tmp_path / "a.tar.gz", NOW)
    altered(tmp_path / "a.tar.gz", tmp_path / "b.tar.gz", change)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        archive.unpack(tmp_path / "b.tar.gz", tmp_path / "there", NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_link_a_cut_archive_and_what_is_no_archive_are_refused(finished, tmp_path):
    there = OutputRoot(tmp_path / "there")
    archive.export(finished, tmp_path / "a.tar.gz", NOW)
    whole = (tmp_path / "a.tar.gz").read_bytes()
    for text in (whole[: len(whole) // 2], whole[:-500], b"no archive", b""):
        (tmp_path / "b.tar.gz").write_bytes(text)
        with pytest.raises(InputError, match=r"b.tar.gz: (is damaged or no archive|has no SHA256SUMS|is no archive)"):
            archive.unpack(tmp_path / "b.tar.gz", there.path, NOW)
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        add(tar, "b/archive.json", ABOUT)
        link = tarfile.TarInfo("b/ledger.db")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(InputError, match="is no file of such an archive"):
        archive.unpack(tmp_path / "b.tar.gz", there.path, NOW)
    assert not there.path.exists()


def test_an_archive_is_unpacked_only_where_nothing_is(finished, tmp_path):
    archive.export(finished, tmp_path / "a.tar.gz", NOW)
    (tmp_path / "empty").mkdir()
    archive.unpack(tmp_path / "a.tar.gz", tmp_path / "empty", NOW)
    with pytest.raises(InputError, match="is not empty. Name a folder that is empty or not there"):
        archive.unpack(tmp_path / "a.tar.gz", finished.path, NOW)


def command(tmp_path, *words):
    done = subprocess.run([sys.executable, "-m", "cluster.cli", *words], cwd=tmp_path, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=120, env=os.environ)  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_submit_goes_on_from_an_archive_with_what_is_missing_only(tmp_path, manifest_file, fake_science):  # noqa: ARG001
    site = f"name: here\nscheduler: local\nslots: 2\nenvironment: {{PYTHONPATH: {os.environ['PYTHONPATH']}}}\n"
    (tmp_path / "site.yaml").write_text(site)
    submit = ("submit", manifest_file.name, "--site", "site.yaml", "--yes", "--wait")
    assert command(tmp_path, *submit, "--study", "first")[0] == 0
    before = command(tmp_path, "report")[1].replace("output/", "there/")
    code, said = command(tmp_path, "report", "--export", "a.tar.gz")
    assert (code, "a.tar.gz: 0" in said) == (0, True), said
    code, said = command(tmp_path, "import", "a.tar.gz", "--output-root", "there")
    assert (code, "there: 4 runs" in said) == (0, True), said
    there = ("--output-root", "there")
    assert command(tmp_path, "report", *there)[1] == before
    (manifest,) = (tmp_path / "there/manifests").iterdir()
    said = command(tmp_path, "submit", str(manifest), *submit[2:], *there, "--study", "first")[1]
    assert "Nothing is missing: 4 runs, 16 stage runs, 16 completed." in said
    assert command(tmp_path, *submit, *there)[0] == 0
    done = [run for run in (tmp_path / "there/runs").iterdir() if len((run / "done.txt").read_text().split()) == 4]
    assert len(done) == 7


def test_what_was_under_way_is_to_be_done_where_it_is_unpacked_and_says_so_if_the_model_is_not_there(tmp_path):
    document, builtin = manifest.load(synthetic.EXPERIMENTS), "data.source=builtin"
    chosen = plan.expand(manifest.cells(document, studies=["heads"], overrides=[builtin]))[:2]
    at = {chosen[0].id: "blimp", chosen[1].id: "pretrain"}
    root = synthetic.make(tmp_path / "output", chosen, unfinished=lambda run: at[run.id])
    there = OutputRoot(tmp_path / "there")
    archive.export(root, tmp_path / "a.tar.gz", NOW)
    assert archive.unpack(tmp_path / "a.tar.gz", there.path, NOW).under_way == 2 + 4  # blimp and superglue; all
    ledger = Ledger(there.ledger)
    assert ledger.open_submissions() == []
    stages = {run["run_id"]: [view["status"] for view in run["stages"].values()] for run in ledger.overview()}
    ledger.close()
    assert stages[chosen[0].id] == ["completed", "completed", "eligible", "eligible"]
    assert stages[chosen[1].id] == ["eligible", "waiting", "waiting", "waiting"]
    assert archive.without_model(there, chosen[0].id)
    said = command(tmp_path, "submit", str(synthetic.EXPERIMENTS), "--study", "heads", "--site", "local", "--dry-run",
                   "--set", builtin, "--output-root", "there")[1]  # fmt: skip
    assert "1 run left alone: trained elsewhere" in said
    assert f"rerun --stage pretrain --run {chosen[0].id}" in said
    assert "9 runs to do" in said
