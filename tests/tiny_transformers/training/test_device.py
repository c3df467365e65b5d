"""What the device is, and what it could do at most. GPUs are what these tests say that torch sees."""

import importlib

import pytest
import torch

from tiny_transformers.common.work import NoGPU, Work
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES
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


OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by a newer one."


@pytest.mark.parametrize(
    ("wheel", "driver", "said", "told"),
    [
        (
            None,
            0,
            "Torch not compiled with CUDA enabled",
            "has no CUDA, and the driver is not found. Install a build of it that has",
        ),
        (
            "13.0",
            12040,
            OLD,
            "13.0, and the driver knows CUDA 12.4. Install its build for CUDA 12.4",
        ),
        ("12.8", 12080, "CUDA unknown error - this may be due to", "If it starts on other nodes, n7 is broken"),
        ("12.10", 12090, "driver too old", "build for CUDA 12.9 or an older one"),
    ],
)
def test_where_there_is_to_be_a_gpu_none_is_an_error_with_its_cause_and_remedy(monkeypatch, wheel, driver, said, told):
    def fail():
        raise RuntimeError(said)

    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(torch.version, "cuda", wheel)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: driver, raising=False)
    assert device.pick_device() == torch.device("cpu")
    with pytest.raises(NoGPU) as raised:
        device.pick_device(has_gpu=True)
    assert f"on n7, and CUDA does not start: {said.partition('. ')[0]}. torch" in str(raised.value)
    assert told in str(raised.value)
    assert device.look()["wrong"] == str(raised.value)


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "add_tokenizer"])
def test_no_stage_goes_on_without_the_gpu_that_it_is_to_have(monkeypatch, tmp_path, stage):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    work = Work(RunConfig(model=GPTNeo()), tmp_path, tmp_path, tmp_path / "run", has_gpu=True)
    with pytest.raises(NoGPU, match="CUDA does not start"):  # before it looks for data or a model: there is none
        importlib.import_module(STAGES[stage].runner).run(work)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("capability", "lacks"), [((7, 0), True), ((8, 0), False)])
def test_a_gpu_before_ampere_is_told_what_it_lacks(monkeypatch, capability, lacks):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100S-PCIE-32GB")
    told = "Tesla V100S-PCIE-32GB (compute capability 7.0, before Ampere) has no bfloat16 and no TF32"
    assert device.what_it_lacks(GPU) == (told if lacks else None)
    assert device.what_it_lacks(torch.device("cpu")) is None
