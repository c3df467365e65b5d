"""requirements.lock is what pyproject.toml asks for, on every Python that it is for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
DIRECT = [Requirement(text) for text in (*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"])]
PYTHONS = ("3.11", "3.12", "3.13")


def locked(python: str) -> dict[str, str]:
    """Name -> version, as pip installs on Linux."""
    here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux",
            "platform_machine": "x86_64", "platform_python_implementation": "CPython"}  # fmt: skip
    lines = [Requirement(line) for line in LOCK.splitlines()]
    wanted = [line for line in lines if line.marker is None or line.marker.evaluate(here)]
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in wanted}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_a_version_that_fits_for_all_that_is_asked_for(python):
    versions = locked(python)
    wrong = [
        f"{asked}: {versions.get(canonicalize_name(asked.name), 'absent')}"
        for asked in DIRECT
        if not asked.specifier.contains(versions.get(canonicalize_name(asked.name), "0"))
    ]
    assert not wrong, "run `make lock`"


def test_the_lock_is_exact_and_names_no_address_and_no_gpu():
    for line in LOCK.splitlines():
        assert re.fullmatch(r"[a-z0-9._-]+==[\w.]+( ; .+)?", line), line
        assert not line.startswith(("nvidia-", "cuda-", "triton")), line


def test_the_tutorial_of_delftblue_names_the_locked_torch():
    assert set(re.findall(r"torch==([\d.]+)", (ROOT / "docs/tutorials/delftblue.md").read_text())) == {
        locked("3.11")["torch"]
    }


def test_every_dependency_has_a_floor():
    assert [str(asked) for asked in DIRECT if not {">=", "=="} & {part.operator for part in asked.specifier}] == []


def test_the_lock_is_for_every_python_that_the_project_is_for():
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert oldest == PYTHONS[0]
    assert f'python_version = "{oldest}"' in (ROOT / "pyproject.toml").read_text(), "mypy's"
