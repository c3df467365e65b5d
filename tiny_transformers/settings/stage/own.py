"""Stages of a user's own, as the section `stages` of a manifest defines them: a function of theirs, or a command.

They are kept beside the runs (OUTPUT_ROOT/stages/<name>.json), so that who knows the runs knows their stages without
the manifest. No torch here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from tiny_transformers.settings.base import Settings

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")  # of a stage, a parameter, a setting: what a placeholder may name
# {name} is filled, {{name}} is {name}, and ${name} the shell's own.
PLACEHOLDER = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_]*)\}\}|(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")
FIXED = ("out", "run", "data", "seed")  # placeholders that every command has
OF_MODELS = ("model",)  # and those that it has where there is a model
FUNCTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*:[A-Za-z_]\w*\Z")
USUAL_MINUTES = 60.0  # of a stage whose manifest does not say how long it takes

Value = StrictBool | StrictInt | StrictFloat | StrictStr  # of a parameter


def told(value: Any) -> str:
    """A value as a command is given it: true and false as YAML writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Doing(Settings):
    """What a stage does: `run` or `command`, and the settings that it is given."""

    run: str | None = None  # my_package.ewok:run, a function run(work: Work) -> Outcome
    command: str | None = None  # a line for bash, with {placeholders}
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one(self) -> Doing:
        if (self.run is None) == (self.command is None):
            raise ValueError("a stage has either `run` or `command`: write one of them")
        if self.run is not None and not FUNCTION.match(self.run):
            raise ValueError(f"run {self.run!r} must name a module and its function, such as my_package.ewok:run")
        if self.command is not None and not self.command.strip():
            raise ValueError("command is empty")
        return self

    @property
    def placeholders(self) -> tuple[str, ...]:
        found = (match[2] for match in PLACEHOLDER.finditer(self.command or ""))
        return tuple(dict.fromkeys(filter(None, found)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The command with every placeholder replaced by its value, quoted for the shell."""

        def fill(match: re.Match[str]) -> str:
            return shlex.quote(values[match[2]]) if match[2] else f"{{{match[1]}}}"

        return PLACEHOLDER.sub(fill, self.command or "")


class OwnMeasure(Settings):
    """A score of the stage that has a column in the report, and is tested against the baseline."""

    task: str
    metric: str
    title: str | None = None  # null: the stage's name, and the task's and the metric's
    percent: bool = False
    higher_is_better: bool = True


class OwnStage(Doing):
    needs: tuple[str, ...] = ()
    measures: tuple[OwnMeasure, ...] = ()
    minutes: Annotated[float, Field(gt=0)] | None = None  # that one takes; null: as measured, or else an hour
    memory: PositiveInt | None = None  # MB that one takes: of the GPU, or, on a site without, of the machine
    gpu: bool = True  # computes on the device that the runs of a pack share; false: takes as long beside others
    folder: str = ""  # of the manifest: where it runs, and where `run` is found; empty: it came with an archive

    @property
    def doing(self) -> Doing:
        return Doing(run=self.run, command=self.command, settings=self.settings)

    @property
    def seconds(self) -> float:
        return 60 * (self.minutes or USUAL_MINUTES)
