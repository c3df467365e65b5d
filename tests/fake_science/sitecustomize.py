"""Puts stand-ins for the four stages into every Python process that has this folder on its PYTHONPATH, so that the
orchestrator's tests take milliseconds a stage. What a stand-in does is told by FAKE_SCIENCE, a JSON file:
{"run id or *": {"stage": "fail" | "hang" | "exit" | "out_of_memory"}}."""

import json
import os
import sys
import time
import types
from pathlib import Path


def _run_of(stage):
    def run(work):
        from tiny_transformers.work import Outcome, Score

        told = json.loads(Path(os.environ["FAKE_SCIENCE"]).read_text()) if "FAKE_SCIENCE" in os.environ else {}
        what = (told.get(work.run_dir.name) or told.get("*") or {}).get(stage)
        print(f"{stage} stand-in, told: {what}")
        if what == "fail":
            raise RuntimeError(f"{stage} was told to fail")
        if what == "exit":
            os.kill(os.getpid(), 9)
        if what == "out_of_memory":
            raise MemoryError
        while what == "hang" and not work.should_stop():
            time.sleep(0.05)
            told = json.loads(Path(os.environ["FAKE_SCIENCE"]).read_text())
            what = (told.get(work.run_dir.name) or told.get("*") or {}).get(stage)
        with open(work.run_dir / "done.txt", "a") as file:  # one writer: the run's own process
            file.write(f"{stage}\n")
        return Outcome(scores=[Score("average", "accuracy", 0.5, 100)])

    return run


for _stage, _name in {
    "pretrain": "tiny_transformers.pretrain",
    "add_tokenizer": "tiny_transformers.tokenizer",
    "blimp": "tiny_transformers.evaluation.blimp",
    "superglue": "tiny_transformers.evaluation.superglue",
}.items():
    _module = types.ModuleType(_name)
    _module.run = _run_of(_stage)
    sys.modules[_name] = _module
_data = types.ModuleType("tiny_transformers.data")
_data.resolve_root = lambda _, data_root, cache, __: data_root or cache
sys.modules["tiny_transformers.data"] = _data
