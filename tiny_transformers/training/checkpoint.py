"""Checkpoints: folders step-00000828/ with the weights, the optimizer's state, the counters of a training, and what it
remembers of the text so far.

Only whole ones are ever visible, and each says what its files must hash to, so that one that the disk spoilt is
noticed and passed over. What the counters mean is the training's own affair."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from tiny_transformers.common.files import whole_folder

KEPT = 2  # the newest so many; the second is for the day the newest is spoilt
MODEL, OPTIMIZER, MEMORY = "model.safetensors", "optimizer.safetensors", "memory.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    state: dict[str, Any]
    model: dict[str, Tensor]  # parameter or buffer -> its value
    optimizer: dict[str, Tensor]  # parameter/key -> the optimizer's `key` for it
    memory: list[Tensor]  # empty: there is none


def write(
    checkpoints: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict,
    memory: Sequence[Tensor] = (),
) -> None:
    """Write checkpoints/step-<step>; once it is whole, remove all but the newest `KEPT`."""
    blobs = {MODEL: save(_model_tensors(model)), OPTIMIZER: save(_optimizer_tensors(model, optimizer))}
    if memory:
        blobs[MEMORY] = save({str(i): tensor.cpu().contiguous() for i, tensor in enumerate(memory)})
    with whole_folder(checkpoints / f"step-{step:08d}", replace=True) as draft:
        for name, blob in blobs.items():
            (draft / name).write_bytes(blob)
        hashes = {name: _sha256(blob) for name, blob in blobs.items()}
        (draft / STATE).write_text(json.dumps({"state": state, "sha256": hashes}, indent=1))
    for old in _folders(checkpoints)[KEPT:]:
        shutil.rmtree(old)


def read_newest(checkpoints: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; says on stdout which ones it passed over. None: there is none."""
    for folder in _folders(checkpoints):
        try:
            return _read(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"warning: {folder} is damaged ({error}); trying the one before", flush=True)
    return None


def restore(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the checkpoint's values into `model` and `optimizer`, which must be those it was written from."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *buffers(model).items()):
            tensor.copy_(checkpoint.model[name])
    state: dict[int, dict[str, Tensor]] = {}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {parameter: i for i, parameter in enumerate(trained)}
    index = {name: places[parameter] for name, parameter in model.named_parameters() if parameter in places}
    for path, tensor in checkpoint.optimizer.items():
        name, key = path.split("/")
        state.setdefault(index[name], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def buffers(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return what is saved with a model besides its parameters, such as running statistics of a normalization."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def remove_drafts(checkpoints: Path) -> None:
    """Drop what a killed process left half written."""
    for draft in checkpoints.glob(".step-*"):
        shutil.rmtree(draft, ignore_errors=True)


def _folders(checkpoints: Path) -> list[Path]:
    """Newest first."""
    return sorted(checkpoints.glob("step-*"), reverse=True)


def _read(folder: Path) -> Checkpoint:
    content = json.loads((folder / STATE).read_text())
    blobs = {name: (folder / name).read_bytes() for name in content["sha256"]}
    for name, blob in blobs.items():
        if _sha256(blob) != content["sha256"][name]:
            raise ValueError(f"{name} is not what was written")
    memory = load(blobs[MEMORY]) if MEMORY in blobs else {}
    ordered = [memory[str(i)] for i in range(len(memory))]
    return Checkpoint(content["state"], load(blobs[MODEL]), load(blobs[OPTIMIZER]), ordered)


def _model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Tied parameters once, as `named_parameters` gives them."""
    tensors = (*model.named_parameters(), *buffers(model).items())
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors}


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad  # the optimizer knows no others
        for key, value in optimizer.state[parameter].items()
    }


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
