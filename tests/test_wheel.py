"""The wheel has all that the checkout has, and works in a folder that knows no checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TYPED = ("cluster", "jobs", "tiny_transformers")
PACKAGES = (*TYPED, "templates")


def call(*words: object, cwd: Path) -> str:
    """The output of a command that must succeed; nothing tells it of this checkout, not even a git hook, nor of a SLURM
    that other tests use."""
    told = ("PYTHONPATH", "GIT_", "SLURM_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with the files that are tracked here."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository: which files are tracked is not known")
    folder = tmp_path_factory.mktemp("checkout")
    for name in call("git", "ls-files", "-z", cwd=ROOT).split("\0")[:-1]:
        if (ROOT / name).exists():  # not one that is being removed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    call("git", "init", "--quiet", cwd=folder)
    call("git", "add", "--all", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    """Built as a user would, in the checkout itself; without a network, by the setuptools that is installed."""
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", ".", cwd=checkout)
    (path,) = checkout.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a venv with the wheel, which sees what is installed here, but no editable install of this checkout."""
    venv = tmp_path_factory.mktemp("venv")
    call(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv)
    (own,) = venv.glob("lib/python*/site-packages")
    (own / "present.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    call(sys.executable, "-m", "pip", "--quiet", "--python", venv / "bin/python", "install", "--no-index", "--no-deps",
         "--no-compile", wheel, cwd=venv)  # fmt: skip
    return venv / "bin"


def test_the_wheel_has_every_tracked_file_of_the_packages(checkout, wheel):
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if name.startswith(tuple(f"{package}/" for package in PACKAGES))}
    tracked = set(call("git", "ls-files", *PACKAGES, cwd=checkout).splitlines())
    assert packed == tracked, "name the folder or the kind of file in pyproject.toml, [tool.setuptools]"
    assert {name for name in packed if name.endswith(".typed")} == {f"{name}/py.typed" for name in TYPED}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_building_leaves_nothing_in_a_checkout_that_git_sees(checkout, wheel):  # noqa: ARG001 - it has been built
    assert (checkout / "build").exists(), "setuptools' own folder"
    assert call("git", "ls-files", "--others", "--exclude-standard", cwd=checkout) == ""
    assert call("git", "diff", cwd=checkout) == ""


def test_the_installed_commands_need_no_checkout(commands, tmp_path):
    where = call(
        commands / "python", "-c", "import cluster, jobs, tiny_transformers as t; print(t.__file__)", cwd=tmp_path
    )
    assert Path(where).is_relative_to(commands.parent)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert call(commands / "tiny-transformers", "--version", cwd=tmp_path) == f"tiny-transformers {version}\n"
    call(commands / "tiny-transformers", "init", cwd=tmp_path)
    for site in ("local", "site.yaml"):
        shown = call(commands / "submit", "experiments.yaml", "--site", site, "--dry-run", cwd=tmp_path)
        assert "4 runs to do" in shown
    assert f"{commands / 'python'} -u -m submitit.core._submit" in shown.replace("\n", ""), "jobs use the same install"
    assert call(commands / "tiny-transformers", "schema", cwd=tmp_path).startswith("{")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiments.yaml", "site.yaml"]
