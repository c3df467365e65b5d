"""The device that a stage computes on: one GPU if there is one, else the CPU."""

from __future__ import annotations

import resource
import sys

import torch


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_memory_mb() -> float:
    """The most memory in use at once so far, in MB: the GPU's as torch allocated it, or else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KB on Linux
