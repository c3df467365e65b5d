"""The tutorials work as they are printed: their files are written, their commands given, and what they print is held
against what the tutorials say. Trained is less than they tell to."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import yaml
from pages import DOCS, ROOT, files, typed
from waiting import PATIENCE

from tiny_transformers.common import texts
from tiny_transformers.settings.corpora import Corpus

SCRIPT, LAPTOP, CORPUS, ACTIVATION, STAGE = (
    DOCS / "tutorials" / f"{name}.md" for name in ("script", "laptop", "corpus", "activation", "stage")
)


def form(line):
    """A printed line without what differs from day to day and from machine to machine."""
    plain = re.sub(r"\b(run|pack)s\b", r"\1", re.sub(r"\d[\d,.:T+%-]*", "#", line))
    return re.sub(r"\s+", " ", plain).strip()


def assert_printed(each, shown):
    """What a page says that a command prints is among what it prints, in that order."""
    lines = iter(map(form, shown.splitlines()))
    for told in each.printed:
        assert told == "..." or form(told) in lines, (
            f"{each.line} does not print {told}, or not in this place:\n{shown}"
        )


def write(page, folder):
    for name, text in files(page).items():
        (folder / name).write_text(text)


def given(page, command, at=None):
    """Give the page's commands, in order, at another site if one is named."""
    for each in typed(page):
        if words := [at if at and word == "local" else word for word in each.words]:
            assert_printed(each, command(*words).stdout)


def test_a_program_goes_over_its_grid_as_the_tutorial_says(command, tmp_path):
    write(SCRIPT, tmp_path)
    manifest = tmp_path / "sine.yaml"
    manifest.write_text(manifest.read_text().replace("seeds: [1, 2, 3, 4, 5, 6]", "seeds: [1]"))
    given(SCRIPT, command)
    with (tmp_path / "output/report/summary.csv").open() as file:
        errors = {row["run"]: float(row["score test error"]) for row in csv.DictReader(file)}
    assert len(errors) == 4
    for kind in ("relu", "tanh"):
        assert errors[f"train-kind={kind},width=64-s1"] < errors[f"train-kind={kind},width=8-s1"], "learned, for real"


def test_the_first_study_is_submitted_and_reported_as_the_readme_and_the_tutorial_say(command, tmp_path):
    write(LAPTOP, tmp_path)
    (tmp_path / "experiments.yaml").write_bytes((ROOT / "experiments.yaml").read_bytes())
    smoke = ("submit", "experiments.yaml", "--smoke", "--study", "quickstart", "--site", "site.yaml", "--yes", "--wait")
    command(*smoke)  # as `make demo` does
    given(ROOT / "README.md", command, at="site.yaml")
    given(LAPTOP, command, at="site.yaml")
    assert (tmp_path / "output/report/index.html").exists()


def test_the_pages_are_a_corpus_as_the_tutorial_says(command, tmp_path):
    write(CORPUS, tmp_path)
    (tmp_path / "docs").symlink_to(DOCS)
    for each in typed(CORPUS):
        if not each.words:
            subprocess.run(["bash", "-c", each.line], cwd=tmp_path, check=True)
    corpus = Corpus.model_validate(yaml.safe_load((tmp_path / "corpus.yaml").read_text())["corpora"]["handbook"])
    for name in (corpus.train, corpus.validation):
        assert len(list(texts.read(tmp_path / "data" / name, corpus))) > 100
    given(CORPUS, lambda *words: command(*(word for word in words if word not in ("--yes", "--wait")), "--dry-run"))


# What jobs do with the tutorial's activation and its stage, but for training.
ASKED = """
import json, sys
from dataclasses import asdict
from pathlib import Path

import endings
from cluster.manifest import grids, loading
from tiny_transformers.common.work import Work
from tiny_transformers.data import tokenizer
from tiny_transformers.models import auto

own = loading.load(Path("endings.yaml")).own["endings"]
config = next(cell.config for cell in grids.cells(loading.load(Path("snake.yaml")))
              if cell.config.model.activation == "snake")
model = auto.build(config.model, seed=1)
work = Work(config, Path(sys.argv[1]), Path("cache"), Path("run"), own=own)
model.save_pretrained(work.model_dir)
tokenizer.run(work)
print(json.dumps({
    "modules": [type(module).__name__ for module in model.modules()],
    "parameters": [model.num_parameters(), config.parameters],
    "scores": [asdict(score) for score in endings.run(work).scores],
}))
"""


def test_an_activation_is_built_and_a_score_asked_for_as_the_tutorials_say(builtin_root, tmp_path):
    for name in ("cluster", "jobs", "tiny_transformers", "templates"):  # a clone
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for page in (STAGE, ACTIVATION):
        for name, text in files(page).items():
            before = (tmp_path / name).read_text() + "\n\n" if (tmp_path / name).exists() else ""
            (tmp_path / name).write_text(before + text)
    done = subprocess.run(
        [sys.executable, "-c", ASKED, builtin_root], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["modules"].count("Snake") == 2, "one a layer"
    assert len(set(told["parameters"])) == 1, "as many as were planned"
    (score,) = told["scores"]
    assert (score["task"], score["metric"], score["n"]) == ("all", "accuracy", 4)
    assert score["value"] in (0, 0.25, 0.5, 0.75, 1)
