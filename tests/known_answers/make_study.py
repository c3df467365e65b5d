"""Write study.safetensors: what the code of the thesis on activations computes, so that ours is held against it.

    git clone https://github.com/AISE-TUDelft/tiny-transformers FOLDER
    git -C FOLDER checkout 7d9ef405cf0e49b110a88c58fca5aa0d8fdcf8f4
    python tests/known_answers/make_study.py FOLDER

Its activations, the first weights of its KAN, and its average of (Super)GLUE, in the metadata. Its files are scripts
that train when they are imported: only the classes and functions named below are taken out of them. Only figures are
kept, and none of that code. tests/tiny_transformers/models/test_as_the_originals.py reads them."""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

FILE = Path(__file__).with_name("study.safetensors")
ROWS, UNITS = 7, 6
ACTIVATIONS = {  # ours -> their file, class
    "learnable_gelu": ("activations_gpt_neo.py", "LearnableGELU"),
    "prelu": ("activations_gpt_neo.py", "CustomPReLU"),
    "swish_thesis": ("activations_gpt_neo.py", "LearnableSwish"),
    "geglu": ("geglu_train.py", "GeGLU"),
    "learnable_geglu": ("learnable_geglu_train.py", "LearnableGEGLU"),
}
GLUE = ("cola", "sst2", "mrpc", "qqp", "mnli", "mnli-mm", "qnli", "rte", "boolq", "multirc", "wsc")


def main(folder: Path) -> None:
    thesis = folder / "code" / "filip"
    torch.manual_seed(0)
    tensors = {}
    for name, (file, kind) in ACTIVATIONS.items():
        gated = name.endswith("geglu")
        module = taken(thesis / file, kind)(*([] if name == "geglu" else [UNITS]))
        tensors |= {f"{name}/{key}": value for key, value in computed(module, (2 if gated else 1) * UNITS).items()}
    sys.path.insert(0, str(thesis))
    from efficient_kan.model import KAN  # type: ignore[import-not-found]

    torch.manual_seed(0)
    layer = KAN([4, 3]).layers[0]
    tensors |= {f"kan/{name}": tensor.detach().clone() for name, tensor in layer.state_dict().items()}
    commit = subprocess.check_output(["git", "-C", folder, "rev-parse", "HEAD"], text=True).strip()
    made_with = {"commit": commit, "glue": averaged(folder / "code" / "common" / "eval_baselines.py")}
    save_file(tensors, FILE, {"made_with": json.dumps(made_with)})
    FILE.chmod(0o644)


def taken(file: Path, name: str) -> Any:
    """The class or function of this name, without running the file."""
    found = [node for node in ast.parse(file.read_text()).body if getattr(node, "name", None) == name]
    known: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "math": math, "Tensor": Tensor}
    exec(compile(ast.Module(found, []), str(file), "exec"), known)
    return known[name]


def computed(module: nn.Module, width: int) -> dict[str, Tensor]:
    """The values and gradients, of sum(y^2), of an activation whose parameters are not those of its beginning."""
    x = (2 * torch.randn(ROWS, width)).requires_grad_()
    parameters = list(module.parameters())
    for parameter in parameters:
        nn.init.normal_(parameter)
    y = module(x)
    y.square().sum().backward()
    of_alpha = {"alpha": parameters[0].detach(), "grad_alpha": parameters[0].grad} if parameters else {}
    return {"x": x.detach(), "y": y.detach(), "grad_x": x.grad, **of_alpha}


def averaged(file: Path) -> dict[str, Any]:
    """Made-up metrics of the eleven tasks, and what the study's script makes of them."""
    draw = torch.rand(len(GLUE), 3, dtype=torch.float64).tolist()
    metrics = {
        task: dict(zip(("accuracy", "f1", "mcc"), values, strict=True)) for task, values in zip(GLUE, draw, strict=True)
    }
    glue = {task: {f"eval_{name}": value for name, value in values.items()} for task, values in metrics.items()}
    pairs = {"binding": {"eval_accuracy": 0.5}}
    found = taken(file, "aggregate_scores")(pairs, pairs, glue, {}, "made up")
    return {"metrics": metrics, "figures": {task: found[task] for task in GLUE}, "average": found["glue_avg"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
