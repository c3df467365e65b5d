"""Turn what is asked for and not done into the arrays that SLURM takes now.

Shared by `submit`, `rerun` and `tick`. Keeps to what the account may submit and have running, to one version of the
code within a run, and stops after many failures of one kind. Prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster.errors import BreakerOpen, InputError
from cluster.files import folders, records, whole_files
from cluster.files.documents import DecisionFile
from cluster.files.folders import OutputRoot
from cluster.files.records import Run, key_of
from cluster.ledger.database import Ledger
from cluster.plan import choosing, cost, packing, retry
from cluster.plan.choosing import PackItem
from cluster.plan.packing import Array
from cluster.plan.retry import Adjustment
from cluster.sites.profiles import Site
from cluster.slurm.answers import minutes
from cluster.slurm.queries import Limits, Slurm
from tiny_transformers.settings.stages import needed_by

States = Mapping[str, Mapping[str, records.StageState]]
Todo = Sequence[tuple[Run, list[str]]]  # each run with the stages that are to be done


@dataclass(frozen=True)
class SubmitOptions:
    """The folders of a command, and how it was told to go about it."""

    output_root: OutputRoot
    log_dir: Path
    dry_run: bool = False
    yes: bool = False
    allow_code_change: bool = False


@dataclass(frozen=True)
class Request:
    """A wish to submit: what, and where."""

    site: Site
    runs: list[Run]  # all that were asked for
    items: list[PackItem]  # what is to be done of them
    arrays: list[Array]  # what is submitted now
    held: list[Array]  # what the account's limit leaves for later
    limits: Limits
    measured: cost.Measured
    studies: list[str]  # in the order in which they are shown
    states: States
    left_alone: int = 0  # runs that another version of the code began
    about: Sequence[records.StudyRecord] = ()  # what is to be recorded of studies

    @property
    def work(self) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
        """Return what it comes to: two requests with the same are one."""
        return sorted((item.run_id, item.stages) for item in self.items)


def request(
    ledger: Ledger | None,
    runs: list[Run],
    todo: Todo,
    states: States,
    site: Site,
    measured: cost.Measured,
    studies: list[str],
    slurm: Slurm,
) -> Request:
    """Raises InputError if a run does not fit the site, or if it is not known how much may be submitted."""
    limits = limits_of(site, slurm)
    narrowed = narrow(site, limits)
    items = [
        choosing.item(run, stages, states.get(run.id, {}), measured, _adjustment(ledger, run, stages, states, site))
        for run, stages in todo
        if stages
    ]
    arrays = packing.arrange(items, {run.id: run for run in runs}, narrowed, measured)
    arranged = {item.run_id: item for array in arrays for pack in array.packs for item in pack.items}
    items = [arranged[item.run_id] for item in items]  # with the time that they take beside others
    now: list[Array] = arrays
    held: list[Array] = []
    if narrowed.max_submit is not None and arrays:
        now, held = _within(arrays, narrowed.max_submit - _live(slurm, site))
    return Request(site, runs, items, now, held, limits, measured, studies, states)


def limits_of(site: Site, slurm: Slurm) -> Limits:
    """The narrower of what the site's profile says and what SLURM says now."""
    if site.scheduler != "slurm":
        return Limits()
    told = slurm.limits(site.account, site.qos) or Limits()
    said = Limits(site.max_submit, site.max_jobs, _narrower(site.max_time, _partition_time(site, slurm)))
    return Limits(*(_narrower(a, b) for a, b in zip(asdict(said).values(), asdict(told).values(), strict=True)))


def _partition_time(site: Site, slurm: Slurm) -> int | None:
    """Minutes that the site's partition gives a job; None if that is not known.

    Raises InputError if there is no such partition, or if it gives less memory than the site's profile asks for: on
    some sites SLURM would take more CPUs for it in silence."""
    found = slurm.partition(site.partition) if site.partition else None
    if found is None:
        return None
    if not found:
        raise InputError(f"site {site.name}: SLURM has no partition {site.partition}. See `tiny-transformers doctor`.")
    most = found.get("MaxMemPerCPU", "")
    if most.isdecimal() and 0 < int(most) < site.memory_per_cpu:
        raise InputError(
            f"site {site.name}: memory_per_cpu is {site.memory_per_cpu} MB, and partition {site.partition} gives at "
            f"most {most}. Lower it in the profile. Nothing was submitted."
        )
    return minutes(found.get("MaxTime", ""))


def narrow(site: Site, limits: Limits) -> Site:
    """The site as the account may use it."""
    if site.scheduler != "slurm":
        return site
    update = {"max_submit": limits.max_submit, "max_jobs": limits.max_jobs, "max_time": limits.max_time}
    return site.model_copy(update={key: value for key, value in update.items() if value is not None})


def _narrower(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _adjustment(
    ledger: Ledger | None,
    run: Run,
    stages: Sequence[str],
    states: States,
    site: Site,
) -> Adjustment:
    """Return the adjustment that earlier attempts of these stages have taught."""
    adjustment = Adjustment()
    for stage in stages:
        state = states.get(run.id, {}).get(stage)
        if ledger and state and state.attempts:
            adjustment |= retry.adjust(ledger.history(run.id, stage), site)
    return adjustment


def _live(slurm: Slurm, site: Site) -> int:
    """How many of the user's jobs count against the account's limit; asked for if it was not yet.

    Raises InputError if that cannot be known."""
    jobs = slurm.queue() if slurm.seen is None else slurm.seen
    if jobs is None:
        raise InputError("squeue did not answer, so it is not known how much may be submitted. Try again.")
    mine = [job for job in jobs.values() if job.live]
    return len([job for job in mine if not site.account or job.account.lower() == site.account.lower()])


def _within(arrays: Sequence[Array], room: int) -> tuple[list[Array], list[Array]]:
    """The first packs, as many as there is room for, and the rest."""
    now: list[Array] = []
    held: list[Array] = []
    for array in arrays:
        fitting, rest = array.packs[: max(0, room)], array.packs[max(0, room) :]
        room -= len(fitting)
        now += [replace(array, packs=fitting)] if fitting else []
        held += [replace(array, packs=rest)] if rest else []
    return now, held


# -- retry ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RetryPlan:
    """The failed stage runs that are tried again, and what else was decided."""

    due: dict[str, list[str]]  # run id -> stages
    waiting: int  # stage runs whose rule says to wait
    decided: list[DecisionFile]  # decisions made just now


def decide(
    ledger: Ledger,
    output_root: OutputRoot,
    site_of: Callable[[str], Site],
    now: float,
    only: Collection[str] | None = None,
) -> RetryPlan:
    """Decide on every failed stage run, of these runs if given, that nothing was decided on yet: a file beside the
    attempt, and a row."""
    known = ledger.decisions()
    due: dict[str, list[str]] = {}
    decided: list[DecisionFile] = []
    waiting = 0
    for attempt in ledger.newest_attempts("failed"):
        if only is not None and attempt["run_id"] not in only:
            continue
        key = key_of(attempt)
        decision = known.get(key)
        if decision is None:
            history = ledger.history(attempt["run_id"], attempt["stage"])
            made = retry.decide(history, site_of(attempt["submission_id"]), now)
            decision = {
                "run_id": key[0], "stage": key[1], "number": key[2], "time": now, "action": made.action,
                "cause": made.cause, "tries": made.tries, "changes": made.changes, "due": made.due,
            }  # fmt: skip
            whole_files.write_json(output_root.attempt(*key).decision, decision)
            ledger.put_decision(decision)
            decided.append(decision)
        if decision["action"] == "retry" and decision["due"] <= now:
            due.setdefault(attempt["run_id"], []).append(attempt["stage"])
        elif decision["action"] == "retry":
            waiting += 1
    return RetryPlan(due, waiting, decided)


def check_breaker(ledger: Ledger, site: Site) -> None:
    """Raises BreakerOpen if the attempts that ended last failed alike, one after another."""
    if site.breaker is None:
        return
    ended = ledger.latest_ends(2_000)  # a pack may have many, and failures that do not count may lie between
    alike = retry.in_a_row(ended)
    if alike >= site.breaker:
        newest = next(attempt for attempt in ended if attempt["status"] == "failed")
        raise BreakerOpen(
            f"The last {alike} packs failed alike ({newest['stage']}, {newest['cause']}: {newest['message']}). "
            "Nothing is submitted before a person has looked: `status --failed`; then `rerun --failed`, which goes on."
        )


# -- provenance -------------------------------------------------------------------------------------------------------


def other_code(
    ledger: Ledger, output_root: OutputRoot, run_id: str, stages: Collection[str], digest: str
) -> str | None:
    """Another version of the code that these stages of the run would go on from, in words: one that a stage they need
    was completed with, or checkpoints of a pretraining that did not fail by a mistake, which other code may mend.
    None if there is none. The job has the same rule (jobs/stage.py), on files."""
    newest = ledger.newest_of(run_id)
    for stage in needed_by(stages) - set(stages):
        attempt = newest.get(stage)
        if attempt and attempt["status"] == "completed" and attempt["code"] not in (None, digest):
            return f"{stage} is of {attempt['code']}"
    if "pretrain" in stages and output_root.run(run_id).has_checkpoints:
        worked = [
            attempt
            for attempt in ledger.history(run_id, "pretrain")
            if attempt["code"] and not (attempt["message"] or "").startswith(folders.OTHER_CODE)
        ]
        if worked and worked[-1]["cause"] not in ("error", "check_failed") and worked[-1]["code"] != digest:
            return f"pretrain is of {worked[-1]['code']}"
    return None
