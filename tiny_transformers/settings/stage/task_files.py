"""Find lm-eval's task files by the names of tasks and groups, and what they read. No lm-eval, no torch here.

lm-eval itself reads all of its 14,000 files to know a name. Here a folder of a user's is read whole, and of lm-eval's
own those folders alone whose name, or the name of a file in which, says that they have it."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# What a task may ask of a model here. lm-eval takes one that says nothing for generate_until.
LIKELIHOODS = ("loglikelihood", "multiple_choice", "loglikelihood_rolling")
LOCAL = ("json", "csv", "text", "parquet", "arrow")  # `dataset_path`s that read the files which are named beside it
OF_A_GROUP = ("group", "group_alias", "task", "aggregate_metric_list", "metadata", "include", "tag")
HUB = "hub"  # the folder below DATA_ROOT with copies of the hub's data sets, by their ids
OURS = Path(__file__).parents[2] / "evaluation" / "lm_eval_tasks"

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Function(str):
    """A function that a task file names: `utils.process_docs`."""


class _Loader(_SafeLoader):
    """Knows lm-eval's `!function`, and imports nothing."""


_Loader.add_constructor("!function", lambda _, node: Function(node.value))


@dataclass(frozen=True)
class TaskFile:
    path: Path
    settings: Mapping[str, Any]  # with those of the files that it includes
    files: tuple[Path, ...]  # itself, those, and the modules of functions beside it


@dataclass(frozen=True)
class Leaf:
    """One task to be scored: of its own name, or a member of a group."""

    name: str
    path: Path
    settings: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def is_rolling(self) -> bool:
        return self.settings.get("output_type") == "loglikelihood_rolling"

    def objection(self) -> str:
        """Say why it cannot be scored by likelihoods; empty: it can."""
        if "class" in self.settings:
            return "is a task of Python code, whose data no file names"
        kind = self.settings.get("output_type", "generate_until")
        if kind == "generate_until":
            return "generates text, and models are only scored here, by likelihoods"
        return "" if kind in LIKELIHOODS else f"has output_type {kind!r}, which is none of {', '.join(LIKELIHOODS)}"


@dataclass
class Catalogue:
    """The task files of some folders, and of as much of lm-eval as names ask for. Raises ValueError for a folder's file
    that cannot be read."""

    own: Sequence[Path]
    folders: list[Path] = field(default_factory=list)  # that were read
    _known: dict[str, TaskFile] = field(default_factory=dict)
    _tags: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _shipped()  # it is there
        for folder in self.own:
            self._add(folder)
        self._add(OURS)

    def leaves(self, name: str, where: str) -> list[Leaf]:
        """The tasks that a name stands for, in order. Raises ValueError for one that is not found."""
        return list(self._leaves(name, {}, where, ()))

    def _leaves(self, name: str, changes: Mapping[str, Any], where: str, above: tuple[str, ...]) -> Iterator[Leaf]:
        """As lm-eval: what a group says besides what makes it one, its members do in place of what their files say."""
        if name in above:
            raise ValueError(f"{where}: the group {name} is a member of itself ({' <- '.join((*above, name))}).")
        found = self._find(name)
        if found is None and name in self._tags:
            for member in self._tags[name]:
                yield from self._leaves(member, changes, where, (*above, name))
        elif found is None:
            raise ValueError(f"{where}: {self._unknown(name, above)}")
        elif "group" in found.settings:
            yield from self._members(found, found.settings, changes, where, (*above, name))
        else:
            yield Leaf(name, found.path, {**found.settings, **changes}, found.files)

    def _members(
        self, file: TaskFile, group: Mapping[str, Any], changes: Mapping[str, Any], where: str, above: tuple[str, ...]
    ) -> Iterator[Leaf]:
        changes = {**_of_members(group), **changes}
        members = group.get("task", [])
        for member in [members] if isinstance(members, str) else members:
            if isinstance(member, str):
                found = self._leaves(member, changes, where, above)
            elif "group" in member and not self._knows(member["group"]):
                found = self._members(file, member, changes, where, (*above, f"{above[-1]}::{member['group']}"))
            elif "group" in member or self._knows(member["task"]):
                name = member.get("group", member.get("task"))
                found = self._leaves(name, {**changes, **_of_members(member)}, where, above)
            else:  # it is defined there
                settings = {**changes, **_of_members(member)}
                found = iter([Leaf(f"{above[-1]}::{member['task']}", file.path, settings, ())])
            for leaf in found:
                yield Leaf(leaf.name, leaf.path, leaf.settings, tuple(dict.fromkeys((*file.files, *leaf.files))))

    def _knows(self, name: str) -> bool:
        return self._find(name) is not None or name in self._tags

    def _find(self, name: str) -> TaskFile | None:
        if name not in self._known and name not in self._tags:
            for folder in _likely(name):
                if folder not in self.folders:
                    self._add(folder)
                if name in self._known or name in self._tags:
                    break
        return self._known.get(name)

    def _add(self, folder: Path) -> None:
        """Read all task files of a folder. What an earlier one has already stays its."""
        self.folders.append(folder)
        of_user = folder in self.own
        for read in map(read_task_file, sorted(folder.rglob("*.yaml"))) if of_user else _readable(folder):
            name = read.settings.get("group", read.settings.get("task"))
            if isinstance(name, str):
                self._known.setdefault(name, read)
                tags = read.settings.get("tag") or []
                for tag in [tags] if isinstance(tags, str) else tags:
                    self._tags.setdefault(tag, []).append(name)

    def _unknown(self, name: str, above: tuple[str, ...]) -> str:
        of = f", which {above[-1]} names," if above else ""
        known = {*self._known, *self._tags, *_file_names(_shipped())} - {name}
        close = difflib.get_close_matches(name, known, 1)
        meant = f"Did you mean {close[0]}?" if close else "Name it as its file is named."
        folders = " and ".join(map(str, self.own))
        where = f"neither in {folders} nor in a file of lm-eval's" if folders else "in no file of lm-eval's"
        return f"{name!r}{of} is {where} of that name. {meant}"


def _of_members(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in OF_A_GROUP}


def read_task_file(path: Path, above: tuple[Path, ...] = ()) -> TaskFile:
    """A task file with those that it includes; its own settings win. Raises ValueError."""
    if path in above:
        raise ValueError(f"{path}: includes itself.")
    try:
        settings = yaml.load(path.read_bytes(), Loader=_Loader)  # safe: it adds the name of a function alone
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: is no task file: it has no keys.")
    includes = settings.pop("include", None) or []
    merged: dict[str, Any] = {}
    files = [path, *_modules(settings, path.parent)]
    for name in [includes] if isinstance(includes, str) else includes:
        included = read_task_file(path.parent / name, (*above, path))
        merged |= {key: value for key, value in included.settings.items() if key != "task_list"}
        files += included.files
    return TaskFile(path, merged | settings, tuple(dict.fromkeys(files)))


def located(settings: Mapping[str, Any], root: Path) -> tuple[str, dict[str, Any]]:
    """The `dataset_path` and the `dataset_kwargs` of a task with all that is below DATA_ROOT in full.

    Raises ValueError for what is not there."""
    path, given = str(settings.get("dataset_path") or ""), dict(settings.get("dataset_kwargs") or {})
    given.pop("trust_remote_code", None)
    if path not in LOCAL:
        folder = root / HUB / path
        if not path or not folder.is_dir():
            raise ValueError(
                f"its data set {path!r} is not in {root / HUB}. Bring it, where there is a network, by "
                f"`hf download --repo-type dataset {path} --local-dir {folder}`."
            )
        return str(folder), given
    if "data_files" in given:
        given["data_files"] = _in_full(given["data_files"], root)
    if "data_dir" in given:
        given["data_dir"] = _in_full(given["data_dir"], root)
    if not {"data_files", "data_dir"} & given.keys():
        raise ValueError(f"dataset_path {path} reads files, and dataset_kwargs names none (data_files, data_dir).")
    return path, given


def data_files(leaf: Leaf, root: Path) -> list[Path]:
    """The files below DATA_ROOT that a task's rows are read from. Raises ValueError, naming the task."""
    try:
        if "custom_dataset" in leaf.settings:  # whose function is given these, and `data_root`
            named = [root / str(value) for value in (leaf.settings.get("dataset_kwargs") or {}).values()]
            if lacking := [path for path in named if path.suffix and not path.exists()]:
                raise ValueError(f"{lacking[0]} is not there.")
            return [file for path in named for file in _files_at(path)]
        source, given = located(leaf.settings, root)
        named = _flat([given.get("data_files", []), given.get("data_dir", [])]) if source in LOCAL else [Path(source)]
        return [file for path in named for file in _files_at(path)]
    except ValueError as error:
        raise ValueError(f"{leaf.path}: {leaf.name}: {error}") from None


def _in_full(named: Any, root: Path) -> Any:
    """Paths below DATA_ROOT, however a task file arranges them, in full. Raises ValueError."""
    if isinstance(named, dict):
        return {split: _in_full(paths, root) for split, paths in named.items()}
    if isinstance(named, list):
        return [_in_full(path, root) for path in named]
    text = str(named)
    if "://" in text or text.startswith("/") or ".." in Path(text).parts:
        raise ValueError(f"{text} is not below DATA_ROOT. Put it there, and name it from there.")
    found = sorted(map(str, root.glob(text)))
    if not found:
        raise ValueError(f"{root / text} is not there. Paths in a task file are taken from DATA_ROOT.")
    return found if re.search(r"[*?\[]", text) else found[0]


def _flat(named: Any) -> list[Path]:
    if isinstance(named, dict):
        named = list(named.values())
    return [path for each in named for path in _flat(each)] if isinstance(named, list) else [Path(named)]


def _files_at(path: Path) -> list[Path]:
    """The file, or all in the folder but hidden ones, as a copy of a hub's repository has some."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    found = (file for file in sorted(path.rglob("*")) if file.is_file())
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def _modules(settings: Any, folder: Path) -> list[Path]:
    """The modules beside a task file whose functions it names."""
    if isinstance(settings, Function):
        path = folder / f"{settings.rpartition('.')[0].replace('.', '/')}.py"
        return [path] if path.is_file() else []
    inner = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    return [path for each in inner for path in _modules(each, folder)]


# -- lm-eval's own, which do not change while a command runs -----------------------------------------------------------


@cache
def _readable(folder: Path) -> list[TaskFile]:
    """Those task files of a folder that can be read: lm-eval passes over the others, too."""
    found = []
    for path in sorted(folder.rglob("*.yaml")):
        with suppress(ValueError):
            found.append(read_task_file(path))
    return found


@cache
def _shipped() -> Path:
    """The folder of lm-eval's task files. Raises ValueError where lm-eval is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.origin:
        raise ValueError("the stage lm_eval needs the package lm-eval, which is not installed: pip install lm-eval.")
    return Path(spec.origin).parent / "tasks"


def _likely(name: str) -> Iterator[Path]:
    """Folders of lm-eval that may have it: those whose name it begins with, longest first, then those with a file, or a
    folder, of its name."""
    shipped = _shipped()
    begin = [folder for folder in os.listdir(shipped) if name.startswith(folder) and (shipped / folder).is_dir()]
    yield from (shipped / folder for folder in sorted(begin, key=len, reverse=True))
    yield from _file_names(shipped).get(name, ())


@cache
def _file_names(shipped: Path) -> dict[str, list[Path]]:
    """Name of a file, without a leading _ and .yaml, or of a folder -> the folders below lm-eval's that have it."""
    found: dict[str, list[Path]] = {}
    for folder, folders, files in os.walk(shipped):
        top = shipped.joinpath(*Path(folder).relative_to(shipped).parts[:1])
        for name in (*(file.removesuffix(".yaml").lstrip("_") for file in files if file.endswith(".yaml")), *folders):
            found.setdefault(name, []).append(top)
    return found
