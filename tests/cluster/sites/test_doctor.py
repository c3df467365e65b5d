"""What a cluster says of itself is held against a site's profile. Here a stand-in speaks, in tests/slurm a real one."""

from dataclasses import dataclass, field

import pytest

from cluster.errors import InputError, SlurmSilent
from cluster.sites import drafting, profiles
from cluster.sites.doctor import examine
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.slurm.queries import Limits, NodeKind

SITE = Site(name="here", scheduler="slurm", gpus=2, partition="gpu", account="mine", max_time=600, memory_per_cpu=4_000)
ENOUGH = {"MaxTime": "10:00:00", "MaxMemPerCPU": "4000"}  # all that the profile asks for, and no more

OF_A_QOS = ENOUGH | {"QoS": "small"}


@dataclass
class Said:
    """A cluster that gives these answers."""

    settings: dict = field(default_factory=lambda: {"MaxArraySize": "1001", "AccountingStorageType": "slurmdbd"})
    of_partition: dict | None = field(default_factory=lambda: ENOUGH)
    kinds: list = field(default_factory=lambda: [NodeKind(4, 64, 256_000, "gpu:a100:2(S:0)")])
    mine: list = field(default_factory=lambda: ["mine"])
    most: Limits | None = Limits(max_time=600)
    of_a_job: dict | None = field(default_factory=dict)  # by the partition's QOS

    def configuration(self):
        return self.settings

    def partition(self, name):  # noqa: ARG002
        return self.of_partition

    def default_partition(self):
        return "gpu"

    def most_of_a_job(self, qualities):
        return self.of_a_job if qualities else {}

    def nodes(self, partition):  # noqa: ARG002
        return self.kinds

    def accounts(self):
        return self.mine

    def limits(self, account, qos, partitions):  # noqa: ARG002
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


@pytest.mark.parametrize(("size", "found"), [
    ("1000", ("fine", "1000; the profile's max_array_size is 1001: arrays are cut at SLURM's")),
    ("1001", ("fine", "1001; the profile's max_array_size is 1001")),
    ("", ("unknown", "not told; the profile's max_array_size is 1001")),
])  # fmt: skip
def test_a_smaller_maxarraysize_is_no_fault_since_arrays_are_cut_at_it(tmp_path, size, found):
    told = examine(SITE, Said(settings={"MaxArraySize": size}), None, tmp_path / "output")
    assert [(each.mark, each.found) for each in told if each.what == "MaxArraySize"] == [found]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (Said(of_partition=ENOUGH | {"MaxTime": "09:59:00"}), "time limit of gpu"),
        (Said(of_partition=ENOUGH | {"MaxMemPerCPU": "3999"}), "memory per CPU"),
        (Said(of_partition={}), "partition"),
        (Said(kinds=[NodeKind(4, 64, 256_000, "gpu:a100:1(S:0)")]), "GPUs of a node"),
        (Said(of_partition=OF_A_QOS, of_a_job={"gres/gpu": 1}), "gres/gpu of a job"),
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


def test_each_of_several_partitions_is_looked_at(tmp_path, monkeypatch):
    site = SITE.model_copy(update={"partition": "p1,p2"})
    said = Said()
    answers = {"p1": ENOUGH, "p2": ENOUGH | {"MaxTime": "09:00:00", "MaxMemPerCPU": "2000"}}
    said.partition = lambda name: answers[name]
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = examine(site, said, None, tmp_path / "output")
    assert [each.mark for each in found if each.what in ("time limit of p1", "time limit of p2")] == ["fine", "wrong"]
    assert [each.what for each in found if each.what.startswith("nodes")] == ["nodes of p1", "nodes of p2"]
    made = drafted(said, site)
    assert [made[key].value for key in ("partition", "max_time", "memory_per_cpu")] == ["p1,p2", 540, 2000]
    answers["p2"] = {}
    assert "p2: there is none of this name" in [each.found for each in examine(site, said, None, tmp_path / "output")]


def test_what_is_not_answered_is_not_known(marks):
    assert marks(Said(of_partition=None))["partition"] == "unknown"


def test_an_output_root_on_scratch_is_to_be_saved_elsewhere(tmp_path):
    site = SITE.model_copy(update={"scheduler": "local", "scratch": str(tmp_path / "scratch")})
    for folder in ("scratch", "home", "scratch-not"):
        (tmp_path / folder).mkdir()
    (tmp_path / "home" / "link").symlink_to(tmp_path / "scratch")

    def told(folder):
        found = [each for each in examine(site, Said(), None, tmp_path / folder) if each.what == "scratch"]
        return [(each.mark, each.found.partition("`")[2]) for each in found]

    command = "tiny-transformers report --export ~/results.tar.gz --output-root"
    for folder in ("scratch/output", "home/link/output"):
        assert told(folder) == [("take care", f"{command} {tmp_path / folder}`")]
    assert told("home/output") == told("scratch-not/output") == []


def drafted(said, base=SITE):
    return {each.key: each for each in drafting.draft(base, said, named=True)}


A100 = NodeKind(10, 64, 512_000, "gpu:a100:4(S:0-1)")
SLICE = NodeKind(1, 64, 512_000, "gpu:a100_1g.10gb:28")
PLAIN = Site(name="mine", scheduler="slurm", modules=("2026",))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Said(kinds=[A100]), {"gpus": 1, "cpus": 16, "memory_per_cpu": 4000, "max_time": 600, "partition": "gpu"}),
        (Said(kinds=[A100], of_partition={"MaxTime": "02:00:00"}), {"memory_per_cpu": 8000, "max_time": 120}),
        (Said(kinds=[A100, NodeKind(1, 48, 300_000, "gpu:4")], of_partition={}), None),
        (Said(kinds=[SLICE], of_partition=OF_A_QOS, of_a_job={"cpu": 1}), {"cpus": 1, "gpu_memory": 9800, "mig": True}),
        (Said(kinds=[NodeKind(4, 48, 185_000, "(null)")]), {"gpus": 0, "cpus": 1, "memory_per_cpu": 3854}),
        (Said(most=Limits(11, 1, 240)), {"max_submit": 11, "max_jobs": 1, "max_time": 240, "max_array_size": 1001}),
        (Said(most=Limits(), of_partition={"MaxTime": "UNLIMITED"}), {"max_submit": None, "max_time": 1440}),
    ],
    ids=["nodes", "partition", "no partition", "MIG", "CPUs", "account", "no limits"],
)  # fmt: skip
def test_a_site_file_has_what_the_cluster_says_and_what_else_the_profile_has(tmp_path, said, expected):
    if expected is None:
        with pytest.raises(InputError, match="no partition of this name"):
            drafted(said, PLAIN.model_copy(update={"partition": "gpu"}))
        return
    made = drafted(said, PLAIN)
    path = tmp_path / "made.yaml"
    path.write_text(drafting.text(list(made.values()), "today", str(path)))
    site = profiles.load(str(path))
    assert {key: getattr(site, key) for key in expected} == expected
    assert (site.name, site.modules) == ("mine", ("2026",))
    assert [key for key, each in made.items() if not each.read] == [
        key for key in ["gpu_memory"] if site.gpus and not site.mig
    ]


@pytest.mark.parametrize(
    ("said", "lacking"),
    [
        (Said(settings={}), ["max_array_size"]),
        (Said(of_partition=None), ["memory_per_cpu", "max_time"]),
        (Said(kinds=None), ["gpus", "cpus", "memory_per_cpu"]),
        (Said(of_partition=OF_A_QOS, of_a_job=None), ["cpus"]),
        (Said(mine=None), ["account"]),
        (Said(most=None), ["max_time", "max_jobs", "max_submit"]),
    ],
    ids=["settings", "partition", "nodes", "QOS", "accounts", "limits"],
)
def test_what_could_not_be_read_is_said_beside_what_is_assumed(said, lacking):
    made = drafted(said, SITE.model_copy(update={"gpu_memory": 1}))
    told = [key for key, each in made.items() if "not read" in each.text]
    assert told == [key for key, each in made.items() if not each.read] == lacking


def test_where_nothing_answers_no_file_is_written():
    with pytest.raises(SlurmSilent, match="Nothing was written"):
        drafted(Said(settings=None))


def test_a_container_must_be_there(tmp_path):
    site = SITE.model_copy(update={"scheduler": "local", "container": str(tmp_path / "image.sif")})

    def mark():
        return [each.mark for each in examine(site, Said(), None, tmp_path / "output") if each.what == "container"]

    assert mark() == ["wrong"]
    (tmp_path / "image.sif").touch()
    assert mark() == ["fine"]
