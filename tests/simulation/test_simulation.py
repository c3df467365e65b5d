"""Walks through simulated worlds: docs/simulation.md. These seeds are the same for everybody; run.py takes others."""

import gc
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from simulation import mutants, steps
from simulation.walk import Walker, shorten, told, walk
from simulation.world import installed, seams, world

from cluster.plan import ranking
from cluster.slurm.answers import Job

HERE = Path(__file__).resolve().parent
WALKS = 10  # of a test
TESTS = 3
LONGER = 20  # tests of 50 walks each


@pytest.fixture
def folder():
    """A folder in memory for worlds, which stand behind the seams."""
    with installed() as made:
        yield made


def walk_all(folder, seeds, draw=steps.draw):
    """Returns how the walks ended. What breaks is shortened and told."""
    gc.collect()
    outcomes = []
    for seed in seeds:
        outcome = walk(folder, seed, draw(seed))
        if outcome.violations:
            pytest.fail(told(folder, seed, outcome, drawn=draw(seed)), pytrace=False)
        outcomes.append(outcome)
    return outcomes


@pytest.mark.parametrize("first", range(0, TESTS * WALKS, WALKS))
def test_whatever_goes_wrong_every_stage_run_is_done_once_and_nothing_is_lost(folder, first):
    outcomes = walk_all(folder, range(first, first + WALKS))
    assert sum(outcome.after_fault for outcome in outcomes) >= WALKS / 2
    assert any(outcome.pulled for outcome in outcomes)


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.longer) for first in range(50, 1000, 50))]
)
def test_what_goes_on_unseen_is_done_once_too(folder, first):
    outcomes = walk_all(folder, range(first, first + 50), steps.draw_short)
    assert sum(outcome.after_fault for outcome in outcomes) >= 25


@pytest.mark.longer
def test_each_fault_takes_effect_in_at_least_2_percent_of_the_walks(folder):
    counts = Counter(kind for outcome in walk_all(folder, range(300)) for kind in steps.took_effect(outcome.counts))
    assert [f"{kind}: {counts[kind]} of 300" for kind in steps.FAULTS if counts[kind] < 6] == []


@pytest.mark.longer
@pytest.mark.parametrize("first", range(1000, 1000 + 50 * LONGER, 50))
def test_a_thousand_worlds(folder, first):
    outcomes = walk_all(folder, range(first, first + 50))
    assert sum(outcome.after_fault for outcome in outcomes) >= 25


def test_each_fault_is_drawn_in_at_least_2_percent_of_the_walks():
    drawn = Counter(name for seed in range(1000) for name in {kind_of(step) for step in steps.draw(seed)})
    assert [name for name in KINDS_OF_STEPS if drawn[name] < 20] == []


KINDS_OF_STEPS = ("calibration", "client", "form", "environment", "controller", "accounting", "job", "nodes", "node",
                  "kill", "job killed", "job disk", "stage", "limit", "array size", "foreign", "clock", "remove",
                  "spoil", "odd folder", "read-only", "burst", "purge", "cut", "lose submissions", "lose run",
                  "odd site", "killed", "disk", "beside", "unheard", "given up", "slow look",
                  "begun again", "hidden", "choice", "spoil choice", "source again", "edit", "teacher")  # fmt: skip


def kind_of(step):
    name, values = step
    return next((key for key in ("kill_at", "disk", "beside") if key in values), name).replace("kill_at", "killed")


def test_a_seed_walks_the_same_way_in_another_process(folder):
    code = "import sys, json; from simulation.walk import walk; from simulation.world import installed\n"
    code += "with installed() as folder: log = walk(folder, 3).log\nprint(json.dumps(log))"
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    shown = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert steps_of(json.loads(shown.stdout)) == steps_of(walk(folder, 3).log)


def steps_of(log):
    """When each step began, and how each command ended."""
    return [line.partition(" -> ")[0] + line.partition(" -> ")[2][:2] for line in log]


def test_a_fault_of_the_product_is_found_and_its_walk_is_shortened(folder, monkeypatch):
    monkeypatch.setattr(Job, "live", property(lambda job: job.state in ("PENDING", "RUNNING")))
    drawn = [
        ("clock", {"host": "n1", "seconds": 90}),
        ("command", {"words": ["submit", "s3"], "seed": 1, "pick": 0}),
        ("form", {"state": "EXPEDITING"}),
        ("pass", {"seconds": 1}),
        ("command", {"words": ["status"], "seed": 2, "pick": 1}),
    ]
    found = walk(folder, 1, drawn)
    assert found.kinds == {"a living job is judged"}
    assert shorten(folder, 1, drawn, found.kinds) == [drawn[1], drawn[2], drawn[4]]


def test_a_killed_command_does_nothing_any_more_and_its_lock_stays(folder):
    with world(folder, 0) as made:
        walker = Walker(made)
        walker.take(("command", {"words": ["submit", "s0"], "seed": 1, "pick": 0, "kill_at": 60}))
        assert (made.output / "ledger.lock").exists()
        assert not made.slurm.ran
        walker.take(("command", {"words": ["submit", "s0"], "seed": 1, "pick": 0}))
        assert len(made.slurm.ran) == 1
        assert made.violations == []


@pytest.mark.parametrize("told", [None, "fail", "exit", "cancelled"])
def test_what_waits_for_a_calibration_is_submitted_by_ticks_once_that_has_ended_in_whatever_way(folder, told):
    with world(folder, 0) as made:
        walker = Walker(made)
        made.told = {("*", "pretrain"): told}
        walker.take(("calibration", {}))
        walker.take(("command", {"words": ["submit", "s0"], "seed": 1, "pick": 0}))
        assert "2 runs wait for it" in said(made)
        walker.take(("command", {"words": ["tick"], "seed": 1, "pick": 0}))
        assert "2 runs wait for 3 stage runs in probe" in said(made)
        if told == "cancelled":
            made.slurm.cancel(made.slurm.ran[0])
        walker.take(("pass", {"seconds": 60}))
        made.told = {}
        walker.take(("command", {"words": ["tick"], "seed": 1, "pick": 0}))
        assert ("in probe did not complete, so what waits for it is planned" in said(made)) == (told is not None)
        walker.take(("pass", {"seconds": 120}))
        walker.take(("command", {"words": ["tick"], "seed": 1, "pick": 0}))
        assert (len(made.slurm.ran), walker.statuses(), made.violations) == (2, {"completed"}, [])
        assert not list(made.output.glob("requests/*"))


@pytest.mark.parametrize("seed", [1, 10])  # of the tenth it is as SQLite makes it
def test_a_ledger_is_to_others_as_it_was_until_a_transaction_has_ended_and_the_next_world_has_its_own(folder, seed):
    asked = "SELECT value FROM meta WHERE key = 'a'"
    put = "INSERT OR REPLACE INTO meta (key, value) VALUES ('a', ?)"
    for _ in range(2):
        with world(folder, seed) as made:
            ledgers = seams().disk.connections
            mine, others = (ledgers.take(made.folder / "ledger.db") for _ in range(2))
            if seed == 10:
                mine.execute("CREATE TABLE meta (key PRIMARY KEY, value)")
            assert others.execute(asked).fetchall() == []
            for value, before in (("1", []), ("2", [("1",)])):
                mine.execute("BEGIN")
                mine.execute(put, [value])
                assert (mine.execute(asked).fetchall(), others.execute(asked).fetchall()) == ([(value,)], before)
                with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                    others.execute(put, ["3"])
                mine.execute("COMMIT")
                assert others.execute(asked).fetchall() == [(value,)]
            mine.execute("BEGIN")
            mine.execute(put, ["3"])
            mine.close()  # by who was killed
            assert others.execute(asked).fetchall() == [("2",)]
            (made.folder / "ledger.db").unlink()
            assert ledgers.take(made.folder / "ledger.db").ledger is not mine.ledger


CHOICE = ("choice", {"study": "f0", "pick": 0})
CALLS = 26  # of the disk while a choice is made


@pytest.mark.parametrize("kill", [pytest.param(kill, marks=() if kill in (9, 17, 25) else pytest.mark.longer)
                                  for kill in range(1, CALLS + 1)])  # fmt: skip
def test_a_choice_in_which_its_command_is_killed_is_made_once_and_its_runs_are_submitted_once(folder, kill):
    steps = [("command", {"words": ["submit", "f0"], "seed": 1, "pick": 0}), (CHOICE[0], CHOICE[1] | {"kill": kill})]
    with world(folder, 0) as made:
        walker = Walker(made)
        for step in steps:
            walker.take(step)
        assert made.counts["a choice is cut short"] == 1
        walker.calm()
        walker.finish()
        walker.check_the_end()
        (path,) = made.output.glob("choices/*/choice.json")
        (run,) = json.loads(path.read_text())["runs"]
        assert (made.executed[run, "pretrain"], walker.statuses(), made.violations) == (1, {"completed"}, [])
        assert not list(made.output.glob("requests/*"))


def test_a_choice_that_was_made_otherwise_than_the_scores_say_is_found(folder, monkeypatch):
    monkeypatch.setattr(ranking, "_order", lambda *_: lambda each: -each["number"])
    steps = [("command", {"words": ["submit", "f0"], "seed": 1, "pick": 0}), CHOICE, ("edit", {"pick": 0}), CHOICE]
    assert {kind for seed in (0, 1) for kind in walk(folder, seed, steps).kinds} == {"not the best was chosen"}


@pytest.mark.parametrize("how", ["fail", "exit", "cancelled"])
def test_a_teacher_that_fails_blocks_its_students_until_it_is_trained(folder, how):
    with world(folder, 0) as made:
        walker = Walker(made)
        walker.take(("teacher", {"how": how, "study": "t0", "pick": 1}))
        assert "2 runs blocked, since pretrain of tutor" in " ".join(said(made).split())
        walker.take(("command", {"words": ["tick"], "seed": 1, "pick": 1}))
        assert len(made.slurm.ran) == 1
        walker.take(("command", {"words": ["rerun"], "seed": 1, "pick": 1}))
        walker.take(("pass", {"seconds": 60}))
        walker.take(("command", {"words": ["tick"], "seed": 1, "pick": 1}))
        walker.take(("pass", {"seconds": 60}))
        walker.take(("command", {"words": ["status"], "seed": 1, "pick": 1}))
        assert (walker.statuses(), made.violations) == ({"completed"}, [])
        assert set(made.executed.values()) == {1}
        assert len(made.executed) == 3


def said(made):
    """What the last command printed."""
    return made.commands[-1].output.getvalue()


def test_every_mutant_has_its_place():
    for mutant in (*mutants.PUT_BACK, *mutants.MUTANTS):
        text = (mutants.ROOT / mutant.file).read_text()
        assert mutant.of(text) != text
