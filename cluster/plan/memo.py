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
        # By the model, of which there are most.
        self._known: dict[tuple[Any, ...], tuple[tuple[RunConfig, T], ...]] = {}

    def of(self, config: RunConfig, *more: Any) -> T:
        key = id(config.model), more
        for other, value in (known := self._known.get(key, ())):
            if other is config or _alike(other, config):
                return value
        value = self._compute(config, *more)
        self._known[key] = (*known, (config, value))
        return value


def _alike(one: RunConfig, other: RunConfig) -> bool:
    return (
        one.data is other.data
        and one.train is other.train
        and one.evaluation is other.evaluation
        and one.teacher is other.teacher
        and (one.smoke, one.probe, one.recipe) == (other.smoke, other.probe, other.recipe)
    )
