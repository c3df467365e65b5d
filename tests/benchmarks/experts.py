"""A Brainformer's experts, 2 of 16 behind the naive gate, beside computing all 16 and weighting them.

    python tests/benchmarks/experts.py [THREADS]        2 unless given; 1 on a machine that is busy

Sizes tiny (h 256, I 256) and large_v2 (h 768, I 256), float32 and bfloat16 under autocast, 4,096 tokens at once. Both
sides have the same weights and the same gate, and take turns; medians. "All" is the plain way: every expert computes
every token in a batched product, then its outputs are weighted, most of them with zero. "Wide" is as fast as all can
be: the experts side by side are one feed-forward module of 16 I units, each weighted as its expert is."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tiny_transformers.layers.ffn.experts import GatedExperts
from tiny_transformers.settings.brainformer_architecture import Experts as Settings

SIZES = {"tiny": (256, 256), "large_v2": (768, 256)}
EXPERTS, TOP_K, TOKENS, VOCAB = 16, 2, 4_096, 205
SECONDS = 10.0  # per row, but five turns at least


def all_experts(module: GatedExperts, x: Tensor) -> Tensor:
    """x: (1, N, H) -> (1, N, H)"""
    routing = module.gate(x[0])
    weights = routing.weights.new_zeros(x.shape[1], EXPERTS).scatter(1, routing.chosen, routing.weights)
    hidden = torch.baddbmm(module.b1.unsqueeze(1), x.expand(EXPERTS, -1, -1), module.w1).relu()  # (E, N, I)
    y = torch.baddbmm(module.b2.unsqueeze(1), hidden, module.w2)  # (E, N, H)
    return (weights.T.unsqueeze(-1) * y).sum(0, keepdim=True)


def one_wide_module(module: GatedExperts, x: Tensor) -> Tensor:
    """x: (1, N, H) -> (1, N, H)"""
    routing = module.gate(x[0])
    weights = routing.weights.new_zeros(x.shape[1], EXPERTS).scatter(1, routing.chosen, routing.weights)
    hidden = torch.addmm(module.b1.flatten(), x[0], module.w1.transpose(0, 1).flatten(1)).relu()  # (N, E I)
    hidden = (hidden.unflatten(1, (EXPERTS, -1)) * weights.to(hidden.dtype).unsqueeze(-1)).flatten(1)
    return torch.addmm(weights @ module.b2, hidden, module.w2.flatten(0, 1)).unsqueeze(0)


def timed(forward: Callable[[Tensor], Tensor], module: GatedExperts, x: Tensor, half: bool, backward: bool) -> float:
    """-> seconds"""
    module.zero_grad()
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.set_grad_enabled(backward):
        y = forward(x)
    if backward:
        y.float().square().sum().backward()
    return time.perf_counter() - begin


def row(size: str, half: bool, backward: bool) -> None:
    torch.manual_seed(0)
    hidden_size, expert_size = SIZES[size]
    module = GatedExperts(Settings(num_experts=EXPERTS, top_k=TOP_K), hidden_size, expert_size, VOCAB)
    x = torch.randn(1, TOKENS, hidden_size, requires_grad=True)
    if not half:
        torch.testing.assert_close(module(x), all_experts(module, x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(module(x), one_wide_module(module, x), rtol=1e-4, atol=1e-4)
    sides: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": module,
        "all": lambda x: all_experts(module, x),
        "wide": lambda x: one_wide_module(module, x),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS or len(taken["all"]) < 6:
        for name, forward in sides.items():
            taken[name].append(timed(forward, module, x, half, backward))
    ours, plain, wide = (TOKENS / statistics.median(times[1:]) for times in taken.values())  # the first turn warms up
    what = "forward and backward" if backward else "forward"
    dtype = "bfloat16" if half else "float32"
    rates = f"{ours:,.0f} | {plain:,.0f} | {ours / plain:.1f} | {wide:,.0f} | {ours / wide:.1f}"
    print(f"| {size} | {dtype} | {what} | {rates} |", flush=True)


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    print(f"{TOP_K} of {EXPERTS} experts, {TOKENS} tokens, threads: {threads}\n")
    print("| size | | | ours, tokens/s | all | ratio | wide | ratio |\n|---|---|---|---:|---:|---:|---:|---:|")
    for size in SIZES:
        for half in (False, True):
            for backward in (False, True):
                row(size, half, backward)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
