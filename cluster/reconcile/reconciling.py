"""Result files + what SLURM says -> ledger. Idempotent.

Files are the truth: a stage has succeeded when its result.json says so, whatever SLURM says; what SLURM says only
explains a result that is missing (`judging`), or finds a submission again whose answer was lost (`intents`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from cluster.console import some
from cluster.files import documents, fields
from cluster.files.choices import ChoiceFile
from cluster.files.folders import OutputRoot
from cluster.files.records import key_of
from cluster.files.statuses import FRUITLESS, GIVEN_UP, OPEN
from cluster.ledger.database import Ledger
from cluster.ledger.recording import record_intent
from cluster.reconcile import intents, judging, late, orphans
from cluster.reconcile.judging import SlurmAnswers
from cluster.reconcile.opened import OpenSubmission, read_files, read_whole
from cluster.reconcile.planned import record_planned
from cluster.slurm.answers import Job
from tiny_transformers.settings.stages import STAGES

T = TypeVar("T")
# partial: squeue answered, sacct did not
SlurmReply = Literal["answered", "partial", "unreachable", "none"]


class Queries(Protocol):
    """The questions that reconciling asks of SLURM; `slurm.Slurm`, or a fake."""

    def queue(self) -> dict[str, Job] | None: ...
    def history(self, names: Iterable[str], days: int) -> dict[str, Job] | None: ...


def reconcile(ledger: Ledger, output_root: OutputRoot, slurm: Queries) -> SlurmReply:
    """Bring the ledger up to date with the files and with SLURM; asks SLURM only if something of its is open, and
    then once for the queue and at most once for what has left it. The caller holds the lock."""
    with ledger.transaction():
        _take_in(ledger, output_root)
        opened = [OpenSubmission(ledger, output_root, row) for row in ledger.open_submissions()]
        for each in opened:
            read_files(each)
            late.settle_handed_over(each)
            each.close_if_done()
    asked = [each for each in opened if each.slurm and each.ours and each.row["state"] in OPEN]
    queue = slurm.queue() if asked else None
    doubtful = [each for each in asked if queue is not None and judging.needs_history(each, queue)]
    history = slurm.history([each.name for each in doubtful], _days(doubtful)) if doubtful else {}
    seen = SlurmAnswers(queue, history)
    with ledger.transaction():
        for each in opened:
            told = seen if each.ours else SlurmAnswers(None, None)  # what SLURM hides of others proves nothing
            if each.row["state"] == "intended":
                intents.settle(each, told)
            if each.row["state"] in OPEN:
                intents.renumber(each, told)
                judging.judge(each, told)
    if not asked:
        return "none"
    if queue is None:
        return "unreachable"
    return "partial" if history is None else "answered"


def follow_runs(ledger: Ledger, output_root: OutputRoot) -> None:
    """Put what is open into the packs whose tasks have it by now."""
    with ledger.transaction():
        for row in ledger.open_submissions():
            OpenSubmission(ledger, output_root, row).follow_runs()


def rebuild(ledger: Ledger, output_root: OutputRoot) -> list[str]:
    """Fill an empty ledger from the files. Returns what could not be read."""
    torn: list[str] = []
    with ledger.transaction():
        record_planned(ledger, output_root.runs(), torn)
        _take_in(ledger, output_root, torn)
        for row in ledger.open_submissions():
            each = OpenSubmission(ledger, output_root, row)
            read_files(each, begun_only=False)  # one that never began may have a verdict
            if each.row["state"] == "submitted":
                judging.judge(each, SlurmAnswers(None, None))
            torn += each.torn
        orphans.take_in(ledger, output_root, torn)
        for directory in output_root.decisions():
            decision = read_whole(directory.decision, documents.DecisionFile, torn)
            if decision and output_root.attempt(*key_of(decision)) == directory:
                ledger.put_decision(decision)
    return list(dict.fromkeys(torn))


def late_results(ledger: Ledger, output_root: OutputRoot) -> None:
    """A job that was judged and then wrote its results after all has done its work: whatever was guessed, they say so.
    Asked before anything is done again. One that never took its pack has written nothing."""
    taken: dict[str, Collection[int] | None] = {}
    with ledger.transaction():
        while _make_way(ledger, output_root, taken):  # what has made way shows what was begun before it
            pass


def _make_way(ledger: Ledger, output_root: OutputRoot, taken: dict[str, Collection[int] | None]) -> bool:
    """Take the late results, and let the newest attempts make way for them; whether one has. `taken`: submission -> the
    packs that a job has taken; None: not known."""
    made = False
    for failed in ledger.newest_attempts("failed"):
        over = [failed] if failed["number"] == 1 else ledger.every_attempt(failed["run_id"], failed["stage"])
        begun = [each for each in over if each["status"] in FRUITLESS and each["started"] is not None]
        heard = [late.follow_on(ledger, output_root, each) for each in begun]
        if any(heard):
            made = True
            continue
        submission_id, run = failed["submission_id"], output_root.run(failed["run_id"])
        if submission_id not in taken:
            directory = output_root.submission(submission_id)
            taken[submission_id] = set(directory.tasks()) if directory.path.is_dir() else None
        packs = taken[submission_id]
        there = run.stages() if packs is None or failed["pack_index"] in packs else ()
        for attempt in ledger.attempts_of_run_in(submission_id, failed["run_id"]) if there else ():
            if attempt["status"] in FRUITLESS and attempt["stage"] in there:
                late.take_late(ledger, output_root, attempt)
        if way := late.give_way(ledger, output_root, failed):
            ledger.put_attempt(*key_of(failed), **way)
            late.keep_turnless(ledger, output_root, failed)
            made = True
    return made


def _take_in(ledger: Ledger, root: OutputRoot, torn: list[str] | None = None) -> None:
    """Take in what is on disk and not in the ledger: whoever wrote it was killed before it came to that."""
    # In a ledger that is made again nothing may be missing that the disk did not give.
    read, listed, torn = (_if_given, _if_listed, []) if torn is None else (read_whole, lambda folder: folder(), torn)
    known_studies = {row["name"]: row for row in ledger.studies()}
    for study in filter(None, (read(path, documents.StudyFile, torn) for path in listed(root.studies))):
        if known_studies.get(study["name"]) != study:
            ledger.put_study(study["name"], study["description"], study["grids"])
    made = ledger.choices()
    for of in listed(root.choices):
        choice = read(of.choice, ChoiceFile, torn)
        if choice and made.get(of.id) != choice:
            ledger.put_choice(of.id, choice)
    new = [root.submission(submission_id) for submission_id in sorted(root.submission_ids() - ledger.submission_ids())]
    found = [(directory, read_whole(directory.submission, documents.Intent, torn)) for directory in new]
    if not found:
        return
    known = set(ledger.known_runs())
    gone: set[str] = set()  # runs that were submitted, and are not in runs/
    without_row: list[tuple[str, str, int]] = []
    for directory, value in sorted(found, key=lambda pair: pair[1]["created"] if pair[1] else ""):
        if value is None:
            continue
        if wrong := _fault_of(value):
            torn.append(f"{directory.submission}: is no submission.json ({wrong})")
            continue
        new_ids = {item["run_id"] for pack in value["packs"] for item in pack} - known
        known |= record_planned(ledger, map(root.run, sorted(new_ids)), torn)
        gone |= {run_id for run_id in new_ids - known if not root.run(run_id).run_json.exists()}
        answer = read_whole(directory.answer, documents.AnswerFile, [])
        kept = known if answer and answer["state"] in GIVEN_UP else known - _removed(root, value)
        packs = [[item for item in pack if item["run_id"] in kept] for pack in value["packs"]]
        record_intent(ledger, directory, {**value, "packs": packs})
        left_out = [item for pack in value["packs"] for item in pack if item["run_id"] not in kept]
        without_row += [(item["run_id"], stage, number) for item in left_out for stage, number in item["stages"]]
    if without_row:
        ledger.keep_numbers(without_row)
    if gone:
        torn.append(f"{root.path / 'runs'}: has no run.json of {some(gone)}, which had been submitted")


def _if_given(path: Path, kind: type[T], torn: list[str]) -> T | None:
    """Read a study's file. One that the disk does not give holds up no other study: a later look takes it in."""
    try:
        return read_whole(path, kind, torn)
    except OSError:
        return None


def _if_listed(files: Callable[[], list[T]]) -> list[T]:
    """Return the files of a folder; none of one that the disk does not list: a later look takes them in."""
    try:
        return files()
    except OSError:
        return []


def _removed(root: OutputRoot, intent: documents.Intent) -> set[str]:
    """Return the runs of which nothing is left that this submission did, though they were done again since: somebody
    removed their folder in between, which is no failure."""
    shares: dict[str, list[tuple[str, int]]] = {}
    for item in (item for pack in intent["packs"] for item in pack):
        shares.setdefault(item["run_id"], []).extend(item["stages"])
    return {
        run_id
        for run_id, stages in shares.items()
        if not any(root.attempt(run_id, stage, number).path.is_dir() for stage, number in stages)
        and any(each.number > number for stage, number in stages for each in root.run(run_id).attempts(stage))
    }


def _fault_of(intent: documents.Intent) -> str:
    """Say what in a submission cannot be a row of the ledger's; empty if all can."""
    try:
        datetime.fromisoformat(intent["created"])
    except ValueError:
        return "created: must be a time"
    named = {stage for pack in intent["packs"] for item in pack for stage, _ in item["stages"]}
    if unknown := named - STAGES.keys():
        return f"packs: no stage here is called {', '.join(sorted(unknown))}"
    return fields.find_fault(intent["site"], documents.SiteTold, (None, "site"))


def _days(opened: Iterable[OpenSubmission]) -> int:
    """How far back accounting is asked, for the oldest of these."""
    now = datetime.now().astimezone()
    ages = []
    for each in opened:
        created = datetime.fromisoformat(each.row["created"])
        ages.append((now - (created if created.tzinfo else created.astimezone())).days)
    return max(0, *ages, 0) + 2
