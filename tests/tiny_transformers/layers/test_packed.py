"""Texts in rows without padding: a step is the padded one, but for rounding."""

import kernels
import numpy as np
import pytest
import torch
from variants import DECODERS, small

from tiny_transformers.data.batches import Example, micro_batches, packed_batches
from tiny_transformers.layers import noise, packed
from tiny_transformers.models import auto
from tiny_transformers.training.losses import token_losses

LENGTHS = (3, 17, 1, 8, 20, 9, 9, 24)  # tokens; windows have 4
TOKENS = 48
ROUNDING = 1e-6


@pytest.fixture
def kernel(monkeypatch):
    """A GPU's, in plain products."""
    monkeypatch.setattr(packed, "has_kernel", lambda _: True)
    monkeypatch.setattr(packed, "varlen_attn", kernels.varlen_attn)


def examples(lengths=LENGTHS):
    random = np.random.default_rng(1)
    texts = [random.integers(4, 60, length + 1) for length in lengths]
    return [Example(text[:-1], text[1:]) for text in texts]


def step(settings, batches):
    """The loss, and all gradients as one vector, of a training step of an untrained model."""
    model = auto.build(settings, seed=1).train()
    noise.set_seed(2)
    total, labels = 0.0, sum(len(batch.labels) for batch in batches)
    for batch in batches:
        loss = token_losses(model, batch)[0] + len(batch.labels) * model.auxiliary_loss()
        loss.backward()
        total += loss.detach()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return total / labels, torch.cat(gradients) / labels


def assert_equal(one, other):
    for ours, theirs in zip(one, other, strict=True):
        assert (ours - theirs).norm() <= ROUNDING * theirs.norm()


@pytest.mark.parametrize(("variant", "family"), DECODERS)
def test_a_step_is_the_padded_one_with_every_kind_of_layer(variant, family):
    """With the same texts in a micro-batch, which a balanced load goes by."""
    settings = small(family, variant)
    padded = list(micro_batches(examples(), TOKENS, causal=True, multiple=16, longest=24))
    rows = list(packed_batches(examples(), TOKENS, as_padded=True, multiple=16, longest=24))
    assert len(rows) == len(padded) > 1
    assert any(batch.real is not None for batch in padded)
    assert_equal(step(settings, rows), step(settings, padded))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("variant", "family"),
    [("gelu", "gpt_neo"), ("v", "gpt_neo"), ("qk", "gpt_neo"), ("kv_groups", "gpt_neo"), ("gelu", "llama"),
     ("v", "llama"), ("one_kv_head", "llama")],
)  # fmt: skip
def test_a_kernel_is_told_windows_scales_and_widths(variant, family):
    settings, rows = small(family, variant), list(packed_batches(examples(), 10_000, as_padded=False))
    assert len(rows) == 1
    assert_equal(step(settings, rows), step(settings, list(micro_batches(examples(), 10_000, causal=True))))


def test_rows_have_each_text_once_and_no_more_tokens_than_are_asked_for():
    rows = list(packed_batches(examples(), TOKENS, as_padded=False))
    assert all(row.input_ids.shape[1] <= TOKENS for row in rows)
    assert len(rows) < len(list(micro_batches(examples(), TOKENS, causal=True, multiple=16)))
    found = [
        (text.tolist(), labels.tolist())
        for row in rows
        for text, labels in zip(
            row.input_ids[0].split(row.texts.starts.diff().tolist()),
            row.labels.split(row.texts.starts.diff().tolist()),
            strict=True,
        )
    ]
    expected = [(example.inputs.tolist(), example.targets.tolist()) for example in examples()]
    assert sorted(found) == sorted(expected)
    for row in rows:
        lengths = row.texts.starts.diff().tolist()
        assert row.texts.places.tolist() == [place for length in lengths for place in range(length)]
        assert row.texts.longest == max(lengths)


def test_a_text_that_is_longer_than_a_row_has_one_of_its_own():
    assert [row.input_ids.shape[1] for row in packed_batches(examples((9, 30, 4)), 20, as_padded=False)] == [30, 13]
