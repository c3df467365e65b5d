"""An OUTPUT_ROOT as one archive, and back."""

import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from contextlib import closing

import processes
import pytest
import synthetic

from cluster.archive import exporting, unpacking
from cluster.errors import InputError
from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.ledger.lock import locked
from cluster.manifest import grids, loading
from cluster.plan import expansion
from cluster.reconcile import reconciling, session
from cluster.submit import earlier

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
    exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    there = OutputRoot(tmp_path / "there")
    assert unpacking.unpack(tmp_path / "a.tar.gz", there.path, NOW).under_way == 0
    assert rows(there.ledger) == rows(finished.ledger)
    again = Ledger(tmp_path / "again.db")
    assert reconciling.rebuild(again, there) == []
    again.close()
    assert rows(tmp_path / "again.db") == rows(finished.ledger)


def test_sha256sum_finds_every_file_as_it_was(finished, tmp_path):
    exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    subprocess.run(["tar", "xzf", "a.tar.gz"], cwd=tmp_path, check=True)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "a", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(done.stdout.splitlines()) == len(files) - 1
    assert "3 runs, without their models" in (tmp_path / "a/README.md").read_text()
    (environment,) = json.loads((tmp_path / "a/environments.json").read_text()).values()
    assert environment["gpu"] == "NVIDIA A100"


def test_models_come_only_if_they_are_asked_for_and_drafts_never(finished, tmp_path):
    exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    exporting.export(finished, tmp_path / "b.tar.gz", NOW, with_models=True)
    run = finished.runs()[0].path.relative_to(finished.path)
    light, heavy = names(tmp_path / "a.tar.gz"), names(tmp_path / "b.tar.gz")
    assert heavy - light == {f"runs/{each.path.name}/model/config.json" for each in finished.runs()}
    assert {f"{run}/run.json", f"{run}/curve.jsonl", f"{run}/scores/blimp.npz"} <= light
    assert not any(".draft" in name for name in heavy)


def test_an_export_that_fails_leaves_nothing(finished, tmp_path):
    (finished.runs()[0].path / "gone.json").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"gone.json: was removed while it was read; nothing was written"):
        exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    with pytest.raises(InputError, match="must end in .tar.gz"):
        exporting.export(finished, tmp_path / "a.zip", NOW)
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
    exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    altered(tmp_path / "a.tar.gz", tmp_path / "b.tar.gz", change)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        unpacking.unpack(tmp_path / "b.tar.gz", tmp_path / "there", NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_link_a_cut_archive_and_what_is_no_archive_are_refused(finished, tmp_path):
    there = OutputRoot(tmp_path / "there")
    for path, why in ((tmp_path / "none.tar.gz", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=f"{path}: cannot be read: {why}. Nothing was unpacked."):
            unpacking.unpack(path, there.path, NOW)
    exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    whole = (tmp_path / "a.tar.gz").read_bytes()
    for text in (whole[: len(whole) // 2], whole[:-500], b"no archive", b""):
        (tmp_path / "b.tar.gz").write_bytes(text)
        with pytest.raises(InputError, match=r"b.tar.gz: (is damaged or no archive|has no SHA256SUMS|is no archive)"):
            unpacking.unpack(tmp_path / "b.tar.gz", there.path, NOW)
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        add(tar, "b/archive.json", ABOUT)
        link = tarfile.TarInfo("b/ledger.db")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(InputError, match="is no file of such an archive"):
        unpacking.unpack(tmp_path / "b.tar.gz", there.path, NOW)
    assert not there.path.exists()


def test_an_archive_is_unpacked_only_where_nothing_is(finished, tmp_path):
    exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    (tmp_path / "empty").mkdir()
    unpacking.unpack(tmp_path / "a.tar.gz", tmp_path / "empty", NOW)
    with pytest.raises(InputError, match="is not empty. Name a folder that is empty or not there"):
        unpacking.unpack(tmp_path / "a.tar.gz", finished.path, NOW)


def command(tmp_path, *words):
    done = processes.command(*words, cwd=tmp_path)
    return done.returncode, done.stdout + done.stderr


def test_submit_goes_on_from_an_archive_with_what_is_missing_only(tmp_path, few_runs, fake_science):  # noqa: ARG001
    site = f"name: here\nscheduler: local\nslots: 2\nenvironment: {{PYTHONPATH: {os.environ['PYTHONPATH']}}}\n"
    (tmp_path / "site.yaml").write_text(site)
    submit = ("submit", few_runs.name, "--site", "site.yaml", "--yes", "--wait")
    assert command(tmp_path, *submit, "--study", "second")[0] == 0
    before = command(tmp_path, "report")[1].replace("output/", "there/")
    code, said = command(tmp_path, "report", "--export", "a.tar.gz")
    assert (code, "a.tar.gz: 0" in said) == (0, True), said
    code, said = command(tmp_path, "import", "a.tar.gz", "--output-root", "there")
    assert (code, "there: 2 runs" in said) == (0, True), said
    there = ("--output-root", "there")
    assert command(tmp_path, "report", *there)[1] == before
    (manifest,) = (tmp_path / "there/manifests").iterdir()
    said = command(tmp_path, "submit", str(manifest), *submit[2:], *there, "--study", "second")[1]
    assert "Nothing is missing: 2 runs, 8 stage runs, 8 completed." in said
    assert command(tmp_path, *submit, *there)[0] == 0
    done = [run for run in (tmp_path / "there/runs").iterdir() if len((run / "done.txt").read_text().split()) == 4]
    assert len(done) == 5


def test_what_was_under_way_is_to_be_done_where_it_is_unpacked_and_says_so_if_the_model_is_not_there(tmp_path):
    document, builtin = loading.load(synthetic.EXPERIMENTS), "data.source=builtin"
    chosen = expansion.expand(grids.cells(document, studies=["heads"], overrides=[builtin]))[:2]
    at = {chosen[0].id: "blimp", chosen[1].id: "pretrain"}
    root = synthetic.make(tmp_path / "output", chosen, unfinished=lambda run: at[run.id])
    there = OutputRoot(tmp_path / "there")
    exporting.export(root, tmp_path / "a.tar.gz", NOW)
    assert unpacking.unpack(tmp_path / "a.tar.gz", there.path, NOW).under_way == 2 + 4  # blimp and superglue; all
    ledger = Ledger(there.ledger)
    assert ledger.open_submissions() == []
    stages = {run["run_id"]: [view["status"] for view in run["stages"].values()] for run in ledger.overview()}
    ledger.close()
    assert stages[chosen[0].id] == ["completed", "completed", "eligible", "eligible"]
    assert stages[chosen[1].id] == ["eligible", "waiting", "waiting", "waiting"]
    assert not there.run(chosen[0].id).model.exists()
    said = command(tmp_path, "submit", str(synthetic.EXPERIMENTS), "--study", "heads", "--site", "local", "--dry-run",
                   "--set", builtin, "--output-root", "there")[1]  # fmt: skip
    assert "1 run left alone: trained elsewhere" in said
    assert f"rerun --stage pretrain --run {chosen[0].id}" in said
    assert "9 runs to do" in said


SITE = "name: here\nscheduler: local\nslots: 2\nenvironment: {{PYTHONPATH: {path}}}\n"


def submitted(tmp_path, *words):
    (tmp_path / "site.yaml").write_text(SITE.format(path=os.environ["PYTHONPATH"]))
    code, said = command(tmp_path, "submit", *words, "--site", "site.yaml", "--yes", "--wait")
    assert code == 0, said


def test_each_set_is_a_manifest_of_its_own_with_the_command_that_was_given(tmp_path, few_runs, fake_science):  # noqa: ARG001
    for rate in ("0.001", "0.002"):
        submitted(tmp_path, few_runs.name, "--study", "second", "--set", f"train.learning_rate={rate}")
    assert command(tmp_path, "report", "--export", "a.tar.gz")[0] == 0
    said = command(tmp_path, "import", "a.tar.gz", "--output-root", "there")[1]
    given = [shlex.split(line) for line in said.splitlines() if line.startswith("    submit")]
    assert len({words[1] for words in given}) == 2
    readme = subprocess.run(["tar", "xzfO", "a.tar.gz", "a/README.md"], cwd=tmp_path, capture_output=True, text=True)
    for words in given:
        assert shlex.join(words).replace(str(tmp_path / "there"), "DIR") in readme.stdout
        again = command(tmp_path, *words, "--site", "site.yaml", "--dry-run")[1]
        assert "Nothing is missing: 2 runs, 8 stage runs, 8 completed." in again


def test_smoke_runs_stay_smoke_runs(tmp_path, few_runs, fake_science):  # noqa: ARG001
    submitted(tmp_path, few_runs.name, "--study", "second", "--smoke")
    assert command(tmp_path, "report", "--smoke", "--export", "a.tar.gz")[0] == 0
    said = command(tmp_path, "import", "a.tar.gz", "--output-root", "there")[1]
    assert f"{tmp_path}/there/smoke: 2 runs" in said
    (words,) = (shlex.split(line) for line in said.splitlines() if line.startswith("    submit"))
    assert "Nothing is missing: 2 runs" in command(tmp_path, *words, "--site", "site.yaml", "--dry-run")[1]
    told = command(tmp_path, "status", "--smoke", "--json", "--output-root", "there")[1]
    assert json.loads(told)["counts"]["completed"] == 8


def test_a_run_on_another_disk_is_exported_and_one_without_files_is_named(finished, tmp_path):
    run = finished.runs()[0].path
    run.rename(tmp_path / "disk")
    with pytest.raises(InputError, match=f"{run.name}/run.json: is not there"):
        exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    run.symlink_to(tmp_path / "disk")
    exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    assert f"runs/{run.name}/curve.jsonl" in names(tmp_path / "a.tar.gz")


def test_a_folder_that_cannot_be_read_is_an_error(finished, tmp_path, monkeypatch):
    shut, scan = str(finished.runs()[0].path / "scores"), os.scandir

    def scandir(path="."):
        if str(path) == shut:
            raise PermissionError(13, "Permission denied", shut)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="scores"):
        exporting.export(finished, tmp_path / "a.tar.gz", NOW)
    assert not (tmp_path / "a.tar.gz").exists()


def test_an_archive_says_how_many_models_it_has(finished, tmp_path):
    lacking = finished.runs()[0].path
    shutil.rmtree(lacking / "model")
    made = exporting.export(finished, tmp_path / "a.tar.gz", NOW, with_models=True)
    assert made.models == f"with the models of 2 of 3 trained (1 had none: {lacking.name})"
    subprocess.run(["tar", "xzf", "a.tar.gz"], cwd=tmp_path, check=True)
    assert made.models in (tmp_path / "a/README.md").read_text()


def test_what_happens_while_files_are_compressed_needs_no_lock_and_does_no_harm(finished, tmp_path, monkeypatch):
    run = finished.runs()[-1].path
    for part in ("checkpoints/step-1", "checkpoints/step-2", "anchors/0.1", "anchors/0.5"):
        (run / part).mkdir(parents=True)
        (run / part / "weights").write_text(part)
    log = next(run.glob("stages/pretrain/1/log.txt"))
    before, meanwhile = log.read_bytes(), []

    class Writer(exporting._Writer):
        def __init__(self, *words):
            super().__init__(*words)
            with locked(finished.lock, wait=0):  # free: nobody waits for the compression
                meanwhile.append(True)
            log.write_bytes(before + b"and more\n")
            shutil.rmtree(run / "checkpoints/step-1")
            shutil.rmtree(run / "anchors/0.5")
            (run / "run.json").write_text((run / "run.json").read_text() + "\n" * 100)

    monkeypatch.setattr(exporting, "_Writer", Writer)
    made = exporting.export(finished, tmp_path / "a.tar.gz", NOW, with_models=True)
    assert meanwhile
    assert made.gone == (f"runs/{run.name}/anchors/0.5", f"runs/{run.name}/checkpoints/step-1")
    assert unpacking.unpack(tmp_path / "a.tar.gz", tmp_path / "there", NOW).under_way == 0
    there = tmp_path / "there/runs" / run.name
    assert (there / "stages/pretrain/1/log.txt").read_bytes() == before
    assert (there / "run.json").read_bytes() == (run / "run.json").read_bytes()
    assert [path.name for path in (there / "checkpoints").iterdir()] == ["step-2"]
    assert [path.name for path in (there / "anchors").iterdir()] == ["0.1"]


def test_an_imported_root_goes_nowhere_until_it_is_told_where(tmp_path):
    planned = synthetic.planned(("heads",), limit=2)
    root = synthetic.make(tmp_path / "output", planned, unfinished=lambda run: "pretrain")  # noqa: ARG005
    exporting.export(root, tmp_path / "a.tar.gz", NOW)
    unpacking.unpack(tmp_path / "a.tar.gz", tmp_path / "there", NOW)
    there = ("--output-root", "there")
    submissions = sorted((tmp_path / "there/submissions").iterdir())
    for words in (("tick",), ("rerun", "--stage", "pretrain", "--yes")):
        code, said = command(tmp_path, *words, *there)
        assert (code, "nothing was submitted here yet" in said, "Give --site" in said) == (2, True, True), said
        code, said = command(tmp_path, *words, "--site", "local", *there)  # the data, too
        assert (code, "--data-root DIR" in said) == (2, True), said
    assert sorted((tmp_path / "there/submissions").iterdir()) == submissions
    said = command(tmp_path, "status", *there)[1]
    assert "2 stage runs eligible" in said
    assert "tick" not in said


def test_what_came_with_an_archive_goes_where_this_ones_submissions_go(tmp_path, few_runs, fake_science):  # noqa: ARG001
    root = OutputRoot(tmp_path / "output")
    submitted(tmp_path, few_runs.name, "--study", "second")
    exporting.export(root, tmp_path / "a.tar.gz", NOW)
    unpacking.unpack(tmp_path / "a.tar.gz", tmp_path / "there", NOW)
    there = OutputRoot(tmp_path / "there")
    with closing(Ledger(there.ledger)) as ledger:
        assert session.only_imported(ledger, there)
        assert earlier.last_submission(ledger, there) is None
    submitted(tmp_path, few_runs.name, "--study", "first", "--output-root", "there")
    with closing(Ledger(there.ledger)) as ledger:
        assert not session.only_imported(ledger, there)
        before = earlier.EarlierSubmissions(ledger, there, None)
        (submission_id, *_) = there.came_along()
        theirs = there.submission(submission_id).submission
        whole_files.write_json(theirs, whole_files.read_json(theirs) | {"data_root": "/theirs"})
        assert before._intent(submission_id)["data_root"] is None


@pytest.mark.parametrize(
    "members",
    [
        [("b/SHA256SUMS", b"\xff\xfe")],
        [("b/runs/a", b""), ("b/runs/a/b", b"")],
        [("b/runs/a/b", b""), ("b/runs/a", b"")],
        [("b/runs/" + "x" * 300, b"")],
    ],
)
def test_names_and_sums_that_cannot_be_are_refused(tmp_path, members):
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        for name, data in [("b/archive.json", ABOUT), *members]:
            add(tar, name, data)
    with pytest.raises(InputError, match="Nothing was unpacked"):
        unpacking.unpack(tmp_path / "b.tar.gz", tmp_path / "there", NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar.gz"]


def test_no_archive_is_written_into_what_it_exports(finished):
    for part in ("runs", "submissions", "studies/deeper"):
        with pytest.raises(InputError, match="is in a folder that is exported"):
            exporting.export(finished, finished.path / part / "a.tar.gz", NOW)
