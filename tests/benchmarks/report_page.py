"""`report` on thousands of finished runs, made up: CPU seconds, peak memory and bytes of the page, here and at another
commit, in turns; and how long Chromium takes to show the page.

    python tests/benchmarks/report_page.py [--runs 2000] [--before COMMIT] [--keep FOLDER]

CPU seconds are of the whole process. Of a busy machine only the ratio of two lines says something."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(HERE.parents[1])]
import synthetic  # noqa: E402


def make(folder: Path, number: int) -> None:
    cells = len(synthetic.planned(seeds=1))
    better = {"geglu": 0.012, "none": -0.03, "moe": 0.004}
    synthetic.make(folder, synthetic.planned(seeds=-(-number // cells))[:number],
                   effect=lambda run: sum(by for word, by in better.items() if f"-{word}" in run.name))  # fmt: skip


def measured(code: Path, output: Path, to: Path) -> list[str]:
    """The cells of a line: CPU seconds, MB of memory, MB of the page, other files and their MB."""
    command = [sys.executable, "-m", "cluster.cli", "report", "--output-root", str(output), "--to", str(to)]
    process = subprocess.Popen(command, cwd=code, env=os.environ | {"PYTHONPATH": str(code)}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"report: {process.returncode}")
    files = [path for path in to.rglob("*") if path.is_file() and path.name != "index.html"]
    others = sum(path.stat().st_size for path in files)
    page = (to / "index.html").stat().st_size
    return [f"{used.ru_utime + used.ru_stime:.1f}", f"{used.ru_maxrss / 1024:.0f}", f"{page / 1e6:.1f}",
            f"{len(files):,} ({others / 1e6:.0f} MB)", f"{shown(to / 'index.html'):.1f}"]  # fmt: skip


def shown(page: Path) -> float:
    """Seconds until Chromium has laid the page out and run its scripts; -1 without it."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        return -1
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.goto(page.resolve().as_uri(), timeout=300_000)
        found = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
        browser.close()
    return float(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--keep", type=Path, help="where the reports stay, to be looked at")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        output, before = Path(name) / "output", Path(name) / "code"
        make(output, arguments.runs)
        print("| | CPU seconds | peak memory, MB | page, MB | other files | shown after, s |\n|---|" + "---:|" * 5)
        if arguments.before:
            archive = subprocess.run(["git", "archive", arguments.before], cwd=ROOT, check=True, capture_output=True)
            before.mkdir()
            subprocess.run(["tar", "x", "-C", str(before)], input=archive.stdout, check=True)
            print(f"| {arguments.before} |", " | ".join(measured(before, output, folder / "before")), "|", flush=True)
        print("| here |", " | ".join(measured(ROOT, output, folder / "here")), "|")


if __name__ == "__main__":
    main()
