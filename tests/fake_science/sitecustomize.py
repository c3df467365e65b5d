"""Puts stand-ins for the stages into every Python process that has this folder on its PYTHONPATH, so that the
orchestrator's tests take milliseconds a stage. What a stand-in does is told by FAKE_SCIENCE, a JSON file:
{"run id or *": {"stage": "fail" | "noise" | "hang" | "exit" | "out_of_memory" | "no_gpu" | "train" | "deaf" | "eat" |
"unwritable" | seconds it takes | {"task", "metric", "value", "n"} of its score}}. One that makes noise prints what a
terminal obeys, and fails; one that finds no GPU fails where it is to have one. Asked to stop, one that hangs completes,
one that trains saves (a line in saved.txt) and is Interrupted, a deaf one goes on; one that eats takes 200 MB and goes
on too. With FAKE_SIGNAL_AT_START a child gets USR2 while it starts.
FAKE_CLOCKS, as {"node": seconds}, is by how much the clocks of nodes are off in the jobs there.

What takes most of such a process's time is not loaded: numpy and asyncio, of which submitit only speaks, and pydantic.
Settings are what run.json says, unchecked."""

import copy
import gc
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

if "FAKE_SIGNAL_AT_START" in os.environ and "jobs.stage" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGUSR2)


def _set_clock(offset):
    true_time = time.time
    time.time = lambda: true_time() + offset


if "FAKE_CLOCKS" in os.environ:
    _set_clock(json.loads(os.environ["FAKE_CLOCKS"]).get(os.environ.get("SLURMD_NODENAME"), 0))


class _Settings:
    """In place of pydantic's BaseModel: values as they are."""

    def __init_subclass__(cls, **_):
        cls.model_fields = {name: types.SimpleNamespace(default=value) for name, value in vars(cls).items()}

    def __init__(self, **values):
        self.__dict__.update(values)

    @classmethod
    def model_validate(cls, values):
        return cls(**{name: _Settings.model_validate(v) if isinstance(v, dict) else v for name, v in values.items()})

    def model_copy(self, *, update, deep=False):  # noqa: ARG002
        copied = copy.copy(self)
        copied.__dict__.update(update)
        return copied


def _unchecked(*_, **__):
    """In place of pydantic's decorators and validators."""
    return lambda function: function


def _default(default=None, **_):
    return default


class _Pydantic(types.ModuleType):
    """All that is imported from it: numbers are numbers, and what checks them does nothing."""

    BaseModel, Field, ValidationError = _Settings, staticmethod(_default), ValueError

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return int if name.startswith(("Strict", "Positive")) else _unchecked


# Where there are stages of users' own they are checked: what this process is given is OUTPUT_ROOT/submissions/<id> ...
if "jobs.stage" in sys.orig_argv and not Path(sys.orig_argv[-4]).parents[1].joinpath("stages").exists():
    sys.modules["pydantic"], sys.modules["pydantic_core"] = _Pydantic("pydantic"), _Pydantic("pydantic_core")
if {"submitit.core._submit", "submitit.local._local"}.intersection(sys.orig_argv):
    sys.modules["numpy"] = None
    sys.modules["asyncio"] = types.ModuleType("asyncio")
    sys.modules["asyncio"].Future = None


def _told(work, stage):
    """What this stage is to do. Read again if the test is writing it at this moment."""
    while "FAKE_SCIENCE" in os.environ:
        try:
            told = json.loads(Path(os.environ["FAKE_SCIENCE"]).read_text())
        except ValueError:
            continue
        return (told.get(work.run_dir.name) or told.get("*") or {}).get(stage)
    return None


def _run_of(stage):
    def run(work):
        from tiny_transformers.common.work import Interrupted, NoGPU, Outcome, Score

        what = _told(work, stage)
        threads = os.environ.get("OMP_NUM_THREADS")
        print(f"{stage} stand-in, told: {what}; threads: {threads}; MPS: {os.environ.get('CUDA_MPS_PIPE_DIRECTORY')}")
        if not gc.get_threshold()[0]:
            print("garbage is not looked for")
        if work.teacher_dir:
            print(f"teacher: {work.teacher_dir}")
        if what == "fail":
            raise RuntimeError(f"{stage} was told to fail")
        if what == "noise":
            print("10 %\r\x1b[2K20 %\r\x1b[32m30 %\x1b[0m\n\x1b]0;title\x07bell\x07\b and \x9b2J tab\tend")
            raise RuntimeError("an \x1b]0;odd\x07 \x1b[31mword\x1b[0m \x9b2J\u202e")
        if what == "exit":
            os.kill(os.getpid(), 9)
        if what == "out_of_memory":
            raise MemoryError
        if what == "no_gpu" and work.has_gpu:
            raise NoGPU("CUDA does not start")
        if isinstance(what, int | float):
            time.sleep(what)
        eaten = bytearray(200_000_000) if what == "eat" else b""
        while what in ("hang", "train", "deaf", "eat"):
            if what == "hang" and work.should_stop():
                break
            if what == "train" and work.should_stop():
                with open(work.run_dir / "saved.txt", "a") as file:
                    file.write(f"{stage}\n")
                raise Interrupted(f"{stage} was asked to stop")
            time.sleep(0.05)
            what = _told(work, stage)
        with open(work.run_dir / "done.txt", "a") as file:  # one writer: the run's own process
            file.write(f"{stage}\n")
        metrics = {"micro_batch_tokens": work.config.train.micro_batch_tokens, "eaten": len(eaten)}
        if what == "unwritable":
            metrics["odd"] = {1, 2}
        if stage == "pretrain":
            (work.run_dir / "model").mkdir(exist_ok=True)
            metrics |= {"tokens_per_second": 1e4, "peak_memory_mb": 300.0, "device": "cpu"}
        score = what if isinstance(what, dict) else {"task": "average", "metric": "accuracy", "value": 0.5, "n": 100}
        return Outcome(scores=[Score(**score)], metrics=metrics)

    return run


for _stage, _name in {
    "pretrain": "tiny_transformers.training.pretrain",
    "add_tokenizer": "tiny_transformers.data.tokenizer",
    "blimp": "tiny_transformers.evaluation.blimp",
    "superglue": "tiny_transformers.evaluation.superglue",
    "lambada": "tiny_transformers.evaluation.lambada",
    "bpc": "tiny_transformers.evaluation.bpc",
    "speed": "tiny_transformers.evaluation.speed",
}.items():
    _module = types.ModuleType(_name)
    _module.run = _run_of(_stage)
    sys.modules[_name] = _module
_data = types.ModuleType("tiny_transformers.data.sources")
_data.resolve_root = lambda _, data_root, cache, __: data_root or cache
sys.modules["tiny_transformers.data.sources"] = _data
