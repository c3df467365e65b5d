"""Read the ledger for `status`: what is known of studies, packs, the queue and failures."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, TypeVar

from cluster.console import clean, count
from cluster.errors import InputError
from cluster.files.documents import DecisionFile
from cluster.files.fields import LATEST
from cluster.files.folders import OutputRoot
from cluster.files.records import AttemptRow, key_of
from cluster.files.statuses import STATUSES, StageStatus
from cluster.files.whole_files import TornFile
from cluster.ledger.checks import FLAGGED, identical_scores, of_several_manifests, removed_runs, unknown_runs
from cluster.ledger.database import Ledger
from cluster.ledger.rows import HoursRow, PackRow
from cluster.reconcile import session
from cluster.reconcile.session import LedgerView
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.status import needs
from cluster.status.estimate import LITTLE, estimate_times, hours_used
from cluster.status.facts import SUPERSEDED, TELLING, Failure, Progress, RunningPack, RunningStage, Status, WaitingPacks
from cluster.submit import leaving, pause, retries
from cluster.submit.earlier import EarlierSubmissions
from cluster.submit.leaving import Why
from tiny_transformers.settings.stage.pretrain import DOCUMENTS_CUT

T = TypeVar("T")
NAMED = 3  # runs of a group of failures that are named
FORGOTTEN = 20  # runs that a command names
SILENT = 300.0  # seconds without a heartbeat, which comes every 10


def read(view: LedgerView, output_root: OutputRoot, study: str | None = None, now: float | None = None) -> Status:
    """`study`: only what is of this one, but for the hours and the estimate."""
    ledger, now, options = view.ledger, now or time.time(), output_root.options
    imported = session.only_imported(ledger, output_root)
    running, failed = ledger.newest_attempts("running"), ledger.newest_attempts("failed")
    open_packs = {pack_of(row): row for row in ledger.open_packs()}
    shown = list(open_packs.values())
    progress = _progress(ledger)
    total = progress.pop("")
    if study:
        members = ledger.studies_of(attempt["run_id"] for attempt in (*running, *failed))
        running, failed = (
            [attempt for attempt in attempts if study in members.get(attempt["run_id"], ())]
            for attempts in (running, failed)
        )
        shown = ledger.open_packs(study)
        progress = {study: progress[study]}
    names = labels(ledger, (attempt["run_id"] for attempt in (*running, *failed)))
    before = cache(lambda: EarlierSubmissions(ledger, output_root, None, []))
    refused = _refused(ledger, output_root, before)
    submissions = {row["submission_id"]: row for row in ledger.hours()}
    shown = [row for row in shown if row["open"]]
    begun = [row for row in shown if open_packs[pack_of(row)]["started"]]
    waiting = [row for row in shown if not open_packs[pack_of(row)]["started"]]
    packs, queue = _packs(running, names, submissions, begun, open_packs, now), _queue(waiting, open_packs)
    going = [key for key, row in open_packs.items() if row["open"] and row["started"]]
    work, stages = (ledger.stage_work(), ledger.open_stages(going)) if going else ([], [])
    left, why = estimate_times(submissions, open_packs, packs, queue, now, work, stages)
    return Status(
        studies=tuple(progress.values()), total=total, packs=packs, queue=queue,
        failures=_failures(ledger, output_root, before, failed, names, imported),
        hours=hours_used(submissions.values()), seconds_left=left, why=why,
        flags=(*_flags(ledger), *_told_refused(refused), *removed_runs(ledger, output_root)),
        as_of=view.as_of, slurm=view.slurm, options=options, now=now, only_imported=imported,
        refused=_eligible_of(ledger, refused),
        paused=bool(_if_told(lambda: pause.is_paused(output_root, environment.user()))),
        waits=(
            *needs.told(output_root),
            *needs.told_of_others(ledger.unmet_needs(), options),
            *needs.of_choices(ledger, output_root),
        ),
    )  # fmt: skip


def pack_of(row: AttemptRow | PackRow) -> tuple[str, int]:
    """Return the submission's id and the place in it."""
    return row["submission_id"], row["pack_index"]


def labels(ledger: Ledger, run_ids: Iterable[str]) -> dict[str, str]:
    """Run id -> its name, with the id where several runs have that name."""
    names = ledger.names(run_ids)
    several = ledger.ambiguous(names.values())
    return {run_id: f"{name} ({run_id})" if name in several else name for run_id, name in names.items()}


def _progress(ledger: Ledger) -> dict[str, Progress]:
    """Return the progress of each study; "" is every run once."""
    found = {"": Progress("", {}, {})}
    for study, statuses, runs in ledger.kinds():
        progress = found.setdefault(study, Progress(study, {}, {}))
        of_run = _of_run(statuses.values())
        progress.runs[of_run] = progress.runs.get(of_run, 0) + runs
        for stage, status in statuses.items():
            counts = progress.stages.setdefault(stage, {})
            counts[status] = counts.get(status, 0) + runs
    return found


def _of_run(statuses: Iterable[StageStatus]) -> StageStatus:
    """One word for a run whose stages are so."""
    known = set(statuses)
    otherwise: StageStatus = "completed" if known == {"completed"} else "eligible"
    return next((status for status in TELLING if status in known), otherwise)


def _packs(
    running: Sequence[AttemptRow],
    names: Mapping[str, str],
    submissions: Mapping[str, HoursRow],
    begun: Sequence[PackRow],
    open_packs: Mapping[tuple[str, int], PackRow],
    now: float,
) -> tuple[RunningPack, ...]:
    """Return the packs that have begun. `running`: what is shown of them; `open_packs`: with all of their runs."""
    members: dict[tuple[str, int], list[AttemptRow]] = {}
    for attempt in running:
        members.setdefault(pack_of(attempt), []).append(attempt)
    packs = []
    for row in begun:
        key = pack_of(row)
        working = tuple(_working(attempt, names, now) for attempt in members.get(key, ()))
        pack, slots = open_packs[key], (submissions[key[0]]["slots"] if key[0] in submissions else None) or 1
        waiting = row["live"] - len({each.run_id for each in working})
        packs.append(
            RunningPack(
                *key, pack["job"] or "", pack["host"] or "", min(slots, pack["runs"]), pack["runs"], waiting, working
            )
        )
    return tuple(packs)


def _working(attempt: AttemptRow, names: Mapping[str, str], now: float) -> RunningStage:
    beat = json.loads(attempt["progress"]) if attempt["progress"] else {}
    fraction, said = beat.get("fraction", 0.0), beat.get("time", now)
    silent, left = max(0.0, now - said), beat.get("seconds_left")
    if left is None and attempt["started"] and fraction >= LITTLE:  # not a training, or of an older version
        left = (said - attempt["started"]) * (1 / fraction - 1)
    if left is not None and not 0 <= left <= LATEST:  # NaN, too
        left = None
    return RunningStage(
        attempt["run_id"], names[attempt["run_id"]], attempt["stage"], attempt["number"], fraction,
        beat.get("text", ""), beat.get("loss"), beat.get("tokens_per_second"),
        None if left is None or silent > SILENT else max(0.0, left - silent), silent,
    )  # fmt: skip


def _queue(waiting: Iterable[PackRow], open_packs: Mapping[tuple[str, int], PackRow]) -> tuple[WaitingPacks, ...]:
    """Return the queue by reason, most runs first."""
    groups: dict[str, list[PackRow]] = {}
    for row in waiting:
        groups.setdefault(row["reason"] or "", []).append(open_packs[pack_of(row)])
    found = [
        WaitingPacks(
            reason, sum(row["runs"] for row in rows), tuple(map(pack_of, rows)), tuple(row["job"] or "" for row in rows)
        )
        for reason, rows in groups.items()
    ]
    return tuple(sorted(found, key=lambda each: -each.runs))


# -- failures ---------------------------------------------------------------------------------------------------------


def _failures(
    ledger: Ledger,
    root: OutputRoot,
    before: Callable[[], EarlierSubmissions],
    failed: Sequence[AttemptRow],
    names: Mapping[str, str],
    imported: bool,
) -> tuple[Failure, ...]:
    """Largest group first."""
    if not failed:
        return ()
    decisions, options = ledger.decisions(), root.options
    left: dict[tuple[str, str, int], Why] = {}
    if not imported:
        decisions, left = _foretold(ledger, root, before, failed, decisions)
    superseded = _superseded(ledger, failed)
    groups: dict[tuple[str, str, str, str], list[AttemptRow]] = {}
    for attempt in failed:
        decided = _decided(decisions.get(key_of(attempt)), left.get(key_of(attempt)))
        decided = SUPERSEDED if attempt["run_id"] in superseded else decided
        key = (attempt["stage"], attempt["cause"] or "", _alike(attempt["message"] or ""), decided)
        groups.setdefault(key, []).append(attempt)
    found = []
    for (stage, cause, _, decided), group in groups.items():
        again = decided.startswith("to be tried again")
        ticks = again and not imported
        command = f"tiny-transformers tick{options}" if ticks else _rerun(stage, group, failed) + options
        of_first = left.get(key_of(group[0]))
        if of_first in (Why.REMOVED, Why.REFUSED):
            command = f"submit MANIFEST{options}"
        elif of_first is Why.BLOCKED:  # which does that stage, too
            command = f"rerun --failed{options}"
        command += " --site SITE" if imported or of_first is Why.GONE else ""
        if decided == SUPERSEDED:
            command = _forget(group, root)
        told = tuple((row["run_id"], names[row["run_id"]], row["number"], row["job"] or "") for row in group)
        found.append(Failure(stage, cause, clean(group[0]["message"] or ""), told, decided, again, command))
    return tuple(sorted(found, key=lambda each: -len(each.attempts)))


def _foretold(
    ledger: Ledger,
    root: OutputRoot,
    before: Callable[[], EarlierSubmissions],
    failed: Sequence[AttemptRow],
    decisions: Mapping[tuple[str, str, int], DecisionFile],
) -> tuple[dict[tuple[str, str, int], DecisionFile], dict[tuple[str, str, int], Why]]:
    """The decisions with those that `tick` will make to try again, and what of all these it will leave alone."""

    def site_of(submission_id: str) -> Site | None:
        return _if_told(lambda: before().site(submission_id))

    undecided = [attempt for attempt in failed if key_of(attempt) not in decisions]
    made = dict(decisions)
    if undecided:
        made |= retries.expected(ledger, root, site_of, undecided, time.time())
    retried = [attempt for attempt in failed if _is_retry(made.get(key_of(attempt)))]
    left = (_if_told(lambda: leaving.all_left(ledger, root, before(), retried)) if retried else None) or {}
    return made, left


def _if_told(look: Callable[[], T]) -> T | None:
    """Look at what files of submissions say. Where a profile is another version's, a file is torn or the disk does not
    give it, `tick` says so, and `status` goes on."""
    try:
        return look()
    except (InputError, OSError, TornFile):
        return None


def _superseded(ledger: Ledger, failed: Iterable[AttemptRow]) -> set[str]:
    """Return those of these runs that no study asks for any more, as it was last submitted, and no other run needs."""
    asked = {row["name"]: {run_id for grid in row["grids"] for run_id in grid["runs"]}
             for row in ledger.studies() if row["grids"]}  # fmt: skip
    studies, needed = ledger.studies_of(attempt["run_id"] for attempt in failed), ledger.needed_runs()
    return {
        run_id
        for run_id, names in studies.items()
        if run_id not in needed and all(name in asked and run_id not in asked[name] for name in names)
    }


def _forget(group: Sequence[AttemptRow], root: OutputRoot) -> str:
    """Return the commands after which these runs are counted no more; what they did goes with them."""
    folders = [str(root.run(run_id).path) for run_id in dict.fromkeys(row["run_id"] for row in group)]
    named = folders if len(folders) <= FORGOTTEN else [str(root.path / "runs" / "RUN"), "..."]
    return f"rm -r {' '.join(map(shlex.quote, named))}; tiny-transformers ledger rebuild{root.options}"


def _alike(message: str) -> str:
    """Messages of one cause differ in the numbers of jobs, nodes, runs and steps."""
    return re.sub(r"\b[0-9a-f]{8,}\b|\d[\d.,]*", "#", message)


def _rerun(stage: str, group: Sequence[AttemptRow], failed: Sequence[AttemptRow]) -> str:
    """The command that does these again, and as few others as can be."""
    if len(group) == len(failed):
        return "rerun --failed"
    command = f"rerun --failed --stage {stage}"
    if len(group) <= NAMED and any(row["stage"] == stage and row not in group for row in failed):
        return command + "".join(f" --run {row['run_id']}" for row in group)
    return command


def _is_retry(decision: DecisionFile | None) -> bool:
    return decision is not None and decision["action"] == "retry"


def _decided(decision: DecisionFile | None, left: Why | None) -> str:
    if decision is None:
        return ""
    if left:
        return f"left alone by `tick`: {left.value}"
    if decision["action"] == "stop":
        return f"not tried again by itself: {decision['tries']} x {decision['cause']}"
    return f"to be tried again: {decision['changes']}"


def _flags(ledger: Ledger) -> list[str]:
    """Checks that did not hold but do not make a score wrong by themselves, and code that changed between runs."""
    rows = [row for row in ledger.failed_checks() if not row["blocking"]]
    of_corpora = Counter(row["value"] for row in rows if row["name"] == DOCUMENTS_CUT)  # all of its runs say the same
    rows = [row for row in rows if row["name"] != DOCUMENTS_CUT]
    flagged: dict[str, list[str]] = {}
    for row in rows:
        flagged.setdefault(row["run_id"], []).append(row["name"])
    if len(flagged) > FLAGGED:
        counted = Counter(row["name"] for row in rows).most_common()
        told = [f"{len(flagged):,} runs: {', '.join(f'{check} ({number:,})' for check, number in counted)}"]
    else:
        names = labels(ledger, flagged)
        told = [f"{names[run_id]}: {', '.join(dict.fromkeys(checks))}" for run_id, checks in flagged.items()]
    told += [f"{value} ({count(number, 'run')})" for value, number in of_corpora.items()]
    told += [*identical_scores(ledger), *unknown_runs(ledger), *of_several_manifests(ledger).values()]
    versions = ledger.code_versions()
    if len(versions) > 1:
        of_each = ", ".join(f"{code} ({number:,})" for code, number in versions.items())
        told.append(f"completed stage runs are of {len(versions)} versions of the code: {of_each}")
    owners = {row["user"] for row in ledger.open_submissions() if row["scheduler"] == "slurm" and row["user"]}
    for owner in sorted(owners - {environment.user()}):
        told.append(f"jobs of {owner} are under way: SLURM is asked about them when {owner} looks")
    return told


def _refused(ledger: Ledger, root: OutputRoot, before: Callable[[], EarlierSubmissions]) -> dict[str, str]:
    """Return the runs that SLURM refused for good, and why."""
    refused = {row["submission_id"] for row in ledger.submissions() if row["state"] == "refused"} - root.came_along()
    if not refused:
        return {}
    last = ledger.last_submissions(ledger.runs_with("eligible"))
    of_these = {run_id for run_id, submission_id in last.items() if submission_id in refused}
    _if_told(lambda: before().sources(of_these))
    return {run_id: why for run_id, why in before().refused.items() if run_id in of_these}


def _told_refused(refused: Mapping[str, str]) -> list[str]:
    messages = Counter(map(clean, refused.values()))
    return [
        f"sbatch refused {count(number, 'run')} ({message}), and `tick` leaves them alone: mend that and `submit` again"
        for message, number in messages.items()
    ]


def _eligible_of(ledger: Ledger, run_ids: Collection[str]) -> int:
    """How many stage runs of these runs are eligible."""
    states = ledger.states() if run_ids else {}
    return sum(state.status == "eligible" for run_id in run_ids for state in states[run_id].values())


# -- for programs -----------------------------------------------------------------------------------------------------


def status_json(view: LedgerView, output_root: OutputRoot) -> dict[str, Any]:
    overview, status = view.ledger.overview(), read(view, output_root)
    told = asdict(status)
    # Programs know the submission and the place of a pack by these words.
    told["packs"] = [
        {"token": pack.pop("submission_id"), "task": pack.pop("pack_index")} | pack for pack in told["packs"]
    ]
    return {
        "as_of": view.as_of,
        "slurm": view.slurm,
        "counts": counts(view.ledger),
        "runs": [{key: run[key] for key in ("run_id", "name", "studies", "stages")} for run in overview],
        "estimate": {"seconds_left": status.seconds_left, "why": status.why},
        **{key: told[key] for key in ("studies", "packs", "queue", "failures", "hours", "flags")},
    }


def counts(ledger: Ledger) -> dict[StageStatus, int]:
    """Status -> stage runs, every run once."""
    found: Counter[StageStatus] = Counter()
    for of_stage in ledger.tally().get("", {}).values():
        found += of_stage
    return {status: found[status] for status in STATUSES}
