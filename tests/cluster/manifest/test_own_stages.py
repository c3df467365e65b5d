"""Stages of a user's own in a manifest, and manifests of programs, which have no models."""

import pytest
import yaml
from jsonschema import Draft202012Validator

from cluster.errors import InputError
from cluster.manifest import grids, loading
from cluster.manifest.schema import json_schema
from cluster.plan import expansion

PROGRAM = """
stages:
  train:
    command: ./train --lr {lr} --width {width} --seed {seed} --to {run}
    minutes: 5
    gpu: false
  score:
    command: ./score {run} --rows {rows} --out {out}
    needs: [train]
    settings: {rows: 100}
studies:
  widths:
    baseline: {lr: 0.1, width: 16}
    grid:
      lr: [0.1, 0.2]
      width: [16, 32]
    seeds: [1, 2]
"""


def planned(folder, text, **options):
    path = folder / "programs.yaml"
    path.write_text(text)
    return expansion.expand(grids.cells(loading.load(path), **options))


def changed(*places):
    """PROGRAM with a value in another place, or without it."""
    document = yaml.safe_load(PROGRAM)
    for path, value in places:
        *parents, last = path.split("/")
        node = document
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return yaml.safe_dump(document, sort_keys=False)


def test_a_grid_of_a_program_has_a_run_for_every_combination_and_seed(tmp_path):
    runs = planned(tmp_path, PROGRAM)
    assert [run.name for run in runs] == [
        f"train-lr={lr},width={width}-s{seed}" for lr in (0.1, 0.2) for width in (16, 32) for seed in (1, 2)
    ]
    assert {run.stages for run in runs} == {("train", "score")}
    assert {run.parameters for run in runs} == {0}
    assert len({run.id for run in runs}) == 8


def ids(folder, text):
    return {run.id for run in planned(folder, text)}


@pytest.mark.parametrize(
    ("place", "value"), [("stages/train/minutes", 9), ("stages/train/gpu", True), ("stages/train/memory", 4_000),
                         ("stages/score/command", "./other {run} --out {out}"), ("stages/score/settings/rows", 7),
                         ("stages/score", None)],
)  # fmt: skip
def test_how_a_program_runs_and_what_follows_from_it_are_no_part_of_its_id(tmp_path, place, value):
    assert ids(tmp_path, changed((place, value))) == ids(tmp_path, PROGRAM)


@pytest.mark.parametrize(
    ("place", "value"), [("stages/train/command", "./train --lr {lr} --width {width}"),
                         ("stages/train/settings", {"epochs": 2}), ("studies/widths/grid/lr", [0.3, 0.1])],
)  # fmt: skip
def test_what_a_program_does_and_its_parameters_are(tmp_path, place, value):
    assert ids(tmp_path, changed((place, value))) != ids(tmp_path, PROGRAM)


def test_parameters_may_go_together_and_be_set_from_the_command_line_and_for_a_trial(tmp_path):
    bundles = [{"lr": 0.1, "width": 16}, {"lr": 0.2, "width": 64}]
    text = changed(("studies/widths/grid", {"size": bundles}))
    assert [run.config.model.parameters for run in planned(tmp_path, text)][::2] == bundles
    runs = planned(tmp_path, PROGRAM, overrides=["lr=0.5"])
    assert {run.config.model.parameters["lr"] for run in runs} == {0.5}
    trial = planned(tmp_path, f"{PROGRAM}smoke: {{width: 2}}\n", smoke=True)
    assert {(run.config.seed, run.config.model.parameters["width"]) for run in trial} == {(1, 2)}


def test_own_stages_leave_the_ids_of_models_as_they_are(tmp_path, manifest_file):
    before = expansion.expand(grids.cells(loading.load(manifest_file)))
    text = manifest_file.read_text() + "stages:\n  ewok: {command: './e {model} {out}', needs: [add_tokenizer]}\n"
    text = text.replace("seeds: [42, 1]", "seeds: [42, 1]\n    stages: [ewok, pretrain, add_tokenizer]")
    after = planned(tmp_path, text)
    assert [run.id for run in after] == [run.id for run in before]
    assert {run.stages for run in after if "second" in run.studies} == {
        ("pretrain", "add_tokenizer", "ewok"),
        ("pretrain", "add_tokenizer", "blimp", "superglue", "ewok"),
    }


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([("stages/score/needs", ["trian"])], "stages.score.needs: 'trian' is no stage. Did you mean train?"),
        ([("stages/train/needs", ["score"])], "stages.train.needs: go round: train <- score <- train."),
        ([("stages/pretrain", {"command": "true"})], "stages.pretrain: is a stage that is there already."),
        ([("stages/2 x", {"command": "true"})], "stages.2 x: '2 x' is no name of a stage"),
        ([("stages/train/command", "./train {lr} {widht}")], "nothing fills {widht}: it is neither a setting of the "
         "stage nor a parameter of studies.widths. Did you mean width? What is no placeholder is written {{widht}}."),
        ([("stages/train/command", "./train {lr}")], "studies.widths.grid.width: no command has {width}"),
        ([("stages/train/comand", "x")], "stages.train.comand: unknown key. Did you mean command?"),
        ([("stages/train/run", "a.b:c")], "stages.train: a stage has either `run` or `command`: write one of them."),
        ([("stages/train", {"run": "score"})], "run 'score' must name a module and its function"),
        ([("stages/train", "./train")], "stages.train: must be a mapping with `run` or `command`, not './train'."),
        ([("stages/train/minutes", -1)], "stages.train.minutes: Input should be greater than 0."),
        ([("stages/score/settings/out", 1)], "stages.score.settings.out: the name is taken."),
        ([("stages/score/settings/rows", [1])], "stages.score.settings.rows: [1] cannot fill a placeholder."),
        ([("stages/score/settings/width", 1)], "stages.score.settings.width: is a parameter of studies.widths, too."),
        ([("studies/widths/grid/lr", [[1]])], "studies.widths.grid.lr: [1] cannot fill a placeholder."),
        ([("studies/widths/grid/seed", [1])], "studies.widths.grid.seed: every command has {seed} already."),
        ([("studies/widths/train", {})], "studies.widths.train: the manifest has no models, so a study has no"),
        ([("studies/widths/stages", ["blimp"])], "studies.widths.stages: blimp is no stage. Known: train, score."),
        ([("studies/widths/stages", ["score"])], "studies.widths.stages: score needs train. Add it."),
        ([("studies/widths/baseline", {"widht": 1})], "baseline.widht: no cell of the study sets it. Did you mean w"),
        ([("defaults", {"train": {}})], "defaults.train: unknown key."),
        ([("models", {"x": {"family": "program"}})], "models.x.family: a program is no model."),
        ([("stages", None)], "models: there is none."),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_where_it_was_written(tmp_path, places, said):
    with pytest.raises(InputError) as error:
        planned(tmp_path, changed(*places))
    assert said in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/programs.yaml: ")


def test_the_schema_knows_manifests_of_programs():
    validator = Draft202012Validator(json_schema())
    validator.validate(yaml.safe_load(PROGRAM))
    assert list(validator.iter_errors(yaml.safe_load(changed(("stages/train/minuts", 1)))))
