"""The section `stages` of a manifest: stages of the user's own. And what a study means in a manifest without models,
which is about the parameters of any program: an axis of its grid is a parameter, which fills {placeholders}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cluster.errors import InputError, did_you_mean
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.program import Program
from tiny_transformers.settings.stage.known import make_known
from tiny_transformers.settings.stage.own import FIXED, OF_MODELS, WORD, Doing, OwnStage
from tiny_transformers.settings.stages import STAGES

PARAMETERS = "model.parameters."  # where in a run's settings a program's parameters are
KEYS = tuple(key for key in OwnStage.model_fields if key != "folder")
STUDY_KEYS = ("description", "optional", "from", "baseline", "grid", "include", "exclude", "seeds", "stages")
_STAGE = TypeAdapter(OwnStage)


def read(section: Mapping[str, Any], path: Path) -> dict[str, OwnStage]:
    """Check the section, and make its stages known. Raises InputError."""
    own = {}
    for name, written in section.items():
        where = f"stages.{name}"
        if not isinstance(name, str) or not WORD.match(name):
            raise InputError(f"{where}: {name!r} is no name of a stage: letters, digits and _, a letter first.")
        if not isinstance(written, dict):
            raise InputError(f"{where}: must be a mapping with `run` or `command`, not {written!r}.")
        for key in written:
            if key not in KEYS:
                raise InputError(f"{where}.{key}: unknown key. {did_you_mean(str(key), KEYS)}")
        own[name] = _checked({**written, "folder": str(path.resolve().parent)}, where)
    try:
        make_known(own)
    except ValueError as error:
        raise InputError(f"stages.{error} {_hint(str(error), own)}".rstrip()) from None
    return own


def _checked(written: Mapping[str, Any], where: str) -> OwnStage:
    try:
        own = _STAGE.validate_python(written)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join([where, *map(str, first["loc"])])
        raise InputError(f"{path}: {first['msg'].removeprefix('Value error, ')}.") from None
    for name, value in own.settings.items():
        if own.command is None:
            continue
        if not WORD.match(name) or name in (*FIXED, *OF_MODELS):
            taken = "is taken" if WORD.match(name) else "cannot be a placeholder"
            raise InputError(f"{where}.settings.{name}: the name {taken}. Choose another.")
        if not isinstance(value, bool | int | float | str):
            raise InputError(f"{where}.settings.{name}: {value!r} cannot fill a placeholder. Write one value.")
    return own


def _hint(error: str, own: Iterable[str]) -> str:
    """End an error with what may have been meant, where a need is no stage."""
    if not error.endswith("is no stage."):
        return ""
    return did_you_mean(error.rpartition(": ")[2].split("'")[1], (*STAGES, *own))


# -- programs ---------------------------------------------------------------------------------------------------------


def as_settings(study: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A study of a program, with its parameters as the settings that they are."""
    for key in study:
        if key not in STUDY_KEYS:
            raise InputError(
                f"{where}.{key}: the manifest has no models, so a study has no such key. "
                f"{did_you_mean(str(key), STUDY_KEYS)}"
            )
    changed = dict(study)
    if isinstance(grid := study.get("grid"), dict):
        changed["grid"] = {
            _axis(axis, values, f"{where}.grid"): _values(values, f"{where}.grid.{axis}")
            for axis, values in grid.items()
        }
    for key in ("include", "exclude", "baseline"):
        if isinstance(entries := study.get(key), list):
            changed[key] = [_entry(entry, f"{where}.{key}[{number}]") for number, entry in enumerate(entries)]
        elif entries is not None:
            changed[key] = _entry(entries, f"{where}.{key}")
    return changed


def parameter(name: Any, where: str) -> str:
    """The path of a parameter. Raises InputError for a name that no placeholder can have."""
    if not isinstance(name, str) or not WORD.match(name):
        raise InputError(f"{where}.{name}: is no name of a parameter: letters, digits and _, a letter first.")
    if name in FIXED:
        raise InputError(f"{where}.{name}: every command has {{{name}}} already. Choose another name.")
    return f"{PARAMETERS}{name}"


def _axis(axis: Any, values: Any, where: str) -> str:
    """An axis whose values are mappings sets several parameters, and its own name is none of them."""
    bundles = isinstance(values, list) and values and all(isinstance(value, dict) for value in values)
    path = parameter(axis, where)
    return f"{axis} together" if bundles else path


def _values(values: Any, where: str) -> Any:
    if not isinstance(values, list):
        return values
    return [_entry(value, where) if isinstance(value, dict) else _checked_value(value, where) for value in values]


def _entry(entry: Any, where: str) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {parameter(name, where): _checked_value(value, f"{where}.{name}") for name, value in entry.items()}


def _checked_value(value: Any, where: str) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise InputError(f"{where}: {value!r} cannot fill a placeholder. Write a number, a text, true or false.")
    return value


def first_stages(own: Mapping[str, OwnStage], stages: Sequence[str]) -> dict[str, Doing]:
    """The stages of a program that need no other."""
    return {name: own[name].doing for name in stages if not own[name].needs}


def check_commands(own: Mapping[str, OwnStage], stages: Iterable[str], config: RunConfig, where: str) -> None:
    """Raises InputError for a placeholder that nothing fills, and for a parameter that fills none."""
    chosen = {name: own[name] for name in stages if name in own}
    if not chosen:
        return
    program = isinstance(config.model, Program)
    parameters = config.model.parameters if isinstance(config.model, Program) else {}
    for name, stage in chosen.items():
        known = (*parameters, *stage.settings, *FIXED, *(() if program else OF_MODELS))
        for word in stage.placeholders:
            if word not in known:
                raise InputError(
                    f"stages.{name}.command: nothing fills {{{word}}}: it is neither a setting of the stage nor "
                    f"{f'a parameter of {where}' if program else 'one that every command has'}. "
                    f"{did_you_mean(word, known)} What is no placeholder is written {{{{{word}}}}}."
                )
        if both := sorted(set(parameters) & set(stage.settings)):
            raise InputError(f"stages.{name}.settings.{both[0]}: is a parameter of {where}, too. Leave one out.")
    filled = {word for stage in chosen.values() for word in stage.placeholders}
    unused = [name for name in parameters if name not in filled]
    if unused and all(stage.command is not None for stage in chosen.values()):
        raise InputError(
            f"{where}.grid.{unused[0]}: no command has {{{unused[0]}}}, so that its values would all do the same. "
            f"Write it into a command of {', '.join(chosen)}."
        )
