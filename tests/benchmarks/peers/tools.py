"""The tools that are compared: for each its commands, as its own documentation gives them, and no scenario.

A tool's configuration lies in the folder of its name. What its user does after an interrupted submit is `again`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[2]
PATIENCE = 300  # seconds that any command gets, and that our hold after a lost reply may last


class Tool:
    """In a box: a folder with the tool's project, the task, the stand-ins for SLURM's clients and the markers."""

    name: str
    stays = False  # its submit command stays until all is done
    status: list[str] | None = None

    def __init__(self, box: Path, venv: Path, runs: int) -> None:
        self.box, self.bin, self.runs = box, venv / "bin", runs
        self.project = box / "project"
        path = f"{box / 'bin'}:{self.bin}:{os.environ['PATH']}"
        user = os.environ.get("USER", "root")
        self.environment = os.environ | {"PATH": path, "HOME": str(box), "USER": user}
        self.prepare()

    def prepare(self) -> None:
        """What a user would write besides the configuration."""

    def submit(self) -> list[str]:
        raise NotImplementedError

    def again(self) -> int:
        """What the user does after a submit that failed or was killed; its exit code."""
        return self.call(self.submit()).returncode

    def retry(self) -> int:
        """The command that does failed runs again, after their cause was mended."""
        return self.again()

    def states(self, text: str) -> dict[str, int]:  # noqa: ARG002
        """How many runs are in which state, from the output of the status command."""
        return {}

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=self.project, env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip

    def call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run; what it said goes to the box's `said`, too. No end in time is return code 124."""
        try:
            done = subprocess.run(command, cwd=self.project, env=self.environment, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
        except subprocess.TimeoutExpired:
            done = subprocess.CompletedProcess(command, 124, "", f"no end in {PATIENCE} s")
        with (self.box / "said").open("a") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}[{done.returncode}]\n")
        return done


class TinyTransformers(Tool):
    name = "tiny-transformers"
    cli = [sys.executable, "-m", "cluster.cli"]
    status = [*cli, "status", "--json"]

    def prepare(self) -> None:
        self.environment["PYTHONPATH"] = str(REPO)

    def submit(self) -> list[str]:
        return [*self.cli, "submit", "experiments.yaml", "--site", "site.yaml", "--yes"]

    def again(self) -> int:
        """Exit code 3 is "not known yet, run it again"."""
        deadline = time.monotonic() + PATIENCE
        while (code := self.call(self.submit()).returncode) == 3 and time.monotonic() < deadline:
            time.sleep(3)
        return code

    def retry(self) -> int:
        return self.call([*self.cli, "rerun", "--failed", "--yes"]).returncode

    def states(self, text: str) -> dict[str, int]:
        return {state: count for state, count in json.loads(text)["counts"].items() if count}


class Submitit(Tool):
    name = "submitit"
    status = ["python", "sweep.py", "status"]

    def submit(self) -> list[str]:
        return [str(self.bin / "python"), "sweep.py", "submit"]

    def states(self, text: str) -> dict[str, int]:
        return json.loads(text.splitlines()[-1])  # before it submitit's warnings


class GridTK(Tool):
    name = "gridtk"
    status = ["gridtk", "list"]

    def prepare(self) -> None:
        """It reads `sacct --json` as newer SLURMs write it and stops with a traceback at 22.05's. Where sacct fails it
        asks scontrol, so here sacct fails."""
        (self.box / "bin" / "sacct").write_text("#!/bin/sh\nexit 1\n")

    def submit(self) -> list[str]:
        return [str(self.bin / "gridtk"), "submit", "--job-name", "bench", "--array", f"0-{self.runs - 1}", "job.sh"]

    def again(self) -> int:
        """Every submit is a new job, so the user looks first whether there is one."""
        return 0 if "bench" in self.call(self.status).stdout else super().again()

    def retry(self) -> int:
        return self.call(["gridtk", "resubmit"]).returncode

    def states(self, text: str) -> dict[str, int]:
        return Counter(re.findall(r"\b(RUNNING|PENDING|COMPLETED|FAILED|CANCELLED|UNKNOWN|TIMEOUT)\b", text))


class Slurmgrid(Tool):
    name = "slurmgrid"
    stays = True
    status = ["slurmgrid", "status", "--state-dir", "state"]

    def prepare(self) -> None:
        (self.project / "runs.csv").write_text("run\n" + "".join(f"{n}\n" for n in range(self.runs)))

    def submit(self) -> list[str]:
        return [str(self.bin / "slurmgrid"), "submit", "--config", "slurmgrid.yaml"]

    def again(self) -> int:
        """submit says itself when it is to be `resume`."""
        if self.call(self.submit()).returncode == 0:
            return 0
        return self.call(["slurmgrid", "resume", "--state-dir", "state"]).returncode

    def retry(self) -> int:
        return self.call(["slurmgrid", "resume", "--state-dir", "state", "--reset-failures"]).returncode

    def states(self, text: str) -> dict[str, int]:
        return {state: int(count) for state, count in re.findall(r"(Completed|Active|Pending|Failed.*?): +(\d+)", text)}


class HyperHerd(Tool):
    name = "hyperherd"
    status = ["herd", "status", "--json"]

    def submit(self) -> list[str]:
        return [str(self.bin / "herd"), "run"]

    def states(self, text: str) -> dict[str, int]:
        return Counter(trial["status"] for trial in json.loads(text)["trials"])


class Servatus(Tool):
    name = "servatus"
    status = ["servatus", "status", "state", "--json"]

    def prepare(self) -> None:
        (self.project / "logs").mkdir()

    def submit(self) -> list[str]:
        return [str(self.bin / "python"), "launch.py"]

    def again(self) -> int:
        """Its recovery playbook: reconcile what is unresolved, else record the proven absence; then plan again."""
        for allocation in self.unresolved():
            if self.call(["servatus", "reconcile", "state", allocation]).returncode:
                self.call(["servatus", "mark-not-submitted", "state", allocation])
        return super().again()

    def unresolved(self) -> list[str]:
        shown = self.call(self.status).stdout
        attempts = json.loads(shown)["attempts"] if shown.startswith("{") else []
        return sorted({each["allocation_id"] for each in attempts if each["acceptance"] == "UNRESOLVED"})

    def retry(self) -> int:
        plan = self.call(["servatus", "plan", "state", "--retry-failed", "--output", "retry.json"]).returncode
        return plan or self.call(["servatus", "submit", "state", "retry.json"]).returncode

    def states(self, text: str) -> dict[str, int]:
        return Counter(task["execution"] for task in json.loads(text)["tasks"])


class Snakemake(Tool):
    name = "snakemake"
    stays = True
    status = ["snakemake", "--summary", "--nolock"]

    def submit(self) -> list[str]:
        return [str(self.bin / "snakemake"), "--profile", "profile"]

    def again(self) -> int:
        """A killed Snakemake leaves its lock behind, and says what to do."""
        self.call(["snakemake", "--profile", "profile", "--unlock"])
        return super().again()

    def states(self, text: str) -> dict[str, int]:
        """Of the files that the runs are to leave."""
        return Counter(re.findall(r"^results/.*\t([^\t]+)\t[^\t]+$", text, re.MULTILINE))


TOOLS = {tool.name: tool for tool in
         (TinyTransformers, Submitit, GridTK, Slurmgrid, HyperHerd, Servatus, Snakemake)}  # fmt: skip
