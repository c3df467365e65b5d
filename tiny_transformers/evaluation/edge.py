"""What a small machine would make of a model: its speed on few threads of a CPU, with weights of 8 bits, and exported.

Asked for by the settings of the stage speed, which does the timing: `threads`, `int8` (torch's dynamic quantisation of
all linear layers: weights as 8-bit integers, activations rounded pass by pass) and `export` (torch.export)."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformers.common.files import whole_file
from tiny_transformers.common.work import Check, Outcome, Score, Work
from tiny_transformers.evaluation import blimp

EXPORTED = "export/model.pt2"  # in the run's folder
EXPORT_TOLERANCE = 1e-5  # of the largest logit


class Logits(nn.Module):
    """ids (B, T) -> logits (B, T, V), and nothing else: what is exported."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        cached = {"use_cache": False} if self.model.can_generate() else {}
        return self.model(input_ids=ids, **cached).logits


def kinds(model: Any, int8: bool, outcome: Outcome) -> dict[str, Any]:
    """The model by how the names of its measurements begin, and with 8 bits if that is asked for; their sizes noted."""
    found = {"": model}
    if int8:
        found["int8_"] = quantised(model)
        outcome.metrics |= {"float32_size_mb": size_mb(model), "int8_size_mb": size_mb(found["int8_"])}
    return found


def ask_blimp(work: Work, models: dict[str, Any], outcome: Outcome) -> None:
    """BLiMP of each model by its name, of the same rows."""
    asked = blimp.Question.read(work, work.config.evaluation.limit)
    for name, model in models.items():
        found = asked.accuracy(work, model)
        outcome.scores.append(Score(name, "blimp", found.accuracy, found.n))
        print(f"{name}: BLiMP {found.accuracy:.4f}", flush=True)
    outcome.data |= asked.fingerprints


def quantised(model: Any) -> Any:
    """A copy with its linear layers in 8 bits; embeddings, norms and modules with weights of their own stay."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will move this elsewhere
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model).eval(), {nn.Linear}, dtype=torch.qint8)


def size_mb(model: Any) -> float:
    """Its weights as a file, in MB of 2^20 bytes. What is tied is there once."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell() / 2**20


def export(work: Work, model: Any, ids: Tensor, outcome: Outcome) -> None:
    """Write the program for ids (B, T) of this shape, and hold its logits, loaded again, against the model's."""
    module = Logits(model.eval())
    try:
        with torch.no_grad():
            program = torch.export.export(module, (ids,), strict=False)
    except Exception as error:  # noqa: BLE001 - whatever torch cannot trace, its message says it
        told = " ".join(str(error).split())[:200]
        outcome.checks.append(Check("export_logits", False, f"not exported: {told}", blocking=False))
        return
    with whole_file(work.run_dir / EXPORTED) as draft, open(draft, "wb") as file:
        torch.export.save(program, file)
    with torch.no_grad(), open(work.run_dir / EXPORTED, "rb") as file:
        expected, found = module(ids), torch.export.load(file).module()(ids)
    difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    outcome.checks.append(Check("export_logits", difference <= EXPORT_TOLERANCE, difference, blocking=False))
    outcome.metrics["export_size_mb"] = (work.run_dir / EXPORTED).stat().st_size / 2**20


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
