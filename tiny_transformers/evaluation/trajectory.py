"""A model's scores on the way of its training: its validation loss and BLiMP at each anchor, and at the end.

All are scored in one process and by the same rows: the validation loss as pretraining computes it, a stream's as bits
per character, and BLiMP as the stage blimp does, of so many pairs a task as are set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny_transformers.common.work import CheckFailed, Interrupted, Outcome, Score, TinyTransformersError, Work
from tiny_transformers.data import corpus
from tiny_transformers.evaluation import blimp
from tiny_transformers.models import auto
from tiny_transformers.settings.config import ANCHORS, CURVE, anchor_name, tokens_at_once
from tiny_transformers.settings.stage.trajectory import END, PLACE, limit, scores_blimp
from tiny_transformers.training import anchors, device, losses, pretrain
from tiny_transformers.training.anchors import Anchors, Place


@dataclass(frozen=True)
class Point:
    """A model on the way."""

    name: str  # its anchor; END: the trained one
    folder: Path
    place: Place


@dataclass(frozen=True)
class Rows:
    """What every point is asked, and how."""

    held_out: corpus.Corpus
    precision: str  # of the validation, as in training
    pairs: blimp.Question | None


def run(work: Work) -> Outcome:
    """Score the anchors of `work.run_dir`, and the model of `work.model_dir`.

    Raises TinyTransformersError if an anchor that the training came to is not there."""
    where, points = device.pick_device(work.has_gpu), on_the_way(work)
    rows = _read(work, where)
    scores: list[Score] = []
    for number, point in enumerate(points):
        model: Any = auto.load_lm(point.folder)
        model.to(where).schedule(point.place.done)
        found = [*_scores(_part(work, number, len(points), point.name), point, model, rows)]
        told = ", ".join(f"{score.metric} {score.value:.4f}" for score in found)
        print(f"{point.name}: {point.place.tokens:,} tokens, {told}", flush=True)
        scores += found
    places = {f"{point.name}.{name}": getattr(point.place, name) for point in points for name in PLACE}
    return Outcome(
        scores=scores,
        metrics={name: value for name, value in places.items() if value is not None}
        | {"peak_memory_mb": device.peak_memory_mb()},
        data=rows.held_out.fingerprints | (rows.pairs.fingerprints if rows.pairs else {}),
    )


def on_the_way(work: Work) -> list[Point]:
    """The anchors that the training came to, by their tokens, and the trained model."""
    kept, end = Anchors(work.run_dir / ANCHORS, work.config.train.anchors), _end(work)
    if missing := kept.missing(end):
        raise TinyTransformersError(
            f"{kept.folder}: lacks {', '.join(map(anchor_name, missing))}: an earlier trajectory removed its anchors, "
            "as evaluation.trajectory.keep says, or somebody did. `rerun --stage pretrain` writes them again."
        )
    places = {number: anchors.read(kept.of(number)) for number in kept.numbers}
    for number in (number for number, place in places.items() if place is None):
        print(f"{anchor_name(number)}: the training ended before, after {end.tokens:,} tokens", flush=True)
    found = [Point(anchor_name(number), kept.of(number), place) for number, place in places.items() if place]
    return [*sorted(found, key=lambda point: point.place.tokens), Point(END, work.model_dir, end)]


def _end(work: Work) -> Place:
    """Where the training ended, as the last step of its learning curve says."""
    curve = work.run_dir / CURVE
    try:
        records = [json.loads(line) for line in curve.read_text().splitlines()]
        last = [record for record in records if "tokens" in record][-1]
    except (OSError, ValueError, LookupError) as error:
        raise TinyTransformersError(
            f"{curve}: does not say where the training ended: {error}. `rerun --stage pretrain` writes it again."
        ) from None
    return Place.after(last["step"], work.config, tokens=last["tokens"], seconds=last["seconds"], done=1.0)


def _read(work: Work, where: Any) -> Rows:
    return Rows(
        corpus.read(work, tokens_at_once(work.config, gpu=where.type == "cuda")),
        pretrain.resolve_precision(work.config.train.precision, where),
        blimp.Question.read(work, limit(work.config)) if scores_blimp(work.config) else None,
    )


def _scores(work: Work, point: Point, model: Any, rows: Rows) -> Iterator[Score]:
    def on_batch() -> None:
        if work.should_stop():
            raise Interrupted
        work.progress(0.0, "validating")

    nats = losses.validation_loss(model, rows.held_out, model.device, rows.precision, on_batch)
    if not math.isfinite(nats):
        raise CheckFailed(f"{point.folder}: the validation loss is {nats}: the training had diverged")
    if work.config.data.is_stream:
        yield Score(point.name, "bpc", nats / math.log(2), rows.held_out.validation_labels)
    else:
        yield Score(point.name, "loss", nats, rows.held_out.validation_labels)
    if rows.pairs:
        found = rows.pairs.accuracy(work, model)
        yield Score(point.name, "blimp", found.accuracy, found.n)


def _part(work: Work, number: int, of: int, name: str) -> Work:
    """The work on one point, whose progress is a part of the whole."""

    def progress(fraction: float, text: str) -> None:
        work.progress((number + fraction) / of, f"{name}, {number + 1} of {of}: {text}")

    return replace(work, progress=progress)
