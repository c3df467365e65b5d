"""Faults of the product that walks have found, each as the few steps that were left when its walk was shortened."""

from simulation.walk import replay


def test_exit_code_is_3_where_squeue_is_silent_and_there_is_a_limit():
    steps = [
        ("limit", {"limit": 3, "shown": True, "of account": False}),
        ("client", {"client": "squeue", "manners": ["no answer"]}),
        ("command", {"words": ["submit", "s0"], "seed": 0, "pick": 0}),
    ]
    assert replay(0, steps).violations == []


def test_a_pack_that_is_held_between_two_of_its_stages_is_shown_as_waiting():
    steps = [
        ("command", {"words": ["submit", "s0"], "seed": 316315010, "pick": 147}),
        ("pass", {"seconds": 15}),
        ("job", {"what": "requeued and held", "pick": 400}),
        ("release", {}),
        ("pass", {"seconds": 15}),
        ("job", {"what": "requeued and held", "pick": 970}),
        ("command", {"words": ["status"], "seed": 957275814, "pick": 175}),
    ]
    assert replay(20157, steps).violations == []
