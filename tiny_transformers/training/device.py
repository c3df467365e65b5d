"""The device that a stage computes on: one GPU if there is one, else the CPU.

`python -m tiny_transformers.training.device FILE` writes what a node has, for `tiny-transformers doctor --job`."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from tiny_transformers.common.files import whole_file
from tiny_transformers.common.provenance import environment
from tiny_transformers.common.work import NoGPU


def pick_device(has_gpu: bool = False) -> torch.device:
    """Raises NoGPU, with the reason and what to do, where the work `has_gpu` and CUDA does not start."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if has_gpu:
        raise NoGPU(_why_none())
    return torch.device("cpu")


def _why_none() -> str:
    try:
        torch.cuda.init()
        said = "torch sees no GPU"
    except (RuntimeError, AssertionError) as error:  # the latter where it is built without CUDA
        said = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    node, driver, wheel = environment()["node"], _driver(), torch.version.cuda
    if wheel is None:
        advice = "Install a build of it that has CUDA (docs/tutorials/delftblue.md)"
    elif driver and _numbers(driver) < _numbers(wheel):
        advice = f"Install its build for CUDA {driver} or an older one (docs/tutorials/delftblue.md)"
    else:
        advice = f"If it starts on other nodes, {node} is broken: leave it out by sbatch: {{exclude: {node}}}"
    return (
        f"there is to be a GPU on {node}, and CUDA does not start: {said}. {_told_versions(wheel, driver)}. {advice}; "
        "`tiny-transformers doctor --job` looks again. To compute on CPUs, say gpus: 0 in the site's profile; without "
        "SLURM, set CUDA_VISIBLE_DEVICES to nothing."
    )


def _told_versions(wheel: str | None, driver: str | None) -> str:
    made = f"is made for CUDA {wheel}" if wheel else "has no CUDA"
    return f"torch {torch.__version__} {made}, and the driver {f'knows CUDA {driver}' if driver else 'is not found'}"


def _driver() -> str | None:
    """Return the newest CUDA that the node's driver knows."""
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)  # not there where torch has no CUDA
    version = ask() if ask else 0
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def what_it_lacks(device: torch.device) -> str | None:
    """Say what an NVIDIA GPU before Ampere lacks; None for any other device."""
    if device.type != "cuda" or torch.version.cuda is None or has_tensor_cores(device):
        return None
    name, capability = torch.cuda.get_device_name(), ".".join(map(str, torch.cuda.get_device_capability()))
    return f"{name} (compute capability {capability}, before Ampere) has no bfloat16 and no TF32"


def carried(array: NDArray[Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """An array of the host on the device. A GPU reads it from pinned memory, and the program goes on meanwhile."""
    tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def compiler() -> str | None:
    """Return the C compiler by which torch.compile makes its kernels' launchers on a GPU, as Triton looks for it."""
    return os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")


def look() -> dict[str, str | None]:
    """Say what this node has for a stage that is to have a GPU, as cluster/files/documents.py has it."""
    try:
        device = pick_device(has_gpu=True)
        gpu, wrong, lacks = torch.cuda.get_device_name(), None, what_it_lacks(device)
    except NoGPU as error:
        gpu, wrong, lacks = None, str(error), None
    versions = _told_versions(torch.version.cuda, _driver())
    return {"node": environment()["node"], "versions": versions, "gpu": gpu, "wrong": wrong, "lacks": lacks}


def bound_kernel_caches() -> None:
    """On a CPU, let oneDNN and torch's layer around it keep the kernels of so many shapes, where the user says nothing.

    By default they keep 1,024 each, with their buffers: half a gigabyte after a few steps of texts of all lengths.
    Read when the first product is computed."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "16")


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products of bfloat16 are the hardware's own, and so faster than those of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def has_tensor_cores(device: torch.device) -> bool:
    """Whether float32 products can be rounded to TF32 for speed: on NVIDIA's GPUs from Ampere on."""
    return device.type == "cuda" and torch.version.cuda is not None and torch.cuda.get_device_capability()[0] >= 8


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Round float32 products of a GPU to TF32, or do not; afterwards it is as before, whatever comes next."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


# 1e12 FLOP/s of dense matrix products, as NVIDIA's data sheets have them.
PEAKS: dict[str, dict[str, float]] = {
    "V100": {"float32": 15.7},
    "A100": {"bfloat16": 312, "tf32": 156, "float32": 19.5},
    "H100 PCIe": {"bfloat16": 756, "tf32": 378, "float32": 51},
    "H100": {"bfloat16": 989, "tf32": 494, "float32": 67},
    "H200": {"bfloat16": 989, "tf32": 494, "float32": 67},
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """The most FLOP/s that the device's matrix products reach; None for a GPU that is not in the table.

    Of a CPU it is measured, once a process in a fifth of a second, with as many threads as torch has now."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if "MIG" in name:  # a slice of one, of which the name does not tell enough
            return None
        known = next((peaks.get(precision) for gpu, peaks in PEAKS.items() if gpu in name), None)
        return known and known * 1e12
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return _measured_flops(1_024, dtype, torch.get_num_threads())


@functools.cache
def _measured_flops(size: int, dtype: torch.dtype, threads: int) -> float:  # noqa: ARG001 - measured once for each
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    best, end = math.inf, time.perf_counter() + 0.2
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def cpu_name() -> str:
    """As its maker calls it, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """The most memory in use at once so far, in MB: the GPU's as torch allocated it, or else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KB on Linux


def reset_peak_memory() -> bool:
    """Let `peak_memory_mb` count from now on. False where the system cannot: it then goes on as it was."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux, proc(5): the peak becomes what is resident now
    except OSError:
        return False
    return True


if __name__ == "__main__":
    with whole_file(Path(sys.argv[1])) as answer:
        answer.write_text(json.dumps(look()), encoding="utf-8")
