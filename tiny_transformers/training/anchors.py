"""Anchors: copies of a model's weights on the way of its training, each with what it had read by then.

The folder anchors/<number>/ of a run is a model in Hugging Face's format, and anchor.json. It is of the first optimizer
step at or after its number, whole or absent. A training that goes on from a checkpoint drops what came after it and
writes it again, the same bytes. Nothing of a training depends on its anchors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tiny_transformers.common.files import whole_folder
from tiny_transformers.models import auto
from tiny_transformers.settings.config import RunConfig, anchor_name

ABOUT = "anchor.json"


@dataclass(frozen=True)
class Place:
    """How far a training is."""

    step: int  # optimizer steps
    tokens: int  # of the stories, without padding; of a stream, characters
    stories: int | None  # read; of a stream, None
    minutes: float  # in steps, without evaluations, checkpoints and anchors
    done: float  # of the training, 0 to 1: by it goes what changes on the way

    @classmethod
    def after(cls, step: int, config: RunConfig, *, tokens: int, seconds: float, done: float) -> Place:
        stories = None if config.data.is_stream else step * config.train.stories_per_step
        return cls(step, tokens, stories, seconds / 60, done)

    def reached(self, number: float) -> bool:
        """Whether it is at an anchor or beyond: so many tokens, or, below 1, a share of the training."""
        return self.done >= number if number < 1 else self.tokens >= number


class Anchors:
    """The anchors of one run's folder."""

    def __init__(self, folder: Path, numbers: Sequence[float]) -> None:
        self.folder, self.numbers = folder, numbers

    def keep(self, model: Any, before: Place, now: Place) -> None:
        """Write the anchors that the last step has reached."""
        for number in self.numbers:
            if now.reached(number) and not before.reached(number):
                with whole_folder(self.folder / anchor_name(number), replace=True) as draft, auto.quiet():
                    model.save_pretrained(draft)
                    (draft / ABOUT).write_text(json.dumps(asdict(now), indent=1) + "\n")
                print(f"step {now.step}: anchor {anchor_name(number)} kept, {now.tokens:,} tokens", flush=True)

    def cut(self, step: int) -> None:
        """Drop those that came after a step, which will be made again, and what a killed process left half written."""
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            place = None if folder.name.startswith(".") else read(folder)
            if place is None or place.step > step:
                shutil.rmtree(folder, ignore_errors=True)

    def missing(self, end: Place) -> list[float]:
        """Those that a training with this end came to, and that are not there."""
        return [number for number in self.numbers if end.reached(number) and read(self.of(number)) is None]

    def of(self, number: float) -> Path:
        return self.folder / anchor_name(number)


def read(folder: Path) -> Place | None:
    """Where the training was when this anchor was written. None: it is not there, or is not whole."""
    try:
        return Place(**json.loads((folder / ABOUT).read_text()))
    except (OSError, ValueError, TypeError):
        return None
