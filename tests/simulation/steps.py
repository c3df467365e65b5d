"""Draw the steps of a walk from its seed: what users do, how time passes, and what goes wrong.

A step is a name and what it needs to know, so that a walk can be printed, repeated and shortened. It is drawn without
a look at the world: one that fits nothing there (a job is killed, and there is none) does nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from simulation.world import FOLLOW_UPS, HOSTS, STUDIES, TAUGHT, USERS

Step = tuple[str, dict[str, Any]]
Fault = Callable[[random.Random], tuple[Step, Step | None]]
LENGTH = 100  # of a walk, about
KINDS = 7  # of faults in a walk; a walk with all of them would hide what one alone does

ENVIRONMENTS = {
    "squeue filters": {"SQUEUE_PARTITION": "gpu"},
    "squeue filters by account": {"SQUEUE_ACCOUNT": "other"},
    "sbatch has options": {"SBATCH_PARTITION": "gpu", "SBATCH_TIMELIMIT": "1", "SBATCH_NO_REQUEUE": "1"},
    "sbatch names the job": {"SBATCH_JOB_NAME": "mine"},
    "inside a job": {"SLURM_JOB_ID": "77", "SLURM_MEM_PER_NODE": "4000", "SLURM_RESTART_COUNT": "1"},
    "another cluster": {"SLURM_CLUSTERS": "other"},
    "times in words": {"SLURM_TIME_FORMAT": "relative", "SLURM_BITSTR_LEN": "8"},
}
# What a profile may say: a shell, or sbatch, would take more of it than a value.
PROFILES = {
    "names the job": {"sbatch": {"job-name": "mine"}},
    "has an array": {"sbatch": {"arr": "0-3"}},
    "has another line": {"account": "research\n#SBATCH --job-name=mine"},
    "has a command in a name": {"environment": {"A=1; touch RAN; B": "x"}},
    "has a command in a value": {
        "environment": {"A": "1; touch RAN; $(touch RAN)"},
        "modules": ["`touch RAN`; touch RAN"],
    },
}
QUOTED = "has a command in a value"  # the others are refused
JOB = ("requeued", "requeued and held", "held", "cancelled by hand", "suspended", "preempted", "reservation deleted")
OF_JOBS = ("job is", "node", "controller", "accounting", "job's", "stages", "squeue", "sacct ", "limit", "others")
NAMES = ("train", "two\nlines|x", "tt-", "a|b|c", "tt-0123456789ab", "\x1b[31mred")


def draw(seed: int) -> list[Step]:
    """Return the steps of this seed's walk."""
    lot = random.Random(seed)
    kinds = list(dict.fromkeys(lot.sample([*sorted(FAULTS), *RARE], KINDS)))
    users = ("alice", "bob") if lot.random() < 0.15 else ("alice",)
    hosts = HOSTS if lot.random() < 0.3 else HOSTS[:1]
    steps: list[Step] = []
    undo: list[tuple[int, Step]] = []
    left = lot.sample(sorted(STUDIES), lot.randint(2, len(STUDIES)))
    for study in (*FOLLOW_UPS, *TAUGHT):
        if lot.random() < 0.05:
            left.insert(lot.randint(0, len(left)), study)
    long_lists = "sacct cuts lists" in kinds or "jobs are purged" in kinds  # of tasks that wait
    if long_lists or lot.random() < 0.4:
        steps.append(("site", {"runs_per_pack": 1}))
    if lot.random() < 0.3:
        steps.append(("calibration", {}))
    if long_lists or lot.random() < 0.35:  # others have all nodes
        steps.append(("nodes", {"up": False}))
        undo.append((lot.randint(6, 25), ("nodes", {"up": True})))
    for _ in range(lot.choice((0, 1, 1, 2))):  # it is so already when the user comes
        on, off = FAULTS[lot.choice(kinds)](lot)
        steps.append(on)
        undo += [(lot.randint(2, 12), off)] if off else []
    first = [left.pop(), left.pop()] if long_lists else some_of(lot, left)
    steps.append(command(lot, kinds, users, hosts, ["submit", *first]))
    while len(steps) < LENGTH:
        for place, step in [each for each in undo if each[0] <= len(steps)]:
            undo.remove((place, step))
            steps.append(step)
        chance = lot.random()
        if chance < 0.06 and left:
            steps.append(command(lot, kinds, users, hosts, ["submit", *some_of(lot, left)]))
        elif chance < 0.15:
            steps.append(command(lot, kinds, users, hosts, None))
        elif chance < 0.54:
            steps.append(("pass", {"seconds": lot.choice((1, 5, 15, 30, 60, 130))}))
        else:
            on, off = FAULTS[lot.choice(kinds)](lot)
            steps.append(on)
            if left and (on[0] in OF_NEW_JOBS or on[1].get("client") in OF_NEW_JOBS):
                steps.append(command(lot, kinds, users, hosts, ["submit", *some_of(lot, left)]))
            if on[0] == "stage":  # until some have begun
                steps.append(("pass", {"seconds": 15}))
            if on[1].get("client") == "scancel":  # which few commands call
                steps += [command(lot, kinds, users, hosts, ["cancel run"]) for _ in range(2)]
            if on[1].get("what") == "requeued and held":  # which is to be shown so
                steps.append(("command", {"words": ["status"], "seed": lot.randrange(1 << 30), "pick": 1}))
            if off:
                undo.append((len(steps) + lot.randint(2, 12), off))
            if lot.random() < 0.15:  # the user looks, or goes on, while it lasts
                steps.append(("pass", {"seconds": lot.choice((1, 5, 15, 60))}))
                steps.append(command(lot, kinds, users, hosts, [lot.choice(("status", "tick"))]))
    return steps


def draw_short(seed: int) -> list[Step]:
    """Return some ten steps: one study, whose jobs are lost to SLURM and go on unseen, among other faults of jobs."""
    lot = random.Random(seed)
    words = ["tick", "status", "rerun", "again", "cancel run", "cancel", "redo", "rebuild"]
    kinds = sorted(kind for kind in FAULTS if any(word in kind for word in OF_JOBS))
    steps: list[Step] = [("site", {"runs_per_pack": 1})] if lot.random() < 0.3 else []
    steps.append(command(lot, [], USERS, HOSTS[:1], ["submit", lot.choice(("s0", "s0", "s1", "s2", "s3", "t1", "f0"))]))
    for _ in range(lot.randint(2, 5)):
        steps.append(("pass", {"seconds": lot.choice((1, 5, 8, 15, 30, 60))}))
        on, off = FAULTS[lot.choice(kinds)](lot)
        if lot.random() < 0.4:
            what = lot.choice(("given up", "given up", "revived"))
            on, off = (what, {"seconds": lot.choice((5, 15, 40)), "pick": lot.randrange(1000)}), None
        steps.append(on)
        if lot.random() < 0.6:
            steps.append(command(lot, [], USERS, HOSTS[:1], [lot.choice(words)]))
        if off and lot.random() < 0.7:
            steps.append(off)
    return steps


def some_of(lot: random.Random, left: list[str]) -> list[str]:
    """Take one study of those that are left, or several."""
    return [left.pop() for _ in range(min(len(left), lot.choice((1, 1, 2))))]


def command(lot: random.Random, kinds: list[str], users: tuple[str, ...], hosts: tuple[str, ...],
            what: list[str] | None) -> Step:  # fmt: skip
    words = what or [lot.choices(("tick", "status", "rerun", "again", "cancel", "cancel run", "redo", "rebuild"),
                                 (40, 30, 6, 6, 2, 5, 2, 2))[0]]  # fmt: skip
    step: dict[str, Any] = {"words": words, "seed": lot.randrange(1 << 30), "pick": lot.randrange(1000)}
    if len(users) > 1 and lot.random() < 0.3:
        step["user"] = "bob"
    if len(hosts) > 1 and lot.random() < 0.4:
        step["host"] = hosts[1]
    if "a command is killed" in kinds and lot.random() < 0.3:
        step["kill_at"] = int(2 ** lot.uniform(0, 7.6))
    if "a command's disk fails" in kinds and lot.random() < 0.25:
        step["disk"] = (lot.choice(("EIO", "ENOSPC", "ESTALE")), int(2 ** lot.uniform(0, 7.2)), lot.choice((1, 1, 40)))
    if "commands at once" in kinds and lot.random() < 0.5:
        step |= {"beside": True, "pace": lot.choice((3.0, 10.0, 30.0))}
    return "command", step


def _clients(client: str, *manners: str) -> Fault:
    def fault(lot: random.Random) -> tuple[Step, Step | None]:
        times = lot.choice((1, 1, 1, 2, 3))
        return ("client", {"client": client, "manners": [lot.choice(manners) for _ in range(times)]}), None

    return fault


def _job(what: str) -> Fault:
    def fault(lot: random.Random) -> tuple[Step, Step | None]:
        undo: Step | None = ("release", {}) if what in ("suspended",) or lot.random() < 0.7 else None
        return ("job", {"what": what, "pick": lot.randrange(1000)}), undo

    return fault


def _simple(step: str, undo: Step | None = None, **values: Any) -> Fault:
    """A step whose values are drawn where they are a tuple."""

    def fault(lot: random.Random) -> tuple[Step, Step | None]:
        drawn = {key: lot.choice(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return (step, drawn | ({"pick": lot.randrange(1000)} if step in WITH_PICK else {})), undo

    return fault


def _either(*faults: Fault) -> Fault:
    return lambda lot: lot.choice(faults)(lot)


def _environment(lot: random.Random) -> tuple[Step, Step | None]:
    return ("environment", {"name": lot.choice(sorted(ENVIRONMENTS))}), ("environment", {"name": None})


def _follow_up(lot: random.Random) -> str:
    return lot.choice(("f0", "f0", "f1"))


def _choice(lot: random.Random) -> tuple[Step, Step | None]:
    step: dict[str, Any] = {"study": _follow_up(lot), "pick": lot.randrange(1 << 30)}
    if lot.random() < 0.6:
        step["kill"] = lot.randint(1, 36)
    else:
        step["disk"] = (lot.choice(("EIO", "ENOSPC", "ESTALE")), lot.randint(0, 34), lot.choice((1, 1, 40)))
    if lot.random() < 0.2:
        step |= {"user": "bob", "host": "login2"}
    return ("choice", step), None


def _nothing(_: random.Random) -> tuple[Step, Step | None]:
    """What is drawn with each command."""
    return ("pass", {"seconds": 1}), None


OF_NEW_JOBS = ("limit", "array size", "stage", "sbatch", "scancel")  # steps, and clients, that take effect on these
WITH_PICK = ("kill", "foreign", "purge", "cut", "lose run", "unheard", "given up", "slow look", "begun again", "hidden",
             "source again", "teacher", "edit")  # fmt: skip
UP: Step = ("controller", {"what": "up"})
FAULTS: dict[str, Fault] = {
    "a command is killed": _nothing,
    "a command's disk fails": _nothing,
    "commands at once": lambda lot: (
        ("burst", {"words": [lot.choice(("tick", "status", "again", "rerun")) for _ in range(3)],
                   "seed": lot.randrange(1 << 30), "paces": [lot.choice((1.0, 2.0, 5.0, 60.0)) for _ in range(3)],
                   "dead": lot.random() < 0.6}),
        None),
    "sbatch's reply is lost": _either(_clients("sbatch", "reply lost", "cut"), _simple("unheard")),
    "sbatch does not arrive": _clients("sbatch", "no answer", "never arrives", "hangs"),
    "sbatch arrives late": _clients("sbatch", "arrives late"),
    "sbatch speaks otherwise": _clients("sbatch", "banner", "number", "another cluster"),
    "sbatch refuses": _clients("sbatch", "busy", "no room", "refused"),
    "squeue does not answer": _either(
        _clients("squeue", "no answer", "hangs", "empty", "cut"), *2 * [_simple("slow look", seconds=(1, 5, 10, 15))]
    ),
    "sacct does not answer": _clients("sacct", "no answer", "hangs", "empty", "cut"),
    "scontrol does not answer": _clients("scontrol", "no answer", "hangs", "empty", "cut"),
    "sacctmgr does not answer": _clients("sacctmgr", "no answer", "hangs", "empty"),
    "scancel does not answer": _clients("scancel", "no answer", "reply lost", "hangs"),
    "clients print otherwise": _simple("form", ("form", {}), banner=(True, False), order=(True, False)),
    "a state that nobody knows": _simple("form", ("form", {}), state=("?", "EXPEDITING", "POWER_UP_NODE")),
    "sacct cuts lists": _simple("cut", ("form", {}), length=(1, 2, 2, 3)),
    "the user's environment": _either(
        _environment, _environment,
        _simple("hidden", name=("squeue filters", "squeue filters by account", "another cluster")),
    ),
    "the controller is away": _simple("controller", UP, what="down"),
    "the controller is restarted": _simple("controller", what="restarted"),
    "the controller loses its state": _simple("controller", what="without its state"),
    "accounting is away": _simple("accounting", ("accounting", {"up": True, "lag": 0}), up=False),
    "accounting is late": _either(
        _simple("accounting", ("accounting", {"up": True, "lag": 0}), up=True, lag=(20, 60, 150)),
        _simple("begun again", ("accounting", {"up": True, "lag": 0}), lag=(60, 150)),
    ),
    **{f"a job is {what}": _job(what) for what in JOB},
    "jobs are purged": _simple("purge"),
    "nodes are away": _simple("nodes", ("nodes", {"up": True}), up=False),
    "a node fails": _either(
        _simple("node", ("nodes", {"up": True}), node=("n1", "n2", "n3"), goes_on=(0, 0, 5, 25, 60)),
        _simple("given up", seconds=(5, 15, 40)),
    ),
    "a job's process is killed": _simple("kill", what=("pack", "child")),
    "a job is killed on its way": lambda lot: (("job killed", {"at": int(2 ** lot.uniform(3, 8))}), None),
    "a job's disk fails": lambda lot: (
        ("job disk", {"error": lot.choice(("EIO", "ENOSPC", "ESTALE")), "after": int(2 ** lot.uniform(0, 7)),
                      "calls": lot.choice((1, 2, 30))}), None),
    "stages fail": lambda lot: (
        ("stage", {"what": lot.choice(("fail", "memory", "exit")),
                   "stage": lot.choice(("pretrain", "pretrain", "blimp"))}),
        ("stage", {})),
    "stages are slow": lambda lot: (
        ("stage", {"what": lot.choice(("slow", "slow", "deaf")), "stage": lot.choice(("pretrain", "add_tokenizer"))}),
        ("stage", {})),
    "a limit changes": lambda lot: (
        ("limit", {"limit": lot.choice((0, 1, 2, 3)), "shown": lot.random() < 0.7, "of account": lot.random() < 0.5,
                   "groups": lot.random() < 0.5, "arrays": lot.choice((1001, 1001, 2))}),
        ("limit", {"limit": None})),
    "the size of arrays changes": _simple("array size", ("array size", {"size": 1001}), size=(1, 2)),
    "others have jobs": _simple("foreign", name=NAMES, tasks=(1, 2), length=(5.0, 60.0)),
    "a clock is off": _simple("clock", host=("login1", "login2", "n1", "n2", "n3"), seconds=(-7200, -90, 90, 7200)),
    "a folder is removed": _simple("remove", what=("ledger", "ledger", "logs", "cache", "lock", "requests")),
    "the submissions are removed": _simple("lose submissions"),
    "a run is removed": _simple("lose run"),
    "a profile is odd": _simple("odd site", profile=(*PROFILES, QUOTED)),
    "files are spoilt": lambda lot: (
        ("spoil", {"what": lot.choice(("lock", "answer", "heartbeat", *3 * ["request"])), "pick": lot.randrange(1000),
                   "text": lot.choice(("", "[]", '{"state": "sub', "7", "{}"))}), None),
    "a choice is interrupted": _choice,
    "choices at once": lambda lot: (
        ("choice", {"study": _follow_up(lot), "pick": lot.randrange(1 << 30),
                    "kill": lot.choice((0, lot.randint(1, 36))),
                    "paces": tuple(lot.choice((1.0, 2.0, 5.0, 60.0)) for _ in range(2))}), None),
    "a choice's files are spoilt": lambda lot: (
        ("spoil choice", {"what": lot.choice(("choice", "choice", "plan")), "pick": lot.randrange(1000),
                          "text": lot.choice(("", "[]", '{"study": "f', "7", "{}"))}), ("restore", {})),
    "a source is done again": _simple("source again"),
    "the manifest is edited": _simple("edit"),
    "a teacher fails": _simple("teacher", how=("fail", "memory", "exit", "cancelled"), study=TAUGHT),
    "a teacher is trained again": _simple("teacher", how=("again", "again", "removed"), study=TAUGHT),
    "a folder's name is odd": _simple("odd folder", name=("100%done", "back\\slash")),
    "the disk is read-only": _simple("read-only", ("read-only", {"on": False}), on=True),
}  # fmt: skip
# Drawn twice as often as the others, since where they are drawn they often find nothing to take effect on.
RARE = ("sacct cuts lists", "a node fails", "a choice's files are spoilt", "a job is suspended",
        "a job is reservation deleted")  # fmt: skip
# Kind of fault -> how the notes begin that the world takes when it takes effect, where that is not its name.
NOTES: dict[str, tuple[str, ...]] = {
    "a command's disk fails": ("disk of a command",), "a job's disk fails": ("disk of a job",),
    "sbatch's reply is lost": ("sbatch: reply lost", "sbatch: cut"), "sbatch arrives late": ("sbatch: arrives late",),
    "sbatch does not arrive": ("sbatch: no answer", "sbatch: never arrives", "sbatch: hangs"),
    "sbatch speaks otherwise": ("sbatch: banner", "sbatch: number", "sbatch: another cluster"),
    "sbatch refuses": ("sbatch: busy", "sbatch: no room", "sbatch: refused"),
    **{f"{name} does not answer": (f"{name}: ",) for name in ("squeue", "sacct", "scontrol", "sacctmgr", "scancel")},
    "clients print otherwise": ("form: banner", "form: order"), "a state that nobody knows": ("form: state",),
    "the user's environment": ("environment",), "the controller is away": ("controller: down",),
    "the controller is restarted": ("controller: restarted",),
    "the controller loses its state": ("controller: without its state",),
    "accounting is away": ("accounting: away",), "accounting is late": ("accounting: late",),
    **{f"a job is {what}": (f"job: {what}",) for what in JOB},
    "a job's process is killed": ("kill: ",), "a job is killed on its way": ("kill: pack, on its way",),
    "stages fail": ("a stage ", "a child is killed"),
    "stages are slow": ("stages: ",), "others have jobs": ("foreign jobs",), "a run is removed": ("removed: a run",),
    "a choice is interrupted": ("a choice is cut short", "a choice's disk fails"),
    "a choice's files are spoilt": ("spoilt: a choice's",),
    "a teacher fails": ("a teacher has failed", "a teacher is cancelled"),
    "a teacher is trained again": ("a teacher is trained again", "a teacher is removed"),
    "a folder is removed": ("removed: ledger", "removed: logs", "removed: cache", "removed: requests"),
    "the submissions are removed": ("removed: submissions",),
    "files are spoilt": tuple(f"spoilt: {what}" for what in ("lock", "answer", "heartbeat", "request")),
}  # fmt: skip


def took_effect(notes: Iterable[str]) -> set[str]:
    """Return the kinds of faults that took effect, by a world's notes."""
    notes = list(notes)
    return {kind for kind in FAULTS if any(note.startswith(NOTES.get(kind, (kind,))) for note in notes)}
