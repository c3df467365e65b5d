"""Every pair's two scores, kept so that two models can be compared pair by pair.

The file holds what was judged, in its full precision, and by fingerprints which rows of which files that was. Two
files are compared only if these are the same; the settings may differ, a comparison may be about them.

`python -m tiny_transformers.common.pairs A B` compares two files."""

from __future__ import annotations

import json
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tiny_transformers.common import bootstrap
from tiny_transformers.common.files import whole_file
from tiny_transformers.common.work import TinyTransformersError

FORMAT = 1  # of the file
EXCHANGES = 20_000  # of the answers of two models: the smallest p-value is one in so many
TIE = 1e-12  # shares that differ by less are equal, but for rounding
DISAGREE = "The two disagree: one model is better in the mean of the tasks, the other one on all pairs together."


@dataclass(frozen=True)
class KeptPairs:
    """The N pairs that one model was asked, task by task."""

    files: dict[str, str]  # task -> SHA-256 of its file
    counts: NDArray[np.int64]  # (tasks,) pairs of each
    rows: NDArray[np.int32]  # (N,) the pair's row in its file, from 0; blank lines are not counted
    good: NDArray[np.float64]  # (N,) score of the acceptable sentence: its log-likelihood, normalised as set
    bad: NDArray[np.float64]  # (N,)
    settings: dict[str, Any]  # that decide a score
    # (N,) scored in bfloat16, where `right` may still be float32's; None: not told, as by all files of before
    rounded: NDArray[np.bool_] | None = None

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) A tie is wrong."""
        return self.good > self.bad

    def of_task(self, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Values of the N pairs, by task."""
        return dict(zip(self.files, np.split(values, np.cumsum(self.counts)[:-1]), strict=True))


@dataclass(frozen=True)
class Estimate:
    """A difference of two models, a - b, in shares of pairs that are right, with an interval and a test of its own."""

    difference: float
    low: float  # 95 %: pairs are resampled, both models' answers together
    high: float
    p_value: float  # two-sided; that of the pairs one model alone has right each has half


@dataclass(frozen=True)
class PairsComparison:
    """Two models on the same pairs: two differences, which may point to different models."""

    n: int
    both: int  # pairs that both have right
    only_a: int
    only_b: int
    neither: int
    by_task: Estimate  # of the macro averages: every task weighs alike; tested by exchanging the answers pair by pair
    by_pair: Estimate  # every pair weighs alike; McNemar's exact test
    settings: dict[str, tuple[Any, Any]]  # those that differ: (a's, b's)
    tasks: dict[str, dict[str, int]]  # both, only_a, only_b and neither of each task

    @property
    def disagree(self) -> bool:
        return self.by_task.difference * self.by_pair.difference < -TIE


def write(path: Path, kept: KeptPairs) -> None:
    """Write the file, whole or not at all, in place of an older one."""
    about = {"format": FORMAT, "files": kept.files, "settings": kept.settings}
    with whole_file(path) as draft, open(draft, "wb") as file:
        told: dict[str, Any] = {} if kept.rounded is None else {"rounded": kept.rounded}
        np.savez_compressed(
            file, about=json.dumps(about), counts=kept.counts, rows=kept.rows, good=kept.good, bad=kept.bad, **told
        )


def read(path: Path) -> KeptPairs:
    """Raises TinyTransformersError for a file that is missing or is not one of `write`'s."""
    again = f"The stage {path.stem} writes it; run it again."
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays = {name: file[name] for name in ("counts", "rows", "good", "bad")}
            rounded = file.get("rounded")
    except FileNotFoundError:
        raise TinyTransformersError(f"{path}: is missing. {again}") from None
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise TinyTransformersError(
            f"{path}: holds no scores of pairs: {error}. Run the stage {path.stem} again."
        ) from None
    if about["format"] != FORMAT:
        raise TinyTransformersError(
            f"{path}: has format {about['format']}, not {FORMAT}. Run the stage {path.stem} again."
        )
    return KeptPairs(files=about["files"], settings=about["settings"], rounded=rounded, **arrays)


def compare(a: Path, b: Path) -> PairsComparison:
    """Compare two files of `write`, by their macro averages and by all pairs alike.

    Raises TinyTransformersError if they are not of the same rows of the same files."""
    one, other = read(a), read(b)
    if differing := _differing_tasks(one, other):
        raise TinyTransformersError(
            f"{a} and {b} are of different pairs ({', '.join(differing)}), so they cannot be compared pair by pair. "
            "Score both on the same data with the same evaluation.limit; if pairs are too long for one of the models, "
            "it cannot be compared with the other."
        )
    right_a, right_b = one.of_task(one.right), other.of_task(other.right)
    outcomes = [_outcomes(right_a[task], right_b[task]) for task in one.files]
    counts = np.array([list(outcome.values()) for outcome in outcomes], dtype=np.int64)  # (tasks, 4)
    total = dict(zip(outcomes[0], counts.sum(0).tolist(), strict=True))
    draws = bootstrap.resample(counts)
    settings = {
        name: (one.settings.get(name), other.settings.get(name))
        for name in one.settings | other.settings
        if one.settings.get(name) != other.settings.get(name)
    }
    return PairsComparison(
        n=len(one.rows),
        **total,
        by_task=Estimate(_by_task(counts).item(), *bootstrap.interval(_by_task(draws)), exchanged(counts)),
        by_pair=Estimate(
            _by_pair(counts).item(),
            *bootstrap.interval(_by_pair(draws)),
            mcnemar(total["only_a"], total["only_b"]),
        ),
        settings=settings,
        tasks=dict(zip(one.files, outcomes, strict=True)),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The p-value of McNemar's exact test: of pairs that one model alone has right, each has half (McNemar 1947)."""
    return min(1.0, float(2 * special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def exchanged(counts: NDArray[np.int64]) -> float:
    """The p-value of the macro averages' difference: how often it is as large if of every pair the two models' answers
    are exchanged by the throw of a coin. Of EXCHANGES throws, what was found among them. (tasks, 4) -> share"""
    differing, n = counts[:, 1] + counts[:, 2], counts.sum(1)
    heads = np.random.default_rng(bootstrap.SEED).binomial(differing, 0.5, size=(EXCHANGES - 1, len(n)))
    found = abs(_by_task(counts).item())
    as_large = np.abs(((2 * heads - differing) / n).mean(1)) >= found - TIE
    return float((1 + as_large.sum()) / EXCHANGES)


def same_pairs(a: KeptPairs, b: KeptPairs) -> bool:
    """Whether the scores of both are of the same pairs in the same order, and none is lacking."""
    whole = all(len(kept.rows) == len(kept.good) == len(kept.bad) == kept.counts.sum() for kept in (a, b))
    alike = np.array_equal(a.counts, b.counts) and np.array_equal(a.rows, b.rows)
    return whole and alike and [*a.files.items()] == [*b.files.items()]


def describe(found: PairsComparison) -> str:
    """A comparison as text: the whole, then task by task."""
    lines = [
        f"{found.n:,} pairs: both right {found.both:,}, a alone {found.only_a:,}, b alone {found.only_b:,}, "
        f"neither {found.neither:,}",
        f"every task alike (the average): {_told(found.by_task)} (answers exchanged pair by pair)",
        f"every pair alike: {_told(found.by_pair)} (McNemar's exact test)",
        *([DISAGREE] if found.disagree else []),
        *(f"settings differ: {name}: a {a}, b {b}" for name, (a, b) in found.settings.items()),
        "",
        f"{'task':{max(map(len, found.tasks))}}  pairs   a, %   b, %  a - b  a alone  b alone",
    ]
    for task, outcome in found.tasks.items():
        n = sum(outcome.values())
        a, b = ((outcome["both"] + outcome[name]) / n for name in ("only_a", "only_b"))
        cells = f"{n:7}{100 * a:7.2f}{100 * b:7.2f}{_points(a - b):>7}{outcome['only_a']:9}{outcome['only_b']:9}"
        lines.append(f"{task:{max(map(len, found.tasks))}}{cells}")
    return "\n".join(lines)


def _told(estimate: Estimate) -> str:
    low, high = _points(estimate.low), _points(estimate.high)
    difference = f"a - b {_points(estimate.difference)} points, 95 % interval {low} to {high}"
    return f"{difference}, p = {estimate.p_value:.2g}"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _outcomes(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> dict[str, int]:
    """How many pairs of a task have each outcome."""
    outcomes = {"both": a & b, "only_a": a & ~b, "only_b": ~a & b, "neither": ~a & ~b}
    return {name: int(pairs.sum()) for name, pairs in outcomes.items()}


def _by_task(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean over tasks of the accuracies' difference: (..., tasks, 4) -> (...)."""
    difference: NDArray[np.float64] = ((counts[..., 1] - counts[..., 2]) / counts.sum(-1)).mean(-1)
    return difference


def _by_pair(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The difference of the shares of all pairs that are right: (..., tasks, 4) -> (...)."""
    difference: NDArray[np.float64] = (counts[..., 1] - counts[..., 2]).sum(-1) / counts.sum((-1, -2))
    return difference


def _differing_tasks(a: KeptPairs, b: KeptPairs) -> list[str]:
    rows_a, rows_b = a.of_task(a.rows), b.of_task(b.rows)
    return [
        task
        for task in a.files | b.files
        if a.files.get(task) != b.files.get(task) or not np.array_equal(rows_a[task], rows_b[task])
    ]


def main(a: str, b: str) -> int:
    try:
        print(describe(compare(Path(a), Path(b))))
    except TinyTransformersError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
