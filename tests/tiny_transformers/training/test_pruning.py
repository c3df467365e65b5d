"""Weights that are pruned while a model is trained: the schedule, the masks, and what is left of a run."""

import functools

import pytest
import torch
from longer import ONE_FAMILY, longer
from pydantic import ValidationError
from safetensors.torch import load_file
from variants import EVERY, FAMILIES, small

from cluster.plan import cost, disk, naming
from tiny_transformers.common.work import CheckFailed, Interrupted, Work
from tiny_transformers.models import auto
from tiny_transformers.settings.config import RunConfig, Train
from tiny_transformers.settings.pruning import Pruning, matrices
from tiny_transformers.settings.stage.pretrain import PRETRAIN
from tiny_transformers.training import optimizers, pretrain, pruning
from tiny_transformers.training.pretrain import Training

STEPS = 12
PRUNING = {"sparsity": 0.8, "begin": 0.25, "end": 0.75, "every": 2}  # masks after 3, 5, 7 and 9 steps
SHARES = [0, 0, 0, 0, 0, 0.8 * 19 / 27, 0.8 * 19 / 27, 0.8 * 26 / 27, 0.8 * 26 / 27, 0.8, 0.8, 0.8, 0.8]


@pytest.fixture
def work(builtin_root, builtin_cache, tmp_path):
    """A function: settings -> the work of a run folder of that name."""

    def make(family="gpt_neo", name="run", variant="gelu", **train):
        sizes = {"vocab_size": 1_000, "max_position_embeddings": 34, "dropout": 0.1}
        run = RunConfig(
            model=small(family, variant, **sizes),
            train={"max_steps": STEPS, "stories_per_step": 4, "micro_batch_tokens": 80, "evaluations": 3,
                   "eval_stories": 4, "precision": "float32", "pruning": PRUNING} | train,
            data={"source": "builtin", "max_length": 32},
            evaluation={"superglue": {"max_length": 32}},
        )  # fmt: skip
        (tmp_path / name).mkdir(exist_ok=True)
        return Work(run, data_root=builtin_root, cache=builtin_cache, run_dir=tmp_path / name)

    return make


# --- the schedule


def test_the_share_of_zeros_is_the_papers_equation_between_masks_it_is_that_of_the_last():
    schedule = Pruning(sparsity=0.8, begin=0.1, end=0.9, every=100)
    shares = {100: 0, 300: 0.8 * (1 - 0.75**3), 500: 0.8 * (1 - 0.5**3), 700: 0.8 * (1 - 0.25**3), 900: 0.8}
    for step, share in shares.items():
        assert schedule.is_due(step, 1_000)
        assert schedule.share(step, 1_000) == pytest.approx(share)
        assert schedule.share(step + 99, 1_000) == pytest.approx(share)
    assert schedule.share(99, 1_000) == 0
    assert [step for step in range(1_001) if schedule.is_due(step, 1_000)] == list(range(100, 1_000, 100))
    assert [schedule.pruned(5, step, 1_000) for step in (99, 300, 500, 1_000)] == [0, 2, 4, 4]  # 0, 2.3, 3.5, 4


def test_the_last_mask_is_made_at_the_end_whatever_the_interval_is():
    assert [step for step in range(31) if Pruning(sparsity=0.5, every=8).is_due(step, 30)] == [3, 11, 19, 24]
    rare = Pruning(sparsity=0.5)  # as in a smoke run
    assert [step for step in range(31) if rare.is_due(step, 30)] == [3, 24]
    assert rare.share(30, 30) == 0.5
    assert [step for step in range(3) if Pruning(sparsity=0.5, begin=0.99, end=1.0).is_due(step, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"train": {"pruning": {"sparsity": 1.0}}}, "less than 1"),
        ({"train": {"pruning": {"sparsity": 0.5, "begin": 0.8, "end": 0.8}}}, "0.8 is not before pruning.end 0.8"),
        ({"train": {"pruning": {"sparsity": 0.5}, "budget": {"hours": 1}}}, "cannot be combined with a budget"),
        ({"model": {"ffn": {"kind": "kan"}}}, "dense feed-forward modules, not of kan"),
        ({"model": {"ffn": {"kind": "moe"}}}, "not of moe"),
        ({"model": {"family": "brainformer"}, "data": {"corpus": "text8"}}, "not of brainformer"),
    ],
)
def test_what_cannot_be_pruned_is_refused(settings, complaint):
    model = {"family": "gpt_neo"} | settings.pop("model", {})
    with pytest.raises(ValidationError, match=complaint):
        RunConfig.model_validate({"model": model, "train": {"pruning": {"sparsity": 0.5}}} | settings)


def test_a_run_without_pruning_says_nothing_of_it():
    pruned = RunConfig.model_validate({"model": {"family": "gpt_neo"}, "train": {"pruning": {"sparsity": 0.8}}})
    assert naming.name("gpt", pruned) == "gpt-gelu-9.59M-2L-4H-512C-1024I-pruned80-s42"
    assert "pruning" not in Train().model_dump()
    assert Train(pruning={"sparsity": 0.5}) == Train.model_validate_json(
        Train(pruning={"sparsity": 0.5}).model_dump_json()
    )


# --- masks


def test_the_smallest_are_left_out_of_equal_ones_the_first_and_none_comes_back():
    weight = torch.tensor([[1.0, -1.0, 1.0], [0.5, -0.5, 2.0]])
    mask = pruning.smallest_left_out(weight, None, 3)
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1]]
    later = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 2.0]])  # at 1 a zero that no mask has made
    assert pruning.smallest_left_out(later, mask, 3).tolist() == mask.tolist()
    assert pruning.smallest_left_out(later, mask, 4).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert pruning.smallest_left_out(weight, None, 0).tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_those_of_the_linear_layers_in_blocks(family):
    for variant in [variant for variant, of in EVERY if of == family]:
        model = small(family, variant)
        if model.ffn.kind == "dense":
            with torch.device("meta"):
                built = auto._CLASSES[family](auto.hf_config(model))
            found = [weight.numel() for weight in pruning.linear_weights(built)]
            assert sorted(found) == sorted(matrices(model)), variant
            assert len(set(pruning.linear_weights(built))) == len(found)


@pytest.mark.parametrize(
    ("family", "variant", "train"),
    [
        ("gpt_neo", "gelu", {}),
        longer("roberta", "shared_ff", {"weight_decay": 0.1}),
        ("gpt_neo", "scaled", {"precision": "bfloat16", "compile": True}),
        longer("roberta", "gelu", {"optimizer": "adagrad", "clipping": "per_tensor"}),
    ],
)
def test_after_each_step_so_many_are_0_as_planned_and_stay_it(work, monkeypatch, family, variant, train):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    training = Training(work(family, variant=variant, **train))
    weights = list(pruning.linear_weights(training.model))
    gone = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
    before = [weight.detach().clone() for weight in weights]
    for step in range(1, STEPS + 1):
        training._step()
        for number, weight in enumerate(weights):
            zero = weight == 0
            assert int(zero.sum()) == int(SHARES[step] * weight.numel() + 0.5)
            assert bool(zero[gone[number]].all())
            if SHARES[step] > SHARES[step - 1]:  # those that went were the smallest, but for what this step did
                new, kept = zero & ~gone[number], ~zero
                assert before[number][new].abs().mean() < before[number][kept].abs().mean()
            gone[number], before[number] = zero, weight.detach().clone()
    others = [name for name, parameter in training.model.named_parameters() if parameter.ndim > 1
              and not any(parameter is weight for weight in weights)]  # fmt: skip
    assert others
    assert all(bool((training.model.get_parameter(name) != 0).all()) for name in others if "position" not in name)


def test_the_gradient_of_what_is_masked_is_0_before_it_is_clipped(work):
    training = Training(work())
    for _ in range(7):
        training._step()
    training._backward(training.corpus.step(7).batches)
    for weight in pruning.linear_weights(training.model):
        assert bool(weight.grad[weight == 0].any())
    training.pruner.before_update(training.optimizer)
    kept = torch.cat([parameter.grad[parameter != 0] if parameter.ndim > 1 else parameter.grad.flatten()
                      for parameter in training.model.parameters()])  # fmt: skip
    torch.testing.assert_close(optimizers.clip(training.model, training.settings), kept.norm())
    for weight in pruning.linear_weights(training.model):
        assert not bool(weight.grad[weight == 0].any())


# --- a run


@pytest.mark.parametrize("family", ONE_FAMILY)
def test_a_pruned_run_that_is_stopped_again_and_again_ends_in_the_same_bits(work, family):
    whole, pieces = work(family, "whole"), work(family, "pieces")
    outcome = pretrain.run(whole)
    for stop in (4.5, 7.5, 9.5):
        done = []
        pieces.progress = lambda fraction, _, done=done: done.append(fraction * STEPS)
        pieces.should_stop = lambda done=done, stop=stop: bool(done) and done[-1] >= stop - 1e-9
        with pytest.raises(Interrupted):
            pretrain.run(pieces)
    pieces.should_stop = lambda: False
    again = pretrain.run(pieces)
    saved = [(each.model_dir / "model.safetensors").read_bytes() for each in (whole, pieces)]
    assert saved[0] == saved[1]
    assert again.scores == outcome.scores


def test_what_was_pruned_is_told_and_saved(work):
    run = work()
    outcome = pretrain.run(run)
    planned = sum(int(0.8 * size + 0.5) for size in matrices(run.config.model))
    weights = sum(matrices(run.config.model))
    assert {score.task: score.n for score in outcome.scores}["weights"] == weights
    score = next(score for score in outcome.scores if score.metric == "sparsity")
    assert score.value == pytest.approx(planned / weights)
    assert PRETRAIN.measure_of(score.task, score.metric).show(score.value) == "80.0"
    assert outcome.metrics["nonzero_parameters"] <= outcome.metrics["parameters"] - planned
    assert outcome.metrics["sparsity@beginning"] == 0
    assert outcome.metrics["sparsity@end"] == score.value
    checks = {check.name: check for check in outcome.checks}
    assert checks["sparsity"].passed
    assert checks["sparsity"].value == pytest.approx(score.value)
    saved = load_file(run.model_dir / "model.safetensors")
    assert sum(int((tensor == 0).sum()) for tensor in saved.values()) >= planned


@pytest.mark.parametrize(
    ("module", "name", "wrong", "check"),
    [
        (pruning, "smallest_left_out", lambda weight, *_: torch.ones_like(weight), "schedule"),
        (pruning.Pruner, "used", lambda self, _: self.planned(self.config.train.max_steps), "schedule"),
    ],
)
def test_a_model_that_is_not_pruned_as_planned_fails(work, monkeypatch, module, name, wrong, check):
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(CheckFailed, match=f"^{check} is"):
        pretrain.run(work())


def test_a_model_that_was_saved_with_less_zeros_fails(work, monkeypatch):
    """The last update is not masked, and until the end nobody has looked."""
    update = pruning.Pruner.after_update

    def forgets(self, optimizer, step):
        if step < STEPS:
            update(self, optimizer, step)

    monkeypatch.setattr(pruning.Pruner, "after_update", forgets)
    for nothing in ("used", "planned"):
        monkeypatch.setattr(pruning.Pruner, nothing, lambda *_: {})
    with pytest.raises(CheckFailed, match="^sparsity is 0.[0-7]"):
        pretrain.run(work())


def test_masks_are_planned_for_on_disk_and_in_memory(work):
    pruned = work().config
    plain = pruned.model_copy(update={"train": pruned.train.model_copy(update={"pruning": None})})
    masks = 4 * sum(matrices(pruned.model))
    assert disk.of_run(pruned, ["pretrain"]).at_work - disk.of_run(plain, ["pretrain"]).at_work == 3 * masks
    large, larger = (
        RunConfig.model_validate({"model": {"family": "gpt_neo"}, "train": train})
        for train in ({}, {"pruning": {"sparsity": 0.5}})
    )
    assert cost.memory(larger) - cost.memory(large) == pytest.approx(4 * sum(matrices(large.model)) / 1e6, abs=1)
