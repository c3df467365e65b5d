"""The stage superglue: fine-tuning on tasks of GLUE and SuperGLUE, as BabyLM 2023."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from tiny_transformers.settings.base import Settings, added
from tiny_transformers.settings.config import Evaluation, RunConfig
from tiny_transformers.settings.costs import forward_flops, head_flops, limited, rows_in
from tiny_transformers.settings.sections import by_sections
from tiny_transformers.settings.stage.kind import UNKNOWN, Measure, Sizes, StageKind, Tasks

Task = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "boolq", "multirc", "wsc"]
SUPERGLUE_TASKS: tuple[Task, ...] = (
    "cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "boolq", "multirc", "wsc",
)  # fmt: skip
# What the BabyLM evaluation of 2026 has of them, and how many training rows it takes of the largest.
SUPERGLUE_2026: tuple[Task, ...] = ("boolq", "multirc", "rte", "wsc", "mrpc", "qqp", "mnli")
TRAIN_ROWS_2026: dict[Task, int] = {"qqp": 10_000, "mnli": 10_000}
# What the builtin data has of them.
BUILTIN_SUPERGLUE_TASKS: tuple[Task, ...] = ("cola", "sst2", "rte")

TRAIN_ROWS = {"files": 40_000.0, "builtin": 600.0}  # of a task, on average
VALIDATION_ROWS = {"files": 2_500.0, "builtin": 150.0}
ROW_TOKENS = {"files": 60, "builtin": 20}
ROW_BYTES = 280.0  # of a line, on average over the tasks


class Superglue(Settings):
    """Fine-tuning, BabyLM 2023's hyperparameters."""

    # babylm_2026: seven tasks, MNLI on its matched rows alone, and no more than 10,000 training rows of MNLI and QQP.
    edition: Literal["babylm_2023", "babylm_2026"] = added("babylm_2023")
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] | None = None  # null: all that the data has
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    batch_size: PositiveInt = 64
    epochs: PositiveInt = 10  # at most
    eval_every: PositiveInt = 200  # optimizer steps
    patience: PositiveInt = 10  # evaluations without an improvement of `threshold`
    threshold: Annotated[float, Field(ge=0)] = 0.001
    max_length: PositiveInt = 128  # tokens
    # Of products, in training and in answers. tf32: NVIDIA's GPUs from Ampere on.
    precision: Literal["float32", "tf32", "bfloat16"] = added("float32")
    seeds: PositiveInt = 1  # fine-tunings of every task, each with a head and an order of its own; scores are means
    limit: PositiveInt | None = None  # rows used of each of its files; null: as evaluation.limit
    select_on: Literal["validation", "train_split"] = "validation"  # the weights: BabyLM's way, or a part of train

    @property
    def selects_on_scored(self) -> bool:
        """Whether the rows that choose the weights are those that are scored."""
        return self.select_on == "validation"

    @property
    def is_of_2026(self) -> bool:
        return self.edition == "babylm_2026"

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[Task, ...] | None) -> tuple[Task, ...] | None:
        if tasks and len(set(tasks)) < len(tasks):
            raise ValueError("a task is named twice, and an average would count it twice")
        return tasks


def limit(evaluation: Evaluation) -> int | None:
    """Rows used of each of its files; None: all."""
    return evaluation.of(Superglue).limit or evaluation.limit


def train_limit(evaluation: Evaluation, task: Task) -> int | None:
    """Training rows used of a task; None: all."""
    cut = TRAIN_ROWS_2026.get(task) if evaluation.of(Superglue).is_of_2026 else None
    return min(filter(None, (limit(evaluation), cut)), default=None)


def superglue_tasks(config: RunConfig) -> tuple[Task, ...]:
    settings = config.evaluation.of(Superglue)
    if settings.tasks is not None:
        return settings.tasks
    tasks = SUPERGLUE_2026 if settings.is_of_2026 else SUPERGLUE_TASKS
    return tuple(task for task in tasks if config.data.source == "files" or task in BUILTIN_SUPERGLUE_TASKS)


def superglue_files(task: str, settings: Superglue | None = None) -> dict[str, str]:
    """Split -> its file below DATA_ROOT. MNLI is scored on two validation files, but in 2026 on one."""
    splits = ["train", "validation"]
    if task == "mnli":
        mismatched = [] if settings and settings.is_of_2026 else ["validation_mismatched"]
        splits = ["train", "validation_matched", *mismatched]
    return {split: f"filter-data/glue_filtered/{task}.{split}.json" for split in splits}


def files(config: RunConfig) -> list[str]:
    settings = config.evaluation.of(Superglue)
    return [file for task in superglue_tasks(config) for file in superglue_files(task, settings).values()]


def flops(config: RunConfig, sizes: Sizes = UNKNOWN) -> float:
    return (forward_flops(config) - head_flops(config)) * _passed_tokens(config, sizes)


@by_sections("data", "evaluation")
def _passed_tokens(config: RunConfig, sizes: Sizes) -> float:
    """Return the tokens of all forward passes; one with its backward pass counts as three."""
    settings, most = config.evaluation.of(Superglue), limit(config.evaluation)
    rows_passed = 0.0
    for task in superglue_tasks(config):
        train, scored, *_ = superglue_files(task, settings).values()
        rows, answered = (
            rows_in(config, file, ROW_BYTES, usual, sizes)
            for file, usual in ((train, TRAIN_ROWS), (scored, VALIDATION_ROWS))
        )
        train_rows = limited(rows, train_limit(config.evaluation, task)) * settings.epochs
        evaluations = 1 + train_rows / settings.batch_size / settings.eval_every
        rows_passed += 3.0 * train_rows + evaluations * limited(answered, most)
    return rows_passed * ROW_TOKENS[config.data.source] * settings.seeds


def caveat(config: RunConfig) -> str:
    """The best of several looks at some rows is not a score on new ones."""
    return "selected on these rows" if config.evaluation.of(Superglue).selects_on_scored else ""


def check(config: RunConfig) -> None:
    length = config.evaluation.of(Superglue).max_length
    if length > config.positions:
        name = "evaluation.superglue.max_length"
        raise ValueError(f"{name} {length} exceeds the model's {config.positions} positions")


def misfit(config: RunConfig) -> str | None:
    tasks = config.evaluation.of(Superglue).tasks
    if tasks and config.data.source == "builtin" and not {*tasks} <= {*BUILTIN_SUPERGLUE_TASKS}:
        return f"evaluation.superglue.tasks: the builtin data has {', '.join(BUILTIN_SUPERGLUE_TASKS)} only"
    return None


SUPERGLUE = StageKind(
    "superglue",
    "tiny_transformers.evaluation.superglue",
    needs=("add_tokenizer",),
    reads="stories",
    trains=True,
    by_default=True,
    settings=Superglue,
    keeps_defaults=True,
    files=files,
    flops=flops,
    by_size=True,
    check=check,
    misfit=misfit,
    caveat=caveat,
    measures=(Measure("superglue", "(Super)GLUE", "superglue", "average", "main", is_main=True),),
    tasks=Tasks("superglue", "(Super)GLUE by task", "main", averages=("average",)),
)
