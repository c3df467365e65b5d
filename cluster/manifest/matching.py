"""Solve one size of a cell for the parameter count of a named model: the manifest's `match_params`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cluster.errors import InputError, did_you_mean
from cluster.manifest.checking import as_tree, checked, layer_of_model
from cluster.manifest.loading import MATCHING, Layer, Manifest, SettingValue, merge
from tiny_transformers.settings.architecture import Model, num_parameters

SIZES = ("intermediate_size", "hidden_size")  # that `match_by` may name
HEADS = ("model.num_heads", "model.num_attention_heads")
TOLERANCE = 0.01  # of the parameters that are to be matched
LARGEST_SIZE = 2**20
_MODEL: TypeAdapter[Any] = TypeAdapter(Model)


def match_parameters(manifest: Manifest, layer: Layer, model: str, model_layer: Layer, top: Layer, where: str) -> Layer:
    """Without `match_params` and `match_by`, and with the size solved that they ask for.

    `match_params: gpt` is the parameter count of models.gpt; true that of the cell's own base model. A size that
    the base model has may be replaced, one that a study, its grid or --set gives is not."""
    wanted, by = (layer.get(key) for key in MATCHING)
    if wanted is None and by is None:
        return layer
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
    target_layer = layer_of_model(manifest, name)
    if MATCHING[0] in target_layer:
        raise InputError(f"{wanted.origin}: models.{name} is itself matched. Name the model it is matched to.")
    overrides = {path: value for path, value in top.items() if path.startswith("model.")}
    asked = merge(target_layer, overrides)
    target = _count(asked)
    if not target:
        checked(asked, f"models.{name}")  # says what is wrong with it
        raise InputError(f"{wanted.origin}: models.{name} is itself not a valid model: use it in a study to see why.")
    step, tried = 1, layer
    if size == "hidden_size":
        heads = next((layer[path].value for path in HEADS if path in layer), 4)
        step = heads if isinstance(heads, int) and heads > 0 else 1
        tried = layer | {"model.hidden_size": SettingValue(128 * step, wanted.origin)}
    checked(tried, where)  # any other mistake is named as what it is
    complaint = f"{wanted.origin}: {size} cannot match {name}'s {target:,} parameters"
    solved = _solve(lambda n: _count(layer | {path: SettingValue(n, "")}), target, step, complaint)
    return layer | {path: SettingValue(solved, wanted.origin)}


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
        return num_parameters(_MODEL.validate_python(as_tree(layer)["model"]))
    except ValidationError:
        return 0
