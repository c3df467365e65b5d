import json
import os
import subprocess
import sys
import time

import pytest

from tiny_transformers.common import provenance
from tiny_transformers.common.provenance import code_version, environment


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def package(tmp_path):
    """A package in a repository of its own."""
    folder = tmp_path / "repository" / "package"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "sub" / "a.py").write_text("a = 1\n")
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-qm", "first")
    return folder


def test_the_digest_is_of_source_files_names_and_bytes(package):
    before = code_version(package)["digest"]
    (package / "sub" / "a.pyc").write_bytes(b"x")
    assert code_version(package)["digest"] == before
    (package / "sub" / "a.py").rename(package / "sub" / "b.py")
    renamed = code_version(package)["digest"]
    (package / "sub" / "b.py").write_text("a = 2\n")
    assert len({before, renamed, code_version(package)["digest"]}) == 3


def test_bytes_cannot_move_from_one_file_to_the_next_unseen(package):
    (package / "a.py").write_text("x")
    (package / "b.py").write_text("y")
    before = code_version(package)["digest"]
    (package / "a.py").write_text("")
    (package / "b.py").write_text("xy")
    assert code_version(package)["digest"] != before


def test_a_changed_tree_has_its_commit_and_a_digest_of_its_diff(package):
    clean = code_version(package)
    assert (len(clean["commit"]), clean["diff"]) == (40, None)
    (package / "sub" / "a.py").write_text("a = 2\n")
    changed = code_version(package)
    assert (changed["commit"], len(changed["diff"])) == (clean["commit"], 12)


def test_a_package_that_the_repository_around_it_does_not_have_is_of_no_commit(package):
    installed = package.parent / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert (code_version(installed)["commit"], code_version(installed)["diff"]) == (None, None)


def test_without_git_there_is_the_digest(package, monkeypatch):
    with_git = code_version(package)
    monkeypatch.setenv("PATH", "")
    assert code_version(package) == {"digest": with_git["digest"], "commit": None, "diff": None}


def test_a_git_that_does_not_answer_is_not_waited_for(package, tmp_path, monkeypatch):
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_PATIENCE", 0.1)
    begun = time.monotonic()
    assert code_version(package)["commit"] is None
    assert time.monotonic() - begun < 300


def test_versions_machine_and_gpus_are_named(tmp_path, monkeypatch):
    nvidia = tmp_path / "driver" / "nvidia"
    for number in (0, 1):
        (nvidia / "gpus" / f"0000:0{number}:00.0").mkdir(parents=True)
        text = f"Model: \t\t NVIDIA A100 80GB PCIe\nIRQ:   \t\t 4{number}\n"
        (nvidia / "gpus" / f"0000:0{number}:00.0" / "information").write_text(text)
    (nvidia / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version:  gcc\n"
    )
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 7402\nflags\t: x\n")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu001")
    said = environment(tmp_path)
    assert (said["driver"], said["gpus"]) == ("535.104.05", ["NVIDIA A100 80GB PCIe"] * 2)
    assert (said["cpu"], said["node"], said["cpus"]) == ("AMD EPYC 7402", "gpu001", os.cpu_count())
    assert said["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(said[name] for name in provenance.LIBRARIES)
    assert json.loads(json.dumps(said)) == said


def test_an_open_kernel_module_has_a_version_too(tmp_path):
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (root@a)\n"
    (tmp_path / "driver" / "nvidia" / "version").write_text(text)
    assert environment(tmp_path)["driver"] == "570.86.15"


@pytest.mark.parametrize(("torch", "cuda"), [("2.13.0+cu128", "12.8"), ("2.1.0+cu92", "9.2"), ("2.13.0+cpu", None)])
def test_torchs_suffix_says_which_cuda(torch, cuda):
    assert provenance._cuda(torch) == cuda


def test_neither_loads_torch():
    code = (
        "import sys; from tiny_transformers.common import provenance\n"
        "provenance.code_version(); provenance.environment(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
