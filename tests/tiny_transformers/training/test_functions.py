"""functions.json: the learned functions are those that the modules compute."""

import json

import pytest
import torch
from variants import perturb, small

from tiny_transformers.common.work import Work
from tiny_transformers.layers.activations import LearnableGEGLU, module_of
from tiny_transformers.layers.ffn.kan import KANLinear
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.activations import ACTIVATIONS
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.training import functions, pretrain

X = functions.POINTS


def learned(family, variant, **settings):
    return functions.learned(perturb(auto.build(small(family, variant, **settings), seed=1)))


def curve(layer, name):
    return torch.tensor(next(curve["y"] for curve in layer["curves"] if curve["name"] == name))


@pytest.mark.parametrize("name", [name for name, activation in ACTIVATIONS.items() if activation.is_learnable])
@pytest.mark.parametrize("family", ["gpt_neo", "roberta"])
def test_the_curves_of_an_activation_are_the_module_applied_to_x(family, name):
    model = perturb(auto.build(small(family, name), seed=1))
    found = functions.learned(model)
    assert [layer["layer"] for layer in found] == [0, 1]
    modules = [module for module in model.modules() if isinstance(module, module_of(ACTIVATIONS[name]))]
    for layer, module in zip(found, modules, strict=True):
        units = len(module.alpha)
        rows = X[:, None].expand(-1, units)
        with torch.no_grad():
            y = module(torch.cat([torch.ones_like(rows), rows], -1) if isinstance(module, LearnableGEGLU) else rows)
        for quantile, share in functions.QUANTILES.items():
            expected = y.quantile(share, dim=1, interpolation="nearest")
            torch.testing.assert_close(curve(layer, quantile), expected, rtol=1e-3, atol=1e-4)
        start = module_of(ACTIVATIONS[name])(units, module.start)
        with torch.no_grad():
            begun = start(torch.cat([torch.ones_like(rows), rows], -1) if name == "learnable_geglu" else rows)[:, 0]
        torch.testing.assert_close(torch.tensor(layer["initial"]), begun, rtol=1e-3, atol=1e-4)


def test_an_activation_with_one_parameter_has_one_function():
    for layer in learned("gpt_neo", "swish_one"):
        assert [layer["curves"][0]["y"]] * 3 == [curve["y"] for curve in layer["curves"]]


@pytest.mark.parametrize("settings", [{}, {"grid_size": 5, "spline_order": 2}, {"initialization": "study"}])
def test_the_functions_of_all_edges_add_up_to_the_layer(settings):
    layer = perturb(KANLinear(5, 4, **settings))
    with torch.no_grad():
        edges = torch.stack(list(functions.of_edges(layer)))  # (points, out, in)
        y = layer(X[:, None].expand(-1, 5))
    torch.testing.assert_close(edges.sum(-1), y, rtol=1e-4, atol=1e-4)


def test_a_layer_of_one_edge_is_its_function():
    layer = perturb(KANLinear(1, 1))
    with torch.no_grad():
        y = layer(X[:, None])[:, 0]
    for found in functions._edges(layer)["curves"]:
        torch.testing.assert_close(torch.tensor(found["y"]), y, rtol=1e-3, atol=1e-4)


def test_the_edges_that_are_kept_have_the_largest_splines():
    layer = perturb(KANLinear(6, 5))
    with torch.no_grad():
        layer.spline_weight[3, 2] = 100.0
        layer.spline_weight[4, 5] = 200.0
    names = [found["name"] for found in functions._edges(layer)["curves"]]
    assert names[:5] == ["5 %", "median", "95 %", "input 5 to output 4", "input 2 to output 3"]
    assert len(names) == 3 + functions.EDGES


def test_both_layers_of_a_kan_and_its_activation_are_there():
    found = learned("gpt_neo", "kan", activation="prelu")
    is_edges = {(layer["layer"], layer["module"]): layer["initial"] is None for layer in found}
    parts = {"mlp.c_fc": True, "mlp.c_proj": True, "mlp.act": False}
    assert is_edges == {(number, part): edges for number in (0, 1) for part, edges in parts.items()}
    assert [layer["module"] for layer in learned("roberta", "kan")] == ["intermediate.dense"] * 2


def test_shared_layers_are_there_once():
    assert [layer["layer"] for layer in learned("gpt_neo", "cycle2", activation="swish")] == [0, 1]


@pytest.mark.parametrize("variant", ["gelu", "geglu", "moe_k2", "depth1"])
def test_a_model_without_learned_functions_has_no_file(tmp_path, variant):
    functions.write(tmp_path / "functions.json", auto.build(small("gpt_neo", variant), seed=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{"ffn": {"kind": "kan"}, "intermediate_size": 256}, {"activation": "swish"}])
def test_the_file_of_a_studys_model_is_small_and_replaced_whole(tmp_path, settings):
    path = tmp_path / "functions.json"
    path.write_text("x" * 100_000)
    functions.write(path, auto.build(GPTNeo(**settings), seed=1))
    assert path.stat().st_size < 50_000
    told = json.loads(path.read_text())
    assert {len(curve["y"]) for layer in told["layers"] for curve in layer["curves"]} == {len(told["x"])}
    assert list(tmp_path.iterdir()) == [path]


def test_pretraining_leaves_the_functions_of_the_model_that_it_saved(builtin_root, builtin_cache, tmp_path):
    settings = {"max_steps": 3, "stories_per_step": 4, "evaluations": 1, "eval_stories": 4, "learning_rate": 0.05}
    for family in ("gpt_neo", "roberta"):
        model = small(family, "learnable_gelu", vocab_size=1_000, max_position_embeddings=129)
        run_config = RunConfig(
            model=model, train=settings, data={"source": "builtin", "max_length": 128}, seed=1,
            evaluation={"superglue": {"max_length": 128}},
        )  # fmt: skip
        work = Work(run_config, builtin_root, builtin_cache, run_dir=tmp_path / family)
        pretrain.run(work)
        told = json.loads((work.run_dir / config.FUNCTIONS).read_text())
        assert told["layers"] == functions.learned(auto.load_lm(work.model_dir))
        assert curve(told["layers"][0], "median").tolist() != told["layers"][0]["initial"]
