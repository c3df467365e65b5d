"""The JSON schema of experiments.yaml, for editors: they complete and check its keys while it is written.

Laxer than the manifest's own reading where one layer leaves to another what a value means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from cluster.files.causes import Cause
from cluster.manifest.loading import SECTIONS, HoursBudget
from cluster.manifest.matching import SIZES
from cluster.manifest.sources import FROM, Failed
from cluster.manifest.teachers import AskedTeacher
from cluster.sites.profiles import Notify, Rule
from tiny_transformers.settings.architecture import FAMILIES
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.corpora import Corpus
from tiny_transformers.settings.presets import PRESETS
from tiny_transformers.settings.stage.own import OwnStage
from tiny_transformers.settings.stages import STAGES

PARAMETER = r"^[A-Za-z_]\w*$"


def json_schema() -> dict[str, Any]:
    """A JSON schema of experiments.yaml; every setting is known nested and as a dotted path."""
    run = RunConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions = run["$defs"]
    for name in ("Program", "Doing"):  # what a manifest without models is about has no settings of this form
        definitions.pop(name)
    own = OwnStage.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= own.pop("$defs")
    own["properties"].pop("folder")
    for definition in definitions.values():
        definition.pop("required", None)  # what one layer leaves out another may say
    _allow_any_kind(run)
    for name in ("definition", "revision"):  # of a corpus: not for a manifest to say
        definitions["Data"]["properties"].pop(name)
    definitions.pop("Corpus")
    definitions["Teacher"] = AskedTeacher.model_json_schema()  # as a manifest speaks of it
    definitions["Teacher"].pop("required")
    definitions["Train"]["properties"]["teacher"] = run["properties"].pop("teacher")
    matching = {
        "match_params": {
            "type": ["boolean", "string", "null"],
            "description": "a model's name; true: the cell's own base",
        },
        "match_by": {"enum": list(SIZES)},
    }
    model = {"properties": {}, "additionalProperties": False, "type": "object", "required": ["family"]}
    for family in FAMILIES.values():
        model["properties"] |= definitions.pop(family.__name__)["properties"]
    model["properties"]["family"] = {"enum": list(FAMILIES)}  # type: ignore[index]
    model["properties"] |= matching  # type: ignore[operator]
    sections = {name: run["properties"][name] for name in SECTIONS}
    layers = sections | {"evaluation": {"anyOf": [sections["evaluation"], {"enum": [*PRESETS]}]}}
    dotted = dict(_dotted(sections, definitions)) | dict(_dotted({"model": model}, definitions))
    ours = {"enum": [name for name, kind in STAGES.items() if not kind.own]}
    stages = {"type": "array", "items": {"anyOf": [ours, {"type": "string", "description": "one of `stages`"}]}}
    seeds = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True}
    named = {"type": "string", "description": "the name of one of `models`"}
    settings = dotted | matching | {"model": named}
    cell = {"type": "object", "properties": settings, "additionalProperties": False}
    axes = {path: {"type": "array", "items": value, "minItems": 1} for path, value in settings.items()}
    free = {"type": "array", "items": cell, "minItems": 1}
    # A program's parameters: their names have no dots. (`null` is a value of match_params, whose name has none either.)
    value = {"type": ["boolean", "number", "string", "null"]}
    parameters = {"type": "object", "patternProperties": {PARAMETER: value}, "additionalProperties": False}
    of_a_program = {"type": "array", "items": {"anyOf": [cell, value, parameters]}, "minItems": 1}
    entry = {"type": "object"}  # settings, or axes of any name
    study = {
        "type": "object",
        "additionalProperties": False,
        "properties": layers | settings | {
            "description": {"type": "string"},
            "optional": {"type": "boolean", "description": "taken only when --study names it"},
            FROM: _rule(),
            "baseline": {"anyOf": [entry, {"type": "array", "items": entry}]},
            "grid": {"type": "object", "properties": axes, "patternProperties": {PARAMETER: of_a_program},
                     "additionalProperties": free, "minProperties": 1},
            "include": {"type": "array", "items": {"anyOf": [cell, parameters]}},
            "exclude": {"type": "array", "items": entry},
            "seeds": seeds,
            "stages": stages,
        },
    }  # fmt: skip
    sets = {"type": "object", "properties": sections | dotted, "additionalProperties": False}
    defaults = sets | {"properties": layers | dotted | {"seeds": seeds, "stages": stages}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tiny-transformers manifest",
        "type": "object",
        "required": ["studies"],
        "additionalProperties": False,
        "properties": {
            "defaults": defaults,
            "models": {"type": "object", "additionalProperties": model, "minProperties": 1},
            "corpora": {"type": "object", "additionalProperties": Corpus.model_json_schema()},
            "studies": {"type": "object", "additionalProperties": study, "minProperties": 1},
            "smoke": {"anyOf": [sets, parameters]},
            "stages": {"type": "object", "additionalProperties": own},
            "notify": Notify.model_json_schema(),
            "retry": {"type": "object", "properties": _rules(), "additionalProperties": False},
            "budget": HoursBudget.model_json_schema(),
        },
        "$defs": definitions,
    }


def _rule() -> dict[str, Any]:
    """A follow-up's `from`."""
    return {
        "type": "object",
        "description": "its cells are chosen from those of another study",
        "additionalProperties": False,
        "required": ["study", "by"],
        "properties": {
            "study": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
            "best": {
                "type": "integer",
                "minimum": 1,
                "description": "so many cells of each group; 1 if nothing is said",
            },
            "by": {"type": "string", "description": "stage.task.metric, such as lambada.last_word.accuracy"},
            "per": {"type": "string", "description": "a setting, such as model.family: each of its values is a group"},
            "failed": {"enum": [*get_args(Failed)], "description": "whether a failed cell is waited for"},
        },
    }


def _rules() -> dict[str, Any]:
    rule = Rule.model_json_schema()
    return dict.fromkeys(get_args(Cause), rule)


def _allow_any_kind(schema: Any) -> None:
    """Part of a feed-forward module may fit several kinds: which one it is another layer may say."""
    if isinstance(schema, dict):
        if "oneOf" in schema:
            schema["anyOf"] = schema.pop("oneOf")
        for value in schema.values():
            _allow_any_kind(value)


def _dotted(properties: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, schema in properties.items():
        inner = _properties(schema, definitions)
        if inner:
            yield from _dotted(inner, definitions, f"{prefix}{name}.")
        if prefix:
            yield f"{prefix}{name}", schema


def _properties(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of the section that a schema describes, and for a union those of all its members."""
    members = schema.get("oneOf") or schema.get("anyOf") or [schema]
    found: dict[str, Any] = {}
    for member in members:
        section = definitions[member["$ref"].rpartition("/")[2]] if "$ref" in member else member
        for name, value in section.get("properties", {}).items():
            found[name] = value if name not in found else {"anyOf": [found[name], value]}
    return found
