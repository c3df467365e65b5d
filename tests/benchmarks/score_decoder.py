"""BLiMP and the supplement with a decoder of 9.6M parameters: our stage beside `lm_eval --model hf --batch_size 64`.

    OMP_NUM_THREADS=2 python tests/benchmarks/score_decoder.py DATA_ROOT [--limit PAIRS] [--whole]

In one process, our engine and lm-eval's class for Hugging Face's models on the same sentences, tokenisation included,
taking turns task by task: the ratio of their seconds. With --whole, whole processes from start to end instead, by the
clock and in seconds of CPU: the stage in float32 alone, lm_eval, the stage as it is, which begins in bfloat16 where
that pays, and the stage in bfloat16 alone. The first PAIRS of each file, or all: neighbours share beginnings, so few
pairs make less of a difference than all. The weights are random: no figure of speed depends on them."""

from __future__ import annotations

import argparse
import json
import os
import resource
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
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tiny_transformers.common.work import Work
from tiny_transformers.data import tokenizer
from tiny_transformers.evaluation import blimp, certified, scoring
from tiny_transformers.evaluation.minimal_pairs import FIELDS
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import Evaluation, RunConfig, tokenizer_file
from tiny_transformers.settings.stage.blimp import SUPPLEMENT_TASKS, blimp_files

GPT = GPTNeo(hidden_size=512, num_layers=2, num_heads=4, intermediate_size=1024)
FILES = blimp_files(config.Data())
TASKS = Path(blimp.__file__).parent / "lm_eval_tasks"


def prepare(folder: Path, root: Path, limit: int | None) -> dict[str, list[dict[str, Any]]]:
    """A model with its tokenizer, and of every file the first pairs. -> task -> rows"""
    run_config = RunConfig(model=GPT)
    auto.build(GPT, seed=0).save_pretrained(folder / "model")
    tokenizer.load_tokenizer(root / tokenizer_file(run_config.data), run_config).save_pretrained(folder / "model")
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


def stage(folder: Path, how: str) -> None:
    """In a process of its own: our stage, its accuracies and the precision it took on the last line."""
    if how == "float32":
        certified.pays = lambda *_: False
    run_config = RunConfig(model=GPT, evaluation=Evaluation(precision="bfloat16" if how == "bfloat16" else "float32"))
    outcome = blimp.run(Work(config=run_config, data_root=folder, cache=folder / "cache", run_dir=folder))
    accuracies = {score.task: score.value for score in outcome.scores if score.metric == "accuracy"}
    told = {name: outcome.metrics.get(name) for name in ("precision", "scored_again", "bound", "largest_error")}
    print(json.dumps([{task: accuracies[task] for task in FILES}, told]))


def run_stage(folder: Path, how: str) -> tuple[dict[str, float], dict[str, Any]]:
    command = [sys.executable, __file__, str(folder), "--stage", how]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    accuracies, told = json.loads(done.stdout.splitlines()[-1])
    return accuracies, told


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


def of_processes(function: Callable[[], Any]) -> tuple[NDArray[np.float64], Any]:
    """What a process that it waits for takes, by the clock and in seconds of CPU; and what it gives."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock, result = timed(function)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]), result


def whole_processes(folder: Path) -> None:
    plain, (accuracies, _) = of_processes(lambda: run_stage(folder, "float32"))
    theirs, their_accuracies = of_processes(lambda: run_lm_eval(folder))
    same = sum(abs(accuracies[task] - their_accuracies[task]) < 1e-9 for task in FILES)
    print(
        f"whole processes, lm_eval / ours by the clock and in CPU time: in float32 {as_text(theirs / plain)}, ", end=""
    )
    print(f"{same} of {len(FILES)} accuracies the same")
    for how, words in (("as it is", "as the stage is"), ("bfloat16", "in bfloat16")):
        seconds, (found, metrics) = of_processes(lambda how=how: run_stage(folder, how))
        moved = max(abs(accuracies[task] - found[task]) for task in FILES)
        print(f"{words} {as_text(theirs / seconds)}, an accuracy moved by {moved:.4f} at most; {metrics}")


def as_text(ratios: NDArray[np.float64]) -> str:
    return " and ".join(f"{ratio:.2f}" for ratio in ratios)


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
