"""How fast the trained model is: encoding, a decoder's generation, and its feed-forward module alone, on this device.

The saved model itself, in evaluation mode, without gradients, on random tokens of a fixed seed. Every pass is timed by
itself, from an idle device to an idle device; what a figure says is in docs/evaluation.md. That nothing else runs on
the device is the caller's to see to (`StageKind.alone`)."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor

from tiny_transformers.common.work import Check, Interrupted, Outcome, Score, Work
from tiny_transformers.evaluation import edge, scoring
from tiny_transformers.layers.ffn.experts import GatedExperts
from tiny_transformers.models import auto
from tiny_transformers.settings import architecture
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.speed import Speed
from tiny_transformers.training import device

Tick = Callable[[int], None]  # told the number of passes done, before each; may raise, to stop

SEED = 0
FIRST_ID = 4  # of a token that is not special: before it are <pad>, <s>, </s>, <unk>
SECONDS = 60.0  # after so long a measurement ends, but not before LEAST passes
LEAST = 3
CONFIDENCE = 0.95
CACHE_TOLERANCE = 1e-3  # of the largest logit; rounding alone stays well below
# The sparse study's: 16 x 256 tokens, 10 times the passes of a whole model (it had 100 and 1,000).
FEED_FORWARD = 16, 256
FEED_FORWARD_PASSES = 10


@dataclass(frozen=True)
class Measurement:
    """One thing that is done again and again with one batch size."""

    task: str  # encode, generate, feed_forward
    batch_size: int
    tokens: int  # that one pass encodes or generates, of all rows
    action: Callable[[], Tensor]
    warmup: int
    repetitions: int

    @property
    def name(self) -> str:
        return f"{self.task}_b{self.batch_size}"


@dataclass(frozen=True)
class Timing:
    """The outcome of one measurement."""

    of: Measurement
    seconds: list[float]  # of every counted pass
    peak_memory_mb: float

    @property
    def latency(self) -> float:
        """Seconds of a pass, the median."""
        return statistics.median(self.seconds)

    @property
    def interval(self) -> tuple[float, float]:
        return median_interval(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.of.tokens / self.latency

    def scores(self) -> list[Score]:
        low, high = self.interval
        values = {
            "tokens_per_second": self.tokens_per_second,
            "latency_s": self.latency,
            "latency_low_s": low,
            "latency_high_s": high,
            "peak_memory_mb": self.peak_memory_mb,
        }
        if self.of.task == "feed_forward":  # as the study has it
            values |= {
                "latency_mean_s": statistics.mean(self.seconds),
                "latency_sd_s": statistics.pstdev(self.seconds),
            }
        return [Score(self.of.name, metric, value, len(self.seconds)) for metric, value in values.items()]


def run(work: Work) -> Outcome:
    """Measure the model of `work.model_dir`. Needs no tokenizer and no data."""
    where, load = device.pick_device(work.has_gpu), os.getloadavg()[0]
    model: Any = auto.load_lm(work.model_dir)
    model.to(where)
    outcome = Outcome(metrics=_hardware(work.config, load) | _sizes(work, model))
    for name, value in outcome.metrics.items():
        print(f"{name}: {value}")
    with scoring.evaluating(model):
        cached = _check_cache(model, work.config, outcome) if work.config.model.causal else False
        model.to(getattr(torch, work.config.evaluation.precision))
        _measure_all(work, plan(model, work.config, cached=cached), outcome)
    _measure_edges(work, outcome, cached=cached)
    return outcome


def _measure_edges(work: Work, outcome: Outcome, *, cached: bool) -> None:
    """What is asked for besides. On the CPU and in float32, whatever else is set."""
    settings = work.config.evaluation.of(Speed)
    if not (settings.threads or settings.int8 or settings.export):
        return
    model: Any = auto.load_lm(work.model_dir)
    kinds = edge.kinds(model, settings.int8, outcome)
    for number in settings.threads or ((torch.get_num_threads(),) if settings.int8 else ()):
        for prefix, kind in kinds.items():
            planned = [
                replace(each, task=f"{prefix}{each.task}_t{number}")
                for each in plan(kind, work.config, cached=cached)
                if each.task != "feed_forward"
            ]
            with scoring.evaluating(kind), edge.threads(number):
                _measure_all(work, planned, outcome)
    if settings.int8 and not work.config.data.is_stream:
        edge.ask_blimp(work, {prefix.strip("_") or "float32": kind for prefix, kind in kinds.items()}, outcome)
    if settings.export:
        edge.export(work, model, _tokens(model, 1, settings.tokens), outcome)


def plan(model: Any, config: RunConfig, *, cached: bool) -> list[Measurement]:
    """Return what is measured, in order; of each task the smallest batch comes first."""
    settings = config.evaluation.of(Speed)
    whole = partial(Measurement, warmup=settings.warmup, repetitions=settings.repetitions)
    sizes = sorted(set(settings.batch_sizes))
    measurements = [
        whole("encode", size, size * settings.tokens, partial(_encode, model, _tokens(model, size, settings.tokens)))
        for size in sizes
    ]
    if config.model.causal:
        measurements += [
            whole(
                "generate",
                size,
                size * settings.new_tokens,
                partial(_generate, model, _tokens(model, size, settings.prompt_tokens), settings.new_tokens, cached),
            )
            for size in sizes
        ]
    rows, length = FEED_FORWARD
    return [
        *measurements,
        Measurement(
            "feed_forward",
            rows,
            rows * length,
            partial(_feed_forward, feed_forward(model), _tokens(model, rows, length), _random(model, rows, length)),
            FEED_FORWARD_PASSES * settings.warmup,
            FEED_FORWARD_PASSES * settings.repetitions,
        ),
    ]


def feed_forward(model: Any) -> torch.nn.Module:
    """The model's own module in the first block that has one: (B, T, H) -> (B, T, H)."""
    owner, name = model.stack()
    modules = (model.feed_forward(block) for block in getattr(owner, name).children())
    return next(module for module in modules if module is not None)


def measure(measurement: Measurement, tick: Tick = lambda _: None) -> Timing:
    """Warm up, then time every pass. Fewer passes than asked for, but not fewer than LEAST, where they are slow."""
    device.reset_peak_memory()
    passes(measurement.action, 1, measurement.warmup, tick)
    counted = passes(measurement.action, min(LEAST, measurement.repetitions), measurement.repetitions, tick)
    return Timing(measurement, counted, device.peak_memory_mb())


def passes(action: Callable[[], Tensor], least: int, most: int, tick: Tick) -> list[float]:
    """Seconds of each pass: `most`, or as many, at least `least`, as have begun when SECONDS are over."""
    taken: list[float] = []
    while len(taken) < most and (len(taken) < least or sum(taken) < SECONDS):
        tick(len(taken))
        _await_device()
        begin = time.perf_counter()
        action()
        _await_device()
        taken.append(time.perf_counter() - begin)
    return taken


def median_interval(values: list[float]) -> tuple[float, float]:
    """Two of the values that hold the median between them with a probability of at least CONFIDENCE, whatever the
    distribution (David and Nagaraja 2003, Order Statistics, section 7.1). Of fewer than 6 it is all of their range,
    whose probability is 1 - 2^(1 - n)."""
    rank = max(1, int(binom.ppf((1 - CONFIDENCE) / 2, len(values), 0.5)))
    ordered = sorted(values)
    return ordered[rank - 1], ordered[-rank]


def _measure_all(work: Work, measurements: list[Measurement], outcome: Outcome) -> None:
    """In order. A task whose batch does not fit into memory is not tried with a larger one."""
    print(f"{'':16}{'passes':>8}{'ms':>12}{'interval':>24}{'tokens/s':>14}{'peak MB':>10}")
    too_large: set[str] = set()
    for number, measurement in enumerate(measurements):
        if measurement.task not in too_large:
            tick = partial(_tick, work, measurement, number / len(measurements))
            timing = _unless_out_of_memory(partial(measure, measurement, tick))
            if timing:
                outcome.scores += timing.scores()
                _print(timing)
                continue
            too_large.add(measurement.task)
        outcome.metrics[measurement.name] = "out of memory"
        print(f"{measurement.name:16}{'out of memory':>20}", flush=True)
    work.progress(1.0, f"{len(measurements)} measurements")


def _unless_out_of_memory(measured: Callable[[], Timing]) -> Timing | None:
    """None, with the memory given back, if there was not enough of it."""
    try:
        return measured()
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _tick(work: Work, measurement: Measurement, before: float, done: int) -> None:
    if work.should_stop():
        raise Interrupted
    work.progress(before, f"{measurement.name}, pass {done + 1}")


def _print(timing: Timing) -> None:
    low, high = timing.interval
    interval = f"{1e3 * low:,.2f} - {1e3 * high:,.2f}"
    print(
        f"{timing.of.name:16}{len(timing.seconds):>8}{1e3 * timing.latency:>12,.2f}{interval:>24}"
        f"{timing.tokens_per_second:>14,.0f}{timing.peak_memory_mb:>10,.0f}",
        flush=True,
    )


def _encode(model: Any, ids: Tensor) -> Tensor:
    """ids: (B, T) -> the last block's hidden states, (B, T, H). No logits: nothing that uses an encoding needs them."""
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def _feed_forward(module: Any, ids: Tensor, x: Tensor) -> Tensor:
    """ids: (B, T), x: (B, T, H) -> (B, T, H)"""
    if isinstance(module, GatedExperts):  # whose gate may choose by the ids, which else are of the last pass
        module.ids = ids
    return module(x)


def _generate(model: Any, prompt: Tensor, new_tokens: int, cached: bool) -> Tensor:
    """prompt: (B, P) -> (B, P + new_tokens), greedily; </s> is never chosen, since it would end a row."""
    ids = model.generate(prompt, **_settings(prompt, new_tokens, cached))
    assert ids.shape == (len(prompt), prompt.shape[1] + new_tokens), ids.shape
    return ids


def _settings(prompt: Tensor, new_tokens: int, cached: bool) -> dict[str, Any]:
    """Return the settings of Hugging Face's `generate`."""
    return {
        "attention_mask": torch.ones_like(prompt),
        "min_new_tokens": new_tokens,
        "max_new_tokens": new_tokens,
        "do_sample": False,
        "use_cache": cached,
    }


def _check_cache(model: Any, config: RunConfig, outcome: Outcome) -> bool:
    """Whether `generate` has the same logits with the cache of keys and values as without. In float32, before the
    weights are rounded."""
    whole, stepwise = (_logits_of_generation(model, config, cached) for cached in (False, True))
    error = ((stepwise - whole).abs().max() / whole.abs().max()).item()
    works = error < CACHE_TOLERANCE
    outcome.checks.append(Check("generation_cache", works, error, blocking=False))
    outcome.metrics["generation_cache"] = "used" if works else "not used"
    print(f"generation_cache: {outcome.metrics['generation_cache']}, relative error of the logits {error:.1e}")
    return works


def _logits_of_generation(model: Any, config: RunConfig, cached: bool) -> Tensor:
    """(2, new_tokens, V), before each token of a text that is given: a choice between two that are as good as equal
    would hang on rounding, and what comes after it with it."""
    settings = config.evaluation.of(Speed)
    text = _tokens(model, 2, settings.prompt_tokens + settings.new_tokens)
    prompt = text[:, : settings.prompt_tokens]
    generated = model.generate(
        prompt,
        **_settings(prompt, settings.new_tokens, cached),
        prefix_allowed_tokens_fn=lambda row, before: [text[row, len(before)].item()],
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(generated.sequences, text)
    return torch.stack(generated.logits, dim=1)


def _tokens(model: Any, rows: int, length: int) -> Tensor:
    """(rows, length) ids, none of them special; <mask> is the last one."""
    ids = torch.randint(FIRST_ID, model.config.vocab_size - 1, (rows, length), generator=_generator())
    return device.carried(ids, model.device)


def _random(model: Any, rows: int, length: int) -> Tensor:
    """(rows, length, H), standard normal"""
    x = torch.randn(rows, length, model.config.hidden_size, generator=_generator())
    return device.carried(x.to(model.dtype), model.device)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _await_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _hardware(config: RunConfig, load: float) -> dict[str, float | int | str]:
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu": device.cpu_name(),
        "threads": torch.get_num_threads(),
        "load_average": load,  # of the last minute, before the first pass
        "torch": torch.__version__,
        "precision": config.evaluation.precision,
        "peak_memory": "of each measurement" if device.reset_peak_memory() else "of the process so far",
    }


def _sizes(work: Work, model: Any) -> dict[str, float | int | str]:
    parameters, own = model.num_parameters(), feed_forward(model).parameters()
    return {
        "size_mb": (work.model_dir / "model.safetensors").stat().st_size / 2**20,
        "parameters": parameters,
        "parameters_without_embedding": parameters - architecture.parameters(work.config.model).embedding,
        "feed_forward_parameters": sum(parameter.numel() for parameter in own),
        "feed_forward_flops_per_token": work.config.model.feed_forward_flops,
    }
