"""Make the choices of follow-ups: a `submit` plans them, and `tick` makes each once its sources are complete.

What waits is a request that names a choice (`requests/<id>.json`), and what was chosen is a file that is created once.
Whoever is killed in between leaves a request that the next `tick` goes on with, and a choice that stands. A choice is
made when each candidate has a score from each of its seeds; a cell that failed holds it up, or is left out, as the
follow-up's `from.failed` says, once no retry rule tries it again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from cluster.console import console, count, some
from cluster.errors import TinyError
from cluster.files import documents, whole_files
from cluster.files.choices import CandidateTold, ChoiceFile, ChoicePlan, RuleTold
from cluster.files.documents import RequestFile, SourceOfWork
from cluster.files.folders import OutputRoot
from cluster.files.records import Run, StudyRecord, key_of
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.ledger.runs import first_unknown
from cluster.plan import choice_words, choosing, expansion, following, ranking
from cluster.plan.ranking import Scores
from cluster.reconcile import session
from cluster.reconcile.opened import read_whole
from cluster.slurm import environment
from cluster.submit import earlier
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.stages import STAGES, needed_by

ROUNDING = 1e-9  # between a score and the same from its rows


@dataclass(frozen=True)
class Known:
    """The follow-ups of a submission: how each is to choose, and what was chosen."""

    plans: Mapping[str, ChoicePlan] = field(default_factory=dict)  # by the id of the choice
    made: Mapping[str, ChoiceFile] = field(default_factory=dict)

    @property
    def waiting(self) -> dict[str, ChoicePlan]:
        return {choice_id: plan for choice_id, plan in self.plans.items() if choice_id not in self.made}

    @property
    def runs(self) -> list[Run]:
        """Those that were chosen."""
        found = (following.runs(plan, following.chosen_cells(plan, self.made[choice_id]))
                 for choice_id, plan in self.plans.items() if choice_id in self.made)  # fmt: skip
        return expansion.merged(run for runs in found for run in runs)

    @property
    def possible(self) -> list[Run]:
        """Those that may be chosen still."""
        found = (following.runs(plan, following.all_cells(plan)) for plan in self.waiting.values())
        return expansion.merged(run for runs in found for run in runs)

    def about(self, records: Iterable[StudyRecord]) -> list[StudyRecord]:
        """What is to be recorded of studies: these, and the follow-ups as far as they are known."""
        found = {record.name: record for record in records}
        for choice_id, plan in self.plans.items():
            record = following.study_record(plan, self.made.get(choice_id))
            if record.runs:
                found[record.name] = record
        return list(found.values())


NONE = Known()


def known(output_root: OutputRoot, plans: Mapping[str, ChoicePlan]) -> Known:
    """What was chosen of these, by the files: of the same question the answer stands."""
    found = {choice_id: documents.read(output_root.choice(choice_id).choice, ChoiceFile) for choice_id in plans}
    return Known(plans, {choice_id: choice for choice_id, choice in found.items() if choice})


def ask(output_root: OutputRoot, of: Known, source: SourceOfWork) -> None:
    """Write the plans of these follow-ups, and a request for each whose choice is not made. It takes the place of what
    the same study, with the same --set, asked before, unless that is made: then its runs are still to be asked for."""
    if not of.plans:
        return
    for choice_id, plan in of.plans.items():
        directory = output_root.choice(choice_id)
        if plan_of(output_root, choice_id) != plan:
            whole_files.write_json(directory.plan, plan, indent=None)
        if choice_id in of.waiting:
            request: RequestFile = {**source, "runs": [], "choice": choice_id}
            whole_files.write_json(output_root.request(choice_id), request)
    asked = {choice_words.title(plan) for plan in of.plans.values()}
    for path, _, choice_id in waiting(output_root):
        other, made = plan_of(output_root, choice_id), output_root.choice(choice_id).choice.exists()
        if choice_id not in of.plans and not made and other and choice_words.title(other) in asked:
            path.unlink(missing_ok=True)


def waiting(
    output_root: OutputRoot, problems: list[TinyError] | None = None
) -> Iterator[tuple[Path, RequestFile, str]]:
    """The requests that wait for a choice, each with the choice's id. `problems`: as of `earlier.asked_for`."""
    for path, request in earlier.asked_for(output_root, lambda path: read_whole(path, RequestFile, []), problems):
        if choice_id := request.get("choice"):
            yield path, request, choice_id


def plan_of(output_root: OutputRoot, choice_id: str) -> ChoicePlan | None:
    """How a choice is to be made; None: its file is gone or torn."""
    return read_whole(output_root.choice(choice_id).plan, ChoicePlan, [])


# -- tick -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Went:
    """How many choices waited, how many of them were made, and of which the disk did not give or take a file: of these
    one may be a request for anything."""

    looked_at: int
    made: int
    problems: tuple[TinyError, ...] = ()


def go_on(ledger: Ledger, output_root: OutputRoot, paused: Collection[str] = ()) -> Went:
    """Make the choices that can be made now, and ask for their runs; says what was chosen, and what the others wait
    for. Those of users who gave `cancel --all` (`paused`) wait."""
    made, problems = 0, list[TinyError]()
    requests = [each for each in waiting(output_root, problems) if each[1].get("user") not in paused]
    for path, request, choice_id in requests:
        try:
            made += _goes_on(ledger, output_root, path, request, choice_id)
        except OSError as error:  # as if it had been killed there: what was chosen stands, and all else goes on
            told = f"{output_root.choice(choice_id).path}: {error}. Nothing is lost: the next `tick` looks at it again."
            problems.append(TinyError(told))
    return Went(len(requests), made, tuple(problems))


def _goes_on(ledger: Ledger, output_root: OutputRoot, path: Path, request: RequestFile, choice_id: str) -> bool:
    """Make a choice if it can be made, and turn its request into one of the runs that were chosen; whether it was."""
    if (plan := plan_of(output_root, choice_id)) is None:
        manifest = (request.get("manifest") or {}).get("name", "its manifest")
        told = (
            f"{output_root.choice(choice_id).plan}: cannot be read, so nothing is chosen, or comes of what was: "
            f"`submit` {manifest} again, as it was on {choice_words.minute(request['created'])}. If nobody asks for "
            f"that any more, remove {path}."
        )
        console.print(told, style="yellow", soft_wrap=True)
        return False
    try:
        choice = _made(ledger, output_root, choice_id, plan)
    except whole_files.TornFile as torn:  # nobody chooses again what was chosen; all else goes on
        told = f"{torn}: it is a choice that was made, so nothing goes on from it. Bring the file back from a backup."
        console.print(told, style="yellow", soft_wrap=True)
        return False
    if choice is None:
        return False
    try:
        runs = following.runs(plan, following.chosen_cells(plan, choice))
    except ValidationError as error:
        told = f"{choice_words.title(plan)}: its runs have {first_unknown(error)}, which this version does not know."
        console.print(f"{told} `submit` it with the version that planned it.", style="yellow", soft_wrap=True)
        return False
    moment = session.moment()
    recording.record_runs(ledger, output_root, runs, moment)
    with ledger.transaction():
        recording.record_studies(ledger, output_root, [following.study_record(plan, choice)])
    asked: RequestFile = {**request, "created": moment, "runs": [run.id for run in runs]}
    del asked["choice"]
    whole_files.write_json(path, asked)  # from here on it is a request as any other
    return True


def _made(ledger: Ledger, output_root: OutputRoot, choice_id: str, plan: ChoicePlan) -> ChoiceFile | None:
    """The choice, which is made now if it can be; None: it waits, which is said."""
    path = output_root.choice(choice_id).choice
    choice = documents.read(path, ChoiceFile)
    if choice is None:
        standing = judge(ledger, plan)
        if standing.waits:
            console.print(f"{standing.waits}.", soft_wrap=True)
            return None
        paired = _row_by_row(output_root, plan["rule"])
        ranked = ranking.rank(plan, standing.numbers, standing.scores, standing.left_out, paired)
        new: ChoiceFile = {
            "study": plan["study"], "overrides": plan["overrides"], "made": session.now(), "user": environment.user(),
            "rule": plan["rule"], "ranked": ranked.candidates, "told": ranked.told, "runs": [],
        }  # fmt: skip
        cells = following.chosen_cells(plan, new)
        new["runs"] = list(dict.fromkeys(run["run_id"] for cell in cells for run in cell["runs"]))
        whole_files.create_json(path, new)
        choice = documents.read(path, ChoiceFile)  # what is there, whoever wrote it
        assert choice
    with ledger.transaction():
        ledger.put_choice(choice_id, choice)
    for told in (f"{choice_words.title(plan)}:", *choice_words.chosen(choice), choice_words.warning(choice)):
        console.print(told, soft_wrap=True)
    return choice


def _row_by_row(output_root: OutputRoot, rule: RuleTold) -> ranking.Paired:
    """By the rows that runs have kept of the stage: the mean of tasks, or all rows alike, whichever is the measure."""
    if not STAGES[rule["stage"]].keeps_rows:
        return ranking.not_paired
    from tiny_transformers.common import pairs  # which loads numpy, for a choice that is made

    def half(one: str, other: str, difference: float) -> float | None:
        try:
            found = pairs.compare(
                *(output_root.run(run).path / "scores" / f"{rule['stage']}.npz" for run in (one, other))
            )
        except TinyTransformersError:  # missing, torn, or of other rows
            return None
        alike = [each for each in (found.by_task, found.by_pair) if abs(each.difference - difference) < ROUNDING]
        return (alike[0].high - alike[0].low) / 2 if alike else None

    return half


@dataclass(frozen=True)
class Standing:
    """How far a choice is: by what it can be made, or what it waits for."""

    waits: str = ""  # in words; empty: for nothing
    numbers: tuple[int, ...] = ()  # candidates that are ranked
    left_out: Mapping[int, str] = field(default_factory=dict)  # others, and why
    scores: Scores = field(default_factory=dict)


def judge(ledger: Ledger, plan: ChoicePlan) -> Standing:
    """Say whether a choice can be made, by the ledger."""
    rule, name, made = plan["rule"], choice_words.title(plan), ledger.choices()
    for source in rule["sources"]:
        if source["choice"] and source["choice"] not in made:
            return Standing(f"{name} waits for the choice of {source['study']}")
    numbers = _there(plan, made)
    scores, failures = scores_of(ledger, rule), _failures(ledger, rule)
    candidates = {number: plan["candidates"][number] for number in numbers}
    runs = list(dict.fromkeys(run["run_id"] for each in candidates.values() for run in each["runs"]))
    failed = [run_id for run_id in runs if run_id in failures and run_id not in scores]
    pending = [run_id for run_id in runs if run_id not in scores and run_id not in failures]
    out = {number: why for number, each in candidates.items() if (why := _why_out(each, failed, failures))}
    if pending or (failed and rule["failed"] == "wait") or len(out) == len(candidates):
        done = f"{len(runs) - len(pending) - len(failed)} of {count(len(runs), 'run')}"
        waits = f"{name} waits to choose: {done} of {choice_words.sources(rule)} have {choice_words.measure(rule)}"
        if failed:
            ends = " (`from.failed: leave_out` would leave their cells out)" if rule["failed"] == "wait" else ""
            waits += f", {some(failed)} failed: `rerun --failed` does what failed again{ends}"
        return Standing(waits)
    return Standing(numbers=tuple(number for number in numbers if number not in out), left_out=out, scores=scores)


def scores_of(ledger: Ledger, rule: RuleTold) -> dict[str, tuple[float, int]]:
    """Run id -> its value of the measure by which is chosen, and the rows that it is of."""
    where = rule["stage"], rule["task"], rule["metric"]
    return {
        row["run_id"]: (row["value"], row["n"])
        for row in ledger.scores()
        if (row["stage"], row["task"], row["metric"]) == where
    }


def _there(plan: ChoicePlan, made: Mapping[str, ChoiceFile]) -> list[int]:
    """The candidates that are cells by now: all of a study, and of a follow-up what came of its choice. One that two
    sources have is there once."""
    chosen = {
        source["study"]: {each["number"] for each in made[source["choice"]]["ranked"] if each["chosen"]}
        for source in plan["rule"]["sources"]
        if source["choice"]
    }
    found: dict[tuple[str, ...], int] = {}
    for number, each in enumerate(plan["candidates"]):
        if each["before"] is None or each["before"] in chosen[each["study"]]:
            found.setdefault(tuple(run["run_id"] for run in each["runs"]), number)
    return list(found.values())


def _failures(ledger: Ledger, rule: RuleTold) -> dict[str, str]:
    """Run id -> why it will have no score: its stage, or one that this needs, failed and is not tried again by itself,
    or completed without this score."""
    decisions = ledger.decisions()
    stages = {rule["stage"], *needed_by([rule["stage"]])}
    found = {
        run_id: f"its {rule['stage']} has no {rule['task']} {rule['metric']}"
        for run_id, states in ledger.states().items()
        if choosing.status(states, rule["stage"]) == "completed"
    }
    for attempt in ledger.newest_attempts("failed"):
        decision = decisions.get(key_of(attempt))
        if attempt["stage"] in stages and decision and decision["action"] == "stop":
            found[attempt["run_id"]] = f"its {attempt['stage']} failed ({attempt['cause']})"
    return found


def _why_out(candidate: CandidateTold, failed: Collection[str], failures: Mapping[str, str]) -> str:
    return next((failures[run["run_id"]] for run in candidate["runs"] if run["run_id"] in failed), "")
