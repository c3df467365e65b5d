"""Bring up, show and take down a real SLURM cluster of DelftBlue's shape on this machine.

    export SLURM_CONF=$(python tests/slurm/cluster.py up)
    python tests/slurm/cluster.py status
    python tests/slurm/cluster.py stop slurmctld     # one daemon, as `status` names it; --kill: with SIGKILL
    python tests/slurm/cluster.py start slurmctld
    python tests/slurm/cluster.py down               # --after PID: once that process has ended

Four nodes (four slurmd), fake A100s and MIG slices, accounts with limits: see the configuration files beside this one.
Needs root on Debian or Ubuntu, whose packages it installs if they are missing; no systemd, only the standard library.
One folder holds everything: configuration, key, database, logs. `down` kills what was started from it and removes it.
munge and MariaDB are the cluster's own, on its own socket and loopback ports, so nothing else of the machine is touched
and clusters in different folders live side by side. A daemon that was stopped starts with the configuration and the
state that it had; `start` returns when it serves again. To `up`, a cluster with a stopped daemon is half dead.

Exit codes: 0 fine, 1 failed or not up, 2 wrong arguments, 3 such a cluster cannot be built on this machine."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import secrets
import select
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
NODES = ("cmp001", "cmp002", "gpu001", "gpu014")
GPUS = [f"nvidia{i}" for i in range(4)] + [f"mig{i}" for i in range(28)]
PORT_USERS = ("slurmctld", "slurmdbd", "mariadb", *NODES)
FIRST_PORTS = range(16810, 17810, 10)  # the first that has enough free ports behind it is taken
PATIENCE = 280  # seconds for what will never come: on a busy machine anything takes a minute and more
CLAIMS: list[socket.socket] = []  # of this process, on ports
LONGEST_FOLDER = 60  # characters: the sockets of job steps lie in it, and a socket's path ends at 107

PROGRAMS = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm"}
ACCOUNTING_PROGRAMS = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server"}

DEFAULT_ACCOUNT = "innovation"
ACCOUNTS = {
    "innovation": ("MaxJobs=1", "MaxSubmitJobs=11", "MaxWall=1-0"),
    "education-eemcs-courses-cse3000": ("MaxJobs=8", "MaxWall=1-0"),
    "research-eemcs-st": (),
}


class ClusterError(Exception):
    """The cluster failed; the message ends with the failing program's own words."""


class CannotBuild(ClusterError):
    """This machine cannot have such a cluster."""


@dataclass(frozen=True)
class Cluster:
    """A cluster, up or not, is its folder."""

    folder: Path
    accounting: bool

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def daemons(self) -> list[str]:
        """Names, in the order of starting."""
        database = ["mariadbd", "slurmdbd"] if self.accounting else []
        return ["munged", *database, "slurmctld", *(f"slurmd.{node}" for node in NODES)]

    @property
    def environment(self) -> dict[str, str]:
        """What its daemons and clients run with, and what its processes are known by."""
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin"  # Debian's daemons, whoever calls
        return os.environ | {"SLURM_CONF": str(self.conf), "PATH": path}

    def ask(self, *command: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a client of this cluster; no answer in time is return code 124."""
        try:
            return subprocess.run(
                command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
                errors="replace", timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer in {seconds:g} s")

    def sacctmgr(self, *words: str) -> None:
        done = self.ask("sacctmgr", "-i", *words)
        if done.returncode:
            raise ClusterError(f"sacctmgr {' '.join(words)} failed:\n{last_lines(done.stdout + done.stderr)}")


# --- up


def up(cluster: Cluster) -> None:
    """Leave the cluster running: one that runs is left as it is, one that is half dead is begun afresh."""
    found = existing(cluster.folder)
    if found and not (wrong := problems(found)):
        if found.accounting != cluster.accounting:
            has = "with" if found.accounting else "without"
            raise ClusterError(f"{found.folder}: a cluster {has} accounting is up there. Take it down, or give --dir.")
        say(f"{cluster.folder}: up already")
        return
    check_possible(cluster)
    install(cluster)
    if found:
        say(f"{found.folder}: {', '.join(wrong)}; beginning afresh")
        down(found)
    started = time.monotonic()
    ports = dict(zip(PORT_USERS, free_ports(len(PORT_USERS)), strict=True))
    write_folder(cluster, ports)
    try:
        start_all(cluster)
    except BaseException:
        kill_all(cluster)  # the folder stays, for its logs; the next `up` begins afresh
        raise
    say(f"{cluster.folder}: up in {time.monotonic() - started:.0f} s")


def check_possible(cluster: Cluster) -> None:
    if os.geteuid() != 0:
        raise CannotBuild("a SLURM cluster needs root here, to install its packages and run its daemons.")
    if len(str(cluster.folder)) > LONGEST_FOLDER:
        raise ClusterError(
            f"{cluster.folder}: {len(str(cluster.folder))} characters, too long for the sockets in it. "
            f"Give a --dir of at most {LONGEST_FOLDER}."
        )


def install(cluster: Cluster) -> None:
    """Install the Debian packages whose programs are missing."""
    with one_at_a_time(HERE):
        path = cluster.environment["PATH"]
        programs = PROGRAMS | (ACCOUNTING_PROGRAMS if cluster.accounting else {})
        packages = sorted({package for program, package in programs.items() if not shutil.which(program, path=path)})
        if not packages:
            return
        if not shutil.which("apt-get"):
            raise CannotBuild(f"{', '.join(packages)}: not installed, and only Debian's and Ubuntu's packages will do.")
        say(f"installing {', '.join(packages)}")
        apt_get("update")  # may fail for one of many sources; whether that matters, the installation shows
        if failure := apt_get("install", "-y", "--no-install-recommends", *packages):
            raise CannotBuild(f"apt-get could not install {', '.join(packages)}: {failure}")


def apt_get(*words: str) -> str:
    """Run apt-get; its last words if it failed, else nothing."""
    done = subprocess.run(
        ["apt-get", *words],
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return last_lines(done.stdout, 1) if done.returncode else ""


def free_ports(count: int) -> list[int]:
    """The first ports in a row that nobody listens on, or is about to, below those that connections are given."""
    for first in FIRST_PORTS:
        ports = list(range(first, first + count))
        if claim(first) and all(is_free(port) for port in ports):
            return ports
    raise ClusterError(f"no {count} free ports in a row from {FIRST_PORTS.start} to {FIRST_PORTS.stop}.")


def claim(first: int) -> bool:
    """Take the ports from this one for as long as this process lives, which is until its daemons listen; False where
    another process has: a socket's name without a file is one process's only."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0tiny-transformers-ports-{first}")
    except OSError:
        name.close()
        return False
    CLAIMS.append(name)
    return True


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection just closed is no listener
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def write_folder(cluster: Cluster, ports: dict[str, int]) -> None:
    """Make the folder with its configuration, munge key and devices."""
    folder = cluster.folder
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    accounting = "with_accounting.conf" if cluster.accounting else "no_accounting.conf"
    values = {f"{user}_port": port for user, port in ports.items()} | {
        "folder": folder,
        "host": socket.gethostname().split(".")[0],  # `hostname -s`, which is how SLURM knows the machine
        "accounting": accounting,
        # older ones cannot disable cgroups, but do not look for v1 before some plugin asks for it, and ours do not
        "cgroup_plugin": "disabled" if slurm_version(cluster) >= (24, 5) else "cgroup/v1",
    }
    for name in ("slurm.conf", accounting, "gres.conf", "cgroup.conf"):
        write(folder / name, fill_in(name, values))
    if cluster.accounting:
        for name in ("slurmdbd.conf", "mariadb.cnf", "mariadb.sql"):
            write(folder / name, fill_in(name, values), mode=0o600)
    write(folder / "munge.key", secrets.token_bytes(128), mode=0o600)
    for name in ("run", "state", "gpus"):
        (folder / name).mkdir()
    for gpu in GPUS:
        (folder / "gpus" / gpu).symlink_to("/dev/null")


def slurm_version(cluster: Cluster) -> tuple[int, int]:
    """Year and month, of "slurm-wlm 22.05.8". A daemon is asked: a client would first wait for its configuration."""
    year, month = cluster.ask("slurmctld", "-V").stdout.split()[-1].split(".")[:2]
    return int(year), int(month)


def fill_in(name: str, values: Mapping[str, object]) -> bytes:
    return string.Template((HERE / name).read_text()).substitute(values).encode()


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.touch(mode)  # before there is anything to read in it
    path.write_bytes(content)


def start_all(cluster: Cluster) -> None:
    start_daemon(cluster, "munged")
    if cluster.accounting:
        start_accounting(cluster)
    slurmctld = start(cluster, "slurmctld")
    slurmds = [start(cluster, f"slurmd.{node}") for node in NODES]
    wait_for("slurmctld to answer", slurmctld, lambda: controller_answers(cluster))
    if cluster.accounting:
        limit_gpus(cluster, slurmctld)
    for node, slurmd in zip(NODES, slurmds, strict=True):
        wait_for(f"node {node} to be idle", slurmd, partial(is_idle, cluster, node))


def start_accounting(cluster: Cluster) -> None:
    """MariaDB, slurmdbd, the accounts and their limits."""
    options = f"--defaults-file={cluster.folder / 'mariadb.cnf'}"
    wishes = ("--auth-root-authentication-method=normal", "--skip-test-db", "--force")  # --force: without a DNS
    making = Path(tempfile.gettempdir()) / "tiny-transformers-slurm-lock"
    making.mkdir(exist_ok=True)
    with one_at_a_time(making):  # of three that began in the same second one failed
        made = cluster.ask("mariadb-install-db", options, *wishes, seconds=PATIENCE)
    if made.returncode:
        raise ClusterError(f"mariadb-install-db failed:\n{last_lines(made.stdout + made.stderr)}")
    start_daemon(cluster, "mariadbd")
    start_daemon(cluster, "slurmdbd")
    cluster.sacctmgr("add", "cluster", "delftbox")
    for account, limits in ACCOUNTS.items():
        cluster.sacctmgr("add", "account", account, *limits)
    cluster.sacctmgr("add", "user", "root", f"account={','.join(ACCOUNTS)}", f"defaultaccount={DEFAULT_ACCOUNT}")
    cluster.sacctmgr("add", "qos", "a100small", "set", "MaxTRESPerJob=cpu=2", "Flags=DenyOnLimit")


def limit_gpus(cluster: Cluster, slurmctld: Daemon) -> None:
    """Add the GPU to the QOS's limits: slurmdbd refuses to before slurmctld has registered gres/gpu with it."""
    tres = ("sacctmgr", "-n", "-P", "list", "tres", "format=type,name")
    wait_for("slurmdbd to know of GPUs", slurmctld, lambda: "gres|gpu" in cluster.ask(*tres).stdout)
    cluster.sacctmgr("modify", "qos", "a100small", "set", "MaxTRESPerJob=cpu=2,gres/gpu=1")
    limits = ("scontrol", "show", "assoc_mgr", "flags=qos", "qos=a100small")
    wait_for("slurmctld to know of the limit", slurmctld, lambda: "gres/gpu=1" in cluster.ask(*limits).stdout)


# --- single daemons


def start_daemon(cluster: Cluster, name: str) -> None:
    """Start a daemon that does not run, and wait until it serves. Raises ClusterError."""
    if pid_of(cluster, name):
        return
    since = int(time.time())
    wait_for(f"{name} to answer", start(cluster, name), partial(serves, cluster, name, since))


def stop_daemon(cluster: Cluster, name: str, signum: int = signal.SIGTERM, seconds: float = PATIENCE) -> None:
    """End a daemon and wait until it has gone; jobs go on. Raises ClusterError."""
    deadline = time.monotonic() + seconds
    if pid := pid_of(cluster, name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
    while pid_of(cluster, name):
        if time.monotonic() > deadline:
            raise ClusterError(f"{name} still runs {seconds:g} s after signal {signum}.")
        time.sleep(0.05)


def serves(cluster: Cluster, name: str, since: float) -> bool:
    """Whether a daemon answers; a slurmd that started at the time `since` must have registered after that."""
    if name == "munged":
        return cluster.ask("munge", "-n", "-S", str(cluster.folder / "munge.socket")).returncode == 0
    if name == "mariadbd":
        return accepts(cluster.folder / "mariadb.socket")
    if name == "slurmdbd":
        return database_answers(cluster)
    if name == "slurmctld":
        return controller_answers(cluster)
    node = cluster.ask("scontrol", "-o", "show", "node", name.partition(".")[2]).stdout
    registered = [word.partition("=")[2] for word in node.split() if word.startswith("SlurmdStartTime=")]
    return bool(registered) and registered[0] >= time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))


def accepts(path: Path) -> bool:
    """Whether somebody listens; the socket's file outlives a daemon that was killed."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


# --- status


def existing(folder: Path) -> Cluster | None:
    """The cluster of this folder, up or not; an error if the folder is something else."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    conf = folder / "slurm.conf"
    if not conf.is_file() or "ClusterName=delftbox" not in conf.read_text():
        raise ClusterError(f"{folder}: not the folder of such a cluster, so it is left alone. Give another --dir.")
    return Cluster(folder, accounting=(folder / "slurmdbd.conf").exists())


def problems(cluster: Cluster) -> list[str]:
    """What keeps the cluster from serving. Nodes set down are none: a test may have done that."""
    wrong = [f"{name} is not running" for name in cluster.daemons if not pid_of(cluster, name)]
    if wrong:  # asking would only take the clients' time-outs
        return wrong
    if not controller_answers(cluster):
        wrong.append("slurmctld does not answer")
    if cluster.accounting and not database_answers(cluster):
        wrong.append("slurmdbd does not answer")
    return wrong


def controller_answers(cluster: Cluster) -> bool:
    return " is UP" in cluster.ask("scontrol", "ping").stdout


def database_answers(cluster: Cluster) -> bool:
    return cluster.ask("sacctmgr", "-n", "list", "cluster").returncode == 0


def is_idle(cluster: Cluster, node: str) -> bool:
    states = cluster.ask("sinfo", "-h", "-N", "-n", node, "-o", "%T").stdout.split()  # one for each of its partitions
    return set(states) == {"idle"}


def status(cluster: Cluster) -> bool:
    """Say what runs; whether the cluster serves."""
    for name in cluster.daemons:
        say(f"{name:<14} {pid_of(cluster, name) or 'not running'}")
    wrong = problems(cluster)
    say("; ".join(wrong) if wrong else cluster.ask("sinfo").stdout.rstrip())
    return not wrong


# --- down


def down(cluster: Cluster) -> None:
    kill_all(cluster)
    shutil.rmtree(cluster.folder)


def kill_all(cluster: Cluster) -> None:
    """End the daemons, then what they left of jobs; with SIGKILL, as nothing of it is kept."""
    kill(lambda: [pid for name in cluster.daemons if (pid := pid_of(cluster, name))])
    kill(lambda: job_processes(cluster))


def kill(find: Callable[[], list[int]], seconds: float = PATIENCE) -> None:
    """Kill until nothing is found any more: a job's process may have had a child just before."""
    deadline = time.monotonic() + seconds
    while pids := find():
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {pids} do not die.")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def job_processes(cluster: Cluster) -> list[int]:
    """Steps and what runs in them, which outlive their slurmd: by a step's session, or by the names of a job."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    ours = [pid for pid in pids if is_ours(cluster, pid)]
    steps = {session_of(pid) for pid in ours if read_proc(pid, "comm") == "slurmstepd\n"}
    in_job = [pid for pid in ours if any(name.startswith("SLURM_JOB_ID=") for name in environment_of(pid))]
    return sorted({*in_job, *(pid for pid in pids if session_of(pid) in steps)})


# --- processes


@dataclass(frozen=True)
class Daemon:
    name: str
    process: subprocess.Popen[bytes]
    said: Path  # what it wrote to its terminal


def start(cluster: Cluster, name: str) -> Daemon:
    """Start a daemon, named by its program and perhaps `.node`, that outlives this command and the shell it is in."""
    said = cluster.folder / f"{name}.out"
    with said.open("ab") as out:
        process = subprocess.Popen(
            [name.partition(".")[0], *options_of(cluster, name)],
            env=cluster.environment,
            cwd=cluster.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    pid_file(cluster, name).write_text(f"{process.pid}\n")  # SLURM's daemons write the same, but later
    return Daemon(name, process, said)


def options_of(cluster: Cluster, name: str) -> list[str]:
    if name == "munged":  # --force: a folder only root may enter will do
        files = {"key-file": "munge.key", "seed-file": "munge.seed", "socket": "munge.socket",
                 "pid-file": "run/munged.pid"}  # fmt: skip
        return ["-F", "--force", *(f"--{option}={cluster.folder / file}" for option, file in files.items())]
    if name == "mariadbd":
        return [f"--defaults-file={cluster.folder / 'mariadb.cnf'}"]
    _, _, node = name.partition(".")
    return ["-D", "-N", node] if node else ["-D"]


def wait_for(what: str, daemon: Daemon, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if daemon.process.poll() is not None:
            trouble = f"{daemon.name} ended with {daemon.process.returncode}"
        elif time.monotonic() > deadline:
            trouble = f"{seconds:g} s have passed"
        else:
            time.sleep(0.1)
            continue
        words = last_lines(daemon.said.read_text(errors="replace"))
        raise ClusterError(f"waiting for {what}: {trouble}. The end of {daemon.said}:\n{words}")


def pid_file(cluster: Cluster, name: str) -> Path:
    return cluster.folder / "run" / f"{name}.pid"


def pid_of(cluster: Cluster, name: str) -> int | None:
    """The daemon's process if it lives; a number that has gone to another process is not it."""
    try:
        pid = int(pid_file(cluster, name).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if is_ours(cluster, pid) else None


def is_ours(cluster: Cluster, pid: int) -> bool:
    return f"SLURM_CONF={cluster.conf}" in environment_of(pid)


def environment_of(pid: int) -> list[str]:
    """The NAME=value that a process started with; none for one that is gone, a zombie or another user's."""
    return read_proc(pid, "environ").split("\0")


def read_proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:  # it has gone meanwhile
        return ""


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def last_lines(text: str, count: int = 20) -> str:
    return "\n".join(text.rstrip().splitlines()[-count:])


# --- the command


def say(text: str) -> None:
    """For people; only the path that SLURM_CONF needs goes to stdout."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of the nearest folder that is there: two commands on one cluster would hinder each other."""
    lock = os.open(next(path for path in (folder, *folder.parents) if path.is_dir()), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["up", "down", "status", "stop", "start"])
    parser.add_argument("daemon", nargs="?", help="to stop or start: slurmctld, slurmdbd, slurmd.cmp001, ...")
    parser.add_argument("--kill", action="store_true", help="stop with SIGKILL instead of SIGTERM")
    parser.add_argument("--after", type=int, metavar="PID", help="down: wait for the end of this process")
    parser.add_argument("--dir", type=Path, help="the cluster's folder (by default in the system's temporary folder)")
    parser.add_argument("--no-accounting", action="store_true", help="without MariaDB, slurmdbd and limits: no sacct")
    arguments = parser.parse_args()
    if (arguments.daemon is not None) != (arguments.command in ("stop", "start")):
        parser.error("stop and start take the name of one daemon, and nothing else does")
    if arguments.after:
        wait_for_end(arguments.after)
    accounting = not arguments.no_accounting
    folder = (arguments.dir or default_folder(accounting)).resolve()
    try:
        with one_at_a_time(folder.parent):
            if arguments.daemon:
                return run_daemon(arguments.command, arguments.daemon, folder, arguments.kill)
            return run(arguments.command, Cluster(folder, accounting))
    except ClusterError as error:
        say(str(error))
        return 3 if isinstance(error, CannotBuild) else 1


def wait_for_end(pid: int) -> None:
    """However it ends; at once where it has."""
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])


def run(command: str, cluster: Cluster) -> int:
    if command == "up":
        up(cluster)
        print(cluster.conf)
        return 0
    found = existing(cluster.folder)
    if not found:
        say(f"{cluster.folder}: not up")
        return 0 if command == "down" else 1
    if command == "down":
        down(found)
        say(f"{cluster.folder}: down")
        return 0
    serves = status(found)
    if serves:
        print(found.conf)
    return 0 if serves else 1


def run_daemon(command: str, name: str, folder: Path, with_kill: bool) -> int:
    found = existing(folder)
    if not found or name not in found.daemons:
        raise ClusterError(f"{folder}: has {', '.join(found.daemons)}, no {name}." if found else f"{folder}: not up")
    if command == "start":
        start_daemon(found, name)
    else:
        stop_daemon(found, name, signal.SIGKILL if with_kill else signal.SIGTERM)
    say(f"{name}: {pid_of(found, name) or 'stopped'}")
    return 0


def default_folder(accounting: bool) -> Path:
    name = "tiny-transformers-slurm" if accounting else "tiny-transformers-slurm-no-accounting"
    return Path(tempfile.gettempdir()) / name


if __name__ == "__main__":
    sys.exit(main())
