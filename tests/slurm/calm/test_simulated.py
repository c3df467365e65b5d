"""The simulated SLURM of tests/simulation is held against the real one: after the same things have happened on both,
`status --json` says the same of every stage run, of what waits for a person, and of what runs."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from simulation.world import SITE, World, installed, world
from slurm.faults import Study

from cluster.slurm.reasons import never_starts

pytestmark = pytest.mark.slurm
WALKS, LONGER = 1, 20
STEPS = 6
NODES = 2  # of compute-p1: with so many CPUs a pack takes one
LONG = 80  # looks until nothing moves any more
ACTIONS = ("submit", "go", "scancel", "uhold", "release", "requeue", "requeuehold", "nodes", "cancel", "tick", "rerun")


class Real:
    """The cluster of tests/slurm."""

    def __init__(self, study: Study) -> None:
        self.study = study
        study.change_site(cpus=40, min_time=60)
        self.tell("hang")

    def tell(self, what: str | None) -> None:
        self.study.tell(**({"pretrain": what} if what else {}))

    def command(self, *words: str) -> int:
        return self.study.run(*words).returncode

    def status(self) -> dict[str, Any]:
        return json.loads(self.study.run("status", "--json").stdout)

    def jobs(self) -> list[tuple[str, str, str]]:
        """Key, state and reason of what lives, in order."""
        shown = self.study.cluster.ask("squeue", "-h", "-r", "-o", "%F_%K|%T|%r|%j").stdout.splitlines()
        names = {f"tt-{submission_id}" for submission_id in self.study.submission_ids}
        lines = [line.split("|") for line in shown]
        return sorted((key, state, reason) for key, state, reason, name in lines if name in names)

    def control(self, *words: str) -> None:
        self.study.cluster.ask(*words)

    def nodes(self, up: bool) -> None:
        self.study.nodes("resume" if up else "drain")

    def wait(self) -> None:
        time.sleep(1.5)


class Simulated:
    """The same study in a simulated world."""

    def __init__(self, made: World, study: Study) -> None:
        self.world = made
        (made.folder / "experiments.yaml").write_text((study.folder / "experiments.yaml").read_text())
        site = SITE | {"runs_per_pack": 1, "min_time": 60, "max_time": 600}
        (made.folder / "site.yaml").write_text(yaml.safe_dump(site))
        made.slurm.nodes = made.slurm.nodes[:NODES]
        self.tell("hang")

    def tell(self, what: str | None) -> None:
        self.world.told = {("*", "pretrain"): what} if what else {}

    def command(self, *words: str) -> int:
        process = self.world.command(list(words))
        self.world.finish(process)
        self.said = process.output.getvalue()
        assert not process.tracebacks
        return int(process.notes["code"])

    def status(self) -> dict[str, Any]:
        self.command("status", "--json")
        return json.loads(self.said)

    def jobs(self) -> list[tuple[str, str, str]]:
        return sorted((task.key, task.state, task.reason) for task in self.world.slurm.live())

    def control(self, *words: str) -> None:
        slurm = self.world.slurm
        (task,) = [task for task in slurm.live() if task.key == words[-1]]
        if words[0] == "scancel":
            slurm.cancel(task)
        elif words[1] == "uhold":
            slurm.hold(task)
        elif words[1] == "release":
            task.reason = "None"
        else:
            slurm.requeue(task, "REQUEUED", held=words[1] == "requeuehold")

    def nodes(self, up: bool) -> None:
        self.world.slurm.partition_up = up

    def wait(self) -> None:
        self.world.kernel.advance(self.world.kernel.now + 20)


class Walk:
    """What happens on one of them, by a draw that is the same for both."""

    def __init__(self, side: Real | Simulated, seed: int) -> None:
        self.side, self.lot = side, random.Random(seed)
        self.hanging = self.up = True
        self.studies = iter(["s1", "s2", "s3"])
        self.submit("s0")

    def submit(self, name: str) -> None:
        self.side.command("submit", "experiments.yaml", "--site", "site.yaml", "--yes", "--study", name)

    def looks(self) -> Iterator[tuple[str, Any]]:
        """What was done, and what is seen then."""
        yield "submit", self.look()
        for _ in range(STEPS):
            action, place = self.lot.choice(ACTIONS), self.lot.random()
            self.act(action, place)
            yield action, self.look()

    def act(self, action: str, place: float) -> None:
        side = self.side
        wanted = {"uhold": ("PENDING",), "requeue": ("RUNNING",), "requeuehold": ("RUNNING",)}
        jobs = [job for job in side.jobs() if job[1] in wanted.get(action, ("PENDING", "RUNNING"))]
        job = jobs[int(place * len(jobs))][0] if jobs else None
        if action == "submit":
            if name := next(self.studies, None):
                self.submit(name)
        elif action == "go":
            self.hanging = not self.hanging
            side.tell("hang" if self.hanging else None)
        elif action == "nodes":
            self.up = not self.up
            side.nodes(self.up)
        elif action == "release":
            for key, _, reason in jobs:
                if never_starts(reason):
                    side.control("scontrol", "release", key)
        elif action == "cancel" and place < 0.5:
            side.command("cancel", "--all", "--yes")
        elif action in ("tick", "cancel"):
            side.command("tick")
        elif action == "rerun":
            side.command("rerun", "--failed", "--yes")
        elif job and action == "scancel":
            side.control("scancel", job)
        elif job:
            side.control("scontrol", action, job)

    def look(self) -> Any:
        """What `status --json` says once nothing moves any more."""
        before, moments = None, 0
        while True:
            self.side.wait()
            now = self.seen()
            if now == before and self.at_rest(now):
                return now
            before, moments = now, moments + 1
            assert moments < LONG, f"it does not come to rest: {now} {self.side.jobs()}"

    def at_rest(self, seen: Any) -> bool:
        jobs = self.side.jobs()
        _, stages, _, packs = seen
        running = [job for job in jobs if job[1] == "RUNNING"]
        startable = [job for job in jobs if job[1] == "PENDING" and not never_starts(job[2])]
        if any(job[1] not in ("RUNNING", "PENDING") for job in jobs) or (running and not self.hanging):
            return False
        begun = sum(status == "running" for status, _ in stages.values())  # those that are held have begun, too
        if packs != len(running) or begun < len(running):  # the jobs' Pythons are on their way
            return False
        return not startable or not self.up or len(running) == NODES

    def seen(self) -> Any:
        shown = self.side.status()
        stages = {
            (run["run_id"], stage): (told["status"], told["cause"])
            for run in shown["runs"] for stage, told in run["stages"].items()
        }  # fmt: skip
        held = sorted(waiting["reason"] for waiting in shown["queue"] if never_starts(waiting["reason"] or ""))
        return shown["slurm"], stages, held, len(shown["packs"])


def compare(study: Study, seed: int) -> None:
    with installed() as folder, world(folder, seed) as made:
        simulated = list(Walk(Simulated(made, study), seed).looks())
        assert made.violations == []
    real: Callable[[], Iterator[tuple[str, Any]]] = Walk(Real(study), seed).looks
    for number, (action, seen) in enumerate(real()):
        assert (number, action, differences(seen, simulated[number][1])) == (number, simulated[number][0], [])


def differences(real: Any, simulated: Any) -> list[str]:
    """What is seen on one of them only."""
    (answer, stages, *rest), (their_answer, theirs, *their_rest) = real, simulated
    told = [f"{key}: {stages.get(key)}, {theirs.get(key)} simulated" for key in sorted(stages | theirs)
            if stages.get(key) != theirs.get(key)]  # fmt: skip
    pairs = [(answer, their_answer), *zip(rest, their_rest, strict=True)]
    return told + [f"{one}, {other} simulated" for one, other in pairs if one != other]


@pytest.mark.parametrize("seed", range(WALKS))
def test_both_say_the_same_at_each_look(study, seed):
    compare(study, seed)


@pytest.mark.longer
@pytest.mark.parametrize("seed", range(WALKS, LONGER))
def test_both_say_the_same_at_each_look_of_many_walks(study, seed):
    compare(study, seed)
