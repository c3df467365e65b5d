"""squeue's reasons for a job that waits, in a person's words. Pure."""

from __future__ import annotations

NOT_IN_QUEUE = "NotInQueue"  # ours, beside SLURM's: accounting has it as alive, and squeue does not show it
NEVER_STARTS = {  # squeue's reason -> what it means to a person; without one the job waits for ever
    "DependencyNeverSatisfied": "what it depends on has failed: `cancel` it",
    "JobHeldUser": "held by you: `scontrol release` or `cancel` it",
    "JobHeldAdmin": "held by an administrator: ask, or `cancel` it",
    "launch failed requeued held": "its node could not start it: `scontrol release` or `cancel` it",
    "BadConstraints": "no node fits what it asks for: `cancel` it and mend the site's profile",
    "PartitionTimeLimit": "it asks for more time than the partition gives: `cancel` it and mend max_time",
    "AccountNotAllowed": "the partition does not take the account: `cancel` it and mend the site's profile",
    NOT_IN_QUEUE: "accounting calls it alive, squeue does not show it: ask for `sacctmgr show runaway`, or `cancel` it",
    "QOSNotAllowed": "the partition does not take the QOS: `cancel` it and mend the site's profile",
}
WAITS = {  # of one that ends by itself
    "Priority": "others with a higher priority come first",
    "Resources": "next in line, until a node is free",
    "JobArrayTaskLimit": "the array's own limit of tasks at once",
    "BeginTime": "it was put off, and may begin later",
    "Dependency": "another job must end first",
    "Cleaning": "its earlier life is being cleared away",
    "Prolog": "its node is being made ready",
    "Licenses": "a licence is in use",
    "Reservation": "its reservation has not begun",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved, for a maintenance perhaps",
    "Nodes required for job are DOWN": "the nodes that it needs are down, drained or reserved",
    "Reserved for maintenance": "the nodes are reserved for a maintenance",
    "PartitionDown": "the partition is closed to new jobs for the time being",
    "PartitionInactive": "the partition is switched off for the time being",
    "PartitionNodeLimit": "the partition has too few nodes up",
    "NodeDown": "a node that it needs is down",
    "JobLaunchFailure": "it could not be launched, and is tried again",
    "RaisedSignal": "it is being signalled",
    "SystemFailure": "SLURM, its file system or the network failed",
    "QOSUsageThreshold": "the QOS has used too much",
    "QOSResourceLimit": "the QOS has reached a limit",
    "AssociationJobLimit": "your account runs as many jobs as it may",
    "AssociationResourceLimit": "your account has as much as it may",
    "AssociationTimeLimit": "your account has used up its time",
}
OWNERS = {"QOS": "the QOS", "Assoc": "your account", "MaxJobsPer": "your account"}  # how a limit's reason begins
LIMITED = {  # a part of a limit's reason -> what it limits; the first that fits
    "Minutes": "has no compute time left for it",
    "Wall": "has no compute time left for it",
    "GRES": "has as many GPUs as it may",
    "Cpu": "has as many CPUs as it may",
    "CPU": "has as many CPUs as it may",
    "Mem": "has as much memory as it may",
    "Node": "has as many nodes as it may",
    "Billing": "has as much as it may",
    "Job": "runs as many jobs as it may",
}


def never_starts(reason: str) -> str | None:
    """Return what to do about a job that waits for this reason; None if it may begin by itself."""
    if reason.startswith(tuple(OWNERS)) and "PerJob" in reason:
        return "it asks for more than one job may have: `cancel` it and mend the site's profile"
    return NEVER_STARTS.get(reason)


def in_words(reason: str) -> str:
    """Return what squeue's reason means to a person; itself if that is not known."""
    stuck = never_starts(reason)
    if stuck:
        return stuck
    known = next((text for key, text in WAITS.items() if reason.startswith(key)), None)
    if known:
        return known
    owner = next((who for prefix, who in OWNERS.items() if reason.startswith(prefix)), None)
    limited = next((text for part, text in LIMITED.items() if part in reason), None)
    return f"{owner} {limited}" if owner and limited else reason
