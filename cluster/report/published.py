"""The figures that the originals of these studies published, for the variants that are configured as theirs.

reference/*.csv has a row per figure, with its source and the configuration it is of; a row without one is kept as a
fact, but stands beside nothing. A variant is matched by its configuration: what a study or a model is called does not
count. What is known to differ all the same is in reference/differences.csv, from the originals' documents and code."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from cluster.report.results import BY_KEY, Measure, Study, Variant
from tiny_transformers.settings.architecture import AnyModel, Architecture
from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import Data, Evaluation, RunConfig, Train
from tiny_transformers.settings.stage import superglue
from tiny_transformers.settings.stage.blimp import Blimp
from tiny_transformers.settings.stage.lambada import Lambada
from tiny_transformers.settings.stage.superglue import Superglue

# The first that has a figure counts.
TABLES = ("activations", "sparse_ffn", "sharing", "training_times", "activations_thesis")
# Averages of the originals that are none of our columns, and are held against the same of ours.
MEASURES = BY_KEY | {
    measure.key: measure
    for measure in (
        Measure("blimp_micro", "BLiMP+suppl., pairs alike", "blimp", "micro", "accuracy"),
        Measure("superglue_sparse", "(Super)GLUE, the sparse study's", "superglue", "average", "sparse_study"),
        Measure("training_hours", "training, hours", "pretrain", "", "seconds", percent=False, higher_is_better=False),
    )
}
TRAINING = (  # what of a training is as theirs
    "stories_per_step", "learning_rate", "weight_decay", "adam_betas", "adam_epsilon", "max_grad_norm",
    "mlm_probability",
)  # fmt: skip
SIZES = ("vocab_size", "max_position_embeddings", "window_size", "dropout")  # that a label does not tell
CONFIGURATION = ("family", "label", "layers", "hidden_size", "heads", "intermediate_size", "max_steps")  # columns
Configuration = tuple[str, ...]  # a value of each


@dataclass(frozen=True)
class Published:
    measure: Measure
    value: float  # in the unit of the measure: a share where it is shown as a percentage
    low: float | None  # their 95 % interval
    high: float | None
    n: int | None  # seeds; None where it is not told
    source: str
    table: str  # of TABLES

    def ours(self, variant: Variant) -> list[float]:
        """The same figure of each of our runs."""
        if self.measure.key == "training_hours":
            return [run.training_seconds / 3600 for run in variant.runs if run.training_seconds is not None]
        return [*variant.values(self.measure).values()]


def published(study: Study) -> dict[tuple[str, str], Published]:
    """(a variant's key, a measure's key) -> the published figure."""
    known = _figures()
    return {
        (variant.key, figure.measure.key): figure
        for variant in study.variants
        if _trained_alike(variant.config)
        for figure in known.get(_configuration(variant.config), {}).values()
        if _scored_alike(variant.config, figure.measure)
    }


def known_differences(study: Study) -> list[str]:
    """Return how the studies differ from ours in the numbers that `published` gives, a sentence each."""
    about = {variant.key: (variant.family, _label(variant.config.model)) for variant in study.variants}
    found = {(figure.table, *about[key]) for (key, _), figure in published(study).items()}
    return [row["sentence"] for row in _rows("differences") if any(_concerns(row, *figure) for figure in found)]


def _concerns(row: Mapping[str, str], table: str, family: str, name: str) -> bool:
    """Whether a difference is one of such a figure. Labels are what the variant's begins with; empty is whichever."""
    return (
        row["table"] == table and row["family"] in ("", family) and name.startswith(tuple(row["labels"].split()) or "")
    )


@cache
def _figures() -> Mapping[Configuration, dict[str, Published]]:
    """Configuration -> measure's key -> figure."""
    figures: dict[Configuration, dict[str, Published]] = {}
    for table in TABLES:
        for row in _rows(table):
            configuration = tuple(row[name] for name in CONFIGURATION)
            if all(configuration):
                figures.setdefault(configuration, {}).setdefault(row["measure"], _figure(row, table))
    return figures


def _rows(table: str) -> list[dict[str, str]]:
    text = resources.files("cluster.report").joinpath(f"reference/{table}.csv").read_text(encoding="utf-8")
    return [*csv.DictReader(text.splitlines())]


def _figure(row: Mapping[str, str], table: str) -> Published:
    return Published(
        measure=MEASURES[row["measure"]],
        value=float(row["value"]),
        low=float(row["low"]) if row["low"] else None,
        high=float(row["high"]) if row["high"] else None,
        n=int(row["n"]) if row["n"] else None,
        source=row["source"],
        table=table,
    )


def _configuration(config: RunConfig) -> Configuration:
    """In the columns of the tables."""
    model = config.model
    sizes = (model.layers, model.hidden_size, model.heads, model.intermediate_size, config.train.max_steps)
    return (model.family, _label(model), *map(str, sizes))


def _label(model: AnyModel) -> str:
    """Without what their code did otherwise than their papers: with either it is the same variant."""
    short = model.label.removesuffix("-studyinit")
    return {"prelu-init0": "prelu"}.get(short, short.removesuffix("study"))


def _trained_alike(config: RunConfig) -> bool:
    """On the same data, in the same way."""
    model, stock = config.model, type(config.model).model_fields
    return (
        isinstance(model, Architecture)
        and config.data == Data()
        and all(getattr(config.train, name) == getattr(Train(), name) for name in TRAINING)
        and all(getattr(model, name) == stock[name].default for name in SIZES if name in stock)
        and model.ffn == _stock_feed_forward(model)
    )


def _stock_feed_forward(model: Architecture) -> Settings:
    """As the model's, with what its label and sizes do not tell as it is by default."""
    ffn = model.ffn
    stock = type(ffn)(**{name: getattr(ffn, name) for name in ffn.told})
    return stock.resolved(model.hidden_size, model.intermediate_size, model.causal)


def _scored_alike(config: RunConfig, measure: Measure) -> bool:
    """On all of the data, with the settings of the originals: the default ones, and either start token in BLiMP."""
    evaluation = config.evaluation
    if measure.key == "training_hours":
        return True
    if measure.stage == "pretrain":
        return config.train.eval_stories is None
    if measure.stage == "superglue":
        whole = set(superglue.superglue_tasks(config)) == set(superglue.SUPERGLUE_TASKS)
        return (
            whole
            and superglue.limit(evaluation) is None
            and evaluation.of(Superglue).model_copy(update={"tasks": None}) == Superglue()
        )
    if evaluation.limit is not None or evaluation.precision != Evaluation().precision:
        return False
    if measure.stage == "blimp":
        return evaluation.of(Blimp).model_copy(update={"start_token": Blimp().start_token}) == Blimp()
    return evaluation.of(Lambada) == Lambada()
