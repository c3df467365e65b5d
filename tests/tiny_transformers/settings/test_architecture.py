import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from variants import EVERY, PAIRS, small

from cluster.manifest import grids, loading
from tiny_transformers.models import auto
from tiny_transformers.models.brainformer import TinyBrainformerForCausalLM
from tiny_transformers.settings.architecture import (
    GPTNeo,
    Llama,
    Roberta,
    flops_per_token,
    num_parameters,
    parameters,
)
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.feed_forward.controller import controller_size
from tiny_transformers.settings.feed_forward.moe import expert_size
from tiny_transformers.settings.feed_forward.pkm import num_subkeys
from tiny_transformers.settings.sharing import layer_map

NARROW = {"hidden_size": 256, "intermediate_size": 4096}
COUNTS = [  # settings, parameters of GPT-Neo, of RoBERTa: the study's
    ({"activation": "gelu"}, 9_585_664, 9_863_952),
    ({"activation": "relu"}, 9_585_664, 9_863_952),
    ({"activation": "silu"}, 9_585_664, 9_863_952),
    ({"activation": "none"}, 9_585_664, 9_863_952),
    ({"activation": "prelu"}, 9_587_712, 9_866_000),
    ({"activation": "swish"}, 9_587_712, 9_866_000),
    ({"activation": "swish_thesis"}, 9_587_712, 9_866_000),
    ({"activation": "learnable_gelu"}, 9_587_712, 9_866_000),
    ({"activation": "geglu"}, 10_636_288, 10_914_576),
    ({"activation": "learnable_geglu"}, 10_638_336, 10_916_624),
    ({"ffn": {"kind": "kan"}, "intermediate_size": 256}, 11_679_744, 10_124_048),
    ({"ffn": {"kind": "kan"}, "intermediate_size": 384}, 13_776_896, 11_303_696),
    (NARROW, 7_421_440, 7_500_048),
    *[(NARROW | {"ffn": {"kind": "moe", "top_k": k}}, 7_422_968, 7_501_576) for k in (1, 2, 3)],
    (NARROW | {"ffn": {"kind": "controller", "num_blocks": 64}}, 7_390_080, 7_468_688),
    (NARROW | {"ffn": {"kind": "controller", "num_blocks": 32}}, 7_424_384, 7_502_992),
    (NARROW | {"ffn": {"kind": "controller", "num_blocks": 16}}, 7_425_280, 7_503_888),
    *[(NARROW | {"ffn": {"kind": "pkm", "top_k": k}}, 7_396_352, 7_474_960) for k in (14, 28, 42)],
    ({"layers": 3}, 11_686_912, 11_966_736),
    ({"layers": 4}, 13_788_160, 14_069_520),
    ({"hidden_size": 516}, 9_677_048, 9_959_496),
]


def gpt_neo_and_roberta(settings):
    settings = dict(settings)
    layers = settings.pop("layers", 2)
    return GPTNeo(num_layers=layers, **settings), Roberta(num_hidden_layers=layers, **settings)


@pytest.mark.parametrize(("settings", "gpt_neo", "roberta"), COUNTS)
def test_models_of_the_study_have_its_counts(settings, gpt_neo, roberta):
    for model, count in zip(gpt_neo_and_roberta(settings), (gpt_neo, roberta), strict=True):
        with torch.device("meta"):
            built = auto._CLASSES[model.family](auto.hf_config(model))
        assert num_parameters(model) == built.num_parameters() == count


LLAMAS = [  # settings, parameters: V h + L (4h^2 + 2h + 3hI) + h and what differs
    ({}, 10_365_440),
    ({"intermediate_size": 768}, 9_579_008),
    ({"intermediate_size": 1152, "activation": "gelu"}, 9_579_008),
    ({"intermediate_size": 1152, "activation": "prelu"}, 9_581_312),
    ({"intermediate_size": 768, "activation": "learnable_geglu"}, 9_580_544),
    ({"intermediate_size": 768, "num_key_value_heads": 2}, 9_579_008 - 2 * 512 * 512),
    ({"intermediate_size": 768, "bias": True}, 9_579_008 + 2 * (5 * 512 + 2 * 768)),
    ({"num_hidden_layers": 6, "sharing": {"strategy": "cycle", "unique_layers": 2}}, 10_365_440),
]


@pytest.mark.parametrize(("settings", "count"), LLAMAS)
def test_llamas_have_their_counts(settings, count):
    model = Llama(**settings)
    with torch.device("meta"):
        built = auto._CLASSES[model.family](auto.hf_config(model))
    assert num_parameters(model) == built.num_parameters() == count


@pytest.mark.parametrize(("variant", "family"), PAIRS)
def test_the_parts_are_those_of_the_built_model(family, variant):
    model = small(family, variant)
    built = auto.build(model, seed=0)
    parts = {"embedding": 0, "attention": 0, "feed_forward": 0, "head": 0}
    for name, parameter in built.named_parameters():
        if re.search(r"wte|wpe|embed", name):
            part = "embedding"
        elif re.search(r"ln_f|lm_head|recurrence|^model\.norm", name):
            part = "head"
        else:
            attention = r"ln_1|attn\.|\.attention\.|\.projection\.|input_layernorm"
            part = "attention" if re.search(attention, name) else "feed_forward"
        parts[part] += parameter.numel()
    assert parts == {part: getattr(parameters(model), part) for part in parts}


@pytest.mark.parametrize(("variant", "family"), EVERY)
def test_settings_are_the_same_after_being_written_and_read(family, variant):
    model = small(family, variant)
    assert type(model).model_validate_json(model.model_dump_json()) == model


def test_experiments_yaml_has_no_kind_of_model_that_the_tests_lack():
    def kinds(some):
        return {re.sub(r"\d+", "#", model.label) for model in some}

    document = loading.load(Path(__file__).parents[3] / "experiments.yaml")
    tested = {label for variant, family in EVERY for label in kinds([small(family, variant)])}
    configs = [cell.config for cell in grids.cells(document, studies=document.studies)]
    assert kinds(config.model for config in configs if not config.data.is_stream) <= tested
    # Of Brainformers tests/tiny_transformers/test_brainformer.py has every gate, and the shipped orders below.
    for model in {config.model.model_dump_json(): config.model for config in configs if config.data.is_stream}.values():
        with torch.device("meta"):
            built = TinyBrainformerForCausalLM(auto.hf_config(model))
        assert built.num_parameters() == num_parameters(model), model.label


# --- FLOPs


def test_flops_of_the_base_are_two_per_weight_a_token_meets():
    h, i, vocab = 512, 1024, 10_000
    assert flops_per_token(GPTNeo()) == 2 * (2 * (4 * h * h + 2 * h * i) + vocab * h)
    assert flops_per_token(Roberta()) == 2 * (2 * (4 * h * h + 2 * h * i) + vocab * h + h * h)
    assert flops_per_token(Llama()) == 2 * (2 * (4 * h * h + 3 * h * i) + vocab * h)
    assert flops_per_token(GPTNeo(), training=True) == flops_per_token(GPTNeo())


def test_a_ponder_cost_is_of_a_micro_batch():
    def is_free(**recurrence):
        return GPTNeo(recurrence=recurrence).micro_batch_is_free

    assert is_free()
    assert is_free(halting={"ponder": 0})
    assert not is_free(halting={})


def test_shared_layers_cost_what_they_save_in_parameters():
    deep = GPTNeo(num_layers=6, sharing={"strategy": "seq", "unique_layers": 2})
    assert flops_per_token(deep) == flops_per_token(GPTNeo(num_layers=6))
    assert num_parameters(deep) == num_parameters(GPTNeo(num_layers=2))


def test_sparse_modules_cost_the_part_that_is_used():
    def of(ffn, **how):
        rest = flops_per_token(GPTNeo(**NARROW)) - 2 * 2 * (2 * 256 * 4096)
        return (flops_per_token(GPTNeo(**NARROW, ffn=ffn), **how) - rest) / 4  # weights of one module

    assert of({"kind": "moe", "top_k": 3}) == 256 * 4 + 3 * 2 * 256 * 1023
    assert of({"kind": "moe", "top_k": 3}, training=True) == 2 * 256 * 4 + 3 * 2 * 256 * 1023
    assert of({"kind": "controller"}) == 4 * (256 + 4032) + 64 * 2 * 256
    assert of({"kind": "controller"}, training=True) == 4 * (256 + 4032) + 4032 * 2 * 256
    assert of({"kind": "pkm", "top_k": 42}) == 256 * 4096 + 4 * 2 * 56 * 512 + 4 * 42 * 256
    assert of({"kind": "kan"}) == 2 * 7 * 256 * 4096


# --- sizes


def test_the_sizes_are_those_of_the_study():
    assert expert_size(256, 4096, 4) == 1023
    assert [controller_size(256, 4096, blocks, 256 // blocks) for blocks in (64, 32, 16)] == [4032, 4032, 3968]
    assert num_subkeys(256, 4096, 4, 1024) == 56


@pytest.mark.parametrize("family", [GPTNeo, Llama])
@pytest.mark.parametrize("kind", ["moe", "controller", "pkm"])
@pytest.mark.parametrize("sizes", [(128, 2048), (256, 4096), (512, 4096), (512, 8192)])
def test_a_sparse_module_takes_the_parameters_of_the_dense_one(kind, sizes, family):
    hidden, intermediate = sizes
    ffn = {"kind": kind} | ({"query_size": 256} if kind == "pkm" else {})
    dense, sparse = (
        family(hidden_size=hidden, intermediate_size=intermediate, ffn=each) for each in ({"kind": "dense"}, ffn)
    )
    size = {"moe": "expert_size", "controller": "size", "pkm": "num_subkeys"}[kind]
    step = sparse.ffn.num_blocks if kind == "controller" else 1

    def off(change):
        changed = sparse.ffn.model_copy(update={size: getattr(sparse.ffn, size) + change})
        return abs(num_parameters(sparse.model_copy(update={"ffn": changed})) - num_parameters(dense))

    assert off(0) == min(off(-step), off(0), off(step))  # no other size is nearer
    assert num_parameters(sparse) == pytest.approx(num_parameters(dense), rel=0.02)


# --- sharing and order


def test_layer_maps_of_weight_sharing():
    assert layer_map("seq", 3, 6) == [0, 0, 1, 1, 2, 2]
    assert layer_map("cycle", 3, 6) == [0, 1, 2, 0, 1, 2]
    assert layer_map("cycle_rev", 3, 6) == [0, 1, 2, 2, 1, 0]
    assert layer_map("cycle_rev", 3, 9) == [0, 1, 2, 0, 1, 2, 2, 1, 0]
    assert layer_map("cycle_rev", 2, 6) == [0, 1, 0, 1, 1, 0]
    assert layer_map("seq", 2, 6) == [0, 0, 0, 1, 1, 1]
    assert layer_map("cycle", 3, 12) == [0, 1, 2] * 4
    assert layer_map("cycle_rev", 6, 12) == [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]


def test_two_ways_to_write_a_model_are_one_model():
    assert GPTNeo(order="sfsf") == GPTNeo()
    assert GPTNeo(order="s.sf.f") == GPTNeo(order="ssff")
    assert GPTNeo(qk_size=512, v_size=512, num_key_value_heads=4) == GPTNeo()
    assert Roberta(bias=True) == Roberta()
    alone = {"num_hidden_layers": 1, "linformer": {"k": 8}}
    assert Roberta(**alone) == Roberta(**alone | {"linformer": {"k": 8, "share": "key_value"}})
    assert Llama(bias=False, activation="swiglu") == Llama()
    assert Llama(bias=False, ffn={"kind": "moe"}) == Llama(ffn={"kind": "moe"}) != Llama(bias=True, ffn={"kind": "moe"})
    assert GPTNeo(bias=True) != GPTNeo()
    assert GPTNeo(activation="swish", activation_init=1.0, activation_parameters="per_unit") == GPTNeo(
        activation="swish"
    )
    assert GPTNeo(recurrence={}) == GPTNeo(recurrence={}, sharing={"strategy": "seq", "unique_layers": 1})
    assert GPTNeo(ffn={"depth": 1}, intermediate_size=99) == GPTNeo(ffn={"depth": 1})
    moe = GPTNeo(**NARROW, ffn={"kind": "moe"})
    assert GPTNeo(hidden_size=256, intermediate_size=77, ffn={"kind": "moe", "expert_size": 1023}) == moe
    assert GPTNeo(hidden_size=256, intermediate_size=4097, ffn={"kind": "moe"}) == moe
    assert moe.intermediate_size == 4 * 1023
    memory = GPTNeo(**NARROW, ffn={"kind": "pkm"})
    assert GPTNeo(hidden_size=256, ffn={"kind": "pkm", "num_subkeys": 56}) == memory


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"sharing": {"strategy": "seq", "unique_layers": 2}}, "2 of 2 layers shares nothing: leave sharing out"),
        ({"sharing": {"strategy": "cycle", "unique_layers": 1}}, "the same model: write strategy seq"),
        ({"num_layers": 4, "sharing": {"strategy": "seq", "unique_layers": 3}}, "3 does not divide .* layers, 4"),
        ({"order": "ssff", "sharing": {"strategy": "seq", "unique_layers": 1}}, "cannot be combined with an order"),
        ({"order": "ssff", "recurrence": {}}, "recurrence is of whole layers"),
        ({"num_layers": 1, "recurrence": {}}, "recurrence of 1 layer has one step"),
        ({"recurrence": {"signal": False}}, "recurrence without signal and halting is sharing"),
        ({"recurrence": {}, "sharing": {"strategy": "seq", "unique_layers": 2}}, "2 of 2 layers shares nothing"),
        ({"recurrence": {"halting": {"epsilon": 1}}}, "less than 1"),
        ({"linformer": {"k": 8}}, "a decoder would see what it is to foretell: encoders only"),
        ({"order": "sxf"}, "order"),
        ({"order": ".."}, "order"),
        ({"order": "ff"}, "order"),
        ({"activation": "relu", "initialization": "study"}, "were drawn as the family's"),
        ({"activation": "prelu", "activation_init": float("nan")}, "finite"),
        ({"order": "sf.s"}, "one is '.s'"),
        ({"order": "s.f"}, "one is 'f'|read in pairs"),
        ({"order": "sfsfsf"}, "3 attention and 3 feed-forward modules; the larger must be the number of layers, 2"),
        ({"activation": "gelu", "activation_init": 1.0}, "gelu has no parameters"),
        ({"activation": "geglu", "ffn": {"kind": "moe"}}, "geglu cannot be used in moe, only relu"),
        ({"activation": "geglu", "ffn": {"kind": "kan"}}, "gates linear layers, which kan replaces"),
        ({"activation": "relu", "ffn": {"depth": 1}}, "one linear layer: it has no activation"),
        ({"ffn": {"kind": "moe", "top_k": 5}}, "top_k 5 is more than num_experts 4"),
        ({"ffn": {"kind": "pkm", "top_k": 60}, **NARROW}, "top_k 60 is more than ffn.num_subkeys 56"),
        ({"ffn": {"kind": "pkm"}}, "queries of 4 x 1024 alone have more parameters than the dense module"),
        ({"ffn": {"kind": "controller", "num_blocks": 3, "size": 10}}, "10 is not a multiple of num_blocks 3"),
        ({"ffn": {"kind": "moe"}, "bias": False}, "not for moe"),
        ({"ffn": {"kind": "pkm"}, **NARROW, "initialization": "study"}, "pkm has family only"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_heads 4"),
        ({"qk_size": 30}, "qk_size 30 is not a multiple of num_heads 4"),
    ],
)
def test_what_cannot_be_is_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        GPTNeo(**settings)


def test_a_query_that_cannot_be_turned_in_pairs_is_refused():
    with pytest.raises(ValidationError, match="a query has 5 numbers, which rotary positions turn in pairs"):
        Llama(qk_size=20)


# --- names


def test_a_name_says_how_a_model_differs():
    def name(**settings):
        return GPTNeo(**settings).label

    assert name() == "gelu"
    assert name(activation="prelu", activation_init=0.0, activation_parameters="one") == "prelu-one-init0"
    assert name(ffn={"kind": "kan"}) == "kan_g3k3"
    assert name(ffn={"kind": "moe", "top_k": 1}, activation="gelu") == "moe4k1-gelu"
    assert name(ffn={"depth": 3}, order="ssff", bias=False) == "gelu-depth3-nobias-ssff"
    assert name(num_layers=6, sharing={"strategy": "cycle_rev", "unique_layers": 3}) == "gelu-cycle_rev3"
    assert name(qk_size=64, v_size=128, num_key_value_heads=2) == "gelu-qk64-v128-2KV"
    assert name(recurrence={}) == "gelu-seq1-universal"
    halting = {"signal": False, "halting": {"ponder": 0.1, "epsilon": 0.05}}
    assert name(recurrence=halting) == "gelu-seq1-universal-nosignal-halting-eps0.05-ponder0.1"
    assert Roberta().label == "gelu"
    assert Roberta(linformer={"k": 64}).label == "gelu-linformer64"
    assert Roberta(linformer={"k": 64, "share": "headwise"}).label == "gelu-linformer64-headwise"
    assert Roberta(bias=False).label == "gelu-nobias"
    assert Llama().label == "swiglu"
    assert Llama(bias=True, num_key_value_heads=1, ffn={"depth": 3}).label == "swiglu-depth3-1KV-bias"
    assert Llama(ffn={"kind": "moe"}).label == "moe4k2"
    assert Llama(ffn={"kind": "kan"}).activation == "gelu"


def test_settings_that_were_asked_for_their_costs_are_equal_to_others_and_changed_ones_have_their_own():
    plain, asked = RunConfig(model=GPTNeo()), RunConfig(model=GPTNeo())
    assert (asked.parameters, asked.weights_flops) == (
        num_parameters(GPTNeo()),
        flops_per_token(GPTNeo(), training=True),
    )
    assert asked == plain
    assert asked.model_dump_json() == plain.model_dump_json()
    small = asked.model_copy(update={"model": GPTNeo(hidden_size=64)})
    assert small.parameters == num_parameters(small.model)
    assert small.weights_flops == flops_per_token(small.model, training=True)
