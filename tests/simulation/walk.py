"""Walk through a world: take the steps, let the world be calm, let the user finish, and check what must hold.

A walk that breaks something is shortened to the few steps that still break it, and printed so as to be repeated."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from simulation import steps as drawing
from simulation.batch import Task
from simulation.choosing import Choosing
from simulation.disk import DiskFault
from simulation.kernel import Process
from simulation.steps import Step
from simulation.teaching import Teaching
from simulation.world import FOLLOW_UPS, SITE, STUDIES, World, files_in, installed, of_each, seams, with_sources, world

from cluster.files.records import key_of
from cluster.reconcile.intents import patience
from tiny_transformers.settings.stages import needed_by

ROUNDS = 16  # of the user's at the end
OVERDUE = 900.0  # seconds that a command may take


@dataclass
class Outcome:
    violations: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    after_fault: bool = False
    log: list[str] = field(default_factory=list)
    calibrated: bool = False  # whether a calibration has run
    pulled: int = 0  # runs that another task than the planned one has done

    @property
    def kinds(self) -> set[str]:
        """The violations without names and numbers."""
        return {text.partition(":: ")[0] for text in self.violations}


def walk(folder: Path, seed: int, steps: Sequence[Step] | None = None) -> Outcome:
    """Walk the steps of a seed, or these."""
    with world(folder, seed) as made:
        walker = Walker(made)
        for step in drawing.draw(seed) if steps is None else steps:
            walker.take(step)
            if made.violations:
                break
        if not made.violations:
            walker.calm()
        if not made.violations:
            walker.finish()
        if not made.violations:
            walker.check_the_end()
        calibrated = any(made.output.glob("probe/runs/*/stages/*/*/result.json"))
        after_fault = made.completed_after_fault
        return Outcome(made.violations, made.counts, after_fault, made.log, calibrated, made.pulled)


class Walker(Choosing, Teaching):
    """Takes steps in a world, and watches over what must hold at each."""

    def __init__(self, made: World) -> None:
        Choosing.__init__(self, made)
        self.world, self.slurm, self.kernel = made, made.slurm, made.kernel
        self.running: list[Process] = []
        self.begun = 0  # of the world's jobs, those whose beginning was checked
        self.sent = 0  # of the world's jobs, those whose sending was checked
        self.results: dict[Path, bytes] = {}
        self.refused = False  # whether sbatch has refused something

    # -- steps

    def take(self, step: Step) -> None:
        name, values = step
        self.world.log.append(f"{self.kernel.now - 1_800_000_000:.0f}: {name} {values}")
        getattr(self, f"_{name.replace(' ', '_').replace('-', '_')}")(
            **{k.replace(" ", "_"): v for k, v in values.items()}
        )
        self.look()

    def _pass(self, seconds: float) -> None:
        self.kernel.advance(self.kernel.now + seconds)

    def _command(self, words: list[str], seed: int, pick: int, user: str = "alice", host: str = "login1",
                 kill_at: int = 0, disk: tuple[str, int, int] | None = None, beside: bool = False,
                 pace: float = 60.0) -> None:  # fmt: skip
        if told := self._words(words, pick):
            self.start(told, seed, user, host, kill_at, disk, beside, pace)

    def start(self, told: list[str], seed: int = 0, user: str = "alice", host: str = "login1", kill_at: int = 0,
              disk: tuple[str, int, int] | None = None, beside: bool = False,
              pace: float = 60.0, notes: dict[str, Any] | None = None) -> Process:  # fmt: skip
        """A user gives a command; unless it is `beside` others, it has ended, or is stopped, then."""
        faults = [DiskFault(*disk)] if disk else []
        process = self.world.command(told, user, host, seed, kill_at, pace, faults)
        process.notes |= (notes or {}) | {"beside": beside or any(other.alive for other in self.running)}
        for other in self.running:
            other.notes["beside"] = True
        self.running.append(process)
        if not beside:
            self.world.finish(process, OVERDUE)
        return process

    def _burst(self, words: list[str], seed: int, paces: list[float], dead: bool) -> None:
        """Several commands at once, slow and quick ones, at a lock whose holder may have died."""
        lock = self.world.output / "ledger.lock"
        if dead and self.world.output.exists() and not lock.exists():
            self.world.note("a dead command's lock")
            lock.write_text(json.dumps({"host": "login1", "pid": 1, "start": "1"}))
        for number, (word, pace) in enumerate(zip(words, paces, strict=True)):
            self._command([word], seed + number, 1, beside=True, pace=pace)
        self.world.note("commands at once")
        for process in list(self.running):
            self.world.finish(process, OVERDUE)

    def _words(self, words: list[str], pick: int) -> list[str] | None:
        """What the user types; None: there is nothing to do it to."""
        world = self.world
        first = ["--calibration"] if world.calibrates else []
        of_studies = [word for name in sorted(world.submitted) for word in ("--study", name)]
        if words[0] == "submit":
            world.submitted |= with_sources(words[1:])
            chosen = [word for name in words[1:] for word in ("--study", name)]
            return ["submit", "experiments.yaml", "--site", "site.yaml", "--yes", *chosen, *first]
        if words[0] == "again" and not of_studies:
            return None
        if words[0] == "again":
            return ["submit", "experiments.yaml", "--site", "site.yaml", "--yes", *of_studies, *first]
        if words[0] == "rerun":
            return ["rerun", "--failed", "--yes"]
        if words[0] == "status":
            return ["status", *([] if pick % 4 else ["--json"])]
        if words[0] == "tick":
            return ["tick"]
        if words[0] == "cancel":
            return ["cancel", "--all", "--yes"]
        if words[0] == "rebuild":
            return ["ledger", "rebuild"]
        runs = sorted(os.listdir(world.output / "runs")) if (world.output / "runs").exists() else []
        if not runs:
            return None
        if words[0] == "cancel run":  # one of which something is under way, if there is one
            under_way = {item["run_id"] for task in self.slurm.live() for item in self._items(task)}
            runs = sorted(under_way.intersection(runs)) or runs
        run = runs[pick % len(runs)]
        if words[0] == "redo":
            world.redone |= {(run, stage) for stage in ("blimp",)}
            world.notes_redone.add(run)
            return ["rerun", "--stage", "blimp", "--run", run, "--yes"]
        return ["cancel", "--run", run, "--yes"]

    def _site(self, **settings: Any) -> None:
        (self.world.folder / "site.yaml").write_text(_dumped(json.dumps(SITE | settings)))

    def _calibration(self) -> None:
        self.world.calibrates = True

    def _client(self, client: str, manners: list[str]) -> None:
        self.world.manners.setdefault(client, []).extend(manners)

    def _form(self, **form: Any) -> None:
        self.slurm.form = {key: value for key, value in form.items() if value}
        for key in self.slurm.form:
            self.world.note(f"form: {key}")

    def _environment(self, name: str | None) -> None:
        self.world.environment = drawing.ENVIRONMENTS[name] if name else {}
        if name:
            self.world.note(f"environment: {name}")

    def _controller(self, what: str) -> None:
        if what == "without its state":
            self.slurm.forget()
        self.slurm.controller = what != "down"
        if what != "up":
            self.world.note(f"controller: {what}")

    def _accounting(self, up: bool, lag: float = 0) -> None:
        if up:
            self.slurm.accounting_up()
        self.slurm.accounting, self.slurm.lag = up, lag
        if lag or not up:
            self.world.note("accounting: late" if up else "accounting: away")

    def _job(self, what: str, pick: int) -> None:
        states = {
            "held": ("PENDING",),
            "reservation deleted": ("PENDING",),
            "cancelled by hand": ("PENDING", "RUNNING"),
        }
        wanted = states.get(what, ("RUNNING",))
        found = self._soon(lambda: [task for task in self.slurm.live() if task.state in wanted])
        if not found or not self.slurm.controller:
            return
        task = found[pick % len(found)]
        self.world.note(f"job: {what}")
        if what == "requeued":
            self.slurm.requeue(task, "REQUEUED")
        elif what == "preempted":
            self.slurm.requeue(task, "PREEMPTED")
        elif what == "requeued and held":
            self.slurm.requeue(task, "REQUEUED", held=True)
        elif what == "held":
            self.slurm.hold(task)
        elif what == "reservation deleted":
            task.reason = "ReservationDeleted"
        elif what == "suspended":
            self.slurm.suspend(task)
        else:
            self.slurm.cancel(task)

    def _soon(self, look: Callable[[], list[Task]]) -> list[Task]:
        """What there is now, or will be within a minute."""
        self.kernel.advance(self.kernel.now + 60, lambda: bool(look()))
        return look()

    def _purge(self, pick: int) -> None:
        """A task is cancelled while it waits and slurmdbd is away, and forgotten before that comes back."""
        waiting = [task for task in self.slurm.live() if task.state == "PENDING" and task.index is not None]
        if waiting and self.slurm.controller and self.slurm.accounting and not self.running:
            self.slurm.accounting = False
            self.slurm.cancel(waiting[pick % len(waiting)])
            self._pass(130)
            self._accounting(up=True, lag=self.slurm.lag)
            self.world.note("jobs are purged")

    def _cut(self, length: int, pick: int) -> None:
        """sacct cuts its lists of tasks that wait; one of them is cancelled, so that it is asked about the others."""
        self._form(list=length)
        waiting = [task for task in self.slurm.live() if task.state == "PENDING" and task.index is not None]
        many = [task for task in waiting if sum(other.array == task.array for other in waiting) > 2]
        if many and self.slurm.controller and self.slurm.accounting and not self.running:
            self.slurm.cancel(many[pick % len(many)])
            self._pass(130)
            self._command(["status"], pick, 1)
            self.world.note("sacct cuts lists")

    def _unheard(self, pick: int) -> None:
        """sbatch takes a job that waits, its reply is lost, and squeue is silent until sbatch has surely given up."""
        left = sorted(STUDIES.keys() - self.world.submitted)
        if not left or not self.slurm.controller or self.running:
            return
        self.slurm.partition_up = False
        self._client("sbatch", ["reply lost"])
        self._command(["submit", left[pick % len(left)]], pick, 1)
        self._client("squeue", ["no answer"])
        self._pass(patience() + 5)
        self._command(["tick"], pick, 1)
        self._nodes(up=True)

    def _hidden(self, name: str, pick: int) -> None:
        """The user looks while jobs wait, in an environment that makes squeue hide them."""
        left = sorted(STUDIES.keys() - self.world.submitted)
        if not left or not self.slurm.controller or self.running:
            return
        before = self.world.environment
        self.slurm.partition_up = False
        self._command(["submit", left[pick % len(left)]], pick, 1)
        self._environment(name)
        self._command(["status"], pick, 1)
        self.world.environment = before
        self._nodes(up=True)

    def _slow_look(self, seconds: float, pick: int) -> None:
        """The user looks while jobs run, and squeue answers only after some of them have ended."""
        if self._soon(lambda: [task for task in self.slurm.live() if task.state == "RUNNING"]) and not self.running:
            self._pass(seconds)
            self._client("squeue", ["slow"])
            self._command(["status"], pick, 1)

    def _given_up(self, seconds: float, pick: int) -> None:
        """A node is lost to SLURM, and its job, which goes on there, is cancelled by hand and done again."""
        working = self._soon(lambda: [task for task in self.slurm.live() if task.state == "RUNNING"])
        if not working or not self.slurm.controller or self.running:
            return
        task = working[pick % len(working)]
        self.slurm.requeue(task, "NODE_FAIL", goes_on=60)
        self.slurm.cancel(task)
        self.world.note("a node fails")
        self._command(["status"], pick, 1)
        self._command(["rerun"], pick, 1)
        self._pass(seconds)

    def _revived(self, seconds: float, pick: int) -> None:
        """A job fails, is judged, and is requeued by a person; somebody may have done its stage again meanwhile."""
        working = self._soon(lambda: [task for task in self.slurm.live() if task.state == "RUNNING"])
        if not working or not self.slurm.controller or self.running:
            return
        task = working[pick % len(working)]
        self.slurm.kill(task)
        self.slurm.end(task, "FAILED", "1:0")
        self._pass(seconds)
        self._command(["status"], pick, 1)
        if pick % 3:
            self._command(["rerun"], pick, 1)
        self.look()
        if not task.forgotten and task.ended is not None:
            self.world.note("a job that has ended is requeued")
            self.slurm.revive(task)
        self._pass(seconds)

    def _begun_again(self, lag: float, pick: int) -> None:
        """A job is requeued twice, and is at work again before accounting has heard of it."""
        working = self._soon(lambda: [task for task in self.slurm.live() if task.state == "RUNNING"])
        if not working or not self.slurm.controller or self.running:
            return
        self._accounting(up=True, lag=lag)
        task = working[pick % len(working)]
        for _ in range(2):
            self.slurm.requeue(task, "REQUEUED")
            self.kernel.advance(self.kernel.now + 60, lambda: task.state == "RUNNING")
            self._pass(4)
        self._command(["status"], pick, 1)

    def _release(self) -> None:
        for task in self.slurm.live():
            self.slurm.continue_(task)
            if task.state == "PENDING":
                task.reason = "None"

    def _nodes(self, up: bool) -> None:
        self.slurm.partition_up = up
        self.slurm.closed = set()
        if not up:
            self.world.note("nodes are away")

    def _node(self, node: str, goes_on: float) -> None:
        if not self.slurm.controller:
            return
        busy = [task.node for task in self._soon(lambda: [task for task in self.slurm.live() if task.node])]
        node = node if node in busy or not busy else busy[0]
        self.slurm.closed = {node}
        for task in self.slurm.live():
            if task.node == node:
                self.world.note("a node fails")
                self.slurm.requeue(task, "NODE_FAIL", goes_on=goes_on)

    def _kill(self, what: str, pick: int) -> None:
        first = 1 if what == "child" else 0

        def alive(task: Task) -> list[Process]:
            return [process for process in task.processes if process.alive][first:]

        tasks = self._soon(lambda: [task for task in self.slurm.working() if alive(task)])
        if tasks:
            self.world.note(f"kill: {what}")
            alive(tasks[pick % len(tasks)])[0].send(signal.SIGKILL)

    def _job_killed(self, at: int) -> None:
        self.world.job_kills.append(at)

    def _job_disk(self, error: str, after: int, calls: int) -> None:
        self.world.job_faults.append(DiskFault(error, after, calls))

    def _stage(self, what: str | None = None, stage: str = "") -> None:
        self.world.told = {("*", stage): what} if what else {}
        if what in ("slow", "deaf"):
            self.world.note(f"stages: {what}")

    def _limit(self, limit: int | None, shown: bool = True, of_account: bool = False, groups: bool = True,
               arrays: int = 1001) -> None:  # fmt: skip
        """`groups`: whether the controller tells how many jobs an account has; `arrays`: tasks of an array, at most."""
        self.slurm.array_size = arrays
        self.slurm.limit, self.slurm.limit_shown, self.slurm.changed = limit, shown, self.kernel.now
        self.slurm.form = {"of the account": of_account, "no groups": not groups} if limit is not None else {}
        if limit is not None:
            self.world.note("a limit changes")

    def _array_size(self, size: int) -> None:
        self.slurm.array_size, self.slurm.changed = size, self.kernel.now
        if size < 1001:
            self.world.note("the size of arrays changes")

    def _foreign(self, name: str, tasks: int, length: float, pick: int) -> None:
        self.world.note("foreign jobs")
        self.slurm.foreign(("alice", "alice", "carol")[pick % 3], name, tasks, length)

    def _clock(self, host: str, seconds: float) -> None:
        self.world.note("a clock is off")
        self.world.offsets[host] = seconds

    def _remove(self, what: str) -> None:
        output = self.world.output
        if what == "ledger" and (output / "ledger.db").exists() and not any(p.alive for p in self.running):
            (output / "ledger.db").unlink()
            self.world.note("removed: ledger")
        elif what == "logs" and (self.world.folder / "slurm_logs").exists():
            self.world.explained |= set(os.listdir(self.world.folder / "slurm_logs"))
            shutil.rmtree(self.world.folder / "slurm_logs")
            self.world.note("removed: logs")
        elif what in ("cache", "requests") and (output / what).exists():
            shutil.rmtree(output / what)
            self.world.note(f"removed: {what}")
        elif what == "lock":
            self._remove_dead_lock()

    @property
    def _idle(self) -> bool:
        """Whether nothing is under way, and nothing may still arrive, of which the ledger tells."""
        unsettled = self.rows("submission", "state = 'intended'")
        known = (self.world.output / "ledger.db").exists()
        return known and not (self.running or self.slurm.live() or self.slurm.working() or unsettled)

    def _lose_submissions(self) -> None:
        """A person removes what looks like logs, and the ledger; and makes that again, as the message says."""
        output = self.world.output
        if self._idle and (output / "submissions").exists() and (output / "ledger.db").exists():
            shutil.rmtree(output / "submissions")
            (output / "ledger.db").unlink()
            self.world.note("removed: submissions")
            self._command(["rebuild"], 0, 0)

    def _lose_run(self, pick: int) -> None:
        """A person removes a run, which is done again by a `submit` alone."""
        runs = sorted((self.world.output / "runs").glob("*"))
        if self._idle and runs:
            self.lose(runs[pick % len(runs)])

    def lose(self, run: Path) -> None:
        shutil.rmtree(run)
        self.world.note("removed: a run")
        self.world.notes_redone.add(run.name)
        for key in [key for key in self.world.executed if key[0] == run.name]:
            del self.world.executed[key]
        self.results = {path: text for path, text in self.results.items() if run not in path.parents}

    def _odd_site(self, profile: str) -> None:
        """A user tries a profile of which more than values may get into a script."""
        path, before = self.world.folder / "site.yaml", (self.world.folder / "site.yaml").read_text()
        path.write_text(_dumped(json.dumps(yaml.safe_load(before) | drawing.PROFILES[profile])))
        study = min(STUDIES.keys() - self.world.submitted, default="s3")
        process = self.world.command(["submit", "experiments.yaml", "--site", "site.yaml", "--yes", "--study", study])
        self.world.finish(process, OVERDUE)
        path.write_text(before)
        self.world.note("a profile is odd")
        if profile != drawing.QUOTED:
            if process.notes.get("code") == 0:
                self.world.complain(f"a profile was taken that says what is not its own:: {profile}")
            return
        self.world.submitted.add(study)
        for task in self.slurm.ran[self.sent :]:
            words = [shlex.split(line, comments=True) for line in self.slurm.read(task.script).splitlines()]
            if any("touch" in of_line for of_line in words):
                self.world.complain(f"a value of a profile is a command in a script:: {task.script}")

    def _remove_dead_lock(self) -> None:
        """As the message tells a person to: if the machine of its holder has died."""
        lock = self.world.output / "ledger.lock"
        if lock.exists() and not any(process.alive for process in self.running):
            lock.unlink()
            self.world.note("removed: a dead lock")

    def _spoil(self, what: str, pick: int, text: str) -> None:
        output = self.world.output
        patterns = {"answer": "submissions/*/answer.json", "request": "requests/*.json",
                    "heartbeat": "runs/*/stages/*/*/heartbeat.json"}  # fmt: skip
        if what == "lock":
            found = [output / "ledger.lock"] if output.exists() and not any(p.alive for p in self.running) else []
        else:
            found = sorted(output.glob(patterns[what]))
        if found:
            found[pick % len(found)].write_text(text)
            self.world.note(f"spoilt: {what}")
            if what == "lock":
                self.world.removed.add("lock")

    def _odd_folder(self, name: str) -> None:
        self.world.note("a folder's name is odd")
        words = ["submit", "experiments.yaml", "--site", "site.yaml", "--yes", "--log-dir", name]
        process = self.world.command([*words, "--study", sorted(STUDIES)[0]])
        self.world.finish(process)
        if any(name in task.script for task in self.slurm.ran):
            self.world.complain("a folder whose name SLURM would fill in was taken:: " + name)

    def _read_only(self, on: bool) -> None:
        if on and self.world.output.exists():
            self.world.note("the disk is read-only")
        self.world.read_only = on

    # -- what must hold at each step

    def look(self) -> None:
        for process in [process for process in self.running if not process.alive]:
            self.running.remove(process)
            self.ended(process)
        self._check_sent()
        named, self.world.named[:] = list(dict.fromkeys(self.world.named)), []
        self._check_verdicts([Path(path) for path in named if path.endswith("/verdict.json")])
        self._check_results([Path(path) for path in named if path.endswith("/result.json")])
        self._check_answers([Path(path) for path in named if path.endswith("/answer.json")])
        self._check_jobs()

    def ended(self, process: Process) -> None:
        """A command has ended: how?"""
        world, notes = self.world, process.notes
        said = process.output.getvalue()
        world.log.append(f"    {process.name} -> {notes.get('code', 'killed')} {said[-300:]!r}")
        self.check_gone(process, said)
        if process.tracebacks:
            world.complain(f"traceback of a command:: {process.name}: {process.tracebacks[0][-1500:]}")
        if notes.get("killed"):
            world.note("a command is killed")
            return
        code = notes.get("code")
        if code not in (0, 2, 3):
            world.complain(f"exit code {code}:: {process.name}: {said[-500:]}")
        if code == 3 and not (notes["silent"] or any(words in said for words in UNSETTLED)):
            world.complain(f"exit code 3, and SLURM answered:: {process.name}: {said[-500:]}")
        if code == 2 and "did not answer" in said:
            world.complain(f"exit code 2, and SLURM did not answer:: {process.name}: {said[-500:]}")
        if notes["faulted"] or "ledger.lock" in said:
            return
        if world.read_only and process.name.startswith("status") and code == 2 and "no ledger" not in said:
            world.complain(f"status says nothing where it may only read:: {said[-500:]}")
        if refused := notes.get("refused"):
            lasting = any(words in refused for words in ("BillingMinutes", "to cluster"))
            if not notes["silent"] and code != (2 if lasting else 0):
                world.complain(f"exit code {code} after a refusal:: {process.name}: {refused} {said[-500:]}")
            for reason in ("AssocGrpBillingMinutes", "QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit"):
                if reason in refused and reason not in said and "Unable to contact" not in refused:
                    world.complain(f"the reason of a refusal is not told:: {process.name}: {refused} {said[-500:]}")
            self.refused = True
        elif (
            " for room: " in said and self.slurm.limit is None and notes["began"] >= self.slurm.changed
            and not self.refused and not notes["silent"]
        ):  # fmt: skip
            world.complain(f"something waits for room, and there is no limit:: {process.name}: {said[-500:]}")
        if process.name == "status" and code == 0 and not notes["silent"] and self.may_look(notes):
            self._check_shown(process, said)

    def may_look(self, notes: dict[str, Any]) -> bool:
        """Whether what a `status` has shown may be held against the world as it is now."""
        return not notes.get("beside") and self.slurm.controller and not self.world.read_only

    def _check_shown(self, process: Process, said: str) -> None:
        """What waits for a person is said to, and nothing else is."""
        counts = self.world.counts
        behind = (
            counts["accounting: late"]
            or counts["accounting: away"]
            or any(task.forgotten or task.purged for task in self.slurm.ran)
        )
        self.check_blocked(said)
        if "accounting calls it alive" in said and not behind:
            self.world.complain(f"status does not know of a job that SLURM has:: {said}")
        for task in self.slurm.live():
            if task.user == process.user and task.state == "PENDING" and not task.elsewhere and self._known(task):
                words = {"JobHeldUser": "held by you", "job requeued in held state": "held after a requeue",
                         "ReservationDeleted": "its reservation is there no longer"}.get(task.reason, "")  # fmt: skip
                if words not in said and not self.slurm.form.get("state"):
                    self.world.complain(f"status does not tell why a job waits:: {task.key} {task.reason}: {said}")

    def _known(self, task: Task) -> bool:
        """Whether the ledger has something of a job that is open."""
        rows = self.rows("attempt", f"submission_id = '{task.submission}' AND status IN ('submitted', 'running')")
        return any(row["pack_index"] == (task.index or 0) for row in rows)

    def _folder(self, task: Task) -> Path:
        """Of its submission, which may be a calibration's."""
        roots = (self.world.output, self.world.output / "probe")
        folders = [root / "submissions" / task.submission for root in roots]
        return next((folder for folder in folders if (folder / "submission.json").exists()), folders[0])

    def _items(self, task: Task) -> list[dict[str, Any]]:
        """What a task does or is to do: what it was planned to and no other has taken, and what it has pulled."""
        folder = self._folder(task)
        try:
            packs = json.loads((folder / "submission.json").read_text())["packs"]
        except (OSError, ValueError, KeyError):
            return []
        return [
            item for index, pack in enumerate(packs) for item in pack
            if _taken(folder / "taken" / f"{item['run_id']}.json", index) == (task.index or 0)
        ]  # fmt: skip

    def _check_sent(self) -> None:
        """Of each job that SLURM took: is it as the profile says, and may it be asked for?"""
        for task in self.slurm.ran[self.sent :]:
            if task.name != f"tt-{task.comment}" or task.partition != "compute" or task.minutes < 2:
                self.world.complain(
                    f"a job is not what submit has printed:: {task.name} {task.partition} {task.minutes}"
                )
            if "wckey" in task.options:
                self.world.complain(f"a job has a wckey that nobody asked for:: {task.name}")
            if not task.requeue:
                self.world.complain(f"a job is not to be requeued:: {task.name}")
            path = self._folder(task) / "submission.json"
            if not path.exists():
                self.world.complain(f"a job has no intent on disk:: {task.name}")
                continue
            if json.loads(path.read_text()).get("asked_by") == "tick":
                for item in self._items(task):
                    if self._was_cancelled(item["run_id"], task) and not self._ended_by_itself(item):
                        self.world.complain(f"tick does again what was cancelled by hand:: {item['run_id']} {task.key}")
            self.check_choices_of(task)
            self.check_teacher_of(task, path)
        self.sent = len(self.slurm.ran)

    def _was_cancelled(self, run_id: str, now: Task) -> bool:
        """Whether the last job of a run was cancelled by a person before it had begun, and nobody has asked for the run
        since: what `submit` and `rerun` did not come to is the next `tick`'s."""
        earlier = [
            task for task in self.slurm.ran[: self.slurm.ran.index(now)]
            if task.submission != now.submission and any(item["run_id"] == run_id for item in self._items(task))
        ]  # fmt: skip
        last = earlier[-1] if earlier else None
        if not (last and last.cancelled_by_hand and last.cancelled_while_pending and not last.forgotten):
            return False
        return not any(self._asks_for(run_id, command) for command in self.world.commands
                       if command.notes["began"] > (last.ended or 0.0))  # fmt: skip

    def _asks_for(self, run_id: str, command: Process) -> bool:
        words, planned = command.notes["words"], self.world.planned
        if words[0] == "submit":  # a follow-up may come to ask for any run
            asked = {run.id for name in planned.keys() & words for run in planned[name]}
            return run_id in asked or not FOLLOW_UPS.keys().isdisjoint(words)
        return words[0] == "rerun" and ("--failed" in words or run_id in words)

    def _ended_by_itself(self, item: dict[str, Any]) -> bool:
        """Whether the first of its stages failed before, and said so itself before anybody judged it: in a life of its
        job that SLURM had lost sight of. Then the rule of what it says counts, whoever has cancelled the job."""
        stage, number = item["stages"][0]
        before = self.world.output / "runs" / item["run_id"] / "stages" / stage / str(number - 1)
        return (before / "result.json").exists() and not (before / "verdict.json").exists()

    def _check_verdicts(self, named: Sequence[Path]) -> None:
        """A job that lives is not judged."""
        for path in named:
            try:
                verdict = json.loads(path.read_text())
            except ValueError:
                continue
            stage, number, run = path.parts[-3], int(path.parts[-2]), path.parts[-5]
            result = path.parent / "result.json"
            there = result.exists() and result.stat().st_mtime < path.stat().st_mtime - 5
            if verdict["status"] == "failed" and there and "is there but" not in verdict["message"]:
                self.world.complain(f"what has its result is judged:: {verdict} {path}")
            for task in self.slurm.ran:
                if task.forgotten or task.elsewhere or not task.live or task.state == "PENDING" and task.restart:
                    continue
                if not any(item["run_id"] == run and [stage, number] in item["stages"] for item in self._items(task)):
                    continue
                claim = path.parent / "claim.json"
                restart = json.loads(claim.read_text())["restart"] if claim.exists() else 0
                if verdict["status"] == "failed" and restart == task.restart and task.state in ("PENDING", "RUNNING"):
                    self.world.complain(f"a living job is judged:: {task.key} {task.state} {verdict} {path}")

    def _check_answers(self, named: Sequence[Path]) -> None:
        """What SLURM has is not given up, and what it is said to have has a number."""
        for path in named:
            try:
                answer = json.loads(path.read_text())
            except ValueError:
                continue
            if answer["state"] == "submitted" and not answer["job_id"]:
                self.world.complain(f"a submission has no number:: {path}")
            for task in self.slurm.live():
                if answer["state"] == "void" and task.submission == path.parent.name and not task.elsewhere:
                    self.world.complain(f"a submission is given up, and SLURM has its job:: {task.key} {path}")

    def _check_results(self, named: Sequence[Path]) -> None:
        """A result that is there stays as it is."""
        for path in named:
            text = path.read_bytes()
            if self.results.setdefault(path, text) != text:
                before, now = json.loads(self.results[path]), json.loads(text)
                if before["status"] == "completed" or now["status"] != before["status"]:
                    self.world.complain(f"a result was overwritten:: {path}: {before['status']} -> {now['status']}")
                self.results[path] = text

    def _check_jobs(self) -> None:
        for task in self.slurm.ran:
            for process in task.processes:
                if process.tracebacks:
                    self.world.complain(f"traceback of a job:: {process.name}: {process.tracebacks[0][-1500:]}")
            if task.restart and task.processes and NOTHING in task.processes[0].output.getvalue():
                file = self._folder(task) / f"task-{task.index or 0}.json"
                if file.exists() and json.loads(file.read_text())["job"] == task.key:
                    self.world.complain(f"a requeued job does nothing:: {task.key} {file.read_text()}")
            if task.failed_to_begin and task.submission not in self.world.explained:
                self.world.complain(f"a job could not begin:: {task.key}: {task.failed_to_begin}")

    # -- the end

    def calm(self) -> None:
        """Nothing goes wrong any more; what is under way comes to its end."""
        world, slurm = self.world, self.slurm
        world.log.append("calm")
        world.environment, world.manners, world.told, world.offsets = {}, {}, {}, {}
        world.job_faults, world.job_kills = [], []
        world.read_only = False
        self._restore()
        slurm.form, slurm.limit, slurm.array_size, slurm.controller = {}, None, 1001, True
        slurm.changed = self.kernel.now
        self._accounting(up=True)
        self._nodes(up=True)
        self._release()
        for process in self.kernel.processes.values():
            process.faults = []
        for process in list(self.running):
            world.finish(process, OVERDUE)
            if process.alive:
                world.complain(f"a command does not end:: {process.name}")
        self.look()

    def do(self, *words: str, user: str = "alice") -> Process:
        process = self.world.command(list(words), user, pace=0.0)
        self.running.append(process)
        self.world.finish(process, OVERDUE)
        said = process.output.getvalue()
        if process.notes.get("code") == 2 and "holds the ledger" in said:
            self._remove_dead_lock()
        elif process.notes.get("code") == 2 and "there is no ledger" in said and "rebuild" in said:
            if words[:2] != ("ledger", "rebuild"):
                self.look()
                self.do("ledger", "rebuild", user=user)
        elif found := re.search(r"or train (?:it )?again: `rerun (--stage pretrain --run (\w+))`", said):
            self.train_again(found[2])
            self.do("rerun", *found[1].split(), "--yes", "--site", "site.yaml", user=user)
        elif process.notes.get("code") == 2 and not any(text in said for text in EXPECTED):
            self.world.complain(f"refused in a calm world:: {process.name}: {said[-600:]}")
        self.look()
        return process

    def finish(self) -> None:
        """The user looks, gives `tick`, and asks again for what no rule tries again, until all is completed."""
        world = self.world
        if not world.submitted:
            return
        studies = [word for name in sorted(world.submitted) for word in ("--study", name)]
        users = sorted({process.user for process in world.commands} | {"alice"})
        asked = 0
        where = ["--site", "site.yaml"] if world.counts["removed: submissions"] else []
        if world.counts["removed: a run"] or world.counts["the manifest is edited"]:  # `submit` alone sees it
            self.do("submit", "experiments.yaml", "--site", "site.yaml", "--yes", *studies)
        for number in range(ROUNDS):
            before = len(self.slurm.ran)
            busy = {item["run_id"] for task in self.slurm.live() for item in self._items(task)}
            given = [self.do("tick", user=user) for user in users]
            self._pass(100 if number < 3 else 1200)  # a limit that nobody can read is believed for an hour
            self.kernel.advance(self.kernel.now + 300, lambda: not self.slurm.live())
            statuses = self.statuses()
            if world.violations or (statuses == {"completed"} and not self.slurm.live()):
                return
            if len(self.slurm.ran) > before:
                continue
            told = "".join(process.output.getvalue() for process in given)
            if overdue := self._overdue(given[0].notes["began"], busy):
                if not any(words in told for words in KEPT):
                    world.complain(f"tick leaves what it is to try again:: {overdue} {told}")
                shown = self.do("status", "--failed").output.getvalue() if GONE in told else LEFT
                if LEFT not in shown and UNASKED not in shown:
                    world.complain(f"status says that tick does what it leaves:: {overdue} {told} {shown}")
            if asked == 3:  # accounting calls some alive that never ended for it: the user is told to cancel them
                for user in users:
                    self.do("cancel", "--all", "--yes", user=user)
            if asked and world.counts["the manifest is edited"]:
                self.check_asked_for()
                self.submit_as_before(studies)
            self.do("submit", "experiments.yaml", "--site", "site.yaml", "--yes", *studies)
            if asked:
                self.do("rerun", "--failed", "--yes", *where)
            asked += 1
        left = {(row["status"], row["cause"]) for row in self.rows("attempt") if row["status"] != "completed"}
        shown = [dict(row) for row in self.rows("newest_attempt") if row["status"] != "completed"]
        world.complain(f"not completed at the end, {sorted(map(str, left))}:: {statuses} {shown}")

    def _overdue(self, then: float, busy: Collection[str]) -> list[dict[str, Any]]:
        """The failed stage runs whose rule said, at that time, to try them again by then, and that need no other
        that has failed; not of runs that were busy with other stages."""
        failed = [key_of(row) for row in self.rows("newest_attempt", "status = 'failed'")]
        stages = {(run_id, stage) for run_id, stage, _ in failed}
        failed = [key for key in failed if not any((key[0], need) in stages for need in needed_by([key[1]]))]
        decided = self.rows("decision", f"action = 'retry' AND time < {then} AND due < {then}")
        return [row for row in decided if key_of(row) in failed and row["run_id"] not in busy]

    def statuses(self) -> set[str]:
        found = set()
        for row in self.rows("run"):
            found |= set(row["statuses"].split(","))
        wanted = self.wanted()
        return found if wanted and wanted <= {row["id"] for row in self.rows("run")} else {*found, "missing"}

    def wanted(self) -> set[str] | None:
        """The runs that were asked for; None: some of them are still to be chosen."""
        chosen = self.wanted_by_choices()
        if chosen is None:
            return None
        return chosen | {run.id for name in self.world.submitted for run in self.world.planned[name]}

    def rows(self, table: str, where: str = "1") -> list[dict[str, Any]]:
        path = self.world.output / "ledger.db"
        if not path.exists():
            return []
        with closing(seams().disk.connections.take(path)) as db:
            if not db.execute(f"SELECT 1 FROM sqlite_master WHERE name = '{table}'").fetchall():
                return []  # whoever was to make the tables was killed
            found = db.execute(f"SELECT * FROM {table} WHERE {where}")
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]

    def check_the_end(self) -> None:
        if not self.world.submitted:
            return
        users = sorted({process.user for process in self.world.commands} | {"alice"})
        for user in users:
            self.do("status", user=user)
        complain = self.world.complain
        known = {(row["run_id"], row["stage"], row["number"]) for row in self.rows("attempt")}
        for run, stages in of_each(f"{self.world.output}/runs", "stages"):
            for stage, path in of_each(stages):
                completed = sum('"completed"' in result.read_text() for result in files_in(path, "result.json"))
                if completed != 1 and run not in self.world.notes_redone:
                    complain(f"completed {completed} times:: {run} {stage}")
                executed, claims = self.world.executed[run, stage], files_in(path, "claim.json")
                if executed > len(claims) or executed < completed:
                    complain(f"executed {executed} times, completed {completed} in {len(claims)} attempts:: {path}")
                for claim in claims:
                    if (run, stage, int(claim.parts[-2])) not in known:
                        complain(f"an attempt is not in the ledger:: {claim}")
        if self.world.counts["spoilt: answer"] or self.world.counts["removed: a run"]:
            return  # what they said is in no file any more
        before = self.contents()
        self.do("ledger", "rebuild")
        after = self.contents()
        for table in before:
            for where, some, others in (("before", before, after), ("rebuilt", after, before)):
                for row in some[table]:
                    if row not in others[table]:
                        complain(f"the rebuilt ledger differs in {table}:: only {where}: {row}")

    def contents(self) -> dict[str, list[str]]:
        """All rows but what only says when something was looked at."""
        tables = [row["name"] for row in self.rows("sqlite_master", "type = 'table'")]
        return {
            table: sorted(json.dumps(row | {"progress": None}, sort_keys=True) for row in self.rows(table)
                          if row.get("runs") != 0)
            for table in tables if table != "meta" and not table.startswith(("sqlite_", "_"))
        }  # fmt: skip


def _taken(file: Path, planned: int) -> int:
    """The pack whose task has a run."""
    try:
        return int(json.loads(file.read_text())["pack"])
    except FileNotFoundError:
        return planned


@functools.cache
def _dumped(profile: str) -> str:
    """As YAML what is given as JSON."""
    return yaml.safe_dump(json.loads(profile))


NOTHING = "is another task's; nothing to do"
LEFT = "left alone by `tick`"
UNASKED = "nothing asks for them any more"
GONE = "left alone, since the files of their submissions are gone"
KEPT = (
    "there is no ledger",
    "was given at",
    "failed alike",
    "left alone",
    "`tick` goes on then",  # what is to be tried again waits for its teacher
    " for room: ",
    "no submission there says where to",
    "holds the ledger",
    "it may still arrive",  # a submission whose answer was lost: nothing is submitted until that is settled
)
UNSETTLED = ("never answered", "may still arrive", "What follows is its last state")
EXPECTED = (
    "Left alone: do it again then",  # what it waits for may be alive for accounting alone, until it is cancelled
    "who alone can cancel it",
    "failed alike",
    "Nothing was ever submitted",
    "no submission there says where to",
    "there is no ledger",
    "has no runs to make a ledger of",
)


# -- shortening --------------------------------------------------------------------------------------------------------


def shorten(folder: Path, seed: int, steps: Sequence[Step], kinds: set[str], tries: int = 400) -> list[Step]:
    """Leave out steps, and what goes wrong within them, as long as one of these kinds of violation is still found."""
    kept = list(steps)

    def still(fewer: list[Step]) -> bool:
        nonlocal tries
        tries -= 1
        return bool(walk(folder, seed, fewer).kinds & kinds)

    size = max(1, len(kept) // 2)
    while size and tries > 0:
        place = 0
        while place < len(kept) and tries > 0:
            fewer = kept[:place] + kept[place + size :]
            if still(fewer):
                kept = fewer
            else:
                place += size
        size //= 2
    for place, (name, values) in enumerate(kept):
        for key in [key for key in values if key in ("kill_at", "disk", "beside", "host", "user", "pace")]:
            fewer = [*kept]
            fewer[place] = (name, {k: v for k, v in values.items() if k != key})
            if tries > 0 and still(fewer):
                kept, values = fewer, fewer[place][1]
    return kept


def told(folder: Path, seed: int, outcome: Outcome, short: bool = True, drawn: Sequence[Step] | None = None) -> str:
    """What is printed of a walk that broke something. `drawn`: its steps, where they are not those of the seed."""
    steps = list(drawn or drawing.draw(seed))
    if short:
        steps = shorten(folder, seed, steps, outcome.kinds)
        outcome = walk(folder, seed, steps)
    lines = [f"seed {seed}: {len(steps)} steps", *outcome.violations, "replay(", f"    {seed},", "    ["]
    lines += [f"        {step!r}," for step in steps]
    return "\n".join([*lines, "    ],", ")", *outcome.log])


def replay(seed: int, steps: Sequence[Step]) -> Outcome:
    """Walk these steps; for a test that a found fault has become."""
    with installed() as folder:
        return walk(folder, seed, steps)
