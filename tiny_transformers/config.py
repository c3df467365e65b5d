"""The settings of one run: model (see `architecture`), data, training, evaluation, seed.

The words are those of Hugging Face where it has one. Unknown keys are refused. No torch here: the login node
reads this module to plan, a compute node to work, so a size or a file name is stated once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from tiny_transformers.architecture import Model, Probability, Settings

RECIPE = 2  # raised when the same settings would give another result: it is part of every run id
STAGES = ("pretrain", "add_tokenizer", "blimp", "superglue")
NEEDS: dict[str, tuple[str, ...]] = {  # a stage -> the stages that must have completed before it
    "pretrain": (),
    "add_tokenizer": ("pretrain",),
    "blimp": ("add_tokenizer",),
    "superglue": ("add_tokenizer",),
}


def needed_by(stages: Iterable[str]) -> set[str]:
    """All that these stages need, directly or not."""
    needs = {need for stage in stages for need in NEEDS[stage]}
    return needs | needed_by(needs) if needs else needs


Stage = Literal["pretrain", "add_tokenizer", "blimp", "superglue"]
Task = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "boolq", "multirc", "wsc"]


class Data(Settings):
    """`files`: DATA_ROOT in the layout of docs/data.md. `builtin`: made by the package from a grammar."""

    source: Literal["files", "builtin"] = "files"
    tokenizer: str = "10k-tok"  # the folder DATA_ROOT/tokenizer/<name>; builtin data brings its own
    max_length: PositiveInt = 512  # tokens a story is cut at


class Train(Settings):
    """Hugging Face Trainer's words; one step is one optimizer step."""

    max_steps: PositiveInt = 8_280  # one epoch of TinyStories at 256 stories a step
    stories_per_step: PositiveInt = 256
    micro_batch_tokens: PositiveInt = 8_192  # padded, at once on the device; changes no gradient but of moe and pkm
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_betas: tuple[Probability, Probability] = (0.9, 0.999)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    mlm_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15  # encoders only
    evaluations: PositiveInt = 10  # on validation, evenly spaced; a checkpoint is written with each
    eval_stories: PositiveInt | None = None  # the first so many of the validation stories; null: all


class Blimp(Settings):
    start_token: Literal["bos", "eos"] = "bos"  # decoders: the context of the first token; BabyLM 2023 took eos
    leading_space: bool = True  # " " + sentence, as BabyLM 2023


class Superglue(Settings):
    """Fine-tuning, BabyLM 2023's hyperparameters."""

    tasks: tuple[Task, ...] | None = None  # null: all that the data has
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    batch_size: PositiveInt = 64
    epochs: PositiveInt = 10  # at most
    eval_every: PositiveInt = 200  # optimizer steps
    patience: PositiveInt = 10  # evaluations without an improvement of `threshold`
    threshold: Annotated[float, Field(ge=0)] = 0.001
    max_length: PositiveInt = 128  # tokens


class Evaluation(Settings):
    limit: PositiveInt | None = None  # rows used of each file, evenly spaced; null: all
    blimp: Blimp = Blimp()
    superglue: Superglue = Superglue()


class RunConfig(Settings):
    """Everything that can change a run's result."""

    model: Model
    data: Data = Data()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    smoke: bool = False  # a trial of the machinery: kept apart, never counted
    recipe: int = RECIPE

    @model_validator(mode="after")
    def _story_fits_model(self) -> RunConfig:
        positions = self.model.max_position_embeddings - (self.model.family == "roberta")
        for name, length in (
            ("data.max_length", self.data.max_length),
            ("evaluation.superglue.max_length", self.evaluation.superglue.max_length),
        ):
            if length > positions:
                raise ValueError(f"{name} {length} exceeds the model's {positions} positions")
        return self


def micro_batch_is_free(config: RunConfig) -> bool:
    """Whether the size of a micro-batch leaves the result as it is. A mixture of experts balances its load, and a
    product-key memory normalizes its queries, over a micro-batch."""
    return config.model.ffn.kind not in ("moe", "pkm")


# The layout of DATA_ROOT: BabyLM 2023's filter_data.zip beside TinyStories and a tokenizer (docs/data.md).
BLIMP_TASKS = (
    "anaphor_agreement", "argument_structure", "binding", "control_raising", "determiner_noun_agreement", "ellipsis",
    "filler_gap", "irregular_forms", "island_effects", "npi_licensing", "quantifiers", "subject_verb_agreement",
)  # fmt: skip
SUPPLEMENT_TASKS = (
    "hypernym", "qa_congruence_easy", "qa_congruence_tricky", "subject_aux_inversion", "turn_taking",
)  # fmt: skip
SUPERGLUE_TASKS: tuple[Task, ...] = (
    "cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "boolq", "multirc", "wsc",
)  # fmt: skip
# What the builtin data has of them.
BUILTIN_BLIMP_TASKS = (
    "anaphor_agreement", "argument_structure", "determiner_noun_agreement", "irregular_forms", "npi_licensing",
    "subject_verb_agreement",
)  # fmt: skip
BUILTIN_SUPPLEMENT_TASKS = ("subject_aux_inversion",)
BUILTIN_SUPERGLUE_TASKS: tuple[Task, ...] = ("cola", "sst2", "rte")

TRAIN_STORIES = "tinystories/train.jsonl"
VALIDATION_STORIES = "tinystories/validation.jsonl"


def blimp_files(data: Data) -> dict[str, str]:
    """Task -> its file below DATA_ROOT; BLiMP's groups first, then BabyLM's supplement."""
    builtin = data.source == "builtin"
    blimp = BUILTIN_BLIMP_TASKS if builtin else BLIMP_TASKS
    supplement = BUILTIN_SUPPLEMENT_TASKS if builtin else SUPPLEMENT_TASKS
    return {task: f"filter-data/blimp_filtered/{task}.json" for task in blimp} | {
        task: f"filter-data/supplement_filtered/{task}.json" for task in supplement
    }


def superglue_tasks(config: RunConfig) -> tuple[Task, ...]:
    have = BUILTIN_SUPERGLUE_TASKS if config.data.source == "builtin" else SUPERGLUE_TASKS
    return have if config.evaluation.superglue.tasks is None else config.evaluation.superglue.tasks


def superglue_files(task: str) -> dict[str, str]:
    """Split -> its file below DATA_ROOT. MNLI is scored on two validation files."""
    splits = ("train", "validation_matched", "validation_mismatched") if task == "mnli" else ("train", "validation")
    return {split: f"filter-data/glue_filtered/{task}.{split}.json" for split in splits}


def required_files(config: RunConfig, stages: tuple[str, ...] = STAGES) -> list[str]:
    """What these stages read below DATA_ROOT; for the builtin data, what its generator must have written."""
    tokenizer = f"tokenizer/{config.data.tokenizer}/tokenizer.json"
    files = {
        "pretrain": [TRAIN_STORIES, VALIDATION_STORIES, tokenizer],
        "add_tokenizer": [tokenizer, VALIDATION_STORIES],
        "blimp": list(blimp_files(config.data).values()),
        "superglue": [file for task in superglue_tasks(config) for file in superglue_files(task).values()],
    }
    return list(dict.fromkeys(file for stage in stages for file in files[stage]))
