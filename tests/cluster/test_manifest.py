import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster import manifest
from cluster.errors import InputError

ROOT = Path(__file__).parents[2]


def cells_of(tmp_path, **study):
    """The cells of a manifest with one study, after the given parts of it."""
    document = {
        "models": {
            "gpt": {"family": "gpt_neo", "hidden_size": 32, "num_heads": 2, "intermediate_size": 48},
            "bert": {"family": "roberta", "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48},
        },
        "studies": {"s": study},
    }
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return manifest.cells(manifest.load(path))


def shapes(cells):
    return [
        (cell.model, cell.config.model.hidden_size, cell.config.model.activation, cell.config.seed) for cell in cells
    ]


def test_a_grid_is_every_combination_in_the_order_written(tmp_path):
    cells = cells_of(tmp_path, grid={"model": ["gpt", "bert"], "model.hidden_size": [32, 64]}, seeds=[1, 2])
    assert shapes(cells)[:4] == [("gpt", 32, "gelu", 1), ("gpt", 32, "gelu", 2), ("gpt", 64, "gelu", 1),
                                 ("gpt", 64, "gelu", 2)]  # fmt: skip
    assert len(cells) == 8


def test_exclude_removes_every_cell_that_it_matches(tmp_path):
    cells = cells_of(
        tmp_path,
        grid={"model": ["gpt", "bert"], "model.hidden_size": [32, 64]},
        exclude=[{"model": "bert", "model.hidden_size": 64}],
    )
    assert [shape[:2] for shape in shapes(cells)] == [("gpt", 32), ("gpt", 64), ("bert", 32)]


def test_include_extends_the_cells_it_fits_and_is_a_cell_of_its_own_otherwise(tmp_path):
    cells = cells_of(
        tmp_path,
        grid={"model": ["gpt"], "model.hidden_size": [32, 64]},
        include=[
            {"model.activation": "relu"},  # fits every cell
            {"model.hidden_size": 64, "model.activation": "silu"},  # overrides what an include added, in one cell
            {"model": "gpt", "model.hidden_size": 128},  # fits none
        ],
    )
    assert [shape[1:3] for shape in shapes(cells)] == [(32, "relu"), (64, "silu"), (128, "gelu")]


def test_later_layers_override_earlier_ones(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("""
defaults: {train: {max_steps: 10, stories_per_step: 8}, seeds: [7]}
models: {gpt: {family: gpt_neo}}
studies:
  s: {model: gpt, train.max_steps: 20, grid: {train.learning_rate: [1.0e-3, 5e-4]}}
smoke: {train: {max_steps: 2}}
""")
    read = manifest.load(path)
    plain, smoke = manifest.cells(read), manifest.cells(read, smoke=True, overrides=["train.stories_per_step=4"])
    assert [(c.config.train.max_steps, c.config.train.learning_rate) for c in plain] == [(20, 1e-3), (20, 5e-4)]
    assert plain[0].config.train.stories_per_step == 8
    assert plain[0].config.seed == 7
    assert (smoke[0].config.train.max_steps, smoke[0].config.train.stories_per_step) == (2, 4)
    assert smoke[0].config.smoke
    assert not plain[0].config.smoke


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"grid": {"model.hidden_sise": [1]}, "model": "gpt"},
         "studies.s.grid.model.hidden_sise: unknown key. Did you mean hidden_size?"),
        ({"grid": {"model.activation": ["gelo"]}, "model": "gpt"},
         "studies.s.grid.model.activation: 'gelo' is not known. Did you mean gelu?"),
        ({"grid": {"model.hidden_size": [-4]}, "model": "gpt"},
         "studies.s.grid.model.hidden_size: -4: Input should be greater than 0."),
        ({"grid": {"model.hidden_size": [33]}, "model": "gpt"}, "hidden_size 33 is not a multiple of num_heads 2"),
        ({"grid": {}, "model": "gpt"}, "studies.s.grid: is empty."),
        ({"grid": {"model.hidden_size": []}, "model": "gpt"}, "studies.s.grid.model.hidden_size: has no values"),
        ({"grid": {"model.hidden_size": 64}, "model": "gpt"}, "studies.s.grid.model.hidden_size: 64 is not a list"),
        ({"grid": {"model": ["gtp"]}}, "studies.s.grid.model: 'gtp' is no model of this manifest. Did you mean gpt?"),
        ({"model": "gpt", "sedes": [1]}, "studies.s.sedes: unknown key. Did you mean seeds?"),
        ({"model": "gpt", "seeds": []}, "studies.s.seeds: [] must be a list"),
        ({"model": "gpt", "seeds": [-1]}, "studies.s.seeds: -1"),
        ({"model": "gpt", "train": {"max_step": 3}}, "studies.s.train.max_step: unknown key. Did you mean max_steps?"),
        ({"model": "gpt", "stages": ["blimp"]}, "studies.s.stages: blimp needs add_tokenizer. Add it."),
        ({"model": "gpt", "stages": ["pretrian"]}, "studies.s.stages.pretrian: unknown key. Did you mean pretrain?"),
        ({"model": "gpt", "data.max_length": 600}, "data.max_length 600 exceeds the model's 512 positions"),
        ({"model": "gpt", "train": {"max_steps": 1}, "train.max_steps": 2}, "studies.s.train.max_steps: is set twice"),
        ({"grid": {"model": ["gpt"]}, "exclude": [{"model": "bert"}]}, "studies.s.exclude[0]: matches no cell"),
        ({"grid": {"model": ["gpt"]}, "exclude": [{"model": "gpt"}]}, "studies.s.exclude: leaves no cell"),
        ({}, "studies.s.model: is missing. Name one of models: gpt, bert."),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_its_value_and_the_nearest_known_word(tmp_path, study, message):
    with pytest.raises(InputError) as raised:
        cells_of(tmp_path, **study)
    assert str(raised.value).startswith(f"{tmp_path}/experiments.yaml: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {gpt: {}}\nmodels: {gpt: {}}\n", "models is here twice"),
        ("studies: [", "not valid YAML"),
        ("- 1\n", "the manifest: must be a mapping"),
        ("models: {gpt: {family: gpt_neo}}\n", "studies: must be a mapping"),
        ("model: {}\nstudies: {a: {}}\n", "model: unknown key. Did you mean models?"),
    ],
)
def test_a_file_that_is_no_manifest_says_why(tmp_path, text, message):
    path = tmp_path / "experiments.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        manifest.load(path)


@pytest.mark.parametrize("override", ["train.max_steps", "max_steps=3", "trian.max_steps=3", "train.max_steps=many"])
def test_a_wrong_override_is_refused(manifest_file, override):
    with pytest.raises(InputError, match="--set"):
        manifest.cells(manifest.load(manifest_file), overrides=[override])


def test_the_shipped_schema_is_the_one_that_the_command_writes():
    shipped = json.loads((ROOT / "cluster" / "experiments.schema.json").read_text())
    assert shipped == json.loads(json.dumps(manifest.json_schema())), "run `tiny-transformers schema`"


def test_the_schema_accepts_the_shipped_manifest_and_refuses_a_misspelt_key():
    document = yaml.safe_load((ROOT / "experiments.yaml").read_text())
    jsonschema.validate(document, manifest.json_schema())
    document["studies"]["quickstart"]["grid"]["model.hidden_sise"] = [1]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, manifest.json_schema())
