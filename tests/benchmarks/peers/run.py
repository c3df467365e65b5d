"""Submit, lose replies, kill, race and rerun with this project and with its peers, on the test cluster.

    export SLURM_CONF=$(python tests/slurm/cluster.py up)
    python tests/benchmarks/peers/run.py [--peer NAME ...] [--runs 24] [--kills 10] [--only SCENARIO ...] [--work DIR]

Every scenario of every tool has a box of its own: a fresh project and stand-ins for SLURM's clients, which count calls
and commit faults. Executions are counted by the task's own markers, not by what a tool says. Results stay in
DIR/results, one file a tool; the table is made of all that are there."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tools import HERE, PATIENCE, REPO, TOOLS, Tool

CLIENTS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun", "sacctmgr")
FEW = 4  # runs where many submits are made
SEED = 20240501
# Options of SLURM's clients that a user may have in the shell. No tool here asks for three minutes, or this partition.
OPTIONS = {"SQUEUE_PARTITION": "gpu-a100", "SQUEUE_STATES": "RUNNING", "SACCT_FORMAT": "jobid",
           "SLURM_TIME_FORMAT": "relative", "SBATCH_TIMELIMIT": "3", "SBATCH_PARTITION": "preemptible"}  # fmt: skip
# Another user, who may read everything (this Python may lie in a folder of root's) and write where all may.
COLLEAGUE = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_read_search",
             "--ambient-caps=+dac_read_search", "env", "USER=nobody", "LOGNAME=nobody"]  # fmt: skip


# --- boxes


def make_box(tool: type[Tool], work: Path, scenario: str, runs: int) -> Tool:
    box = work / tool.name / scenario
    shutil.rmtree(box, ignore_errors=True)
    shutil.copytree(HERE / tool.name, box / "project")
    for name in ("bin", "marks", "fail", "faults"):
        (box / name).mkdir()
    shutil.copy(HERE / "task.sh", box)
    values = {"BOX": box, "REPO": REPO, "RUNS": runs, "CONF": os.environ["SLURM_CONF"],
              "NUMBERS": ", ".join(map(str, range(runs)))}  # fmt: skip
    for path in (box / "project").rglob("*"):
        if path.is_file():
            path.write_text(fill(path.read_text(), values))
    for client in CLIENTS:
        path = box / "bin" / client
        path.write_text(fill((HERE / "client.sh").read_text(), values | {"NAME": client, "REAL": shutil.which(client)}))
        path.chmod(0o755)
    return tool(box, work / "venvs" / tool.name, runs)


def fill(text: str, values: dict[str, object]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def calls(tool: Tool, since: float = 0) -> list[tuple[str, float, float]]:
    """Name, begin and end of each call of a client from the login node."""
    path = tool.box / "calls"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(name, float(begun), float(ended)) for name, begun, ended in rows if float(begun) >= since]


def executions(tool: Tool) -> Counter[int]:
    return Counter(int(path.name.split(".")[0]) for path in (tool.box / "marks").iterdir())


def duplicates(tool: Tool) -> int:
    return sum(count > 1 for count in executions(tool).values())


def losses(tool: Tool) -> int:
    return tool.runs - len(executions(tool))


def fault(tool: Tool, name: str) -> None:
    (tool.box / "faults" / name).touch()


# --- the cluster


def queue(state: str = "") -> int:
    """The number of array tasks and jobs in the queue."""
    asked = ["squeue", "--me", "-h", "-r", *(["-t", state] if state else [])]
    return len(subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines())


def wait(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def idle() -> None:
    """Wait until the queue is empty; what does not end is cancelled."""
    if not wait(lambda: queue() == 0):
        subprocess.run(["scancel", "--me"], check=True, timeout=60)
        wait(lambda: queue() == 0, 60)


@contextlib.contextmanager
def full_queue(tool: Tool) -> Iterator[None]:
    """Jobs wait until the user has done what users do, as on a busy cluster; not where submit itself waits for them."""
    if tool.stays:
        yield
        return
    try:
        partitions("DOWN")
        yield
    finally:
        partitions("UP")


def partitions(state: str) -> None:
    for name in ("compute-p1", "preemptible"):
        subprocess.run(["scontrol", "update", f"PartitionName={name}", f"State={state}"], check=True, timeout=60)


# --- scenarios: what each returns goes into the table


def go_on(tool: Tool) -> None:
    """The user submits until it succeeds, at most twice more."""
    if tool.again():
        tool.again()


def settle(tools: list[Tool]) -> dict[str, int]:
    """Once all has ended, the user submits again if runs are missing, then gives the retry command if they still are;
    duplicates and losses."""
    idle()
    for step in ("again", "retry"):
        for tool in tools:
            if losses(tool):
                getattr(tool, step)()
        idle()
    return {"duplicates": sum(map(duplicates, tools)), "losses": sum(map(losses, tools))}


def plain(tool: Tool) -> dict[str, object]:
    begun = time.time()
    code = tool.call(tool.submit()).returncode
    submit_seconds, submit_calls = time.time() - begun, Counter(name for name, *_ in calls(tool))
    idle()
    asked = time.time()
    if tool.status:
        tool.call(tool.status)
    status_seconds, status_calls = time.time() - asked, Counter(name for name, *_ in calls(tool, asked))
    return {
        "code": code, "executions": sum(executions(tool).values()), "losses": losses(tool),
        "submit_seconds": submit_seconds, "submit_calls": submit_calls, "stays": tool.stays,
        "status_seconds": status_seconds, "status_calls": status_calls,
    }  # fmt: skip


def lost_reply(tool: Tool) -> dict[str, int]:
    fault(tool, "lose-sbatch")
    with full_queue(tool):
        if tool.call(tool.submit()).returncode:  # else it went on by itself, and its user sees no reason to
            go_on(tool)
    return settle([tool])


def two_at_once(tool: Tool) -> dict[str, int]:
    with full_queue(tool):
        racers = [tool.start(tool.submit()) for _ in range(2)]
        for racer in racers:
            finish(racer)
    return settle([tool])


def finish(process: subprocess.Popen[str]) -> int:
    try:
        process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return process.returncode


def kills(boxes: Callable[[str, int], Tool], count: int) -> dict[str, int]:
    """Kill the submit command at moments between its start and a little after sbatch's last reply, which comes 0.3 s
    after the job is there, as from a busy controller."""
    rehearsal = boxes("rehearsal", FEW)
    fault(rehearsal, "late-sbatch")
    begun = time.time()
    rehearsal.call(rehearsal.submit())
    window = 1.2 * (max(ended for name, _, ended in calls(rehearsal) if name == "sbatch") - begun)
    idle()
    moments = random.Random(SEED)
    tools = []
    for number in range(count):
        tool = boxes(f"kill-{number}", FEW)
        with full_queue(tool):
            kill(tool, moments.uniform(0, window))
            go_on(tool)
        tools.append(tool)
        idle()
    total = settle(tools)
    return {"kills": count, "window": round(window, 2), **total}


def kill(tool: Tool, moment: float) -> None:
    """Kill the submit command itself, not the sbatch that it may have started."""
    fault(tool, "late-sbatch")
    process = tool.start(tool.submit())
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    process.kill()
    process.wait()
    time.sleep(1)  # an sbatch that was at work has ended
    (tool.box / "faults" / "late-sbatch").unlink()


def rerun(tool: Tool) -> dict[str, object]:
    """4 runs fail at their first try; how many are executed once more, and are the first tries' logs still there?"""
    failing = [number * tool.runs // 4 for number in range(4)]
    for number in failing:
        (tool.box / "fail" / str(number)).touch()
    tool.call(tool.submit())
    idle()
    first = {path.name for path in (tool.box / "marks").iterdir()}
    before = executions(tool)
    for path in (tool.box / "fail").iterdir():
        path.unlink()
    time.sleep(3)  # accounting has heard of it
    code = tool.retry()
    idle()
    after = executions(tool)
    kept = [name for name in first if int(name.split(".")[0]) in failing and logged(tool, name)]
    return {
        "code": code, "again": sum((after - before).values()),
        "mended": sum(after[number] > before[number] for number in failing),
        "logs": f"{len(kept)} of {sum(before[number] for number in failing)}",
    }  # fmt: skip


def logged(tool: Tool, execution: str) -> bool:
    found = subprocess.run(["grep", "-rqF", f"execution {execution}", str(tool.project)], check=False, timeout=60)
    return found.returncode == 0


def silent_query(tool: Tool) -> dict[str, object]:
    """One squeue and one sacct fail while all tasks run: what does status say then?"""
    (tool.box / "hold").touch()
    process = tool.start(tool.submit())
    if not tool.stays:
        finish(process)
    running = wait(lambda: queue("running") == tool.runs == len(executions(tool)), 120)
    shown: dict[str, object] = {"running": running}
    if tool.stays:
        for client in ("squeue", "sacct"):
            fault(tool, f"fail-{client}")
        wait(lambda: (tool.box / "faults" / "done-fail-sacct").exists(), 60)
        time.sleep(10)
    else:
        time.sleep(6)  # accounting has heard of it
        shown["before"] = shows(tool)
        for client in ("squeue", "sacct"):
            fault(tool, f"fail-{client}")
            shown[client] = shows(tool)
            (tool.box / "faults" / f"fail-{client}").unlink(missing_ok=True)
        shown["after"] = shows(tool)
    (tool.box / "hold").unlink()
    if tool.stays:
        shown["code"] = finish(process)
    idle()
    return shown | {"asked": [path.name for path in (tool.box / "faults").iterdir()], "duplicates": duplicates(tool)}


def users_environment(tool: Tool) -> dict[str, object]:
    """The user's shell has options of SLURM's clients. He submits, looks, and submits again while all waits: is each
    run executed once, and are the jobs what was asked for?"""
    begun = time.strftime("%Y-%m-%dT%H:%M:%S")
    tool.environment |= OPTIONS
    with full_queue(tool):
        code = tool.call(tool.submit()).returncode
        time.sleep(6)  # accounting has heard of it
        shown = shows(tool)
        if not tool.stays:
            tool.again()
    harm = settle([tool])
    time.sleep(3)
    asked = ["sacct", "-n", "-X", "-P", "-S", begun, "--format=Partition,TimelimitRaw"]
    jobs = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    others = sum(job.startswith("preemptible|") or job.endswith("|3") for job in jobs)
    return {"code": code, "shown": shown, "jobs": len(jobs), "others": others, **harm}


def second_user(tool: Tool) -> dict[str, object]:
    """A colleague, who may write into the folder, too, asks for the status while the jobs wait (while they run, with a
    submit that stays); then the user looks, and submits again: is each run executed once?"""
    subprocess.run(["chmod", "-R", "a+rwX", str(tool.box)], check=True, timeout=60)
    (tool.box / "hold").touch()
    with full_queue(tool):
        process = tool.start(tool.submit())
        if tool.stays:
            wait(lambda: queue("running") == tool.runs == len(executions(tool)), 120)
        else:
            finish(process)
        subprocess.run(["chmod", "-R", "a+rwX", str(tool.box)], check=True, timeout=60)
        time.sleep(6)  # accounting has heard of it
        before, colleague, after = shows(tool), shows(tool, COLLEAGUE), shows(tool)
        if not tool.stays:
            tool.again()
    (tool.box / "hold").unlink()
    finish(process)
    return {"before": before, "colleague": colleague, "after": after, **settle([tool])}


def shows(tool: Tool, by: Iterable[str] = ()) -> list[object]:
    done = tool.call([*by, *(tool.status or [])])
    try:
        return [done.returncode, tool.states(done.stdout)]
    except (ValueError, KeyError):
        return [done.returncode, {}]


# --- the table


def row(tool: str, results: dict[str, dict]) -> dict[str, str]:
    """Measure -> what the table shows."""

    def told(scenario: str, text: Callable[[dict], str]) -> str:
        result = results.get(scenario)
        if result is None:
            return "-"
        return text(result) if "error" not in result else f"error: {result['error'][:60]}"

    def harm(result: dict) -> str:
        return f"{result['duplicates']} / {result['losses']}"

    def some(counted: dict[str, int]) -> str:
        asked = {name: n for name, n in counted.items() if name not in ("sbatch", "version")}
        return ", ".join(f"{n} {name}" for name, n in sorted(asked.items())) or "none"

    return {
        "": tool,
        "executions of the runs": told("plain", lambda r: str(r["executions"])),
        "submit: sbatch calls": told("plain", lambda r: str(r["submit_calls"].get("sbatch", 0))),
        "submit: other calls": told("plain", lambda r: some(r["submit_calls"])),
        "submit: seconds": told("plain", lambda r: f"{r['submit_seconds']:.1f}" + (" (stays)" if r["stays"] else "")),
        "status: calls": told("plain", lambda r: some(r["status_calls"])),
        "status: seconds": told("plain", lambda r: f"{r['status_seconds']:.1f}"),
        "lost reply: duplicates / losses": told("lost_reply", harm),
        "two submits at once": told("two_at_once", harm),
        "kill -9": told("kills", lambda r: f"{harm(r)} ({r['kills']} kills, {FEW * r['kills']} runs)"),
        "rerun of 4 failed: executed again": told("rerun", lambda r: f"{r['again']} ({r['mended']} of the 4)"),
        "rerun: first logs kept": told("rerun", lambda r: r["logs"]),
        "one squeue or sacct fails": told("silent_query", silence),
        "the user's environment set": told("users_environment", harm),
        "jobs not as asked for, then": told("users_environment", not_asked_for),
        "a second user": told("second_user", harm),
        "what the second user sees": told("second_user", by_colleague),
    }


def silence(result: dict) -> str:
    """Whether one failed query changed what status says of running tasks."""
    if not result["running"]:
        return "not measured: not all tasks ran"
    if "before" not in result:
        asked = any(name.startswith("done-") for name in result["asked"])
        return f"goes on, {result['duplicates']} duplicates" if asked else "does not ask"
    before = result["before"][1]
    wrong = [
        f"{client}: {spoken(result[client][1])}"
        for client in ("squeue", "sacct")
        if result[client][1] != before and result[client][0] == 0
    ]
    if wrong:
        return f"{'; '.join(wrong)} instead of {spoken(before)}"
    return "kept" if result["after"][1] == before else f"afterwards {spoken(result['after'][1])}"


def not_asked_for(result: dict) -> str:
    """How many jobs took the environment's options before the tool's own."""
    return {0: "none", result["jobs"]: "all"}.get(result["others"], f"{result['others']} of {result['jobs']}")


def by_colleague(result: dict) -> str:
    """What status says to another user, held against what it says to the one whose jobs they are."""
    (refused, before), (code, seen), (_, after) = (result[name] for name in ("before", "colleague", "after"))
    if refused:
        return f"status refuses a folder that others may write (exit code {refused})"
    if not before:
        return "-"
    told = "the same" if seen == before else f"{spoken(seen)} instead of {spoken(before)} (exit code {code})"
    return told if after == before else f"{told}; afterwards the user: {spoken(after)}"


def spoken(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "nothing"


def table(results: Path) -> str:
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    columns = [row(name, found[name]) for name in TOOLS if name in found]
    lines = ["| " + " | ".join([measure, *(column[measure] for column in columns)]) + " |" for measure in columns[0]]
    return "\n".join([lines[0], "|" + "---|" * (len(columns) + 1), *lines[1:]])


# --- the command


def measure(tool: type[Tool], work: Path, runs: int, kill_count: int, only: Iterable[str]) -> None:
    path = work / "results" / f"{tool.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}

    def boxes(scenario: str, count: int) -> Tool:
        return make_box(tool, work, scenario, count)

    scenarios: dict[str, Callable[[], dict]] = {
        "plain": lambda: plain(boxes("plain", runs)),
        "lost_reply": lambda: lost_reply(boxes("lost_reply", runs)),
        "two_at_once": lambda: two_at_once(boxes("two_at_once", runs)),
        "rerun": lambda: rerun(boxes("rerun", runs)),
        "silent_query": lambda: silent_query(boxes("silent_query", FEW)),
        "users_environment": lambda: users_environment(boxes("users_environment", FEW)),
        "second_user": lambda: second_user(boxes("second_user", FEW)),
        "kills": lambda: kills(boxes, kill_count),
    }
    for name, scenario in scenarios.items():
        if name not in only or (name == "kills" and not kill_count):
            continue
        begun = time.monotonic()
        try:
            results[name] = scenario()
        except Exception as error:  # noqa: BLE001 - one tool's trouble is not the others'
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        idle()
        print(f"{tool.name} {name}: {results[name]} in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        path.write_text(json.dumps(results, indent=1))


def install(tool: type[Tool], work: Path) -> None:
    """A venv with the pinned versions; this project's own tool runs with the Python that runs this."""
    wanted, venv = HERE / tool.name / "requirements.txt", work / "venvs" / tool.name
    if wanted.exists() and not (venv / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
        pip = [str(venv / "bin" / "pip"), "install", "-q", "-r", str(wanted)]
        subprocess.run(pip, check=True, timeout=600)
        (venv / "installed").touch()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("plain", "lost_reply", "two_at_once", "rerun", "silent_query", "users_environment", "second_user", "kills")
    parser.add_argument("--peer", action="append", choices=list(TOOLS), help="this tool only; may be given again")
    parser.add_argument("--only", action="append", choices=names, help="this scenario only; may be given again")
    parser.add_argument("--runs", type=int, default=24, help="where many are asked for at once")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tiny-transformers-peers")
    arguments = parser.parse_args()
    if "SLURM_CONF" not in os.environ:
        parser.error("SLURM_CONF is not set: start the test cluster, see above.")
    for name in arguments.peer or TOOLS:
        install(TOOLS[name], arguments.work)
        measure(TOOLS[name], arguments.work, arguments.runs, arguments.kills, arguments.only or names)
    print(table(arguments.work / "results"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
