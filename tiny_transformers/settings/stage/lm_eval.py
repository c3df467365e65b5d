"""The stage lm_eval: likelihood tasks of EleutherAI's lm-evaluation-harness, on our engine. Loads no lm-eval."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.corpora import Below
from tiny_transformers.settings.costs import forward_flops, limited, one_mask_flops
from tiny_transformers.settings.stage.kind import Measure, StageKind

if TYPE_CHECKING:  # most commands need neither it nor yaml
    from tiny_transformers.settings.stage.task_files import Catalogue, Leaf

# Of each name in `tasks`, for plans alone: how large a task is its data tells, and a group may be of any number.
ROWS, TEXTS, TOKENS, SCORED_TOKENS = 10_000, 2, 24, 12
ERRORS = ("perplexity", "bits_per_byte", "brier_score")  # parts of names of metrics of which less is better
PLAIN = ("perplexity", "bits_per_byte", "mcc")  # and of those that are no shares


class LmEval(Settings):
    tasks: tuple[str, ...] = ()  # names of tasks or groups
    include_path: Below | None = None  # a folder below DATA_ROOT with task files, besides those that lm-eval has
    start_token: Literal["bos", "eos", "none"] = "bos"  # decoders: what stands before every text
    pll: Literal["original", "word_l2r"] = "original"  # encoders, as in `evaluation.blimp`

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tasks)) < len(tasks):
            raise ValueError("a task is named twice")
        return tasks


def catalogue(config: RunConfig, root: Path) -> Catalogue:
    """The task files that a run of this DATA_ROOT may name. Raises ValueError."""
    from tiny_transformers.settings.stage.task_files import Catalogue

    include = config.evaluation.of(LmEval).include_path
    folder = root / include if include else None
    if folder and not folder.is_dir():
        raise ValueError(
            f"evaluation.lm_eval.include_path: {folder} is no folder. Put the task files there, below DATA_ROOT."
        )
    return Catalogue([folder] if folder else [])


def leaves(config: RunConfig, known: Catalogue) -> dict[str, list[Leaf]]:
    """Each name of `tasks` -> the tasks that it stands for. Raises ValueError for one that cannot be scored so."""
    settings = config.evaluation.of(LmEval)
    found = {name: known.leaves(name, "evaluation.lm_eval.tasks") for name in settings.tasks}
    for name, count in Counter(leaf.name for each in found.values() for leaf in each).items():
        if count > 1:
            raise ValueError(f"evaluation.lm_eval.tasks: {name} is among them twice, by the groups that have it.")
    for leaf in (leaf for each in found.values() for leaf in each):
        if wrong := leaf.objection():
            raise ValueError(f"evaluation.lm_eval.tasks: {leaf.name} {wrong} ({leaf.path}). Leave it out.")
        if leaf.is_rolling and not config.model.causal and settings.pll == "word_l2r":
            raise ValueError(
                f"evaluation.lm_eval.pll: {leaf.name} scores whole texts in windows, which cut words. Write original."
            )
    return found


def found(config: RunConfig, root: Path) -> list[str]:
    """The task files below DATA_ROOT, with all that they include and call, and the data that they name."""
    from tiny_transformers.settings.stage.task_files import data_files

    files: dict[str, None] = {}
    for leaf in (leaf for each in leaves(config, catalogue(config, root)).values() for leaf in each):
        files |= dict.fromkeys(
            path.relative_to(root).as_posix() for path in (*leaf.files, *data_files(leaf, root)) if root in path.parents
        )
    return list(files)


def flops(config: RunConfig) -> float:
    rows = limited(ROWS, config.evaluation.limit) * len(config.evaluation.of(LmEval).tasks)
    if config.model.causal:
        return rows * TEXTS * TOKENS * forward_flops(config)
    return rows * TEXTS * SCORED_TOKENS * one_mask_flops(config, TOKENS)


def misfit(config: RunConfig) -> str | None:
    if config.data.source == "builtin":
        return "stages: lm_eval reads data below DATA_ROOT (data.source: files), and the builtin data has none for it"
    if not config.evaluation.of(LmEval).tasks:
        return "evaluation.lm_eval.tasks: names no task, and the stage lm_eval scores those"
    return None


def measure_of(task: str, metric: str) -> Measure | None:
    """What is asked for has a column; its parts have none."""
    if "/" in task:
        return None
    return Measure(
        f"lm_eval.{task}.{metric}",
        f"{task} {metric}",
        "lm_eval",
        task,
        metric,
        percent=not any(part in metric for part in PLAIN),
        higher_is_better=not any(part in metric for part in ERRORS),
        is_main=True,
    )


LM_EVAL = StageKind(
    "lm_eval",
    "tiny_transformers.evaluation.harness",
    needs=("add_tokenizer",),
    reads="stories",
    settings=LmEval,
    found=found,
    flops=flops,
    misfit=misfit,
    part_tells=False,  # of how many rows it is only its data tells
    keeps_rows=True,
    measure_of=measure_of,
)
