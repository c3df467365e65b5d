"""The functions that a model has learned, as values to draw: learnable activations, and the edges of KANs.

functions.json in a run's folder: {"x": [...], "layers": [{"layer", "module", "curves": [{"name", "y"}], "initial"}]},
every y and `initial` at x. A layer that stands at several places is there once. docs/models.md has what the curves are.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_transformers.common.files import whole_file
from tiny_transformers.layers.activations import Learnable, LearnableGEGLU
from tiny_transformers.layers.ffn.kan import KANLinear, cox_de_boor
from tiny_transformers.models.language_model import LanguageModel

POINTS = torch.linspace(-4, 4, 65)  # what layers see after a LayerNorm, nearly all of it
QUANTILES = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}
EDGES = 8  # of a KAN's, those with the largest splines, that are kept one by one
DIGITS = 4  # significant: a curve is drawn, and a file is small


def write(path: Path, model: LanguageModel) -> None:
    """Replace `path` by what `model` has learned; no file for a model without such functions."""
    layers = learned(model)
    if layers:
        with whole_file(path) as draft:
            draft.write_text(json.dumps({"x": POINTS.tolist(), "layers": layers}))


@torch.no_grad()
def learned(model: LanguageModel) -> list[dict[str, Any]]:
    owner, name = model.stack()
    return [
        {"layer": number, "module": module_name, **_described(module)}
        for number, block in enumerate(getattr(owner, name).children())  # of shared layers, each unique one
        for module_name, module in block.named_modules()
        if isinstance(module, (Learnable, KANLinear))
    ]


def of_units(activation: Learnable) -> Tensor:
    """Its function for every unit, or for all of them; of a gated one, what a value of 1 becomes as its gate runs
    through the points. -> (points, units)"""
    x = POINTS.to(activation.alpha.device)[:, None].expand(-1, len(activation.alpha))
    return activation(torch.cat([torch.ones_like(x), x], dim=1) if isinstance(activation, LearnableGEGLU) else x)


def of_edges(layer: KANLinear) -> Iterator[Tensor]:
    """phi at each point in turn: what every edge would add to its output. -> (out, in) each"""
    splines = layer.spline_weight * layer.spline_scaler[..., None]  # (out, in, bases)
    for point in POINTS.to(splines.device):
        bases = cox_de_boor(point.expand(1, layer.in_features), layer.grid, layer.spline_order)[0]  # (in, bases)
        yield layer.base_weight * F.silu(point) + torch.einsum("oib,ib->oi", splines, bases)


def _described(module: nn.Module) -> dict[str, Any]:
    return _activation(module) if isinstance(module, Learnable) else _edges(module)


def _activation(module: Learnable) -> dict[str, Any]:
    start = copy.deepcopy(module)
    nn.init.constant_(start.alpha, module.start)
    bands = torch.stack([_quantiles(values) for values in of_units(module)])
    return {"curves": _bands(bands), "initial": _numbers(of_units(start)[:, 0])}


def _edges(layer: Any) -> dict[str, Any]:
    """Without `initial`: the edges are drawn at random, each its own."""
    norms = (layer.spline_weight * layer.spline_scaler[..., None]).norm(dim=-1).flatten()
    strongest = norms.topk(min(EDGES, len(norms))).indices
    values, bands = [], []
    for phi in of_edges(layer):
        values.append(phi.flatten()[strongest])
        bands.append(_quantiles(phi.flatten()))
    curves = [
        {"name": f"input {edge % layer.in_features} to output {edge // layer.in_features}", "y": _numbers(y)}
        for edge, y in zip(strongest.tolist(), torch.stack(values).T, strict=True)
    ]
    return {"curves": [*_bands(torch.stack(bands)), *curves], "initial": None}


def _quantiles(values: Tensor) -> Tensor:
    """numpy's, which need no sorting: of a wide KAN's edges in a tenth of the time. -> (quantiles,)"""
    shares = list(QUANTILES.values())
    return torch.from_numpy(np.quantile(values.detach().float().cpu().numpy(), shares, method="nearest"))


def _bands(bands: Tensor) -> list[dict[str, Any]]:
    """bands: (points, quantiles)"""
    return [{"name": name, "y": _numbers(y)} for name, y in zip(QUANTILES, bands.T, strict=True)]


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
