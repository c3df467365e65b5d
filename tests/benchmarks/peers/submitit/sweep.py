"""submitit alone, in a careful script: `submit` sends what has neither a result nor a live job; `status` counts."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import submitit

RUNS = range(int("@RUNS@"))
JOBS = Path("jobs.json")  # run -> job id


def task(number: int) -> None:
    subprocess.run(["sh", "@BOX@/task.sh", str(number)], check=True)


def known() -> dict[int, submitit.SlurmJob]:
    ids = json.loads(JOBS.read_text()) if JOBS.exists() else {}
    return {int(number): submitit.SlurmJob(folder="logs", job_id=job) for number, job in ids.items()}


def submit() -> None:
    jobs = known()
    missing = [n for n in RUNS if n not in jobs or (jobs[n].done() and jobs[n].exception() is not None)]
    if not missing:
        print("nothing to submit")
        return
    executor = submitit.AutoExecutor(folder="logs", cluster="slurm")
    executor.update_parameters(
        timeout_min=10, cpus_per_task=1, slurm_mem="200M", slurm_partition="compute-p1",
        slurm_account="research-eemcs-st", slurm_array_parallelism=100,
    )  # fmt: skip
    new = dict(zip(missing, executor.map_array(task, missing), strict=True))
    JOBS.write_text(json.dumps({n: job.job_id for n, job in (jobs | new).items()}))


if sys.argv[1] == "submit":
    submit()
else:
    print(json.dumps(Counter(job.state for job in known().values())))
