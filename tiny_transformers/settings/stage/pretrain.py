"""The stage pretrain. Its settings are the section `train`."""

from __future__ import annotations

from tiny_transformers.settings.config import RunConfig, tokenizer_files
from tiny_transformers.settings.costs import (
    TOKEN_BYTES,
    characters,
    forward_flops,
    limited,
    rows_in,
    step_flops,
    story_tokens,
    training_tokens,
)
from tiny_transformers.settings.sections import by_sections
from tiny_transformers.settings.stage.kind import UNKNOWN, Measure, Other, Sizes, StageKind

VALIDATION_SIZE = {"files": 21_990.0, "builtin": 300.0}  # stories
DOCUMENTS_CUT = "documents_cut"  # the check that tells of documents that are longer than what is read of them


def files(config: RunConfig) -> list[str]:
    corpus = config.data.files.files
    return corpus if config.data.is_stream else [*corpus, *tokenizer_files(config.data)]


def flops(config: RunConfig, sizes: Sizes = UNKNOWN) -> float:
    """Without the steps that a budget of hours pays for."""
    evaluations = config.train.evaluations * validation_tokens(config, sizes)
    return step_flops(config) * training_tokens(config) + forward_flops(config) * evaluations


@by_sections("data", "train")
def validation_tokens(config: RunConfig, sizes: Sizes = UNKNOWN) -> float:
    """Return the tokens of one evaluation while a model is trained."""
    train, corpus = config.train, config.data.files
    if config.data.is_stream:
        return limited(characters(config, 1, sizes), train.eval_characters)
    row_bytes = TOKEN_BYTES * corpus.document_tokens
    stories = rows_in(config, corpus.files[1], row_bytes, VALIDATION_SIZE, sizes)
    return limited(stories, train.eval_stories) * story_tokens(config)


def of_teacher(config: RunConfig) -> list[Other]:
    """The run whose model teaches this one's. What only measures learns from an untrained one."""
    if config.teacher is None or config.probe:
        return []
    return [Other(config.taught_by, "pretrain", config.teacher.name)]


def measure_of(task: str, metric: str) -> Measure | None:
    """What only some models have: the share of weights that were pruned, and the steps of a token until it halts."""
    if (task, metric) == ("weights", "sparsity"):
        return Measure("sparsity", "pruned", "pretrain", task, metric)
    if (task, metric) == ("validation", "steps_per_token"):
        return Measure("steps_per_token", "steps of a token", "pretrain", task, metric, percent=False,
                       higher_is_better=False)  # fmt: skip
    return None


PRETRAIN = StageKind(
    "pretrain",
    "tiny_transformers.training.pretrain",
    trains=True,
    by_default=True,
    files=files,
    flops=flops,
    by_size=True,
    of_others=of_teacher,
    measures=(
        Measure("loss", "val. loss", "pretrain", "validation", "loss", percent=False, higher_is_better=False,
                is_main=True),
    ),
    measure_of=measure_of,
)  # fmt: skip
