"""What the device is, and what it could do at most. GPUs are what these tests say that torch sees."""

import pytest
import torch

from tiny_transformers.training import device

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("Tesla V100S-PCIE-32GB", "float32", 15.7e12),
        ("Tesla V100S-PCIE-32GB", "bfloat16", None),
        ("NVIDIA H100 PCIe", "tf32", 378e12),
        ("NVIDIA H100 80GB HBM3", "tf32", 494e12),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "bfloat16", None),
        ("NVIDIA GeForce RTX 3090", "bfloat16", None),
    ],
)
def test_the_peak_of_a_gpu_is_its_makers_and_none_where_it_is_not_known(monkeypatch, name, precision, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert device.peak_flops(GPU, precision) == peak


def test_the_peak_of_a_cpu_is_measured():
    assert 1e6 < device._measured_flops(64, torch.float32, torch.get_num_threads()) < 1e15


@pytest.mark.parametrize(("capability", "known"), [((7, 0), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_is_of_nvidias_gpus_from_ampere_on(monkeypatch, capability, known):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert device.has_tensor_cores(GPU) == known
    assert not device.has_tensor_cores(torch.device("cpu"))
    monkeypatch.setattr(torch.version, "cuda", None)  # an AMD GPU, which torch calls cuda, too
    assert not device.has_tensor_cores(GPU)
