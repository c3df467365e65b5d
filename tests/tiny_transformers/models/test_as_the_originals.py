"""Our modules compute what the originals' own code computed: their figures are in tests/known_answers, by make_*.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from tiny_transformers.evaluation import blimp, glue_metrics
from tiny_transformers.evaluation.blimp import TaskScores
from tiny_transformers.evaluation.minimal_pairs import PairTask
from tiny_transformers.layers import activations
from tiny_transformers.layers.ffn.kan import KANLinear
from tiny_transformers.models import auto
from tiny_transformers.settings.activations import ACTIVATIONS
from tiny_transformers.settings.architecture import Brainformer
from tiny_transformers.settings.config import Train
from tiny_transformers.settings.sharing import layer_map
from tiny_transformers.training import optimizers

ANSWERS = Path(__file__).parents[2] / "known_answers"


def read(name):
    """What a file's figures were made with, and they."""
    with safe_open(ANSWERS / name, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
        return json.loads(file.metadata()["made_with"]), tensors


MADE_WITH, KNOWN = read("brainformer.safetensors")
STUDY_MADE_WITH, STUDY = read("study.safetensors")


def known(prefix, figures=KNOWN):
    return {name.removeprefix(prefix): value for name, value in figures.items() if name.startswith(prefix)}


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


# --- the thesis on activations


@pytest.mark.parametrize("name", ["learnable_gelu", "prelu", "swish_thesis", "geglu", "learnable_geglu"])
def test_activations_are_those_of_the_thesis_code(name):
    right = known(f"{name}/", STUDY)
    kind = activations.module_of(ACTIVATIONS[name])
    module = kind(len(right["alpha"]), 1.0) if "alpha" in right else kind()
    module.load_state_dict({"alpha": right["alpha"]} if "alpha" in right else {})
    x = right["x"].requires_grad_()
    y = module(x)
    torch.testing.assert_close(y, right["y"])
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, right["grad_x"], rtol=1e-5, atol=1e-5)
    for parameter in module.parameters():
        torch.testing.assert_close(parameter.grad, right["grad_alpha"], rtol=1e-5, atol=1e-4)


def test_initialization_study_draws_the_kan_of_the_thesis():
    torch.manual_seed(0)
    ours = KANLinear(4, 3, grid_size=3, spline_order=3, initialization="study").state_dict()
    theirs = known("kan/", STUDY)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=0, msg=name)


def test_the_average_common_is_that_of_the_studys_script():
    glue = STUDY_MADE_WITH["glue"]
    figure = glue_metrics.AVERAGES["common"]
    ours = {task: figure(task, values) for task, values in glue["metrics"].items()}
    assert ours == pytest.approx(glue["figures"])
    assert np.mean(list(ours.values())) == pytest.approx(glue["average"])


def test_the_second_step_has_the_learning_rate_that_the_study_logged():
    settings = Train()
    assert optimizers.learning_rate(settings, step=1, done=1 / settings.max_steps, warmed=0) == pytest.approx(
        0.00049993961, rel=1e-7
    )


# --- weight sharing


@pytest.mark.parametrize("strategy", ["seq", "cycle", "cycle_rev"])
def test_layers_are_shared_as_by_the_code_of_the_paper(strategy):
    maps = json.loads((ANSWERS / "sharing.json").read_text())[strategy]
    assert len(maps) == 15
    for sizes, places in maps.items():
        assert layer_map(strategy, *map(int, sizes.split(","))) == list(map(int, places.split())), sizes


# --- the study of sparse layers: what its notebook results_analysis.ipynb printed


@pytest.mark.parametrize(
    ("task", "rows", "ones", "printed"),
    [
        ("boolq", 723, 433, 0.449343),
        ("cola", 1019, 708, 0.504906),
        ("mrpc", 177, 123, 0.504972),
        ("wsc", 83, 32, 0.204819),
    ],
)
def test_encoders_that_learnt_nothing_have_the_figures_that_the_sparse_study_printed_for_its_own(
    task, rows, ones, printed
):
    labels = (np.arange(rows) < ones).astype(np.int64)
    answers = np.full(rows, int(ones > rows / 2))
    assert glue_metrics.evaluate(task, labels, answers, 2)["sparse_study"] == pytest.approx(printed, abs=5e-7)


def test_micro_is_the_blimp_of_the_sparse_study_and_average_that_of_the_others():
    pairs = {  # of its dense GPT-Neo: file -> pairs, accuracy
        "anaphor_agreement": (1956, 0.819), "argument_structure": (8248, 0.602), "binding": (6738, 0.655),
        "control_raising": (4526, 0.582), "determiner_noun_agreement": (7542, 0.627), "ellipsis": (1732, 0.529),
        "filler_gap": (6426, 0.570), "hypernym": (860, 0.491), "irregular_forms": (1965, 0.663),
        "island_effects": (2676, 0.427), "npi_licensing": (6586, 0.440), "qa_congruence_easy": (64, 0.547),
        "qa_congruence_tricky": (165, 0.394), "quantifiers": (3882, 0.660), "subject_aux_inversion": (4099, 0.731),
        "subject_verb_agreement": (5535, 0.500), "turn_taking": (280, 0.561),
    }  # fmt: skip
    results = []
    for name, (number, accuracy) in pairs.items():
        task = PairTask(name, name, [None] * number, equal=0, too_long=0)
        right = np.arange(number) < round(accuracy * number)
        results.append(TaskScores(task, good=right.astype(float), bad=np.full(number, 0.5)))
    found = {figure.name: figure.accuracy for figure in blimp.figures(results)}
    assert found["micro"] == pytest.approx(0.588985, abs=5e-4)  # printed; the tasks' figures are rounded
    assert found["average"] == pytest.approx(np.mean([accuracy for _, accuracy in pairs.values()]), abs=1e-3)
