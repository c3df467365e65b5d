"""What the ledger has measured on a site -> `cost.Measured`, by which runs are planned.

Only attempts on the site of the same name count, and peaks only of the same kind of device. Speeds are of whole packs:
a run that shared its pack with others had a part of it. What a probe measured counts where the ledger proper has
nothing. Bounded: the newest attempts of each stage, and each distinct settings parsed once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import Any

from cluster import cost
from cluster.cost import Figure
from cluster.ledger import Ledger
from cluster.site import Site
from tiny_transformers.config import ALONE, STAGES, RunConfig

NEWEST = 2_000  # attempts of each stage that are looked at


def measured(ledgers: Sequence[tuple[Ledger, str]], site: Site) -> cost.Measured:
    """From ledgers, each with the word for its basis ("measured"); an earlier one's figures count before a later's."""
    by_stage: dict[str, Figure] = {}
    by_architecture: dict[tuple[str, str], Figure] = {}
    peaks: dict[str, Figure] = {}
    for ledger, word in ledgers:
        attempts = [_Attempt(row) for row in _parsed(ledger, site)]
        speeds: dict[tuple[str, str], list[float]] = {}
        memory: dict[str, list[float]] = {}
        trained = {each.key for each in attempts if each.stage == "pretrain"}
        for each in attempts:
            if speed := each.speed():
                speeds.setdefault((each.key, each.stage), []).append(speed)
            # Of an architecture whose pretraining was not measured the peak is not known yet.
            if each.peak and each.key in trained and each.on_gpu == bool(site.gpus):
                memory.setdefault(each.key, []).append(each.peak)
        for key, values in speeds.items():
            by_architecture.setdefault(key, Figure(median(values), f"{word} ({len(values)})"))
        for stage in STAGES:
            values = [value for (_, of), found in speeds.items() if of == stage for value in found]
            if values:
                basis = f"{word} for this stage on other models ({len(values)})"
                by_stage.setdefault(stage, Figure(median(values), basis))
        for architecture, found in memory.items():
            peaks.setdefault(architecture, Figure(max(found), f"{word} ({len(found)})"))
    return cost.Measured(site.flops, by_stage, by_architecture, peaks)


def _parsed(ledger: Ledger, site: Site) -> list[dict[str, Any]]:
    """The ledger's rows, with `config` parsed and the architecture's `key`: once for runs that differ in seed only."""
    known: dict[str, tuple[RunConfig, str]] = {}
    rows = [row for stage in STAGES for row in ledger.measurements(site.name, stage, NEWEST)]
    for row in rows:
        unseeded = re.sub(r'"seed":\d+', "", row["config"], count=1)
        if unseeded not in known:
            config = RunConfig.model_validate_json(row["config"])
            known[unseeded] = config, cost.architecture_key(config)
        row["config"], row["key"] = known[unseeded]
    return rows


class _Attempt:
    """One completed attempt, as `Ledger.measurements` has it."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.config: RunConfig = row["config"]
        self.key, self.stage, self.seconds = row["key"], row["stage"], row["seconds"]
        self.peak, self.on_gpu = row["peak_memory_mb"], row["device"] not in (None, "cpu")
        if row["micro_batch_tokens"] not in (None, self.config.train.micro_batch_tokens):
            self.peak = None  # with a smaller micro-batch, after it had run out of memory
        if self.stage in ALONE:
            self.peak = None  # it has all the memory there is, and limits nobody's slots
        self.tokens_per_second = row["tokens_per_second"]
        # runs that shared the pack
        self.together = 1 if self.stage in ALONE else max(1, min(row["slots"] or 1, row["runs"]))

    def speed(self) -> float | None:
        """FLOP/s of the pack; None where the time says nothing of it."""
        if self.stage == "pretrain" and self.tokens_per_second:
            return float(self.tokens_per_second * cost.training_flops(self.config) * self.together)
        work, seconds = cost.flops(self.config, self.stage), (self.seconds or 0) - cost.STAGE_OVERHEAD
        return work * self.together / seconds if work and seconds > 0 else None
