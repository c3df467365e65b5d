"""Runs that share one device: their tokens per second together, beside one run that has it for itself.

    python tests/benchmarks/packing.py [--slots 1 2 4] [--model gpt|bert] [--seconds 20] [--stories 128]

Each run is a process of its own that pretrains a base model on real stories of DATA_ROOT, ../shared/data unless given,
on a GPU if there is one, else with as many threads as its share of the cores. All begin to count after everyone's first
step, and end together. `tiny-transformers probe --slots` measures the same through whole packs, for the planner."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tiny_transformers.common.work import Work
from tiny_transformers.settings.architecture import GPTNeo, Roberta
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.training.pretrain import Training

MODELS = {"gpt": GPTNeo(), "bert": Roberta()}
TRAIN = {"max_steps": 1_000_000, "evaluations": 1, "eval_stories": 1}


def train(settings: argparse.Namespace, seed: int, threads: int, start: Any, speeds: Any) -> None:
    torch.set_num_threads(threads)
    config = RunConfig(model=MODELS[settings.model], train=TRAIN | {"stories_per_step": settings.stories}, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(Work(config, settings.root, settings.cache, Path(folder)))
        training._step()
        start.wait()
        before, began = training.counters.tokens, time.perf_counter()
        while time.perf_counter() - began < settings.seconds:
            training._step()
        speeds.put((training.counters.tokens - before) / (time.perf_counter() - began))
        training.feed.close()


def together(settings: argparse.Namespace, slots: int) -> float:
    """Tokens per second of all."""
    context = multiprocessing.get_context("spawn")
    start, speeds = context.Barrier(slots), context.Queue()
    threads = max(1, len(os.sched_getaffinity(0)) // slots)
    runs = [context.Process(target=train, args=(settings, seed, threads, start, speeds)) for seed in range(slots)]
    for run in runs:
        run.start()
    found = [speeds.get() for _ in runs]
    for run in runs:
        run.join()
    return float(sum(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", choices=sorted(MODELS), default="gpt")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--stories", type=int, default=128, help="of a step")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[3] / "shared/data")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tiny-transformers-benchmarks")
    settings = parser.parse_args()
    best = dict.fromkeys(settings.slots, 0.0)
    for _ in range(settings.rounds):  # in turns
        for slots in settings.slots:
            best[slots] = max(best[slots], together(settings, slots))
    for slots, speed in best.items():
        print(f"{slots} at a time: {speed:,.0f} tokens/s together, {speed / best[settings.slots[0]]:.2f} x")


if __name__ == "__main__":
    main()
