"""What tests of the commands share: a command in a process of its own, with stand-ins for the stages."""

import os

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
