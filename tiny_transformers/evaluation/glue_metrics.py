"""The figures of (Super)GLUE: a task's metrics, what one answer for all rows gets, and the figures that are averaged.

Three averages are in circulation. Each is the mean over the tasks of one figure per task, another one in each, so none
is comparable with another (docs/evaluation.md). No model here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom, norm
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

Labels = NDArray[np.int64]
Values = dict[str, float]  # metric or name of an average -> value

MAIN = "common"  # the average that is called `main`


def metrics(labels: Labels, predictions: Labels, num_labels: int) -> Values:
    """Accuracy, and for two labels F1 of label 1 and Matthews' correlation, both 0 where they are undefined."""
    values = {"accuracy": float(accuracy_score(labels, predictions))}
    if num_labels == 2:
        values["f1"] = float(f1_score(labels, predictions, zero_division=0.0))
        values["mcc"] = float(matthews_corrcoef(labels, predictions)) if np.ptp(labels) else 0.0
    return values


def selection_metric(labels: Labels, predictions: Labels, num_labels: int) -> float:
    """Return the metric that BabyLM selects weights by: F1 of two labels, else accuracy."""
    values = metrics(labels, predictions, num_labels)
    return values["f1"] if num_labels == 2 else values["accuracy"]


def _common(task: str, values: Values) -> float:
    if task in ("mrpc", "qqp"):
        return (values["accuracy"] + values["f1"]) / 2
    if task == "multirc":
        return (values["f1"] + values["mcc"]) / 2
    return values["mcc" if task == "cola" else "accuracy"]


def _babylm(task: str, values: Values) -> float:
    return values[{"cola": "mcc", "mrpc": "f1", "qqp": "f1"}.get(task, "accuracy")]


def _sparse_study(task: str, values: Values) -> float:  # noqa: ARG001 - the same for every task
    return float(np.mean(list(values.values())))


AVERAGES: dict[str, Callable[[str, Values], float]] = {  # (task, its metrics) -> its figure in the average
    "common": _common,
    "babylm": _babylm,
    "sparse_study": _sparse_study,
}


def evaluate(task: str, labels: Labels, predictions: Labels, num_labels: int) -> Values:
    """A task's metrics, and under the name of each average its figure there."""
    values = metrics(labels, predictions, num_labels)
    return values | {name: figure(task, values) for name, figure in AVERAGES.items()}


def chance(labels: Labels, predictions: Labels) -> float:
    """Return how probable it is that so many answers or more are right if they know nothing of the labels: if these
    are dealt out to the rows anew, answers and labels staying as frequent as they are. 1 for a single answer to all.

    Of two labels exactly, by the hypergeometric distribution (Fisher 1935); of more by the normal one with the mean and
    variance of the permutations (Hoeffding 1951)."""
    n, kinds = len(labels), int(max(labels.max(), predictions.max())) + 1
    of_labels, of_answers = (np.bincount(values, minlength=kinds) for values in (labels, predictions))
    if kinds <= 2:
        right = int(((labels == 1) & (predictions == 1)).sum())
        return float(hypergeom.sf(right - 1, n, of_labels[-1], of_answers[-1])) if kinds == 2 else 1.0
    mean = of_labels @ of_answers / n
    agree = np.eye(kinds) - of_labels[:, None] / n - of_answers / n + mean / n  # (answer, label), rows and columns of 0
    variance = of_answers @ agree**2 @ of_labels / (n - 1)
    right = int((labels == predictions).sum())
    return float(norm.sf((right - 0.5 - mean) / np.sqrt(variance))) if variance > 1e-12 else 1.0


def majority(task: str, labels: Labels, num_labels: int) -> Values:
    """The same of the best single answer for all rows, which may be another one for each value.

    That is the most frequent label for accuracy, label 1 for F1, and 0 whatever the answer for MCC."""
    answers = [evaluate(task, labels, np.full_like(labels, answer), num_labels) for answer in range(num_labels)]
    return {name: max(values[name] for values in answers) for name in answers[0]}
