"""A stage is declared once: its name, its settings, what it needs, reads and costs, what the report shows of it.

A stage is a function `run(work: Work) -> Outcome` (common/work.py) in a module that only the job that does it loads.
The functions of an entry take a RunConfig, and are in closed form; its cost goes by the size of its files, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.kinds import Kinds
from tiny_transformers.settings.stage.own import OwnStage

Sizes = Mapping[str, int]  # a file below DATA_ROOT -> its bytes, of those that are there
UNKNOWN: Sizes = MappingProxyType({})


@dataclass(frozen=True)
class Measure:
    """A figure of a run that studies are about."""

    key: str
    title: str
    stage: str
    task: str
    metric: str
    percent: bool = True  # shown as a percentage with one digit, else as it is with three
    higher_is_better: bool = True
    is_main: bool = False  # a study's question is answered by it, as far as there are scores

    @cached_property
    def where(self) -> tuple[str, str, str]:
        return self.stage, self.task, self.metric

    def show(self, value: float | None) -> str:
        if value is None:
            return ""
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}"


@dataclass(frozen=True)
class Tasks:
    """The tasks of a stage, which the report shows one by one."""

    stage: str
    title: str
    metric: str  # a share
    averages: tuple[str, ...]  # tasks that are means over others
    group: Callable[[str], str] = lambda _: ""  # the common title of tasks side by side


def _no_measure(task: str, metric: str) -> None:
    """Returns None: `measures` has all."""


class Other(NamedTuple):
    """A stage of another run, whose product is needed."""

    config: Any  # the settings of that run
    stage: str
    model: str  # the name of its model in the manifest


@dataclass(frozen=True)
class StageKind:
    name: str
    runner: str  # the module whose `run` does it; the job that does it loads it
    needs: tuple[str, ...] = ()  # the stages that must have completed before it
    reads: Literal["stories", "streams", "either"] = "either"  # the corpora of the models that it is for
    trains: bool = False  # in `train.precision`; else it is done in `evaluation.precision`
    alone: bool = False  # measured with nothing else on the device: after all else of a pack, one run at a time
    by_default: bool = False  # part of a study that names no stages
    settings: type[Settings] | None = None  # the section `evaluation.<name>`
    keeps_defaults: bool = False  # the section is part of run ids even where it says nothing: of the first stages
    files: Callable[[Any], list[str]] = lambda _: []  # what it reads below DATA_ROOT
    # What else it reads below this DATA_ROOT, which only the files there tell; raises ValueError, in the user's words.
    found: Callable[[Any, Path], list[str]] = lambda *_: []
    flops: Callable[..., float] = lambda _: 0.0  # from the settings
    by_size: bool = False  # `flops` is given the sizes of the data, too
    of_others: Callable[[Any], list[Other]] = lambda _: []  # the products of other runs that it needs
    # Raises ValueError for settings with which no run can be, with any stages; None: there is nothing to look at.
    check: Callable[[Any], None] | None = None
    # Why a run with these settings cannot have the stage, in words, or None.
    misfit: Callable[[Any], str | None] | None = None
    measures: tuple[Measure, ...] = ()  # columns of the report
    measure_of: Callable[[str, str], Measure | None] = _no_measure  # one of a task and a metric that only results name
    caveat: Callable[[Any], str] = lambda _: ""  # what stands behind the title of its scores, wherever they are shown
    tasks: Tasks | None = None
    part_tells: bool = True  # how long a part of its rows takes tells how long all of them do, as `flops` counts them
    spends: Callable[[Any], list[str]] = lambda _: []  # folders of the run that are removed once it has completed
    keeps_rows: bool = False  # the run's scores/<name>.npz has both scores of each row (common/pairs.py)
    own: OwnStage | None = None  # a user's stage, as a manifest defines it

    def work(self, config: Any, sizes: Sizes = UNKNOWN) -> float:
        """FLOPs of the stage with these settings, on data of these sizes."""
        return self.flops(config, sizes) if self.by_size else self.flops(config)


STAGES: Kinds[StageKind] = Kinds("stage", lambda kind: kind.name)  # in the order in which they are done
