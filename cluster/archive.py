"""An OUTPUT_ROOT as one file to keep or to hand on, and back: ledger, result files, manifests, environments.

An archive is written whole or not at all, as a stream. The login node's files are read under the ledger's lock, so that
they are of one moment; a job's files are whole or absent, or only grow. It is unpacked only where nothing is, and only
if every file has its SHA-256."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cluster import reconcile, rundir
from cluster.errors import InputError
from cluster.ledger import Ledger, locked
from cluster.rundir import OutputRoot
from tiny_transformers.files import whole_file

SUMS, LEDGER, ENVIRONMENTS, MANIFESTS = "SHA256SUMS", "ledger.db", "environments.json", "manifests"
PARTS = ("runs", "submissions", "studies", "notifications")  # of an OUTPUT_ROOT
FILES = ("README.md", LEDGER, ENVIRONMENTS, SUMS)
HEAVY = ("model", "checkpoints")  # of a run
CHUNK = 1 << 20  # bytes
README = """\
# {name}

A study's results, written {created} by `tiny-transformers report --export`: {runs} runs, {models} models.

    sha256sum -c SHA256SUMS                                     # nothing is lost or changed
    tiny-transformers import {name}.tar.gz --output-root DIR    # unpacks it there
    tiny-transformers report --output-root DIR                  # tables and figures
    submit DIR/manifests/....yaml --output-root DIR             # does what is missing

ledger.db           everything, for SQLite; docs/ledger.md of the project describes it
manifests/          each manifest that was submitted, by its SHA-256
environments.json   libraries, drivers and hardware that the runs were made with
runs/               a folder a run: settings, claims, results, logs, curves, scores of pairs{heavy}
submissions/        what was submitted, where and how
studies/            questions and baselines
"""


def export(root: OutputRoot, path: Path, created: str, *, with_models: bool = False) -> int:
    """Write the archive `path`; returns its bytes. Raises InputError, LedgerBusy."""
    if not path.name.endswith(".tar.gz"):
        raise InputError(f"--export {path}: must end in .tar.gz.")
    with whole_file(path.absolute()) as draft:
        name = path.name.removesuffix(".tar.gz")
        with tarfile.open(draft, "w:gz", compresslevel=6) as tar:
            writer = _Writer(tar, name)
            with locked(root.lock), tempfile.TemporaryDirectory(dir=draft.parent) as folder:
                copy = Path(folder) / LEDGER
                _back_up(root.ledger, copy)
                with closing(Ledger(copy, read_only=True)) as ledger:
                    environments, runs = ledger.environments(), len(ledger.known_runs())
                text = README.format(
                    name=name, created=created, runs=runs, models="with their" if with_models else "without their",
                    heavy=", models and checkpoints" if with_models else "",
                )  # fmt: skip
                writer.text("README.md", text)
                writer.file(LEDGER, copy)
                writer.text(ENVIRONMENTS, json.dumps(environments, indent=1))
                for file, manifest in _manifests(root).items():
                    writer.text(f"{MANIFESTS}/{file}", manifest)
                for found in _files(root):
                    writer.file(found.relative_to(root.path).as_posix(), found)
            for found in _heavy_files(root) if with_models else ():
                writer.file(found.relative_to(root.path).as_posix(), found)
            writer.sums()
    return path.stat().st_size


class _Writer:
    """Adds files below one folder, and keeps their sums."""

    def __init__(self, tar: tarfile.TarFile, folder: str) -> None:
        self._tar, self._folder = tar, folder
        self._sums: list[str] = []

    def text(self, name: str, text: str) -> None:
        self._add(name, io.BytesIO(text.encode()), len(text.encode()), 0.0)

    def file(self, name: str, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno())
                self._add(name, file, found.st_size, found.st_mtime)  # what is added meanwhile is left out
        except FileNotFoundError:
            raise InputError(
                f"{path}: was removed while it was read; nothing was written. Do it again, best when nothing runs."
            ) from None

    def sums(self) -> None:
        self.text(SUMS, "".join(self._sums))

    def _add(self, name: str, file: IO[bytes], size: int, time: float) -> None:
        info = tarfile.TarInfo(f"{self._folder}/{name}")
        info.size, info.mtime = size, int(time)
        hashed = _Hashed(file)
        self._tar.addfile(info, hashed)  # type: ignore[arg-type]
        self._sums.append(f"{hashed.digest()}  {name}\n")


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return self._hash.hexdigest()


def _back_up(path: Path, copy: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _manifests(root: OutputRoot) -> dict[str, str]:
    """File name -> text, of every manifest that was submitted."""
    manifests = {}
    for token in sorted(root.tokens()):
        intent = _whole(root.submission(token).submission) or {}
        if source := intent.get("manifest"):
            manifests[f"{source['sha256'][:12]}-{Path(source['name']).name}"] = source["text"]
    return manifests


def _files(root: OutputRoot) -> Iterator[Path]:
    """All but what is heavy and what is being written: drafts begin with a dot."""
    for part in PARTS:
        for folder, folders, files in os.walk(root.path / part):
            is_run = Path(folder).parent == root.path / "runs"
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not (is_run and name in HEAVY))
            yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def _heavy_files(root: OutputRoot) -> Iterator[Path]:
    for run in root.runs():
        for part in HEAVY:
            for folder, folders, files in os.walk(run.path / part):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def unpack(path: Path, root: OutputRoot, now: str) -> int:
    """Make the OUTPUT_ROOT `root` of an archive, whole or not at all; returns how many attempts were under way when it
    was written: their stage runs are to be done here. Raises InputError."""
    if root.path.exists() and (not root.path.is_dir() or any(root.path.iterdir())):
        raise InputError(f"--output-root {root.path}: is not empty. Name a folder that is empty or not there.")
    root.path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=root.path.parent, prefix=f".{root.path.name}."))
    try:
        with tarfile.open(path, "r|gz") as tar:
            _check_sums(path, draft, _extract(path, tar, draft))
        if not (draft / LEDGER).is_file():
            raise InputError(f"{path}: has no {LEDGER}: it is no archive of `tiny-transformers report --export`.")
        under_way = _settle(OutputRoot(draft))
        rundir.write_json(OutputRoot(draft).imported, {"archive": path.name, "time": now})
        draft.chmod(0o755)
        os.sync()
        os.rename(draft, root.path)
    except (tarfile.TarError, EOFError, zlib.error, sqlite3.DatabaseError) as error:
        raise InputError(f"{path}: is damaged or no archive ({error}). Nothing was unpacked.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return under_way


def _extract(path: Path, tar: tarfile.TarFile, folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file. Raises InputError for whatever is not a plain file of the kinds that `export`
    writes: nothing comes in that would be run, as notify.json would."""
    sums: dict[str, str] = {}
    tops: set[str] = set()
    for member in tar:
        parts = PurePosixPath(member.name).parts
        name = "/".join(parts[1:])
        tops |= set(parts[:1])
        plain = member.isreg() and not member.name.startswith("/") and ".." not in parts
        known = name in FILES or (len(parts) > 2 and parts[1] in (*PARTS, MANIFESTS))
        if not (plain and known) or name in sums or len(tops) > 1:
            raise InputError(f"{path}: {member.name!r} is no file of such an archive. Nothing was unpacked.")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        assert source
        hashed = _Hashed(source)
        with open(target, "xb") as file:
            while data := hashed.read(CHUNK):
                file.write(data)
        os.utime(target, (member.mtime, member.mtime))
        sums[name] = hashed.digest()
    return sums


def _check_sums(path: Path, folder: Path, found: dict[str, str]) -> None:
    if SUMS not in found:
        raise InputError(
            f"{path}: has no {SUMS}: it is cut short, or no archive of `tiny-transformers report --export`."
        )
    del found[SUMS]
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    told = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    wrong = sorted(name for name in told.keys() | found.keys() if told.get(name) != found.get(name))
    if wrong:
        raise InputError(f"{path}: {wrong[0]} is not what {SUMS} says. Nothing was unpacked.")


def _settle(root: OutputRoot) -> int:
    """What was under way goes on elsewhere, if it does: here it does not count, and is to be done."""
    with closing(Ledger(root.ledger)) as ledger:
        opened = ledger.open_submissions()
        as_of = ledger.recall("as_of")
        under_way = 0
        for row in opened:
            attempts = ledger.open_attempts(row["token"])
            for attempt in attempts:
                directory = root.run(attempt["run_id"]).attempt(attempt["stage"], attempt["number"])
                if not directory.result.exists():
                    message = "was under way when the archive was made"
                    rundir.write_json(directory.verdict, {"status": "void", "message": message})
                    under_way += 1
            if row["state"] == "intended":
                answer = {"state": "submitted" if row["job_id"] else "void", "job_id": row["job_id"]}
                rundir.write_json(root.submission(row["token"]).answer, answer)
    if opened:
        root.ledger.unlink()
        with closing(Ledger(root.ledger)) as ledger:
            reconcile.rebuild(ledger, root)
            with ledger.transaction():
                ledger.remember("as_of", as_of or "never")
    return under_way


def without_model(root: OutputRoot, run_id: str) -> bool:
    """Whether a run came from an archive that had no models."""
    return root.imported.exists() and not (root.run(run_id).path / "model").is_dir()


def _whole(path: Path) -> Any | None:
    try:
        return rundir.read_json(path)
    except rundir.TornFile:
        return None
