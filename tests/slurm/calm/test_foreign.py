"""Whatever the user's environment, other jobs and SLURM's answers bring: jobs are what was asked for, and run once.

The cluster is real; of SLURM's clients only those are replaced that a test makes lie."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from longer import longer
from slurm.faults import RUNS_OF_A_STUDY, STAGES, Study, assert_exactly_once, wait_for
from waiting import PATIENCE

from cluster.files import whole_files

pytestmark = pytest.mark.slurm
ALL = RUNS_OF_A_STUDY * len(STAGES)  # stage runs of one study
# Each of them makes squeue, sacct or scancel answer of a part of the jobs only, or in another form.
FILTERS = {
    "SQUEUE_PARTITION": "gpu-a100", "SQUEUE_ACCOUNT": "innovation", "SQUEUE_NAMES": "x", "SQUEUE_QOS": "a100small",
    "SQUEUE_LICENSES": "m", "SQUEUE_STATES": "RUNNING", "SQUEUE_USERS": "nobody", "SQUEUE_FORMAT": "%j",
    "SQUEUE_ARRAY": "0", "SCANCEL_PARTITION": "gpu-a100", "SACCT_FORMAT": "jobid", "SLURM_TIME_FORMAT": "relative",
    "SLURM_BITSTR_LEN": "8",
}  # fmt: skip
# Each of them beats a line of a job's script.
OPTIONS = {
    "SBATCH_PARTITION": "preemptible", "SBATCH_JOB_NAME": "myjob", "SBATCH_TIMELIMIT": "5", "SBATCH_MEM_PER_CPU": "100",
    "SBATCH_NO_REQUEUE": "1", "SBATCH_ACCOUNT": "innovation", "SBATCH_EXPORT": "NONE", "SBATCH_ARRAY_INX": "0-7",
    "SBATCH_COMMENT": "mine", "SBATCH_OUTPUT": "/dev/null", "SBATCH_WCKEY": "mine", "SBATCH_QOS": "a100small",
}  # fmt: skip


@pytest.fixture
def waiting(study):
    """The study, whose jobs wait until the nodes come back."""
    study.nodes("drain")
    yield study
    study.nodes("resume")


@pytest.fixture
def colleague(study_for_all):
    """Run a command on the study as another user, who may read everything and write where all may."""
    drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search"]  # fmt: skip

    def run(*words):
        command = [*drop, sys.executable, "-m", "cluster.cli", *words]
        environment = study_for_all.environment | {"USER": "nobody", "HOME": "/"}
        done = subprocess.run(
            command, cwd=study_for_all.folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def shown(study: Study, *words: str) -> list[str]:
    return study.cluster.ask(*words).stdout.splitlines()


def test_with_squeues_variables_set_nothing_is_taken_for_lost_and_nothing_done_twice(waiting):
    waiting.submit("s0", **FILTERS)
    assert {status: n for status, n in waiting.status(**FILTERS)["counts"].items() if n} == {"submitted": ALL}
    assert "Nothing to do" in waiting.run("tick", **FILTERS).stdout
    assert len(waiting.submission_ids) == 1
    waiting.nodes("resume")
    waiting.completes()
    assert_exactly_once(waiting)


@pytest.mark.parametrize("may_write", [True, longer(False)], ids=["shared", "to read"])
def test_another_users_look_and_tick_change_nothing_of_ours(study_for_all, colleague, may_write):
    study = study_for_all
    study.nodes("drain")
    study.submit("s0")
    study.cluster.ask("chmod", "-R", "a+rwX" if may_write else "go-w", str(study.output))
    looked = colleague("status")
    assert "Waiting: 2 packs with 2 runs" in looked.stdout, looked.stderr
    assert ("jobs of root are under way" in looked.stdout) or not may_write
    assert "Submitted" not in colleague("tick").stdout
    run_id = next(study.output.glob("runs/*")).name
    assert colleague("cancel", "--run", run_id, "--yes").returncode != 0
    assert study.counts() == {"submitted": ALL}
    assert "Nothing to do" in study.run("tick").stdout
    assert len(study.live_jobs()) == RUNS_OF_A_STUDY
    study.nodes("resume")
    study.completes()
    assert_exactly_once(study)


def test_packs_that_are_requeued_and_held_or_wait_again_are_shown_so_everywhere(study):
    study.hang("s0")
    for job in study.live_jobs():
        study.cluster.ask("scontrol", "requeuehold", job[0])
    wait_for(lambda: study.counts() == {"submitted": ALL})
    told = " ".join(study.run("status", "--runs").stdout.split())
    assert "held after a requeue: `scontrol release` or `cancel` it" in told
    assert "2 packs will not start by themselves" in told
    assert "running" not in told
    study.nodes("drain")
    for job in study.live_jobs():
        study.cluster.ask("scontrol", "release", job[0])
    wait_for(lambda: "held" not in study.run("status").stdout)
    assert study.counts() == {"submitted": ALL}
    assert "Running" not in study.run("status").stdout
    study.nodes("resume")
    study.tell()
    study.completes()
    assert_exactly_once(study)


def test_with_sbatchs_variables_set_jobs_are_what_the_profile_says(waiting):
    waiting.submit("s0", **OPTIONS)
    (submission_id,) = waiting.submission_ids
    told = shown(waiting, "squeue", "-h", "-r", "-o", "%K|%P|%j|%k|%m|%a|%q|%w")
    wanted = f"compute-p1|tt-{submission_id}|{submission_id}|200M|research-eemcs-st|normal|(null)"
    assert sorted(told) == [f"{task}|{wanted}" for task in range(RUNS_OF_A_STUDY)]
    (job,) = {line.split("_")[0] for line in shown(waiting, "squeue", "-h", "-r", "-o", "%i")}
    described = " ".join(shown(waiting, "scontrol", "show", "job", job))
    assert set(re.findall(r"Requeue=\d", described)) == {"Requeue=1"}
    assert not re.search(r"TimeLimit=00:05:00|StdOut=/dev/null", described)
    waiting.nodes("resume")
    waiting.completes()  # their environment came along, whatever SBATCH_EXPORT says
    assert_exactly_once(waiting)


@pytest.mark.parametrize("outer", ["srun", *(longer(each) for each in ("salloc", "sbatch"))])
def test_what_is_submitted_inside_a_job_is_no_part_of_it(study, outer):
    """The shell has SLURM_MEM_PER_NODE and all else of its own job; its time zone and locale come along, as ever."""
    (study.folder / "mine.sh.j2").write_text(
        f"{{% extends 'slurm.sh.j2' %}}{{% block site %}}env > {study.folder}/env.$SLURM_ARRAY_TASK_ID{{% endblock %}}"
    )
    study.change_site(prologue=str(study.folder / "mine.sh.j2"), cpus=2)
    words = study.words("s0")
    inner = study.folder / "inner.sh"
    command = " ".join(["exec", sys.executable, "-m", "cluster.cli", *words])
    inner.write_text(f"#!/bin/sh\ncd {study.folder}\nenv > outer.txt\n{command} > inner.txt 2>&1\n")
    inner.chmod(0o755)
    size = ["--partition=compute-p1", "--account=research-eemcs-st", "--time=5", "--ntasks=1", "--cpus-per-task=2",
            "--mem=2G"]  # fmt: skip
    more = ["--wait", "--output=/dev/null"] if outer == "sbatch" else []
    client = shutil.which(outer, path=study.cluster.environment["PATH"])  # the study's own sbatch gives up soon
    own = study.environment | {"TZ": "Asia/Tokyo", "LC_TIME": "nl_NL.UTF-8"}
    done = study.cluster.ask(
        "env", *(f"{name}={own[name]}" for name in own), client, *size, *more, inner, seconds=PATIENCE
    )
    assert "Submitted" in (study.folder / "inner.txt").read_text(), done.stderr
    assert "SLURM_JOB_ID=" in (study.folder / "outer.txt").read_text()
    study.completes()
    environment = (study.folder / "env.0").read_text().splitlines()
    assert {"TZ=Asia/Tokyo", "LC_TIME=nl_NL.UTF-8", "SLURM_MEM_PER_CPU=200"} <= set(environment)
    assert not [line for line in environment if line.startswith(("SLURM_MEM_PER_NODE", "SLURM_TIME_FORMAT", "LC_ALL"))]
    assert_exactly_once(study)


def test_every_third_task_of_a_long_array_is_cancelled_one_by_one(waiting):
    """Of what is left sacct makes a list that is longer than it shows unasked."""
    names = [f"s{number}" for number in range(20)]
    waiting.submit(*names)
    (submission_id,) = waiting.submission_ids
    packs = whole_files.read_json(waiting.output / "submissions" / submission_id / "submission.json")["packs"]
    cancelled = [pack[0]["run_id"] for pack in packs[1::3]]
    for chosen in (cancelled[:6], cancelled[6:]):
        done = waiting.run("cancel", "--yes", *(word for run_id in chosen for word in ("--run", run_id)))
        assert done.returncode == 0, done.stderr
    wait_for(lambda: waiting.status()["counts"]["failed"] == len(cancelled))
    assert waiting.causes() == {"cancelled": len(cancelled)}
    counts = waiting.counts()
    assert counts["submitted"] == len(STAGES) * (len(packs) - len(cancelled))
    unasked = ("sacct", "-n", "-X", "-P", f"--name=tt-{submission_id}", "--format=JobID")
    wait_for(lambda: any("..." in line for line in shown(waiting, *unasked)))
    assert waiting.counts() == counts


def test_another_job_with_a_line_end_in_its_name_stops_no_command(study):
    other = ["--partition=compute-p1", "--account=research-eemcs-st", "--mem=100M", "--time=5", "--output=/dev/null"]
    (number,) = shown(study, "sbatch", "--parsable", "--job-name=sweep\n3|tt-x\ncaf\udce9", *other, "--wrap=sleep 300")
    study.hang("s0")
    assert study.counts() == {"running": RUNS_OF_A_STUDY, "submitted": ALL - RUNS_OF_A_STUDY}
    assert "Nothing to do" in study.run("tick").stdout
    assert study.run("cancel", "--all", "--yes").returncode == 0
    wait_for(lambda: study.causes() == {"cancelled": RUNS_OF_A_STUDY})
    assert shown(study, "squeue", "-h", "-o", "%i", "-j", number) == [number], "it is not ours to cancel"
    study.cluster.ask("scancel", number)


def test_a_job_that_its_user_renamed_is_still_ours_and_one_in_a_hidden_partition_is_seen(waiting):
    waiting.submit("s0")
    job = shown(waiting, "squeue", "-h", "-r", "-o", "%i")[0]
    waiting.cluster.ask("scontrol", "update", f"job={job}", "name=mine")
    waiting.cluster.ask("scontrol", "update", "partitionname=compute-p1", "hidden=yes")
    try:
        assert waiting.counts() == {"submitted": ALL}
        assert waiting.run("cancel", "--all", "--yes").returncode == 0
        wait_for(lambda: waiting.causes() == {"cancelled": RUNS_OF_A_STUDY})
    finally:
        waiting.cluster.ask("scontrol", "update", "partitionname=compute-p1", "hidden=no")
    assert waiting.live_jobs() == []


def test_what_the_cluster_says_in_no_form_of_ours_is_no_answer(waiting):
    waiting.submit("s0")
    before = waiting.counts()
    for answer in ("", "echo '<html>502 Bad Gateway</html>'", '$REAL "$@" | head -c 120'):
        waiting.shim("squeue", answer)
        assert "SLURM did not answer" in waiting.run("status").stdout
        assert waiting.run("tick").returncode == waiting.run("cancel", "--all", "--yes").returncode == 3
    waiting.shim("squeue", 'echo Welcome; $REAL "$@"; printf "\\351\\nBye"')
    assert waiting.counts() == before
    assert len(waiting.live_jobs()) == RUNS_OF_A_STUDY


@pytest.mark.parametrize("liar", ["squeue", "both"])
def test_where_slurm_hides_what_waits_the_work_is_done_once(waiting, liar):
    """sacct's word outweighs squeue's silence; where both hide it, the jobs themselves see each other."""
    waiting.submit("s0")
    hidden = {"squeue": '$REAL "$@" | head -n 1', "sacct": '$REAL "$@" | head -n 1'}
    (first,) = waiting.submission_ids
    wait_for(lambda: shown(waiting, "sacct", "-n", "-X", f"--name=tt-{first}", "--format=JobID"))
    for name in ("squeue",) if liar == "squeue" else hidden:
        waiting.shim(name, hidden[name])
    if liar == "squeue":
        assert waiting.counts() == {"submitted": ALL}
        assert "accounting calls it alive" in " ".join(waiting.run("status").stdout.split())
        assert "Nothing to do" in waiting.run("tick").stdout
        assert len(waiting.submission_ids) == 1
    else:
        assert waiting.causes() == {"vanished": RUNS_OF_A_STUDY}
        assert "not tried again" in waiting.run("tick").stdout, "a person must say so"
        assert "Submitted" in waiting.run("rerun", "--failed", "--yes").stdout
        assert len(waiting.submission_ids) == 2
    for name in hidden:
        (waiting.folder / "bin" / name).unlink(missing_ok=True)
    waiting.tell(pretrain=5)
    waiting.nodes("resume")
    wait_for(lambda: waiting.live_jobs() == [])
    executed = [path.read_text().split() for path in waiting.output.glob("runs/*/done.txt")]
    assert executed == [list(STAGES)] * RUNS_OF_A_STUDY
    if liar == "squeue":
        waiting.completes()
    else:
        waiting.run("tick")
        waiting.completes()
    assert json.loads(waiting.run("status", "--json").stdout)["counts"]["completed"] == ALL
