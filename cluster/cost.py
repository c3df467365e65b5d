"""What a run needs: memory, FLOPs, hours. Closed forms first, then what the ledger has measured. Pure.

FLOPs of a forward pass are those of `architecture.flops_per_token`, and with the backward pass three times as many
(Kaplan et al. 2020, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tiny_transformers.architecture import flops_per_token, num_layers, num_parameters, units_per_token
from tiny_transformers.config import RunConfig, blimp_files, superglue_tasks

# Mean sizes of the data, as counted in the real files (docs/data.md); the builtin data is smaller.
STORY_TOKENS = {"files": 224, "builtin": 45}
VALIDATION_STORIES = {"files": 21_990, "builtin": 300}
SENTENCE_TOKENS = 11
TASK_PAIRS = {"files": 63_280 / 17, "builtin": 200}  # pairs of a BLiMP task, on average
TRAIN_ROWS = {"files": 40_000, "builtin": 600}  # of a fine-tuning task, on average
VALIDATION_ROWS = {"files": 2_500, "builtin": 150}
ROW_TOKENS = {"files": 60, "builtin": 20}
STAGE_OVERHEAD = 20.0  # seconds of a stage that do not shrink: imports, loading, saving

PROCESS_MEMORY = 1_500  # MB on the host: Python, torch, transformers
CUDA_CONTEXT = 600  # MB on the GPU for every process
BYTES_PER_PARAMETER = 16  # float32 weight, gradient and Adam's two moments


@dataclass(frozen=True)
class Rates:
    """FLOP/s by stage, as measured on a site; a stage that was never measured goes at the site's profile rate."""

    profile: float
    measured: Mapping[str, float]

    def of(self, stage: str) -> float:
        return self.measured.get(stage, self.profile)


def memory(config: RunConfig) -> int:
    """MB that training takes at its peak on the device: weights, optimizer, one micro-batch's activations."""
    model = config.model
    tokens = config.train.micro_batch_tokens
    logits = 3 * tokens * model.vocab_size  # logits, log-softmax, their gradient
    layers = num_layers(model) * tokens * (16 * model.hidden_size + units_per_token(model))
    return round((BYTES_PER_PARAMETER * num_parameters(model) + 4 * (logits + layers)) / 1e6)


def flops(config: RunConfig, stage: str) -> float:
    """FLOPs of one stage, from the settings and the usual size of the data."""
    # As in training: on a GPU a controller's evaluation goes through all units, too, where tokens are many.
    forward = flops_per_token(config.model, training=True)
    source, evaluation = config.data.source, config.evaluation

    def limited(rows: float) -> float:
        return min(rows, evaluation.limit or rows)

    if stage == "pretrain":
        train = config.train
        tokens = train.max_steps * train.stories_per_step * STORY_TOKENS[source]
        validated = min(VALIDATION_STORIES[source], train.eval_stories or VALIDATION_STORIES[source])
        return 3.0 * forward * tokens + forward * train.evaluations * validated * STORY_TOKENS[source]
    if stage == "blimp":
        sentences = 2 * sum(limited(TASK_PAIRS[source]) for _ in blimp_files(config.data))
        masks = SENTENCE_TOKENS if config.model.family == "roberta" else 1  # pseudo-log-likelihood: one at a time
        return 1.0 * forward * sentences * SENTENCE_TOKENS * masks
    if stage == "superglue":
        settings, tokens = evaluation.superglue, ROW_TOKENS[source]
        head = 2 * config.model.vocab_size * config.model.hidden_size  # of the language model, which is not asked
        train_rows = limited(TRAIN_ROWS[source]) * settings.epochs
        evaluations = 1 + train_rows / settings.batch_size / settings.eval_every
        trained = 3.0 * (forward - head) * train_rows * tokens
        evaluated = (forward - head) * evaluations * limited(VALIDATION_ROWS[source]) * tokens
        return (trained + evaluated) * len(superglue_tasks(config))
    return 0.0


def seconds(config: RunConfig, stage: str, rates: Rates) -> float:
    return STAGE_OVERHEAD + flops(config, stage) / rates.of(stage)
