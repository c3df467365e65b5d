"""Pretraining on a stream of characters: memory from block to block, micro-batches, going on after a stop."""

import json
import math
from random import Random

import pytest
import torch
from longer import longer
from safetensors.torch import load_file

from tiny_transformers.common.work import CheckFailed, Interrupted, TinyTransformersError, Work
from tiny_transformers.data import corpus
from tiny_transformers.evaluation import bpc, trajectory
from tiny_transformers.layers.ffn.experts import GatedExperts
from tiny_transformers.models.auto import load_lm
from tiny_transformers.settings.architecture import Brainformer, training_flops
from tiny_transformers.settings.config import STREAMS, RunConfig, Train
from tiny_transformers.training import pretrain
from tiny_transformers.training.pretrain import Training

WORDS = ("the", "cat", "dog", "sees", "likes", "and", "a", "bird")
TINY = {
    "order": "sgfg.sf", "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "attn_span": 96, "vocab_size": 27,
    "adaptive_span": {"ramp": 8, "loss": 1e-4}, "experts": {"num_experts": 4}, "dropout": 0.1,
}  # fmt: skip
ADAGRAD = {"optimizer": "adagrad", "clipping": "per_tensor", "max_grad_norm": 0.03, "lr_scheduler_type": "constant"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """4,000 characters of text8's kind."""
    root, random = tmp_path_factory.mktemp("data"), Random(0)
    path = root / STREAMS["text8"]
    path.parent.mkdir()
    path.write_text("".join(f" {random.choice(WORDS)}" for _ in range(1_100))[:4_000])
    return root


@pytest.fixture
def work(root, tmp_path):
    def make(name="run", model=(), seed=42, bpc_of=(), **train):
        settings = {"max_steps": 6, "batch_size": 4, "block_size": 40, "evaluations": 2, "learning_rate": 0.05}
        settings |= {"precision": "float32", "warmup_steps": 2} | ADAGRAD | train
        run_config = RunConfig(
            model=Brainformer(**TINY | dict(model)),
            train=Train(**settings),
            data={"corpus": "text8"},
            evaluation={"bpc": {"split": "validation"} | dict(bpc_of)},
            seed=seed,
        )
        return Work(config=run_config, data_root=root, cache=tmp_path / "cache", run_dir=tmp_path / name)

    return make


def weights(work):
    return (work.model_dir / "model.safetensors").read_bytes()


def losses(work):
    records = [json.loads(line) for line in (work.run_dir / "curve.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def begun(work):
    training = Training(work)
    training.resume()
    return training


def test_a_brainformer_learns_and_says_what_it_read(work):
    job = work(max_steps=40, learning_rate=0.1)
    outcome = pretrain.run(job)
    assert losses(job)[-1] < losses(job)[0] - 0.5
    assert outcome.metrics["steps"] == 40
    # 900 characters of each of 4 rows: a pass is 22 blocks of 40 and one of 19.
    assert outcome.metrics["tokens"] == 4 * (899 + 17 * 40)
    assert outcome.metrics["longest_span"] >= outcome.metrics["mean_span"] >= 8
    assert {check.name for check in outcome.checks} == {
        "parameters", "definition", "initial_loss", "schedule", "reload_logits", "reload_definition"
    }  # fmt: skip
    assert outcome.scores[0].n == 200  # all of the split, its first character too


def test_validation_in_training_is_what_the_stage_bpc_says(work, monkeypatch):
    monkeypatch.setattr(corpus, "EVALUATED", 64)  # several blocks
    job = work()
    (validation,) = pretrain.run(job).scores
    (score,) = bpc.run(job).scores
    assert (score.task, score.metric, score.n) == ("validation", "bpc", 200)
    assert score.value == pytest.approx(validation.value / math.log(2), rel=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_an_untrained_model_passes_the_check_of_the_first_loss(work, tied):
    sizes = {"order": "sg", "hidden_size": 64} if tied else {}  # shallow: what is read is foretold again
    job = work(max_steps=1, model={"tie_word_embeddings": tied} | sizes)
    assert {check.name: check.passed for check in pretrain.run(job).checks}["initial_loss"]


def test_pieces_of_a_step_change_neither_its_gradient_nor_the_number_of_steps(work):
    gradients, remembered, found = [], [], []
    for settings in ({}, {"batch_split": 2}, {"batch_split": 3}, {"micro_batch_tokens": 40}):
        training = begun(work(model={"dropout": 0}, max_steps=3, **settings))
        training._step()  # so that there is a memory to be cut as well
        made = training.corpus.step(1).batches
        found.append(len(made))
        _, memory = training._backward(made)
        gradients.append([p.grad for p in training.model.parameters()])
        remembered.append(memory)
    assert found == [1, 2, 3, 4]
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for memory in remembered[1:]:
        for a, b in zip(remembered[0], memory, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    job = work(name="split", batch_split=2, max_steps=3)
    assert pretrain.run(job).metrics["steps"] == 3
    assert len(losses(job)) == 3


def test_memory_is_what_the_block_before_left_and_empty_where_a_pass_begins(work):
    training = begun(work(model={"dropout": 0}, max_steps=30))
    batch = training.corpus.step(1).batches[0]
    training._step()
    with torch.no_grad():
        training.model.train()
        with_memory = pretrain.token_losses(training.model, batch, training.memory)[0]
        before = training.corpus.step(0).batches[0]
        _, memory = pretrain.token_losses(training.model, before)
        again = pretrain.token_losses(training.model, batch, memory)[0]
        alone = pretrain.token_losses(training.model, batch, training.model.empty_memory(4))[0]
    # Remembered were the inputs by the weights before the update, so they are close and not equal.
    assert with_memory.item() == pytest.approx(again.item(), rel=0.02)
    assert alone.item() != pytest.approx(again.item(), rel=1e-6)
    remembered = [training.memory[0].shape[1]]
    for _ in range(23):
        training._step()
        remembered.append(training.memory[0].shape[1])
    # Of blocks of 40: no more than attn_span, and after the 23rd, a short one, nothing but a new pass' first.
    assert remembered == [40, 80, *[96] * 21, 40]


def stop_at(work, step):
    """Ask to stop as soon as so much is done, in steps."""
    done = []
    work.progress = lambda fraction, _: done.append(fraction * work.config.train.max_steps)
    work.should_stop = lambda: bool(done) and done[-1] >= step - 1e-9


@pytest.mark.parametrize(("gate", "optimizer"), [
    longer("naive", "adamw"), ("random", "adagrad"),
])  # fmt: skip
def test_a_run_that_is_stopped_again_and_again_ends_in_the_same_bits(work, optimizer, gate):
    own = {"optimizer": optimizer, "batch_split": 2, "max_steps": 26, "block_size": 36}  # the 26th begins a new pass
    own |= {"learning_rate": 0.05 if optimizer == "adagrad" else 1e-3}
    experts = {"num_experts": 4, "gate": gate} | ({"top_k": 2} if gate == "random" else {})
    whole, cut = (work(name, model={"experts": experts}, **own) for name in ("whole", "cut"))
    expected = pretrain.run(whole)
    for step in (0.5, 3, 3.5, 13, 24.5, 25, 25.5):
        stop_at(cut, step)
        with pytest.raises(Interrupted):
            pretrain.run(cut)
    cut.should_stop = lambda: False
    assert pretrain.run(cut).scores == expected.scores
    assert weights(cut) == weights(whole)
    assert losses(cut) == losses(whole)


def test_the_memory_is_in_the_checkpoint(work):
    job = work()
    stop_at(job, 2)
    with pytest.raises(Interrupted):
        pretrain.run(job)
    memory = load_file(job.run_dir / "checkpoints/step-00000002/memory.safetensors")
    assert {name: tuple(tensor.shape[::2]) for name, tensor in memory.items()} == {"0": (4, 16), "1": (4, 16)}
    for name in ("run", "another"):  # what is in the file is what is gone on from
        path = job.run_dir / "checkpoints/step-00000002/memory.safetensors"
        if name == "another":
            path.write_bytes(path.read_bytes()[:-8] + bytes(8))
            assert Training(job).memory == ()
            training = Training(job)
            training.resume()
            assert training.counters.step == 0  # damaged, and there is no older one


def test_experts_of_a_random_gate_grow_in_training(work):
    job = work(max_steps=9, model={"experts": {"num_experts": 4, "gate": "random", "top_k": 2, "last_top_k": 4}})
    training = begun(job)
    (module,) = (module for module in training.model.modules() if isinstance(module, GatedExperts))
    frozen = {name: p.clone() for name, p in module.gate.named_parameters()}
    seen = []
    for _ in range(9):
        training._step()
        seen.append(module.gate.k)
    assert seen == [2, 2, 2, 2, 2, 3, 3, 3, 3]
    training._evaluate()
    assert module.gate.k == 4  # at the end, as whoever loads the model has it
    assert all(torch.equal(frozen[name], p) for name, p in module.gate.named_parameters())


def test_a_saved_model_has_its_last_k(work):
    job = work(model={"experts": {"num_experts": 4, "gate": "random", "top_k": 2, "last_top_k": 4}})
    pretrain.run(job)
    assert {m.gate.k for m in load_lm(job.model_dir).modules() if isinstance(m, GatedExperts)} == {4}


def test_bfloat16_learns_as_float32_does(work):
    ends = []
    for precision in ("float32", "bfloat16"):
        job = work(precision, precision=precision, max_steps=30, model={"dropout": 0})
        ends.append(pretrain.run(job).scores[0].value)
    assert ends[1] == pytest.approx(ends[0], rel=0.02)


def test_what_does_not_fit_is_refused(work):
    with pytest.raises(TinyTransformersError, match=r"text8.txt: has 1. different units, the model has room for 5"):
        Training(work(model={"vocab_size": 5}))
    with pytest.raises(TinyTransformersError, match="train.batch_size 3000"):
        Training(work(batch_size=3_000))


def test_rows_are_cut_into_as_many_pieces_as_are_asked_for_or_needed(work):
    def pieces(tokens, **train):
        return corpus.pieces(work(**train).config, tokens)

    assert pieces(160) == 1
    assert pieces(159) == 2
    assert pieces(160, batch_split=3) == 3
    assert pieces(1) == 4  # a row each
    assert pieces(100, batch_size=10) == 5  # two rows each: in four pieces, one had three


def test_a_changed_plan_is_noticed(work, monkeypatch):
    monkeypatch.setattr("tiny_transformers.settings.architecture.num_parameters", lambda _: 7)
    with pytest.raises(CheckFailed, match="expected 7, as planned"):
        Training(work())


def test_flops_are_of_the_keys_that_heads_look_at(work):
    job = work(model={"attn_span": 2_048, "adaptive_span": {"ramp": 8, "init": 0.02}})
    training = begun(job)
    training._step()
    model = job.config.model  # heads of at most 41 + 8 positions, computed as 64
    assert training.flops_per_token() == training_flops(model, labelled=1.0, length=64)
    assert training.flops_per_token() < training_flops(model, labelled=1.0, length=model.expected_keys)


def test_a_streams_trajectory_ends_in_its_validation_loss_and_its_anchors_survive_a_kill(work):
    settings = {"anchors": [0.3, 320], "model": {"experts": {"num_experts": 4, "gate": "random"}}}
    whole, cut = work("whole", **settings), work("cut", **settings)
    (validation,) = pretrain.run(whole).scores
    done = []
    cut.progress = lambda fraction, _: done.append(fraction)
    cut.should_stop = lambda: done[-1] >= 4.5 / 6
    with pytest.raises(Interrupted):
        pretrain.run(cut)
    cut.should_stop = lambda: False
    pretrain.run(cut)
    for name in ("0.3", "320"):
        files = [job.run_dir / "anchors" / name / "model.safetensors" for job in (whole, cut)]
        assert files[0].read_bytes() == files[1].read_bytes()
    outcome = trajectory.run(whole)
    assert [(score.task, score.metric, score.n) for score in outcome.scores] == [
        (name, "bpc", 200) for name in ("0.3", "320", "end")
    ]
    assert outcome.scores[-1].value == pytest.approx(validation.value / math.log(2), rel=1e-6)
    assert outcome.scores[0].value > outcome.scores[-1].value
    assert [outcome.metrics[f"{name}.tokens"] for name in ("0.3", "320", "end")] == [320, 320, 960]
    assert "0.3.stories" not in outcome.metrics
