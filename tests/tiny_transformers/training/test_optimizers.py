import copy

import pytest
import torch
from torch import nn

from tiny_transformers.settings.config import Train
from tiny_transformers.training import optimizers


def trained(model, optimizer, steps=5, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        (scale * model(torch.randn(4, 3, generator=generator)).square().sum()).backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def test_adagrad_without_clipping_is_torchs():
    model = nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    ours = trained(model, optimizers.Adagrad(model.parameters(), lr=0.1))
    theirs = trained(twin, torch.optim.Adagrad(twin.parameters(), lr=0.1))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_adagrad_shortens_the_step_of_a_large_gradient_and_not_the_sum_of_squares():
    large, small = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    large.grad, small.grad = torch.full((4,), 3.0), torch.full((4,), 0.01)  # norms 6 and 0.02
    optimizer = optimizers.Adagrad([large, small], lr=0.1, max_norm=0.03)
    optimizer.step()
    # The first step of Adagrad is lr in every direction, whatever the gradient is.
    torch.testing.assert_close(large.detach(), torch.full((4,), -0.1 * 0.03 / 6))
    torch.testing.assert_close(small.detach(), torch.full((4,), -0.1))
    torch.testing.assert_close(optimizer.state[large]["sum"], torch.full((4,), 9.0))


def test_a_frozen_parameter_is_left_out():
    model = nn.Linear(3, 2)
    model.bias.requires_grad = False
    before = model.bias.clone()
    for name in ("adagrad", "adamw"):
        settings = Train(optimizer=name, clipping="per_tensor", max_grad_norm=0.03)
        optimizer = optimizers.build(model, settings)
        model(torch.ones(1, 3)).sum().backward()
        assert optimizers.clip(model, settings) > 0
        optimizer.step()
        assert torch.equal(model.bias, before)


def test_adamw_clips_each_tensor_by_its_own_norm_or_all_by_one():
    model = nn.Linear(2, 1)
    for clipping, expected in (("per_tensor", [1.0, 0.5]), ("global", [3 / 3.0414, 0.5 / 3.0414])):
        model.weight.grad, model.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([0.5])
        norm = optimizers.clip(model, Train(clipping=clipping, max_grad_norm=1.0))
        assert norm == pytest.approx(3.0414, rel=1e-4)
        assert [p.grad.norm().item() for p in model.parameters()] == pytest.approx(expected, rel=1e-4)


def test_learning_rates():
    def rates(warmup_steps=0, **settings):
        train, warmed = Train(learning_rate=1.0, warmup_steps=warmup_steps, **settings), warmup_steps / 4
        return [optimizers.learning_rate(train, step=step, done=step / 4, warmed=warmed) for step in range(4)]

    assert rates() == [1, 0.75, 0.5, 0.25]
    assert rates(warmup_steps=2) == [0, 0.5, 1, 0.5]
    assert rates(warmup_steps=2, lr_scheduler_type="constant") == [0, 0.5, 1, 1]
    assert rates(warmup_steps=4) == [0, 0.25, 0.5, 0.75]
