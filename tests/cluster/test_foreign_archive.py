"""What an archive's content says never decides where a file is written, and its texts are shown without control
characters."""

import hashlib
import io
import itertools
import json
import sqlite3
import tarfile
from contextlib import closing

import processes
import pytest
import synthetic
from longer import kept

from cluster.archive import exporting, unpacking
from cluster.errors import InputError
from cluster.files.folders import OutputRoot

NOW = "2026-11-22T12:00:00+00:00"
RUN, TOP = "0123456789ab", "good"
OBEYED = "a\x1b]0;title\x07b\x1b[32mc\x9b2Jd\re\x08f\u202eg\udcffh"  # by a terminal; and half of a character
PLAIN = str.maketrans("", "", "\n\t")
DEEP = b"[" * 100_000
GRID = {"overrides": ["../x=1"], "stages": ["dance"], "runs": ["../../x", "zz"], "baselines": ["zz"]}
MEASURES = ("tokens_per_second", "mfu", "seconds", "peak_memory_mb", "micro_batch_tokens", "tokens")
SCORE = {"task": "../validation", "metric": "loss", "value": 1e300, "n": 0}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The files of an archive of three runs: name -> bytes."""
    folder = tmp_path_factory.mktemp("good")
    root = synthetic.make(folder / "output", synthetic.planned(("heads",), limit=3))
    exporting.export(root, folder / "good.tar.gz", NOW)
    with tarfile.open(folder / "good.tar.gz") as tar:
        return {member.name.partition("/")[2]: tar.extractfile(member).read() for member in tar}


def forge(path, files, *members):
    """An archive of these files, with sums that fit; and of these members, which have none."""
    files = {name: data for name, data in files.items() if name != "SHA256SUMS"}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    with tarfile.open(path, "w:gz") as tar:
        for name, data in [*files.items(), ("SHA256SUMS", sums.encode())]:
            info = tarfile.TarInfo(f"{TOP}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for member in members:
            tar.addfile(member)
    return path


def changed(data, **values):
    return json.dumps(json.loads(data) | values).encode()


def first(files, part, end):
    return next(name for name in files if name.startswith(f"{part}/") and name.endswith(end))


def last(files, part, end):
    return first(dict(reversed(files.items())), part, end)


def everything_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "report" not in path.parts}


def said_by(tmp_path, *words):
    """All that a command prints; it ends without a traceback."""
    done = processes.command(*words, "--output-root", "there", cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert said.translate(PLAIN).isprintable(), repr(said)
    return said


def all_commands_work(tmp_path, report=True):
    submit = ("submit", str(synthetic.EXPERIMENTS), "--study", "heads", "--site", "local")
    for words in (("status", "--runs"), ("usage",), *([("report",)] if report else []), (*submit, "--dry-run"),
                  ("tick",), ("rerun", "--failed", "--yes"), ("ledger", "rebuild"), ("status",)):  # fmt: skip
        said_by(tmp_path, *words)


def names_elsewhere(out):
    """The ledger of an archive, whose rows name folders outside."""

    def change(data):
        path = out / "ledger.db"
        path.write_bytes(data)
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE submission SET state = 'intended', job_id = NULL")
            for name in (f"{out}/absolute", "../../relative", "", ".", "nul\0"):
                run = "INSERT INTO run SELECT ?, 'n', parameters, config, stages, created, statuses FROM run LIMIT 1"
                db.execute(run, [name])
                db.execute(
                    "INSERT INTO submission (submission_id, created, scheduler, site, state) "
                    "VALUES (?, '2026-01-01T00:00:00+00:00', 'slurm', 'x', 'intended')",
                    [name],
                )
                db.execute(
                    "INSERT INTO attempt (run_id, stage, number, submission_id, pack_index, status) "
                    "VALUES (?, '../../stage', 1, ?, 0, 'running')",
                    [name, name],
                )
            db.commit()
        try:
            return path.read_bytes()
        finally:
            path.unlink()

    return change


def test_rows_of_an_archives_ledger_that_name_folders_outside_decide_nothing(good, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    forge(tmp_path / "bad.tar.gz", good | {"ledger.db": names_elsewhere(out)(good["ledger.db"])})
    said = said_by(tmp_path, "import", "bad.tar.gz")
    assert "there: 3 runs" in said
    all_commands_work(tmp_path)
    assert not everything_in(out)
    assert {name.partition("/")[0] for name in everything_in(tmp_path)} <= {"out", "bad.tar.gz", "there", "slurm_logs"}


def spoilt(good):
    """A name for each way in which a file may be of another form -> what is changed, and what is said of it."""
    run, intent = last(good, "runs", "/run.json"), last(good, "submissions", "/submission.json")
    claim, result = first(good, "runs", "/pretrain/1/claim.json"), first(good, "runs", "/pretrain/1/result.json")
    told = json.loads(good[intent])
    item = told["packs"][0][0]

    def pack(**values):
        return {intent: changed(good[intent], packs=[[item | values]])}

    return {
        "deep nesting": ({f"runs/{RUN}/run.json": DEEP}, f"{RUN}/run.json: not whole"),
        "a list": ({"studies/x.json": b"[1]"}, "x.json: is no x.json (must be an object)"),
        "a number": ({"submissions/abc/submission.json": b"3"}, "abc/submission.json: is no submission.json"),
        "another's id": ({run: changed(good[run], run_id=RUN)}, f"run_id: is {RUN}, and not its folder's name"),
        "an id elsewhere": ({run: changed(good[run], run_id="../../../x")}, "run_id: must be a name"),
        "a stage elsewhere": ({run: changed(good[run], stages=["pretrain", "../../../x"])}, "stages.1: must be a name"),
        "an unknown stage": ({run: changed(good[run], stages=["pretrain", "dance"])}, "no stage here is called dance"),
        "a stage twice": ({run: changed(good[run], stages=["blimp", "blimp"])}, "stages: must have one or more"),
        "other settings": ({run: changed(good[run], config={"model": 3})}, "that this version does not know: "),
        "a pack elsewhere": (pack(run_id="/tmp/x"), "packs.0.0.run_id: must be a name"),
        "a pack's stage elsewhere": (pack(stages=[["../../../../x", 1]]), "packs.0.0.stages.0.0: must be a name"),
        "a pack's unknown stage": (pack(stages=[["dance", 1]]), "packs: no stage here is called dance"),
        "an attempt 0": (pack(stages=[["pretrain", 0]]), "packs.0.0.stages.0.1: must be a whole number from 1"),
        "no time": ({intent: changed(good[intent], created="soon")}, "created: must be a time"),
        "no site": ({intent: changed(good[intent], site={"name": ["x"]})}, "site.name: must be text"),
        "a time far away": ({claim: changed(good[claim], time=1e300)}, "time: must be a number of seconds"),
        "an end far away": ({result: changed(good[result], ended=1e300)}, "ended: must be a number of seconds"),
        "a claim elsewhere": ({claim: changed(good[claim], submission_id="../x")}, "submission_id: must be a name"),
        "an odd attempt": ({claim.replace("/1/", "/\N{SUPERSCRIPT TWO}/"): good[claim]}, "there: 3 runs"),
        "a great attempt": ({claim.replace("/1/", f"/{'9' * 40}/"): good[claim]}, "there: 3 runs"),
        "a file for a folder": ({f"{run.rpartition('/')[0]}/stages/bpc": b"x"}, "there: 3 runs"),
        "a study of other runs": (
            {"studies/heads.json": changed(good["studies/heads.json"], grids=[GRID])}, "there: 3 runs"
        ),
        "measures in words": (
            {result: changed(good[result], outcome={"metrics": dict.fromkeys(MEASURES, "fast"), "scores": [SCORE]})},
            "there: 3 runs",
        ),
        "a name that a terminal obeys": ({run: changed(good[run], name=OBEYED, studies=[OBEYED])}, "there: 3 runs"),
        "a message that a terminal obeys": (
            {result: changed(good[result], status="failed", cause="error", message=OBEYED)}, "there: 3 runs"
        ),
        "a study that a terminal obeys": (
            {"studies/x.json": changed(good["studies/heads.json"], name=OBEYED, description=OBEYED)}, "there: 3 runs"
        ),
        "spoilt scores": ({first(good, "runs", "blimp.npz"): b"x", first(good, "runs", "curve.jsonl"): DEEP + b"\n3"},
                          "there: 3 runs"),
    }  # fmt: skip


# Each is met by all commands; those that spoil files which have nothing to do with each other, in one archive.
WAYS = (
    ("a list", "deep nesting", "a number", "an odd attempt", "a great attempt", "a file for a folder", "spoilt scores"),
    ("another's id", "a pack elsewhere"), ("an id elsewhere", "a pack's stage elsewhere"),
    ("a stage elsewhere", "a pack's unknown stage"), ("an unknown stage", "an attempt 0"),
    ("a stage twice", "no time"), ("other settings", "no site"),
    ("a time far away",), ("an end far away",), ("a claim elsewhere",), ("a study of other runs", "measures in words"),
    ("a name that a terminal obeys", "a message that a terminal obeys", "a study that a terminal obeys"),
)  # fmt: skip


REPORTED = {
    "a claim elsewhere", "a file for a folder", "spoilt scores", "a study of other runs", "measures in words",
    "a name that a terminal obeys", "a message that a terminal obeys",
}  # fmt: skip


MORE = {"no time", "a time far away", "an id elsewhere", "an unknown stage"}  # another example of each is in another


@pytest.mark.parametrize("ways", [kept(MORE.isdisjoint(ways), ways, id=", ".join(ways)) for ways in WAYS])
def test_files_of_another_form_are_left_out_and_named_and_all_commands_work(good, tmp_path, ways):
    assert sorted(itertools.chain(*WAYS)) == sorted(spoilt(good))
    changes, all_said = zip(*(spoilt(good)[way] for way in ways), strict=True)
    forge(tmp_path / "bad.tar.gz", dict(itertools.chain(good.items(), *(change.items() for change in changes))))
    assert len(set().union(*changes)) == sum(map(len, changes))
    shown = said_by(tmp_path, "import", "bad.tar.gz")
    assert not [said for said in all_said if said not in shown]
    all_commands_work(tmp_path, not REPORTED.isdisjoint(ways))
    assert {name.partition("/")[0] for name in everything_in(tmp_path)} <= {"bad.tar.gz", "there", "slurm_logs"}


def member(name, kind, link=""):
    info = tarfile.TarInfo(f"{TOP}/{name}")
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "odd",
    [
        member("runs/x/link", tarfile.SYMTYPE, "/etc"),
        member("runs/x/link", tarfile.LNKTYPE, f"{TOP}/ledger.db"),
        member("runs/x/pipe", tarfile.FIFOTYPE),
        member("runs/x/device", tarfile.CHRTYPE),
        member("runs/x/disk", tarfile.BLKTYPE),
        member("runs/x", tarfile.DIRTYPE),
        member("ledger.db", tarfile.REGTYPE),
        member("runs/./../ledger.db", tarfile.REGTYPE),
        member("runs/.hidden/run.json", tarfile.REGTYPE),
        member("runs/a\x1b[2Jb/run.json", tarfile.REGTYPE),
        member("submissions/a\nb/submission.json", tarfile.REGTYPE),
        member("paused.json", tarfile.REGTYPE),
        member("requests/x.json", tarfile.REGTYPE),
    ],
    ids=lambda info: repr(info.name) + info.type.decode(),
)
def test_whatever_is_no_plain_file_of_an_archive_is_refused_and_nothing_is_written(good, tmp_path, odd):
    forge(tmp_path / "bad.tar.gz", good, odd)
    with pytest.raises(InputError, match="is no file of such an archive"):
        unpacking.unpack(tmp_path / "bad.tar.gz", tmp_path / "new/deep", NOW)
    assert everything_in(tmp_path) == {"bad.tar.gz"}


def test_names_that_differ_in_their_case_only_are_two_files_where_the_file_system_says_so(good, tmp_path):
    study = first(good, "studies", ".json")
    other = study.replace("heads", "Heads")
    assert other != study
    forge(tmp_path / "bad.tar.gz", good | {other: changed(good[study], name="Heads")})
    unpacking.unpack(tmp_path / "bad.tar.gz", tmp_path / "there", NOW)
    assert len(OutputRoot(tmp_path / "there").studies()) == 2
    all_commands_work(tmp_path)


@pytest.mark.parametrize(
    "manifests",
    [
        {"../../../x": []},
        {"/etc/passwd": []},
        {"": []},
        {"x\x1b]0;T\x07": []},
        {"not there.yaml": []},
        {"there.yaml": ["--yes"]},
        {"there.yaml": ["--set"]},
        {"there.yaml": ["--set", "$(touch RAN)\nrm -rf /"]},
        {"there.yaml": ["--log-dir", "/tmp"]},
    ],
)
def test_manifests_and_options_that_nobody_submitted_are_refused(good, tmp_path, manifests):
    about = changed(good["archive.json"], manifests=manifests)
    forge(
        tmp_path / "bad.tar.gz", {"archive.json": about} | good | {"archive.json": about, "manifests/there.yaml": b""}
    )
    said = said_by(tmp_path, "import", "bad.tar.gz")
    assert "is no manifest of the archive" in said
    assert everything_in(tmp_path) == {"bad.tar.gz"}
