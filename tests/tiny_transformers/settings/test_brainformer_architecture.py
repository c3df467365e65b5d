import pytest
from pydantic import ValidationError

from tiny_transformers.settings.architecture import Brainformer, Parameters, flops_per_token, num_parameters, parameters
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.order import repeat

SIZES = {  # the originals', at a vocabulary of 205
    "tiny": ({"order": repeat(2, "sgfgfg")}, 5_180_157, 5.18),
    "small": ({"order": repeat(8, "sgfgfg")}, 20_208_525, 20.2),
    "medium": ({"order": repeat(48, "sgfgfg")}, 120_397_645, 120.4),
    "large_v2": ({"order": repeat(12, "sgfgfg"), "hidden_size": 768}, 109_451_245, 109.5),
}


@pytest.mark.parametrize(("settings", "count", "millions"), SIZES.values(), ids=SIZES)
def test_the_originals_sizes(settings, count, millions):
    assert num_parameters(Brainformer(**settings)) == count
    assert count / 1e6 == pytest.approx(millions, rel=5e-4)


def test_nothing_is_counted_that_the_order_does_not_use():
    h, i, v = 256, 256, 205
    block = 2 * h * i + i + h
    embedding, head = v * h + 32 * 2048, v * h + v
    assert parameters(Brainformer(order="sf")) == Parameters(embedding, 4 * h * h + 2 * h + 8, block + 2 * h, head)
    assert parameters(Brainformer(order="sfsfsf")) == parameters(Brainformer(order="sf"))  # applied again
    two = Brainformer(order="sf.sf")
    assert num_parameters(two) - num_parameters(Brainformer(order="sf")) == 4 * h * h + 2 * h + 8 + block + 2 * h
    assert (
        num_parameters(Brainformer(order="sf", tie_word_embeddings=True))
        == num_parameters(two) - (4 * h * h + 2 * h + 8 + block + 2 * h) - v * h
    )
    assert num_parameters(Brainformer(order="sf", adaptive_span=None)) == num_parameters(Brainformer(order="sf")) - 8


def test_a_string_in_either_reading_is_one_model():
    assert Brainformer(order="s.sfsf.f", reading="readme") == Brainformer(order="s.sf.sf.f")
    assert Brainformer(order="sfsf", reading="readme") == Brainformer(order="sf.sf") != Brainformer(order="sfsf")
    assert Brainformer(order="sandwich(4, 1, g)", reading="readme").groups == ("s", "sg", "sg", "sg", "g")


def test_flops_count_every_application_and_the_chosen_experts():
    h = 256
    block, attention, gate, head = 2 * h * h, 4 * h * h, h * 16, h * 205
    tiny = Brainformer()  # two groups of s, three g, two f
    assert flops_per_token(tiny) == 2 * (2 * attention + 6 * (2 * block + gate) + 4 * block + head)
    random = Brainformer(experts={"gate": "random"})  # 8 to 16 of 16
    assert flops_per_token(random) - flops_per_token(tiny) == 2 * 6 * 14 * block
    more = flops_per_token(random, training=True) - flops_per_token(tiny)  # its gate has no gradient: a third less
    assert more == 2 * 6 * 10 * block - 4 * gate


def test_labels_name_order_and_gate():
    assert Brainformer().label == "2xsgfgfg-naive16k2"
    assert Brainformer(experts={"gate": "random"}).label == "2xsgfgfg-random16k8to16"
    assert Brainformer(order="s.sf.sf.f", attn_span=512, adaptive_span=None).label == "s.2xsf.f-span512-fixedspan"
    assert Brainformer(experts={"gate": "gshard", "capacity": 2}).label == "2xsgfgfg-gshard16k2-capacity2"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"order": "sxg"}, "'x' is no module"),
        ({"order": "sf..sf"}, "one of them is empty"),
        ({"order": "s.f.s", "reading": "readme"}, "read in pairs"),
        ({"order": "sf", "experts": {"top_k": 3}}, "has no g"),
        ({"hidden_size": 100}, "100 is not a multiple of num_heads 8"),
        ({"experts": {"top_k": 17}}, "top_k 17 to 17 does not lie within the 16 experts"),
        ({"experts": {"gate": "random", "top_k": 8, "last_top_k": 4}}, "top_k 8 to 4"),
        ({"experts": {"last_top_k": 4}}, "last_top_k is of random"),
        ({"experts": {"capacity": 1.0}}, "capacity is of gshard, switch"),
        ({"experts": {"gate": "switch", "top_k": 2}}, "gate switch has top_k 1"),
        ({"experts": {"gate": "gshard", "top_k": 3}}, "gate gshard has top_k 2"),
    ],
)
def test_what_cannot_be_is_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Brainformer(**settings)


def test_models_are_refused_a_corpus_that_they_cannot_read():
    with pytest.raises(
        ValidationError,
        match="tinystories is not for .* brainformer: write a stream, such as enwik8 or text8",
    ):
        RunConfig(model=Brainformer())
    with pytest.raises(
        ValidationError, match="data.corpus text8 is not for models of family gpt_neo: write tinystories"
    ):
        RunConfig(model={"family": "gpt_neo"}, data={"corpus": "text8"})


def test_settings_of_no_use_are_not_part_of_a_run():
    stories = RunConfig(model={"family": "gpt_neo"})
    assert RunConfig(model={"family": "gpt_neo"}, train={"batch_size": 3, "block_size": 9}) == stories
    stream = {"model": Brainformer(), "data": {"corpus": "text8"}}
    assert RunConfig(**stream, train={"stories_per_step": 3}) == RunConfig(**stream)
    assert RunConfig(**stream, train={"batch_size": 3}) != RunConfig(**stream)
