"""Pseudo-log-likelihoods with a RoBERTa of 9.9M parameters: ours beside a batch per sentence.

    OMP_NUM_THREADS=2 python tests/benchmarks/score_encoder.py DATA_ROOT [--pairs PER_TASK]

The other side is what BabyLM's pipeline does: all masks of one sentence in one forward pass, `model(...).logits`, the
softmax at the masked positions. Both have the same model and the same token ids and take turns task by task. The pairs
are spaced evenly over each file. The weights are random: no figure of speed depends on them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiny_transformers.data import sources, tokenizer
from tiny_transformers.evaluation import scoring
from tiny_transformers.evaluation.minimal_pairs import FIELDS
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.architecture import Roberta
from tiny_transformers.settings.config import RunConfig, tokenizer_file
from tiny_transformers.settings.stage.blimp import blimp_files

BERT = Roberta(hidden_size=512, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024)


@torch.inference_mode()
def one_sentence(model: Any, sequence: list[int], mask_id: int) -> float:
    targets = torch.tensor(sequence[1:-1])
    row = torch.arange(len(targets))
    ids = torch.tensor([sequence]).repeat(len(row), 1)
    ids[row, row + 1] = mask_id
    return model(input_ids=ids).logits[row, row + 1].log_softmax(-1)[row, targets].double().sum().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    run_config = RunConfig(model=BERT)
    tokens: Any = tokenizer.load_tokenizer(options.root / tokenizer_file(run_config.data), run_config)
    model = auto.build(BERT, seed=0).eval()
    scoring.pseudo_log_likelihoods(model, [[1, 5, 6, 2]], tokens.mask_token_id)  # warms up
    seconds, largest, moved, sentences = np.zeros(3), 0.0, 0.0, 0
    for file in blimp_files(config.Data()).values():
        rows = sources.sample(sources.read_rows(options.root / file, FIELDS), options.pairs)
        texts = [" " + row[field] for row in rows for field in FIELDS]
        sequences = [
            [tokens.cls_token_id, *ids, tokens.sep_token_id]
            for ids in tokens(texts, add_special_tokens=False)["input_ids"]
        ]
        times = [time.perf_counter()]
        plain = np.array([one_sentence(model, sequence, tokens.mask_token_id) for sequence in sequences])
        times.append(time.perf_counter())
        ours = scoring.pseudo_log_likelihoods(model, sequences, tokens.mask_token_id)
        times.append(time.perf_counter())
        half = scoring.pseudo_log_likelihoods(model, sequences, tokens.mask_token_id, precision="bfloat16")
        times.append(time.perf_counter())
        seconds, sentences = seconds + np.diff(times), sentences + len(sequences)
        largest, moved = max(largest, np.abs(plain - ours).max()), max(moved, np.abs(half - ours).max())
    print(f"{sentences:,} sentences: a batch per sentence / ours {seconds[0] / seconds[1]:.2f} in float32, ", end="")
    print(f"largest difference {largest:.1e}; in bfloat16 {seconds[0] / seconds[2]:.2f}, {moved:.2f}")


if __name__ == "__main__":
    main()
