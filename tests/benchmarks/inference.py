"""The stage `speed` on the two 10M-parameter models, untrained: the table of docs/evaluation.md.

    OMP_NUM_THREADS=2 python tests/benchmarks/inference.py [BATCH_SIZE ...]        1 8 64 unless given

Some minutes on two idle cores. What the stage itself logs comes first, the table last."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tiny_transformers.common.work import Outcome, Work
from tiny_transformers.evaluation import speed
from tiny_transformers.models import auto
from tiny_transformers.settings.config import RunConfig

SIZES = {"hidden_size": 512, "intermediate_size": 1024}
MODELS = {
    "gpt": {"family": "gpt_neo", "num_layers": 2, "num_heads": 4, **SIZES},
    "bert": {"family": "roberta", "num_hidden_layers": 2, "num_attention_heads": 4, **SIZES},
}


def measured(model: dict[str, object], batch_sizes: list[int], folder: Path) -> Outcome:
    settings = {"model": model, "evaluation": {"speed": {"batch_sizes": batch_sizes}}}
    work = Work(RunConfig.model_validate(settings), data_root=folder, cache=folder, run_dir=folder)
    auto.build(work.config.model, seed=0).save_pretrained(work.model_dir)
    return speed.run(work)


def rows(name: str, outcome: Outcome) -> list[str]:
    values = {(score.task, score.metric): score for score in outcome.scores}
    lines = []
    for task in dict.fromkeys(score.task for score in outcome.scores):
        ms = [1e3 * values[task, f"latency{which}_s"].value for which in ("", "_low", "_high")]
        tokens, memory = (values[task, metric] for metric in ("tokens_per_second", "peak_memory_mb"))
        lines.append(
            f"| {name} | `{task}` | {tokens.n} | {ms[0]:,.1f} | {ms[1]:,.1f} - {ms[2]:,.1f} | {tokens.value:,.0f} "
            f"| {memory.value:,.0f} |"
        )
    return lines


def main(batch_sizes: list[int]) -> None:
    table = ["| model | | passes | ms | interval | tokens/s | peak MB |", "|---|---|---:|---:|---:|---:|---:|"]
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            outcome = measured(model, batch_sizes, Path(folder))
        table += rows(name, outcome)
        known = ("cpu", "device", "threads", "load_average", "torch")
        print(f"{name}: " + ", ".join(f"{key} {outcome.metrics[key]}" for key in known))
    print("\n" + "\n".join(table))


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1, 8, 64])
