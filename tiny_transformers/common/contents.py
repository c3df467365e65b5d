"""Which bytes a run reads (SHA-256): those of its corpus by its name, those of every other file by where it is below
DATA_ROOT. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_transformers.common import progress
from tiny_transformers.common.files import whole_file
from tiny_transformers.settings.config import Data, RunConfig
from tiny_transformers.settings.corpora import Corpus
from tiny_transformers.settings.stages import required_files

SETTLED = 2  # seconds since a file was written, after which another write would show in its times
FORMAT = 1  # raised when the same files would be read as other documents


@dataclass(frozen=True)
class Content:
    file: str  # below DATA_ROOT
    sha256: str


def contents(data: Data, files: Iterable[str], data_root: Path, cache: Path) -> dict[str, Content]:
    """Return what these files hold, by the name that it has in every OUTPUT_ROOT; builtin data has none. The files have
    to be there. What was hashed before is not hashed again, while the file is as it was."""
    corpus = data.files
    found: dict[str, Content] = {}
    for name, file in names(data, files).items():
        path = data_root / file
        digest = corpus_fingerprint(path, corpus, cache) if file in corpus.files else known_fingerprint(path, cache)
        found[name] = Content(file, digest)
    return found


def names(data: Data, files: Iterable[str]) -> dict[str, str]:
    """Return the name of what each of these files holds -> the file."""
    if data.source == "builtin":
        return {}
    splits = ["stream"] if data.files.stream else ["train", "validation"]
    of_corpus = {file: f"{data.corpus}, {split}" for split, file in zip(splits, data.files.files, strict=True)}
    return {of_corpus.get(file, file): file for file in files}


def expected(known: Mapping[str, Any], revision: str | None) -> dict[str, str]:
    """Return the SHA-256 of each name's content for runs of this revision; `known` is OUTPUT_ROOT/contents.json."""
    return {**known.get("first", {}), **known.get("revisions", {}).get(revision, {})}


def unexpected(config: RunConfig, stages: Iterable[str], data_root: Path, cache: Path, known: Mapping[str, Any]) -> str:
    """Say which file of these stages is not the one that this run was submitted with; empty: all are, or nothing is
    known of them."""
    wanted = expected(known, config.data.revision)
    for name, content in changed_contents(config, stages, data_root, cache, known).items():
        return (
            f"{data_root / content.file}: is not the file that was submitted as {name} (SHA-256 "
            f"{content.sha256[:12]}, not {wanted[name][:12]}). Put that one back, or submit the manifest again."
        )
    return ""


def changed_contents(
    config: RunConfig, stages: Iterable[str], data_root: Path, cache: Path, known: Mapping[str, Any]
) -> dict[str, Content]:
    """Return what these stages read by a name that had another content when this run was submitted."""
    wanted = expected(known, config.data.revision)
    now = contents(config.data, required_files(config, stages, data_root), data_root, cache)
    return {name: each for name, each in now.items() if wanted.get(name, each.sha256) != each.sha256}


def corpus_fingerprint(path: Path, corpus: Corpus, cache: Path) -> str:
    """SHA-256 of what is read at `path`: of the file's bytes where they are read as they are; else of the bytes of all
    files, and of how documents are read from them."""
    if corpus.is_plain and path.is_file():
        return known_fingerprint(path, cache)
    how = [FORMAT, corpus.format, corpus.field if corpus.format == "jsonl" else corpus.documents]
    sources = [[file.relative_to(path).as_posix(), known_fingerprint(file, cache)] for file in files_at(path)]
    return hashlib.sha256(json.dumps([how, sources]).encode()).hexdigest()


def files_at(path: Path) -> list[Path]:
    """The file at `path`, or those in the folder that is there and below it, in order; hidden ones are left out."""
    if not path.is_dir():
        return [path]
    found = (file for file in sorted(path.rglob("*")) if file.is_file())
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def fingerprint(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal digits."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with (
        open(path, "rb") as file,
        progress.shown(f"reading {path.name}", lambda: f"{file.tell() >> 20:,} of {size >> 20:,} MB"),
    ):
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def known_fingerprint(path: Path, cache: Path) -> str:
    """`fingerprint`, computed once for each state of the file and kept in cache/fingerprints."""
    place, before = os.path.abspath(path), list(state(path))
    record = cache / "fingerprints" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["path"] == place and known["state"] == before:
            return str(known["sha256"])
    # As git does: what was just written may be written again within one tick of its file system's clock, unseen.
    settled = time.time() - max(before[2:]) / 1e9 > SETTLED
    digest = fingerprint(path)
    if settled and list(state(path)) == before:
        with suppress(OSError), whole_file(record) as draft:  # a cache that may not be written is none
            draft.write_text(json.dumps({"path": place, "state": before, "sha256": digest}), encoding="utf-8")
    return digest


def state(path: Path) -> tuple[int, ...]:
    """Return what changes whenever the file's bytes do: size, inode, and both times (ns), for mtime can be set back."""
    stat = path.stat()
    return stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns
