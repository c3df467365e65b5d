"""Whether fine-tuning in bfloat16 or TF32 changes scores by more than a seed does, on real rows of GLUE.

    python tests/benchmarks/finetune_precision.py DATA_ROOT [--tasks sst2 mrpc rte] [--seeds 5] [--limit 400]

A CPU without the hardware takes 41 times as long in bfloat16, and has no TF32: the rounding is imitated in float32. Of
every product the factors are rounded, of bfloat16 the result, too, and of both the same of their gradients. The
model is a decoder 128 wide with two layers, untrained but for this; every precision has the same heads, orders and
rows. Prints the accuracy of the best weights by task and precision: mean and standard deviation over seeds, and the
mean and standard deviation of each seed's difference from its float32."""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AutoTokenizer

from tiny_transformers.evaluation import fine_tuning, glue, glue_metrics
from tiny_transformers.models import auto
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.stage.superglue import Superglue, superglue_files

PRODUCTS = {F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.baddbmm}
TF32_BITS = 13  # of float32's 23 that TF32 has not
MODEL = GPTNeo(hidden_size=128, intermediate_size=256, num_layers=2, num_heads=4)


class Rounded(torch.autograd.Function):
    """x, rounded by a function, and its gradient by the same one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.how = how
        return how(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.how(grad), None


def to_bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def to_tf32(x: Tensor) -> Tensor:
    """To the nearest number of 10 bits behind the point, and of two away from zero."""
    bits = x.contiguous().view(torch.int32) + 2 ** (TF32_BITS - 1)
    return (bits & -(2**TF32_BITS)).view(torch.float32)


class Imitated(TorchFunctionMode):
    def __init__(self, how: Callable[[Tensor], Tensor], *, results: bool) -> None:
        super().__init__()
        self.how, self.results = how, results

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        args = [self.rounded(each) for each in args]
        made = func(*args, **{name: self.rounded(each) for name, each in (kwargs or {}).items()})
        # A TF32 product is of float32, and the gradient that comes to it a factor of the two behind it.
        return Rounded.apply(made, self.how if self.results else _straight)

    def rounded(self, each: Any) -> Any:
        return Rounded.apply(each, self.how) if isinstance(each, Tensor) and each.is_floating_point() else each


def _straight(x: Tensor) -> Tensor:
    return x.clone()  # what is added to in place is to be no view


PRECISIONS: dict[str, Imitated | None] = {
    "float32": None, "tf32": Imitated(to_tf32, results=False), "bfloat16": Imitated(to_bfloat16, results=True),
}  # fmt: skip


def read(root: Path, task: str, tokenizer: Any, limit: int) -> glue.TaskData:
    train, held_out = (
        glue.encode(glue.read_examples(root / superglue_files(task)[split], task, limit), tokenizer, 64)
        for split in ("train", "validation")
    )
    return glue.TaskData(task, train, held_out, {task: held_out})


def accuracy(folder: Path, task: glue.TaskData, seed: int, how: Imitated | None) -> float:
    settings = Superglue(learning_rate=1e-3, batch_size=32, epochs=4, eval_every=10, max_length=64)
    model: Any = auto.load_classifier(folder, task.num_labels, seed)
    scored = task.validation[task.name]
    if how is None:
        fine_tuning.fine_tune(model, task, settings, seed, lambda *_: None)
    else:
        with how:
            fine_tuning.fine_tune(model, task, settings, seed, lambda *_: None)
    return glue_metrics.metrics(scored.labels, fine_tuning.predict(model, scored), task.num_labels)["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["sst2", "mrpc", "rte"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.root / "tokenizer" / "10k-tok")
    print("| task | precision | accuracy | less float32's, seed by seed |\n|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        auto.build(MODEL, seed=0).save_pretrained(folder)
        for name in options.tasks:
            task, found = read(options.root, name, tokenizer, options.limit), {}
            for precision, how in PRECISIONS.items():
                with redirect_stdout(io.StringIO()):
                    found[precision] = [accuracy(Path(folder), task, seed, how) for seed in range(options.seeds)]
                apart = [one - other for one, other in zip(found[precision], found["float32"], strict=True)]
                print(f"| {name} | {precision} | {_told(found[precision])} | {_told(apart)} |", flush=True)


def _told(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({statistics.stdev(values):.3f})"


if __name__ == "__main__":
    main()
