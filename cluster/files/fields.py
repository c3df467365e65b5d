"""What a field of a JSON file may be, and what in a value is otherwise. Standard library only.

Kinds are annotations: classes, unions, literals, lists, tuples, dictionaries, TypedDicts, and the four of this module.
Of each a check is made once, since of 10,000 files each has a hundred fields."""

import math
import types
import typing
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NewType, NotRequired, Union

LARGEST = 2**63 - 1  # of SQLite's integers
LATEST = 1e11  # of times: the year 5138
LONGEST = 255  # characters of a name

Number = NewType("Number", float)  # also one that is none: NaN, or infinite
Name = Annotated[str, "name"]  # of a folder or a file: an id, a stage
Count = Annotated[int, "count"]  # from 1
Time = Annotated[float, "time"]  # seconds since 1970
Place = tuple[Any, object] | None  # in a value: the place around it, None for all of it, and a field's name
Check = Callable[[Any, Place], str]  # says what in a value is wrong


def find_fault(value: Any, kind: Any, where: Place = None) -> str:
    """Say what in a JSON value is not of an annotated kind; empty if all is. There may be fields that it lacks."""
    return _check_of(kind)(value, where)


def is_name(text: str) -> bool:
    """Whether a text from elsewhere may be one folder's or file's name, and leads nowhere else."""
    plain = text.isprintable() and "/" not in text and "\\" not in text
    return plain and 0 < len(text) <= LONGEST and not text.startswith(".")


FITS: dict[Any, Callable[[Any], bool]] = {
    Name: is_name, Count: lambda number: number > 0, Time: lambda seconds: 0 <= seconds <= LATEST
}  # fmt: skip
PLAIN = {
    Name: "a name that a folder may have",
    Count: "a whole number from 1",
    Time: "a number of seconds since 1970",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Number: "a number",
    type(None): "null",
}


def _is_plain(value: Any, kind: Any) -> bool:
    if kind is Number and isinstance(value, float):
        return True
    if kind in (float, Number):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
        return whole or (isinstance(value, float) and math.isfinite(value))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    return type(value) is kind


@cache
def _check_of(kind: Any) -> Check:
    """Return the function that says what in a value is not of a kind."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda *_: ""
    if origin in (Union, types.UnionType):
        return _any_of([_check_of(one) for one in inner])
    if origin is Annotated:
        fits = FITS[kind]
        return _plain(kind, lambda value: _is_plain(value, inner[0]) and fits(value))
    if origin is Literal:
        one_of = f"must be one of {', '.join(inner)}"
        return lambda value, where: "" if isinstance(value, str) and value in inner else f"{_told(where)}{one_of}"
    if typing.is_typeddict(kind):
        return _fields_of(kind)
    if origin is dict:
        return _values_of(_check_of(inner[1]))
    if origin is list:
        return _items_of(_check_of(inner[0]), inner[0])
    if origin is tuple:
        return _tuple_of([_check_of(one) for one in inner])
    return _plain(kind, lambda value: _is_plain(value, kind))


def _plain(kind: Any, fits: Callable[[Any], bool]) -> Check:
    return lambda value, where: "" if fits(value) else f"{_told(where)}must be {PLAIN[kind]}"


def _any_of(checks: Sequence[Check]) -> Check:
    def check(value: Any, where: Place) -> str:
        return "" if any(not one(value, where) for one in checks) else checks[0](value, where)

    return check


def _fields_of(kind: Any) -> Check:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [
        (name, _check_of(typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint),
         name in kind.__required_keys__)
        for name, hint in hints.items()
    ]  # fmt: skip

    def check(value: Any, where: Place) -> str:
        if not isinstance(value, dict):
            return f"{_told(where)}must be an object"
        for name, one, needed in fields:
            if name not in value:
                if needed:
                    return f"{_told((where, name))}is missing"
            elif fault := one(value[name], (where, name)):
                return fault
        return ""

    return check


def _values_of(one: Check) -> Check:
    def check(value: Any, where: Place) -> str:
        if not isinstance(value, dict):
            return f"{_told(where)}must be an object"
        return next((fault for name, each in value.items() if (fault := one(each, (where, name)))), "")

    return check


def _items_of(one: Check, kind: Any) -> Check:
    plain = kind in PLAIN

    def check(value: Any, where: Place) -> str:
        if not isinstance(value, list):
            return f"{_told(where)}must be a list"
        if plain and not any(one(each, None) for each in value):
            return ""  # of 10,000 no place is to be named
        return next((fault for number, each in enumerate(value) if (fault := one(each, (where, number)))), "")

    return check


def _tuple_of(checks: Sequence[Check]) -> Check:
    def check(value: Any, where: Place) -> str:
        if not isinstance(value, list) or len(value) != len(checks):
            return f"{_told(where)}must be a list of {len(checks)}"
        pairs = enumerate(zip(value, checks, strict=True))
        return next((fault for number, (each, one) in pairs if (fault := one(each, (where, number)))), "")

    return check


def _told(where: Place) -> str:
    return f"{_written(where)}: " if where else ""


def _written(where: Place) -> str:
    """Write a place with dots."""
    if where is None:
        return ""
    around, name = where
    return f"{_written(around)}.{name}" if around else str(name)
