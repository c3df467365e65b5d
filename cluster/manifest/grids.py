"""A study -> its cells: every combination of its grid with every seed, checked.

Grids follow GitHub Actions' matrix: every combination, minus `exclude`, extended by `include`. `baseline` says what
the other cells of a study are held against. Of a follow-up (`sources`) its `include` are all that is known before its
choice; what may become of its choice is in `follow_ups`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.errors import InputError, did_you_mean, like
from cluster.manifest.checking import Sections, base_model, check_heeded, checked, layer_of_model, with_corpus
from cluster.manifest.loading import (
    FEED_FORWARD_KIND,
    SECTIONS,
    SETTING_KEYS,
    Cell,
    Layer,
    Manifest,
    SettingValue,
    as_written,
    baseline_entries,
    check_known,
    flatten,
    merge,
    over,
)
from cluster.manifest.matching import match_parameters
from cluster.manifest.own_stages import check_commands, first_stages, parameter
from cluster.manifest.sources import FROM, inherited, with_sources
from cluster.manifest.teachers import check_used, with_teacher
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES, default_stages, misfit

SEEDS = 2**32  # RunConfig.seed is below
NO_SETTINGS = {
    "seed": "write seeds: beside the grid", "smoke": "use --smoke", "probe": "use `tiny-transformers probe`",
    "recipe": "it is the code's",
}  # fmt: skip


def cells(
    manifest: Manifest, *, studies: Iterable[str] = (), overrides: Iterable[str] = (), smoke: bool = False
) -> list[Cell]:
    """Every cell of these studies (all but the optional ones, if none is named) that is known beforehand, in the
    manifest's order. A follow-up takes its sources along.

    `overrides` are `path=value` texts of --set. `smoke` applies the manifest's smoke layer and the first seed only.
    Raises InputError."""
    top = top_layer(manifest, overrides, smoke)
    with told_of(manifest):
        names = taken(manifest, studies)
        if not names:
            raise InputError(f"studies: all are optional. Name one with --study: {', '.join(manifest.optional)}.")
        found = [cell for name in names for cell in _study_cells(manifest, name, top, smoke)]
        check_heeded(top, found)
        check_used(top, found)
        return found


def taken(manifest: Manifest, studies: Iterable[str]) -> list[str]:
    """The studies that are taken if these are named, or none."""
    return with_sources(manifest, list(studies) or [name for name in manifest.studies if name not in manifest.optional])


@contextmanager
def told_of(manifest: Manifest) -> Iterator[None]:
    """Errors name the manifest's file."""
    try:
        yield
    except InputError as error:
        raise InputError(as_written(f"{manifest.path}: {error}")) from None


def top_layer(manifest: Manifest, overrides: Iterable[str], smoke: bool) -> Layer:
    """What lies over all studies: --smoke, --set."""
    return _smoke_layer(manifest, smoke) | _parse_overrides(manifest, overrides)


def _parse_overrides(manifest: Manifest, texts: Iterable[str]) -> Layer:
    from cluster import yaml_text  # here, as in `loading`

    layer: Layer = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if manifest.of_programs and path not in ("stages", "seeds"):
            path = parameter(path, "--set ")
        if path in ("stages", "seeds"):
            raise InputError(f"--set {text}: {path} are the study's: write them there, or under defaults.")
        if not equals or path.partition(".")[0] not in ("model", *SECTIONS) or "." not in path:
            raise InputError(f"--set {text}: write it as a path and a value, such as train.max_steps=20.")
        layer[path] = SettingValue(yaml_text.read(value, f"--set {text}"), as_written(f"--set {path}"))
    return layer


def _smoke_layer(manifest: Manifest, smoke: bool) -> Layer:
    if not smoke:
        return {}
    if not manifest.smoke:
        raise InputError(f"{manifest.path}: has no section `smoke`, which says what --smoke makes small.")
    return manifest.smoke | {"smoke": SettingValue(True, "--smoke")}


@dataclass(frozen=True)
class Combination:
    """One combination of a study's grid, with each of its seeds."""

    model: str  # its name in the manifest
    configs: list[RunConfig]
    written: Layer  # what the study and its grid say


def _study_cells(manifest: Manifest, name: str, top: Layer, smoke: bool) -> Iterator[Cell]:
    study, where = manifest.studies[name], f"studies.{name}"
    own = own_settings(study, where)
    points = included(study, where) if FROM in study else combinations(study, where)
    chosen = _chosen(study, own, points, where)
    made = combine(manifest, name, [over(own, point) for point in points], top, smoke)
    baselines, stages = _baselines(made, chosen), stages_of(manifest, name)
    for index, combination in enumerate(made):
        for config in combination.configs:
            yield Cell(name, combination.model, config, stages, index in baselines)


def own_settings(study: Mapping[str, Any], where: str) -> Layer:
    """The settings that a study gives all its cells."""
    return flatten({key: value for key, value in study.items() if key.partition(".")[0] in SETTING_KEYS}, where)


def stages_of(manifest: Manifest, name: str) -> tuple[str, ...]:
    """The stages of a study's cells, in order."""
    stages = inherited(manifest, name, "stages")
    return _stages(manifest, stages or _default(manifest, "stages", _usual_stages(manifest)), f"studies.{name}")


def combine(manifest: Manifest, name: str, layers: Sequence[Layer], top: Layer, smoke: bool) -> list[Combination]:
    """Return a study's combinations of what it and its grid say (`layers`), checked."""
    where = f"studies.{name}"
    seeds = _seeds(manifest, name, where)[: 1 if smoke else None]
    stages = stages_of(manifest, name)
    base = {path: value for path, value in manifest.defaults.items() if path not in ("seeds", "stages")}
    made: list[Combination] = []
    below: dict[str, tuple[Layer, Layer]] = {}  # a named model -> its settings; the same on top of the defaults
    sections = Sections()
    for written in layers:
        layer = dict(written)
        model = base_model(manifest, layer, where)
        if model not in below:
            model_layer = layer_of_model(manifest, model)
            below[model] = model_layer, merge(base, model_layer)
        model_layer, settings = below[model]
        merged = with_corpus(manifest, merge(settings, layer, top))
        merged = with_teacher(manifest, merged, base, top, seeds, where)
        merged = match_parameters(manifest, merged, model, model_layer, top, where)
        if manifest.of_programs:
            first = first_stages(manifest.own, stages)
            told = SettingValue({name: vars(each) for name, each in first.items()}, where)
            merged = merged | {"model.stages": told}
            model = "+".join(first)
        made.append(Combination(model, _seeded(merged, seeds, stages, where, sections), written))
        check_commands(manifest.own, stages, made[-1].configs[0], where)
    return made


def _seeded(
    layer: Layer, seeds: Iterable[int], stages: tuple[str, ...], where: str, sections: Sections
) -> list[RunConfig]:
    """A combination's settings with each seed: checked once, and copied with the other seeds, so that they share their
    sections."""
    configs: list[RunConfig] = []
    for seed in seeds:
        if configs and type(seed) is int and 0 <= seed < SEEDS:
            configs.append(configs[0].model_copy(update={"seed": seed}))
            continue
        configs.append(checked(layer | {"seed": SettingValue(seed, f"{where}.seeds")}, where, sections))
        if wrong := misfit(configs[-1], stages):
            raise InputError(f"{where}: {wrong}. Change it, or leave the stage out.")
    return configs


def _chosen(study: Mapping[str, Any], own: Layer, combinations: list[Layer], where: str) -> dict[int, str]:
    """The combinations that the study's `baseline` matches, by what is written in the study and its grid -> by which
    entry."""
    chosen: dict[int, str] = {}
    for number, entry in enumerate(baseline_entries(study)):
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
            for path, value in wanted.items():
                there = {str(cell[path].value): 0 for each in combinations if path in (cell := own | each)}
                if str(value) not in there:
                    near = did_you_mean(str(value), there)
                    raise InputError(f"{place}.{path}: no cell of the study has {value}. {near}")
            raise InputError(f"{place}: matches no cell of the study. Give values that its grid or an include has.")
        chosen |= dict.fromkeys(found, place)
    return chosen


def _baselines(made: Sequence[Combination], chosen: Mapping[int, str]) -> set[int]:
    """Return each family's baseline: the variant that was chosen, or else the first. Combinations may make the same
    one."""
    first: dict[str, int] = {}
    for index in (*chosen, *range(len(made))):
        config = made[index].configs[0]
        before = first.setdefault(config.family, index)
        if index in chosen and config != made[before].configs[0]:
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


def _default(manifest: Manifest, key: str, otherwise: Any) -> Any:
    return manifest.defaults[key].value if key in manifest.defaults else otherwise


def _seeds(manifest: Manifest, name: str, where: str) -> list[int]:
    seeds = inherited(manifest, name, "seeds")
    seeds = _default(manifest, "seeds", [42]) if seeds is None and "seeds" not in manifest.studies[name] else seeds
    are_numbers = isinstance(seeds, list) and not any(isinstance(seed, bool) for seed in seeds)  # yes is no seed
    if not are_numbers or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise InputError(f"{where}.seeds: {seeds!r} must be a list of different whole numbers.")
    return seeds


def _usual_stages(manifest: Manifest) -> list[str]:
    """The stages of a study where neither it nor the defaults name any."""
    return list(manifest.own if manifest.of_programs else default_stages())


def _stages(manifest: Manifest, stages: Any, where: str) -> tuple[str, ...]:
    known = known_stages(manifest)
    if not isinstance(stages, list):
        near = like(str(stages), known)
        raise InputError(f"{where}.stages: {stages!r} must be a list of stages{f': [{near[0]}]' if near else ''}.")
    for stage in stages:
        if stage not in known:
            raise InputError(f"{where}.stages: {stage} is no stage. {did_you_mean(str(stage), known)}")
    for stage in stages:
        for need in STAGES[stage].needs:
            if need not in stages:
                raise InputError(f"{where}.stages: {stage} needs {need}. Add it.")
    return tuple(stage for stage in STAGES if stage in stages)


def known_stages(manifest: Manifest) -> list[str]:
    """The stages that a study of this manifest may have: ours, unless it has no models, and its own."""
    return [name for name, kind in STAGES.items() if name in manifest.own or not (kind.own or manifest.of_programs)]


def included(study: Mapping[str, Any], where: str) -> list[Layer]:
    """The entries of a follow-up's `include`, each a combination of its own."""
    return [_point(entry, f"{where}.include[{number}]") for number, entry in enumerate(study.get("include", []))]


def combinations(study: Mapping[str, Any], where: str) -> list[Layer]:
    """The matrix: grid, minus exclude, then include, with GitHub's rules; of a follow-up, the grid minus exclude."""
    grid = study.get("grid", {})
    product = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for number, entry in enumerate(study.get("exclude", [])):
        kept = [cell for cell in product if not _matches(cell, entry, where)]
        if len(kept) == len(product):
            raise InputError(f"{where}.exclude[{number}]: matches no cell of the grid.")
        product = kept
    if not product:
        raise InputError(f"{where}.exclude: leaves no cell of the grid.")
    parts = {  # of every value once, though thousands of cells have it
        (axis, id(value)): _entries(axis, value, f"{where}.grid.{axis}")
        for axis, values in grid.items() for value in values
    }  # fmt: skip
    layers = [_together([parts[axis, id(value)] for axis, value in cell.items()]) for cell in product]
    if FROM in study:
        return layers
    if not grid and study.get("include"):
        layers = []
    return _include(layers, list(grid), study.get("include", []), where)


def _point(cell: Mapping[str, Any], where: str) -> Layer:
    """One value of every axis -> settings."""
    return _together(_entries(axis, value, f"{where}.{axis}") for axis, value in cell.items())


def _entries(axis: str, value: Any, origin: str) -> Layer:
    """The settings of an axis' value. It may be a mapping: of settings below the axis' own path, or, where the axis has
    a name that is no setting, of any settings."""
    prefix = f"{axis}." if axis.partition(".")[0] in SETTING_KEYS else ""
    entries = flatten(value, origin, prefix) if isinstance(value, dict) else {axis: SettingValue(value, origin)}
    for path, entry in entries.items():
        if path in NO_SETTINGS:
            raise InputError(f"{entry.origin}: cannot be set here; {NO_SETTINGS[path]}.")
        check_known(path.partition(".")[0], SETTING_KEYS, entry.origin.removesuffix(f".{path}"))
    return entries


def _together(parts: Iterable[Layer]) -> Layer:
    """Settings of all axes, each of which is set by one."""
    layer: Layer = {}
    for part in parts:
        if not layer.keys().isdisjoint(part):
            path = next(path for path in part if path in layer)
            raise InputError(f"{part[path].origin}: is set by another axis, too: {layer[path].origin}.")
        layer |= part
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
    if not entries:
        return layers
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
