import dataclasses
import hashlib
import itertools
import json
import math
import re
import signal
import types

import fresh
import numpy as np
import pytest
import torch
from longer import kept
from safetensors.torch import load_file
from trainings import (
    EVERY_FAMILY,
    FAMILIES,
    VOCAB_SIZE,
    checkpoints,
    curve,
    sentences,
    stop_at,
    weights,
)
from variants import OF_ENCODERS, VARIANTS, small

from cluster.plan import disk
from tiny_transformers.common.work import CheckFailed, Interrupted, TinyTransformersError, Work
from tiny_transformers.data import batches
from tiny_transformers.data.feed import Feed
from tiny_transformers.layers import recurrence
from tiny_transformers.models import auto
from tiny_transformers.settings import architecture, config
from tiny_transformers.settings.config import RunConfig, Train
from tiny_transformers.settings.stage.trajectory import Trajectory
from tiny_transformers.training import anchors, pretrain
from tiny_transformers.training.curve import Counters, Curve
from tiny_transformers.training.pretrain import Training, evaluation_steps

# --- a whole run


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_loss_falls_and_the_outcome_says_what_was_done(work, family, capsys):
    job = work(family, max_steps=30, stories_per_step=16, learning_rate=2e-2)
    outcome = pretrain.run(job)
    (score,) = outcome.scores
    assert (score.task, score.metric) == ("validation", "loss")
    # A Llama has no biases, by which the others learn how often each word is in a few steps.
    share, shown = (0.7, r"1\.\d+") if family == "llama" else (0.6, r"0\.\d+")
    assert score.value < share * math.log(VOCAB_SIZE)
    assert score.value == curve(job)[-1]["eval_loss"]
    assert outcome.metrics["steps"] == 30
    assert outcome.metrics["parameters"] == architecture.num_parameters(job.config.model)
    assert outcome.metrics["tokens"] == curve(job)[-2]["tokens"] > 30 * 16 * 7
    assert set(outcome.metrics) == {
        "steps", "tokens", "tokens_per_second", "seconds", "data_wait", "mfu", "precision", "compiled",
        "peak_memory_mb", "micro_batch_tokens", "parameters", "device",
        "train_documents", "validation_documents",
        *(f"learning_rate@{moment}" for moment in ("beginning", "middle", "end")),
    }  # fmt: skip
    files = "tinystories/train.jsonl", "tinystories/validation.jsonl", "tokenizer/10k-tok/tokenizer.json"
    assert outcome.data == {file: hashlib.sha256((job.data_root / file).read_bytes()).hexdigest() for file in files}
    assert all(check.passed for check in outcome.checks)
    json.dumps(dataclasses.asdict(outcome))  # as a job writes it
    encoder = ["masked_inputs", "masked_share", "loss_floor"] if family == "roberta" else []
    assert {check.name for check in outcome.checks} == {
        "parameters", "definition", "initial_loss", "schedule", "reload_logits", "reload_definition", "documents_cut",
        *encoder,
    }  # fmt: skip
    assert re.search(rf"step 30 of 30: loss {shown}, [\d,]+ tokens/s, 0.0 min left", capsys.readouterr().out)
    assert not (job.run_dir / "checkpoints").exists()
    assert auto.load_lm(job.model_dir).num_parameters() == outcome.metrics["parameters"]


def test_documents_that_are_cut_are_counted_and_many_are_told_of(work, capsys):
    job = work(max_steps=1, evaluations=1)
    job.config = job.config.model_copy(update={"data": job.config.data.model_copy(update={"max_length": 10})})
    outcome = pretrain.run(job)
    beyond = [max(0, len(text.split()) + 2 - 10) for text in sentences(40, 1)]
    assert 0 < sum(map(bool, beyond)) < 40
    figures = {name: value for name, value in outcome.metrics.items() if name.startswith("train_")}
    cut = {"train_documents_cut": sum(map(bool, beyond)), "train_tokens_cut": sum(beyond)}
    assert figures == {"train_documents": 40, **cut}
    (check,) = [check for check in outcome.checks if check.name == "documents_cut"]
    assert (check.passed, check.blocking) == (False, False)
    told = f"tinystories, train: 40 documents; {sum(map(bool, beyond))} of them ("
    assert told in check.value
    assert told in capsys.readouterr().out
    builtin = job.config.model_copy(update={"data": job.config.data.model_copy(update={"source": "builtin"})})
    assert (
        "builtin stories, train: 40 documents"
        in pretrain.Training(dataclasses.replace(job, config=builtin)).corpus.cut()[1]
    )


# The baseline in all families, the others in one or the other: how a family differs has tests of its own. The longer
# tests have what differs in a number or a size from one of these.
LEARNT = {"gelu", "learnable_geglu", "kan", "moe_k2", "controller", "pkm", "depth3", "kv_groups", "ssff", "cycle2",
          "study_dense", "halting", "linformer"}  # fmt: skip
LEARNERS = [
    kept(variant in LEARNT, variant, family)
    for variant, family in [
        ("gelu", "roberta"),
        *((variant, FAMILIES[number % 2]) for number, variant in enumerate(VARIANTS)),
        *((variant, "roberta") for variant in OF_ENCODERS),
        *((variant, "llama") for variant in ("swiglu", "gelu", "moe_k2", "cycle2")),
    ]
]


@pytest.mark.parametrize(("variant", "family"), LEARNERS)
def test_every_variant_learns_from_the_builtin_stories(builtin_root, builtin_cache, tmp_path, family, variant):
    # Built, counted, trained, saved and loaded again by the Auto classes: `pretrain.run` checks each.
    model = small(family, variant, vocab_size=1_000, max_position_embeddings=129, dropout=0.0)
    settings = {"max_steps": 12, "stories_per_step": 4, "evaluations": 1, "eval_stories": 8, "learning_rate": 2e-2}
    run_config = RunConfig(
        model=model, train=settings, data={"source": "builtin", "max_length": 128}, seed=1,
        evaluation={"superglue": {"max_length": 128}},
    )  # fmt: skip
    job = Work(config=run_config, data_root=builtin_root, cache=builtin_cache, run_dir=tmp_path / "run")
    outcome = pretrain.run(job)
    losses = [record["loss"] for record in curve(job) if "loss" in record]
    assert sum(losses[-4:]) / 4 < losses[0] - 1
    assert outcome.scores[0].value < losses[0] - 1
    assert all(check.passed for check in outcome.checks)


def of_steps(outcome):
    (score,) = [score for score in outcome.scores if score.metric == "steps_per_token"]
    (check,) = [check for check in outcome.checks if check.name == "halting"]
    return score, check


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_tells_how_many_steps_a_token_takes_until_it_halts(work, family, capsys):
    layers = "num_layers" if family == "gpt_neo" else "num_hidden_layers"
    job = work(family, model={layers: 4, "recurrence": {"halting": {}}}, max_steps=4)
    score, check = of_steps(pretrain.run(job))
    assert 1 < score.value < 3  # of 4; the halting unit begins with a probability of 0.7
    assert check.passed
    records = [record for record in curve(job) if "eval_loss" in record]
    assert len(records) > 1
    assert records[-1]["steps_per_token"] == score.value == check.value
    assert f"steps_per_token {score.value:.2f}" in capsys.readouterr().out
    validation = [*Training(job).corpus.validation()]
    assert score.n == sum(batch.input_ids.numel() if batch.real is None else len(batch.real) for batch in validation)


def test_a_model_that_never_halts_is_reported_but_not_failed(work, monkeypatch):
    monkeypatch.setattr(recurrence, "BIAS", -20.0)
    score, check = of_steps(pretrain.run(work(model={"num_layers": 3, "recurrence": {"halting": {}}})))
    assert score.value == check.value == 3
    assert (check.passed, check.blocking) == (False, False)


@pytest.mark.parametrize("variant", ["moe_k2", "pkm", "shared_moe"])
def test_sparse_models_resume_bit_for_bit(work, variant):
    extra = {key: value for key, value in VARIANTS[variant].items() if key != "layers"} | {"activation": None}
    if "layers" in VARIANTS[variant]:
        extra["num_layers"] = VARIANTS[variant]["layers"]
    whole, cut = work(name="whole", model=extra), work(name="cut", model=extra)
    pretrain.run(whole)
    for stop in (2, 4.4):  # between two steps, and in the middle of one
        stop_at(cut, stop)
        with pytest.raises(Interrupted):
            pretrain.run(cut)
    cut.should_stop = lambda: False
    pretrain.run(cut)
    assert weights(whole) == weights(cut)


def test_the_balance_loss_reaches_the_gate(work):
    def gate(balance_loss):
        extra = {"ffn": {"kind": "moe", "top_k": 2, "balance_loss": balance_loss}, "activation": None}
        job = work(name=f"balance {balance_loss}", model=extra, max_steps=3)
        pretrain.run(job)
        return auto.load_lm(job.model_dir).transformer.h[0].mlp.ffn.gate.weight

    assert (gate(0.0) - gate(10.0)).abs().max() > 1e-5


def test_the_balance_loss_has_its_own_gradient_beside_that_of_the_texts(work):
    def trained(balance_loss):
        ffn = {"kind": "moe", "top_k": 2, "balance_loss": balance_loss}
        job = work(model={"ffn": ffn, "activation": None, "dropout": 0}, micro_batch_tokens=10_000)
        training = Training(job)
        (batch,) = training.corpus.validation()
        torch.manual_seed(0)  # the gate's noise
        training._backward([batch])
        return training.model, training.model.transformer.h[0].mlp.ffn.gate.weight.grad.clone(), batch

    (_, without, batch), (model, both, _) = trained(0.0), trained(10.0)
    model.zero_grad()
    torch.manual_seed(0)
    pretrain.token_losses(model, batch, ())
    model.auxiliary_loss().backward()
    alone = model.transformer.h[0].mlp.ffn.gate.weight.grad
    assert alone.abs().max() > 1e-4
    torch.testing.assert_close(both - without, alone, rtol=1e-3, atol=1e-6)


def test_learning_rate_falls_linearly_to_zero_without_warm_up(work):
    job = work(max_steps=5, learning_rate=1e-3)
    pretrain.run(job)
    rates = [record["learning_rate"] for record in curve(job) if "loss" in record]
    assert rates == pytest.approx([1e-3, 8e-4, 6e-4, 4e-4, 2e-4])


def test_more_stories_per_step_than_there_are(work):
    job = work(max_steps=2, stories_per_step=100)
    pretrain.run(job)
    all_tokens = sum(len(Training(job).corpus.stories[i]) for i in range(40))
    tokens = [record["tokens"] for record in curve(job) if "loss" in record]
    assert tokens[1] == 5 * all_tokens  # 200 stories are five epochs of 40


def test_only_the_first_eval_stories_are_evaluated(work):
    few, all_ = (Training(work("gpt_neo", eval_stories=count)).corpus.held_out for count in (5, None))
    assert (len(few), len(all_)) == (5, 12)


def test_evaluations_are_evenly_spaced_and_end_with_the_last_step():
    assert evaluation_steps(8_280, 10) == list(range(828, 8_281, 828))
    assert evaluation_steps(20, 3) == [7, 14, 20]
    assert evaluation_steps(3, 10) == [1, 2, 3]


def test_validation_masks_are_the_same_for_every_seed(work):
    first, second = (Training(work("roberta", seed=seed)) for seed in (1, 2))
    pairs = zip(first.corpus.held_out, second.corpus.held_out, strict=True)
    assert all(np.array_equal(a.inputs, b.inputs) and np.array_equal(a.targets, b.targets) for a, b in pairs)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_evaluation_is_without_dropout(work, family):
    training = Training(work(family, model={"dropout": 0.5}))
    training.model.train()
    assert training._evaluate() == training._evaluate()


def test_seeds_give_different_models_and_the_same_seed_the_same(work):
    jobs = [work(name="a", seed=1), work(name="b", seed=1), work(name="c", seed=2)]
    for job in jobs:
        pretrain.run(job)
    assert weights(jobs[0]) == weights(jobs[1]) != weights(jobs[2])


# --- the loss and its gradient


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_loss_is_that_of_hugging_face(work, family):
    training = Training(work(family))
    model = training.model.eval()
    batch = next(batches.micro_batches(training.corpus.held_out, 10_000, causal=training.config.model.causal))
    labels = torch.full((batch.input_ids.numel(),), -100)
    labels[batch.positions] = batch.labels
    labels = labels.view_as(batch.input_ids)
    if family != "roberta":  # it shifts by itself: what is to be predicted stands one to the right
        labels = torch.cat([torch.full_like(labels[:, :1], -100), labels], dim=1)
        batch_ids = torch.cat([batch.input_ids, torch.zeros_like(batch.input_ids[:, :1])], dim=1)
    else:
        batch_ids = batch.input_ids
    expected = model(batch_ids, attention_mask=(batch_ids != 0).long(), labels=labels).loss
    mean = pretrain.token_losses(model, batch)[0] / len(batch.labels)
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_gradient_does_not_depend_on_the_micro_batches(work, family):
    gradients, losses = [], []
    for tokens in (1, 60, 10_000):
        training = Training(work(family, model={"dropout": 0}, micro_batch_tokens=tokens))
        losses.append(training._backward(list(training.corpus.validation()))[0].item())
        gradients.append([parameter.grad for parameter in training.model.parameters()])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# --- precision and compiling


def test_precision_is_the_hardwares_where_it_is_left_open(monkeypatch):
    cpu = torch.device("cpu")
    for has, resolved in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(pretrain, "has_bfloat16", lambda _, has=has: has)
        assert pretrain.resolve_precision("auto", cpu) == resolved
        assert pretrain.resolve_precision("float32", cpu) == "float32"
        assert pretrain.resolve_precision("bfloat16", cpu) == "bfloat16"
    with pytest.raises(TinyTransformersError, match="set float32"):
        pretrain.resolve_precision("tf32", cpu)


def test_a_run_begun_in_tf32_says_how_to_go_on_where_there_is_none(work, monkeypatch):
    job = work()
    stop_at(job, 3)
    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "resolve_precision", lambda *_: "tf32")
        with pytest.raises(Interrupted):
            pretrain.run(job)
    with pytest.raises(TinyTransformersError, match="tf32, .* go on on one, or remove .*checkpoints to begin anew"):
        pretrain.run(job)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_bfloat16_is_near_float32_and_weights_stay_float32(work, family):
    losses = {}
    for precision in ("float32", "bfloat16"):
        job = work(family, name=precision, precision=precision, max_steps=10, learning_rate=5e-3)
        outcome = pretrain.run(job)
        assert outcome.metrics["precision"] == precision
        assert {p.dtype for p in auto.load_lm(job.model_dir).parameters()} == {torch.float32}
        losses[precision] = [record["loss"] for record in curve(job) if "loss" in record]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_a_training_goes_on_in_the_precision_it_began_in(work, monkeypatch):
    whole = work(name="whole", precision="bfloat16")
    pretrain.run(whole)
    cut = work(name="cut", precision="bfloat16")
    stop_at(cut, 3)
    with pytest.raises(Interrupted):
        pretrain.run(cut)
    monkeypatch.setattr(pretrain, "has_bfloat16", lambda _: False)
    assert pretrain.run(work(name="cut", precision="auto")).metrics["precision"] == "bfloat16"
    assert weights(cut) == weights(whole)


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from tiny_transformers.common.work import Work
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.training import anchors, pretrain

def progress(_, text):
    if text.startswith(f"step {last} of"):
        os.kill(os.getpid(), signal.SIGKILL)

config, last, backend, *folders = sys.argv[1:]
compile = torch.nn.Module.compile
torch.nn.Module.compile = lambda module, **how: compile(module, backend=backend, **how)
root, cache, run_dir = map(Path, folders)
outcome = pretrain.run(Work(RunConfig.model_validate_json(config), root, cache, run_dir, progress=progress))
assert outcome.metrics["compiled"] == 1
# The same weights, and both sides eager: nothing is left to rounding.
assert [check.value for check in outcome.checks if check.name == "reload_logits"] == [0.0]
"""


def in_a_process(job, backend, killed_at=None):
    arguments = [job.config.model_dump_json(), killed_at, backend, job.data_root, job.cache, job.run_dir]
    done = fresh.python(CHILD, *arguments)
    return done.returncode, done.stderr if done.returncode == 1 else ""


# Inductor writes C++, which takes minutes to compile; the other one only captures the graphs, which takes long in three
# processes. How a compiled training goes on is in test_compiling.py, too.
@pytest.mark.longer
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_bfloat16_run_that_was_killed_has_the_curve_of_one_that_was_not(work, backend):
    settings = {"compile": True, "precision": "bfloat16", "model": {"num_layers": 1}}
    whole, killed = work(name="whole", **settings), work(name="killed", **settings)
    assert in_a_process(whole, backend) == (0, "")
    assert in_a_process(killed, backend, killed_at=5) == (-signal.SIGKILL, "")
    assert checkpoints(killed) == ["step-00000003"]
    assert in_a_process(killed, backend) == (0, "")
    # Which shapes a process meets first decides what is compiled, and so the last digits.
    for record, expected in zip(curve(killed), curve(whole), strict=True):
        assert record == pytest.approx(expected, rel=1e-5)
    eager = work(name="eager", **settings | {"compile": False})
    pretrain.run(eager)
    losses = [[record.get("loss", 0.0) for record in curve(job)] for job in (whole, eager)]
    # Dropout's masks are drawn otherwise by compiled code.
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_failing_compiler_is_explained(work):
    def refuse(*_, **__):
        raise torch._dynamo.exc.TorchDynamoException("no compiler was found")

    training = Training(work(compile=True))
    training.model.states = refuse
    with pytest.raises(TinyTransformersError, match=r"no compiler was found\. .* set train.compile to false"):
        training._step()


def test_the_next_step_is_made_while_this_one_is_used():
    made = []
    feed = Feed(lambda number: made.append(number) or number)
    assert [feed.take(number, last=number == 2) for number in range(3)] == [0, 1, 2]
    assert feed.take(7, last=True) == 7  # another than was expected
    feed.close()
    assert made == [0, 1, 2, 7]


# --- stopping and going on


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_run_that_is_stopped_again_and_again_ends_in_the_same_bits(work, family):
    whole, cut = work(family, "whole"), work(family, "cut")
    expected = pretrain.run(whole)
    for step in (0.5, 1, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 5.5):  # the halves are between two micro-batches
        stop_at(cut, step)
        with pytest.raises(Interrupted, match="asked to stop after step"):
            pretrain.run(cut)
        assert not cut.model_dir.exists()
    cut.should_stop = lambda: False
    outcome = pretrain.run(cut)
    assert weights(cut) == weights(whole)
    assert curve(cut) == curve(whole)
    assert outcome.scores == expected.scores
    assert outcome.checks == expected.checks
    assert outcome.metrics["tokens"] == expected.metrics["tokens"]


class Crash(Exception):
    pass


def crash_at(step):
    def progress(_, text):
        if text.startswith(f"step {step} of"):
            raise Crash

    return progress


@pytest.mark.parametrize(("family", "spoil"), [("gpt_neo", False), ("roberta", True)])
def test_crash_goes_on_from_the_newest_whole_checkpoint(work, family, spoil, capsys):
    whole, crashed = work(family, "whole", evaluations=3), work(family, "crashed", evaluations=3)
    pretrain.run(whole)
    crashed.progress = crash_at(5)  # after a step that no checkpoint holds
    with pytest.raises(Crash):
        pretrain.run(crashed)
    assert checkpoints(crashed) == ["step-00000002", "step-00000004"]
    if spoil:
        newest = crashed.run_dir / "checkpoints/step-00000004/optimizer.safetensors"
        newest.write_bytes(newest.read_bytes()[:100])
    with (crashed.run_dir / "curve.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # torn
    capsys.readouterr()
    crashed.progress = lambda *_: None
    pretrain.run(crashed)
    printed = capsys.readouterr().out
    assert f"resuming after step {2 if spoil else 4}" in printed
    assert ("step-00000004 is damaged" in printed) == spoil
    assert weights(crashed) == weights(whole)
    assert curve(crashed) == curve(whole)


def test_stop_in_an_evaluation_repeats_just_that(work):
    whole, cut = work(name="whole"), work(name="cut")
    pretrain.run(whole)
    asked = []
    cut.progress = lambda _, text: asked.append(text)
    cut.should_stop = lambda: "evaluating" in asked[-1]
    with pytest.raises(Interrupted):
        pretrain.run(cut)
    assert checkpoints(cut) == ["step-00000003"]
    assert [record for record in curve(cut) if "eval_loss" in record] == []
    cut.should_stop = lambda: False
    pretrain.run(cut)
    assert weights(cut) == weights(whole)
    assert curve(cut) == curve(whole)


def test_stop_before_the_first_step_leaves_no_checkpoint(work):
    job = work()
    job.should_stop = lambda: True
    with pytest.raises(Interrupted):
        pretrain.run(job)
    assert not (job.run_dir / "checkpoints").exists()


def test_checkpoints_of_other_settings_are_refused(work):
    job = work()
    stop_at(job, 2)
    with pytest.raises(Interrupted):
        pretrain.run(job)
    with pytest.raises(TinyTransformersError, match="other settings or other data. Remove it"):
        pretrain.run(work(learning_rate=1e-3))


def test_smaller_micro_batches_may_go_on_from_a_checkpoint(work):
    job = work()
    stop_at(job, 2)
    with pytest.raises(Interrupted):
        pretrain.run(job)
    assert pretrain.run(work(micro_batch_tokens=40)).metrics["steps"] == 6


def test_progress_rises_to_the_end(work):
    job, fractions = work(), []
    job.progress = lambda fraction, _: fractions.append(fraction)
    pretrain.run(job)
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)


# --- a budget


def budgeted(work, name="run", evaluations=3, **budget):
    return work(name=name, budget=budget, evaluations=evaluations, eval_stories=4)


def tick(monkeypatch, seconds):
    """A clock that goes on by so much each time that it is read: a step, of which it is asked three times, takes twice
    as long. Only the training's own: `monotonic` of all else stays."""
    now = itertools.count(0, seconds)
    clock = types.SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr(pretrain, "time", clock)


def test_a_budget_of_tokens_ends_with_the_step_that_reaches_it_and_is_the_schedule(work):
    job = budgeted(work, tokens=1_000)
    outcome = pretrain.run(job)
    steps = [record for record in curve(job) if "loss" in record]
    tokens = [record["tokens"] for record in steps]
    assert outcome.metrics["steps"] == len(steps) > 5
    assert tokens[-2] < 1_000 <= tokens[-1] == outcome.metrics["tokens"]
    assert [record["learning_rate"] for record in steps] == pytest.approx(
        [5e-4 * (1 - before / 1_000) for before in [0, *tokens[:-1]]]
    )
    crossing = [next(i for i, t in enumerate(tokens, 1) if t >= 1_000 * part / 3) for part in (1, 2, 3)]
    evaluations = [record for record in curve(job) if "eval_loss" in record]
    assert [record["step"] for record in evaluations] == crossing
    assert outcome.scores[0].value == evaluations[-1]["eval_loss"]


def test_a_budget_smaller_than_a_step_is_one_step_and_one_evaluation(work):
    job = budgeted(work, tokens=1)
    assert pretrain.run(job).metrics["steps"] == 1
    assert [record["step"] for record in curve(job)] == [1, 1]


def test_a_budget_of_tokens_that_was_stopped_again_and_again_ends_in_the_same_bits(work):
    whole, cut = (budgeted(work, name, tokens=1_000) for name in ("whole", "cut"))
    expected = pretrain.run(whole)
    for text in ("step 1,", "step 3,", "evaluating", "step 5,"):
        asked = []
        cut.progress = lambda _, doing, asked=asked: asked.append(doing)
        cut.should_stop = lambda asked=asked, text=text: text in asked[-1]
        with pytest.raises(Interrupted, match=r"asked to stop after step \d, \d+ % of 1,000 tokens"):
            pretrain.run(cut)
    cut.should_stop = lambda: False
    assert pretrain.run(cut).scores == expected.scores
    assert weights(cut) == weights(whole)
    assert curve(cut) == curve(whole)


def test_a_budget_of_hours_ends_in_time_and_is_the_schedule(work, monkeypatch, capsys):
    tick(monkeypatch, 0.5 * 3600)
    job = budgeted(work, hours=6, evaluations=2)
    outcome = pretrain.run(job)
    assert (outcome.metrics["steps"], outcome.metrics["seconds"]) == (6, 6 * 3600)
    rates = [record["learning_rate"] for record in curve(job) if "loss" in record]
    assert rates == pytest.approx([5e-4 * left / 6 for left in (6, 5, 4, 3, 2, 1)])
    assert [record["step"] for record in curve(job) if "eval_loss" in record] == [3, 6]
    assert "step 6, 100 % of 6 hours: loss" in capsys.readouterr().out


def test_a_budget_of_hours_goes_on_where_it_was_stopped(work, monkeypatch):
    tick(monkeypatch, 0.5 * 3600)
    whole, cut = (budgeted(work, name, hours=6) for name in ("whole", "cut"))
    pretrain.run(whole)
    done = []
    cut.progress = lambda fraction, _: done.append(fraction)
    cut.should_stop = lambda: done[-1] >= 0.5
    with pytest.raises(Interrupted):
        pretrain.run(cut)
    cut.should_stop = lambda: False
    assert pretrain.run(cut).metrics["seconds"] == 6 * 3600
    assert weights(cut) == weights(whole)
    assert curve(cut) == curve(whole)


def test_a_budgets_curve_is_thinned_evenly(work, monkeypatch):
    monkeypatch.setattr(pretrain, "CURVE_POINTS", 4)
    tick(monkeypatch, 0.5 * 3600)
    job = budgeted(work, hours=12)
    pretrain.run(job)
    assert [record["step"] for record in curve(job) if "loss" in record] == [1, 3, 6, 9, 12]


@pytest.mark.parametrize("budget", [{}, {"hours": 1, "tokens": 1}, {"hours": 0}, {"hours": math.inf}, {"tokens": -1}])
def test_a_budget_is_either_hours_or_tokens(budget):
    with pytest.raises(ValueError, match=r"either hours or tokens|greater than 0|finite"):
        Train(budget=budget)


def test_a_budget_takes_the_place_of_max_steps():
    trains = [Train(max_steps=steps, budget={"hours": 5}) for steps in (8_280, 10, None)]
    assert {train.model_dump_json() for train in trains} == {Train(budget={"hours": 5}).model_dump_json()}
    assert trains[0].max_steps is None
    assert Train(budget=None).max_steps == 8_280
    with pytest.raises(ValueError, match="max_steps is null and there is no budget"):
        Train(max_steps=None)


# --- what must not pass


def test_loss_that_is_not_finite_ends_the_training(work):
    with pytest.raises(TinyTransformersError, match="after step 1 of 6 the loss is .* Lower train.learning_rate"):
        pretrain.run(work(learning_rate=1e25))


def fails(job, check):
    with pytest.raises(CheckFailed, match=f"^{check} is .*; expected "):
        pretrain.run(job)
    assert not job.model_dir.exists()


def test_model_of_another_size_than_planned_fails_before_it_trains(work, monkeypatch):
    monkeypatch.setattr(architecture, "num_parameters", lambda _: 123)
    job = work()
    fails(job, "parameters")
    assert not (job.run_dir / "curve.jsonl").exists()


def test_wrong_initial_loss_fails_after_one_step(work, monkeypatch):
    build = auto.build

    def build_badly(model, seed):
        built = build(model, seed)
        with torch.no_grad():
            built.lm_head.weight.mul_(20)
        return built

    monkeypatch.setattr(auto, "build", build_badly)
    job = work()
    fails(job, "initial_loss")
    assert [record["step"] for record in curve(job)] == [1]


def test_encoder_that_is_shown_all_and_asked_for_every_token_fails_before_it_trains(work, monkeypatch):
    # The study's first encoders were trained like this: nothing masked, every token a label.
    def unmasked(stories, *_):
        return [batches.Example(story, story.astype(np.int64)) for story in stories]

    monkeypatch.setattr(batches, "masked", unmasked)
    job = work("roberta")
    fails(job, "masked_inputs")
    assert curve(job) == []


def test_encoder_that_is_asked_for_more_than_was_planned_fails_after_one_step(work, monkeypatch):
    masked = batches.masked
    monkeypatch.setattr(
        batches, "masked", lambda stories, words, share, rng: masked(stories, words, min(1, 4 * share), rng)
    )
    job = work("roberta")
    fails(job, "masked_share")
    assert [record["step"] for record in curve(job)] == [1]


def test_model_that_loads_as_another_one_fails_and_keeps_its_checkpoints(work, monkeypatch):
    load = auto.load_lm

    def load_stock(folder):
        loaded = load(folder)
        for block in loaded.transformer.h:
            block.mlp.act = torch.nn.GELU()
        return loaded

    monkeypatch.setattr(auto, "load_lm", load_stock)
    job = work(learning_rate=5e-2)
    fails(job, "reload_logits")
    assert checkpoints(job) == ["step-00000003", "step-00000006"]


def test_encoder_with_next_to_no_loss_is_reported_but_not_failed(work, monkeypatch):
    monkeypatch.setattr(pretrain, "LOSS_FLOOR", 100.0)
    (check,) = [check for check in pretrain.run(work("roberta")).checks if check.name == "loss_floor"]
    assert (check.passed, check.blocking) == (False, False)


def test_tokenizer_larger_than_the_model_is_refused(work):
    with pytest.raises(TinyTransformersError, match="Set model.vocab_size to 16"):
        pretrain.run(work(model={"vocab_size": 10}))


# --- the curve


def test_curve_of_a_long_run_is_thinned_evenly(tmp_path):
    thinned = Curve(tmp_path / "curve.jsonl", every=9)
    for step in range(1, 8_281):
        thinned.add(Counters(step=step), loss=1.0, learning_rate=1.0, last=step == 8_280)
    steps = [json.loads(line)["step"] for line in thinned.path.read_text().splitlines()]
    assert steps == [1, *range(9, 8_281, 9)]


# --- anchors


def anchored(work):
    """File -> bytes of all anchors; of their records, without the minutes, which no two runs share."""
    files = {}
    for path in sorted((work.run_dir / "anchors").rglob("*")):
        if path.name == anchors.ABOUT:
            files[str(path.relative_to(work.run_dir))] = json.loads(path.read_text()) | {"minutes": None}
        elif path.is_file():
            files[str(path.relative_to(work.run_dir))] = path.read_bytes()
    return files


@pytest.mark.parametrize("family", FAMILIES)
def test_an_anchor_is_the_model_of_a_step_and_changes_nothing(work, family):
    settings = {"max_steps": 4, "lr_scheduler_type": "constant"}
    without, with_anchors = work(family, "without", **settings), work(family, "with", anchors=[150, 0.4], **settings)
    expected, outcome = pretrain.run(without), pretrain.run(with_anchors)
    assert weights(with_anchors) == weights(without)
    assert curve(with_anchors) == curve(without)
    assert outcome.scores == expected.scores
    first, second = (anchors.read(with_anchors.run_dir / f"anchors/{name}") for name in ("0.4", "150"))
    tokens = {record["step"]: record["tokens"] for record in curve(without) if "tokens" in record}
    assert (first.step, first.tokens, first.stories, first.done) == (2, tokens[2], 16, 0.5)
    assert (second.step, second.tokens) == (2, tokens[2])
    assert tokens[1] < 150 <= tokens[2]
    shorter = work(family, "shorter", **settings | {"max_steps": 2})
    pretrain.run(shorter)
    assert (with_anchors.run_dir / "anchors/0.4/model.safetensors").read_bytes() == weights(shorter)
    assert auto.load_lm(with_anchors.run_dir / "anchors/0.4").num_parameters() == outcome.metrics["parameters"]


@pytest.mark.parametrize("family", FAMILIES)
def test_anchors_of_a_run_that_was_stopped_and_killed_are_those_of_one_that_was_not(work, family):
    settings = {"anchors": [0.2, 0.5, 0.8, 100], "evaluations": 3}
    whole, cut = work(family, "whole", **settings), work(family, "cut", **settings)
    pretrain.run(whole)
    for step in (0.5, 1, 1.5, 3):
        stop_at(cut, step)
        with pytest.raises(Interrupted):
            pretrain.run(cut)
    cut.should_stop, cut.progress = lambda: False, crash_at(5)  # after an anchor that no checkpoint has come after
    with pytest.raises(Crash):
        pretrain.run(cut)
    assert (cut.run_dir / "anchors/0.8").exists()
    (cut.run_dir / "anchors/.0.8.half").mkdir()  # what a killed process leaves
    cut.progress = lambda *_: None
    training = Training(cut)
    training.resume()
    training.feed.close()
    assert sorted(path.name for path in (cut.run_dir / "anchors").iterdir()) == ["0.2", "0.5", "100"]
    pretrain.run(cut)
    assert anchored(cut) == anchored(whole)
    assert {name.split("/")[1] for name in anchored(whole)} == {"0.2", "0.5", "0.8", "100"}
    assert weights(cut) == weights(whole)


def test_an_anchor_that_the_training_does_not_come_to_is_not_there_and_a_probe_has_none(work):
    job = work(max_steps=2, anchors=[0.5, 1_000_000])
    pretrain.run(job)
    assert [path.name for path in (job.run_dir / "anchors").iterdir()] == ["0.5"]
    probe = work(name="probe", max_steps=2, anchors=[0.5])
    probe.config = probe.config.model_copy(update={"probe": True})
    pretrain.run(probe)
    assert not (probe.run_dir / "anchors").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_planned_disk_space_is_what_weights_take(work, family):
    job = work(family, anchors=[0.2, 0.4, 0.6], evaluations=6)
    job.progress = crash_at(5)
    with pytest.raises(Crash):
        pretrain.run(job)
    planned = disk.of_run(job.config, ["pretrain", "trajectory"])
    assert weight_bytes(job.run_dir / "checkpoints") == pytest.approx(planned.at_work * 2 / 3, rel=1e-3)  # Adam's steps
    job.progress = lambda *_: None
    pretrain.run(job)
    assert weight_bytes(job.model_dir) == planned.models
    assert weight_bytes(job.run_dir / "anchors") == planned.anchors == 3 * planned.models
    spent = job.config.evaluation.model_copy(update={"trajectory": Trajectory(keep=False)})
    spending = disk.of_run(job.config.model_copy(update={"evaluation": spent}), ["pretrain", "trajectory"])
    assert (spending.kept, spending.at_work) == (planned.models, planned.at_work + planned.anchors)


def weight_bytes(folder):
    tensors = (tensor for path in folder.rglob("*.safetensors") for tensor in load_file(path).values())
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchors": [0]}, "greater than 0"),
        ({"anchors": [1]}, "1 is neither a share, below 1, nor a whole number of tokens"),
        ({"anchors": [2.5]}, "2.5 is neither"),
        ({"anchors": [0.1, 1e6, 0.1]}, "an anchor is named twice"),
        ({"anchors": [0.1, 2e6], "budget": {"tokens": 1_000_000}}, "2,000,000 tokens are more than the budget's 1,000"),
    ],
)
def test_an_anchor_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Train(**settings)


def test_anchors_are_part_of_the_settings_only_where_there_are_some():
    assert "anchors" not in Train().model_dump(mode="json")
    assert Train(anchors=[1e6, 0.5]) == Train(anchors=[0.5, 1e6])
    assert [config.anchor_name(number) for number in Train(anchors=[1e6, 0.05]).anchors] == ["0.05", "1000000"]
