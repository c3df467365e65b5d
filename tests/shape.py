"""The shape of the code in numbers: `python tests/shape.py`. tests/test_rooms.py holds the imports to the direction."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "jobs", "tiny_transformers")
# The rooms, in the direction of the data: each imports from those before it only.
ROOMS = {
    "cluster": ("errors", "console", "render", "yaml_text", "files", "slurm", "sites", "manifest", "plan", "ledger",
                "reconcile", "archive", "submit", "status", "report", "cli"),
    "tiny_transformers": ("settings", "common", "layers", "models", "data", "training", "evaluation", "programs",
                          "score", "lm_eval"),
}  # fmt: skip


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name -> file, of every module."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            found[".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> the modules of this project that it imports, anywhere in it."""
    known = modules(root)
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found[module] |= {name if name in known else str(node.module) for name in names}
            elif isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names}
        found[module] = {name for name in found[module] if name.partition(".")[0] in PACKAGES}
    return found


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def arrows(root: Path = ROOT) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(room, room that it imports) -> the imports."""
    found = defaultdict(list)
    for module, imported in imports(root).items():
        for name in imported:
            if room_of(module) != room_of(name):
                found[room_of(module), room_of(name)].append((module, name))
    return found


def functions() -> Iterator[int]:
    """Lines of each function."""
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield node.end_lineno - node.lineno + 1


def main() -> None:
    lengths = sorted(functions())
    median, most = statistics.median(lengths), lengths[len(lengths) * 9 // 10]
    print(f"functions: {len(lengths)}, median {median:g} lines, 90 %: {most}")
    texts = {name: path.read_text() for name, path in modules().items()}
    long = sorted((name for name, text in texts.items() if text.count("\n") > 400), key=lambda name: -len(texts[name]))
    print(f"modules: {len(texts)}, over 400 lines: {len(long)} ({', '.join(long)})")
    for package in PACKAGES:
        own = [name for name in texts if name.startswith(f"{package}.")]
        count = sum(texts[name].count("dict[str, Any]") for name in own)
        between = [arrow for arrow in arrows() if all(room.startswith(f"{package}.") for room in arrow)]
        rooms = len({room_of(name) for name in own})
        print(f"{package}: dict[str, Any] {count} times; {rooms} rooms, {len(between)} arrows between them")
    command = [sys.executable, "-c", "from cluster.cli import entry; entry.load('status')"]
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT)
        times.append(time.perf_counter() - started)
    best, middle = min(times), statistics.median(times)
    print(f"to load what `status` needs: {best:.2f} s at best of 7, median {middle:.2f} s")


if __name__ == "__main__":
    main()
