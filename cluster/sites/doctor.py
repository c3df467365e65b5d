"""Compare what a site says that it offers with what its profile assumes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.files.folders import OutputRoot
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.slurm.answers import minutes, number_in
from cluster.slurm.queries import Slurm, names_of, qualities
from tiny_transformers.common import refusals
from tiny_transformers.common.data_root import explain
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import RunConfig, lacking_files
from tiny_transformers.settings.stages import required_files

IN_JOB = "SLURM_JOB_ID"


@dataclass(frozen=True)
class Finding:
    mark: str  # fine, wrong (a submission would fail), unknown, take care
    what: str
    found: str

    @property
    def colour(self) -> str:
        return {"fine": "green", "wrong": "red"}.get(self.mark, "yellow")


def examine(site: Site, slurm: Slurm, data_root: Path | None, output_root: Path) -> list[Finding]:
    findings = [Finding("fine", "Python", f"{sys.version.split()[0]}, {sys.executable}"), _writable(output_root)]
    findings += [_data(data_root), *_scratch(site, OutputRoot(output_root)), *_container(site)]
    if site.scheduler == "local":
        findings.append(
            Finding("fine", "this machine", f"{site.cpus} CPUs, {site.gpus} GPUs, {site.local_slots} at a time")
        )
        return findings
    missing = [name for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol") if shutil.which(name) is None]
    if missing:
        return [*findings, Finding("wrong", "SLURM's commands", f"not here: {', '.join(missing)}. Use a login node.")]
    return [
        *findings,
        *_variables(),
        *_controller(site, slurm),
        *_partition(site, slurm),
        _account(site, slurm),
        *_limits(site, slurm),
    ]


def _variables() -> Iterator[Finding]:
    """Say what the user has set for SLURM's commands, and what of it has no effect here."""
    names = environment.left_out()
    if elsewhere := [name for name in names if name in environment.OTHER_CLUSTERS]:
        found = f"{', '.join(elsewhere)}: is not handed on: jobs go to the cluster of this login node, or of SLURM_CONF"
        yield Finding("wrong", "other cluster", found)
    of_job = [name for name in names if name.startswith(("SLURM_", "SLURMD_", "SRUN_"))] if IN_JOB in names else []
    own = [name for name in names if name not in {*elsewhere, *of_job}]
    if own:
        found = f"{', '.join(own)}: not handed on to SLURM's commands and jobs; what they get is the profile's to say"
        yield Finding("unknown", "your variables", found)
    if of_job:
        job = os.environ[IN_JOB]
        yield Finding("fine", "inside a job", f"job {job}: its {len(of_job)} variables are not handed on to others")


def _writable(output_root: Path) -> Finding:
    try:
        output_root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_root):
            free = shutil.disk_usage(output_root).free / 1e9
    except OSError as error:
        return Finding("wrong", "OUTPUT_ROOT", refusals.understood(error) or f"{output_root}: {error}")
    return Finding("fine" if free > 10 else "wrong", "OUTPUT_ROOT", f"{output_root}: {free:,.0f} GB free")


def _scratch(site: Site, root: OutputRoot) -> Iterator[Finding]:
    if site.scratch and any(path.is_relative_to(site.scratch) for path in (root.path.absolute(), root.path.resolve())):
        yield Finding(
            "take care",
            "scratch",
            f"{site.scratch} has no backup, and what nobody uses there is removed. Save the results elsewhere: "
            f"`tiny-transformers report --export ~/results.tar.gz{root.options}`",
        )


def _container(site: Site) -> Iterator[Finding]:
    if site.container:
        there = Path(site.container).exists()
        yield Finding("fine" if there else "wrong", "container", f"{site.container}{'' if there else ': is not there'}")


def _data(data_root: Path | None) -> Finding:
    if data_root is None:
        return Finding("unknown", "DATA_ROOT", "not given: --data-root or TINY_TRANSFORMERS_DATA")
    files = required_files(RunConfig(model=GPTNeo()))
    lacking = lacking_files(data_root, files)
    if lacking:
        return Finding("wrong", "DATA_ROOT", explain(data_root, lacking, data_root))
    return Finding("fine", "DATA_ROOT", f"{data_root}: {len(files)} files")


def _controller(site: Site, slurm: Slurm) -> Iterator[Finding]:
    configuration = slurm.configuration()
    if configuration is None:
        yield Finding("unknown", "slurmctld", "did not answer")
        return
    yield Finding("fine", "SLURM", f"{configuration.get('SLURM_VERSION')}, {configuration.get('ClusterName')}")
    if limit := number_in(configuration.get("MaxArraySize", "")):
        cut = "" if limit >= site.max_array_size else ": arrays are cut at SLURM's"
        yield Finding("fine", "MaxArraySize", f"{limit}; the profile's max_array_size is {site.max_array_size}{cut}")
    else:
        yield Finding("unknown", "MaxArraySize", f"not told; the profile's max_array_size is {site.max_array_size}")
    storage = configuration.get("AccountingStorageType", "")
    what = "without it a vanished job's cause is not known" if storage.endswith("none") else "sacct explains failures"
    yield Finding("fine", "accounting", f"{storage}: {what}")


def _partition(site: Site, slurm: Slurm) -> Iterator[Finding]:
    if site.partition is None:
        yield Finding("unknown", "partition", "the profile names none: SLURM's default is taken")
    for name in names_of(site.partition):
        yield from _one_partition(site, name, slurm)


def _one_partition(site: Site, name: str, slurm: Slurm) -> Iterator[Finding]:
    partition = slurm.partition(name)
    if partition is None:
        yield Finding("unknown", "partition", f"{name}: no answer")
        return
    if not partition:
        yield Finding("wrong", "partition", f"{name}: there is none of this name")
        return
    most = minutes(partition.get("MaxTime", "UNLIMITED"))
    fits = most is None or most >= site.max_time
    time = f"{partition.get('MaxTime')}; the profile's max_time is {site.max_time} minutes"
    yield Finding("fine" if fits else "wrong", f"time limit of {name}", time)
    cap = partition.get("MaxMemPerCPU", "UNLIMITED")
    allowed = (number_in(cap) or site.memory_per_cpu) >= site.memory_per_cpu
    yield Finding(
        "fine" if allowed else "wrong",
        "memory per CPU",
        f"at most {cap} MB in {name}; the profile asks for {site.memory_per_cpu}",
    )
    yield from _of_a_job(site, partition, slurm)
    nodes = slurm.nodes(name)
    yield Finding("fine" if nodes else "unknown", f"nodes of {name}", "; ".join(map(str, nodes or [])) or "no answer")
    if site.gpus and nodes:
        counts = [number for kind in nodes for number in kind.gpus.values()]
        enough = any(count >= site.gpus for count in counts)
        yield Finding("fine" if enough else "wrong", "GPUs of a node", f"{counts or 'none'}; a pack takes {site.gpus}")


def _of_a_job(site: Site, partition: Mapping[str, str], slurm: Slurm) -> Iterator[Finding]:
    """Say what the QOS of the partition, and the job's own, let one job have."""
    names = qualities(partition, site.qos)
    most, qos = slurm.most_of_a_job(names), " and ".join(names)
    if most is None:
        yield Finding("unknown", f"QOS {qos}", "sacctmgr did not answer: how much one job may have is not known")
        return
    asked = {"cpu": site.cpus, "gres/gpu": site.gpus, "mem": site.cpus * site.memory_per_cpu}
    for name, number in asked.items():
        if name in most:
            found = f"at most {most[name]}, by QOS {qos}; a pack asks for {number}"
            yield Finding("fine" if number <= most[name] else "wrong", f"{name} of a job", found)


def _account(site: Site, slurm: Slurm) -> Finding:
    accounts = slurm.accounts()
    if accounts is None:
        return Finding("unknown", "account", "sacctmgr did not answer")
    if site.account and site.account.lower() not in accounts:
        return Finding("wrong", "account", f"{site.account} is none of yours: {', '.join(accounts)}")
    given = site.account or "no --account, so your default"
    return Finding("fine", "account", f"{given}, of {', '.join(accounts)}")


def _limits(site: Site, slurm: Slurm) -> Iterator[Finding]:
    """Say how many jobs the account may have waiting and running, which `submit` and `tick` keep to."""
    partitions = {name: words for name in names_of(site.partition) if (words := slurm.partition(name))}
    limits = slurm.limits(site.account, site.qos, partitions)
    if limits is None:
        yield Finding(
            "unknown", "limits", "sacctmgr did not answer; max_submit and max_jobs of the profile are kept to"
        )
        return
    room = "" if limits.room is None else f"; beside everybody's there is room for {limits.room} now"
    for what, most, said, now in (
        ("jobs waiting and running", limits.max_submit, site.max_submit, room),
        ("jobs running at once", limits.max_jobs, site.max_jobs, ""),
    ):
        profile = (f"; the profile says {said}" if said else "") + now
        yield Finding("fine", what, f"at most {most}{profile}" if most else f"no limit{profile}")
    if limits.max_time:
        fits = limits.max_time >= site.max_time
        found = f"{limits.max_time} minutes; the profile's max_time is {site.max_time}"
        yield Finding("fine" if fits else "wrong", "time limit of the account", found)
