"""A small study on a real cluster, faults to do to it, and the check that nothing of it was lost or done twice.

Every command runs in a process of its own, with an `sbatch` first on its PATH that does what a test says and never
outlives the time for which the product waits for it. The stages are the stand-ins of tests/fake_science, which note
each execution in the run's done.txt; which jobs there were is known from slurmctld's own file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import processes
import waiting
import yaml
from slurm.cluster import Cluster, existing

from cluster.files import folders, whole_files
from cluster.reconcile import intents

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STAGES = ("pretrain", "add_tokenizer", "blimp", "superglue")
SBATCH_ENDS = 6  # seconds after which the sbatch below is killed if it still waits
PATIENCE = 10  # seconds for which a submission without an answer may still arrive
UNTIL_LATER = {intents.PATIENCE: "3600"}  # of a submission without an answer: it may arrive for so long
RUNS_OF_A_STUDY = 2
wait_for = partial(waiting.wait_for, pause=0.3)  # what is asked of SLURM costs more than a look at a file

HONEST = """
sleep ${BEFORE:-0}
%(real)s
code=$?
sleep ${AFTER:-0}
exit $code
"""
REPLY_LOST = """
%(real)s > /dev/null
echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
exit 1
"""
NEVER_ARRIVES = """
echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""
SILENT = """
echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
exit 1
"""
CONTROLLER_DIES = """
kill -9 $(cat %(folder)s/run/slurmctld.pid)
sleep 0.3
%(real)s
"""
SBATCHES = {
    "honest": HONEST, "reply lost": REPLY_LOST, "never arrives": NEVER_ARRIVES, "silent": SILENT,
    "controller dies": CONTROLLER_DIES,
}  # fmt: skip


@dataclass
class Study:
    """A folder with a manifest of many small studies, s0, s1, ..., of two runs each, and the commands on it."""

    folder: Path
    cluster: Cluster
    studies: int = 24
    submitted: list[str] = field(default_factory=list)  # studies that a command was told to submit, killed or not
    stages: tuple[str, ...] = STAGES  # of each of its runs
    runs: int = RUNS_OF_A_STUDY  # of each of its studies

    def __post_init__(self) -> None:
        grid = {"model": "gpt", "grid": {"model.activation": ["gelu", "relu"]}}
        model = {"family": "gpt_neo", "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48}
        manifest = {
            "defaults": {"data": {"source": "builtin"}},
            "models": {"gpt": model},
            "studies": {f"s{seed}": grid | {"seeds": [seed + 1]} for seed in range(self.studies)},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "experiments.yaml").write_text(yaml.safe_dump(manifest))
        site = yaml.safe_load((HERE / "site.yaml").read_text())
        science = f"{HERE.parent / 'fake_science'}:{ROOT}"
        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": science, "FAKE_SCIENCE": str(self._told)}
        (self.folder / "site.yaml").write_text(yaml.safe_dump(site | {"environment": environment}))
        self.change_site(runs_per_pack=1, cpus=4)
        self.tell()
        self.sbatch("honest")

    # what tests set

    @property
    def _told(self) -> Path:
        return self.folder / "fake_science.json"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def change_site(self, environment: dict[str, str] | None = None, **settings: Any) -> None:
        path = self.folder / "site.yaml"
        site = yaml.safe_load(path.read_text()) | settings
        site["environment"] |= environment or {}
        path.write_text(yaml.safe_dump(site))

    def tell(self, **stages: str | float) -> None:
        """What the stand-ins of all runs do, by stage; nothing: they just complete."""
        draft = self._told.with_suffix(".new")  # a stand-in may be reading it
        draft.write_text(json.dumps({"*": stages}))
        draft.replace(self._told)

    def sbatch(self, manner: str) -> None:
        real = shutil.which("sbatch", path=self.cluster.environment["PATH"])
        command = f'timeout -s KILL {SBATCH_ENDS} {real} "$@"'
        path = self.folder / "bin" / "sbatch"
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text("#!/bin/sh" + SBATCHES[manner] % {"real": command, "folder": self.cluster.folder})
        draft.chmod(draft.stat().st_mode | stat.S_IXUSR)
        draft.replace(path)

    # commands

    @property
    def environment(self) -> dict[str, str]:
        ours = self.cluster.environment
        return ours | {
            "PATH": f"{self.folder / 'bin'}:{ours['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TINY_TRANSFORMERS_SBATCH_PATIENCE": str(PATIENCE),
        }

    def start(self, *words: str, **environment: str) -> processes.Started:
        """A command that leads a process group of its own."""
        return processes.start(*words, cwd=self.folder, env=self.environment | environment)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, whatever that is; a traceback is a bug whenever it comes."""
        done = processes.command(*words, cwd=self.folder, env=self.environment | environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def words(self, *names: str) -> list[str]:
        self.submitted += [name for name in names if name not in self.submitted]
        chosen = [word for name in names for word in ("--study", name)]
        return ["submit", "experiments.yaml", "--site", "site.yaml", "--yes", *chosen]

    def submit(self, *names: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = self.run(*self.words(*names), **environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def status(self, code: int = 0, **environment: str) -> dict[str, Any]:
        done = self.run("status", "--json", **environment)
        assert done.returncode == code, done.stdout + done.stderr
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown

    def counts(self) -> dict[str, int]:
        """Stage runs by status, without the statuses that none has."""
        return {status: number for status, number in self.status()["counts"].items() if number}

    # what is there

    @property
    def submission_ids(self) -> list[str]:
        return sorted(path.name for path in (self.output / "submissions").glob("*"))

    def claims(self, stage: str) -> list[dict[str, Any]]:
        """The newest claim of every run that has one, in the order of the runs' ids."""
        runs = [folders.RunDir(path) for path in sorted(self.output.glob("runs/*"))]
        newest = [attempts[-1].claim for run in runs if (attempts := run.attempts(stage))]
        return [claim for path in newest if (claim := read_or_none(path))]

    def tasks(self) -> list[dict[str, Any]]:
        """What every array task that began has said of itself."""
        return [task for path in sorted(self.output.glob("submissions/*/task-*.json")) if (task := read_or_none(path))]

    def attempts(self) -> list[dict[str, Any]]:
        return rows(self.output / "ledger.db", "attempt")

    def tried_once(self) -> bool:
        """No stage run needed a second attempt; those of a submission that never was do not count."""
        tried = Counter((row["run_id"], row["stage"]) for row in self.attempts() if row["status"] != "void")
        return set(tried.values()) == {1}

    def causes(self) -> Counter[str]:
        """Of the attempts that failed, as the ledger has them after a look."""
        self.status()
        return Counter(row["cause"] for row in self.attempts() if row["cause"])

    def live_jobs(self) -> list[list[str]] | None:
        """Key, name, state and node of what SLURM still has of this study; None: no answer."""
        shown = self.cluster.ask("squeue", "-h", "-r", "-o", "%i|%j|%T|%N")
        if shown.returncode:
            return None
        names = {f"tt-{submission_id}" for submission_id in self.submission_ids}
        lines = [line.split("|") for line in shown.stdout.splitlines()]
        return [line for line in lines if len(line) == 4 and line[1] in names]

    def known_jobs(self) -> list[str]:
        """Whatever SLURM still knows, of anybody: those that have ended, too."""
        return self.cluster.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i").stdout.split()

    def hang(self, *names: str, stage: str = "pretrain") -> None:
        """Submit these studies, and wait until all of their runs are at this stage, where they stay."""
        self.tell(**{stage: "hang"})
        self.submit(*names)
        wait_for(lambda: len(self.claims(stage)) == RUNS_OF_A_STUDY * len(self.submitted))

    def completes(self, seconds: float = waiting.PATIENCE) -> None:
        """Wait until all is completed, only looking."""
        wanted = {"completed": len(self.stages) * self.runs * len(self.submitted)}
        try:
            wait_for(lambda: self._results() >= wanted["completed"] and self.counts() == wanted, seconds)
        except AssertionError as error:
            raise AssertionError(f"{self.counts()} after {seconds:g} s; attempts: {self.attempts()}") from error

    def _results(self) -> int:
        """How many results there are, of which a look at the files tells much cheaper than a command."""
        return sum(1 for _ in self.output.glob("runs/*/stages/*/*/result.json"))

    def nodes(self, state: str) -> None:
        """`drain`: jobs wait; `resume`: they go on."""
        why = ["reason=test"] if state == "drain" else []
        self.cluster.ask("scontrol", "update", "nodename=cmp[001-002]", f"state={state}", *why)

    def shim(self, name: str, script: str) -> None:
        """Put a shell script before one of SLURM's clients; $REAL is that."""
        real = shutil.which(name, path=self.cluster.environment["PATH"])
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
        path.chmod(0o755)

    def cancel_everything(self) -> None:
        """Leave nothing of this study on the cluster."""
        if jobs := self.live_jobs():
            self.cluster.ask("scancel", *(job[0] for job in jobs))
        wait_for(lambda: self.live_jobs() == [])


def cluster_of(conf: Path) -> Cluster | None:
    """The cluster that cluster.py made; None for another one."""
    try:
        return existing(conf.parent)
    except Exception:  # noqa: BLE001 - whatever it is, it is not ours
        return None


def read_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return whole_files.read_json(path)
    except whole_files.TornFile:
        return None


def rows(ledger: Path, table: str) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(ledger, timeout=waiting.PATIENCE)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(f"SELECT * FROM {table}")]


# -- faults -----------------------------------------------------------------------------------------------------------


def kill_after(study: Study, seconds: float, words: list[str], *, group: bool) -> bool:
    """Start a command and kill -9 it, alone or with the sbatch that it may have called; whether it was in time."""
    process = study.start(*words)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def impatient(study: Study) -> str:
    """A slurm.conf for clients that give up on a dead controller within a second or two."""
    path = study.folder / "impatient.conf"
    path.write_text(f"{study.cluster.conf.read_text()}\nMessageTimeout=2\n")
    return str(path)


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int = 8) -> Iterator[Path]:
    """A file system of its own at `path`. Raises OSError where that cannot be."""
    path.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path], capture_output=True, text=True
    )
    if made.returncode:
        raise OSError(made.stderr.strip())
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all of a disk's space but `leave` bytes; returns the file to remove."""
    path = disk / "ballast"
    space = os.statvfs(disk)
    with contextlib.suppress(OSError), path.open("wb") as file:
        file.write(bytes(max(0, space.f_bavail * space.f_frsize - leave)))
    return path


# -- the end, and the check -------------------------------------------------------------------------------------------


def settle(study: Study) -> None:
    """Submit until a command is let through: a submission without an answer holds the next ones for a while."""
    codes: list[int] = []

    def let_through() -> bool:
        codes.append(study.run(*study.words(*study.submitted)).returncode)
        assert codes[-1] in (0, 3), codes
        return codes[-1] == 0

    wait_for(let_through)


def finish(study: Study, seconds: float = waiting.PATIENCE) -> None:
    """Do what a user does after a fault until all is completed: look, `tick`, submit, rerun."""
    study.tell()
    study.sbatch("honest")
    wanted = {"completed": len(study.stages) * study.runs * len(study.submitted)}
    deadline = time.monotonic() + seconds
    while True:
        wait_for(lambda: study.live_jobs() == [], max(1.0, deadline - time.monotonic()))
        said = study.run("tick")
        assert said.returncode in (0, 3), said.stdout + said.stderr
        settle(study)
        said = study.run("rerun", "--failed", "--yes")
        assert said.returncode in (0, 3), said.stdout + said.stderr
        counts = study.counts()
        if counts == wanted:
            return
        assert time.monotonic() < deadline, f"{counts}, not {wanted}, within {seconds} s\n{said.stdout}{said.stderr}"


def assert_exactly_once(study: Study, *, undisturbed: bool = True) -> None:
    """Every stage run is completed and was done once; no attempt, and no array, is there that the ledger does not
    have, or twice; a ledger made again from the files is the same.

    undisturbed: no stage can have been interrupted between its work and its result, so that each was executed once."""
    found = duplicates(study, undisturbed=undisturbed) + losses(study)
    assert not found, "\n".join(found)
    assert not (found := differences(study)), "\n".join(found)


def duplicates(study: Study, *, undisturbed: bool = False) -> list[str]:
    """What was done, or submitted, more than once."""
    wait_for(lambda: study.live_jobs() == [])  # a job is written down when it has ended
    found = []
    for run in map(folders.RunDir, sorted(study.output.glob("runs/*"))):
        path = run.path / "done.txt"
        executed = Counter(path.read_text().split()) if path.exists() else Counter()
        for stage in study.stages:
            results = [read_or_none(attempt.result) or {} for attempt in run.attempts(stage)]
            completed = sum(result.get("status") == "completed" for result in results)
            # a worker that died between its work and its result has executed a stage that counts as not done
            may = 1 if undisturbed else max(1, len(results))
            if completed > 1 or executed[stage] > may:
                found.append(f"{run.path.name} {stage}: completed {completed} times, executed {executed[stage]}")
    ran = jobs_that_ran(study.cluster)
    for submission_id in study.submission_ids:
        directory = folders.OutputRoot(study.output).submission(submission_id)
        packs = len((read_or_none(directory.submission) or {"packs": []})["packs"])
        state = (read_or_none(directory.answer) or {"state": "no answer"})["state"]
        wanted = packs if state == "submitted" else 0
        keys = ran.get(f"tt-{submission_id}", set())
        if len(keys) != wanted or len({array for array, _ in keys}) > 1:
            found.append(f"submission {submission_id}, {state}, {packs} packs: SLURM ran {sorted(keys)}")
    return found


def losses(study: Study) -> list[str]:
    """What is not completed, and attempts on disk that the ledger does not have."""
    shown = study.status()
    found = [
        f"{run['run_id']} {stage}: {view['status']}"
        for run in shown["runs"]
        for stage, view in run["stages"].items()
        if view["status"] != "completed"
    ]
    if len(shown["runs"]) != study.runs * len(study.submitted):
        found.append(f"{len(shown['runs'])} runs of {len(study.submitted)} studies")
    known = {(row["run_id"], row["stage"], row["number"]) for row in study.attempts()}
    for path in sorted(study.output.glob("runs/*/stages/*/*")):
        run_id, stage, number = path.parts[-4], path.parts[-2], int(path.name)
        if (run_id, stage, number) not in known:
            found.append(f"{run_id} {stage}: attempt {number} is not in the ledger")
    return found


def differences(study: Study) -> list[str]:
    """How the ledger and one that is made again from the files differ; the latter is there afterwards."""
    before = contents(study)
    said = study.run("ledger", "rebuild")
    if said.returncode or "left out" in said.stdout:
        return [said.stdout + said.stderr]
    after = contents(study)
    return [
        f"{table}: only {where}: {row}"
        for table in sorted(before.keys() | after.keys())
        for where, some, others in (("before", before, after), ("rebuilt", after, before))
        for row in some.get(table, [])
        if row not in others.get(table, [])
    ]


def contents(study: Study) -> dict[str, list[str]]:
    """All rows of all tables, but what only says when something was looked at; and what `status` shows of them."""
    shown = study.status()
    found = {"status --json": [json.dumps(shown["counts"]), *map(json.dumps, shown["runs"])]}
    with contextlib.closing(sqlite3.connect(study.output / "ledger.db", timeout=waiting.PATIENCE)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        if table != "meta" and not table.startswith(("sqlite_", "_")):
            dumped = [row | {"progress": None} for row in rows(study.output / "ledger.db", table)]
            found[table] = sorted(json.dumps(row, sort_keys=True) for row in dumped)
    return found


def jobs_that_ran(cluster: Cluster) -> dict[str, set[tuple[str, str]]]:
    """Job's name -> (array, task) of every job that slurmctld has seen end, requeued ones once."""
    path = cluster.folder / "jobs.txt"
    ran: dict[str, set[tuple[str, str]]] = {}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        values = dict(word.partition("=")[::2] for word in line.split())
        if not {"JobId", "Name"} <= values.keys():  # another's job, whose name has a line end
            continue
        key = (values.get("ArrayJobId", values["JobId"]), values.get("ArrayTaskId", "0"))
        ran.setdefault(values["Name"], set()).add(key)
    return ran
