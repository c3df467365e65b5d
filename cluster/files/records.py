"""What the plan, the ledger and the commands tell each other: runs, studies, and how far a stage run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.files.statuses import StageStatus
from tiny_transformers.settings.architecture import num_parameters
from tiny_transformers.settings.config import RunConfig


@dataclass(frozen=True)
class Run:
    id: str
    name: str
    config: RunConfig
    stages: tuple[str, ...]
    studies: tuple[str, ...]

    @property
    def parameters(self) -> int:
        return num_parameters(self.config.model)


@dataclass(frozen=True)
class StudyRecord:
    """What a study asks, and one grid of it: with these --set."""

    name: str
    description: str
    baselines: tuple[str, ...]  # ids of the runs that the others are held against
    runs: tuple[str, ...] = ()  # ids of all
    stages: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def grid(self) -> dict[str, Any]:
        """As a file keeps it."""
        return {key: list(getattr(self, key)) for key in ("overrides", "stages", "runs", "baselines")}


@dataclass(frozen=True)
class StageState:
    """What the ledger knows of one stage run."""

    status: StageStatus
    attempts: int  # the highest number so far
