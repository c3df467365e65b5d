"""The environment in which SLURM's clients run, and the one that jobs are given.

SLURM's clients take options from variables, and those beat what a script's #SBATCH lines say; in the shell of a job
they take the size of that job for the next one's. So none of that is handed on, to a client or to a job: what a job
gets is what the site's profile says. Only what tells which SLURM to talk to stays. SLURM_CLUSTERS does not: with it a
job would go to one cluster and be looked for on another."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

OPTIONS = ("SACCT_", "SACCTMGR_", "SALLOC_", "SBATCH_", "SCANCEL_", "SCONTROL_", "SINFO_", "SLURM_", "SLURMD_",
           "SQUEUE_", "SRUN_")  # fmt: skip
WHICH_SLURM = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_SOCKET"}
OTHER_CLUSTERS = ("SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SQUEUE_CLUSTERS", "SLURM_WORKING_CLUSTER")
# What is read by a program is always written the same: times of the same zone, which never goes back, and whole lists.
FORMS = {"LC_ALL": "C.UTF-8", "TZ": "UTC0", "SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}


def left_out(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the variables that neither SLURM's clients nor jobs are given."""
    return sorted(name for name in environment if name.startswith(OPTIONS) and name not in WHICH_SLURM)


def for_jobs(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what sbatch is started with, and hands on to the job: the user's own locale and time zone, too."""
    unwanted = set(left_out(environment))
    return {name: value for name, value in environment.items() if name not in unwanted}


def for_queries(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what a client is started with whose answer is read."""
    return for_jobs(environment) | FORMS


def user() -> str:
    """Return the name of whoever runs this: by the process, as SLURM has it, whatever USER says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container without this user
        return str(os.getuid())
