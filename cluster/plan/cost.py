"""What a run needs: memory, FLOPs, hours. What was measured if it was, closed forms otherwise. Pure.

A figure says what it is based on. Measured is what the same architecture did on the same site
(`cluster/reconcile/measure.py` reads it from the ledger); the speed of a stage may be that of other models, the memory
may not.

FLOPs of a forward pass are those of `architecture.flops_per_token`, and with the backward pass three times as many
(Kaplan et al. 2020, section 2.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from cluster.plan.memo import PerSettings
from tiny_transformers.settings.architecture import FAMILIES, Brainformer, flops_per_token, num_parameters
from tiny_transformers.settings.config import HEAD_ROWS, RunConfig, blimp_files, superglue_tasks, tokens_at_once

# Mean sizes of the data, as counted in the real files (docs/data.md); the builtin data is smaller.
STORY_TOKENS = {"files": 224, "builtin": 45}
LONGEST_STORY = {"files": 512, "builtin": 64}  # tokens, about, before data.max_length cuts it
VALIDATION_STORIES = {"files": 21_990, "builtin": 300}
SENTENCE_TOKENS = 12
DISTINCT_PREFIXES = 0.6  # of BLiMP's tokens; a decoder computes a beginning that sentences share once
TASK_PAIRS = {"files": 63_280 / 17, "builtin": 200}  # pairs of a BLiMP task, on average
FULL_PAIRS = 1_000  # of a paradigm of the full BLiMP
TRAIN_ROWS = {"files": 40_000, "builtin": 600}  # of a fine-tuning task, on average
VALIDATION_ROWS = {"files": 2_500, "builtin": 150}
ROW_TOKENS = {"files": 60, "builtin": 20}
PASSAGES = {"files": 5_153, "builtin": 200}  # of LAMBADA
PASSAGE_TOKENS = {"files": 94, "builtin": 40}
TARGET_TOKENS = 2.0  # of the last word
# Of a stream: training, validation and test, in the published split (tiny_transformers/data/characters.py).
CHARACTERS = {"files": (90_000_000, 5_000_000, 5_000_000), "builtin": (1_000_000, 55_000, 55_000)}
STAGE_OVERHEAD = 20.0  # seconds of a stage that do not shrink: imports, loading, saving

PROCESS_MEMORY = 1_500  # MB on the host of a process that uses a GPU: Python, torch, CUDA's libraries
CPU_PROCESS_MEMORY = 650  # MB of a process without CUDA: 378 measured before it has a model, and its kernels' buffers
CUDA_CONTEXT = 600  # MB on the GPU for every process
BYTES_PER_PARAMETER = 16  # float32 weight, gradient and Adam's two moments
MEMORY_MARGIN = 1.15  # planned / measured: the allocator's gaps, and longer stories than were met
DECISIVE = {"micro_batch_tokens", "precision", "optimizer", "batch_size", "block_size", "batch_split"}  # of training

# The studies' own way to pretrain: Hugging Face Trainer, float32, one run on one A100, every story padded to max_length
# and the head at every position. Published for the base models, `GPTNeo()` and `Roberta()`: one epoch of TinyStories in
# 1:42:26 and 1:45:56 (the activation study, Table 4).
STUDIES_SECONDS = {"gpt_neo": 6_146.0, "roberta": 6_356.0}
STUDIES_TOKENS = 2_119_719 * 512  # padded


@dataclass(frozen=True)
class Estimate:
    """A number and where it is from."""

    value: float
    basis: str  # "measured (3)", "site profile", ...


@dataclass(frozen=True)
class Measured:
    """What is known of a site: the speed of its packs in FLOP/s, and the peak memory of architectures in MB.

    A peak is what `device.peak_memory_mb` reports: on a GPU what torch allocated there, on a CPU the whole process.
    Of pretraining it may be known how much faster several runs at a time are together than one alone, the gain; the
    other figures of pretraining are then those of one run alone."""

    profile: float  # FLOP/s, of the site's YAML
    by_stage: Mapping[str, Estimate] = field(default_factory=dict)
    by_architecture: Mapping[tuple[str, str], Estimate] = field(default_factory=dict)  # (architecture key, stage)
    peaks: Mapping[str, Estimate] = field(default_factory=dict)  # architecture key -> MB
    # Architecture key -> pretrainings at a time -> FLOP/s of them all; and the same, in that of one alone.
    together: Mapping[str, Mapping[int, Estimate]] = field(default_factory=dict)
    gains: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    _keys: PerSettings[str] = field(init=False, repr=False, compare=False)
    _seconds: PerSettings[float] = field(init=False, repr=False, compare=False)
    _memory: PerSettings[int] = field(init=False, repr=False, compare=False)
    _curves: PerSettings[dict[int, float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keys", PerSettings(architecture_key))
        object.__setattr__(self, "_seconds", PerSettings(lambda config, *more: _estimate(self, config, *more)))
        object.__setattr__(self, "_memory", PerSettings(memory))
        object.__setattr__(self, "_curves", PerSettings(lambda config: _curve(self, self._keys.of(config))))

    def speed(self, config: RunConfig, stage: str, slots: int = 1) -> Estimate:
        """FLOP/s of a whole pack with so many runs at a time: of this architecture's stage, of the stage with other
        models, of the profile."""
        key = self._keys.of(config) if self.by_architecture or self.together else ""
        if stage == "pretrain" and (exact := self.together.get(key, {}).get(slots)):
            return exact
        known = self.by_architecture.get((key, stage)) or self.by_stage.get(stage)
        if known is None:
            return Estimate(self.profile, "site profile")
        if stage != "pretrain" or slots == 1 or not self.gains:
            return known
        return Estimate(known.value * self.gain(config, slots), f"{known.basis}, {slots} at a time")

    def curve(self, config: RunConfig) -> Mapping[int, float]:
        """Pretrainings at a time -> their gain, for each number that was measured here: of this architecture, else of
        the others."""
        return self._curves.of(config)

    def gain(self, config: RunConfig, slots: int) -> float:
        """As measured for so many runs, or for the next fewer; 1 if that was never measured."""
        curve = self.curve(config)
        return curve[max(fewer)] if (fewer := [number for number in curve if number <= slots]) else 1.0

    def peak(self, config: RunConfig) -> Estimate | None:
        """Measured MB; None if this architecture was never measured here."""
        return self.peaks.get(self._keys.of(config)) if self.peaks else None

    def closed_form(self, config: RunConfig, gpu: bool) -> int:
        """`memory`, computed once for settings that differ in their seed only."""
        return self._memory.of(config, gpu)

    def seconds(self, config: RunConfig, *stages: str, slots: int = 1) -> float:
        """Of these stages of a run that has the speed of the pack, with so many runs at a time, for itself: runs that
        share a pack share it, so that what they take together is the sum."""
        return self._seconds.of(config, stages, slots)


def architecture_key(config: RunConfig) -> str:
    """12 hexadecimal digits for the settings that decide speed and memory: the model, the length of its texts (given
    by the kind of data and where it is cut) and how many tokens are on the device at once."""
    decisive = {
        "model": config.model.model_dump(mode="json"),
        "source": config.data.source,
        "max_length": config.data.max_length,
        "train": config.train.model_dump(mode="json", include=DECISIVE),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def memory(config: RunConfig, gpu: bool = True) -> int:
    """MB that training takes at its peak on the device: weights, optimizer, one micro-batch's activations."""
    model = config.model
    tokens = tokens_at_once(config, gpu=gpu)
    # The head is applied where there is a label: everywhere in a decoder, at the masks in an encoder.
    labels = tokens * (1 if model.causal else config.train.mlm_probability)
    logits = 2 * min(labels, HEAD_ROWS["cuda" if gpu else "cpu"]) * model.vocab_size  # and their gradient
    if config.data.is_stream:
        tokens = min(tokens, config.train.batch_size * config.train.block_size // config.train.batch_split)
    layers = tokens * model.kept_per_token(_keys(config))
    carried = config.train.batch_size * model.carried_per_row(_keys(config))
    return round((BYTES_PER_PARAMETER * num_parameters(model) + 4 * (logits + layers + carried)) / 1e6)


def _keys(config: RunConfig) -> float:
    """That a token meets, at most: of the longest texts; of a stream, as many as the model looks back."""
    if isinstance(config.model, Brainformer):
        return config.model.expected_keys
    return min(config.data.max_length, LONGEST_STORY[config.data.source])


def _forward(config: RunConfig) -> float:
    """FLOPs of one token. In a stream all see as far as their heads do, so that what scores take is known.

    As in training: on a GPU a controller's evaluation goes through all units, too, where tokens are many."""
    weights = flops_per_token(config.model, training=True)
    return weights + config.model.score_flops(_keys(config)) if config.data.is_stream else weights


def training_flops(config: RunConfig) -> float:
    """Of one token of pretraining, forward and backward."""
    return 3.0 * _forward(config)


def studies_seconds(config: RunConfig) -> float | None:
    """What the studies' own way would take on one A100 to pretrain this model on as many stories: the published time of
    the family's base model, scaled by padded tokens and by FLOPs of a token. A budget of hours takes the same hours.
    None: no time was published for the family."""
    family = config.model.family
    if family not in STUDIES_SECONDS:
        return None
    if seconds := budgeted_seconds(config):
        return seconds
    tokens = _tokens(config) / STORY_TOKENS[config.data.source] * config.data.max_length
    base = 3.0 * flops_per_token(FAMILIES[family](), training=True)
    return STUDIES_SECONDS[family] * tokens * training_flops(config) / (STUDIES_TOKENS * base)


def budgeted_seconds(config: RunConfig) -> float:
    """That pretraining's steps take whatever the speed is; 0 without a budget of hours."""
    budget = config.train.budget
    return 3600 * budget.hours if budget and budget.hours else 0.0


def _tokens(config: RunConfig) -> float:
    """That pretraining goes through; 0 with a budget of hours, which leaves that to the speed."""
    train = config.train
    if train.max_steps is not None:
        if config.data.is_stream:
            return train.max_steps * train.batch_size * train.block_size
        return train.max_steps * train.stories_per_step * STORY_TOKENS[config.data.source]
    return float((train.budget and train.budget.tokens) or 0)


def flops(config: RunConfig, stage: str) -> float:
    """FLOPs of one stage, from the settings and the usual size of the data; without the steps that a budget of hours
    pays for."""
    if stage == "add_tokenizer":
        return 0.0
    forward = _forward(config)
    source, evaluation = config.data.source, config.evaluation

    def limited(rows: float, limit: int | None = evaluation.limit) -> float:
        return min(rows, limit or rows)

    if stage == "pretrain":
        train = config.train
        return forward * (3.0 * _tokens(config) + train.evaluations * _validation_tokens(config))
    if stage == "blimp":
        full = evaluation.blimp.data == "full"
        pairs = FULL_PAIRS if full else TASK_PAIRS[source]
        sentences = 2 * sum(limited(pairs) for _ in blimp_files(config.data, evaluation.blimp.data))
        if config.model.causal:
            return forward * sentences * SENTENCE_TOKENS * DISTINCT_PREFIXES
        return _one_mask(config, SENTENCE_TOKENS) * sentences * SENTENCE_TOKENS
    if stage == "bpc":
        return forward * CHARACTERS[source][1 if evaluation.bpc.split == "validation" else 2]
    head = _head(config)
    if stage == "lambada":
        passages, length = limited(PASSAGES[source]), PASSAGE_TOKENS[source]
        if config.model.causal:
            return 1.0 * forward * passages * length
        whole = min(passages, evaluation.lambada.passages or passages) * length  # masks
        return _one_mask(config, length) * (passages * TARGET_TOKENS + whole)
    if stage == "speed":
        speed = evaluation.speed
        passes, rows = speed.warmup + speed.repetitions, sum(speed.batch_sizes)
        generated = speed.prompt_tokens + speed.new_tokens if config.model.causal else 0
        return passes * rows * ((forward - head) * speed.tokens + forward * generated)
    settings, tokens = evaluation.superglue, ROW_TOKENS[source]
    train_rows = limited(TRAIN_ROWS[source], evaluation.superglue_limit) * settings.epochs
    evaluations = 1 + train_rows / settings.batch_size / settings.eval_every
    trained = 3.0 * (forward - head) * train_rows * tokens
    evaluated = (forward - head) * evaluations * limited(VALIDATION_ROWS[source], evaluation.superglue_limit) * tokens
    return (trained + evaluated) * len(superglue_tasks(config)) * settings.seeds


def _validation_tokens(config: RunConfig) -> float:
    """Of one evaluation while a model is trained."""
    source, train = config.data.source, config.train
    if config.data.is_stream:
        return min(CHARACTERS[source][1], train.eval_characters or CHARACTERS[source][1])
    stories = VALIDATION_STORIES[source]
    return min(stories, train.eval_stories or stories) * STORY_TOKENS[source]


def _head(config: RunConfig) -> float:
    """FLOPs of the language model's head at one position."""
    return 2.0 * config.model.vocab_size * config.model.hidden_size


def _one_mask(config: RunConfig, length: int) -> float:
    """FLOPs of an encoder's answer for one masked token among so many: its last block, and its head, are at that token
    alone (tiny_transformers/evaluation/masked.py)."""
    forward, head, layers = flops_per_token(config.model, training=True), _head(config), config.model.layers
    return (forward - head) * ((layers - 1) * length + 1) / layers + head


def _estimate(measured: Measured, config: RunConfig, stages: tuple[str, ...], slots: int) -> float:
    budgeted = budgeted_seconds(config) if "pretrain" in stages else 0.0
    computed = (flops(config, stage) / measured.speed(config, stage, slots).value for stage in stages)
    return len(stages) * STAGE_OVERHEAD + budgeted + sum(computed)


def _curve(measured: Measured, key: str) -> dict[int, float]:
    own, every = measured.gains.get(key, {}), measured.gains.values()
    numbers = sorted({number for gains in every for number in gains})
    return {
        number: own.get(number) or median(gains[number] for gains in every if number in gains) for number in numbers
    }
