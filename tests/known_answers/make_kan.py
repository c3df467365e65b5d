"""Write kan.safetensors: what efficient-kan's layers compute, so that ours are held against them without that package.

    git clone https://github.com/Blealtan/efficient-kan FOLDER
    git -C FOLDER checkout 7b6ce1c87f18c8bc90c208f6b494042344216b11
    python tests/known_answers/make_kan.py FOLDER

The file was made with that commit; its metadata name it and every case's options. Only figures are kept, and none
of that package's code. tests/tiny_transformers/ffn/test_kan.py reads them; to add a case, name it below and run again.

Initial splines differ from run to run in their last bits, as torch's lstsq does. Those of large grids are other than
ours: efficient-kan fits all features to their noise in one call of lstsq, and torch 2.13's answer on a CPU, by the
driver gelsy that it takes there, misses that noise by as much as its size. So it is from 9 intervals of degree 3 on, 5
of degree 4, 3 of degrees 5 and 6, and 2 of degree 7; up to 20 intervals of degrees 1 and 2 are fitted. Our fit is exact
for all."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FILE = Path(__file__).with_name("kan.safetensors")
ROWS, IN, OUT = 32, 4, 3
CASES = {  # KANLinear's options; `widths` are those of layers that follow each other
    "study": {"grid_size": 3, "spline_order": 3},
    "default": {},
    "quadratic": {"grid_size": 5, "spline_order": 2},
    "linear": {"grid_size": 4, "spline_order": 1},
    "quartic": {"grid_size": 4, "spline_order": 4},
    "quintic": {"grid_size": 2, "spline_order": 5},
    "fine": {"grid_size": 8},
    "large": {"grid_size": 12, "spline_order": 3},  # its initial splines are not fitted
    "range": {"grid_range": [-0.5, 2.0]},
    "scales": {"scale_noise": 0.3, "scale_base": 2.0, "scale_spline": 0.5},
    "no_scaler": {"enable_standalone_scale_spline": False},
    "two_layers": {"widths": [IN, 5, OUT]},
}


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder / "src"))
    from efficient_kan import KANLinear

    commit = subprocess.check_output(["git", "-C", folder, "rev-parse", "HEAD"], text=True).strip()
    torch.manual_seed(0)
    tensors = {"stream": torch.rand(8)}  # whether a seed still gives the numbers that it gave here
    for case, options in CASES.items():
        arguments = {name: value for name, value in options.items() if name != "widths"}
        torch.manual_seed(0)
        widths = options.get("widths", [IN, OUT])
        model = nn.Sequential(*(KANLinear(*pair, **arguments) for pair in pairwise(widths)))
        tensors |= prefixed(f"{case}/initial", model.state_dict())
        draw(model)  # since the splines begin too small to count
        x = 1.5 * torch.randn(ROWS, IN)  # some beyond the grid
        tensors |= computed(f"{case}/uniform", model, x)
        fit_grids(model, x)
        tensors |= computed(f"{case}/fitted", model, x)
    # One entry, since of several the order changes from run to run, and with it the file.
    save_file(tensors, FILE, {"made_with": json.dumps({"commit": commit, "cases": CASES})})
    FILE.chmod(0o644)


def computed(prefix: str, model: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """The state, x and y, the gradients of sum(y^2), and the regularisation loss with its own."""
    x = x.clone().requires_grad_()
    y = model(x)
    regularization = sum(layer.regularization_loss(0.3, 2.0) for layer in model)
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(y.square().sum(), [x, *parameters])
    splines = {name: parameter for name, parameter in model.named_parameters() if name.endswith("spline_weight")}
    of_loss = torch.autograd.grad(regularization, list(splines.values()))
    return {
        f"{prefix}/x": x.detach(),
        f"{prefix}/y": y.detach(),
        f"{prefix}/regularization": regularization.detach(),
        **prefixed(f"{prefix}/state", model.state_dict()),
        **prefixed(f"{prefix}/grad", dict(zip(("x", *names), grads, strict=True))),
        **prefixed(f"{prefix}/regularization_grad", dict(zip(splines, of_loss, strict=True))),
    }


def fit_grids(model: nn.Sequential, x: Tensor) -> None:
    """Give every layer the grid of what it reads, which is not uniform any more, and weights of size 1 again."""
    with torch.no_grad():
        for layer in model:
            layer.update_grid(x)
            draw(layer)
            x = layer(x)


def draw(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter)


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor.detach().clone() for name, tensor in tensors.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
