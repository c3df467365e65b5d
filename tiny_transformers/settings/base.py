"""The base of all settings. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from operator import eq
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]

MAY_HAVE = {bool, list, tuple, dict}
NO_NUMBER = PydanticCustomError("truth_value", "a number is needed, not a truth value (yes, no, true or false)")


class Settings(BaseModel):
    """Immutable, and refuses unknown keys."""

    model_config = ConfigDict(
        defer_build=True, extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _a_truth_value_is_no_number(cls, given: Any) -> Any:
        """To YAML `yes` is true, and to pydantic true is 1."""
        if isinstance(given, dict):
            numbers = _numbers(cls)
            for name, value in given.items():
                if value.__class__ not in MAY_HAVE or name not in numbers:
                    continue
                if wrong := [*_truth_values(value, (name,))]:
                    found = [InitErrorDetails(type=NO_NUMBER, loc=where, input=each) for where, each in wrong]
                    raise ValidationError.from_exception_data(cls.__name__, found)
        return given

    def _resolve(self, **values: Any) -> None:
        """Set what was left open; for validators only."""
        self.__dict__.update(values)


def _truth_values(given: Any, where: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], bool]]:
    """The truth values in this, and where each stands."""
    if isinstance(given, bool):
        yield where, given
    elif isinstance(given, list | tuple | dict):
        for key, value in given.items() if isinstance(given, dict) else enumerate(given):
            yield from _truth_values(value, (*where, key))


@cache
def _numbers(settings: type[Settings]) -> set[str]:
    """The settings that have numbers, and no truth values."""
    kinds = {name: set(_kinds(field.annotation)) for name, field in settings.model_fields.items()}
    return {name for name, found in kinds.items() if found & {int, float} and not found & {bool, Any}}


def _kinds(annotation: Any) -> Iterator[Any]:
    """What an annotation is made of."""
    within = get_args(annotation)
    if not within or get_origin(annotation) is Literal:
        yield annotation
    for each in within:
        yield from _kinds(each)


def added(default: Any) -> Any:
    """A setting that came after runs had been made: at its default it is not written, so that their ids stay."""
    return Field(default=default, exclude_if=partial(eq, default))
