"""The documents say what the code does."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml
from pydantic import BaseModel
from shape import ROOMS, modules

from cluster.cli import entry
from cluster.manifest import grids, loading
from cluster.manifest.teachers import AskedTeacher
from cluster.sites.profiles import Site
from tiny_transformers.settings.architecture import Brainformer, GPTNeo, Llama, Roberta
from tiny_transformers.settings.config import STREAMS, Budget, RunConfig
from tiny_transformers.settings.feed_forward.kind import FEED_FORWARD
from tiny_transformers.settings.linformer import Linformer
from tiny_transformers.settings.pruning import Pruning
from tiny_transformers.settings.recurrence import Halting, Recurrence
from tiny_transformers.settings.scaling import Scaling
from tiny_transformers.settings.sharing import Sharing
from tiny_transformers.settings.stage.own import OwnStage

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def defaults(settings, prefix=""):
    """Path -> default, as YAML writes it; of what must be said, nothing."""
    for name, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from defaults(type(default), f"{prefix}{name}.")
        elif not field.is_required():
            yield f"{prefix}{name}", default if isinstance(default, str) else json.dumps(default)
        else:
            yield f"{prefix}{name}", ""


BRAINFORMER = "Of a Brainformer ([brainformers](brainformers.md)):"


def test_every_setting_is_documented_with_its_default():
    text, _, of_brainformer = (ROOT / "docs/manifest.md").read_text().partition(BRAINFORMER)
    sections = {
        "model",
        "model.sharing",
        "model.scaling",
        "model.recurrence",
        "model.recurrence.halting",
        "model.linformer",
        "train.budget",
        "train.pruning",
    }
    not_of_the_manifest = {"teacher", "seed", "smoke", "probe", "recipe", "data.definition", "data.revision"}
    known = documented_settings(
        (RunConfig, ""),
        (GPTNeo, "model."),
        (Roberta, "model."),
        (Llama, "model."),
        *[(kind, "model.ffn.") for kind in FEED_FORWARD.values()],
        (Sharing, "model.sharing."),
        (Scaling, "model.scaling."),
        (Recurrence, "model.recurrence."),
        (Linformer, "model.linformer."),
        (Halting, "model.recurrence.halting."),
        (Budget, "train.budget."),
        (AskedTeacher, "train.teacher."),
        (Pruning, "train.pruning."),
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
    cells = grids.cells(loading.load(path))
    assert len(cells) == (2 * 4 - 1) * len(yaml.safe_load(text)["studies"]["activations"]["seeds"])


def test_the_manifests_of_any_program_are_valid(tmp_path):
    program, beside = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/programs.md").read_text(), re.S)
    path = tmp_path / "programs.yaml"
    path.write_text(program)
    assert len(grids.cells(loading.load(path))) == 2 * 3 * 8
    path.write_text(f"models: {{gpt: {{family: gpt_neo}}}}\n{beside}    model: gpt\n")
    (cell,) = grids.cells(loading.load(path))
    assert cell.stages == ("pretrain", "add_tokenizer", "blimp", "ewok", "probe_size")


def test_the_keys_of_a_stage_of_ones_own_are_documented_with_their_defaults():
    text = (ROOT / "docs/programs.md").read_text()
    known = {name: default for name, default in defaults(OwnStage) if name not in ("folder", "run", "command")}
    assert dict(re.findall(r"^\| `(\w+)` \| ([^|`]+?) \| ", text, re.M)) == known


def test_every_command_is_in_the_readme_and_every_one_there_exists():
    entry.load()
    group = typer.main.get_command(entry.app)
    for name in group.commands:
        assert re.search(rf"`(tiny-transformers )?{name}\b", README), name
    for name in re.findall(r"tiny-transformers (\w+)", README):
        assert name in group.commands, name


def test_every_option_in_the_readmes_table_exists():
    entry.load()
    group = typer.main.get_command(entry.app)
    commands = [group, *group.commands.values()]
    known = {option for command in commands for each in command.params
             for option in (*each.opts, *each.secondary_opts)}  # fmt: skip
    known |= {f"--{corpus}" for corpus in STREAMS}  # of fetch, which has a parser of its own
    known |= {"--torch-backend", "--no-deps"}  # of uv and pip
    assert set(re.findall(r"`?(--[a-z][\w-]*)", README)) <= known


WORDS = re.findall(r"^\| ([a-z ]+) \|", README.partition("## The words")[2].partition("\n## ")[0], re.M)[1:]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_glossary_is_the_name_of_one_class_at_most(word):
    name = "".join(part.capitalize() for part in word.split())
    classes = [module for module, path in modules().items() if re.search(rf"^class {name}\b", path.read_text(), re.M)]
    assert len(classes) <= 1


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
SITES = (ROOT / "docs/sites.md").read_text().partition("## The keys")[2]


def test_every_room_is_in_the_page_of_the_architecture_and_every_one_there_exists():
    for package, rooms in ROOMS.items():
        (table,) = re.findall(rf"\| `{package}/` \|.*?\n\n", ARCHITECTURE, re.S)
        told = [
            name.rstrip("/")
            for cell in re.findall(r"^\| (`[^|]*`) \|", table, re.M)
            for name in re.findall(r"`([\w/]+)`", cell)
        ]
        assert [name for name in told if name != package] == list(rooms)


def test_every_file_that_a_document_names_exists():
    texts = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for text in texts:
        for name in re.findall(
            r"(?<![\w/.])((?:cluster|jobs|tiny_transformers|templates|tests)/[\w./-]*\w)", text.read_text()
        ):
            assert (ROOT / name).exists(), f"{text.name}: {name}"


def test_every_key_of_a_site_is_in_the_page_of_sites():
    rows = dict(re.findall(r"^\| `(\w+)` \| ?([^|]*?) \| ", SITES, re.M))
    known = {name: "" if field.is_required() else field.default for name, field in Site.model_fields.items()}
    assert list(rows) == list(known)
    for name, text in rows.items():
        shown = yaml.safe_load(text) if text else ""
        default = list(known[name]) if isinstance(known[name], tuple) else known[name]
        assert shown == default, name


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


def forms(lines):
    """Return how the unindented lines of a `status` begin, without what differs from page to page."""
    begun = set()
    for line in lines:
        if re.match(r"\S+ +[█▓▒×·]+ ", line):
            begun.add("a study and its bar")
        elif re.match(r"\S+ +jobs? \d", line):
            begun.add("a host and its jobs")
        elif line.strip() and not line.startswith(" "):
            begun.add(re.sub(r"^\d[\d,.]*", "#", line).split(":")[0].rpartition("#")[2].split()[0].rstrip("s,"))
    return begun


def pages_of_status(text):
    """Yield the lines of every `status` that a document shows as it was printed."""
    status = r"^    \$ status\b(?!.* --failed).*\n((?:    (?!\$ ).*\n|\n(?=    (?!\$ )))+)"
    for block in re.findall(status, text, re.M):
        yield [
            line[4:] for line in block.splitlines() if not re.match(r"    (\.\.\. \d+ lines more|\(exit code)", line)
        ]


@pytest.mark.parametrize("name", ["README.md", "docs/session.md"])
def test_a_recorded_status_looks_like_todays(name):
    """The recorded pages of tests/cluster/status are today's. Where this fails, record anew: tests/slurm/session.py."""
    today = forms((ROOT / "tests/cluster/status/160.txt").read_text().splitlines())
    today |= {"flagged", "stage"}  # checks that did not hold, and stage runs that are eligible: not in that page
    pages = list(pages_of_status((ROOT / name).read_text()))
    assert pages
    for page in pages:
        assert forms(page) <= today, name
