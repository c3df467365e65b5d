"""Bits per character of a split of a stream, all of it: what the model needs to say which character comes next.

The split is read from its beginning to its end, in as many rows as are set, and what the model keeps of earlier blocks
is carried along. Every character is scored, the first one too: the character before the split is its context."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tiny_transformers.common.work import CheckFailed, Interrupted, Outcome, Score, Work
from tiny_transformers.data import characters
from tiny_transformers.data.characters import Ids
from tiny_transformers.evaluation.scoring import evaluating
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.stage.bpc import Bpc
from tiny_transformers.training import device

AT_ONCE = 2_048  # characters on the device, of all rows; no result depends on it


def run(work: Work) -> Outcome:
    """Score the split `evaluation.bpc.split` with the model of `work.model_dir`."""
    where = device.pick_device(work.has_gpu)
    (file,), settings = config.stream_files(work.config), work.config.evaluation.of(Bpc)
    stream = characters.read_stream(work.data_root / file, work.config.data.units, work.cache)
    characters.fits(stream, work.config.model.vocab_size)
    model: Any = auto.load_lm(work.model_dir)
    model.to(where)

    def on_block(done: float) -> None:
        if work.should_stop():
            raise Interrupted
        work.progress(done, f"{done:.0%} of the {settings.split} split")

    ids = stream.preceded(settings.split)
    started = time.monotonic()
    with evaluating(model, work.config.evaluation.precision):
        nats = total_loss(model, ids, settings.batch_size, on_block)
    seconds, count = time.monotonic() - started, len(ids) - 1
    if not math.isfinite(nats):
        raise CheckFailed("the loss is not a finite number: the model's training diverged")
    bpc = nats / math.log(2) / count
    print(f"{settings.split}: {bpc:.4f} bits per character, {count:,} characters")
    return Outcome(
        scores=[Score(settings.split, "bpc", bpc, count)],
        metrics={
            "characters_per_second": count / seconds,
            "seconds": seconds,
            "peak_memory_mb": device.peak_memory_mb(),
        },
        data={file: stream.fingerprint},
    )


def total_loss(
    model: Any,
    ids: Ids,
    batch_size: int,
    on_block: Callable[[float], None] = lambda _: None,
    at_once: int | None = None,
) -> float:
    """The sum, in nats, of the losses of all ids but the first, which is context; in `batch_size` rows, or one each."""
    cache, nats = model.new_cache(), torch.zeros((), dtype=torch.float64, device=model.device)
    for inputs, targets, counted, done in _blocks(ids, min(batch_size, len(ids) - 1), at_once or AT_ONCE):
        on_device = device.carried(inputs, model.device)  # (rows, T)
        hidden = model.base_model(input_ids=on_device, past_key_values=cache, use_cache=True).last_hidden_state
        kept = device.carried(np.flatnonzero(counted), model.device)
        labels = device.carried(targets[counted], model.device)
        nats += model.loss_at(hidden.flatten(0, 1)[kept], labels)
        on_block(done)
    return nats.item()  # a GPU is waited for here


def _blocks(
    ids: Ids, rows: int, at_once: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], float]]:
    """Inputs, targets, which of them count, each (rows, T), and the fraction done. Rows follow each other and differ in
    length by one at most: where the shorter ones have ended, what they are given does not count."""
    count = len(ids) - 1
    begins = np.arange(rows + 1) * count // rows
    lengths, longest = np.diff(begins), -(-count // rows)
    width = max(1, at_once // rows)
    for begin in range(0, longest, width):
        places = np.arange(begin, min(begin + width, longest))
        chosen = np.minimum(begins[:-1, None] + places, count - 1)
        targets = ids[chosen + 1].astype(np.int64)
        yield ids[chosen].astype(np.int64), targets, places < lengths[:, None], (places[-1] + 1) / longest
