import pytest

from cluster.slurm import reasons


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "others with a higher priority come first"),
        ("QOSMaxJobsPerUserLimit", "the QOS runs as many jobs as it may"),
        ("AssocGrpGRES", "your account has as many GPUs as it may"),
        ("AssocGrpGRESMinutes", "your account has no compute time left"),
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
    never = ("JobHeldUser", "PartitionTimeLimit", "QOSMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit")
    assert all(map(reasons.never_starts, never))
    assert not any(
        map(reasons.never_starts, ("Priority", "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "DependencyOther", ""))
    )
