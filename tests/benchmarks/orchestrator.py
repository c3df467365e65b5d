"""What the orchestrator itself costs: SLURM calls and seconds of submit and status, ingest, the pack's share of a run.

    export SLURM_CONF=$(python tests/slurm/cluster.py up)
    python tests/benchmarks/orchestrator.py [submit] [ledger] [ingest] [pack]        all four unless named

`submit` and `status` talk to the real cluster, whose partition is set DOWN meanwhile, so that jobs wait; a stand-in
first on the PATH counts and times each client. Own time is the command's less theirs. Nothing here is a test."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from cluster.files import records, whole_files
from cluster.files.folders import OutputRoot
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import choosing, cost, expansion, packing
from cluster.reconcile import reconciling
from cluster.sites.profiles import Site
from cluster.submit import launch

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ("sbatch", "squeue", "sacct", "sacctmgr", "scontrol")
CLIENT = """#!/bin/sh
began=$(date +%s%N)
{real} "$@"
code=$?
echo "{name} $(( $(date +%s%N) - began ))" >> {log}
exit $code
"""
MODEL = {"family": "gpt_neo", "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48}
ORIGIN = launch.Origin("submit", "2026-01-01T00:00:00+00:00", None, {"digest": "c0de"}, None)


def write_manifest(folder: Path, runs: int) -> Path:
    path = folder / "experiments.yaml"
    studies = {"s": {"model": "gpt", "grid": {"model.activation": ["gelu", "relu"]}, "seeds": list(range(runs // 2))}}
    path.write_text(yaml.safe_dump({"defaults": {"data": {"source": "builtin"}}, "models": {"gpt": MODEL},
                                    "studies": studies}))  # fmt: skip
    return path


def planned(folder: Path, runs: int) -> list[records.Run]:
    return expansion.expand(grids.cells(loading.load(write_manifest(folder, runs))))


class Clients:
    """Stand-ins for SLURM's clients that run the real ones, and note each call and its nanoseconds."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "calls.txt"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in CLIENTS:
            path = self.bin / name
            path.write_text(CLIENT.format(real=shutil.which(name), name=name, log=self.log))
            path.chmod(0o755)

    def run(self, *words: str, cwd: Path) -> tuple[float, float, Counter[str]]:
        """Seconds in all, seconds of its own, calls by client."""
        self.log.write_text("")
        environment = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        command = [sys.executable, "-m", "cluster.cli", *words]
        subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True)
        taken = time.perf_counter() - began
        calls = [line.split() for line in self.log.read_text().splitlines()]
        theirs = sum(int(nanoseconds) for _, nanoseconds in calls) / 1e9
        return taken, taken - theirs, Counter(name for name, _ in calls)


def submit_and_status(counts: tuple[int, ...] = (24, 1_000, 3_000)) -> None:
    print(
        "\n| runs | submit, s | its own, s | calls | status, s | its own, s | calls |\n"
        "|---:|---:|---:|---|---:|---:|---|"
    )
    subprocess.run(["scontrol", "update", "partitionname=compute-p1", "state=down"], check=True)
    try:
        for runs in counts:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_manifest(folder, runs)
                site = yaml.safe_load((ROOT / "tests/slurm/site.yaml").read_text()) | {"runs_per_pack": 1, "cpus": 1}
                (folder / "site.yaml").write_text(yaml.safe_dump(site))
                clients = Clients(folder)
                submit = ("submit", "experiments.yaml", "--site", "site.yaml", "--yes", "--no-calibration")
                rows = [clients.run(*submit, cwd=folder),
                        clients.run("status", cwd=folder)]  # fmt: skip
                told = [f"{all_:.2f} | {own:.2f} | {', '.join(f'{n} {c}' for c, n in calls.items())}"
                        for all_, own, calls in rows]  # fmt: skip
                print(f"| {runs:,} | {' | '.join(told)} |", flush=True)
                subprocess.run(["scancel", "--me"], check=True)
    finally:
        subprocess.run(["scontrol", "update", "partitionname=compute-p1", "state=up"], check=True)


def finished_ledger(folder: Path, runs: int) -> None:
    """A ledger of so many completed runs, with 5 scores a stage: of two runs' rows, copied under other ids."""
    root = OutputRoot(folder / "output")
    (run,) = planned(folder, 2)[:1]
    ledger = Ledger(root.ledger)
    with ledger.transaction():
        ledger.record_runs([run], "2026-01-01")
        ledger.db.execute("INSERT INTO submission (submission_id, created, scheduler, site, state, job_id, asked_by) "
                          "VALUES ('cafe', '2026-01-01', 'slurm', 'bench', 'done', '7', 'submit')")  # fmt: skip
        for stage in run.stages:
            ledger.put_attempt(run.id, stage, 1, submission_id="cafe", pack_index=0, status="completed", started=1.0,
                               ended=2.0, code="c0de", job="7_0", host="n1")  # fmt: skip
            scores = [{"task": f"task{i}", "metric": "accuracy", "value": 0.5, "n": 100} for i in range(5)]
            checks = [{"name": "parameters", "passed": True, "blocking": True, "value": 1}]
            ledger.put_outcome(run.id, stage, 1, {"scores": scores, "checks": checks, "metrics": {"seconds": 1.0}})
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
    ids = f"({numbers} SELECT printf('%012x', i) AS new FROM n)"
    with ledger.transaction():
        for table, key in (("run", "id"), ("study_run", "run_id"), ("attempt", "run_id"), ("score", "run_id"),
                           ("check_result", "run_id"), ("metric", "run_id")):  # fmt: skip
            names = [row["name"] for row in ledger.db.query(f"PRAGMA table_info({table})")]
            values = ", ".join("new" if name == key else name for name in names)
            ledger.db.execute(f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {table}, {ids} "
                              f"WHERE {key} = ?", [runs - 1, run.id])  # fmt: skip
        ledger.update_submission("cafe", state="done")
    ledger.close()


def big_ledger(counts: tuple[int, ...] = (1_000, 100_000)) -> None:
    print("\n| finished runs in the ledger | status, s | status --failed, s |\n|---:|---:|---:|")
    for runs in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            finished_ledger(folder, runs)
            clients = Clients(folder)
            taken = [statistics.median(clients.run(*words, cwd=folder)[0] for _ in range(3))
                     for words in (["status"], ["status", "--failed"])]  # fmt: skip
            print(f"| {runs:,} | {taken[0]:.2f} | {taken[1]:.2f} |", flush=True)


def ingest(runs: int = 1_000) -> None:
    """A submission of which everything has ended since it was last looked at: one reconcile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = OutputRoot(folder / "output")
        chosen = planned(folder, runs)
        site = Site(name="bench", scheduler="slurm", runs_per_pack=8, max_array_size=100_000, cpus=16)
        work = [choosing.item(run, run.stages, {}, cost.Measured(1e12)) for run in chosen]
        (array,) = packing.arrange(work, {run.id: run for run in chosen}, site)
        ledger = Ledger(root.ledger)
        recording.record_runs(ledger, root, chosen, "2026-01-01")
        directory = root.submission("cafe")
        intent = launch.describe(array, site, root, "cafe", ORIGIN)
        whole_files.write_json(directory.submission, intent)
        whole_files.write_json(directory.answer, {"state": "submitted", "job_id": "7"})
        recording.record_intent(ledger, directory, intent)
        scores = [{"task": f"task{i}", "metric": "accuracy", "value": 0.5, "n": 100} for i in range(20)]
        for index, pack in enumerate(array.packs):
            life = {"submission_id": "cafe", "job": f"7_{index}", "host": "n1", "pid": 1, "restart": 0, "time": 1.0}
            whole_files.write_json(directory.task(index), life)
            for item in pack.items:
                for stage, number in item.stages:
                    attempt = root.run(item.run_id).attempt(stage, number)
                    whole_files.write_json(attempt.claim, life)
                    outcome = {"scores": scores, "checks": [], "metrics": {"seconds": 1.0}, "data": {"a": "00"}}
                    whole_files.write_json(attempt.result, {"status": "completed", "ended": 2.0, "outcome": outcome})
        began = time.perf_counter()
        reconciling.reconcile(ledger, root, None)  # nothing is left to ask
        taken = time.perf_counter() - began
        done = sum(count["completed"] for count in ledger.tally()[""].values())
        assert done == 4 * runs
        print(f"\n{done:,} result files of 20 scores each were taken in in {taken:.1f} s: {done / taken:,.0f} a second")


def pack(runs: int = 200, slots: tuple[int, ...] = (1, 4, 16)) -> None:
    """One pack of runs whose four stages do nothing, beside as many bare Python processes."""
    from jobs.pack import PackJob

    def seconds_of_cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
        return sum(each.ru_utime + each.ru_stime for each in used)

    os.environ["PYTHONPATH"] = f"{ROOT / 'tests' / 'fake_science'}:{ROOT}"
    before = seconds_of_cpu()
    for _ in range(50):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    bare = (seconds_of_cpu() - before) / 50
    print(f"\nA bare Python process: {1000 * bare:.0f} ms of CPU.\n")
    print("| runs of four empty stages | slots | wall a run, ms | CPU a run, ms | beyond a start, ms | a stage, ms |")
    print("|---:|---:|---:|---:|---:|---:|")
    for slot in slots:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            root = OutputRoot(folder / "output")
            chosen = planned(folder, runs)
            site = Site(name="bench", scheduler="slurm", runs_per_pack=runs, slots=slot, cpus=16)
            work = [choosing.item(run, run.stages, {}, cost.Measured(1e15)) for run in chosen]
            (array,) = packing.arrange(work, {run.id: run for run in chosen}, site)
            ledger = Ledger(root.ledger)
            recording.record_runs(ledger, root, chosen, "2026-01-01")
            ledger.close()
            directory = root.submission("cafe")
            whole_files.write_json(directory.submission, launch.describe(array, site, root, "cafe", ORIGIN))
            before, began = seconds_of_cpu(), time.perf_counter()
            with open(folder / "log", "w") as log:
                saved = os.dup(1)
                os.dup2(log.fileno(), 1)
                PackJob(str(directory.path))()
                os.dup2(saved, 1)
            wall, cpu = 1000 * (time.perf_counter() - began) / runs, 1000 * (seconds_of_cpu() - before) / runs
            results = list(root.path.glob("runs/*/stages/*/1/result.json"))
            assert len(results) == 4 * runs
            assert all(json.loads(path.read_text())["status"] == "completed" for path in results)
            files = len(list((root.run(chosen[0].id).path / "stages" / "pretrain" / "1").iterdir()))
            assert files <= 4, files
            own = cpu - 1000 * bare
            print(f"| {runs} | {slot} | {wall:.0f} | {cpu:.0f} | {own:.0f} | {own / 4:.0f} |", flush=True)


if __name__ == "__main__":
    parts = {"submit": submit_and_status, "ledger": big_ledger, "ingest": ingest, "pack": pack}
    for part in sys.argv[1:] or parts:
        parts[part]()
