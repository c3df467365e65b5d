"""What a machine with a GPU has to show, in five minutes: `make gpu`.

    python tests/benchmarks/gpu.py [--data-root DIR] [--minutes 5] [--parts PART ...]

- `equality`: every variant's loss and gradients in float32 are the CPU's, but for rounding.
- `rows`: texts in rows without padding have the loss and gradients of padded ones, but for bfloat16's rounding.
- `scores`: BLiMP, and an epoch of a GLUE task, by the clock.
- `table`: training of seven models of experiments.yaml with texts in rows without padding, which needs bfloat16; padded
  in bfloat16, TF32 and float32; and compiled, as a training would be, in bfloat16.
- `slots`: `probe --slots 1,2,4,8`, what several runs gain on one GPU, without MPS and with it.

The data is builtin unless there is a DATA_ROOT: stories of 45 tokens then, not 224, and as many more of them to a step.
What the time does not suffice for is left out, and told: most of what is to be compiled. Ends with 0, with 1 where
something is not equal or fails, and with 2 where there is no GPU. test_gpu.py calls the parts on a CPU, small."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from cluster.manifest import grids, loading
from tiny_transformers.common.work import NoGPU, Work
from tiny_transformers.data import batches, sources, tokenizer
from tiny_transformers.evaluation import blimp, superglue
from tiny_transformers.layers import noise
from tiny_transformers.layers.ffn import controller
from tiny_transformers.models import auto
from tiny_transformers.settings.architecture import Brainformer, Model
from tiny_transformers.settings.config import RunConfig, tokenizer_file
from tiny_transformers.settings.costs import story_tokens
from tiny_transformers.training import losses, packing
from tiny_transformers.training.device import cpu_name, peak_flops, peak_memory_mb, pick_device, reset_peak_memory
from tiny_transformers.training.pretrain import Training

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # last: tests/cluster must not hide the package
from variants import PAIRS, small  # noqa: E402

MANIFEST = ROOT / "experiments.yaml"
TOLERANCE = 1e-3  # relative, of the loss and of all gradients together: a GPU adds up in another order
ROUNDING = 3e-2  # of bfloat16, relative, of the loss and of all gradients together
GATES = ("naive", "switch", "dense")
CHARACTERS = {"order": "sgf", "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "attn_span": 8, "dropout": 0}
TABLE = {  # model of experiments.yaml -> study, and what the study calls it
    "gpt": ("activations", "gelu"), "bert": ("activations", "gelu"), "gpt_kan": ("activations", "kan_g3k3"),
    "gpt_256 moe": ("sparse_ffn", "moe4k2"), "gpt_256 pkm": ("sparse_ffn", "pkm56k28"),
    "gpt_deep": ("sharing", "gelu-seq6"), "bf_tiny": ("brainformer", "2xsgfgfg-naive16k2"),
}  # fmt: skip
COLUMNS = (  # precision, and the way
    ("bfloat16", "packed"), ("bfloat16", "eager"), ("tf32", "eager"), ("float32", "eager"), ("bfloat16", "compiled"),
)  # fmt: skip
STEP_TOKENS = 57_344  # of a step, about: 256 stories of 224 tokens
EPOCH_TOKENS = 475_000_000  # of TinyStories
WARM_UP = {False: 3, True: 8}  # steps, eager and compiled: a compiler meets several shapes
GLUE = "sst2"


class Clock:
    """The time that there is for all of it."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self.end - time.monotonic())


# -- equality ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """A forward and a backward pass, on the CPU."""

    loss: Tensor  # ()
    gradients: dict[str, Tensor]

    def differs(self, other: Pass) -> float:
        """The larger relative difference of the two: of the losses, and of all gradients as one vector."""
        loss = (self.loss - other.loss).abs() / self.loss.abs()
        off = sum((gradient - other.gradients[name]).square().sum() for name, gradient in self.gradients.items())
        whole = sum(gradient.square().sum() for gradient in self.gradients.values())
        return max(loss.item(), (torch.as_tensor(off) / whole).sqrt().item())


@contextmanager
def noise_of_the_cpu() -> Iterator[None]:
    """What layers draw in a forward pass is drawn on the CPU, wherever they are."""

    def on_cpu(draw: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda like: draw(like.cpu()).to(like.device)

    with ExitStack() as patched:
        for owner, name in ((torch, "randn_like"), (torch, "rand_like"), (controller, "gumbel")):
            patched.enter_context(mock.patch.object(owner, name, on_cpu(getattr(owner, name))))
        yield


def variants() -> dict[str, Model]:
    """Every kind of model, small, without dropout."""
    families = {f"{family} {variant}": small(family, variant, dropout=0.0) for variant, family in PAIRS}
    experts = {gate: {"gate": gate, "num_experts": 4} for gate in GATES}
    return families | {
        f"brainformer {gate}": Brainformer(**CHARACTERS, vocab_size=60, experts=experts[gate]) for gate in GATES
    }


def passed(settings: Model, device: torch.device) -> Pass:
    """A training pass of one batch on the device, with weights, batch and noise of the CPU."""
    model: Any = auto.build(settings, seed=0)
    model.to(device).train()
    ids = torch.randint(4, 60, (4, 16), generator=torch.Generator().manual_seed(1))
    noise.set_seed(2)
    with noise_of_the_cpu():
        loss = model(input_ids=ids.to(device), labels=ids.to(device)).loss
        loss.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return Pass(loss.detach().cpu(), gradients)


def equality(device: torch.device, clock: Clock, models: dict[str, Model] | None = None) -> bool:
    """Whether every model's pass on the device is the CPU's."""
    off: dict[str, float] = {}
    models = models or variants()
    for name, settings in models.items():
        if not clock.left:
            break
        off[name] = passed(settings, torch.device("cpu")).differs(passed(settings, device))
    wrong = {name: value for name, value in off.items() if not value <= TOLERANCE}  # what is no number is wrong
    worst = max(off, key=off.__getitem__, default="")
    print(f"equality: {len(off) - len(wrong)} of {len(models)} models' steps are the CPU's to {TOLERANCE:g}", end="")
    print(f", the largest difference {off[worst]:.1e} ({worst})" if off else "")
    left_out = len(models) - len(off)
    print(f"left out for lack of time: {left_out} models" if left_out else "", end="\n" if left_out else "")
    for name, value in wrong.items():
        print(f"NOT EQUAL: {name}: {value:.1e}")
    return not wrong


# -- texts in rows ----------------------------------------------------------------------------------------------------


def in_rows(settings: Model, device: torch.device, precision: str, packed: bool) -> Pass:
    """A training pass of some texts of different lengths, padded or in a row."""
    model: Any = auto.build(settings, seed=0)
    model.to(device).train()
    random = np.random.default_rng(1)
    texts = [random.integers(4, 60, length) for length in (3, 17, 1, 8, 20, 9)]
    examples = [batches.Example(text, text) for text in texts]
    if packed:
        (batch,) = batches.packed_batches(examples, 2**31, as_padded=False)
    else:
        (batch,) = batches.micro_batches(examples, 2**31, causal=True)
    with losses.arithmetic(device, precision):
        loss, _ = losses.token_losses(model, batch.to(device))
        loss.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return Pass(loss.detach().cpu(), gradients)


def rows(device: torch.device, precision: str = "bfloat16", tolerance: float = ROUNDING) -> bool:
    """Whether texts in a row are computed as padded ones; windows of 4, heads of other widths, and a Llama's."""
    models = {name: small(*name.split(), dropout=0.0) for name in ("gpt_neo gelu", "gpt_neo v", "llama swiglu")}
    if device.type == "cuda" and not packing.packs(settings_of("gpt", "builtin"), device, precision):
        print("rows: texts are padded on this GPU, which lacks the kernel or bfloat16")
        return True
    good = True
    for name, settings in models.items():
        one, other = (in_rows(settings, device, precision, packed) for packed in (False, True))
        off = one.differs(other)
        good &= off <= tolerance
        print(f"rows: {name}: {off:.1e} from the padded step" + ("" if off <= tolerance else ": NOT EQUAL"))
    return good


# -- training ---------------------------------------------------------------------------------------------------------


def settings_of(name: str, source: str, **train: Any) -> RunConfig:
    """A run of a model of TABLE."""
    study, label = TABLE[name]
    cells = grids.cells(loading.load(MANIFEST), studies=[study])
    cell = next(c for c in cells if c.model == name.partition(" ")[0] and c.config.model.label == label)
    config = cell.config.model_dump(mode="json", exclude_unset=True)
    config["data"] = {**config.get("data", {}), "source": source}
    if not isinstance(cell.config.model, Brainformer):
        tokens = story_tokens(RunConfig.model_validate(config))
        train["stories_per_step"] = round(STEP_TOKENS / tokens)
    config["train"] = {**config.get("train", {}), **train}
    return RunConfig.model_validate(config)


def settings_as(name: str, source: str, precision: str, way: str) -> RunConfig:
    """Of a column of the table. What is compiled lies in rows where a training's texts would."""
    train = {"precision": precision, "compile": way == "compiled", "packed": False if way == "eager" else None}
    return settings_of(name, source, **train, max_steps=1_000_000)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Speed:
    tokens_per_second: float
    utilisation: float | None  # of the peak in that precision
    memory: float  # MB, at most

    def __str__(self) -> str:
        used = "" if self.utilisation is None else f" {self.utilisation:.0%}"
        minutes = EPOCH_TOKENS / self.tokens_per_second / 60
        return f"{self.tokens_per_second / 1e6:.3f}M{used} {minutes:.1f} min {self.memory / 1000:.1f} GB"


def speed(config: RunConfig, root: Path, cache: Path, seconds: float) -> Speed:
    """Train for some seconds, the first steps, and what is compiled in them, not counted."""
    torch.compiler.reset()
    reset_peak_memory()
    with tempfile.TemporaryDirectory(dir=cache) as folder, redirect_stdout(io.StringIO()):
        training = Training(Work(config, data_root=root, cache=cache, run_dir=Path(folder)))
        training.resume()
        try:
            for _ in range(WARM_UP[bool(config.train.compile)]):
                training._step()
            wait_for(training.device)
            started, before = time.perf_counter(), training.counters.tokens
            while time.perf_counter() - started < seconds:
                training._step()
            wait_for(training.device)
            rate = (training.counters.tokens - before) / (time.perf_counter() - started)
        finally:
            training.feed.close()
        peak = peak_flops(training.device, training.precision)
        return Speed(rate, peak and training.flops_per_token() * rate / peak, peak_memory_mb())


def table(
    measure: Callable[[str, str, str], Speed | None],
    clock: Clock,
    names: tuple[str, ...] = tuple(TABLE),
    reserve: float = 0.0,
) -> bool:
    """The speed of every model in every column, column by column, while more than `reserve` seconds are left."""
    cells: dict[tuple[str, str, str], str] = {}
    failed = False
    for precision, way in COLUMNS:
        for name in names:
            if clock.left <= reserve:
                break
            try:
                cells[name, precision, way] = str(measure(name, precision, way) or f"never {way}")
            except Exception as error:  # noqa: BLE001 - told in its cell, and the next one is measured
                cells[name, precision, way] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
                failed = True
    heads = [f"{precision}, {way}" for precision, way in COLUMNS]
    print("tokens/s (characters of bf_tiny), share of the peak, an epoch of TinyStories, peak memory\n")
    print(f"| model | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name in names:
        print(f"| {name} | {' | '.join(cells.get((name, *column), 'left out') for column in COLUMNS)} |")
    return not failed


# -- scores -----------------------------------------------------------------------------------------------------------


def scores(model: Model, source: str, root: Path, cache: Path, limit: int | None = None) -> bool:
    """The time of BLiMP, and of one epoch of a GLUE task, with a model that has learned nothing."""
    evaluation = {"limit": limit, "superglue": {"tasks": [GLUE], "epochs": 1}}
    config = RunConfig.model_validate({"model": model, "data": {"source": source}, "evaluation": evaluation})
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        work = Work(config, data_root=root, cache=cache, run_dir=Path(folder))
        auto.build(model, seed=0).save_pretrained(work.model_dir)
        tokenizer.load_tokenizer(root / tokenizer_file(config.data), config).save_pretrained(work.model_dir)
        for name, stage in (("BLiMP", blimp), (f"an epoch of {GLUE}", superglue)):
            started = time.perf_counter()
            with redirect_stdout(io.StringIO()):
                stage.run(work)
            print(f"{name}: {time.perf_counter() - started:.1f} s")
    return True


# -- several runs on one GPU ------------------------------------------------------------------------------------------


def probe(folder: Path, data_root: Path | None, *, mps: bool) -> list[str]:
    """The command that measures what several runs on one GPU gain; it writes its site's profile."""
    site = folder / f"{'mps' if mps else 'plain'}.yaml"
    site.write_text(
        f"{{name: gpu, scheduler: local, gpus: 1, mps: {str(mps).lower()}, flops: 1.0e+14, max_time: 60}}\n"
    )
    data = ["--data-root", str(data_root)] if data_root else ["--set", "data.source=builtin"]
    return [
        sys.executable, "-m", "cluster.cli", "probe", str(MANIFEST), "--study", "quickstart", "--model", "gpt",
        "--slots", "1,2,4,8", "--steps", "100", "--site", str(site), *data,
        "--output-root", str(folder / site.stem), "--log-dir", str(folder / "logs"), "--yes",
    ]  # fmt: skip


def slots(folder: Path, data_root: Path | None, clock: Clock) -> bool:
    for mps in (False, True):
        command, words = probe(folder, data_root, mps=mps), "with MPS" if mps else "without MPS"
        try:
            done = subprocess.run([*command, "--wait"], cwd=ROOT, timeout=clock.left, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            print(f"probe --slots {words}: left out for lack of time; --parts slots measures it alone")
            return True
        print(f"probe --slots {words}:\n{done.stdout}{done.stderr}")
        if done.returncode:
            return False
    return True


# -- all of them ------------------------------------------------------------------------------------------------------

PARTS = ("equality", "rows", "scores", "table", "slots")


def measure_all(options: argparse.Namespace, device: torch.device, folder: Path) -> bool:
    clock = Clock(60 * options.minutes)
    source = "files" if options.data_root else "builtin"
    base = settings_of("gpt", source)
    root = sources.resolve_root(base, options.data_root, folder, stages=["pretrain"])

    def measure(name: str, precision: str, way: str) -> Speed | None:
        config = settings_as(name, source, precision, way)
        if way == "packed" and not packing.packs(config, device, precision):
            return None
        if way == "compiled" and not config.model.same_shapes:  # a training does not either
            return None
        return speed(config, root, folder, seconds=2.0)

    slots_need = 0.4 * clock.left if "slots" in options.parts else 0.0
    parts: dict[str, Callable[[], bool]] = {
        "equality": lambda: equality(device, clock),
        "rows": lambda: rows(device),
        "scores": lambda: scores(base.model, source, root, folder),
        "table": lambda: table(measure, clock, reserve=slots_need),
        "slots": lambda: slots(folder, options.data_root, clock),
    }
    good = [parts[name]() for name in options.parts]
    return all(good)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="the real data; without it the builtin data is made")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        device = pick_device(has_gpu=True)
    except NoGPU as error:
        print(f"make gpu measures a GPU, and there is none to be had on this machine: {error}", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, {cpu_name()}, torch {torch.__version__}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure_all(options, device, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
