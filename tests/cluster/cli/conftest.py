"""What tests of the commands share: a command in a process of its own, with stand-ins for the stages."""

import os
import shutil

import pytest
from processes import command as run_command


@pytest.fixture
def command(tmp_path, few_runs, fake_science):  # noqa: ARG001 - the stand-ins come through the environment
    """Run a command in a process of its own, in an empty folder."""
    assert few_runs.parent == tmp_path
    (tmp_path / "site.yaml").write_text(
        f"name: here\nscheduler: local\nslots: 2\nenvironment: {{PYTHONPATH: {os.environ['PYTHONPATH']}}}\n"
    )  # fmt: skip

    def run(*words, check=True, **options):
        done = run_command(*words, cwd=tmp_path, **options)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    yield run
    run("cancel", "--all", "--yes", check=False)


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """Where the first `second_done` of a worker leaves what it has made."""
    return tmp_path_factory.mktemp("second")


@pytest.fixture
def second_done(command, tmp_path, kept):
    """The study `second` was submitted, and its two runs are completed. That is done once for all tests of a worker:
    the others have a copy, in which only the intent names the folder."""
    if not (kept / "folder").exists():
        command("submit", "experiments.yaml", "--site", "site.yaml", "--study", "second", "--yes", "--wait")
        for name in ("output", "slurm_logs"):
            shutil.copytree(tmp_path / name, kept / name)
        (kept / "folder").write_text(str(tmp_path))
        return
    for name in ("output", "slurm_logs"):
        shutil.copytree(kept / name, tmp_path / name)
    for intent in (tmp_path / "output").glob("submissions/*/submission.json"):
        intent.write_text(intent.read_text().replace((kept / "folder").read_text(), str(tmp_path)))
