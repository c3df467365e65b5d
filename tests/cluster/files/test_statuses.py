from typing import get_args

from cluster.files import statuses
from cluster.files.statuses import AttemptStatus, StageStatus, State
from cluster.status.facts import TELLING


def test_every_group_of_statuses_has_known_ones_only():
    assert sorted(statuses.WORST_FIRST) == sorted(statuses.STATUSES) == sorted(get_args(StageStatus))
    assert {*statuses.TRIED} | {"void"} == {*get_args(AttemptStatus)}
    assert sorted(statuses.TRIED + statuses.UNTRIED) == sorted(statuses.STATUSES)
    assert {*statuses.LIVE, *statuses.UNFINISHED, *statuses.STUCK, *TELLING} <= {*statuses.STATUSES}
    assert {*statuses.LIVE, *statuses.FRUITLESS} <= {*get_args(AttemptStatus)}
    assert {*statuses.OPEN, *statuses.TAKEN, *statuses.GIVEN_UP} == {*get_args(State)}
