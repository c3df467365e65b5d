"""Layers of different sizes: OpenELM's layer-wise scaling."""

import pytest
import torch
from pydantic import ValidationError
from variants import FAMILIES, perturb, small, tokens

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.models import auto
from tiny_transformers.settings import architecture
from tiny_transformers.settings.architecture import Roberta, flops_per_token, num_parameters, parameters
from tiny_transformers.settings.scaling import sizes

families = pytest.mark.parametrize("family", FAMILIES)
GROWING = {"attention": (0.5, 1.0), "feed_forward": (0.5, 4.0)}  # the paper's, of heads and of hidden_size


def of(family, **settings):
    """Eight heads of 64, three layers."""
    of_gpt = family == "gpt_neo"
    name = ("num_layers", "num_heads") if of_gpt else ("num_hidden_layers", "num_attention_heads")
    return architecture.FAMILIES[family](**dict(zip(name, (3, 8), strict=True)) | settings)


def test_sizes_grow_evenly_and_halves_are_rounded_up():
    assert sizes((0.5, 1.0), 16, 5) == (8, 10, 12, 14, 16)
    assert sizes((0.5, 1.0), 4, 3) == (2, 3, 4)
    assert sizes((0.5, 1.0), 3, 3) == (2, 2, 3)  # 1.5, 2.25, 3
    assert sizes((1.0, 0.1), 10, 4) == (10, 7, 4, 1)  # 0.1 is a tenth, and 0.7 of 10 are 7
    assert sizes((0.01, 1.0), 8, 3) == (1, 4, 8)  # a layer without any would be none


def test_sizes_are_those_of_openelms_smallest_model_but_for_how_its_code_rounds():
    """16 layers of width 1280, 20 heads in groups of 4; sizes as its published configuration has them."""
    heads = [4 * groups for groups in sizes((0.5, 1.0), 5, 16)]
    published = [12] * 5 + [16] * 7 + [20] * 4
    # Of 3.33 groups its code makes 4, since it never rounds down by a tenth.
    assert [layer for layer in range(16) if heads[layer] != published[layer]] == [5]
    multipliers = [0.5, 0.73, 0.97, 1.2, 1.43, 1.67, 1.9, 2.13, 2.37, 2.6, 2.83, 3.07, 3.3, 3.53, 3.77, 4.0]
    assert [round(units / 1280, 2) for units in sizes((0.125, 1.0), 4 * 1280, 16)] == multipliers


@families
def test_parameters_are_the_papers_sizes_layer_by_layer(family):
    h, heads, units, d = 512, (4, 6, 8), (256, 1152, 2048), 64
    model = of(family, intermediate_size=512, scaling=GROWING)
    assert (model.scaling.heads, model.scaling.units) == (heads, units)
    biases = 3 * d if family == "roberta" else 0  # of queries, keys and values, of each head
    if family == "llama":  # three matrices, no biases, and norms that only scale
        attention, feed_forward = sum(4 * h * n * d + h for n in heads), sum(3 * h * n + h for n in units)
    else:
        attention = sum(4 * h * n * d + biases * n + h + 2 * h for n in heads)
        feed_forward = sum(2 * h * n + n + h + 2 * h for n in units)
    assert parameters(model)[1:3] == (attention, feed_forward)
    with torch.device("meta"):
        built = auto._CLASSES[family](auto.hf_config(model))
    assert built.num_parameters() == num_parameters(model)


@families
def test_costs_are_those_of_models_of_each_layers_sizes(family):
    scaled = of(family, intermediate_size=512, scaling=GROWING)
    alike = [of(family, intermediate_size=512, **{scaled.heads_name: n}, qk_size=64 * n, v_size=64 * n)
             for n in (4, 8)]  # fmt: skip
    alike = [each.model_copy(update={"intermediate_size": n}) for each, n in zip(alike, (256, 2048), strict=True)]
    middle = scaled.layer(1)
    assert (middle.heads, middle.qk_size, middle.v_size, middle.intermediate_size) == (6, 384, 384, 1152)
    for cost in (
        lambda model: model.weights_per_token(training=True),
        lambda model: model.score_flops(100),
        lambda model: model.kept_per_token(100),
    ):
        whole = sum(cost(each) / 3 for each in (alike[0], middle, alike[1]))
        assert cost(scaled) == pytest.approx(whole)
    assert flops_per_token(scaled) < flops_per_token(of(family, intermediate_size=2048))


@families
def test_a_head_or_unit_that_a_layer_lacks_is_one_that_gives_nothing(family):
    model = small(family, "scaled")
    scaled = perturb(auto.build(model, seed=1))
    full = auto.build(small(family, layers=3, intermediate_size=64, activation=model.activation), seed=2).eval()
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            given = scaled.get_parameter(name)
            parameter.zero_()
            parameter[tuple(map(slice, given.shape))] = given
            assert parameter.shape == given.shape or ".2." not in name
    torch.testing.assert_close(scaled(tokens()).logits, full(tokens()).logits, rtol=1e-4, atol=1e-4)


@families
def test_groups_of_heads_stay_whole(family):
    model = of(family, num_key_value_heads=4, scaling={"attention": [0.5, 1.0]})
    assert model.scaling.heads == (4, 6, 8)
    assert [model.layer(number).num_key_value_heads for number in range(3)] == [2, 3, 4]
    built = auto.build(small(family, "kv_groups", layers=2, scaling={"attention": [0.5, 1.0]}), seed=0)
    owner, name = built.stack()
    shapes = [built.attention(block).state_dict() for block in getattr(owner, name)]
    keys = [[tensor.shape[0] for name, tensor in each.items() if name.endswith(("k_proj.weight", "key.weight"))]
            for each in shapes]  # fmt: skip
    assert keys == [[8], [16]]  # one and two heads of 8


def test_two_ways_to_write_sizes_are_one_model():
    assert of("gpt_neo", scaling={"attention": [1, 1], "feed_forward": [1, 1]}) == of("gpt_neo")
    assert of("gpt_neo", scaling={"feed_forward": [2, 2]}) == of("gpt_neo", intermediate_size=2048)
    grown = of("roberta", intermediate_size=512, scaling=GROWING)
    assert grown == of("roberta", scaling={"heads": [4, 6, 8], "units": [256, 1152, 2048]})
    assert grown == of("roberta", intermediate_size=512, scaling={"attention": [0.52, 1], "feed_forward": [0.5, 4]})
    assert grown == Roberta.model_validate_json(grown.model_dump_json())
    assert "scaling" not in of("roberta").model_dump()  # ids of before are kept
    assert grown.intermediate_size == 2048  # the largest
    assert grown.label == "gelu-heads4to8-units256to2048"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"scaling": {"attention": [0.5, 0.9]}}, "the most heads of a layer are 7 of 8: one must have all"),
        ({"scaling": {"heads": [4, 8]}}, "heads has 2 sizes for 3 layers"),
        ({"scaling": {"attention": [0.5, 1], "heads": [4, 6, 8]}}, "write one of the two"),
        ({"scaling": {"feed_forward": [0.0, 1.0]}}, "greater than 0"),
        ({"scaling": {"heads": [3, 6, 8]}, "num_key_value_heads": 4}, "2 heads share keys and values"),
        ({"scaling": GROWING, "order": "sfsfsff"}, "order|larger must be"),
        ({"scaling": GROWING, "order": "ssffsf"}, "cannot be combined with sharing or an order"),
        ({"scaling": GROWING, "sharing": {"strategy": "seq", "unique_layers": 1}}, "cannot be combined with sharing"),
        ({"scaling": GROWING, "ffn": {"kind": "moe"}}, "units: the sizes of moe follow from its own settings"),
        ({"scaling": GROWING, "ffn": {"depth": 1}}, "the sizes of dense follow from"),
        ({"scaling": GROWING, "num_layers": 1}, "with one layer leave it out"),
    ],
)
def test_what_cannot_be_scaled_is_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        of("gpt_neo", **settings)


def test_attention_is_scaled_beside_any_feed_forward_module():
    model = of("gpt_neo", scaling={"attention": [0.5, 1.0]}, ffn={"kind": "moe"})
    with torch.device("meta"):
        assert auto._CLASSES["gpt_neo"](auto.hf_config(model)).num_parameters() == num_parameters(model)


def test_learnable_activations_and_kans_have_each_layers_units():
    units = {"layers": 3, "intermediate_size": 48, "scaling": {"feed_forward": (0.25, 1.0)}}
    for settings in ({"activation": "prelu"}, {"activation": "geglu"}, {"ffn": {"kind": "kan"}}, {"ffn": {"depth": 3}}):
        model = small("roberta", **units | settings)
        assert auto.build(model, seed=0).num_parameters() == num_parameters(model)
    built = auto.build(small("gpt_neo", activation="prelu", **units), seed=0)
    assert [block.mlp.act.alpha.numel() for block in built.transformer.h] == [12, 30, 48]


def test_a_configuration_by_hand_has_sizes_for_every_layer():
    config = auto.hf_config(small("gpt_neo", "scaled"))
    config.scaling = {"heads": [2, 4], "units": None}
    with pytest.raises(TinyTransformersError, match="heads has 2 sizes for 3 layers"):
        config.validate()
