"""The pages of the project lead where they say, on GitHub and as a site, and tell to type what exists."""

import re
import shlex
import subprocess
import tomllib
from urllib.parse import unquote

import pytest
import typer.main
import yaml
from pages import DOCS, ROOT, TUTORIALS, anchors, files, links, pages, typed

from cluster.cli import entry
from cluster.manifest import grids, loading
from cluster.sites import profiles
from tiny_transformers.settings import activations

FOREIGN = re.compile(r"[a-z]+:")
ids = [page.relative_to(ROOT).as_posix() for page in pages()]


@pytest.mark.parametrize("page", pages(), ids=ids)
def test_no_link_of_a_page_is_broken(page):
    broken = []
    for link in links(page):
        if FOREIGN.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []


def test_pages_of_the_site_link_to_nothing_outside_of_it():
    """A site cannot know where the repository is."""
    for page in DOCS.rglob("*.md"):
        for link in links(page):
            if not FOREIGN.match(link):
                assert (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS), f"{page.name}: {link}"


def nav(entries):
    for each in entries:
        for value in each.values():
            yield from nav(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_sites_navigation_and_in_its_first_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    every = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    listed = list(nav(site["nav"]))
    assert sorted(listed) == sorted(every)
    linked = {link.partition("#")[0] for link in links(DOCS / "index.md")}
    assert {name for name in linked if name.endswith(".md")} == every - {"index.md"}


def test_the_sites_tools_are_asked_for_in_a_group_of_their_own():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert any(each.startswith("mkdocs-material") for each in project["dependency-groups"]["docs"])
    assert "mkdocs" not in (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("page", [ROOT / "README.md", *TUTORIALS], ids=lambda page: page.stem)
def test_every_command_of_a_tutorial_exists_with_its_options(page):
    entry.load()
    group = typer.main.get_command(entry.app)
    ours = [each.words for each in typed(page) if each.words]
    assert ours
    for name, *rest in ours:
        group.commands[name].make_context(name, rest)  # unknown options are refused


@pytest.fixture
def snake():
    """The tutorial's activation is known, as it is once its line stands where it is to stand."""
    exec(files(DOCS / "tutorials/activation.md")["tiny_transformers/settings/activations.py"], vars(activations).copy())
    yield
    del activations.ACTIVATIONS["snake"]


@pytest.mark.usefixtures("snake")
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_manifest_and_site_of_a_tutorial_is_one(page, tmp_path):
    written = files(page)
    for name, text in written.items():
        if not name.endswith(".yaml"):
            continue
        (tmp_path / name).write_text(text)
        if "scheduler" in yaml.safe_load(text):
            assert profiles.load(str(tmp_path / name)).scheduler == "slurm"
        else:
            assert grids.cells(loading.load(tmp_path / name))


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_what_a_tutorials_commands_read_is_written_before(page):
    known = {*files(page), *(words[-1] for each in typed(page) if "--to" in (words := each.words))}
    for name in [word for each in typed(page) for word in each.words if word.endswith(".yaml")]:
        assert name in known or (ROOT / name).exists() or name == "mine.yaml", name


def test_the_demo_ends_with_what_to_do_next(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("python", "submit"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "installed").touch()
    made = ["make", "--silent", "--directory", str(ROOT), "demo", f"VENV={tmp_path}"]
    shown = subprocess.run(made, capture_output=True, text=True, check=True).stdout
    lines = [shlex.split(line, comments=True) for line in shown.splitlines() if line.startswith("    ")]
    assert lines.pop(0) == ["source", f"{tmp_path}/bin/activate"]
    assert lines
    entry.load()
    group = typer.main.get_command(entry.app)
    for words in lines:
        name, *rest = words[words[0] == "tiny-transformers" :]
        group.commands[name].make_context(name, rest)
    (page,) = re.findall(r"^\S+\.md", shown, re.M)
    assert (ROOT / page) in TUTORIALS


def test_the_small_study_is_that_of_its_files():
    page, folder = DOCS / "small_study.md", DOCS / "small_study"
    assert files(page)["docs/small_study/experiments.yaml"] == (folder / "experiments.yaml").read_text()
    assert len(grids.cells(loading.load(folder / "experiments.yaml"))) == 8
    assert profiles.load(str(folder / "site.yaml")).slots == 2
    group = typer.main.get_command(entry.app)
    for name, *rest in [each.words for each in typed(page) if each.words]:
        group.commands[name].make_context(name, rest)
