"""A Brainformer's attention in training beside the same one whose windows are slices of keys and values.

    python tests/benchmarks/spans.py [ROUNDS]        5 unless given

One module of the tiny model: 4 rows of 512 characters, a span of 2,048, dropout 0.4, float32, one thread; forward and
backward. A slice of each window, copied, is how it was at first, and autograd makes a gradient of the whole length for
each. The sides take turns; medians of the process's CPU seconds, which other work on the machine changes less."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from tiny_transformers.layers import span_attention
from tiny_transformers.layers.span_attention import SpanAttention

HIDDEN, HEADS, SPAN, ROWS, BLOCK, DROPOUT = 256, 8, 2_048, 4, 512, 0.4


def slices(x: Tensor, width: int, step: int) -> tuple[Tensor, ...]:
    starts = range(0, x.shape[2] - width + 1, step)
    return tuple(torch.stack([x[:, :, start : start + width]], dim=2).flatten(0, 2) for start in starts)


def step(module: SpanAttention, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """CPU seconds."""
    torch.manual_seed(0)
    begun = time.process_time()
    module(*inputs).square().sum().backward()
    return time.process_time() - begun


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    module = SpanAttention(HIDDEN, HEADS, SPAN, None, DROPOUT).train()
    block = torch.randn(ROWS, BLOCK, HIDDEN, requires_grad=True)
    inputs = block, torch.randn(HIDDEN // HEADS, SPAN, requires_grad=True), torch.randn(ROWS, SPAN, HIDDEN)
    sides: dict[str, Callable[..., tuple[Tensor, ...]]] = {"views": span_attention._windows, "slices": slices}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):  # the first is not counted
        for name, windows in sides.items():
            with mock.patch.object(span_attention, "_windows", windows):
                seconds = step(module, inputs)
            if number:
                taken[name].append(seconds)
    medians = {name: statistics.median(each) for name, each in taken.items()}
    print("; ".join(f"{name}: {seconds:.2f} s" for name, seconds in medians.items()), end="; ")
    print(f"slices / views: {medians['slices'] / medians['views']:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
