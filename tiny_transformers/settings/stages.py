"""The stages of a run, each declared once: what it needs, which models it is for, the module that does it. No torch.

A stage is a function `run(work: Work) -> Outcome` (common/work.py). What it costs is in cluster/plan/cost.py, what the
report shows of it in cluster/report/results.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StageKind:
    name: str
    runner: str  # the module whose `run` does it; the job that does it loads it
    needs: tuple[str, ...] = ()  # the stages that must have completed before it
    reads: Literal["stories", "streams", "either"] = "either"  # the corpora of the models that it is for
    alone: bool = False  # measured with nothing else on the device: after all else of a pack, one run at a time
    by_default: bool = False  # part of a study that names no stages


KINDS = (  # in the order in which they are done
    StageKind("pretrain", "tiny_transformers.training.pretrain", by_default=True),
    StageKind("add_tokenizer", "tiny_transformers.data.tokenizer", ("pretrain",), by_default=True),
    StageKind("blimp", "tiny_transformers.evaluation.blimp", ("add_tokenizer",), "stories", by_default=True),
    StageKind("superglue", "tiny_transformers.evaluation.superglue", ("add_tokenizer",), "stories", by_default=True),
    StageKind("lambada", "tiny_transformers.evaluation.lambada", ("add_tokenizer",), "stories"),
    StageKind("bpc", "tiny_transformers.evaluation.bpc", ("pretrain",), "streams"),
    StageKind("speed", "tiny_transformers.evaluation.speed", ("pretrain",), alone=True),
)
RUNNERS = {kind.name: kind.runner for kind in KINDS}
STAGES = tuple(RUNNERS)
NEEDS = {kind.name: kind.needs for kind in KINDS}
DEFAULT_STAGES = tuple(kind.name for kind in KINDS if kind.by_default)
ALONE = tuple(kind.name for kind in KINDS if kind.alone)


def needed_by(stages: Iterable[str]) -> set[str]:
    """Return all that these stages need, directly or not."""
    needs = {need for stage in stages for need in NEEDS[stage]}
    return needs | needed_by(needs) if needs else needs


def read_other_corpora(stages: Iterable[str], is_stream: bool) -> list[str]:
    """Return those of these stages that are not for models of this kind of corpus."""
    other = "stories" if is_stream else "streams"
    return [kind.name for kind in KINDS if kind.reads == other and kind.name in set(stages)]
