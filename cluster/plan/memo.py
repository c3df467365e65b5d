"""Remember what was computed of settings that differ in their seed only. Pure.

The cells of one combination share their sections (model, data, train, evaluation) as objects, so a section's identity
finds them without comparing a hundred settings. A settings object is kept with its value: its sections live as long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from tiny_transformers.settings.config import RunConfig

T = TypeVar("T")


class PerSettings(Generic[T]):
    """Calls `compute(config, *more)` once for all configs that share their sections; it must not look at the seed."""

    def __init__(self, compute: Callable[..., T]) -> None:
        self._compute = compute
        self._known: dict[tuple[Any, ...], tuple[RunConfig, T]] = {}

    def of(self, config: RunConfig, *more: Any) -> T:
        sections = (id(config.model), id(config.data), id(config.train), id(config.evaluation))
        key = (*sections, config.smoke, config.probe, config.recipe, *more)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = (config, self._compute(config, *more))
        return known[1]
