import math

import pytest
import torch

from tiny_transformers.layers.noise import bits, gumbel, set_seed


def test_a_seed_is_torchs_and_keeps_no_stack_for_devices_that_are_not_there():
    for seed in (0, 2**64 - 1):
        torch.manual_seed(seed)
        expected = torch.rand(3)
        queued = len(torch.cuda._queued_calls)
        set_seed(seed)
        assert torch.equal(torch.rand(3), expected)
        assert len(torch.cuda._queued_calls) == queued


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (64, 1_000)])
def test_bits_have_the_shape_and_every_bit_is_as_likely(dtype, shape):
    torch.manual_seed(0)
    drawn = bits(shape, dtype)
    assert (drawn.shape, drawn.dtype) == (torch.Size(shape), dtype)
    if drawn.numel() > 1_000:
        for bit in range(torch.iinfo(dtype).bits):
            assert ((drawn >> bit) & 1).float().mean().item() == pytest.approx(0.5, abs=0.01)
        assert len(drawn.unique()) > 30_000


def test_gumbel_noise_has_its_mean_variance_and_tails_and_is_finite():
    torch.manual_seed(0)
    noise = gumbel(torch.empty(1_000, 500))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)
    for level in (-1.0, 0.0, 3.0, 8.0):
        below = math.exp(-math.exp(-level))
        assert (noise <= level).float().mean().item() == pytest.approx(below, abs=4e-3)


def test_gumbel_noise_is_finite_at_the_ends_of_its_range(monkeypatch):
    for end in (torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max):
        monkeypatch.setattr(
            "tiny_transformers.layers.noise.bits", lambda shape, dtype, end=end: torch.full(shape, end, dtype=dtype)
        )
        assert gumbel(torch.empty(3)).isfinite().all()
