"""Estimate the memory, FLOPs and hours that a run needs: as measured, or else by closed forms. Pure.

A figure says what it is based on. Measured is what the same architecture did on the same site
(`cluster/reconcile/measure.py` reads it from the ledger); the speed of a stage may be that of other models, the memory
may not. Where nothing was measured a speed is the user's own figure, or else a share of the device's peak, the
`utilisation` that is stated for each kind of model: an estimate, for which three times the time is asked. The FLOPs of
a stage are said where the stage is (tiny_transformers/settings/stage/)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from statistics import median
from typing import Any, Literal, NamedTuple

from cluster.plan.memo import PerSettings
from cluster.sites.profiles import Precision, Site
from tiny_transformers.settings.architecture import FAMILIES, flops_per_token, num_parameters
from tiny_transformers.settings.config import HEAD_ROWS, RunConfig, tokens_at_once
from tiny_transformers.settings.costs import keys_of_a_token, step_flops, story_tokens, training_tokens
from tiny_transformers.settings.pruning import matrices
from tiny_transformers.settings.sections import by_sections
from tiny_transformers.settings.stage.kind import UNKNOWN, Sizes
from tiny_transformers.settings.stages import STAGES

# Seconds of a stage that go by the CPUs: imports, loading, saving; runs side by side do not wait.
STAGE_OVERHEAD = 20.0  # with a GPU, until it was measured: CUDA, kernels
CPU_STAGE_OVERHEAD = 5.0
ASSUMED = 1e13  # FLOP/s of a GPU of which neither `flops` nor `peak_flops` is said,
ASSUMED_OF_A_CORE = 2.5e10  # and of a CPU core: what training reaches on one of 2021, as in cluster/sites/local.yaml
TIME_MARGIN = 1.5  # asked for / measured
ESTIMATE_MARGIN = 3.0  # asked for / estimated

PROCESS_MEMORY = 1_500  # MB on the host of a process that uses a GPU: Python, torch, CUDA's libraries
CPU_PROCESS_MEMORY = 650  # MB of a process without CUDA: 378 measured before it has a model, and its kernels' buffers
CUDA_CONTEXT = 600  # MB on the GPU for every process
BYTES_PER_PARAMETER = 16  # float32 weight, gradient and Adam's two moments
MEMORY_MARGIN = 1.15  # planned / measured: the allocator's gaps, and longer stories than were met
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "tf32", "float32")  # the fastest first
DECISIVE = {  # of training
    "micro_batch_tokens", "precision", "packed", "optimizer", "batch_size", "block_size", "batch_split",
}  # fmt: skip

# The studies' own way to pretrain: Hugging Face Trainer, float32, one run on one A100, every story padded to max_length
# and the head at every position. Published for the base models, `GPTNeo()` and `Roberta()`: one epoch of TinyStories in
# 1:42:26 and 1:45:56 (the activation study, Table 4).
STUDIES_SECONDS = {"gpt_neo": 6_146.0, "roberta": 6_356.0}
STUDIES_TOKENS = 2_119_719 * 512  # padded
_ENCODER = json.JSONEncoder(sort_keys=True)


@dataclass(frozen=True)
class Estimate:
    """A number and where it is from."""

    value: float
    basis: str  # "measured (3)", "site profile", ...


@dataclass(frozen=True)
class Measured:
    """The measurements of a site: the speed of its packs in FLOP/s, and the peak memory of architectures in MB.

    A peak is what `device.peak_memory_mb` reports: on a GPU what torch allocated there, on a CPU the whole process.
    Of pretraining it may be known how much faster several runs at a time are together than one alone, the gain; the
    other figures of pretraining are then those of one run alone."""

    profile: float | None  # FLOP/s, of the site's YAML
    by_stage: Mapping[str, Estimate] = field(default_factory=dict)
    by_architecture: Mapping[tuple[str, str], Estimate] = field(default_factory=dict)  # (architecture key, stage)
    peaks: Mapping[str, Estimate] = field(default_factory=dict)  # architecture key -> MB
    # Both have shapes by `shape_key`, too.
    # Architecture key -> pretrainings at a time -> FLOP/s of them all; and the same, in that of one alone.
    together: Mapping[str, Mapping[int, Estimate]] = field(default_factory=dict)
    gains: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    device: Mapping[Precision, float] = field(default_factory=dict)  # precision -> peak FLOP/s, of the site's YAML
    cores: int = 0  # of a pack on a site without GPUs
    overheads: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds that the shortest one took
    sizes: Sizes = field(default_factory=lambda: UNKNOWN)  # of the files that are there: they tell the work of a stage
    _of_device: Callable[[str, float], Estimate] = field(init=False, repr=False, compare=False)
    _keys: PerSettings[str] = field(init=False, repr=False, compare=False)
    _shapes: PerSettings[str] = field(init=False, repr=False, compare=False)
    of_stages: Callable[[tuple[str, ...]], list[_OfStage]] = field(init=False, repr=False, compare=False)
    times: PerSettings[Times] = field(init=False, repr=False, compare=False)
    _memory: PerSettings[int] = field(init=False, repr=False, compare=False)
    _curves: PerSettings[dict[int, float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_of_device", cache(partial(_of_device, self.device)))
        object.__setattr__(self, "_keys", PerSettings(architecture_key))
        object.__setattr__(self, "_shapes", PerSettings(shape_key))
        object.__setattr__(self, "of_stages", cache(partial(_of_stages, self)))
        object.__setattr__(self, "times", PerSettings(lambda config, *stages: _times(self, config, stages)))
        object.__setattr__(self, "_memory", PerSettings(memory))
        object.__setattr__(self, "_curves", PerSettings(lambda config: _curve(self, self._keys.of(config))))

    @classmethod
    def nothing(cls, site: Site) -> Measured:
        """Return what is known of a site where nothing was measured."""
        return cls(site.flops, device=site.peak_flops, cores=0 if site.gpus else site.cpus)

    def speed(self, config: RunConfig, stage: str, slots: int = 1) -> Estimate:
        """FLOP/s of a whole pack with so many runs at a time: of this architecture's stage, of the stage with other
        models, of the profile, of the device."""
        if self.is_empty:
            return self.estimated(config, stage)
        key = self._keys.of(config) if self.by_architecture or self.together else ""
        if stage == "pretrain" and (exact := self.together.get(key, {}).get(slots)):
            return exact
        known = self.by_architecture.get((key, stage)) or self._of_shape(config, stage) or self.by_stage.get(stage)
        if known is None:
            return self.estimated(config, stage)
        if stage != "pretrain" or slots == 1 or not self.gains:
            return known
        return Estimate(known.value * self.gain(config, slots), f"{known.basis}, {slots} at a time")

    def _of_shape(self, config: RunConfig, stage: str) -> Estimate | None:
        return self.by_architecture.get((self._shapes.of(config), stage)) if self.by_architecture else None

    @cached_property
    def is_empty(self) -> bool:
        """Whether no speed was measured."""
        return not (self.by_stage or self.by_architecture or self.together)

    @property
    def usual_overhead(self) -> float:
        """Seconds that a stage takes whatever its work is, where none has told."""
        return CPU_STAGE_OVERHEAD if self.cores else STAGE_OVERHEAD

    def overhead(self, stage: str) -> float:
        """The same, but no more than the shortest one took."""
        shortest = self.overheads.get(stage)
        return self.usual_overhead if shortest is None else min(self.usual_overhead, shortest)

    def work(self, config: RunConfig, stage: str) -> float:
        """FLOPs of a stage."""
        return flops(config, stage, self.sizes)

    def is_measured(self, config: RunConfig, stage: str) -> bool:
        """Whether the stage's speed is that of something that ran here."""
        if stage in self.by_stage:
            return True
        key = self._keys.of(config) if self.by_architecture or self.together else ""
        return (key, stage) in self.by_architecture or (stage == "pretrain" and 1 in self.together.get(key, {}))

    def estimated(self, config: RunConfig, stage: str) -> Estimate:
        kind = STAGES[stage]
        if own := kind.own:
            return Estimate(1.0, "its `minutes`" if own.minutes else "an hour, as it has no `minutes`")
        if self.profile:
            return Estimate(self.profile, "site profile")
        if not self.device and self.cores:
            return Estimate(self.cores * ASSUMED_OF_A_CORE, "assumed of its CPUs: the site says no `flops`")
        if not self.device:
            return Estimate(ASSUMED, "assumed: the site says neither `flops` nor `peak_flops`")
        asked = config.train.precision if kind.trains else config.evaluation.precision
        return self._of_device(asked, config.model.utilisation)

    def curve(self, config: RunConfig) -> Mapping[int, float]:
        """Pretrainings at a time -> their gain, for each number that was measured here: of this architecture, else of
        the others."""
        return self._curves.of(config)

    def gain(self, config: RunConfig, slots: int) -> float:
        """As measured for so many runs; for a number between two that were measured, between theirs; 1 if that was
        never measured."""
        curve = self.curve(config)
        fewer, more = [n for n in curve if n <= slots], [n for n in curve if n > slots]
        if not fewer:
            return 1.0
        low = max(fewer)
        high = min(more, default=low)
        if low in (slots, high):
            return curve[low]
        return curve[low] + (curve[high] - curve[low]) * (slots - low) / (high - low)

    def peak(self, config: RunConfig) -> Estimate | None:
        """Measured MB; None if neither this architecture nor one of its shape was ever measured here."""
        if not self.peaks:
            return None
        return self.peaks.get(self._keys.of(config)) or self.peaks.get(self._shapes.of(config))

    def closed_form(self, config: RunConfig, gpu: bool) -> int:
        """`memory`, computed once for settings that differ in their seed only."""
        return self._memory.of(config, gpu)

    def seconds(self, config: RunConfig, *stages: str, slots: int = 1) -> float:
        """Return the seconds of these stages of a run that has the speed of the pack, with so many runs at a time, for
        itself: runs that share a pack share it, so that what they take together is the sum."""
        return self._together(config, self.times.of(config, *stages), slots)

    def of_each(self, config: RunConfig, stages: tuple[str, ...], slots: int) -> list[float]:
        """Return `seconds` of each of these stages, which are not kept."""
        return [self._together(config, _times(self, config, (stage,)), slots) for stage in stages]

    def _together(self, config: RunConfig, times: Times, slots: int) -> float:
        return times.started / slots + times.steady + self._pretraining(config, times, slots)

    def shares(self, config: RunConfig, *stages: str, most: int) -> tuple[float, ...]:
        """`seconds`, with 1, 2, 3 ... and at most so many runs at a time."""
        times, numbers = self.times.of(config, *stages), range(1, most + 1)
        if times.pretraining and (self.gains or self.together):
            return tuple(self.seconds(config, *stages, slots=number) for number in numbers)
        started, rest = times.started, times.steady + times.pretraining
        return tuple([started / number + rest for number in numbers])

    def _pretraining(self, config: RunConfig, times: Times, slots: int) -> float:
        if slots == 1 or not times.pretraining or not (self.gains or self.together):
            return times.pretraining
        alone, together = (self.speed(config, "pretrain", number).value for number in (1, slots))
        return times.pretraining * alone / together


class Times(NamedTuple):
    """The seconds of a run's stages with one run at a time."""

    started: float  # that pass whatever else is at work
    pretraining: float  # that are fewer for each of several runs at a time, as far as that was measured
    steady: float  # all others
    estimated: float  # of these, those at a speed that was not measured
    of_stages: tuple[float, ...]  # of all of them, each stage's

    @property
    def whole(self) -> float:
        return self.started + self.steady + self.pretraining

    @property
    def margin(self) -> float:
        """How much more time is to be asked for."""
        whole = self.whole
        return TIME_MARGIN + (ESTIMATE_MARGIN - TIME_MARGIN) * self.estimated / whole if whole else TIME_MARGIN


def _of_device(device: Mapping[Precision, float], asked: Precision | Literal["auto"], share: float) -> Estimate:
    order = PRECISIONS if asked == "auto" else PRECISIONS[PRECISIONS.index(asked) :]
    precision = next((each for each in order if each in device), min(device, key=device.__getitem__))
    return Estimate(share * device[precision], f"estimated, {share:.0%} of the peak in {precision}")


def architecture_key(config: RunConfig) -> str:
    """12 hexadecimal digits for the settings that decide speed and memory: the model, the length of its texts (given
    by the kind of data and where it is cut) and how many tokens are on the device at once."""
    return _digest(config, set())


def _digest(config: RunConfig, left_out: set[str]) -> str:
    decisive = {"model": config.model.model_dump(mode="json", exclude=left_out), **_decisive_beside(config)}
    if config.teacher:
        decisive["teacher"] = config.teacher.model.model_dump(mode="json", exclude=left_out)
    return hashlib.sha256(_ENCODER.encode(decisive).encode()).hexdigest()[:12]


@by_sections("data", "train")
def _decisive_beside(config: RunConfig) -> dict[str, Any]:
    data, train = config.data, config.train.model_dump(mode="json", include=DECISIVE)
    return {"source": data.source, "max_length": data.max_length, "train": train}


def shape_key(config: RunConfig) -> str:
    """The same without the activation: models that differ in it alone are taken to be as fast and as large."""
    return _digest(config, {"activation"})


def memory(config: RunConfig, gpu: bool = True) -> int:
    """MB that training takes at its peak on the device: weights, optimizer, one micro-batch's activations."""
    model, keys = config.model, keys_of_a_token(config)
    tokens = tokens_at_once(config, gpu=gpu)
    # The head is applied where there is a label: everywhere in a decoder, at the masks in an encoder.
    labels = tokens * (1 if model.causal else config.train.mlm_probability)
    logits = 2 * min(labels, HEAD_ROWS["cuda" if gpu else "cpu"]) * model.vocab_size  # and their gradient
    if config.data.is_stream:
        tokens = min(tokens, config.train.batch_size * config.train.block_size // config.train.batch_split)
    layers = tokens * model.kept_per_token(keys)
    carried = config.train.batch_size * model.carried_per_row(keys)
    taught = 0.0
    if config.teacher:  # its weights, and of its pass, which keeps nothing for a backward one, about a layer at once
        teacher = config.teacher.model
        of_a_layer = tokens * teacher.kept_per_token(keys) / teacher.layers
        taught = num_parameters(teacher) + labels * teacher.hidden_size + max(0.0, of_a_layer - layers)
    masks = sum(matrices(model)) if config.train.pruning else 0
    kept = masks + logits + layers + carried + taught
    return round((BYTES_PER_PARAMETER * config.parameters + 4 * kept) / 1e6)


def training_flops(config: RunConfig) -> float:
    """Return the FLOPs of one token of pretraining, forward and backward."""
    return step_flops(config)


def studies_seconds(config: RunConfig) -> float | None:
    """Return the seconds that the studies' own way would take on one A100 to pretrain this model on as many stories:
    the published time of the family's base model, scaled by padded tokens and by FLOPs of a token. A budget of hours
    takes the same hours. None: no time was published for the family."""
    family = config.model.family
    if family not in STUDIES_SECONDS:
        return None
    if seconds := budgeted_seconds(config):
        return seconds
    tokens = training_tokens(config) / story_tokens(config) * config.data.max_length
    return STUDIES_SECONDS[family] * tokens * training_flops(config) / (STUDIES_TOKENS * _base_flops(family))


@cache
def _base_flops(family: str) -> float:
    """FLOPs of training one token, of a family's base model."""
    return 3.0 * flops_per_token(FAMILIES[family](), training=True)


def budgeted_seconds(config: RunConfig) -> float:
    """That pretraining's steps take whatever the speed is; 0 without a budget of hours."""
    budget = config.train.budget
    return 3600 * budget.hours if budget and budget.hours else 0.0


def flops(config: RunConfig, stage: str, sizes: Sizes = UNKNOWN) -> float:
    """FLOPs of one stage, from the settings and the size of the data, which is the usual one where its files are not
    there; without the steps that a budget of hours pays for."""
    return STAGES[stage].work(config, sizes)


class _OfStage(NamedTuple):
    """What the time of a stage goes by, whatever the run is."""

    name: str
    work: Callable[[RunConfig, Sizes], float]
    overhead: float
    shares: bool  # the device
    is_told: bool  # its time, by the user


def _of_stages(measured: Measured, stages: tuple[str, ...]) -> list[_OfStage]:
    kinds = [STAGES[stage] for stage in stages]
    return [
        _OfStage(
            kind.name, kind.work, measured.overhead(kind.name), shares_device(kind.name),
            bool(kind.own and kind.own.minutes),
        )
        for kind in kinds
    ]  # fmt: skip


def _times(measured: Measured, config: RunConfig, stages: tuple[str, ...]) -> Times:
    started = pretraining = steady = estimated = 0.0
    of_stages: list[float] = []
    for stage, work_of, overhead, shares, is_told in measured.of_stages(stages):
        computed = budgeted = 0.0
        if work := work_of(config, measured.sizes):
            computed = work / measured.speed(config, stage).value
            if not (is_told or measured.is_measured(config, stage)):
                estimated += computed
        if stage == "pretrain":
            budgeted = budgeted_seconds(config)
            pretraining = computed
        elif shares:
            steady += computed
        else:
            started += computed
        started += overhead
        steady += budgeted
        of_stages.append(overhead + computed + budgeted)
    return Times(started, pretraining, steady, estimated, tuple(of_stages))


def shares_device(stage: str) -> bool:
    """Whether it takes longer beside others: a user's stage may not compute on the device at all."""
    own = STAGES[stage].own
    return own is None or own.gpu


def own_memory(stages: Iterable[str]) -> int:
    """MB that the most demanding of these takes, as the user says of stages of their own; 0 if nothing is said."""
    return max((own.memory or 0 for stage in stages if (own := STAGES[stage].own)), default=0)


def _curve(measured: Measured, key: str) -> dict[int, float]:
    own, every = measured.gains.get(key, {}), measured.gains.values()
    numbers = sorted({number for gains in every for number in gains})
    return {
        number: own.get(number) or median(gains[number] for gains in every if number in gains) for number in numbers
    }
