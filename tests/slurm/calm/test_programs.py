"""A grid of a shell program on the real cluster: whatever is killed, every cell is done once."""

import contextlib
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml
from slurm.faults import assert_exactly_once, finish, rows, wait_for

pytestmark = pytest.mark.slurm
CELLS = 24
LINE = """
echo $$ >> {run}/pids
until [ -e go-{lr} ]; do sleep 0.2; done
printf '{"scores": [{"task": "t", "metric": "m", "value": %s}]}' {width} > {out}
echo work >> {run}/done.txt
"""
PROGRAM = {
    "stages": {"work": {"command": LINE, "minutes": 1, "gpu": False}},
    "studies": {"s0": {"grid": {"lr": [1, 2], "width": [1, 2, 3, 4]}, "seeds": [1, 2, 3]}},
}


@pytest.fixture
def program(study):
    (study.folder / "experiments.yaml").write_text(yaml.safe_dump(PROGRAM))
    study.stages, study.runs = ("work",), CELLS
    study.change_site(runs_per_pack=6, slots=3, cpus=8)
    return study


def alive(program) -> list[int]:
    """The programs that are at work."""
    pids = [int(pid) for path in program.output.glob("runs/*/pids") for pid in path.read_text().split()]
    return [pid for pid in pids if Path(f"/proc/{pid}/exe").exists() and b"go-" in _read(f"/proc/{pid}/cmdline")]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def test_a_killed_grid_of_a_shell_program_is_done_to_its_end_and_no_cell_twice(program):
    draw = random.Random("programs")
    (program.folder / "go-1").touch()  # half of the cells end, the others are at work when everything is killed
    program.submit("s0")
    wait_for(lambda: program.counts().get("completed", 0) >= CELLS // 4 and len(alive(program)) >= 3)
    worker = draw.choice(program.claims("work"))  # one of them alone, perhaps one that has ended
    pack = draw.choice(program.tasks())
    for pid in (draw.choice(alive(program)), worker["pid"], pack["pid"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    (array,) = {key.partition("_")[0] for key, *_ in program.live_jobs()}
    program.cluster.ask("scancel", array)
    wait_for(lambda: program.live_jobs() == [])
    wait_for(lambda: not alive(program))  # nothing outlives its job
    before = program.counts()
    assert before.get("completed", 0) < CELLS
    assert sum(before.values()) == CELLS
    (program.folder / "go-2").touch()
    finish(program)
    assert_exactly_once(program, undisturbed=False)  # a cell of the first half may die between its work and its result
    done = {path.parent: path.read_text().split() for path in program.output.glob("runs/*/done.txt")}
    late = [words for run, words in done.items() if '"lr": 2' in (run / "run.json").read_text()]
    assert late == [["work"]] * (CELLS // 2), "none of these had done its work when it was killed"
    scores = Counter(row["value"] for row in rows(program.output / "ledger.db", "score"))
    assert scores == dict.fromkeys((1.0, 2.0, 3.0, 4.0), CELLS // 4)
