"""CPU seconds of whole commands on one array of very many packs, with stand-ins for SLURM's clients.

    python tests/benchmarks/scale.py [N ...]        1,000, 3,000 and 10,000 packs of one run unless given

User and system time of the command and its clients, one measurement each: waiting, running, cancelled, and with 3,000
(or all) packs failed. A second look at the same state says what a look costs when nothing has changed. With
TT_PROFILE=FOLDER each command's profile is left there, for pstats. Nothing here is a test."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from cluster.files import whole_files
from cluster.files.folders import OutputRoot

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ("sbatch", "squeue", "sacct", "sacctmgr", "scancel", "scontrol", "sinfo")
CLIENT = '#!/bin/sh\n[ -f "$FAKE/{name}.out" ] && exec cat "$FAKE/{name}.out"\nexit 0\n'
FAILED = 3_000
SITE = {"name": "bench", "scheduler": "slurm", "partition": "gpu-a100", "account": "research-x", "gpus": 1, "cpus": 16,
        "memory_per_cpu": 7600, "runs_per_pack": 1, "slots": 1, "max_slots": 1, "max_time": 1440,
        "max_array_size": 10_001}  # fmt: skip
MODEL = {"family": "gpt_neo", "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48}


class Study:
    """A folder with a submitted study of so many runs, each a pack of the one array."""

    def __init__(self, folder: Path, packs: int) -> None:
        self.folder, self.packs = folder, packs
        self.root = OutputRoot(folder / "output")

    def prepare(self) -> None:
        (self.folder / "bin").mkdir()
        for name in CLIENTS:
            path = self.folder / "bin" / name
            path.write_text(CLIENT.format(name=name))
            path.chmod(0o755)
        (self.folder / "fake").mkdir()
        self.say("sbatch", "7")
        self.say("scontrol", "PartitionName=gpu-a100 MaxTime=2-00:00:00 MaxMemPerCPU=8000 State=UP")
        self.show("squeue")
        self.show("sacct")
        (self.folder / "site.yaml").write_text(yaml.safe_dump(SITE))
        manifest = {"defaults": {"data": {"source": "builtin"}}, "models": {"gpt": MODEL},
                    "studies": {"s": {"model": "gpt", "seeds": list(range(self.packs))}}}  # fmt: skip
        (self.folder / "experiments.yaml").write_text(yaml.safe_dump(manifest))

    def copy(self) -> Study:
        other = Path(tempfile.mkdtemp(dir=self.folder.parent))
        shutil.copytree(self.folder, other, dirs_exist_ok=True)
        return Study(other, self.packs)

    def say(self, client: str, text: str) -> None:
        (self.folder / "fake" / f"{client}.out").write_text(text + "\n")

    def show(self, client: str, **tasks: int) -> None:
        """Have squeue or sacct show so many tasks in each state, in the order of their packs."""
        lines = ["JOBID|" if client == "squeue" else "JobID|"]
        states = [state for state, number in tasks.items() for _ in range(number)]
        for index, state in enumerate(states):
            if client == "squeue":
                reason = "Priority" if state == "PENDING" else "None"
                lines.append(f"7_{index}|7|{index}|{state}|{reason}||research-x|{self.id}|tt-{self.id}")
            else:
                lines.append(f"7_{index}|tt-{self.id}|{state}|0:0|None assigned|Unknown||0|16")
        self.say(client, "\n".join(lines))

    @property
    def id(self) -> str:
        return next((self.root.path / "submissions").iterdir()).name

    def begin(self, packs: int, **result: str) -> None:
        """As jobs do: take so many packs, begin their first stage, and end it so if a result is given."""
        intent = whole_files.read_json(self.root.submission(self.id).submission)
        assert intent
        for index, (item, *_) in enumerate(intent["packs"][:packs]):
            life = {"submission_id": self.id, "job": f"7_{index}", "host": "n1", "pid": 1, "restart": 0,
                    "time": time.time(), "code": intent["code"]}  # fmt: skip
            whole_files.write_json(self.root.submission(self.id).task(index), life)
            attempt = self.root.run(item["run_id"]).attempt("pretrain", 1)
            whole_files.write_json(attempt.claim, life)
            whole_files.write_json(attempt.heartbeat, {"time": time.time(), "fraction": 0.5, "text": "step 4 of 8"})
            if result:
                whole_files.write_json(attempt.result, {**result, "ended": time.time() + index})

    def cpu(self, *words: str, code: int = 0) -> float:
        """User and system seconds of a command and its clients."""
        environment = os.environ | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                                    "FAKE": str(self.folder / "fake"),
                                    "PYTHONPYCACHEPREFIX": str(self.folder.parent / "compiled")}  # fmt: skip
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        kept = os.environ.get("TT_PROFILE")
        name = f"{self.packs}-{self.folder.name}-{time.time():.0f}-{words[0]}.prof"
        profiled = ["-m", "cProfile", "-o", str(Path(kept) / name)] if kept else []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, *profiled, "-m", "cluster.cli", *words]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != code:
            raise SystemExit(f"{words}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{self.packs:,} packs, {' '.join(words)}: {seconds:.2f} s", file=sys.stderr, flush=True)
        return seconds


def measured(packs: int, folder: Path) -> dict[str, float]:
    """What was done, and its CPU seconds."""
    found: dict[str, float] = {}
    waiting = Study(Path(tempfile.mkdtemp(dir=folder)), packs)
    waiting.prepare()
    submit = ("submit", "experiments.yaml", "--site", "site.yaml", "--yes", "--no-calibration")
    found["submit"] = waiting.cpu(*submit)
    waiting.show("squeue", PENDING=packs)
    found["waiting: first status"] = waiting.cpu("status")
    found["waiting: status"] = waiting.cpu("status")
    found["waiting: tick"] = waiting.cpu("tick")
    found["waiting: submit"] = waiting.cpu(*submit)

    cancelled = waiting.copy()
    found["waiting: cancel --all"] = cancelled.cpu("cancel", "--all", "--yes")
    cancelled.show("squeue")
    cancelled.show("sacct", CANCELLED=packs)
    found["cancelled: first status"] = cancelled.cpu("status")
    found["cancelled: status"] = cancelled.cpu("status")
    found["cancelled: rerun --failed --dry-run"] = cancelled.cpu("rerun", "--failed", "--dry-run")
    found["cancelled: rerun --failed"] = cancelled.cpu("rerun", "--failed", "--yes")
    shutil.rmtree(cancelled.folder)

    failed, number = waiting.copy(), min(FAILED, packs)
    failed.begin(number, status="failed", cause="error", message="a mistake")
    failed.show("squeue", COMPLETED=number, PENDING=packs - number)
    failed.show("sacct", COMPLETED=number)
    found[f"{number:,} failed: first status"] = failed.cpu("status")
    found[f"{number:,} failed: status"] = failed.cpu("status")
    found[f"{number:,} failed: first tick"] = failed.cpu("tick")
    found[f"{number:,} failed: tick"] = failed.cpu("tick")
    found[f"{number:,} failed: rerun --failed --dry-run"] = failed.cpu("rerun", "--failed", "--dry-run")
    found[f"{number:,} failed: rerun --failed"] = failed.cpu("rerun", "--failed", "--yes")
    shutil.rmtree(failed.folder)

    waiting.begin(packs)
    waiting.show("squeue", RUNNING=packs)
    found["running: first status"] = waiting.cpu("status")
    found["running: status"] = waiting.cpu("status")
    found["running: tick"] = waiting.cpu("tick")
    shutil.rmtree(waiting.folder)
    return found


def main(counts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        measured(2, Path(name))  # compiles the modules
        counts = [2, *counts]  # what a command takes of itself
        columns = [measured(packs, Path(name)) for packs in counts]
    print(f"| | {' | '.join(f'{packs:,}' for packs in counts)} |\n|---|{'---:|' * len(counts)}")
    rows = zip(*(column.items() for column in columns), strict=True)
    for row in rows:
        print(f"| {row[-1][0]} | {' | '.join(f'{seconds:.2f}' for _, seconds in row)} |")


if __name__ == "__main__":
    main([int(word.replace(",", "")) for word in sys.argv[1:]] or [1_000, 3_000, 10_000])
