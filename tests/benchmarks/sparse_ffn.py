"""The sparse feed-forward modules beside plain implementations of the same formulas, on the study's sizes.

    python tests/benchmarks/sparse_ffn.py [THREADS]        2 unless given; 1 on a machine that is busy

Hidden size 256, about 2.1M parameters a module, float32. Both sides have the same weights and take turns; medians.
Plain is: all experts and an einsum; all units and a mask; every query, all k x k sums and every value read."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.layers.ffn.controller import Controller
from tiny_transformers.layers.ffn.moe import MixtureOfExperts
from tiny_transformers.layers.ffn.pkm import ProductKeyMemory
from tiny_transformers.layers.layer import PerToken

HIDDEN, TOKENS = 256, 4_096
SECONDS = 8.0  # per row, but five pairs at least


def plain_moe(module: MixtureOfExperts, x: Tensor) -> Tensor:
    logits = module.gate(x)
    if module.noise is not None:
        logits = logits + torch.randn_like(logits) * F.softplus(module.noise(x))
    kept, chosen = logits.topk(module.top_k)
    weights = torch.full_like(logits, -torch.inf).scatter(1, chosen, kept).softmax(-1)  # (N, E)
    importance = weights.sum(0)
    module.auxiliary_loss = module.balance_loss * importance.var() / importance.mean() ** 2
    hidden = F.relu(torch.einsum("nh,ehi->nei", x, module.w1) + module.b1)
    return torch.einsum("ne,neh->nh", weights, torch.einsum("nei,eih->neh", hidden, module.w2) + module.b2)


def plain_controller(module: Controller, x: Tensor) -> Tensor:
    """Evaluation."""
    logits = module.v(module.u(x)).unflatten(-1, (module.num_blocks, -1))
    mask = F.one_hot(logits.argmax(-1), logits.shape[-1]).flatten(1)
    return mask * F.relu(F.linear(x, module.w1, module.b1)) @ module.w2 + module.b2


def plain_pkm(module: ProductKeyMemory, x: Tensor) -> Tensor:
    heads, n, half = module.keys_left.shape
    k = module.top_k
    left, right = module.norm(module.query(x)).view(-1, heads, 2, half).unbind(2)
    left, rows = torch.einsum("bhd,hnd->bhn", left, module.keys_left).topk(k)
    right, columns = torch.einsum("bhd,hnd->bhn", right, module.keys_right).topk(k)
    sums = (left.unsqueeze(-1) + right.unsqueeze(-2)).flatten(-2)  # (N, heads, k k)
    indices = (rows.unsqueeze(-1) * n + columns.unsqueeze(-2)).flatten(-2)
    best, chosen = sums.topk(k)
    values = module.values(indices.gather(-1, chosen))  # (N, heads, k, H)
    return torch.einsum("bhk,bhkd->bd", best.softmax(-1), values)


def training(module: PerToken, forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def step() -> None:
        module.zero_grad()
        module.auxiliary_loss = None
        loss = forward(x).square().sum()
        auxiliary = module.auxiliary_loss
        (loss if auxiliary is None else loss + auxiliary).backward()

    return step


def evaluation(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def pass_() -> None:
        with torch.no_grad():
            forward(x)

    return pass_


def milliseconds(*functions: Callable[[], None]) -> list[float]:
    """Medians of the functions called in turn; the first turn does not count."""
    for function in functions:
        function()
    taken: list[list[float]] = [[] for _ in functions]
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS or len(taken[0]) < 5:
        for function, times in zip(functions, taken, strict=True):
            begin = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(times) for times in taken]


def row(name: str, ours: Callable[[], None], plain: Callable[[], None]) -> None:
    ours_ms, plain_ms = milliseconds(ours, plain)
    print(f"| {name} | {ours_ms:.2f} | {plain_ms:.2f} | {plain_ms / ours_ms:.1f} |", flush=True)


def main(threads: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    print(f"{HIDDEN} wide, float32, threads: {threads}\n")
    print("| | ours, ms | plain, ms | ratio |\n|---|---:|---:|---:|")
    x = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    for k in (1, 2, 3):
        moe = MixtureOfExperts(HIDDEN, 1023, 4, k)
        name = f"MoE, {k} of 4 experts, training step, {TOKENS} tokens"
        row(name, training(moe, moe, x), training(moe, lambda x, m=moe: plain_moe(m, x), x))
    controller = Controller(HIDDEN, 4032, 64, 4).eval()
    for tokens in (1, 16, 64, 256):
        name = f"Controller, 64 blocks, evaluation, {tokens} token{'s' * (tokens > 1)}"
        part = torch.randn(tokens, HIDDEN)
        row(name, evaluation(controller, part), evaluation(lambda x: plain_controller(controller, x), part))
    for k in (14, 28, 42):
        pkm = ProductKeyMemory(HIDDEN, 56, k)
        name = f"PKM, {k} of 56 sub-keys, training step, {TOKENS} tokens"
        row(name, training(pkm, pkm, x), training(pkm, lambda x, m=pkm: plain_pkm(m, x), x))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
