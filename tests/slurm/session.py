"""A grid of 8 real runs at smoke size on a cluster on which everything goes wrong once, as docs/session.md tells it.

    export SLURM_CONF=$(python tests/slurm/cluster.py up)
    python tests/slurm/session.py FOLDER > docs/session.md

Submits, and is killed; kills two runs; sets a node DOWN; kills slurmctld. `tick` and `rerun` do the rest. Every command
that is shown was run, its output is what it printed; what is done to the cluster is said between them. The end counts,
in the files, how often each stage run was completed. Exit code 1 if that is not once each."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from slurm.cluster import existing, start_daemon, stop_daemon  # noqa: E402

STUDIES = ("order",)
RUNS, STAGES = 8, 4
SITE = {
    "name": "session", "scheduler": "slurm", "partition": "compute-p1", "account": "research-eemcs-st", "cpus": 40,
    "memory_per_cpu": 200, "slots": 1, "runs_per_pack": 2, "flops": 2.5e10, "min_time": 10, "max_time": 600,
    "max_array_size": 101, "environment": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
}  # fmt: skip
PATIENCE = 20  # seconds instead of 180; the sbatch of this machine does not try for two minutes


class Session:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "site.yaml").write_text(yaml.safe_dump(SITE))
        (folder / "experiments.yaml").symlink_to(ROOT / "experiments.yaml")
        cluster = existing(Path(os.environ["SLURM_CONF"]).parent)
        assert cluster
        self.cluster = cluster
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TINY_TRANSFORMERS_SBATCH_PATIENCE": str(PATIENCE),
        }  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *words], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def show(self, *words: str, lines: int | None = None) -> int:
        """Run a command and print it as a terminal would show it; of its output the first lines only, if told."""
        process = self.start(*words)
        said, _ = process.communicate()
        said = said.replace(f"{self.folder}/", "")
        kept = [line.rstrip() for line in said.splitlines() if line.strip()]
        dropped = len(kept) - lines if lines and len(kept) > lines else 0
        name = words[0] if words[0] in ("submit", "status", "rerun") else f"tiny-transformers {words[0]}"
        print(f"    $ {' '.join([name, *words[1:]])}")
        for line in kept[:lines]:
            print(f"    {line}")
        if dropped:
            print(f"    ... {dropped} lines more")
        if process.returncode:
            print(f"    (exit code {process.returncode})")
        print(flush=True)
        return process.returncode

    def tell(self, text: str) -> None:
        print(f"{text}\n", flush=True)

    def counts(self) -> dict[str, int]:
        said, _ = self.start("status", "--smoke", "--json").communicate()
        return json.loads(said)["counts"] if said.startswith("{") else {}

    def until(self, completed: int) -> None:
        while self.counts().get("completed", 0) < completed:
            time.sleep(3)

    def drain(self) -> None:
        """Until nothing is under way."""
        while (counts := self.counts()) == {} or counts["running"] + counts["submitted"]:
            time.sleep(5)

    def tasks(self) -> list[dict]:
        paths = self.folder.glob("output/smoke/submissions/*/task-*.json")
        return [json.loads(path.read_text()) for path in paths]

    def running_claims(self) -> list[dict]:
        found = []
        for path in self.folder.glob("output/smoke/runs/*/stages/*/*/claim.json"):
            if not any((path.parent / name).exists() for name in ("result.json", "verdict.json")):
                found.append(json.loads(path.read_text()) | {"what": f"{path.parents[3].name} {path.parents[1].name}"})
        return found


def main(folder: Path) -> int:
    session = Session(folder.resolve())
    random.seed(1)
    studies = [word for study in STUDIES for word in ("--study", study)]
    submit = ("submit", "experiments.yaml", "--smoke", *studies, "--site", "site.yaml", "--yes")
    began = time.monotonic()
    session.tell("# A session on a cluster where everything goes wrong once")
    session.tell(
        f"{RUNS} models of experiments.yaml at smoke size, on the test cluster of tests/slurm (two CPU nodes, SLURM\n"
        "22.05, two cores beneath). `python tests/slurm/session.py` made this page: commands and output as they were,\n"
        "and between them what was done to the cluster."
    )
    session.tell("## `submit` is killed, with -9, while sbatch runs")
    process = session.start(*submit)
    while not list(session.folder.glob("slurm_logs/*/submission.sh")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    print(f"    $ {' '.join(submit)}\n    Killed\n", flush=True)
    session.tell("Nobody knows whether SLURM has the array. The same command looks for it first:")
    while session.show(*submit) == 3:
        time.sleep(PATIENCE / 2)
    session.until(RUNS * STAGES // 8)
    session.show("status", "--smoke", lines=40)

    session.tell("## Two runs are killed, with -9")
    victims = [claim for claim in session.running_claims() if claim["host"]]
    for claim in {claim["host"]: claim for claim in victims}.values():
        os.kill(claim["pid"], signal.SIGKILL)
        session.tell(f"`kill -9 {claim['pid']}`, which was at {claim['what']} on {claim['host']}.")
    session.until(RUNS * STAGES // 3)

    session.tell("## A node fails")
    session.cluster.ask("scontrol", "update", "nodename=cmp002", "state=down", "reason=session")
    session.tell("`scontrol update nodename=cmp002 state=down`: SLURM requeues its job, which goes on at cmp001 later.")
    time.sleep(10)
    session.show("status", "--smoke", lines=40)
    session.cluster.ask("scontrol", "update", "nodename=cmp002", "state=resume")
    session.until(RUNS * STAGES // 2)

    session.tell("## The controller dies")
    stop_daemon(session.cluster, "slurmctld", signal.SIGKILL)
    session.tell("`kill -9` of slurmctld. Jobs go on; nobody answers:")
    session.show("status", "--smoke", lines=8)
    session.show("tick", "--smoke")
    start_daemon(session.cluster, "slurmctld")
    session.tell("slurmctld is started again.")
    session.drain()

    session.tell("## Going on")
    session.show("status", "--smoke", "--failed")
    for command in (("tick", "--smoke"), ("rerun", "--failed", "--smoke", "--yes"), ("tick", "--smoke")):
        session.show(*command)
        session.drain()
    session.show("status", "--smoke")
    session.show(*submit)
    return finish(session, time.monotonic() - began)


def finish(session: Session, seconds: float) -> int:
    """Count in the files, not in the ledger, how often each stage run was completed; and rebuild the ledger of them."""
    root = session.folder / "output" / "smoke"
    completed: Counter[tuple[str, str]] = Counter()
    causes: Counter[str] = Counter()
    for path in root.glob("runs/*/stages/*/*/*.json"):
        if path.name not in ("result.json", "verdict.json"):
            continue
        told = json.loads(path.read_text())
        if told["status"] == "completed":
            completed[path.parents[3].name, path.parents[1].name] += 1
        else:
            causes[told.get("cause") or told["status"]] += 1
    before, _ = session.start("status", "--smoke", "--json").communicate()
    session.show("ledger", "rebuild", "--smoke")
    after, _ = session.start("status", "--smoke", "--json").communicate()
    same = without_time(before) == without_time(after)
    names = "|".join(f"tt-{path.name}" for path in (root / "submissions").iterdir())
    jobs = (session.cluster.folder / "jobs.txt").read_text() if (session.cluster.folder / "jobs.txt").exists() else ""
    ran = len(re.findall(rf"Name=(?:{names}) ", jobs))
    session.tell("## What there is")
    once = len(completed) == RUNS * STAGES and set(completed.values()) == {1}
    failed = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
    session.tell(
        f"- {len({run for run, _ in completed})} of {RUNS} runs, {len(completed)} of {RUNS * STAGES} stage runs "
        f"completed, {sum(count - 1 for count in completed.values())} of them twice.\n"
        f"- Attempts that ended otherwise, each with its cause and log: {failed}.\n"
        f"- {len(list((root / 'submissions').iterdir()))} submissions, {ran} jobs of theirs in slurmctld's own list, a "
        "requeued one for each of its lives.\n"
        f"- The ledger made again from the files is {'the same' if same else 'ANOTHER ONE'}.\n"
        f"- {seconds / 60:.0f} minutes."
    )
    return 0 if once and same else 1


def without_time(text: str) -> dict:
    """What a status says of the runs, without when and whether SLURM was asked."""
    return {key: value for key, value in json.loads(text).items() if key not in ("as_of", "slurm")}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
