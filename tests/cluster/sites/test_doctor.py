"""What a cluster says of itself is held against a site's profile. Here a stand-in speaks, in tests/slurm a real one."""

from dataclasses import dataclass, field

import pytest

from cluster.sites.doctor import examine
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.slurm.queries import Limits

SITE = Site(name="here", scheduler="slurm", gpus=2, partition="gpu", account="mine", max_time=600, memory_per_cpu=4_000)
ENOUGH = {"MaxTime": "10:00:00", "MaxMemPerCPU": "4000"}  # all that the profile asks for, and no more


@dataclass
class Said:
    """A cluster that gives these answers."""

    settings: dict = field(default_factory=lambda: {"MaxArraySize": "1001", "AccountingStorageType": "slurmdbd"})
    of_partition: dict | None = field(default_factory=lambda: ENOUGH)
    kinds: list = field(default_factory=lambda: ["4 nodes, 64 CPUs, 256000 MB, gpu:a100:2(S:0)"])
    mine: list = field(default_factory=lambda: ["mine"])
    most: Limits = Limits(max_time=600)

    def configuration(self):
        return self.settings

    def partition(self, name):  # noqa: ARG002
        return self.of_partition

    def nodes(self, partition):  # noqa: ARG002
        return self.kinds

    def accounts(self):
        return self.mine

    def limits(self, account, qos):  # noqa: ARG002
        return self.most


@pytest.fixture
def marks(tmp_path, monkeypatch):
    """What is found on a login node, and how it is marked; but for the disk and the data of this machine."""
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    def examined(said):
        found = examine(SITE, said, None, tmp_path / "output")
        return {each.what: each.mark for each in found if each.what not in ("Python", "OUTPUT_ROOT", "DATA_ROOT")}

    return examined


def test_a_cluster_that_gives_what_the_profile_asks_for_is_fine(marks):
    assert set(marks(Said()).values()) == {"fine"}
    unlimited = {"MaxTime": "UNLIMITED", "MaxMemPerCPU": "UNLIMITED"}
    assert set(marks(Said(of_partition=unlimited, most=Limits())).values()) == {"fine"}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (Said(settings={"MaxArraySize": "1000"}), "MaxArraySize"),
        (Said(of_partition=ENOUGH | {"MaxTime": "09:59:00"}), "time limit of gpu"),
        (Said(of_partition=ENOUGH | {"MaxMemPerCPU": "3999"}), "memory per CPU"),
        (Said(of_partition={}), "partition"),
        (Said(kinds=["4 nodes, 64 CPUs, 256000 MB, gpu:a100:1(S:0)"]), "GPUs of a node"),
        (Said(mine=["another"]), "account"),
        (Said(most=Limits(max_time=599)), "time limit of the account"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_cluster_gives_less_of_than_the_profile_asks_for_is_wrong(marks, said, what):
    assert [name for name, mark in marks(said).items() if mark == "wrong"] == [what]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, {}),
        ({"SBATCH_QOS": "x", "SQUEUE_SORT": "y"}, {"your variables": ("unknown", "SBATCH_QOS, SQUEUE_SORT: not")}),
        ({"SLURM_JOB_ID": "17", "SLURM_MEM_PER_NODE": "9"}, {"inside a job": ("fine", "job 17: its 2 variables")}),
        ({"SLURM_CLUSTERS": "gpu", "SLURM_TIME_FORMAT": "relative"},
         {"other cluster": ("wrong", "SLURM_CLUSTERS: is"), "your variables": ("unknown", "SLURM_TIME_FORMAT: not")}),
    ],
)  # fmt: skip
def test_what_a_user_has_set_without_effect_is_told_once(tmp_path, monkeypatch, variables, told):
    for name in environment.left_out():
        monkeypatch.delenv(name)
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
        (tmp_path / name).touch(0o755)
    for name, value in ({"PATH": str(tmp_path)} | variables).items():
        monkeypatch.setenv(name, value)
    found = {each.what: (each.mark, each.found) for each in examine(SITE, Said(), None, tmp_path / "output")}
    assert {what for what in found if what in ("your variables", "inside a job", "other cluster")} == set(told)
    for what, (mark, words) in told.items():
        assert found[what][0] == mark
        assert found[what][1].startswith(words)


def test_what_is_not_answered_is_not_known(marks):
    assert marks(Said(of_partition=None))["partition"] == "unknown"
