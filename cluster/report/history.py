"""When each pack of a study waited, worked and failed, and the hours that its attempts had taken at any time.

A pack is followed by those of its attempts that are of the study. All of it is from the ledger: what has no times there
is counted, and shown nowhere. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

import numpy as np
from numpy.typing import NDArray

from cluster.files.statuses import LIVE
from cluster.ledger.rows import TryRow

PAUSE = 300  # seconds between two attempts from which on a pack is taken to have waited again, if the first failed
IDLE = 0.1  # of the time in which anything happened: a longer time in which nothing did is cut out
Span = tuple[float, float]


@dataclass(frozen=True)
class Failed:
    """An attempt that failed: what it took is lost."""

    span: Span
    cause: str


@dataclass(frozen=True)
class PackHistory:
    """A pack, as one line of time."""

    job: str
    waited: tuple[Span, ...]
    worked: tuple[Span, ...]
    failed: tuple[Failed, ...]


@dataclass(frozen=True)
class History:
    """All packs of a study, the oldest first."""

    packs: tuple[PackHistory, ...]
    untimed: int  # attempts that are over and whose times nobody knows
    zone: tzinfo | None  # of the first submission

    @property
    def busy(self) -> list[Span]:
        """The stretches in which something waited or worked, but for short breaks."""
        spans = merged([span for pack in self.packs for span in (*pack.waited, *pack.worked)], 0)
        return merged(spans, IDLE * sum(end - start for start, end in spans))


def history(tries: Iterable[TryRow]) -> History:
    packs: dict[tuple[str, int], list[TryRow]] = {}
    for each in tries:
        packs.setdefault((each["submission_id"], each["pack_index"]), []).append(each)
    every = [each for pack in packs.values() for each in pack]
    submitted = [moment for each in every if (moment := _moment(each["created"]))]
    latest = max([*(moment.timestamp() for moment in submitted), *(end for each in every for end in _span(each)[1:])],
                 default=0.0)  # fmt: skip
    told = [found for pack in packs.values() if (found := _pack(pack, latest))]
    told.sort(key=lambda pack: min(start for start, _ in (*pack.waited, *pack.worked)))
    untimed = sum(not _span(each) and each["status"] not in LIVE for each in every)
    return History(tuple(told), untimed, submitted[0].tzinfo if submitted else None)


def _pack(tries: Sequence[TryRow], latest: float) -> PackHistory | None:
    """None if nothing is known of its times."""
    spans = [span for each in tries if (span := _span(each))]
    worked = merged(spans, PAUSE)
    moment = _moment(tries[0]["created"])
    waits = any(each["status"] == "submitted" for each in tries) and not any(e["status"] == "running" for e in tries)
    if not worked and not (moment and waits):
        return None
    ends = [moment.timestamp() if moment else worked[0][0], *(end for _, end in worked)]
    starts = [*(start for start, _ in worked), *([latest] if waits else [])]
    # After what did not fail a pack does not wait for a requeue: it works on runs of another study.
    elsewhere = {span[1] for each in tries if each["status"] != "failed" and (span := _span(each))}
    waited = [(end, start) for end, start in zip(ends, starts, strict=False)
              if start > end and (end not in elsewhere or start == latest)]  # fmt: skip
    failed = [Failed(span, each["cause"] or "error") for each in tries
              if each["status"] == "failed" and (span := _span(each))]  # fmt: skip
    job = next((each["job"] for each in tries if each["job"]), "")
    return PackHistory(job, tuple(waited), tuple(worked), tuple(failed))


def _span(each: TryRow) -> Span | tuple[()]:
    """Empty where it has no beginning or no end."""
    started, ended = each["started"], each["ended"]
    return () if started is None or ended is None else (started, max(started, ended))


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def merged(spans: Iterable[Span], pause: float) -> list[Span]:
    """In their order, those together that overlap or have no more than a pause between them."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + pause:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def hours_at(times: NDArray[np.float64], tries: Iterable[TryRow]) -> NDArray[np.float64]:
    """The hours that these attempts had taken at each time; an attempt takes its hours evenly."""
    known = [(*span, each["hours"]) for each in tries if (span := _span(each)) and each["hours"]]
    total = np.zeros(len(times))
    for start, end, hours in known:
        total += hours * np.clip((times - start) / max(end - start, 1e-9), 0, 1)
    return total
