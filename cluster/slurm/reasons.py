"""squeue's reasons for a job that waits, in a person's words. Pure.

SLURM's own list is in squeue's manual, "JOB REASON CODES" (https://slurm.schedmd.com/job_reason_codes.html); a job that
is held after a requeue has its state, or a sentence, in the place of a reason."""

from __future__ import annotations

NOT_IN_QUEUE = "NotInQueue"  # ours, beside SLURM's: accounting has it as alive, and squeue does not show it
EARLIER_PACK = "EarlierPack"  # ours, of a pack without SLURM (jobs/turn.py)
HELD = "`scontrol release` or `cancel` it"
MEND = "`cancel` it and mend the site's profile"
NEVER_STARTS = {  # squeue's reason, or state -> what it means to a person; without one the job waits for ever
    "DependencyNeverSatisfied": "what it depends on has failed: `cancel` it",
    "JobHeldUser": f"held by you: {HELD}",
    "JobHeldAdmin": "held by an administrator: ask, or `cancel` it",
    "JobHoldMaxRequeue": f"held, since it was requeued too often: see its log, then {HELD}",
    "job requeued in held state": f"held after a requeue: {HELD}",
    "REQUEUE_HOLD": f"held after a requeue: {HELD}",
    "SPECIAL_EXIT": f"held after a requeue, by the way it ended: {HELD}",
    "launch failed requeued held": f"its node could not start it: {HELD}",
    "user env retrieval failed requeued held": f"your environment could not be read on its node: {HELD}",
    "InvalidAccount": f"its account is not, or no longer, one that you may use: {MEND}",
    "InvalidQOS": f"its QOS is not, or no longer, one that you may use: {MEND}",
    "ReservationDeleted": f"its reservation is there no longer: {MEND}",
    "RESV_DEL_HOLD": f"held, since its reservation is there no longer: {MEND}",
    "DeadLine": "it cannot end before its deadline: `cancel` it",
    "MaxMemPerLimit": f"it asks for more memory than a CPU or a node gives: {MEND}",
    "BurstBufferOperation": f"its burst buffer failed: {HELD}",
    "BadConstraints": f"no node fits what it asks for: {MEND}",
    "PartitionTimeLimit": "it asks for more time than the partition gives: `cancel` it and mend max_time",
    "AccountNotAllowed": f"the partition does not take the account: {MEND}",
    NOT_IN_QUEUE: "accounting calls it alive, squeue does not show it: ask for `sacctmgr show runaway`, or `cancel` it",
    "QOSNotAllowed": f"the partition does not take the QOS: {MEND}",
}
WAITS = {  # of one that ends by itself
    EARLIER_PACK: "waits for the pack before it on this machine",
    "PENDING": "requeued, and waits for its turn",  # the state of one that had begun, where there is no reason yet
    "REQUEUED": "requeued, and waits for its turn",
    "REQUEUE_FED": "requeued, and waits for its turn",
    "SUSPENDED": "suspended: others have its node for the time being",
    "STOPPED": "stopped: it keeps its node, and does not work for the time being",
    "AccountingPolicy": "a limit of the account or its QOS",
    "Constraints": "no node that fits what it asks for is up",
    "BurstBuffer": "its burst buffer is being made ready",
    "FedJobLock": "the clusters of the federation are settling whose it is",
    "SchedDefer": "it is looked at later",
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
OWNERS = {"QOS": "the QOS", "Assoc": "your account", "Max": "your account"}  # how a limit's reason begins
LIMITED = {  # a part of a limit's reason -> what it limits; the first that fits
    "RunMinutes": "has promised jobs that run as much time as it may",
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
    owner = next((who for prefix, who in OWNERS.items() if reason.startswith(prefix)), None)
    if owner and any(part in reason for part in ("PerJob", "PerNode")):
        return f"it asks for more than one job may have: {MEND}"
    if reason.startswith("QOSMin"):
        return f"it asks for less than the QOS takes: {MEND}"
    if owner and "Grp" in reason and "Minutes" in reason and "RunMinutes" not in reason:  # of past jobs, too
        return f"{owner} has no compute time left for it: ask for more, or `cancel` it"
    return NEVER_STARTS.get(reason) or NEVER_STARTS.get(reason.replace("_", " "))


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
