import os

import pytest

from cluster.errors import InputError
from cluster.sites import profiles


@pytest.mark.parametrize("name", sorted(path.stem for path in profiles.SHIPPED.glob("*.yaml")))
def test_shipped_sites_load(name):
    assert profiles.load(name).name == name


def test_delftblue_asks_memory_within_the_partitions_cap():
    delftblue = profiles.load("delftblue")
    assert delftblue.memory_per_cpu <= 8000
    assert 4 * delftblue.cpus <= 64
    assert 4 * delftblue.cpus * delftblue.memory_per_cpu <= 512_000


def test_the_small_partition_asks_what_one_mig_slice_allows():
    small = profiles.load("delftblue-small")
    assert (small.gpus, small.cpus, small.max_time, small.mig) == (1, 2, 240, True)
    assert small.memory_per_cpu <= 8000
    assert small.gpu_memory <= 10_000


def test_options_override_a_profile():
    assert profiles.load("delftblue", account="research-eemcs-st", partition=None).account == "research-eemcs-st"


def test_this_machine_has_its_own_cores_and_memory_unless_the_profile_says_how_much(tmp_path):
    here = profiles.load("local")
    assert (here.slots, here.cpus) == (None, os.cpu_count())
    assert here.local_slots == (here.gpus or max(1, here.cpus // 2))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert here.memory_per_cpu == memory // 10**6 // here.cpus
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nscheduler: local\nslots: 3\nmemory_per_cpu: 1234\n")
    mine = profiles.load(str(path))
    assert (mine.slots, mine.local_slots, mine.memory_per_cpu) == (3, 3, 1234)


@pytest.mark.parametrize(
    ("profile", "variable", "gpus", "given"),
    [
        ("", None, 3, None),
        ("gpus: 1", None, 1, None),
        ("gpus: 0", None, 0, None),
        ("", "2,0", 2, "2,0"),
        ("gpus: 1", " 2, 0", 1, "2"),
        ("", "GPU-8a,MIG-c/1/0", 2, "GPU-8a,MIG-c/1/0"),
        ("", "1,-1,2", 1, "1"),
        ("", "", 0, ""),
        ("environment: {CUDA_VISIBLE_DEVICES: '1'}", "0,2", 1, "1"),
    ],
)
def test_a_local_pack_takes_the_gpus_that_the_profile_and_the_user_allow(
    tmp_path, monkeypatch, profile, variable, gpus, given
):
    monkeypatch.setattr(profiles, "_gpu_devices", lambda: ["nvidia0", "nvidia1", "nvidia2"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nscheduler: local\n{profile}\n")
    mine = profiles.load(str(path))
    assert (mine.gpus, mine.environment.get("CUDA_VISIBLE_DEVICES")) == (gpus, given)
    # What was submitted so is gone on with so, in a shell of another day, too.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert profiles.checked(mine.model_dump(mode="json")) == mine


def test_an_unknown_site_names_the_nearest():
    with pytest.raises(InputError, match="no such site. Did you mean delftblue"):
        profiles.load("delft-blue")
    with pytest.raises(InputError, match=r"--site not/there.yaml: there is no such file\.$"):
        profiles.load("not/there.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nscheduler: slurm\npartitoin: gpu\n", "partitoin.*Did you mean partition"),
        ("name: x\nscheduler: slurm\nmodule: [cuda]\n", "module: .*unknown key. Did you mean modules"),
        ("name: x\nscheduler: slurm\nmax_time: 1-00:00:00\n", "max_time: .*a whole number of minutes, such as 1440"),
        ("name: x\nscheduler: slurm\ngpu_memory: 40GB\n", "gpu_memory: '40GB': must be a whole number of MB, such as"),
        ("name: x\nscheduler: slurm\ngpus: a100:1\n", "gpus: .*must be a whole number; sbatch: .*their kind"),
        ("name: x\nscheduler: slurm\nslots: two\n", "slots: 'two': must be a whole number"),
        ("name: x\nscheduler: slurm\nmodules: cuda\n", "modules: 'cuda': must be a list, in brackets"),
        ("name: x\nscheduler: slurm\nmodules: [2026, cuda]\n", "modules.0: 2026: must be text: put it in quotes"),
        ("name: x\nscheduler: pbs\n", "scheduler: 'pbs'"),
        ("name: x\nscheduler: slurm\ncpus: 0\n", "cpus: 0"),
        ('name: x\nscheduler: slurm\naccount: "a\\nb"\n', "account: 'a.*nb': must be one line"),
        ('name: x\nscheduler: slurm\nmodules: ["a\\tb"]\n', "modules.0: .*must be one line"),
        ("name: x\nscheduler: slurm\nenvironment: {my-var: x}\n", "environment.my-var: .*no name of a variable"),
        (
            'name: x\nscheduler: slurm\nenvironment: {"A=1; x; B": x}\n',
            "environment.A=1; x; B: .*no name of a variable",
        ),
        ('name: x\nscheduler: slurm\nenvironment: {A: "\\e[31m"}\n', "environment.A: .*must be one line"),
        ('name: x\nscheduler: slurm\nsbatch: {constraint: "a\\nb"}\n', "sbatch.constraint: .*must be one line"),
        ('name: x\nscheduler: slurm\nsbatch: {"a\\nb": x}\n', r"sbatch.a.nb.: .*no option of sbatch"),
        ("name: x\nscheduler: slurm\nsbatch: {begin: 2030-01-01}\n", "sbatch.begin: .*put a date in quotes"),
        ("name: x\nscheduler: slurm\nsbatch: {constraint: [a, b]}\n", "sbatch.constraint: .*must be a word"),
        (
            "name: x\nscheduler: slurm\nsbatch: {job-name: mine}\n",
            "sbatch.job-name: .*is for tiny-transformers to set; take",
        ),
        ("name: x\nscheduler: slurm\nsbatch: {arr: 0-3}\n", "sbatch.arr: .*set, by max_tasks_at_once"),
        ("name: x\nscheduler: slurm\nsbatch: {mem_per_cpu: 1}\n", "sbatch.mem_per_cpu: .*set, by memory_per_cpu"),
        ("a: [", "not valid YAML"),
        ("- 1", "must be a mapping"),
        ("name: x\nscheduler: slurm\nsbatch: {clusters: gpu}\n", "sbatch.clusters: .* gpu.* with SLURM_CONF="),
        ("name: x\nscheduler: slurm\nsbatch: {M: gpu}\n", "sbatch.M: .M.: is no option of sbatch"),
    ],
)
def test_a_wrong_profile_says_where(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        profiles.load(str(path))


def test_a_profile_that_was_submitted_and_is_no_longer_taken_says_what_to_do():
    kept = {"name": "here", "scheduler": "slurm", "sbatch": {"array": "0-3"}}
    with pytest.raises(InputError, match="earlier submission.*--site.*sbatch.array: 'array': is for tiny-transformers"):
        profiles.checked(kept)


def test_where_there_is_sbatch_the_site_must_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert profiles.default_site() == "local"
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\n")
    sbatch.chmod(0o755)
    with pytest.raises(InputError, match="--site"):
        profiles.default_site()
