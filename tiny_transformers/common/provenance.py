"""Tell what a result was made with: the version of this package's source, and the machine and libraries around it.

Plain values for a JSON file. No torch: versions are read from the installed packages' metadata, GPUs from /proc, so
that the login node may ask too. What cannot be known is None; nothing here raises or waits long."""

import functools
import hashlib
import os
import platform
import re
import socket
import subprocess
from pathlib import Path
from typing import Any, NotRequired, TypedDict

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "safetensors")
DECISIVE = ("torch", "transformers", "tokenizers")
CUDA_RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
GIT_PATIENCE = 2.0  # seconds for one git command


class CodeVersion(TypedDict):
    digest: str
    commit: NotRequired[str | None]
    diff: NotRequired[str | None]


def code_version(package: Path = PACKAGE) -> CodeVersion:
    """`digest`: 12 hex digits of SHA-256 over the package's source files, names and bytes; it alone says whether two
    results come from the same code. `commit` and `diff` (of `git diff HEAD`; None if clean) help to find that code."""
    commit = diff = None
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:  # not a venv inside another repository
        head = _git(package, "rev-parse", "HEAD")
        commit = head.decode().strip() if head else None
        changes = _git(package, "diff", "--no-ext-diff", "--no-color", "HEAD")
        diff = _hex(hashlib.sha256(changes)) if changes else None
    return {"digest": source_digest(package), "commit": commit, "diff": diff}


def source_digest(package: Path = PACKAGE) -> str:
    """12 hex digits over every .py file below the package, by relative name; compiled files do not count."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(package).as_posix(), path) for path in package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return _hex(digest)


def environment(proc: Path = Path("/proc")) -> dict[str, Any]:
    """Versions, platform, CPU, GPUs and node of this process."""
    torch = _version("torch")
    return {
        "python": platform.python_version(),
        **{name: torch if name == "torch" else _version(name) for name in LIBRARIES},
        "cuda": _cuda(torch),
        "driver": _driver(_text(proc / "driver/nvidia/version")),
        "gpus": _gpus(proc / "driver/nvidia/gpus"),
        "platform": platform.platform(),
        "cpu": _field("model name", _text(proc / "cpuinfo")) or platform.machine(),
        "cpus": os.cpu_count(),
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
    }


def decisive_versions() -> dict[str, str | None]:
    """The versions of the libraries that a result depends on most."""
    return {name: _version(name) for name in DECISIVE}


def _git(package: Path, *words: str) -> bytes | None:
    """git's output, or None where there is no git, no repository, or no answer. It takes no lock of the index, which
    many jobs may ask about at once."""
    command = ["git", "--no-optional-locks", "-C", str(package), *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=GIT_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _hex(digest: Any) -> str:
    return str(digest.hexdigest()[:12])


@functools.cache
def _version(name: str) -> str | None:
    from importlib import metadata  # a seventh of a stage's start, which finds in its pack's file what this would say

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cuda(torch: str | None) -> str | None:
    """2.13.0+cu128 -> 12.8. The wheels on PyPI have no suffix, and bring the runtime as a package."""
    suffix = (torch or "").partition("+")[2]
    if match := re.fullmatch(r"cu(\d+)(\d)", suffix):
        return ".".join(match.groups())
    if suffix == "cpu":
        return None
    return next((version for name in CUDA_RUNTIMES if (version := _version(name))), None)


def _driver(text: str) -> str | None:
    """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  ... -> 535.104.05"""
    match = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text, re.MULTILINE)
    return match.group(1) if match else None


def _gpus(folder: Path) -> list[str]:
    names = (_field("Model", _text(path)) for path in sorted(folder.glob("*/information")))
    return [name for name in names if name]


def _field(name: str, text: str) -> str | None:
    match = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
