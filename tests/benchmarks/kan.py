"""How long one training step of a KAN layer takes: ours beside the recursion of Cox and de Boor through autograd.

    OMP_NUM_THREADS=2 python tests/benchmarks/kan.py

Forward and backward pass of 4,096 tokens, 512 -> 256, float32. The two take turns, so that a busy machine slows both;
medians. What is written here is what a textbook says: every basis kept, a matrix product for splines, one for silu."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_transformers.layers.ffn.kan import KANLinear

TOKENS, IN, OUT = 4_096, 512, 256
CASES = [(3, 3), (5, 3)]  # grid size, spline order
REPEATS = 9


class Plain(nn.Module):
    """The same function of the same parameters."""

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        self.order = layer.spline_order
        self.register_buffer("grid", layer.grid.clone())
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))

    def bases(self, x: Tensor) -> Tensor:
        """x: (N, in) -> (N, in, grid size + order)"""
        grid, x = self.grid, x.unsqueeze(-1)
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:-k])
            bases = left * bases[:, :, :-1] + right * bases[:, :, 1:]
        return bases

    def forward(self, x: Tensor) -> Tensor:
        splines = (self.spline_weight * self.spline_scaler.unsqueeze(-1)).flatten(1)
        return F.linear(F.silu(x), self.base_weight) + F.linear(self.bases(x).flatten(1), splines)


def step(layer: nn.Module, x: Tensor, grad: Tensor) -> tuple[float, Tensor]:
    """-> milliseconds, and the gradient with respect to x"""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    started = time.perf_counter()
    layer(x).backward(grad)
    taken = (time.perf_counter() - started) * 1_000
    assert x.grad is not None
    return taken, x.grad


def compare(grid_size: int, spline_order: int) -> tuple[float, float]:
    """-> median milliseconds of ours and of the plain one"""
    torch.manual_seed(0)
    ours = KANLinear(IN, OUT, grid_size, spline_order)
    plain = Plain(ours)
    x, grad = torch.randn(TOKENS, IN), torch.randn(TOKENS, OUT)
    torch.testing.assert_close(step(ours, x, grad)[1], step(plain, x, grad)[1], atol=1e-4, rtol=1e-4)  # and warms up
    times = [(step(ours, x, grad)[0], step(plain, x, grad)[0]) for _ in range(REPEATS)]
    return statistics.median(first for first, _ in times), statistics.median(second for _, second in times)


def main() -> None:
    print(f"{TOKENS:,} tokens, {IN} -> {OUT}, float32, {torch.get_num_threads()} threads, median of {REPEATS}\n")
    print("| grid | order | ours, ms | plain, ms | plain / ours |\n|---|---|---|---|---|")
    for grid_size, spline_order in CASES:
        ours, plain = compare(grid_size, spline_order)
        print(f"| {grid_size} | {spline_order} | {ours:.0f} | {plain:.0f} | {plain / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
