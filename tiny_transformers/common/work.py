"""The record that a stage is given, and the one that it hands back. Plain data; no torch.

Every stage of the science is one function `run(work: Work) -> Outcome`; whoever calls it (a job, a notebook, a test)
decides where files go and who hears of progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.own import OwnStage


class TinyTransformersError(Exception):
    """A mistake in the user's input or data: says where, what, and what to do. Shown without a traceback."""


class NoGPU(TinyTransformersError):
    """The stage was given a GPU, and CUDA does not start."""


class Interrupted(Exception):
    """The stage was asked to stop; what it had done is in its newest checkpoint."""


class CheckFailed(Exception):
    """A blocking check did not hold, so a score would be wrong."""


@dataclass
class Work:
    config: RunConfig
    data_root: Path  # in the layout of docs/data.md (`data.resolve_root`)
    cache: Path  # shared by all runs: tokenised stories
    run_dir: Path  # the stage's own files: model/, checkpoints/, curve.jsonl
    progress: Callable[[float, str], None] = lambda _, __: None  # told the fraction done, 0 to 1, and a text
    figures: Callable[[Mapping[str, float]], None] = lambda _: None  # told loss, tokens_per_second, seconds_left
    should_stop: Callable[[], bool] = lambda: False  # asked often; True: save and raise Interrupted
    stage: str = ""  # its name
    has_gpu: bool = False  # a GPU was asked for: where CUDA does not start it fails, and does not go on on the CPU
    teacher_dir: Path | None = None  # the model that pretraining learns from, if it has a teacher: another run's
    own: OwnStage | None = None  # how the manifest defines it, if it is a stage of the user's own

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of a stage of the user's own."""
        return self.own.settings if self.own else {}

    @property
    def model_dir(self) -> Path:
        """The trained model, in Hugging Face's format; complete or absent."""
        return self.run_dir / "model"


@dataclass(frozen=True)
class Score:
    """One figure that an evaluator computed from `n` rows."""

    task: str  # anaphor_agreement, cola, mnli-mm, validation, ...; "average" for a mean over tasks
    metric: str  # accuracy, f1, mcc, loss, ...
    value: float
    n: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.task}.{self.metric} is {self.value}")


@dataclass(frozen=True)
class Check:
    """One thing that must hold before a score counts. A failed blocking check fails its stage."""

    name: str
    passed: bool
    value: float | str
    blocking: bool = True


@dataclass
class Outcome:
    scores: list[Score] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    metrics: dict[str, float | int | str] = field(default_factory=dict)  # tokens_per_second, peak_memory_mb, ...
    data: dict[str, str] = field(default_factory=dict)  # file below the data root -> SHA-256 of its bytes
