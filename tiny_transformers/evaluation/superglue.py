"""(Super)GLUE as BabyLM 2023 runs it: fine-tune the pretrained model on each task, score it on validation.

By default the weights kept are those of the best evaluation on validation, the rows that are scored too, so the scores
are optimistic, as BabyLM's are (docs/evaluation.md). A fine-tuning depends on the model, the data and the run's seed,
never on those before it, and what it answered is kept: an attempt does only what earlier ones have not done. What the
rows of a task become is glue.py's, training fine_tuning.py's, the figures are glue_metrics.py's."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from tiny_transformers.common import contents
from tiny_transformers.common.files import whole_file
from tiny_transformers.common.provenance import source_digest
from tiny_transformers.common.work import Check, CheckFailed, Interrupted, Outcome, Score, TinyTransformersError, Work
from tiny_transformers.evaluation.fine_tuning import Fit, Report, fine_tune, predict
from tiny_transformers.evaluation.glue import TaskData, majority_share, read_task
from tiny_transformers.evaluation.glue_metrics import AVERAGES, MAIN, Labels, Values, chance, evaluate, majority
from tiny_transformers.models import auto
from tiny_transformers.settings.stage.superglue import Superglue, limit, superglue_files, superglue_tasks
from tiny_transformers.training import device
from tiny_transformers.training.pretrain import resolve_precision

NOT_MAIN = AVERAGES.keys() - {MAIN}  # of a single task these follow from its metrics
UNINFORMED = 0.05  # of fine-tunings that learnt nothing so many, at most, pass the check
NO_RESULT = ("tasks", "seeds", "limit")  # settings that say which fine-tunings there are, or are told otherwise


@dataclass(frozen=True)
class FineTuning:
    """One fine-tuning of a task."""

    task: TaskData
    seed: int  # of the head, the order of the rows and the dropout
    label: str  # what it is called in messages
    path: Path  # where its answers are kept


@dataclass(frozen=True)
class Answers:
    """The answers of a fine-tuned model, and how it got there."""

    fit: Fit
    seconds: float
    predictions: dict[str, Labels]  # name of the score -> a label per row


@dataclass(frozen=True)
class Scored:
    """One score, and what it rests on."""

    seeds: list[Values]  # of each fine-tuning
    majority: Values
    n: int


def run(work: Work) -> Outcome:
    """Fine-tune and score every task of the data, each time from `work.model_dir`.

    All files are read before the first step: TinyTransformersError then names every task that has a bad one. A training
    that diverges does not stop the others; CheckFailed names those at the end. Raises Interrupted if
    `work.should_stop` says so. Finished fine-tunings are kept in `work.run_dir`/superglue."""
    started = time.monotonic()
    # If there is no GPU, or none that has the precision, it fails before it reads all data.
    asked, where = work.config.evaluation.of(Superglue).precision, device.pick_device(work.has_gpu)
    resolve_precision(asked, where, setting="evaluation.superglue.precision")
    tasks = _read_tasks(work)
    settings = work.config.evaluation.of(Superglue)
    files = [file for task in tasks for file in superglue_files(task.name, settings).values()]
    outcome = Outcome(data={file: contents.fingerprint(work.data_root / file) for file in files})
    planned = _plan(work, tasks, outcome.data)
    kept = {one.path: found for one in planned if (found := _read_kept(one))}
    answers = _fine_tune_all(work, planned, kept)
    scored: list[Scored] = []
    for task in tasks:
        of_task = [answers[one.path] for one in planned if one.task is task]
        scored += [_record(work, outcome, name, task, of_task) for name in task.validation]
        _record_training(outcome, task, of_task)
    _record_averages(outcome, scored)
    outcome.metrics |= {
        "selected_on": work.config.evaluation.of(Superglue).select_on,
        "fine_tunings": len(planned),
        "fine_tunings_kept": len(kept),  # from earlier attempts
        "seconds": time.monotonic() - started,  # of this attempt
        "peak_memory_mb": device.peak_memory_mb(),
    }
    return outcome


def task_seed(seed: int, task: str, index: int = 0) -> int:
    """The seed of a fine-tuning's head, order and dropout; the same whichever tasks, and how many seeds, are run."""
    text = f"{seed} {task} {index}" if index else f"{seed} {task}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


# -- what is to be done -----------------------------------------------------------------------------------------------


def _read_tasks(work: Work) -> list[TaskData]:
    tokenizer = AutoTokenizer.from_pretrained(work.model_dir)
    tasks, wrong = [], []
    for task in superglue_tasks(work.config):
        work.progress(0.0, f"reading {task}")
        try:
            seed = task_seed(work.config.seed, task)
            tasks.append(read_task(work.data_root, task, tokenizer, work.config.evaluation, seed))
        except TinyTransformersError as error:
            wrong.append(str(error))
    if wrong:
        raise TinyTransformersError("\n".join(wrong))
    return tasks


def _plan(work: Work, tasks: Sequence[TaskData], fingerprints: dict[str, str]) -> list[FineTuning]:
    """Every fine-tuning of these tasks. Its answers are kept under a name made of all that they depend on, the code
    among it: whoever mends a mistake gets no answer of before."""
    asked = work.config.evaluation.of(Superglue)
    settings = asked.model_dump(mode="json", exclude=set(NO_RESULT))
    model = {
        path.name: contents.fingerprint(path)
        for pattern in ("*.safetensors", "config.json", "tokenizer*.json")
        for path in work.model_dir.glob(pattern)
    }
    code = source_digest()
    planned = []
    for task in tasks:
        files = {file: fingerprints[file] for file in superglue_files(task.name, asked).values()}
        for index in range(asked.seeds):
            seed = task_seed(work.config.seed, task.name, index)
            identity = [code, model, files, settings, limit(work.config.evaluation), work.config.seed, index]
            key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
            label = task.name if asked.seeds == 1 else f"{task.name}, fine-tuning {index + 1} of {asked.seeds}"
            path = work.run_dir / "superglue" / f"{task.name}-{index}-{key}.json"
            planned.append(FineTuning(task, seed, label, path))
    return planned


# -- doing it ---------------------------------------------------------------------------------------------------------


def _fine_tune_all(work: Work, planned: Sequence[FineTuning], kept: dict[Path, Answers]) -> dict[Path, Answers]:
    """The answers of all; what is not `kept` is done, and kept once done."""
    answers, failed = dict(kept), []
    sizes = [len(one.task.train.labels) for one in planned]
    for number, one in enumerate(planned):
        if one.path in kept:
            print(f"{one.label}: was done by an earlier attempt")
            continue
        before, share = sum(sizes[:number]) / sum(sizes), sizes[number] / sum(sizes)
        try:
            answers[one.path] = _fine_tune(work, one, partial(_report, work, one.label, before, share))
        except CheckFailed as error:
            print(f"{one.label}: {error}; going on with the others", flush=True)
            failed.append(f"{one.label}: {error}")
            continue
        _keep(one, answers[one.path])
    if failed:
        raise CheckFailed(
            f"{len(failed)} of {len(planned)} fine-tunings failed; the others are kept for the next attempt. "
            + "; ".join(failed)
        )
    return answers


def _report(work: Work, label: str, before: float, share: float, fraction: float, text: str) -> None:
    if work.should_stop():
        raise Interrupted(f"asked to stop during {label}; what was finished before is kept")
    work.progress(before + share * fraction, f"{label}: {text}")


def _fine_tune(work: Work, one: FineTuning, report: Report) -> Answers:
    started, task = time.monotonic(), one.task
    truncated = f"{task.train.truncated} of them truncated"
    print(f"{one.label}: {len(task.train.labels)} rows to train on, {truncated}, seed {one.seed}", flush=True)
    model: Any = auto.load_classifier(work.model_dir, task.num_labels, one.seed)
    settings = work.config.evaluation.of(Superglue)
    model.to(device.pick_device(work.has_gpu))
    fit = fine_tune(model, task, settings, one.seed, report)
    predictions = {
        name: predict(model, validation, partial(report, 1.0, f"scoring {name}"), settings.precision)
        for name, validation in task.validation.items()
    }
    return Answers(fit, time.monotonic() - started, predictions)


def _keep(one: FineTuning, answers: Answers) -> None:
    """Write the answers whole: a file of them is complete or absent."""
    predictions = {name: labels.tolist() for name, labels in answers.predictions.items()}
    value = {"fit": asdict(answers.fit), "seconds": answers.seconds, "predictions": predictions}
    with whole_file(one.path) as draft:
        draft.write_text(json.dumps(value))


def _read_kept(one: FineTuning) -> Answers | None:
    """Return what an earlier attempt has kept; None if that is nothing, or nothing whole."""
    if not one.path.exists():
        return None
    try:
        value = json.loads(one.path.read_bytes())
        predictions = {name: np.array(value["predictions"][name], dtype=np.int64) for name in one.task.validation}
        if any(len(predictions[name]) != len(rows.labels) for name, rows in one.task.validation.items()):
            raise ValueError("not an answer for every row")
        return Answers(Fit(**value["fit"]), value["seconds"], predictions)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"warning: {one.path} is damaged ({error}); fine-tuning {one.label} again", flush=True)
        return None


# -- what is recorded -------------------------------------------------------------------------------------------------


def _record(work: Work, outcome: Outcome, name: str, task: TaskData, answers: Sequence[Answers]) -> Scored:
    """The scores and the check of one set of scored rows, from what each fine-tuning answered."""
    labels, predictions = task.validation[name].labels, [one.predictions[name] for one in answers]
    scored = Scored(
        [evaluate(name, labels, answered, task.num_labels) for answered in predictions],
        majority(name, labels, task.num_labels),
        len(labels),
    )
    shown = {"main" if metric == MAIN else metric: metric for metric in scored.majority if metric not in NOT_MAIN}
    _add(outcome, name, shown, [scored])
    # The weights are the best of several looks at these rows: each of them could have been lucky (Bonferroni).
    looks = work.config.evaluation.of(Superglue).selects_on_scored
    by_chance = [
        min(1.0, chance(labels, one.predictions[name]) * (one.fit.evaluations if looks else 1)) for one in answers
    ]
    outcome.checks.append(
        Check(f"{name}.informative", passed=max(by_chance) <= UNINFORMED, value=max(by_chance), blocking=False)
    )
    for number, (answered, p) in enumerate(zip(predictions, by_chance, strict=True), 1):
        if majority_share(answered) == 1:
            print(f"{name}: the model of fine-tuning {number} answers {answered[0]} to all {len(labels)} rows")
        elif p > UNINFORMED:
            print(
                f"{name}: the answers of fine-tuning {number} cannot be told from ones that know nothing (p = {p:.2g})"
            )
    return scored


def _record_averages(outcome: Outcome, scored: Sequence[Scored]) -> None:
    _add(outcome, "average", {"main": MAIN} | {average: average for average in AVERAGES}, scored)
    outcome.metrics["average.tasks"] = len(scored)


def _add(outcome: Outcome, task: str, shown: dict[str, str], scored: Sequence[Scored]) -> None:
    """For each metric -> value of `shown`: the value's mean over what was scored and over seeds, and beside it what one
    answer for all rows gets; of several seeds also each one's, and their standard deviation (of a sample, n - 1)."""
    n, told = sum(one.n for one in scored), []
    for metric, value in shown.items():
        seeds = np.mean([[values[value] for values in one.seeds] for one in scored], axis=0)  # (seeds,)
        mean, baseline = float(np.mean(seeds)), float(np.mean([one.majority[value] for one in scored]))
        outcome.scores += [Score(task, metric, mean, n), Score(task, f"majority_{metric}", baseline, n)]
        told.append(f"{metric} {mean:.4f} (majority {baseline:.4f})")
        if len(seeds) > 1:
            outcome.metrics |= {f"{task}.{metric}@{index}": float(one) for index, one in enumerate(seeds)}
            outcome.metrics[f"{task}.{metric}@std"] = float(np.std(seeds, ddof=1))
    print(f"{task}: {', '.join(told)}")


def _record_training(outcome: Outcome, task: TaskData, answers: Sequence[Answers]) -> None:
    for index, one in enumerate(answers):
        which = f"@{index}" if len(answers) > 1 else ""
        outcome.metrics |= {
            f"{task.name}.steps{which}": one.fit.steps,
            f"{task.name}.evaluations{which}": one.fit.evaluations,
            f"{task.name}.best_step{which}": one.fit.best_step,
            f"{task.name}.seconds{which}": one.seconds,
        }
    outcome.metrics |= {
        f"{task.name}.train_rows": len(task.train.labels),
        f"{task.name}.selection_rows": len(task.selection.labels),
        f"{task.name}.truncated_rows": task.train.truncated,
    }
