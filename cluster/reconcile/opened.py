"""Read what the files of an open submission say of its attempts; something may still happen to them.

A job takes its pack first: of one that has not been taken nothing is read. What is not whole counts as absent, and is
told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar, Unpack

from cluster.files import documents, kept_code, whole_files
from cluster.files.documents import AnswerFile, Claim, Heartbeat, Intent, ResultFile, TakenFile, TaskFile, Verdict
from cluster.files.folders import AttemptDir, OutputRoot, SubmissionDir
from cluster.files.records import AttemptRow, AttemptValues, key_of
from cluster.files.statuses import LIVE
from cluster.files.whole_files import TornFile
from cluster.ledger.database import Ledger
from cluster.ledger.rows import Answered, SubmissionRow
from cluster.slurm import answers, environment
from cluster.slurm.answers import Job, job_name

T = TypeVar("T")
NOT_BEGUN: AttemptValues = {
    "status": "submitted", "job": None, "host": None, "started": None, "code": None, "environment": None,
    "progress": None,
}  # fmt: skip


class OpenSubmission:
    """A submission of which something may still happen: its row, its attempts, and the tasks that have begun."""

    def __init__(self, ledger: Ledger, output_root: OutputRoot, row: SubmissionRow) -> None:
        self.ledger, self.root, self.row = ledger, output_root, row
        self.directory = output_root.submission(row["submission_id"])
        self.unread = ledger.open_packs_in(row["submission_id"])  # packs of which no attempt is among these
        self.attempts: list[AttemptRow] = []
        self.keys: set[tuple[str, str, int]] = set()  # theirs
        self.tasks: dict[int, TaskFile] = {}
        self.begun_by: dict[tuple[str, str, int], int] = {}  # attempt without a result -> the life that claimed it
        self.taken: dict[str, int] = {}  # run -> the pack whose task has it
        self.handed_over: list[AttemptRow] = []  # attempts of others, whose next ones were planned for this one
        self.torn: list[str] = []  # files that are not whole
        self.just_seen = False  # its job showed itself after SLURM was asked, so that answer says nothing of it

    @property
    def name(self) -> str:
        return job_name(self.row["submission_id"])

    @property
    def slurm(self) -> bool:
        return bool(self.row["scheduler"] == "slurm")

    @property
    def ours(self) -> bool:
        """Whether SLURM tells this user of its jobs. Older submissions do not say whose they are."""
        return self.row["user"] in (None, environment.user())

    @property
    def open_attempts(self) -> list[AttemptRow]:
        return [attempt for attempt in self.attempts if attempt["status"] in LIVE]

    @property
    def open_packs(self) -> dict[int, list[AttemptRow]]:
        """Pack -> what of it is open, as far as that was read: nothing of a pack that has not begun."""
        packs: dict[int, list[AttemptRow]] = {index: [] for index in self.unread}
        for attempt in self.open_attempts:
            packs.setdefault(attempt["pack_index"], []).append(attempt)
        return packs

    def look_into(self, packs: Iterable[int]) -> None:
        """Read the attempts of these packs, ended ones too, unless they were read."""
        chosen = self.unread.keys() & packs
        if not chosen:
            return
        for index in chosen:
            del self.unread[index]
        attempts = self.ledger.attempts_in(self.row["submission_id"], sorted(chosen))
        self.attempts += attempts
        self.keys |= {key_of(attempt) for attempt in attempts}

    def is_cancelled(self, pack_index: int) -> bool:
        """Whether `cancel` was given for a pack, by the answer as it was when this was first asked."""
        everything, packs = self._cancelled
        return everything or pack_index in packs

    @cached_property
    def _cancelled(self) -> tuple[bool, Collection[int]]:
        answer: AnswerFile = read_whole(self.directory.answer, AnswerFile, []) or {"state": "intended"}
        return answer.get("cancelled", False), frozenset(answer.get("cancelled_packs", []))

    @cached_property
    def damaged_code(self) -> str | None:
        """What has become of the code that its jobs run from, unless that is as it was when this was first asked."""
        intent = read_whole(self.directory.submission, Intent, [])
        copy = intent.get("code_copy") if intent else None
        return kept_code.damage(self.root.code(copy)) if copy else None

    def put(self, attempt: AttemptRow, **values: Unpack[AttemptValues]) -> None:
        """Change an attempt's row, here and in the ledger."""
        if attempt | values != attempt:
            attempt |= values
            self.ledger.change_attempt(*key_of(attempt), **values)

    def update(self, **values: Unpack[Answered]) -> None:
        self.row |= values
        self.ledger.update_submission(self.row["submission_id"], **values)

    def follow_runs(self) -> None:
        """Put each open attempt into the pack whose task has its run, which may not be the one that was planned."""
        taken = self.directory.taken_runs()
        if self.unread and taken:  # a run of a pack that has not begun may be at work in another
            self.look_into(self.ledger.packs_of(self.row["submission_id"], taken))
        open_attempts = self.open_attempts
        asked = {attempt["run_id"] for attempt in open_attempts} - self.taken.keys()
        for run_id in taken & asked:
            if told := read_whole(self.directory.taken(run_id), TakenFile, self.torn):
                self.taken[run_id] = told["pack"]
        for attempt in open_attempts:
            self.put(attempt, pack_index=self.taken.get(attempt["run_id"], attempt["pack_index"]))

    def close_runs(self, packs: Collection[int]) -> None:
        """Let nobody pull what these packs have left, since they answer for it; what was pulled stays the puller's."""
        if not self.directory.submission.exists():
            return
        runs = {attempt["run_id"]: attempt["pack_index"] for attempt in self.open_attempts}
        for run_id, pack in runs.items():
            if pack in packs and run_id not in self.taken:
                whole_files.create_json(self.directory.taken(run_id), {"pack": pack})

    def close_if_done(self) -> None:
        if self.row["state"] != "submitted" or self.unread or self.open_attempts:
            return
        if not self.ledger.open_packs_in(self.row["submission_id"]):  # to which another may have handed over
            self.update(state="done")

    def key(self, pack_index: int, jobs: Mapping[str, Job]) -> str:
        """SLURM's name for the job of a pack: the one that took it, or else the one of its place in the array."""
        if pack_index in self.tasks:
            return str(self.tasks[pack_index]["job"])
        job_id, submission_id = self.row["job_id"], self.row["submission_id"]
        key = f"{job_id}_{pack_index}"
        if not job_id or job_id not in jobs or answers.find(jobs, key, submission_id):
            return key
        return job_id  # no array of one

    def job(self, pack_index: int, jobs: Mapping[str, Job]) -> Job | None:
        """Return what SLURM shows of the job of a pack; None: nothing, though another's job may have its number."""
        return answers.find(jobs, self.key(pack_index, jobs), self.row["submission_id"])


def read_files(opened: OpenSubmission, begun_only: bool = True) -> None:
    """Results, claims and heartbeats of every open attempt whose pack has begun: a job takes its pack first."""
    opened.tasks = {index: task for index, task in read_tasks(opened.directory) if task}
    begun_only = begun_only and opened.directory.path.is_dir()  # without it no task can tell that it has begun
    opened.look_into(opened.tasks if begun_only else list(opened.unread))
    opened.follow_runs()
    waiting = list(opened.open_attempts)
    for attempt in waiting:  # and those that join them meanwhile
        if attempt["pack_index"] not in opened.tasks and begun_only:
            continue
        read_attempt(opened, attempt)
        if attempt["status"] != "void" and is_superseded(opened, attempt):
            successor = _successor(opened, attempt)
            if successor:
                waiting.append(successor)


def read_tasks(directory: SubmissionDir) -> list[tuple[int, TaskFile | None]]:
    return [(index, read_whole(directory.task(index), TaskFile, [])) for index in directory.tasks()]


def read_attempt(opened: OpenSubmission, attempt: AttemptRow) -> None:
    directory = opened.root.attempt(*key_of(attempt))
    torn = opened.torn
    before = len(torn)
    claim = read_whole(directory.claim, Claim, torn)
    if claim is None and len(torn) == before:  # a verdict may be there without a claim
        verdict = read_whole(directory.verdict, Verdict, torn)
        if verdict:
            job, host = attempt["job"] or verdict.get("job"), attempt["host"] or verdict.get("host")
            opened.put(attempt, **(said(verdict) | {"job": job, "host": host}))
        elif attempt["started"] is not None:  # its claim was seen, and was withdrawn since
            opened.put(attempt, **NOT_BEGUN)
        return
    if claim and claim["submission_id"] != attempt["submission_id"]:
        _hand_over(opened, attempt, claim)
        return
    result, verdict = how_it_ended(directory, torn)
    told: ResultFile | Verdict | None = result or verdict
    values: AttemptValues = {"job": None, "host": None, "started": None, "code": None}
    if claim:
        values = claimed(opened.ledger, claim)
    if told:
        values |= said(told)
    else:
        beat = read_whole(directory.heartbeat, Heartbeat, torn)
        values |= {"status": "running", "progress": _progress(beat, attempt)}
    opened.put(attempt, **values)
    opened.begun_by.pop(key_of(attempt), None)
    if result:
        opened.ledger.put_outcome(*key_of(attempt), result.get("outcome") or {})
    else:
        opened.begun_by[key_of(attempt)] = claim["restart"] if claim else 0


def _hand_over(opened: OpenSubmission, attempt: AttemptRow, claim: Claim) -> None:
    """Let another submission have an attempt that was planned for this one."""
    if before := give_to(opened.ledger, opened.root, attempt, claim):
        opened.ledger.update_submission(claim["submission_id"], state="submitted", spent=None)  # to be looked at again
        opened.handed_over.append(before)
        opened.attempts.remove(attempt)
        opened.keys.remove(key_of(attempt))


def give_to(ledger: Ledger, root: OutputRoot, attempt: AttemptRow, claim: Claim) -> AttemptRow | None:
    """Give an attempt to the submission that has claimed it: its job, of which SLURM had lost sight, was requeued, and
    went on with the next number, once or more. A ledger that is made again has it so. Returns the last attempt that was
    its own; None: there is none just before, so the claim is none of a requeued job."""
    run_id, stage, number = key_of(attempt)
    before = ledger.attempt(run_id, stage, number - 1)
    if before and before["submission_id"] != claim["submission_id"]:
        earlier = read_whole(root.attempt(*key_of(before)).claim, Claim, [])
        same = earlier is not None and earlier["submission_id"] == claim["submission_id"]
        before = give_to(ledger, root, before, earlier) if earlier and same else None
    if before and attempt["status"] in LIVE:  # it is read with its own
        pack = before["pack_index"]
        ledger.put_attempt(run_id, stage, number, submission_id=claim["submission_id"], pack_index=pack)
    elif before:
        adopt(ledger, root, key_of(attempt), claim, before)
    return before


def adopt(
    ledger: Ledger, root: OutputRoot, key: tuple[str, str, int], claim: Claim, before: AttemptRow
) -> AttemptValues:
    """Write an attempt down as that of the submission which has claimed it, after one of its own (`before`), with what
    its files say. Returns that."""
    directory = root.attempt(*key)
    result, verdict = how_it_ended(directory, [])
    told: ResultFile | Verdict | None = result or verdict
    values = claimed(ledger, claim) | (said(told) if told else {"status": "running"})
    ledger.put_attempt(*key, submission_id=claim["submission_id"], pack_index=before["pack_index"])
    ledger.put_attempt(*key, **values)
    if result:
        ledger.put_outcome(*key, result.get("outcome") or {})
    return values


def how_it_ended(directory: AttemptDir, torn: list[str]) -> tuple[ResultFile | None, Verdict | None]:
    """Return its result, or else what was judged of it; neither, if it goes on. Only a completed result outweighs a
    verdict: a job that was judged may still write of its failure, and the verdict is what was acted upon."""
    spoilt: list[str] = []
    result = read_whole(directory.result, ResultFile, spoilt)
    if result and result["status"] == "completed":
        return result, None
    if verdict := read_whole(directory.verdict, Verdict, torn):  # it has told of a torn result already
        return None, verdict
    torn += spoilt
    return result, None


def _progress(beat: Heartbeat | None, attempt: AttemptRow) -> str | None:
    """Return the last heartbeat, and the reason for which the job waited when SLURM was last heard, if there was none
    since."""
    known = json.loads(attempt["progress"]) if attempt["progress"] and attempt["status"] == "running" else {}
    told = dict(beat) if beat else {}
    if "waits_for" in known and known.get("time") == told.get("time"):
        told["waits_for"] = known["waits_for"]
    return json.dumps(told) if told else None


def said(told: ResultFile | Verdict) -> AttemptValues:
    """Return how an attempt ended, as its row has it."""
    return {
        "status": told["status"], "cause": told.get("cause"), "message": told.get("message"),
        "ended": told.get("ended"), "progress": None,
    }  # fmt: skip


def claimed(ledger: Ledger, claim: Claim) -> AttemptValues:
    """Return where and when an attempt began and what it is made with, as its row has it; the ledger learns the
    environment."""
    code, environment = claim.get("code"), claim.get("environment")
    known: AttemptValues = {
        "job": claim["job"], "host": claim["host"], "started": claim["time"], "code": code["digest"] if code else None
    }  # fmt: skip
    if environment is None:
        return known
    version = {name: code.get(name) if code else None for name in ("commit", "diff")}
    text = json.dumps(environment | version, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    ledger.put_environment(key, text)
    return known | {"environment": key}


def is_superseded(opened: OpenSubmission, attempt: AttemptRow) -> bool:
    """Whether the job was requeued after this attempt began: it goes on under the next number."""
    task = opened.tasks.get(attempt["pack_index"])
    restart = opened.begun_by.get(key_of(attempt)) if task else None
    return task is not None and restart is not None and restart < task["restart"]


def _successor(opened: OpenSubmission, attempt: AttemptRow) -> AttemptRow | None:
    """The attempt after an interrupted one; None if it was there already, or is another submission's."""
    key = (attempt["run_id"], attempt["stage"], attempt["number"] + 1)
    if key in opened.keys:
        return None
    sent, index = attempt["submission_id"], attempt["pack_index"]
    if opened.ledger.attempt(*key):  # planned for another; only a life of this job that has begun it has a claim on it
        claim = read_whole(opened.root.attempt(*key).claim, Claim, [])
        if claim is None or claim["submission_id"] != sent:
            return None
    opened.ledger.put_attempt(*key, submission_id=sent, pack_index=index, status="submitted")
    successor = opened.ledger.attempt(*key)
    assert successor
    opened.attempts.append(successor)
    opened.keys.add(key)
    return successor


def read_whole(path: Path, kind: type[T], torn: list[str]) -> T | None:
    """Return what a file says, or None if there is none; one that is not whole is told among the `torn` ones."""
    try:
        return documents.read(path, kind)
    except TornFile as error:
        torn.append(str(error))
        return None
