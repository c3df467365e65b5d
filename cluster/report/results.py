"""The ledger -> what a report shows, as plain values: studies, their families, variants and runs. Reads nothing else.

A variant is the runs of a study that differ in nothing but their seed; it is held against its family's baseline. Every
figure is of a run, whose id stands beside it; what is not there is None, never a guess."""

from __future__ import annotations

import hashlib
import itertools
import re
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from urllib.parse import quote

from cluster.files.documents import Grid, StudyFile
from cluster.files.statuses import StageStatus
from cluster.ledger.checks import of_several_manifests
from cluster.ledger.database import Ledger
from cluster.ledger.rows import CheckRow, DataFileRow, StageRow, TryRow
from cluster.plan.naming import differences, differing
from tiny_transformers.settings.activations import ACTIVATIONS
from tiny_transformers.settings.architecture import Architecture
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.feed_forward.kind import FeedForwardKind
from tiny_transformers.settings.program import Program
from tiny_transformers.settings.stage.kind import Measure
from tiny_transformers.settings.stage.known import measure_of
from tiny_transformers.settings.stage.own import OwnMeasure
from tiny_transformers.settings.stages import STAGES

LONGEST = 80  # letters of a study's name in a file's; file systems allow 255 for all of it
FAMILIES = {
    "gpt_neo": "GPT-Neo", "roberta": "RoBERTa", "llama": "Llama", "brainformer": "Brainformer", "program": "Programs",
}  # fmt: skip


MEASURES = tuple(measure for kind in STAGES.values() if not kind.own for measure in kind.measures)
BY_KEY = {measure.key: measure for measure in MEASURES}
TASKS = tuple(kind.tasks for kind in STAGES.values() if kind.tasks)


def main_of(measures: Iterable[Measure]) -> list[Measure]:
    """Those that a study's question is answered by: scores first, and what training itself told last."""
    return sorted((each for each in measures if each.is_main), key=lambda each: each.stage == "pretrain")


MAIN = tuple(each.key for each in main_of(MEASURES))


def measures_of(scored: Iterable[tuple[str, str, str]]) -> tuple[Measure, ...]:
    """Our measures, those of users' own stages as they are defined, and those that only these scores tell of, which are
    named by stage, task and metric."""
    own = {name: kind for name, kind in STAGES.items() if kind.own}
    defined = [measure for kind in own.values() for measure in kind.measures]
    asked = dict.fromkeys(scored)
    found = [
        measure_of(stage, OwnMeasure(task=task, metric=metric))
        for stage, task, metric in asked
        if stage in own and not own[stage].measures
    ]
    named = (STAGES[stage].measure_of(task, metric) for stage, task, metric in asked if stage in STAGES)
    return (*MEASURES, *filter(None, named), *defined, *found)


def caveat(stage: str, configs: Iterable[RunConfig]) -> str:
    """Return what stands behind the title of a stage's scores with these settings; mostly nothing."""
    said = dict.fromkeys(filter(None, (STAGES[stage].caveat(config) for config in configs)))
    return f" ({', '.join(said)})" if said else ""


def told(measure: Measure, configs: Iterable[RunConfig]) -> Measure:
    """Return the measure with the caveat of these settings in its title."""
    return replace(measure, title=f"{measure.title}{caveat(measure.stage, configs)}")


@dataclass(frozen=True)
class Result:
    """One run, as far as it has come."""

    run_id: str
    name: str
    seed: int
    studies: tuple[str, ...]
    stages: Mapping[str, StageRow]
    scores: Mapping[tuple[str, str, str], tuple[float, int]]  # (stage, task, metric) -> value, rows it is of
    metrics: Mapping[tuple[str, str], str]  # (stage, name) -> whatever else the stage measured
    failed_checks: tuple[CheckRow, ...]
    hours: Mapping[str, float]  # stage -> GPU-hours of all its attempts; on a machine without GPUs, hours
    data: Mapping[tuple[str, str], str] = field(default_factory=dict)  # (stage, file that it read) -> SHA-256
    tries: tuple[TryRow, ...] = ()  # its attempts

    def same_data(self, other: Result, stage: str) -> bool:
        """Whether both were trained on, and have at this stage read, the same version of each file that both have;
        and what training itself has told, losses per token, whether of the same tokenizer."""
        alike = self.data == other.data or all(
            other.data.get(key, digest) == digest for key, digest in self.data.items() if key[0] in ("pretrain", stage)
        )
        return alike and (stage != "pretrain" or self._tokenizers == other._tokenizers)

    @property
    def _tokenizers(self) -> set[str]:
        return {file for stage, file in self.data if stage == "pretrain" and file.startswith("tokenizer/")}

    def status(self, stage: str) -> StageStatus | None:
        return self.stages[stage]["status"] if stage in self.stages else None

    def value(self, measure: Measure) -> float | None:
        found = self.scores.get(measure.where)
        return found[0] if found else None

    def number(self, stage: str, name: str) -> float | None:
        """A metric that is a number."""
        try:
            return float(self.metrics[stage, name])
        except (KeyError, ValueError):
            return None

    @property
    def training_seconds(self) -> float | None:
        return self.number("pretrain", "seconds")

    @property
    def gpu_hours(self) -> float | None:
        """The GPU-hours of its stages, all attempts included; on a machine without GPUs, hours."""
        known = [self.hours[stage] for stage in self.stages if stage in self.hours]
        return sum(known) if known else None

    def with_stages(self, stages: Sequence[str]) -> Result:
        """As a study sees it that has these stages only: with their scores, and what it was trained on."""
        return replace(
            self,
            stages={stage: state for stage, state in self.stages.items() if stage in stages},
            scores={place: score for place, score in self.scores.items() if place[0] in stages},
            metrics={place: value for place, value in self.metrics.items() if place[0] in stages},
            data={place: digest for place, digest in self.data.items() if place[0] in ("pretrain", *stages)},
            failed_checks=tuple(check for check in self.failed_checks if check["stage"] in stages),
            tries=tuple(each for each in self.tries if each["stage"] in stages),
        )

    @property
    def failed(self) -> bool:
        """Whether a stage has failed, so that what is missing does not come by itself."""
        return any(state["status"] == "failed" for state in self.stages.values())

    @property
    def missing(self) -> tuple[str, ...]:
        """Stages that are not completed."""
        return tuple(stage for stage, state in self.stages.items() if state["status"] != "completed")


@dataclass(frozen=True)
class Variant:
    """The runs of a study with one configuration, by their seeds."""

    key: str  # unique within a study, fit for a file's name and a link's target
    label: str  # what sets it apart within its family: short, unique there, for programs
    family: str  # gpt_neo, roberta, brainformer-enwik8, ...
    config: RunConfig  # of its first seed
    parameters: int
    is_baseline: bool
    runs: tuple[Result, ...]  # by seed
    among_sparse: bool = False  # some variant of its family has a feed-forward module whose label names all of it

    @property
    def title(self) -> str:
        """What people read in place of its label, in sentences, tables and figures alike."""
        called = ACTIVATIONS[self.label].title if self.label in ACTIVATIONS else self.label
        ffn = _feed_forward(self.config)
        return f"dense {called}" if self.among_sparse and ffn and ffn.kind == "dense" else called

    def values(self, measure: Measure) -> dict[int, float]:
        """Seed -> value, of the runs that have one."""
        found = {run.seed: run.value(measure) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, measure: Measure) -> float | None:
        values = self.values(measure)
        return statistics.fmean(values.values()) if values else None

    def mean_of(self, numbers: Iterable[float | None]) -> float | None:
        known = [number for number in numbers if number is not None]
        return statistics.fmean(known) if known else None

    @property
    def training_seconds(self) -> float | None:
        return self.mean_of(run.training_seconds for run in self.runs)

    @property
    def gpu_hours(self) -> float | None:
        """The mean of a run."""
        return self.mean_of(run.gpu_hours for run in self.runs)


@dataclass(frozen=True)
class Family:
    """A study's models of one architecture: the baseline first."""

    name: str
    variants: tuple[Variant, ...]

    @property
    def title(self) -> str:
        family, _, corpus = self.name.partition("-")
        return ", ".join([FAMILIES.get(family, family), *([corpus] if corpus else [])])

    @property
    def baseline(self) -> Variant:
        return self.variants[0]

    @cached_property
    def known_measures(self) -> tuple[Measure, ...]:
        """All that its runs may have a value for."""
        return measures_of(place for variant in self.variants for run in variant.runs for place in run.scores)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Those for which at least one of its runs has a value."""
        configs = [variant.config for variant in self.variants]
        known = self.known_measures
        return tuple(told(each, configs) for each in known if any(variant.values(each) for variant in self.variants))

    @property
    def has_models(self) -> bool:
        """Whether its variants have sizes: programs have none."""
        return self.baseline.config.reads_data


@dataclass(frozen=True)
class Study:
    name: str
    description: str  # its question; empty if the ledger does not know it
    families: tuple[Family, ...]
    note: str = ""  # that its runs come from several manifests

    @property
    def stem(self) -> str:
        return stem(self.name)

    @property
    def variants(self) -> list[Variant]:
        return [variant for family in self.families for variant in family.variants]

    @property
    def runs(self) -> list[Result]:
        return [run for variant in self.variants for run in variant.runs]

    @cached_property
    def known_measures(self) -> tuple[Measure, ...]:
        """All that its runs may have a value for."""
        return measures_of(place for run in self.runs for place in run.scores)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        known = {measure.key for family in self.families for measure in family.measures}
        configs = [variant.config for variant in self.variants]
        return tuple(told(measure, configs) for measure in self.known_measures if measure.key in known)

    def caveats(self) -> dict[str, str]:
        """Titles of measures -> the same titles with the caveat that has to stand behind them; without the others."""
        plain = {measure.key: measure.title for measure in self.known_measures}
        return {plain[each.key]: each.title for each in self.measures if each.title != plain[each.key]}


@cache
def stem(name: str) -> str:
    """A name of the user's as a part of file names and links: letters, digits and _.-~ only, another for each name."""
    told = quote(name, safe="").replace("~", "%7E").replace("%", "~")
    return told if len(told) <= LONGEST else f"{told[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def read(ledger: Ledger, of: Sequence[Result] | None = None) -> list[Study]:
    """Every study of the ledger, in the order in which they were submitted; a grid with other --set is one of its own,
    and so is what the manifest no longer has. `of`: all its runs, where they are read already."""
    about = {row["name"]: row for row in ledger.studies()}
    configs = {run.id: run.config for run in ledger.runs()}
    parameters = {run["run_id"]: run["parameters"] for run in ledger.overview()}
    results = every_result(ledger) if of is None else of
    studies = []
    needed, mixed = ledger.needed_runs(), of_several_manifests(ledger)
    for name in ledger.study_sizes():
        of_study = [result for result in results if name in result.studies]
        row = about.get(name, StudyFile(name=name, description="", grids=[]))
        for title, grid in _grids(name, row["grids"], of_study, needed):
            chosen = [run.with_stages(grid["stages"]) for run in of_study if run.run_id in set(grid["runs"])]
            if chosen:
                families = _families(chosen, configs, parameters, set(grid["baselines"]))
                studies.append(Study(title, row["description"], families, mixed.get(name, "")))
    return studies


def _grids(
    name: str, grids: Sequence[Grid], results: Sequence[Result], needed: Collection[str]
) -> Iterator[tuple[str, Grid]]:
    """Each with a title; the runs that are in none, as if they were one, without those that are there since others
    need them."""
    for grid in grids:
        yield " ".join([name, *grid["overrides"]]), grid
    listed = {run_id for grid in grids for run_id in grid["runs"]}.union(needed)
    left = [result.run_id for result in results if result.run_id not in listed]
    scored = [place[0] for result in results for place in result.scores]  # whatever there is of them
    stages = dict.fromkeys([*(stage for result in results for stage in result.stages), *scored])
    if left:
        title = f"{name}, no longer in the manifest" if grids else name
        yield title, {"overrides": [], "runs": left, "baselines": [], "stages": list(stages)}


def every_result(ledger: Ledger) -> list[Result]:
    """Every run with all of its stages, in the order in which they were recorded."""
    configs = {run.id: run.config for run in ledger.runs()}
    scores: dict[str, dict[tuple[str, str, str], tuple[float, int]]] = {}
    places: dict[tuple[str, str, str], tuple[str, str, str]] = {}  # each once: thousands of runs have the same
    for score in ledger.scores():
        place = score["stage"], score["task"], score["metric"]
        scores.setdefault(score["run_id"], {})[places.setdefault(place, place)] = score["value"], score["n"]
    metrics: dict[str, dict[tuple[str, str], str]] = {}
    for metric in ledger.metrics():
        metrics.setdefault(metric["run_id"], {})[metric["stage"], metric["name"]] = metric["value"]
    checks: dict[str, list[CheckRow]] = {}
    for check in ledger.failed_checks():
        checks.setdefault(check["run_id"], []).append(check)
    data: dict[str, dict[tuple[str, str], str]] = {}
    for file in ledger.outcomes_of(DataFileRow, configs):
        data.setdefault(file["run_id"], {})[file["stage"], file["file"]] = file["sha256"]
    hours: dict[str, dict[str, float]] = {}
    for each in ledger.gpu_hours():
        hours.setdefault(each["run_id"], {})[each["stage"]] = each["gpu_hours"]
    tries: dict[str, list[TryRow]] = {}
    for attempt in ledger.tries():
        tries.setdefault(attempt["run_id"], []).append(attempt)
    return [
        Result(
            run_id=(run_id := run["run_id"]),
            name=run["name"],
            seed=configs[run_id].seed,
            studies=tuple(run["studies"]),
            stages=run["stages"],
            scores=scores.get(run_id, {}),
            metrics=metrics.get(run_id, {}),
            failed_checks=tuple(checks.get(run_id, ())),
            hours=hours.get(run_id, {}),
            data=data.get(run_id, {}),
            tries=tuple(tries.get(run_id, ())),
        )
        for run in ledger.overview()
        if run["run_id"] in configs
    ]


def _families(
    results: Sequence[Result], configs: Mapping[str, RunConfig], parameters: Mapping[str, int], baselines: set[str]
) -> tuple[Family, ...]:
    """`baselines`: ids of the runs that the others are held against; of a family without one, the first variant is."""
    alike: dict[str, dict[str, list[Result]]] = {}  # family -> settings without the seed -> runs
    for result in results:
        config = configs[result.run_id]
        alike.setdefault(config.family, {}).setdefault(_without_seed(config), []).append(result)
    families = []
    for family, groups in alike.items():
        groups_of = [sorted(group, key=lambda run: run.seed) for group in groups.values()]
        first = next((group for group in groups_of if any(run.run_id in baselines for run in group)), groups_of[0])
        ordered = [first, *(group for group in groups_of if group is not first)]
        labels = _labels([(group[0].name, configs[group[0].run_id]) for group in ordered])
        sparse = any((ffn := _feed_forward(configs[group[0].run_id])) and ffn.whole for group in ordered)
        families.append(
            Family(
                family,
                tuple(
                    Variant(
                        key=group[0].run_id,
                        label=text,
                        family=family,
                        config=configs[group[0].run_id],
                        parameters=parameters[group[0].run_id],
                        is_baseline=group is first,
                        runs=tuple(group),
                        among_sparse=sparse,
                    )
                    for group, text in zip(ordered, labels, strict=True)
                ),
            )
        )
    return tuple(families)


def _feed_forward(config: RunConfig) -> FeedForwardKind | None:
    """None: its label names its modules."""
    return config.model.ffn if isinstance(config.model, Architecture) else None


def _without_seed(config: RunConfig) -> str:
    return config.model_copy(update={"seed": 0}).model_dump_json(exclude={"data": {"definition"}})


# -- labels -----------------------------------------------------------------------------------------------------------


def _labels(variants: Sequence[tuple[str, RunConfig]]) -> list[str]:
    """Return what sets each of a family's variants apart, from their runs' names and settings: as few parts of the name
    as will do, and, of those which differ in other settings only, these settings."""
    parts = [_parts(name, config) for name, config in variants]
    texts = [" ".join(filter(None, (part[index] for index in _telling(parts)))) or part[0] for part in parts]
    for text in {text for text in texts if texts.count(text) > 1}:
        same = [index for index, each in enumerate(texts) if each == text]
        keys = differing([variants[index][1] for index in same])
        for index in same:
            texts[index] = " ".join([text, *differences(variants[index][1], keys)])
    return texts


def _parts(name: str, config: RunConfig) -> tuple[str, ...]:
    """A run's name, taken apart, the most telling first: the model's label and its name in the manifest, how long it
    was trained, its sizes."""
    model = config.model
    if isinstance(model, Program):
        return (model.label,)
    base, _, sizes = name.partition(f"-{model.label}-")
    width = f"{model.intermediate_size}I"
    trained = sizes.partition(f"-{width}")[2].removesuffix(f"-s{config.seed}").removeprefix("-")
    trained = re.sub(r"-(?=[\w.]+=)", " ", trained)  # settings, as other labels have them
    return model.label, base, trained, f"{model.layers}L", f"{model.hidden_size}C", f"{model.heads}H", width


def _telling(parts: Sequence[tuple[str, ...]]) -> tuple[int, ...]:
    """Places of the fewest parts that tell all apart, or else of all that differ; the first one if none does."""
    differing = [index for index in range(len(parts[0])) if len({part[index] for part in parts}) > 1]
    for size in range(1, len(differing)):
        for chosen in itertools.combinations(differing, size):
            if len({tuple(part[index] for index in chosen) for part in parts}) == len(parts):
                return chosen
    return tuple(differing) or (0,)
