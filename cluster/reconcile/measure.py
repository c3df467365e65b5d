"""Turn what the ledger has measured on a site into `cost.Measured`, by which runs are planned.

Only attempts on the site of the same name and the same kind of device, where it is known, count. Speeds are of whole
packs: a run that shared its pack with others had a part of it. How much several pretrainings gain over one is known
from those that were trained at the same time, and nothing else beside them. What a probe measured counts where the
ledger proper has nothing. Bounded: the newest attempts of each stage, and each distinct settings parsed once."""

from __future__ import annotations

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import median

from cluster.ledger.database import Ledger
from cluster.ledger.rows import MeasurementRow
from cluster.ledger.runs import read_settings
from cluster.plan import cost
from cluster.plan.cost import Estimate
from cluster.sites.profiles import Site
from tiny_transformers.settings.config import RunConfig, tokens_at_once
from tiny_transformers.settings.stage.kind import UNKNOWN, Sizes
from tiny_transformers.settings.stages import STAGES

NEWEST = 2_000  # attempts of each stage that are looked at
SHORTEST = 0.1  # seconds that beginning a stage takes at least: clocks may say none, and a plan divides by it
STEADY = 0.05  # how far from a whole number of runs at a time the mean may be


def measured(ledgers: Sequence[tuple[Ledger, str]], site: Site, sizes: Sizes = UNKNOWN) -> cost.Measured:
    """From ledgers, each with the word for its basis ("measured"); an earlier one's figures count before a later's.
    `sizes`: of the files of data that are there."""
    by_stage: dict[str, Estimate] = {}
    by_architecture: dict[tuple[str, str], Estimate] = {}
    peaks: dict[str, Estimate] = {}
    read = [([each for each in _measured(ledger, site) if each.here(site)], word) for ledger, word in ledgers]
    shared = replace(_together(read, site), overheads=_overheads(read), sizes=sizes)
    for attempts, word in read:
        speeds: dict[tuple[str, str], list[float]] = {}
        memory: dict[str, list[float]] = {}
        trained = {each.key for each in attempts if each.stage == "pretrain"}
        shapes = {each.key: each.shape for each in attempts}
        for each in attempts:
            if speed := each.speed(shared):
                gain = shared.gain(each.config, each.together) if each.stage == "pretrain" else 1.0
                speeds.setdefault((each.key, each.stage), []).append(speed / gain)
            # Of an architecture whose pretraining was not measured the peak is not known yet.
            if each.peak and each.key in trained:
                memory.setdefault(each.key, []).append(each.peak)
        of_shapes: dict[tuple[str, str], list[float]] = {}
        for (key, stage), values in speeds.items():
            by_architecture.setdefault((key, stage), Estimate(median(values), f"{word} ({len(values)})"))
            of_shapes.setdefault((shapes[key], stage), []).extend(values)
        for shape, values in of_shapes.items():
            basis = f"{word} with another activation ({len(values)})"
            by_architecture.setdefault(shape, Estimate(median(values), basis))
        for stage in STAGES:
            values = [value for (_, of), found in speeds.items() if of == stage for value in found]
            if values:
                basis = f"{word} for this stage on other models ({len(values)})"
                by_stage.setdefault(stage, Estimate(median(values), basis))
        for architecture, found in memory.items():
            peaks.setdefault(architecture, Estimate(max(found), f"{word} ({len(found)})"))
        for of_all in {shapes[architecture] for architecture in memory}:
            found = [value for each, values in memory.items() if shapes[each] == of_all for value in values]
            peaks.setdefault(of_all, Estimate(max(found), f"{word} with another activation ({len(found)})"))
    return replace(shared, by_stage=by_stage, by_architecture=by_architecture, peaks=peaks)


def _together(read: Iterable[tuple[Sequence[_Attempt], str]], site: Site) -> cost.Measured:
    """The speeds of pretrainings at the same time, and the gains over one alone. A gain is of one ledger: a probe's few
    steps are slower than those of a real run."""
    figures: defaultdict[str, dict[int, Estimate]] = defaultdict(dict)
    gains: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for attempts, word in read:
        speeds: dict[tuple[str, int], list[float]] = {}
        for key, number, speed in _at_the_same_time(attempts):
            speeds.setdefault((key, number), []).append(speed)
        for (key, number), values in sorted(speeds.items()):
            basis = f"{word} ({len(values)}), {f'{number} at a time' if number > 1 else 'alone'}"
            figures[key].setdefault(number, Estimate(median(values), basis))
            several = sum(of == key for of, _ in speeds) > 1
            if several and (alone := speeds.get((key, 1))):
                gains[key].setdefault(number, median(values) / median(alone))
    return replace(cost.Measured.nothing(site), together=figures, gains=gains)


def _overheads(read: Iterable[tuple[Sequence[_Attempt], str]]) -> dict[str, float]:
    """Stage -> the seconds of the shortest one, of pretraining without its steps: beginning one takes no longer."""
    shortest: dict[str, float] = {}
    for each in (each for attempts, _ in read for each in attempts if each.seconds):
        begun = max(SHORTEST, (each.seconds or 0.0) - (each.trained or 0.0))
        shortest[each.stage] = min(begun, shortest.get(each.stage, begun))
    return shortest


def _at_the_same_time(attempts: Sequence[_Attempt]) -> Iterable[tuple[str, int, float]]:
    """(architecture key, runs, their FLOP/s) of the pretrainings that had the same number of others beside them all of
    the time, and no other stage."""
    packs: defaultdict[tuple[str, int], list[tuple[_Attempt, tuple[float, float]]]] = defaultdict(list)
    for each in attempts:
        if each.span:
            packs[each.pack].append((each, each.span))
    for pack in packs.values():
        training = _Busy(span for each, span in pack if each.stage == "pretrain")
        anything = _Busy(span for _, span in pack)
        for each, span in pack:
            runs = training.mean(span)
            number = round(runs)
            alike = abs(runs - number) <= STEADY * number and anything.mean(span) - runs <= STEADY * number
            if each.rate and alike:
                yield each.key, number, each.rate * runs


class _Busy:
    """How many of some spans of time, (start, end) in seconds, go on at once."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        spans = list(spans)
        self._starts, self._ends = sorted(start for start, _ in spans), sorted(end for _, end in spans)
        self._sums = [[0.0, *accumulate(times)] for times in (self._starts, self._ends)]

    def mean(self, span: tuple[float, float]) -> float:
        """The mean number of spans during this one."""
        start, end = span
        return (self._until(end) - self._until(start)) / (end - start)

    def _until(self, moment: float) -> float:
        """The seconds that all spans together have gone on by then."""
        begun, ended = bisect(self._starts, moment), bisect(self._ends, moment)
        return (begun * moment - self._sums[0][begun]) - (ended * moment - self._sums[1][ended])


def _measured(ledger: Ledger, site: Site) -> Iterator[_Attempt]:
    """The ledger's attempts; settings are parsed once for runs that differ in seed only."""
    known: dict[str, tuple[RunConfig, str, str] | None] = {}
    done = ledger.completed_stages()
    for row in (row for stage in STAGES if stage in done for row in ledger.measurements(site.name, stage, NEWEST)):
        unseeded = re.sub(r'"seed":\d+', "", row["config"], count=1)
        if unseeded not in known:
            config = read_settings(row["config"])
            known[unseeded] = (
                (config, cost.architecture_key(config), cost.shape_key(config))
                if isinstance(config, RunConfig)
                else None
            )
        if settings := known[unseeded]:
            yield _Attempt(row, *settings)


class _Attempt:
    """One completed attempt, as `Ledger.measurements` has it."""

    def __init__(self, row: MeasurementRow, config: RunConfig, key: str, shape: str) -> None:
        self.config, self.key, self.shape = config, key, shape
        self.stage, self.seconds = row["stage"], row["seconds"]
        self.peak, self.on_gpu = row["peak_memory_mb"], row["device"] not in (None, "cpu")
        usual = (None, self.config.train.micro_batch_tokens, tokens_at_once(self.config, gpu=self.on_gpu))
        if row["micro_batch_tokens"] not in usual:
            self.peak = None  # with a smaller micro-batch, after it had run out of memory
        if STAGES[self.stage].alone:
            self.peak = None  # it has all the memory there is, and limits nobody's slots
        self.tokens_per_second, self.trained = row["tokens_per_second"], row["trained"]
        # runs that shared the pack
        apart = STAGES[self.stage].alone or not cost.shares_device(self.stage)
        self.together = 1 if apart else max(1, min(row["slots"] or 1, row["runs"]))

        self.device = row["device"]
        self.pack = row["submission_id"], row["pack_index"]
        self.span = _span(row)

    def here(self, site: Site) -> bool:
        """Whether it was on the kind of device that the site has; of most stages only the time is known."""
        return self.device is None or self.on_gpu == bool(site.gpus)

    @property
    def rate(self) -> float | None:
        """FLOP/s of a pretraining by itself."""
        if self.stage != "pretrain" or not self.tokens_per_second:
            return None
        return float(self.tokens_per_second * cost.training_flops(self.config))

    def speed(self, known: cost.Measured) -> float | None:
        """FLOP/s of the pack; None where the time says nothing of it. One that was hardly more than begun tells that it
        is at least so fast."""
        if self.rate:
            return self.rate * self.together
        work, seconds = known.work(self.config, self.stage), self.seconds
        if not work or not seconds:
            return None
        if seconds > known.usual_overhead:
            return work * self.together / (seconds - known.overhead(self.stage))
        least = work * self.together / seconds
        return least if least > known.estimated(self.config, self.stage).value else None


def _span(row: MeasurementRow) -> tuple[float, float] | None:
    """When the device was at work on an attempt: a pretraining's steps are the last thing of any length that it does,
    after loading, tokenising and compiling. None if that is not known."""
    start, end = row["started"], row["ended"]
    if start is None or end is None or end <= start:
        return None
    trained = row["trained"] or end - start
    return max(start, end - trained), end
