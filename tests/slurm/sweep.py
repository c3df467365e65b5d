"""Many faults at random, one after another, done to one growing study on the real cluster; then the count of what was
done twice, what was lost, and how the ledger differs from one that is made again from the files.

    python tests/slurm/sweep.py --seed 1 --rounds 100

The same seed draws the same faults and moments; what they meet is up to the machine. A cluster that is up is used and
left up. Exit code 0 if nothing was done twice, nothing was lost and the ledgers are the same, else 1; then the folder
is kept."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE.parents[1])]  # not this folder, whose cluster.py would hide the package

from slurm.cluster import (  # noqa: E402
    Cluster,
    default_folder,
    down,
    existing,
    one_at_a_time,
    problems,
    start_daemon,
    stop_daemon,
    up,
)
from slurm.faults import (  # noqa: E402
    Study,
    differences,
    duplicates,
    finish,
    impatient,
    kill_after,
    losses,
    read_or_none,
    settle,
    wait_for,
)

Draw = random.Random
LONGEST = 2.0  # seconds into a command that a kill may come; a command takes about one
SLOW_SBATCH = 0.4  # seconds that it takes at most before it asks the controller, and after


def submit_killed(study: Study, name: str, draw: Draw) -> None:
    kill_after(study, draw.uniform(0.1, LONGEST), study.words(name), group=False)


def submit_killed_with_its_sbatch(study: Study, name: str, draw: Draw) -> None:
    kill_after(study, draw.uniform(0.1, LONGEST), study.words(name), group=True)


def status_killed(study: Study, name: str, draw: Draw) -> None:
    study.run(*study.words(name))
    kill_after(study, draw.uniform(0.1, LONGEST), ["status", "--json"], group=draw.random() < 0.5)


def rerun_killed(study: Study, name: str, draw: Draw) -> None:
    study.tell(blimp="fail")
    study.run(*study.words(name))
    wait_for(lambda: study.live_jobs() == [])
    study.tell()
    kill_after(study, draw.uniform(0.1, LONGEST), ["rerun", "--failed", "--yes"], group=draw.random() < 0.5)


def rebuild_killed(study: Study, name: str, draw: Draw) -> None:
    study.run(*study.words(name))
    kill_after(study, draw.uniform(0.1, LONGEST), ["ledger", "rebuild"], group=False)
    if not (study.output / "ledger.db").exists():
        study.run("ledger", "rebuild")


def reply_lost(study: Study, name: str, draw: Draw) -> None:  # noqa: ARG001
    study.sbatch("reply lost")
    study.run(*study.words(name))
    study.sbatch("honest")


def never_arrives(study: Study, name: str, draw: Draw) -> None:
    study.sbatch(draw.choice(["never arrives", "silent"]))
    study.run(*study.words(name))
    study.sbatch("honest")


def submits_at_once(study: Study, name: str, draw: Draw) -> None:
    racers = [study.start(*study.words(name)) for _ in range(3)]
    if draw.random() < 0.5:
        time.sleep(draw.uniform(0.1, LONGEST))
        racers[0].kill()
    for racer in racers:
        racer.communicate()


def controller_restarted(study: Study, name: str, draw: Draw) -> None:
    study.run(*study.words(name))
    time.sleep(draw.uniform(1, 8))  # it writes down what it knows every few seconds
    stop_daemon(study.cluster, "slurmctld", draw.choice([signal.SIGTERM, signal.SIGKILL]))
    study.run("status", "--json", SLURM_CONF=impatient(study))
    start_daemon(study.cluster, "slurmctld")


def controller_dies_under_sbatch(study: Study, name: str, draw: Draw) -> None:  # noqa: ARG001
    time.sleep(1)
    study.sbatch("controller dies")
    study.run(*study.words(name))
    study.sbatch("honest")
    start_daemon(study.cluster, "slurmctld")


def database_away(study: Study, name: str, draw: Draw) -> None:  # noqa: ARG001
    stop_daemon(study.cluster, "slurmdbd")
    study.run(*study.words(name))
    study.run("status", "--json")
    start_daemon(study.cluster, "slurmdbd")


def node_down(study: Study, name: str, draw: Draw) -> None:
    study.run(*study.words(name))
    node = draw.choice(["cmp001", "cmp002"])
    time.sleep(draw.uniform(0, LONGEST))
    study.cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")
    time.sleep(1)
    study.cluster.ask("scontrol", "update", f"nodename={node}", "state=resume")


def task_cancelled(study: Study, name: str, draw: Draw) -> None:
    study.run(*study.words(name))
    time.sleep(draw.uniform(0, LONGEST))
    if jobs := study.live_jobs():
        study.cluster.ask("scancel", draw.choice(jobs)[0])


def worker_killed(study: Study, name: str, draw: Draw) -> None:
    study.run(*study.words(name))
    time.sleep(draw.uniform(0, LONGEST))
    kill_one(study, [claim["pid"] for claim in study.claims("pretrain")], draw)


def pack_killed(study: Study, name: str, draw: Draw) -> None:
    study.run(*study.words(name))
    time.sleep(draw.uniform(0, LONGEST))
    kill_one(study, [task["pid"] for task in study.tasks()], draw)


def kill_one(study: Study, pids: list[int], draw: Draw) -> None:
    """One of these that still is a process of this study's jobs: numbers come again."""
    told = str(study.folder).encode()
    living = [pid for pid in pids if told in environment_of(pid)]
    if living:
        os.kill(draw.choice(living), signal.SIGKILL)


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


FAULTS: dict[Callable[[Study, str, Draw], None], int] = {  # how often, in proportion
    submit_killed: 40,
    submit_killed_with_its_sbatch: 16,
    status_killed: 10,
    rerun_killed: 4,
    rebuild_killed: 3,
    reply_lost: 5,
    never_arrives: 3,
    submits_at_once: 4,
    controller_restarted: 2,
    controller_dies_under_sbatch: 1,
    database_away: 2,
    node_down: 2,
    task_cancelled: 2,
    worker_killed: 3,
    pack_killed: 3,
}


def sweep(study: Study, draw: Draw, rounds: int, deadline: float) -> Counter[str]:
    """Faults by kind. Raises AssertionError if a command behaves as none may."""
    done: Counter[str] = Counter()
    for number in range(rounds):
        if time.monotonic() > deadline:
            break
        (fault,) = draw.choices(list(FAULTS), list(FAULTS.values()))
        study.tell(pretrain=draw.uniform(0, 1), blimp=draw.uniform(0, 0.5))
        study.change_site(runs_per_pack=draw.choice([1, 2]))
        os.environ |= {"BEFORE": f"{draw.uniform(0, SLOW_SBATCH)}", "AFTER": f"{draw.uniform(0, SLOW_SBATCH)}"}
        began = time.monotonic()
        fault(study, f"s{number}", draw)
        if any(
            read_or_none(study.output / "submissions" / submission_id / "answer.json") is None
            for submission_id in study.submission_ids
        ):
            settle(study)  # or the next commands would all be held
        kind = fault.__name__.replace("_", " ")
        done[kind] += 1
        print(f"{number + 1:>4} {kind:<32} {time.monotonic() - began:5.1f} s", file=sys.stderr, flush=True)
    os.environ |= {"BEFORE": "0", "AFTER": "0"}
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60, help="begin no further round after this time")
    arguments = parser.parse_args()
    cluster = Cluster(default_folder(accounting=True), accounting=True)
    with one_at_a_time(cluster.folder.parent):
        found = existing(cluster.folder)
        was_up = found is not None and not problems(found)
        up(cluster)
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    study = Study(folder, cluster, studies=arguments.rounds)
    try:
        deadline = time.monotonic() + 60 * arguments.minutes
        done = sweep(study, Draw(arguments.seed), arguments.rounds, deadline)
        finish(study, seconds=300)
        fine = show(study, done)
    finally:
        for name in cluster.daemons:
            start_daemon(cluster, name)
        study.cancel_everything()
        if not was_up:
            down(cluster)
    if fine:
        shutil.rmtree(folder)
    else:
        print(f"kept: {folder}")
    return 0 if fine else 1


def show(study: Study, done: Counter[str]) -> bool:
    """Print the table; whether all is as promised."""
    twice, lost, differing = duplicates(study), losses(study), differences(study)
    for kind, count in done.most_common():
        print(f"{kind:<32} {count:>5}")
    print(f"{'faults':<32} {done.total():>5}")
    print(f"{'stage runs':<32} {sum(study.status()['counts'].values()):>5}")
    print(f"{'submissions':<32} {len(study.submission_ids):>5}")
    print(f"{'duplicates':<32} {len(twice):>5}")
    print(f"{'losses':<32} {len(lost):>5}")
    print(f"{'ledger = rebuilt ledger':<32} {'no' if differing else 'yes':>5}")
    for line in [*twice, *lost, *differing]:
        print(f"  {line}")
    return not (twice or lost or differing)


if __name__ == "__main__":
    sys.exit(main())
