"""The loss of a language model on batches of text, in the precision of its training: of a step, and of validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tiny_transformers.data.batches import Batch
from tiny_transformers.data.corpus import Corpus
from tiny_transformers.models.language_model import LanguageModel
from tiny_transformers.training.compiling import CompilerFailed
from tiny_transformers.training.device import tf32

Memory = Sequence[Tensor]  # of each attention module (rows, positions, H); empty: nothing yet, or not a stream


def token_losses(model: LanguageModel, batch: Batch, memory: Memory = ()) -> tuple[Tensor, Memory]:
    """The sum of the cross-entropies, in nats, of the batch's labels; and, of a stream, what is to be remembered of it.

    `memory` is of all rows. The head, half of all multiplications in a small decoder, is applied only where there is a
    label."""
    if batch.rows is None:
        hidden, remembered = model.states(batch.input_ids, batch.attention_mask, batch.real, batch.texts), ()
    else:
        output = model.base_model(input_ids=batch.input_ids, memory=_remembered(model, batch, memory))
        hidden, remembered = output.last_hidden_state, output.memory
    at_labels = hidden.flatten(0, 1)[batch.positions]  # (B, T, H) -> (B T, H) -> (N, H)
    return model.loss_at(at_labels, batch.labels), remembered


@torch.no_grad()
def validation_loss(
    model: LanguageModel, corpus: Corpus, device: torch.device, precision: str, on_batch: Callable[[], None]
) -> float:
    """The mean loss, in nats, over the labels of the validation data. `on_batch` is called before each batch."""
    model.eval()
    memory: Memory = ()
    total = torch.zeros((), dtype=torch.float64, device=device)
    with arithmetic(device, precision):
        for batch in corpus.validation():
            on_batch()
            losses, memory = token_losses(model, pinned(batch, device).to(device), memory)
            total += losses
    return total.item() / corpus.validation_labels


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Products in the training's precision, and a failing compiler explained."""
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    try:
        with tf32(precision == "tf32"), autocast:
            yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise CompilerFailed(
            f"torch.compile failed: {str(error).strip().splitlines()[0]}. Is there a C++ compiler on this machine? "
            "Otherwise set train.compile to false."
        ) from error


def pinned(batch: Batch, device: torch.device) -> Batch:
    return batch.pinned() if device.type == "cuda" else batch


def _remembered(model: LanguageModel, batch: Batch, memory: Memory) -> Memory:
    """Return what is remembered of the batch's rows; nothing where they begin."""
    return model.empty_memory(len(batch.input_ids)) if batch.begins else [tensor[batch.rows] for tensor in memory]
