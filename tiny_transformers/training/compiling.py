"""Whether a training's blocks are compiled: where what is left of it repays that, as measured while it trains.

`train.compile` true compiles from the first step, false never. Left open, a dense model on a GPU begins without. Once
some steps are timed, its blocks are compiled if that is likely to repay itself; then as many steps are timed again, and
what is faster is kept. What was decided stands in compiling.json from that moment on, by the numbers of steps, so that
a training that was stopped computes each step as it would have.

Validation, and a text that is alone in its batch, are never compiled: each would need code of its own. So is all of a
model whose passes go by their data but the attention, and of Brainformers that, too."""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from tiny_transformers.common.files import whole_file
from tiny_transformers.common.work import TinyTransformersError, Work
from tiny_transformers.data.batches import Batch
from tiny_transformers.settings import config
from tiny_transformers.training.curve import Counters
from tiny_transformers.training.device import compiler

WARM, TIMED = 5, 20  # steps, before and after: so many pass, and so many are timed
GAIN = 0.25  # of the time of steps; what compiling is taken to save until it is measured. An estimate
SECONDS = 60.0  # that compiling is taken to need, where no training before has noted it. An estimate
OVER = "Dynamo recompile limit exceeded"  # how torch begins to tell of it


class CompilerFailed(TinyTransformersError):
    """torch.compile does not get along with a model, or with this machine."""


@dataclass
class Choice:
    """Which steps are compiled; they are counted from 0. The rates are medians."""

    since: int | None = None  # the first one
    until: int | None = None  # the first one thereafter that is not
    settled: bool = False  # nothing is timed any more
    plain: float | None = None  # seconds a token, not compiled
    compiled: float | None = None  # seconds a token

    def compiles(self, step: int) -> bool:
        return self.since is not None and self.since <= step and (self.until is None or step < self.until)


class Compiling:
    """Of one sitting of a training."""

    def __init__(self, work: Work, device: torch.device, model: Any) -> None:
        self.model, self.file = model, work.run_dir / config.COMPILING
        self.asked = work.config.train.compile
        self.whole = work.config.model.same_shapes
        self.measures = self.asked is None and measures(device, self.whole)
        self.choice = self._decided()
        self.note = _note(work, device) if self.measures else None
        self.on = self.ready = self.told = False  # on: for the step at hand
        self.timed: list[float] = []  # seconds a token
        self.graphs = _graphs()

    def _decided(self) -> Choice:
        if not self.measures:
            return Choice(since=0 if self.asked else None, settled=True)
        if self.file.exists():
            return Choice(**json.loads(self.file.read_text()))
        return Choice()

    def begin(self, step: int) -> None:
        """Before each step."""
        self.on = self.choice.compiles(step)
        if self.on and not self.ready:
            self.ready = self.model.compile_blocks(whole=self.whole)
            if not self.ready:
                print("train.compile: nothing of such a model is compiled, since all goes by its data", flush=True)
                self.on, self.choice = False, Choice(settled=True)

    def forward(self, batch: Batch) -> AbstractContextManager[Any]:
        """What a training's forward pass of a batch is made in. The rows of a stream are as many in every batch, and
        texts that lie in one row are always in one."""
        alone = batch.rows is None and batch.texts is None and len(batch.input_ids) == 1
        if not self.on or alone:
            return self.plainly()
        from torch.fx.experimental import _config as shapes

        # Two sizes that are equal in the first batch, such as its length and the model's width, are not one size.
        return cast("AbstractContextManager[Any]", shapes.patch(use_duck_shape=False))

    def plainly(self) -> AbstractContextManager[Any]:
        """What all is computed in that is not compiled."""
        return torch.compiler.set_stance("force_eager") if self.ready else nullcontext()

    def look(self) -> bool:
        """After each step: whether something was compiled in it, so that its time tells nothing of others. Says, once,
        where torch has given up to compile what it meets."""
        before, self.graphs = self.graphs, _graphs()
        if not self.told and any(reason.startswith(OVER) for reason in _dynamo("unimplemented")):
            self.told = True
            print("warning: torch.compile has met more shapes than it makes code for: the rest is not compiled. Please "
                  "report it with the model's settings; train.compile: false is as good", flush=True)  # fmt: skip
        return self.graphs > before

    def time(self, step: int, rate: float, left: float, counters: Counters) -> None:
        """Heed a step that was like those to come, at so many seconds a token; decide when enough are timed. `left` is
        what the rest takes as it goes now, in seconds."""
        choice = self.choice
        if choice.settled or self.on != (choice.since is not None):
            return
        self.timed.append(rate)
        if len(self.timed) < WARM + TIMED:
            return
        median = statistics.median(self.timed[WARM:])
        self.timed.clear()
        if self.on:
            self._keep_the_faster(step, median, counters.compiling_seconds(median))
        else:
            self._begin_if_it_repays(step, median, left)
        if choice.compiles(step + 1) != self.on:  # the measured rate is of the way that was kept
            counters.steady_tokens, counters.steady_seconds = 0, 0.0
        self._write()

    def _begin_if_it_repays(self, step: int, median: float, left: float) -> None:
        needs, choice = self._expected(), self.choice
        choice.plain, choice.settled = median, left * GAIN <= needs
        about = f"{left:,.0f} s are left as it goes, and compiling takes about {needs:.0f} s"
        if choice.settled:
            print(f"not compiled: {about}", flush=True)
        else:
            choice.since = step + 1
            print(f"compiling the blocks from step {step + 2} on: {about}", flush=True)

    def _keep_the_faster(self, step: int, median: float, seconds: float) -> None:
        choice = self.choice
        choice.compiled, choice.settled = median, True
        if choice.plain is None or median >= choice.plain:
            choice.until = step + 1
        kept = "goes on compiled" if choice.until is None else "goes on without, which is faster"
        ratio = (choice.plain or 0.0) / median
        print(f"{kept}: compiled steps are {ratio:.2f} times as fast; compiling took {seconds:.0f} s", flush=True)
        if self.note:
            _write(self.note, {"seconds": seconds})

    def give_up(self, step: int, error: CompilerFailed) -> None:
        """Go on without. Raises the error where `train.compile` asks for compiling."""
        if not self.measures:
            raise error
        self.choice.until, self.choice.settled = step, True
        print(f"goes on without compiling, and so slower: {error}", flush=True)
        self._write()

    def _expected(self) -> float:
        """Seconds: as the last training of such a model noted it beside what it compiled, if that is still there."""
        try:
            return float(json.loads(self.note.read_text())["seconds"]) if self.note else SECONDS
        except (OSError, ValueError, KeyError, TypeError):
            return SECONDS

    def _write(self) -> None:
        _write(self.file, asdict(self.choice))

    def figures(self, counters: Counters) -> dict[str, float]:
        """Return what the result has of it."""
        choice = self.choice
        found: dict[str, float] = {"compiled": int(choice.compiles(counters.step - 1))}
        if choice.since is not None:
            found["compile_seconds"] = counters.compiling_seconds(1 / counters.tokens_per_second)
        if choice.plain and choice.compiled:
            found["compiled_speedup"] = choice.plain / choice.compiled
        return found


def measures(device: torch.device, same_shapes: bool) -> bool:
    """Whether it is to be measured, where it is left open: for dense models on a GPU. What others compute depends on
    the data, in many small pieces."""
    wanted = device.type == "cuda" and same_shapes
    if wanted and not compiler():
        print("not compiled, and so slower: neither CC nor clang nor gcc is found on this node", flush=True)
        return False
    return wanted


def _dynamo(counted: str) -> Mapping[str, int]:
    """Return what torch's capturing of graphs has counted in this process."""
    loaded = sys.modules.get("torch._dynamo.utils")  # it takes a second to load, and only compiling needs it
    return loaded.counters[counted] if loaded else {}


def _graphs() -> int:
    return _dynamo("stats").get("unique_graphs", 0)


def _note(work: Work, device: torch.device) -> Path:
    """Where it is noted how long compiling took, in inductor's cache: with what was compiled then, that is gone. A
    seed, the data and the number of steps change nothing of it."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    where = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    told = f"{work.config.model.model_dump_json()} {work.config.train.precision} {torch.__version__} {where}"
    return Path(cache_dir()) / "tiny-transformers" / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"


def _write(file: Path, content: dict[str, Any]) -> None:
    with whole_file(file) as draft:
        draft.write_text(json.dumps(content))
