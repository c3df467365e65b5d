"""Turn what is asked for and not done into the arrays that SLURM takes now.

Shared by `submit`, `rerun` and `tick`. Keeps to what the account may submit and have running, and to one version of the
code within a run. Prints nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cluster.errors import InputError, SlurmSilent
from cluster.files import documents, folders, records, whole_files
from cluster.files.documents import AnswerFile, BudgetFile, ContentsFile, ReachedLimit
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.ledger.database import Ledger
from cluster.plan import choosing, cost, packing, retry
from cluster.plan.calibration import Calibration
from cluster.plan.choosing import PackItem
from cluster.plan.packing import Array
from cluster.plan.retry import Adjustment
from cluster.reconcile.opened import read_whole
from cluster.sites.profiles import Site
from cluster.slurm.answers import Job, minutes, number_in
from cluster.slurm.queries import Limits, Slurm, names_of
from cluster.slurm.sbatch import RefusedForNow
from cluster.submit import choices
from tiny_transformers.settings.stage.own import OwnStage
from tiny_transformers.settings.stages import needed_by

IN_A_ROW = 2  # refusals for a limit that nobody could read, before it is believed: the first may be for others' jobs
FORGOTTEN = 3600.0  # seconds until such a limit is tried again, though nothing that is read has changed

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
    max_gpu_hours: float | None = None  # that one request may take


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
    later: Sequence[Array] = ()  # what waits for the product of another run
    left_alone: int = 0  # runs that another version of the code began, or that lack what another run had made
    about: Sequence[records.StudyRecord] = ()  # what is to be recorded of studies
    left_out: Sequence[str] = ()  # optional studies that nobody named
    budget: BudgetFile | None = None  # for all that is submitted to this OUTPUT_ROOT
    contents: ContentsFile | None = None  # of the data that is read
    reached: ReachedLimit | None = None  # a limit that nobody could read, and that still holds
    calibration: Calibration | None = None  # that comes first, and by which the rest is planned
    own: Mapping[str, OwnStage] = field(default_factory=dict)  # users' stages that are to be recorded
    follow_ups: choices.Known = choices.NONE  # studies whose cells are chosen later
    mixed: Sequence[str] = ()  # what to say of studies that another manifest has submitted by the same name
    room: int | None = None  # how many packs the limits leave room for; None: for any number
    notes: Sequence[str] = ()  # on the corpora that are read, and on what will not be compared

    @property
    def planned(self) -> list[Array]:
        """All that is asked for."""
        return [*self.arrays, *self.held, *self.later]

    @property
    def assumed(self) -> bool:
        """Whether how many jobs there may be is taken from refusals."""
        return self.reached is not None and self.reached["times"] >= IN_A_ROW

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
    reached: ReachedLimit | None = None,
    later: Collection[str] = (),
) -> Request:
    """`later`: the runs that wait for other ones.

    Raises InputError if a run does not fit the site, SlurmSilent if it is not known how much may be submitted."""
    limits = limits_of(site, slurm)
    if reached and reached["max_submit"] != limits.max_submit:
        reached = None  # what is read has changed since
    if reached and reached["times"] >= IN_A_ROW:
        limits = replace(limits, max_submit=reached["live"] + reached["packs"] // 2)
    narrowed = narrow(site, limits)
    histories = ledger.histories(run.id for run, stages in todo if stages) if ledger else {}
    items = [
        choosing.item(run, stages, states.get(run.id, {}), measured, _adjustment(histories, run, stages, site))
        for run, stages in todo
        if stages
    ]
    by_id = {run.id: run for run in runs}
    arrays, after = (
        packing.arrange([item for item in items if (item.run_id in later) == waits], by_id, narrowed, measured)
        for waits in (False, True)
    )
    arranged = {item.run_id: item for array in (*arrays, *after) for pack in array.packs for item in pack.items}
    items = [arranged[item.run_id] for item in items]  # with the time that they take beside others
    now: list[Array] = arrays
    held: list[Array] = []
    room: int | None = None
    if narrowed.max_submit is not None and arrays:
        room = narrowed.max_submit - _live(slurm, site)
        room = room if limits.room is None else min(room, limits.room)
        now, held = _within(arrays, room)
    return Request(site, runs, items, now, held, limits, measured, studies, states, after, reached=reached, room=room)


def limits_of(site: Site, slurm: Slurm) -> Limits:
    """The narrower of what the site's profile says and what SLURM says now."""
    if site.scheduler != "slurm":
        return Limits()
    partitions = _partitions(site, slurm)
    for name, words in partitions.items():
        _check_partition(site, name, words)
    size = number_in((slurm.configuration() or {}).get("MaxArraySize", ""))
    limits = Limits(site.max_submit, site.max_jobs, site.max_time, size or None)
    for words in partitions.values():
        limits |= Limits(max_time=minutes(words.get("MaxTime", "")))
    return limits | (slurm.limits(site.account, site.qos, partitions) or Limits())


def _partitions(site: Site, slurm: Slurm) -> dict[str, dict[str, str]]:
    """Return scontrol's words for each partition of a site of which it says something."""
    return {name: words for name in names_of(site.partition) if (words := slurm.partition(name)) is not None}


def _check_partition(site: Site, name: str, found: Mapping[str, str]) -> None:
    """Raises InputError if there is no such partition, or if it gives less memory than the site's profile asks for: on
    some sites SLURM would take more CPUs for it in silence."""
    if not found:
        raise InputError(f"site {site.name}: SLURM has no partition {name}. `sinfo -s` lists them.")
    most = found.get("MaxMemPerCPU", "")
    if most.isdecimal() and 0 < int(most) < site.memory_per_cpu:
        raise InputError(
            f"site {site.name}: memory_per_cpu is {site.memory_per_cpu} MB, and partition {name} gives at "
            f"most {most}. Lower it in the profile. Nothing was submitted."
        )


def narrow(site: Site, limits: Limits) -> Site:
    """The site as the account may use it."""
    if site.scheduler != "slurm":
        return site
    limits |= Limits(max_array_size=site.max_array_size)
    told = asdict(limits)
    return site.model_copy(update={key: told[key] for key in Site.model_fields if told.get(key) is not None})


def _adjustment(
    histories: Mapping[tuple[str, str], Sequence[records.AskedAttempt]], run: Run, stages: Sequence[str], site: Site
) -> Adjustment:
    """Return the adjustment that earlier attempts of these stages have taught."""
    adjustment = Adjustment()
    for stage in stages:
        adjustment |= retry.adjust(histories.get((run.id, stage), ()), site)
    return adjustment


def _live(slurm: Slurm, site: Site) -> int:
    """How many of the user's jobs count against the account's limit; asked for if it was not yet.

    Raises SlurmSilent if that cannot be known."""
    jobs = slurm.queue() if slurm.seen is None else slurm.seen
    if jobs is None:
        raise SlurmSilent("squeue did not answer, so it is not known how much may be submitted. Try again.")
    return _counted(jobs, site)


def _counted(jobs: Mapping[str, Job], site: Site) -> int:
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


def last_limit(ledger: Ledger, output_root: OutputRoot, site: Site) -> ReachedLimit | None:
    """Return the limit that this site's account met last and that nobody could read; None if that is long ago: others
    of the account, whose jobs are not seen here, may have made room since."""
    for row in reversed(ledger.submissions()):
        path = output_root.submission(row["submission_id"]).answer
        if row["state"] != "refused" or not path.exists():
            continue
        if whole_files.age(path) > FORGOTTEN:
            return None
        answer = read_whole(path, AnswerFile, [])  # a spoilt one says nothing of a limit
        limit = answer.get("limit") if answer else None
        if limit and (limit["account"], limit["qos"], limit["partition"]) == (site.account, site.qos, site.partition):
            return limit
    return None


def note_limit(output_root: OutputRoot, request: Request, refusal: RefusedForNow, slurm: Slurm) -> None:
    """Remember the limit for which SLURM refused, unless what is read explains it: then other jobs came between."""
    path, site = output_root.submission(refusal.submission_id).answer, request.site
    answer = documents.read(path, AnswerFile)
    jobs = slurm.queue() if refusal.limit else None
    if jobs is None or answer is None:
        return
    before = request.reached
    read = before["max_submit"] if before else request.limits.max_submit
    live, packs = _counted(jobs, site), len(request.arrays[refusal.accepted].packs)
    known = slurm.limits(site.account, site.qos, _partitions(site, slurm))
    if known and known.room is not None and packs > known.room:
        return
    if read is None or live + packs <= read:
        answer["limit"] = {
            "account": site.account, "qos": site.qos, "partition": site.partition, "max_submit": read, "live": live,
            "packs": packs, "times": before["times"] + 1 if before else 1,
        }  # fmt: skip
        whole_files.write_json(path, answer)


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
