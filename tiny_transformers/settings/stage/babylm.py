"""The stage babylm: the zero-shot tasks of the BabyLM evaluations of 2025 and 2026.

Where its files are, and what they are called, is BabyLM's: a folder of JSON lines for each task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.costs import forward_flops, limited, one_mask_flops
from tiny_transformers.settings.stage.kind import Measure, StageKind, Tasks

BabylmTask = Literal[
    "blimp_filtered", "supplement_filtered", "ewok_filtered", "entity_tracking", "comps",
    "wug_adj_nominalization", "wug_past_tense",
]  # fmt: skip
FOLDERS = {"full": "evaluation_data/full_eval", "fast": "evaluation_data/fast_eval"}
FAST = 0.1  # of the rows, about
WUG = ("wug_adj_nominalization", "wug_past_tense")  # whose score is a correlation


@dataclass(frozen=True)
class Usual:
    """About how large a task is, for plans alone: the real files were not at hand."""

    files: int
    rows: int  # of a file
    candidates: int
    tokens: int  # of a candidate
    scored: int


USUAL: dict[BabylmTask, Usual] = {
    "blimp_filtered": Usual(67, 900, 2, 12, 12),
    "supplement_filtered": Usual(5, 1_100, 2, 20, 20),
    "ewok_filtered": Usual(11, 700, 2, 25, 10),
    "entity_tracking": Usual(3, 2_000, 5, 120, 10),
    "comps": Usual(4, 22_000, 2, 15, 5),
    "wug_adj_nominalization": Usual(1, 1_000, 2, 20, 20),
    "wug_past_tense": Usual(1, 1_000, 2, 20, 20),
}
BABYLM_TASKS = tuple(USUAL)


class Babylm(Settings):
    data: Literal["full", "fast"] = "full"  # full_eval, or fast_eval, which is a part of it
    tasks: Annotated[tuple[BabylmTask, ...], Field(min_length=1)] | None = None  # null: all
    start_token: Literal["bos", "eos"] = "bos"  # decoders: the context of the first token
    leading_space: bool = True  # " " + text, as in `evaluation.blimp`
    pll: Literal["original", "word_l2r"] = "original"  # encoders, as in `evaluation.blimp`

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[BabylmTask, ...] | None) -> tuple[BabylmTask, ...] | None:
        if tasks and len(set(tasks)) < len(tasks):
            raise ValueError("a task is named twice, and an average would count it twice")
        return tasks


def babylm_tasks(config: RunConfig) -> tuple[BabylmTask, ...]:
    return config.evaluation.of(Babylm).tasks or BABYLM_TASKS


def babylm_files(config: RunConfig, root: Path) -> dict[BabylmTask, list[str]]:
    """Task -> its files below this DATA_ROOT. Raises ValueError for a task that has none there."""
    folder = FOLDERS[config.evaluation.of(Babylm).data]
    found: dict[BabylmTask, list[str]] = {}
    for task in babylm_tasks(config):
        place = root / folder / task
        files = sorted(path.name for path in place.glob("*.jsonl"))
        if not files:
            raise ValueError(
                f"{place}: has no .jsonl file. Put BabyLM's evaluation data there (docs/evaluation.md), or leave "
                f"{task} out of evaluation.babylm.tasks."
            )
        found[task] = [f"{folder}/{task}/{name}" for name in files]
    return found


def files_found(config: RunConfig, root: Path) -> list[str]:
    return [file for files in babylm_files(config, root).values() for file in files]


def flops(config: RunConfig) -> float:
    share = FAST if config.evaluation.of(Babylm).data == "fast" else 1.0
    total = 0.0
    for usual in (USUAL[task] for task in babylm_tasks(config)):
        texts = usual.files * limited(usual.rows * share, config.evaluation.limit) * usual.candidates
        if config.model.causal:
            total += texts * usual.tokens * forward_flops(config)
        else:
            total += texts * usual.scored * one_mask_flops(config, usual.tokens)
    return total


def misfit(config: RunConfig) -> str | None:
    if config.data.source == "builtin":
        return "stages: babylm needs BabyLM's files (data.source: files), and the builtin data has none"
    return None


BABYLM = StageKind(
    "babylm",
    "tiny_transformers.evaluation.babylm",
    needs=("add_tokenizer",),
    reads="stories",
    settings=Babylm,
    found=files_found,
    flops=flops,
    misfit=misfit,
    keeps_rows=True,
    measures=(
        Measure("babylm", "BabyLM zero-shot", "babylm", "average", "accuracy", is_main=True),
        Measure("babylm_blimp", "BLiMP (BabyLM 2025)", "babylm", "blimp_filtered", "accuracy"),
        Measure("babylm_supplement", "suppl. (BabyLM 2025)", "babylm", "supplement_filtered", "accuracy"),
        Measure("ewok", "EWoK", "babylm", "ewok_filtered", "accuracy"),
        Measure("entity_tracking", "entity tracking", "babylm", "entity_tracking", "accuracy"),
        Measure("comps", "COMPS", "babylm", "comps", "accuracy"),
        Measure("wug_adj", "WUG adj.", "babylm", "wug_adj_nominalization", "spearman", percent=False),
        Measure("wug_past", "WUG past tense", "babylm", "wug_past_tense", "spearman", percent=False),
    ),
    tasks=Tasks("babylm", "BabyLM's zero-shot tasks", "accuracy", averages=("average",)),
)
