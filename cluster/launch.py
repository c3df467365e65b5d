"""Arrays -> submitted arrays, on SLURM and on this machine alike. The only module that imports submitit.

The intent, with a random token that is the job's name and comment, is on disk and in the ledger before sbatch runs.
submitit starts `jobs.pack.work`, the one callable of the compute node's half that is named here; its status watcher
is not used."""

from __future__ import annotations

import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import reconcile, rundir
from cluster.errors import InputError, SlurmSilent, SubmitError
from cluster.ledger import Ledger
from cluster.plan import Array, Run
from cluster.render import render
from cluster.rundir import OutputRoot
from cluster.site import Site
from jobs import pack

# sbatch's words when the controller was not reached, or did not answer: the job may be there all the same.
NO_ANSWER = ("Unable to contact", "Socket timed out", "Zero Bytes were transmitted", "Connection refused",
             "Transport endpoint", "communication connection failure")  # fmt: skip


def record_runs(ledger: Ledger, root: OutputRoot, runs: Sequence[Run], created: str) -> None:
    """Write each run.json, then its row; a known run gains studies and stages."""
    known = {run.id: run for run in ledger.runs()}
    for order, run in enumerate(runs):
        path = root.run(run.id).run_json
        before = known.get(run.id)
        if before and set(run.studies) <= set(before.studies) and set(run.stages) <= set(before.stages):
            continue
        try:
            value = rundir.read_json(path) if before else None
        except rundir.TornFile:  # it is written anew; the ledger has all of it
            value = None
        rundir.write_json(
            path,
            {
                "run_id": run.id,
                "name": run.name,
                "created": value["created"] if value else created,
                "order": value["order"] if value else order,  # within those created at once
                "studies": list(dict.fromkeys((*(before.studies if before else ()), *run.studies))),
                "stages": list(dict.fromkeys((*(before.stages if before else ()), *run.stages))),
                "parameters": run.parameters,
                "config": run.config.model_dump(mode="json"),
            },
        )
    with ledger.transaction():
        ledger.record_runs(runs, created)


def submit(
    ledger: Ledger,
    root: OutputRoot,
    arrays: Sequence[Array],
    site: Site,
    *,
    data_root: Path | None,
    log_dir: Path,
    created: str,
) -> list[str]:
    """Submit each array; returns the jobs' ids. The caller holds the lock and has reconciled.

    Raises InputError (no sbatch), SubmitError (refused; earlier arrays are submitted and recorded), SlurmSilent."""
    if site.scheduler == "slurm" and shutil.which("sbatch") is None:
        raise InputError(
            f"site {site.name} needs SLURM, and there is no sbatch on this machine. Log in to the cluster, or use "
            "--site local. Nothing was submitted."
        )
    prologue(site, root)  # a mistake in it shows before the first intent is written
    jobs: list[str] = []
    for number, array in enumerate(arrays, 1):
        token = secrets.token_hex(6)
        directory = root.submission(token)
        (log_dir / token).mkdir(parents=True)  # before 23.02 SLURM loses the log of a job whose folder is missing
        intent = describe(array, site, root, data_root, token, created)
        rundir.write_json(directory.submission, intent)
        with ledger.transaction():
            reconcile.record_intent(ledger, directory, intent)
        try:
            answer = _launch(array, site, root, token, log_dir)
        except SubmitError as error:
            rundir.write_json(directory.answer, {"state": "refused", "job_id": None, "message": str(error)})
            with ledger.transaction():
                ledger.update_submission(token, state="refused")
                reconcile.release(ledger, token)
            raise SubmitError(
                f"sbatch refused array {number} of {len(arrays)} ({error}); {_before(number)} The script is "
                f"{log_dir / token}; see `tiny-transformers doctor`."
            ) from None
        except SlurmSilent as error:
            raise SlurmSilent(
                f"sbatch gave no answer for array {number} of {len(arrays)} ({error}); {_before(number)} It may have "
                f"been accepted all the same: run the command again, which looks for {reconcile.job_name(token)} first."
            ) from None
        rundir.write_json(directory.answer, answer)
        with ledger.transaction():
            ledger.update_submission(token, state=answer["state"], job_id=answer["job_id"])
        jobs.append(answer["job_id"])
    return jobs


def describe(
    array: Array, site: Site, root: OutputRoot, data_root: Path | None, token: str, created: str
) -> dict[str, Any]:
    """submission.json: all that an array task must know, and the map from its index to its pack."""
    return {
        "token": token,
        "created": created,
        "site": site.model_dump(mode="json"),
        "output_root": str(root.path.resolve()),
        "data_root": str(data_root.resolve()) if data_root else None,
        "cache": str(root.cache.resolve()),
        "slots": array.resources.slots,
        "cpus": array.resources.cpus,
        "minutes": array.resources.minutes,
        "packs": [[{"run_id": item.run_id, "stages": item.stages} for item in pack.items] for pack in array.packs],
    }


def script(array: Array, site: Site, root: OutputRoot, token: str, log_dir: Path) -> str:
    """The text that sbatch is given."""
    from submitit.slurm.slurm import _make_sbatch_string

    options = _slurm_options(array, site, root, token)
    folder = log_dir / token
    python = shlex.quote(site.python or sys.executable)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    count = len(array.packs)
    return _make_sbatch_string(command=command, folder=folder, map_count=count if count > 1 else None, **options)


def prologue(site: Site, root: OutputRoot) -> list[str]:
    """The shell lines before Python. Raises InputError if the site's template is wrong or not there."""
    return render(site.prologue, **site.model_dump(), cache=root.cache.resolve()).splitlines()


def _before(number: int) -> str:
    if number == 1:
        return "nothing was submitted."
    return f"array{'s 1-' if number > 2 else ' '}{number - 1} {'are' if number > 2 else 'is'} submitted and recorded."


def _slurm_options(array: Array, site: Site, root: OutputRoot, token: str) -> dict[str, Any]:
    """submitit's words for one array. srun, because SLURM sends USR2 to steps only; it is told the CPUs again because
    on 22.05 to 23.02 it does not take them from the job."""
    resources = array.resources
    options: dict[str, Any] = {
        "job_name": reconcile.job_name(token),
        "comment": token,
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
        "setup": prologue(site, root),
        "srun_args": ["--cpus-per-task", str(resources.cpus)],
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True} | site.sbatch,
    }
    return {key: value for key, value in options.items() if value is not None}


def _launch(array: Array, site: Site, root: OutputRoot, token: str, log_dir: Path) -> dict[str, Any]:
    folder = log_dir / token
    directory = root.submission(token).path.resolve()
    indices = range(len(array.packs))
    if site.scheduler == "local":
        return _launch_local(directory, array, site, root, folder)
    return {"state": "submitted", "job_id": _launch_slurm(directory, indices, array, site, root, token, folder)}


def _launch_slurm(
    directory: Path, indices: range, array: Array, site: Site, root: OutputRoot, token: str, folder: Path
) -> str:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(folder, python=site.python and shlex.quote(site.python))
    executor.update_parameters(**_slurm_options(array, site, root, token))
    try:
        jobs = executor.map_array(pack.work, [str(directory)] * len(indices), indices)
    except (FailedJobError, FailedSubmissionError) as error:
        text = " ".join(str(error).split())
        text = text.rpartition("sbatch: error: ")[2] or text
        raise (SlurmSilent if any(words in text for words in NO_ANSWER) else SubmitError)(text) from None
    return str(jobs[0].job_id).partition("_")[0]


def _launch_local(directory: Path, array: Array, site: Site, root: OutputRoot, folder: Path) -> dict[str, Any]:
    import submitit

    executor = submitit.LocalExecutor(folder, python=site.python and shlex.quote(site.python))
    # The pack outlives this command, its terminal and its pipes: Ctrl-C and a hang-up are not for it.
    detach = ["trap '' INT HUP", f"exec >> {shlex.quote(str(folder / 'controller.out'))} 2>&1 < /dev/null"]
    script = folder / "prologue.sh"
    script.write_text("\n".join(prologue(site, root)) + "\n", encoding="utf-8")
    setup = [*detach, f". {shlex.quote(str(script))}"]
    executor.update_parameters(
        timeout_min=array.resources.minutes, gpus_per_node=array.resources.gpus, stderr_to_stdout=True, setup=setup
    )
    job = executor.submit(pack.work, str(directory), 0)
    pid = int(job.job_id)
    process = {"host": socket.gethostname(), "pid": pid, "start": rundir.process_start(pid)}
    return {"state": "submitted", "job_id": f"local-{pid}", "process": process}


def resource_line(array: Array, site: Site) -> str:
    """What one array asks for, in a line."""
    resources = array.resources
    where = f"{site.partition} " if site.partition else ""
    gpus = f"{resources.gpus} GPU, " if resources.gpus else ""
    hours, minutes = divmod(resources.minutes, 60)
    return (
        f"{where}{gpus}{resources.cpus} CPUs, {resources.cpus * resources.memory_per_cpu:,} MB, "
        f"{hours}:{minutes:02d} h, {resources.slots} run{'s' if resources.slots > 1 else ''} at a time"
    )


def measured_rates(ledger: Ledger, site: Site) -> Mapping[str, float]:
    """FLOP/s by stage on this site, as the median of what its completed attempts took."""
    from statistics import median

    from cluster import cost

    configs = {run.id: run.config for run in ledger.runs()}
    rates: dict[str, list[float]] = {}
    for run_id, stage, seconds in ledger.measured_seconds(site.name):
        work = cost.flops(configs[run_id], stage)
        if work and seconds > cost.STAGE_OVERHEAD:
            rates.setdefault(stage, []).append(work / (seconds - cost.STAGE_OVERHEAD))
    return {stage: median(values) for stage, values in rates.items()}


def cancel_local(directory: rundir.SubmissionDir, index: int) -> None:
    """End a local pack and its children, and leave word that it was cancelled."""
    import os
    import signal

    answer = rundir.read_json(directory.answer) or {"state": "submitted", "job_id": None}
    rundir.write_json(directory.answer, answer | {"cancelled": True})
    process = rundir.read_json(directory.task(index)) or answer.get("process")
    if process and rundir.is_alive(process):
        os.kill(process["pid"], signal.SIGTERM)
