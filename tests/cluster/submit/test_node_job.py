"""What a node says of its GPU: by the site's own Python, here a stand-in, in a job of a SLURM that is one, too."""

import json

import pytest

from cluster.files.folders import OutputRoot
from cluster.sites.profiles import Site
from cluster.slurm.answers import Job
from cluster.submit import node_job

A100 = {"node": "n7", "versions": "torch is made for CUDA 12.6", "gpu": "NVIDIA A100", "wrong": None, "lacks": None}
V100 = A100 | {"gpu": "Tesla V100", "lacks": "Tesla V100 has no bfloat16"}
NONE = A100 | {"gpu": None, "wrong": "the driver knows CUDA 12.4"}


class Queue:
    """Shows these jobs."""

    def __init__(self, **jobs):
        self.jobs = {key.removeprefix("job"): Job(key, "tt-doctor", *words) for key, words in jobs.items()}

    def queue(self):
        return self.jobs


@pytest.fixture
def python(tmp_path):
    """Write an interpreter that answers so, whatever it is to run; None: it fails."""
    path = tmp_path / "python"

    def write(told):
        answer = f"for last; do :; done\necho {json.dumps(json.dumps(told))} > $last" if told else "echo broken; exit 3"
        path.write_text(f"#!/bin/bash\n{answer}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """An sbatch that says it has job 77, and runs it at once if it is to."""
    monkeypatch.setattr(node_job, "PATIENCE", 3.0)
    monkeypatch.setattr(node_job, "PAUSE", 0.02)
    monkeypatch.setattr(node_job, "ASKED_EVERY", 0.1)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()

    def write(sbatch):
        # srun has its own options before the command: the interpreter is known by its name
        srun = 'while [ "$(basename "$1")" != python ]; do shift; done\nexec "$@"'
        for name, text in (("sbatch", sbatch), ("srun", srun)):
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (tmp_path / "bin" / name).chmod(0o755)

    return write


def found(site, tmp_path, queue=None):
    root = OutputRoot(tmp_path / "out")
    return [(each.mark, each.what, each.found) for each in node_job.look(site, queue, root, tmp_path / "logs")]


@pytest.mark.parametrize(
    ("gpus", "told", "marks"),
    [
        (1, A100, [("fine", "GPU of n7", "NVIDIA A100; torch is made for CUDA 12.6")]),
        (1, NONE, [("wrong", "GPU of n7", "the driver knows CUDA 12.4")]),
        (0, NONE, [("fine", "torch of n7", "torch is made for CUDA 12.6; the profile has no GPUs")]),
    ],
)
def test_without_slurm_this_machine_is_asked(python, tmp_path, gpus, told, marks):
    assert found(Site(name="here", scheduler="local", gpus=gpus, python=python(told)), tmp_path) == marks


def test_an_old_card_is_told_what_precision_it_will_use(python, tmp_path):
    marks = found(Site(name="here", scheduler="local", gpus=1, python=python(V100)), tmp_path)
    assert marks[1] == ("take care", "precision", "Tesla V100 has no bfloat16: `precision: auto` is float32 there")


def test_a_python_that_fails_is_wrong_and_its_words_are_kept(python, tmp_path):
    ((mark, _, told),) = found(Site(name="here", scheduler="local", gpus=1, python=python(None)), tmp_path)
    assert (mark, "ended with 3" in told) == ("wrong", True)
    (log,) = (tmp_path / "logs").glob("doctor-*/log.txt")
    assert log.read_text() == "broken\n"


def test_on_slurm_a_job_with_a_gpu_is_asked_and_its_answer_read_back(python, slurm, tmp_path):
    slurm('echo 77\nbash "${@: -1}" > /dev/null 2>&1 &')
    site = Site(name="far", scheduler="slurm", partition="gpu", gpus=1, python=python(A100))
    assert found(site, tmp_path, Queue(job77=("RUNNING",)))[0][:2] == ("fine", "GPU of n7")
    (script,) = (tmp_path / "logs").glob("doctor-*/script.sh")
    assert "#SBATCH --gpus-per-task=1\n" in script.read_text()
    assert "#SBATCH --partition=gpu\n" in script.read_text()


@pytest.mark.parametrize(
    ("sbatch", "queue", "mark", "told"),
    [
        (
            "echo 77",
            Queue(job77=("PENDING", "Priority")),
            "unknown",
            "in 0.05 minutes (PENDING, Priority); `",
        ),
        ("echo 77", Queue(job77=("FAILED",)), "wrong", "job 77 ended, and said nothing; see "),
        ("echo 77", Queue(), "wrong", "job 77 ended, and said nothing; see "),
        ("echo 'sbatch: error: invalid account' >&2; exit 1", Queue(), "wrong", "sbatch refused it: invalid account"),
        ("exit 1", Queue(), "unknown", "sbatch gave no answer"),
    ],
)
def test_a_job_that_gives_no_answer_is_told_as_what_it_is(python, slurm, tmp_path, sbatch, queue, mark, told):
    slurm(sbatch)
    site = Site(name="far", scheduler="slurm", partition="gpu", gpus=1, python=python(A100))
    ((marked, _, words),) = found(site, tmp_path, queue)
    assert (marked, told in words) == (mark, True), words
