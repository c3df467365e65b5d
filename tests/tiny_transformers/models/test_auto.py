import copy
import functools
import itertools
import json
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import fresh
import pytest
import torch
from longer import kept, longer
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)
from variants import DECODERS, EVERY, FAMILIES, PAIRS, SMALL, STOCK, digest, perturb, small, tokens

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.ffn.kan import KANLinear
from tiny_transformers.layers.layer import Layer, PerToken
from tiny_transformers.models import auto
from tiny_transformers.models.gpt_neo import TinyGPTNeoConfig, TinyGPTNeoForCausalLM
from tiny_transformers.models.llama import TinyLlamaConfig, TinyLlamaForCausalLM
from tiny_transformers.models.roberta import TinyRobertaForMaskedLM
from tiny_transformers.settings.activations import ACTIVATIONS
from tiny_transformers.settings.architecture import Brainformer, Llama, num_parameters

STOCK_NAMES = {  # Hugging Face's, where they differ from ours
    "gpt_neo": {"gelu": "gelu_new"},
    "roberta": {},
    "llama": {"swiglu": "silu", "geglu": "gelu_pytorch_tanh"},  # it names what the gates go through
}


pairs = pytest.mark.parametrize(("variant", "family"), PAIRS)


def in_a_fresh_process(code, *arguments, **options):
    done = fresh.python(code, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- counts and settings


@pytest.mark.parametrize(("variant", "family"), EVERY)
def test_built_count_is_the_closed_form(family, variant):
    # Other sizes, so that no two terms are equal by chance.
    model = small(family, variant, hidden_size=40, max_position_embeddings=25)
    assert auto.build(model, seed=0).num_parameters() == num_parameters(model)


def test_attention_alternates_for_any_depth():
    layers = auto.hf_config(small("gpt_neo", num_layers=5)).attention_layers
    assert layers == ["global", "local", "global", "local", "global"]


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_of_the_study_reach_hugging_face(family):
    configuration = auto.hf_config(small(family, dropout=0.2))
    assert (configuration.pad_token_id, configuration.bos_token_id, configuration.eos_token_id) == (0, 1, 2)
    assert configuration.tie_word_embeddings
    if family == "gpt_neo":
        dropouts = configuration.resid_dropout, configuration.embed_dropout, configuration.attention_dropout
        assert dropouts == (0.2, 0.2, 0.2)
        assert configuration.window_size == 4
    elif family == "llama":
        assert (configuration.attention_dropout, configuration.rms_norm_eps) == (0.2, 1e-6)
        assert configuration.rope_parameters == {"rope_type": "default", "rope_theta": 10_000}
    else:
        assert (configuration.hidden_dropout_prob, configuration.attention_probs_dropout_prob) == (0.2, 0.2)
        assert (configuration.layer_norm_eps, configuration.type_vocab_size) == (1e-12, 2)


# --- initialisation


@pytest.mark.parametrize(("variant", "family"), [pair for pair in PAIRS if not pair[0].startswith("study")])
def test_weights_are_drawn_by_the_rule_of_the_family(family, variant):
    model = auto.build(small(family, variant, hidden_size=128, intermediate_size=256), seed=3)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            chance = 4 / math.sqrt(2 * module.weight.numel())  # four standard deviations of a standard deviation
            assert module.weight.std().item() == pytest.approx(0.02, rel=chance + 0.02), name  # one row is padding's
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            assert not module.bias.any(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_moe_and_controller_follow_the_rule_too(family):
    for variant in ("moe_k2", "controller"):
        model = auto.build(small(family, variant, hidden_size=64, intermediate_size=256), seed=3)
        own = {name: p for name, p in model.named_parameters() if name.rpartition(".")[2] in ("w1", "w2", "b1", "b2")}
        assert len(own) == 8
        for name, parameter in own.items():
            if name[-2] == "w":
                assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
            else:
                assert not parameter.any(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_our_own_are_drawn_by_transformers_own_method(family, monkeypatch):
    drawn = []
    monkeypatch.setattr(PreTrainedModel, "_initialize_weights", lambda _, module, *__: drawn.append(module))
    model = auto._CLASSES[family](auto.hf_config(small(family, "moe_k2")))
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    assert layers
    assert all(module in drawn for module in layers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", [name for name, activation in ACTIVATIONS.items() if activation.is_learnable])
def test_learnable_activations_start_where_the_settings_say(family, activation):
    def alphas(**settings):
        model = auto.build(small(family, activation, **settings), seed=3)
        return [parameter for name, parameter in model.named_parameters() if name.endswith("alpha")]

    assert [alpha.tolist() for alpha in alphas()] == [[ACTIVATIONS[activation].start] * 48] * 2
    assert [alpha.tolist() for alpha in alphas(activation_parameters="one", activation_init=0.5)] == [[0.5]] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_studys_initialisation_is_that_of_torch(family):
    # The confound: what replaced a stock module kept torch's own start, uniform within 1/sqrt(in).
    model = auto.build(small(family, "study_dense", hidden_size=64, intermediate_size=256), seed=3)
    block = next(getattr(*model.stack()).children())
    names = {"gpt_neo": ("mlp.c_fc", "mlp.c_proj"), "llama": ("mlp.up_proj", "mlp.down_proj")}
    for name in names.get(family, ("intermediate.dense", "output.dense")):
        linear = block.get_submodule(name)
        bound = 1 / math.sqrt(linear.in_features)
        assert linear.bias is None or 0.95 * bound < linear.bias.abs().max() <= bound
        assert (linear.bias is None) == (family == "llama")
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@functools.cache
def stock_weights(family):
    return auto.build(small(family, intermediate_size=40, layers=4), seed=5).state_dict()


@pairs
def test_equal_seeds_give_equal_weights_to_all_that_two_models_share(family, variant):
    # The same model of the same seed is built again further below, in another process.
    stock, built, other = stock_weights(family), *(auto.build(small(family, variant), s).state_dict() for s in (5, 6))
    drawn = [name for name, tensor in built.items() if tensor.is_floating_point() and tensor.unique().numel() > 1]
    assert not [name for name in drawn if torch.equal(built[name], other[name]) and "grid" not in name]
    shared = [name for name in drawn if name in stock and stock[name].shape == built[name].shape]
    assert any("wpe" in name or "position" in name or "embed_tokens" in name for name in shared)
    assert any("k_proj" in name or ".key." in name for name in shared) or "kv" in variant or "qk" in variant
    unequal = [name for name in shared if not torch.equal(stock[name], built[name])]
    assert not unequal or (variant == "study_dense" and all(name.endswith(".bias") for name in unequal))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_modules_are_drawn_alike(family):
    weights = auto.build(small(family, layers=3), seed=5).state_dict()
    drawn = [tensor for name, tensor in weights.items() if tensor.ndim == 2 and "lm_head" not in name]
    for one, two in itertools.combinations(drawn, 2):
        assert one.shape != two.shape or not torch.equal(one, two)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_activation_leaves_the_weights_around_it_as_they_are(family):
    stock = auto.build(small(family), seed=5).state_dict()
    for activation in (name for name, activation in ACTIVATIONS.items() if not activation.gated):
        built = auto.build(small(family, activation), seed=5).state_dict()
        assert all(torch.equal(tensor, built[name]) for name, tensor in stock.items())


def test_building_leaves_the_random_state_of_torch_alone():
    before = torch.get_rng_state()
    auto.build(small("gpt_neo"), seed=5)
    assert torch.equal(torch.get_rng_state(), before)


# --- the models themselves


def stock_model(family, activation):
    name = STOCK_NAMES[family].get(activation, activation)
    shared = {**SMALL, "pad_token_id": 0}
    if family == "gpt_neo":
        types = [[["global", "local"], 1]]
        return GPTNeoForCausalLM(
            GPTNeoConfig(
                **shared, num_layers=2, num_heads=4, attention_types=types, window_size=4, activation_function=name
            )
        )
    if family == "llama":
        layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": True}
        return LlamaForCausalLM(LlamaConfig(**shared, **layers, hidden_act=name))
    return RobertaForMaskedLM(
        RobertaConfig(**shared, num_hidden_layers=2, num_attention_heads=4, hidden_act=name, layer_norm_eps=1e-12)
    )


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(("activation", "family"), STOCK)
def test_stock_settings_are_the_classes_of_transformers(family, activation, padding):
    ours, stock = perturb(auto.build(small(family, activation), seed=1)), stock_model(family, activation).eval()
    stock.load_state_dict(ours.state_dict())
    ids = tokens()
    if padding:
        ids[1:, -padding:] = 0
    labels = ids.masked_fill(ids == 0, -100)
    outputs = [model(ids, attention_mask=(ids != 0).long(), labels=labels) for model in (ours, stock)]
    real = ids != 0
    torch.testing.assert_close(outputs[0].logits[real], outputs[1].logits[real], rtol=1e-5, atol=1e-5)
    for output in outputs:
        output.loss.backward()
    gradients = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_grouped_heads_are_full_attention_with_repeated_keys_and_values(family):
    grouped = perturb(auto.build(small(family, "kv_groups", activation="gelu"), seed=1))
    weights = grouped.state_dict()
    for name, tensor in weights.items():
        if re.search(r"(k_proj|v_proj|self\.key|self\.value)\.", name):  # (2 heads of 8, ...) -> (4 heads of 8, ...)
            weights[name] = tensor.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
    full = auto.build(small(family), seed=2).eval()
    full.load_state_dict(weights)
    torch.testing.assert_close(grouped(tokens()).logits, full(tokens()).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("variant", "places"), [
    ("seq2", [0, 0, 0, 1, 1, 1]), ("cycle3", [0, 1, 2, 0, 1, 2]), ("cycle_rev3", [0, 1, 2, 2, 1, 0]),
    ("cycle_rev2", [0, 1, 0, 1, 1, 0]),
])  # fmt: skip
def test_shared_layers_are_a_deep_model_with_equal_layers(family, variant, places):
    sizes = {"activation": "gelu"} | ({"window_size": 24} if family == "gpt_neo" else {})
    shared = perturb(auto.build(small(family, variant, **sizes), seed=1))
    weights = {}
    for name, tensor in shared.state_dict().items():
        layer = re.search(r"(?:h|layers?)\.(\d+)\.", name)
        if not layer:
            weights[name] = tensor
            continue
        for place, unique in enumerate(places):
            if unique == int(layer[1]):
                weights[name[: layer.start(1)] + str(place) + name[layer.end(1) :]] = tensor
    deep = auto.build(small(family, layers=6, **sizes), seed=2).eval()
    deep.load_state_dict(weights)
    torch.testing.assert_close(shared(tokens()).logits, deep(tokens()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", ["sf", "fs", "ssff", "sff", "sfsf"])
def test_modules_stand_in_the_order_of_the_string(family, order):
    layers = max(order.count("s"), order.count("f"))
    model = auto.build(small(family, layers=layers, order=order), seed=1).eval()
    seen = []
    for module in model.modules():
        kind = {
            "GPTNeoAttention": "s", "GPTNeoMLP": "f", "RobertaAttention": "s", "RobertaIntermediate": "f",
            "TinyLlamaAttention": "s", "PlainMLP": "f",
        }  # fmt: skip
        letter = kind.get(type(module).__name__)
        if letter:
            module.register_forward_hook(lambda *_, letter=letter: seen.append(letter))
    model(tokens())
    assert "".join(seen) == order


def test_global_and_local_attention_alternate_whatever_stands_between():
    for order, kinds in (("fsfs", ["global", "local"]), ("ffss", ["global", "local"]), (None, ["global", "local"])):
        model = auto.build(small("gpt_neo", order=order), seed=1)
        attentions = [m for m in model.modules() if type(m).__name__ == "TinyGPTNeoSelfAttention"]
        assert [(m.attention_type, m.layer_id) for m in attentions] == list(zip(kinds, (0, 1), strict=True))


def test_robertas_scale_is_that_of_a_query():
    model = auto.build(small("roberta", "qk"), seed=1)  # 8 in 4 heads
    scales = [m.scaling for m in model.modules() if type(m).__name__ == "TinyRobertaSelfAttention"]
    assert scales == [2**-0.5] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_bias_is_everywhere_or_nowhere_in_the_blocks(family):
    for variant, expected in (("bias", {True}), ("no_bias", {False})):
        model = auto.build(small(family, variant, activation="gelu"), seed=1)
        owner, name = model.stack()
        linears = [m for m in getattr(owner, name).modules() if isinstance(m, torch.nn.Linear)]
        assert {linear.bias is not None for linear in linears} == expected
        assert len(linears) == 12


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_differ(family):
    logits = []
    for activation in ACTIVATIONS:
        if not ACTIVATIONS[activation].gated:
            logits.append(perturb(auto.build(small(family, activation), seed=1))(tokens()).logits)
    for a, b in itertools.combinations(logits, 2):
        assert (a - b).abs().max() > 1e-2


@pairs
def test_padding_does_not_change_logits(family, variant):
    model = perturb(auto.build(small(family, variant), seed=1))
    story = tokens(rows=1, length=9)
    padded = torch.cat([story, torch.zeros(1, 5, dtype=torch.long)], dim=1)
    logits = model(padded, attention_mask=(padded != 0).long()).logits[:, :9]
    torch.testing.assert_close(logits, model(story).logits, rtol=1e-4, atol=1e-4)


def test_a_decoders_labels_may_be_shifted_already():
    text = tokens()
    shifted = torch.nn.functional.pad(text[:, 1:], (0, 1), value=-100)
    for model in (small("gpt_neo"), Brainformer(order="sf", hidden_size=32, num_heads=4, attn_span=16, vocab_size=60)):
        built = perturb(auto.build(model, seed=1))
        usual = built(text, labels=text).loss
        assert torch.equal(built(text, labels=torch.full_like(text, 5), shift_labels=shifted).loss, usual)


def test_whether_attention_can_be_changed_does_not_depend_on_who_was_asked_before():
    assert TinyRobertaForMaskedLM._can_set_attn_implementation()


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_eager_or_sdpa_and_can_be_changed(family, tmp_path):
    model = perturb(auto.build(small(family, "gelu"), seed=1)).eval()
    text = tokens(rows=2, length=10)
    mask = torch.ones_like(text)
    mask[0, :4] = 0  # on the left, where a decoder sees it
    fused = model(text, attention_mask=mask, output_attentions=True)
    model.set_attn_implementation("eager")
    eager = model(text, attention_mask=mask, output_attentions=True)
    assert eager.attentions[0].shape == (2, model.config.num_attention_heads, 10, 10)
    real = mask.bool()
    torch.testing.assert_close(eager.logits[real], fused.logits[real], rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    for other in ("flash_attention_2", "flex_attention"):
        with pytest.raises(ValueError, match="is not supported: this model has eager and sdpa|does not support"):
            model.set_attn_implementation(other)
        with pytest.raises(ValueError, match="is not supported: this model has eager and sdpa|does not support"):
            type(model).from_pretrained(tmp_path, attn_implementation=other)


@pytest.mark.parametrize(("variant", "family"), DECODERS)
def test_decoders_generate_with_their_cache_what_they_generate_without(variant, family):
    # Small weights but not the start's: greedy choices must not hang on rounding.
    model = perturb(auto.build(small(family, variant), seed=1))
    prompt = tokens(rows=2, length=6)
    with_cache, without = (
        model.generate(prompt, max_new_tokens=8, do_sample=False, use_cache=cached, eos_token_id=None, pad_token_id=0)
        for cached in (True, False)
    )
    assert with_cache.shape == (2, 14)
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize(("variant", "family"), DECODERS)
def test_a_decoder_with_its_cache_goes_on_where_it_stopped(variant, family):
    model = perturb(auto.build(small(family, variant), seed=1))
    text = tokens(rows=2, length=10)
    before = model(text[:, :6], use_cache=True)
    after = model(text[:, 6:], past_key_values=before.past_key_values)
    whole = model(text).logits
    torch.testing.assert_close(torch.cat([before.logits, after.logits], dim=1), whole, rtol=1e-4, atol=1e-4)


@pairs
def test_models_survive_bfloat16(family, variant):
    model = auto.build(small(family, variant), seed=1)
    exact = model.eval()(tokens()).logits
    labels = tokens()
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(tokens()).logits.float()
        model.train()(tokens(), labels=labels).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    half = model.to(torch.bfloat16).eval()(tokens()).logits.float()
    # Of equally good experts, units or keys, rounding may choose another: then a few tokens differ.
    few = 0.2 if any(isinstance(module, PerToken) for module in model.modules()) else 0.0
    for logits in (autocast, half):
        assert ((logits - exact).abs() > 0.1 + 0.1 * exact.abs()).float().mean() <= few


# --- losses besides the model's own


@pytest.mark.parametrize("family", FAMILIES)
def test_balance_loss_is_added_in_every_head_that_trains_and_cleared(family, tmp_path):
    lm = auto.build(small(family, "moe_k2"), seed=1)
    lm.save_pretrained(tmp_path)
    classifier = auto.load_classifier(tmp_path, num_labels=3, seed=1)
    for model, labels in ((lm, tokens()), (classifier, torch.tensor([0, 1, 2]))):
        model.train()
        torch.manual_seed(0)  # the gate's noise
        output = model(tokens(), labels=labels)
        foretells = model is lm and family != "roberta"
        flat = output.logits[:, :-1].flatten(0, 1) if foretells else output.logits
        target = labels[:, 1:].flatten() if foretells else labels
        plain = torch.nn.functional.cross_entropy(flat.flatten(0, -2), target.flatten())
        auxiliary = model.auxiliary_loss()
        assert auxiliary > 1e-4
        torch.testing.assert_close(output.loss, plain + auxiliary)
        torch.manual_seed(0)
        model(tokens(), labels=labels)
        assert model.auxiliary_loss() == auxiliary  # the last pass', not the sum of two
        model.eval()
        assert torch.isfinite(model(tokens(), labels=labels).loss)
        assert model.auxiliary_loss() == 0


def test_balance_loss_of_a_micro_batch_counts_by_its_share_of_the_labels():
    # Hugging Face's Trainer lets a decoder divide the loss of each micro-batch by the labels of all of them.
    model = auto.build(small("gpt_neo", "moe_k2"), seed=1).train()
    plain, part = [], []
    for items, losses in ((None, plain), (torch.tensor(144), part)):
        extra = {} if items is None else {"num_items_in_batch": items}
        torch.manual_seed(0)
        loss = model(tokens(), labels=tokens(), **extra).loss
        losses += [loss, model.auxiliary_loss()]
    # A decoder predicts no first token: 33 of 36.
    torch.testing.assert_close(part[0], (plain[0] - plain[1]) * 33 / 144 + part[1] * 36 / 144)


@pytest.mark.parametrize("variant", ["moe_k2", "pkm", "kan", "cycle2", "halting"])
def test_a_trained_model_can_be_copied_and_pickled(variant):
    model = auto.build(small("gpt_neo", variant), seed=1).train()
    model(tokens(), labels=tokens()).loss.backward()
    model.eval()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(tokens()).logits, model(tokens()).logits)


def test_a_training_model_goes_on_from_its_cache():
    model = auto.build(small("gpt_neo", "moe_k2"), seed=1).train()
    before = model(tokens(), attention_mask=torch.ones(3, 12), use_cache=True)
    after = model(tokens(length=1), attention_mask=torch.ones(3, 13), past_key_values=before.past_key_values)
    assert after.logits.shape == (3, 1, 60)


def test_a_configuration_written_by_hand_is_checked():
    sizes = {"num_layers": 5, "attention_types": [[["global"], 5]]}
    with pytest.raises(TinyTransformersError, match="unique_layers 2 does not divide the number of layers, 5"):
        TinyGPTNeoConfig(**sizes, sharing={"strategy": "cycle", "unique_layers": 2})
    with pytest.raises(TinyTransformersError, match="'studdy' is neither family nor study"):
        TinyGPTNeoConfig(**sizes, initialization="studdy")
    config = TinyGPTNeoConfig(**sizes, hidden_size=32, num_heads=2, ffn={"kind": "moe"})
    assert TinyGPTNeoForCausalLM(config).transformer.h[0].mlp.ffn.w1.shape == (4, 32, 31)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    config = TinyLlamaConfig(**sizes, intermediate_size=48, ffn={"kind": "moe"})
    asked = Llama(**sizes, intermediate_size=48, ffn={"kind": "moe"})
    assert TinyLlamaForCausalLM(config).model.layers[0].mlp.w1.shape == (4, 32, asked.ffn.expert_size)
    stock = TinyLlamaForCausalLM(TinyLlamaConfig(**sizes))
    assert stock.num_parameters() == num_parameters(Llama(**sizes, intermediate_size=11_008))  # Hugging Face's default


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_experts_are_balanced_in_every_place(family):
    model = auto.build(small(family, "shared_moe"), seed=1).train()
    model(tokens())
    sums = []
    for module in model.modules():
        if isinstance(module, PerToken):
            module.register_forward_hook(lambda m, *_: sums.append(m.auxiliary_loss.item()))
    model(tokens())
    first, second, both_first, both_second = sums  # 0 1 0 1
    assert both_first > first
    assert both_second > second
    assert model.auxiliary_loss().item() == pytest.approx(both_first + both_second)


@pytest.mark.parametrize("family", FAMILIES)
def test_kan_regularisation_is_a_loss_of_training(family):
    model = auto.build(small(family, "kan_intermediate"), seed=1)
    layers = [module for module in model.modules() if isinstance(module, KANLinear)]
    expected = 1e-3 * sum(layer.regularization_loss() for layer in layers)
    assert len(layers) == 2
    torch.testing.assert_close(model.train().auxiliary_loss(), expected)
    assert model.eval().auxiliary_loss() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_counts_in_no_statistic_of_training(family):
    ids = tokens(rows=2, length=9)
    padded = torch.cat([ids, torch.zeros(2, 5, dtype=torch.long)], dim=1)
    seen = []
    for batch in (ids, padded):
        model = auto.build(small(family, "pkm", dropout=0.0), seed=1).train()
        model(batch, attention_mask=(batch != 0).long())
        seen.append([m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)])
    assert len(seen[0]) == 2
    for plain, with_padding in zip(*seen, strict=True):
        assert plain.num_batches_tracked == 1
        torch.testing.assert_close(plain.running_mean, with_padding.running_mean)
        torch.testing.assert_close(plain.running_var, with_padding.running_var)


def test_a_decoder_finds_its_padding_without_a_mask():
    # Batches of decoders come without one: causal attention needs none.
    model = auto.build(small("gpt_neo", "pkm"), seed=1).train()
    model(torch.cat([tokens(), torch.zeros(3, 4, dtype=torch.long)], dim=1))
    (memory, _) = (module for module in model.modules() if isinstance(module, PerToken))
    assert memory.real.tolist() == [*range(12), *range(16, 28), *range(32, 44)]


# --- saving and loading

RELOAD = """
import json, sys
import torch
import tiny_transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

sys.path.insert(0, sys.argv[2])
from variants import digest, small
from tiny_transformers.models import auto

root, report = sys.argv[1], {}
for name in json.load(open(f"{root}/names.json")):
    saved = torch.load(f"{root}/{name}/expected.pt")
    lm = AutoModelForMaskedLM if name.startswith("roberta") else AutoModelForCausalLM

    @torch.no_grad()
    def off(key, model):  # in units of the largest value, or of 1
        found = model.eval()(saved["input_ids"])[0]
        return ((found - saved[key]).abs().max() / saved[key].abs().max().clamp(min=1)).item()

    report[name] = {"lm": off("lm", lm.from_pretrained(f"{root}/{name}/lm"))}
    if "classifier" in saved:
        head = AutoModelForSequenceClassification
        report[name] |= {
            "classifier": off("classifier", head.from_pretrained(f"{root}/{name}/classifier")),
            "classifier from lm": off("hidden", head.from_pretrained(f"{root}/{name}/lm", num_labels=3).base_model),
        }
    report[name]["weights"] = digest(auto.build(small(*name.split("-")), seed=5))
print(json.dumps(report))
"""
# Their heads are saved as well: whatever a trunk is made of, it is the language model's.
CLASSIFIED = ("gelu", "learnable_geglu", "kan", "moe_k2", "controller", "pkm", "depth3", "kv_groups", "ssff", "cycle2",
              "halting", "linformer")  # fmt: skip
KEPT = {*CLASSIFIED, "shared_ff", "scaled", "study_dense", "no_bias_kv_groups"}
HEADS = [
    kept(variant in KEPT, variant, family, head)
    for variant, family in PAIRS
    for head in ("lm", *(("classifier", "classifier from lm") if variant in CLASSIFIED else ()))
]


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory, request):
    """Model -> what a process of its own finds: for each head how far, in units of the largest, logits are off after
    loading, and the digest of the weights of seed 5. Of the models whose tests were asked for."""
    root = tmp_path_factory.mktemp("saved")
    asked = [item.callspec.params for item in request.session.items if "reloaded" in getattr(item, "fixturenames", ())]
    pairs = dict.fromkeys((given["variant"], given["family"]) for given in asked)
    names = [f"{family}-{variant}" for variant, family in pairs]
    for (variant, _), name in zip(pairs, names, strict=True):
        lm = perturb(auto.build(small(*name.split("-")), seed=2))
        lm.save_pretrained(root / name / "lm")
        with torch.no_grad():
            expected = {"input_ids": tokens(), "lm": lm(tokens()).logits}
            if variant in CLASSIFIED:
                classifier = perturb(auto.load_classifier(root / name / "lm", num_labels=3, seed=4))
                classifier.save_pretrained(root / name / "classifier")
                expected |= {"hidden": lm.base_model(tokens())[0], "classifier": classifier(tokens()).logits}
        torch.save(expected, root / name / "expected.pt")
    (root / "names.json").write_text(json.dumps(names))
    return json.loads(in_a_fresh_process(RELOAD, root, Path(__file__).parents[2]).splitlines()[-1])


@pytest.mark.parametrize(("variant", "family", "head"), HEADS)
def test_saved_model_is_the_same_in_a_fresh_process(reloaded, family, variant, head):
    assert reloaded[f"{family}-{variant}"][head] <= 1e-6


@pytest.mark.parametrize(("variant", "family"), [kept(variant in KEPT, variant, family) for variant, family in PAIRS])
def test_weights_depend_on_the_seed_alone_in_every_process(reloaded, family, variant):
    assert reloaded[f"{family}-{variant}"]["weights"] == digest(auto.build(small(family, variant), seed=5))


TRUSTING = """
import json, sys
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification
report = {"known": "tiny_transformers" in sys.modules}
for root, lm in zip(sys.argv[1::2], sys.argv[2::2]):
    autos = AutoConfig, getattr(transformers, lm), AutoModelForSequenceClassification
    found = [type(auto.from_pretrained(root, trust_remote_code=True)) for auto in autos]
    getattr(transformers, lm).from_pretrained(root, trust_remote_code=True).save_pretrained(f"{root}/again")
    report[root] = [f"{kind.__module__}.{kind.__name__}" for kind in found]
print(json.dumps(report))
"""


def test_who_has_not_imported_the_package_loads_a_saved_model_by_trusting_its_code(tmp_path):
    heads = {tmp_path / "gpt_neo": "CausalLM", tmp_path / "llama": "CausalLM", tmp_path / "roberta": "MaskedLM"}
    for saved in heads:
        auto.build(small(saved.name, "learnable_gelu"), seed=2).save_pretrained(saved)
    words = [word for saved, lm in heads.items() for word in (str(saved), f"AutoModelFor{lm}")]
    found = json.loads(in_a_fresh_process(TRUSTING, *words))
    assert not found["known"]
    for saved, lm in heads.items():
        ours = type(auto.load_lm(saved))
        name = ours.__name__.removesuffix(f"For{lm}")
        classes = [
            f"{ours.__module__}.{name}{suffix}" for suffix in ("Config", f"For{lm}", "ForSequenceClassification")
        ]
        assert found[str(saved)] == classes
        files = {path.name for path in saved.iterdir()}
        assert {path.name for path in (saved / "again").iterdir()} == files - {"again"}
        assert auto.load_lm(saved / "again")


def test_who_has_imported_the_package_is_not_asked_to_trust(tmp_path):
    for family in FAMILIES:
        auto.build(small(family), seed=2).save_pretrained(tmp_path / family)
    code = (
        "import sys, pathlib, tiny_transformers.models.auto as m\n"
        "for folder in pathlib.Path(sys.argv[1]).iterdir(): m.load_lm(folder)"
    )
    silent = fresh.python(code, tmp_path)
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")


def test_losing_the_learnt_activation_would_be_noticed(tmp_path):
    ours = perturb(auto.build(small("gpt_neo", "learnable_gelu"), seed=2))
    ours.save_pretrained(tmp_path)
    stock = GPTNeoForCausalLM.from_pretrained(tmp_path, config=auto.hf_config(small("gpt_neo", "gelu")))
    assert (stock.eval()(tokens()).logits - ours(tokens()).logits).abs().max() > 1e-2


@pytest.fixture
def without_alphas(tmp_path):
    """A folder whose configuration says learnable_gelu and whose weights lack it."""
    auto.build(small("gpt_neo", "gelu"), seed=2).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"activation": "learnable_gelu"}))
    return tmp_path


def test_auto_classes_start_a_missing_alpha_at_one(without_alphas):
    # They build on the meta device, where the 1 that a constructor wrote is lost.
    model = AutoModelForCausalLM.from_pretrained(without_alphas)
    assert (model.transformer.h[1].mlp.act.alpha == 1).all()


def test_load_lm_refuses_weights_that_do_not_fit(without_alphas):
    with pytest.raises(TinyTransformersError, match="lacks transformer.h.0.mlp.act.alpha"):
        auto.load_lm(without_alphas)


def test_load_classifier_refuses_weights_that_do_not_fit(without_alphas):
    with pytest.raises(TinyTransformersError, match="lacks transformer.h.0.mlp.act.alpha"):
        auto.load_classifier(without_alphas, num_labels=2, seed=0)


@pytest.mark.parametrize("load", [auto.load_lm, lambda folder: auto.load_classifier(folder, 2, 0)])
def test_loading_a_folder_without_a_model_says_so(tmp_path, load):
    with pytest.raises(TinyTransformersError, match="holds no model"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("family", FAMILIES)
def test_classifier_head_depends_on_the_seed_alone(tmp_path, family):
    auto.build(small(family, "learnable_gelu"), seed=2).save_pretrained(tmp_path)
    first, again, other = (auto.load_classifier(tmp_path, num_labels=4, seed=s).state_dict() for s in (1, 1, 2))
    head = "classifier.out_proj.weight" if family == "roberta" else "score.weight"
    assert first[head].shape == (4, 32)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [name for name in first if not torch.equal(first[name], other[name])][-1] == head


# --- the Auto classes, in every order of imports

BUILD_BOTH = """
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers import AutoModelForSequenceClassification
types = [[["global", "local"], 1]]
gpt_neo = AutoConfig.for_model(
    "tiny_gpt_neo", hidden_size=8, num_layers=2, num_heads=2, vocab_size=9, attention_types=types
)
roberta = AutoConfig.for_model(
    "tiny_roberta", hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9, activation="relu"
)
llama = AutoConfig.for_model("tiny_llama", hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
for auto, configuration in [
    (AutoModel, gpt_neo), (AutoModelForCausalLM, gpt_neo), (AutoModelForSequenceClassification, gpt_neo),
    (AutoModel, roberta), (AutoModelForMaskedLM, roberta), (AutoModelForSequenceClassification, roberta),
    (AutoModel, llama), (AutoModelForCausalLM, llama), (AutoModelForSequenceClassification, llama),
]:
    print(type(auto.from_config(configuration)).__name__)
"""


@pytest.mark.parametrize(("loaded", "imports"), [
    (fresh.STOCK, "import tiny_transformers"),
    longer(fresh.BARE, "import tiny_transformers, transformers"),
    # In the middle of these, Auto classes come up: the classes that ours extend do not exist yet.
    (fresh.BARE, "import tiny_transformers\nfrom transformers import GPTNeoConfig, RobertaConfig"),
    (fresh.BARE, "import tiny_transformers, transformers.models.gpt_neo.modeling_gpt_neo"),
    longer(fresh.BARE, "import tiny_transformers, transformers.models.llama.modeling_llama"),
])  # fmt: skip
def test_auto_classes_know_our_models(loaded, imports):
    assert in_a_fresh_process(imports + BUILD_BOTH, loaded=loaded).split() == [
        "TinyGPTNeoModel", "TinyGPTNeoForCausalLM", "TinyGPTNeoForSequenceClassification",
        "TinyRobertaModel", "TinyRobertaForMaskedLM", "TinyRobertaForSequenceClassification",
        "TinyLlamaModel", "TinyLlamaForCausalLM", "TinyLlamaForSequenceClassification",
    ]  # fmt: skip


def test_settings_load_neither_torch_nor_transformers():
    code = "import sys, tiny_transformers.settings.config; print({'torch', 'transformers'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
