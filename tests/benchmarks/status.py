"""How long `status` takes on N finished runs, beside starting Python and importing what `status` imports.

    python tests/benchmarks/status.py [N ...]        100 and 1,000 runs unless given

The runs are made through the real files and read by a real rebuild. Medians of seven runs of the whole command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster import cost, launch, manifest, plan, reconcile, rundir, site
from cluster.ledger import Ledger
from cluster.rundir import OutputRoot

REPEATS = 7
MANIFEST = """
defaults: {{data: {{source: builtin}}, seeds: {seeds}}}
models: {{gpt: {{family: gpt_neo}}, bert: {{family: roberta}}}}
studies: {{s: {{grid: {{model: [gpt, bert], model.activation: [gelu, relu, silu, learnable_gelu]}}}}}}
"""


def finished(folder: Path, count: int) -> None:
    """`count` runs with all stages completed, and the ledger made of their files."""
    root = OutputRoot(folder / "output")
    path = folder / "experiments.yaml"
    path.write_text(MANIFEST.format(seeds=list(range(-(-count // 8)))))
    runs = plan.expand(manifest.cells(manifest.load(path)))[:count]
    where = site.Site(name="bench", scheduler="slurm", runs_per_pack=8)
    work = [plan.item(run, run.stages, {}, cost.Measured(1e12)) for run in runs]
    ledger = Ledger(root.ledger)
    launch.record_runs(ledger, root, runs, "2026-01-01")
    for number, array in enumerate(plan.arrange(work, {run.id: run for run in runs}, where)):
        directory = root.submission(f"{number:012x}")
        rundir.write_json(directory.submission, launch.describe(array, where, root, None, directory.token, "2026"))
        rundir.write_json(directory.answer, {"state": "submitted", "job_id": str(number)})
        for index, pack in enumerate(array.packs):
            for item in pack.items:
                for stage, attempt in item.stages:
                    _complete(root.run(item.run_id).attempt(stage, attempt), directory.token, f"{number}_{index}")
    ledger.close()
    root.ledger.unlink()
    ledger = Ledger(root.ledger)
    reconcile.rebuild(ledger, root)
    ledger.close()


def _complete(attempt: rundir.AttemptDir, token: str, job: str) -> None:
    rundir.write_json(attempt.claim, {"token": token, "job": job, "host": "n1", "time": 1.0})
    scores = [{"task": f"task{i}", "metric": "accuracy", "value": 0.5, "n": 100} for i in range(10)]
    outcome = {"scores": scores, "checks": [], "metrics": {}, "data": {}}
    rundir.write_json(attempt.result, {"status": "completed", "ended": 2.0, "outcome": outcome})


def seconds(*command: str, cwd: Path) -> float:
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=cwd, check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main(counts: list[int]) -> None:
    print(f"{'runs':>6} {'python':>8} {'imports':>8} {'status':>8} {'--json':>8}   seconds, median of {REPEATS}")
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            finished(folder, count)
            row = [
                seconds("-c", "pass", cwd=folder),
                seconds("-c", "import cluster.cli", cwd=folder),
                seconds("-m", "cluster.cli", "status", cwd=folder),
                seconds("-m", "cluster.cli", "status", "--json", cwd=folder),
            ]
        print(f"{count:6} " + " ".join(f"{value:8.3f}" for value in row), flush=True)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [100, 1_000])
