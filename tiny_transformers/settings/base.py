"""The base of all settings. No torch here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """Immutable, and refuses unknown keys."""

    model_config = ConfigDict(
        defer_build=True, extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    def _resolve(self, **values: Any) -> None:
        """Set what was left open; for validators only."""
        self.__dict__.update(values)


def added(default: Any) -> Any:
    """A setting that came after runs had been made: at its default it is not written, so that their ids stay."""
    return Field(default=default, exclude_if=lambda value: value == default)
