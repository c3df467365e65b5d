"""A training speaks while it runs: curve.jsonl, which is kept, and lines on stdout."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

PRINT_EVERY = 10  # seconds


@dataclass
class Counters:
    """The counts of what a training has done so far; saved with every checkpoint."""

    step: int = 0  # optimizer steps
    tokens: int = 0  # of the stories, without padding
    seconds: float = 0.0  # of training, without evaluations and checkpoints
    waited: float = 0.0  # of these, for data
    steady_tokens: int = 0  # without the first step of a sitting, when memory is touched first, and those that compile
    steady_seconds: float = 0.0
    compiling: tuple[int, float] = (0, 0.0)  # tokens and seconds of the steps in which something was compiled
    due: bool = False  # an evaluation, after this step
    labels: int = 0
    eligible: int = 0  # tokens that could have been labels
    warmed: float = 0.0  # of the training, 0 to 1, that was done when the warm-up ended
    first_loss: float = math.nan
    first_labels: int = 0
    used: dict[str, dict[str, float]] = field(default_factory=dict)  # beginning, middle, end -> name -> scheduled value

    def seconds_left(self, fraction: float, *, by_hours: bool = False) -> float:
        """With this share done, and the rest as fast, but for compiling; of a budget of hours that counts as well."""
        counted = self.seconds if by_hours else self.seconds - self.compiling_seconds(1 / self.tokens_per_second)
        return (1 / fraction - 1) * counted

    def compiling_seconds(self, rate: float) -> float:
        """What compiling took of `seconds`, where other steps take so many seconds a token."""
        tokens, seconds = self.compiling
        return max(0.0, seconds - tokens * rate)

    @property
    def tokens_per_second(self) -> float:
        if self.steady_seconds:
            return self.steady_tokens / self.steady_seconds
        return self.tokens / self.seconds if self.seconds else 0.0


class Curve:
    """curve.jsonl: {"step", "loss", "learning_rate", "tokens", "seconds"} or {"step", "eval_loss"} in a line,
    with what else a model counts in its evaluations: `steps_per_token` where positions halt.

    `loss` is that of the one step, in nats per label; `tokens` and `seconds` are sums from the beginning. With a
    teacher `loss` is still that of the labels, and `divergence` is KL(teacher || student), both softened as it is
    trained."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.evaluations: dict[int, float] = {}  # step -> loss
        self.counted: dict[int, dict[str, float]] = {}  # step -> what else its evaluation tells

    def cut(self, step: int) -> None:
        """Keep the lines up to `step`, which are those of the checkpoint that training goes on from."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one may be torn
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        told = {record.pop("step"): record for record in map(json.loads, kept) if "eval_loss" in record}
        self.evaluations = {step: record.pop("eval_loss") for step, record in told.items()}
        self.counted = told
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.draft")
        draft.write_text("".join(kept))
        os.replace(draft, self.path)

    def add(
        self, counters: Counters, loss: float, learning_rate: float, *, last: bool, apart: float | None = None
    ) -> None:
        step = counters.step
        if step == 1 or last or step % self.every == 0:
            taught = {} if apart is None else {"divergence": apart}
            self._append(
                step=step, loss=loss, **taught, learning_rate=learning_rate, tokens=counters.tokens,
                seconds=counters.seconds,
            )  # fmt: skip

    def add_evaluation(self, step: int, loss: float, counted: dict[str, float]) -> None:
        self.evaluations[step], self.counted[step] = loss, counted
        self._append(step=step, eval_loss=loss, **counted)

    def sync(self) -> None:
        """A checkpoint must not outlive the lines before it."""
        with self.path.open("a") as file:
            os.fsync(file.fileno())

    def _append(self, **record: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


class Log:
    """A line on stdout every few seconds."""

    def __init__(self) -> None:
        self.printed = -math.inf

    def step(self, counters: Counters, loss: float, fraction: float, seconds_left: float, progress: str) -> None:
        now = time.monotonic()
        if fraction < 1 and now - self.printed < PRINT_EVERY:
            return
        self.printed = now
        speed, minutes = counters.tokens_per_second, seconds_left / 60
        print(f"{progress}: loss {loss:.4f}, {speed:,.0f} tokens/s, {minutes:.1f} min left", flush=True)
