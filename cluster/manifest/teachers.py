"""`train.teacher` of a cell -> the teacher's settings, which are those of a run of its own.

That run is of the named model, with the data, the training and the evaluation settings of the cell, its teacher apart,
and with what `set` says besides. Its seed is the study's first, so that all students have one teacher."""

from __future__ import annotations

from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from cluster.errors import InputError, did_you_mean
from cluster.manifest.checking import FOR_ALL, checked, layer_of_model
from cluster.manifest.loading import SECTIONS, TEACHER, Cell, Layer, Manifest, SettingValue, merge
from cluster.manifest.matching import match_parameters
from tiny_transformers.settings.config import Teacher
from tiny_transformers.settings.teaching import Teaching

INSIDE = f"{TEACHER}."
SET = "set."


class AskedTeacher(Teaching):
    """What a manifest says of a teacher."""

    model: str  # one of `models`
    seed: int | None = Field(default=None, ge=0, lt=2**32)  # null: the study's first
    set: dict[str, Any] = {}  # settings of its run besides: of its model and its training


ASKED = TypeAdapter(AskedTeacher)


def with_teacher(manifest: Manifest, layer: Layer, base: Layer, top: Layer, seeds: list[int], where: str) -> Layer:
    """The layer with the teacher's checked settings in place of what is said of it; `base`: the defaults, `top`: what
    is for all models. Where only that speaks of a teacher, there is none.

    Raises InputError for a model that is not known, and for settings that are none."""
    told = {path.removeprefix(INSIDE): value for path, value in layer.items() if path.startswith(INSIDE)}
    none = layer.get(TEACHER)
    if not told and none is None:
        return layer
    rest = {path: value for path, value in layer.items() if path != TEACHER and not path.startswith(INSIDE)}
    if none and none.value is not None:
        raise InputError(f"{none.origin}: {none.value!r} must be settings, such as {{model: {none.value}}}, or null.")
    if not told or ("model" not in told and all(value.origin.startswith(FOR_ALL) for value in told.values())):
        return rest
    asked = _asked(told, where)
    if asked.model not in manifest.models:
        hint = did_you_mean(asked.model, manifest.models)
        raise InputError(f"{told['model'].origin}: {asked.model!r} is no model of this manifest. {hint}")
    model_layer = layer_of_model(manifest, asked.model)
    own = {path: value for path, value in rest.items() if path.partition(".")[0] in SECTIONS}
    over = {path: value for path, value in top.items() if path != TEACHER and not path.startswith(INSIDE)}
    settings = merge(base, model_layer, own, _besides(told), over)
    settings = match_parameters(manifest, settings, asked.model, model_layer, over, where)
    seed = seeds[0] if asked.seed is None else asked.seed
    try:
        config = checked(settings | {"seed": SettingValue(seed, f"{where}.seeds")}, f"{where}.{TEACHER}")
    except InputError as error:
        raise InputError(f"{error} (Of the teacher {asked.model}.)") from None
    teacher = Teacher(
        name=asked.model, model=config.model, train=config.train, seed=seed, recipe=config.recipe,
        alpha=asked.alpha, temperature=asked.temperature,
    )  # fmt: skip
    return rest | {"teacher": SettingValue(teacher, told["model"].origin)}


def check_used(top: Layer, cells: list[Cell]) -> None:
    """Refuse a --set of a teacher that no run has. With an alpha of 1 none has one."""
    given = [value for path, value in top.items() if path.startswith(INSIDE) and value.origin.startswith("--set ")]
    alpha = top.get(f"{INSIDE}alpha")
    if given and not any(cell.config.teacher for cell in cells) and (alpha is None or alpha.value != 1):
        raise InputError(f"{given[0].origin}: no run of these studies has a teacher. Leave it out.")


def _asked(told: Layer, where: str) -> AskedTeacher:
    """Raises InputError, by where it is written."""
    for key, value in told.items():
        if not key.startswith(SET) and key not in AskedTeacher.model_fields:
            raise InputError(f"{value.origin}: unknown key. {did_you_mean(key, AskedTeacher.model_fields)}")
    try:
        return ASKED.validate_python({key: value.value for key, value in told.items() if not key.startswith(SET)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        origin = told[key].origin if key in told else f"{where}.{TEACHER}.{key}"
        if first["type"] == "missing":
            raise InputError(f"{origin}: is missing. Name one of `models`.") from None
        raise InputError(f"{origin}: {first['input']!r}: {first['msg']}.") from None


def _besides(told: Layer) -> Layer:
    """What `set` says. Raises InputError for what is not the teacher's alone."""
    layer = {key.removeprefix(SET): value for key, value in told.items() if key.startswith(SET)}
    for path, value in layer.items():
        if path.partition(".")[0] not in ("model", "train") or path == TEACHER or path.startswith(INSIDE):
            raise InputError(f"{value.origin}: a teacher may differ in settings of `model` and `train` only.")
    return layer
