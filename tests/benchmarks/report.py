"""Seconds of `report` and `status` on 200 finished runs over five studies, made up; whole processes, best of N.

    python tests/benchmarks/report.py [--repeat 3] [--keep FOLDER]

With --keep the OUTPUT_ROOT stays, with its report, to be looked at. A process that imports nothing but the commands is
there for comparison."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]
import synthetic  # noqa: E402


def seconds(words: list[str], repeat: int) -> float:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=HERE.parents[2])
        return time.perf_counter() - began

    return min(once() for _ in range(repeat))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.keep or Path(folder)
        runs = synthetic.planned()
        better = {"geglu": 0.012, "none": -0.03, "moe": 0.004}
        synthetic.make(root, runs, effect=lambda run: sum(by for word, by in better.items() if f"-{word}" in run.name))
        command = ["-m", "cluster.cli"]
        rows = {
            "to load what `status` needs": ["-c", "from cluster.cli import entry; entry.load('status')"],
            "status": [*command, "status", "--output-root", str(root)],
            "status --json": [*command, "status", "--json", "--output-root", str(root)],
            "report": [*command, "report", "--output-root", str(root)],
        }
        print(f"{len(runs)} runs, best of {arguments.repeat}\n\n| command | seconds |\n|---|---:|")
        for name, words in rows.items():
            print(f"| {name} | {seconds(words, arguments.repeat):.2f} |", flush=True)
        files = [path for path in (root / "report").rglob("*") if path.is_file()]
        size = (root / "report" / "index.html").stat().st_size / 1e6
        print(f"\nindex.html: {size:.1f} MB; {len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
