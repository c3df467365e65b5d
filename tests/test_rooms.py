"""Each room imports from those before it only: docs/architecture.md."""

import subprocess
import sys

import pytest
from shape import PACKAGES, ROOMS, ROOT, arrows, imports, modules, room_of

# What the login node's half may know of the others.
SCIENCE_FOR_THE_CLUSTER = {"tiny_transformers.settings", "tiny_transformers.common"}
CLUSTER_FOR_JOBS = {"cluster.files"}


TOP_LEVEL = {
    ".ci", ".github", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md",
    "LICENSE", "Makefile", "README.md", "cluster", "docs", "experiments.yaml", "jobs", "mkdocs.yml", "pyproject.toml",
    "requirements.lock", "slurm_logs", "templates", "tests", "tiny_transformers",
}  # fmt: skip


def test_the_repository_has_what_its_house_has_and_nothing_that_a_command_wrote():
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository: what is kept in it cannot be told")
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert {name.partition("/")[0] for name in kept if name} == TOP_LEVEL
    assert [name for name in kept if name.startswith("slurm_logs/")] == ["slurm_logs/.gitkeep"]


def test_every_module_is_in_a_room():
    for package, rooms in ROOMS.items():
        found = {name.split(".")[1] for name in modules() if name.startswith(f"{package}.")}
        assert found == set(rooms)


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_from_those_before_it(package):
    place = {f"{package}.{room}": number for number, room in enumerate(ROOMS[package])}
    against = [
        told for (one, other), each in arrows().items() if one in place and other in place and place[other] > place[one]
        for told in each
    ]  # fmt: skip
    assert not against


def test_within_a_room_no_two_modules_need_each_other():
    known = imports()

    def reaches(module, goal, seen):
        seen.add(module)
        return any(
            name == goal or (name not in seen and name in known and reaches(name, goal, seen)) for name in known[module]
        )

    assert not [module for module in known if reaches(module, module, set())]


def test_the_three_packages_know_no_more_of_each_other_than_they_must():
    for module, imported in imports().items():
        package = module.partition(".")[0]
        rooms = {room_of(name) for name in imported if name.partition(".")[0] != package}
        if package == "tiny_transformers":
            assert not rooms, module
        elif package == "jobs":
            assert {room for room in rooms if room.startswith("cluster")} <= CLUSTER_FOR_JOBS, module
        elif module == "cluster.submit.launch":
            assert rooms - SCIENCE_FOR_THE_CLUSTER == {"jobs.pack"}, "the one callable of a compute node's half"
        else:
            assert rooms <= SCIENCE_FOR_THE_CLUSTER, module


def test_no_module_of_the_login_nodes_half_loads_torch():
    names = [name for name in modules() if name.startswith("cluster") and not name.endswith("__main__")]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "False"


def test_no_module_has_the_name_of_one_of_pythons_own():
    """It would hide it from a file of its folder that is run by its path."""
    for name in modules():
        last = name.rpartition(".")[2]
        assert name in PACKAGES or last == "__main__" or last not in sys.stdlib_module_names, name
