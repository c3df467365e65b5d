"""Fine-tuning beside Hugging Face's Trainer, which pads every row to 128 tokens: rows per second, and accuracies.

    python tests/benchmarks/finetune.py [--tasks TASK ...] [--steps 6] [--threads 2]
    python tests/benchmarks/finetune.py --accuracy [--tasks rte cola] [--seeds 5] [--epochs 10] [--limit ROWS]

Both have the same weights, head and hyperparameters (BabyLM 2023's: AdamW, 5e-5, batches of 64, float32) and real rows
of DATA_ROOT, ../shared/data unless given. The models are of the real size, 9.6M, untrained unless `--model DIR` names a
run's model folder; an untrained one will do for speed, its accuracies say little.

Speed: so many training steps of each task, in turns, the first not counted; rows per second of the steps between, and
of an epoch over these tasks.
Accuracy: a whole fine-tuning with evaluations, early stopping and the best weights by both, for every seed.
A step of Trainer is 3 seconds of CPU time, so on two idle cores, by estimate: speed 6 minutes; accuracy with the
defaults, 140 steps of RTE and 1,280 of CoLA a seed, 4 hours a model; `--tasks rte` 25 minutes,
`--limit 2000 --epochs 3` 25 minutes."""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tiny_transformers.evaluation import fine_tuning, glue, glue_metrics, superglue
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.architecture import GPTNeo, Roberta
from tiny_transformers.settings.stage.superglue import Superglue, superglue_files

SIZES = {"hidden_size": 512, "intermediate_size": 1024}
MODELS = {
    "GPT-Neo": GPTNeo(num_layers=2, num_heads=4, **SIZES),
    "RoBERTa": Roberta(num_hidden_layers=2, num_attention_heads=4, **SIZES),
}
TRAIN_ROWS = {  # of BabyLM's files
    "cola": 8_164, "sst2": 20_000, "mrpc": 1_579, "qqp": 8_999, "mnli": 8_999, "qnli": 8_999, "rte": 858,
    "boolq": 2_072, "multirc": 4_000, "wsc": 487,
}  # fmt: skip
MAX_LENGTH = 128


class Stopwatch(TrainerCallback):
    """Notes when each of Trainer's steps ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.times.append(time.perf_counter())


def trainer(
    model: Any, task: glue.TaskData, tokenizer: Any, folder: Path, callbacks: list[Any], **options: Any
) -> Trainer:
    def rows(encoded: glue.Encoded) -> list[dict[str, Any]]:
        pairs = zip(encoded.input_ids, encoded.labels.tolist(), strict=True)
        return [{"input_ids": ids, "labels": label} for ids, label in pairs]

    def figures(evaluated: Any) -> dict[str, float]:
        return glue_metrics.metrics(evaluated.label_ids, evaluated.predictions.argmax(-1), task.num_labels)

    arguments = TrainingArguments(
        folder, learning_rate=5e-5, per_device_train_batch_size=64, per_device_eval_batch_size=64, report_to=[],
        disable_tqdm=True, logging_strategy="no", use_cpu=not torch.cuda.is_available(), **options,
    )  # fmt: skip
    return Trainer(
        model,
        arguments,
        train_dataset=rows(task.train),
        eval_dataset=rows(task.selection),
        data_collator=DataCollatorWithPadding(tokenizer, padding="max_length", max_length=MAX_LENGTH),
        compute_metrics=figures,
        callbacks=callbacks,
    )


# -- speed ------------------------------------------------------------------------------------------------------------


def seconds_per_step(ours: bool, model_dir: Path, task: glue.TaskData, tokenizer: Any) -> list[float]:
    """Of one training over the rows of `task`, all steps but the first."""
    model: Any = auto.load_classifier(model_dir, task.num_labels, seed=1)
    times: list[float] = []
    if ours:
        settings = Superglue(epochs=1, max_length=MAX_LENGTH)

        def report(fraction: float, text: str) -> None:  # noqa: ARG001
            times.append(time.perf_counter())

        fine_tuning.fine_tune(model, task, settings, 1, report)
        times = times[: -(-len(task.train.labels) // settings.batch_size)]  # what follows is the evaluation
    else:
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            trainer(model, task, tokenizer, Path(folder), [watch], num_train_epochs=1, save_strategy="no").train()
        times = watch.times
    return np.diff(times).tolist()


def speed(name: str, model_dir: Path, root: Path, tasks: list[str], steps: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer" / "10k-tok")
    print(f"\n| {name}: task | tokens a row | ours, rows/s | Trainer, rows/s | ratio |\n|---|---:|---:|---:|---:|")
    epoch = {True: 0.0, False: 0.0}
    for task in tasks:
        examples = glue.read_examples(root / superglue_files(task)["train"], task, 64 * steps)
        order = np.random.default_rng(0).permutation(len(examples.labels))  # a sample is sorted by its label
        encoded = glue.encode(examples.take(order), tokenizer, MAX_LENGTH)
        few = glue.encode(examples.take(order[:2]), tokenizer, MAX_LENGTH)
        data = glue.TaskData(task, encoded, few, {})
        taken: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(2):
            for ours in (True, False):
                with redirect_stdout(io.StringIO()):
                    taken[ours] += seconds_per_step(ours, model_dir, data, tokenizer)
        rate = {ours: 64 / statistics.median(seconds) for ours, seconds in taken.items()}
        for ours in epoch:
            epoch[ours] += TRAIN_ROWS[task] / rate[ours]
        length, ratio = encoded.lengths.mean(), rate[True] / rate[False]
        print(f"| {task} | {length:.0f} | {rate[True]:.1f} | {rate[False]:.1f} | {ratio:.1f} |", flush=True)
    total = sum(TRAIN_ROWS[task] for task in tasks)
    ratio = epoch[False] / epoch[True]
    print(f"| an epoch of all | | {total / epoch[True]:.1f} | {total / epoch[False]:.1f} | {ratio:.1f} |", flush=True)


# -- accuracy ---------------------------------------------------------------------------------------------------------


def by_ours(model: Any, task: glue.TaskData, settings: Superglue, seed: int) -> None:
    fine_tuning.fine_tune(model, task, settings, seed, lambda *_: None)


def by_trainer(model: Any, task: glue.TaskData, settings: Superglue, seed: int, tokenizer: Any) -> None:
    best = "f1" if task.num_labels == 2 else "accuracy"
    with tempfile.TemporaryDirectory() as folder:
        trainer(
            model, task, tokenizer, Path(folder), [EarlyStoppingCallback(settings.patience, settings.threshold)],
            num_train_epochs=settings.epochs, eval_strategy="steps", eval_steps=settings.eval_every,
            save_strategy="steps", save_steps=settings.eval_every, save_total_limit=1, save_only_model=True,
            load_best_model_at_end=True, metric_for_best_model=best, greater_is_better=True, seed=seed,
        ).train()  # fmt: skip


def accuracy(name: str, model_dir: Path, root: Path, arguments: argparse.Namespace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer" / "10k-tok")
    settings = Superglue(epochs=arguments.epochs, max_length=MAX_LENGTH)
    evaluation = config.evaluation_class()(superglue=settings, limit=arguments.limit)
    print(f"\n| {name}: task, metric | ours | Trainer | of each seed: ours; Trainer |\n|---|---:|---:|---|")
    for task in arguments.tasks or ["rte", "cola"]:
        data = glue.read_task(root, task, tokenizer, evaluation, seed=0)
        found: dict[str, list[dict[str, float]]] = {"ours": [], "Trainer": []}
        for index in range(arguments.seeds):
            seed = superglue.task_seed(42, task, index)
            for side, values in found.items():
                model: Any = auto.load_classifier(model_dir, data.num_labels, seed)
                with redirect_stdout(io.StringIO()):
                    if side == "ours":
                        by_ours(model, data, settings, seed)
                    else:
                        by_trainer(model, data, settings, seed, tokenizer)
                scored = data.validation[task]
                values.append(glue_metrics.metrics(scored.labels, fine_tuning.predict(model, scored), data.num_labels))
        for metric in found["ours"][0]:
            ours, theirs = ([values[metric] for values in side] for side in found.values())
            each = "; ".join(" ".join(f"{value:.3f}" for value in side) for side in (ours, theirs))
            print(f"| {task}, {metric} | {told(ours)} | {told(theirs)} | {each} |", flush=True)


def told(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


# -- both -------------------------------------------------------------------------------------------------------------


@contextmanager
def model_dirs(given: list[Path]) -> Iterator[dict[str, Path]]:
    if given:
        yield {str(path): path for path in given}
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            with auto.quiet():
                auto.build(model, seed=1).save_pretrained(Path(folder) / name)
        yield {f"{name}, untrained": Path(folder) / name for name in MODELS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--model", type=Path, action="append", default=[], help="a run's model folder; several may be")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="of each task and side, twice")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--tasks", nargs="+", choices=TRAIN_ROWS, help="all, for accuracies rte and cola")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="rows used of each file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"threads: {arguments.threads}, {'GPU' if torch.cuda.is_available() else 'CPU'}, torch {torch.__version__}")
    with model_dirs(arguments.model) as folders:
        for name, folder in folders.items():
            if arguments.accuracy:
                accuracy(name, folder, arguments.root, arguments)
            else:
                speed(name, folder, arguments.root, arguments.tasks or list(TRAIN_ROWS), arguments.steps)


if __name__ == "__main__":
    main()
