"""Faults of the product that walks have found, each as the few steps that were left when its walk was shortened."""

import pytest
from simulation.disk import DiskFault
from simulation.walk import Walker, replay
from simulation.world import installed, world

from cluster.files.folders import OutputRoot


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


def test_where_the_submissions_are_gone_rerun_says_what_to_give_and_then_does_what_failed():
    with installed() as folder, world(folder, 0) as made:
        walker = Walker(made)
        walker.take(("command", {"words": ["submit", "s3"], "seed": 1, "pick": 0}))
        walker.take(("pass", {"seconds": 5}))
        walker.take(("job", {"what": "cancelled by hand", "pick": 0}))
        walker.take(("pass", {"seconds": 300}))
        walker.take(("command", {"words": ["status"], "seed": 2, "pick": 1}))
        walker.take(("lose submissions", {}))
        asked = walker.do("rerun", "--failed", "--yes")
        assert "Give --site" in asked.output.getvalue()
        walker.do("rerun", "--failed", "--yes", "--site", "site.yaml")
        walker.take(("pass", {"seconds": 300}))
        walker.do("status")
        assert walker.statuses() == {"completed"}
        assert made.violations == []


def test_a_requeued_job_and_a_retry_that_left_a_stage_to_an_earlier_life_both_make_way_for_its_result():
    steps = [
        ("command", {"words": ["submit", "s0"], "seed": 583225164, "pick": 814}),
        ("command", {"words": ["submit", "s2"], "seed": 369820731, "pick": 328}),
        ("pass", {"seconds": 15}),
        ("client", {"client": "sbatch", "manners": ["arrives late"]}),
        ("node", {"node": "n2", "goes_on": 0}),
        ("pass", {"seconds": 60}),
        ("odd site", {"profile": "has a command in a value"}),
        ("pass", {"seconds": 60}),
        ("pass", {"seconds": 30}),
        ("pass", {"seconds": 5}),
        ("job", {"what": "cancelled by hand", "pick": 230}),
        ("nodes", {"up": False}),
        ("command", {"words": ["rerun"], "seed": 605868921, "pick": 832}),
        ("pass", {"seconds": 60}),
        ("nodes", {"up": True}),
        ("node", {"node": "n3", "goes_on": 0}),
        ("pass", {"seconds": 30}),
        ("node", {"node": "n1", "goes_on": 25}),
        ("pass", {"seconds": 15}),
        ("command", {"words": ["tick"], "seed": 104847985, "pick": 628}),
    ]
    assert replay(45, steps).violations == []


@pytest.mark.parametrize("seconds", [2, 5])
def test_a_ledger_made_again_knows_the_stages_that_had_no_turn_though_the_one_before_them_completed_late(seconds):
    steps = [
        ("command", {"words": ["submit", "s2"], "seed": 1, "pick": 0}),
        ("pass", {"seconds": seconds}),
        ("given up", {"seconds": 40, "pick": 0}),
    ]
    assert replay(1, steps).violations == []


def test_two_lives_of_a_job_that_wait_for_a_dead_one_do_not_begin_together():
    steps = [
        ("command", {"words": ["submit", "s3"], "seed": 449986945, "pick": 252, "host": "login2", "kill_at": 69}),
        ("odd site", {"profile": "has a command in a value"}),
        ("command", {"words": ["status"], "seed": 862072694, "pick": 453, "host": "login2"}),
        ("client", {"client": "sbatch", "manners": ["hangs"]}),
        ("command", {"words": ["submit", "s2"], "seed": 509970839, "pick": 469}),
        ("odd site", {"profile": "has a command in a value"}),
        ("node", {"node": "n2", "goes_on": 5}),
        ("node", {"node": "n2", "goes_on": 60}),
    ]
    assert replay(400219, [("calibration", {}), *steps]).violations == []


def test_tick_says_that_it_leaves_what_it_was_to_try_again_once_the_submissions_are_gone():
    steps = [
        ("job disk", {"error": "ESTALE", "after": 1, "calls": 2}),
        ("command", {"words": ["submit", "s2"], "seed": 1053502659, "pick": 486}),
        ("pass", {"seconds": 60}),
        ("command", {"words": ["status"], "seed": 981638345, "pick": 393}),
        ("pass", {"seconds": 60}),
        ("command", {"words": ["tick"], "seed": 620046018, "pick": 547}),
        ("lose submissions", {}),
        ("pass", {"seconds": 190}),
    ]
    assert replay(400055, steps).violations == []


def test_what_was_cancelled_by_hand_is_known_though_an_earlier_submission_has_its_number():
    steps = [
        ("site", {"runs_per_pack": 1}),
        ("nodes", {"up": False}),
        ("command", {"words": ["submit", "s1", "s0"], "seed": 398412826, "pick": 663}),
        ("controller", {"what": "without its state"}),
        ("nodes", {"up": True}),
        ("command", {"words": ["submit", "s2"], "seed": 1067925878, "pick": 507}),
        ("job", {"what": "requeued and held", "pick": 177}),
        ("pass", {"seconds": 60}),
        ("purge", {"pick": 68}),
        ("pass", {"seconds": 600}),
    ]
    assert replay(400254, steps).violations == []


def test_tick_does_not_go_on_with_a_job_that_was_cancelled_though_the_stage_that_it_left_completes():
    steps = [
        ("command", {"words": ["submit", "s2"], "seed": 214900347, "pick": 762}),
        ("given up", {"seconds": 15, "pick": 123}),
        ("given up", {"seconds": 15, "pick": 134}),
    ]
    assert replay(500460, steps).violations == []


def test_a_pulled_run_whose_packs_answer_cannot_be_read_is_spoken_for():
    steps = [
        ("site", {"runs_per_pack": 1}),
        ("calibration", {}),
        ("command", {"words": ["submit", "s1", "s0"], "seed": 67801310, "pick": 64}),
        ("controller", {"what": "down"}),
        ("command", {"words": ["submit", "s3"], "seed": 164899163, "pick": 270}),
        ("controller", {"what": "up"}),
        ("pass", {"seconds": 30}),
        ("controller", {"what": "down"}),
        ("job disk", {"error": "EIO", "after": 28, "calls": 2}),
        ("controller", {"what": "up"}),
        ("command", {"words": ["again"], "seed": 69920550, "pick": 87}),
        ("pass", {"seconds": 130}),
    ]
    assert replay(2005, steps).violations == []


def test_what_was_chosen_is_done_though_the_manifest_is_edited_before_anybody_asked_for_it():
    steps = [
        ("command", {"words": ["submit", "f0"], "seed": 1, "pick": 0}),
        ("choice", {"study": "f0", "pick": 0, "kill": 22}),
        ("edit", {"pick": 1}),
    ]
    assert replay(1, steps).violations == []


def test_a_tick_goes_on_with_all_else_where_the_disk_fails_it_in_a_choice():
    with installed() as folder, world(folder, 0) as made:
        walker = Walker(made)
        walker.take(("command", {"words": ["submit", "f0"], "seed": 1, "pick": 0}))
        walker.take(("limit", {"limit": 2, "shown": True}))
        walker.take(("command", {"words": ["submit", "s1"], "seed": 1, "pick": 0}))
        walker.take(("pass", {"seconds": 60}))
        walker.take(("limit", {"limit": None}))
        before = len(made.slurm.ran)
        tick = walker.start(["tick"], notes={"disk in a choice": DiskFault("EIO", after=8, calls=1)})
        walker.look()
        assert "Nothing is lost: the next `tick` looks at it again." in tick.output.getvalue()
        assert (tick.notes["code"], len(made.slurm.ran)) == (2, before + 1)
        walker.calm()
        walker.finish()
        walker.check_the_end()
        assert (walker.statuses(), made.violations) == ({"completed"}, [])


@pytest.mark.parametrize(
    ("seed", "what", "pick", "seconds", "given"), [(28, "preempted", 1, 8, 3), (55, "requeued", 2, 0, 1)]
)
def test_a_number_that_an_unseen_life_has_begun_is_that_ones_though_it_was_planned_for_another(
    seed, what, pick, seconds, given
):
    steps = [
        ("command", {"words": ["submit", "s0"], "seed": 760, "pick": 0}),
        ("pass", {"seconds": 5}),
        ("job", {"what": what, "pick": pick}),
        ("pass", {"seconds": seconds}),
        ("given up", {"seconds": 40 if seconds else 15, "pick": given}),
    ]
    assert replay(seed, steps).violations == []


def test_what_the_unseen_life_of_a_cancelled_job_has_begun_and_left_is_cancelled_too():
    steps = [
        ("command", {"words": ["submit", "s0"], "seed": 825306481, "pick": 349, "user": "bob"}),
        ("given up", {"seconds": 5, "pick": 454}),
        ("command", {"words": ["tick"], "seed": 269416048, "pick": 671, "user": "bob"}),
        ("job", {"what": "suspended", "pick": 820}),
    ]
    assert replay(1302201, steps).violations == []


LOST = [
    ("command", {"words": ["submit", "s0"], "seed": 493173, "pick": 726}),
    ("pass", {"seconds": 15}),
    ("given up", {"seconds": 5, "pick": 842}),
    ("pass", {"seconds": 1}),
    ("given up", {"seconds": 40, "pick": 450}),
    ("command", {"words": ["rerun"], "seed": 714317, "pick": 726}),
]


def test_what_an_unseen_life_completes_of_later_stages_is_not_done_again_after_two_more_were_cancelled():
    assert replay(988, LOST).violations == []


def test_each_of_several_attempts_makes_way_for_what_an_unseen_life_completes():
    steps = [("command", {"words": ["submit", "s0"], "seed": 836266, "pick": 493}), ("pass", {"seconds": 5})]
    for seconds, pick in ((5, 163), (5, 397), (15, 906)):
        steps.append(("given up", {"seconds": seconds, "pick": pick}))
        steps.append(("command", {"words": ["rerun"], "seed": 95998, "pick": 508}))
        steps.append(("pass", {"seconds": 1}))
    assert replay(1145, steps).violations == []


def test_what_an_unseen_life_has_failed_at_behind_a_stage_that_completed_late_has_failed():
    steps = [
        ("command", {"words": ["submit", "s0"], "seed": 350713, "pick": 21}),
        ("pass", {"seconds": 8}),
        ("stage", {"what": "exit", "stage": "blimp"}),
        ("pass", {"seconds": 5}),
        ("given up", {"seconds": 15, "pick": 334}),
        ("command", {"words": ["cancel"], "seed": 649348, "pick": 464}),
        ("pass", {"seconds": 5}),
        ("kill", {"what": "pack", "pick": 45}),
    ]
    assert replay(514, steps).violations == []


def test_what_is_to_be_tried_again_waits_for_its_teacher_by_name_and_tick_goes_on_with_it():
    with installed() as folder, world(folder, 0) as made:
        walker = Walker(made)
        walker.take(("command", {"words": ["submit", "t1"], "seed": 1, "pick": 0}))
        walker.take(("pass", {"seconds": 60}))
        (student,) = {run.id for run in made.planned["t1"]} - {made.teacher}
        made.told = {(student, "pretrain"): "memory"}
        walker.do("tick")
        walker.take(("pass", {"seconds": 60}))
        made.told = {}
        (made.output / "runs" / made.teacher / "model").rmdir()
        made.notes_redone.add(made.teacher)
        made.redone.add((made.teacher, "pretrain"))
        walker.do("rerun", "--stage", "pretrain", "--run", made.teacher, "--yes")
        said = walker.do("tick").output.getvalue()
        assert f"1 run waits for pretrain of tutor-gelu-0.35M-2L-2H-32C-64I-s8 ({made.teacher}). `tick` goes on" in said
        assert "Left alone" not in said
        walker.take(("pass", {"seconds": 60}))
        walker.do("tick")
        walker.take(("pass", {"seconds": 60}))
        walker.do("tick")
        assert (walker.statuses(), made.violations) == ({"completed"}, [])


@pytest.mark.parametrize("whole", [False, True])
def test_a_tick_goes_on_with_all_else_where_the_disk_does_not_give_a_request(whole):
    with installed() as folder, world(folder, 0) as made:
        walker = Walker(made)
        walker.take(("stage", {"what": "memory", "stage": "pretrain"}))
        walker.take(("command", {"words": ["submit", "f0"], "seed": 1, "pick": 0}))
        walker.take(("pass", {"seconds": 200}))
        walker.take(("stage", {}))
        walker.take(("limit", {"limit": 0, "shown": True}))
        walker.take(("command", {"words": ["submit", "s1"], "seed": 1, "pick": 0}))
        walker.take(("command", {"words": ["submit", "s2"], "seed": 1, "pick": 0}))
        walker.take(("limit", {"limit": None}))
        held = [path for path in OutputRoot(made.output).requests() if '"choice"' not in path.read_text()]
        lost = made.output / "requests" if whole else held[0]
        kept = lost.rename(lost.with_name("kept"))
        lost.symlink_to(lost)
        before = len(made.slurm.ran)
        tick = walker.start(["tick"])
        walker.look()
        said = " ".join(tick.output.getvalue().split())
        assert said.count("What is asked for there waits: the next `tick` looks at it again.") == 1, said
        assert "4 runs wait, of which a request that cannot be read may say otherwise." in said, said
        assert "left alone" not in said, said
        assert (tick.notes["code"], len(held), len(made.slurm.ran)) == (2, 2, before + (0 if whole else 1))
        lost.unlink()
        kept.rename(lost)
        walker.calm()
        walker.finish()
        walker.check_the_end()
        assert (walker.statuses(), made.violations) == ({"completed"}, [])
