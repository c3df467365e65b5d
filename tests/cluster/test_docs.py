"""The documents say what the code does."""

import json
import re
import tomllib
from pathlib import Path

import typer.main
import yaml
from pydantic import BaseModel

from cluster import cli, manifest
from tiny_transformers.architecture import FEED_FORWARD, Brainformer, GPTNeo, Roberta, Sharing
from tiny_transformers.config import STREAMS, Budget, RunConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def defaults(settings, prefix=""):
    """Path -> default, as YAML writes it; of what must be said, nothing."""
    for name, field in settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from defaults(type(field.default), f"{prefix}{name}.")
        elif not field.is_required():
            default = field.default
            yield f"{prefix}{name}", default if isinstance(default, str) else json.dumps(default)
        else:
            yield f"{prefix}{name}", ""


BRAINFORMER = "Of a Brainformer (docs/brainformers.md):"


def test_every_setting_is_documented_with_its_default():
    text, _, of_brainformer = (ROOT / "docs/manifest.md").read_text().partition(BRAINFORMER)
    sections = {"model", "model.sharing", "train.budget"}
    not_of_the_manifest = {"seed", "smoke", "recipe"}
    known = documented_settings(
        (RunConfig, ""),
        (GPTNeo, "model."),
        (Roberta, "model."),
        *[(kind, "model.ffn.") for kind in FEED_FORWARD.values()],
        (Sharing, "model.sharing."),
        (Budget, "train.budget."),
    )
    for path in sections | not_of_the_manifest:
        known.pop(path)
    assert described(text) == known | {"model.family": "", "model.ffn.kind": "dense"}
    known = documented_settings((Brainformer, "model."))
    known.pop("model.family")
    assert described(of_brainformer) == known


def described(text):
    return dict(re.findall(r"^\| `(\w+\.[\w.]+)` \| ?([^|]*?) \|", text, re.M))


def documented_settings(*classes):
    known = {}
    for settings, prefix in classes:
        for path, value in defaults(settings, prefix):
            known.setdefault(path, []).append(value)
    return {path: " / ".join(dict.fromkeys(values)) for path, values in known.items()}


def test_the_readmes_manifest_is_valid(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    path = tmp_path / "experiments.yaml"
    path.write_text(text)
    cells = manifest.cells(manifest.load(path))
    assert len(cells) == (2 * 4 - 1) * len(yaml.safe_load(text)["studies"]["activations"]["seeds"])


def test_every_command_is_in_the_readme_and_every_one_there_exists():
    group = typer.main.get_command(cli.app)
    for name in group.commands:
        assert re.search(rf"`(tiny-transformers )?{name}\b", README), name
    for name in re.findall(r"tiny-transformers (\w+)", README):
        assert name in group.commands, name


def test_every_option_in_the_readmes_table_exists():
    group = typer.main.get_command(cli.app)
    commands = [group, *group.commands.values()]
    known = {option for command in commands for each in command.params for option in each.opts}
    known |= {f"--{corpus}" for corpus in STREAMS}  # of fetch, which has a parser of its own
    known |= {"--torch-backend", "--no-deps"}  # of uv and pip
    assert set(re.findall(r"`?(--[a-z][\w-]*)", README)) <= known


def test_every_file_in_the_readmes_tree_exists():
    (tree,) = re.findall(r"## The files\n\n(.*?)\n\n", README, re.S)
    folder = ""
    for line in tree.splitlines():
        names = re.match(r"    (  )?(\S+(?: +[\w/]+\.py| [\w/]+/)*)", line)
        nested, words = names.group(1), names.group(2).split()
        folder = folder if nested else ""
        for word in words:
            assert (ROOT / folder / word).exists(), f"{folder}{word}"
        folder = words[0] if words[0].endswith("/") and not nested else folder


def test_the_version_is_the_same_wherever_it_is_written():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M).group(1)
    assert newest == project["version"]


def test_contributing_has_the_makefiles_targets():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    told = set(re.findall(r"`make ([a-z-]+)[` ]", (ROOT / "CONTRIBUTING.md").read_text()))
    assert told <= targets
    assert {name for name in targets if name.startswith(("test", "check", "lock"))} <= told
