"""Out of memory, from folders that look like the kernel's."""

from pathlib import Path

import pytest

from jobs import memory
from jobs.memory import Cgroup, Watch, slurm_limit

MB = 1 << 20


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def v2(tmp_path):
    """A SLURM step's task in cgroup v2; the job may use 1000 MB, its slice (with others' jobs) has seen kills."""
    job = tmp_path / "sys/system.slice/slurmstepd.scope/job_77"
    own = job / "step_0/user/task_0"
    for folder in (own, own.parent, own.parent.parent):
        write(folder / "memory.max", "max\n")
        write(folder / "memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")
    write(job / "memory.max", f"{1000 * MB}\n")
    write(job / "memory.events", "oom 0\noom_kill 0\noom_group_kill 0\n")
    write(job.parent / "memory.events", "oom_kill 9\n")
    write(tmp_path / "cgroup", "0::/system.slice/slurmstepd.scope/job_77/step_0/user/task_0\n")
    return tmp_path


@pytest.fixture
def v1(tmp_path):
    """The same in cgroup v1, where each controller has its own tree."""
    job = tmp_path / "sys/memory/slurm/uid_0/job_77"
    for folder, limit in ((job / "step_0/task_0", 9223372036854771712), (job / "step_0", 500 * MB), (job, 1000 * MB)):
        write(folder / "memory.limit_in_bytes", f"{limit}\n")
        write(folder / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    write(tmp_path / "cgroup", "8:pids:/x\n4:cpu,memory:/slurm/uid_0/job_77/step_0/task_0\n0::/\n")
    return tmp_path


def cgroup(folder):
    return Cgroup.of(folder / "cgroup", folder / "sys")


def test_the_cgroups_of_a_job_end_at_the_jobs(v2):
    assert [folder.name for folder in cgroup(v2).folders] == ["task_0", "user", "step_0", "job_77"]
    assert (cgroup(v2).oom_kills(), cgroup(v2).limit()) == (0, 1000 * MB)


def test_version_1_has_other_names_and_a_number_for_no_limit(v1):
    assert (cgroup(v1).oom_kills(), cgroup(v1).limit()) == (3, 500 * MB)


def test_without_a_job_only_the_own_cgroup_counts(tmp_path):
    write(tmp_path / "sys/user.slice/session-1/memory.events", "oom_kill 1\n")
    write(tmp_path / "sys/user.slice/memory.events", "oom_kill 5\n")
    write(tmp_path / "cgroup", "0::/user.slice/session-1\n")
    assert cgroup(tmp_path).oom_kills() == 1


def test_in_a_container_the_root_is_the_own_cgroup(tmp_path):
    write(tmp_path / "sys/memory.events", "oom_kill 2\n")
    write(tmp_path / "sys/memory.max", "max\n")
    write(tmp_path / "cgroup", "0::/not/visible/from/inside\n")
    assert (cgroup(tmp_path).oom_kills(), cgroup(tmp_path).limit()) == (2, None)


def test_where_there_are_no_cgroups_nothing_is_known(tmp_path):
    assert (cgroup(tmp_path).oom_kills(), cgroup(tmp_path).limit()) == (None, None)
    assert Watch(cgroup(tmp_path), {}).explain(10**12) is None


def test_each_kill_that_the_kernel_counted_explains_one_child(v2):
    watch = Watch(cgroup(v2), {})
    assert watch.explain(100 * MB) is None
    write(v2 / "sys/system.slice/slurmstepd.scope/job_77/memory.events", "oom_kill 2\n")
    assert watch.explain(100 * MB) == (
        "killed by the kernel, out of memory (oom_kill is 2): its peak was 100 MB, of 1,000 MB allowed"
    )
    assert "out of memory" in watch.explain(100 * MB)
    assert watch.explain(100 * MB) is None


def test_kills_from_before_this_pack_explain_nothing(v1):
    assert Watch(cgroup(v1), {}).explain(100 * MB) is None


@pytest.mark.parametrize(("peak", "others", "ran_out"), [(899, [], False), (901, [], True), (400, [300, 250], True)])
def test_a_child_killed_near_the_limit_ran_out_of_memory(v2, peak, others, ran_out):
    figures = Watch(cgroup(v2), {}).explain(peak * MB, [other * MB for other in others])
    assert (figures is not None) == ran_out
    assert not others or "with the 2 beside it 950 MB" in figures


def test_the_smaller_of_slurms_limit_and_the_cgroups_holds(v2):
    assert Watch(cgroup(v2), {"SLURM_MEM_PER_NODE": "800"}).limit == 800 * MB
    assert Watch(cgroup(v2), {"SLURM_MEM_PER_NODE": "2000"}).limit == 1000 * MB


@pytest.mark.parametrize(
    ("environment", "megabytes"),
    [
        ({"SLURM_MEM_PER_CPU": "200", "SLURM_CPUS_ON_NODE": "4"}, 800),
        ({"SLURM_MEM_PER_NODE": "512"}, 512),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_CPU": "200"}, None),
        ({}, None),
    ],
)
def test_slurm_says_what_a_job_has(environment, megabytes):
    assert slurm_limit(environment) == (megabytes and megabytes * MB)


def test_the_peak_of_this_process_is_known_and_that_of_none_is_0():
    import os

    assert 5 * MB < memory.peak_of(os.getpid()) < 10_000 * MB
    assert memory.peak_of(2**30) == 0
