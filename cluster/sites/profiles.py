"""A site: where jobs run, what its nodes have, what its scheduler allows. A YAML profile, checked."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError

from cluster.errors import InputError, did_you_mean
from cluster.files.causes import Cause
from tiny_transformers.common import refusals
from tiny_transformers.settings.base import Settings

SHIPPED = Path(__file__).parent
UNITS = {
    "min_time": " of minutes, such as 30", "max_time": " of minutes, such as 1440 for a day",
    "gpu_memory": " of MB, such as 80000", "memory_per_cpu": " of MB, such as 4000", "signal_delay": " of seconds",
    "gpus": "; sbatch: {gres: ...} names their kind",
}  # fmt: skip
VISIBLE = "CUDA_VISIBLE_DEVICES"
# What tiny-transformers tells sbatch itself -> the profile's key for it, if there is one.
OWN_OPTIONS = {
    "account": "account", "partition": "partition", "qos": "qos", "time": "max_time", "cpus-per-task": "cpus",
    "mem-per-cpu": "memory_per_cpu", "mem-per-gpu": "memory_per_cpu", "mem": "memory_per_cpu",
    "signal": "signal_delay", "array": "max_tasks_at_once", "requeue": "requeues", "no-requeue": "requeues",
    "job-name": "", "comment": "", "output": "", "error": "", "input": "", "open-mode": "", "nodes": "", "ntasks": "",
    "ntasks-per-node": "", "kill-on-invalid-dep": "", "parsable": "", "wait": "", "wrap": "", "test-only": "",
    "help": "", "usage": "", "version": "",
}  # fmt: skip


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _lines(text: str) -> str:
    _line(text.replace("\n", "").replace("\t", ""))
    return text


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("is no name of a variable: letters, digits and _, and no digit first")
    return name


def _option(name: str) -> str:
    """As sbatch spells it. It takes abbreviations, so that `arr` is `array`, too."""
    option = name.replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", option):
        raise ValueError("is no option of sbatch: small letters, digits and -, without the -- before it")
    own = next((each for each in OWN_OPTIONS if each.startswith(option)), None)
    if own:
        key = OWN_OPTIONS[own]
        raise ValueError(f"is for tiny-transformers to set{f', by {key}' if key else ''}; take it out")
    return option


def _value(value: Any) -> Any:
    if not isinstance(value, str | int | float | None):
        raise ValueError("must be a word or a number, true, or null, which leaves it out; put a date in quotes")
    return _line(value) if isinstance(value, str) else value


Line = Annotated[str, AfterValidator(_line)]
Variables = dict[Annotated[str, AfterValidator(_variable)], Annotated[str, AfterValidator(_lines)]]
Options = dict[Annotated[str, AfterValidator(_option)], Annotated[Any, AfterValidator(_value)]]


Precision = Literal["bfloat16", "tf32", "float32"]


class Rule(Settings):
    """The answer to a failure of one cause, and how often it is given for one stage run."""

    times: NonNegativeInt = 0  # tries after the first; 0: stop and show it
    time: Annotated[float, Field(ge=1)] = 1.0  # the next try's time limit, in this one's
    less_memory: bool = False  # half as many runs at a time; from one on, half the micro-batch
    exclude_node: bool = False  # not on the node where it failed
    wait: NonNegativeInt = 0  # minutes before the next try


RETRY: dict[Cause, Rule] = {
    "timeout": Rule(times=3, time=1.5),
    "out_of_memory": Rule(times=3, less_memory=True),
    "node_fail": Rule(times=3, exclude_node=True),
    "preempted": Rule(times=10),
    "lost": Rule(times=1),
    "launch_failed": Rule(times=2, exclude_node=True, wait=5),
    "no_gpu": Rule(times=1, exclude_node=True),  # elsewhere, once: a driver that is too old is so on every node
}
Event = Literal["study_finished", "first_failure", "slurm_unreachable"]


class Notify(Settings):
    """Whom to tell of what (cluster/reconcile/notify.py)."""

    command: Annotated[str, Field(min_length=1)]  # for the shell; the message is its input, TT_EVENT etc. are set
    events: tuple[Event, ...] = get_args(Event)
    unreachable_after: PositiveInt = 60  # minutes that SLURM does not answer


class Site(Settings):
    """A profile. Its values get into a job's script, where each stays one value: no shell and no sbatch takes more."""

    name: Line
    scheduler: Literal["slurm", "local"]
    # one pack, that is one array task
    gpus: NonNegativeInt = 0  # per pack; a local pack takes what the machine has, if the profile does not say how many
    gpu_memory: PositiveInt = 80_000  # MB of one GPU
    mig: bool = False  # a pack's GPU is a MIG slice: one run at a time, unless `slots` says otherwise
    mps: bool = False  # a pack with several runs on a GPU starts CUDA's MPS for them, as its own user
    cpus: PositiveInt = 1  # per pack
    memory_per_cpu: PositiveInt = 4_000  # MB, as sbatch --mem-per-cpu
    slots: PositiveInt | None = None  # runs at a time in a pack; null: as measured, or as memory and CPUs allow
    max_slots: PositiveInt = 8
    runs_per_pack: PositiveInt | None = None  # null: as many as slots, or more if max_jobs is few
    flops: Annotated[float, Field(gt=0)] | None = None  # FLOP/s that training reaches on one pack, until measured
    peak_flops: dict[Precision, Annotated[float, Field(gt=0)]] = {}  # of one GPU; by it speeds are estimated until then
    # the scheduler
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    min_time: PositiveInt = 30  # minutes; the least that is asked for
    max_time: PositiveInt = 1_440  # minutes
    max_array_size: PositiveInt = 1_001  # as slurm.conf's MaxArraySize: indices 0 to 1000
    max_jobs: PositiveInt | None = None  # tasks that the account may run at once; null: not known, or no limit
    max_tasks_at_once: PositiveInt | None = None  # the %N of --array; null: no throttle
    max_submit: PositiveInt | None = None  # tasks waiting and running together; null: as SLURM says
    signal_delay: NonNegativeInt = 120  # seconds before the time limit that USR2 comes
    requeues: NonNegativeInt = 3  # times that a pack goes on after its time limit, as the same job
    retry: dict[Cause, Rule] = {}  # a cause's rule in place of the built-in one (docs/orchestration.md)
    breaker: PositiveInt | None = 5  # stop submitting after so many failures of one kind in a row; null: never
    notify: Notify | None = None
    sbatch: Options = {}  # further #SBATCH options, such as {constraint: a100}; null leaves one out
    # the job's prologue
    prologue: Line = "slurm.sh.j2"  # a template of templates/, or a path
    modules: tuple[Line, ...] = ()
    environment: Variables = {}
    python: Line | None = None  # the interpreter of the jobs; null: the one that submits
    container: Line | None = None  # an Apptainer image, in which the jobs' Python runs
    binds: tuple[Line, ...] = ()  # folders that a container sees besides those of the runs, the logs and the data
    scratch: Line | None = None  # a folder below which the site removes what nobody uses; `doctor` warns

    def with_rules(self, rules: Mapping[Cause, Rule], notify: Notify | None = None) -> Site:
        """With a manifest's own rules in place of the profile's."""
        return self.model_copy(update={"retry": {**self.retry, **rules}, "notify": notify or self.notify})

    @property
    def local_slots(self) -> int:
        """Runs at a time on this machine where it was not measured how many are best: one a GPU, or half of the
        cores."""
        return self.slots or self.gpus or max(1, self.cpus // 2)

    @property
    def hours_unit(self) -> str:
        """How the hours of its packs are called."""
        return "GPU-hours" if self.gpus else "hours"

    def rule(self, cause: str | None) -> Rule:
        rules: Mapping[Any, Rule] = {**RETRY, **self.retry}
        return rules.get(cause, Rule())


def shipped() -> list[str]:
    """Return the names of the profiles that come with this package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def default_site() -> str:
    """`local` where there is no sbatch; elsewhere the user must say."""
    if shutil.which("sbatch"):
        raise InputError(
            f"This machine has SLURM: say where to run with --site: {', '.join(shipped())}, or a YAML file of yours."
        )
    return "local"


def load(name: str, **overrides: Any) -> Site:
    """A shipped site by its name, or a file by its path. Overrides that are None are left out. Raises InputError."""
    from cluster import yaml_text  # here, because most commands read no profile

    path = Path(name) if name.endswith((".yaml", ".yml")) else SHIPPED / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        told = "there is no such file."
        if path.parent == SHIPPED:
            told = f"there is no such site. {did_you_mean(name, shipped())} Or give a .yaml file."
        raise InputError(f"--site {name}: {told}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--site {refusals.understood(error) or f'{name}: cannot be read: {error}'}") from None
    profile = yaml_text.read(text, str(path))
    if not isinstance(profile, dict):
        raise InputError(f"{path}: must be a mapping of settings.")
    site = checked(profile, str(path), **overrides)
    return _local_machine(site) if site.scheduler == "local" else site


def checked(
    profile: Mapping[str, Any],
    where: str = "the profile of an earlier submission (give another with --site)",
    **overrides: Any,
) -> Site:
    """A profile with overrides, of which those that are None are left out. Raises InputError, which says `where`."""
    try:
        site = Site.model_validate({**profile, **{key: value for key, value in overrides.items() if value is not None}})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        hint = _hint(first["type"], key) or first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {key if key.isprintable() else repr(key)}: {first['input']!r}: {hint}") from None
    refuse_other_clusters(site, where)
    return site


def _hint(kind: str, key: str) -> str | None:
    """Say what a setting must be, where pydantic's words are for programmers; None: they will do."""
    if kind == "extra_forbidden":
        return f"unknown key. {did_you_mean(key, Site.model_fields)}"
    if kind.startswith("int_"):
        return f"must be a whole number{UNITS.get(key, '')}"
    if kind == "tuple_type":
        return "must be a list, in brackets"
    if kind == "string_type":
        return "must be text: put it in quotes"
    return None


def refuse_other_clusters(site: Site, where: str) -> None:
    """Raises InputError for a profile that sends jobs to another cluster than the one that is asked about them."""
    for option in site.sbatch:
        if option.replace("_", "-") in ("clusters", "cluster", "M"):
            raise InputError(
                f"{where}: sbatch.{option}: jobs would go to {site.sbatch[option]}, and squeue, sacct and scancel be "
                "asked about the cluster of this login node. Leave it out, and submit on a login node of that cluster, "
                "or with SLURM_CONF=<its slurm.conf>."
            )


def _local_machine(site: Site) -> Site:
    """With what this machine has; of its memory and GPUs as much as the profile says, if it does, and of the GPUs only
    those that CUDA_VISIBLE_DEVICES names, if it is set: they stay those of the submission."""
    found: dict[str, Any] = {"cpus": os.cpu_count() or 1}
    found["gpus"] = site.gpus if "gpus" in site.model_fields_set else len(_gpu_devices())
    named = site.environment.get(VISIBLE, os.environ.get(VISIBLE))
    if named is not None:
        visible = _devices(named)[: found["gpus"]]
        found |= {"gpus": len(visible), "environment": {**site.environment, VISIBLE: ",".join(visible)}}
    if "memory_per_cpu" not in site.model_fields_set:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found["memory_per_cpu"] = memory // 1_000_000 // found["cpus"]
    return site.model_copy(update=found)


def _devices(named: str) -> list[str]:
    """The GPUs of CUDA_VISIBLE_DEVICES, numbers or names; for CUDA the list ends before the first that is neither."""
    words = (word.strip() for word in named.split(","))
    return list(takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, words))


def _gpu_devices() -> list[Path]:
    return [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
