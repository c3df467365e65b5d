"""Hold each name of data to one content: what it had when it was first submitted to this OUTPUT_ROOT. With another one
runs are others, and only if the user says so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from cluster.console import console, count, some
from cluster.errors import InputError
from cluster.files import documents, whole_files
from cluster.files.documents import ContentsFile
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.files.statuses import LIVE
from cluster.ledger.database import Ledger
from cluster.manifest.loading import Cell
from cluster.plan.memo import PerSettings
from cluster.submit.dispatch import Todo
from tiny_transformers.common.contents import Content, changed_contents, contents, files_at, names, unexpected
from tiny_transformers.settings.config import Data, RunConfig, lacking_files
from tiny_transformers.settings.stages import required_files


def known_contents(output_root: OutputRoot) -> ContentsFile:
    return documents.read(output_root.contents, ContentsFile) or {"first": {}, "revisions": {}}


def revise(
    cells: Iterable[Cell], data_root: Path | None, output_root: OutputRoot, accept: bool
) -> tuple[list[Cell], ContentsFile]:
    """Give the cells that read another content than the first of its name a revision, which makes them other runs.
    Files that are not there are passed over: `check_data` tells of them. Returns the cells, and what is known then.

    A content of which nothing was made gives way to the new one, by the same name. Raises InputError for any other that
    its name has not had, unless new ones are accepted."""
    files = PerSettings(lambda config, stages: files_of(config, stages, data_root))
    read: dict[tuple[Data, tuple[str, ...]], dict[str, Content]] = {}

    def reading(cell: Cell) -> dict[str, Content]:
        key = cell.config.data, tuple(files.of(cell.config, cell.stages))
        if key not in read:
            there = data_root is not None and not lacking_files(data_root, key[1])
            read[key] = contents(*key, data_root, output_root.cache) if there and data_root else {}
        return read[key]

    found = [(cell, reading(cell)) for cell in cells]
    now = {name: each for _, of_cell in found for name, each in of_cell.items()}
    known = known_contents(output_root)
    first, revisions = dict(known["first"]), dict(known["revisions"])
    first |= _read_before(output_root, {name: each.file for name, each in now.items() if name not in first})
    first = {**{name: each.sha256 for name, each in now.items()}, **first}
    had = {(name, digest) for of in (first, *revisions.values()) for name, digest in of.items()}
    new = {name: each for name, each in now.items() if (name, each.sha256) not in had}
    used = in_use(new, output_root, data_root)
    replaced = {name: first[name] for name in new if name not in used}
    first |= {name: new.pop(name).sha256 for name in replaced}
    if new and not accept:
        assert data_root
        raise InputError(_explain(new, data_root, output_root, next(iter(used.values()))))
    _say_replaced(replaced)
    changed: dict[tuple[int, str], Data] = {}  # sections stay shared, by which plans are quick
    revised = []
    for cell, of_cell in found:
        others = {name: each.sha256 for name, each in of_cell.items() if each.sha256 != first[name]}
        if others:
            revision = hashlib.sha256(json.dumps(sorted(others.items())).encode()).hexdigest()[:8]
            revisions[revision] = others
            data = cell.config.data
            data = changed.setdefault((id(data), revision), data.model_copy(update={"revision": revision}))
            cell = replace(cell, config=cell.config.model_copy(update={"data": data}))
        revised.append(cell)
    now_known: ContentsFile = {"first": first, "revisions": revisions}
    if replaced:
        now_known["replaced"] = replaced
    return revised, now_known


def files_of(config: RunConfig, stages: Iterable[str], data_root: Path | None) -> list[str]:
    """Every file that these stages read below DATA_ROOT, as far as it is there to tell of them. Raises InputError where
    the files there do not tell."""
    try:
        return required_files(config, stages, data_root if data_root and data_root.is_dir() else None)
    except ValueError as error:
        raise InputError(f"{error} Nothing was submitted.") from None


def sizes(todo: Iterable[tuple[Run, Iterable[str]]], data_root: Path | None) -> dict[str, int]:
    """Return the bytes of each file below DATA_ROOT that these stages read; of those that are there."""
    if data_root is None:
        return {}
    needed = PerSettings(lambda config, stages: required_files(config, stages))
    reading = [(run.config, tuple(stages)) for run, stages in todo if run.config.data.source == "files"]
    files = {file for config, stages in reading for file in needed.of(config, stages)}
    found: dict[str, int] = {}
    for file in files:
        with suppress(OSError):  # `check_data` tells of those that are to be there
            found[file] = sum(each.stat().st_size for each in files_at(data_root / file))
    return found


def keep(output_root: OutputRoot, submitted: ContentsFile) -> None:
    """Remember the contents of what is submitted.

    Raises InputError if another command has submitted other ones by the same names meanwhile."""
    known = known_contents(output_root)
    first, revisions = known["first"], known["revisions"]
    replaced = submitted.get("replaced", {})
    differing = [
        name
        for name, digest in submitted["first"].items()
        if first.get(name, digest) not in (digest, replaced.get(name))
    ]
    if differing:
        raise InputError(
            f"{differing[0]} was submitted with another content a moment ago. Nothing was submitted: try again."
        )
    merged: ContentsFile = {
        "first": {**first, **submitted["first"]}, "revisions": {**revisions, **submitted["revisions"]}
    }  # fmt: skip
    if merged != known:
        whole_files.write_json(output_root.contents, merged, indent=None)


def check_contents(todo: Todo, data_root: Path | None, output_root: OutputRoot) -> ContentsFile | None:
    """Hold what these stages read against what their runs were submitted with. Returns what is to be remembered if
    another content takes the place of one of which nothing was made; None: nothing new.

    Raises InputError for any other content."""
    if data_root is None:
        return None
    known, cache = known_contents(output_root), output_root.cache
    changed_of = PerSettings(lambda config, stages: changed_contents(config, stages, data_root, cache, known))
    found = [(run.config, stages, now) for run, stages in todo if (now := changed_of.of(run.config, tuple(stages)))]
    new = {name: each for config, _, now in found if config.data.revision is None for name, each in now.items()}
    used = in_use(new, output_root, data_root)
    replaced = {name: known["first"][name] for name in new if name not in used}
    for config, stages, now in found:
        if config.data.revision or not now.keys() <= replaced.keys():
            why = next((used[name] for name in now if used.get(name)), "")
            raise InputError(f"{unexpected(config, stages, data_root, cache, known)}{why} Nothing was submitted.")
    if not replaced:
        return None
    _say_replaced(replaced)
    first = {**known["first"], **{name: new[name].sha256 for name in replaced}}
    return {"first": first, "revisions": known["revisions"], "replaced": replaced}


def in_use(new: Mapping[str, Content], output_root: OutputRoot, data_root: Path | None) -> dict[str, str]:
    """Return those of these names of whose first content something was made, or may have been, with a sentence where
    that is no completed stage but one under way, or a training that has begun with it and could go on."""
    if not new or not output_root.ledger.exists():
        return {}
    with closing(Ledger(output_root.ledger, read_only=True)) as ledger:
        if ledger.unknown_runs():  # to this version
            return dict.fromkeys(new, "")
        used = {name: "" for name, each in new.items() if ledger.runs_that_read(each.file)}
        runs = {run.id: run for run in ledger.runs() if run.config.reads_data and run.config.data.revision is None}
        statuses = ledger.statuses_of(runs)

    def reads(config: RunConfig, stages: Iterable[str]) -> set[str]:
        try:
            return new.keys() & names(config.data, files_of(config, stages, data_root)).keys()
        except InputError:  # the files there do not tell
            return set(new)

    reading = PerSettings(reads)
    for (run_id, stage, _), status in statuses.items():
        if status == "completed":
            used |= dict.fromkeys(reading.of(runs[run_id].config, (stage,)), "")
    for (run_id, _, _), status in statuses.items():
        if status in LIVE:
            told = f" Run {run_id}, which reads it, is under way."
            used = {**dict.fromkeys(reading.of(runs[run_id].config, runs[run_id].stages), told), **used}
    for run in runs.values():
        begun = reading.of(run.config, ("pretrain",)) - used.keys()
        if begun and (folder := output_root.run(run.id)).has_checkpoints:
            kept = folder.path / "checkpoints"
            told = f" Run {run.id} was trained on it as far as {kept}: without that folder it begins anew."
            used |= dict.fromkeys(begun, told)
    return used


def _say_replaced(names: Iterable[str]) -> None:
    told = "has another content than before, of which nothing was made: the new one takes its place."
    if named := some(names):
        console.print(f"{named}: {told}", soft_wrap=True)


def _read_before(output_root: OutputRoot, files: Mapping[str, str]) -> dict[str, str]:
    """Of what was submitted before contents were kept: name -> what the first result says that was read."""
    if not files or not output_root.ledger.exists():
        return {}
    with closing(Ledger(output_root.ledger, read_only=True)) as ledger:
        first = ledger.first_read(files.values())
    return {name: first[file] for name, file in files.items() if file in first}


def _explain(new: Mapping[str, Content], data_root: Path, output_root: OutputRoot, why: str) -> str:
    (name, each), *others = new.items()
    runs = 0
    if output_root.ledger.exists():
        with closing(Ledger(output_root.ledger, read_only=True)) as ledger:
            runs = ledger.runs_that_read(each.file)
    before = f"that {count(runs, 'completed run')} read" if runs else "that was submitted here before"
    more = f" (nor are {len(others)} others theirs)" if others else ""
    return (
        f"{data_root / each.file}: is not the file {before} as {name}{more}. Put that one back, or name yours "
        "otherwise, under `corpora`; or say --accept-data: runs with it are others then, with ids of their own."
        f"{why} Nothing was submitted."
    )
