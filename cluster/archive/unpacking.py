"""Make an OUTPUT_ROOT of an archive: only where nothing is, and only if every file has its SHA-256.

Its content never decides where something is written: a file's name is checked before it is written, and the ledger is
made anew from the files, which are checked as they are read. What was under way when it was written does not count
here, and is to be done."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import tempfile
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cluster.archive.contents import ABOUT, ENVIRONMENTS, LEDGER, MANIFESTS, PARTS, SUMS, ArchiveInfo, Hashed
from cluster.errors import InputError
from cluster.files import own_stages, whole_files
from cluster.files.fields import is_name
from cluster.files.folders import OutputRoot
from cluster.files.records import key_of
from cluster.ledger.database import Ledger
from cluster.reconcile import reconciling

FILES = (ABOUT, "README.md", LEDGER, ENVIRONMENTS, SUMS)
NO_FILE_NAME = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Unpacked:
    root: OutputRoot
    under_way: int  # attempts that were, when it was written: their stage runs are to be done here
    left_out: list[str]  # files that cannot be used, and why
    commands: list[str]  # that do what is missing


def unpack(path: Path, folder: Path, now: str) -> Unpacked:
    """Make the OUTPUT_ROOT `folder`, or `folder`/smoke, of an archive, whole or not at all. Raises InputError."""
    try:
        about = _about(path)
        root = OutputRoot(folder / "smoke" if about.smoke else folder)
        if root.path.exists() and (not root.path.is_dir() or any(root.path.iterdir())):
            raise InputError(f"--output-root {root.path}: is not empty. Name a folder that is empty or not there.")
        return Unpacked(root, *_unpack(path, root, about, now), about.commands(str(folder)))
    except (FileNotFoundError, IsADirectoryError) as error:
        if path.is_file():
            raise
        raise InputError(f"{path}: cannot be read: {error.strerror}. Nothing was unpacked.") from None
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: is damaged or no archive ({error}). Nothing was unpacked.") from None


def _about(path: Path) -> ArchiveInfo:
    """The first file."""
    with tarfile.open(path, "r|gz") as tar:
        first = tar.next()
        if first is None or not first.isreg() or PurePosixPath(first.name).name != ABOUT:
            raise InputError(f"{path}: is no archive of `tiny-transformers report --export`. Nothing was unpacked.")
        source = tar.extractfile(first)
        assert source
        return ArchiveInfo.model_validate_json(source.read())


def _unpack(path: Path, root: OutputRoot, about: ArchiveInfo, now: str) -> tuple[int, list[str]]:
    there = next(folder for folder in root.path.parents if folder.exists())
    apart = Path(tempfile.mkdtemp(dir=there, prefix=f".{root.path.name}."))
    draft = apart / root.path.name  # a folder of smoke runs is known by its name
    draft.mkdir()
    try:
        with tarfile.open(path, "r|gz") as tar:
            _check_sums(path, draft, _extract(path, tar, draft))
        if not (draft / LEDGER).is_file():
            raise InputError(f"{path}: has no {LEDGER}: it is no archive of `tiny-transformers report --export`.")
        _check_manifests(path, about, draft)
        (draft / LEDGER).unlink()  # for others' tools: here the files say all of it
        _disarm(OutputRoot(draft))
        under_way, left_out = _settle(OutputRoot(draft), now)
        told = {"archive": path.name, "time": now, "submission_ids": sorted(OutputRoot(draft).submission_ids())}
        whole_files.write_json(OutputRoot(draft).imported, told)
        draft.chmod(0o755)
        os.sync()
        root.path.parent.mkdir(parents=True, exist_ok=True)
        os.rename(draft, root.path)
    finally:
        shutil.rmtree(apart, ignore_errors=True)
    return under_way, [text.replace(str(draft), str(root.path)) for text in left_out]


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
        known = name in FILES or (len(parts) > 2 and parts[1] in (*PARTS, MANIFESTS) and is_name(parts[2]))
        if not (plain and known) or name in sums or len(tops) > 1:
            raise InputError(f"{path}: {member.name!r} is no file of such an archive. Nothing was unpacked.")
        target = folder / name
        source = tar.extractfile(member)
        assert source
        hashed = Hashed(source)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:
                while data := hashed.read(CHUNK):
                    file.write(data)
        except OSError as error:
            if error.errno not in NO_FILE_NAME:
                raise
            raise InputError(
                f"{path}: {member.name[:200]!r} cannot be a file here ({error.strerror}). Nothing was unpacked."
            ) from None
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


def _check_manifests(path: Path, about: ArchiveInfo, folder: Path) -> None:
    """Raises InputError if a manifest is none of the archive's files, or its options are none of `submit`'s: a person
    is told to type them."""
    for file, options in about.manifests.items():
        known = is_name(file) and (folder / MANIFESTS / file).is_file()
        given = len(options) % 2 == 0 and {"--study", "--set"}.issuperset(options[::2])
        if not (known and given and all(word.isprintable() for word in options)):
            raise InputError(
                f"{path}: {ABOUT} has {file!r} with {options!r}, which is no manifest of the archive, or not how one "
                "is submitted. Nothing was unpacked."
            )


def _disarm(root: OutputRoot) -> None:
    """Leave of stages of users' own what shows their results, and no folder: without one they do not run here until a
    `submit` of their manifest defines them."""
    for name, own in own_stages.read(root).items():
        own_stages.write(root, name, own.model_copy(update={"folder": ""}))


def _settle(root: OutputRoot, now: str) -> tuple[int, list[str]]:
    """Make the ledger, and settle what was under way: it goes on elsewhere, if it does: here it does not count, and is
    to be done. Returns how many attempts were, and what was left out."""
    under_way = 0
    with closing(Ledger(root.ledger)) as ledger:
        left_out = reconciling.rebuild(ledger, root)
        opened = ledger.open_submissions()
        for row in opened:
            for attempt in ledger.open_attempts(row["submission_id"]):
                directory = root.attempt(*key_of(attempt))
                if not directory.result.exists():
                    message = "was under way when the archive was made"
                    whole_files.write_json(directory.verdict, {"status": "void", "message": message})
                    under_way += 1
            if row["state"] == "intended":
                answer = {"state": "submitted" if row["job_id"] else "void", "job_id": row["job_id"]}
                whole_files.write_json(root.submission(row["submission_id"]).answer, answer)
    if opened:
        root.ledger.unlink()
    with closing(Ledger(root.ledger)) as ledger:
        if opened:
            reconciling.rebuild(ledger, root)
        with ledger.transaction():
            ledger.remember("as_of", now)
    return under_way, left_out
