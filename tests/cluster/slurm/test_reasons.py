import pytest

from cluster.slurm import reasons


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "others with a higher priority come first"),
        ("QOSMaxJobsPerUserLimit", "the QOS runs as many jobs as it may"),
        ("AssocGrpGRES", "your account has as many GPUs as it may"),
        ("AssocGrpGRESMinutes", "your account has no compute time left for it: ask for more"),
        ("AssocGrpCPURunMinutesLimit", "your account has promised jobs that run as much time as it may"),
        ("QOSGrpCPUMinutesLimit", "the QOS has no compute time left for it: ask for more"),
        ("ReservationDeleted", "its reservation is there no longer: `cancel` it"),
        ("Reservation", "its reservation has not begun"),
        ("InvalidAccount", "its account is not, or no longer, one that you may use: `cancel` it"),
        ("InvalidQOS", "its QOS is not, or no longer, one that you may use"),
        ("JobHoldMaxRequeue", "requeued too often: see its log, then `scontrol release` or `cancel` it"),
        ("launch failed requeued held", "its node could not start it: `scontrol release` or `cancel` it"),
        ("launch_failed_requeued_held", "its node could not start it"),  # as scontrol has it
        ("job requeued in held state", "held after a requeue: `scontrol release` or `cancel` it"),
        ("MaxMemPerLimit", "more memory than a CPU or a node gives"),
        ("QOSMinCpuNotSatisfied", "it asks for less than the QOS takes"),
        ("AssocMaxCpuPerNode", "more than one job may have"),
        ("MaxGRESPerAccount", "your account has as many GPUs as it may"),
        ("BurstBufferStageIn", "its burst buffer is being made ready"),
        ("BurstBufferOperation", "its burst buffer failed"),
        ("QOSMaxGRESPerUser", "the QOS has as many GPUs"),
        ("JobArrayTaskLimit", "the array's own limit"),
        ("ReqNodeNotAvail, UnavailableNodes:gpu003", "a node that it needs is down"),
        ("Dependency", "another job must end first"),
        ("BeginTime", "it was put off"),
        ("MaxJobsPerAccount", "your account runs as many jobs as it may"),
        ("QOSMaxWallDurationPerJobLimit", "more than one job may have"),
        ("DependencyNeverSatisfied", "what it depends on has failed"),
        ("PartitionTimeLimit", "more time than the partition"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_reasons_to_wait_are_told_in_plain_words(reason, words):
    assert words in reasons.in_words(reason)


def test_only_what_will_never_begin_is_said_to_need_a_person():
    never = (
        "JobHeldUser", "PartitionTimeLimit", "QOSMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit",
        "InvalidAccount", "InvalidQOS", "ReservationDeleted", "JobHoldMaxRequeue", "DeadLine",
        "AssocGrpCPUMinutesLimit", "REQUEUE_HOLD",
    )  # fmt: skip
    begins = (
        "Priority", "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "DependencyOther", "", "Reservation", "REQUEUED",
        "AssocGrpCPURunMinutesLimit", "MaxJobsPerAccount", "AssocGrpSubmitJobsLimit", "QOSMaxSubmitJobPerUserLimit",
    )  # fmt: skip
    assert [reason for reason in never if not reasons.never_starts(reason)] == []
    assert [reason for reason in begins if reasons.never_starts(reason)] == []
