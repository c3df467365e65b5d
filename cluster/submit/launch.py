"""Arrays -> submitted arrays, on SLURM and on this machine alike. The only module that imports submitit.

The intent, with a random id that is the job's name and comment, is on disk and in the ledger before sbatch runs.
submitit starts `jobs.pack.PackJob`, the one callable of the compute node's half that is named here; its own call of
sbatch and its status watcher are not used."""

from __future__ import annotations

import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.errors import InputError, SlurmSilent, SubmitError
from cluster.files import documents, folders, processes, whole_files
from cluster.files.documents import AnswerFile, CodeVersion, Intent, PackedRun, SourceOfWork, TaskFile
from cluster.files.folders import OutputRoot
from cluster.files.records import key_of
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.plan.packing import Array, Pack, Resources
from cluster.render import render
from cluster.sites.profiles import Site, refuse_other_clusters
from cluster.slurm import environment, sbatch
from cluster.slurm.answers import job_name
from cluster.submit import code_copy
from jobs import pack
from tiny_transformers.common.provenance import decisive_versions
from tiny_transformers.settings.stages import STAGES

PICKLE = "pack.pkl"  # one for all tasks of an array
EMPTY: Mapping[tuple[str, str], int] = {}
SHORT = 5  # minutes of a job that only looks: to load torch from a cold file system may take one
REQUEUES = 1_000  # submitit's own limit; `PackJob.checkpoint` has the site's
# What is filled in in the name of a log: by SLURM ("filename pattern" in sbatch's manual), and by submitit.
NAME_PARTS = {"slurm": ("%", "\\"), "local": ("%j", "%t", "%A", "%a")}


@dataclass(frozen=True)
class Origin:
    """Where a submission comes from; every one of its attempts can be traced to it."""

    asked_by: str  # submit, rerun, tick
    created: str
    data_root: Path | None
    code: CodeVersion  # version of the science's source
    manifest: dict[str, Any] | None  # name, sha256, text
    allow_code_change: bool = False
    code_copy: str = "CODE"  # the name of the copy of the code; this one stands in what is only shown


def submit(
    ledger: Ledger, output_root: OutputRoot, arrays: Sequence[Array], site: Site, origin: Origin, log_dir: Path
) -> list[str]:
    """Submit each array; returns the jobs' ids. The caller holds the lock and has reconciled.

    Raises InputError (no sbatch), SubmitError (refused; earlier arrays are submitted and recorded; RefusedForNow where
    the rest may be taken later), SlurmSilent."""
    if site.scheduler == "slurm" and shutil.which("sbatch") is None:
        raise InputError(
            f"site {site.name} needs SLURM, and there is no sbatch on this machine. Log in to the cluster, or use "
            "--site local. Nothing was submitted."
        )
    refuse_other_clusters(site, f"site {site.name}")  # of an older submission
    inside = with_data(site, origin.data_root)
    check(inside, output_root, log_dir)
    prologue(site, output_root)  # a mistake in it shows before the first intent is written
    if origin.code_copy == Origin.code_copy:
        origin = replace(origin, code_copy=code_copy.keep(output_root))
    jobs: list[str] = []
    for number, array in enumerate(arrays, 1):
        submission_id = secrets.token_hex(6)
        _intend(ledger, output_root, array, site, origin, submission_id, log_dir)
        try:
            answer = _launch_somewhere(array, inside, output_root, submission_id, log_dir, origin.code_copy)
        except SubmitError as error:
            _record_refusal(ledger, output_root, submission_id, error)
            if isinstance(error, sbatch.RefusedForNow):
                raise sbatch.RefusedForNow(
                    f"sbatch refused array {number} of {len(arrays)} for now ({error}); {_before(number)}",
                    limit=error.limit,
                    accepted=number - 1,
                    submission_id=submission_id,
                ) from None
            raise SubmitError(
                f"sbatch refused array {number} of {len(arrays)} ({error}); {_before(number)} The script is in "
                f"{log_dir / submission_id}; `tiny-transformers doctor --site SITE` tells what SLURM "
                "has: partitions, your accounts, limits."
            ) from None
        except SlurmSilent as error:
            if any(words in str(error) for words in sbatch.NOT_REACHED):
                whole_files.write_json(
                    output_root.submission(submission_id).answer, {"state": "intended", "reached": False}
                )
            raise SlurmSilent(
                f"sbatch gave no answer for array {number} of {len(arrays)} ({error}); {_before(number)} It may have "
                f"been accepted all the same: run the command again, which looks for {job_name(submission_id)} "
                "first."
            ) from None
        whole_files.write_json(output_root.submission(submission_id).answer, answer)
        with ledger.transaction():
            ledger.update_submission(submission_id, state=answer["state"], job_id=answer["job_id"])
        jobs.append(answer["job_id"])
    return jobs


def _record_refusal(ledger: Ledger, output_root: OutputRoot, submission_id: str, error: SubmitError) -> None:
    answer: AnswerFile = {"state": "refused", "job_id": None, "message": str(error)}
    if isinstance(error, sbatch.RefusedForNow):
        answer["for_now"] = True
    whole_files.write_json(output_root.submission(submission_id).answer, answer)
    with ledger.transaction():
        ledger.update_submission(submission_id, state="refused")
        for attempt in ledger.open_attempts(submission_id):
            ledger.put_attempt(*key_of(attempt), status="void")


def _intend(
    ledger: Ledger, root: OutputRoot, array: Array, site: Site, origin: Origin, submission_id: str, log_dir: Path
) -> None:
    """The intent on disk and in the ledger, or, if that fails, nowhere: sbatch was not called."""
    directory = root.submission(submission_id)
    try:
        # Before 23.02 SLURM loses the log of a job whose folder is missing.
        (log_dir / submission_id).mkdir(parents=True)
        intent = describe(array, site, root, submission_id, origin, _done(ledger, root, array))
        whole_files.write_json(directory.submission, intent, indent=None)  # half of the time of 10,000 packs
        with ledger.transaction():
            recording.record_intent(ledger, directory, intent)
    except BaseException:
        if submission_id not in ledger.submission_ids():
            shutil.rmtree(directory.path, ignore_errors=True)
        raise


def describe(
    array: Array,
    site: Site,
    output_root: OutputRoot,
    submission_id: str,
    origin: Origin,
    done: Mapping[tuple[str, str], int] = EMPTY,
) -> Intent:
    """submission.json: all that an array task must know, and the map from its index to its pack."""
    limit = array.resources.memory_limit
    described: Intent = {
        "submission_id": submission_id,
        **origin_of(site, origin),
        "output_root": str(output_root.path.resolve()),
        "cache": str(output_root.cache.resolve()),
        "slots": array.resources.slots,
        "cpus": array.resources.cpus,
        "minutes": array.resources.minutes,
        "memory": array.sizing.memory if array.sizing else None,  # MB, of the largest run, as planned
        "seconds": sum(pack.seconds for pack in array.packs),  # of all packs, as estimated
        "stage_seconds": _of_stages(array),
        "requeues": 0 if site.container else site.requeues,  # within it there is no scontrol
        "packs": [_described(pack, done, limit is not None) for pack in array.packs],
    }
    if limit is not None:
        described["memory_limit"] = limit
    if not site.container:
        described["libraries"] = decisive_versions()
    return described


def _of_stages(array: Array) -> dict[str, float]:
    """Stage -> the seconds of all packs that are estimated for it."""
    seconds = dict[str, float]()
    for item in (item for each in array.packs for item in each.items):
        for (stage, _), share in zip(item.stages, item.shares, strict=False):
            seconds[stage] = seconds.get(stage, 0.0) + share * item.seconds
    return seconds


def origin_of(site: Site, origin: Origin) -> SourceOfWork:
    """Where and how something was asked for, as a file keeps it."""
    return {
        "created": origin.created,
        "user": environment.user(),
        "asked_by": origin.asked_by,
        "site": site.model_dump(mode="json"),
        "data_root": str(origin.data_root.resolve()) if origin.data_root else None,
        "code": origin.code,
        "manifest": origin.manifest,
        "allow_code_change": origin.allow_code_change,
        "code_copy": origin.code_copy,
    }


def _done(ledger: Ledger, root: OutputRoot, array: Array) -> dict[tuple[str, str], int]:
    """Return the newest attempt of each stage run that is done again although it has completed, as far as the ledger
    knows. It does not know those of a run that was left out of a rebuild, which is done anew."""
    done: dict[tuple[str, str], int] = {}
    items = [item for pack in array.packs for item in pack.items if any(number > 1 for _, number in item.stages)]
    statuses = ledger.statuses_of(item.run_id for item in items)
    for item in items:
        run = root.run(item.run_id)
        there = run.stages()
        for stage in (stage for stage, number in item.stages if number > 1 and stage in there):
            known = [
                number for number in run.numbers(stage)
                if statuses.get((item.run_id, stage, number), "completed") == "completed"
            ]  # fmt: skip
            done |= {(item.run_id, stage): max(known)} if known else {}
    return done


def _described(pack: Pack, done: Mapping[tuple[str, str], int], fits_memory: bool) -> list[PackedRun]:
    """Return what the children of a pack are told: of each run what may share the device, then what must be `alone` on
    it. Where the pack fits its runs into the memory, each says how much it takes."""
    together: list[PackedRun] = []
    alone: list[PackedRun] = []
    for item in pack.items:
        sharing = [stage for stage in item.stages if not STAGES[stage[0]].alone]
        if sharing:
            together.append({"run_id": item.run_id, "stages": sharing})
            if fits_memory:
                together[-1]["memory"] = item.memory
            if item.micro_batch_tokens:
                together[-1]["micro_batch_tokens"] = item.micro_batch_tokens
        if len(sharing) < len(item.stages):
            rest = [stage for stage in item.stages if STAGES[stage[0]].alone]
            alone.append({"run_id": item.run_id, "stages": rest, "alone": True})
    surely = {item.run_id: item.seconds * item.margin for item in pack.items}
    for packed in (*together, *alone):
        packed["seconds"] = surely[packed["run_id"]]
        if any(number > 1 for _, number in packed["stages"]):
            keys = {stage: (packed["run_id"], stage) for stage, _ in packed["stages"]}
            packed["done"] = {stage: done[key] for stage, key in keys.items() if key in done}
    return together + alone


def script(
    array: Array, site: Site, output_root: OutputRoot, submission_id: str, log_dir: Path, code: str = Origin.code_copy
) -> str:
    """The text that sbatch is given."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = log_dir / submission_id
    count = len(array.packs)
    options = _slurm_options(array, site, output_root, submission_id, code)
    # submitit gives each task's pickle the job's id once sbatch has answered. A task whose answer was lost would wait
    # for it in vain; all tasks of an array have one pickle, so each links it to its own name. One that was requeued
    # has its own by then.
    link = [
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
        f"pickle={shlex.quote(str(folder))}/${{job:-$SLURM_JOB_ID}}_submitted.pkl",
        f'[ -e "$pickle" ] || ln -s {PICKLE} "$pickle"',
    ]
    options["setup"] = [*link, *options["setup"]]
    return _make_sbatch_string(
        command=f"{_python(site, output_root, log_dir)} -u -m submitit.core._submit {shlex.quote(str(folder))}",
        folder=folder,
        map_count=count if count > 1 else None,
        **options,
    )


def single_script(site: Site, root: OutputRoot, folder: Path, words: str, code: str) -> str:
    """The text of a short job of its own, which starts Python with these words as a pack's job does."""
    python = f"{_python(site, root, folder)} -u {words}"
    if site.scheduler == "local":
        return "\n".join([*_setup(site, root, code), python, ""])
    from submitit.slurm.slurm import _make_sbatch_string

    resources = Resources(1, site.gpus, 1, site.memory_per_cpu, SHORT)
    options = _slurm_options(Array(resources, ()), site, root, folder.name, code)
    return _make_sbatch_string(command=python, folder=folder, **options)


def with_data(site: Site, data_root: Path | None) -> Site:
    """The site as a job starts there: its container, if it has one, sees the data, too."""
    if site.container is None or data_root is None:
        return site
    _check_bind("--data-root", data_root.resolve())
    return site.model_copy(update={"binds": (*site.binds, str(data_root.resolve()))})


def _python(site: Site, root: OutputRoot, log_dir: Path) -> str:
    """The shell words that start the jobs' Python, in the site's container if it has one. What the prologue has set
    is set in there, too."""
    if site.container is None:
        return shlex.quote(site.python or sys.executable)
    folders = dict.fromkeys((str(root.path.resolve()), str(log_dir), *site.binds))
    binds = [word for folder in folders for word in ("--bind", folder)]
    words = ["apptainer", "exec", *(["--nv"] if site.gpus else []), *binds, site.container, site.python or "python3"]
    return shlex.join(words)


def prologue(site: Site, output_root: OutputRoot) -> list[str]:
    """The shell lines before Python. Raises InputError if the site's template is wrong or not there."""
    return render(site.prologue, **site.model_dump(), cache=output_root.cache.resolve()).removesuffix("\n").split("\n")


def check(site: Site, output_root: OutputRoot, log_dir: Path) -> None:
    """Raises InputError if a folder's name means more than a name to whom it is given."""
    for option, folder in (("--output-root", output_root.path.resolve()), ("--log-dir", log_dir)):
        if not str(folder).isprintable():
            raise InputError(
                f"{option} {str(folder)!r}: has characters that cannot be printed, or that are no UTF-8. Give another "
                "folder. Nothing was submitted."
            )
        if site.container:
            _check_bind(option, folder)
    if odd := [part for part in NAME_PARTS[site.scheduler] if part in str(log_dir)]:
        raise InputError(
            f"--log-dir {log_dir}: has {' and '.join(odd)} in its name, which would not be taken as it is, but filled "
            "in with a job's number and the like: the jobs would fail. Give another folder. Nothing was submitted."
        )


def _check_bind(option: str, folder: Path) -> None:
    if ":" in str(folder) or "," in str(folder):
        raise InputError(
            f"{option} {folder}: has a colon or a comma in its name, so that Apptainer cannot be told to show it to a "
            "container. Give another folder. Nothing was submitted."
        )


def _before(number: int) -> str:
    if number == 1:
        return "nothing was submitted."
    return f"array{'s 1-' if number > 2 else ' '}{number - 1} {'are' if number > 2 else 'is'} submitted and recorded."


def _slurm_options(array: Array, site: Site, root: OutputRoot, submission_id: str, code: str) -> dict[str, Any]:
    """submitit's words for one array. srun, because SLURM sends USR2 to steps only; it is told the CPUs again because
    on 22.05 to 23.02 it does not take them from the job."""
    resources = array.resources
    asked = {"requeue": True, "kill-on-invalid-dep": "yes", **site.sbatch}
    nodes = asked.pop("exclude", None)  # of the profile, besides those where something failed
    exclude = [*resources.exclude, *([str(nodes)] if nodes else [])]
    options: dict[str, Any] = {
        "job_name": job_name(submission_id),
        "comment": submission_id,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "time": resources.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": resources.cpus,
        "gpus_per_task": resources.gpus or None,
        "mem_per_cpu": f"{resources.memory_per_cpu}M",
        "signal_delay_s": site.signal_delay,
        "array_parallelism": site.max_tasks_at_once or len(array.packs),
        "setup": _setup(site, root, code),
        "srun_args": ["--cpus-per-task", str(resources.cpus)],
        "stderr_to_stdout": True,
        "exclude": ",".join(exclude) or None,
        "additional_parameters": {
            option.replace("-", "_"): value
            for option, value in asked.items()
            if value is not None and value is not False
        },
    }
    # submitit's own wckey is left out, which a site that checks them refuses.
    return {key: value for key, value in options.items() if value is not None} | {"wckey": None}


def _setup(site: Site, root: OutputRoot, code: str) -> list[str]:
    """The shell lines of a job before Python."""
    return [*code_copy.before_prologue(), *prologue(site, root), *code_copy.after_prologue(root, code)]


def _launch_somewhere(
    array: Array, site: Site, root: OutputRoot, submission_id: str, log_dir: Path, code: str
) -> dict[str, Any]:
    """Off the excluded nodes, or, if there are no others, on any."""
    try:
        return _launch(array, site, root, submission_id, log_dir, code)
    except SubmitError as error:
        if not array.resources.exclude or not any(words in str(error) for words in sbatch.NO_SUCH_NODE):
            raise
        anywhere = replace(array, resources=replace(array.resources, exclude=()))
        return _launch(anywhere, site, root, submission_id, log_dir, code)


def _launch(array: Array, site: Site, root: OutputRoot, submission_id: str, log_dir: Path, code: str) -> dict[str, Any]:
    folder = log_dir / submission_id
    task = pack.PackJob(str(root.submission(submission_id).path.resolve()))
    if site.scheduler == "local":
        return _launch_local(task, array, site, root, folder, code)
    return {"state": "submitted", "job_id": _launch_slurm(task, array, site, root, submission_id, log_dir, code)}


def _launch_slurm(
    task: pack.PackJob, array: Array, site: Site, root: OutputRoot, submission_id: str, log_dir: Path, code: str
) -> str:
    """submitit's pickle, script and job-side runner; sbatch is called here, since its answer is what matters.

    Raises SubmitError (refused) and SlurmSilent (accepted or not: nobody knows)."""
    from submitit.helpers import DelayedSubmission

    folder = log_dir / submission_id
    delayed = DelayedSubmission(task)
    delayed.set_timeout(array.resources.minutes, REQUEUES)
    delayed.dump(folder / PICKLE)
    path = folder / "submission.sh"
    path.write_text(script(array, site, root, submission_id, log_dir, code), encoding="utf-8")
    return sbatch.send(path)


def _launch_local(
    task: pack.PackJob, array: Array, site: Site, root: OutputRoot, folder: Path, code: str
) -> dict[str, Any]:
    import submitit

    executor = submitit.LocalExecutor(folder, python=_python(site, root, folder.parent))
    # The pack outlives this command, its terminal and its pipes: Ctrl-C and a hang-up are not for it.
    detach = ["trap '' INT HUP", f"exec >> {shlex.quote(str(folder / 'controller.out'))} 2>&1 < /dev/null"]
    script = folder / "prologue.sh"
    script.write_text("\n".join(_setup(site, root, code)) + "\n", encoding="utf-8")
    # A pack of this machine is not the job whose shell this may be, and must not requeue that one.
    names = [name for name in environment.left_out() if name.isidentifier()]
    apart = [f"unset {' '.join(names)}"] if names else []
    # And a session of its own: what ends this command's process group, as `timeout 1h submit --wait` does, ends none.
    # The controller takes the shell's place, and so its process id, before submitit starts one beneath the shell.
    alone = "import os, sys; os.setsid(); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    controller = [sys.executable, "-I", "-S", "-c", alone, "-m", "submitit.local._local", str(executor.folder)]
    begin = ["export SUBMITIT_LOCAL_WITH_SHELL=", f"exec {shlex.join(controller)}"]
    setup = [*detach, *apart, f". {shlex.quote(str(script))}", *begin]
    executor.update_parameters(
        timeout_min=array.resources.minutes,
        gpus_per_node=array.resources.gpus,
        signal_delay_s=site.signal_delay,
        stderr_to_stdout=True,
        setup=setup,
    )
    job = executor.submit(task)
    pid = int(job.job_id)
    process = {"host": socket.gethostname(), "pid": pid, "start": processes.process_start(pid)}
    return {"state": "submitted", "job_id": f"local-{pid}", "process": process}


def resource_line(array: Array, site: Site) -> str:
    """Say in a line what one array asks for."""
    resources = array.resources
    where = f"{site.partition} " if site.partition else ""
    gpus = f"{resources.gpus} GPU, " if resources.gpus else ""
    hours, minutes = divmod(resources.minutes, 60)
    asked = f"{resources.cpus * resources.memory_per_cpu:,} MB, {hours}:{minutes:02d} h, "
    if site.scheduler == "local":  # nobody is asked for memory and time here
        asked = ""
    runs = f"{resources.slots} run{'s' if resources.slots > 1 else ''} at a time"
    return f"{where}{gpus}{resources.cpus} CPUs, {asked}{runs}"


def cancel_local(directory: folders.SubmissionDir, index: int) -> None:
    """End a local pack and its children, and leave word that it was cancelled.

    Raises InputError if it runs on another machine."""
    import os
    import signal

    answer = documents.read(directory.answer, AnswerFile) or {"state": "intended"}
    process = documents.read(directory.task(index), TaskFile) or answer.get("process")
    if process and processes.is_alive(process) is None:
        raise InputError(f"process {process['pid']} runs on {process['host']}: cancel it there.")
    whole_files.write_json(directory.answer, {**answer, "cancelled": True})
    if process and processes.is_alive(process):
        with suppress(ProcessLookupError):  # it has ended since
            os.kill(process["pid"], signal.SIGTERM)
