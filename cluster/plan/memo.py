"""Remember what was computed of settings that differ in their seed only. Pure.

The cells of one combination share their sections (model, data, train, evaluation, teacher) as objects, so a section's
identity finds them without comparing a hundred settings. A settings object is kept with its value: its sections live as
long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from tiny_transformers.settings.config import RunConfig

T = TypeVar("T")


class PerSettings(Generic[T]):
    """Calls `compute(config, *more)` once for all configs that share their sections; it must not look at the seed."""

    def __init__(self, compute: Callable[..., T]) -> None:
        self._compute = compute
        # By the model, of which there are most: settings, their value, and those before with the same model.
        self._known: dict[Any, tuple[RunConfig, T, Any]] = {}

    def of(self, config: RunConfig, *more: Any) -> T:
        key = (id(config.model), *more) if more else id(config.model)
        known = before = self._known.get(key)
        while known:
            if known[0] is config or _alike(known[0], config):
                return known[1]
            known = known[2]
        value = self._compute(config, *more)
        self._known[key] = config, value, before
        return value


def _alike(one: RunConfig, other: RunConfig) -> bool:
    return (
        one.data is other.data
        and one.train is other.train
        and one.evaluation is other.evaluation
        and one.teacher is other.teacher
        and (one.smoke, one.probe, one.recipe) == (other.smoke, other.probe, other.recipe)
    )
