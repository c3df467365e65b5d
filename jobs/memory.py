"""Whether a process that died ran out of memory, and which figures say so.

The kernel's out-of-memory killer sends SIGKILL and leaves a count in the job's cgroup (v1 or v2); a limit that no
cgroup enforces is known from SLURM's environment only. All sizes are in bytes. Linux; elsewhere nothing is known."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# A process that dies this near to the limit is taken to have met it: the peak is sampled, the limit counts caches too.
NEAR = 0.9
UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number of about 2^63
# RuntimeErrors of torch that are not of its class OutOfMemoryError.
WORDS = ("DefaultCPUAllocator: can't allocate memory", "CUDA out of memory", "CUDA error: out of memory",
         "CUBLAS_STATUS_ALLOC_FAILED")  # fmt: skip


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory, the CPU's or the GPU's, was not enough."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


@dataclass
class Cgroup:
    """The memory cgroups that hold this process: its own, and those above it up to the job's."""

    folders: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Cgroup:
        return cls([folder for line in _lines(own) for folder in _folders(line, root) if folder.is_dir()])

    def oom_kills(self) -> int | None:
        """How many processes the kernel has killed here for want of memory; None if it does not say."""
        counts = [
            int(words[1])
            for folder in self.folders
            for name in ("memory.events", "memory.oom_control")
            for line in _lines(folder / name)
            if len(words := line.split()) == 2 and words[0] == "oom_kill"
        ]
        return max(counts, default=None)

    def limit(self) -> int | None:
        values = [
            int(line)
            for folder in self.folders
            for name in ("memory.max", "memory.limit_in_bytes")
            for line in _lines(folder / name)
            if line.isdigit() and int(line) < UNLIMITED
        ]
        return min(values, default=None)


def _folders(line: str, root: Path) -> list[Path]:
    """One line of /proc/self/cgroup as folders, the innermost first. Above the job's there are other people's, so
    without a job's only the own one counts; inside a container that is the root."""
    number, controllers, path = line.split(":", 2)
    if number == "0" and not controllers:
        base = root
    elif "memory" in controllers.split(","):
        base = root / "memory"
    else:
        return []
    parts = [part for part in path.split("/") if part]
    job = next((at for at, part in enumerate(parts) if part.startswith("job_")), None)
    shortest = len(parts) if job is None else job + 1
    folders = [base.joinpath(*parts[:length]) for length in range(len(parts), shortest - 1, -1)]
    return folders if any(folder.is_dir() for folder in folders) else [base]


def slurm_limit(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the memory that SLURM has given this job on this node."""
    megabytes = 1 << 20
    try:
        if "SLURM_MEM_PER_CPU" in environment:
            return int(environment["SLURM_MEM_PER_CPU"]) * int(environment["SLURM_CPUS_ON_NODE"]) * megabytes
        return int(environment["SLURM_MEM_PER_NODE"]) * megabytes or None  # 0: all of the node's
    except (KeyError, ValueError):
        return None


class Watch:
    """Explains each SIGKILL among the children of one pack. A kill that the kernel counted explains one of them."""

    def __init__(self, cgroup: Cgroup | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self.cgroup = cgroup or Cgroup.of()
        limits = [limit for limit in (self.cgroup.limit(), slurm_limit(environment)) if limit]
        self.limit = min(limits, default=None)
        self._explained = self.cgroup.oom_kills() or 0
        self._lock = threading.Lock()

    def explain(self, peak: int, others: Iterable[int] = ()) -> str | None:
        """The figures, if a child killed by SIGKILL ran out of memory; else None. `peak` is its largest resident size,
        `others` those of the children that ran beside it."""
        others = list(others)
        together = peak + sum(others)
        figures = f"its peak was {_megabytes(peak)}"
        if others:
            figures += f", with the {len(others)} beside it {_megabytes(together)}"
        if self.limit:
            figures += f", of {_megabytes(self.limit)} allowed"
        with self._lock:
            kills = self.cgroup.oom_kills() or 0
            counted = kills > self._explained
            self._explained += counted
        if counted:
            return f"killed by the kernel, out of memory (oom_kill is {kills}): {figures}"
        if self.limit and together >= NEAR * self.limit:
            return f"killed by SIGKILL, near the memory limit: {figures}"
        return None


def peak_of(pid: int, proc: Path = Path("/proc")) -> int:
    """The largest resident size of a living process so far; 0 if it is not there."""
    for line in _lines(proc / str(pid) / "status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def reaped_peak(maxrss: int) -> int:
    """`ru_maxrss` as wait4 reports it: KiB on Linux, bytes on macOS."""
    return maxrss if sys.platform == "darwin" else maxrss << 10


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MB"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
