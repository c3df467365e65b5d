"""Runs and submissions on disk, as the login node leaves them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.files import whole_files
from cluster.files.folders import OutputRoot, RunDir, SubmissionDir
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import RunConfig

ALL = [["pretrain", 1], ["add_tokenizer", 1], ["blimp", 1], ["superglue", 1]]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[str], RunDir]:
    def make(name: str) -> RunDir:
        directory = OutputRoot(tmp_path).run(name)
        config = RunConfig(model=GPTNeo()).model_dump(mode="json")
        whole_files.write_json(
            directory.run_json,
            {
                "run_id": name,
                "name": name,
                "created": "2026",
                "order": 0,
                "studies": [],
                "stages": [],
                "config": config,
            },
        )
        return directory

    return make


@pytest.fixture
def run(make_run: Callable[[str], RunDir]) -> RunDir:
    return make_run("abc")


@pytest.fixture
def submit(tmp_path: Path) -> Callable[..., SubmissionDir]:
    """An intent of one pack with these runs; further words change it."""

    def write(*runs: str, stages: list[list[object]] = ALL, item: dict[str, object] | None = None, **words: object):
        directory = OutputRoot(tmp_path).submission("cafe")
        pack = [{"run_id": name, "stages": stages, **(item or {})} for name in runs or ["abc"]]
        intent = {"submission_id": "cafe", "created": "2026", "output_root": str(tmp_path), "data_root": str(tmp_path),
                  "slots": 1, "cpus": 2, "cache": str(tmp_path / "cache"), "packs": [pack],
                  "site": {"signal_delay": 30}}  # fmt: skip
        whole_files.write_json(directory.submission, intent | words)
        return directory

    return write
