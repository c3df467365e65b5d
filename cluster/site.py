"""A site: where jobs run, what its nodes have, what its scheduler allows. A YAML profile, checked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from cluster.errors import InputError, did_you_mean
from tiny_transformers.architecture import Settings

SHIPPED = Path(__file__).parent / "sites"


class Site(Settings):
    name: str
    scheduler: Literal["slurm", "local"]
    # one pack, that is one array task
    gpus: NonNegativeInt = 0  # per pack; a local pack takes what the machine has
    gpu_memory: PositiveInt = 80_000  # MB of one GPU
    cpus: PositiveInt = 1  # per pack
    memory_per_cpu: PositiveInt = 4_000  # MB, as sbatch --mem-per-cpu
    slots: PositiveInt | None = None  # runs at a time in a pack; null: as many as memory and CPUs allow
    max_slots: PositiveInt = 8
    runs_per_pack: PositiveInt | None = None  # null: as many as slots
    flops: Annotated[float, Field(gt=0)] = 1e13  # FLOP/s that training reaches on one pack, until measured
    # the scheduler
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    min_time: PositiveInt = 30  # minutes; the least that is asked for
    max_time: PositiveInt = 1_440  # minutes
    max_array_size: PositiveInt = 1_001  # as slurm.conf's MaxArraySize: indices 0 to 1000
    max_tasks_at_once: PositiveInt | None = None  # the %N of --array; null: no throttle
    signal_delay: NonNegativeInt = 120  # seconds before the time limit that USR2 comes
    sbatch: dict[str, Any] = {}  # further #SBATCH options, such as {constraint: a100}
    # the job's prologue
    prologue: str = "slurm.sh.j2"  # a template of templates/, or a path
    modules: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    python: str | None = None  # the interpreter of the jobs; null: the one that submits


def default_site() -> str:
    """`local` where there is no sbatch; elsewhere the user must say."""
    if shutil.which("sbatch"):
        shipped = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
        raise InputError(f"This machine has SLURM: say where to run with --site: {shipped}, or a YAML file of yours.")
    return "local"


def load(name: str, **overrides: Any) -> Site:
    """A shipped site by its name, or a file by its path. Overrides that are None are left out. Raises InputError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else SHIPPED / f"{name}.yaml"
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        shipped = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
        raise InputError(
            f"--site {name}: there is no such site. {did_you_mean(name, shipped)} Or give a .yaml file."
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(profile, dict):
        raise InputError(f"{path}: must be a mapping of settings.")
    try:
        site = Site.model_validate(profile | {key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        hint = did_you_mean(key, Site.model_fields) if first["type"] == "extra_forbidden" else first["msg"]
        raise InputError(f"{path}: {key}: {first['input']!r}: {hint}") from None
    return _local_machine(site) if site.scheduler == "local" else site


def _local_machine(site: Site) -> Site:
    """This machine's GPUs, or half of its cores, at a time."""
    gpus = len(_gpu_devices())
    cpus = os.cpu_count() or 1
    slots = site.slots or gpus or max(1, cpus // 2)
    return site.model_copy(update={"gpus": gpus, "cpus": cpus, "slots": slots})


def _gpu_devices() -> list[Path]:
    return [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
