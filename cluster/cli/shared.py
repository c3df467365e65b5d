"""The options that several commands have, and what several commands do. Nothing is decided here."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from cluster.cli import completion
from cluster.console import console, stderr
from cluster.errors import BreakerOpen, InputError, SlurmSilent, SubmitError, TinyError, did_you_mean, either, like
from cluster.files import documents, own_stages, whole_files
from cluster.files.documents import SourceOfWork
from cluster.files.folders import OutputRoot
from cluster.files.records import AttemptRow, Run
from cluster.ledger.database import Ledger
from cluster.ledger.rows import SubmissionRow
from cluster.reconcile import session
from cluster.reconcile.opened import read_whole
from cluster.reconcile.session import LedgerView
from cluster.sites import profiles
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.slurm.answers import job_name
from cluster.slurm.queries import Slurm
from cluster.status import showing
from tiny_transformers.settings.stages import STAGES

if TYPE_CHECKING:
    from cluster.submit.dispatch import SubmitOptions


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ledger_app = typer.Typer(help="The ledger itself.", no_args_is_help=True, rich_markup_mode=None)


app.add_typer(ledger_app, name="ledger")


ManifestArgument = Annotated[Path, typer.Argument(metavar="MANIFEST", help="experiments.yaml", readable=False)]
StudyOption = Annotated[
    list[str] | None,
    typer.Option("--study", help="Only this study; may be given again.", autocompletion=completion.studies),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="For all runs; part of their identity.",
        autocompletion=completion.settings,
    ),
]
RunArgument = Annotated[
    str, typer.Argument(help="A run: its id, the beginning of it, or its name.", autocompletion=completion.runs)
]
OutputOption = Annotated[
    Path,
    typer.Option(
        "--output-root", envvar="TINY_TRANSFORMERS_OUTPUT", help="Where runs and the ledger are.", readable=False
    ),
]
SmokeOption = Annotated[bool, typer.Option("--smoke", help="The smoke runs, which are kept apart.")]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", help="A shipped site, or a YAML file of yours.", autocompletion=completion.sites),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root", envvar="TINY_TRANSFORMERS_DATA", help="The data, in the layout of docs/data.md.", readable=False
    ),
]
AccountOption = Annotated[str | None, typer.Option("--account", help="Overrides the site's account.")]
PartitionOption = Annotated[str | None, typer.Option("--partition", help="Overrides the site's partition.")]
INTERRUPTED = 130  # exit code of a command that Ctrl-C has ended, as shells have it
OUTPUT, LOGS = Path("output"), Path("slurm_logs")


@contextmanager
def that_stays() -> Iterator[None]:
    """What is made within this stays as long as the command, as the settings of its runs do: garbage is not looked for
    meanwhile, and never among it. A process that looks for none, as one of many commands does, is left as it is."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.freeze()
            gc.enable()


def root_of(output_root: Path, smoke: bool) -> OutputRoot:
    root = OutputRoot(output_root)
    return root.smoke if smoke else root


@contextmanager
def reading_ledger(output_root: OutputRoot) -> Iterator[LedgerView]:
    with session.reading(output_root, Slurm()) as (view, warning):
        if warning:
            stderr.print(warning, style="yellow", soft_wrap=True)
        yield view


def same_site(before: SourceOfWork, **overrides: Any) -> Site:
    return profiles.checked(before["site"], **overrides)


def check_stage(root: OutputRoot, name: str, where: str) -> None:
    """Raises InputError for what is neither a stage of ours nor one of the runs there."""
    own_stages.load(root)
    if name not in STAGES:
        raise InputError(f"{where}: is no stage. {did_you_mean(name, STAGES)}")


def find_runs(ledger: Ledger, words: Sequence[str], one: bool = False) -> list[str]:
    """Return run ids for ids, names, or what one id or one name alone begins with. A name is of all runs that have it,
    unless `one` is wanted."""
    by_id = {run["run_id"]: run["name"] for run in ledger.overview()}
    found: list[str] = []
    for word in words:
        matches = [run_id for run_id, name in by_id.items() if word in (run_id, name)]
        if not matches:
            begun = {run_id: name for run_id, name in by_id.items() if word and name.startswith(word)}
            begun |= {run_id: run_id for run_id in by_id if word and run_id.startswith(word)}
            if len(set(begun.values())) > 1:
                raise InputError(f"{word}: may be {either(_told(begun, by_id))}. Write more of it.")
            matches = list(begun)
        if not matches:
            near = like(word, sorted(set(by_id.values())))
            hint = f"Did you mean {either(near)}? " if near else ""
            raise InputError(f"{word or repr(word)}: is no run. {hint}`status --runs` lists them.")
        if one and len(matches) > 1:
            raise InputError(f"{word}: may be {either(_told(matches, by_id))}. Give the id.")
        found += matches
    return found


def runs_of_studies(ledger: Ledger, studies: Sequence[str]) -> set[str]:
    """Return the ids of their runs. Raises InputError for a study that the ledger does not have."""
    known = sorted(ledger.study_sizes())
    for name in studies:
        if name not in known:
            raise InputError(f"{name}: is no study here. {did_you_mean(name, known)}")
    return {row["run_id"] for row in ledger.overview() if not set(studies).isdisjoint(row["studies"])}


def _told(run_ids: Iterable[str], names: Mapping[str, str]) -> list[str]:
    return [f"{names[run_id]} ({run_id})" for run_id in run_ids]


def live_packs(
    ledger: Ledger, runs: set[str] | None, submission_id: str | None = None
) -> dict[tuple[str, int], list[AttemptRow]]:
    """(submission_id, index) of packs with something open, and what; only those of these runs or of this submission, if
    given."""
    packs: dict[tuple[str, int], list[AttemptRow]] = {}
    for submission in ledger.open_submissions():
        if submission_id not in (None, submission["submission_id"]):
            continue
        for attempt in ledger.open_attempts(submission["submission_id"]):
            packs.setdefault((submission["submission_id"], attempt["pack_index"]), []).append(attempt)
    return {
        key: attempts
        for key, attempts in packs.items()
        if runs is None or any(attempt["run_id"] in runs for attempt in attempts)
    }


def packs_to_cancel(
    ledger: Ledger, runs: set[str] | None
) -> tuple[dict[tuple[str, int], list[AttemptRow]], dict[str, int]]:
    """Return the open packs of these runs; of all, if none are given, those that are the user's to cancel, and how many
    others have, by user."""
    packs = live_packs(ledger, runs)
    if runs is not None:
        return packs, {}
    users = {row["submission_id"]: _other_user(row) for row in ledger.open_submissions()}
    mine = {key: attempts for key, attempts in packs.items() if users[key[0]] is None}
    return mine, Counter(user for submission_id, _ in packs if (user := users[submission_id]))


def _other_user(row: SubmissionRow) -> str | None:
    """Return whose the jobs of a submission are, if they are somebody else's."""
    return row["user"] if row["user"] != environment.user() else None


def cancel_jobs(ledger: Ledger, output_root: OutputRoot, slurm: Slurm, packs: Sequence[tuple[str, int]]) -> None:
    from cluster.submit import launch

    rows = {row["submission_id"]: row for row in ledger.open_submissions()}
    problems: list[TinyError] = []
    noted: dict[str, list[int] | None] = {}  # the packs of a submission that are not to begin any more; None: all
    # An array of which all that is open is cancelled is named by its id alone, as is an array of one.
    jobs: list[tuple[str, str]] = []
    for submission_id, indices in _by_submission(packs).items():
        row = rows[submission_id]
        everything = len(indices) == len(live_packs(ledger, None, submission_id))
        if user := _other_user(row):
            problems.append(InputError(f"{job_name(submission_id)} is of {user}, who alone can cancel it."))
        elif row["scheduler"] == "slurm" and row["job_id"]:
            ids = [row["job_id"]] if everything else [f"{row['job_id']}_{index}" for index in indices]
            jobs += [(job_id, submission_id) for job_id in ids]
            noted[submission_id] = None if everything else indices
        elif row["scheduler"] == "slurm":  # should it be there all the same, its tasks find this and leave
            _note_cancelled(output_root, row, None if everything else indices)
    if jobs and (problem := slurm.cancel(jobs)):
        refused = "denied" in problem or "not permitted" in problem
        problems.append(
            SubmitError(f"scancel: {problem}.") if refused else SlurmSilent(f"scancel: {problem}. Try again.")
        )
    else:  # SLURM forgets tasks that are cancelled while they wait; and what it does not show may be there all the same
        for submission_id, packs_of in noted.items():
            _note_cancelled(output_root, rows[submission_id], packs_of)
    for submission_id, index in packs:
        if rows[submission_id]["scheduler"] == "local":
            try:
                launch.cancel_local(output_root.submission(submission_id), index)
            except InputError as elsewhere:
                problems.append(elsewhere)
    if problems:
        raise problems[0]


def _note_cancelled(output_root: OutputRoot, row: SubmissionRow, indices: Sequence[int] | None) -> None:
    """Have a task of these packs, or of all, that begins after this leave. A spoilt answer is written anew of what the
    ledger knows."""
    answer = output_root.submission(row["submission_id"]).answer
    known: documents.AnswerFile = {"state": row["state"], "job_id": row["job_id"]}
    told = read_whole(answer, documents.AnswerFile, []) or known
    packs = sorted({*told.get("cancelled_packs", []), *(indices or ())})
    whole_files.write_json(answer, {**told, **({"cancelled": True} if indices is None else {"cancelled_packs": packs})})


def _by_submission(packs: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {}
    for submission_id, index in packs:
        indices.setdefault(submission_id, []).append(index)
    return indices


def wait_until_done(where: SubmitOptions, runs: Sequence[Run]) -> None:
    """Until nothing is open and nothing is left to try, or the person leaves. Exit code 1 if something of these runs
    failed."""
    from cluster.report import score_tables

    ids = {run.id for run in runs}
    try:
        _tick_until_done(where, ids)
    except (KeyboardInterrupt, typer.Exit) as left:
        options = where.output_root.options
        stderr.print(
            f"Jobs go on: `status{options}` shows how they go, `tiny-transformers cancel --all{options}` ends them; "
            f"`tiny-transformers tick{options}`, now and then, tries again what fails."
        )
        raise typer.Exit(INTERRUPTED if isinstance(left, KeyboardInterrupt) else 0) from None
    with reading_ledger(where.output_root) as view:
        console.print(score_tables.score_table(view.ledger, console.width))
        overview = view.ledger.overview(ids)
    if any(stage["status"] == "failed" for run in overview for stage in run["stages"].values()):
        raise typer.Exit(1)


def _tick_until_done(where: SubmitOptions, run_ids: Collection[str]) -> None:
    from cluster.submit import submitting

    going_on = True
    while going_on:
        watch_queue(where.output_root)
        try:
            ticked = submitting.tick(where, None, None, run_ids)
        except BreakerOpen as error:
            stderr.print(Text(str(error), style="red"))
            break
        going_on = ticked.submitted or ticked.more
        if ticked.more and not ticked.submitted:
            time.sleep(30)


def watch_queue(output_root: OutputRoot, **shown: bool) -> None:
    """Raises typer.Exit if the person left before all had ended."""
    from cluster.status import watching

    def cancel_packs(entry: showing.LineEntry) -> int:
        with session.writing(output_root, slurm := Slurm(), unsettled=True) as ledger:
            assert ledger
            begun = {(pack["submission_id"], pack["pack_index"]) for pack in ledger.open_packs() if pack["started"]}
            left = live_packs(ledger, None).keys() - (begun if entry.waiting else ())
            chosen = [pack for pack in entry.packs if pack in left]
            cancel_jobs(ledger, output_root, slurm, chosen)
            return len(chosen)

    session.need_ledger(output_root)
    if not watching.until_done(console, output_root, cancel_packs, **shown):
        raise typer.Exit
