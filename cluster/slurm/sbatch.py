"""sbatch, and what its answer means: accepted, refused, or nobody knows.

A site may put a banner or a check of its own around sbatch, so the id is the last line that has an id's form."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from cluster.errors import SlurmSilent, SubmitError
from cluster.slurm import environment
from cluster.slurm.answers import in_utf8
from cluster.slurm.queries import Slurm

TIMEOUT = 180  # seconds; sbatch tries for 120 by itself
# sbatch's words when the controller was not reached, or did not answer: the job may be there all the same. Whatever
# else sbatch itself says is a refusal; should a job come of that, it finds answer.json and leaves.
# Where nodes get their configuration from the controller, sbatch looks for that first.
NOT_REACHED = ("Unable to contact", "Connection refused", "connect failure", "establish a configuration source",
               "failed to fetch config")  # fmt: skip
NO_ANSWER = (*NOT_REACHED, "Socket timed out", "Zero Bytes were transmitted", "Transport endpoint", "Connection reset",
             "Connection timed out", "ommunication connection failure", "ommunication shutdown failure",
             "essage receive failure", "essage send failure", "Unexpected message", "standby mode")  # fmt: skip
# Refusals that pass: jobs leave room, a controller has time, and the next look reads the size of arrays anew.
# SLURM's reason stands in a line of its own, before sbatch's last one.
POLICY, SUBMIT_LIMIT = "accounting/QOS policy", re.compile(r"\b(?:Assoc|QOS)?(?:Max|Grp)Submit(?:Job|P[UA])\w*")
ARRAY_SIZE = "Invalid job array specification"
BUSY = ("Resource temporarily unavailable", "temporarily unable to accept job", "Requested nodes are busy",
        "Unable to create job record, try again", "Job creation temporarily disabled", "job queue full",
        "server busy")  # fmt: skip
NO_SUCH_NODE = ("node configuration is not available", "Invalid node name")
# `--parsable` answers with the first form, and names the cluster where one was asked for; a wrapper may drop that word.
ACCEPTED = re.compile(r"(?:Submitted batch job )?([1-9][0-9]{0,18})(?:(?:;| on cluster )([\w.-]+))?", re.ASCII)


class RefusedForNow(SubmitError):
    """SLURM refused, and may take the same later."""

    def __init__(self, message: str, *, limit: bool, accepted: int = 0, submission_id: str = "") -> None:
        super().__init__(message)
        self.limit = limit  # whether it was for the number of jobs
        self.accepted = accepted  # arrays, before this one
        self.submission_id = submission_id


def send(script: Path) -> str:
    """Submit a script; returns the job's id.

    Raises SubmitError (refused; RefusedForNow where it may be taken later) and SlurmSilent (accepted or not: nobody
    knows)."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(script)], capture_output=True, timeout=TIMEOUT, check=False,
            env=environment.for_jobs(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SlurmSilent(f"no answer in {TIMEOUT} s") from None
    said, complaint = in_utf8(done.stdout), in_utf8(done.stderr)
    accepted = read_answer(said)
    if done.returncode == 0 and accepted:
        job_id, cluster = accepted
        if cluster:
            _refuse_another(job_id, cluster)
        return job_id
    if accepted:
        raise SlurmSilent(f"exit code {done.returncode} after it had answered {accepted[0]}")
    text = " ".join((complaint.strip() or said.strip() or "no job id").split())
    # Accepted, it seems; or not its own words: it was killed, or something around it spoke.
    if done.returncode == 0 or "sbatch: " not in text:
        raise SlurmSilent(f"exit code {done.returncode}: {text}")
    last = text.rpartition("sbatch: error: ")[2] or text
    if any(words in last for words in NO_ANSWER):
        raise SlurmSilent(last)
    raise _refusal(_told(complaint, said), last)


def _told(*outputs: str) -> str:
    """Return all that sbatch said, in one line: plug-ins of the site, and SLURM's reason, speak before its last one."""
    lines = [" ".join(line.split()) for output in outputs for line in output.split("\n")]
    said = (line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines)
    return "; ".join(dict.fromkeys(filter(None, said)))


def _refusal(text: str, last: str) -> SubmitError:
    """Only SLURM's last word says what kind of refusal it is, since a plug-in may say anything."""
    limit = ARRAY_SIZE in last or SUBMIT_LIMIT.search(text if POLICY in last else last) is not None
    if limit or any(words in last for words in BUSY):
        return RefusedForNow(text, limit=limit)
    return SubmitError(text)


def read_answer(text: str) -> tuple[str, str | None] | None:
    """Return the job's id, and the cluster if it is named; None if no line has the form of an answer, or if several
    have that say different things: a site's wrapper may print a number of its own."""
    found = {(match[1], match[2]) for line in text.split("\n") if (match := ACCEPTED.fullmatch(line.strip()))}
    return found.pop() if len(found) == 1 else None


def _refuse_another(job_id: str, cluster: str) -> None:
    """A job on another cluster than the one that is asked would be taken for lost. It finds answer.json and leaves."""
    ours = (Slurm().configuration() or {}).get("ClusterName")
    if ours is None:
        raise SlurmSilent(f"it answered {job_id};{cluster}, and scontrol does not say which cluster this is")
    if ours != cluster:
        raise SubmitError(
            f"it gave the job to cluster {cluster}, as {job_id}, and {ours} is the one that is asked about jobs: "
            f"submit on a login node of {cluster}, or with its SLURM_CONF"
        )
