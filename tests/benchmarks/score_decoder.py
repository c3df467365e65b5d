"""BLiMP and the supplement with a decoder of 9.6M parameters: our stage beside `lm_eval --model hf --batch_size 64`.

    OMP_NUM_THREADS=2 python tests/benchmarks/score_decoder.py DATA_ROOT [--limit PAIRS] [--whole]

In one process, our engine and lm-eval's class for Hugging Face's models on the same sentences, tokenisation included,
taking turns task by task: the ratio of their seconds. With --whole, whole processes from start to end instead: the
stage in float32, lm_eval, the stage in bfloat16. The first PAIRS of each file, or all: neighbours share beginnings,
so few pairs make less of a difference than all. The weights are random: no figure of speed depends on them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from tiny_transformers.common.work import Work
from tiny_transformers.data import tokenizer
from tiny_transformers.evaluation import blimp, scoring
from tiny_transformers.evaluation.minimal_pairs import FIELDS
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import Evaluation, RunConfig
from tiny_transformers.settings.stage.blimp import SUPPLEMENT_TASKS, blimp_files

GPT = GPTNeo(hidden_size=512, num_layers=2, num_heads=4, intermediate_size=1024)
FILES = blimp_files(config.Data())
TASKS = Path(blimp.__file__).parent / "lm_eval_tasks"


def prepare(folder: Path, root: Path, limit: int | None) -> dict[str, list[dict[str, Any]]]:
    """A model with its tokenizer, and of every file the first pairs. -> task -> rows"""
    run_config = RunConfig(model=GPT)
    auto.build(GPT, seed=0).save_pretrained(folder / "model")
    tokenizer.load_tokenizer(root, run_config).save_pretrained(folder / "model")
    kept = {}
    for task, file in FILES.items():
        lines = (root / file).read_text().splitlines()[:limit]
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("\n".join(lines) + "\n")
        kept[task] = [row for row in map(json.loads, lines) if row["sentence_good"] != row["sentence_bad"]]
    return kept


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def in_one_process(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    model: Any = auto.load_lm(folder / "model")
    tokens: Any = AutoTokenizer.from_pretrained(folder / "model")
    harness = HFLM(pretrained=model, tokenizer=tokens, backend="causal", batch_size=64)

    def ours(texts: list[str], precision: scoring.Precision = "float32") -> Any:
        ids = tokens(texts, add_special_tokens=False)["input_ids"]
        return scoring.decoder_log_likelihoods(
            model, [[tokens.bos_token_id, *sequence] for sequence in ids], precision=precision
        )

    def theirs(texts: list[str]) -> Any:
        requests = [Instance("loglikelihood", {}, ("", text), 0) for text in texts]
        return np.array([value for value, _ in harness.loglikelihood(requests, disable_tqdm=True)])

    ours([" A cat."])  # warms up
    seconds, difference, flips, worst, pairs = np.zeros(3), 0.0, 0, 0.0, 0
    for task in rows:
        texts = [" " + row[field] for row in rows[task] for field in FIELDS]
        taken, values = timed(lambda texts=texts: ours(texts))
        their_taken, their_values = timed(lambda texts=texts: theirs(texts))
        half_taken, half = timed(lambda texts=texts: ours(texts, "bfloat16"))
        seconds += taken, their_taken, half_taken
        difference = max(difference, np.abs(values - their_values).max())
        worst, pairs = max(worst, np.abs(half - values).max()), pairs + len(rows[task])
        flips += int(((half[::2] > half[1::2]) != (values[::2] > values[1::2])).sum())
    print(f"in one process, {pairs:,} pairs: lm_eval / ours {seconds[1] / seconds[0]:.2f} in float32, largest ", end="")
    print(f"difference {difference:.1e}; lm_eval / ours in bfloat16 {seconds[1] / seconds[2]:.2f}, largest ", end="")
    print(f"difference {worst:.2f}, {flips} pairs judged otherwise")


def stage(folder: Path, precision: Any) -> None:
    """In a process of its own: our stage, its accuracies on the last line."""
    run_config = RunConfig(model=GPT, evaluation=Evaluation(precision=precision))
    outcome = blimp.run(Work(config=run_config, data_root=folder, cache=folder / "cache", run_dir=folder))
    accuracies = {score.task: score.value for score in outcome.scores if score.metric == "accuracy"}
    print(json.dumps({task: accuracies[task] for task in FILES}))


def run_stage(folder: Path, precision: str) -> dict[str, float]:
    command = [sys.executable, __file__, str(folder), "--stage", precision]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def run_lm_eval(folder: Path) -> dict[str, float]:
    command = [
        Path(sys.executable).parent / "lm_eval", "--model", "hf", "--batch_size", "64", "--device", "cpu",
        "--model_args", f"pretrained={folder / 'model'},dtype=float32,trust_remote_code=True,add_bos_token=False",
        "--tasks", "babylm_blimp", "--include_path", TASKS, "--output_path", folder / "lm_eval",
    ]  # fmt: skip
    environment = {"TINY_TRANSFORMERS_DATA": str(folder), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, env=os.environ | environment, stdout=subprocess.DEVNULL)
    (file,) = (folder / "lm_eval").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]
    names = {task: ("blimp_supplement_" if task in SUPPLEMENT_TASKS else "blimp_filtered_") + task for task in FILES}
    return {task: results[name]["acc,none"] for task, name in names.items()}


def whole_processes(folder: Path) -> None:
    ours, accuracies = timed(lambda: run_stage(folder, "float32"))
    theirs, their_accuracies = timed(lambda: run_lm_eval(folder))
    half, half_accuracies = timed(lambda: run_stage(folder, "bfloat16"))
    same = sum(abs(accuracies[task] - their_accuracies[task]) < 1e-9 for task in FILES)
    print(f"whole processes: lm_eval / ours {theirs / ours:.2f} in float32, {same} of {len(FILES)} accuracies ", end="")
    moved = max(abs(accuracies[task] - half_accuracies[task]) for task in FILES)
    print(f"the same; lm_eval / ours in bfloat16 {theirs / half:.2f}, an accuracy moved by {moved:.4f} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        return stage(options.root, options.stage)
    with tempfile.TemporaryDirectory() as name:
        rows = prepare(Path(name), options.root, options.limit)
        if options.whole:
            whole_processes(Path(name))
        else:
            in_one_process(Path(name), rows)
    return None


if __name__ == "__main__":
    main()
