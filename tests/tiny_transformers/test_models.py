import json
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tiny_transformers import models
from tiny_transformers.config import ACTIVATIONS, LEARNABLE, GPTNeo, Roberta, num_parameters
from tiny_transformers.gpt_neo import TinyGPTNeoForCausalLM
from tiny_transformers.work import TinyTransformersError

FAMILIES = ("gpt_neo", "roberta")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 24}
STOCK_NAMES = {"gpt_neo": {"gelu": "gelu_new"}, "roberta": {}}  # Hugging Face's, where they differ from ours


def small(family, activation="gelu", **sizes):
    if family == "gpt_neo":
        return GPTNeo(**SMALL | {"window_size": 4, "activation": activation} | sizes)
    return Roberta(**SMALL | {"activation": activation, "num_attention_heads": 2} | sizes)


def perturb(model):
    """Move every parameter away from where an initialisation could have put it."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens(rows=3, length=12):
    return torch.randint(4, 60, (rows, length), generator=torch.Generator().manual_seed(1))


def in_a_fresh_process(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- counts and settings


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (GPTNeo(activation="gelu"), 9_585_664),
        (GPTNeo(activation="relu"), 9_585_664),
        (GPTNeo(activation="silu"), 9_585_664),
        (GPTNeo(activation="learnable_gelu"), 9_587_712),
        (Roberta(activation="gelu"), 9_863_952),
        (Roberta(activation="relu"), 9_863_952),
        (Roberta(activation="silu"), 9_863_952),
        (Roberta(activation="learnable_gelu"), 9_866_000),
    ],
)
def test_base_models_have_the_counts_of_the_study(model, count):
    assert num_parameters(model) == models.build(model, seed=0).num_parameters() == count


@pytest.mark.parametrize("activation", ["silu", "learnable_gelu"])
@pytest.mark.parametrize(
    "model",
    [
        GPTNeo(**SMALL, num_layers=1),
        GPTNeo(**SMALL | {"hidden_size": 20, "max_position_embeddings": 9}, num_layers=5, num_heads=5),
        GPTNeo(hidden_size=516, num_layers=3, vocab_size=1_000),
        Roberta(**SMALL, num_hidden_layers=1),
        Roberta(**SMALL | {"hidden_size": 20, "intermediate_size": 7}, num_hidden_layers=4),
        Roberta(hidden_size=384, num_hidden_layers=3, vocab_size=1_000),
    ],
)
def test_built_count_is_the_closed_form(model, activation):
    model = model.model_copy(update={"activation": activation})
    assert models.build(model, seed=0).num_parameters() == num_parameters(model)


def test_attention_alternates_for_any_depth():
    layers = models.hf_config(small("gpt_neo", num_layers=5)).attention_layers
    assert layers == ["global", "local", "global", "local", "global"]


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_of_the_study_reach_hugging_face(family):
    configuration = models.hf_config(small(family, dropout=0.2))
    assert (configuration.pad_token_id, configuration.bos_token_id, configuration.eos_token_id) == (0, 1, 2)
    assert configuration.tie_word_embeddings
    if family == "gpt_neo":
        dropouts = configuration.resid_dropout, configuration.embed_dropout, configuration.attention_dropout
        assert dropouts == (0.2, 0.2, 0.2)
        assert configuration.window_size == 4
    else:
        assert (configuration.hidden_dropout_prob, configuration.attention_probs_dropout_prob) == (0.2, 0.2)
        assert (configuration.layer_norm_eps, configuration.type_vocab_size) == (1e-12, 2)


# --- initialisation


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_weights_are_drawn_by_the_rule_of_the_family(family, activation):
    model = models.build(small(family, activation, hidden_size=128, intermediate_size=256), seed=3)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            assert not module.bias.any(), name
    alphas = [parameter for name, parameter in model.named_parameters() if name.endswith("alpha")]
    assert len(alphas) == (2 if activation in LEARNABLE else 0)
    assert all((alpha == 1).all() and alpha.shape == (256,) for alpha in alphas)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_give_equal_weights_whatever_the_activation(family):
    reference = dict(models.build(small(family, "gelu"), seed=5).named_parameters())
    for activation in ACTIVATIONS:
        built = dict(models.build(small(family, activation), seed=5).named_parameters())
        assert all(torch.equal(parameter, built[name]) for name, parameter in reference.items())
    other = dict(models.build(small(family, "gelu"), seed=6).named_parameters())
    assert not any(torch.equal(other[name], reference[name]) for name in reference if name.endswith("proj.weight"))


class Wider(TinyGPTNeoForCausalLM):
    def change(self, block):
        block.mlp.c_fc, block.mlp.c_proj = torch.nn.Linear(32, 96), torch.nn.Linear(96, 32)


def test_changed_modules_follow_the_rule_and_leave_the_rest_as_it_was():
    stock = models.build(small("gpt_neo"), seed=0)
    torch.manual_seed(0)
    wider = Wider(stock.config)
    for layer in (wider.transformer.h[0].mlp.c_fc, wider.transformer.h[1].mlp.c_proj):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()
    shared = [name for name, _ in stock.named_parameters() if ".mlp." not in name]
    assert all(torch.equal(stock.get_parameter(name), wider.get_parameter(name)) for name in shared)


def test_building_leaves_the_random_state_of_torch_alone():
    before = torch.get_rng_state()
    models.build(small("gpt_neo"), seed=5)
    assert torch.equal(torch.get_rng_state(), before)


# --- the models themselves


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_stock_settings_are_the_classes_of_transformers(family, activation):
    ours = perturb(models.build(small(family, activation), seed=1))
    name = STOCK_NAMES[family].get(activation, activation)
    shared = {**SMALL, "pad_token_id": 0}
    if family == "gpt_neo":
        types = [[["global", "local"], 1]]
        stock = GPTNeoForCausalLM(
            GPTNeoConfig(
                **shared, num_layers=2, num_heads=4, attention_types=types, window_size=4, activation_function=name
            )
        )
    else:
        stock = RobertaForMaskedLM(
            RobertaConfig(**shared, num_hidden_layers=2, num_attention_heads=2, hidden_act=name, layer_norm_eps=1e-12)
        )
    stock.eval().load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(tokens()).logits, stock(tokens()).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_differ(family):
    logits = []
    for activation in ("gelu", "relu", "silu"):
        logits.append(perturb(models.build(small(family, activation), seed=1))(tokens()).logits)
    assert min((a - b).abs().max() for a, b in [logits[:2], logits[1:], logits[::2]]) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_logits(family):
    model = perturb(models.build(small(family, "learnable_gelu"), seed=1))
    story = tokens(rows=1, length=9)
    padded = torch.cat([story, torch.zeros(1, 5, dtype=torch.long)], dim=1)
    logits = model(padded, attention_mask=(padded != 0).long()).logits[:, :9]
    torch.testing.assert_close(logits, model(story).logits, rtol=1e-5, atol=1e-5)


# --- saving and loading

RELOAD = """
import json, sys
import torch
import tiny_transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

root, report = sys.argv[1], {}
for name in json.load(open(f"{root}/names.json")):
    saved = torch.load(f"{root}/{name}/expected.pt")
    lm = AutoModelForCausalLM if name.startswith("gpt_neo") else AutoModelForMaskedLM
    head = AutoModelForSequenceClassification
    with torch.no_grad():
        def off(model, key):
            return (model.eval()(saved["input_ids"]).logits - saved[key]).abs().max().item()
        hidden = head.from_pretrained(f"{root}/{name}/lm", num_labels=3).eval().base_model(saved["input_ids"])[0]
        report[name] = {
            "lm": off(lm.from_pretrained(f"{root}/{name}/lm"), "lm"),
            "classifier": off(head.from_pretrained(f"{root}/{name}/classifier"), "classifier"),
            "classifier from lm": (hidden - saved["hidden"]).abs().max().item(),
        }
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """Model -> head -> how far the logits are off after loading by an Auto class in a process of its own."""
    root = tmp_path_factory.mktemp("saved")
    names = [f"{family}-{activation}" for family in FAMILIES for activation in ACTIVATIONS]
    for name in names:
        lm = perturb(models.build(small(*name.split("-")), seed=2))
        lm.save_pretrained(root / name / "lm")
        classifier = perturb(models.load_classifier(root / name / "lm", num_labels=3, seed=4))
        classifier.save_pretrained(root / name / "classifier")
        with torch.no_grad():
            expected = {
                "input_ids": tokens(),
                "lm": lm(tokens()).logits,
                "hidden": lm.base_model(tokens())[0],
                "classifier": classifier(tokens()).logits,
            }
        torch.save(expected, root / name / "expected.pt")
    (root / "names.json").write_text(json.dumps(names))
    return json.loads(in_a_fresh_process(RELOAD, str(root)).splitlines()[-1])


@pytest.mark.parametrize("head", ["lm", "classifier", "classifier from lm"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_model_is_the_same_in_a_fresh_process(reloaded, family, activation, head):
    assert reloaded[f"{family}-{activation}"][head] <= 1e-6


def test_losing_the_learnt_activation_would_be_noticed(tmp_path):
    ours = perturb(models.build(small("gpt_neo", "learnable_gelu"), seed=2))
    ours.save_pretrained(tmp_path)
    stock = GPTNeoForCausalLM.from_pretrained(tmp_path, config=models.hf_config(small("gpt_neo", "gelu")))
    assert (stock.eval()(tokens()).logits - ours(tokens()).logits).abs().max() > 1e-2


@pytest.fixture
def without_alphas(tmp_path):
    """A folder whose configuration says learnable_gelu and whose weights lack it."""
    models.build(small("gpt_neo", "gelu"), seed=2).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"activation": "learnable_gelu"}))
    return tmp_path


def test_auto_classes_start_a_missing_alpha_at_one(without_alphas):
    # They build on the meta device, where the 1 that a constructor wrote is lost.
    model = AutoModelForCausalLM.from_pretrained(without_alphas)
    assert (model.transformer.h[1].mlp.act.alpha == 1).all()


def test_load_lm_refuses_weights_that_do_not_fit(without_alphas):
    with pytest.raises(TinyTransformersError, match="lacks transformer.h.0.mlp.act.alpha"):
        models.load_lm(without_alphas)


def test_load_classifier_refuses_weights_that_do_not_fit(without_alphas):
    with pytest.raises(TinyTransformersError, match="lacks transformer.h.0.mlp.act.alpha"):
        models.load_classifier(without_alphas, num_labels=2, seed=0)


@pytest.mark.parametrize("load", [models.load_lm, lambda folder: models.load_classifier(folder, 2, 0)])
def test_loading_a_folder_without_a_model_says_so(tmp_path, load):
    with pytest.raises(TinyTransformersError, match="holds no model"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("family", FAMILIES)
def test_classifier_head_depends_on_the_seed_alone(tmp_path, family):
    models.build(small(family, "learnable_gelu"), seed=2).save_pretrained(tmp_path)
    first, again, other = (models.load_classifier(tmp_path, num_labels=4, seed=s).state_dict() for s in (1, 1, 2))
    head = "score.weight" if family == "gpt_neo" else "classifier.out_proj.weight"
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
for auto, configuration in [
    (AutoModel, gpt_neo), (AutoModelForCausalLM, gpt_neo), (AutoModelForSequenceClassification, gpt_neo),
    (AutoModel, roberta), (AutoModelForMaskedLM, roberta), (AutoModelForSequenceClassification, roberta),
]:
    print(type(auto.from_config(configuration)).__name__)
"""


@pytest.mark.parametrize(
    "imports",
    [
        # Ours first and the Auto classes later is what RELOAD does.
        "from transformers import AutoModelForCausalLM\nimport tiny_transformers",
        # In the middle of these, Auto classes come up: the classes that ours extend do not exist yet.
        "import tiny_transformers\nfrom transformers import GPTNeoConfig, RobertaConfig",
        "import tiny_transformers\nfrom transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoForCausalLM",
    ],
)
def test_auto_classes_know_our_models(imports):
    assert in_a_fresh_process(imports + BUILD_BOTH).split() == [
        "TinyGPTNeoModel", "TinyGPTNeoForCausalLM", "TinyGPTNeoForSequenceClassification",
        "TinyRobertaModel", "TinyRobertaForMaskedLM", "TinyRobertaForSequenceClassification",
    ]  # fmt: skip


def test_settings_load_neither_torch_nor_transformers():
    code = "import sys, tiny_transformers.config; print({'torch', 'transformers'} & {*sys.modules})"
    assert in_a_fresh_process(code).strip() == "set()"
