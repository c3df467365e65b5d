"""Things that come in kinds (stages, feed-forward modules, activations) are found by their name. No torch here.

A kind is one object that answers all questions about itself. `add` is the one way in, for ours and for those of others:
who adds one does so before settings that name it are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

K = TypeVar("K")


class Kinds(dict[str, K]):
    """The kinds of one thing, in the order in which they were added."""

    def __init__(self, what: str, name_of: Callable[[K], str]) -> None:
        super().__init__()
        self.what, self._name_of = what, name_of

    def add(self, *kinds: K) -> None:
        """Raises ValueError for a name that is taken: what was written of the one would be read as the other."""
        for kind in kinds:
            name = self._name_of(kind)
            if name in self:
                raise ValueError(f"{self.what} {name} is there already: give yours another name")
            self[name] = kind

    def replace(self, old: Iterable[K], new: Iterable[K]) -> None:
        """Take some out, and add others at the end."""
        for kind in old:
            del self[self._name_of(kind)]
        self.add(*new)


class KnownNow:
    """Annotates settings whose type depends on which kinds are known when they are checked: `type_of` tells it then.

    Pydantic builds its checks when a class is defined, and what is added later would never be let in."""

    def __init__(self, kinds: Kinds[Any], type_of: Callable[[], Any]) -> None:
        self.type_of = type_of
        self._kinds = kinds
        self._adapters: dict[tuple[Any, ...], TypeAdapter[Any]] = {}  # by the kinds that there are

    @property
    def adapter(self) -> TypeAdapter[Any]:
        known = tuple(self._kinds)
        if known not in self._adapters:
            self._adapters[known] = TypeAdapter(self.type_of())
        return self._adapters[known]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(lambda value: self.adapter.validator.validate_python(value))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(self.adapter.core_schema)
