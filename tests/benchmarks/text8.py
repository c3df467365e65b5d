"""What a tiny Brainformer makes of the first 0.74 MB of text8 in ten minutes, beside counts of two characters.

    python tests/benchmarks/text8.py DATA_ROOT [MINUTES] [THREADS]        10 minutes, 2 threads

The published split in proportion, dropout 0.1, 16 rows of 128 characters, Adagrad. Both sides learn from the same
training split and are scored on the same validation and test splits, whole, in bits per character."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from count_model import bits_per_character

from tiny_transformers.common.work import Work
from tiny_transformers.data import characters
from tiny_transformers.evaluation import bpc
from tiny_transformers.settings.architecture import Brainformer
from tiny_transformers.settings.config import STREAMS, Budget, RunConfig, Train
from tiny_transformers.training import pretrain

VOCABULARY, EVALUATIONS = 27, 10


def counted(root: Path, cache: Path) -> dict[str, float]:
    stream = characters.read_stream(root / STREAMS["text8"], "bytes", cache)
    size = len(stream.vocabulary)
    befores = {"validation": (stream.train, stream.validation), "test": (stream.validation, stream.test)}
    return {
        name: bits_per_character(stream.train, np.concatenate([before[-2:], split]), size)
        for name, (before, split) in befores.items()
    }


def config(minutes: float) -> RunConfig:
    train = Train(
        budget=Budget(hours=minutes / 60),
        evaluations=EVALUATIONS,
        batch_size=16,
        block_size=128,
        optimizer="adagrad",
        clipping="per_tensor",
        max_grad_norm=0.03,
        learning_rate=0.05,
        warmup_steps=100,
    )
    return RunConfig(model=Brainformer(vocab_size=VOCABULARY, dropout=0.1), data={"corpus": "text8"}, train=train)


def main() -> None:
    root = Path(sys.argv[1])
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    with tempfile.TemporaryDirectory() as folder:
        counts = counted(root, Path(folder))
        work = Work(config(minutes), root, Path(folder), Path(folder) / "run")
        outcome = pretrain.run(work)
        (score,) = bpc.run(work).scores
    ours = {"validation": outcome.scores[0].value / math.log(2), "test": score.value}
    print(f"{outcome.metrics['tokens']:,} characters read, {outcome.metrics['tokens_per_second']:,.0f} a second")
    for split in counts:
        print(f"{split}: {ours[split]:.3f} bits per character; counts of two characters: {counts[split]:.3f}")


if __name__ == "__main__":
    main()
