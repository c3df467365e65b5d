"""What SLURM's clients, and jobs, have of the user's environment."""

import os
import re

import pytest

from cluster.slurm import environment, sbatch
from cluster.slurm.queries import Slurm

WHICH = {"SLURM_CONF": "/etc/slurm/slurm.conf", "SLURM_JWT": "x", "SLURM_CONF_SERVER": "ctl:6817"}
OWN = {"PATH": "/bin", "HOME": "/home/me", "LANG": "nl_NL.UTF-8", "LC_TIME": "nl_NL", "TZ": "Europe/Amsterdam",
       "SLURMISH": "1", "MY_SBATCH_ACCOUNT": "1"}  # fmt: skip
# squeue's, sacct's, sbatch's ... own variables, and some of those that a job has (man pages of SLURM 22.05 to 25.11)
OPTIONS = {
    "SQUEUE_PARTITION", "SQUEUE_FORMAT", "SQUEUE_STATES", "SQUEUE_USERS", "SACCT_FORMAT", "SACCT_FEDERATION",
    "SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_EXPORT", "SBATCH_ARRAY_INX", "SBATCH_JOB_NAME",
    "SBATCH_NO_REQUEUE", "SBATCH_MEM_PER_CPU", "SBATCH_CLUSTERS", "SCONTROL_ALL", "SINFO_FORMAT", "SCANCEL_NAME",
    "SALLOC_PARTITION", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SLURM_EXIT_ERROR", "SLURM_HINT",
}  # fmt: skip
OF_A_JOB = {
    "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_MEM_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_PROCID",
    "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_EXPORT_ENV", "SLURM_WORKING_CLUSTER",
    "SLURMD_NODENAME", "SRUN_DEBUG", "SLURM_TRES_PER_TASK", "SLURM_CPU_BIND",
}  # fmt: skip


def test_jobs_have_the_users_environment_but_for_what_is_for_slurms_commands():
    given = OWN | WHICH | dict.fromkeys(OPTIONS | OF_A_JOB, "1")
    assert environment.for_jobs(given) == OWN | WHICH
    assert set(environment.left_out(given)) == OPTIONS | OF_A_JOB


def test_what_is_read_by_a_program_has_one_form_whatever_the_users():
    told = environment.for_queries(OWN | WHICH | dict.fromkeys(OPTIONS, "relative"))
    assert told == OWN | WHICH | environment.FORMS
    assert told["TZ"] != OWN["TZ"]


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """Variables that a test sets, and stand-ins for all clients; what each of them has found, by its name."""
    for name in ("squeue", "sacct", "sacctmgr", "scontrol", "scancel", "sinfo", "sbatch"):
        path = tmp_path / name
        say = {"squeue": "echo '7|7|N/A|RUNNING|None|n1|a|abcdefabcdef|x'", "sbatch": "echo 7"}.get(name, "exit 0")
        path.write_text(f"#!/bin/sh\n/usr/bin/env > {path}.env\n{say}\n")
        path.chmod(0o755)
    for name in OPTIONS | OF_A_JOB:
        monkeypatch.setenv(name, "1")
    for name, value in (OWN | WHICH | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}).items():
        monkeypatch.setenv(name, value)

    def found():
        texts = {path.stem: path.read_text() for path in tmp_path.glob("*.env")}
        return {name: dict(re.findall(r"^(\w+)=(.*)$", text, re.M)) for name, text in texts.items()}

    return found


def test_every_client_has_an_environment_of_ours(seen, tmp_path):
    slurm = Slurm()
    slurm.history(["a"], 1)
    slurm.cancel([("7", "abcdefabcdef")])
    slurm.configuration(), slurm.partition("gpu"), slurm.nodes("gpu"), slurm.accounts()
    assert sbatch.send(tmp_path / "script") == "7"
    environments = seen()
    assert len(environments) == 7
    for client, told in environments.items():
        wanted = OWN | WHICH | ({} if client == "sbatch" else environment.FORMS) | {"PATH": os.environ["PATH"]}
        assert {name: told.get(name) for name in wanted} == wanted, client
        assert not (OPTIONS | OF_A_JOB) & told.keys() - environment.FORMS.keys(), client
    assert (environments["sbatch"]["TZ"], environments["squeue"]["TZ"]) == (OWN["TZ"], "UTC0")


def test_the_user_is_whom_the_process_belongs_to(monkeypatch):
    name = environment.user()
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("LOGNAME", "else")
    assert environment.user() == name
