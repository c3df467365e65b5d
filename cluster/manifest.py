"""experiments.yaml -> the checked settings of every cell of every study.

A manifest is layers of dotted paths: defaults, a model, a study, a cell of its grid, --smoke, --set. A later layer
overrides an earlier one. Each value remembers where it was written, so that an error can say it. Grids follow
GitHub Actions' matrix: every combination, minus `exclude`, extended by `include`. `match_params` solves one size of a
cell for the parameter count of a named model. `baseline` says what the other cells of a study are held against. Knows
nothing of runs or SLURM."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from cluster.errors import InputError, did_you_mean
from cluster.site import Cause, Notify, Rule
from tiny_transformers.architecture import FAMILIES, FEED_FORWARD, Model, num_parameters
from tiny_transformers.config import (
    DEFAULT_STAGES,
    NEEDS,
    STAGES,
    STORY_SETTINGS,
    STREAM_SETTINGS,
    Data,
    RunConfig,
    Train,
    misfit,
)
from tiny_transformers.settings import Settings

SECTIONS = ("data", "train", "evaluation")  # parts of RunConfig that any layer may override, beside `model`
MATCHING = ("match_params", "match_by")
FEED_FORWARD_KIND = "model.ffn.kind"
SIZES = ("intermediate_size", "hidden_size")  # that `match_by` may name
SETTING_KEYS = ("model", *MATCHING, *SECTIONS)  # what a study, or a cell of its grid, may set
STUDY_KEYS = ("description", "baseline", "grid", "include", "exclude", "seeds", "stages", *SETTING_KEYS)
HEADS = ("model.num_heads", "model.num_attention_heads")
TOLERANCE = 0.01  # of the parameters that are to be matched
LARGEST_SIZE = 2**20
SEEDS = 2**32  # RunConfig.seed is below
FAMILY_WORDS = {  # Hugging Face's, of the other family
    "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
    "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
}  # fmt: skip
NO_SETTINGS = {"seed": "write seeds: beside the grid", "smoke": "use --smoke", "recipe": "it is the code's"}
FOR_ALL = ("defaults.", "smoke.", "--set ")  # where settings stand that not every model has to heed
TOP_KEYS = ("defaults", "models", "studies", "smoke", "retry", "notify")


@dataclass(frozen=True)
class Value:
    value: Any
    origin: str  # where the user wrote it: studies.width.grid.model.hidden_size


T = TypeVar("T")
Layer = dict[str, Value]  # dotted path -> value
_MODEL: TypeAdapter[Any] = TypeAdapter(Model)


@dataclass(frozen=True)
class Cell:
    """One combination of a study's grid with one seed, checked."""

    study: str
    model: str  # its name in the manifest
    config: RunConfig
    stages: tuple[str, ...]
    baseline: bool = False  # the other cells of its study and family are held against it


@dataclass(frozen=True)
class Manifest:
    path: str
    defaults: Layer
    models: dict[str, Layer]
    studies: dict[str, Mapping[str, Any]]
    smoke: Layer
    retry: dict[Cause, Rule]  # in place of the site's
    notify: Notify | None = None  # in place of the site's


def load(path: Path) -> Manifest:
    """Read and check the manifest's outline; its cells are checked by `cells`.

    Raises InputError naming file, path, value and the nearest known key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        document = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    try:
        return _outline(str(path), document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def source(path: Path, overrides: Iterable[str], studies: Iterable[str] = ()) -> dict[str, Any]:
    """What a submission came from, to be kept with it: name, SHA-256 and text of the file, the --set texts, and the
    studies that were asked for (none: all)."""
    text = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    given = {"overrides": list(overrides), "studies": list(studies)}
    return {"name": path.name, "sha256": digest, **given, "text": text}


def cells(
    manifest: Manifest, *, studies: Iterable[str] = (), overrides: Iterable[str] = (), smoke: bool = False
) -> list[Cell]:
    """Every cell of these studies (all, if none is named), in the manifest's order.

    `overrides` are `path=value` texts of --set. `smoke` applies the manifest's smoke layer and the first seed only.
    Raises InputError."""
    top = _smoke_layer(manifest, smoke) | _parse_overrides(overrides)
    try:
        names = list(studies) or list(manifest.studies)
        for name in names:
            _known(name, manifest.studies, "studies")
        found = [cell for name in names for cell in _study_cells(manifest, name, top, smoke)]
        _check_heeded(top, found)
        return found
    except InputError as error:
        raise InputError(f"{manifest.path}: {error}") from None


# -- reading ----------------------------------------------------------------------------------------------------------


# libyaml reads a list of 25,000 seeds in a tenth of the time, where PyYAML was built with it.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Safe, and refuses a key written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key_node.value} is here twice", node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _outline(path: str, document: Any) -> Manifest:
    top = _mapping(document, "the manifest")
    for key in top:
        _known(key, TOP_KEYS, "")
    defaults = dict(_mapping(top.get("defaults") or {}, "defaults"))
    for key in defaults:
        _known(key.partition(".")[0], (*SECTIONS, "seeds", "stages"), "defaults")
    models = _mapping(top.get("models") or {}, "models")
    studies = _mapping(top.get("studies"), "studies")
    if not studies:
        raise InputError("studies: there is none. Write at least one.")
    if not models:
        raise InputError("models: there is none. Name at least one base configuration.")
    return Manifest(
        path=path,
        defaults=_flatten(defaults, "defaults"),
        models={name: _flatten(_mapping(model, f"models.{name}"), f"models.{name}") for name, model in models.items()},
        studies={
            name: _study(_mapping(study, f"studies.{name}"), f"studies.{name}") for name, study in studies.items()
        },
        smoke=_flatten(_mapping(top.get("smoke") or {}, "smoke"), "smoke"),
        retry=_rules(_mapping(top.get("retry") or {}, "retry")),
        notify=_notify(_mapping(top["notify"], "notify")) if top.get("notify") else None,
    )


def _study(study: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    for key in study:
        _known(key.partition(".")[0], STUDY_KEYS, where)
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
    if not all(isinstance(entry, dict) and entry for entry in _entries(study)):
        raise InputError(f"{where}.baseline: must be a mapping, like a cell of the grid, or a list of them.")
    if not isinstance(study.get("description", ""), str):
        raise InputError(f"{where}.description: {study['description']!r} is not text. Put it in quotes.")
    return study


def _rules(rules: Mapping[str, Any]) -> dict[Cause, Rule]:
    for cause, rule in rules.items():
        _known(cause, get_args(Cause), "retry")
        for key in _mapping(rule, f"retry.{cause}"):
            _known(key, Rule.model_fields, f"retry.{cause}")
    return _valid(TypeAdapter(dict[Cause, Rule]), rules, "retry")


def _notify(settings: Mapping[str, Any]) -> Notify:
    for key in settings:
        _known(key, Notify.model_fields, "notify")
    return _valid(TypeAdapter(Notify), settings, "notify")


def _valid(adapter: TypeAdapter[T], value: Any, where: str) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join([where, *map(str, first["loc"])])
        raise InputError(f"{path}: {first['input']!r}: {first['msg']}") from None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a mapping (key: value), not {value!r}.")
    for key in value:
        if not isinstance(key, str):
            raise InputError(f"{where}: the key {key!r} is not text. Put it in quotes.")
    return value


def _flatten(tree: Mapping[str, Any], where: str, prefix: str = "") -> Layer:
    """Nested mappings and dotted keys alike -> dotted paths."""
    flat: Layer = {}
    for key, value in tree.items():
        path, origin = f"{prefix}{key}", f"{where}.{key}"
        if isinstance(value, dict):
            entries = _flatten(_mapping(value, origin), origin, f"{path}.")
        else:
            entries = {path: Value(value, origin)}
        for entry in entries.keys() & flat.keys():
            raise InputError(f"{entries[entry].origin}: is set twice, also at {flat[entry].origin}.")
        flat |= entries
    return flat


def _known(key: str, known: Iterable[str], where: str) -> None:
    known = list(known)
    if key not in known:
        path = f"{where}.{key}" if where else key
        sections = {"model": FAMILIES["gpt_neo"], "data": Data, "train": Train}
        inside = [section for section, settings in sections.items() if key in settings.model_fields]
        hint = f"Did you mean {inside[0]}.{key}?" if inside else did_you_mean(key, known)
        raise InputError(f"{path}: unknown key. {hint}")


def _parse_overrides(texts: Iterable[str]) -> Layer:
    layer: Layer = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if path in ("stages", "seeds"):
            raise InputError(f"--set {text}: {path} are the study's: write them there, or under defaults.")
        if not equals or path.partition(".")[0] not in ("model", *SECTIONS) or "." not in path:
            raise InputError(f"--set {text}: write it as a path and a value, such as train.max_steps=20.")
        try:
            layer[path] = Value(yaml.safe_load(value), f"--set {path}")
        except yaml.YAMLError:
            raise InputError(f"--set {text}: {value!r} is not a YAML value.") from None
    return layer


def _smoke_layer(manifest: Manifest, smoke: bool) -> Layer:
    if not smoke:
        return {}
    if not manifest.smoke:
        raise InputError(f"{manifest.path}: has no section `smoke`, which says what --smoke makes small.")
    return manifest.smoke | {"smoke": Value(True, "--smoke")}


# -- grids ------------------------------------------------------------------------------------------------------------


def _study_cells(manifest: Manifest, name: str, top: Layer, smoke: bool) -> Iterator[Cell]:
    study, where = manifest.studies[name], f"studies.{name}"
    seeds = _seeds(manifest, study, where)[: 1 if smoke else None]
    stages = _stages(study.get("stages") or _default(manifest, "stages", list(DEFAULT_STAGES)), where)
    own = {key: value for key, value in study.items() if key.partition(".")[0] in SETTING_KEYS}
    base = {path: value for path, value in manifest.defaults.items() if path not in ("seeds", "stages")}
    combinations = _combinations(study, where)
    chosen = _chosen(study, _flatten(own, where), combinations, where)
    variants: list[tuple[str, list[RunConfig]]] = []
    for combination in combinations:
        layer = _flatten(own, where) | combination
        model, model_layer = _base_model(manifest, layer, where)
        merged = _match(manifest, _merge(base, model_layer, layer, top), model, model_layer, top, where)
        variants.append((model, _seeded(merged, seeds, stages, where)))
    baselines = _baselines(variants, chosen)
    for index, (model, configs) in enumerate(variants):
        for config in configs:
            yield Cell(name, model, config, stages, index in baselines)


def _seeded(layer: Layer, seeds: Iterable[int], stages: tuple[str, ...], where: str) -> list[RunConfig]:
    """A combination's settings with each seed: checked once, and copied with the other seeds, so that they share their
    sections."""
    configs: list[RunConfig] = []
    for seed in seeds:
        if configs and type(seed) is int and 0 <= seed < SEEDS:
            configs.append(configs[0].model_copy(update={"seed": seed}))
            continue
        configs.append(_check(layer | {"seed": Value(seed, f"{where}.seeds")}, where))
        if wrong := misfit(configs[-1], stages):
            raise InputError(f"{where}: {wrong}. Change it, or leave the stage out.")
    return configs


def _entries(study: Mapping[str, Any]) -> list[Any]:
    """Of the study's `baseline`."""
    entries = study.get("baseline", [])
    return entries if isinstance(entries, list) else [entries]


def _chosen(study: Mapping[str, Any], own: Layer, combinations: list[Layer], where: str) -> dict[int, str]:
    """The combinations that the study's `baseline` matches, by what is written in the study and its grid -> by which
    entry."""
    chosen: dict[int, str] = {}
    for number, entry in enumerate(_entries(study)):
        place = f"{where}.baseline[{number}]" if isinstance(study["baseline"], list) else f"{where}.baseline"
        wanted = {path: value.value for path, value in _point(entry, place).items()}
        found = [
            index
            for index, combination in enumerate(combinations)
            if wanted.items() <= {path: value.value for path, value in (own | combination).items()}.items()
        ]
        if not found:
            known = sorted({path for combination in combinations for path in own | combination})
            unknown = next((path for path in wanted if path not in known), None)
            if unknown:
                raise InputError(f"{place}.{unknown}: no cell of the study sets it. {did_you_mean(unknown, known)}")
            raise InputError(f"{place}: matches no cell of the study. Give values that its grid or an include has.")
        chosen |= dict.fromkeys(found, place)
    return chosen


def _baselines(variants: list[tuple[str, list[RunConfig]]], chosen: Mapping[int, str]) -> set[int]:
    """Of each family the variant that was chosen, or else the first one; combinations may make the same variant."""
    first: dict[str, int] = {}
    for index in (*chosen, *range(len(variants))):
        config = variants[index][1][0]
        before = first.setdefault(config.family, index)
        if index in chosen and config != variants[before][1][0]:
            if chosen[index] != chosen[before]:
                raise InputError(
                    f"{chosen[before]} and {chosen[index]}: match two variants of {config.family}, and one is "
                    "the baseline."
                )
            raise InputError(
                f"{chosen[index]}: matches several variants of {config.family}, and one is the baseline. Give "
                "more of its values."
            )
    return {*chosen, *first.values()}


def _merge(*layers: Layer) -> Layer:
    """A later layer wins. One with another kind of feed-forward module leaves nothing of an earlier one's, and one
    that says how long to train leaves no earlier budget."""
    merged: Layer = {}
    for layer in layers:
        kind, before = layer.get(FEED_FORWARD_KIND), merged.get(FEED_FORWARD_KIND)
        if kind and kind.value != (before.value if before else "dense"):
            merged = {path: value for path, value in merged.items() if not path.startswith("model.ffn.")}
        if any(path.startswith(("train.max_steps", "train.budget")) for path in layer):
            merged = {path: value for path, value in merged.items() if not path.startswith("train.budget")}
        merged |= layer
    return merged


def _default(manifest: Manifest, key: str, otherwise: Any) -> Any:
    return manifest.defaults[key].value if key in manifest.defaults else otherwise


def _seeds(manifest: Manifest, study: Mapping[str, Any], where: str) -> list[int]:
    seeds = study.get("seeds", _default(manifest, "seeds", [42]))
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise InputError(f"{where}.seeds: {seeds!r} must be a list of different whole numbers.")
    return seeds


def _stages(stages: Any, where: str) -> tuple[str, ...]:
    if not isinstance(stages, list):
        raise InputError(f"{where}.stages: {stages!r} must be a list of stages.")
    for stage in stages:
        _known(str(stage), STAGES, f"{where}.stages")
    for stage in stages:
        for need in NEEDS[stage]:
            if need not in stages:
                raise InputError(f"{where}.stages: {stage} needs {need}. Add it.")
    return tuple(stage for stage in STAGES if stage in stages)


def _combinations(study: Mapping[str, Any], where: str) -> list[Layer]:
    """The matrix: grid, minus exclude, then include, with GitHub's rules."""
    grid = study.get("grid", {})
    product = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for number, entry in enumerate(study.get("exclude", [])):
        kept = [cell for cell in product if not _matches(cell, entry, where)]
        if len(kept) == len(product):
            raise InputError(f"{where}.exclude[{number}]: matches no cell of the grid.")
        product = kept
    if not product:
        raise InputError(f"{where}.exclude: leaves no cell of the grid.")
    layers = [_point(cell, f"{where}.grid") for cell in product]
    if not grid and study.get("include"):
        layers = []
    return _include(layers, list(grid), study.get("include", []), where)


def _point(cell: Mapping[str, Any], where: str) -> Layer:
    """One value of every axis -> settings. A value may be a mapping: of settings below the axis' own path, or, where
    the axis has a name that is no setting, of any settings."""
    layer: Layer = {}
    for axis, value in cell.items():
        origin = f"{where}.{axis}"
        prefix = f"{axis}." if axis.partition(".")[0] in SETTING_KEYS else ""
        entries = _flatten(value, origin, prefix) if isinstance(value, dict) else {axis: Value(value, origin)}
        for path, entry in entries.items():
            if path in NO_SETTINGS:
                raise InputError(f"{entry.origin}: cannot be set here; {NO_SETTINGS[path]}.")
            _known(path.partition(".")[0], SETTING_KEYS, entry.origin.removesuffix(f".{path}"))
            if path in layer:
                raise InputError(f"{entry.origin}: is set by another axis, too: {layer[path].origin}.")
            layer[path] = entry
    return layer


def _matches(cell: Mapping[str, Any], entry: Mapping[str, Any], where: str) -> bool:
    """Whether a cell of the grid has all values of an `exclude` entry: axes, or the settings that they make."""
    point = {path: value.value for path, value in _point(cell, where).items()}
    wanted = {path: value.value for path, value in _point(entry, where).items()}
    return entry.items() <= cell.items() or wanted.items() <= point.items()


def _fits(cell: Layer, added: Layer, axes: set[str]) -> bool:
    """Whether an `include` entry changes no value of the grid in this cell."""
    same = all(path in cell and added[path].value == cell[path].value for path in axes & added.keys())
    kind = {path: value.value for path, value in added.items() if path.startswith("model.ffn.")}
    of_grid = {path: value.value for path, value in cell.items() if path.startswith("model.ffn.")}
    # A whole feed-forward module stands for itself: what it leaves out is its default, not open.
    return same and (FEED_FORWARD_KIND not in kind or FEED_FORWARD_KIND not in of_grid or kind == of_grid)


def _include(layers: list[Layer], grid: list[str], entries: list[dict[str, Any]], where: str) -> list[Layer]:
    """An entry extends every cell of the grid whose grid values it does not change; if there is none, it is a cell."""
    originals = [dict(layer) for layer in layers]
    axes = {path for layer in layers for path in layer} | set(grid)
    for number, entry in enumerate(entries):
        added = _point(entry, f"{where}.include[{number}]")
        fits = [index for index, cell in enumerate(originals) if _fits(cell, added, axes)]
        for index in fits:
            layers[index] = layers[index] | added
        if not fits:
            layers.append(added)
    return layers


# -- matching parameters ----------------------------------------------------------------------------------------------


def _match(manifest: Manifest, layer: Layer, model: str, model_layer: Layer, top: Layer, where: str) -> Layer:
    """Without `match_params` and `match_by`, and with the size solved that they ask for.

    `match_params: gpt` is the parameter count of models.gpt; true that of the cell's own base model. A size that
    the base model has may be replaced, one that a study, its grid or --set gives is not."""
    wanted, by = (layer.get(key) for key in MATCHING)
    layer = {path: value for path, value in layer.items() if path not in MATCHING}
    size = by.value if by else SIZES[0]
    if by and size not in SIZES:
        raise InputError(f"{by.origin}: {size!r} is no size that can be solved. {did_you_mean(str(size), SIZES)}")
    if wanted is None or wanted.value in (False, None):
        if by and wanted is None:
            raise InputError(f"{by.origin}: nothing is matched: say match_params, too.")
        return layer
    path = f"model.{size}"
    if path in layer and layer[path] != model_layer.get(path):
        raise InputError(f"{layer[path].origin}: {wanted.origin} is to find this size. Leave one of them out.")
    name = model if wanted.value is True else wanted.value
    if not isinstance(name, str) or name not in manifest.models:
        raise InputError(
            f"{wanted.origin}: {name!r} is no model of this manifest. {did_you_mean(str(name), manifest.models)}"
        )
    target_layer = _model_layer(manifest, name)
    if MATCHING[0] in target_layer:
        raise InputError(f"{wanted.origin}: models.{name} is itself matched. Name the model it is matched to.")
    overrides = {path: value for path, value in top.items() if path.startswith("model.")}
    target = _count(_merge(target_layer, overrides))
    if not target:
        raise InputError(f"{wanted.origin}: models.{name} is itself not a valid model: use it in a study to see why.")
    step, tried = 1, layer
    if size == "hidden_size":
        heads = next((layer[path].value for path in HEADS if path in layer), 4)
        step = heads if isinstance(heads, int) and heads > 0 else 1
        tried = layer | {"model.hidden_size": Value(128 * step, wanted.origin)}
    _check(tried, where)  # any other mistake is named as what it is
    complaint = f"{wanted.origin}: {size} cannot match {name}'s {target:,} parameters"
    solved = _solve(lambda n: _count(layer | {path: Value(n, "")}), target, step, complaint)
    return layer | {path: Value(solved, wanted.origin)}


def _solve(count: Callable[[int], int], target: int, step: int, complaint: str) -> int:
    """The multiple of `step` whose count, which grows with it, is nearest to `target`. Raises InputError."""
    low, high = step, 2 * step
    while count(high) < target:
        low, high = high, 2 * high
        if high > LARGEST_SIZE:
            raise InputError(f"{complaint}: this model has {count(low):,} whatever it is. Leave match_params out.")
    while high - low > step:
        middle = (low + high) // (2 * step) * step
        low, high = (middle, high) if count(middle) < target else (low, middle)
    best = min((low, high), key=lambda n: abs(count(n) - target))
    if abs(count(best) - target) > TOLERANCE * target:
        raise InputError(f"{complaint}: the nearest are {count(best):,}, at {best}.")
    return best


def _count(layer: Layer) -> int:
    """Parameters of the model of a cell; 0 where it is none, as with a size that is too small."""
    try:
        return num_parameters(_MODEL.validate_python(_tree(layer)["model"]))
    except ValidationError:
        return 0


# -- checking ---------------------------------------------------------------------------------------------------------


def _base_model(manifest: Manifest, layer: Layer, where: str) -> tuple[str, Layer]:
    """The named model of a cell, and its settings as a layer; takes the name out of `layer`."""
    named = layer.pop("model", None)
    if named is None:
        raise InputError(f"{where}.model: is missing. Name one of models: {', '.join(manifest.models)}.")
    if not isinstance(named.value, str) or named.value not in manifest.models:
        hint = did_you_mean(str(named.value), manifest.models)
        raise InputError(f"{named.origin}: {named.value!r} is no model of this manifest. {hint}")
    return named.value, _model_layer(manifest, named.value)


def _model_layer(manifest: Manifest, name: str) -> Layer:
    """The settings of a named model; `match_params` and `match_by` may stand among them."""
    return {path if path in MATCHING else f"model.{path}": value for path, value in manifest.models[name].items()}


def _check(layer: Layer, where: str) -> RunConfig:
    tree = _tree(layer)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error, layer, tree, where)) from None
    for value in _unheeded(layer, config):
        if not value.origin.startswith(FOR_ALL):
            raise InputError(f"{value.origin}: models of {config.data.corpus} have no use for it. Leave it out.")
    return config


def _unheeded(layer: Layer, config: RunConfig) -> list[Value]:
    names = STORY_SETTINGS if config.data.is_stream else STREAM_SETTINGS
    return [layer[path] for name in names if (path := f"train.{name}") in layer]


def _check_heeded(top: Layer, cells: Iterable[Cell]) -> None:
    """What --set says must count for one of the cells."""
    given = {path: value for path, value in top.items() if value.origin.startswith("--set ")}
    corpora = {cell.config.data.corpus: cell.config for cell in cells}
    unheeded = [{value.origin for value in _unheeded(given, config)} for config in corpora.values()]
    if unheeded and (useless := sorted(set.intersection(*unheeded))):
        raise InputError(f"{useless[0]}: models of {' and '.join(corpora)} have no use for it. Leave it out.")


def _tree(layer: Layer) -> dict[str, Any]:
    """Dotted paths -> nested settings."""
    tree: dict[str, Any] = {}
    for path, value in layer.items():
        *parents, leaf = path.split(".")
        node: Any = tree
        for parent in parents:
            if node.get(parent) is None:  # a section that a lower layer leaves out by `null`
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise InputError(f"{value.origin}: {parent} is one value, not a section.")
        node[leaf] = value.value
    return tree


def _explain(error: ValidationError, layer: Layer, tree: dict[str, Any], where: str) -> str:
    errors = error.errors(include_url=False)
    # Of a misspelt key that is required both are errors; what was written is to be named.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    loc = _without_tags([str(part) for part in first["loc"]])
    path = ".".join(loc)
    origin = layer[path].origin if path in layer else f"{where}.{path}".rstrip(".")
    value = first["input"]
    if first["type"] == "extra_forbidden":
        origin = next((each.origin for key, each in layer.items() if f"{key}.".startswith(f"{path}.")), origin)
        whose = _whose(loc, tree)
        return f"{origin}: unknown key{whose or f'. {did_you_mean(loc[-1], _fields(loc[:-1], tree))}'}"
    if first["type"] == "union_tag_invalid" and loc[-1:] == ["ffn"]:
        kind = tree["model"]["ffn"]["kind"]
        origin = layer["model.ffn.kind"].origin if "model.ffn.kind" in layer else f"{where}.model.ffn.kind"
        return f"{origin}: {kind!r} is no kind of feed-forward module. {did_you_mean(str(kind), FEED_FORWARD)}"
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        family = tree.get("model", {}).get("family")
        origin = layer["model.family"].origin if "model.family" in layer else f"{where}.model.family"
        return f"{origin}: {family!r} is no model family. {did_you_mean(str(family), FAMILIES)}"
    if first["type"] == "literal_error":
        return f"{origin}: {value!r} is not known. {did_you_mean(str(value), _choices(loc, tree))}"
    if first["type"] == "missing":
        return f"{origin}: is missing. Write it."
    if first["type"] == "model_attributes_type":
        return f"{origin}: {value!r} is one value; it must be settings, such as {{kind: dense}}."
    message = first["msg"].removeprefix("Value error, ")
    return f"{origin}: {value!r}: {message}." if path in layer else f"{origin}: {message}."


def _whose(loc: list[str], tree: dict[str, Any]) -> str:
    """Of a model's unknown key that is known elsewhere: where. Ends the sentence."""
    name = loc[-1]
    if loc[:1] == ["model"] and loc[1:2] == ["ffn"]:
        kinds = [kind for kind, settings in FEED_FORWARD.items() if name in settings.model_fields]
        own = tree["model"]["ffn"].get("kind", "dense")
        return f" of kind {own}: it belongs to {' and '.join(kinds)}." if kinds else ""
    if loc[:1] == ["model"] and any(name in settings.model_fields for settings in FAMILIES.values()):
        family = tree["model"]["family"]
        counterpart = FAMILY_WORDS.get(name) if FAMILY_WORDS.get(name) in FAMILIES[family].model_fields else None
        there = f"there it is {counterpart}" if counterpart else "it has none"
        return f" of family {family}: {there}. docs/manifest.md has a grid over both."
    return ""


def _without_tags(loc: list[str]) -> list[str]:
    """A place in the settings without the names of unions' members, which the user did not write."""
    tags: dict[int, Iterable[str]] = {1: FAMILIES, 3: FEED_FORWARD} if loc[:1] == ["model"] else {}
    return [part for index, part in enumerate(loc) if part not in tags.get(index, ())]


def _section(loc: list[str], tree: dict[str, Any]) -> type[Settings]:
    """The settings class that a path lies in."""
    section: type[Settings] = RunConfig
    for part in loc:
        if part == "model":
            section = FAMILIES[tree["model"]["family"]]
        elif part == "ffn":
            section = FEED_FORWARD[tree["model"]["ffn"].get("kind", "dense")]
        else:
            annotation: Any = section.model_fields[part].annotation
            section = next((each for each in get_args(annotation) if each is not type(None)), annotation)
    return section


def _fields(loc: list[str], tree: dict[str, Any]) -> list[str]:
    return list(_section(loc, tree).model_fields)


def _choices(loc: list[str], tree: dict[str, Any]) -> list[str]:
    names = [part for part in loc if not part.isdigit()]
    annotation: Any = _section(names[:-1], tree).model_fields[names[-1]].annotation
    while get_args(annotation) and not isinstance(get_args(annotation)[0], str):
        annotation = get_args(annotation)[0]
    return [str(choice) for choice in get_args(annotation)]
