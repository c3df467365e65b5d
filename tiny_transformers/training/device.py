"""The device that a stage computes on: one GPU if there is one, else the CPU."""

from __future__ import annotations

import functools
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
