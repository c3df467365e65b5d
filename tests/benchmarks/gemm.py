"""The rate of bfloat16 products on this machine: what a training can reach at best. For train.py."""

from __future__ import annotations

import statistics
import time

import torch

from tiny_transformers.training.device import pick_device

TOKENS = {"cpu": 2_048, "cuda": 32_768}  # rows of a product
REPEATED = {"cpu": 3, "cuda": 100}  # times a product is done between two looks at the clock
SECONDS = 0.05  # for each product at least
cpu_time = False


def now() -> float:
    """Seconds, when the device has done all it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() if cpu_time else time.perf_counter()


class Products:
    """bfloat16 products of GPT base: forward, gradients of input and of weights, of each shape once."""

    SHAPES = ((512, 512), (512, 1_024), (1_024, 512), (512, 10_000))  # of its linear layers, (in, out)

    def __init__(self) -> None:
        device = pick_device()
        tokens, self.repeated = TOKENS[device.type], REPEATED[device.type]
        self.products = []
        for i, o in self.SHAPES:
            x, y, w = (torch.randn(*n, dtype=torch.bfloat16, device=device) for n in ((tokens, i), (tokens, o), (o, i)))
            self.products += [(x, w.T), (y, w), (y.T, x)]
        self.rates: list[list[float]] = [[] for _ in self.products]  # FLOP/s

    def measure(self) -> None:
        for (a, b), rates in zip(self.products, self.rates, strict=True):
            a @ b
            started, times = now(), 0
            while not times or now() - started < SECONDS:
                for _ in range(self.repeated):
                    a @ b
                times += self.repeated
            rates.append(2 * a.numel() * b.shape[1] * times / (now() - started))

    def medians(self) -> list[float]:
        return sorted(statistics.median(rates) for rates in self.rates)
