"""What was submitted is what runs, whatever is edited, or laid into the folder, in the meantime."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from waiting import PATIENCE, wait_for

from cluster.files import kept_code
from cluster.files.folders import OutputRoot
from cluster.submit import code_copy

ROOT = Path(__file__).parents[3]
IN_THE_WAY = ("random.py", "jobs.py", "cluster.py", "submitit.py", "sitecustomize.py")
LINE = "echo {x} > {run}/begun; until [ -e go ]; do sleep 0.1; done; cp result.json {out}"
SCORES = {"scores": [{"task": "t", "metric": "m", "value": 0.5, "n": 3}]}
PROGRAM = {
    "stages": {"once": {"command": LINE, "minutes": 1, "gpu": False}},
    "studies": {"s": {"grid": {"x": [1, 2, 3]}}},
}


@pytest.fixture
def checkout(tmp_path):
    """A checkout that may be edited, compiled as far as this one is."""
    for package in (*kept_code.PACKAGES, "templates"):
        shutil.copytree(ROOT / package, tmp_path / "checkout" / package)
    return tmp_path / "checkout"


def test_a_copy_is_named_by_its_content_and_made_once(checkout, tmp_path):
    root = OutputRoot(tmp_path / "output")
    name = code_copy.keep(root, checkout)
    made = {path.relative_to(root.code(name)): path.stat().st_ino for path in root.code(name).rglob("*.py")}
    assert Path("jobs/stage.py") in made
    assert (root.code(name) / "jobs/stage.py").read_bytes() == (checkout / "jobs/stage.py").read_bytes()
    assert code_copy.keep(root, checkout) == name
    assert {path.relative_to(root.code(name)): path.stat().st_ino for path in root.code(name).rglob("*.py")} == made
    with (checkout / "jobs/stage.py").open("a") as file:
        file.write("# another line\n")
    other = code_copy.keep(root, checkout)
    assert {path.name for path in (root.path / "code").iterdir()} == {name, other}
    assert (root.code(name) / "jobs/stage.py").read_bytes() != (root.code(other) / "jobs/stage.py").read_bytes()


@pytest.mark.parametrize("spoil", [shutil.rmtree, lambda copy: (copy / "jobs/pack.py").unlink()])
def test_a_copy_that_is_not_whole_any_more_is_made_again(tmp_path, spoil):
    root = OutputRoot(tmp_path / "output")
    copy = root.code(code_copy.keep(root))
    made = kept_code.read(copy)
    assert kept_code.damage(copy) is None
    spoil(copy)
    assert "`rerun --failed` makes it again" in kept_code.damage(copy)
    assert root.code(code_copy.keep(root)) == copy
    assert kept_code.read(copy) == made
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_copy_that_a_killed_command_left_half_made_is_none(tmp_path):
    root = OutputRoot(tmp_path / "output")
    dies = (
        "import os, sys; from pathlib import Path; from cluster.submit import code_copy\n"
        "from cluster.files.folders import OutputRoot; written, left = Path.write_bytes, iter(range(99))\n"
        "Path.write_bytes = lambda *told: written(*told) if next(left, None) is not None else os.kill(os.getpid(), 9)\n"
        "code_copy.keep(OutputRoot(Path(sys.argv[1])))"
    )
    killed = subprocess.run([sys.executable, "-c", dies, root.path], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (draft,) = (root.path / "code").iterdir()
    assert draft.name.startswith(".")
    assert kept_code.damage(root.code(code_copy.keep(root))) is None


@pytest.fixture
def command(checkout, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "programs.yaml").write_text(yaml.safe_dump(PROGRAM))
    (folder / "site.yaml").write_text("name: here\nscheduler: local\nslots: 1\n")
    (folder / "result.json").write_text(json.dumps(SCORES))
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}

    def run(*words, check=True):
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *words], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    run.folder = folder
    yield run
    shutil.rmtree(checkout)
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "tests", "output", "slurm_logs", "gpu.md"))
    run("cancel", "--all", "--yes", check=False)


def spoil(checkout, folder):
    """Edit what a job loads, and lay files into the folder that would stand in the way of its modules."""
    for name in ("jobs/stage.py", "tiny_transformers/programs/command.py"):  # which no command loads
        (checkout / name).write_text("raise SystemExit('edited while a job waited')\n")
    for name in IN_THE_WAY:
        (folder / name).write_text("raise SystemExit('a file of the user stands in the way')\n")


def submit(command, *words):
    return command("submit", "programs.yaml", "--site", "site.yaml", "--yes", *words)


def test_neither_an_edit_nor_files_in_the_folder_change_what_waits_or_is_tried_again(checkout, command):
    folder, output = command.folder, command.folder / "output"
    submit(command)
    wait_for(lambda: list(output.glob("runs/*/begun")))
    spoil(checkout, folder)
    # The pack dies with a run at work and two that wait.
    (task,) = output.glob("submissions/*/task-0.json")
    os.kill(json.loads(task.read_text())["pid"], signal.SIGKILL)
    (folder / "go").touch()

    def done():
        command("tick", check=False)
        counts = json.loads(command("status", "--json", check=False).stdout)["counts"]
        return counts["completed"] == 3

    wait_for(done, pause=1)
    results = [json.loads(path.read_text()) for path in output.glob("runs/*/stages/once/*/result.json")]
    completed = [result["outcome"]["scores"] for result in results if result["status"] == "completed"]
    assert completed == [SCORES["scores"]] * 3
    claims = [json.loads(path.read_text()) for path in output.glob("runs/*/stages/once/*/claim.json")]
    assert len({claim["code"]["digest"] for claim in claims}) == 1
    assert len(list((output / "code").iterdir())) == 1, "what was tried again ran from the same copy"


@pytest.mark.longer  # that a stage refuses is in tests/jobs/test_stage.py, that a copy is made again above
def test_without_its_copy_a_job_says_so_in_its_log_and_the_next_submission_makes_it_again(command):
    (command.folder / "go").touch()
    submit(command, "--wait")
    (copy,) = (command.folder / "output" / "code").iterdir()
    lines = code_copy.after_prologue(OutputRoot(command.folder / "output"), copy.name)
    shutil.rmtree(copy)
    said = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (
        1, f"{copy.name}: this copy of the code is gone. `submit` or `rerun` makes it again.\n"
    )  # fmt: skip
    command("rerun", "--stage", "once", "--yes", "--wait")
    assert (copy / "jobs" / "stage.py").exists()
