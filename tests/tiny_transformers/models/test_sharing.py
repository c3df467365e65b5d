"""Layers that share one kind of module, and models of which only the first layers share."""

import re

import pytest
import torch
from pydantic import ValidationError
from variants import FAMILIES, perturb, small, tokens

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.models import auto
from tiny_transformers.settings.architecture import GPTNeo, Roberta, flops_per_token, num_parameters, parameters
from tiny_transformers.settings.sharing import Sharing

CASES = [  # sharing; of each of six layers, by which unique attention, and feed-forward module it is
    ({"strategy": "seq", "unique_layers": 2, "modules": "feed_forward"}, [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]),
    ({"strategy": "cycle_rev", "unique_layers": 2, "modules": "attention"}, [0, 1, 0, 1, 1, 0], [0, 1, 2, 3, 4, 5]),
    ({"strategy": "cycle", "unique_layers": 2, "first": 4}, [0, 1, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3]),
    ({"strategy": "seq", "unique_layers": 1, "modules": "feed_forward", "first": 3}, [0, 1, 2, 3, 4, 5],
     [0, 0, 0, 1, 2, 3]),
]  # fmt: skip
ATTENTION = re.compile(r"\.(ln_1|attn|attention|self_attn|input_layernorm)\.")
cases = pytest.mark.parametrize(("sharing", "attentions", "feed_forwards"), CASES)
families = pytest.mark.parametrize("family", FAMILIES)


@families
@cases
def test_a_model_that_shares_parts_is_a_deep_one_whose_parts_are_equal(family, sharing, attentions, feed_forwards):
    sizes = {"window_size": 24} if family == "gpt_neo" else {}  # local attention sees all, wherever it stands
    shared = perturb(auto.build(small(family, layers=6, sharing=sharing, **sizes), seed=1))
    deep = auto.build(small(family, layers=6, **sizes), seed=2).eval()
    given = shared.state_dict()
    kept = Sharing(**sharing).modules == "all"
    weights = {}
    for name in deep.state_dict():
        if block := re.search(r"(?:h|layers?)\.(\d+)\.", name):
            unique = attentions if ATTENTION.search(name) else feed_forwards
            number = unique[int(block[1])]
            place = number if kept else unique.index(number)
            weights[name] = given[name[: block.start(1)] + str(place) + name[block.end(1) :]]
        else:
            weights[name] = given[name]
    deep.load_state_dict(weights)
    torch.testing.assert_close(shared(tokens()).logits, deep(tokens()).logits, rtol=1e-4, atol=1e-4)


@families
@cases
def test_parameters_are_those_of_the_unique_modules_and_flops_those_of_all(family, sharing, attentions, feed_forwards):
    one, two, deep = (small(family, layers=layers) for layers in (1, 2, 6))
    shared = small(family, layers=6, sharing=sharing)
    attention = parameters(two).attention - parameters(one).attention
    feed_forward = parameters(two).feed_forward - parameters(one).feed_forward
    spared = (6 - len(set(attentions))) * attention + (6 - len(set(feed_forwards))) * feed_forward
    assert num_parameters(shared) == num_parameters(deep) - spared
    assert auto.build(shared, seed=0).num_parameters() == num_parameters(shared)
    assert flops_per_token(shared) == flops_per_token(deep)


@cases
def test_global_and_local_attention_alternate_among_the_unique_ones(sharing, attentions, feed_forwards):  # noqa: ARG001
    model = auto.build(small("gpt_neo", layers=6, sharing=sharing), seed=1)
    kinds, places = [], []
    for block in model.transformer.h:
        kinds.append(block.attn.attention.attention_type)
        places.append(block.attn.attention.layer_id)
    assert kinds == [("global", "local")[unique % 2] for unique in attentions]
    assert places == list(range(6))  # in the cache of keys and values


@families
def test_a_gradient_of_a_shared_module_is_the_sum_of_its_places(family):
    sharing = {"strategy": "seq", "unique_layers": 1, "modules": "feed_forward"}
    shared = perturb(auto.build(small(family, layers=2, sharing=sharing), seed=1))
    deep = auto.build(small(family, layers=2), seed=2).eval()
    weights = shared.state_dict()
    linear = {"gpt_neo": "mlp.c_fc.weight", "roberta": "intermediate.dense.weight", "llama": "mlp.up_proj.weight"}[
        family
    ]
    (name,) = [name for name in weights if name.endswith(linear)]
    deep.load_state_dict(
        {each: weights.get(each, weights.get(each.replace(".1.", ".0."))) for each in deep.state_dict()}
    )
    for model in (shared, deep):
        model(tokens(), labels=tokens()).loss.backward()
    places = [dict(deep.named_parameters())[each].grad for each in (name, name.replace(".0.", ".1."))]
    torch.testing.assert_close(dict(shared.named_parameters())[name].grad, sum(places))


@pytest.mark.parametrize(
    ("sharing", "complaint"),
    [
        ({"strategy": "seq", "unique_layers": 2, "first": 8}, "first 8 is more than the number of layers, 6"),
        ({"strategy": "seq", "unique_layers": 2, "first": 3}, "unique_layers 2 does not divide sharing.first, 3"),
        ({"strategy": "seq", "unique_layers": 4, "first": 4}, "4 of 4 layers shares nothing"),
        ({"strategy": "cycle", "unique_layers": 1, "first": 2}, "the same model: write strategy seq"),
        ({"strategy": "seq", "unique_layers": 2, "modules": "norms"}, "'all', 'attention' or 'feed_forward'"),
    ],
)
def test_what_cannot_be_shared_is_refused(sharing, complaint):
    with pytest.raises(ValidationError, match=complaint):
        GPTNeo(num_layers=6, sharing=sharing)


def test_a_configuration_by_hand_is_refused_as_well():
    config = auto.hf_config(small("roberta", "shared_first"))
    config.sharing = {"strategy": "seq", "unique_layers": 2, "first": 3}
    with pytest.raises(TinyTransformersError, match="unique_layers 2 does not divide sharing.first, 3"):
        config.validate()


def test_two_ways_to_write_what_is_shared_are_one_model():
    def of(**sharing):
        return Roberta(num_hidden_layers=6, sharing={"strategy": "seq", "unique_layers": 3, **sharing})

    assert of() == of(modules="all") == of(first=6)
    assert of().model_dump()["sharing"] == {"strategy": "seq", "unique_layers": 3}  # ids of before are kept
    assert len({of(**some).model_dump_json() for some in (
        {}, {"modules": "attention"}, {"modules": "feed_forward"}, {"modules": "attention", "unique_layers": 1},
        {"unique_layers": 1, "first": 3},
    )}) == 5  # fmt: skip
    assert of(modules="feed_forward", unique_layers=1, first=2).label == "gelu-seq1ff-first2"
    assert of(modules="attention").label == "gelu-seq3att"
