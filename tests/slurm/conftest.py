"""The real SLURM cluster for the tests that need one.

A cluster that is up is used and left up: the one of TT_SLURM_CONF, else the one that `cluster.py up` left. Otherwise
one is brought up for the session and taken down after it; where that is impossible, the tests are skipped."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm.cluster import start_daemon
from slurm.faults import Study, cluster_of

CLUSTER = Path(__file__).with_name("cluster.py")
CANNOT_BUILD = 3  # cluster.py's exit code


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """The cluster with accounting: its slurm.conf, which SLURM_CONF names from here on."""
    with running_cluster() as conf, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        yield conf


@pytest.fixture(scope="session")
def slurm_beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Another one, in a folder of its own, unless TT_SLURM_CONF names the one for all: its slurm.conf."""
    folder = tmp_path_factory.mktemp("s") / "beside"
    with running_cluster(*([] if os.environ.get("TT_SLURM_CONF") else ["--dir", str(folder)])) as conf:
        yield conf


@pytest.fixture(scope="session")
def slurm_without_accounting() -> Iterator[Path]:
    """A second cluster, where sacct fails and ended jobs are soon forgotten: its slurm.conf, to give to commands."""
    with running_cluster("--no-accounting") as conf:
        yield conf


@pytest.fixture(scope="session")
def slurm_of_limits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster without accounting, too, in a folder of its own: most of its tests only wait, beside others."""
    folder = tmp_path_factory.mktemp("s") / "limits"
    with running_cluster("--no-accounting", "--dir", str(folder)) as conf:
        yield conf


@pytest.fixture
def study(slurm: Path, tmp_path: Path) -> Iterator[Study]:
    """A study of small ones, to do faults to."""
    with whole_afterwards(slurm, tmp_path) as made:
        yield made


@pytest.fixture
def study_for_all(slurm: Path) -> Iterator[Study]:
    """The same, in a folder that other users may enter."""
    with tempfile.TemporaryDirectory() as folder, whole_afterwards(slurm, Path(folder)) as made:
        Path(folder).chmod(0o755)
        yield made


@pytest.fixture
def study_without_accounting(slurm_of_limits: Path, tmp_path: Path) -> Iterator[Study]:
    """The same where there is no sacct."""
    with whole_afterwards(slurm_of_limits, tmp_path) as made:
        yield made


@contextlib.contextmanager
def whole_afterwards(conf: Path, folder: Path) -> Iterator[Study]:
    """A study whose jobs are gone, and whose cluster is as it was, when the test has ended, however it did."""
    cluster = cluster_of(conf)
    if not cluster:
        pytest.skip("TT_SLURM_CONF names the cluster, and only one of cluster.py may be hurt")
    made = Study(folder, cluster)
    try:
        yield made
    finally:
        for name in cluster.daemons:
            start_daemon(cluster, name)
        cluster.ask("scontrol", "update", "nodename=cmp[001-002]", "state=resume")
        made.cancel_everything()


@contextlib.contextmanager
def running_cluster(*options: str) -> Iterator[Path]:
    """A cluster that is up already, else one for the time being."""
    given = os.environ.get("TT_SLURM_CONF")
    if given and not options:
        yield answering(Path(given))
        return
    found = call("status", *options)
    if found.returncode == 0:
        yield Path(found.stdout.strip())
        return
    made = call("up", *options)
    if made.returncode == CANNOT_BUILD:
        pytest.skip(f"no SLURM cluster: {made.stderr.strip()}")
    if made.returncode != 0:
        pytest.fail(made.stderr, pytrace=False)
    # If these tests are killed it is taken down all the same.
    killed = subprocess.Popen(
        [sys.executable, CLUSTER, "down", *options, f"--after={os.getpid()}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield Path(made.stdout.strip())
    finally:
        killed.kill()
        killed.wait()
        call("down", *options)


def answering(conf: Path) -> Path:
    if not conf.is_file():  # for a file that is not there SLURM's clients wait a minute
        pytest.fail(f"TT_SLURM_CONF={conf}: no such file", pytrace=False)
    env = os.environ | {"SLURM_CONF": str(conf)}
    said = subprocess.run(["scontrol", "ping"], env=env, capture_output=True, text=True, timeout=120)
    if " is UP" not in said.stdout:
        pytest.fail(f"TT_SLURM_CONF={conf}: no slurmctld answers: {said.stdout}{said.stderr}", pytrace=False)
    return conf


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(CLUSTER), *words], capture_output=True, text=True)
