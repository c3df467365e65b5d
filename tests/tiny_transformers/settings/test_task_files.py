"""lm-eval's task files are found by the names of tasks, and only as many as that needs are read."""

import importlib.util
import re

import pytest

from tiny_transformers.settings.stage import task_files
from tiny_transformers.settings.stage.task_files import Catalogue, data_files, located

TASK = "output_type: multiple_choice\ndataset_path: json\n"


@pytest.fixture
def catalogue(tmp_path):
    def catalogue(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return Catalogue([tmp_path])

    return catalogue


def names(leaves):
    return [leaf.name for leaf in leaves]


def test_tasks_that_lm_eval_brings_are_found_without_reading_it_all():
    known = Catalogue([])
    assert names(known.leaves("hellaswag", "tasks")) == ["hellaswag"]
    assert len(known.leaves("blimp_nl", "tasks")) == 84  # a group of groups
    assert names(known.leaves("boolq", "tasks")) == ["boolq"]  # super_glue/boolq/default.yaml
    assert len(known.folders) < 10  # of more than 200


def test_of_lm_eval_nothing_is_read_for_a_task_of_the_user_s_own(catalogue, tmp_path):
    known = catalogue(verbs=f"task: verbs\n{TASK}")
    assert names(known.leaves("verbs", "tasks")) == ["verbs"]
    assert known.folders == [tmp_path, task_files.OURS]


def test_a_group_has_its_members_in_order_and_its_settings_are_theirs(catalogue):
    known = catalogue(
        a=f"task: a\n{TASK}test_split: a\n", b=f"task: b\n{TASK}tag: letters\n", c=f"task: c\n{TASK}tag: letters\n",
        all="group: all\ntest_split: x\ntask: [c, {group: inner, task: [a, {task: b, test_split: y}]}]\n",
    )  # fmt: skip
    leaves = known.leaves("all", "tasks")
    assert [(leaf.name, leaf.settings["test_split"]) for leaf in leaves] == [("c", "x"), ("a", "x"), ("b", "y")]
    assert names(known.leaves("letters", "tasks")) == ["b", "c"]
    assert [path.name for path in leaves[1].files] == ["all.yaml", "a.yaml"]


def test_a_task_of_the_user_s_own_hides_lm_eval_s_of_that_name(catalogue, tmp_path):
    (leaf,) = catalogue(hellaswag=f"task: hellaswag\n{TASK}").leaves("hellaswag", "tasks")
    assert leaf.path == tmp_path / "hellaswag.yaml"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "task: other\n"}, r"tasks: 'a' is neither in .* nor in a file of lm-eval's of that name\."),
        ({"a": "group: a\ntask: [b]\n", "b": "group: b\ntask: [a]\n"}, "the group a is a member of itself"),
        ({"a": "group: a\ntask: [lacking]\n"}, "'lacking', which a names, is neither in"),
        ({"a": "include: a.yaml\n"}, r"a\.yaml: includes itself"),
        ({"a": "- task"}, r"a\.yaml: is no task file: it has no keys"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(catalogue, files, message):
    with pytest.raises(ValueError, match=message):
        catalogue(**files).leaves("a", "tasks")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "generates text"),
        ({"output_type": "generate_until"}, "generates text"),
        ({"output_type": "perplexing"}, "which is none of loglikelihood"),
        ({"output_type": "multiple_choice", "class": "x"}, "is a task of Python code"),
        ({"output_type": "loglikelihood_rolling"}, "^$"),
    ],
)
def test_a_task_says_why_it_cannot_be_scored(catalogue, settings, message):
    lines = "".join(f"{key}: {value}\n" for key, value in settings.items())
    (leaf,) = catalogue(a=f"task: a\n{lines}").leaves("a", "tasks")
    assert re.search(message, leaf.objection())


def test_data_is_taken_from_data_root(catalogue, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a.jsonl", "b.jsonl", "c.csv"):
        (tmp_path / "data" / name).write_text("{}")
    many = TASK + "dataset_kwargs: {data_files: {test: ['data/*.jsonl'], train: data/c.csv}}\n"
    (leaf,) = catalogue(a=f"task: a\n{many}").leaves("a", "tasks")
    assert [path.name for path in data_files(leaf, tmp_path)] == ["a.jsonl", "b.jsonl", "c.csv"]
    _, given = located(leaf.settings, tmp_path)
    assert given["data_files"]["train"] == str(tmp_path / "data/c.csv")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.jsonl", "https://x/y.jsonl"])
def test_data_elsewhere_is_refused(catalogue, tmp_path, path):
    (leaf,) = catalogue(a=f"task: a\n{TASK}dataset_kwargs: {{data_files: '{path}'}}\n").leaves("a", "tasks")
    with pytest.raises(ValueError, match=r"a\.yaml: a: .* is not below DATA_ROOT"):
        data_files(leaf, tmp_path)


def test_without_lm_eval_it_is_told_what_is_lacking(catalogue, monkeypatch):
    task_files._shipped.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    try:
        with pytest.raises(ValueError, match="needs the package lm-eval, which is not installed"):
            catalogue(a=f"task: a\n{TASK}").leaves("a", "tasks")
    finally:
        task_files._shipped.cache_clear()
