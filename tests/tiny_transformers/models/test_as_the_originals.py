"""Our modules compute what the originals' own code computed: their figures are in tests/known_answers, by make_*.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from tiny_transformers.models import auto
from tiny_transformers.settings.architecture import Brainformer
from tiny_transformers.settings.config import Train
from tiny_transformers.training import optimizers

ANSWERS = Path(__file__).parents[2] / "known_answers"
with safe_open(ANSWERS / "brainformer.safetensors", "pt") as file:
    MADE_WITH = json.loads(file.metadata()["made_with"])
    KNOWN = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict


def known(prefix):
    return {name.removeprefix(prefix): value for name, value in KNOWN.items() if name.startswith(prefix)}


def brainformer():
    sizes = MADE_WITH["sizes"]
    settings = Brainformer(
        order="sf.sf",
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["inner"],
        num_heads=sizes["heads"],
        attn_span=sizes["attn_span"],
        adaptive_span={"ramp": sizes["ramp"], "loss": sizes["loss"]},
        vocab_size=sizes["vocab_size"],
    )
    model = auto.build(settings, seed=0).train()
    model.load_state_dict(known("state/"))
    return model


@pytest.mark.parametrize("case", MADE_WITH["reaches"])
def test_a_brainformer_reads_and_learns_as_the_original_also_where_spans_begin(case):
    model, text, right = brainformer(), KNOWN["text"], known(f"{case}/")
    with torch.no_grad():
        for group in model.model.groups:
            group.attention.reach.copy_(torch.tensor(MADE_WITH["reaches"][case]))
    model.after_update()
    memory, blocks = model.empty_memory(len(text)), text[:, :-1].chunk(2, dim=1)
    for block, log_probs in zip(blocks, right["log_probs"], strict=True):
        output = model(block, memory=memory)
        memory = output.memory
        torch.testing.assert_close(output.logits.log_softmax(-1), log_probs, rtol=1e-5, atol=1e-5)
    labels = text[:, 1:].chunk(2, dim=1)[1]
    loss = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten()) + model.auxiliary_loss()
    torch.testing.assert_close(loss, right["loss"])
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, right[name], rtol=1e-4, atol=1e-6, msg=name)


def test_adagrad_and_its_warm_up_are_the_brainformers():
    gradients, weights = KNOWN["optimizer/gradients"], KNOWN["optimizer/weights"]
    settings = Train(
        optimizer="adagrad", clipping="per_tensor", learning_rate=0.07, max_grad_norm=0.03, warmup_steps=3,
        lr_scheduler_type="constant",
    )  # fmt: skip
    module = nn.Linear(3, 2)
    nn.utils.vector_to_parameters(weights[0].clone(), module.parameters())
    optimizer = optimizers.build(module, settings)
    for step, gradient in enumerate(gradients):
        module.weight.grad, module.bias.grad = gradient[:6].view(2, 3).clone(), gradient[6:].clone()
        optimizer.param_groups[0]["lr"] = optimizers.learning_rate(settings, step=step, done=0.0, warmed=0.0)
        optimizer.step()
        torch.testing.assert_close(nn.utils.parameters_to_vector(module.parameters()).detach(), weights[step + 1])
