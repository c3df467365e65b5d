"""The device that a stage computes on: one GPU if there is one, else the CPU."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path

import torch


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
