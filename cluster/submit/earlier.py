"""Tell how runs were submitted before, or were to be, to which site and on which data: `tick` and `rerun` go on so.

What came with an archive was submitted by somebody else: it goes where the last submission from here went."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rich.text import Text

from cluster.console import stderr
from cluster.errors import InputError, TinyError
from cluster.files import documents, whole_files
from cluster.files.documents import AnswerFile, RequestFile, SourceOfWork
from cluster.files.folders import OutputRoot
from cluster.ledger.database import Ledger
from cluster.reconcile import session
from cluster.sites import profiles
from cluster.sites.profiles import Site

T = TypeVar("T")
LAST = "~"  # later than each moment


class EarlierSubmissions:
    """How each run was submitted before, or was to be: a submission or a request, both with site, data_root, manifest,
    code and allow_code_change. `problems`: as of `asked_for`."""

    def __init__(
        self, ledger: Ledger, output_root: OutputRoot, site: Site | None, problems: list[TinyError] | None = None
    ) -> None:
        self._root, self._ledger, self._site = output_root, ledger, site
        self._elsewhere = output_root.came_along()
        self._intents: dict[str, SourceOfWork | None] = {}
        self._sites: dict[str, Site] = {}
        self._refusals: dict[str, AnswerFile | None] = {}
        self.refused: dict[str, str] = {}  # run id -> why SLURM refused it for good, of those that were asked for
        self.unsure: set[str] = set()  # the runs, of those, of which a request that cannot be read may say otherwise
        self._unread = ""  # by when the last of these was written, as moments are
        self._requests = list(asked_for(output_root, lambda path: _told(path, RequestFile), problems, self._missed))
        self.requests = [value for _, value in self._requests]
        self.requested = {run_id: value for _, value in self._requests for run_id in value["runs"]}

    def site(self, submission_id: str) -> Site | None:
        """Return the site that is given, or else that of a submission; None if the submission's files are gone: nothing
        goes on as it did."""
        intent = self._intent(submission_id)
        if intent is None or self._site:
            return self._site if intent else None
        if submission_id not in self._sites:
            self._sites[submission_id] = profiles.checked(intent["site"])
        return self._sites[submission_id]

    def is_known(self, submission_id: str) -> bool:
        """Whether the submission's files are there."""
        return self._intent(submission_id) is not None

    def any_site(self) -> Site:
        last = next(iter(self.requested.values()), None) or last_submission(self._ledger, self._root)
        if last is None:
            raise nothing_submitted(self._root)
        return profiles.checked(last["site"])

    def sources(self, run_ids: Collection[str]) -> dict[str, SourceOfWork]:
        """Run id -> how it was or was to be submitted, whichever is newer. What SLURM refused for good has none, nor
        what nobody asked for."""
        states = {row["submission_id"]: row["state"] for row in self._ledger.submissions()}
        sources: dict[str, SourceOfWork] = {
            run_id: value for run_id, value in self.requested.items() if run_id in run_ids
        }
        for run_id, submission_id in self._ledger.last_submissions(run_ids).items():
            intent = self._intent(submission_id)
            if intent is None or (run_id in sources and intent["created"] < sources[run_id]["created"]):
                continue
            if run_id not in sources and intent["created"] <= self._unread:
                self.unsure.add(run_id)
                continue
            if states[submission_id] != "refused":
                sources[run_id] = intent
                continue
            answer = self._refusal(submission_id)
            if answer and answer.get("for_now"):
                sources.setdefault(run_id, intent)  # a request stays until nothing of it is left
            else:
                sources.pop(run_id, None)
                self.refused[run_id] = (answer and answer.get("message")) or "without a reason"
        return sources

    def _missed(self, path: Path | None) -> None:
        self._unread = max(self._unread, _moment(path) if path else LAST)

    def _refusal(self, submission_id: str) -> AnswerFile | None:
        if submission_id not in self._refusals:
            self._refusals[submission_id] = _told(self._root.submission(submission_id).answer, AnswerFile)
        return self._refusals[submission_id]

    def forget_done(self) -> None:
        """Drop the requests of which nothing is left to be submitted."""
        live = self.sources({*self._ledger.runs_with("eligible"), *self._ledger.runs_that_need()})
        for path, value in self._requests:
            if "choice" not in value and not any(live.get(run_id) is value for run_id in value["runs"]):
                path.unlink(missing_ok=True)

    def _intent(self, submission_id: str) -> SourceOfWork | None:
        if submission_id not in self._intents:
            intent = _told(self._root.submission(submission_id).submission, SourceOfWork)
            self._intents[submission_id] = (
                self._from_here(intent) if intent and submission_id in self._elsewhere else intent
            )
        return self._intents[submission_id]

    def _from_here(self, intent: SourceOfWork) -> SourceOfWork:
        """Send what came with an archive where the last submission from here went, or to the site that is given."""
        last = last_submission(self._ledger, self._root)
        if last is None and self._site is None:
            raise nothing_submitted(self._root)
        if last:
            return {**intent, "site": last["site"], "data_root": last["data_root"]}
        return {**intent, "site": self._site.model_dump(mode="json") if self._site else {}, "data_root": None}


def asked_for(
    output_root: OutputRoot,
    read: Callable[[Path], RequestFile | None],
    problems: list[TinyError] | None = None,
    missed: Callable[[Path | None], None] = lambda _: None,
) -> Iterator[tuple[Path, RequestFile]]:
    """Each request that can be read. What the disk does not give is told among the `problems`, once, and `missed` is
    told which, or None if it is the folder; without such a list it raises OSError."""

    @contextmanager
    def kept(path: Path | None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if problems is None:
                raise
            missed(path)
            told = f"{error}. What is asked for there waits: the next `tick` looks at it again."
            if told not in map(str, problems):
                problems.append(TinyError(told))

    paths: list[Path] = []
    with kept(None):
        paths = output_root.requests()
    for path in paths:
        request = None
        with kept(path):
            request = read(path)
        if request:
            yield path, request


def _moment(path: Path) -> str:
    """When a file was written, as `session.moment` says it."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="microseconds")
    except OSError:
        return LAST


def _told(path: Path, kind: type[T]) -> T | None:
    """Return what a file says; one that is spoilt is named, and its runs are left alone."""
    try:
        return documents.read(path, kind)
    except whole_files.TornFile as error:
        stderr.print(Text(f"{error}. Its runs are left alone: `submit` them again.", style="yellow"), soft_wrap=True)
        return None


def nothing_submitted(output_root: OutputRoot) -> InputError:
    if not output_root.imported.exists() and output_root.runs():
        return InputError(
            f"{output_root.path / 'submissions'}: no submission there says where to. Give --site, and --data-root if "
            "the data is files; or submit a manifest. Nothing was submitted."
        )
    if not output_root.imported.exists():
        return InputError("Nothing was ever submitted from here. Submit a manifest first.")
    return InputError(
        f"{output_root.path}: came from an archive, and nothing was submitted here yet: the site, the account and the "
        f"data of its submissions are not yours. Give --site, and --data-root if the data is files; or submit one of "
        f"{output_root.path}/manifests. Nothing was submitted."
    )


def last_submission(ledger: Ledger, output_root: OutputRoot) -> SourceOfWork | None:
    rows = session.made_here(ledger, output_root)
    return read_intent(output_root, rows[-1]["submission_id"]) if rows else None


def read_intent(output_root: OutputRoot, submission_id: str) -> SourceOfWork:
    path = output_root.submission(submission_id).submission
    intent = documents.read(path, SourceOfWork)
    if intent is None:
        raise InputError(f"{path}: is missing: it says where and how was submitted. Give --site and --data-root.")
    return intent
