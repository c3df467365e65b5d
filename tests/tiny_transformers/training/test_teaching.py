"""Distillation: its loss and gradient beside torch's own, and trainings with a teacher."""

import dataclasses
import hashlib
import json
import math

import pytest
import torch
from longer import ONE_FAMILY
from torch.nn import functional as F
from trainings import FAMILIES, curve, stop_at, weights

from tiny_transformers.common.work import Interrupted, TinyTransformersError
from tiny_transformers.layers import head
from tiny_transformers.layers.distillation import distilled
from tiny_transformers.layers.head import Head
from tiny_transformers.models import auto
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.teaching import Teaching
from tiny_transformers.training import pretrain
from tiny_transformers.training.pretrain import Training

LABELS = torch.tensor([0, 4, 4, 10, 2, 7, 1])


def plain(student, teacher, labels, alpha, temperature):
    """Hinton, Vinyals & Dean 2015, section 2.1, summed over the labels."""
    z, v = (F.linear(*each) for each in (student, teacher))
    nats, divergence = F.cross_entropy(z, labels, reduction="sum"), 0.0
    for of_student, of_teacher in zip((z / temperature).softmax(-1), (v / temperature).softmax(-1), strict=True):
        divergence = divergence + sum(p * (p / q).log() for p, q in zip(of_teacher, of_student, strict=True))
    return alpha * nats + (1 - alpha) * temperature**2 * divergence, torch.stack([nats, divergence])


def heads(with_bias, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shapes = [(7, 6), (11, 6), (11,)], [(7, 4), (11, 4), (11,)]
    student, teacher = ([torch.randn(shape, generator=generator).to(dtype) for shape in of] for of in shapes)
    student = [tensor.requires_grad_() for tensor in student]
    return (Head(*each[:2], each[2] if with_bias else None) for each in (student, teacher))


@pytest.mark.parametrize("rows", [1, 12, 100])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 2.0), (0.0, 1.0), (0.3, 4.5)])
def test_the_loss_and_its_gradients_are_those_of_a_few_lines(monkeypatch, rows, with_bias, alpha, temperature):
    monkeypatch.setitem(head.HEAD_ROWS, "cpu", rows)
    student, teacher = heads(with_bias)
    ours, parts = distilled(student, teacher, LABELS, Teaching(alpha=alpha, temperature=temperature))
    expected, expected_parts = plain(student, teacher, LABELS, alpha, temperature)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts, expected_parts.detach(), rtol=1e-5, atol=1e-5)
    inputs = [tensor for tensor in student if tensor is not None]
    found, wanted = (torch.autograd.grad(0.25 * loss, inputs) for loss in (ours, expected))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_gradients_under_autocast_are_of_the_parameters_kind():
    student, teacher = heads(with_bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = distilled(student, teacher, LABELS, Teaching())
    expected, _ = plain(student, teacher, LABELS, 0.5, 2.0)
    assert ours.item() == pytest.approx(expected.item(), rel=2e-2)
    for a, b in zip(*(torch.autograd.grad(loss, list(student)) for loss in (ours, expected)), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.03 * b.norm()


@pytest.fixture
def taught(work):
    """A function: settings -> the work of a student, whose teacher is a wider model that was trained before."""

    def make(family="gpt_neo", name="student", alpha=0.5, temperature=2.0, **train):
        teacher = work(family, "teacher", model={"hidden_size": 48}, seed=7, learning_rate=1e-2, max_steps=12)
        if not teacher.model_dir.exists():
            pretrain.run(teacher)
        student = work(family, name, **train)
        settings = {"name": "wide", "model": teacher.config.model, "train": teacher.config.train, "seed": 7}
        settings |= {"alpha": alpha, "temperature": temperature}
        config = RunConfig.model_validate({**dict(student.config), "teacher": settings})
        return dataclasses.replace(student, config=config, teacher_dir=teacher.model_dir)

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_learns_from_what_the_teacher_says_where_there_is_a_label(taught, family):
    """The first step's loss and divergence, as transformers' own forward passes have them."""
    job = taught(family, model={"dropout": 0.0} if family == "gpt_neo" else {}, max_steps=1, evaluations=1)
    assert job.config.taught_by.model.hidden_size == 48
    training = Training(job)
    training.model.eval()  # without dropout, by which nothing could be compared
    training.model.train = lambda *_: None
    made = training.corpus.step(0).batches
    total, memory = training._backward(made)
    teacher = auto.load_lm(job.teacher_dir)
    nats = divergence = 0.0
    student = auto.build(job.config.model, job.config.seed).eval()
    for batch in made:
        z, v = (
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)[batch.positions]
            for model in (student, teacher)
        )
        nats += F.cross_entropy(z, batch.labels, reduction="sum").item()
        divergence += F.kl_div((z / 2).log_softmax(-1), (v / 2).softmax(-1), reduction="sum").item()
    assert total.tolist() == pytest.approx([nats, divergence], rel=1e-5)
    assert memory == []
    assert divergence > 0


@pytest.mark.parametrize("family", ONE_FAMILY)
def test_a_student_comes_nearer_to_its_teacher_than_who_learns_from_labels_alone(taught, work, family):
    settings = {"max_steps": 30, "stories_per_step": 16, "learning_rate": 1e-2}
    jobs = taught(family, alpha=0.1, **settings), work(family, "alone", **settings)
    before = weights(dataclasses.replace(jobs[0], run_dir=jobs[0].teacher_dir.parent))
    outcomes = [pretrain.run(job) for job in jobs]
    lines = [record for record in curve(jobs[0]) if "loss" in record]
    assert lines[-1]["divergence"] < 0.5 * lines[0]["divergence"]
    assert not [record for record in curve(jobs[1]) if "divergence" in record]
    batch = Training(jobs[0]).corpus.sample()
    teacher, student, alone = (auto.load_lm(folder) for folder in
                               (jobs[0].teacher_dir, jobs[0].model_dir, jobs[1].model_dir))  # fmt: skip
    logs = [pretrain._logits(model, batch).flatten(0, 1)[batch.positions].log_softmax(-1)
            for model in (teacher, student, alone)]  # fmt: skip
    distances = [F.kl_div(log, logs[0], log_target=True, reduction="sum").item() for log in logs[1:]]
    assert distances[0] < distances[1]
    name = "teacher/model/model.safetensors"
    assert outcomes[0].data[name] == hashlib.sha256(before).hexdigest()
    assert name not in outcomes[1].data
    assert weights(dataclasses.replace(jobs[0], run_dir=jobs[0].teacher_dir.parent)) == before


@pytest.mark.parametrize("family", ONE_FAMILY)
def test_how_a_step_is_cut_changes_nothing_of_what_is_learned_from_a_teacher(taught, family):
    totals = []
    for tokens in (64, 10_000):
        training = Training(taught(family, f"cut{tokens}", micro_batch_tokens=tokens, max_steps=1, evaluations=1))
        training.model.eval()
        training.model.train = lambda *_: None
        made = training.corpus.step(0).batches
        assert (len(made) > 1) == (tokens == 64)
        total, _ = training._backward(made)
        gradients = torch.cat([parameter.grad.flatten() for parameter in training.model.parameters()])
        totals.append((total, gradients))
    for cut, whole in zip(*totals, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ONE_FAMILY)
def test_with_alpha_1_there_is_no_teacher_and_training_is_plain_bit_for_bit(taught, work, family):
    student, alone = taught(family, alpha=1.0), work(family, "alone")
    student.teacher_dir = None
    assert student.config == alone.config
    for job in (student, alone):
        pretrain.run(job)
    assert weights(student) == weights(alone)
    assert curve(student) == curve(alone)


@pytest.mark.parametrize("family", ONE_FAMILY)
def test_an_interrupted_student_ends_in_the_same_bits(taught, family):
    whole, stopped = taught(family, "whole"), taught(family, "stopped")
    pretrain.run(whole)
    stop_at(stopped, 2.5)
    with pytest.raises(Interrupted):
        pretrain.run(stopped)
    stopped.should_stop = lambda: False
    pretrain.run(stopped)
    assert weights(stopped) == weights(whole)
    assert curve(stopped) == curve(whole)


def test_a_student_does_not_go_on_with_another_teacher(taught):
    job = taught()
    stop_at(job, 2)
    with pytest.raises(Interrupted):
        pretrain.run(job)
    job.should_stop = lambda: False
    model = auto.load_lm(job.teacher_dir)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    model.save_pretrained(job.teacher_dir)
    with pytest.raises(TinyTransformersError, match="written with other settings or other data"):
        pretrain.run(job)


def test_a_student_without_its_teachers_model_says_how_to_bring_it_back(taught):
    job = taught()
    job.teacher_dir = job.teacher_dir.with_name("gone")
    with pytest.raises(TinyTransformersError, match="teacher's model is not there.*--stage pretrain --run teacher"):
        pretrain.run(job)


def test_a_probe_learns_from_an_untrained_teacher(taught):
    job = taught(max_steps=1, evaluations=1)
    job.teacher_dir, job.config = None, job.config.model_copy(update={"probe": True})
    assert "divergence" in next(iter(curve(job) if pretrain.run(job) else []))


@pytest.mark.parametrize(
    ("teacher", "said"),
    [({"family": "roberta"}, "it is an encoder"), ({"family": "gpt_neo", "vocab_size": 30}, "vocab_size is 30"),
     ({"family": "brainformer"}, "no teacher")],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused(work, teacher, said):
    settings = {"name": "other", "model": teacher, "train": {}, "seed": 1}
    with pytest.raises(ValueError, match=f"train.teacher other: .*{said}"):
        RunConfig.model_validate({**dict(work().config), "teacher": settings})


def test_the_loss_of_a_student_that_diverges_is_told(taught):
    job = taught()
    training = Training(job)
    with torch.no_grad():
        next(training.teacher.model.parameters()).fill_(math.inf)
    with pytest.raises(TinyTransformersError, match="diverged"):
        training.train()
    training.feed.close()
    assert json.dumps(job.config.model_dump(mode="json"))
