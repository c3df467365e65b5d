"""The id of a run: a hash of everything that can change its result. A run that needs the product of another one knows
by it which that is. Pure."""

from __future__ import annotations

import hashlib
import json
from itertools import compress
from operator import is_not, itemgetter
from typing import Any

from pydantic_core import to_jsonable_python

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import RunConfig

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
GAP = "\0"  # is in no JSON
# Of a corpus its name counts, and neither where its files are nor how they are read; a teacher is what its run is.
NO_PART = {"data": {"definition"}, "teacher": {"name"}}


def identity(config: RunConfig) -> str:
    """12 hexadecimal digits of the SHA-256 of the settings as canonical JSON."""
    return Identities().of(config)


class Identities:
    """The ids of many runs. What is around model and seed is written once for cells that share it as objects; of a
    model, what the last one had not."""

    NAMES = sorted(RunConfig.model_fields)

    def __init__(self) -> None:
        self._around: dict[tuple[Any, ...], tuple[RunConfig, list[str]]] = {}  # with its objects, which live as long
        self._models: dict[type[Settings], _Written] = {}

    def of(self, config: RunConfig) -> str:
        """Return the id of this run."""
        shared = (id(config.data), id(config.train), id(config.evaluation), id(config.teacher),
                  config.recipe, config.smoke, config.probe)  # fmt: skip
        known = self._around.get(shared)
        if known is None:
            known = self._around[shared] = config, self._around_both(config)
        before, between, behind = known[1]
        text = f"{before}{self._model(config.model)}{between}{config.seed}{behind}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _model(self, model: Settings) -> str:
        written = self._models.get(type(model))
        if written is None:
            written = self._models[type(model)] = _Written(type(model))
        return written.canonical(model)

    def _around_both(self, config: RunConfig) -> list[str]:
        """The texts before the model, between it and the seed, and behind that."""
        texts = []
        for name in self.NAMES:
            value, field = getattr(config, name), RunConfig.model_fields[name]
            if name in ("model", "seed"):
                texts.append(f'"{name}":{GAP}')
            elif not (field.exclude_if and value == field.default):
                texts.append(f'"{name}":{_encoded(value, NO_PART.get(name))}')
        return f"{{{','.join(texts)}}}".split(GAP)


class _Written:
    """Settings of one class, as text. What they share as objects with those before is not written again."""

    def __init__(self, kind: type[Settings]) -> None:
        self._names = sorted(kind.model_fields)
        self._values_of = itemgetter(*self._names)
        self._left_out = [kind.model_fields[name].exclude_if for name in self._names]
        self._values: list[Any] = [kind] * len(self._names)  # which is no value: nothing is written yet
        self._texts = [""] * len(self._names)

    def canonical(self, settings: Settings) -> str:
        """Return their canonical JSON."""
        values = self._values_of(vars(settings))
        for place in [*compress(range(len(values)), map(is_not, values, self._values))]:
            self._values[place] = value = values[place]
            text = str(value) if type(value) is int else _ENCODER.encode(to_jsonable_python(value))
            is_left_out = self._left_out[place]
            self._texts[place] = "" if is_left_out and is_left_out(value) else f'"{self._names[place]}":{text}'
        return f"{{{','.join(filter(None, self._texts))}}}"


def _encoded(value: Any, left_out: set[str] | None = None) -> str:
    settings = value.model_dump(mode="json", exclude=left_out) if isinstance(value, Settings) else value
    return _ENCODER.encode(settings)
