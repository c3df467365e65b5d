"""Write an OUTPUT_ROOT as one file to keep or to hand on: ledger, result files, manifests, environments.

An archive is written whole or not at all, as a stream. Under the ledger's lock the ledger is copied and the files are
listed; they are read after it, since compressing takes minutes. What grows is cut where it was then; other files are
replaced whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

from cluster.archive.contents import ABOUT, ENVIRONMENTS, LEDGER, MANIFESTS, PARTS, SUMS, ArchiveInfo, Hashed
from cluster.console import count
from cluster.errors import InputError
from cluster.files import documents, fields, whole_files
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.ledger.lock import locked
from tiny_transformers.common.files import whole_file

HEAVY = ("model", "checkpoints", "anchors", "export")  # of a run
PASSING = ("checkpoints", "anchors")  # of these, what a job may remove at any time, a folder each
GROWING = (".txt", ".jsonl")  # all other files are replaced whole
README = """\
# {name}

A study's results, written {created} by `tiny-transformers report --export`: {runs}, {models}.

    sha256sum -c SHA256SUMS                                     # nothing is lost or changed
    tiny-transformers import {name}.tar.gz --output-root DIR    # unpacks it there
    tiny-transformers report{smoke} --output-root DIR                  # tables and figures

What is missing is done by the commands that were given before, with your --site and --data-root:

{commands}

archive.json        how each manifest was submitted, and whether these are smoke runs
ledger.db           everything, for SQLite; docs/ledger.md of the project describes it
manifests/          each manifest that was submitted, by its SHA-256, once for each --set
environments.json   libraries, drivers and hardware that the runs were made with
runs/               a folder a run: settings, claims, results, logs, curves, scores of pairs{heavy}
submissions/        what was submitted, where and how
studies/            questions and baselines
choices/            of follow-ups: what they could choose, and what they chose, by which scores
"""


@dataclass(frozen=True)
class Exported:
    size: int  # bytes
    models: str
    gone: tuple[str, ...]  # checkpoints and anchors that were removed before they were read


def export(output_root: OutputRoot, path: Path, created: str, *, with_models: bool = False) -> Exported:
    """Write the archive `path`. Raises InputError, LedgerBusy, OSError for what cannot be read."""
    _check_target(output_root, path)
    with whole_file(path.absolute()) as draft, tempfile.TemporaryDirectory(dir=draft.parent) as folder:
        copy = Path(folder) / LEDGER
        with locked(output_root.lock):
            _back_up(output_root.ledger, copy)
            found = [_Found.at(file, output_root.path) for file in _files(output_root, with_models)]
            manifests = _manifests(output_root)
        with closing(Ledger(copy, read_only=True)) as ledger:
            _check_complete(output_root, ledger, found)
            models = _say_models(ledger, found) if with_models else "without their models"
            smoke = any(run.config.smoke for run in ledger.runs(list(ledger.known_runs())[:1]))
            about = ArchiveInfo(
                created=created, smoke=smoke, manifests={name: said for name, (_, said) in manifests.items()}
            )
            name = path.name.removesuffix(".tar.gz")
            text = README.format(
                name=name, created=created, runs=count(len(ledger.known_runs()), "run"), models=models,
                commands="\n".join(f"    {line}" for line in about.commands("DIR")) or "    (none was)",
                smoke=" --smoke" if smoke else "", heavy=", models, checkpoints and anchors" if with_models else "",
            )  # fmt: skip
            environments = json.dumps(ledger.environments(), indent=1)
        with tarfile.open(draft, "w:gz", compresslevel=6) as tar:
            writer = _Writer(tar, name)
            writer.text(ABOUT, about.model_dump_json(indent=1))
            writer.text("README.md", text)
            writer.file(_Found(copy, LEDGER, None))
            writer.text(ENVIRONMENTS, environments)
            for file, (manifest, _) in manifests.items():
                writer.text(f"{MANIFESTS}/{file}", manifest)
            gone = [key for key, group in groupby(found, _Found.unit) if not writer.unit(list(group))]
            writer.sums()
    return Exported(path.stat().st_size, models, tuple(gone))


def _check_target(root: OutputRoot, path: Path) -> None:
    if not path.name.endswith(".tar.gz"):
        raise InputError(f"--export {path}: must end in .tar.gz.")
    for part in PARTS:
        if path.resolve().is_relative_to((root.path / part).resolve()):
            raise InputError(f"--export {path}: is in a folder that is exported. Name one outside of {root.path}.")


@dataclass(frozen=True)
class _Found:
    """A file as it was seen under the lock."""

    path: Path
    name: str  # in the archive
    size: int | None  # of one that grows: what comes later is left out

    @classmethod
    def at(cls, path: Path, root: Path) -> _Found:
        return cls(path, path.relative_to(root).as_posix(), path.stat().st_size if path.suffix in GROWING else None)

    def unit(self) -> str:
        """Return what is only of use as a whole: a checkpoint or an anchor, else the file."""
        parts = self.name.split("/")
        return "/".join(parts[:4] if self.is_passing else parts)

    @property
    def is_passing(self) -> bool:
        return self.name.split("/")[2:3] in [[name] for name in PASSING]


class _Writer:
    """Adds files below one folder, and keeps their sums."""

    def __init__(self, tar: tarfile.TarFile, folder: str) -> None:
        self._tar, self._folder = tar, folder
        self._sums: list[str] = []

    def text(self, name: str, text: str) -> None:
        self._add(name, io.BytesIO(text.encode()), len(text.encode()), 0.0)

    def file(self, found: _Found) -> None:
        self.unit([found])

    def unit(self, unit: list[_Found]) -> bool:
        """Add these files, all or none: False if it is one of PASSING that its job has removed since it was listed."""
        with ExitStack() as stack:
            try:
                files = [stack.enter_context(open(found.path, "rb")) for found in unit]
            except FileNotFoundError as error:
                if unit[0].is_passing:
                    return False
                raise InputError(
                    f"{error.filename}: was removed while it was read; nothing was written. Do it again, best when "
                    "nothing runs."
                ) from None
            for found, file in zip(unit, files, strict=True):
                now = os.fstat(file.fileno())
                size = now.st_size if found.size is None else min(found.size, now.st_size)
                self._add(found.name, file, size, now.st_mtime)
        return True

    def sums(self) -> None:
        self.text(SUMS, "".join(self._sums))

    def _add(self, name: str, file: IO[bytes], size: int, time: float) -> None:
        info = tarfile.TarInfo(f"{self._folder}/{name}")
        info.size, info.mtime = size, int(time)
        hashed = Hashed(file)
        self._tar.addfile(info, hashed)  # type: ignore[arg-type]
        self._sums.append(f"{hashed.digest()}  {name}\n")


def _back_up(path: Path, copy: Path) -> None:
    with (
        closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def _manifests(root: OutputRoot) -> dict[str, tuple[str, list[str]]]:
    """File name -> text and options, of every manifest and --set that was submitted, with all the studies asked for."""
    texts: dict[str, str] = {}
    said: dict[str, list[str]] = {}
    studies: dict[str, list[str] | None] = {}
    for submission_id in sorted(root.submission_ids()):
        intent = _whole(root.submission(submission_id).submission)
        source = intent.get("manifest") if intent else None
        if not source or fields.find_fault(source, documents.ManifestTold):
            continue
        sets: list[str] = source.get("overrides") or []
        apart = f"-set-{hashlib.sha256(json.dumps(sets).encode()).hexdigest()[:6]}" if sets else ""
        name = f"{source['sha256'][:12]}{apart}-{Path(source['name']).name}"
        if not fields.is_name(name):
            name = f"{hashlib.sha256(source['text'].encode()).hexdigest()[:12]}{apart}-experiments.yaml"
        texts[name], said[name] = source["text"], [word for each in sets for word in ("--set", each)]
        before, these = studies.get(name, []), source.get("studies") or None  # none: all of the file
        studies[name] = None if before is None or these is None else list(dict.fromkeys((*before, *these)))
    return {
        name: (text, [*(word for study in studies[name] or () for word in ("--study", study)), *said[name]])
        for name, text in texts.items()
    }


def _files(root: OutputRoot, with_models: bool) -> Iterator[Path]:
    """All but what is heavy, unless it is asked for, and what is being written: drafts begin with a dot. Links are
    followed, since a run may have been moved to another disk. Raises OSError."""
    for part in PARTS:
        if not (root.path / part).is_dir():
            continue
        for folder, folders, files in os.walk(root.path / part, followlinks=True, onerror=_unless_passing):
            is_run = Path(folder).parent == root.path / "runs"
            omitted = HEAVY if is_run and not with_models else ()
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in omitted)
            yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def _unless_passing(error: OSError) -> None:
    if not (isinstance(error, FileNotFoundError) and set(PASSING) & set(Path(error.filename).parts)):
        raise error


def _check_complete(root: OutputRoot, ledger: Ledger, found: Iterable[_Found]) -> None:
    names = {file.name for file in found}
    for run_id in ledger.known_runs():
        if f"runs/{run_id}/run.json" not in names:
            raise InputError(
                f"{root.run(run_id).run_json}: is not there, and the ledger knows the run {run_id}. Nothing was "
                "written. Bring its folder back, or let `tiny-transformers ledger rebuild` forget it."
            )


def _say_models(ledger: Ledger, found: Iterable[_Found]) -> str:
    there = {file.name.split("/")[1] for file in found if file.name.split("/")[2:3] == ["model"]}
    pretrained = {run["run_id"]: run["stages"].get("pretrain") for run in ledger.overview()}
    trained = {run for run, stage in pretrained.items() if stage and stage["status"] == "completed"}
    lacking = sorted(trained - there)
    return f"with the models of {len(trained & there)} of {len(trained)} trained" + (
        f" ({len(lacking)} had none: {', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''})" if lacking else ""
    )


def _whole(path: Path) -> documents.Intent | None:
    try:
        return documents.read(path, documents.Intent)
    except whole_files.TornFile:
        return None
