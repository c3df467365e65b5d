"""experiments.yaml -> a manifest: layers of dotted paths that remember where each value was written.

The layers are defaults, a model, a study, a cell of its grid, --smoke, --set; a later one overrides an earlier one.
Knows nothing of runs or SLURM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError

from cluster.errors import InputError, did_you_mean, either, like
from cluster.files.causes import Cause
from cluster.manifest import own_stages
from cluster.sites.profiles import Notify, Rule
from tiny_transformers.common import refusals
from tiny_transformers.settings import corpora
from tiny_transformers.settings.architecture import FAMILIES
from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import (
    Data,
    RunConfig,
    Train,
)
from tiny_transformers.settings.corpora import CORPORA, Corpus
from tiny_transformers.settings.presets import PRESETS
from tiny_transformers.settings.stage.own import OwnStage

SECTIONS = ("data", "train", "evaluation")  # parts of RunConfig that any layer may override, beside `model`
MATCHING = ("match_params", "match_by")
CORPUS, DEFINITION = "data.corpus", "data.definition"
FEED_FORWARD_KIND = "model.ffn.kind"
TEACHER = "train.teacher"
PROGRAM = "program"  # in place of a model's name in a manifest that has none
SETTING_KEYS = ("model", *MATCHING, *SECTIONS)  # what a study, or a cell of its grid, may set
STUDY_KEYS = (*own_stages.STUDY_KEYS, *SETTING_KEYS)
TOP_KEYS = ("defaults", "models", "corpora", "studies", "smoke", "stages", "retry", "notify", "budget")


class SettingValue(NamedTuple):
    value: Any
    origin: str  # where the user wrote it: studies.width.grid.model.hidden_size


T = TypeVar("T")
S = TypeVar("S", bound=Settings)
Layer = dict[str, SettingValue]  # dotted path -> value


@dataclass(frozen=True)
class Cell:
    """One combination of a study's grid with one seed, checked."""

    study: str
    model: str  # its name in the manifest
    config: RunConfig
    stages: tuple[str, ...]
    baseline: bool = False  # the other cells of its study and family are held against it


class HoursBudget(Settings):
    """The hours that all which is submitted from a manifest may take (cluster/submit/budget.py)."""

    gpu_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Manifest:
    path: str
    defaults: Layer
    models: dict[str, Layer]
    studies: dict[str, Mapping[str, Any]]
    smoke: Layer
    retry: dict[Cause, Rule]  # in place of the site's
    notify: Notify | None = None  # in place of the site's
    budget: HoursBudget | None = None
    corpora: Mapping[str, Corpus] = field(default_factory=dict)  # by name, beside those that are known
    own: dict[str, OwnStage] = field(default_factory=dict)  # stages that it defines
    of_programs: bool = False  # it has no models, and is about the parameters of any program

    @property
    def optional(self) -> list[str]:
        """The studies that are taken only when they are named."""
        return [name for name, study in self.studies.items() if study.get("optional")]


def load(path: Path) -> Manifest:
    """Read and check the manifest's outline; its cells are checked by `cells`.

    Raises InputError naming file, path, value and the nearest known key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file. {_manifests_beside(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(refusals.understood(error) or f"{path}: cannot be read: {error}") from None
    from cluster import yaml_text  # here, because most commands read no manifest

    document = yaml_text.read(text, str(path))
    try:
        return _outline(path, document)
    except InputError as error:
        raise InputError(as_written(f"{path}: {error}")) from None


def _manifests_beside(path: Path) -> str:
    """A hint for a manifest that is not there: those of its folder that are called alike, or how to begin."""
    beside = {each.stem: each for each in sorted(path.parent.glob("*.yaml"))}
    if near := like(path.stem, list(beside)):
        return f"Did you mean {either([str(beside[stem]) for stem in near])}?"
    return "`tiny-transformers init` writes one to begin with."


def as_written(error: str) -> str:
    """An error with a program's parameters named as the manifest has them."""
    return error.replace(own_stages.PARAMETERS, "")


def source(path: Path, overrides: Iterable[str], studies: Iterable[str] = ()) -> dict[str, Any]:
    """Return where a submission came from, to be kept with it: name, SHA-256 and text of the file, the --set texts, and
    the studies that were asked for (none: all but the optional ones)."""
    text = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    given = {"overrides": list(overrides), "studies": list(studies)}
    return {"name": path.name, "sha256": digest, **given, "text": text}


# -- reading ----------------------------------------------------------------------------------------------------------


def _outline(path: Path, document: Any) -> Manifest:
    top = _mapping(document, "the manifest")
    for key in top:
        check_known(key, TOP_KEYS, "")

    def section(key: str) -> Mapping[str, Any]:
        """Empty where nothing is written; `retry: 0` is not nothing."""
        return {} if top.get(key) is None else _mapping(top[key], key)

    if isinstance(top.get("stages"), list):
        raise InputError(
            "stages: here a manifest defines stages of its own. Which ones studies have is defaults.stages, or "
            "studies.NAME.stages: put the list there."
        )
    own = own_stages.read(section("stages"), path)
    defaults, models, smoke = with_preset(section("defaults"), "defaults"), section("models"), section("smoke")
    studies = _mapping(top.get("studies"), "studies")
    if not studies:
        raise InputError("studies: there is none. Write at least one.")
    if not models and not own:
        raise InputError("models: there is none. Name at least one base configuration.")
    for name, model in models.items():
        if isinstance(model, dict) and model.get("family") == PROGRAM:
            raise InputError(f"models.{name}.family: a program is no model. Leave `models` out for a grid of programs.")
    if of_programs := not models:
        models = {PROGRAM: {"family": "program"}}
        studies = {
            name: own_stages.as_settings(_mapping(study, f"studies.{name}"), f"studies.{name}") | {"model": PROGRAM}
            for name, study in studies.items()
        }
        smoke = {own_stages.parameter(name, "smoke"): value for name, value in smoke.items()}
    for key in defaults:
        sections = () if of_programs else SECTIONS
        check_known(key.partition(".")[0], (*sections, "seeds", "stages"), "defaults")
    return Manifest(
        path=str(path),
        defaults=flatten(defaults, "defaults"),
        models={name: flatten(_mapping(model, f"models.{name}"), f"models.{name}") for name, model in models.items()},
        studies={
            name: _study(with_preset(_mapping(study, f"studies.{name}"), f"studies.{name}"), f"studies.{name}")
            for name, study in studies.items()
        },
        smoke=flatten(smoke, "smoke"),
        retry=_rules(section("retry")),
        notify=None if top.get("notify") is None else _settings(Notify, section("notify"), "notify"),
        budget=None if top.get("budget") is None else _settings(HoursBudget, section("budget"), "budget"),
        corpora={name: _corpus(name, value) for name, value in section("corpora").items()},
        own=own,
        of_programs=of_programs,
    )


def _study(study: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    for key in study:
        check_known(key.partition(".")[0], STUDY_KEYS, where)
    grid = _mapping(study.get("grid", {}), f"{where}.grid")
    if "grid" in study and not grid:
        raise InputError(f"{where}.grid: is empty. Give each key a list of values, or leave the grid out.")
    for key, values in grid.items():
        if not isinstance(values, list):
            raise InputError(f"{where}.grid.{key}: {values!r} is not a list. Write [{values!r}].")
        if not values:
            raise InputError(f"{where}.grid.{key}: has no values, so the grid has no cells.")
    for key in ("include", "exclude"):
        entries = study.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry for entry in entries):
            raise InputError(f"{where}.{key}: must be a list of mappings, like a cell of the grid.")
    if not all(isinstance(entry, dict) and entry for entry in baseline_entries(study)):
        raise InputError(f"{where}.baseline: must be a mapping, like a cell of the grid, or a list of them.")
    if not isinstance(study.get("optional", False), bool):
        raise InputError(f"{where}.optional: {study['optional']!r} is neither true nor false.")
    if not isinstance(study.get("description", ""), str):
        raise InputError(f"{where}.description: {study['description']!r} is not text. Put it in quotes.")
    return study


def with_preset(layer: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A layer with the settings that a named evaluation stands for, and with its stages if it names none itself.

    Raises InputError for a name that nobody knows."""
    named = layer.get("evaluation")
    if not isinstance(named, str):
        return dict(layer)
    if named not in PRESETS:
        raise InputError(
            f"{where}.evaluation: {named!r} is no evaluation that has a name. {did_you_mean(named, PRESETS)}"
        )
    preset = PRESETS[named]
    return {"stages": list(preset.stages), **layer, "evaluation": preset.evaluation}


def _corpus(name: str, corpus: Any) -> Corpus:
    where = f"corpora.{name}"
    if not corpora.NAME.fullmatch(name):
        raise InputError(f"{where}: must be letters, digits and _, since it is part of the names of runs.")
    if name in CORPORA:
        raise InputError(f"{where}: is the name of a corpus that is known. Choose another.")
    return _settings(Corpus, _mapping(corpus, where), where)


def _rules(rules: Mapping[str, Any]) -> dict[Cause, Rule]:
    for cause, rule in rules.items():
        check_known(cause, get_args(Cause), "retry")
        for key in _mapping(rule, f"retry.{cause}"):
            check_known(key, Rule.model_fields, f"retry.{cause}")
    return _valid(TypeAdapter(dict[Cause, Rule]), rules, "retry")


def _settings(kind: type[S], settings: Mapping[str, Any], where: str) -> S:
    for key in settings:
        check_known(key, kind.model_fields, where)
    return _valid(TypeAdapter(kind), settings, where)


def _valid(adapter: TypeAdapter[T], value: Any, where: str) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join([where, *map(str, first["loc"])])
        raise InputError(f"{path}: {first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a mapping (key: value), not {value!r}.")
    for key in value:
        if not isinstance(key, str):
            raise InputError(f"{where}: the key {key!r} is not text. Put it in quotes.")
    return value


def flatten(tree: Mapping[str, Any], where: str, prefix: str = "") -> Layer:
    """Nested mappings and dotted keys alike -> dotted paths."""
    flat: Layer = {}
    for key, value in tree.items():
        path, origin = f"{prefix}{key}", f"{where}.{key}"
        if value == {} and path not in SECTIONS:
            raise InputError(f"{origin}: is empty, which would say nothing. Write a setting of it, or leave it out.")
        if isinstance(value, dict):
            entries = flatten(_mapping(value, origin), origin, f"{path}.")
        else:
            entries = {path: SettingValue(value, origin)}
        for entry in entries.keys() & flat.keys():
            raise InputError(f"{entries[entry].origin}: is set twice, also at {flat[entry].origin}.")
        flat |= entries
    return flat


def check_known(key: str, known: Iterable[str], where: str) -> None:
    if key not in (known := known if isinstance(known, tuple) else [*known]):
        path = f"{where}.{key}" if where else key
        sections = {"model": FAMILIES["gpt_neo"], "data": Data, "train": Train}
        inside = [section for section, settings in sections.items() if key in settings.model_fields]
        hint = f"Did you mean {inside[0]}.{key}?" if inside else did_you_mean(key, known)
        raise InputError(f"{path}: unknown key. {hint}")


def merge(first: Layer, *layers: Layer) -> Layer:
    """A later layer wins. One with another kind of feed-forward module leaves nothing of an earlier one's, and one
    that says how long to train leaves no earlier budget."""
    merged = first
    for layer in filter(None, layers):
        kind, before = layer.get(FEED_FORWARD_KIND), merged.get(FEED_FORWARD_KIND)
        if kind and kind.value != (before.value if before else "dense"):
            merged = {path: value for path, value in merged.items() if not path.startswith("model.ffn.")}
        if any(path.startswith(("train.max_steps", "train.budget")) for path in layer):
            merged = {path: value for path, value in merged.items() if not path.startswith("train.budget")}
        merged = over(merged, layer)
    return merged


def over(lower: Layer, upper: Layer) -> Layer:
    """Both together, where the second one wins: if it has no teacher, there is none."""
    if TEACHER in upper:
        lower = {path: value for path, value in lower.items() if not path.startswith(f"{TEACHER}.")}
    return lower | upper


def baseline_entries(study: Mapping[str, Any]) -> list[Any]:
    """Return the entries of the study's `baseline`."""
    entries = study.get("baseline", [])
    return entries if isinstance(entries, list) else [entries]
