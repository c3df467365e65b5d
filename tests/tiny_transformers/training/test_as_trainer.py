"""Warm-up, weight decay and padding mean what they mean to Hugging Face's Trainer."""

import json

import pytest
import torch
import transformers
from longer import ONE_FAMILY, longer
from variants import EVERY, small

from tiny_transformers.common.work import TinyTransformersError, Work
from tiny_transformers.models import auto
from tiny_transformers.settings.config import RunConfig, Train
from tiny_transformers.training import losses, optimizers, pretrain
from tiny_transformers.training.device import tf32
from tiny_transformers.training.pretrain import Training

LENGTH = 64  # tokens a story is cut at, and padded to by Trainer
OURS = ("alpha", "b1", "b2")  # learnable activations and experts' biases, by names that Trainer does not know


def run_of(family, **train):
    model = small(family, vocab_size=1_000, max_position_embeddings=LENGTH + 1, dropout=0.0)
    usual = {"stories_per_step": 8, "micro_batch_tokens": 150, "learning_rate": 5e-3, "precision": "float32"}
    data = {"source": "builtin", "max_length": LENGTH}
    return RunConfig(model=model, train=usual | train, data=data, evaluation={"superglue": {"max_length": LENGTH}})


@pytest.fixture
def work_of(builtin_root, builtin_cache):
    return lambda run, folder: Work(run, data_root=builtin_root, cache=builtin_cache, run_dir=folder)


def curve(folder, key):
    records = map(json.loads, (folder / "curve.jsonl").read_text().splitlines())
    return [record[key] for record in records if key in record]


@pytest.mark.parametrize("family", [*ONE_FAMILY, longer("llama")])
@pytest.mark.parametrize(("steps", "warmup"), [(16, 5), longer(300, 50)], ids=["short", "long"])
def test_steps_with_warm_up_and_weight_decay_are_those_of_trainer(work_of, tmp_path, family, steps, warmup):
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs it")
    import padded_trainer

    run = run_of(family, max_steps=steps, warmup_steps=warmup, weight_decay=0.1)
    training = Training(work_of(run, tmp_path))
    for _ in range(steps):
        training._step()
    ours = curve(tmp_path, "loss")
    theirs = padded_trainer.losses(training, tmp_path, length=LENGTH, micro_batches=4)
    assert ours[-1] < 0.9 * ours[0]
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("warmup", [0, 1, 4, 10])
def test_rates_are_those_of_hugging_faces_schedules(warmup):
    steps, weight = 10, torch.nn.Parameter(torch.zeros(1))
    for name, schedule in (
        ("linear", transformers.get_linear_schedule_with_warmup),
        ("constant", transformers.get_constant_schedule_with_warmup),
    ):
        settings = Train(learning_rate=0.3, warmup_steps=warmup, lr_scheduler_type=name, max_steps=steps)
        optimizer = torch.optim.SGD([weight], lr=0.3)
        theirs = schedule(optimizer, warmup, *([steps] if name == "linear" else []))
        for step in range(steps):
            rate = optimizers.learning_rate(settings, step=step, done=step / steps, warmed=warmup / steps)
            assert rate == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), (name, step)
            optimizer.step()
            theirs.step()


def test_with_a_budget_of_tokens_the_rate_falls_from_the_end_of_the_warm_up_also_after_a_stop(work_of, tmp_path):
    run = run_of("gpt_neo", budget={"tokens": 3_500}, warmup_steps=4, evaluations=1, eval_stories=4)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    pretrain.run(work_of(run, whole))
    rates = curve(whole, "learning_rate")
    assert rates[:5] == pytest.approx([0, 0.00125, 0.0025, 0.00375, 0.005])
    done = [tokens / 3_500 for tokens in curve(whole, "tokens")]
    assert rates[4:] == pytest.approx([0.005 * (1 - at) / (1 - done[3]) for at in done[3:-1]])
    stopped = Training(work_of(run, halves))
    stopped.resume()
    while stopped.counters.step < 6:
        stopped._step()
    stopped.write_checkpoint()
    pretrain.run(work_of(run, halves))
    assert curve(halves, "learning_rate") == rates


@pytest.mark.parametrize(("variant", "family"), EVERY)
def test_weight_decay_is_for_what_trainer_decays_but_for_learnable_activations_and_experts_biases(family, variant):
    model = auto.build(small(family, variant), seed=0)
    ours = {name for name, parameter in model.named_parameters() if optimizers.decays(name, parameter)}
    theirs = set(transformers.Trainer.get_decay_parameter_names(None, model))
    named = {name for name, _ in model.named_parameters()}  # a tied weight once
    normalized = {name for name in named if name.endswith("norm.weight")}  # batches', which are no LayerNorm
    assert ours == {name for name in theirs & named - normalized if name.rpartition(".")[2] not in OURS}


def test_what_is_not_decayed_stays_where_it_is_without_a_gradient():
    model = auto.build(small("gpt_neo", "prelu"), seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = optimizers.build(model, Train(weight_decay=0.1, learning_rate=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = 0.95 if optimizers.decays(name, parameter) else 1.0
        torch.testing.assert_close(parameter.detach(), kept * before[name])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


def test_a_run_that_another_recipe_planned_is_not_trained_by_this_one(work_of, tmp_path):
    old = run_of("gpt_neo", max_steps=2, warmup_steps=1).model_copy(update={"recipe": 3})
    with pytest.raises(TinyTransformersError, match=r"planned by recipe 3.* by recipe 4.*Submit the manifest again"):
        Training(work_of(old, tmp_path))


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_training_leaves_the_rounding_of_products_as_it_found_it(work_of, tmp_path, precision):
    training = Training(work_of(run_of("gpt_neo", max_steps=1), tmp_path))
    training.precision = precision
    for before in (True, False):
        with tf32(before):  # as something that ran before may have left it
            with losses.arithmetic(training.device, training.precision):
                assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
            assert torch.backends.cuda.matmul.allow_tf32 == before
