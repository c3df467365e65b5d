"""Ask a node by a short job what it has for a stage that is to have a GPU: `doctor --job`.

The job starts as a pack's does, with the site's prologue, container and Python, and with a copy of our packages; what
it says is one file beside its log. It belongs to no submission, and neither `status` nor `cancel` knows it. On a site
without SLURM the node is this machine."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.console import console
from cluster.errors import SlurmSilent, SubmitError
from cluster.files import documents
from cluster.files.documents import NodeFile
from cluster.files.folders import OutputRoot
from cluster.sites.doctor import Finding
from cluster.sites.profiles import Site
from cluster.slurm import sbatch
from cluster.slurm.queries import Slurm
from cluster.submit import code_copy, launch

PATIENCE = 600.0  # seconds that are waited for its answer
PAUSE = 1.0  # between two looks for it
ASKED_EVERY = 15.0  # seconds between two questions to squeue


def look(site: Site, slurm: Slurm, root: OutputRoot, log_dir: Path) -> Iterator[Finding]:
    """Raises InputError for a site whose jobs could not start: its prologue, a folder's name."""
    launch.check(site, root, log_dir)
    folder = log_dir / f"doctor-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    answer = folder / "node.json"
    words = f"-m tiny_transformers.training.device {shlex.quote(str(answer))}"
    path = folder / "script.sh"
    path.write_text(launch.single_script(site, root, folder, words, code_copy.keep(root)), encoding="utf-8")
    if site.scheduler == "local":
        done = subprocess.run(["bash", str(path)], capture_output=True, text=True, errors="replace", check=False)
        (folder / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        silence = Finding("wrong", "a job", f"ended with {done.returncode}, and said nothing; see {folder}")
    else:
        silence = _wait(path, answer, slurm)
    told = documents.read(answer, NodeFile)
    yield from _found(site, told) if told else [silence]


def _wait(script: Path, answer: Path, slurm: Slurm) -> Finding:
    """Submit it, and wait for its answer; returns what is to be said if there is none."""
    try:
        job = sbatch.send(script)
    except SubmitError as error:
        return Finding("wrong", "a job", f"sbatch refused it: {error}")
    except SlurmSilent as error:
        return Finding("unknown", "a job", f"sbatch gave no answer: {error}")
    console.print(f"Job {job} asks a node; this waits for it. Ctrl-C leaves it be: `scancel {job}` ends it.")
    until, asked, reason = time.monotonic() + PATIENCE, time.monotonic(), ""
    while time.monotonic() < until:
        if answer.exists():
            break
        if time.monotonic() > asked + ASKED_EVERY:
            queue, asked = slurm.queue(), time.monotonic()
            known = queue.get(job) if queue is not None else None
            if queue is not None and not (known and known.live) and not answer.exists():
                return Finding("wrong", "a job", f"job {job} ended, and said nothing; see {script.parent}")
            reason = f" ({known.state}, {known.reason})" if known else ""
        time.sleep(PAUSE)
    late = f"job {job} has not answered in {PATIENCE / 60:g} minutes{reason}; `scancel {job}` ends it"
    return Finding("unknown", "a job", late)


def _found(site: Site, told: NodeFile) -> Iterator[Finding]:
    node = told["node"]
    if told["gpu"]:
        yield Finding("fine", f"GPU of {node}", f"{told['gpu']}; {told['versions']}")
    elif site.gpus:
        yield Finding("wrong", f"GPU of {node}", told["wrong"] or "none")
    else:
        yield Finding("fine", f"torch of {node}", f"{told['versions']}; the profile has no GPUs")
    if told["lacks"]:
        yield Finding("take care", "precision", f"{told['lacks']}: `precision: auto` is float32 there")
