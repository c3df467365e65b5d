"""Errors that the originals made, and others of their kind, committed on purpose: each is caught in time.

The table is in docs/models.md and docs/evaluation.md."""

import json

import pytest
import torch
from torch import nn
from variants import EVERY, FAMILIES, VARIANTS, small

from tiny_transformers.common.work import CheckFailed, Interrupted, Work
from tiny_transformers.data import batches
from tiny_transformers.layers import activations
from tiny_transformers.layers.ffn.experts import GatedExperts
from tiny_transformers.layers.ffn.gates import Random
from tiny_transformers.models import auto
from tiny_transformers.models.definition import checking
from tiny_transformers.settings.architecture import Brainformer
from tiny_transformers.settings.config import STREAMS, RunConfig
from tiny_transformers.training import optimizers, pretrain

GATES = ("naive", "noisy", "gshard", "switch", "balanced", "hash", "random", "dense")


@pytest.fixture
def work(builtin_root, builtin_cache, tmp_path):
    """A function: a model's settings -> the work of a short training, of which each call has a folder of its own."""

    text = tmp_path / STREAMS["text8"]
    text.parent.mkdir()
    text.write_text("the cat sees a dog and the bird likes it " * 100)

    def make(model, seed=1, name="run", **train):
        settings = {"max_steps": 4, "stories_per_step": 6, "evaluations": 1, "eval_stories": 4, "precision": "float32"}
        settings |= {"batch_size": 4, "block_size": 32} | train
        is_stream = model.family == "brainformer"
        data = {"corpus": "text8"} if is_stream else {"source": "builtin", "max_length": 128}
        run_config = RunConfig(
            model=model, train=settings, data=data, seed=seed, evaluation={"superglue": {"max_length": 128}}
        )
        root, cache = (tmp_path, tmp_path / "cache") if is_stream else (builtin_root, builtin_cache)
        return Work(config=run_config, data_root=root, cache=cache, run_dir=tmp_path / name)

    return make


def story_model(family, variant="gelu", **sizes):
    return small(family, variant, vocab_size=1_000, max_position_embeddings=129, **sizes)


def stream_model(gate="random", **settings):
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_heads": 4, "attn_span": 96, "vocab_size": 27}
    experts = {"gate": gate} | ({"num_experts": 6, "top_k": 2} if gate == "random" else {})
    return Brainformer(**{"order": "sgfgfg.sgf", "experts": experts} | sizes | settings)


def fails(job, check, steps=0):
    """The training fails by this check after so many steps, and there is no model."""
    with pytest.raises(CheckFailed, match=f"^{check} is .*; expected "):
        pretrain.run(job)
    assert not job.model_dir.exists()
    curve = job.run_dir / "curve.jsonl"
    records = [json.loads(line) for line in curve.read_text().splitlines()] if curve.exists() else []
    assert len([record for record in records if "loss" in record]) == steps


# -- 1: what an encoder is shown --------------------------------------------------------------------------------------


def test_an_encoder_that_is_shown_what_it_predicts_fails_before_its_first_step(work, monkeypatch):
    """The labels are 15 %, as they should be; the loss falls to 0.05, and nothing else would tell."""
    masked = batches.masked

    def shown(stories, *others):
        examples = masked(stories, *others)
        whole = [story for story in stories if len(story)]
        assert len(examples) == len(whole)
        return [batches.Example(story, example.targets) for story, example in zip(whole, examples, strict=True)]

    monkeypatch.setattr(batches, "masked", shown)
    fails(work(story_model("roberta")), "masked_inputs")


def test_an_encoder_with_the_shares_swapped_fails_before_its_first_step(work, monkeypatch):
    monkeypatch.setattr(batches, "MASKED", 0.1)
    monkeypatch.setattr(batches, "KEPT", 0.8)
    fails(work(story_model("roberta")), "masked_inputs")


# -- 2, 3, 4: the model is not the one of its settings ----------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_another_activation_than_was_asked_for_fails_before_its_first_step(work, family, monkeypatch):
    build = auto.build
    monkeypatch.setattr(auto, "build", lambda model, seed: build(model.model_copy(update={"activation": "gelu"}), seed))
    fails(work(story_model(family, "relu")), "definition")


def test_a_wrong_formula_fails_before_the_first_step(work, monkeypatch):
    """The thesis' Swish under the name of Ramachandran's."""
    monkeypatch.setattr(activations.Swish, "forward", activations.SwishThesis.forward)
    fails(work(story_model("gpt_neo", "swish")), "definition")


def test_slopes_by_position_fail_before_the_first_step(work, monkeypatch):
    """torch's PReLU takes the second axis, the position, for the units: as many parameters as were planned, if there
    are as many positions as units, and every loss looks as it should."""
    positions = 48

    class ByPosition(activations.PReLU):
        def forward(self, x):
            return nn.functional.prelu(x, self.alpha[: x.shape[1]])

    monkeypatch.setattr(activations, "PReLU", ByPosition)
    model = story_model("gpt_neo", "prelu")
    assert model.intermediate_size == positions
    fails(work(model), "definition")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("asked", "built", "sizes"),
    [
        ("swish", "swish_one", {}),  # a parameter of another shape
        ("prelu", "learnable_gelu", {}),
        ("geglu", "learnable_geglu", {}),
        ("silu", "relu", {}),
        ("moe_k2", "moe_k3", {}),  # the gate's k
        ("cycle2", "cycle_rev2", {}),  # which layer stands where
        ("seq3", "cycle3", {}),
        ("1_head", "gelu", {}),
        ("no_bias", "bias", {}),
        ("kan", "kan_other_grid", {}),
        ("depth3", "gelu", {}),
    ],
)
def test_a_model_that_is_another_one_is_not_by_its_definition(family, asked, built, sizes):
    model = auto.build(small(family, built, **sizes), 1)
    found = checking.check(model, small(family, asked, **sizes))
    assert not found.passed
    assert isinstance(found.value, str) or found.value > 10 * checking.ROUNDING


@pytest.mark.parametrize("family", FAMILIES[:2])
@pytest.mark.parametrize(("asked", "built"), [("universal", "halting"), ("halting", "halting_alone")])  # the signal
def test_a_recurrence_that_is_another_one_is_not_by_its_definition(family, asked, built):
    assert not checking.check(auto.build(small(family, built), 1), small(family, asked)).passed


def test_a_mixture_with_another_gate_is_not_by_its_definition():
    asked = stream_model("naive")
    for gate, settings in (("switch", {}), ("hash", {}), ("dense", {}), ("naive", {"adaptive_span": None})):
        assert not checking.check(auto.build(stream_model(gate, **settings), 1), asked).passed


def test_a_saved_model_that_loads_with_another_activation_is_not_by_its_definition(tmp_path):
    settings = small("roberta", "relu")
    model = auto.build(settings, 1)
    model.save_pretrained(tmp_path)
    assert checking.check(auto.load_lm(tmp_path), settings).value < 1e-9
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"activation": "gelu"}))
    assert not checking.check(auto.load_lm(tmp_path), settings).passed


@pytest.mark.parametrize("family", FAMILIES)
def test_every_variant_is_by_its_definition(family):
    for variant in [variant for variant, of in EVERY if of == family]:
        settings = small(family, variant)
        found = checking.check(auto.build(settings, 1), settings)
        assert found.passed, (variant, found.value)
        assert isinstance(found.value, float), found.value


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_is_by_its_definition(gate):
    for more in ({}, {"tie_word_embeddings": True}, {"adaptive_span": None}, {"adaptive_span": {"init": 0.4}}):
        settings = stream_model(gate, **more)
        assert checking.check(auto.build(settings, 1), settings).passed


def test_a_model_is_left_as_it_was_by_its_check():
    settings = stream_model()
    model = auto.build(settings, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checking.check(model, settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training == auto.build(settings, 1).training


# -- 5: a schedule that does nothing ----------------------------------------------------------------------------------


def test_gates_that_do_not_hear_of_the_schedule_fail_after_one_step(work, monkeypatch):
    monkeypatch.setattr(GatedExperts, "schedule", lambda *_: None)
    fails(work(stream_model()), "schedule", steps=1)


def test_gates_that_say_a_k_and_use_another_fail_after_one_step(work, monkeypatch):
    """Brainformer-SMOE's logs say `Set New Top-k = 8` while every gate stays at 2."""
    schedule = Random.schedule

    def only_says(self, fraction):
        if fraction == 1:
            schedule(self, fraction)

    monkeypatch.setattr(Random, "schedule", only_says)
    fails(work(stream_model()), "schedule", steps=1)


def test_a_learning_rate_that_does_not_fall_fails_in_the_middle(work, monkeypatch):
    class Stuck(torch.optim.AdamW):
        def step(self, closure=None):
            for group in self.param_groups:
                group["lr"] = 5e-4
            return super().step(closure)

    monkeypatch.setattr(optimizers, "build", lambda model, _: Stuck(model.parameters()))
    fails(work(story_model("gpt_neo")), "schedule", steps=2)


def test_a_warm_up_that_is_none_fails_after_one_step(work, monkeypatch):
    def without(settings, *, step, done, warmed):  # noqa: ARG001
        return settings.learning_rate * (1 - done)

    monkeypatch.setattr(optimizers, "learning_rate", without)
    fails(work(story_model("gpt_neo"), warmup_steps=2), "schedule", steps=1)


def test_the_result_has_what_was_used_at_the_beginning_in_the_middle_and_at_the_end(work):
    job, cut = (work(stream_model(), name=name, learning_rate=1e-2) for name in ("whole", "cut"))
    outcome = pretrain.run(job)
    used = {name: value for name, value in outcome.metrics.items() if "@" in name}
    assert used == {
        "learning_rate@beginning": 1e-2, "learning_rate@middle": pytest.approx(0.75e-2),
        "learning_rate@end": pytest.approx(0.25e-2), "experts_per_token@beginning": 2, "experts_per_token@middle": 3,
        "experts_per_token@end": 5,
    }  # fmt: skip
    cut.should_stop = lambda: done[-1] >= 0.75
    done = [0.0]
    cut.progress = lambda fraction, _: done.append(fraction)
    with pytest.raises(Interrupted):
        pretrain.run(cut)
    cut.should_stop = lambda: False
    resumed = pretrain.run(cut)
    assert {name: value for name, value in resumed.metrics.items() if "@" in name} == used
    assert resumed.checks == outcome.checks


# -- no false alarms --------------------------------------------------------------------------------------------------


@pytest.mark.longer
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_blocking_check_fires_for_any_variant(work, family, seed):
    for variant in VARIANTS:
        outcome = pretrain.run(work(story_model(family, variant), seed=seed, name=variant))
        assert [check for check in outcome.checks if check.blocking and not check.passed] == []


@pytest.mark.longer
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_blocking_check_fires_for_any_gate(work, seed):
    for gate in GATES:
        outcome = pretrain.run(work(stream_model(gate), seed=seed, name=gate, warmup_steps=2))
        assert [check for check in outcome.checks if check.blocking and not check.passed] == []
