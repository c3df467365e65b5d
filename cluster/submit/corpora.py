"""Look through corpora before anything is submitted: what a job would refuse is refused now, and documents that are cut
are told of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster.errors import InputError
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from tiny_transformers.common import tokenizer_file
from tiny_transformers.common.survey import MOST, Survey, survey
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.config import Data, tokenizer_files

TOLD = 0.01  # the share of the documents of which it is said that they are cut


def look_through(runs: Iterable[Run], data_root: Path | None, output_root: OutputRoot) -> list[str]:
    """Return what is to be said of documents that are cut.

    Raises InputError for a file that no job could read."""
    reading = [run.config for run in runs if run.config.reads_data and run.config.data.source == "files"]
    if data_root is None or not reading:
        return []
    sizes = {(id(config.data), config.model.vocab_size): config for config in reading}  # runs share their data
    for config in sizes.values():
        data, size = config.data, config.model.vocab_size
        for file in () if data.is_stream else tokenizer_files(data):
            if told := tokenizer_file.objection(data_root / file, size):
                raise InputError(f"{told} Nothing was submitted.")
    cache = output_root.cache if output_root.path.exists() else None
    notes: list[str] = []
    for data in dict.fromkeys(config.data for config in sizes.values()):
        for split, file in () if data.is_stream else zip(("train", "validation"), data.files.files, strict=True):
            try:
                found = survey(data_root / file, data.files, cache)
            except TinyTransformersError as error:
                raise InputError(f"{error} Nothing was submitted.") from None
            where = f"{data.corpus}, {split}"
            notes += [_cut(data, where, found), _special(where, found)]
    return [note for note in dict.fromkeys(notes) if note]


def _cut(data: Data, where: str, found: Survey) -> str:
    """Say how many documents are cut; empty: hardly any."""
    cut, lost = found.longer(data.max_length), found.beyond(data.max_length)
    if cut < TOLD * found.documents:
        return ""
    return (
        f"{where}: at least {cut:,} of {_documents(found)} ({100 * cut / found.documents:.0f} %) are cut at "
        f"data.max_length {data.max_length}, by their words: {100 * lost:.0f} % of all words are not read. "
        "docs/data.md says what can be done."
    )


def _special(where: str, found: Survey) -> str:
    """Say which special tokens stand in texts; empty: none."""
    if not found.special:
        return ""
    told = ", ".join(f"{token} ({number:,})" for token, number in sorted(found.special.items()))
    return (
        f"{where}: some of {_documents(found)} hold {told}, which a tokenizer reads as its own tokens. "
        "Take them out if they are text."
    )


def _documents(found: Survey) -> str:
    return f"{found.documents:,} documents" + ("" if found.whole else f" of its first {MOST >> 20} MB")
