"""Write brainformer.safetensors: what the Brainformers' own code computes, so that ours is held against it.

    git clone https://github.com/giangdip2410/Brainformer-SMOE FOLDER
    git -C FOLDER checkout d18b65b0ceeea11169ef5adfac450eebbfd4fec6
    python tests/known_answers/make_brainformer.py FOLDER

A model of two groups `sf` reads two blocks of a stream; the loss is that of the second, with the spans' own. Weights
have our names. What needs fastmoe's CUDA kernels, the experts, is left out: their modules are replaced by none, and no
group has a g. Only figures are kept, and none of that code. tests/tiny_transformers/models/test_as_the_originals.py
reads them."""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

FILE = Path(__file__).with_name("brainformer.safetensors")
SIZES = {"vocab_size": 11, "hidden_size": 16, "inner": 12, "heads": 2, "attn_span": 128, "ramp": 8, "loss": 1e-3}
ROWS, BLOCK = 2, 24
REACHES = {"start": [0.0, 0.0], "between": [0.05, 0.31], "end": [0.0, 1.0]}  # of the heads of both groups
NAMES = {  # theirs -> ours
    "in_emb.weight": "model.embed_tokens.weight", "key_pe": "model.position_keys.weight",
    "out_emb.weight": "lm_head.weight", "out_emb.bias": "lm_head.bias",
}  # fmt: skip
PARTS = {
    "attn.proj_query.": "attention.query.", "attn.proj_key.": "attention.key.", "attn.proj_val.": "attention.value.",
    "attn.proj_out.": "attention.out.", "attn.attn.adaptive_span._mask.current_val": "attention.reach",
    "ff.fc1.": "feed_forward.up.", "ff.fc2.": "feed_forward.down.", "norm1.": "norms.s.", "norm2.": "norms.f.",
}  # fmt: skip


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    without_experts()
    from models import TransformerSeq  # type: ignore[import-not-found]

    spans = {
        "adapt_span_enabled": True, "adapt_span_loss": SIZES["loss"], "adapt_span_ramp": SIZES["ramp"],
        "adapt_span_init": 0, "adapt_span_cache": True,
    }  # fmt: skip
    torch.manual_seed(0)
    model = TransformerSeq(
        SIZES["vocab_size"], SIZES["hidden_size"], SIZES["heads"], 2, SIZES["attn_span"], "sf.sf", SIZES["inner"], 0.0,
        adapt_span_params=spans,
    )  # fmt: skip
    text = torch.randint(SIZES["vocab_size"], (ROWS, 2 * BLOCK + 1))
    weights = {name: tensor for name, tensor in model.named_parameters() if ".g." not in name}
    tensors = {"text": text, **named("state", weights)}
    for case, reach in REACHES.items():
        tensors |= named(case, read(model, text, torch.tensor(reach)))
    tensors |= optimized()
    commit = subprocess.check_output(["git", "-C", folder, "rev-parse", "HEAD"], text=True).strip()
    save_file(tensors, FILE, {"made_with": json.dumps({"commit": commit, "sizes": SIZES, "reaches": REACHES})})
    FILE.chmod(0o644)


def without_experts() -> None:
    """Let models.py be imported, and its groups be built, without experts."""

    class Nothing(nn.Module):
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

    for name in ("custom_transformer", "custom_transformer2", "custom_gate", "fmoe", "fmoe.gates"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["custom_transformer"].FMoETransformerMLP = Nothing  # type: ignore[attr-defined]
    sys.modules["custom_transformer2"].FMoETransformerMLP = Nothing  # type: ignore[attr-defined]
    sys.modules["fmoe.gates"].NaiveGate = Nothing  # type: ignore[attr-defined]


def read(model: nn.Module, text: Tensor, reach: Tensor) -> dict[str, Tensor]:
    """The log-probabilities of both blocks, and the gradient of the second one's loss."""
    model.zero_grad()
    attentions: list[Any] = [layer.attn.attn for layer in model.layers]  # type: ignore[union-attr]
    for attention in attentions:
        attention.adaptive_span._mask.current_val.data.copy_(reach[:, None, None])
    cache = [torch.zeros(ROWS, attention.get_cache_size(), SIZES["hidden_size"]) for attention in attentions]
    blocks = []
    for start in (0, BLOCK):
        log_probs, cache = model(text[:, start : start + BLOCK], cache)
        blocks.append(log_probs)
    loss = F.nll_loss(blocks[1].flatten(0, 1), text[:, BLOCK + 1 :].flatten())
    loss = loss + sum(attention.adaptive_span.get_loss() for attention in attentions)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"log_probs": torch.stack(blocks), "loss": loss, **gradients}


def optimized() -> dict[str, Tensor]:
    """Weights after each of some steps of their optimizer and schedule, of gradients short and long."""
    from utils import get_optimizer_and_scheduler  # type: ignore[import-not-found]

    module = nn.Linear(3, 2)
    options = {"optim": "adagrad", "lr": 0.07, "momentum": 0, "grad_clip": 0.03, "lr_warmup": 3}
    optimizer, schedule = get_optimizer_and_scheduler(module, options)
    gradients = torch.randn(5, 8) * torch.tensor([0.001, 1.0, 0.01, 5.0, 0.02])[:, None]
    weights = [nn.utils.parameters_to_vector(module.parameters())]
    for gradient in gradients:
        module.weight.grad, module.bias.grad = gradient[:6].view(2, 3).clone(), gradient[6:].clone()
        optimizer.step()
        schedule.step()
        weights.append(nn.utils.parameters_to_vector(module.parameters()))
    return {"optimizer/gradients": gradients, "optimizer/weights": torch.stack(weights).detach()}


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With our names and shapes."""
    found = {}
    for name, tensor in tensors.items():
        ours = NAMES.get(name, name)
        if name.startswith("layers."):
            _, layer, part = name.split(".", 2)
            for their, our in PARTS.items():
                part = part.replace(their, our)
            ours = f"model.groups.{layer}.{part}"
        shape = tensor.flatten() if ours.endswith("reach") else tensor[0] if name == "key_pe" else tensor
        found[f"{prefix}/{ours}"] = shape.detach().clone()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
