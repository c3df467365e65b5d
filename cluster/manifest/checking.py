"""Layers of dotted paths -> a RunConfig. A setting that is wrong, or that no model heeds, is explained by where the
user wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, get_args

from pydantic import ValidationError

from cluster.errors import InputError, did_you_mean
from cluster.manifest.loading import CORPUS, DEFINITION, MATCHING, Cell, Layer, Manifest, SettingValue
from tiny_transformers.settings.architecture import FAMILIES
from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import (
    STORY_SETTINGS,
    STREAM_SETTINGS,
    RunConfig,
    evaluation_class,
)
from tiny_transformers.settings.corpora import CORPORA
from tiny_transformers.settings.feed_forward.kind import FEED_FORWARD
from tiny_transformers.settings.kinds import KnownNow

FAMILY_WORDS = {  # Hugging Face's, of the other family
    "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads",
    "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
}  # fmt: skip
UNHEEDED = {  # whether a corpus is a stream -> what its models have no use for
    is_stream: [f"train.{name}" for name in useless]
    for is_stream, useless in ((True, STORY_SETTINGS), (False, STREAM_SETTINGS))
}
FOR_ALL = ("defaults.", "smoke.", "--set ")  # where settings stand that not every model has to heed


def base_model(manifest: Manifest, layer: Layer, where: str) -> str:
    """The named model of a cell; takes the name out of `layer`."""
    named = layer.pop("model", None)
    if named is None:
        raise InputError(f"{where}.model: is missing. Name one of models: {', '.join(manifest.models)}.")
    if not isinstance(named.value, str) or named.value not in manifest.models:
        hint = did_you_mean(str(named.value), manifest.models)
        raise InputError(f"{named.origin}: {named.value!r} is no model of this manifest. {hint}")
    return named.value


def layer_of_model(manifest: Manifest, name: str) -> Layer:
    """The settings of a named model; `match_params` and `match_by` may stand among them."""
    return {path if path in MATCHING else f"model.{path}": value for path, value in manifest.models[name].items()}


def with_corpus(manifest: Manifest, layer: Layer) -> Layer:
    """The layer with the definition of its corpus, if that is the manifest's. Raises InputError for one that nobody
    knows."""
    for path, value in layer.items():
        if path.startswith("data.") and path.split(".")[1] in ("definition", "revision"):
            raise InputError(f"{value.origin}: is not for a manifest to say. Define a corpus under `corpora`.")
    named = layer.get(CORPUS)
    if named is None or named.value in CORPORA:
        return layer
    if not isinstance(named.value, str) or named.value not in manifest.corpora:
        hint = did_you_mean(str(named.value), (*manifest.corpora, *CORPORA))
        raise InputError(f"{named.origin}: {named.value!r} is no corpus. {hint}")
    return layer | {DEFINITION: SettingValue(manifest.corpora[named.value], f"corpora.{named.value}")}


class Sections:
    """The sections beside the model, of the cell that was checked last. Where those of the next cell are written alike
    they are the same objects, not checked again."""

    NAMES = ("data", "train", "evaluation")

    def __init__(self) -> None:
        self._written: list[Any] | None = None
        self._checked: dict[str, Any] = {}

    def of(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        return self._checked if self._written == [tree.get(name) for name in self.NAMES] else {}

    def keep(self, tree: Mapping[str, Any], config: RunConfig) -> None:
        self._written = [tree.get(name) for name in self.NAMES]
        self._checked = {name: getattr(config, name) for name in self.NAMES}


def checked(layer: Layer, where: str, sections: Sections | None = None) -> RunConfig:
    tree = as_tree(layer)
    known = sections.of(tree) if sections else {}
    try:
        config = RunConfig.model_validate(tree | known)
    except ValidationError as error:
        raise InputError(_explain(error, layer, tree, where)) from None
    if sections and not known:
        sections.keep(tree, config)
    for value in _unheeded(layer, config):
        if not value.origin.startswith(FOR_ALL):
            raise InputError(f"{value.origin}: models of {config.data.corpus} have no use for it. Leave it out.")
    return config


def _unheeded(layer: Layer, config: RunConfig) -> list[SettingValue]:
    return [layer[path] for path in UNHEEDED[config.data.is_stream] if path in layer]


def check_heeded(top: Layer, cells: Iterable[Cell]) -> None:
    """Refuse a --set that counts for none of the cells."""
    given = {path: value for path, value in top.items() if value.origin.startswith("--set ")}
    corpora = {cell.config.data.corpus: cell.config for cell in cells}
    unheeded = [{value.origin for value in _unheeded(given, config)} for config in corpora.values()]
    if unheeded and (useless := sorted(set.intersection(*unheeded))):
        raise InputError(f"{useless[0]}: models of {' and '.join(corpora)} have no use for it. Leave it out.")


def as_tree(layer: Layer) -> dict[str, Any]:
    """Dotted paths -> nested settings."""
    tree: dict[str, Any] = {}
    for path, value in layer.items():
        parents, leaf = _parts(path)
        node: Any = tree
        for parent in parents:
            if node.get(parent) is None:  # a section that a lower layer leaves out by `null`
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise InputError(f"{value.origin}: {parent} is one value, not a section.")
        node[leaf] = value.value
    return tree


@cache
def _parts(path: str) -> tuple[list[str], str]:
    """The sections that a setting is in, and its name there."""
    *parents, leaf = path.split(".")
    return parents, leaf


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
    """Say where a model's unknown key is known, if anywhere, as the end of a sentence."""
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
    tags: dict[int, Iterable[str]] = {1: (*FAMILIES, "program"), 3: FEED_FORWARD} if loc[:1] == ["model"] else {}
    return [part for index, part in enumerate(loc) if part not in tags.get(index, ())]


def _section(loc: list[str], tree: dict[str, Any]) -> type[Settings]:
    """The settings class that a path lies in."""
    section: type[Settings] = RunConfig
    for part in loc:
        if part == "model":
            section = FAMILIES[tree["model"]["family"]]
        elif part == "ffn":
            section = FEED_FORWARD[tree["model"]["ffn"].get("kind", "dense")]
        elif part == "evaluation":
            section = evaluation_class()
        else:
            annotation: Any = section.model_fields[part].annotation
            section = next((each for each in get_args(annotation) if each is not type(None)), annotation)
    return section


def _fields(loc: list[str], tree: dict[str, Any]) -> list[str]:
    return list(_section(loc, tree).model_fields)


def _choices(loc: list[str], tree: dict[str, Any]) -> list[str]:
    names = [part for part in loc if not part.isdigit()]
    annotation: Any = _section(names[:-1], tree).model_fields[names[-1]].annotation
    while not isinstance((args := get_args(annotation))[0], str):
        known = [each for each in args if isinstance(each, KnownNow)]
        annotation = known[0].type_of() if known else args[0]
    return [str(choice) for choice in get_args(annotation)]
