"""Remember what follows from some sections of a run's settings alone: grids are mostly of models. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")


def by_sections(first: str, second: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a function of a RunConfig that looks at these sections of it, and at what else it is given: while they
    are the same objects as the last time, as they are in cells that differ in their models, so is what it returns."""
    sections = attrgetter(first, second)

    def decorated(compute: Callable[..., T]) -> Callable[..., T]:
        last: tuple[Any, Any, tuple[Any, ...], T] | None = None  # with the objects, which live as long

        @wraps(compute)
        def computed(config: Any, *more: Any) -> T:
            nonlocal last
            one, other = sections(config)
            if (known := last) and known[0] is one and known[1] is other and known[2] == more:
                return known[3]
            found = compute(config, *more)
            last = one, other, more, found
            return found

        return computed

    return decorated
