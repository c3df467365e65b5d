"""The id of a run: a hash of everything that can change its result. A run that needs the product of another one knows
by it which that is. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import RunConfig

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
GAP = "\0"  # is in no JSON
# Of a corpus its name counts, and neither where its files are nor how they are read; a teacher is what its run is.
NO_PART = {"data": {"definition"}, "teacher": {"name"}}


def identity(config: RunConfig) -> str:
    """12 hexadecimal digits of the SHA-256 of the settings as canonical JSON."""
    return seeded(Around()(config), config.seed)


class Around:
    """The canonical JSON before and behind the seed, which is all that differs between the runs of a cell. What is
    around the model, too, is written once for the cells that share it as objects."""

    NAMES = sorted(RunConfig.model_fields)

    def __init__(self) -> None:
        self._around: dict[tuple[Any, ...], tuple[RunConfig, list[str]]] = {}  # with its objects, which live as long

    def __call__(self, config: RunConfig) -> tuple[str, str]:
        shared = (id(config.data), id(config.train), id(config.evaluation), id(config.teacher),
                  config.recipe, config.smoke, config.probe)  # fmt: skip
        known = self._around.get(shared)
        if known is None:
            known = self._around[shared] = config, self._around_both(config)
        before, between, behind = known[1]
        return f"{before}{_canonical(config.model)}{between}", behind

    def _around_both(self, config: RunConfig) -> list[str]:
        """The texts before the model, between it and the seed, and behind that."""
        texts = []
        for name in self.NAMES:
            value, field = getattr(config, name), RunConfig.model_fields[name]
            if name in ("model", "seed"):
                texts.append(f'"{name}":{GAP}')
            elif not (field.exclude_if and value == field.default):
                texts.append(f'"{name}":{_canonical(value, NO_PART.get(name))}')
        return f"{{{','.join(texts)}}}".split(GAP)


def seeded(around: tuple[str, str], seed: int) -> str:
    return hashlib.sha256(f"{around[0]}{seed}{around[1]}".encode()).hexdigest()[:12]


def _canonical(value: Any, left_out: set[str] | None = None) -> str:
    settings = value.model_dump(mode="json", exclude=left_out) if isinstance(value, Settings) else value
    return _ENCODER.encode(settings)
