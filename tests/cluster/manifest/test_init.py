"""What `init` writes can be used as it is, and what it says can be typed."""

import json
import re
import shlex

import jsonschema
import pytest
import typer.main
import yaml

from cluster.cli import entry, shared, starting
from cluster.manifest import grids, loading
from cluster.manifest.schema import json_schema
from cluster.sites import profiles
from cluster.sites.profiles import Site


def run(*words):
    """Returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        entry.main(words)
    return ended.value.code


@pytest.fixture
def folder(tmp_path):
    assert run("init", str(tmp_path / "my study")) == 0
    return tmp_path / "my study"


def test_the_manifest_is_planned_and_fits_the_schema(folder):
    path = folder / "experiments.yaml"
    document = loading.load(path)
    for smoke in (False, True):
        cells = grids.cells(document, smoke=smoke)
        assert [cell.config.model.activation for cell in cells] == ["gelu", "learnable_gelu"] * 2
        assert {cell.config.data.source for cell in cells} == {"builtin"}
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))


def test_the_study_in_the_manifests_comments_is_one(folder):
    path = folder / "experiments.yaml"
    path.write_text(re.sub(r"^  # ", "  ", path.read_text(), flags=re.M))
    cells = grids.cells(loading.load(path), studies=["width"])
    assert len(cells) == 3 * 5
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))


def test_the_site_is_loaded_and_has_every_setting(folder):
    path = folder / "site.yaml"
    assert profiles.load(str(path)).scheduler == "slurm"
    assert yaml.safe_load(path.read_text()).keys() == Site.model_fields.keys()


@pytest.mark.parametrize("name", starting.START)
def test_nothing_is_written_over_or_beside_what_is_there(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    assert run("init", str(tmp_path)) == 2
    assert f"{tmp_path / name}: already there. Nothing was written" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_the_commands_that_it_says_to_type_exist(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("init", "my study")
    lines = [shlex.split(line, comments=True) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert lines.pop(0) == ["cd", "my study"]
    entry.load()
    group = typer.main.get_command(shared.app)
    for words in lines:
        name, *rest = words[1:] if words[0] == "tiny-transformers" else words
        group.commands[name].make_context(name, rest)  # wrong options are refused


def test_the_schema_goes_where_it_is_told_or_to_the_output(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(json_schema()))
    assert list(tmp_path.iterdir()) == []
    assert run("schema", "--to", "here.json") == 0
    assert json.loads((tmp_path / "here.json").read_text()) == json.loads(json.dumps(json_schema()))
