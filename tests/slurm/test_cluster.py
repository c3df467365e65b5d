"""The cluster of cluster.py is one to trust tests to: its shape, its manners, its refusals, its coming and going."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm.cluster import CLAIMS, PORT_USERS, free_ports
from slurm.faults import wait_for

pytestmark = pytest.mark.slurm

CLUSTER = Path(__file__).with_name("cluster.py")
RESEARCH = "--account=research-eemcs-st"  # the account without limits
SMALL_GPU = ["--partition=gpu-a100-small", "--ntasks=1", "--gpus-per-task=1"]


def call(*command: str | Path, conf: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = os.environ | ({"SLURM_CONF": str(conf)} if conf else {})
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)


def output(*command: str | Path, conf: Path | None = None) -> str:
    done = call(*command, conf=conf)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def submit(script: str, *options: str, conf: Path | None = None) -> str:
    """The job's number."""
    return output("sbatch", "--parsable", "--time=5", "--output=/dev/null", *options, f"--wrap={script}", conf=conf)


def states(job: str) -> list[str]:
    return output("sacct", "-X", "-n", "-P", "-j", job, "--format=State").split()


def test_a_cluster_is_taken_down_when_a_process_has_ended(tmp_path):
    """As those of tests are that were killed."""
    other = subprocess.Popen(["sleep", "600"])
    after = subprocess.Popen(
        [sys.executable, CLUSTER, "down", f"--dir={tmp_path / 'no'}", f"--after={other.pid}"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: "[pidfd]" in call("ls", "-l", f"/proc/{after.pid}/fd").stdout)
    other.kill()
    assert after.communicate(timeout=60)[1] == f"{tmp_path / 'no'}: not up\n"
    other.wait()


@pytest.mark.usefixtures("slurm")
def test_partitions_have_delftblues_nodes_gpus_and_times():
    lines = output("sinfo", "-h", "-o", "%R|%N|%c|%G|%l").split("\n")
    assert {line.split("|")[0]: line.split("|")[1:] for line in lines} == {
        "compute-p1": ["cmp[001-002]", "48", "(null)", "5-00:00:00"],
        "preemptible": ["cmp[001-002]", "48", "(null)", "5-00:00:00"],
        "gpu-a100": ["gpu001", "64", "gpu:a100:4", "2-00:00:00"],
        "gpu-a100-small": ["gpu014", "64", "gpu:a100_1g.10gb:28", "4:00:00"],
    }


@pytest.mark.usefixtures("slurm")
def test_accounts_and_qos_have_their_limits():
    fields = "format=account,maxjobs,maxsubmitjobs,maxwall"
    assert set(output("sacctmgr", "-n", "-P", "show", "assoc", "user=root", fields).split("\n")) == {
        "root|||",
        "innovation|1|11|1-00:00:00",
        "education-eemcs-courses-cse3000|8||1-00:00:00",
        "research-eemcs-st|||",
    }
    assert output("sacctmgr", "-n", "-P", "show", "user", "root", "format=defaultaccount") == "innovation"
    qos = output("sacctmgr", "-n", "-P", "show", "qos", "a100small", "format=maxtresperjob,flags")
    assert qos == "cpu=2,gres/gpu=1|DenyOnLimit"


@pytest.mark.usefixtures("slurm")
def test_array_tasks_of_40_cpus_run_on_two_nodes_at_once(tmp_path):
    both_run = "touch task$SLURM_ARRAY_TASK_ID; until [ -e task0 -a -e task1 ]; do sleep 0.1; done"
    options = [RESEARCH, "--partition=compute-p1", "--array=0-1", "--cpus-per-task=40", f"--chdir={tmp_path}"]
    job = submit(both_run, *options, "--comment=token-17")
    wait_for(lambda: states(job) == ["COMPLETED", "COMPLETED"])
    fields = "--format=JobID,NodeList,ExitCode,AllocCPUS,Comment"
    first, second = output("sacct", "-X", "-n", "-P", "-j", job, fields).split("\n")
    assert first == f"{job}_0|cmp001|0:0|40|token-17"
    assert second == f"{job}_1|cmp002|0:0|40|token-17"


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--account=innovation", "--array=0-11"], "AssocMaxSubmitJobLimit"),
        (["--account=innovation", "--array=0-11"], "Job violates accounting/QOS policy"),
        ([RESEARCH, "--array=0-200"], "Invalid job array specification"),
        ([RESEARCH, "--array=0-101"], "Invalid job array specification"),
        ([RESEARCH, "--partition=gpu"], "Invalid partition name specified"),
        ([RESEARCH, "--partition=gpu-a100", "--time=3-0"], "Requested time limit is invalid"),
        (["--account=research-tpm"], "Invalid account or account/partition combination specified"),
        ([RESEARCH, *SMALL_GPU, "--cpus-per-task=3"], "QOSMaxCpuPerJobLimit"),
        ([RESEARCH, *SMALL_GPU, "--gpus-per-task=2"], "QOSMaxGRESPerJob"),
    ],
)
def test_sbatch_is_refused_in_slurms_words(options, reason):
    refused = call("sbatch", "--output=/dev/null", *options, "--wrap=true")
    assert refused.returncode == 1
    assert reason in refused.stderr


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize(("partition", "node"), [("gpu-a100", "gpu001"), ("gpu-a100-small", "gpu014")])
def test_gpu_job_sees_one_device_in_batch_shell_and_step(tmp_path, partition, node):
    show = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    options = [RESEARCH, f"--partition={partition}", "--ntasks=1", "--gpus-per-task=1", "--cpus-per-task=2"]
    job = submit(f"{show}; srun sh -c '{show}'", *options, f"--output={tmp_path / 'log'}")
    wait_for(lambda: states(job) == ["COMPLETED"])
    shell, step = (tmp_path / "log").read_text().splitlines()
    assert shell == step
    assert shell.split()[0] == node
    assert shell.split()[1].isdigit()


@pytest.mark.usefixtures("slurm")
def test_cluster_that_is_up_is_left_alone():
    if os.environ.get("TT_SLURM_CONF"):
        pytest.skip("TT_SLURM_CONF names the cluster, so it need not be one of cluster.py")
    before = output("scontrol", "show", "config")
    assert output(sys.executable, CLUSTER, "up") == os.environ["SLURM_CONF"]
    after = output("scontrol", "show", "config")
    assert boot_time(before) == boot_time(after)


def boot_time(config: str) -> str:
    return next(line for line in config.splitlines() if line.startswith("BOOT_TIME"))


def test_without_accounting_sacct_fails_and_ended_jobs_are_soon_forgotten(slurm_without_accounting, tmp_path):
    conf = slurm_without_accounting
    assert call("sacct", conf=conf).returncode == 1
    job = submit("touch ended", f"--chdir={tmp_path}", conf=conf)
    wait_for((tmp_path / "ended").exists)  # that it is listed then, for two seconds, a busy machine may never see
    wait_for(lambda: job not in output("squeue", "-h", "-t", "all", "-o", "%A", conf=conf).split())


@pytest.fixture(scope="module")
def own_cluster(request, tmp_path_factory) -> Iterator[Path]:
    """The folder of a cluster that tests bring up, if it is not, and hurt."""
    yield from folder_of_a_cluster(request, tmp_path_factory)


@pytest.fixture
def new_cluster(request, tmp_path_factory) -> Iterator[Path]:
    """The folder of a cluster that is not up."""
    yield from folder_of_a_cluster(request, tmp_path_factory)


def folder_of_a_cluster(request, tmp_path_factory) -> Iterator[Path]:
    request.getfixturevalue("slurm_without_accounting")  # skips where there can be no cluster
    folder = tmp_path_factory.mktemp("s") / "own"
    yield folder
    call(sys.executable, CLUSTER, "down", "--dir", folder)


def cluster(command: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return call(sys.executable, CLUSTER, command, *words, "--no-accounting", "--dir", folder)


def test_clusters_that_come_up_at_once_have_ports_of_their_own():
    ports = free_ports(len(PORT_USERS))
    there = f"import sys; sys.path.insert(0, {str(CLUSTER.parents[1])!r}); from slurm.cluster import free_ports"
    other = output(sys.executable, "-c", f"{there}; print(*free_ports({len(ports)}))").split()
    while CLAIMS:
        CLAIMS.pop().close()
    assert len(other) == len(ports)
    assert not set(ports) & set(map(int, other))


def test_cluster_with_a_dead_daemon_is_begun_afresh(own_cluster):
    assert cluster("up", own_cluster).stdout == f"{own_cluster / 'slurm.conf'}\n"
    os.kill(int((own_cluster / "run" / "slurmd.gpu001.pid").read_text()), 9)
    broken = cluster("status", own_cluster)
    assert broken.returncode == 1
    assert "slurmd.gpu001 is not running" in broken.stderr
    assert "slurmd.gpu001 is not running; beginning afresh" in cluster("up", own_cluster).stderr
    assert cluster("status", own_cluster).returncode == 0


def test_single_daemons_stop_and_start_and_jobs_live_on(own_cluster, tmp_path):
    conf = Path(cluster("up", own_cluster).stdout.strip())
    job = submit("touch begun; until [ -e go ]; do sleep 0.1; done; touch ended", f"--chdir={tmp_path}", conf=conf)
    wait_for((tmp_path / "begun").exists)
    # a slurmctld that is killed forgets its last seconds, perhaps that the job began
    for name, how in (("slurmctld", []), ("slurmd.cmp001", ["--kill"])):
        assert cluster("stop", own_cluster, name, *how).returncode == 0
        assert f"{name} is not running" in cluster("status", own_cluster).stderr
        assert cluster("start", own_cluster, name).returncode == 0
        assert cluster("status", own_cluster).returncode == 0
    assert output("squeue", "-h", "-o", "%A %T", conf=conf) == f"{job} RUNNING"
    (tmp_path / "go").touch()
    wait_for((tmp_path / "ended").exists)


def test_only_daemons_of_the_cluster_stop_and_start(own_cluster, new_cluster):
    assert cluster("stop", new_cluster, "slurmctld").stderr == f"{new_cluster}: not up\n"
    cluster("up", own_cluster)
    unknown = cluster("stop", own_cluster, "slurmdbd")
    assert (unknown.returncode, "no slurmdbd" in unknown.stderr) == (1, True)
    assert cluster("stop", own_cluster).returncode == 2


def test_down_ends_daemons_and_jobs_and_removes_the_folder(own_cluster, tmp_path):
    conf = Path(cluster("up", own_cluster).stdout.strip())
    script = "setsid sleep 1000 & echo $! > left_session; env -i sleep 1000 & echo $! > lost_names; touch both; wait"
    submit(script, f"--chdir={tmp_path}", conf=conf)
    wait_for((tmp_path / "both").exists)
    files = [*(own_cluster / "run").glob("*.pid"), tmp_path / "left_session", tmp_path / "lost_names"]
    pids = [file.read_text().strip() for file in files]
    assert len(pids) == 8  # munged, slurmctld, four slurmd and the two of the job
    assert all(lives(pid) for pid in pids)
    assert cluster("down", own_cluster).returncode == 0
    assert not own_cluster.exists()
    assert not any(lives(pid) for pid in pids)
    assert cluster("down", own_cluster).returncode == 0


def lives(pid: str) -> bool:
    """Not so a zombie, whose command line is empty."""
    path = Path("/proc") / pid / "cmdline"
    return path.exists() and path.read_bytes() != b""


def test_daemon_that_fails_is_named_with_its_last_words(new_cluster, tmp_path, monkeypatch):
    (tmp_path / "slurmd").write_text("#!/bin/sh\necho fatal: the disk is on fire; exit 7\n")
    (tmp_path / "slurmd").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    failed = cluster("up", new_cluster)
    assert failed.returncode == 1
    assert "waiting for node cmp001 to be idle: slurmd.cmp001 ended with 7" in failed.stderr
    assert failed.stderr.endswith("fatal: the disk is on fire\n")
    assert not any(lives(file.read_text().strip()) for file in (new_cluster / "run").glob("*.pid"))


def test_machine_without_slurm_and_apt_is_told_what_is_missing(new_cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = cluster("up", new_cluster)
    assert refused.returncode == 3
    assert "slurm-wlm: not installed" in refused.stderr


def test_a_folder_of_something_else_is_not_removed(tmp_path):
    (tmp_path / "thesis.tex").touch()
    refused = call(sys.executable, CLUSTER, "down", "--dir", tmp_path)
    assert refused.returncode == 1
    assert "left alone" in refused.stderr
    assert (tmp_path / "thesis.tex").exists()
