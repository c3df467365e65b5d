"""The head's loss and its hand-made gradient, dropout and attention, each beside torch's own."""

import math

import pytest
import torch
from torch.nn import functional as F

from tiny_transformers.layers import dropout as module
from tiny_transformers.layers import head
from tiny_transformers.layers.attention import attend
from tiny_transformers.layers.dropout import Dropout, dropout


def leaves(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("with_bias", [True, False])
def test_cross_entropy_and_its_gradients_are_those_of_torch(monkeypatch, rows, with_bias):
    monkeypatch.setitem(head.HEAD_ROWS, "cpu", rows)
    labels = torch.tensor([0, 4, 4, 10, 2, 7, 1])
    inputs = leaves((7, 6), (11, 6), *([(11,)] if with_bias else []))
    bias = inputs[2] if with_bias else None
    ours = head.cross_entropy(inputs[0], inputs[1], bias, labels)
    plain = F.cross_entropy(F.linear(inputs[0], inputs[1], bias), labels, reduction="sum")
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    found, expected = (torch.autograd.grad(0.25 * loss, inputs) for loss in (ours, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(head.cross_entropy(inputs[0], inputs[1], bias, labels), plain, rtol=1e-6, atol=1e-6)


def test_cross_entropy_under_autocast_has_gradients_of_the_parameters_kind():
    features, weight = leaves((50, 16), (30, 16))
    labels = torch.arange(50) % 30
    with torch.autocast("cpu", torch.bfloat16):
        ours = head.cross_entropy(features, weight, None, labels)
    plain = F.cross_entropy(F.linear(features, weight), labels, reduction="sum")
    assert ours.item() == pytest.approx(plain.item(), rel=5e-3)
    found, expected = (torch.autograd.grad(loss, (features, weight)) for loss in (ours, plain))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.02 * b.norm()


def test_a_label_that_is_all_but_impossible_has_a_finite_loss():
    features, weight = torch.tensor([[1000.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    loss = head.cross_entropy(features, weight, None, torch.tensor([1]))
    assert loss.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_scales_the_rest_and_passes_the_gradient_where_it_kept(dtype):
    torch.manual_seed(0)
    x = torch.ones(300, 333, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.1)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(0.9, abs=0.005)
    assert y[kept].unique().float().tolist() == pytest.approx([1 / 0.9], rel=5e-3)
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert kept.float().mean(0).min() > 0.75  # no column, and no element of a word, is dropped more than others
    assert kept.flatten()[: 4 * 24_000].view(-1, 4).float().mean(0).tolist() == pytest.approx([0.9] * 4, abs=0.01)


def test_dropout_is_of_the_random_state_and_of_training_only():
    x = torch.ones(5, 7)
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(dropout(x, 0.5), first)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(dropout(x, 0.0), x)
    assert dropout(x, 1.0).abs().max() == 0
    assert module._kept(torch.empty(0), 100).shape == (0,)


def visible(kind):
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    padded = torch.arange(9) < torch.tensor([9, 5])[:, None]  # (2, 9) keys
    bools = {
        "none": None,
        "window": causal.triu(-3),
        "padding": padded[:, None, None],
        "both": causal & padded[:, None],
    }
    mask = bools["both"][:, None] if kind in ("both", "added") else bools[kind]
    if kind == "added":
        return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    return mask


@pytest.mark.parametrize("kind", ["none", "window", "padding", "both", "added"])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_in_training_is_torchs(kind, causal):
    mask = visible(kind)
    inputs = leaves((2, 4, 9, 8), (2, 4, 9, 8), (2, 4, 9, 6))
    ours = attend(*inputs, mask, causal=causal, scale=0.7)
    torchs = F.scaled_dot_product_attention(*inputs, attn_mask=mask, is_causal=causal and mask is None, scale=0.7)
    torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(attend(*inputs, mask, causal=causal, scale=0.7), torchs, rtol=1e-5, atol=1e-6)
    found, expected = (torch.autograd.grad(y.square().sum(), inputs) for y in (ours, torchs))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_attention_drops_weights_not_values():
    torch.manual_seed(0)
    query, key, value = leaves((1, 1, 400, 4), (1, 1, 400, 4), (1, 1, 400, 3))
    outputs = [attend(query, key, value.detach(), None, causal=False, scale=0.0, drop=0.5) for _ in range(2)]
    mean = value.mean(2, keepdim=True)
    assert (outputs[0] - outputs[1]).abs().max() > 0
    torch.testing.assert_close(outputs[0].mean(2, keepdim=True), mean, rtol=0.1, atol=0.01)


def test_a_mask_in_float32_hides_in_bfloat16_without_infinities():
    added = torch.full((1, 1, 3, 3), torch.finfo(torch.float32).min)  # nothing visible, as left padding's queries
    inputs = leaves((1, 1, 3, 4), (1, 1, 3, 4), (1, 1, 3, 4), dtype=torch.bfloat16)
    output = attend(*inputs, added, causal=False, scale=1.0)
    torch.testing.assert_close(output[0, 0, 0], inputs[2][0, 0].mean(0), rtol=0.05, atol=0.05)
