"""What a micro-batch with a teacher costs beside one without, and what the closed forms say.

    python tests/benchmarks/teaching.py [TURNS]             4 unless given

The base decoder with the teachers of the study `distillation`, forward and backward on 8 texts of 128 tokens, float32,
one thread of a CPU. The sides take turns; medians of the process's own CPU seconds, so that a busy machine changes
little."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cluster.manifest import grids, loading
from tiny_transformers.data.batches import Batch
from tiny_transformers.models import auto
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.costs import step_flops
from tiny_transformers.training.losses import token_losses
from tiny_transformers.training.teaching import Teacher

ROWS, LENGTH = 8, 128
MANIFEST = Path(__file__).resolve().parents[2] / "experiments.yaml"


def batch_of(vocabulary: int) -> Batch:
    ids = torch.randint(5, vocabulary, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH)[:, :-1].flatten()
    return Batch(ids, None, positions, ids[:, 1:].flatten())


def side(config: RunConfig) -> Callable[[], None]:
    """A micro-batch of a run with these settings."""
    model, batch = auto.build(config.model, 1).train(), batch_of(config.model.vocab_size)
    told = config.teacher
    teacher = Teacher(auto.build(told.model, 2), told, {}) if told else None

    def work() -> None:
        if teacher:
            loss, _ = teacher.losses(model, batch, teacher.head(batch))
        else:
            loss, _ = token_losses(model, batch)
        loss.backward()
        model.zero_grad()

    return work


def main() -> None:
    torch.set_num_threads(1)
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    cells = grids.cells(loading.load(MANIFEST), studies=["distillation"])
    configs = {
        cell.config.teacher.name if cell.config.teacher else "none": cell.config
        for cell in cells
        if cell.model == "gpt"
    }
    sides = {name: side(config) for name, config in configs.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, work in sides.items():
            begin = time.process_time()
            work()
            if turn:
                taken[name].append(time.process_time() - begin)
    plain, flops = statistics.median(taken["none"]), step_flops(configs["none"])
    print("| teacher | CPU seconds | x without | FLOPs, x without |\n|---|---:|---:|---:|")
    for name, times in taken.items():
        median, theirs = statistics.median(times), step_flops(configs[name])
        print(f"| {name} | {median:.2f} | {median / plain:.2f} | {theirs / flops:.2f} |", flush=True)


if __name__ == "__main__":
    main()
