"""Fine-tune a classifier, and let it answer.

The training is that of Hugging Face's Trainer: fed the same batches it arrives at the same weights. What is left out
is what changes nothing: padding, by cutting a batch into pieces of similar length, and in the last block all positions
but the one that the head reads. Knows no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_transformers.common.work import CheckFailed
from tiny_transformers.evaluation import scoring
from tiny_transformers.evaluation.glue import Encoded, TaskData
from tiny_transformers.evaluation.glue_metrics import Labels, selection_metric
from tiny_transformers.layers import attention
from tiny_transformers.layers.layer import PerToken
from tiny_transformers.layers.noise import set_seed
from tiny_transformers.settings.stage.superglue import Superglue
from tiny_transformers.training import device, losses

MAX_GRAD_NORM = 1.0  # Hugging Face Trainer's default, which BabyLM leaves

NO_NUMBER = -1  # in the place of a label

Report = Callable[[float, str], None]  # (share done 0..1, what is being done)


@dataclass
class Fit:
    """How a fine-tuning went."""

    steps: int = 0
    evaluations: int = 0
    best_step: int = 0
    best_value: float = -np.inf  # of the selection metric
    patience_used: int = 0  # evaluations in a row without an improvement of more than the threshold


def fine_tune(model: Any, task: TaskData, settings: Superglue, seed: int, report: Report) -> Fit:
    """Train with AdamW and a linear decay to 0, as Hugging Face's Trainer; leave `model` at its best evaluation.

    Evaluates on `task.selection` every `eval_every` steps and after the last. An evaluation improves if it exceeds the
    best one by more than `threshold`; `patience` without any in a row end the training. `report` may raise, to stop
    it. Raises CheckFailed where the training diverged."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
    total = -(-len(task.train.labels) // settings.batch_size) * settings.epochs
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    set_seed(seed)  # dropout's
    fit, best_weights = Fit(), {}
    for rows in training_batches(len(task.train.labels), settings, seed):
        loss = step(model, task.train, rows, optimizer, settings.precision)
        decay.step()
        fit.steps += 1
        tick = partial(report, fit.steps / total, f"step {fit.steps} of at most {total}")
        tick()
        if fit.steps % settings.eval_every == 0 or fit.steps == total:
            answers = predict(model, task.selection, tick, settings.precision)
            value = selection_metric(task.selection.labels, answers, task.num_labels)
            print(
                f"{task.name} step {fit.steps} of at most {total}: loss {loss:.4f}, selection {value:.4f}", flush=True
            )
            if note(fit, value, settings.threshold):
                best_weights = _copy_of(model)
        if fit.patience_used >= settings.patience:
            break
    model.load_state_dict(best_weights)
    return fit


def predict(
    model: Any, encoded: Encoded, tick: Callable[[], None] = lambda: None, precision: str = "float32"
) -> Labels:
    """The likeliest label of each row. (N,) Calls `tick` before each batch.

    Raises CheckFailed where the model's answer is not a number."""
    predictions = np.zeros(len(encoded.labels), dtype=np.int64)
    order, answers = [], []
    with scoring.evaluating(model), losses.arithmetic(model.device, precision):
        for rows, _ in scoring.batches(encoded.lengths, scoring.budget(model)):
            tick()
            logits = _logits(model, encoded, rows)
            order.append(rows)
            answers.append(torch.where(torch.isfinite(logits).all(-1), logits.argmax(-1), NO_NUMBER))
    predictions[np.concatenate(order)] = torch.cat(answers).cpu().numpy()  # a GPU is waited for here
    if (predictions == NO_NUMBER).any():
        raise CheckFailed("the fine-tuned model's logits are not finite: training has diverged")
    return predictions


def training_batches(rows: int, settings: Superglue, seed: int) -> Iterator[NDArray[np.int64]]:
    """Batches of row numbers, shuffled anew each epoch; the last of an epoch may be smaller."""
    order = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        shuffled = order.permutation(rows)
        for start in range(0, rows, settings.batch_size):
            yield shuffled[start : start + settings.batch_size]


def step(
    model: Any,
    train: Encoded,
    rows: NDArray[np.int64],
    optimizer: torch.optim.Optimizer,
    precision: str = "float32",
) -> Tensor:
    """One optimizer step on the mean loss of `rows`; returns that loss, a scalar.

    The rows go through the model in pieces of similar length, which leaves the gradient as it is."""
    model.train()
    total = torch.zeros((), device=model.device)
    with losses.arithmetic(model.device, precision):
        for piece, _ in scoring.batches(train.lengths[rows], scoring.budget(model)):
            labels = device.carried(train.labels[rows[piece]], model.device)
            loss = F.cross_entropy(_logits(model, train, rows[piece]), labels, reduction="sum") / len(rows)
            (loss + len(piece) / len(rows) * model.auxiliary_loss()).backward()
            total += loss.detach()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return total


def note(fit: Fit, value: float, threshold: float) -> bool:
    """Count an evaluation as Hugging Face's EarlyStoppingCallback does; True if it is the best so far."""
    fit.evaluations += 1
    fit.patience_used = 0 if value > fit.best_value + threshold else fit.patience_used + 1
    if value <= fit.best_value:
        return False
    fit.best_value, fit.best_step = value, fit.steps
    return True


def _logits(model: Any, encoded: Encoded, rows: NDArray[np.int64]) -> Tensor:
    ids, real = scoring.padded([encoded.input_ids[row] for row in rows], model)
    lengths = device.carried(real.sum(1), model.device)
    tokens = None if real.all() else device.carried(np.flatnonzero(real), model.device)
    with _last_block_at(model, lengths), model.knowing(tokens):
        visible = _visible(model, real)
        return model(input_ids=device.carried(ids, model.device), attention_mask=visible, use_cache=False).logits


def _visible(model: Any, real: NDArray[np.bool_]) -> Tensor | None:
    """The mask that transformers would make of which tokens are real, (B, T). It looks at the values on the model's
    device, for which a GPU would be waited for."""
    if real.all():
        return None
    keys = device.carried(real, model.device)[:, None, None]  # (B, 1, 1, T)
    if not model.reads_last:
        return keys
    visible = keys & torch.ones(real.shape[1], real.shape[1], dtype=torch.bool, device=keys.device).tril()
    attention.sees_all(visible)  # padding is on the right
    return visible


@contextmanager
def _last_block_at(model: Any, lengths: Tensor) -> Iterator[None]:
    """Let the last block do what follows its attention at one position of each row, that which the head reads.

    It adds its result to all positions then; the others come out wrong, and nobody reads them. lengths: (B,)"""
    position = lengths - 1 if model.reads_last else torch.zeros_like(lengths)  # (B,) the last token, or <s>
    every = torch.arange(len(lengths), device=lengths.device)

    def narrow(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001
        return tuple(x[every, position].unsqueeze(1) for x in inputs)  # (B, T, H) -> (B, 1, H)

    hooks = [module.register_forward_pre_hook(narrow) for module in _after_attention(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _after_attention(model: Any) -> list[nn.Module]:
    """Where the last block turns to what is done at each position by itself. Nowhere in a model whose sparse modules
    balance or normalise over all positions, or whose last block is an earlier one, too."""
    owner, name = model.stack()
    block = getattr(owner, name)[-1]
    if model.config.sharing or any(isinstance(module, PerToken) for module in block.modules()):
        return []
    after: list[nn.Module] = model.after_attention(block)
    return after


def _copy_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
