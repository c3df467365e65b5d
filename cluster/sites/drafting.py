"""Write what a cluster says that it offers as a site file, which says of each value where it came from, or that it was
not read.

Only what SLURM itself knows is read; how much of a node a pack should take is proposed: the share of one GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.errors import InputError, SlurmSilent
from cluster.sites import profiles
from cluster.sites.profiles import Site
from cluster.slurm.answers import minutes, number_in
from cluster.slurm.queries import NodeKind, Slurm, names_of, qualities

Partitions = Mapping[str, Mapping[str, str] | None]  # name -> scontrol's words; None: no answer

OF_A_SLICE = 0.98  # of the memory that is in a MIG slice's name, what a job finds


@dataclass(frozen=True)
class Drafted:
    """One key of the file."""

    key: str
    value: Any
    source: str
    read: bool = True

    @property
    def text(self) -> str:
        value = yaml.safe_dump([self.value], default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]
        source = "".join(letter if letter.isprintable() else "?" for letter in self.source)
        return f"{f'{self.key}: {value}':30}  # {source}"


def draft(base: Site, slurm: Slurm, *, named: bool) -> list[Drafted]:
    """The keys of a site file: what is read, in place of what `base` says, and what else `base` says. Without a name
    that was `named` by the user it is called as the cluster is.

    Raises SlurmSilent where nothing answers, InputError for a partition that is not there."""
    configuration = slurm.configuration()
    if configuration is None:
        raise SlurmSilent("slurmctld did not answer (scontrol show config). Nothing was written.")
    read = [_name(base, configuration, named), *_read(base, configuration, slurm)]
    known = {each.key for each in read}
    said = base.model_dump(mode="json", exclude_unset=True)
    kept = [Drafted(key, value, "as the profile has it") for key, value in said.items() if key not in known]
    order = list(Site.model_fields)
    return sorted([*read, *kept], key=lambda each: order.index(each.key))


def text(drafted: Sequence[Drafted], when: str, path: str) -> str:
    """The file. Raises InputError if it would not be one: a cluster may be called anything."""
    profiles.checked({each.key: each.value for each in drafted}, path)
    head = (
        f"# Written by `tiny-transformers doctor --write` at {when}, from what the cluster said then.\n"
        "# What is `not read` is assumed: see to it. All keys are in the project's docs/sites.md.\n"
    )
    return head + "".join(f"{each.text}\n" for each in drafted)


def _name(base: Site, configuration: Mapping[str, str], named: bool) -> Drafted:
    if named or "ClusterName" not in configuration:
        return Drafted("name", base.name, "as the profile has it" if named else "yours to choose")
    return Drafted("name", configuration["ClusterName"], "ClusterName of scontrol show config")


def _read(base: Site, configuration: Mapping[str, str], slurm: Slurm) -> Iterator[Drafted]:
    yield Drafted("scheduler", "slurm", "squeue and the others are here")
    size = configuration.get("MaxArraySize", "")
    if size.isdigit():
        yield Drafted("max_array_size", int(size), "MaxArraySize of scontrol show config")
    else:
        yield Drafted(
            "max_array_size", base.max_array_size, "not read: scontrol show config has no MaxArraySize", False
        )
    if partition := base.partition:
        yield Drafted("partition", partition, "as you said")
    elif partition := slurm.default_partition():
        yield Drafted("partition", partition, "the default one, by sinfo; --partition names another")
    else:
        yield Drafted("partition", None, "not read: sinfo marks none as the default; --partition names one", False)
    found: Partitions = {name: slurm.partition(name) for name in names_of(partition)}
    if lacking := [name for name, words in found.items() if words == {}]:
        raise InputError(f"--partition {lacking[0]}: SLURM has no partition of this name. Nothing was written.")
    yield from _of_a_pack(base, slurm.nodes(partition) if partition else None, found, slurm)
    yield from _of_the_account(base, found, slurm)


def _of_a_pack(
    base: Site,
    kinds: list[NodeKind] | None,
    partitions: Partitions,
    slurm: Slurm,
) -> Iterator[Drafted]:
    if not kinds:
        for key in ("gpus", "cpus", "memory_per_cpu"):
            yield Drafted(key, getattr(base, key), "not read: sinfo shows no nodes", False)
        return
    having = [kind for kind in kinds if kind.gpus]
    nodes = " and ".join(map(str, having or kinds))
    answered = [words for words in partitions.values() if words]
    names = list(dict.fromkeys(name for words in [*answered, {}] for name in qualities(words, base.qos)))
    most, qos = slurm.most_of_a_job(names), " and ".join(names)
    limits = f"; QOS {qos}: at most {dict(most)} a job" if most else ""
    if most is None:
        limits = f"; not read: what QOS {qos} lets a job have, since sacctmgr did not answer"
    if having:
        names = [name for kind in having for name in kind.gpus]
        yield Drafted("gpus", 1, f"of {nodes}")
        slices = [re.search(r"\dg\.(\d+)gb", name) for name in names]
        memory = min((int(found[1]) for found in slices if found), default=None)
        if memory and all(slices):
            yield Drafted("gpu_memory", round(memory * 1000 * OF_A_SLICE), f"MB; by the name of {', '.join(names)}")
            yield Drafted("mig", True, f"by the name of {', '.join(names)}")
        elif "gpu_memory" not in base.model_fields_set:
            yield Drafted("gpu_memory", base.gpu_memory, "MB; not read: SLURM does not know the memory of a GPU", False)
        share = min(kind.cpus // max(kind.gpus.values()) for kind in having)
        what = f"the share of one GPU of {nodes}"
    else:
        yield Drafted("gpus", 0, f"{nodes} have none")
        share = base.cpus
        what = f"yours to choose, of {nodes}"
    cap = (most or {}).get("cpu", share)
    yield Drafted("cpus", max(1, min(share, cap)), f"{what}{limits}", most is not None)
    shares = [(kind.memory // kind.cpus, f"memory by CPUs of {kind}") for kind in having or kinds]
    caps = [number_in(words.get("MaxMemPerCPU", "")) for words in answered]
    shares += [(cap, "MaxMemPerCPU of the partition") for cap in caps if cap]
    memory, where = min(shares)
    read = _all_read(partitions)
    unread = "" if read else "; not read: the partition's own limit"
    yield Drafted("memory_per_cpu", max(1, memory), f"MB; {where}{unread}", read)


def _all_read(partitions: Partitions) -> bool:
    """Whether there is a partition, and SLURM has answered for each."""
    return bool(partitions) and None not in partitions.values()


def _of_the_account(base: Site, partitions: Partitions, slurm: Slurm) -> Iterator[Drafted]:
    accounts = slurm.accounts()
    if accounts is None:
        yield Drafted("account", base.account, "not read: sacctmgr did not answer", False)
    else:
        yield Drafted(
            "account", base.account, f"{'as you said' if base.account else 'your default'}, of {', '.join(accounts)}"
        )
    answered = {name: words for name, words in partitions.items() if words}
    read = _all_read(partitions)
    limits = slurm.limits(base.account, base.qos, answered)
    for key in ("max_jobs", "max_submit"):
        if limits is None:
            yield Drafted(key, getattr(base, key), "not read: sacctmgr did not answer", False)
        else:
            value = getattr(limits, key)
            yield Drafted(
                key, value, f"by sacctmgr, of the account and its QOS{'' if value else ', which have no limit'}"
            )
    times = [(limits.max_time, "the account or its QOS")] if limits and limits.max_time else []
    mosts = [minutes(words.get("MaxTime", "")) for words in answered.values()]
    times += [(most, "MaxTime of the partition") for most in mosts if most]
    if times:
        time, where = min(times)
        lacking = [name for name, known in (("the account's", limits), ("the partition's", read)) if not known]
        unread = f"; not read: {' and '.join(lacking)} limit" if lacking else ""
        yield Drafted("max_time", time, f"minutes; {where}{unread}", not lacking)
    elif limits is None or not read:
        yield Drafted("max_time", base.max_time, "minutes; not read: SLURM did not answer", False)
    else:
        yield Drafted(
            "max_time", base.max_time, "minutes; yours to choose: neither the partition nor the account limits it"
        )
