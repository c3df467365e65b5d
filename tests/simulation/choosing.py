"""Follow-ups in a walk: the steps that lead to a choice and let something go wrong in it, and what must hold of each.

What is right is computed here once more, from the files that jobs have left, and not with the functions that choose."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulation.disk import DiskFault
from simulation.kernel import Process
from simulation.world import EDITS, FOLLOW_UPS, World, files_in, manifest

if TYPE_CHECKING:
    from simulation.batch import Task

LOOKS = 5  # ticks that a walk gives on the way to a choice


class Choosing:
    """A part of a walker."""

    world: World
    running: list[Process]

    def __init__(self, made: World) -> None:
        made.chosen = self._look_at_choices
        self.choices: dict[Path, bytes] = {}  # as each was made
        self.torn: dict[Path, bytes] = {}  # choices that somebody has spoilt
        self.edits: set[int] = set()  # as which manifests were before

    # -- steps

    def _choice(self, study: str, pick: int, kill: int = 0, disk: tuple[str, int, int] | None = None,
                paces: tuple[float, ...] = (), user: str = "alice", host: str = "login1") -> None:  # fmt: skip
        """The user gives `tick` until a choice can be made, and in the next tick something goes wrong in it; with
        `paces` others give it at the same time."""
        if not self._can_be_made(study, pick):
            return
        notes = {"killed in a choice": kill, "disk in a choice": DiskFault(*disk) if disk else None}
        self.start(["tick"], pick, user, host, beside=bool(paces), notes=notes)
        if not paces:
            return
        self.world.note("choices at once")
        for number, pace in enumerate(paces):
            self.start(["tick"], pick + number, ("alice", "bob")[number % 2], "login2", pace=pace, beside=True)
        for process in list(self.running):
            self.world.finish(process, 900.0)

    def _can_be_made(self, study: str, pick: int) -> bool:
        """Bring a follow-up so far that the next `tick` chooses, if that comes about soon; where it has chosen, with
        another manifest."""
        if study not in self.world.submitted:
            self._command(["submit", study], pick, 1)
        elif self._current(study) in self.choices:
            self._edit(pick)
        for _ in range(LOOKS):
            waiting = [plan for _, plan in self._plans(waiting=True) if plan["study"] == study]
            if not waiting or any(map(self._is_ready, waiting)):
                return bool(waiting)
            under_way = bool(self.slurm.live())
            self.kernel.advance(self.kernel.now + 60, lambda: not self.slurm.live())
            if not (under_way and any(map(self._is_ready, waiting))):
                self._command(["tick"], pick, 1)
        return False

    def _spoil_choice(self, what: str, pick: int, text: str) -> None:
        """A file of a choice is torn. A choice comes back from a backup; a plan by the next `submit`."""
        found = sorted(self.world.output.glob(f"choices/*/{what}.json"))
        if not found or any(process.alive for process in self.running):
            return
        path = found[pick % len(found)]
        if what == "choice":
            self.torn.setdefault(path, path.read_bytes())
        path.write_text(text)
        self.world.note(f"spoilt: a choice's {what}")
        self._command(["tick"], pick, 1)

    def _restore(self) -> None:
        for path, before in self.torn.items():
            path.write_bytes(before)
        self.torn.clear()

    def _source_again(self, pick: int) -> None:
        """A run by which was, or will be, chosen is done again, and has another score then."""
        world = self.world
        done = [run.id for run in world.planned["s3"] if self._scores(run.id, "pretrain")]
        if not done or not self.slurm.controller:
            return
        run = done[pick % len(done)]
        world.redone.add((run, "pretrain"))
        world.notes_redone.add(run)
        world.note("a source is done again")
        self.start(["rerun", "--stage", "pretrain", "--run", run, "--yes"], pick)
        self.kernel.advance(self.kernel.now + 60, lambda: not self.slurm.live())
        process = self.start(["status"], pick)
        chose = [json.loads(text) for path, text in self.choices.items() if path not in self.torn]
        told = {each["run_id"]: each["value"] for one in chose for ranked in one["ranked"] for each in ranked["scores"]}
        scores = self._scores(run, "pretrain", process.notes["began"])
        shown = process.output.getvalue()
        surely = process.notes.get("code") == 0 and not process.notes["faulted"] and self.may_look(process.notes)
        again = self.rows("newest_attempt", f"run_id = '{run}' AND stage = 'pretrain' AND status != 'completed'")
        if surely and not again and run in told and scores[-1] != told[run] and "The choice stands" not in shown:
            world.complain(f"status does not say that what has chosen is another now:: {run} {scores} {shown}")

    def _edit(self, pick: int) -> None:
        """The manifest asks another question of f0, and so another of f1, and is submitted."""
        self.edits.add(self.world.edited)
        self.world.edited = (self.world.edited + 1 + pick % (len(EDITS) - 1)) % len(EDITS)
        (self.world.folder / "experiments.yaml").write_text(manifest(self.world.edited))
        self.world.note("the manifest is edited")
        self._command(["submit", *sorted({"f0"} | self.world.submitted & FOLLOW_UPS.keys())], pick, 1)

    # -- what must hold

    def _plans(self, waiting: bool = False) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The plans of choices; `waiting`: of those that a request waits for."""
        for path in files_in(self.world.output / "choices", "plan.json"):
            asked = self.world.output / "requests" / f"{path.parent.name}.json"
            if waiting and ((path.parent / "choice.json").exists() or not asked.exists()):
                continue
            if plan := read(path):
                yield path, plan

    def _scores(self, run: str, stage: str, before: float = float("inf")) -> list[float]:
        """What the attempts of a stage run scored that completed before that time, the last one last."""
        found = []
        for path in files_in(self.world.output / "runs" / run / "stages" / stage, "result.json"):
            result = read(path)
            if result and result["status"] == "completed" and path.stat().st_mtime < before:
                found += [(int(path.parent.name), score["value"]) for score in result["outcome"]["scores"]]
        return [value for _, value in sorted(found)]

    def _done_again(self, run: str) -> bool:
        """Whether the newest attempt of one of its stages has not completed: what was scored before counts no more."""
        stages = self.world.output / "runs" / run / "stages"
        newest = {each.parent: max(each.parent.iterdir(), key=lambda path: int(path.name))
                  for each in stages.glob("*/*")}  # fmt: skip
        return any((read(attempt / "result.json") or {}).get("status") != "completed" for attempt in newest.values())

    def _candidates(self, plan: dict[str, Any]) -> list[int] | None:
        """The numbers of the candidates that are there; None: a choice that comes before is not made."""
        known = {}
        for source in plan["rule"]["sources"]:
            if source["choice"]:
                path = self.world.output / "choices" / source["choice"] / "choice.json"
                if path not in self.choices:
                    return None
                ranked = json.loads(self.choices[path])["ranked"]
                known[source["study"]] = {each["number"] for each in ranked if each["chosen"]}
        return [
            number for number, each in enumerate(plan["candidates"])
            if each["before"] is None or each["before"] in known[each["study"]]
        ]  # fmt: skip

    def _is_ready(self, plan: dict[str, Any]) -> bool:
        numbers = self._candidates(plan)
        return numbers is not None and all(
            self._scores(run["run_id"], plan["rule"]["stage"])
            for number in numbers for run in plan["candidates"][number]["runs"]
        )  # fmt: skip

    def _look_at_choices(self, process: Process) -> None:
        """A command has looked at choices: each is made once, and as the scores say."""
        there = {path: path.read_bytes() for path in files_in(self.world.output / "choices", "choice.json")}
        new, self.choices = there.keys() - self.choices.keys(), there | self.choices
        for path, text in self.choices.items():
            if path in new:
                self._check_choice(path, json.loads(text), process)
            elif there.get(path) != text and path not in self.torn:
                self.world.complain(f"a choice has changed:: {path}: {text!r} -> {there.get(path)!r}")

    def _check_choice(self, path: Path, choice: dict[str, Any], process: Process) -> None:
        plan, began = read(path.with_name("plan.json")), process.notes["began"]
        assert plan
        rule, candidates, complain = plan["rule"], plan["candidates"], self.world.complain
        if sorted(each["number"] for each in choice["ranked"]) != self._candidates(plan):
            complain(f"what was chosen from is not what there was:: {path} {choice}")
        for each in choice["ranked"]:
            runs = [run["run_id"] for run in candidates[each["number"]]["runs"]]
            known = {run: self._scores(run, rule["stage"]) for run in runs}
            if "left_out" in each:
                surely = all(self._scores(run, rule["stage"], began) and not self._done_again(run) for run in runs)
                if rule["failed"] != "leave_out" or (surely and not process.notes["faulted"]):
                    complain(f"what has scores was left out:: {path} {each} {known}")
                continue
            told = {score["run_id"]: score["value"] for score in each["scores"]}
            if self.world.counts["removed: a run"]:  # whose score the ledger alone has
                continue
            if told.keys() != set(runs) or any(value not in known[run] for run, value in told.items()):
                complain(f"it was chosen by what nobody scored:: {path} {each} {known}")
            for run in runs:
                before = self._scores(run, rule["stage"], began)
                if before == known[run] and told.get(run) != before[-1] and not process.notes["faulted"]:
                    complain(f"it was chosen by an old score:: {path} {each} {known}")
        ranked = [each for each in choice["ranked"] if "left_out" not in each]

        def place(each: dict[str, Any]) -> tuple[Any, ...]:
            candidate = candidates[each["number"]]
            mean = statistics.fmean(score["value"] for score in each["scores"])
            return round(mean, 9), candidate["parameters"], candidate["label"]  # the lowest loss first

        best = [each["number"] for each in sorted(ranked, key=place)[: rule["best"]]]
        chosen = [each["number"] for each in choice["ranked"] if each["chosen"]]
        if chosen != best:
            complain(f"not the best was chosen:: {path} {best} {choice}")
        runs_of = [run["run_id"] for number in chosen for made in candidates[number]["into"] for run in made["runs"]]
        if choice["runs"] != runs_of:
            complain(f"other runs come of a choice than were planned:: {path} {runs_of} {choice}")
        means = [place(each)[0] for each in ranked]
        if len(set(means)) < len(means):
            self.world.note("scores are equal")

    def check_choices_of(self, task: Task) -> None:
        """What may be chosen is submitted once it was, and what was not is not."""
        plans = [plan for _, plan in self._plans()]
        possible = {run["run_id"] for plan in plans for each in plan["candidates"] for made in each["into"]
                    for run in made["runs"]}  # fmt: skip
        chosen = set(itertools.chain.from_iterable(json.loads(text)["runs"] for text in self.choices.values()))
        for item in self._items(task) if possible else ():
            if item["run_id"] in possible - chosen:
                self.world.complain(f"what nobody chose is submitted:: {item['run_id']} {task.key}")

    def wanted_by_choices(self) -> set[str] | None:
        """The runs that come of the choices that the manifest, as it is, asks for; None: one of them is not made."""
        found: set[str] = set()
        for study in sorted(self.world.submitted & FOLLOW_UPS.keys()):
            path = self._current(study)
            if path is None or path not in self.choices:
                return None
            found |= set(json.loads(self.choices[path])["runs"])
        return found

    def check_asked_for(self) -> None:
        """What was chosen is asked for, whatever the manifest asks by now, unless somebody has taken that back, or what
        says so is gone."""
        world = self.world
        taken_back = any(process.notes["words"][0] == "cancel" for process in world.commands)
        if self.refused or taken_back or any(world.counts[reason] for reason in FORGOTTEN):
            return
        chosen = set(itertools.chain.from_iterable(json.loads(text)["runs"] for text in self.choices.values()))
        left = {row["id"] for row in self.rows("run") if "eligible" in row["statuses"].split(",")} & chosen
        asked = [read(path) or {} for path in (world.output / "requests").glob("*.json")]
        left -= {row["run_id"] for row in self.rows("attempt")}  # `tick` goes on as it went
        if left - set(itertools.chain.from_iterable(request.get("runs", ()) for request in asked)):
            world.complain(f"nobody asks for what was chosen:: {left} {asked}")

    def submit_as_before(self, studies: list[str]) -> None:
        """With the manifests by which something was chosen that nobody has submitted: sbatch has refused it, or the
        request was removed, and the manifest does not ask for it any more. Where a plan is torn, with all."""
        world, now = self.world, self.world.edited
        torn = any(read(path) is None for path in files_in(world.output / "choices", "plan.json"))
        for edit in range(len(EDITS)):
            world.edited = edit
            was = edit in self.edits and torn or any(self._current(study) in self.choices for study in FOLLOW_UPS)
            if edit != now and was:
                (world.folder / "experiments.yaml").write_text(manifest(edit))
                self.do("submit", "experiments.yaml", "--site", "site.yaml", "--yes", *studies)
        world.edited = now
        (world.folder / "experiments.yaml").write_text(manifest(now))

    def _current(self, study: str) -> Path | None:
        """Where the choice is, or will be, by which a follow-up of the manifest as it is has its runs."""
        before = self._current("f0") if study == "f1" else None
        for path, plan in self._plans():
            rule, seeds = plan["rule"], {run["seed"] for each in plan["candidates"] for run in each["into"][0]["runs"]}
            by = [source["choice"] for source in rule["sources"] if source["choice"]]
            if plan["study"] == study and (
                by == [before.parent.name] if before else (rule["best"], *seeds) == EDITS[self.world.edited]
            ):
                return path.with_name("choice.json")
        return None


FORGOTTEN = (
    "removed: requests",
    "removed: a run",
    "removed: submissions",
    "spoilt: request",
    "spoilt: a choice's plan",
)


def read(path: Path) -> dict[str, Any] | None:
    """A file's value; None: there is none, or it is spoilt."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value else None
