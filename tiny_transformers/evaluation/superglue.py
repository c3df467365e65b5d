"""(Super)GLUE as BabyLM 2023 runs it: fine-tune the pretrained model on each task, score it on validation.

The weights kept are those of the best evaluation on validation, the rows that are scored too, so the scores are
optimistic, as BabyLM's are (docs/evaluation.md). A task's result depends on the model, the data and the run's seed,
never on the tasks before it. What the rows of a task become is glue.py's."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from tiny_transformers import config, data, device, models
from tiny_transformers.evaluation import scoring
from tiny_transformers.evaluation.glue import TEMPLATES, Encoded, encode, majority_share, read_examples
from tiny_transformers.work import Check, CheckFailed, Interrupted, Outcome, Score, Work

MAX_GRAD_NORM = 1.0  # Hugging Face Trainer's default, which BabyLM leaves
SCORED_AS = {"validation": "{task}", "validation_matched": "{task}", "validation_mismatched": "{task}-mm"}

Labels = NDArray[np.int64]
Progress = Callable[[float, str], None]  # (share done 0..1, what is being done)


@dataclass
class TaskData:
    name: str
    train: Encoded
    validation: dict[str, Encoded]  # name of the score -> rows; the first selects the weights

    @property
    def num_labels(self) -> int:
        return TEMPLATES[self.name].num_labels


@dataclass
class Fit:
    """How a fine-tuning went."""

    steps: int = 0
    evaluations: int = 0
    best_step: int = 0
    best_value: float = -np.inf  # of the selection metric
    patience_used: int = 0  # evaluations in a row without an improvement of more than the threshold


def run(work: Work) -> Outcome:
    """Fine-tune and score every task of the data, starting each from `work.model_dir`.

    All files are read before the first step, so a bad row fails the stage at once."""
    tokenizer = AutoTokenizer.from_pretrained(work.model_dir)
    tasks = [_read_task(work, task, tokenizer) for task in config.superglue_tasks(work.config)]
    files = [file for task in tasks for file in config.superglue_files(task.name).values()]
    outcome, started = Outcome(data={file: data.fingerprint(work.root / file) for file in files}), time.monotonic()
    weights = [len(task.train.labels) for task in tasks]
    for index, task in enumerate(tasks):
        before, share = sum(weights[:index]) / sum(weights), weights[index] / sum(weights)
        _run_task(work, task, outcome, _part_of(work.progress, before, share))
    main = [score for score in outcome.scores if score.metric == "main"]
    outcome.scores.append(Score("average", "main", float(np.mean([s.value for s in main])), sum(s.n for s in main)))
    outcome.metrics |= {"seconds": time.monotonic() - started, "peak_memory_mb": device.peak_memory_mb()}
    print(f"average of {len(main)} scores: {outcome.scores[-1].value:.4f}")
    return outcome


def fine_tune(model: Any, task: TaskData, settings: config.Superglue, seed: int, report: Progress) -> Fit:
    """Train with AdamW and a linear decay to 0, as Hugging Face's Trainer; leave `model` at its best evaluation.

    Evaluates every `eval_every` steps and after the last. An evaluation improves if it exceeds the best one by more
    than `threshold`; `patience` without any in a row end the training. `report` may raise, to stop it."""
    selection = next(iter(task.validation.values()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    total = -(-len(task.train.labels) // settings.batch_size) * settings.epochs
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    torch.manual_seed(seed)  # dropout's
    fit, best_weights = Fit(), {}
    for rows in _training_batches(len(task.train.labels), settings, seed):
        loss = _step(model, task.train, rows, optimizer)
        decay.step()
        fit.steps += 1
        tick = partial(report, fit.steps / total, f"step {fit.steps} of at most {total}")
        tick()
        if fit.steps % settings.eval_every == 0 or fit.steps == total:
            value = selection_metric(selection.labels, predict(model, selection, tick), task.num_labels)
            print(
                f"{task.name} step {fit.steps} of at most {total}: loss {loss:.4f}, validation {value:.4f}", flush=True
            )
            if _note(fit, value, settings.threshold):
                best_weights = _copy_of(model)
        if fit.patience_used >= settings.patience:
            break
    model.load_state_dict(best_weights)
    return fit


def predict(model: Any, encoded: Encoded, tick: Callable[[], None] = lambda: None) -> Labels:
    """The likeliest label of each row. (N,) Calls `tick` before each batch.

    Raises CheckFailed where the model's answer is not a number."""
    predictions = np.zeros(len(encoded.labels), dtype=np.int64)
    with scoring.evaluating(model):
        for rows, _ in scoring.batches(encoded.lengths, scoring.budget(model)):
            tick()
            logits = _logits(model, encoded, rows)
            if not torch.isfinite(logits).all():
                raise CheckFailed("the fine-tuned model's logits are not finite: training has diverged")
            predictions[rows] = logits.argmax(-1).cpu().numpy()
    return predictions


def metrics(labels: Labels, predictions: Labels, num_labels: int) -> dict[str, float]:
    """Accuracy, and for two labels F1 of label 1 and Matthews' correlation, both 0 where they are undefined."""
    values = {"accuracy": float(accuracy_score(labels, predictions))}
    if num_labels == 2:
        values["f1"] = float(f1_score(labels, predictions, zero_division=0.0))
        values["mcc"] = float(matthews_corrcoef(labels, predictions)) if np.ptp(labels) else 0.0
    return values


def selection_metric(labels: Labels, predictions: Labels, num_labels: int) -> float:
    """What BabyLM selects weights by: F1 of two labels, else accuracy."""
    values = metrics(labels, predictions, num_labels)
    return values["f1"] if num_labels == 2 else values["accuracy"]


def main_score(task: str, values: dict[str, float]) -> float:
    """A task's one figure in the average."""
    if task == "cola":
        return values["mcc"]
    if task in ("mrpc", "qqp"):
        return (values["accuracy"] + values["f1"]) / 2
    if task == "multirc":
        return (values["f1"] + values["mcc"]) / 2
    return values["accuracy"]


def task_seed(seed: int, task: str) -> int:
    """The seed of one task's head, order and dropout; the same whichever tasks are run."""
    return int.from_bytes(hashlib.sha256(f"{seed} {task}".encode()).digest()[:4], "big")


def _read_task(work: Work, task: str, tokenizer: Any) -> TaskData:
    work.progress(0.0, f"reading {task}")
    settings = work.config.evaluation

    def read(file: str) -> Encoded:
        examples = read_examples(work.root / file, task, settings.limit)
        return encode(examples, tokenizer, settings.superglue.max_length)

    files = config.superglue_files(task)
    train = read(files.pop("train"))
    return TaskData(task, train, {SCORED_AS[split].format(task=task): read(file) for split, file in files.items()})


def _part_of(progress: Progress, before: float, share: float) -> Progress:
    return lambda fraction, text: progress(before + share * fraction, text)


def _run_task(work: Work, task: TaskData, outcome: Outcome, progress: Progress) -> None:
    def report(fraction: float, text: str) -> None:
        if work.should_stop():
            raise Interrupted
        progress(fraction, f"{task.name}: {text}")

    started, seed = time.monotonic(), task_seed(work.config.seed, task.name)
    print(
        f"{task.name}: {len(task.train.labels)} rows to train on, {task.train.truncated} of them truncated, seed {seed}"
    )
    model: Any = models.load_classifier(work.model_dir, task.num_labels, seed)
    model.to(device.pick_device())
    fit = fine_tune(model, task, work.config.evaluation.superglue, seed, report)
    for name, validation in task.validation.items():
        predictions = predict(model, validation, partial(report, 1.0, f"scoring {name}"))
        _record(outcome, name, validation.labels, predictions, task.num_labels)
    outcome.metrics |= {
        f"{task.name}.steps": fit.steps,
        f"{task.name}.evaluations": fit.evaluations,
        f"{task.name}.best_step": fit.best_step,
        f"{task.name}.train_rows": len(task.train.labels),
        f"{task.name}.truncated_rows": task.train.truncated,
        f"{task.name}.seconds": time.monotonic() - started,
    }


def _record(outcome: Outcome, name: str, labels: Labels, predictions: Labels, num_labels: int) -> None:
    values = metrics(labels, predictions, num_labels)
    values["majority_accuracy"] = majority_share(labels)
    values["main"] = main_score(name, values)
    most = majority_share(predictions)
    outcome.scores += [Score(name, metric, value, len(labels)) for metric, value in values.items()]
    outcome.checks.append(Check(f"{name}.majority_class", passed=most < 1, value=most, blocking=False))
    print(f"{name}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in values.items()))
    if most == 1:
        print(f"{name}: the model answers {predictions[0]} to all {len(labels)} rows")


def _training_batches(rows: int, settings: config.Superglue, seed: int) -> Iterator[NDArray[np.int64]]:
    """Batches of row numbers, shuffled anew each epoch; the last of an epoch may be smaller."""
    order = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        shuffled = order.permutation(rows)
        for start in range(0, rows, settings.batch_size):
            yield shuffled[start : start + settings.batch_size]


def _step(model: Any, train: Encoded, rows: NDArray[np.int64], optimizer: torch.optim.Optimizer) -> float:
    """One optimizer step on the mean loss of `rows`; returns that loss.

    The rows go through the model in pieces of similar length, which saves padding and leaves the gradient as it is."""
    model.train()
    total = 0.0
    for piece, _ in scoring.batches(train.lengths[rows], scoring.budget(model)):
        labels = torch.from_numpy(train.labels[rows[piece]]).to(model.device)
        loss = F.cross_entropy(_logits(model, train, rows[piece]), labels, reduction="sum") / len(rows)
        (loss + len(piece) / len(rows) * model.auxiliary_loss()).backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return total


def _logits(model: Any, encoded: Encoded, rows: NDArray[np.int64]) -> Tensor:
    ids, mask = scoring.pad([encoded.input_ids[row] for row in rows], model)
    return model(input_ids=ids, attention_mask=mask).logits  # (B, labels)


def _note(fit: Fit, value: float, threshold: float) -> bool:
    """Count an evaluation as Hugging Face's EarlyStoppingCallback does; True if it is the best so far."""
    fit.evaluations += 1
    fit.patience_used = 0 if value > fit.best_value + threshold else fit.patience_used + 1
    if value <= fit.best_value:
        return False
    fit.best_value, fit.best_step = value, fit.steps
    return True


def _copy_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
