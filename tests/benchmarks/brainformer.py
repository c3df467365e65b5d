"""Training steps of the tiny Brainformer with 2 of 16 experts, beside the same model that computes all of them.

    python tests/benchmarks/brainformer.py [THREADS]        2 unless given; 1 on a machine that is busy

Whole optimizer steps of `pretrain.Training` on builtin text8, 16 rows of 128 characters, dropout 0.4. The sides take
turns; medians. All experts are gate `dense`, which computes them as one wide module: the fastest way to compute all."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from tiny_transformers.common.work import Work
from tiny_transformers.data.sources import resolve_root
from tiny_transformers.settings.architecture import Brainformer
from tiny_transformers.settings.config import RunConfig, Train
from tiny_transformers.training.pretrain import Training

STEPS, ROWS, BLOCK = 12, 16, 128


def training(gate: str, precision: str, folder: Path) -> Training:
    config = RunConfig(
        model=Brainformer(experts={"gate": gate}, dropout=0.4, vocab_size=27),
        data={"source": "builtin", "corpus": "text8"},
        train=Train(
            optimizer="adagrad",
            clipping="per_tensor",
            max_grad_norm=0.03,
            precision=precision,
            max_steps=10_000,
            batch_size=ROWS,
            block_size=BLOCK,
        ),
    )
    cache = folder / "cache"
    made = Training(Work(config, resolve_root(config, None, cache), cache, folder / f"{gate}-{precision}"))
    made.resume()
    return made


def seconds(of: Training) -> float:
    begin = time.perf_counter()
    of._step()
    return time.perf_counter() - begin


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    print("| precision | 2 of 16, characters/s | all 16 | ratio |\n|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "bfloat16"):
            sides = [training(gate, precision, Path(folder)) for gate in ("naive", "dense")]
            taken: list[list[float]] = [[], []]
            for turn in range(STEPS):
                for side, times in zip(sides, taken, strict=True):
                    spent = seconds(side)
                    if turn >= 2:
                        times.append(spent)
            ours, every = (ROWS * BLOCK / statistics.median(times) for times in taken)
            print(f"| {precision} | {ours:,.0f} | {every:,.0f} | {ours / every:.1f} |", flush=True)
            for side in sides:
                side.feed.close()


if __name__ == "__main__":
    main()
